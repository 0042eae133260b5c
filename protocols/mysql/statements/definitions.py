"""CREATE, ALTER, DROP and RENAME: what kind of thing, and which. Their inside is read only where it runs at once.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocols.contract import Effect
from protocols.mysql.settings import words
from protocols.mysql.statements.alters import altered, created, dropped, moved
from protocols.mysql.statements.bodies import CODE
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.model import ChangeKind, Temporary
from protocols.mysql.statements.queryread import query, runs_code
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.walk import Walk

Handler = Callable[[Reader, Walk], str]

_VERB = {"create": Effect.DDL_CREATE, "alter": Effect.DDL_ALTER, "drop": Effect.DDL_DROP}
_ACCOUNTS = frozenset({"USER", "ROLE"})
_BODIES = frozenset({"PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE", "LIBRARY"})
_PLAIN = words(
    """
    TABLE VIEW INDEX DATABASE SCHEMA SEQUENCE TABLESPACE LOGFILE UNDO SERVER RESOURCE SPATIAL INSTANCE JSON
    """
)
# storage that reaches over the network or to files outside the data folder
_FAR_ENGINES = words("FEDERATED FEDERATEDX CONNECT SPIDER S3 CSV OQGRAPH SPHINX MROONGA NDB NDBCLUSTER")
_BEFORE = words(
    """
    OR REPLACE TEMPORARY UNIQUE FULLTEXT SPATIAL AGGREGATE DEFINER ALGORITHM SQL SECURITY INVOKER ONLINE OFFLINE
    IGNORE MERGE TEMPTABLE UNDEFINED
    """
)


def _define(verb: str) -> Handler:
    def handler(reader: Reader, walk: Walk) -> str:
        temporary = replaces = False
        while True:
            if reader.accept("DEFINER"):
                reader.expect("=")
                reader.account()
                continue
            word = reader.peek().upper
            if word not in _BEFORE:
                break
            reader.take()
            temporary = temporary or word == "TEMPORARY"
            replaces = replaces or word == "REPLACE"
            if word == "ALGORITHM":
                reader.expect("=")
        if replaces:
            walk.add(Effect.DDL_DROP)
        what = reader.take().upper
        if what in _ACCOUNTS:
            reader.rest()
            walk.add(Effect.PRIV_ROLE)
            return f"{verb} {what.lower()}"
        if what == "PREPARE" and verb == "drop":
            walk.add(Effect.PREPARE)
            walk.change(ChangeKind.DEALLOCATE, reader.name().lower())
            return "deallocate"
        if what not in _PLAIN and what not in _BODIES and not (what == "TABLES" and verb == "drop"):
            raise Unreadable(f"{verb.upper()} of a kind that is not understood")
        walk.add(_VERB[verb])
        kind = f"{verb} {'table' if what == 'TABLES' else what.lower()}"
        if what in _BODIES:
            return _program(reader, walk, verb, what, kind)
        if what == "SERVER":
            walk.add(Effect.NET_EGRESS)
        if what == "INSTANCE":
            walk.add(Effect.ADMIN_CONFIG)
        if what in ("TABLE", "TABLES", "VIEW", "SEQUENCE"):
            _tables(reader, walk, verb, what, temporary)
        elif what == "INDEX":
            _index(reader, walk)
        elif what in ("DATABASE", "SCHEMA"):
            _database(reader, walk, verb)
        else:
            reader.rest()
        return kind

    return handler


def _exists(reader: Reader) -> None:
    if not reader.accept("IF", "NOT", "EXISTS"):
        reader.accept("IF", "EXISTS")


def _written(walk: Walk, given: str, name: str, *, temporary: bool = False) -> str:
    schema = walk.schema(given)
    if not schema:
        return ""
    qualified = walk.qualified(schema, name)
    walk.write(qualified)
    if not temporary:  # no catalog shows those
        walk.change(ChangeKind.DEFINE, qualified)
    return qualified


def _tables(reader: Reader, walk: Walk, verb: str, what: str, temporary: bool) -> None:
    _exists(reader)
    if verb == "drop":
        if reader.peek().kind is Kind.VARIABLE:
            raise Unreadable("a name is missing")
        for given, name in reader.names():
            qualified = _written(walk, given, name, temporary=temporary)
            dropped(walk, qualified)
            if what in ("TABLE", "TABLES"):  # no other drops a temporary table of that name
                walk.change(ChangeKind.TEMP_DROP, qualified)
        reader.rest()
        return
    given, name = reader.qualified()
    qualified = _written(walk, given, name, temporary=temporary)
    rest = reader.rest()
    _storage(rest, walk)
    if what == "VIEW":
        _worked_out(rest, walk)
    if verb == "alter":
        walk.change(ChangeKind.TEMP_CHANGE, qualified)
        _altered(rest, walk, given, qualified)
        if what == "TABLE":
            altered(rest, walk, qualified, given)
        return
    if what != "TABLE":
        return
    columns, sources = _filled(rest, walk, "" if temporary else qualified)
    if not temporary and qualified:
        created(rest, walk, qualified)
    if temporary and qualified:
        schema, _, short = qualified.partition(".")
        walk.change(ChangeKind.TEMP_CREATE, qualified, Temporary(schema, short, columns, sources))


def _worked_out(tokens: Sequence[Token], walk: Walk) -> None:
    """MariaDB works out the columns of a view that is made, and runs what decides how wide they are."""
    if walk.state.flavour == "mysql":
        return
    start = next((i for i, t in enumerate(tokens) if t.kind is Kind.WORD and t.upper == "AS"), len(tokens)) + 1
    end = len(tokens)
    if [t.upper for t in tokens[-2:]] == ["CHECK", "OPTION"]:
        end = max(i for i, t in enumerate(tokens) if t.upper == "WITH")
    inner = Walk(walk.state, walk.catalog, walk.depth)
    try:
        query(tokens[start:end], inner)
    except Unreadable:
        walk.add(Effect.EXEC_CALL)  # whatever it calls
        return
    walk.add(*(inner.effects & CODE))


def _storage(tokens: Sequence[Token], walk: Walk) -> None:
    for index, token in enumerate(tokens):
        if token.kind is not Kind.WORD:
            continue
        following = tokens[index + 1].upper if index + 1 < len(tokens) else ""
        if token.upper in ("DATA", "INDEX") and following == "DIRECTORY":
            walk.add(Effect.FILE_WRITE)
        elif token.upper == "CONNECTION" and (following == "=" or _string_at(tokens, index + 1)):
            walk.add(Effect.NET_EGRESS)
        elif token.upper == "ENGINE":
            at = index + 2 if following == "=" else index + 1
            engine = tokens[at].text.upper() if at < len(tokens) else ""
            if engine in _FAR_ENGINES:
                walk.add(Effect.NET_EGRESS, Effect.FILE_READ, Effect.FILE_WRITE)


def _string_at(tokens: Sequence[Token], index: int) -> bool:
    return index < len(tokens) and tokens[index].kind is Kind.STRING


def _altered(tokens: Sequence[Token], walk: Walk, given: str, table: str) -> None:
    """What an ALTER TABLE removes, and the name it gives: a temporary table may get that of one that stays."""
    for index, token in enumerate(tokens):
        if token.kind is not Kind.WORD:
            continue
        if token.upper in ("DROP", "TRUNCATE", "DISCARD"):
            walk.add(Effect.DDL_DROP)
            if token.upper == "TRUNCATE":
                walk.add(Effect.DATA_TRUNCATE)
        elif token.upper in ("RENAME", "EXCHANGE", "CONVERT"):
            at = index + 1
            while at < len(tokens) and tokens[at].upper in ("TO", "AS", "=", "PARTITION", "TABLE", "WITH"):
                at += 1
            if at < len(tokens) and tokens[at].kind in (Kind.WORD, Kind.NAME):
                reader = Reader(tokens[at : at + 3])
                schema, name = reader.qualified()
                if token.upper == "RENAME" and tokens[at].upper not in ("COLUMN", "INDEX", "KEY"):
                    _renamed(walk, table, _written(walk, schema or given, name))


def _filled(tokens: Sequence[Token], walk: Walk, table: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """CREATE TABLE ... [AS] SELECT and LIKE: (columns where they are known, the relations whose rows go in)."""
    reader = Reader(tokens)
    like = reader.accept("LIKE") or (reader.sees("(", "LIKE") and reader.accept("(", "LIKE"))
    if like:
        schema, name = reader.qualified()
        schema = walk.schema(schema)
        if schema:
            walk.read(walk.qualified(schema, name))
        return None, ()
    depth = 0
    for index, token in enumerate(tokens):
        upper = token.upper
        starts = upper in ("SELECT", "WITH", "VALUES", "TABLE") and depth == 0 and token.kind is Kind.WORD
        opens = (
            upper == "("
            and index + 1 < len(tokens)
            and tokens[index + 1].upper in ("SELECT", "WITH", "(", "VALUES", "TABLE")
        )
        if upper == "WITH" and (index + 1 >= len(tokens) or tokens[index + 1].upper in ("SYSTEM", "PARSER")):
            starts = False
        if starts or (opens and depth == 0):
            inner = Walk(walk.state, walk.catalog, walk.depth)
            tree, outputs = query(tokens[index:], inner)
            walk.merge(inner.analysis("select"))
            walk.changes += inner.changes
            walk.constants = walk.constants or inner.constants
            walk.add(Effect.DATA_INSERT)
            only = index == 0 or all(t.upper in ("AS", "IGNORE", "REPLACE") for t in tokens[:index])
            if table:
                from protocols.mysql.stores import table_stores  # it reads the bodies of views itself

                table_stores(tree, inner, table, opens=runs_code(inner), plain=only)
                walk.stores.update(inner.stores)
            names = tuple(name for name, _ in outputs) if outputs is not None and only else None
            return names if names and all(names) else None, tuple(inner.reads)
        depth += (upper == "(") - (upper == ")")
    if any(t.kind is Kind.WORD and t.upper in ("SELECT", "TABLE") for t in tokens):
        raise Unreadable("a query inside CREATE TABLE that is not understood")
    return None, ()


def _index(reader: Reader, walk: Walk) -> None:
    tokens = reader.rest()
    for at, token in enumerate(tokens):
        if token.upper == "ON":
            inner = Reader(tokens[at + 1 :])
            given, name = inner.qualified()
            _written(walk, given, name)
            return
    raise Unreadable("an index without its table")


def _database(reader: Reader, walk: Walk, verb: str) -> None:
    _exists(reader)
    name = walk.state.database or ""
    if reader.peek().kind in (Kind.WORD, Kind.NAME) and reader.peek().upper not in ("DEFAULT", "CHARACTER", "COLLATE"):
        name = reader.name()
    reader.rest()
    walk.named = True
    walk.writes[f"{name}.*"] = None
    if verb == "drop":
        walk.store("", {f"{name}.*"})
    walk.change(ChangeKind.DROP_DATABASE if verb == "drop" else ChangeKind.DEFINE, name)


def _rename(reader: Reader, walk: Walk) -> str:
    if reader.accept("USER"):
        reader.rest()
        walk.add(Effect.PRIV_ROLE)
        return "rename user"
    if not reader.any_of(("TABLE", "TABLES")):
        raise Unreadable("RENAME of a kind that is not understood")
    _exists(reader)
    walk.add(Effect.DDL_ALTER)
    while True:
        given, name = reader.qualified()
        if reader.any_of(("WAIT", "NOWAIT")) and reader.peek().kind is Kind.NUMBER:
            reader.take()
        reader.expect("TO")
        to_given, to_name = reader.qualified()
        old, new = _written(walk, given, name), _written(walk, to_given, to_name)
        moved(walk, old, new)
        if _renamed(walk, old, new) and walk.catalog.flavour == "mariadb":  # MySQL renames the table behind it
            walk.change(ChangeKind.TEMP_DROP, old)
        if not reader.accept(","):
            return "rename table"


def _renamed(walk: Walk, old: str, new: str) -> bool:
    """Whether this may be a temporary table: then so is the one of the new name."""
    known = walk.state.temporary(*old.split(".", 1)) if "." in old else None
    for change in walk.changes:  # RENAME TABLE a TO b, b TO c
        if change.kind is ChangeKind.TEMP_CREATE and change.name == old:
            known = change.value
    if known is None or "." not in new:
        return False
    schema, _, short = new.partition(".")
    walk.change(ChangeKind.TEMP_CREATE, new, Temporary(schema, short, None, known.sources, known.certain))
    return True


def _program(reader: Reader, walk: Walk, verb: str, what: str, kind: str) -> str:
    """A stored program: its body does not run now. Where it ends was found before (`programs`)."""
    _exists(reader)
    if what == "PACKAGE":
        reader.accept("BODY")
        _exists(reader)
    given, name = reader.qualified()
    rest = reader.rest()
    schema = given or walk.state.database or ""
    walk.named = True
    walk.functions[f"{schema}.{name}" if schema else name] = None
    walk.change(ChangeKind.DEFINE, f"{schema}.{name}")
    if what == "TRIGGER":
        walk.add(Effect.PRIV_TRIGGERS)
    elif what == "EVENT":
        walk.add(Effect.EXEC_EVENT)
    elif what == "FUNCTION" and any(t.upper == "SONAME" for t in rest):
        walk.add(Effect.EXEC_LIBRARY)
    return kind


HANDLERS: Mapping[str, Handler] = {
    "CREATE": _define("create"),
    "ALTER": _define("alter"),
    "DROP": _define("drop"),
    "RENAME": _rename,
}
