"""The waiting side: connections of this process, what they ask for, and how they hear of the outcome.

The store is asked in threads (`guard.state.StateAccess`); everything else here belongs to the event loop. Between a
question and its answer anything may have happened: a client that left, an expiry, a vote through another gateway.

INVARIANT: changes go through one queue. A withdrawal therefore comes after the request, and after the spending, that it
is about, however late those are.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from guard.approve.held import ApprovalError, Ending, Held, Notifier, conflicts
from guard.approve.leftovers import Leftovers
from guard.approve.summaries import details_of, meaning_of, summary
from guard.state import Approval, ApprovalStatus, LostAnswer, StateAccess, StateError, StateStore
from guard.state.store import ChangeToken
from protocols.contract import Analysis, HoldTerms, Principal, Resource

MAX_OPEN_PER_SUBJECT = 20  # a looping agent must not bury what approvers should read
MAX_REASON = 1000  # characters
MAX_TEXT = 256 * 1024  # characters of statement and parameters: what is approved is shown whole
TURN_WITHIN = 10.0  # seconds for a request to get its turn: they are stored one after the other
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: people read ids to each other
_ID_LENGTH = 8
_SWEEP_EVERY = 1.0  # seconds between looks at what is overdue in the store: it holds nobody up
_FINAL_TEXT = {
    ApprovalStatus.DENIED: "refused",
    ApprovalStatus.EXPIRED: "nobody decided in time",
    ApprovalStatus.WITHDRAWN: "withdrawn",
    ApprovalStatus.SPENT: "already used",
}


class Waits:
    """Requests and their outcomes. `max_hold` (seconds) bounds what a rule may ask for."""

    def __init__(
        self,
        state: StateAccess,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.time,
        *,
        gateway: str = "",
        max_hold: float = 600.0,
        kept_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._state = state
        self._kept_out = kept_out
        self._notifier = notifier
        self._clock = clock
        self._gateway = gateway
        self._max_hold = max_hold
        self._held: dict[str, Held] = {}
        self._releasing: set[str] = set()  # approved, and neither spent nor withdrawn yet
        self._new: set[str] = set()  # of `_held`: no look at the store was begun since
        self._asking = asyncio.Lock()
        self._swept = float("-inf")  # when what is overdue in the store was looked for last
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
        told: bytes = b"",
    ) -> Held:
        """Ask for approval of one command, or join the request that was deferred for it.

        Raises ApprovalError or StateError: the caller denies. A request that may have been stored all the same is
        withdrawn.

        `text` is the exact statement, because an approver must see what would run; it is redacted wherever it leaves
        the approver's view (journal, webhook), and in the store once the request is final. `digest` binds text and
        parameters, `told` whatever else decides what the command does.
        """
        self.check(principal, text, params)
        meaning, details = meaning_of(analysis, resource, told), details_of(analysis)
        if resource.database:
            details["database"] = resource.database  # a resource may have several
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
                with conflicts():
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
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        held = Held(approval.id, approval.expires_at, future, approval.subject, approval.deferred)
        self._held[held.id] = held
        self._new.add(held.id)  # it may have been decided between its transaction and now
        self._settle(approval)  # a deferred one may be decided already
        return held

    async def defer(self, held: Held) -> None:
        """The connection waits no longer, the request stays open for the same command of the same identity.

        Raises ApprovalError or StateError: it is not deferred then, and still waits. The caller withdraws it.
        """
        with conflicts():
            await self._state.change(lambda store: store.approvals.defer(held.id, at=self._clock()))
        self._drop(held)

    def withdraw(self, held: Held, reason: str) -> None:
        """The client left or cancelled. Never raises: if the store cannot be told now, it is told later.

        A request that had been deferred before stays open: nothing of it can run unless its command is sent again.
        """
        self._finish(held.id, Ending(False, (), reason, ApprovalStatus.WITHDRAWN.value))
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
            with conflicts():
                await self._state.change(
                    lambda store: store.approvals.spend(
                        held.id, digest, at=self._clock(), session_id=session_id, kept_out=self._kept_out
                    )
                )
        finally:
            self._releasing.discard(held.id)
        if self._clock() >= held.expires_at:  # it may have waited for a lock
            raise ApprovalError(f"approval `{held.id}` has expired")

    # -- the regular look

    def tick(self) -> None:
        """Refuse what is overdue, whatever the store says. To be called a few times a second."""
        now = self._clock()
        for held in [held for held in self._held.values() if held.expires_at <= now]:
            self._finish(held.id, Ending(False, (), _FINAL_TEXT[ApprovalStatus.EXPIRED], "expired"))

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
                    self._finish(approval_id, Ending(False, (), "the request is gone", "withdrawn"))
                else:
                    self._settle(found)
            overdue = False
            if not 0 <= (now := self._clock()) - self._swept < _SWEEP_EVERY:
                overdue = await self._state.look(lambda store: store.approvals.overdue(at=now))
                self._swept = now
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
        self._finish(approval.id, Ending(approved, by, reason, approval.status.value))

    def _finish(self, approval_id: str, outcome: Ending) -> None:
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
