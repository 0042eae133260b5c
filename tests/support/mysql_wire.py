"""MySQL packets made by hand, independent of the gateway's own encoders, and read back."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from protocols.mysql.capabilities import Capability

BASE = (
    Capability.LONG_PASSWORD
    | Capability.PROTOCOL_41
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PS_MULTI_RESULTS
    | Capability.PLUGIN_AUTH
)
MODERN = BASE | Capability.DEPRECATE_EOF | Capability.SESSION_TRACK

AUTOCOMMIT = 2
IN_TRANS = 1
MORE = 8
CURSOR = 64
LAST_ROW = 128
CHANGED = 0x4000


def packet(sequence: int, body: bytes) -> bytes:
    out = b""
    while len(body) >= 0xFFFFFF:
        out += b"\xff\xff\xff" + bytes((sequence & 0xFF,)) + body[:0xFFFFFF]
        body = body[0xFFFFFF:]
        sequence += 1
    return out + struct.pack("<I", len(body))[:3] + bytes((sequence & 0xFF,)) + body


def packets(first: int, *bodies: bytes) -> bytes:
    return b"".join(packet(first + i, body) for i, body in enumerate(bodies))


def text(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def lenenc(value: str | bytes) -> bytes:
    data = text(value)
    if len(data) < 251:
        return bytes((len(data),)) + data
    return b"\xfc" + struct.pack("<H", len(data)) + data


# ---------------------------------------------------------------- commands


def command(code: int, body: str | bytes = b"") -> bytes:
    return packet(0, bytes((code,)) + text(body))


def query(sql: str | bytes) -> bytes:
    return command(0x03, sql)


def prepare(sql: str | bytes) -> bytes:
    return command(0x16, sql)


def execute(statement: int, *values: str | int | None, flags: int = 0, types: bool = True) -> bytes:
    """Strings as VAR_STRING, numbers as LONGLONG."""
    body = struct.pack("<IBI", statement, flags, 1)
    if values:
        nulls = bytearray((len(values) + 7) // 8)
        kinds, data = b"", b""
        for i, value in enumerate(values):
            kinds += struct.pack("<H", 8 if isinstance(value, int) else 0xFD)
            if value is None:
                nulls[i // 8] |= 1 << (i % 8)
            elif isinstance(value, int):
                data += struct.pack("<q", value)
            else:
                data += lenenc(value)
        body += bytes(nulls) + (b"\1" + kinds if types else b"\0") + data
    return command(0x17, body)


def long_data(statement: int, parameter: int, data: str | bytes) -> bytes:
    return command(0x18, struct.pack("<IH", statement, parameter) + text(data))


def fetch(statement: int, rows: int) -> bytes:
    return command(0x1C, struct.pack("<II", statement, rows))


def close(statement: int) -> bytes:
    return command(0x19, struct.pack("<I", statement))


def reset(statement: int) -> bytes:
    return command(0x1A, struct.pack("<I", statement))


PING = command(0x0E)
QUIT = command(0x01)
RESET_CONNECTION = command(0x1F)


# ---------------------------------------------------------------- answers, as payloads


def ok(affected: int = 0, status: int = AUTOCOMMIT, info: bytes = b"", changes: bytes = b"", head: int = 0) -> bytes:
    body = bytes((head, affected, 0)) + struct.pack("<HH", status, 0)
    if changes:
        return body[:3] + struct.pack("<HH", status | CHANGED, 0) + lenenc(info) + lenenc(changes)
    return body + (lenenc(info) if info else b"")


def variable(name: str, value: str) -> bytes:
    """Session state: a system variable."""
    return b"\0" + lenenc(lenenc(name) + lenenc(value))


def schema(name: str) -> bytes:
    return b"\1" + lenenc(lenenc(name))


def eof(status: int = AUTOCOMMIT) -> bytes:
    return b"\xfe" + struct.pack("<HH", 0, status)


def end(status: int = AUTOCOMMIT) -> bytes:
    """OK in the place of EOF."""
    return ok(status=status, head=0xFE)


def err(errno: int = 1064, state: str = "42000", message: str = "no") -> bytes:
    return b"\xff" + struct.pack("<H", errno) + b"#" + state.encode() + message.encode()


def column(name: str, table: str = "", kind: int = 0xFD, charset: int = 45) -> bytes:
    names = ("def", "app" if table else "", table, table, name, name if table else "")
    return b"".join(map(lenenc, names)) + b"\x0c" + struct.pack("<HIBHBH", charset, 1024, kind, 0, 0, 0)


def row(*values: str | bytes | None) -> bytes:
    return b"".join(b"\xfb" if v is None else lenenc(v) for v in values)


def binary_row(*values: str | int | None) -> bytes:
    nulls = bytearray((len(values) + 9) // 8)
    data = b""
    for i, value in enumerate(values):
        if value is None:
            nulls[(i + 2) // 8] |= 1 << ((i + 2) % 8)
        elif isinstance(value, int):
            data += struct.pack("<q", value)
        else:
            data += lenenc(value)
    return b"\0" + bytes(nulls) + data


def result(
    columns: Sequence[bytes], rows: Sequence[bytes], *, first: int = 1, status: int = AUTOCOMMIT, old: bool = False
) -> bytes:
    """A whole result; `old`: with EOF packets."""
    head = [bytes((len(columns),)), *columns]
    if old:
        return packets(first, *head, eof(status), *rows, eof(status))
    return packets(first, *head, *rows, end(status))


def prepared(statement: int, parameters: int = 0, columns: int = 0, *, old: bool = False) -> bytes:
    bodies = [struct.pack("<BIHHBH", 0, statement, columns, parameters, 0, 0)]
    for count in (parameters, columns):
        bodies += [column("?")] * count
        if count and old:
            bodies.append(eof())
    return packets(1, *bodies)


# ---------------------------------------------------------------- read back


def split(data: bytes) -> list[tuple[int, bytes]]:
    """(sequence, payload) of each packet on the wire; every byte must belong to one."""
    out = []
    pos = 0
    while pos < len(data):
        length = int.from_bytes(data[pos : pos + 3], "little")
        assert pos + 4 + length <= len(data), "a packet is cut"
        out.append((data[pos + 3], data[pos + 4 : pos + 4 + length]))
        pos += 4 + length
    return out


def errors(data: bytes) -> list[tuple[int, int, str, str]]:
    """(sequence, errno, SQLSTATE, text) of each ERR packet."""
    return [
        (seq, int.from_bytes(body[1:3], "little"), body[4:9].decode(), body[9:].decode())
        for seq, body in split(data)
        if body[:1] == b"\xff"
    ]
