"""The server's half of a session: match each packet to the command in flight, mask it, put it on record, pass it on."""

from __future__ import annotations

from collections.abc import Callable

from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import ProtocolError
from protocols.mysql.executing import LAST
from protocols.mysql.framing import HEADER, MAX_PART, packet, payload
from protocols.mysql.messages import (
    EOF,
    ERR,
    MAX_EOF,
    ColumnDefinition,
    Command,
    Eof,
    Ok,
    PrepareOk,
    Status,
)
from protocols.mysql.pending import Awaited, Pending
from protocols.mysql.results import unsized
from protocols.mysql.roundtrip import RoundTrip
from protocols.mysql.settings import charset_of, modes_of

_MORE_RESULTS = int(Status.MORE_RESULTS)
_STREAMED = 65536  # a row longer than this that needs no mask is passed on in pieces


class Backend(RoundTrip):
    """Mixed into `MysqlSession`."""

    # ------------------------------------------------------------ bytes to packets

    def _server(self, data: bytes) -> None:
        framer = self._from_server
        entry = self.current
        if framer.large:  # only a row that needs no mask
            assert entry is not None
            used = framer.skip(data)
            piece = data[:used]
            self._capture(entry, piece)
            self.down.append(piece)
            if framer.large:
                return
            self._passing = False
            data = data[used:]
            if not data:
                return
        if entry is None:
            self._unasked(data)
            return
        if not framer.buffered and self._answered_again(entry, data):
            self.down.append(data)
            return
        framer.limit = _STREAMED if entry.awaited in _ROWS and entry.rewriter is None else self.limits.inspect_max
        buf, packets, end = framer.feed(data)
        if packets and not framer.buffered and not framer.large and self._whole(entry, buf, packets, end):
            self.down.append(buf)
            return
        run = 0
        try:
            run = self._packets(buf, packets)
        except ProtocolError:
            # nothing of `buf` that is not in `down` yet is passed on: last words take the place of its first packet
            run = self._ran
            framer.expected = next((seq for seq, pos, _ in packets if pos >= run), framer.expected)
            raise
        if end > run:
            self.down.append(buf[run:end] if run or end < len(buf) else buf)
        if not framer.buffered:
            return
        entry = self.current
        if entry is None:
            raise ProtocolError("a packet that nothing asked for")
        if entry.awaited in _ROWS and entry.rewriter is None and framer.limit != _STREAMED:
            self._server(framer.take())  # the beginning of a row, which need not be collected

    def _packets(self, buf: bytes, packets: list[tuple[int, int, int]]) -> int:
        """Takes each packet; -> where the bytes begin that pass unchanged and are not in `down` yet."""
        framer = self._from_server
        self._ran = run = 0
        i, n = 0, len(packets)
        while i < n:
            entry = self.current
            if entry is None:
                raise ProtocolError("a packet that nothing asked for")
            _, pos, stop = packets[i]
            if entry.awaited in _ROWS:
                first = i
                i = self._count_rows(buf, packets, i)
                if i > first:
                    stop = packets[i - 1][2]
                    entry.rows += i - first
                    if entry.rewriter is not None:
                        if framer.large and i == n:
                            raise ProtocolError("a row above the inspection limit")
                        masked = self._masked(entry.rewriter, buf, packets[first:i])
                        self._capture(entry, masked)
                        if pos > run:
                            self.down.append(buf[run:pos])
                        self.down.append(masked)
                        self._ran = run = stop
                        continue
                    if framer.large and i == n:
                        self._passing = True
                    self._capture(entry, buf[pos:stop] if pos or stop < len(buf) else buf)
                    continue
            i += 1
            if framer.large and i == n:
                raise ProtocolError("a packet above the inspection limit")
            if stop - pos == HEADER and entry.awaited is not Awaited.TEXT:
                raise ProtocolError("a packet without content")
            replaced = _HANDLERS[entry.awaited](self, entry, buf, pos, stop)
            if replaced is None:
                continue
            if pos > run:
                self.down.append(buf[run:pos])
            if replaced:
                self.down.append(replaced)
            self._ran = run = stop
        return run

    def _count_rows(self, buf: bytes, packets: list[tuple[int, int, int]], i: int) -> int:
        """The index behind the run of rows that begins at `packets[i]`."""
        n = len(packets)
        shortest = MAX_PART if self.deprecate_eof else MAX_EOF  # of a row that begins as what ends rows does
        while i < n:
            _, pos, stop = packets[i]
            if stop - pos == HEADER:
                raise ProtocolError("a row without content")
            head = buf[pos + HEADER]
            if head >= EOF:
                length = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16
                if head == ERR or length < shortest:
                    return i
            i += 1
        return i

    def _capture(self, entry: Pending, data: bytes) -> None:
        """Keeps the beginning of what the client sees of this response."""
        if not entry.size and entry.command == Command.STMT_FETCH:
            entry.parts = [entry.head]  # rows of a cursor come without their definitions
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

    def _unasked(self, data: bytes) -> None:
        """Of a server that nobody asked only its last words pass: an ERR that says why it closes."""
        framer = self._from_server
        if self._said_goodbye or len(data) > _STREAMED:
            raise ProtocolError("a packet that nothing asked for")
        if not framer.buffered and len(data) >= HEADER:
            framer.expected = data[3]  # 0 or 1, by version
        framer.limit = _STREAMED
        buf, packets, _ = framer.feed(data)
        for _, pos, stop in packets:
            if self._said_goodbye or framer.large or buf[pos + HEADER : pos + HEADER + 1] != b"\xff":
                raise ProtocolError("a packet that nothing asked for")
            self._said_goodbye = True
            self.down.append(self._scrubbed(buf, pos, stop) if self.masking else buf[pos:stop])

    # ------------------------------------------------------------ the other answers

    def _prepared_first(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        if buf[pos + HEADER] == ERR:
            return self._error(entry, buf, pos, stop)
        made = PrepareOk.decode(payload(buf, pos, stop))
        prepared = entry.prepared
        assert prepared is not None
        if made.statement in self.prepared or made.statement == LAST:
            raise ProtocolError("a prepared statement with an id that is taken")
        prepared.id, prepared.parameters = made.statement, made.parameters
        entry.left, entry.then_left = made.parameters, made.columns
        if entry.left or entry.then_left:
            if not entry.left:
                self._columns_next(entry)
            entry.awaited = Awaited.MARKERS
        else:
            self._prepared_done(entry)
        return None

    def _columns_next(self, entry: Pending) -> None:
        """Behind the definitions of the parameters: those of the columns, which say as much as a result's."""
        entry.left, entry.then_left = entry.then_left, 0
        entry.definitions, entry.raw = [], []
        entry.started = entry.started or self.port.now_ns()

    def _marker(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        replaced: bytes | None = None
        if self.masking and entry.definitions is not None:
            replaced = self._shown_definition(entry, buf, pos, stop)
        entry.left -= 1
        if entry.left:
            return replaced
        if not self.deprecate_eof:
            entry.awaited = Awaited.MARKERS_END
        else:
            self._markers_done(entry)
        return replaced

    def _markers_end(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        Eof.decode(payload(buf, pos, stop))
        self._markers_done(entry)
        return None

    def _markers_done(self, entry: Pending) -> None:
        if entry.then_left:
            self._columns_next(entry)
            entry.awaited = Awaited.MARKERS
        else:
            self._prepared_done(entry)

    def _prepared_done(self, entry: Pending) -> None:
        prepared = entry.prepared
        assert prepared is not None
        self.prepared[prepared.id] = prepared
        self.last_prepared = prepared
        if entry.early:
            self._ran_early(entry)
            entry.tag = b"prepared"
            self._finish(entry, b"ok")
        self._done()

    def _field(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        head = buf[pos + HEADER]
        if head == ERR:
            return self._error(entry, buf, pos, stop)
        if head != EOF:
            entry.rows += 1
            replaced = self._unsized_field(buf, pos, stop) if self.masking else None
            self._capture(entry, buf[pos:stop] if replaced is None else replaced)
            return replaced
        self._capture(entry, buf[pos:stop])
        ok, status = self._end(payload(buf, pos, stop))
        if status & _MORE_RESULTS:
            raise ProtocolError("further results of a command that has one")
        self._completed(entry, status, ok)
        return None

    def _unsized_field(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        """A column of a temporary table or a view may be as wide as a value that is masked."""
        field = ColumnDefinition.decode(payload(buf, pos, stop), field_list=True)
        schema, table = (name.decode("utf-8", "replace") for name in (field.schema, field.org_table))
        catalog = self._snapshot()
        known = catalog.relation(schema, table) if catalog is not None else None
        if known is not None and known.kind != "view" and self.state.temporary(schema, table) is None:
            return None
        return packet(buf[pos + 3], unsized(field).encode())

    def _text(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        if buf[pos + HEADER : pos + HEADER + 1] == b"\xff":
            return self._error(entry, buf, pos, stop)
        self._capture(entry, buf[pos:stop])
        self._finish(entry, b"ok")
        self._done()
        return None

    def _simple(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        head = buf[pos + HEADER]
        if head == ERR:
            return self._error(entry, buf, pos, stop)
        body = payload(buf, pos, stop)
        if head == EOF and not self.deprecate_eof:
            ok, status = None, Eof.decode(body).status
        else:
            ok = Ok.decode(body, self.capabilities)
            status = ok.status
        if status & _MORE_RESULTS:
            raise ProtocolError("further results of a command that has none")
        self._capture(entry, buf[pos:stop])
        if entry.command == Command.RESET_CONNECTION:
            self._reset_session()
        elif entry.command == Command.SET_OPTION:
            self.state.multi_statements = entry.option == 0
        elif entry.command == Command.STMT_RESET:
            pass
        entry.tag = b"OK"
        self._completed(entry, status, ok)
        return None

    def _reset_session(self) -> None:
        self.prepared.clear()
        self.last_prepared = None
        self._long_total = 0
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        if catalog is None:
            self.state.reset(None, None)  # texts are unknown until the client sets what they depend on
        else:
            self.state.reset(modes_of(",".join(catalog.sql_mode)), charset_of(catalog.charset_client))
        self.status = -1

    def _content(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        raise ProtocolError("an answer before the content that was asked for")


_ROWS = (Awaited.ROWS, Awaited.FETCHED)

_HANDLERS: dict[Awaited, Callable[[Backend, Pending, bytes, int, int], bytes | None]] = {
    Awaited.FIRST: Backend._first,
    Awaited.DEFINITIONS: Backend._definition,
    Awaited.DEFINITIONS_END: Backend._definitions_end,
    Awaited.ROWS: Backend._rows_end,
    Awaited.PREPARED: Backend._prepared_first,
    Awaited.MARKERS: Backend._marker,
    Awaited.MARKERS_END: Backend._markers_end,
    Awaited.FIELDS: Backend._field,
    Awaited.TEXT: Backend._text,
    Awaited.SIMPLE: Backend._simple,
    Awaited.INPUT: Backend._content,
    Awaited.FETCHED: Backend._fetched_end,
}
