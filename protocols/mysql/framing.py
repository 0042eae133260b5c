"""Where packets begin and end. The only place that reads a packet's length and sequence fields.

A packet is a 3-byte little-endian length, a sequence number and so many bytes; a length of 0xFFFFFF says that the
payload goes on in the next packet ("MySQL Packets", "Sending More Than 16Mb"). A `Framer` cuts one direction's bytes
into *logical* packets: such a chain is one of them, so that no continuation is ever read as a command.
"""

from __future__ import annotations

from protocols.mysql.errors import NET_PACKET_TOO_LARGE, ProtocolError

MAX_PART = 0xFFFFFF  # bytes of payload in one packet of a chain
HEADER = 4
_SPAN = MAX_PART + HEADER
_PIECES = 8192  # that an incomplete packet is held in: one of two bytes takes the room of forty
MAX_PAYLOAD = 1 << 30  # the servers' largest max_allowed_packet


def parts(start: int, end: int) -> int:
    """How many packets on the wire the logical packet `[start, end)` is made of."""
    return (end - start) // _SPAN + 1


def payload(buffer: bytes, start: int, end: int) -> bytes:
    """The payload of the logical packet `[start, end)` of `buffer`, its headers removed."""
    if end - start < _SPAN:
        return buffer[start + HEADER : end]
    return b"".join(buffer[at + HEADER : min(at + _SPAN, end)] for at in range(start, end, _SPAN))


def packet(sequence: int, body: bytes) -> bytes:
    """The wire bytes of one logical packet whose first sequence number is `sequence` (taken modulo 256)."""
    if len(body) < MAX_PART:
        return len(body).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + body
    if len(body) > MAX_PAYLOAD:
        raise ProtocolError("a packet longer than the protocol can say", NET_PACKET_TOO_LARGE)
    out: list[bytes] = []
    for at in range(0, len(body) + 1, MAX_PART):  # a last part of exactly MAX_PART is followed by an empty one
        part = body[at : at + MAX_PART]
        out.append(len(part).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + part)
        sequence += 1
    return b"".join(out)


class Framer:
    """Cuts a byte stream into logical packets `(sequence, start, end)` of the buffer it returns.

    `sequence` is that of the first packet of a chain, `[start, end)` includes all headers: see `payload` and `parts`.
    `expected` is the sequence number that the next packet must have; it counts on by itself, and its owner sets it
    where an exchange begins. `restart`: set it to 0 after every logical packet (commands of a client).

    A logical packet above `limit` bytes is not collected: it is announced as soon as that is known, as the last of the
    list with `end` at the end of the buffer, and `large` is set: not before its first byte of payload is there, which
    says what it is. Its further bytes go through `skip` and must be consumed before `feed` is called again.
    """

    __slots__ = ("_more", "_need", "_parts", "_remain", "_size", "expected", "large", "limit", "restart")

    def __init__(self, limit: int, *, expected: int = 0, restart: bool = False) -> None:
        self.limit = limit
        self.expected = expected
        self.restart = restart
        self.large = False
        self._more = False  # of a large packet: another part follows the current one
        self._remain = 0  # bytes still to come of the current part of a large packet
        self._parts: list[bytes] = []  # of an incomplete packet; joined once it can be complete
        self._size = 0
        self._need = HEADER

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete packet."""
        return self._size

    def take(self) -> bytes:
        """Everything held of an incomplete packet, which is the caller's then: it comes with the next `feed` again."""
        held = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._need = HEADER
        return held

    def feed(self, data: bytes) -> tuple[bytes, list[tuple[int, int, int]], int]:
        """-> (buffer, packets, end). `end` is where the whole packets stop; what follows is kept for the next call.

        Raises `ProtocolError` at the first header whose sequence number is not the expected one.
        """
        if self.large:
            raise AssertionError("a large packet must be skipped before more is fed")
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                if len(self._parts) > _PIECES:
                    self._parts = [b"".join(self._parts)]
                return b"", [], 0
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        self._need = HEADER
        out: list[tuple[int, int, int]] = []
        pos, n, limit, expected = 0, len(data), self.limit, self.expected
        while n - pos >= HEADER:
            length = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
            sequence = data[pos + 3]
            if sequence != expected:
                raise ProtocolError(f"packets out of order: got {sequence}, expected {expected}")
            end = pos + HEADER + length
            if length == MAX_PART or length > limit or end > n:
                self.expected = expected
                end = self._chain(data, pos)
                if self.large:
                    out.append((sequence, pos, n))
                    return data, out, n
                if not end:
                    break
            expected = (sequence + parts(pos, end)) & 0xFF if length == MAX_PART else (sequence + 1) & 0xFF
            if self.restart:
                expected = 0
            out.append((sequence, pos, end))
            pos = end
        self.expected = expected
        if pos < n:
            rest = data[pos:]
            self._parts.append(rest)
            self._size = len(rest)
        return data, out, pos

    def skip(self, data: bytes) -> int:
        """How many bytes of `data` still belong to the large packet; clears `large` where it ends among them.

        A header that is cut by the end of `data` is remembered here and counted as consumed.
        """
        pos, n = 0, len(data)
        while True:
            step = min(self._remain, n - pos)
            pos += step
            self._remain -= step
            if self._remain:
                return pos  # all of `data`: the part goes on
            if not self._more:
                self.large = False
                if self.restart:
                    self.expected = 0
                return pos
            take = min(HEADER - self._size, n - pos)
            self._parts.append(data[pos : pos + take])
            self._size += take
            pos += take
            if self._size < HEADER:
                return pos
            header = self.take()
            if header[3] != self.expected:
                raise ProtocolError(f"packets out of order: got {header[3]}, expected {self.expected}")
            self.expected = (self.expected + 1) & 0xFF
            self._remain = int.from_bytes(header[:3], "little")
            self._more = self._remain == MAX_PART

    def _chain(self, data: bytes, start: int) -> int:
        """The end of a logical packet that is long, chained or incomplete; 0 while it is not all there.

        One above the limit that is not all there takes the rest of `data` and sets `large`.
        """
        pos, n, total, sequence = start, len(data), 0, data[start + 3]
        while n - pos >= HEADER:
            length = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
            if data[pos + 3] != sequence:
                raise ProtocolError(f"packets out of order: got {data[pos + 3]}, expected {sequence}")
            sequence = (sequence + 1) & 0xFF
            total += length
            pos += HEADER + length
            if length < MAX_PART and pos <= n:
                return pos
            if length < MAX_PART:
                break
        if total > self.limit and n - start == HEADER:
            self._need = HEADER + 1
        elif total > self.limit:
            self.large = self._more = True
            self._remain = 0
            self.expected = data[start + 3]
            self.skip(data[start:])
        else:
            self._need = (pos if pos > n else pos + HEADER) - start
        return 0
