"""One statement: which kind it is, and what that kind does. Kinds that are not here are unknown.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocols.contract import Effect
from protocols.mysql.catalog import Catalog
from protocols.mysql.statements import administration, definitions, sessions, shows
from protocols.mysql.statements.clear import clear_columns
from protocols.mysql.statements.explain import explain
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.loads import load
from protocols.mysql.statements.model import ChangeKind, Statement, Variable
from protocols.mysql.statements.preparing import deallocate, execute, prepare
from protocols.mysql.statements.queryread import change, query, runs_code, verb_of
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.setting import set_statement
from protocols.mysql.statements.walk import Walk

if TYPE_CHECKING:
    from protocols.mysql.state import SessionState

Handler = Callable[[Reader, Walk], str]  # reads behind the first word; returns the kind
_CODE = frozenset({Effect.EXEC_CALL, Effect.EXEC_PROCEDURE, Effect.EXEC_DYNAMIC, Effect.EXEC_LIBRARY, Effect.UNKNOWN})
_UNSEEN = frozenset({Effect.EXEC_DYNAMIC, Effect.EXEC_LIBRARY, Effect.UNKNOWN})
_QUERIES = frozenset({"SELECT", "(", "VALUES", "TABLE"})
_CHANGES = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})
_COMPOUND = frozenset({"IF", "CASE", "LOOP", "REPEAT", "WHILE", "FOR", "DECLARE", "END", "RETURN", "LEAVE", "ITERATE"})
MAX_BODIES = 4  # statements inside statements: EXECUTE, SET STATEMENT, EXPLAIN


def statement(
    tokens: Sequence[Token],
    state: SessionState,
    catalog: Catalog,
    text: str = "",
    body: bytes = b"",
    *,
    without: bool = False,
    depth: int = 0,
) -> Statement:
    """The analysis of one statement's tokens. `without`: there is no catalog, and what names anything is unknown."""
    walk = Walk(state, catalog, depth)
    tree: Any = None
    kind = "unknown"
    clear: frozenset[int] = frozenset()
    try:
        if depth > MAX_BODIES:
            raise Unreadable("statements inside statements, too deep to be judged")
        kind, tree = _dispatch(tokens, walk)
    except Unreadable as error:
        walk.unknown(str(error))
        kind = _guess(tokens)
    if without and walk.named:
        walk.unknown("there is no catalog snapshot of this server yet")
    elif catalog.open_world and (walk.reads or walk.writes):
        walk.why.append("judged without a catalog: views and triggers are not known")
    if not _CODE.isdisjoint(walk.effects) and not any(c.kind is ChangeKind.OPAQUE for c in walk.changes):
        # a routine gives settings back as it found them; of a text that is not understood nobody knows
        walk.change(ChangeKind.OPAQUE, value=not _UNSEEN.isdisjoint(walk.effects))
    if kind == "select" and tree is not None and _CODE.isdisjoint(walk.effects):
        clear = clear_columns(tree)
    if kind != "set":  # which says of each by itself
        _fill_variables(walk)
    analysis = walk.analysis(kind)
    if clear:
        analysis = dataclasses.replace(analysis, clear_columns=clear)
    return Statement(analysis, body, tuple(walk.changes), tree, walk.inner)


def _fill_variables(walk: Walk) -> None:
    """SELECT ... INTO @x: what the variable holds comes from everything that the statement read."""
    for index, one in enumerate(walk.changes):
        if one.kind is ChangeKind.VARIABLE and isinstance(one.value, Variable) and not one.value.sources:
            unknown = Effect.UNKNOWN in walk.effects
            value = Variable(tuple(walk.reads), known=one.value.known and not unknown)
            walk.changes[index] = dataclasses.replace(one, value=value)


def _guess(tokens: Sequence[Token]) -> str:
    """A kind for people, of a statement that is not understood."""
    first = tokens[0] if tokens else None
    if first is None or first.kind is not Kind.WORD or first.upper not in _HANDLERS.keys() | _CHANGES | _QUERIES:
        return "unknown"
    return first.upper.lower()


def _dispatch(tokens: Sequence[Token], walk: Walk) -> tuple[str, Any]:
    first = tokens[0]
    if first.kind is Kind.HINT:
        raise Unreadable("an optimizer hint where none belongs")
    upper = first.upper
    if first.kind not in (Kind.WORD, Kind.OPERATOR):
        raise Unreadable("a statement that begins with no word")
    if upper == "WITH":
        upper = verb_of(tokens)
    if upper in _QUERIES:
        tree = query(tokens, walk)[0]
        from protocols.mysql.stores import query_stores  # it reads the bodies of views itself

        query_stores(tree, walk, opens=runs_code(walk), file=Effect.FILE_WRITE in walk.effects)
        return "select", tree
    if upper in _CHANGES:
        tree, kind = change(tokens, walk)
        return kind, tree
    if upper in _COMPOUND or (upper == "BEGIN" and len(tokens) > 1 and tokens[1].upper not in ("WORK", "")):
        raise _compound()
    if len(tokens) > 1 and tokens[1].upper == ":":
        raise _compound()
    if upper in ("EXPLAIN", "DESCRIBE", "DESC", "ANALYZE"):
        return explain(tokens, walk, _dispatch)
    if upper == "SET" and len(tokens) > 1 and tokens[1].upper == "STATEMENT":
        return set_statement(tokens, walk, _dispatch)
    handler = _HANDLERS.get(upper)
    if handler is None:
        raise Unreadable("a statement of a kind that is not understood")
    reader = Reader(tokens)
    reader.take()
    kind = handler(reader, walk)
    reader.end()
    return kind, None


def _compound() -> Unreadable:
    return Unreadable("a compound statement outside a stored program")


_HANDLERS: Mapping[str, Handler] = {
    **sessions.HANDLERS,
    **shows.HANDLERS,
    **administration.HANDLERS,
    **definitions.HANDLERS,
    "LOAD": load,
    "PREPARE": prepare,
    "EXECUTE": execute,
    "DEALLOCATE": deallocate,
}
