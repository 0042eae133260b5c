"""What the client sends for LOAD DATA LOCAL INFILE, cut into fields as the server cuts it: for the record only.

Source: the reference manual of both servers, "LOAD DATA Statement". What they read in different ways, or guess at
(missing and surplus fields), is not cut: `Uncut`.

INVARIANT: no I/O in this module; nothing here changes what the server gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from protocols import intake
from protocols.contract import Analysis, Origin, ResultColumn, ResultMasker, ResultShape, SessionPort
from protocols.intake import BLANK, Column, Intake, Row, Uncut
from protocols.mysql.catalog import Catalog, Relation
from protocols.mysql.origins import reach
from protocols.mysql.settings import words
from protocols.mysql.state import SessionState
from protocols.mysql.statements import Statement
from protocols.mysql.statements.lexer import Kind, Token, Unreadable, lex
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.text import decode, rules

__all__ = ["Clauses", "Lines", "clauses", "intake_of"]

_WIDTH = "a row has another number of fields than the statement has columns"
# no byte of a longer character looks like ASCII in these: rows can be cut without knowing the characters
_PLAIN = words(
    """
    ascii binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 greek hebrew koi8r koi8u latin1 latin2 latin5 latin7
    utf8 utf8mb3 utf8mb4
    """
)
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"0": b"\0", b"Z": b"\x1a"}


@dataclass(frozen=True, slots=True)
class Clauses:
    """How the statement says that its file is written. `columns`: names, "" for a user variable; None: not given."""

    schema: str
    table: str
    charset: str | None = None
    separator: bytes = b"\t"
    quote: bytes = b""
    escape: bytes = b"\\"
    ending: bytes = b"\n"
    skipped: int = 0
    columns: tuple[str, ...] | None = None
    variables: tuple[str, ...] = ()  # names of the user variables among them
    fills: tuple[str, ...] = ()  # columns that SET gives values to, made of any field


def intake_of(statement: Statement, state: SessionState, catalog: Catalog | None, port: SessionPort) -> Intake:
    """How the content of this statement's file may be kept."""
    masker, analysis = port.masker, statement.analysis
    clear = masker is None or not masker.touches(*reach(analysis, catalog))
    try:
        given = clauses(statement.text, state)
        columns, clear = _columns(given, analysis, state, catalog, None if clear else masker, port)
        return Intake(columns, Lines(given, len(columns)), "", clear)
    except (Unreadable, Uncut) as e:
        return Intake((), None, str(e), clear)


def _columns(
    given: Clauses,
    analysis: Analysis,
    state: SessionState,
    catalog: Catalog | None,
    masker: ResultMasker | None,
    port: SessionPort,
) -> tuple[tuple[Column, ...], bool]:
    """-> (where each field goes, whether none is masked). Raises Uncut where that is not certain."""
    relation = _relation(given, analysis, state, catalog)
    names = given.columns
    if names is None and relation is not None and all(c.visible and not c.generated for c in relation.columns):
        names = tuple(column.name for column in relation.columns)
    if not names:
        raise Uncut("the columns of its table are not known")
    # what SET makes of a field is not followed: each may end in any column that SET fills
    telling = intake.columns((*given.fills, *given.variables), None, port)
    secret = any(column.secret for column in telling)
    if masker is None:
        return _all_secret(intake.columns(names, None, port), secret), True
    if relation is None:
        raise Uncut("the columns of its table are not known")
    origins = []
    for name in names:
        column = relation.column(name) if name else None
        if name and column is None:
            raise Uncut("the columns of its table are not known")
        known = (f"{relation.qualified}.{column.name}",) if column is not None else ()
        origins.append(ResultColumn(name, Origin.KNOWN if known else Origin.CLEAR, known))
    every = tuple(ResultColumn(c.name, Origin.KNOWN, (f"{relation.qualified}.{c.name}",)) for c in relation.columns)
    whole = masker.plan(ResultShape(every))
    if whole is None:
        return _all_secret(intake.columns(names, None, port), secret), True
    rule = next(mask.rule for mask in whole.columns if mask is not None)
    masked = {c.name.lower() for c, mask in zip(relation.columns, whole.columns, strict=True) if mask is not None}
    fills = any((c := relation.column(name)) is None or c.name.lower() in masked for name in given.fills)
    found = intake.columns(names, masker.plan(ResultShape(tuple(origins))), port)
    hidden = tuple(
        replace(column, rule=column.rule or rule) if fills or not column.name else column for column in found
    )
    return _all_secret(hidden, secret), False


def _all_secret(columns: tuple[Column, ...], secret: bool) -> tuple[Column, ...]:
    return tuple(replace(column, secret=True) for column in columns) if secret else columns


def _relation(given: Clauses, analysis: Analysis, state: SessionState, catalog: Catalog | None) -> Relation | None:
    """The table that is filled; None where it is not certain which one, or what columns it has by now."""
    schema = given.schema or (state.database if state.database_known else None)
    if catalog is None or not schema or state.opaque or state.overflow or state.temporary(schema, given.table):
        return None
    found = catalog.relation(schema, given.table)
    if found is None or found.kind != "table" or found.qualified not in analysis.writes:
        return None
    return found if found.qualified not in state.touched and found.columns else None


# ---------------------------------------------------------------- the statement


def clauses(text: bytes, state: SessionState) -> Clauses:
    """What a LOAD DATA LOCAL says of its file. Raises `Unreadable`, `Uncut`."""
    read = decode(text, state.charset)
    reader = Reader(lex(read, 0, rules(state, "exact", read)).tokens)
    reader.expect("LOAD", "DATA")
    reader.any_of(("LOW_PRIORITY", "CONCURRENT"))
    reader.expect("LOCAL", "INFILE")
    reader.string()
    reader.any_of(("REPLACE", "IGNORE"))
    reader.expect("INTO", "TABLE")
    found = Clauses(*reader.qualified())
    if state.mode("NO_BACKSLASH_ESCAPES"):
        found = replace(found, escape=b"")
    if reader.accept("PARTITION"):
        reader.group()
    if reader.accept("CHARACTER", "SET") or reader.accept("CHARSET"):
        found = replace(found, charset=reader.take().text.lower())
    if reader.any_of(("FIELDS", "COLUMNS")):
        found = _fields(reader, found)
    if reader.accept("LINES"):
        found = _lines(reader, found)
    if reader.accept("IGNORE"):
        token = reader.take()
        if token.kind is not Kind.NUMBER or not token.text.isdigit() or not reader.any_of(("LINES", "ROWS")):
            raise Uncut("how many lines it skips is not known")
        found = replace(found, skipped=int(token.text))
    if reader.sees("("):
        listed = list(reader.group())
        variables = tuple(token.text for token in listed if token.kind is Kind.VARIABLE)
        found = replace(found, columns=_names(listed), variables=variables)
    if reader.accept("SET"):
        found = replace(found, fills=_fills(reader))
    if not reader.done:
        raise Uncut("the statement has a clause that is not known here")
    return found


def _fills(reader: Reader) -> tuple[str, ...]:
    fills = []
    while True:
        fills.append(reader.qualified()[1])
        reader.expect("=")
        reader.until_comma()
        if not reader.accept(","):
            return tuple(fills)


def _fields(reader: Reader, found: Clauses) -> Clauses:
    while True:
        if reader.accept("TERMINATED", "BY"):
            found = replace(found, separator=_characters(reader.take()))
        elif reader.accept("OPTIONALLY", "ENCLOSED", "BY") or reader.accept("ENCLOSED", "BY"):
            found = replace(found, quote=_characters(reader.take()))
        elif reader.accept("ESCAPED", "BY"):
            found = replace(found, escape=_characters(reader.take()))
        else:
            return found


def _lines(reader: Reader, found: Clauses) -> Clauses:
    while True:
        if reader.accept("TERMINATED", "BY"):
            found = replace(found, ending=_characters(reader.take()))
        elif reader.accept("STARTING", "BY"):
            if _characters(reader.take()):
                raise Uncut("what its lines start with is skipped: they cannot be cut")
        else:
            return found


def _characters(token: Token) -> bytes:
    try:
        if token.kind is Kind.HEX:
            return bytes.fromhex(token.text)
        if token.kind is Kind.STRING:
            return token.text.encode("ascii")
    except ValueError:
        pass
    raise Uncut("what stands between its fields or lines is not plain ASCII")


def _names(tokens: list[Token]) -> tuple[str, ...]:
    """The names between the brackets, "" for a user variable."""
    names = []
    for index, token in enumerate(tokens):
        if index % 2:
            if token.upper != ",":
                raise Uncut("its list of columns is not a list of names")
        elif token.kind is Kind.VARIABLE:
            names.append("")
        elif token.kind in (Kind.WORD, Kind.NAME):
            names.append(token.text)
        else:
            raise Uncut("its list of columns is not a list of names")
    return tuple(names)


# ---------------------------------------------------------------- the content


class Lines:
    """Rows of fields, as `SELECT ... INTO OUTFILE` with the same clauses writes them."""

    def __init__(self, given: Clauses, width: int) -> None:
        """Raises Uncut for a way of writing that cannot be cut for certain."""
        self._given, self._width = given, width
        separator, ending, quote, escape = given.separator, given.ending, given.quote, given.escape
        if not separator or not ending or separator[0] == ending[0]:
            raise Uncut("its fields or lines have no end of their own")
        marks = [one for one in (quote, escape) if one]
        if any(len(one) > 1 or one in separator or one in ending for one in marks) or (quote and quote == escape):
            raise Uncut("its quotes or escapes cannot be told from what else they are")
        if given.charset is not None and given.charset not in _PLAIN:
            raise Uncut(f"text in the character set `{given.charset[:40]}` cannot be cut: write it in utf8mb4")
        s, e, q, x = (re.escape(one) for one in (separator, ending, quote, escape))
        first = re.escape(separator[:1]) + re.escape(ending[:1])
        escaped = rb"|" + x + rb"." if x else b""
        plain = rb"((?:[^" + first + x + rb"]++" + escaped + rb"|(?!" + s + rb"|" + e + rb")[" + first + rb"])*+)"
        behind = rb"(" + s + rb"|" + e + rb"|\Z)"
        inside = rb"((?:[^" + q + x + rb"]++|" + q + q + escaped + rb")*+)" if q else b""
        field = q + inside + q + rb"|(?!" + q + rb")" + plain if q else rb"()(?!)|" + plain
        self._field = re.compile(rb"(?:" + field + rb")" + behind, re.DOTALL)
        self._open = re.compile(q + inside + x + rb"?\Z" if q and x else q + inside + rb"\Z", re.DOTALL) if q else None
        self._escaped = re.compile(x + rb"(.)", re.DOTALL) if x else None
        marked = any(one and one in BLANK for one in (separator, ending, quote, escape))
        self.blank = b"" if marked else BLANK

    def rows(self, data: bytes, complete: bool) -> Iterator[Row]:
        """See `protocols.intake.Format`."""
        given = self._given
        if not complete:
            data = _without_half(_without_half(data, given.separator), given.ending)
        at = 0
        for _ in range(given.skipped):
            if at >= len(data):
                return
            row = self._heading(data, at, complete)
            if row is None:
                return
            yield row
            at = row.end
        while at < len(data):
            fields: list[tuple[int, int, bool]] = []
            start = at
            while True:
                found = self._field.match(data, at)
                if found is None:
                    if not complete and self._cut_short(data, at):
                        return
                    raise Uncut("a row is not in the form in which its file is said to be")
                at = found.end()
                fields.append((found.start(), found.start(3), self._is_null(found[2])))
                if found[3] != given.separator:
                    break
                if len(fields) >= self._width:
                    raise Uncut(_WIDTH)
            if not found[3] and not complete:
                return
            if given.charset is None and not data[start:at].isascii():
                raise Uncut("its characters are not known: name them with CHARACTER SET utf8mb4")
            if given.charset is not None and given.charset.startswith("utf8") and not _readable(data[start:at]):
                raise Uncut("a row is not in the character set that the statement names")
            # behind a separator at the very end of its file the server sees no field
            missing = len(data) == fields[-1][0] and len(fields) > 1
            if len(fields) != self._width or missing:
                raise Uncut(_WIDTH)
            yield Row(start, at, tuple(fields))

    def _heading(self, data: bytes, at: int, complete: bool) -> Row | None:
        """A line that is skipped: quotes mean nothing to the server there."""
        given = self._given
        end = data.find(given.ending, at)
        stop = len(data) if end < 0 else end
        if end < 0 and not complete:
            return None
        line = data[at:stop]
        if any(one and one in line for one in (given.quote, given.escape)):
            raise Uncut("a line that is skipped has quotes or escapes")
        fields = []
        start = at
        for raw in line.split(given.separator):
            fields.append((start, start + len(raw), False))
            start += len(raw) + len(given.separator)
        if len(fields) != self._width:
            raise Uncut(_WIDTH)
        return Row(at, stop if end < 0 else end + len(given.ending), tuple(fields), heading=True)

    def _cut_short(self, data: bytes, at: int) -> bool:
        if self._open is not None and self._open.match(data, at) is not None:
            return True
        escape = self._given.escape
        return bool(escape) and data.endswith(escape) and self._field.match(data[:-1], at) is not None

    def _is_null(self, unquoted: bytes | None) -> bool:
        given = self._given
        if unquoted is None:
            return False
        if given.escape and unquoted == given.escape + b"N":
            return True
        return bool(given.quote) and len(unquoted) < 9 and self.value(unquoted) == b"NULL"

    def value(self, raw: bytes) -> bytes:
        """See `protocols.intake.Format`."""
        quote = self._given.quote
        if quote and len(raw) > 1 and raw.startswith(quote):
            raw = raw[1:-1].replace(quote + quote, quote)
        if self._escaped is None:
            return raw
        return self._escaped.sub(lambda found: _ESCAPES.get(found[1], found[1]), raw)


def _without_half(data: bytes, mark: bytes) -> bytes:
    """Without the beginning of a mark at its end: the rest of it may not have come yet."""
    for length in range(len(mark) - 1, 0, -1):
        if data.endswith(mark[:length]):
            return data[:-length]
    return data


def _readable(row: bytes) -> bool:
    try:
        row.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
