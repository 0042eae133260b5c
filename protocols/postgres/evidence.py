"""PostgreSQL's part of what goes on record: parameters, shown decoded. The rest is `protocols.records`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from protocols.records import MAX_PARAM, MAX_TEXT, command, command_static, response, text_field

__all__ = [
    "MAX_PARAM",
    "MAX_TEXT",
    "command",
    "command_static",
    "response",
    "show_value",
    "show_values",
    "text_field",
]

_PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_PG_DATE = date(2000, 1, 1)


def _timestamp(raw: bytes) -> str:
    micros = struct.unpack("!q", raw)[0]
    if micros in (0x7FFFFFFFFFFFFFFF, -0x8000000000000000):
        return "infinity" if micros > 0 else "-infinity"
    return (_PG_EPOCH + timedelta(microseconds=micros)).isoformat()


def _date(raw: bytes) -> str:
    return (_PG_DATE + timedelta(days=struct.unpack("!i", raw)[0])).isoformat()


def _numeric(raw: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!hhHh", raw)
    if sign == 0xC000:
        return "NaN"
    digits = struct.unpack_from(f"!{count}h", raw, 8)
    whole = "".join(f"{digits[i] if i < count else 0:04d}" for i in range(weight + 1)).lstrip("0") or "0"
    first = weight + 1
    places = range(first, first + (scale + 3) // 4)
    part = "".join(f"{digits[i] if 0 <= i < count else 0:04d}" for i in places)[:scale]
    return ("-" if sign == 0x4000 else "") + whole + ("." + part if part else "")


# binary formats by type oid (pg_type.dat); anything else is shown as hexadecimal
_BINARY: dict[int, Callable[[bytes], str]] = {
    16: lambda b: "true" if b == b"\x01" else "false",
    18: lambda b: b.decode("utf-8", "replace"),
    19: lambda b: b.decode("utf-8", "replace"),
    20: lambda b: str(struct.unpack("!q", b)[0]),
    21: lambda b: str(struct.unpack("!h", b)[0]),
    23: lambda b: str(struct.unpack("!i", b)[0]),
    25: lambda b: b.decode("utf-8", "replace"),
    26: lambda b: str(struct.unpack("!I", b)[0]),
    114: lambda b: b.decode("utf-8", "replace"),
    700: lambda b: repr(struct.unpack("!f", b)[0]),
    701: lambda b: repr(struct.unpack("!d", b)[0]),
    1042: lambda b: b.decode("utf-8", "replace"),
    1043: lambda b: b.decode("utf-8", "replace"),
    1082: _date,
    1114: _timestamp,
    1184: _timestamp,
    1700: _numeric,
    2950: lambda b: str(UUID(bytes=b)),
    3802: lambda b: b[1:].decode("utf-8", "replace"),
}


def show_value(raw: bytes, fmt: int, oid: int, limit: int = MAX_PARAM) -> str:
    """One value as a person reads it: text as it is, known binary types decoded, the rest as `\\x...`.

    Longer than `limit` characters it is cut and says so.
    """
    cut = raw[: limit * 4]
    if fmt == 0:
        text = cut.decode("utf-8", "replace")
    else:
        try:
            text = _BINARY[oid](cut)
        except (KeyError, struct.error, ValueError, OverflowError, IndexError):
            # a value that does not have its type's form is the server's to refuse; the record shows its bytes
            text = "\\x" + cut[:limit].hex()
    return text if len(text) <= limit and len(cut) == len(raw) else text[:limit] + f"... ({len(raw)} bytes)"


def show_values(
    values: Sequence[bytes | None], formats: Sequence[int], oids: Sequence[int], limit: int = MAX_PARAM
) -> tuple[str | None, ...]:
    """All parameters of a Bind or FunctionCall. No formats: all text; one: for all (section 54.7, Bind)."""
    out: list[str | None] = []
    for i, v in enumerate(values):
        if v is None:
            out.append(None)
            continue
        fmt = 0 if not formats else formats[0] if len(formats) == 1 else formats[i] if i < len(formats) else 0
        out.append(show_value(v, fmt, oids[i] if i < len(oids) else 0, limit))
    return tuple(out)
