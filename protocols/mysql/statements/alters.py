"""What CREATE, ALTER, DROP and RENAME do with values that are stored already, or will be: `Analysis.stores`.

Read from the tokens. Names that stand in an expression count as columns of the table, whatever they are.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from protocols.contract import ANYWHERE
from protocols.mysql.statements.lexer import Kind, Token
from protocols.mysql.statements.reader import Reader, split
from protocols.mysql.statements.walk import Walk

_NO_COLUMN = frozenset({"INDEX", "KEY", "PRIMARY", "FOREIGN", "CONSTRAINT", "CHECK", "PARTITION", "SYSTEM", "PERIOD"})
_STRICT = frozenset({"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"})


def moved(walk: Walk, old: str, new: str) -> None:
    """A table gets another name, or its rows go to another one whole."""
    schema, _, name = old.partition(".")
    if not old or not new or walk.state.temporary(schema, name) is not None:
        return
    for column in _columns(walk, old):
        walk.store(f"{new}.{column}", {f"{old}.{column}"}, copied=True)


def dropped(walk: Walk, table: str) -> None:
    """A table goes away."""
    schema, _, name = table.partition(".")
    if table and walk.state.temporary(schema, name) is None:
        walk.store("", {f"{table}.{column}" for column in _columns(walk, table)})


def _columns(walk: Walk, table: str) -> list[str]:
    schema, _, name = table.partition(".")
    relation = walk.catalog.relation(schema, name)
    return [column.name for column in relation.columns] if relation is not None and relation.columns else ["*"]


def created(tokens: Sequence[Token], walk: Walk, table: str) -> None:
    """The columns and options of a new table."""
    if tokens and tokens[0].upper == "(":
        columns = Reader(tokens).group()
        if columns and columns[0].upper not in ("SELECT", "WITH", "VALUES", "TABLE", "LIKE", "("):
            _computed(columns, walk, table)
    _placed(tokens, walk, table)


def altered(tokens: Sequence[Token], walk: Walk, table: str, given: str) -> None:
    """ALTER TABLE, behind the table's name."""
    schema, _, name = table.partition(".")
    if not table or walk.state.temporary(schema, name) is not None:
        return
    _computed(tokens, walk, table)
    _placed(tokens, walk, table)
    reader = Reader(tokens)
    if reader.accept("WAIT"):
        reader.take()
    else:
        reader.accept("NOWAIT")
    for clause in split(list(reader.rest())):
        _clause(clause, walk, table, given)


def _clause(tokens: Sequence[Token], walk: Walk, table: str, given: str) -> None:
    if any(t.kind is Kind.WORD and t.upper in ("RENAME", "CHANGE", "EXCHANGE") for t in tokens[1:]):
        walk.store(ANYWHERE, {f"{table}.*"})  # a name, or a form of one of these that is not known here
    reader = Reader(tokens)
    if reader.accept("RENAME"):
        if reader.any_of(("INDEX", "KEY")):
            return
        if reader.accept("COLUMN"):
            reader.accept("IF", "EXISTS")
            old = reader.name()
            reader.expect("TO")
            walk.store(f"{table}.{reader.name()}", {f"{table}.{old}"}, copied=True)
            return
        reader.any_of(("TO", "AS", "="))
        schema, name = reader.qualified()
        home = walk.schema(schema or given)
        moved(walk, table, walk.qualified(home, name) if home else "")
    elif reader.accept("CHANGE"):
        reader.accept("COLUMN")
        reader.accept("IF", "EXISTS")
        old, new = reader.name(), reader.name()
        if old.lower() != new.lower() or not _strict(walk):
            walk.store(f"{table}.{new}", {f"{table}.{old}"})
    elif reader.accept("MODIFY"):
        reader.accept("COLUMN")
        reader.accept("IF", "EXISTS")
        name = reader.name()
        if not _strict(walk):  # what is too long for the new type is cut
            walk.store(f"{table}.{name}", {f"{table}.{name}"})
    elif reader.accept("DROP"):
        if not reader.accept("COLUMN") and reader.peek().kind is Kind.WORD and reader.peek().upper in _NO_COLUMN:
            return
        reader.accept("IF", "EXISTS")
        if reader.peek().kind in (Kind.WORD, Kind.NAME):
            walk.store("", {f"{table}.{reader.name()}"})
    elif reader.accept("EXCHANGE", "PARTITION"):
        reader.name()
        reader.expect("WITH", "TABLE")
        schema, name = reader.qualified()
        home = walk.schema(schema or given)
        other = walk.qualified(home, name) if home else ""
        moved(walk, table, other)
        moved(walk, other, table)
    elif reader.accept("ADD"):
        _checked(tokens, walk, table)


def _strict(walk: Walk) -> bool:
    return walk.state.sql_mode is not None and not _STRICT.isdisjoint(walk.state.sql_mode)


def _checked(tokens: Sequence[Token], walk: Walk, table: str) -> None:
    """A new CHECK fails if one row is not so."""
    for at, token in enumerate(tokens):
        if token.kind is Kind.WORD and token.upper == "CHECK":
            walk.predicate(f"{table}.{name}" for name in _names(tokens, at + 1))


def _computed(tokens: Sequence[Token], walk: Walk, table: str) -> None:
    """Generated columns, and defaults, which rows that are there get, too: `AS (...)`, `DEFAULT (...)`."""
    for at, token in enumerate(tokens):
        if token.kind is Kind.WORD and token.upper in ("AS", "DEFAULT"):
            if token.upper == "DEFAULT" and [t.upper for t in tokens[at + 2 : at + 3]] == ["("]:
                at += 1  # a function's name
            walk.store(f"{table}.*", {f"{table}.{name}" for name in _names(tokens, at + 1)})


def _placed(tokens: Sequence[Token], walk: Walk, table: str) -> None:
    """PARTITION BY: the partition that a row is in says what it holds. UNION: the rows of other tables are shown."""
    level = 0
    for at, token in enumerate(tokens):
        level += (token.upper == "(") - (token.upper == ")")
        if token.kind is not Kind.WORD or level:
            continue
        following = tokens[at + 1].upper if at + 1 < len(tokens) else ""
        if token.upper == "PARTITION" and following == "BY":
            opening = next((i for i in range(at, len(tokens)) if tokens[i].upper == "("), len(tokens))
            walk.store(ANYWHERE, {f"{table}.{name}" for name in _names(tokens, opening)})
        elif token.upper == "UNION" and following in ("=", "("):
            opening = at + 1 if following == "(" else at + 2
            reader = Reader(tokens[opening:])
            for part in split(reader.group()) if reader.sees("(") else ():
                schema, name = Reader(part).qualified()
                home = walk.schema(schema)
                walk.store(f"{table}.*", {f"{walk.qualified(home, name)}.*"} if home else {ANYWHERE})


def _names(tokens: Sequence[Token], opening: int) -> Iterator[str]:
    """What may be the name of a column in the brackets that open here."""
    if opening >= len(tokens) or tokens[opening].upper != "(":
        return
    level = 0
    for at in range(opening, len(tokens)):
        token = tokens[at]
        level += (token.upper == "(") - (token.upper == ")")
        if not level:
            return
        called = at + 1 < len(tokens) and tokens[at + 1].upper == "("
        if token.kind is Kind.NAME or (token.kind is Kind.WORD and not called):
            yield token.text
