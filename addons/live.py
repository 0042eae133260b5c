"""A live session: the port that a protocol's session speaks to, with everything that belongs to one connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from addons.catalogs import CatalogKeeper
from addons.holds import Hold
from addons.live_view import Recent
from addons.relay import Relay
from guard.approve import ApprovalError
from guard.enforce import SessionPolicy
from guard.leak import ObservedMasker
from guard.mask import Masker
from guard.record.redact import redact_params, redact_sql
from protocols.contract import (
    Action,
    Analysis,
    Apart,
    CatalogSnapshot,
    Decision,
    HoldRefused,
    HoldRequest,
    HoldTicket,
    Outcome,
    Principal,
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
_SOON = 0.02  # seconds until a cancel request is looked at again whose statement waits for fresh names
NO_LONGER = "the policy no longer gives you this resource"


class Opened(NamedTuple):
    """What a session is made of, once a policy opens a resource to somebody."""

    session_id: str
    principal: Principal
    resource: Resource
    facts: SessionFacts
    policy: SessionPolicy


class LiveSession:
    """Implements `protocols.contract.SessionPort` for one session."""

    fixed_masks = True  # statements that the server has planned were described under the masks of that time

    def __init__(self, runtime: Runtime, opened: Opened, keeper: CatalogKeeper) -> None:
        self.runtime = runtime
        self.id, self.principal, self.resource, self.facts, self.policy = opened
        self.keeper = keeper
        self.masker: ResultMasker | None = self._masker()
        self.apart = True
        self.listener = ""
        self.hold_wait: float | None = None  # seconds after which a held command is deferred; None: never
        self.claimed_user = ""
        self.upstream_id = 0  # the server's own number of this session, where it has one
        self.attributes: dict[str, str] = {}  # what else the client says of itself
        self.session: Session | None = None
        self.relay: Relay | None = None
        self.cancel_upstream: Callable[[], asyncio.Task[None]] | None = None
        self.recent = Recent() if runtime.watched else None
        self.commands = 0
        self.end_reason = ""
        self._epoch: object = object()
        self._needs_after = 0.0
        self._warned = False
        self._holds: dict[HoldTicket, Hold] = {}
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

    def catalog(self, newest: bool = False) -> CatalogSnapshot | None:
        return self.keeper.current(max(self._needs_after, self.keeper.definitions.over_at if newest else 0.0))

    def catalog_changed(self) -> None:
        self._needs_after = time.monotonic()

    async def refresh_catalog(self) -> None:
        # what was asked for is needed from now on, also where the check fails: the older snapshot is known to be wrong
        self._needs_after = max(self._needs_after, self.keeper.definitions.over_at)
        await self.keeper.refresh(self._needs_after)

    def defining(self, relations: Sequence[str]) -> None:
        self.keeper.definitions.begin(self, relations)

    def defined(self, certain: bool = True) -> None:
        self.keeper.definitions.end(self, certain=certain)

    def redefined(self, relations: Sequence[str], since_ns: int) -> bool:
        return self.keeper.definitions.concern(self, relations, since_ns)

    def quiet_since(self, since_ns: int) -> bool:
        return self.keeper.definitions.quiet_since(since_ns)

    def copying(self, relations: Sequence[str]) -> None:
        self.keeper.definitions.copies.begin(self, relations)

    def copied(self, certain: bool = True) -> None:
        self.keeper.definitions.copies.end(self, certain=certain)

    def being_copied(self, relations: Sequence[str]) -> bool:
        return self.keeper.definitions.copies.concern(self, relations)

    def decide(self, analysis: Analysis) -> Decision:
        stopped = self.runtime.stopped
        if stopped:
            return Decision(Action.DENY, "gateway", stopped, self.policy.version)
        return self.policy.decide(analysis, now=time.time(), facts=self.facts)

    def policy_epoch(self) -> object:
        return self._epoch

    now_ns = staticmethod(time.time_ns)

    def redact(self, text: str) -> str:
        return redact_sql(text)

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        return redact_params(text, values)

    def may_record(self) -> None:
        self._recorder.check()

    def record(self, kind: str, body: bytes) -> None:
        self._recorder.buffer(kind, body)
        if kind == "command":
            self.commands += 1
        if self.recent is not None:
            self.recent.append(kind, body)

    def analyse_apart(self, asked: Apart) -> None:
        self.runtime.analysts.ask(self.identity, self.resource.protocol, asked, self._analysed)

    def _analysed(self, asked: Apart, read: object, why: str) -> None:
        relay, session = self.relay, self.session
        if relay is not None and session is not None:
            relay.step(lambda: session.analysed(asked, read, why))

    def forget_apart(self, asked: Apart) -> None:
        self.runtime.analysts.forget(asked)

    def hold(self, request: HoldRequest) -> HoldTicket:
        try:
            self.runtime.approvals.check(self.principal, request.text, request.params)
        except ApprovalError as e:
            raise HoldRefused(str(e)) from e
        hold = Hold(self, request)
        self._holds[hold.ticket] = hold
        self.runtime.background(hold.run(), "request for approval")
        return hold.ticket

    def hold_asked(self) -> None:
        """What is held is in the store, and people are told of it."""
        relay, session = self.relay, self.session
        if relay is not None and session is not None:
            relay.step(session.asked)

    def hold_ended(self, ticket: HoldTicket, result: Outcome, why: str) -> None:
        """Goes on with what was held, or refuses it."""
        self._holds.pop(ticket, None)
        relay, session = self.relay, self.session
        if relay is not None and session is not None:
            relay.step(lambda: session.resume(result, why))

    def withdraw(self, ticket: HoldTicket, why: str) -> None:
        hold = self._holds.get(ticket)
        if hold is not None:
            hold.leave(why)

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
        self._recorder.flush()  # the command that says so is in the journal before it has an effect
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
        if session is None or session.waiting is Wait.HOLD:
            return False
        return session.busy or session.waiting in (Wait.ANALYSIS, Wait.TURN)

    def refusal(self) -> str:
        """Why this session may not go on; empty: it may."""
        blocked = self.runtime.blocklist.why(self.principal)
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

        A change of masks ends the session too, where they are fixed.
        """
        if not policy.may_connect:
            self.terminate(NO_LONGER)
            return
        if self.fixed_masks and policy.masks != self.policy.masks:
            self.terminate("what is masked for you has changed; connect again")
            return
        self.policy = policy
        self.forget_decisions()

    def forget_decisions(self) -> None:
        """No earlier decision stands any more."""
        self._epoch = object()

    def cancel(self) -> asyncio.Task[None] | None:
        """The client cancels what runs or waits; -> the request to the upstream, if there is one.

        Safe to call where nothing runs.
        """
        relay, session = self.relay, self.session
        if relay is None or session is None:
            return None
        asked: list[asyncio.Task[None]] = []
        if session.waiting is Wait.CATALOG:
            # what it is about has not been sent yet: asked now, the server would find nothing to cancel
            asyncio.get_running_loop().call_later(_SOON, self.cancel)
            return None

        def cancel() -> None:
            if not session.cancelled() and self.cancel_upstream is not None:
                asked.append(self.cancel_upstream())

        relay.step(cancel)
        return asked[0] if asked else None

    def terminate(self, why: str) -> None:
        """The polite end, and the upstream's running query cancelled. Safe to call twice."""
        relay, session = self.relay, self.session
        if relay is None or session is None:
            return
        self.end_reason = self.end_reason or why
        if self.cancel_upstream is not None:
            self.cancel_upstream()
        relay.step(lambda: session.terminate(f"terminating connection: {why}"))

    @property
    def denials(self) -> int:
        """Commands of it that were refused."""
        return self.session.refused if self.session is not None else 0

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
            "denied": self.denials,
            "token_id": self.principal.token_id,
            "waiting": self.session.waiting.value if self.session is not None and self.session.waiting else None,
            "live": True,
        }
