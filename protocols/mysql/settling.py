"""What becomes of a command: wait for what decides its meaning, put it on record, let it go, hold or refuse it."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from protocols.contract import Action, Cacheable, Decision, HoldRefused, HoldRequest, Outcome, Side, Wait
from protocols.mysql import errors, evidence
from protocols.mysql.base import Held, SessionBase
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import Code
from protocols.mysql.messages import Command
from protocols.mysql.pending import Awaited, Pending, Prepared, Verdict
from protocols.verdicts import CANCELLED


class Settling(SessionBase):
    """Mixed into `MysqlSession`."""

    def _catalog(self) -> tuple[bool, Catalog | None]:
        """-> (may go on, catalog). A stale snapshot is waited for once; after that it counts as none."""
        catalog = self.port.catalog(newest=not self.catalog_waited)
        if catalog is None and not self.catalog_waited:
            self.waiting = Wait.CATALOG
            return False, None
        self.catalog_waited = False
        assert catalog is None or isinstance(catalog, Catalog)
        self._epoch = self.judge.epoch(catalog)
        self._names = catalog
        return True, catalog

    # ------------------------------------------------------------ record, then allow, hold, refuse or end

    def _command(self, entry: Pending, phase: bytes, params: bytes = b"") -> Pending:
        """Numbers the command and puts it on record."""
        verdict = entry.verdict
        assert verdict is not None
        return self._record(entry, phase, verdict.fixed, verdict.decision, params)

    def _record_decided(self, entry: Pending, phase: bytes, verdict: Verdict, decision: Decision) -> None:
        """Puts a command on record that the gateway itself decides (KILL, commands that are never let pass)."""
        analysis = verdict.command.analysis
        fixed = evidence.command_static(analysis, decision, self.port.redact(analysis.shape))
        self._record(entry, phase, fixed + verdict.text_field, decision)

    def _record(self, entry: Pending, phase: bytes, fixed: bytes, decision: Decision, params: bytes = b"") -> Pending:
        self.number = entry.number = self.number + 1
        entry.started = now = self.port.now_ns()
        entry.room = self._room(entry)
        self._record_command(evidence.command(self.session_id, entry.number, now, phase, fixed, b"", params))
        if decision.alerts:
            self.port.alert(decision.alerts, entry.number)
        return entry

    def _refuse_unread(self, command: int, phase: str, text: str, sequence: int, code: Code, why: str) -> None:
        """Refuses a command that is not judged: it cannot be read, or never passes whatever a policy says."""
        entry = Pending(command, Awaited.SIMPLE)
        self.number = entry.number = self.number + 1
        entry.started = self.port.now_ns()
        entry.room = self.limits.response_max
        body = {
            "t": "command",
            "at": entry.started,
            "s": self.session_id.decode(),
            "n": entry.number,
            "phase": phase,
            "kind": "unreadable",
            "text": text,
            "effects": ["unknown"],
            "decision": "deny",
            "rule": "limit",
            "why": why,
        }
        self._record_command(orjson.dumps(body))
        self._refuse(entry, sequence, code, why)

    def _settle(
        self,
        entry: Pending,
        messages: list[bytes],
        sequence: int,
        values: tuple[str | None, ...],
        digest: Callable[[], bytes],
    ) -> None:
        """Does what the decision says with a command that is on record. `messages` are its bytes for the server."""
        verdict = entry.verdict
        assert verdict is not None
        decision = verdict.decision
        if decision.action is Action.ALLOW:
            if why := self._unsettled(verdict):
                self._refuse(entry, sequence, errors.TABLEACCESS_DENIED, why)
                return
            self._send(entry, messages, sequence)
            return
        if decision.action is Action.TERMINATE:
            text = f"session ended by rule `{decision.rule}`: {decision.why}"
            self._refuse(entry, sequence, errors.SERVER_SHUTDOWN, text)
            self.lost(Side.CLIENT)
            return
        if decision.action is Action.DENY or decision.hold is None:
            code, text = errors.TABLEACCESS_DENIED, denial(verdict)
            if decision is CANCELLED:
                code, text = errors.QUERY_INTERRUPTED, "Query execution was interrupted"
            self._refuse(entry, sequence, code, text)
            return
        # the approver sees all that would run, as it is; where it is kept it is redacted once it is decided
        request = HoldRequest(
            entry.number,
            verdict.text.decode(self.state.codec, "replace"),
            digest(),
            verdict.command.analysis,
            decision,
            values,
            tuple(one.analysis for one in verdict.command.statements),
        )
        try:
            ticket = self.port.hold(request)
        except HoldRefused as e:
            self._refuse(entry, sequence, errors.TABLEACCESS_DENIED, unasked(decision.rule, str(e)))
            return
        self.held = Held(ticket, entry, verdict, messages, sequence, self._epoch)
        self.waiting = Wait.HOLD

    def asked(self) -> None:
        """The protocol has no message for somebody who waits: the client is silent until the outcome."""

    def _refuse(self, entry: Pending, sequence: int, code: Code, message: str) -> None:
        """Answers a command with an error of our own; the server never hears of it, so nothing changes there."""
        entry.started = entry.started or self.port.now_ns()
        self.refused += 1
        self._capture(entry, self._answer_error(sequence, code, message))
        self._finish(entry, b"error", code[1])
        if entry.prepared is not None and entry.command == Command.STMT_EXECUTE:
            self._forget_long(entry.prepared)  # as the server does after an execution, whatever came of it

    def _forget_long(self, prepared: Prepared) -> None:
        self._long_total -= prepared.long_size
        prepared.forget_long()

    def _released(self, outcome: Outcome, why: str) -> None:
        """A hold has ended."""
        held, self.held = self.held, None
        if held is None:
            return
        if outcome is Outcome.APPROVED and self._means_what_it_did(held):
            if unsettled := self._unsettled(held.verdict):
                self._refuse(held.entry, held.sequence, errors.TABLEACCESS_DENIED, unsettled)
                return
            self._send(held.entry, held.messages, held.sequence)
            return
        rule, ticket = held.verdict.decision.rule, held.ticket.id
        code = errors.TABLEACCESS_DENIED
        if outcome is Outcome.APPROVED:
            text = f"what this command does changed while it waited (rule `{rule}`, request {ticket}): send it again"
        elif outcome is Outcome.REFUSED:
            text = unasked(rule, why)
        elif outcome is Outcome.DEFERRED:
            text = (
                f"held by rule `{rule}`: request {ticket} waits for approval; "
                "once it is approved, send the same statement again"
            )
        elif outcome is Outcome.WITHDRAWN:
            code = errors.QUERY_INTERRUPTED
            text = f"Query execution was interrupted: {why}" if why else "Query execution was interrupted"
        elif outcome is Outcome.EXPIRED:
            text = (
                f"denied: nobody approved it in time (rule `{rule}`, request {ticket}); "
                "ask an approver, then send the statement again"
            )
        else:
            text = f"denied by an approver (rule `{rule}`, request {ticket}): {why}"
        self._refuse(held.entry, held.sequence, code, text)

    def _means_what_it_did(self, held: Held) -> bool:
        """Names may have changed since the approvers were shown what the command does: it must still do just that."""
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        if catalog is None:
            return False
        if self.judge.epoch(catalog) is held.epoch:
            return True
        analysis = held.verdict.command.analysis
        if self.judge.apart(held.verdict.text) and analysis.cacheable is Cacheable.NO:
            return False  # what its names mean may change while it is analysed
        again = self._judged_again(held.entry, catalog)
        return again.command.analysis == analysis and again.decision.action <= Action.HOLD

    def _judged_again(self, entry: Pending, catalog: Catalog) -> Verdict:
        raise NotImplementedError


def unasked(rule: str, why: str) -> str:
    """The message where a rule asks for approval and nobody can be asked."""
    return f"denied by rule `{rule}`: it needs approval, and nobody can be asked: {why}; try again later"


MAX_CALLS = 5  # of the functions that a statement calls, that a refusal names


def denial(verdict: Verdict) -> str:
    """What a denied client reads."""
    decision, analysis = verdict.decision, verdict.command.analysis
    text = f"denied by rule `{decision.rule}`: {decision.why}"
    text += f" (this command is: {', '.join(sorted(analysis.effects))}"
    if analysis.unknown and analysis.why and analysis.why not in text:
        text += f"; {analysis.why}"
    if analysis.functions:
        text += f"; it calls {', '.join(analysis.functions[:MAX_CALLS])}"
    return text + ")"
