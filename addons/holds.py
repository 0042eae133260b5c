"""One held command: asked for, waited for, released once or refused.

    asking -> waiting -> releasing (spending the approval) -> resumed
                      -> deferring -> resumed
    any of them -> left: its client cancelled, or is gone

Each arrow waits for the state store, which may be slow, locked or gone; the session waits meanwhile, and nobody else.

INVARIANT: the session hears one outcome, and APPROVED only after `spend` has returned and everything that could have
become stricter meanwhile was looked at again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from guard.approve import ApprovalError, Held
from guard.record.errors import RecordError
from guard.state import StateError
from protocols.contract import Action, Cacheable, CatalogError, HoldRequest, HoldTicket, Outcome
from protocols.judging import decision_on

if TYPE_CHECKING:
    from addons.live import LiveSession

log = logging.getLogger("sluicegate.session")

_OUTCOMES = {
    "approved": Outcome.APPROVED,
    "denied": Outcome.DENIED,
    "expired": Outcome.EXPIRED,
    "withdrawn": Outcome.WITHDRAWN,
}


class Hold:
    """`run` is its life, as a task of its own; `leave` ends it from outside."""

    def __init__(self, live: LiveSession, request: HoldRequest) -> None:
        self.ticket = HoldTicket()
        self._live = live
        self._request = request
        self._book = live.runtime.approvals
        self._held: Held | None = None
        self._left = False
        self._over = False

    async def run(self) -> None:
        # not from within: the session that asks is in the middle of a message
        await asyncio.sleep(0)
        try:
            result, why = await self._outcome()
        except Exception:
            log.exception("%s: a held command is refused", self._live.label)
            if self._held is not None:
                self._book.withdraw(self._held, "internal error in the gateway")
            result, why = Outcome.DENIED, "internal error in the gateway"
        self._finish(result, why)

    def leave(self, why: str) -> None:
        """Nobody waits for it any more. Safe to call twice."""
        if self._left or self._over:
            return
        self._left = True
        if self._held is not None:
            self._book.withdraw(self._held, why)
        asyncio.get_running_loop().call_soon(self._finish, Outcome.WITHDRAWN, why)

    def _finish(self, result: Outcome, why: str) -> None:
        if not self._over:
            self._over = True
            self._live.hold_ended(self.ticket, result, why)

    async def _outcome(self) -> tuple[Outcome, str]:
        try:
            held = await self._ask()
        except ApprovalError as e:
            return Outcome.REFUSED, str(e)
        except (StateError, RecordError) as e:
            # its text names the store's file
            log.error("%s: a request for approval is not kept: %s", self._live.label, e)
            return Outcome.REFUSED, "the gateway cannot keep the request now; send it again later"
        if self._left:
            self._book.withdraw(held, "the client did not wait for it")
            return Outcome.WITHDRAWN, ""
        self._held = held
        self.ticket.id, self.ticket.expires_at = held.id, held.expires_at
        self._live.hold_asked()
        patience = self._live.hold_wait
        if patience is not None and time.time() + patience >= held.expires_at:
            patience = None
        done, _ = await asyncio.wait([held.future], timeout=patience)
        if not done:
            return await self._defer(held)
        outcome = held.future.result()
        result = _OUTCOMES.get(outcome.status, Outcome.DENIED)
        if result is not Outcome.APPROVED or self._left:
            return result, outcome.reason
        return await self._release(held, ", ".join(outcome.by))

    async def _ask(self) -> Held:
        live, request = self._live, self._request
        assert request.decision.hold is not None
        return await self._book.request(
            live.id,
            live.principal,
            live.resource,
            request.decision.hold,
            request.text,
            request.digest,
            request.analysis,
            request.decision.rule,
            request.params,
            request.told,
        )

    async def _defer(self, held: Held) -> tuple[Outcome, str]:
        """The client's patience is at its end: the request stays open, the command is refused for now."""
        try:
            if self._request.analysis.cacheable is Cacheable.NO:
                # the same words may run something else next time: there is nothing to approve for later
                raise ApprovalError("what it does depends on names of its session")
            await self._book.defer(held)
        except (ApprovalError, StateError) as e:
            log.info("%s: request %s is not deferred: %s", self._live.label, held.id, e)
            self._book.withdraw(held, "its client could not wait any longer")
            return Outcome.EXPIRED, ""
        until = time.strftime("%H:%M:%S UTC", time.gmtime(held.expires_at))
        text = f"request {held.id} waits for approval until {until}; once it is approved, the same command passes once"
        return Outcome.DEFERRED, text

    async def _release(self, held: Held, by: str) -> tuple[Outcome, str]:
        """What the command means is looked at once more; then the approval is spent, and only then it is let go."""
        try:
            await self._refresh()
            self._judge_again()
            await self._book.spend(held, self._request.digest, self._live.id)
            await self._refresh()  # the store may have taken its time
            self._judge_again()
        except (ApprovalError, StateError, RecordError) as e:
            # whatever came of it, nothing may be made of this approval any more
            self._book.withdraw(held, "it could not be used")
            if isinstance(e, ApprovalError):
                return Outcome.DENIED, str(e)
            log.error("%s: an approval could not be used: %s", self._live.label, e)
            return Outcome.DENIED, "the gateway cannot use the approval now; send the command again later"
        return Outcome.APPROVED, by

    async def _refresh(self) -> None:
        try:
            await self._live.refresh_catalog()
        except CatalogError as e:
            log.warning("%s: %s", self._live.label, e)  # without a snapshot the session refuses the command

    def _judge_again(self) -> None:
        """Raises ApprovalError. The policy may have become stricter meanwhile, and an approval overrules no denial."""
        if self._left:
            raise ApprovalError("its client has left")
        if why := self._live.refusal():
            raise ApprovalError(why)
        request, asked = self._request, self._request.decision.hold
        decision = decision_on(request.analysis, request.parts, self._live.decide)
        if decision.action > Action.HOLD:
            raise ApprovalError(f"the policy changed meanwhile: denied by rule `{decision.rule}`")
        if decision.hold is not None and (asked is None or not asked.covers(decision.hold)):
            why = f"the policy changed meanwhile: rule `{decision.rule}` asks for other or more approvers"
            raise ApprovalError(f"{why}; send the command again")
