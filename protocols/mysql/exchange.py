"""One side of a login: whole packets in turn, as a generator in the sense of `protocols.contract`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from protocols.contract import Receive, Send, Side
from protocols.mysql.errors import ProtocolError
from protocols.mysql.framing import HEADER, MAX_PART, packet

MAX_PAYLOAD = 65536  # of a packet before the session: a token of some kilobytes and connection attributes


class Exchange:
    """Packets of both directions share one count of sequence numbers until the login is over."""

    __slots__ = ("buffer", "limit", "sequence", "side")

    def __init__(self, side: Side, limit: int = MAX_PAYLOAD) -> None:
        self.side = side
        self.limit = limit
        self.sequence = 0  # of the next packet, whoever sends it
        self.buffer = bytearray()

    def receive(self) -> Generator[Any, Any, bytes]:
        """The next packet's payload. Raises `ProtocolError`, `PeerGone`."""
        length = 0
        while True:
            if len(self.buffer) >= HEADER:
                length = int.from_bytes(self.buffer[:3], "little")
                if self.buffer[3] != self.sequence:
                    raise ProtocolError(f"packets out of order: got {self.buffer[3]}, expected {self.sequence}")
                if length > self.limit or length == MAX_PART:
                    raise ProtocolError(f"a packet of {length} bytes during login")
                if len(self.buffer) >= HEADER + length:
                    break
            data: bytes = yield Receive(self.side)
            self.buffer += data
        body = bytes(self.buffer[HEADER : HEADER + length])
        del self.buffer[: HEADER + length]
        self.sequence = (self.sequence + 1) & 0xFF
        return body

    def send(self, *bodies: bytes) -> Generator[Any, Any, None]:
        """Sends packets, all of them in one piece."""
        out: list[bytes] = []
        for body in bodies:
            out.append(packet(self.sequence, body))
            self.sequence = (self.sequence + 1) & 0xFF
        yield Send(self.side, b"".join(out))

    def restart(self) -> None:
        """A command begins: its packets are counted from 0."""
        self.sequence = 0

    def rest(self) -> bytes:
        """What was read beyond the last packet; it is the caller's then."""
        data = bytes(self.buffer)
        self.buffer.clear()
        return data
