"""What an answer of the server means: results, OK and ERR; what a completed statement changes in the session."""

from __future__ import annotations

from dataclasses import replace

from protocols.contract import Effect
from protocols.mysql import file_input
from protocols.mysql.errors import ProtocolError
from protocols.mysql.flows import opens
from protocols.mysql.framing import HEADER, packet, payload
from protocols.mysql.masking import Masking
from protocols.mysql.messages import (
    ERR,
    LOCAL_INFILE,
    OK,
    Command,
    Eof,
    Err,
    Ok,
    Status,
    Track,
    column_count,
    local_infile,
)
from protocols.mysql.pending import Awaited, Cursor, Pending
from protocols.mysql.scrub import scrub
from protocols.mysql.statements import Statement
from protocols.records import SECRET_VALUES
from protocols.verdicts import NamesChanged

# plain integers: an enum's operators cost more than everything else about a packet
_MORE_RESULTS = int(Status.MORE_RESULTS)
_CURSOR_EXISTS = int(Status.CURSOR_EXISTS)
_LAST_ROW_SENT = int(Status.LAST_ROW_SENT)
_STATE_CHANGED = int(Status.STATE_CHANGED)

# commands that run statements: one that fails may have changed something all the same
_RUNS = frozenset((Command.QUERY, Command.STMT_EXECUTE, Command.STMT_FETCH, Command.INIT_DB))


class Answers(Masking):
    """Mixed into `MysqlSession`. A handler answers None: pass the packet on unchanged; else the bytes in its place."""

    # ------------------------------------------------------------ the first packet of an answer

    def _first(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        head = buf[pos + HEADER]
        if head == OK:
            return self._ok(entry, buf, pos, stop)
        if head == ERR:
            return self._error(entry, buf, pos, stop)
        body = payload(buf, pos, stop)
        if head == LOCAL_INFILE:
            return self._local_infile(entry, buf, pos, stop, local_infile(body))
        entry.left = column_count(body)
        if entry.left > self.limits.columns_max:
            raise ProtocolError(f"a result of {entry.left} columns")
        entry.definitions, entry.raw = [], []
        entry.head = b""
        entry.awaited = Awaited.DEFINITIONS
        self._pass_head(entry, buf[pos:stop])
        return None

    def _pass_head(self, entry: Pending, message: bytes) -> None:
        self._capture(entry, message)
        if entry.size > self.limits.inspect_max:
            raise ProtocolError("definitions above the inspection limit")
        if entry.keeps_head and len(entry.head) <= self.limits.response_max:
            entry.head += message

    def _ok(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        ok = Ok.decode(payload(buf, pos, stop), self.capabilities)
        entry.rows = ok.affected
        entry.tag = b"OK, %d affected" % ok.affected
        if ok.info:
            entry.tag += b" (" + _said(ok.info)[:256] + b")"
        replaced: bytes | None = None
        if self.masking and ok.last_id and entry.verdict is not None and self._chooses_id(entry.verdict):
            # LAST_INSERT_ID(expression) makes an id of any value: it is not told where a masked column is in reach
            replaced = packet(buf[pos + 3], replace(ok, last_id=0).encode(self.capabilities))
        self._capture(entry, buf[pos:stop] if replaced is None else replaced)
        self._completed(entry, ok.status, ok)
        return replaced

    def _local_infile(self, entry: Pending, buf: bytes, pos: int, stop: int, name: bytes) -> bytes | None:
        """The server asks the client for a file: only where the statement in flight says so, and only for its file."""
        verdict = entry.verdict
        statements = verdict.command.statements if verdict is not None else ()
        asked = statements[entry.index] if entry.certain and entry.index < len(statements) else None
        if asked is None or Effect.DATA_COPY_IN not in asked.analysis.effects or not _names(asked, name):
            raise ProtocolError("the upstream asks for a file that no statement names")
        self._capture(entry, buf[pos:stop])
        self._secret_told()
        entry.intake = file_input.intake_of(asked, self.state, self._snapshot(), self.port)
        entry.room = max(entry.room, self.limits.response_max)
        self._begin_input(entry, self._from_server.expected)
        return None

    # ------------------------------------------------------------ results

    def _definition(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        replaced: bytes | None = None
        if self.masking:
            replaced = self._shown_definition(entry, buf, pos, stop)
        else:
            self._pass_head(entry, buf[pos:stop])
        entry.left -= 1
        if not entry.left:
            entry.awaited = Awaited.ROWS if self.deprecate_eof else Awaited.DEFINITIONS_END
        return replaced

    def _shown_definition(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes:
        """One of `entry.left` definitions: they wait for the last, for what they say depends on how all are masked."""
        assert entry.definitions is not None
        assert entry.raw is not None
        entry.definitions.append(payload(buf, pos, stop))
        entry.raw.append(buf[pos:stop])
        entry.waits += stop - pos
        if entry.waits > self.limits.inspect_max:
            raise ProtocolError("definitions above the inspection limit")
        if entry.left > 1:
            return b""
        entry.rewriter, entry.columns = self._masks(entry)
        heads = entry.rewriter.heads if entry.rewriter is not None else {}
        shown = b"".join(packet(raw[3], heads[i]) if i in heads else raw for i, raw in enumerate(entry.raw))
        entry.raw, entry.waits = None, 0
        if entry.command != Command.STMT_PREPARE:
            self._pass_head(entry, shown)
        return shown

    def _definitions_end(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        eof = Eof.decode(payload(buf, pos, stop))
        entry.awaited = Awaited.ROWS
        self._pass_head(entry, buf[pos:stop])
        if eof.status & _CURSOR_EXISTS and entry.keeps_head:
            self._opened(entry, eof.status)
        return None

    def _rows_end(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        """Behind the rows: EOF, or OK in its place, or ERR."""
        if buf[pos + HEADER] == ERR:
            return self._error(entry, buf, pos, stop)
        ok, status = self._end(payload(buf, pos, stop))
        if status & _CURSOR_EXISTS and entry.keeps_head and not entry.rows:
            self._capture(entry, buf[pos:stop])
            self._opened(entry, status)
            return None
        self._capture(entry, buf[pos:stop])
        entry.tag = b"%d rows" % entry.rows
        self._completed(entry, status, ok)
        return None

    def _end(self, body: bytes) -> tuple[Ok | None, int]:
        if self.deprecate_eof and len(body) == 7 and body[:3] == b"\xfe\0\0":  # the usual one: nothing but its flags
            status = body[3] | body[4] << 8
            if not status & _STATE_CHANGED:
                return None, status
        if not self.deprecate_eof:
            return None, Eof.decode(body).status
        ok = Ok.decode(body, self.capabilities)
        if not ok.eof:
            raise ProtocolError("a result that ends as none does")
        return ok, ok.status

    def _opened(self, entry: Pending, status: int) -> None:
        """The server keeps the rows until they are fetched."""
        assert entry.prepared is not None
        if status & _MORE_RESULTS:
            raise ProtocolError("a cursor with further results")
        if not self._keeps_head(entry.head):
            entry.head = b""
        entry.prepared.cursor = Cursor(entry, self.port.policy_epoch())
        self._after(entry)
        self._flags(status)
        self._finish(entry, b"suspended")
        self._done()

    def _keeps_head(self, head: bytes) -> bool:
        """Each fetch is on record with the head of its result: not with a very long one, nor with very many."""
        if len(head) > self.limits.response_max:
            return False
        kept = sum(len(one.cursor.head) for one in self.prepared.values() if one.cursor is not None)
        return kept + len(head) <= self.limits.texts_max

    def _fetched_end(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        if buf[pos + HEADER] == ERR:
            return self._error(entry, buf, pos, stop)
        _, status = self._end(payload(buf, pos, stop))
        if status & _MORE_RESULTS:
            raise ProtocolError("a cursor with further results")
        self._capture(entry, buf[pos:stop])
        entry.tag = b"%d rows" % entry.rows
        self._flags(status)
        self._finish(entry, b"ok" if status & _LAST_ROW_SENT else b"suspended")
        self._done()
        return None

    # ------------------------------------------------------------ what an answer changes

    def _completed(self, entry: Pending, status: int, ok: Ok | None) -> None:
        """One result is complete: what its statement changes is in force now."""
        more = bool(status & _MORE_RESULTS)
        self._after(entry, more=more)
        if ok is not None and ok.changes:
            self._tracked(ok)
        self._flags(status)
        self._finish(entry, b"ok")
        if not more:
            self._done()
            return
        entry.awaited = Awaited.FIRST
        entry.rewriter = None
        entry.definitions = None
        entry.head = entry.columns = entry.tag = b""
        entry.judged = entry.judged or entry.started
        entry.started = self.port.now_ns()
        entry.room = self._room(entry)

    def _after(self, entry: Pending, *, more: bool = False) -> None:
        verdict = entry.verdict
        if verdict is None:
            return
        if verdict.changes and self.masking and self._redefined(entry):
            raise NamesChanged  # a temporary table or variable would be taken for what it was to be
        if verdict.touches:
            self.tainted = True
            self.insert_id = self.insert_id or self._chooses_id(verdict)
        statements = verdict.command.statements
        if more:
            if entry.certain and entry.index < len(statements) - 1 and not _several(statements[entry.index]):
                self._applied(statements[entry.index : entry.index + 1], verdict.changes)
                entry.index += 1
            else:
                entry.certain = False  # which statement the next result belongs to cannot be told
            return
        if verdict.changes:
            self._applied(statements[entry.index :], changes=True)
        if verdict.renames:
            self.port.catalog_changed()

    def _ran_early(self, entry: Pending) -> None:
        """Code that ran while its statement was prepared may have left anything behind."""
        verdict = entry.verdict
        assert verdict is not None
        if verdict.touches:
            self.tainted = True
            self.insert_id = self.insert_id or self._chooses_id(verdict)
        if verdict.changes:
            self._failed(entry, verdict.command.statements)

    def _applied(self, statements: tuple[Statement, ...], changes: bool) -> None:
        if not changes:
            return
        for statement in statements:
            self.state.applied(statement)
        if self.state.definitions_changed:
            self.port.catalog_changed()
        self.status = -1  # the flags are looked at again

    def _tracked(self, ok: Ok) -> None:
        for kind, name, value in ok.tracked():
            if kind is Track.SYSTEM_VARIABLES:
                self.state.tracked(name, value)
            elif kind is Track.SCHEMA:
                self.state.tracked_schema(value)
        self.status = -1

    def _flags(self, status: int) -> None:
        if status != self.status:
            self.status = status
            self.state.status(status)

    def _done(self) -> None:
        """The command in flight is answered."""
        self.current = None
        if self.defining:
            self.defining = False
            self.port.defined()
        if self.copying:
            self.copying = False
            self.port.copied()

    def _error(self, entry: Pending, buf: bytes, pos: int, stop: int) -> bytes | None:
        err = Err.decode(payload(buf, pos, stop))
        verdict = entry.verdict
        replaced: bytes | None = None
        if verdict is not None:
            if entry.command == Command.STMT_PREPARE and not entry.early:
                self._command(entry, b"prepare")  # it never gets an execution: on record with its error
            if self.masking and (verdict.touches or self._redefined(entry)):
                self.tainted = True
                replaced = self._scrubbed(buf, pos, stop)
            if verdict.changes and (entry.command in _RUNS or entry.early):
                self._failed(entry, verdict.command.statements)
            if verdict.renames and entry.command in _RUNS:
                self.port.catalog_changed()  # a part of it may have been done
        if entry.types is not None and entry.prepared is not None:
            entry.prepared.server_types = ()  # it may keep to older ones: the next execution says them again
        self._capture(entry, _recorded(entry, err, buf, pos, stop) if replaced is None else replaced)
        self._finish(entry, b"error", err.sqlstate)
        self._done()
        return replaced

    def _failed(self, entry: Pending, statements: tuple[Statement, ...]) -> None:
        """The server stops at the first error: what is behind it did not run, where it is known which one it was."""
        stop = entry.index + 1 if entry.certain else len(statements)
        for statement in statements[entry.index : stop]:
            self.state.failed(statement)
        if self.state.definitions_changed:
            self.port.catalog_changed()
        self.status = -1

    def _scrubbed(self, buf: bytes, pos: int, stop: int) -> bytes:
        """An ERR packet without what quotes data."""
        return packet(buf[pos + 3], self._scrub(payload(buf, pos, stop)))


def _recorded(entry: Pending, err: Err, buf: bytes, pos: int, stop: int) -> bytes:
    """An error as it goes on record: without what may quote values that the records of its command leave out."""
    verdict = entry.verdict
    cut = (entry.intake is not None and entry.intake.hides) or (verdict is not None and verdict.redacted)
    if not cut and SECRET_VALUES.search(err.message) is None:
        return buf[pos:stop]
    code = verdict is None or opens(verdict.command.analysis)
    message = err.message.decode("utf-8", "backslashreplace")
    text = scrub(err.errno, err.sqlstate, message, opens=code, own_text=not cut)
    return packet(buf[pos + 3], Err(err.errno, err.sqlstate, text.encode()).encode())


def _several(statement: Statement) -> bool:
    """Whether it may give more than one result: it runs code that is not in its text."""
    return any(e is Effect.UNKNOWN or e.value.startswith("exec.") for e in statement.analysis.effects)


def _names(statement: Statement, name: bytes) -> bool:
    """Whether the statement names this file: as it is, or with its backslashes and quotes escaped."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
    doubled = name.replace(b"'", b"''")
    return bool(name) and any(form in statement.text for form in (name, escaped, doubled))


def _said(info: bytes) -> bytes:
    """The text of an OK packet: without session tracking servers put its length before it, too."""
    return info[1:] if info[0] == len(info) - 1 else info
