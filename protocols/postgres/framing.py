"""Where messages begin and end. The only place that reads a length field of the typed protocol.

A `Framer` cuts one direction's bytes into whole messages. A message above `limit` is not collected: it is announced
as soon as its header is there, and its bytes then come as pieces, so that the session can stream or refuse it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from protocols.postgres.errors import ProtocolError
from protocols.postgres.fields import Reader

_HEADER = struct.Struct("!BI")
unpack_header = _HEADER.unpack_from

# "Message Formats", section 54.7: the request codes that stand where a protocol version stands
CANCEL_REQUEST = 80877102
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104

MAX_STARTUP = 10_000  # MAX_STARTUP_PACKET_LENGTH in PostgreSQL's pqcomm.h
MAX_MESSAGE = 0x3FFFFFFF  # 1 GiB less one, the server's own PQ_LARGE_MESSAGE_LIMIT


@dataclass(frozen=True, slots=True)
class Startup:
    """The first, untyped packet: a protocol version or a request code, and the bytes after it."""

    code: int
    body: bytes

    @property
    def major(self) -> int:
        return self.code >> 16

    @property
    def minor(self) -> int:
        return self.code & 0xFFFF

    def parameters(self) -> dict[str, str]:
        """The startup parameters. Duplicates are refused: client and server might read different ones."""
        r = Reader(self.body)
        out: dict[str, str] = {}
        while name := r.cstring():
            try:
                key, value = name.decode(), r.cstring().decode()
            except UnicodeDecodeError:
                raise ProtocolError("a startup parameter is not UTF-8") from None
            if key in out:
                raise ProtocolError(f"startup parameter `{key[:63]}` is given twice")
            out[key] = value
        r.end()
        return out


def startup_length(data: bytes | bytearray) -> int | None:
    """Length of the startup packet at the head of `data`, None while it is not known yet."""
    if len(data) < 4:
        return None
    n = int.from_bytes(data[:4])
    if not 8 <= n <= MAX_STARTUP:
        raise ProtocolError("invalid length of startup packet")
    return n


def parse_startup(packet: bytes) -> Startup:
    return Startup(int.from_bytes(packet[4:8]), packet[8:])


class Framer:
    """Cuts a byte stream into messages `(kind, start, end)` of the buffer it returns.

    `limits` is the longest incomplete message that is collected, in bytes, by kind (`default` for the others); longer
    ones are announced and handed out in pieces through `large`. `kinds` are the message types legal in this direction:
    anything else ends the session at the header, before its length is believed.
    """

    __slots__ = ("_default", "_kinds", "_limits", "_need", "_parts", "buffered", "large")

    def __init__(self, kinds: frozenset[int], limits: Mapping[int, int], default: int) -> None:
        self._kinds = kinds
        self._limits = limits
        self._default = default
        self._parts: list[bytes] = []  # of an incomplete message; joined once it can be complete
        self.buffered = 0  # bytes held of an incomplete message
        self._need = 5
        self.large = 0  # bytes still to come of a large message that the session has begun to handle

    def take(self) -> bytes:
        """Everything held of an incomplete message, which is the caller's then: it comes with the next `feed` again."""
        held = b"".join(self._parts)
        self._parts.clear()
        self.buffered = 0
        self._need = 5
        self.large = 0  # announced again when it is read again
        return held

    def feed(self, data: bytes) -> tuple[bytes, list[tuple[int, int, int]], int]:
        """-> (buffer, messages, end). `end` is where the whole messages stop; what follows is kept for the next call.

        A message above its limit ends the scan: it is the last of the list, with its `end` past the buffer, and
        `large` is the number of its bytes that are still to come. The session consumes those before it feeds again.
        """
        if self._parts:
            self._parts.append(data)
            self.buffered += len(data)
            if self.buffered < self._need:
                return b"", [], 0
            data = b"".join(self._parts)
            self._parts.clear()
            self.buffered = 0
        self._need = 5
        out: list[tuple[int, int, int]] = []
        pos, n, kinds = 0, len(data), self._kinds
        while n - pos >= 5:
            kind, length = unpack_header(data, pos)
            if kind not in kinds:
                raise ProtocolError(f"invalid message type {kind}")
            if length < 4 or length > MAX_MESSAGE:
                raise ProtocolError("invalid message length")
            end = pos + 1 + length
            if end > n:
                if length + 1 > self._limits.get(kind, self._default):
                    out.append((kind, pos, end))
                    self.large = end - n
                    return data, out, n
                self._need = length + 1
                break
            out.append((kind, pos, end))
            pos = end
        if pos < n:
            rest = data[pos:]
            self._parts.append(rest)
            self.buffered = len(rest)
        return data, out, pos


FRONTEND = frozenset(b"QPBDECFSHXdcfp")
BACKEND = frozenset(b"123CDEGHIKNRSTVWZAdcntsv")
