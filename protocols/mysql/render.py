"""Recorded bytes of a response as lines for a person: a table of the rows, what OK said, errors.

The record has a response's packets and nothing else, so their form is read off them: values are binary where every row
of the result can be read as such, and old EOF packets are told by their length.
"""

from __future__ import annotations

from protocols.mysql.capabilities import Capability
from protocols.mysql.errors import ProtocolError
from protocols.mysql.evidence import shown
from protocols.mysql.framing import HEADER, MAX_PART
from protocols.mysql.messages import EOF, ERR, LOCAL_INFILE, OK, ColumnDefinition, Err, Ok, column_count, local_infile
from protocols.mysql.parameters import UNSIGNED, value_text
from protocols.mysql.rows import FieldType, binary_row, text_row

MAX_LINES = 2000
_MAX_WIDTH = 40  # characters that a column is padded to; longer values stick out
_UNSIGNED_FLAG = 32  # UNSIGNED_FLAG of a column definition
_BINARY = 63  # the character set of bytes
_EOF_LENGTH = 5
_LIKE: dict[int, int] = {FieldType.INT24: FieldType.LONG, FieldType.YEAR: FieldType.SHORT}  # how they are sent


def render(wire: bytes, limit: int = MAX_LINES) -> list[str]:
    """A line for each packet that a person reads, at most `limit`. What was cut off is left out and said so."""
    page = _Page(limit)
    pos = 0
    body = b""
    while pos + HEADER <= len(wire) and not page.full:
        length = int.from_bytes(wire[pos : pos + 3], "little")
        end = pos + HEADER + length
        if end > len(wire):
            break
        body += wire[pos + HEADER : end]
        pos = end
        if length == MAX_PART:
            continue
        try:
            page.packet(body)
        except ProtocolError as e:
            page.line(f"(a packet that cannot be read: {e})")
        body = b""
    if pos < len(wire):
        page.line("(cut here)")
    return page.done()


class _Page:
    """Collects lines; the rows of one result are held back until the widths of its columns are known."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: list[str] = []
        self._left = 0  # definitions still to come
        self._columns: list[ColumnDefinition] = []
        self._bodies: list[bytes] = []  # rows of the present result
        self._in_result = False
        self._after_definitions = False

    @property
    def full(self) -> bool:
        return len(self._lines) + len(self._bodies) >= self._limit

    def packet(self, body: bytes) -> None:
        if not body:
            return
        head = body[0]
        if self._left:
            self._columns.append(ColumnDefinition.decode(body))
            self._left -= 1
            self._after_definitions = not self._left
        elif head == ERR:
            err = Err.decode(body)
            state = f" ({err.sqlstate})" if err.sqlstate else ""
            self.line(f"ERROR {err.errno}{state}: {err.message.decode('utf-8', 'replace')}")
            self._in_result = False
        elif self._in_result:
            self._row(body)
        elif head == OK:
            self.line(_ok(body))
        elif head == LOCAL_INFILE:
            self.line(f"the server asks for the file {local_infile(body).decode('utf-8', 'replace')}")
        elif head == EOF:  # behind the fields of COM_FIELD_LIST
            pass
        elif body[:4] == b"\x03def":  # the answer to COM_FIELD_LIST
            field = ColumnDefinition.decode(body, field_list=True)
            self.line(f"column {field.table.decode('utf-8', 'replace')}.{field.name.decode('utf-8', 'replace')}")
        else:
            self._begin(body)

    def _begin(self, body: bytes) -> None:
        try:
            self._left = column_count(body)
        except ProtocolError:
            self.line(body.decode("utf-8", "replace"))  # COM_STATISTICS answers with a sentence
            return
        self._columns, self._bodies = [], []
        self._in_result = True

    def _row(self, body: bytes) -> None:
        after, self._after_definitions = self._after_definitions, False
        if body[0] == EOF and len(body) < MAX_PART:
            if len(body) == _EOF_LENGTH and after:
                return
            self.done()
            self._in_result = False
            return
        self._bodies.append(body)

    def line(self, text: str) -> None:
        self.done()
        self._lines.append(_one_line(text))

    def done(self) -> list[str]:
        """All lines so far, the rows that were held back in columns."""
        bodies, self._bodies = self._bodies, []
        if self._columns and not self._left:
            rows = [[c.name.decode("utf-8", "replace") for c in self._columns], *self._read(bodies)]
            self._columns = []
            widths = [min(_MAX_WIDTH, max(map(len, column))) for column in zip(*rows, strict=False)]
            for row in rows:
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + row[len(widths) :]
                self._lines.append(" | ".join(cells).rstrip())
        return self._lines

    def _read(self, bodies: list[bytes]) -> list[list[str]]:
        columns = self._columns
        types = [c.type for c in columns]
        try:
            found = [binary_row(b, types) for b in bodies]
            return [[_binary(v, c) for v, c in zip(row, columns, strict=True)] for row in found]
        except ProtocolError:
            pass  # at least one is no row of binary values: they are text
        out: list[list[str]] = []
        for body in bodies:
            try:
                values = text_row(body, len(columns))
            except ProtocolError as e:
                out.append([f"(a row that cannot be read: {e})"])
                continue
            out.append([_text(v, c) for v, c in zip(values, columns, strict=True)])
        return out


def _ok(body: bytes) -> str:
    ok = _decoded(body)
    text = f"OK, {ok.affected} affected"
    if ok.last_id:
        text += f", last id {ok.last_id}"
    if ok.warnings:
        text += f", {ok.warnings} warnings"
    if ok.info:
        text += f" ({ok.info.decode('utf-8', 'replace')})"
    return text


def _decoded(body: bytes) -> Ok:
    """With or without session tracking: the record does not say which."""
    try:
        return Ok.decode(body, Capability.SESSION_TRACK)
    except ProtocolError:
        return Ok.decode(body, Capability(0))


def _text(value: bytes | None, column: ColumnDefinition) -> str:
    if value is None:
        return "NULL"
    if column.charset == _BINARY:
        try:
            return _cell(value.decode())
        except UnicodeDecodeError:
            return _cell("0x" + value.hex())
    return _cell(value.decode("utf-8", "replace"))


def _binary(value: bytes | None, column: ColumnDefinition) -> str:
    if value is None:
        return "NULL"
    kind = _LIKE.get(column.type, column.type)
    return _cell(value_text(value, kind | (UNSIGNED if column.flags & _UNSIGNED_FLAG else 0)))


def _cell(text: str) -> str:
    return _one_line(shown(text))


def _one_line(text: str) -> str:
    return text.replace("\r", "\u240d").replace("\n", "\u21b5")  # a value may not pose as a further row
