"""The requests that connections of this process wait on, and the votes on requests of any process.

    request -> (vote ...) -> approved -> spend          the command runs
                          -> denied | expired | withdrawn   it does not

`defer` lets the connection go while its request stays open: the same command of the same identity then joins it, from
whatever connection, and is released by the same approval, once.

The store journals every step inside its own transaction, so nothing here is recorded twice. What is added: who may
vote, how many requests one identity may have open, and the futures that connections wait on.

`waits` is the side of those who wait; here is the side of those who decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from guard.approve.held import ApprovalError, EventRecorder, Notifier, conflicts
from guard.approve.waits import MAX_REASON, Waits
from guard.record.people import same_person
from guard.state import Approval, ApprovalStatus, StateAccess, StateStore, Vote
from protocols.contract import Principal


class ApprovalBook(Waits):
    """Requests, votes and outcomes. `is_approver` says whether a principal has the approver's role at all; the
    terms of a request narrow that further. What those have approved who are `kept_out` now counts no more."""

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
        kept_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__(state, notifier, clock, gateway=gateway, max_hold=max_hold, kept_out=kept_out)
        self._recorder = recorder
        self._is_approver = is_approver

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
            vote = Vote(principal.subject, principal.issuer, approve, reason, self._clock())
            return store.approvals.vote(approval_id, vote, self._kept_out)

        with conflicts():
            decided = await self._state.change(cast)
        if decided.status is not ApprovalStatus.PENDING:
            self._notify("approval.decided", decided)
            self._settle(decided)
        return decided

    async def _expire(self) -> None:
        if await self._state.read(lambda store: store.approvals.overdue(at=self._clock())):
            await asyncio.shield(self._leftovers.task(self._leftovers.expire()))

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
        with conflicts():
            self._recorder.event("alert", facts)
        if self._notifier is not None:
            self._notifier.send("alert", facts)
