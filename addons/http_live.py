"""A live HTTP session: one identity on one client connection, seen and ended like any other session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from addons.live import LiveSession
from guard.enforce import SessionPolicy
from protocols.contract import HoldRequest, HoldTicket, Outcome, Principal, Resource, SessionFacts

if TYPE_CHECKING:
    from addons.runtime import Runtime


class NotAdmitted(Exception):
    """No session for this request: HTTP status and a text for the client; why exactly is on record."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpSession(LiveSession):
    """`close` ends its client connection. Requests are its commands; several may be under way."""

    def __init__(
        self,
        runtime: Runtime,
        session_id: str,
        principal: Principal,
        resource: Resource,
        facts: SessionFacts,
        policy: SessionPolicy,
        close: Callable[[str], None],
    ) -> None:
        super().__init__(runtime, session_id, principal, resource, facts, policy, cast(Any, None))
        self._close = close
        self._waiting: dict[HoldTicket, asyncio.Future[tuple[Outcome, str]]] = {}
        self.digest = ""  # of its token
        self.number = 0
        self.denied = 0
        self.under_way = 0

    # ------------------------------------------------------------ holds

    def ask(self, request: HoldRequest) -> tuple[HoldTicket, asyncio.Future[tuple[Outcome, str]]]:
        """Asks the approvers. Raises `HoldRefused`."""
        ticket = self.hold(request)
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        return ticket, future

    def hold_asked(self) -> None:
        """An HTTP client is told with the answer."""

    def hold_ended(self, ticket: HoldTicket, result: Outcome, why: str) -> None:
        self._holds.pop(ticket, None)
        future = self._waiting.get(ticket)
        if future is not None and not future.done():
            future.set_result((result, why))

    def answered(self, ticket: HoldTicket) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(ticket, None)
        self.withdraw(ticket, "the client has left")  # unless it has its outcome

    async def refresh_catalog(self) -> None:
        """There is none."""

    # ------------------------------------------------------------ from the runtime

    @property
    def at_work(self) -> bool:
        return self.under_way > 0

    def check(self, now: float) -> None:
        why = self.refusal()
        if why:
            self.terminate(why)

    def new_policy(self, policy: SessionPolicy) -> None:
        """A reload: later requests are judged, and their answers masked, by it."""
        if not policy.may_connect:
            self.terminate("the policy no longer gives you this resource")
            return
        self.policy = policy

    def terminate(self, why: str) -> None:
        if not self.end_reason:
            self.end_reason = why
            self._close(why)

    def summary(self) -> dict[str, object]:
        return {**super().summary(), "denied": self.denied, "waiting": "hold" if self._waiting else None}
