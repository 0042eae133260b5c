"""From a message's bytes to what it does: decode, bound, parse, walk statement by statement.

`analyse` never raises: whatever goes wrong is UNKNOWN, with a reason.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pgparse

from protocols.contract import ANYWHERE, Analysis, Cacheable, Effect, Where
from protocols.literal_rows import shortened
from protocols.postgres.catalog import Catalog
from protocols.postgres.catalog_queries import FIRST_USER_OID
from protocols.postgres.functions import NAMES_TYPE, RUNS_TYPE_INPUT
from protocols.postgres.statements.commands import Commands
from protocols.postgres.statements.lineage import clear_columns
from protocols.postgres.statements.model import Change, ChangeKind, CommandAnalysis, Source, Statement, unknown
from protocols.postgres.statements.names import TEMP, holds_anything
from protocols.postgres.statements.nodes import constant
from protocols.postgres.statements.paths import under_empty_path
from protocols.postgres.statements.text import MAX_STATEMENTS, Budget, Unreadable, check_depth, decode, outside_literals

if TYPE_CHECKING:
    from protocols.postgres.state import SessionState

_CODE = frozenset(
    {
        Effect.EXEC_CALL,
        Effect.EXEC_PROCEDURE,
        Effect.EXEC_DYNAMIC,
        Effect.EXEC_CAST,
        Effect.EXEC_LIBRARY,
        Effect.UNKNOWN,
    }
)
_STRENGTH = {Where.NONE: 0, Where.PRESENT: 1, Where.ALWAYS_TRUE: 2, Where.MISSING: 3}
_FILLS = frozenset({Effect.DATA_INSERT, Effect.DATA_UPDATE, Effect.DATA_MERGE, Effect.DDL_CREATE})
_BOUND = frozenset({ChangeKind.PREPARE, ChangeKind.DECLARE})  # they carry (hold flag, analysis, source)
_RANK = {Cacheable.NO: 0, Cacheable.TEXT: 1, Cacheable.SHAPE: 2}
_TREES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
NOT_PARSED = "the text does not parse"
_NOWHERE = Source()
MAX_DEPENDS = 20_000  # names that are kept
MAX_SHAPE = 16_384  # characters of normalised text that are kept


def analyse(text: bytes, state: SessionState, catalog: Catalog | None, *, kept: bool = False) -> CommandAnalysis:
    """What a message's text does in this session, by this catalog. Never raises.

    Without a catalog every statement that names anything is unknown. `kept`: its plan may be of another time.
    """
    try:
        return _analyse(text, state, catalog, kept)
    except Unreadable as error:
        return unknown(str(error))
    except RecursionError:
        return unknown("the statement is nested too deeply to be judged")
    except pgparse.PGQueryError as error:
        return unknown(f"{NOT_PARSED}: {_tidy(str(error))}")
    except Exception as error:
        return unknown(f"the analysis failed ({type(error).__name__}); report this statement")


def _tidy(message: str) -> str:
    """The parser's complaint without what it quotes of the text."""
    head = message.split(' at or near "', 1)
    position = message.rsplit(" at position ", 1)
    where = f" at position {position[1]}" if len(position) == 2 and position[1].isdigit() else ""
    return (head[0].split("\n")[0][:80] if len(head) == 2 else "syntax error") + where


def _analyse(raw: bytes, state: SessionState, catalog: Catalog | None, kept: bool) -> CommandAnalysis:
    text = sent = decode(raw, state.encoding)
    short = shortened(raw, "plain" if state.conforming_strings else "")
    if short is not raw:
        text = decode(short, state.encoding)
    if not state.conforming_strings and "\\" in text:
        raise Unreadable("a backslash while standard_conforming_strings is not known to be on")
    if not state.server_utf8 and not text.isascii() and not outside_literals(text).isascii():
        raise Unreadable("a name beyond ASCII on a server whose encoding is not UTF8")
    check_depth(text)
    trees = pgparse.parse(text)
    if len(trees) > MAX_STATEMENTS:
        raise Unreadable(f"more than {MAX_STATEMENTS} statements in one message")
    if not trees:
        empty = Analysis(kind="empty", effects=frozenset(), cacheable=Cacheable.TEXT)
        return CommandAnalysis(empty, (Statement(empty),), text)
    shape = _shape(text)
    if len(trees) == 1:
        one = statement(trees[0].get("stmt", {}), state, catalog, shape, source=Source(text, 0, sent), kept=kept)
        return CommandAnalysis(one.analysis, (one,), text)
    # each statement is resolved after the one before it has run, but all were lexed as the message began
    ahead, budget = state.fork(), Budget()
    found = []
    for index, tree in enumerate(trees):
        one = statement(tree.get("stmt", {}), ahead, catalog, "", budget, source=Source(text, index, sent))
        found.append(one)
        ahead.applied(one)
    return CommandAnalysis(_merged(found, shape), tuple(found), text)


def statement(
    tree: Any,
    state: SessionState,
    catalog: Catalog | None,
    shape: str,
    budget: Budget | None = None,
    *,
    source: Source = _NOWHERE,
    kept: bool = False,
) -> Statement:
    """The analysis of one parsed statement."""
    names = state.names(catalog)
    walk = Commands(names.with_plans() if kept else names, state, budget)
    walk.statement(tree)
    walk.finish()
    if catalog is None and walk.named:
        walk.unknown("there is no catalog snapshot of this database yet")
    elif walk.names.catalog.open_world and (walk.reads or walk.writes):
        walk.why.append("judged without a catalog: views, rules, triggers and overloads are not known")
    analysis = walk.analysis(shape)
    tag = next(iter(tree))
    runs_code = not _CODE.isdisjoint(walk.effects) or not all(map(holds_anything, walk.functions))
    if tag == "SelectStmt" and not runs_code:
        clear = clear_columns(tree[tag], walk.names.is_table)
        analysis = dataclasses.replace(analysis, depends=_depends(walk))
    elif tag == "ExplainStmt" and not runs_code:
        clear = frozenset({0})  # the plan's text
    else:
        clear = frozenset()
    if clear:
        analysis = dataclasses.replace(analysis, clear_columns=clear)
    if state.path_emptied:
        analysis = under_empty_path(analysis)
    changes = tuple(
        Change(c.kind, c.name, (c.value, analysis, source), c.local) if c.kind in _BOUND else c for c in walk.changes
    )
    if tag != "VariableSetStmt" and not (tag == "SelectStmt" and _sets_plainly(tree[tag])):
        changes = tuple(dataclasses.replace(c, value=None) if c.kind is ChangeKind.SET else c for c in changes)
    copied = tuple(read for read in analysis.reads if not read.startswith(f"{TEMP}."))  # those bring what they hold
    if not _CODE.isdisjoint(analysis.effects) or any(map(holds_anything, analysis.functions)):
        copied += (ANYWHERE,)
    if copied and changes_data(analysis.effects):
        filled = (w.partition(".")[2] for w in analysis.writes if w.startswith(f"{TEMP}."))
        changes = (*changes, *(Change(ChangeKind.TEMP_FILL, name, copied) for name in filled))
    if not _CODE.isdisjoint(analysis.effects) and ChangeKind.OPAQUE not in {c.kind for c in changes}:
        changes = (*changes, Change(ChangeKind.OPAQUE))
    behind = tuple(walk.behind)
    return Statement(analysis, changes, tree if _returns_written(tag, tree, walk) else None, behind)


def _depends(walk: Commands) -> tuple[tuple[str, ...], ...]:
    """For each output column those that it is made of. (): not known, or not worth it."""
    output = walk.output
    if output is None or output.columns is None or walk.blind or walk.writes or walk.names.catalog.open_world:
        return ()
    # what was copied into temporary relations is remembered for all their columns; large objects have no columns
    if any(r.startswith(f"{TEMP}.") for r in walk.reads) or "pg_catalog.pg_largeobject" in walk.reads:
        return ()
    if sum(len(origins) for _, origins in output.columns) > MAX_DEPENDS:
        return ()
    return tuple(tuple(sorted(origins)) for _, origins in output.columns)


def _sets_plainly(select: Any) -> bool:
    """`SELECT set_config(...)` and nothing else: it surely runs, once. Anywhere else it may not run at all, or in
    another order than here; so may what stands in its arguments.
    """
    calls = [target.get("ResTarget", {}).get("val", {}).get("FuncCall") for target in select.get("targetList", ())]
    return select.keys() <= {"targetList", "limitOption", "op"} and all(
        call is not None and all(map(constant, call.get("args", ()))) for call in calls
    )


def changes_data(effects: frozenset[Effect]) -> bool:
    """Whether rows may have been put into a relation."""
    return not _FILLS.isdisjoint(effects)


def _returns_written(tag: str, tree: Any, walk: Commands) -> bool:
    """Rows come back that the statement itself may have filled: what it assigns matters to masking."""
    if not walk.writes:
        return False
    return "returningList" in tree[tag] if tag in _TREES else walk.kind in ("select", "copy to", "execute")


def _shape(text: str) -> str:
    """The text with its literals replaced, for people and for searching; empty where the parser cannot say."""
    if len(text) > MAX_SHAPE:
        return ""
    try:
        return str(pgparse.normalize(text))
    except pgparse.PGQueryError:
        return ""


def _merged(found: list[Statement], shape: str) -> Analysis:
    """One message's analysis: the union of its statements'."""
    parts = [s.analysis for s in found]
    kinds = list(dict.fromkeys(a.kind for a in parts))
    shown = "; ".join(kinds[:6]) + ("; ..." if len(kinds) > 6 else "")

    def joined(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value for part in parts for value in getattr(part, name)))

    return Analysis(
        kind=shown,
        effects=frozenset().union(*(a.effects for a in parts)),
        reads=joined("reads"),
        writes=joined("writes"),
        columns=joined("columns"),
        predicates=joined("predicates"),
        functions=joined("functions"),
        where=max((a.where for a in parts), key=lambda w: _STRENGTH[w]),
        why="; ".join(dict.fromkeys(a.why for a in parts if a.why)),
        shape=shape,
        stores=tuple(dict.fromkeys(store for part in parts for store in part.stores)),
        redefines=joined("redefines"),
        resolves=any(part.resolves for part in parts),
        cacheable=min((Cacheable.TEXT, *(a.cacheable for a in parts)), key=lambda c: _RANK[c]),
    )


def with_parameter_types(command: CommandAnalysis, oids: Sequence[int], catalog: Catalog | None) -> CommandAnalysis:
    """A Parse message may name the types of its parameters: binding a value runs their input functions.

    Returns the command itself where that is harmless, else one with the effects added (a domain's CHECK, ...).
    """
    effects: frozenset[Effect] = frozenset()
    for oid in oids:
        if oid and catalog is not None:
            effects |= catalog.type_effects(oid)
        elif oid >= FIRST_USER_OID:
            effects |= {Effect.UNKNOWN}
    if not effects:
        return command
    why = "; ".join(part for part in (command.analysis.why, "the type of a parameter runs code on its values") if part)
    analysis = dataclasses.replace(command.analysis, effects=command.analysis.effects | effects, why=why)
    statements = tuple(
        dataclasses.replace(one, analysis=dataclasses.replace(one.analysis, effects=one.analysis.effects | effects))
        for one in command.statements
    )
    return CommandAnalysis(analysis, statements, command.text)


def analyse_function_call(oid: int, catalog: Catalog | None) -> CommandAnalysis:
    """What a FunctionCall message (the fast path) does: the function is named by its OID."""
    function = catalog.functions_by_oid.get(oid) if catalog is not None else None
    if function is None:
        return unknown("a function call by an OID that is not in the catalog snapshot", "function call")
    effects = function.effects | {Effect.DATA_SELECT}
    if function.constructs and catalog is not None:
        effects |= catalog.type_effects(function.result)
    if function.schema == "pg_catalog" and function.name in NAMES_TYPE | RUNS_TYPE_INPUT:
        effects |= {Effect.EXEC_CAST}  # the type is an argument: any, with whatever its input runs
    named = (function.qualified,) if effects > {Effect.DATA_SELECT} else ()
    reads: tuple[str, ...] = ()
    if function.name in ("lo_get", "loread", "lo_open") and function.schema == "pg_catalog":
        reads = ("pg_catalog.pg_largeobject",)
    if function.name == "set_config" and function.schema == "pg_catalog":
        effects |= {Effect.SESSION_ROLE, Effect.SESSION_GUARD, Effect.SESSION_OTHER, Effect.SESSION_NAME_RESOLUTION}
    analysis = Analysis(
        kind="function call",
        effects=effects,
        reads=reads,
        functions=named,
        why=f"the function `{function.qualified}` is on no list" if Effect.UNKNOWN in effects else "",
        cacheable=Cacheable.TEXT,
    )
    changes = () if _CODE.isdisjoint(effects) else (Change(ChangeKind.OPAQUE),)
    return CommandAnalysis(analysis, (Statement(analysis, changes),))
