"""The client's bytes: cut into messages, each to its handler; what goes on unchanged goes on in one run."""

from __future__ import annotations

from protocols.contract import Wait
from protocols.intake import unasked
from protocols.postgres import errors
from protocols.postgres.commands import Commands, check_name
from protocols.postgres.errors import ProtocolError
from protocols.postgres.messages import (
    FLUSH,
    Bind,
    Close,
    FunctionCall,
    Parse,
    Query,
)
from protocols.postgres.pending import Kind, Pending
from protocols.postgres.roundtrip import RoundTrip
from protocols.postgres.settling import STAND_IN
from protocols.verdicts import NotYet
from protocols.waits import TURN_NS

_Q, _P, _B, _D, _E, _C, _F, _S, _H, _X = b"QPBDECFSHX"
_COPY_DATA, _COPY_DONE, _COPY_FAIL = b"dcf"


class Frontend(RoundTrip, Commands):
    """Mixed into `PostgresSession`."""

    # ------------------------------------------------------------ bytes to messages

    def _client(self, data: bytes) -> None:
        large = self._from_client.large
        if large:
            piece, data = data[:large], data[large:]
            self._from_client.large -= len(piece)
            if self._client_large == "forward":
                self._copy_input(piece)
                self.up.append(piece)
            if self._from_client.large:
                return
            if self._too_large is not None:
                # not before its end: a server reads all of a message before it answers, and clients rely on that
                refused, self._too_large = self._too_large, None
                self._refuse(*refused)
            if not data:
                return
        if not self._from_client.buffered and self._depart_again(data):
            self.up.append(data)
            return
        buf, messages, end = self._from_client.feed(data)
        if 3 <= len(messages) <= 4 and end == len(buf) and self._depart(buf, messages):
            self.up.append(buf)
            return
        if self.trip is not None and messages:
            self._take_apart()
        run = 0  # start of the run of messages that go on unchanged
        pos = 0
        turn_ends = self.port.now_ns() + TURN_NS
        for kind, pos, stop in messages:
            if pos and self.port.now_ns() > turn_ends:
                self._before(buf, run, pos)
                self._put_back(buf[pos:end])
                self.waiting = Wait.TURN
                return
            if stop > end:
                run = self._large(buf, kind, run, pos, stop)
                return
            try:
                forward = self._message(buf, kind, pos, stop, run)
            except NotYet as wanted:
                self._analyse_apart(wanted)
                forward = None
            if forward is None:  # waits: this message and everything behind it are read again later
                if pos > run:
                    self.up.append(buf[run:pos])
                if self._want_flush:
                    self._want_flush = False
                    self.up.append(FLUSH)
                self._put_back(buf[pos:end])
                self._front = stop - pos
                return
            if not forward:
                # the handler has put everything before this message, and what stands in for it, into `up`
                run = stop
            if self.waiting is not None or self.ended:
                if stop > run:
                    self.up.append(buf[run:stop])
                self._put_back(buf[stop:end])
                return
        if end > run:
            self.up.append(buf[run:end] if run or end < len(buf) else buf)

    def _analyse_apart(self, wanted: NotYet) -> None:
        """A long text waits for its analysis, and first for everything in flight: that may rename what it names."""
        if self._in_flight():
            self._alone = True
            self._wait_for_server()
        else:
            self.judge.ask(wanted)
            self.waiting = Wait.ANALYSIS

    def _put_back(self, rest: bytes) -> None:
        """Behind a wait: read again once it is over, before what comes meanwhile."""
        rest += self._from_client.take()
        if rest:
            self._later.insert(0, rest)
            self._later_size += len(rest)

    def _large(self, buf: bytes, kind: int, run: int, pos: int, stop: int) -> int:
        """A message above its limit has begun: COPY data passes in pieces, everything else is refused."""
        if pos > run:
            self.up.append(buf[run:pos])
        if kind == _COPY_DATA:
            self._client_large = "drop" if self.skipping else "forward"
            if not self.skipping:
                self._copy_input(buf[pos + 5 :])
                self.up.append(buf[pos:])
            return len(buf)
        self._client_large = "drop"
        if self.skipping:
            return len(buf)
        if self.copy_in is not None:
            raise ProtocolError("a message that is not allowed during COPY FROM STDIN")
        why = f"a message of {stop - pos} bytes is above the inspection limit of {self.limits.inspect_max} bytes"
        denial = (errors.PROGRAM_LIMIT_EXCEEDED, why, "send it in smaller parts, or raise limits.inspect_max_bytes")
        bind = Bind(b"", self.nowhere).encode()
        stand_ins: dict[int, tuple[Kind, bytes]] = {
            _Q: (Kind.QUERY, Query(STAND_IN).encode()),
            _P: (Kind.PARSE, Parse(b"", STAND_IN).encode()),
            _B: (Kind.BIND, bind),
            _F: (Kind.CALL, FunctionCall(0).encode()),
        }
        stand_in = stand_ins.get(kind)
        if stand_in is None:
            raise ProtocolError("invalid message length")
        self.number += 1
        self._record_note(self.number, "query", "(above the inspection limit)", why)
        entry = Pending(stand_in[0], self.number)
        if entry.kind in (Kind.QUERY, Kind.CALL):
            self._sync(entry)
        self._too_large = (entry, stand_in[1], denial)
        return len(buf)

    def _message(self, buf: bytes, kind: int, pos: int, stop: int, run: int) -> bool | None:
        """True: forward unchanged. False: dealt with. None: wait, and come back to this message."""
        if self.skipping and kind not in (_S, _X, _H):
            # the server ignores everything until Sync (section 54.2.3): nothing of it is sent
            self._before(buf, run, pos)
            return False
        if self.copy_in is not None:
            return self._during_copy(buf, kind, pos, stop, run)
        if kind == _B:
            return self._bind(buf, pos, stop, run)
        if kind == _E:
            return self._execute(buf, pos, stop, run)
        if kind == _S:
            self.skipping = False
            self._await(self._sync())
            return True
        if kind == _D:
            return self._describe(buf, pos, stop)
        if kind == _Q:
            return self._query(buf, pos, stop, run)
        if kind == _P:
            return self._parse(buf, pos, stop, run)
        if kind == _C:
            message = Close.decode(buf[pos + 5 : stop])
            check_name(message.name, self.state.encoding)
            entry = Pending(Kind.CLOSE, name=message.name)
            entry.what = message.what
            if message.what == b"P":
                self.portals.pop(message.name, None)  # from here on the name may come to mean something else
            self._await(entry)
            return True
        if kind == _F:
            return self._call(buf, pos, stop, run)
        if kind in (_H, _X):
            if stop - pos != 5:
                raise ProtocolError("invalid message format")
            return True
        if kind in (_COPY_DATA, _COPY_DONE, _COPY_FAIL):
            # outside a COPY the server ignores these; a COPY's own may arrive before the server's CopyInResponse
            if kind != _COPY_DATA and self.queue:
                self._await(Pending(Kind.COPY_END))
            elif self.queue:
                self._copy_input(buf[pos + 5 : stop])
            return True
        raise ProtocolError(f"invalid frontend message type {kind}")

    def _during_copy(self, buf: bytes, kind: int, pos: int, stop: int, run: int) -> bool:
        """COPY FROM STDIN runs. Flush and Sync are ignored by the server here; other messages are an error there."""
        if kind == _COPY_DATA:
            self._copy_input(buf[pos + 5 : stop])
        elif kind in (_COPY_DONE, _COPY_FAIL):
            self.copy_in = None
            self._await(Pending(Kind.COPY_END))
        elif kind == _S:
            entry = self._sync()
            entry.maybe = True
            self._await(entry)
        elif kind not in (_H, _X):
            raise ProtocolError("a message that is not allowed during COPY FROM STDIN")
        return True

    def _copy_input(self, data: bytes) -> None:
        entry = self.copy_in or self.queue[-1] if self.queue else None
        if entry is None or not entry.number:
            return
        entry.size += len(data)
        if entry.room > 0:
            if not entry.input:
                entry.input = []
                entry.intake = entry.intake or unasked(self.masking)
            entry.input.append(data[: entry.room])  # type: ignore[union-attr]  # a list since above
            entry.room -= len(data)
        elif entry.room == 0 and data:
            entry.room = -1  # more came than there was room for
