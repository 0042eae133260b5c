"""The exchange that was taken before, with other values: known by its bytes.

What `roundtrip` has taken message by message it leaves here: of a prepared statement's round trip a `Repeat`, of any
answer in one piece an `Answer`. The next one that is the same to the byte but for the values of its parameters, and is
answered alike but for its rows, has nothing left to be found out: the values go on record, the rows are counted.

INVARIANT: nothing is decided here. A `Repeat` is good for the verdict and the epoch that it was made under and for no
others; an exchange that differs in a byte that is no value is none of this module's, and nothing has happened to it.
"""

from __future__ import annotations

from typing import Self

import orjson

from protocols.contract import Action, Cacheable
from protocols.postgres import evidence
from protocols.postgres.base import SessionBase
from protocols.postgres.catalog import Catalog
from protocols.postgres.fields import UNPACK_I32
from protocols.postgres.framing import unpack_header
from protocols.postgres.messages import Bind
from protocols.postgres.pending import Kind, Pending, Prepared, Verdict
from protocols.records import MAX_PARAM, SECRET_VALUES, SUSPECT

_Q, _B, _ROW = b"QBD"
_ENDS = 16  # how many different ends of an answer are remembered of one statement
_LONGEST_END = 128  # bytes
_LONGEST_HEAD = 4096  # bytes of an answer before its rows
_LONGEST = 512  # bytes of a round trip without its values
_ANSWERS = 64  # of simple queries


class Answer:
    """How the answer to one statement looks, without its rows."""

    __slots__ = ("before", "catalog", "command", "ends", "head", "skip")

    def __init__(self, head: bytes, skip: int, before: tuple[bytes, ...], command: object, catalog: object) -> None:
        self.head = head  # up to the first row
        self.skip = skip  # bytes of it that are not on record: BindComplete
        self.before = before  # RowDescription for the record, where the answer has none
        self.command = command  # the analysis that it was asked with
        self.catalog = catalog  # under which it was found to need no mask
        self.ends: dict[bytes, tuple[bytes, str, int]] = {}  # CommandComplete and ReadyForQuery: tag, status, rows


class Repeat:
    """One prepared statement's round trip without its values."""

    __slots__ = (
        "answer",
        "behind",
        "count",
        "epoch",
        "formats",
        "head",
        "result_formats",
        "tail",
        "text",
        "verdict",
        "what",
    )

    @classmethod
    def of(cls, buf: bytes, bound: int, bind: Bind, prepared: Prepared, what: bytes) -> Self | None:
        """`buf` is the whole of the client's side, `bound` where its Bind ends. None: it is too long to be kept."""
        head = buf[5 : 5 + 1 + len(bind.statement) + 1 + 2 + 2 * len(bind.formats) + 2]
        tail = buf[bound - 2 - 2 * len(bind.result_formats) :]
        if len(head) + len(tail) > _LONGEST:
            return None
        return cls(head, tail, len(buf) - bound, bind, prepared, what)

    def __init__(self, head: bytes, tail: bytes, behind: int, bind: Bind, prepared: Prepared, what: bytes) -> None:
        self.head = head  # of Bind, up to the first value
        self.tail = tail  # from behind the last value
        self.behind = behind  # bytes behind Bind
        self.count = len(bind.values)
        self.formats = bind.formats
        self.text = not any(bind.formats)
        self.result_formats = bind.result_formats
        self.what = what  # b"P": with a Describe of the portal
        self.verdict = prepared.verdict
        self.epoch = prepared.epoch
        self.answer: Answer | None = None


class Repeats(SessionBase):
    """Mixed into `PostgresSession`."""

    # ------------------------------------------------------------ the client's side

    def _depart_again(self, data: bytes) -> bool:
        """The client's side. True: recorded and entered, forward `data` as it is. False: nothing has happened."""
        kind = data[:1]
        if kind == b"Q":
            return self._query_again(data)
        if kind != b"B" or self.queue or self.parsing or self.skipping or self.copy_in is not None:
            return False
        prepared = self.prepared.get(data[6 : data.find(0, 6)])
        if prepared is None or (like := prepared.repeat) is None:
            return False
        head, tail = like.head, like.tail
        at, end = 5 + len(head), len(data) - len(tail)
        if (
            at > end
            or unpack_header(data) != (_B, len(data) - like.behind - 1)
            or not data.startswith(head, 5)
            or not data.endswith(tail)
        ):
            return False
        catalog = self.port.catalog(newest=True)
        if (
            not isinstance(catalog, Catalog)
            or self.judge.epoch(catalog) is not like.epoch
            or prepared.epoch is not like.epoch
            or prepared.verdict is not like.verdict
            or self._unsettled(like.verdict)
        ):
            return False
        params = b""
        if like.count:
            shown = self._show(like, prepared, data, at, end)
            if shown is None:
                return False
            params = b',"params":' + shown
        elif at != end:
            return False
        self._epoch = like.epoch
        entry = self._trip(prepared, like.what, like.result_formats, params)
        entry.repeat = like
        return True

    def _query_again(self, data: bytes) -> bool:
        """A simple query like one whose answer is remembered. As `_depart_again`."""
        if self.queue or self.parsing or self.skipping or self.copy_in is not None:
            return False
        last = len(data) - 1
        if last < 5 or unpack_header(data) != (_Q, last) or data.find(0, 5) != last:
            return False
        catalog = self.port.catalog(newest=True)
        if not isinstance(catalog, Catalog):
            return False
        self._epoch = self.judge.epoch(catalog)
        verdict = self.judge.known(data[5:last], self._plain)
        if verdict is None:
            return False
        entry = Pending(Kind.QUERY, 0, verdict)
        self.syncs += 1
        entry.order = self.syncs
        self._enter(entry, verdict, b"query", b"")
        return True

    def _plain(self, verdict: Verdict) -> bool:
        """Whether a simple query may simply pass, as it did when it gave the answer that is remembered."""
        decision = verdict.decision
        answer = self.answers.get(id(verdict.command))
        return (
            answer is not None
            and answer.command is verdict.command
            and decision.action is Action.ALLOW
            and not decision.alerts
            and not verdict.changes
            and not verdict.renames
            and not verdict.runs
            and verdict.command.analysis.cacheable is not Cacheable.NO
            and not self._unsettled(verdict)
        )

    def _enter(self, entry: Pending, verdict: Verdict, phase: bytes, params: bytes) -> None:
        """Numbers the command, puts it on record and waits for its answer."""
        self.catalog_waited = False
        self.number = entry.number = self.number + 1
        entry.started = now = self.port.now_ns()
        entry.room = self.limits.response_max
        self._record_command(evidence.command(self.session_id, entry.number, now, phase, verdict.fixed, b"", params))
        self.open = False
        self.queue.append(entry)
        if self.masking:
            self._copies(entry, verdict)

    def _show(self, like: Repeat, prepared: Prepared, data: bytes, at: int, end: int) -> bytes | None:
        """The values between `at` and `end`, for the record. None: they do not fit, or may be secret."""
        if like.count == 1 and like.text:
            value = data[at + 4 : end]
            if value.isdigit() and UNPACK_I32(data, at) == (len(value),) and len(value) <= MAX_PARAM:
                return b'["%b"]' % value  # most are keys; no secret is a number
        values: list[bytes | None] = []
        start = at
        while end - at >= 4:
            (size,) = UNPACK_I32(data, at)
            at += 4
            if size < 0:
                if size != -1:
                    return None
                values.append(None)
                continue
            stop = at + size
            if stop > end:
                return None
            values.append(data[at:stop])
            at = stop
        if at != end or len(values) != like.count:
            return None
        if SUSPECT.search(data, start, end) is not None and SECRET_VALUES.search(data, start, end) is not None:
            return None
        return orjson.dumps(evidence.show_values(values, like.formats, prepared.oids))

    def _trip(self, prepared: Prepared, what: bytes, formats: tuple[int, ...], params: bytes) -> Pending:
        """Enters the exchange, and puts its command on record."""
        verdict = prepared.verdict
        entry = Pending(Kind.TRIP, 0, verdict)
        self.syncs += 1
        entry.order = self.syncs
        entry.prepared = prepared
        entry.what = what
        entry.formats = formats
        self._enter(entry, verdict, b"bind", params)
        self.trip = entry
        return entry

    # ------------------------------------------------------------ the server's side

    def _arrive_again(self, data: bytes) -> bool:
        """The answer to a round trip. True: all of it, pass `data` on as it is. False: nothing has happened."""
        entry = self.trip
        assert entry is not None
        like = entry.repeat
        if like is None or like.answer is None or (status := self._alike(like.answer, entry, data)) is None:
            return False
        self._returned(status)
        return True

    def _returned(self, status: str) -> None:
        """The round trip is over."""
        entry, self.trip = self.trip, None
        assert entry is not None
        self.queue.popleft()
        self._became_ready(entry, status)
        if self.portals:
            self.portals.pop(b"", None)

    def _answered_again(self, data: bytes) -> bool:
        """The answer to a simple query of one statement that changes nothing, as `_arrive_again`."""
        if len(self.queue) != 1:
            return False
        entry = self.queue[0]
        verdict = entry.verdict
        if verdict is None or entry.kind != Kind.QUERY or entry.size or entry.what:
            return False
        answer = self.answers.get(id(verdict.command))
        if (
            answer is None
            or answer.command is not verdict.command
            or verdict.changes
            or verdict.renames
            or entry.denial is not None
            or (status := self._alike(answer, entry, data)) is None
        ):
            return False
        self.queue.popleft()
        self._became_ready(entry, status)
        return True

    def _alike(self, answer: Answer, entry: Pending, data: bytes) -> str | None:
        """The status that the server ends with, where this is the whole of such an answer, now on record. None: no."""
        head = answer.head
        if not data.startswith(head):
            return None
        if self.masking and (
            answer.catalog is None
            or answer.catalog is not self.port.catalog()
            or self._redefined(entry.verdict, entry.started)
        ):
            return None
        at, n, rows = len(head), len(data), 0
        while n - at >= 5:
            kind, length = unpack_header(data, at)
            if kind != _ROW or length < 4:
                break
            at += 1 + length
            rows += 1
        end = answer.ends.get(data[at:]) if 0 < n - at <= _LONGEST_END else None
        if end is None:
            return None
        size = n - _READY - (len(head) if answer.skip else 0)
        if size > entry.room:
            return None
        tag, status, told = end
        port = self.port
        port.may_record()
        now = port.now_ns()
        shown = (*answer.before, data[answer.skip : -_READY])
        micros = (now - entry.started) // 1000
        self.late.append(
            (self.session_id, entry.number, now, b"ok", rows or told, size, micros, tag, shown, False, b"", b"")
        )
        return status

    def _remember(self, entry: Pending, buf: bytes, first: int, done: int, told: int, status: str) -> None:
        """An answer in one piece that was taken: rows begin at `first`, CommandComplete at `done`."""
        verdict, like = entry.verdict, entry.repeat
        if verdict is None or len(buf) - done > _LONGEST_END or first > min(_LONGEST_HEAD, self.limits.response_max):
            return
        command, head, catalog = verdict.command, buf[:first], self.port.catalog()
        answer = like.answer if like is not None else self.answers.get(id(command))
        if answer is None or answer.command is not command or answer.head != head or answer.catalog is not catalog:
            before = entry.prepared.description(entry.formats) if entry.prepared is not None and not entry.what else b""
            answer = Answer(head, _BOUND if like is not None else 0, (before,) if before else (), command, catalog)
            if like is not None:
                like.answer = answer
            else:
                if len(self.answers) >= _ANSWERS:
                    self.answers.clear()
                self.answers[id(command)] = answer
        if len(answer.ends) < _ENDS:
            answer.ends[buf[done:]] = (entry.tag, status, told)


_BOUND = 5  # bytes of BindComplete
_READY = 6  # of ReadyForQuery
