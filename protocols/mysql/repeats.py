"""The command that was taken before, with other values, and the result like the one before: known by their bytes.

What the long way has taken packet by packet leaves its likeness here: of an execution a `Repeat`, of a whole result in
one piece an `Answer`. The next one that is the same to the byte but for its values, and is answered alike but for its
rows, has nothing left to be found out: the values go on record, the rows are counted.

INVARIANT: nothing is decided here. A `Repeat` is good for the verdict and the epoch that it was made under and for no
others; what differs in a byte that is no value is none of this module's, and nothing has happened to it.
"""

from __future__ import annotations

import struct

import orjson

from protocols.contract import Action, Cacheable
from protocols.mysql import evidence
from protocols.mysql.answers import Answers
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader
from protocols.mysql.framing import HEADER, MAX_PART
from protocols.mysql.messages import EOF, Command
from protocols.mysql.parameters import StmtExecute, value_text
from protocols.mysql.pending import Awaited, Pending, Prepared, Verdict
from protocols.mysql.rows import binary_value
from protocols.records import SECRET_VALUES, SUSPECT

_QUERY, _EXECUTE = int(Command.QUERY), int(Command.STMT_EXECUTE)
_U32 = struct.Struct("<I").unpack_from  # a packet's header: its length, and above that its sequence number
_LENGTH = 0xFFFFFF
_LONGEST = 65536  # bytes of a command
_ID, _FLAGS, _NULLS = 5, 9, 14  # where the fields of COM_STMT_EXECUTE begin, behind the packet's header
_PARAMETERS = 200  # of an execution that is remembered
_HEADS = 4  # how many different beginnings of its executions are remembered of one statement
_ANSWERS = 64
_LONGEST_HEAD = 16384  # bytes of a result before its rows
_ENDS = 8  # how many different ends of a result are remembered


class Answer:
    """How the whole result of one statement looks, without its rows."""

    __slots__ = ("columns", "command", "ends", "head", "known", "sequence")

    def __init__(self, head: bytes, sequence: int, command: object, columns: bytes, known: object) -> None:
        self.head = head  # up to the first row
        self.sequence = sequence  # of the packet behind it
        self.command = command  # the analysis that it was asked with
        self.columns = columns  # of the response record
        self.known = known  # why it needs no mask; None: nothing is masked for this identity
        self.ends: dict[bytes, int] = {}  # payload of the last packet -> status flags


class Repeat:
    """How one prepared statement's executions begin, up to the first value."""

    __slots__ = ("epoch", "nulls", "rebinds", "types", "verdict")

    def __init__(self, run: StmtExecute, prepared: Prepared) -> None:
        self.types = run.types
        self.nulls = tuple(value is None for value in run.values)
        self.rebinds = run.rebinds
        self.verdict = prepared.verdict
        self.epoch = prepared.epoch


class Repeats(Answers):
    """Mixed into `MysqlSession`."""

    # ------------------------------------------------------------ the client's side

    def _again(self, data: bytes) -> bool:
        """True: a command like one before, on record and in `up`. False: nothing has happened."""
        n = len(data)
        if not 6 <= n <= _LONGEST or n - HEADER > self.limits.inspect_max or _U32(data) != (n - HEADER,):
            return False
        kind = data[HEADER]
        if kind != _QUERY and kind != _EXECUTE:
            return False
        catalog = self.port.catalog(newest=True)
        if not isinstance(catalog, Catalog) or self._from_server.buffered:
            return False
        self._epoch = epoch = self.judge.epoch(catalog)
        self._names = catalog
        return self._query_again(data) if kind == _QUERY else self._execute_again(data, epoch)

    def _query_again(self, data: bytes) -> bool:
        verdict = self.judge.known(data[HEADER + 1 :], self._plain_text)
        if verdict is None:
            return False
        self._enter(data, Pending(_QUERY, Awaited.FIRST, verdict), verdict, b"query", b"")
        return True

    def _plain_text(self, verdict: Verdict) -> bool:
        return self._plain(verdict, _QUERY)

    def _plain(self, verdict: Verdict, kind: int) -> bool:
        """Whether it may simply pass, as it did when it gave the result that is remembered."""
        decision = verdict.decision
        answer = self.answers.get((id(verdict.command), kind))
        return (
            answer is not None
            and answer.command is verdict.command
            and decision.action is Action.ALLOW
            and not decision.alerts
            and not verdict.changes
            and not verdict.renames
            and verdict.command.analysis.cacheable is not Cacheable.NO
            and not self._unsettled(verdict)
        )

    def _execute_again(self, data: bytes, epoch: object) -> bool:
        prepared = self.prepared.get(_U32(data, _ID)[0]) if len(data) > _NULLS else None
        if prepared is None or prepared.long_packets or prepared.long_refused or prepared.long:
            return False
        verdict = prepared.verdict
        at = _NULLS
        if count := prepared.parameters:
            at += (count + 7) >> 3
            if at >= len(data):
                return False
            at += 1 + (2 * count if data[at] else 0)
        like = prepared.repeats.get(data[_FLAGS:at])
        if (
            like is None
            or like.verdict is not verdict
            or like.epoch is not epoch
            or prepared.epoch is not epoch
            or (not like.rebinds and (prepared.types != like.types or prepared.server_types != like.types))
            or verdict.redacted
            or verdict.decision.valid_until != _ALWAYS
            or not self._plain(verdict, _EXECUTE)
        ):
            return False
        params = b""
        if count:
            shown = self._show(data, at, like)
            if shown is None:
                return False
            params = b',"params":' + shown
        elif at != len(data):
            return False
        entry = Pending(_EXECUTE, Awaited.FIRST, verdict)
        entry.prepared = prepared
        prepared.types = prepared.server_types = entry.types = like.types
        prepared.cursor = None
        self._enter(data, entry, verdict, b"execute", params)
        return True

    def _show(self, data: bytes, at: int, like: Repeat) -> bytes | None:
        """The values from `at` on, for the record. None: they do not fit, or may be secret."""
        if SUSPECT.search(data, at) is not None and SECRET_VALUES.search(data, at) is not None:
            return None
        reader = Reader(data, at)
        codec = self.state.codec
        texts: list[str | None] = []
        try:
            for bound, null in zip(like.types, like.nulls, strict=True):
                if null:
                    texts.append(None)
                else:
                    texts.append(evidence.shown(value_text(binary_value(reader, bound & 0xFF), bound, codec)))
            reader.end()
        except ProtocolError:
            return None
        return orjson.dumps(texts)

    def _enter(self, data: bytes, entry: Pending, verdict: Verdict, phase: bytes, params: bytes) -> None:
        """Numbers the command, puts it on record and lets it go."""
        self.catalog_waited = False
        self.number = entry.number = self.number + 1
        entry.started = now = self.port.now_ns()
        entry.room = self.limits.response_max
        self._record_command(evidence.command(self.session_id, entry.number, now, phase, verdict.fixed, b"", params))
        self.up.append(data)
        self.current = entry
        self._from_server.expected = 1
        if self.masking:
            self._copies(verdict)

    def _remember_execution(self, message: bytes, run: StmtExecute, prepared: Prepared) -> None:
        """An execution that went up as it came, under a standing verdict."""
        if (
            run.flags
            or run.long
            or len(run.types) > _PARAMETERS
            or len(message) > _LONGEST
            or prepared.epoch is not self._epoch
        ):
            return
        at = _NULLS
        if prepared.parameters:
            at += ((prepared.parameters + 7) >> 3) + 1 + (2 * prepared.parameters if run.rebinds else 0)
        if len(prepared.repeats) >= _HEADS:
            prepared.repeats.clear()
        prepared.repeats[message[_FLAGS:at]] = Repeat(run, prepared)

    # ------------------------------------------------------------ the server's side

    def _answered_again(self, entry: Pending, data: bytes) -> bool:
        """True: the whole result, on record; pass `data` on as it is. False: nothing has happened."""
        verdict = entry.verdict
        if verdict is None or entry.awaited is not Awaited.FIRST or entry.index or entry.keeps_head:
            return False
        answer = self.answers.get((id(verdict.command), entry.command))
        if (
            answer is None
            or answer.command is not verdict.command
            or not data.startswith(answer.head)
            or data[3] != self._from_server.expected
            or verdict.changes
            or verdict.renames
            or (self.masking and not self._unmasked_still(entry, answer.known))
        ):
            return False
        at, n, sequence, rows = len(answer.head), len(data), answer.sequence, 0
        while True:
            if n - at <= HEADER:
                return False
            (header,) = _U32(data, at)
            length = header & _LENGTH
            if header >> 24 != sequence or not length or length == MAX_PART:
                return False
            if data[at + HEADER] >= EOF:
                break
            at += HEADER + length
            rows += 1
            sequence = (sequence + 1) & 0xFF
        if at + HEADER + length != n or n > entry.room:
            return False
        status = answer.ends.get(data[at + HEADER :]) if length < 8 else None
        if status is None:
            return False
        port = self.port
        port.may_record()
        now = port.now_ns()
        if status != self.status:
            self._flags(status)
        if verdict.touches:
            self._after(entry)
        micros = (now - entry.started) // 1000
        tag = b"%d rows" % rows
        self.late.append(
            (self.session_id, entry.number, now, b"ok", rows, n, micros, tag, (data,), False, answer.columns, b"")
        )
        self._done()
        return True

    def _remember_answer(self, entry: Pending, buf: bytes, first: int, sequence: int, last: int, status: int) -> None:
        """A whole result that passed as it came: its rows begin at `first`, its last packet at `last`."""
        verdict = entry.verdict
        if verdict is None or entry.room < 0 or first > _LONGEST_HEAD:
            return  # one that is not kept on record is looked at each time
        key, head = (id(verdict.command), entry.command), buf[:first]
        known = self._why_unmasked(entry) if self.masking else None
        answer = self.answers.get(key)
        if answer is None or answer.command is not verdict.command or answer.head != head or answer.known is not known:
            if len(self.answers) >= _ANSWERS:
                self.answers.clear()
            answer = self.answers[key] = Answer(head, sequence, verdict.command, entry.columns, known)
        if len(answer.ends) < _ENDS:
            answer.ends[buf[last + HEADER :]] = status


_ALWAYS = float("inf")
