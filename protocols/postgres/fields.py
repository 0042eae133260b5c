"""The fields that messages are made of ("Message Data Types" in PostgreSQL's documentation, section 54.6).

A length that runs past the end of its message, and bytes behind the last field, are a `ProtocolError`.
"""

from __future__ import annotations

import struct

from protocols.postgres.errors import ProtocolError

U16 = struct.Struct("!H")
I16 = struct.Struct("!h")
U32 = struct.Struct("!I")
I32 = struct.Struct("!i")
UNPACK_U16 = U16.unpack_from
UNPACK_I32 = I32.unpack_from

MAX_LENGTH = 0x7FFFFFFF  # the length field is a signed 32-bit number on the server's side


def frame(kind: bytes, body: bytes) -> bytes:
    """Type byte, checked length, body. A length that does not fit is an error here and never wraps (CVE-2024-27304)."""
    if len(body) + 4 > MAX_LENGTH:
        raise ProtocolError("message longer than the protocol can say")
    return kind + U32.pack(len(body) + 4) + body


class Reader:
    """Checked sequential reads over one message body."""

    __slots__ = ("body", "pos")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.pos = 0

    def take(self, n: int) -> bytes:
        end = self.pos + n
        if n < 0 or end > len(self.body):
            raise ProtocolError("a field runs past the end of its message")
        data = self.body[self.pos : end]
        self.pos = end
        return data

    def cstring(self) -> bytes:
        end = self.body.find(b"\0", self.pos)
        if end < 0:
            raise ProtocolError("a string has no end inside its message")
        data = self.body[self.pos : end]
        self.pos = end + 1
        return data

    def u8(self) -> int:
        return self.take(1)[0]

    def i16(self) -> int:
        return int(I16.unpack(self.take(2))[0])

    def u16(self) -> int:
        return int(U16.unpack(self.take(2))[0])

    def i32(self) -> int:
        return int(I32.unpack(self.take(4))[0])

    def u32(self) -> int:
        return int(U32.unpack(self.take(4))[0])

    def value(self) -> bytes | None:
        """A length-prefixed value; -1 is SQL NULL, any other negative length is an error."""
        n = self.i32()
        if n == -1:
            return None
        return self.take(n)

    def end(self) -> None:
        if self.pos != len(self.body):
            raise ProtocolError("bytes follow the last field of a message")


def sized(v: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if v is None else U32.pack(len(v)) + v


def counted(n: int) -> bytes:
    if n > 0xFFFF:
        raise ProtocolError("more fields than a 16-bit count can say")
    return U16.pack(n)


def format_codes(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """A counted list of format codes at `at`, and where it ends."""
    (count,) = UNPACK_U16(body, at)
    if not count:
        return (), at + 2
    return struct.unpack_from(f"!{count}h", body, at + 2), at + 2 + 2 * count
