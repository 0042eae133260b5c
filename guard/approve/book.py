"""The requests that connections of this process wait on, and the votes on requests of any process.

    request -> (vote ...) -> approved -> spend          the command runs
                          -> denied | expired | withdrawn   it does not

`defer` lets the connection go while its request stays open: the same command of the same identity then joins it, from
whatever connection, and is released by the same approval, once.

The store journals every step inside its own transaction, so nothing here is recorded twice. What is added: who may
vote, how many requests one identity may have open, and the futures that connections wait on.

The store is asked in threads (`guard.state.StateAccess`); everything else here belongs to the event loop. Between a
question and its answer anything may have happened: a client that left, an expiry, a vote through another gateway.

INVARIANT: changes go through one queue. A withdrawal therefore comes after the request, and after the spending, that it
is about, however late those are.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from guard.approve.leftovers import Leftovers
from guard.approve.summaries import details_of, meaning_of, summary
from guard.record.errors import RecordError
from guard.state import (
    Approval,
    ApprovalConflict,
    ApprovalStatus,
    LostAnswer,
    StateAccess,
    StateError,
    StateStore,
    Vote,
)
from guard.state.approvals import same_person
from guard.state.store import ChangeToken
from protocols.contract import Analysis, HoldTerms, Principal, Resource

MAX_OPEN_PER_SUBJECT = 20  # a looping agent must not bury what approvers should read
MAX_REASON = 1000  # characters
MAX_TEXT = 256 * 1024  # characters of statement and parameters: what is approved is shown whole
TURN_WITHIN = 10.0  # seconds for a request to get its turn: they are stored one after the other
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: people read ids to each other
_ID_LENGTH = 8
_FINAL_TEXT = {
    ApprovalStatus.DENIED: "refused",
    ApprovalStatus.EXPIRED: "nobody decided in time",
    ApprovalStatus.WITHDRAWN: "withdrawn",
    ApprovalStatus.SPENT: "already used",
}

log = logging.getLogger("sluicegate.approve")


class ApprovalError(Exception):
    """A request or a vote that is not accepted. The text is for the person who asked."""


class Notifier(Protocol):
    """Tells people. INVARIANT: returns at once and never raises."""

    def send(self, event: str, data: Mapping[str, Any]) -> None: ...


class EventRecorder(Protocol):
    """The part of the recorder that is needed here."""

    def event(self, kind: str, payload: Mapping[str, Any]) -> int: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wait ended. An approved one still has to be spent."""

    approved: bool
    by: tuple[str, ...]
    reason: str  # for the client; no secrets
    status: str  # approved, denied, expired, withdrawn


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A command that waits. `future` always gets an outcome, at the latest when the request expires and is polled."""

    id: str
    expires_at: float  # seconds since the epoch
    future: asyncio.Future[Outcome]
    subject: str
    deferred: bool = False  # joined a request that had been deferred


class ApprovalBook:
    """Requests, votes and outcomes. `max_hold` (seconds) bounds what a rule may ask for.

    `is_approver` says whether a principal has the approver's role at all; the terms of a request narrow that further.
    """

    def __init__(
        self,
        state: StateAccess,
        recorder: EventRecorder,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.time,
        *,
        gateway: str = "",
        max_hold: float = 600.0,
        is_approver: Callable[[Principal], bool] = lambda _: True,
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._notifier = notifier
        self._clock = clock
        self._gateway = gateway
        self._max_hold = max_hold
        self._is_approver = is_approver
        self._held: dict[str, Held] = {}
        self._releasing: set[str] = set()  # approved, and neither spent nor withdrawn yet
        self._new: set[str] = set()  # of `_held`: no look at the store was begun since
        self._asking = asyncio.Lock()
        self._seen: ChangeToken | None = None
        self._leftovers = Leftovers(state, clock, self._expired)

    def start(self) -> int:
        """Withdraw what an earlier life of this gateway left waiting: those connections are gone. Raises StateError.

        Before anybody is served: the only call that asks the store at once.
        """
        left = self._state.store.approvals.withdraw_gateway(
            self._gateway, at=self._clock(), reason="the gateway was restarted; send the command again"
        )
        return len(left)

    # -- the waiting side

    def check(self, principal: Principal, text: str, params: Sequence[str | None]) -> None:
        """What can be said without asking the store. Raises ApprovalError."""
        if len(text) + sum(len(param) for param in params if param is not None) > MAX_TEXT:
            raise ApprovalError(f"a command of more than {MAX_TEXT} characters is too long for anybody to approve")
        if principal.expires_at <= self._clock():
            raise ApprovalError("the session ends before anybody could approve; get a new token")

    async def request(
        self,
        session_id: str,
        principal: Principal,
        resource: Resource,
        terms: HoldTerms,
        text: str,
        digest: bytes,
        analysis: Analysis,
        rule: str,
        params: Sequence[str | None] = (),
    ) -> Held:
        """Ask for approval of one command, or join the request that was deferred for it.

        Raises ApprovalError or StateError: the caller denies. A request that may have been stored all the same is
        withdrawn.

        `text` is the exact statement, because an approver must see what would run; it is redacted wherever it leaves
        the approver's view (journal, webhook), and in the store once the request is final. `digest` binds text and
        parameters.
        """
        self.check(principal, text, params)
        meaning, details = meaning_of(analysis, resource), details_of(analysis)
        async with self._turn():
            now = self._clock()
            # an approval that outlives the identity it is for would release a command of nobody
            expires_at = min(now + min(terms.expires_s, self._max_hold), principal.expires_at)
            if expires_at <= now:
                raise ApprovalError("the session ends before anybody could approve; get a new token")
            approval = Approval(
                id="".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)),
                session_id=session_id,
                gateway=self._gateway,
                subject=principal.subject,
                issuer=principal.issuer,
                resource=resource.name,
                text=text,
                digest=digest,
                params=tuple(params),
                rule=rule,
                terms=terms,
                details=details,
                requested_at=now,
                expires_at=expires_at,
                meaning=meaning,
            )
            # nobody else adds to it while we have the turn
            waiting = [held.id for held in self._held.values() if held.subject == approval.subject]
            taken = frozenset(waiting) | self._releasing
            try:
                with _conflicts():
                    stored = await self._state.change(lambda store: _open(store, approval, waiting, taken))
            except (LostAnswer, asyncio.CancelledError):
                self._leftovers.withdraw(approval.id, "the gateway could not keep the request")
                raise
            if stored is approval:
                self._notify("approval.requested", approval)
            return self._wait(stored)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_WITHIN):
                await self._asking.acquire()
        except TimeoutError:
            raise StateError("too many requests wait for the state database; try again") from None
        try:
            yield
        finally:
            self._asking.release()

    def _wait(self, approval: Approval) -> Held:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        held = Held(approval.id, approval.expires_at, future, approval.subject, approval.deferred)
        self._held[held.id] = held
        self._new.add(held.id)  # it may have been decided between its transaction and now
        self._settle(approval)  # a deferred one may be decided already
        return held

    async def defer(self, held: Held) -> None:
        """The connection waits no longer, the request stays open for the same command of the same identity.

        Raises ApprovalError or StateError: it is not deferred then, and still waits. The caller withdraws it.
        """
        with _conflicts():
            await self._state.change(lambda store: store.approvals.defer(held.id, at=self._clock()))
        self._drop(held)

    def withdraw(self, held: Held, reason: str) -> None:
        """The client left or cancelled. Never raises: if the store cannot be told now, it is told later.

        A request that had been deferred before stays open: nothing of it can run unless its command is sent again.
        """
        self._finish(held.id, Outcome(False, (), reason, ApprovalStatus.WITHDRAWN.value))
        self._releasing.discard(held.id)
        if not held.deferred:
            self._leftovers.withdraw(held.id, reason[:MAX_REASON])

    async def spend(self, held: Held, digest: bytes, session_id: str = "") -> None:
        """Use the approval, once, for exactly these bytes, in this session. When this returns the command may run.

        Raises ApprovalError or StateError: deny. After a `LostAnswer` it may be spent, and was used for nothing.
        """
        if self._leftovers.has(held.id):
            raise ApprovalError(f"approval `{held.id}` is already withdrawn")
        try:
            with _conflicts():
                await self._state.change(
                    lambda store: store.approvals.spend(held.id, digest, at=self._clock(), session_id=session_id)
                )
        finally:
            self._releasing.discard(held.id)
        if self._clock() >= held.expires_at:  # it may have waited for a lock
            raise ApprovalError(f"approval `{held.id}` has expired")

    # -- the deciding side

    async def get(self, approval_id: str) -> Approval | None:
        """One request as the store has it now, its overdue ones expired first. Raises StateError."""
        await self._expire()
        return await self._state.read(lambda store: store.approvals.get(approval_id))

    async def list(self, status: str | None = None, limit: int = 1000) -> Sequence[Approval]:
        """Requests, newest first. Raises StateError; ApprovalError for a status that does not exist."""
        try:
            wanted = None if status is None else ApprovalStatus(status)
        except ValueError:
            known = ", ".join(each.value for each in ApprovalStatus)
            raise ApprovalError(f"there is no status `{status}`: {known}") from None
        await self._expire()
        return await self._state.read(lambda store: store.approvals.list(status=wanted, limit=limit))

    def objection(self, approval: Approval, principal: Principal) -> str | None:
        """Why this principal may not decide on this request; None: they may."""
        if same_person(principal.subject, approval.subject):
            return "nobody decides on their own request; ask another approver"
        if not self._is_approver(principal):
            return "you do not have the role `approver`"
        terms = approval.terms
        named = terms.approver_groups or terms.approver_subjects
        if named and not (principal.subject in terms.approver_subjects or principal.groups & terms.approver_groups):
            who = sorted(terms.approver_groups) + sorted(terms.approver_subjects)
            return f"this request is decided by {', '.join(who)}"
        if terms.approver_issuers and principal.issuer not in terms.approver_issuers:
            return f"this request is decided by identities of {', '.join(sorted(terms.approver_issuers))}"
        return None

    async def vote(self, approval_id: str, principal: Principal, approve: bool, reason: str = "") -> Approval:
        """Approve or refuse. Returns the request afterwards.

        Raises ApprovalError or StateError: then nothing changed, except after a `LostAnswer`, which says so.
        """
        reason = reason.strip()
        if not approve and not reason:
            raise ApprovalError("a refusal needs a reason: the person who asked will read it")
        if len(reason) > MAX_REASON or not all(char.isprintable() or char in "\n\t" for char in reason):
            raise ApprovalError(f"a reason is printable text of at most {MAX_REASON} characters")
        approval = await self.get(approval_id)
        if approval is None:
            raise ApprovalError(f"there is no request `{approval_id}`; see `sluicegate approvals list`")
        objection = self.objection(approval, principal)
        if objection is not None:
            self._alert(approval, principal, approve, objection)
            raise ApprovalError(objection)
        # to the end, also if the caller gives up: those who wait for the outcome must hear of it
        return await asyncio.shield(self._leftovers.task(self._vote(approval_id, principal, approve, reason)))

    async def _vote(self, approval_id: str, principal: Principal, approve: bool, reason: str) -> Approval:
        def cast(store: StateStore) -> Approval:
            return store.approvals.vote(
                approval_id, Vote(principal.subject, principal.issuer, approve, reason, self._clock())
            )

        with _conflicts():
            decided = await self._state.change(cast)
        if decided.status is not ApprovalStatus.PENDING:
            self._notify("approval.decided", decided)
            self._settle(decided)
        return decided

    # -- the regular look

    def tick(self) -> None:
        """Refuse what is overdue, whatever the store says. To be called a few times a second."""
        now = self._clock()
        for held in [held for held in self._held.values() if held.expires_at <= now]:
            self._finish(held.id, Outcome(False, (), _FINAL_TEXT[ApprovalStatus.EXPIRED], "expired"))

    async def poll(self) -> None:
        """Pick up decisions made through other processes, and see to what is overdue or left. One at a time.

        Raises StateError when the store does not answer.
        """
        self.tick()
        new, self._new = self._new, set()
        try:
            seen, changed = await self._state.look(lambda store: store.changed_since(self._seen))
            ids = tuple(self._held) if changed else tuple(new & self._held.keys())
            for approval_id in ids:
                found = await self._state.look(_fetching(approval_id))
                if found is None:
                    self._finish(approval_id, Outcome(False, (), "the request is gone", "withdrawn"))
                else:
                    self._settle(found)
            overdue = await self._state.look(lambda store: store.approvals.overdue(at=self._clock()))
        except BaseException:
            self._new |= new
            raise
        # last: a look that failed half way is repeated
        self._seen = seen
        if overdue or self._leftovers.withdrawals:
            self._leftovers.tidy()

    @property
    def waiting(self) -> int:
        """How many connections of this process wait."""
        return len(self._held)

    # -- inside

    async def _expire(self) -> None:
        if await self._state.read(lambda store: store.approvals.overdue(at=self._clock())):
            await asyncio.shield(self._leftovers.task(self._leftovers.expire()))

    def _expired(self, approvals: Sequence[Approval]) -> None:
        for approval in approvals:
            self._notify("approval.decided", approval)
            self._settle(approval)

    def _settle(self, approval: Approval) -> None:
        """Give a waiting connection its outcome, if the request is decided."""
        if approval.status is ApprovalStatus.PENDING:
            return
        by = tuple(vote.subject for vote in approval.votes)
        approved = approval.status is ApprovalStatus.APPROVED
        reason = approval.reason or _FINAL_TEXT.get(approval.status, "")
        self._finish(approval.id, Outcome(approved, by, reason, approval.status.value))

    def _finish(self, approval_id: str, outcome: Outcome) -> None:
        held = self._held.get(approval_id)
        if held is not None:
            self._drop(held)
            if outcome.approved:
                self._releasing.add(approval_id)
            if not held.future.done():
                held.future.set_result(outcome)

    def _drop(self, held: Held) -> None:
        """Nobody waits for it here any more."""
        if self._held.get(held.id) is held:
            del self._held[held.id]

    def _alert(self, approval: Approval, principal: Principal, approve: bool, why: str) -> None:
        facts = {
            "alert": "vote refused",
            "approval": approval.id,
            "s": approval.session_id,
            "subject": approval.subject,
            "by": principal.subject,
            "issuer": principal.issuer,
            "approve": approve,
            "why": why,
        }
        with _conflicts():
            self._recorder.event("alert", facts)
        if self._notifier is not None:
            self._notifier.send("alert", facts)

    def _notify(self, event: str, approval: Approval) -> None:
        if self._notifier is not None:
            self._notifier.send(event, summary(approval))


def _fetching(approval_id: str) -> Callable[[StateStore], Approval | None]:
    return lambda store: store.approvals.get(approval_id)


def _open(store: StateStore, approval: Approval, waiting: Sequence[str], taken: frozenset[str]) -> Approval:
    """In the store's thread: the deferred request that this one joins, or this one, stored.

    `waiting`: what connections of this process wait for, of the same subject; `taken`: what cannot be joined.
    """
    deferred = store.approvals.deferred(approval.subject, approval.issuer, at=approval.requested_at)
    mine = _identity(approval)
    for one in deferred:
        if _identity(one) == mine and one.id not in taken:
            return one
    if len({*waiting, *(one.id for one in deferred)}) >= MAX_OPEN_PER_SUBJECT:
        raise ApprovalError(f"`{approval.subject}` has {MAX_OPEN_PER_SUBJECT} requests open; wait for answers")
    store.approvals.insert(approval)
    return approval


def _identity(approval: Approval) -> tuple[object, ...]:
    """Of one identity's requests: what must be the same for an approval of one to be an approval of the other."""
    return approval.resource, approval.rule, approval.terms, approval.digest, approval.meaning


@contextmanager
def _conflicts() -> Iterator[None]:
    """What the store refuses, in words for the person; the journal's own error names files and goes to the log."""
    try:
        yield
    except ApprovalConflict as error:
        raise ApprovalError(str(error)) from error
    except RecordError as error:
        log.error("approvals cannot be recorded: %s", error)
        raise ApprovalError("the gateway cannot record this now, so nothing was changed; try again later") from error


__all__ = ["ApprovalBook", "ApprovalError", "Held", "Notifier", "Outcome", "StateError", "summary"]
