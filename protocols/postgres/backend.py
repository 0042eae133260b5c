"""The server's half of a session: match each answer to what was asked, mask it, put it on record, pass it on."""

from __future__ import annotations

from typing import Any

from protocols.postgres.errors import ProtocolError
from protocols.postgres.messages import (
    ParameterStatus,
    ReadyForQuery,
    RowDescription,
)
from protocols.postgres.outcomes import Outcomes
from protocols.postgres.pending import SHORT, Kind, Pending, Portal, Prepared, judged_at
from protocols.postgres.results import RowRewriter

_ROW = ord("D")
_STATUS = {b"I": "I", b"T": "T", b"E": "E"}
_NOBODY = Pending(0)  # stands at the head of an empty queue
_COPY_DATA, _CALL_RESULT = b"dV"


class Backend(Outcomes):
    """Mixed into `PostgresSession`."""

    # ------------------------------------------------------------ bytes to messages

    def _server(self, data: bytes) -> None:
        framer = self._from_server
        if framer.large:
            piece, data = data[: framer.large], data[framer.large :]
            framer.large -= len(piece)
            if not self._withheld:
                self._capture(self.queue[0], piece)
                self.down.append(piece)
            if framer.large:
                return
            self._server_large = self._withheld = False
            if self.queue[0].kind == Kind.CALL:
                self._called(self.queue[0])
            self.down.extend(self._notices)
            self._notices.clear()
            if not data:
                return
        if not framer.buffered and (self._arrive_again(data) if self.trip is not None else self._answered_again(data)):
            self.down.append(data)
            return
        buf, messages, end = framer.feed(data)
        if messages and (
            self._arrive(buf, messages, end) if self.trip is not None else self._answered(buf, messages, end)
        ):
            self.down.append(buf)
            return
        run = 0
        queue = self.queue
        i, n = 0, len(messages)
        while i < n:
            kind, pos, stop = messages[i]
            entry = queue[0] if queue else _NOBODY
            if kind == _ROW and entry.number:
                # rows come in runs: counted, and masked or passed on, together
                if (
                    entry.kind not in (Kind.EXECUTE, Kind.QUERY)
                    or entry.denial is not None
                    or (self.masking and not self._may_pass(entry))
                ):
                    raise ProtocolError("rows that nothing asked for")
                first = i
                while i < n and messages[i][0] == _ROW:
                    i += 1
                stop = messages[i - 1][2]
                entry.rows += i - first
                rewriter = entry.rewriter or (entry.portal.rewriter if entry.portal is not None else None)
                if rewriter is not None:
                    if stop > end:
                        raise ProtocolError("a row above the inspection limit")
                    if pos > run:
                        self.down.append(buf[run:pos])
                    self._capture(entry, masked := self._masked(rewriter, buf, pos, stop))
                    self.down.append(masked)
                    run = stop
                    continue
                if stop > end:
                    self._server_large = True
                    stop = end
                self._capture(entry, buf[pos:stop] if pos or stop < len(buf) else buf)
                continue
            i += 1
            if stop > end:
                # a large COPY row, or result of a function: without masks it passes in pieces
                if kind == _CALL_RESULT:
                    if self._large_result(buf, run, pos, end):
                        run = end
                    continue
                if kind != _COPY_DATA or not queue or queue[0].copy is not None:
                    raise ProtocolError("a message above the inspection limit")
                self._capture(queue[0], buf[pos:end])
                self._server_large = True
                continue
            handler = _HANDLERS.get(kind)
            if handler is None:
                raise ProtocolError(f"unexpected message type {kind}")
            replaced = handler(self, buf, pos, stop)
            if replaced is None:
                continue
            if pos > run:
                self.down.append(buf[run:pos])
            if replaced:
                self.down.append(replaced)
            run = stop
            if self.ended:
                return
        if end > run:
            self.down.append(buf[run:end] if run or end < len(buf) else buf)

    def _may_pass(self, entry: Pending) -> bool:
        """With masks in force rows pass only after their columns were seen."""
        return entry.portal.described if entry.portal is not None else entry.what == b"T"

    def _capture(self, entry: Pending, data: bytes) -> None:
        """Keeps the beginning of what the client sees of this response."""
        if not entry.size and entry.portal is not None:
            portal = entry.portal
            if not portal.description and portal.prepared is not None:
                portal.description = portal.prepared.description(portal.formats)
            if portal.description:
                entry.parts = [portal.description]
            if portal.columns:
                entry.columns = portal.columns
        size = len(data)
        entry.size += size
        room = entry.room
        if room > 0:
            if not entry.parts:
                entry.parts = []
            entry.parts.append(data if size <= room else data[:room])  # type: ignore[union-attr]  # a list since above
            entry.room = room - size
        elif entry.room == 0:
            entry.room = -1  # more came than there was room for

    # ------------------------------------------------------------ one answer

    def _head(self, *kinds: Kind) -> Pending:
        """The entry that this answer belongs to. A Sync that a COPY swallowed never gets one and is dropped."""
        queue = self.queue
        while queue and (queue[0].kind == Kind.COPY_END or (queue[0].maybe and Kind.SYNC not in kinds)):
            queue.popleft()
        if not queue or queue[0].kind not in kinds:
            raise ProtocolError("an answer that nothing asked for")
        entry = queue[0]
        if entry.denial is not None:
            raise ProtocolError("the stand-in of a denied command did not fail")
        return entry

    def _ready(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._ready_head()
        status = _STATUS.get(buf[pos + 5 : stop]) or ReadyForQuery.decode(buf[pos + 5 : stop]).status
        self.queue.popleft()
        if entry.maybe:
            # a COPY failed, perhaps before the server had read this Sync: if not, this answers the next one
            following = next((e for e in self.queue if e.kind == Kind.SYNC), None)
            if following is not None:
                following.maybe = True
        while self.queue and self.queue[0].kind == Kind.COPY_END:
            self.queue.popleft()
        self._became_ready(entry, status)
        return b"" if entry.hidden else None

    def _became_ready(self, entry: Pending, status: str) -> None:
        """The server is ready, after `entry`: transactions have ended or gone on, and with them what lived in them."""
        self.status = status
        self.copy_in = None
        if self.defining and status == "I" and entry.order >= self.defining:
            self.defining = 0
            self.port.defined()
        if self.copying and entry.order >= self.copying:
            self.copying = 0
            self.port.copied()
        defined = self.state.definitions_changed
        self.state.ready(status)
        if defined and not self.state.definitions_changed:
            self.port.catalog_changed()  # what this transaction defined is there for everybody now
        if self.portals and (status == "I" or entry.kind == Kind.QUERY):
            # portals die with their transaction, the unnamed one with a simple query; holdable cursors are in `state`
            for name in [n for n, p in self.portals.items() if p.syncs < entry.order and (status == "I" or not n)]:
                del self.portals[name]
        if entry.kind == Kind.QUERY and (unnamed := self.prepared.get(b"")) and unnamed.syncs < entry.order:
            del self.prepared[b""]  # a simple query drops the unnamed statement
            self.state.close_statement("")

    def _ready_head(self) -> Pending:
        queue = self.queue
        while queue and queue[0].kind == Kind.COPY_END:
            queue.popleft()
        if not queue or queue[0].kind not in (Kind.SYNC, Kind.QUERY, Kind.CALL):
            raise ProtocolError("ready for query that nothing asked for")
        entry = queue[0]
        if entry.denial is not None and entry.kind != Kind.SYNC:
            raise ProtocolError("the stand-in of a denied command did not fail")
        return entry

    def _parsed(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.PARSE)
        self.queue.popleft()
        prepared = entry.prepared
        if prepared is not None:
            if self.parsing.get(entry.name) is prepared:
                del self.parsing[entry.name]
            self.prepared[entry.name] = prepared
            sent = prepared.sent if entry.name else ""  # SQL cannot name the unnamed one
            self.state.prepare(entry.name.decode("utf-8", "replace"), prepared.verdict.command, sent)
            if entry.name:
                self._expect_name(prepared)
        return b"" if entry.hidden else None

    def _expect_name(self, prepared: Prepared) -> None:
        """A name stands for this statement now: no surprise to the portal that was bound from it in the same piece."""
        for entry in self.queue:
            if entry.kind not in (Kind.DESCRIBE, Kind.BIND):
                break
            portal = entry.portal if entry.kind == Kind.BIND else None
            if portal is not None and portal.prepared is prepared and portal.renames == self.renames:
                portal.renames += 1
        self.renames += 1

    def _bound(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.BIND)
        self.queue.popleft()
        if entry.portal is not None:
            entry.portal.bound = True
            if entry.name:  # SQL cannot name the unnamed portal
                sent = entry.portal.prepared.sent if entry.portal.prepared is not None else ""
                self.state.bind(entry.name.decode("utf-8", "replace"), entry.portal.verdict.command, sent)
                entry.portal.renames += entry.portal.renames == self.renames  # not by its own name
                self.renames += 1
        return None

    def _closed(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.CLOSE)
        self.queue.popleft()
        name = entry.name.decode("utf-8", "replace")
        self.renames += bool(name)
        if entry.what == b"S":
            self.prepared.pop(entry.name, None)
            self.state.close_statement(name)
        else:
            self.state.close_portal(name)
        return b"" if entry.hidden else None

    def _parameter_description(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.DESCRIBE)
        if entry.prepared is not None and stop - pos >= 7:
            body = buf[pos + 7 : stop]
            entry.prepared.oids = tuple(int.from_bytes(body[i : i + 4]) for i in range(0, len(body), 4))
        return b"" if entry.hidden else None

    def _no_data(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.DESCRIBE)
        self.queue.popleft()
        if entry.portal is not None:
            entry.portal.described = False  # rows that come all the same are a lie
            entry.portal.rewriter = None
        return b"" if entry.hidden else None

    def _row_description(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.DESCRIBE, Kind.QUERY)
        message = buf[pos:stop]
        if entry.kind == Kind.DESCRIBE:
            self.queue.popleft()
            portal = entry.portal
            if portal is not None:
                portal.rewriter, portal.columns = self._masks(portal, message)
                portal.described = True
                portal.description = message if len(message) <= self.limits.response_max else b""
            elif entry.prepared is not None:
                self._describe_statement(entry, entry.prepared, message)
            return b"" if entry.hidden else None
        entry.what = b"T"
        entry.rewriter, entry.columns = self._masks(entry, message)
        self._capture(entry, message)
        return None

    def _describe_statement(self, entry: Pending, prepared: Prepared, message: bytes) -> None:
        RowDescription.decode(message[5:])
        prepared.rows = b""
        prepared.described.clear()
        prepared.repeat = None
        if len(message) > SHORT and not entry.hidden:  # the records of its portals may go without
            kept = sum(len(one.rows) for one in self.prepared.values())
            if len(message) > self.limits.response_max or kept + len(message) > self.limits.texts_max:
                return
        prepared.rows = message

    def _masks(self, what: Pending | Portal, message: bytes) -> tuple[RowRewriter | None, bytes]:
        """How the rows behind this RowDescription are masked, and what the record says of its columns."""
        if not self.masking or (what.verdict is not None and self._needs_none(message, what.verdict, judged_at(what))):
            return None, b""
        described = RowDescription.decode(message[5:])
        rewriter = self._rewriter(what, described, message)
        return rewriter, self._columns(rewriter, described)

    def _row(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        raise ProtocolError("rows that nothing asked for")

    def _parameter(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        status = ParameterStatus.decode(buf[pos + 5 : stop])
        self.state.parameter_status(status.name.decode("utf-8", "replace"), status.value.decode("utf-8", "replace"))
        return None

    def _notification(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        return None


_HANDLERS: dict[int, Any] = {
    ord("1"): Backend._parsed,
    ord("2"): Backend._bound,
    ord("3"): Backend._closed,
    ord("A"): Backend._notification,
    ord("C"): Backend._complete,
    ord("D"): Backend._row,
    ord("E"): Backend._error,
    ord("G"): Backend._copy_in_response,
    ord("H"): Backend._copy_out_response,
    ord("I"): Backend._empty,
    ord("N"): Backend._notice,
    ord("S"): Backend._parameter,
    ord("T"): Backend._row_description,
    ord("V"): Backend._call_result,
    ord("Z"): Backend._ready,
    ord("c"): Backend._copy_done,
    ord("d"): Backend._copy_data,
    ord("n"): Backend._no_data,
    ord("s"): Backend._suspended,
    ord("t"): Backend._parameter_description,
}
