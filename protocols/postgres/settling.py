"""What becomes of a command: wait for what decides its meaning, put it on record, let it go, hold or refuse it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import orjson

from protocols.contract import Action, Analysis, Cacheable, HoldRefused, HoldRequest, Outcome, Wait
from protocols.postgres import copy_columns, errors, evidence
from protocols.postgres.base import Held, SessionBase
from protocols.postgres.catalog import Catalog
from protocols.postgres.errors import notice_response
from protocols.postgres.messages import (
    SYNC,
    Close,
    Describe,
    Parse,
)
from protocols.postgres.pending import Kind, Pending, Prepared, Verdict
from protocols.postgres.statements.names import TEMP
from protocols.verdicts import CANCELLED

STAND_IN = b"sluicegate: stopped by policy"  # no SQL: the server answers it with a syntax error


class Settling(SessionBase):
    """Mixed into `PostgresSession`."""

    # ------------------------------------------------------------ waiting for what comes first

    def _must_wait(self) -> bool:
        """Something in flight decides what the next message means."""
        if self._barrier is not None:
            if self._barrier.name in self.parsing and self.parsing[self._barrier.name] is self._barrier:
                return True
            self._barrier = None
            return False
        for entry in reversed(self.queue):
            if entry.settled:  # and so is everything before it: a long pipeline is not looked through for each message
                break
            if entry.verdict is not None and entry.verdict.changes and entry.kind != Kind.PARSE:
                return True
        if self.queue:
            self.queue[-1].settled = True
        return False

    def _renaming(self) -> bool:
        """Something that is running may close portals or declare cursors."""
        running = (Kind.QUERY, Kind.EXECUTE, Kind.CALL)
        for entry in reversed(self.queue):
            if entry.quiet or entry.settled:
                break
            if entry.verdict is not None and entry.verdict.changes and entry.kind in running:
                return True
        if self.queue:
            self.queue[-1].quiet = True
        return False

    def _naming(self, verdict: Verdict) -> bool:
        """The verdict rests on names (EXECUTE, FETCH, ...) of which one in flight may come to mean something else."""
        if verdict.command.analysis.cacheable is not Cacheable.NO:
            return False
        naming = (Kind.PARSE, Kind.CLOSE, Kind.BIND)
        for entry in reversed(self.queue):
            if entry.nameless:
                break
            if entry.kind in naming and entry.name and not entry.hidden:
                return True
        if self.queue:
            self.queue[-1].nameless = True
        return False

    def _wait_for_server(self) -> None:
        if self.queue[-1].kind not in (Kind.SYNC, Kind.QUERY, Kind.CALL):
            self._want_flush = True  # or the server would keep its answers, and both would wait
        self.waiting = Wait.SERVER

    def _catalog(self) -> tuple[bool, Catalog | None]:
        """-> (may go on, catalog). A stale snapshot is waited for once; after that it counts as none."""
        if self.queue and self._must_wait():
            self._wait_for_server()
            return False, None
        catalog = self.port.catalog(newest=not self.catalog_waited)
        if catalog is None and not self.catalog_waited:
            self.waiting = Wait.CATALOG
            return False, None
        self.catalog_waited = False
        assert catalog is None or isinstance(catalog, Catalog)
        self._epoch = self.judge.epoch(catalog)
        return True, catalog

    # ------------------------------------------------------------ record, then allow, hold, refuse or end

    def _command(self, entry: Pending, phase: bytes, params: bytes = b"") -> Pending:
        """Numbers the command and puts it on record."""
        verdict = entry.verdict
        assert verdict is not None
        self.number = entry.number = self.number + 1
        entry.started = now = self.port.now_ns()
        entry.room = self.limits.response_max
        fixed, runs = verdict.fixed, verdict.runs
        self._record_command(evidence.command(self.session_id, entry.number, now, phase, fixed, runs, params))
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
        self._record_command(orjson.dumps(body))

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
            if unsettled := self._unsettled(verdict):
                self._before(buf, run, pos)
                self._refuse(entry, stand_in(), (errors.OBJECT_IN_USE, unsettled, "send it again when that is over"))
                return False
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
        shown, bound = verdict.text.decode(self.state.codec, "replace"), digest()
        if behind := verdict.command.behind:  # a name alone says nothing, and may be made anew before it is approved
            shown = "\n\n-- what it names was made by:\n".join((shown, *behind))
            bound = hashlib.sha256(bound + "\0".join(behind).encode("utf-8", "surrogatepass")).digest()
        request = HoldRequest(
            entry.number,
            shown,
            bound,
            verdict.command.analysis,
            decision,
            values,
            tuple(one.analysis for one in verdict.command.statements),
            self._told(verdict),
        )
        try:
            ticket = self.port.hold(request)
        except HoldRefused as e:
            why = (errors.INSUFFICIENT_PRIVILEGE, unasked(decision.rule, str(e)), "try again later")
            self._refuse(entry, stand_in(), why)
            return False

        def forward() -> None:
            if self.masking and entry.kind == Kind.QUERY:
                self.up.append(self._ask_copy_columns(entry))
            self.up.append(message)
            self._sent(entry)
            if self.masking and entry.kind == Kind.BIND and entry.portal is not None:
                self._describe_portal(entry.portal)

        refuse = lambda why: self._refuse(entry, stand_in(), why)  # noqa: E731
        self.held = Held(ticket, entry, verdict, forward, refuse, self._epoch)
        self.waiting = Wait.HOLD
        return False

    def _told(self, verdict: Verdict) -> bytes:
        """What else decides what it does: settings and the role; what only this session holds, as it is now."""
        told = self.state.told()
        if told is None or of_temporaries(verdict.command.analysis):
            return b"%b %d" % (self.session_id, self.state.changes)
        return told

    def asked(self) -> None:
        """The approvers have been asked for what is held: the client is told."""
        if self.held is None:
            return
        rule, ticket = self.held.verdict.decision.rule, self.held.ticket
        minutes = max(1, round((ticket.expires_at - self.port.now_ns() / 1e9) / 60))
        self._tell(
            notice_response(
                f"held by rule `{rule}`: request {ticket.id} waits for approval, for {minutes} min at most",
                hint="an approver runs: sluicegate approvals show " + ticket.id,
            )
        )

    def _ask_copy_columns(self, entry: Pending) -> bytes:
        """COPY (query) TO STDOUT announces no columns: the gateway has the query described first, on its own account.

        Only where a Sync of ours changes nothing for the client: no message of the extended protocol is open.
        """
        verdict = entry.verdict
        assert verdict is not None
        if not verdict.touches or self.open:
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
        if entry.kind in (Kind.PARSE, Kind.BIND, Kind.EXECUTE):
            self.skipping = True  # from here to Sync the server ignores everything, and so do we

    def _released(self, outcome: Outcome, why: str) -> None:
        """A hold has ended."""
        held, self.held = self.held, None
        if held is None:
            return
        if self.skipping:  # an earlier message of its pipeline failed meanwhile: the server would ignore it
            self._finish(held.entry, b"skipped")
            return
        if outcome is Outcome.APPROVED and self._means_what_it_did(held):
            if unsettled := self._unsettled(held.verdict):
                held.refuse((errors.OBJECT_IN_USE, unsettled, "ask again when that is over"))
                return
            held.forward()
            return
        rule = held.verdict.decision.rule
        if outcome is Outcome.APPROVED:
            text = f"what this command does changed while it waited (rule `{rule}`, request {held.ticket.id})"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, "send it again, to be judged as it is now"))
        elif outcome is Outcome.WITHDRAWN:
            held.refuse((errors.QUERY_CANCELED, "canceling statement due to user request", why))
        elif outcome is Outcome.REFUSED:
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, unasked(rule, why), "try again later"))
        elif outcome is Outcome.EXPIRED:
            text = f"denied: nobody approved it in time (rule `{rule}`, request {held.ticket.id})"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, "ask an approver, then send the statement again"))
        elif outcome is Outcome.DEFERRED:
            text = f"held by rule `{rule}`: {why}"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, f"ask for request {held.ticket.id}, then send it again"))
        else:
            text = f"denied by an approver (rule `{rule}`, request {held.ticket.id}): {why}"
            held.refuse((errors.INSUFFICIENT_PRIVILEGE, text, "talk to the approver before you try again"))

    def _means_what_it_did(self, held: Held) -> bool:
        """Names may have changed since the approvers were shown what the command does: it must still do just that."""
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        if catalog is not None and self.judge.epoch(catalog) is held.epoch:
            return True
        if catalog is None or held.entry.kind not in (Kind.QUERY, Kind.BIND):
            return False
        analysis, text = held.verdict.command.analysis, held.verdict.text
        if self.judge.apart(text) and analysis.cacheable is Cacheable.NO:
            return False  # what its names mean may change while it is analysed
        again = self.judge.judge(text, catalog)
        return again.command.analysis == analysis and again.decision.action <= Action.HOLD


def of_temporaries(analysis: Analysis) -> bool:
    """Whether it is about what only its session holds."""
    return any(name.startswith(f"{TEMP}.") for name in (*analysis.reads, *analysis.writes))


def unasked(rule: str, why: str) -> str:
    """The message where a rule asks for approval and nobody can be asked."""
    return f"denied by rule `{rule}`: it needs approval, and nobody can be asked: {why}"


MAX_CALLS = 5  # of the functions that a statement calls, that a refusal names


def denial(verdict: Verdict) -> tuple[str, str, str]:
    """(SQLSTATE, message, hint) of a denied command."""
    decision, analysis = verdict.decision, verdict.command.analysis
    if decision is CANCELLED:
        return errors.QUERY_CANCELED, "canceling statement due to user request", decision.why
    text = f"denied by rule `{decision.rule}`: {decision.why}"
    hint = f"this command is: {', '.join(sorted(analysis.effects))}"
    if analysis.unknown and analysis.why:
        hint += f" ({analysis.why})"
    if analysis.functions:
        hint += f"; it calls {', '.join(analysis.functions[:MAX_CALLS])}"
    return errors.INSUFFICIENT_PRIVILEGE, text, hint
