"""A live session: the port that a protocol's session speaks to, with everything that belongs to one connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from addons.catalogs import CatalogKeeper
from addons.live_view import Recent
from addons.relay import Relay
from guard.approve.book import ApprovalError
from guard.approve.book import Held as HeldApproval
from guard.enforce import SessionPolicy
from guard.leak import ObservedMasker
from guard.mask import Masker
from guard.record.errors import RecordError
from guard.record.redact import redact_params, redact_sql
from guard.state.database import StateError
from protocols.contract import (
    Action,
    Analysis,
    Cacheable,
    CatalogError,
    CatalogSnapshot,
    Decision,
    HoldRefused,
    HoldRequest,
    HoldTicket,
    Outcome,
    Principal,
    RecordFailed,
    Resource,
    ResultMasker,
    Session,
    SessionFacts,
    Wait,
)

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.session")

WARN_BEFORE = 60.0  # seconds before its end that a session is told

_OUTCOMES = {
    "approved": Outcome.APPROVED,
    "denied": Outcome.DENIED,
    "expired": Outcome.EXPIRED,
    "withdrawn": Outcome.WITHDRAWN,
}


class LiveSession:
    """Implements `protocols.contract.SessionPort` for one session."""

    def __init__(
        self,
        runtime: Runtime,
        session_id: str,
        principal: Principal,
        resource: Resource,
        facts: SessionFacts,
        policy: SessionPolicy,
        keeper: CatalogKeeper,
    ) -> None:
        self.runtime = runtime
        self.id = session_id
        self.principal = principal
        self.resource = resource
        self.facts = facts
        self.policy = policy
        self.keeper = keeper
        self.masker: ResultMasker | None = self._masker()
        self.listener = ""
        self.hold_wait: float | None = None  # seconds after which a held command is deferred; None: never
        self.claimed_user = ""
        self.upstream_id = 0  # the server's own number of this session, where it has one
        self.attributes: dict[str, str] = {}  # what else the client says of itself
        self.session: Session | None = None
        self.relay: Relay | None = None
        self.cancel_upstream: Callable[[], None] | None = None
        self.recent = Recent() if runtime.watched else None
        self.commands = 0
        self.end_reason = ""
        self._epoch: object = object()
        self._needs_after = 0.0
        self._warned = False
        self._held: dict[str, HeldApproval] = {}
        self._recorder = runtime.recorder

    # ------------------------------------------------------------ what is masked, and remembered

    def _masker(self) -> ResultMasker | None:
        masker = Masker.of(self.policy.masks, self.runtime.mask_key)
        return ObservedMasker(masker, self.saw) if masker is not None and self.remembers else masker

    @property
    def remembers(self) -> bool:
        """Whether values that are masked here are looked for in what this identity sends out elsewhere."""
        return self.runtime.fingerprints is not None and self.runtime.policies.remembers

    @property
    def identity(self) -> str:
        """Who it is, under one name in every session."""
        return f"{self.principal.issuer}\0{self.principal.subject}"

    def saw(self, value: str) -> None:
        """This identity got a value masked. Only a keyed fingerprint of it is kept."""
        if self.runtime.fingerprints is not None:
            self.runtime.fingerprints.saw(self.identity, value, time.time())

    # ------------------------------------------------------------ SessionPort

    def catalog(self) -> CatalogSnapshot | None:
        return self.keeper.current(self._needs_after)

    def catalog_changed(self) -> None:
        self._needs_after = time.monotonic()

    async def refresh_catalog(self) -> None:
        await self.keeper.refresh(self._needs_after)

    def decide(self, analysis: Analysis) -> Decision:
        stopped = self.runtime.stopped
        if stopped:
            return Decision(Action.DENY, "gateway", stopped, self.policy.version)
        return self.policy.decide(analysis, now=time.time(), facts=self.facts)

    def policy_epoch(self) -> object:
        return self._epoch

    def now_ns(self) -> int:
        return time.time_ns()

    def redact(self, text: str) -> str:
        return redact_sql(text)

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        return redact_params(text, values)

    def record(self, kind: str, body: bytes) -> None:
        try:
            self._recorder.buffer(kind, body)
        except RecordError as e:
            raise RecordFailed(str(e)) from e
        if kind == "command":
            self.commands += 1
        if self.recent is not None:
            self.recent.append(kind, body)

    def hold(self, request: HoldRequest) -> HoldTicket:
        assert request.decision.hold is not None
        try:
            held = self.runtime.approvals.request(
                self.id,
                self.principal,
                self.resource,
                request.decision.hold,
                request.text,
                request.digest,
                request.analysis,
                request.decision.rule,
                request.params,
            )
        except ApprovalError as e:
            raise HoldRefused(str(e)) from e
        except StateError as e:
            log.error("%s: a request for approval is not kept: %s", self.label, e)  # its text names the store's file
            raise HoldRefused("the gateway cannot keep the request now; send it again later") from e
        self._held[held.id] = held
        timer: asyncio.TimerHandle | None = None

        def decided(_: object) -> None:
            if timer is not None:
                timer.cancel()
            self._decided(held, request)

        def waited() -> None:
            if not held.future.done():
                held.future.remove_done_callback(decided)
                self._defer(held, request)

        held.future.add_done_callback(decided)
        if self.hold_wait is not None and time.time() + self.hold_wait < held.expires_at:
            timer = asyncio.get_running_loop().call_later(self.hold_wait, waited)
        return HoldTicket(held.id, held.expires_at)

    def _defer(self, held: HeldApproval, request: HoldRequest) -> None:
        """The client's patience is at its end: the request stays open, the command is refused for now."""
        book = self.runtime.approvals
        try:
            if request.analysis.cacheable is Cacheable.NO:
                # the same words may run something else next time: there is nothing to approve for later
                raise ApprovalError("what it does depends on names of its session")
            book.defer(held.id)
        except (ApprovalError, StateError) as e:
            log.info("%s: request %s is not deferred: %s", self.label, held.id, e)
            book.withdraw(held.id, "its client could not wait any longer")
            self._resume(held, Outcome.EXPIRED, "")
            return
        until = time.strftime("%H:%M:%S UTC", time.gmtime(held.expires_at))
        text = f"request {held.id} waits for approval until {until}; once it is approved, the same command passes once"
        self._resume(held, Outcome.DEFERRED, text)

    def _answerable(self) -> bool:
        """Whether there is somebody to whom an outcome matters."""
        return self.relay is not None

    def _decided(self, held: HeldApproval, request: HoldRequest) -> None:
        """An outcome arrived."""
        if held.future.cancelled() or not self._answerable():
            self._held.pop(held.id, None)
            return
        outcome = held.future.result()
        result = _OUTCOMES.get(outcome.status, Outcome.DENIED)
        if result is Outcome.APPROVED:
            self.runtime.background(self._approved(held, request, ", ".join(outcome.by)), "approval")
        else:
            self._resume(held, result, outcome.reason)

    async def _approved(self, held: HeldApproval, request: HoldRequest, by: str) -> None:
        """What the command means is looked at once more; then the approval is spent, and only then it is let go."""
        try:
            await self.refresh_catalog()
        except CatalogError as e:
            log.warning("%s: %s", self.label, e)  # without a snapshot the session refuses the command
        if held.id not in self._held:
            return  # withdrawn meanwhile
        result, why = Outcome.APPROVED, by
        try:
            if refusal := self.refusal() or self._still_allowed(request):
                raise ApprovalError(refusal)
            self.runtime.approvals.spend(held.id, request.digest, self.id)
        except (ApprovalError, StateError, RecordError) as e:
            result, why = Outcome.DENIED, str(e)
        except Exception:
            log.exception("an approval could not be used")
            result, why = Outcome.DENIED, "internal error in the gateway"
        self._resume(held, result, why)

    def _resume(self, held: HeldApproval, result: Outcome, why: str) -> None:
        self._held.pop(held.id, None)
        relay, session = self.relay, self.session
        if relay is not None and session is not None:
            relay.step(lambda: session.resume(result, why))

    def _still_allowed(self, request: HoldRequest) -> str:
        """While it waited the policy may have become stricter: an approval does not overrule a denial."""
        decision = self.decide(request.analysis)
        if decision.action > Action.HOLD:
            return f"the policy changed meanwhile: denied by rule `{decision.rule}`"
        return ""

    def withdraw(self, ticket: HoldTicket, why: str) -> None:
        self._held.pop(ticket.id, None)
        self.runtime.approvals.withdraw(ticket.id, why)

    def alert(self, names: Sequence[str], number: int) -> None:
        for name in names:
            payload = {"s": self.id, "n": number, "alert": name, "subject": self.principal.subject}
            self.runtime.recorder.event("alert", {**payload, "resource": self.resource.name})
            self.runtime.webhooks.send("alert", payload)

    def cancel_other(self, pid: int, *, end: bool) -> bool:
        other, _ = self.runtime.cancel_keys.get(pid, (None, b""))
        if other is None:  # what a client asks the server for is the server's own id
            other = next((s for s in self.runtime.sessions.values() if s.upstream_id == pid and s.alike(self)), None)
        if other is None or other.relay is None or other.resource.name != self.resource.name:
            return False
        if not other.alike(self):
            return False
        mine = self.principal
        try:
            self._recorder.flush()  # the command that says so is in the journal before it has an effect
        except RecordError as e:
            raise RecordFailed(str(e)) from e
        # not from within: it may be this very session, in the middle of a message
        asyncio.get_running_loop().call_soon(
            (lambda: other.terminate(f"ended by `{mine.subject}` from session {self.id}")) if end else other.cancel
        )
        return True

    def alike(self, other: LiveSession) -> bool:
        """Whether both belong to one identity on one resource."""
        mine, theirs = self.principal, other.principal
        same = (mine.subject, mine.issuer) == (theirs.subject, theirs.issuer)
        return same and self.resource.name == other.resource.name

    # ------------------------------------------------------------ from the runtime

    @property
    def label(self) -> str:
        return f"{self.principal.subject} on {self.resource.name}"

    @property
    def at_work(self) -> bool:
        """In a transaction or a statement; one that waits for people does not count."""
        session = self.session
        return session is not None and session.busy and session.waiting is not Wait.HOLD

    def refusal(self) -> str:
        """Why this session may not go on; empty: it may."""
        blocked = self.runtime.blocked(self.principal)
        if blocked:
            return blocked
        if time.time() >= self.principal.expires_at:
            return "the token of this session has expired; connect again with a new one"
        return ""

    def check(self, now: float) -> None:
        """The regular look: ends the session whose time has come, warns a minute before."""
        why = self.refusal()
        if why:
            self.terminate(why)
        elif not self._warned and now >= self.principal.expires_at - WARN_BEFORE:
            self._warned = True
            left = max(0, round(self.principal.expires_at - now))
            text = f"this session ends in {left} s, with its token; connect again with a new token"
            if self.relay is not None and self.session is not None:
                session = self.session
                self.relay.step(lambda: session.notice(text))

    def begin_under(self, policy: SessionPolicy) -> None:
        """The policy in force as the session begins; it has judged and masked nothing yet."""
        if policy is not self.policy:
            self.policy = policy
            self.masker = self._masker()

    def new_policy(self, policy: SessionPolicy) -> None:
        """A reload: later commands are judged by it; a session that lost its resource ends.

        A change of masks ends the session too: statements that the server has planned were described under the old.
        """
        if not policy.may_connect:
            self.terminate("the policy no longer gives you this resource")
            return
        if policy.masks != self.policy.masks:
            self.terminate("what is masked for you has changed; connect again")
            return
        self.policy = policy
        self.forget_decisions()

    def forget_decisions(self) -> None:
        """No earlier decision stands any more."""
        self._epoch = object()

    def cancel(self) -> None:
        """The client cancels what runs or waits. Safe to call where nothing does."""
        relay, session = self.relay, self.session
        if relay is None or session is None:
            return

        def cancel() -> None:
            if not session.cancelled() and self.cancel_upstream is not None:
                self.cancel_upstream()

        relay.step(cancel)

    def terminate(self, why: str) -> None:
        """The polite end, and the upstream's running query cancelled. Safe to call twice."""
        relay, session = self.relay, self.session
        if relay is None or session is None:
            return
        self.end_reason = self.end_reason or why
        if self.cancel_upstream is not None:
            self.cancel_upstream()
        relay.step(lambda: session.terminate(f"terminating connection: {why}"))

    def summary(self) -> dict[str, object]:
        """For `sessions`."""
        return {
            "session": self.id,
            "subject": self.principal.subject,
            "issuer": self.principal.issuer,
            "groups": sorted(self.principal.groups),
            "resource": self.resource.name,
            "protocol": self.resource.protocol,
            "database": self.resource.database,
            "client": self.facts.client_address,
            "application": self.facts.application,
            "started_at": self.facts.started_at,
            "expires_at": self.principal.expires_at,
            "commands": self.commands,
            "denied": self.session.refused if self.session is not None else 0,
            "token_id": self.principal.token_id,
            "waiting": self.session.waiting.value if self.session is not None and self.session.waiting else None,
            "live": True,
        }
