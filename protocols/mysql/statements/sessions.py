"""Statements about the session itself: transactions, the default database, locks, handlers, calls.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocols.contract import ANYWHERE, Effect
from protocols.mysql.statements.lexer import Kind, Unreadable
from protocols.mysql.statements.model import ChangeKind, Variable
from protocols.mysql.statements.queries import Queries
from protocols.mysql.statements.queryread import expression
from protocols.mysql.statements.reader import Reader, split
from protocols.mysql.statements.setting import set_command
from protocols.mysql.statements.walk import Walk


def _use(reader: Reader, walk: Walk) -> str:
    name = reader.name()
    here = walk.state.database_known and walk.state.database == name
    walk.add(Effect.SESSION_SET if here else Effect.SESSION_NAME_RESOLUTION)
    walk.change(ChangeKind.DATABASE, name)
    return "use"


def _begin(reader: Reader, walk: Walk) -> str:
    reader.accept("WORK")
    walk.add(Effect.TX)
    walk.change(ChangeKind.BEGIN)
    return "begin"


def _start(reader: Reader, walk: Walk) -> str:
    if reader.accept("TRANSACTION"):
        walk.add(Effect.TX)
        while not reader.done:
            if reader.accept("READ", "WRITE"):
                walk.add(Effect.SESSION_SET if walk.state.writable else Effect.SESSION_GUARD)
            elif not reader.accept("WITH", "CONSISTENT", "SNAPSHOT") and not reader.accept("READ", "ONLY"):
                raise Unreadable("a property of a transaction that is not understood")
            if not reader.done:
                reader.expect(",")
        walk.change(ChangeKind.BEGIN)
        return "begin"
    return _replication(reader, walk, "start")


def _replication(reader: Reader, walk: Walk, verb: str) -> str:
    reader.accept("ALL")
    if not reader.any_of(("SLAVE", "REPLICA", "SLAVES", "REPLICAS", "GROUP_REPLICATION")):
        raise Unreadable("a statement of a kind that is not understood")
    reader.rest()
    walk.add(Effect.ADMIN_CONFIG, Effect.EXFIL_REPLICATION)
    return f"{verb} replica"


def _stop(reader: Reader, walk: Walk) -> str:
    return _replication(reader, walk, "stop")


def _ending(reader: Reader) -> bool:
    """[WORK] [AND [NO] CHAIN] [[NO] RELEASE]: whether another transaction begins at once."""
    chain = False
    if reader.accept("AND"):
        chain = not reader.accept("NO")
        reader.expect("CHAIN")
    if reader.accept("NO"):
        reader.expect("RELEASE")
    else:
        reader.accept("RELEASE")
    return chain


def _commit(reader: Reader, walk: Walk) -> str:
    reader.accept("WORK")
    walk.add(Effect.TX)
    walk.change(ChangeKind.COMMIT, value=_ending(reader))
    return "commit"


def _rollback(reader: Reader, walk: Walk) -> str:
    reader.accept("WORK")
    walk.add(Effect.TX)
    if reader.accept("TO"):
        if reader.peek(1).upper or reader.peek(1).kind is not Kind.OPERATOR:
            reader.accept("SAVEPOINT")
        reader.name()
        return "rollback to savepoint"
    walk.change(ChangeKind.ROLLBACK, value=_ending(reader))
    return "rollback"


def _savepoint(reader: Reader, walk: Walk) -> str:
    reader.name()
    walk.add(Effect.TX)
    return "savepoint"


def _release(reader: Reader, walk: Walk) -> str:
    reader.expect("SAVEPOINT")
    return _savepoint(reader, walk).replace("savepoint", "release savepoint")


def _xa(reader: Reader, walk: Walk) -> str:
    verb = reader.any_of(("START", "BEGIN", "END", "PREPARE", "COMMIT", "ROLLBACK", "RECOVER"))
    if not verb:
        raise Unreadable("an XA statement that is not understood")
    reader.rest()
    # a branch outlives its session, and another session's may be ended by its name
    walk.add(Effect.TX, Effect.SHOW) if verb == "RECOVER" else walk.add(Effect.TX, Effect.ADMIN_LOCK)
    return f"xa {verb.lower()}"


def _lock(reader: Reader, walk: Walk) -> str:
    if not reader.any_of(("TABLES", "TABLE")):
        if reader.accept("INSTANCE"):
            reader.rest()
            walk.add(Effect.ADMIN_LOCK, Effect.ADMIN_CONFIG)
            return "lock instance"
        raise Unreadable("a LOCK statement that is not understood")
    walk.add(Effect.ADMIN_LOCK)
    while True:
        schema, name = reader.qualified()
        Queries(walk).relation(schema, name)
        reader.accept("AS")
        if reader.peek().upper not in ("READ", "WRITE", "LOW_PRIORITY", "CONCURRENT"):
            reader.name()
        reader.any_of(("LOW_PRIORITY", "CONCURRENT"))
        if reader.accept("READ"):
            reader.accept("LOCAL")
        else:
            reader.expect("WRITE")
        if not reader.accept(","):
            break
    if reader.accept("WAIT"):
        reader.take()
    else:
        reader.accept("NOWAIT")
    walk.change(ChangeKind.COMMIT)
    return "lock tables"


def _unlock(reader: Reader, walk: Walk) -> str:
    if reader.accept("INSTANCE"):
        walk.add(Effect.ADMIN_LOCK)
        return "unlock instance"
    if not reader.any_of(("TABLES", "TABLE")):
        raise Unreadable("an UNLOCK statement that is not understood")
    walk.add(Effect.TX)
    return "unlock tables"


def _handler(reader: Reader, walk: Walk) -> str:
    schema, name = reader.qualified()
    walk.fleeting = True
    if reader.accept("OPEN"):
        source = Queries(walk).relation(schema, name)
        reader.accept("AS")
        alias = name if reader.done else reader.label()
        if not alias.isascii():
            raise Unreadable("a handler whose name is not plain ASCII")
        walk.add(Effect.CURSOR, Effect.DATA_SELECT)
        if source is not None:
            walk.change(ChangeKind.HANDLER_OPEN, alias.lower(), source.relation)
        return "handler open"
    if reader.accept("CLOSE"):
        walk.add(Effect.CURSOR)
        walk.change(ChangeKind.HANDLER_CLOSE, name.lower())
        return "handler close"
    reader.expect("READ")
    walk.add(Effect.CURSOR, Effect.DATA_SELECT)
    relation = walk.state.handlers.get(name.lower())
    if relation is None:
        walk.unknown("a handler whose table is not known")
    else:
        walk.read(relation)
        walk.columns[f"{relation}.*"] = None
    if not reader.any_of(("FIRST", "NEXT", "PREV", "LAST")):
        reader.name()
        if not reader.any_of(("FIRST", "NEXT", "PREV", "LAST")):
            if not reader.any_of(("=", "<=", ">=", "<", ">")):
                raise Unreadable("a HANDLER statement that is not understood")
            for value in split(reader.group()):
                expression(value, walk)
    if reader.accept("WHERE"):
        condition = []
        while not reader.done and not reader.sees("LIMIT"):
            condition.append(reader.take())
        expression(condition, walk)
        if relation is not None:
            walk.predicates[f"{relation}.*"] = None
    if reader.accept("LIMIT"):
        reader.rest()
    return "handler read"


def _call(reader: Reader, walk: Walk) -> str:
    schema, name = reader.qualified()
    walk.named = True
    walk.add(Effect.EXEC_PROCEDURE)
    where = schema or walk.state.database or ""
    walk.functions[f"{where}.{name}" if where else name] = None
    if walk.catalog.routine(where, name, "procedure") is None:
        walk.unknown(f"the procedure `{name[:64]}` is not known")
    if reader.sees("("):
        for argument in split(reader.group()):
            if len(argument) == 1 and argument[0].kind is Kind.VARIABLE:
                walk.change(ChangeKind.VARIABLE, argument[0].text, Variable((), known=False))
                known = walk.state.variable(argument[0].text.lower())
                walk.store(ANYWHERE, [f"{one}.*" for one in known.sources] if known.known else [ANYWHERE])
            else:
                walk.store(ANYWHERE, expression(argument, walk))
    return "call"


def _do(reader: Reader, walk: Walk) -> str:
    walk.add(Effect.DATA_SELECT)
    for value in split(list(reader.rest())):
        if any(t.upper == "AS" for t in value):
            raise Unreadable("DO with a name for its value")
        expression(value, walk)
    return "do"


def _set(reader: Reader, walk: Walk) -> str:
    return set_command(reader, walk)


def _diagnostics(reader: Reader, walk: Walk) -> str:
    """GET DIAGNOSTICS: condition texts quote values, and go into variables."""
    reader.any_of(("CURRENT", "STACKED"))
    reader.expect("DIAGNOSTICS")
    for token in reader.rest():
        if token.kind is Kind.VARIABLE:
            walk.change(ChangeKind.VARIABLE, token.text, Variable((), known=False))
    walk.add(Effect.SESSION_OTHER)
    return "get diagnostics"


def _signal(reader: Reader, walk: Walk) -> str:
    """An error with a text of one's own: it may carry what a variable holds."""
    reader.rest()
    walk.add(Effect.SESSION_OTHER)
    return "signal"


HANDLERS: Mapping[str, Callable[[Reader, Walk], str]] = {
    "USE": _use,
    "BEGIN": _begin,
    "START": _start,
    "STOP": _stop,
    "COMMIT": _commit,
    "ROLLBACK": _rollback,
    "SAVEPOINT": _savepoint,
    "RELEASE": _release,
    "XA": _xa,
    "LOCK": _lock,
    "UNLOCK": _unlock,
    "HANDLER": _handler,
    "CALL": _call,
    "DO": _do,
    "SET": _set,
    "GET": _diagnostics,
    "SIGNAL": _signal,
    "RESIGNAL": _signal,
}
