"""Recorded bytes of a response as lines for a person: a table of the rows, tags, errors."""

from __future__ import annotations

from protocols.postgres.errors import ProtocolError
from protocols.postgres.evidence import show_value
from protocols.postgres.framing import unpack_header
from protocols.postgres.messages import CommandComplete, DataRow, FieldDescription, Fields, RowDescription

MAX_LINES = 2000
_MAX_WIDTH = 40  # characters that a column is padded to; longer values stick out


def render(wire: bytes, limit: int = MAX_LINES) -> list[str]:
    """A line for each message that a person reads, at most `limit`. What was cut off is left out and said so."""
    page = _Page()
    pos = count = 0
    while pos + 5 <= len(wire) and count < limit:
        kind, length = unpack_header(wire, pos)
        end = pos + 1 + length
        if end > len(wire):
            break
        body = wire[pos + 5 : end]
        pos = end
        try:
            count += page.message(chr(kind), body)
        except ProtocolError as e:
            page.line(f"(a message that cannot be read: {e})")
    if pos < len(wire):
        page.line("(cut here)")
    return page.done()


class _Page:
    """Collects lines; the rows of one result are held back until the widths of its columns are known."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._fields: tuple[FieldDescription, ...] = ()
        self._rows: list[list[str]] = []

    def message(self, kind: str, body: bytes) -> int:
        """How many lines it makes."""
        if kind == "T":
            self.done()
            self._fields = RowDescription.decode(body).fields
            self._rows = [[f.name.decode("utf-8", "replace") for f in self._fields]]
        elif kind == "D":
            fields = self._fields
            values = DataRow.decode(body).values
            self._rows.append([_cell(v, fields[i] if i < len(fields) else None) for i, v in enumerate(values)])
        elif kind == "C":
            self.line(CommandComplete.decode(body).tag.decode("utf-8", "replace"))
        elif kind in "EN":
            f = Fields.decode(body)
            hint = f" (hint: {f.get('H')})" if f.get("H") else ""
            self.line(f"{f.get('S')} {f.get('C')}: {f.get('M')}{hint}")
        elif kind == "d":
            self.line(body.decode("utf-8", "replace").rstrip("\n"))
        elif kind == "V":
            self.line("function result")
        else:
            return 0
        return 1

    def line(self, text: str) -> None:
        self.done()
        self._lines.append(text)

    def done(self) -> list[str]:
        """All lines so far, the rows that were held back in columns."""
        rows, self._rows = self._rows, []
        widths = [min(_MAX_WIDTH, max(map(len, column))) for column in zip(*rows, strict=False)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + row[len(widths) :]
            self._lines.append(" | ".join(cells).rstrip())
        return self._lines


def _cell(value: bytes | None, field: FieldDescription | None) -> str:
    if value is None:
        return "NULL"
    shown = show_value(value, field.format if field else 0, field.type_oid if field else 0)
    return shown.replace("\r", "\u240d").replace("\n", "\u21b5")  # a value may not pose as a further row
