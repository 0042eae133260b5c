"""Recorded bytes of a response as lines for a person: column names, rows, tags, errors."""

from __future__ import annotations

from protocols.postgres.errors import ProtocolError
from protocols.postgres.evidence import show_value
from protocols.postgres.framing import unpack_header
from protocols.postgres.messages import CommandComplete, DataRow, FieldDescription, Fields, RowDescription

MAX_LINES = 2000


def render(wire: bytes) -> list[str]:
    """One line per message that a person reads. What was cut off at the end is left out and said so."""
    lines: list[str] = []
    fields: tuple[FieldDescription, ...] = ()
    pos = 0
    while pos + 5 <= len(wire) and len(lines) < MAX_LINES:
        kind, length = unpack_header(wire, pos)
        end = pos + 1 + length
        if end > len(wire):
            break
        body = wire[pos + 5 : end]
        pos = end
        try:
            fields = _line(chr(kind), body, fields, lines)
        except ProtocolError as e:
            lines.append(f"(a message that cannot be read: {e})")
    if pos < len(wire):
        lines.append("(cut here)")
    return lines


def _line(
    kind: str, body: bytes, fields: tuple[FieldDescription, ...], lines: list[str]
) -> tuple[FieldDescription, ...]:
    if kind == "T":
        fields = RowDescription.decode(body).fields
        lines.append(" | ".join(f.name.decode("utf-8", "replace") for f in fields))
    elif kind == "D":
        row = DataRow.decode(body)
        lines.append(" | ".join(_cell(v, fields[i] if i < len(fields) else None) for i, v in enumerate(row.values)))
    elif kind == "C":
        lines.append(CommandComplete.decode(body).tag.decode("utf-8", "replace"))
    elif kind in "EN":
        f = Fields.decode(body)
        hint = f" (hint: {f.get('H')})" if f.get("H") else ""
        lines.append(f"{f.get('S')} {f.get('C')}: {f.get('M')}{hint}")
    elif kind == "d":
        lines.append(body.decode("utf-8", "replace").rstrip("\n"))
    elif kind == "V":
        lines.append("function result")
    return fields


def _cell(value: bytes | None, field: FieldDescription | None) -> str:
    if value is None:
        return "NULL"
    return show_value(value, field.format if field else 0, field.type_oid if field else 0)
