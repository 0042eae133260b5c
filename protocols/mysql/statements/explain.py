"""EXPLAIN, DESCRIBE and ANALYZE: what only plans, and what runs after all.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from protocols.contract import Effect, Where
from protocols.mysql.statements.administration import tables_of
from protocols.mysql.statements.bodies import worked_out
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.model import ChangeKind, Variable
from protocols.mysql.statements.queries import Queries
from protocols.mysql.statements.queryread import VERBS
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.walk import Walk

# planning runs constant subqueries and functions of constants, but changes no table. MariaDB asks a sequence for its
# next number where that is looked for in a key
_CHANGES = frozenset({Effect.DATA_INSERT, Effect.DATA_UPDATE, Effect.DATA_DELETE})
_PLANNED_AWAY = _CHANGES | {Effect.ADMIN_LOCK}


def explain(
    tokens: Sequence[Token], walk: Walk, dispatch: Callable[[Sequence[Token], Walk], tuple[str, Any]]
) -> tuple[str, Any]:
    """(kind, None)."""
    reader = Reader(tokens)
    first = reader.take().upper
    runs = first == "ANALYZE"
    if runs and (reader.sees("TABLE") or reader.peek().upper in ("LOCAL", "NO_WRITE_TO_BINLOG", "TABLES")):
        reader.any_of(("LOCAL", "NO_WRITE_TO_BINLOG"))
        reader.take()
        tables_of(reader, walk)
        reader.rest()
        walk.add(Effect.ADMIN_MAINT)
        return "analyze table", None
    while True:
        if reader.accept("ANALYZE"):
            runs = True
        elif reader.sees("FORMAT", "="):
            reader.expect("FORMAT", "=")
            if reader.take().kind not in (Kind.WORD, Kind.STRING):
                raise Unreadable("an EXPLAIN that is not understood")
        elif not reader.accept("EXTENDED") and not reader.accept("PARTITIONS"):
            break
    into = ""
    if reader.sees("INTO") and reader.peek(1).kind is Kind.VARIABLE:
        reader.take()
        into = reader.take().text
    state = walk.state
    if reader.any_of(("FOR",)):
        if reader.any_of(("SCHEMA", "DATABASE")):  # for this statement alone
            state = state.fork()
            state.changed_database(reader.name())
        else:
            reader.position -= 1
    if reader.accept("FOR"):
        reader.expect("CONNECTION")
        reader.take()
        reader.end()
        walk.add(Effect.SHOW, Effect.SECRET_READ)
        return "explain", None
    if reader.peek().upper in VERBS:
        inner = Walk(state, walk.catalog, walk.depth)
        kind, _ = dispatch(reader.rest(), inner)
        if not runs:
            held = _locks(inner)
            inner.effects -= _PLANNED_AWAY
            if held:
                walk.add(Effect.ADMIN_LOCK)
            inner.reads.update(inner.writes)
            inner.writes.clear()
            inner.stores.clear()
            inner.where = Where.NONE
        walk.merge(inner.analysis(kind))
        walk.named, walk.constants = inner.named, inner.constants
        walk.fleeting = walk.fleeting or inner.fleeting
        walk.add(Effect.SHOW)
        if runs:
            walk.changes += inner.changes
        if into:  # plans quote values that were read while planning
            walk.add(Effect.SESSION_SET)
            walk.change(ChangeKind.VARIABLE, into, Variable())
        return ("analyze" if runs else "explain"), None
    if runs or first == "ANALYZE" or into or state is not walk.state:
        raise Unreadable("an EXPLAIN that is not understood")
    schema, name = reader.qualified()
    if not reader.done and reader.take().kind not in (Kind.WORD, Kind.NAME, Kind.STRING):
        raise Unreadable("a DESCRIBE that is not understood")
    reader.end()
    before = dict(walk.reads)
    secret = Effect.SECRET_READ in walk.effects
    inner = Walk(walk.state, walk.catalog, walk.depth)
    Queries(inner).relation(schema, name)  # only its columns are shown
    walk.reads = {**before, **dict.fromkeys(list(inner.reads)[:1])}
    walk.named = True
    if not secret:
        walk.effects.discard(Effect.SECRET_READ)
    walk.add(Effect.SHOW)
    worked_out(schema or walk.state.database or "", name, walk)
    return "describe", None


def _locks(inner: Walk) -> bool:
    """Whether the plan leaves locks: rows found by their key are read while planning, with the locks that go with the
    statement, and a transaction keeps those.
    """
    changes = Effect.DATA_SELECT in inner.effects and not _CHANGES.isdisjoint(inner.effects)
    if not changes and Effect.ADMIN_LOCK not in inner.effects:
        return False
    inner.fleeting = True  # it rests on the transaction
    return inner.state.in_transaction or not inner.state.autocommit
