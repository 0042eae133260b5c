"""The fields that packets are made of ("Protocol Basics" of the MySQL internals manual).

A length that runs past the end of its packet, and bytes behind the last field, are a `ProtocolError`.
"""

from __future__ import annotations

import struct

from protocols.mysql.errors import ProtocolError

_U16 = struct.Struct("<H")
_U64 = struct.Struct("<Q")


class Reader:
    """Checked sequential reads over one payload."""

    __slots__ = ("body", "pos")

    def __init__(self, body: bytes, pos: int = 0) -> None:
        self.body = body
        self.pos = pos

    def take(self, n: int) -> bytes:
        end = self.pos + n
        if n < 0 or end > len(self.body):
            raise ProtocolError("a field runs past the end of its packet")
        data = self.body[self.pos : end]
        self.pos = end
        return data

    def rest(self) -> bytes:
        data = self.body[self.pos :]
        self.pos = len(self.body)
        return data

    def cstring(self) -> bytes:
        end = self.body.find(b"\0", self.pos)
        if end < 0:
            raise ProtocolError("a string has no end inside its packet")
        data = self.body[self.pos : end]
        self.pos = end + 1
        return data

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u24(self) -> int:
        return int.from_bytes(self.take(3), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def lenenc(self) -> int:
        """A length-encoded integer. 0xFB (NULL) and 0xFF are no integers."""
        first = self.u8()
        if first < 0xFB:
            return first
        if first == 0xFC:
            return self.u16()
        if first == 0xFD:
            return self.u24()
        if first == 0xFE:
            return self.u64()
        raise ProtocolError("a length-encoded integer that is none")

    def string(self) -> bytes:
        """A string behind its length-encoded length."""
        return self.take(self.lenenc())

    @property
    def more(self) -> bool:
        return self.pos < len(self.body)

    def end(self) -> None:
        if self.pos != len(self.body):
            raise ProtocolError("bytes follow the last field of a packet")


def lenenc(n: int) -> bytes:
    if n < 0xFB:
        return bytes((n,))
    if n < 1 << 16:
        return b"\xfc" + _U16.pack(n)
    if n < 1 << 24:
        return b"\xfd" + n.to_bytes(3, "little")
    return b"\xfe" + _U64.pack(n)


def string(data: bytes) -> bytes:
    return lenenc(len(data)) + data
