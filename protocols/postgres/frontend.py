"""The client's half of a session: judge, record, forward, hold or replace."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from protocols.contract import Action, HoldRefused, HoldRequest, HoldTicket, Outcome, SessionPort, Wait
from protocols.postgres import copy_columns, errors, evidence
from protocols.postgres.catalog import Catalog
from protocols.postgres.errors import ProtocolError, notice_response
from protocols.postgres.framing import Framer
from protocols.postgres.judging import Judge
from protocols.postgres.limits import Limits
from protocols.postgres.messages import FLUSH, SYNC, Bind, Close, Describe, Execute, FunctionCall, Parse, Query
from protocols.postgres.pending import Kind, Pending, Portal, Prepared, Verdict
from protocols.postgres.roundtrip import Messages
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse_function_call

_describes: dict[bytes, Describe] = {}  # the same few bodies come again and again
_executes: dict[bytes, Execute] = {}
_MAX_REMEMBERED = 256


def _remember[M](known: dict[bytes, M], body: bytes, message: M) -> M:
    if len(known) < _MAX_REMEMBERED and len(body) < 128:
        known[body] = message
    return message


_STAND_IN = b"sluicegate: stopped by policy"  # no SQL: the server answers it with a syntax error
_Q, _P, _B, _D, _E, _C, _F, _S, _H, _X = b"QPBDECFSHX"
_COPY_DATA, _COPY_DONE, _COPY_FAIL, _PASSWORD = b"dcfp"


@dataclass(slots=True)
class Held:
    """A message that waits for people: how to let it go, and what to send in its place if it must not."""

    ticket: HoldTicket
    verdict: Verdict
    forward: Callable[[], None]
    refuse: Callable[[tuple[str, str, str]], None]


class Frontend:
    """Mixed into `PostgresSession`, which owns all state."""

    if TYPE_CHECKING:
        session_id: bytes
        port: SessionPort
        state: SessionState
        limits: Limits
        judge: Judge
        masking: bool
        up: list[bytes]
        down: list[bytes]
        waiting: Wait | None
        ended: bool
        queue: deque[Pending]
        prepared: dict[bytes, Prepared]
        parsing: dict[bytes, Prepared]
        portals: dict[bytes, Portal]
        skipping: bool
        copy_in: Pending | None
        syncs: int
        number: int
        nowhere: bytes
        _client_large: str
        _from_client: Framer

        def _fail(self, sqlstate: str, message: str) -> None: ...

        trip: Pending | None

        def _finish(self, entry: Pending, status: bytes, sqlstate: str = "") -> None: ...

        def _depart(self, buf: bytes, messages: Messages) -> bool: ...

        def _take_apart(self) -> None: ...

    held: Held | None = None
    catalog_waited = False  # a fresh catalog was waited for once: judge with what there is
    _barrier: Prepared | None = None  # the wait is for this Parse only
    _want_flush = False
    refused = 0  # commands stopped so far
    _epoch: object = None

    # ------------------------------------------------------------ bytes to messages

    def _client(self, data: bytes) -> None:
        large = self._from_client.large
        if large:
            piece, data = data[:large], data[large:]
            self._from_client.large -= len(piece)
            if self._client_large == "forward":
                self.up.append(piece)
            if self._from_client.large or not data:
                return
        buf, messages, end = self._from_client.feed(data)
        if 3 <= len(messages) <= 4 and end == len(buf) and self._depart(buf, messages):
            self.up.append(buf)
            return
        if self.trip is not None and messages:
            self._take_apart()
        run = 0  # start of the run of messages that go on unchanged
        pos = 0
        for kind, pos, stop in messages:
            if stop > end:
                run = self._large(buf, kind, run, pos, stop)
                return
            forward = self._message(buf, kind, pos, stop, run)
            if forward is None:  # waits: this message and everything behind it are read again later
                if pos > run:
                    self.up.append(buf[run:pos])
                if self._want_flush:
                    self._want_flush = False
                    self.up.append(FLUSH)
                self._from_client.push_back(buf[pos:end])
                return
            if not forward:
                # the handler has put everything before this message, and what stands in for it, into `up`
                run = stop
            if self.waiting is not None or self.ended:
                if stop > run:
                    self.up.append(buf[run:stop])
                if stop < end:
                    self._from_client.push_back(buf[stop:end])
                return
        if end > run:
            self.up.append(buf[run:end] if run or end < len(buf) else buf)

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
        why = f"a message of {stop - pos} bytes is above the inspection limit of {self.limits.inspect_max} bytes"
        denial = (errors.PROGRAM_LIMIT_EXCEEDED, why, "send it in smaller parts, or raise limits.inspect_max_bytes")
        stand_in: tuple[Kind, Query | Parse | Bind | FunctionCall] | None = {
            _Q: (Kind.QUERY, Query(_STAND_IN)),
            _P: (Kind.PARSE, Parse(b"", _STAND_IN)),
            _B: (Kind.BIND, Bind(b"", self.nowhere)),
            _F: (Kind.CALL, FunctionCall(0)),
        }.get(kind)
        if stand_in is None:
            raise ProtocolError("invalid message length")
        self.number += 1
        self._record_note(self.number, "query", "(above the inspection limit)", why)
        entry = Pending(stand_in[0], self.number)
        if entry.kind in (Kind.QUERY, Kind.CALL):
            self._sync(entry)
        self._refuse(entry, stand_in[1].encode(), denial)
        return len(buf)

    def _message(self, buf: bytes, kind: int, pos: int, stop: int, run: int) -> bool | None:
        """True: forward unchanged. False: dealt with. None: wait, and come back to this message."""
        if self.skipping and kind not in (_S, _X):
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
            entry = Pending(Kind.CLOSE, name=message.name)
            entry.what = message.what
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
            if kind != _COPY_DATA:
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
        if entry.room > 0 and not self.masking:
            entry.input = [*entry.input, data[: entry.room]]
            entry.room -= len(data)

    def _before(self, buf: bytes, run: int, pos: int) -> None:
        if pos > run:
            self.up.append(buf[run:pos])

    def _sync(self, entry: Pending | None = None) -> Pending:
        """Numbers a message that ends an implicit transaction: what was made before it is gone after its answer."""
        entry = entry or Pending(Kind.SYNC)
        self.syncs += 1
        entry.order = self.syncs
        return entry

    def _await(self, entry: Pending) -> None:
        if len(self.queue) >= self.limits.queue_max:
            raise ProtocolError("more messages in flight than the gateway keeps track of", "54000")
        self.queue.append(entry)

    # ------------------------------------------------------------ waiting for what comes first

    def _must_wait(self) -> bool:
        """Something in flight decides what the next message means."""
        if self._barrier is not None:
            if self._barrier.name in self.parsing and self.parsing[self._barrier.name] is self._barrier:
                return True
            self._barrier = None
            return False
        return any(e.verdict is not None and e.verdict.changes and e.kind != Kind.PARSE for e in self.queue)

    def _catalog(self) -> tuple[bool, Catalog | None]:
        """-> (may go on, catalog). A stale snapshot is waited for once; after that it counts as none."""
        if self.queue and self._must_wait():
            if self.queue[-1].kind not in (Kind.SYNC, Kind.QUERY, Kind.CALL):
                self._want_flush = True  # or the server would keep its answers, and both would wait
            self.waiting = Wait.SERVER
            return False, None
        catalog = self.port.catalog()
        if catalog is None and not self.catalog_waited:
            self.waiting = Wait.CATALOG
            return False, None
        self.catalog_waited = False
        assert catalog is None or isinstance(catalog, Catalog)
        self._epoch = self.judge.epoch(catalog)
        return True, catalog

    # ------------------------------------------------------------ the messages that can run something

    def _query(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        text = Query.decode(buf[pos + 5 : stop]).text
        ready, catalog = self._catalog()
        if not ready:
            return None
        verdict = self.judge.judge(text, catalog)
        entry = self._command(self._sync(Pending(Kind.QUERY, verdict=verdict)), b"query")
        return self._settle(
            buf, run, pos, stop, entry, (), lambda: Query(_STAND_IN).encode(), hashlib.sha256(b"Q" + text).digest
        )

    def _parse(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        message = Parse.decode(buf[pos + 5 : stop])
        ready, catalog = self._catalog()
        if not ready:
            return None
        if len(self.prepared) + len(self.parsing) >= self.limits.names_max:
            raise ProtocolError("more prepared statements than the gateway keeps track of", "54000")
        verdict = self.judge.judge(message.text, catalog)
        entry = Pending(Kind.PARSE, verdict=verdict, name=message.name)
        if verdict.decision.action >= Action.DENY:
            self._command(entry, b"parse")
            return self._settle(
                buf, run, pos, stop, entry, (), lambda: Parse(message.name, _STAND_IN).encode(), lambda: b""
            )
        # nothing runs yet: on record only if the server refuses it; its Bind is judged and recorded
        prepared = Prepared(message.name, message.text, verdict, self._epoch, message.type_oids, self.syncs)
        entry.prepared = self.parsing[message.name] = prepared
        self._await(entry)
        return True

    def _lookup(self, name: bytes) -> tuple[bool, Prepared | None]:
        """-> (may go on, statement). Waits where an earlier Parse of the name may yet fail and leave an older one."""
        parsing = self.parsing.get(name)
        if parsing is None:
            return True, self.prepared.get(name)
        if parsing.syncs != self.syncs and name in self.prepared:
            self._barrier = parsing
            self.waiting = Wait.SERVER
            return False, None
        return True, parsing

    def _bind(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = Bind.decode(body)
        going, prepared = self._lookup(message.statement)
        if not going:
            return None
        ready, catalog = self._catalog()
        if not ready:
            return None
        if prepared is None:
            verdict = self._sql_prepared(message.statement)
            if verdict is None:
                # sent to where it must fail, so that a name this session does not know can never run unjudged
                name = message.statement.decode("utf-8", "replace")
                missing = (
                    f'prepared statement "{name}" does not exist'
                    if name
                    else "unnamed prepared statement does not exist"
                )
                self._before(buf, run, pos)
                self._refuse(
                    Pending(Kind.BIND, name=message.portal), Bind(b"", self.nowhere).encode(), ("26000", missing, "")
                )
                return False
            text = b""
            oids: tuple[int, ...] = ()
        else:
            text, oids = prepared.text, prepared.oids
            verdict = prepared.verdict
            if prepared.epoch is not self._epoch or verdict.command.analysis.cacheable == "no":
                verdict = prepared.verdict = self.judge.judge(text, catalog)
                prepared.epoch = self._epoch
            elif verdict.decision.valid_until <= self.port.now_ns() / 1e9:
                verdict = prepared.verdict = self.judge.judge(text, catalog)
        values: tuple[str | None, ...] = ()
        params = b""
        if message.values:
            values = evidence.show_values(message.values, message.formats, oids)
            shown = ("[redacted]",) * len(values) if verdict.redacted else values
            params = b',"params":' + orjson.dumps(shown)
        entry = Pending(Kind.BIND, verdict=verdict, name=message.portal)
        self._command(entry, b"bind", params)
        portal = Portal(message.portal, verdict, entry.number, self.port.policy_epoch(), self.syncs)
        portal.prepared, portal.formats = prepared, message.result_formats
        entry.portal = portal
        if not verdict.decision.action:
            self.portals[message.portal] = portal
            self._await(entry)
            if self.masking:
                self._before(buf, run, stop)
                self._describe_portal(portal)
                return False
            return True
        return self._settle(
            buf,
            run,
            pos,
            stop,
            entry,
            values,
            lambda: Bind(message.portal, self.nowhere).encode(),
            hashlib.sha256(b"B" + text + b"\0" + body).digest,
        )

    def _sql_prepared(self, name: bytes) -> Verdict | None:
        """A statement that SQL's PREPARE made: both ways share one namespace."""
        command = self.state.prepared(name.decode("utf-8", "replace"))
        return None if command is None else self.judge.verdict(b"(prepared in SQL) " + name, command)

    def _describe_portal(self, portal: Portal) -> None:
        """The gateway's own Describe: masks need the columns even where the client does not ask for them."""
        entry = Pending(Kind.DESCRIBE, name=portal.name)
        entry.what, entry.hidden, entry.portal = b"P", True, portal
        self._await(entry)
        self.up.append(Describe(b"P", portal.name).encode())

    def _describe(self, buf: bytes, pos: int, stop: int) -> bool:
        body = buf[pos + 5 : stop]
        message = _describes.get(body) or _remember(_describes, body, Describe.decode(body))
        entry = Pending(Kind.DESCRIBE, name=message.name)
        entry.what = message.what
        if message.what == b"P":
            entry.portal = self.portals.get(message.name)
        else:
            entry.prepared = self.parsing.get(message.name) or self.prepared.get(message.name)
        self._await(entry)
        return True

    def _execute(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = _executes.get(body) or _remember(_executes, body, Execute.decode(body))
        portal = self.portals.get(message.portal)
        if portal is None:
            return self._execute_cursor(buf, pos, stop, run, message)
        if portal.policy is not self.port.policy_epoch():
            # the policy changed between Bind and Execute: decide again, on the analysis that the server planned by
            portal.policy = self.port.policy_epoch()
            verdict = self.judge.verdict(b"(portal) " + portal.name, portal.verdict.command)
            if verdict.decision.action > portal.verdict.decision.action:
                portal.verdict = verdict
                entry = self._command(Pending(Kind.EXECUTE, verdict=verdict, name=message.portal), b"execute")
                entry.portal = portal
                return self._settle(
                    buf,
                    run,
                    pos,
                    stop,
                    entry,
                    (),
                    lambda: Execute(self.nowhere).encode(),
                    hashlib.sha256(buf[pos:stop]).digest,
                )
        entry = Pending(Kind.EXECUTE, portal.number, portal.verdict, message.portal)
        entry.portal = portal
        entry.started = self.port.now_ns()
        entry.room = self.limits.response_max
        self._await(entry)
        return True

    def _execute_cursor(self, buf: bytes, pos: int, stop: int, run: int, message: Execute) -> bool | None:
        """A portal that no Bind of ours made: an SQL cursor, or a name that the server will refuse."""
        ready, _ = self._catalog()
        if not ready:
            return None
        command = self.state.portal(message.portal.decode("utf-8", "replace"))
        if command is None:
            name = message.portal.decode("utf-8", "replace")
            self._before(buf, run, pos)
            why = ("34000", f'portal "{name}" does not exist', "")
            self._refuse(Pending(Kind.EXECUTE, name=message.portal), Execute(self.nowhere).encode(), why)
            return False
        verdict = self.judge.verdict(b"(cursor) " + message.portal, command)
        entry = self._command(Pending(Kind.EXECUTE, verdict=verdict, name=message.portal), b"execute")
        portal = Portal(message.portal, verdict, entry.number, self.port.policy_epoch(), self.syncs)
        entry.portal = portal
        if self.masking and not verdict.decision.action:
            self._before(buf, run, pos)
            self._describe_portal(portal)
            self.up.append(buf[pos:stop])
            self._await(entry)
            return False
        return self._settle(
            buf,
            run,
            pos,
            stop,
            entry,
            (),
            lambda: Execute(self.nowhere).encode(),
            hashlib.sha256(buf[pos:stop]).digest,
        )

    def _call(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = FunctionCall.decode(body)
        ready, catalog = self._catalog()
        if not ready:
            return None
        command = analyse_function_call(message.oid, catalog)
        verdict = self.judge.verdict(b"function call of oid %d" % message.oid, command)
        values = evidence.show_values(message.values, message.formats, ())
        entry = self._command(
            self._sync(Pending(Kind.CALL, verdict=verdict)),
            b"call",
            b',"params":' + orjson.dumps(values) if values else b"",
        )
        return self._settle(
            buf, run, pos, stop, entry, values, lambda: FunctionCall(0).encode(), hashlib.sha256(b"F" + body).digest
        )

    # ------------------------------------------------------------ record, then allow, hold, refuse or end

    def _command(self, entry: Pending, phase: bytes, params: bytes = b"") -> Pending:
        """Numbers the command and puts it on record."""
        verdict = entry.verdict
        assert verdict is not None
        self.number = entry.number = self.number + 1
        entry.started = now = self.port.now_ns()
        entry.room = self.limits.response_max
        self.port.record(
            "command", evidence.command(self.session_id, entry.number, now, phase, verdict.fixed, b"", params)
        )
        if verdict.decision.alerts:
            self.port.alert(verdict.decision.alerts, entry.number)
        return entry

    def _record_note(self, number: int, phase: str, text: str, why: str) -> None:
        """A command that was refused before it could be read."""
        body = {
            "t": "command",
            "at": self.port.now_ns(),
            "s": self.session_id.decode(),
            "n": number,
            "phase": phase,
            "kind": "unreadable",
            "text": text,
            "effects": ["unknown"],
            "decision": "deny",
            "rule": "limit",
            "why": why,
        }
        self.port.record("command", orjson.dumps(body))

    def _settle(
        self,
        buf: bytes,
        run: int,
        pos: int,
        stop: int,
        entry: Pending,
        values: tuple[str | None, ...],
        stand_in: Callable[[], bytes],
        digest: Callable[[], bytes],
    ) -> bool | None:
        """Does what the decision says with the message at `buf[pos:stop]`."""
        verdict = entry.verdict
        assert verdict is not None
        decision = verdict.decision
        if decision.action is Action.ALLOW:
            if self.masking and entry.kind == Kind.QUERY and (ahead := self._ask_copy_columns(entry)):
                self._before(buf, run, pos)
                self.up.append(ahead)
                self._sent(entry)
                self.up.append(buf[pos:stop])
                return False
            self._sent(entry)
            return True
        self._before(buf, run, pos)
        if decision.action is Action.TERMINATE:
            self._await(entry)
            self._fail(errors.ADMIN_SHUTDOWN, f"session ended by rule `{decision.rule}`: {decision.why}")
            return False
        if decision.action is Action.DENY or decision.hold is None:
            self._refuse(entry, stand_in(), denial(verdict))
            return False
        message = buf[pos:stop]
        # the approver sees all that would run, as it is; where it is kept it is redacted once it is decided
        request = HoldRequest(
            entry.number,
            verdict.text.decode("utf-8", "replace"),
            digest(),
            verdict.command.analysis,
            decision,
            values,
        )
        try:
            ticket = self.port.hold(request)
        except HoldRefused as e:
            text = f"denied by rule `{decision.rule}`: it needs approval, and nobody can be asked: {e}"
            self._refuse(entry, stand_in(), (errors.INSUFFICIENT_PRIVILEGE, text, "try again later"))
            return False

        def forward() -> None:
            if self.masking and entry.kind == Kind.QUERY:
                self.up.append(self._ask_copy_columns(entry))
            self.up.append(message)
            self._sent(entry)
            if self.masking and entry.kind == Kind.BIND and entry.portal is not None:
                self._describe_portal(entry.portal)

        self.held = Held(ticket, verdict, forward, lambda why: self._refuse(entry, stand_in(), why))
        self.waiting = Wait.HOLD
        minutes = max(1, round((ticket.expires_at - self.port.now_ns() / 1e9) / 60))
        self.down.append(
            notice_response(
                f"held by rule `{decision.rule}`: request {ticket.id} waits for approval, for {minutes} min at most",
                hint="an approver runs: sluicegate approvals show " + ticket.id,
            )
        )
        return False

    def _ask_copy_columns(self, entry: Pending) -> bytes:
        """COPY (query) TO STDOUT announces no columns: the gateway has the query described first, on its own account.

        Only where a Sync of ours changes nothing for the client: no message of the extended protocol is open.
        """
        verdict = entry.verdict
        assert verdict is not None
        if not verdict.touches or (self.queue and self.queue[-1].kind not in (Kind.SYNC, Kind.QUERY, Kind.CALL)):
            return b""
        text = copy_columns.inner_query(verdict.text, len(verdict.command.statements))
        if text is None:
            return b""
        asked = Pending(Kind.DESCRIBE, name=self.nowhere)
        asked.what = b"S"
        asked.prepared = entry.prepared = Prepared(self.nowhere, text, verdict, self._epoch, (), self.syncs)
        for hidden in (Pending(Kind.PARSE), asked, Pending(Kind.CLOSE), self._sync()):
            hidden.hidden = True
            self._await(hidden)
        entry.order = self._sync(Pending(0)).order
        return (
            Parse(self.nowhere, text).encode()
            + Describe(b"S", self.nowhere).encode()
            + Close(b"S", self.nowhere).encode()
            + SYNC
        )

    def _refused_parse(self, entry: Pending) -> None:
        """A Parse that policy let through and the server refused: on record, since it never gets a Bind."""
        self._command(entry, b"parse")

    def _sent(self, entry: Pending) -> None:
        if entry.kind == Kind.BIND and entry.portal is not None:
            self.portals[entry.name] = entry.portal
        self._await(entry)

    def _refuse(self, entry: Pending, stand_in: bytes, why: tuple[str, str, str]) -> None:
        """Sends what must fail on the server in this place; its error comes back as ours."""
        entry.denial = why
        entry.started = entry.started or self.port.now_ns()
        self.up.append(stand_in)
        self.refused += 1
        self._await(entry)

    def _released(self, outcome: Outcome, why: str) -> None:
        """A hold has ended."""
        held, self.held = self.held, None
        if held is None:
            return
        if outcome is Outcome.APPROVED:
            held.forward()
            return
        rule = held.verdict.decision.rule
        if outcome is Outcome.WITHDRAWN:
            held.refuse((errors.QUERY_CANCELED, "canceling statement due to user request", why))
        elif outcome is Outcome.EXPIRED:
            text = f"denied: nobody approved it in time (rule `{rule}`, request {held.ticket.id})"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, "ask an approver, then send the statement again"))
        else:
            text = f"denied by an approver (rule `{rule}`, request {held.ticket.id}): {why}"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, "talk to the approver before you try again"))


def denial(verdict: Verdict) -> tuple[str, str, str]:
    """(SQLSTATE, message, hint) of a denied command."""
    decision, analysis = verdict.decision, verdict.command.analysis
    text = f"denied by rule `{decision.rule}`: {decision.why}"
    hint = f"this command is: {', '.join(sorted(analysis.effects))}"
    if analysis.unknown and analysis.why:
        hint += f" ({analysis.why})"
    return errors.INSUFFICIENT_PRIVILEGE, text, hint
