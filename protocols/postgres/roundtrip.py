"""The exchange that most traffic is made of, taken as one: Bind, perhaps Describe, Execute, Sync of a statement that is
prepared, judged and allowed, with nothing else in flight; answered in one piece.

It does exactly what the two halves would do message by message, in a third of the time. Whatever does not fit the
pattern to the last byte goes the long way: before anything happened (client), or after the entry has been taken apart
into the ones that the long way would have made (server).

INVARIANT: nothing is decided here. A verdict that is not a standing, unconditional allow is none of this module's.
"""

from __future__ import annotations

import orjson

from protocols.contract import Action, Cacheable
from protocols.postgres import evidence
from protocols.postgres.base import Messages
from protocols.postgres.catalog import Catalog
from protocols.postgres.errors import ProtocolError
from protocols.postgres.messages import Bind, CommandComplete
from protocols.postgres.pending import Kind, Pending, Portal
from protocols.postgres.repeats import Repeat, Repeats
from protocols.records import SECRET_VALUES

_B, _D, _E, _S = b"BDES"
_BOUND, _ROWS, _ROW, _DONE, _READY = b"2TDCZ"
_DESCRIBE = b"D\0\0\0\6P\0"  # of the unnamed portal
_EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"  # of the unnamed portal, all rows
_IDLE = b"Z\0\0\0\5I"
_IN_BLOCK = b"Z\0\0\0\5T"
_STATUSES = {_IDLE: "I", _IN_BLOCK: "T"}


class RoundTrip(Repeats):
    """Mixed into `PostgresSession`."""

    def _depart(self, buf: bytes, messages: Messages) -> bool:
        """The client's side. True: recorded and entered, forward `buf` as it is. False: nothing has happened."""
        if self.queue or self.parsing or self.skipping or self.copy_in is not None:
            return False
        if self.masking and len(messages) != 4:
            return False  # rows may pass only once their columns are described
        last = messages[-1]
        if last[0] != _S or last[2] - last[1] != 5 or messages[0][0] != _B:
            return False
        _, pos, stop = messages[-2]
        if buf[pos:stop] != _EXECUTE:
            return False
        if len(messages) == 4 and buf[messages[1][1] : messages[1][2]] != _DESCRIBE:
            return False
        message = Bind.decode(buf[5 : messages[0][2]])
        prepared = self.prepared.get(message.statement)
        if prepared is None or message.portal:
            return False
        catalog = self.port.catalog(newest=True)
        if catalog is None:
            return False
        assert isinstance(catalog, Catalog)
        self._epoch = self.judge.epoch(catalog)
        verdict = prepared.verdict
        decision = verdict.decision
        if (
            prepared.epoch is not self._epoch
            or decision.action is not Action.ALLOW
            or decision.alerts
            or decision.valid_until != _ALWAYS
            or verdict.changes
            or verdict.redacted
            or verdict.renames
            or verdict.command.analysis.cacheable is Cacheable.NO
            or self._unsettled(verdict)
        ):
            return False
        params = b""
        if message.values:
            if SECRET_VALUES.search(buf) is not None:
                return False  # a value may be a secret by what it is: a connection string, a key, a password
            shown = evidence.show_values(message.values, message.formats, prepared.oids)
            params = b',"params":' + orjson.dumps(shown)
        what = b"P" if len(messages) == 4 else b""
        entry = self._trip(prepared, what, message.result_formats, params)
        entry.repeat = prepared.repeat = Repeat.of(buf, messages[0][2], message, prepared, what)
        return True

    def _arrive(self, buf: bytes, messages: Messages, end: int) -> bool:
        """The server's side. True: the whole answer, pass `buf` on as it is. False: it goes the long way."""
        entry = self.trip
        assert entry is not None
        described = entry.what == b"P"
        first = 2 if described else 1
        if (
            len(messages) < first + 2
            or end != len(buf)
            or messages[0][0] != _BOUND
            or messages[-2][0] != _DONE
            or (described and messages[1][0] != _ROWS)
        ):
            self._take_apart()
            return False
        assert entry.verdict is not None
        if self.masking and not self._needs_none(buf[messages[1][1] : messages[1][2]], entry.verdict, entry.started):
            self._take_apart()
            return False
        rows = messages[first:-2]
        for kind, _, _ in rows:
            if kind != _ROW:
                self._take_apart()
                return False
        _, pos, stop = messages[-1]
        status = _STATUSES.get(buf[pos:stop])
        if status is None:
            self._take_apart()
            return False
        _, pos, stop = messages[-2]
        entry.tag = tag = buf[pos + 5 : stop - 1]
        if b"\0" in tag or buf[stop - 1]:
            raise ProtocolError("a command tag that is no string")
        prepared = entry.prepared
        if described:
            if messages[1][2] - messages[1][1] <= self.limits.response_max:
                entry.parts = [buf[messages[1][1] : messages[1][2]]]
        elif prepared is not None and (known := prepared.description(entry.formats)):
            entry.parts = [known]
        self._capture(entry, buf[messages[first][1] : stop])
        told = CommandComplete(tag).rows()
        entry.rows = len(rows) or told
        if entry.repeat is not None:
            self._remember(entry, buf, messages[first][1], messages[-2][1], told, status)
        self._finish(entry, b"ok")
        self._returned(status)
        return True

    def _answered(self, buf: bytes, messages: Messages, end: int) -> bool:
        """The answer to a simple query of one statement that changes nothing, in one piece. As `_arrive`."""
        if len(self.queue) != 1 or len(messages) < 3 or end != len(buf):
            return False
        entry = self.queue[0]
        verdict = entry.verdict
        if (
            entry.kind != Kind.QUERY
            or verdict is None
            or verdict.changes
            or verdict.renames
            or entry.denial is not None
            or entry.what
            or entry.size
            or len(verdict.command.statements) != 1
            or messages[0][0] != _ROWS
            or messages[-2][0] != _DONE
        ):
            return False
        for kind, _, _ in messages[1:-2]:
            if kind != _ROW:
                return False
        status = _STATUSES.get(buf[messages[-1][1] :])
        if status is None or (self.masking and not self._needs_none(buf[: messages[0][2]], verdict, entry.started)):
            return False
        _, pos, stop = messages[-2]
        entry.tag = tag = buf[pos + 5 : stop - 1]
        if b"\0" in tag or buf[stop - 1]:
            raise ProtocolError("a command tag that is no string")
        self._capture(entry, buf[:stop])
        told = CommandComplete(tag).rows()
        entry.rows = len(messages) - 3 or told
        self._remember(entry, buf, messages[0][2], messages[-2][1], told, status)
        self._finish(entry, b"ok")
        self.queue.popleft()
        self._became_ready(entry, status)
        return True

    def _take_apart(self) -> None:
        """Makes of the one entry what the long way would have made of its four messages."""
        entry, self.trip = self.trip, None
        assert entry is not None
        assert entry.verdict is not None
        portal = Portal(b"", entry.verdict, entry.number, self.port.policy_epoch(), entry.order - 1)
        portal.prepared, portal.formats = entry.prepared, entry.formats
        portal.judged = entry.started
        self.portals[b""] = portal
        parts = [Pending(Kind.BIND, entry.number, entry.verdict)]
        if entry.what == b"P":
            parts.append(Pending(Kind.DESCRIBE))
            parts[-1].what = b"P"
        parts.append(Pending(Kind.EXECUTE, entry.number, entry.verdict))
        for part in parts:
            part.portal = portal
            part.started = entry.started
            part.room = entry.room
        sync = Pending(Kind.SYNC)
        sync.order = entry.order
        at = self.queue.index(entry)
        del self.queue[at]
        for part in reversed([*parts, sync]):
            self.queue.insert(at, part)


_ALWAYS = float("inf")
