"""SHOW and HELP: an allow-list of what may be shown, and what in it is a secret.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocols.contract import Effect
from protocols.mysql.statements.bodies import worked_out
from protocols.mysql.statements.lexer import Kind, Unreadable
from protocols.mysql.statements.queryread import expression
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.walk import Walk

# forms by their words, the longest first; each with how it goes on: `filter` [FROM db] [LIKE|WHERE], `table` a name,
# `string` one or a filter, `limit` LIMIT n, `end` nothing
_FORMS: tuple[tuple[str, str], ...] = (
    ("DATABASES", "filter"), ("SCHEMAS", "filter"), ("CATALOGS", "filter"),
    ("EXTENDED FULL TABLES", "filter"), ("FULL TABLES", "filter"), ("TABLES", "filter"), ("OPEN TABLES", "filter"),
    ("TABLE STATUS", "filter"), ("TRIGGERS", "filter"), ("FULL TRIGGERS", "filter"), ("EVENTS", "filter"),
    ("EXTENDED FULL COLUMNS", "columns"), ("EXTENDED COLUMNS", "columns"), ("FULL COLUMNS", "columns"),
    ("FULL FIELDS", "columns"), ("COLUMNS", "columns"), ("FIELDS", "columns"), ("EXTENDED INDEX", "columns"),
    ("INDEX", "columns"), ("INDEXES", "columns"), ("KEYS", "columns"),
    ("GLOBAL VARIABLES", "filter"), ("SESSION VARIABLES", "filter"), ("LOCAL VARIABLES", "filter"),
    ("VARIABLES", "filter"), ("GLOBAL STATUS", "filter"), ("SESSION STATUS", "filter"), ("LOCAL STATUS", "filter"),
    ("STATUS", "filter"), ("CHARACTER SET", "filter"), ("CHARSET", "filter"), ("CHAR SET", "filter"),
    ("COLLATION", "filter"),
    ("PROCEDURE STATUS", "filter"), ("FUNCTION STATUS", "filter"), ("PACKAGE STATUS", "filter"),
    ("PACKAGE BODY STATUS", "filter"), ("LIBRARY STATUS", "filter"),
    ("CREATE TABLE", "table"), ("CREATE VIEW", "table"), ("CREATE PROCEDURE", "table"), ("CREATE FUNCTION", "table"),
    ("CREATE TRIGGER", "table"), ("CREATE EVENT", "table"), ("CREATE SEQUENCE", "table"), ("CREATE PACKAGE", "table"),
    ("CREATE PACKAGE BODY", "table"), ("CREATE DATABASE IF NOT EXISTS", "table"), ("CREATE DATABASE", "table"),
    ("CREATE SCHEMA IF NOT EXISTS", "table"), ("CREATE SCHEMA", "table"),
    ("ENGINES", "end"), ("STORAGE ENGINES", "end"), ("PLUGINS", "end"), ("PLUGINS SONAME", "string"),
    ("PRIVILEGES", "end"), ("AUTHORS", "end"), ("CONTRIBUTORS", "end"),
    ("WARNINGS", "limit"), ("ERRORS", "limit"), ("COUNT ( * ) WARNINGS", "end"), ("COUNT ( * ) ERRORS", "end"),
    ("PROFILES", "end"), ("PROFILE", "rest"), ("LOCALES", "filter"), ("QUERY_RESPONSE_TIME", "end"),
)  # fmt: skip
# these show texts of other sessions, accounts, or how the server is replicated
_SECRET: tuple[str, ...] = (
    "PROCESSLIST", "FULL PROCESSLIST", "ENGINE", "BINLOG EVENTS", "BINLOG STATUS", "BINARY LOGS", "BINARY LOG STATUS",
    "MASTER LOGS", "MASTER STATUS", "RELAYLOG", "REPLICA STATUS", "SLAVE STATUS", "ALL SLAVES STATUS",
    "ALL REPLICAS STATUS", "REPLICAS", "SLAVE HOSTS", "REPLICA HOSTS", "CREATE USER", "EXPLAIN", "ANALYZE", "MUTEX",
    "USER_STATISTICS", "CLIENT_STATISTICS", "TABLE_STATISTICS", "INDEX_STATISTICS", "CREATE SERVER", "PROCEDURE CODE",
    "FUNCTION CODE", "PARSE_TREE",
)  # fmt: skip


def _show(reader: Reader, walk: Walk) -> str:
    walk.add(Effect.SHOW)
    if reader.accept("GRANTS"):
        return _grants(reader, walk)
    for words in sorted(_SECRET, key=len, reverse=True):
        if reader.accept(*words.split()):
            reader.rest()
            walk.add(Effect.SECRET_READ)
            return f"show {words.lower()}"
    for words, tail in sorted(_FORMS, key=lambda form: len(form[0]), reverse=True):
        if reader.accept(*words.split()):
            _TAILS[tail](reader, walk)
            return f"show {words.lower()}"
    raise Unreadable("a SHOW that is not understood")


def _grants(reader: Reader, walk: Walk) -> str:
    if walk.catalog.flavour != "mysql":
        walk.add(Effect.SECRET_READ)  # MariaDB shows the hash of the password with them
    if reader.accept("FOR"):
        account = reader.account()
        if account:
            walk.add(Effect.SECRET_READ)
        if reader.accept("USING"):
            reader.rest()
    return "show grants"


def _filter(reader: Reader, walk: Walk) -> None:
    if reader.any_of(("FROM", "IN")):
        reader.name()
    _like(reader, walk)


def _like(reader: Reader, walk: Walk) -> None:
    if reader.accept("LIKE"):
        reader.string()
    elif reader.accept("WHERE"):
        condition = list(reader.rest())
        if any(t.kind is Kind.WORD and t.upper in ("SELECT", "TABLE", "VALUES", "INTO") for t in condition):
            raise Unreadable("a query inside SHOW")
        expression(condition, walk)


def _columns(reader: Reader, walk: Walk) -> None:
    if not reader.any_of(("FROM", "IN")):
        raise Unreadable("a SHOW that is not understood")
    schema, name = reader.qualified()
    if reader.any_of(("FROM", "IN")):
        schema = reader.name()
    _structure(walk, schema, name)
    _like(reader, walk)


def _structure(walk: Walk, given: str, name: str) -> None:
    """What a table looks like: of a temporary one, lengths and types may be made of the values that went into it."""
    schema = given or walk.state.database or ""
    if walk.state.temporary(schema, name) is not None:
        walk.reads[walk.qualified(schema, name)] = None
    else:
        worked_out(schema, name, walk)


def _table(reader: Reader, walk: Walk) -> None:
    _structure(walk, *reader.qualified())


def _string(reader: Reader, walk: Walk) -> None:
    if reader.peek().kind is Kind.STRING:
        reader.take()
    else:
        _like(reader, walk)


def _limit(reader: Reader, walk: Walk) -> None:
    if reader.accept("LIMIT"):
        for token in reader.rest():
            if token.kind is not Kind.NUMBER and token.upper not in (",", "OFFSET"):
                raise Unreadable("a SHOW that is not understood")


def _end(reader: Reader, walk: Walk) -> None:
    reader.end()


def _rest(reader: Reader, walk: Walk) -> None:
    for token in reader.rest():
        if token.kind not in (Kind.WORD, Kind.NUMBER) and token.upper != ",":
            raise Unreadable("a SHOW that is not understood")


_TAILS: Mapping[str, Callable[[Reader, Walk], None]] = {
    "filter": _filter,
    "columns": _columns,
    "table": _table,
    "limit": _limit,
    "string": _string,
    "end": _end,
    "rest": _rest,
}


def _help(reader: Reader, walk: Walk) -> str:
    reader.take()
    walk.add(Effect.SHOW)
    return "help"


HANDLERS: Mapping[str, Callable[[Reader, Walk], str]] = {"SHOW": _show, "HELP": _help}
