"""Statements for those who run the server: kill, flush, replication, plugins, maintenance, accounts and privileges.

They are told apart, not read in full: each is stopped or allowed as what its first words say.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocols.contract import Effect
from protocols.mysql.statements.lexer import Kind, Unreadable
from protocols.mysql.statements.model import ChangeKind
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.walk import Walk

Handler = Callable[[Reader, Walk], str]


def tables_of(reader: Reader, walk: Walk) -> list[str]:
    """A list of tables, each `schema.name`."""
    found = []
    for given, name in reader.names():
        schema = walk.schema(given)
        if schema:
            found.append(walk.qualified(schema, name))
            walk.read(found[-1])
    return found


def _does(kind: str, *effects: Effect) -> Handler:
    def handler(reader: Reader, walk: Walk) -> str:
        reader.rest()
        walk.add(*effects)
        return kind

    return handler


def _maintain(kind: str) -> Handler:
    def handler(reader: Reader, walk: Walk) -> str:
        reader.any_of(("LOCAL", "NO_WRITE_TO_BINLOG"))
        if not reader.any_of(("TABLE", "TABLES", "VIEW")):
            raise Unreadable(f"{kind.upper()} before something that is no table")
        for name in tables_of(reader, walk):
            _opened(name, walk)
        reader.rest()
        walk.add(Effect.ADMIN_MAINT)
        return f"{kind} table"

    return handler


def _opened(name: str, walk: Walk) -> None:
    """MariaDB works out the columns of a view that it checks, with what they call."""
    from protocols.mysql.statements.bodies import view_body  # it reads queries itself

    schema, _, table = name.partition(".")
    relation = walk.catalog.relation(schema, table)
    if relation is not None and relation.kind == "view":
        walk.merge(view_body(relation, walk.catalog, walk.depth).analysis)


def _kill(reader: Reader, walk: Walk) -> str:
    reader.rest()
    walk.add(Effect.ADMIN_KILL)
    return "kill"


def _flush(reader: Reader, walk: Walk) -> str:
    walk.add(Effect.ADMIN_CONFIG)
    if any(token.upper in ("LOCK", "EXPORT") for token in reader.rest()):
        walk.add(Effect.ADMIN_LOCK)
    return "flush"


def _change(reader: Reader, walk: Walk) -> str:
    if reader.peek().upper not in ("MASTER", "REPLICATION"):
        raise Unreadable("a statement of a kind that is not understood")
    reader.rest()
    walk.add(Effect.ADMIN_CONFIG, Effect.EXFIL_REPLICATION, Effect.NET_EGRESS)
    return "change replication"


def _grant(reader: Reader, walk: Walk) -> str:
    tokens = reader.rest()
    walk.add(Effect.PRIV_GRANT)
    if any(token.upper in ("IDENTIFIED", "REQUIRE") for token in tokens):
        walk.add(Effect.PRIV_ROLE)
    return "grant"


def _install(reader: Reader, walk: Walk) -> str:
    if reader.peek().upper not in ("PLUGIN", "COMPONENT", "SONAME"):
        raise Unreadable("a statement of a kind that is not understood")
    reader.rest()
    walk.add(Effect.EXEC_LIBRARY)
    return "install"


def _binlog(reader: Reader, walk: Walk) -> str:
    """Row events as text: any change to any table."""
    reader.string()
    walk.add(Effect.EXEC_DYNAMIC)
    walk.unknown("the changes inside a BINLOG statement are not visible")
    return "binlog"


def _cache(reader: Reader, walk: Walk) -> str:
    reader.expect("INDEX")
    if reader.peek().kind not in (Kind.WORD, Kind.NAME):
        raise Unreadable("CACHE INDEX without a table")
    reader.rest()
    walk.add(Effect.ADMIN_MAINT, Effect.ADMIN_CONFIG)
    return "cache index"


def _reset(reader: Reader, walk: Walk) -> str:
    tokens = reader.rest()
    walk.add(Effect.ADMIN_CONFIG)
    if any(t.upper in ("MASTER", "SLAVE", "REPLICA", "BINARY") for t in tokens):
        walk.add(Effect.EXFIL_REPLICATION)
    return "reset"


def truncate(reader: Reader, walk: Walk) -> str:
    reader.accept("TABLE")
    schema, name = reader.qualified()
    schema = walk.schema(schema)
    if schema:
        walk.write(walk.qualified(schema, name))
        walk.change(ChangeKind.DEFINE, walk.qualified(schema, name))
    reader.any_of(("WAIT", "NOWAIT"))
    if not reader.done and reader.peek().kind is Kind.NUMBER:
        reader.take()
    walk.add(Effect.DATA_TRUNCATE)
    return "truncate"


HANDLERS: Mapping[str, Handler] = {
    "KILL": _kill,
    "FLUSH": _flush,
    "RESET": _reset,
    "SHUTDOWN": _does("shutdown", Effect.ADMIN_KILL),
    "RESTART": _does("restart", Effect.ADMIN_KILL),
    "CHANGE": _change,
    "PURGE": _does("purge logs", Effect.ADMIN_CONFIG, Effect.DATA_DELETE),
    "CLONE": _does("clone", Effect.EXFIL_REPLICATION, Effect.NET_EGRESS, Effect.FILE_WRITE, Effect.ADMIN_CONFIG),
    "IMPORT": _does("import table", Effect.DDL_CREATE, Effect.FILE_READ),
    "BACKUP": _does("backup", Effect.ADMIN_LOCK, Effect.ADMIN_MAINT),
    "INSTALL": _install,
    "UNINSTALL": _install,
    "GRANT": _grant,
    "REVOKE": _does("revoke", Effect.PRIV_REVOKE),
    "BINLOG": _binlog,
    "CACHE": _cache,
    "OPTIMIZE": _maintain("optimize"),
    "REPAIR": _maintain("repair"),
    "CHECK": _maintain("check"),
    "CHECKSUM": _maintain("checksum"),
    "TRUNCATE": truncate,
}
