"""The client's bytes: cut into commands, each to its handler; the content of a local file on its way up."""

from __future__ import annotations

from protocols.contract import Wait
from protocols.intake import unasked
from protocols.mysql import errors
from protocols.mysql.commands import Commands
from protocols.mysql.errors import ProtocolError
from protocols.mysql.framing import HEADER, MAX_PART, parts
from protocols.mysql.messages import Command
from protocols.mysql.pending import Awaited, Pending
from protocols.verdicts import NotYet
from protocols.waits import TURN_NS


class Frontend(Commands):
    """Mixed into `MysqlSession`."""

    _oversize = -1  # command byte of a packet above the inspection limit whose bytes are being dropped; -1: none
    _content_left = 0  # bytes to come of the present packet of a local file's content
    _content_more = False  # that packet goes on in the next one
    _content_header = b""  # the beginning of the next packet's header
    _content_sequence = 0  # its sequence number

    # ------------------------------------------------------------ bytes to commands

    def _client(self, data: bytes) -> None:
        framer = self._from_client
        if framer.large:
            data = data[framer.skip(data) :]
            if framer.large:
                return
            self._dropped()
            if not data:
                return
        if not framer.buffered and self._again(data):
            return
        buf, packets, end = framer.feed(data)
        turn_ends = self.port.now_ns() + TURN_NS
        for at, (_, pos, stop) in enumerate(packets, 1):
            if pos and self.port.now_ns() > turn_ends:
                self.waiting = Wait.TURN
                self._put_back(buf[pos:end])
                return
            if framer.large and at == len(packets):
                self._drop(buf[pos + HEADER])
                return
            count = parts(pos, stop)
            if stop - pos - HEADER * count > self.limits.inspect_max:
                self._too_long(buf[pos + HEADER], count)
                continue
            if stop - pos == HEADER:
                raise ProtocolError("a command without a command byte")
            try:
                done = self._command_packet(buf, pos, stop)
            except NotYet as wanted:
                self.judge.ask(wanted)
                self.waiting = Wait.ANALYSIS
                done = False
            if not done:  # it waits, and everything behind it: read again later
                self._put_back(buf[pos:end])
                self._front = stop - pos
                return
            if self.current is not None or self.waiting is not None or self.ended:
                self._put_back(buf[stop:end])
                return

    def _put_back(self, rest: bytes) -> None:
        """Behind a wait: read again once it is over, before what comes meanwhile."""
        framer = self._from_client
        held = framer.take()
        if framer.large:  # all of it that came is in `rest`, and it is announced again
            framer.large = False
            framer.expected = 0
        else:
            rest += held
        if rest and not self.ended:
            self._later.insert(0, rest)
            self._later_size += len(rest)
            if self.waiting is None:
                self.waiting = Wait.SERVER

    # ------------------------------------------------------------ commands above the inspection limit

    def _drop(self, command: int) -> None:
        """Such a command has begun: its bytes are dropped as they come, and then it is answered."""
        self._oversize = command
        self._from_client.restart = False  # the answer's number follows the last packet's

    def _dropped(self) -> None:
        framer = self._from_client
        command, self._oversize = self._oversize, -1
        sequence, framer.expected, framer.restart = framer.expected, 0, True
        self._too_long(command, sequence)

    def _too_long(self, command: int, sequence: int) -> None:
        why = (
            f"a command above the inspection limit of {self.limits.inspect_max} bytes; "
            "send it in smaller parts, or raise limits.inspect_max_bytes"
        )
        if command == Command.STMT_SEND_LONG_DATA:
            # which statement it belonged to is gone with its bytes, and it has no answer of its own
            raise ProtocolError(why, errors.NET_PACKET_TOO_LARGE)
        phase = "query"
        if command == Command.STMT_EXECUTE:
            phase = "execute"
            for prepared in self.prepared.values():  # one of them had it run, and with that its long data is used up
                self._forget_long(prepared)
        text = "(above the inspection limit)"
        self._refuse_unread(command, phase, text, sequence, errors.NET_PACKET_TOO_LARGE, why)

    # ------------------------------------------------------------ LOAD DATA LOCAL: the content

    def _begin_input(self, entry: Pending, sequence: int) -> None:
        if self._later or self._from_client.buffered:
            raise ProtocolError("the client sent a command where the server reads a file")
        entry.awaited = Awaited.INPUT
        self._content_left, self._content_more, self._content_header = 0, False, b""
        self._content_sequence = sequence & 0xFF

    def _input(self, entry: Pending, data: bytes) -> None:
        """Content packets pass as they come, up to the empty one that ends them."""
        pos, n = 0, len(data)
        start = 0
        while pos < n:
            if self._content_left:
                step = min(self._content_left, n - pos)
                self._keep_input(entry, data[pos : pos + step])
                self._content_left -= step
                pos += step
                continue
            take = HEADER - len(self._content_header)
            self._content_header += data[pos : pos + take]
            pos = min(pos + take, n)
            if len(self._content_header) < HEADER:
                break
            header, self._content_header = self._content_header, b""
            if header[3] != self._content_sequence:
                raise ProtocolError(f"packets out of order: got {header[3]}, expected {self._content_sequence}")
            self._content_sequence = (self._content_sequence + 1) & 0xFF
            length = int.from_bytes(header[:3], "little")
            last = not length and not self._content_more
            self._content_more = length == MAX_PART
            self._content_left = length
            if last:
                entry.awaited = Awaited.FIRST
                self._from_server.expected = self._content_sequence
                self.up.append(data[start:pos] if start or pos < n else data)
                if pos < n:
                    self._keep(data[pos:])
                return
        self.up.append(data)

    def _keep_input(self, entry: Pending, data: bytes) -> None:
        """Content goes on record, capped; `protocols.intake` says how much of it."""
        if entry.room > 0:
            if not entry.input:
                entry.input = []
                entry.intake = entry.intake or unasked(self.masking)
            entry.input.append(data[: entry.room])  # type: ignore[union-attr]  # a list since above
            entry.room -= len(data)
        elif entry.room == 0 and data:
            entry.room = -1  # more came than there was room for
