"""PostgreSQL messages made by hand (section 54.7), independent of the gateway's own encoders, and read back."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def text(value: str | bytes) -> bytes:
    return (value if isinstance(value, bytes) else value.encode()) + b"\0"


def _values(values: Sequence[bytes | None]) -> bytes:
    parts = [struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values]
    return struct.pack("!H", len(values)) + b"".join(parts)


def _shorts(values: Sequence[int]) -> bytes:
    return struct.pack(f"!H{len(values)}h", len(values), *values)


# ---------------------------------------------------------------- from the client


def startup(code: int = 3 << 16, **parameters: str) -> bytes:
    body = struct.pack("!I", code) + b"".join(text(k) + text(v) for k, v in parameters.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def request(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", 8 + len(body), code) + body


def query(sql: str | bytes) -> bytes:
    return message("Q", text(sql))


def parse(name: str, sql: str | bytes, *oids: int) -> bytes:
    return message("P", text(name) + text(sql) + struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def bind(
    portal: str,
    statement: str,
    values: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    return message("B", text(portal) + text(statement) + _shorts(formats) + _values(values) + _shorts(results))


def describe(what: str, name: str = "") -> bytes:
    return message("D", what.encode() + text(name))


def close(what: str, name: str = "") -> bytes:
    return message("C", what.encode() + text(name))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message("E", text(portal) + struct.pack("!i", rows))


def call(oid: int, values: Sequence[bytes | None] = (), formats: Sequence[int] = (), result: int = 0) -> bytes:
    return message("F", struct.pack("!I", oid) + _shorts(formats) + _values(values) + struct.pack("!h", result))


def copy_data(data: bytes) -> bytes:
    return message("d", data)


def copy_fail(why: str) -> bytes:
    return message("f", text(why))


SYNC, FLUSH, TERMINATE, COPY_DONE = message("S"), message("H"), message("X"), message("c")

# ---------------------------------------------------------------- from the server

PARSED, BOUND, CLOSED, NO_DATA, SUSPENDED, EMPTY = (message(k) for k in "123nsI")


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


def field(name: str, table: int = 0, number: int = 0, type_oid: int = 25, fmt: int = 0) -> bytes:
    return text(name) + struct.pack("!IhIhih", table, number, type_oid, -1, -1, fmt)


def columns(*fields: bytes) -> bytes:
    return message("T", struct.pack("!H", len(fields)) + b"".join(fields))


def row(*values: bytes | None) -> bytes:
    return message("D", _values(values))


def complete(tag: str) -> bytes:
    return message("C", text(tag))


def error(code: str, what: str = "no", severity: str = "ERROR", **more: str) -> bytes:
    fields = {"S": severity, "V": severity, "C": code, "M": what, **more}
    return message("E", b"".join(k.encode() + text(v) for k, v in fields.items()) + b"\0")


def notice(what: str) -> bytes:
    return message("N", b"".join(k + text(v) for k, v in ((b"S", "NOTICE"), (b"C", "00000"), (b"M", what))) + b"\0")


def parameter(name: str, value: str) -> bytes:
    return message("S", text(name) + text(value))


def parameters(*oids: int) -> bytes:
    return message("t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def copy_in(*formats: int) -> bytes:
    return message("G", b"\0" + _shorts(formats))


def copy_out(*formats: int) -> bytes:
    return message("H", b"\0" + _shorts(formats))


# ---------------------------------------------------------------- reading


def split(data: bytes) -> list[tuple[str, bytes]]:
    """Whole messages as (type, body). Bytes that are no whole message fail the test."""
    out = []
    pos = 0
    while pos < len(data):
        assert pos + 5 <= len(data), f"half a header: {data[pos:]!r}"
        end = pos + 1 + struct.unpack_from("!I", data, pos + 1)[0]
        assert pos + 5 <= end <= len(data), f"half a message: {data[pos : pos + 60]!r}"
        out.append((chr(data[pos]), data[pos + 5 : end]))
        pos = end
    return out


def kinds(data: bytes) -> str:
    """The message types of a stream, in order."""
    return "".join(kind for kind, _ in split(data))


def fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse."""
    assert body.endswith(b"\0\0")
    return {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in body[:-2].split(b"\0")}


def errors(data: bytes) -> list[dict[str, str]]:
    """Every ErrorResponse of a stream."""
    return [fields(body) for kind, body in split(data) if kind == "E"]


def rows(data: bytes) -> list[list[bytes | None]]:
    """Every DataRow of a stream."""
    found = []
    for kind, body in split(data):
        if kind != "D":
            continue
        (count,), pos = struct.unpack_from("!H", body), 2
        values: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", body, pos)
            pos += 4
            values.append(None if size < 0 else body[pos : pos + size])
            pos += max(size, 0)
        assert pos == len(body)
        found.append(values)
    return found
