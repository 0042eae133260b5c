"""A live HTTP session: one identity on one client connection, seen and ended like any other session."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from addons.live import LiveSession, Opened
from protocols.contract import HoldRequest, HoldTicket, Outcome

if TYPE_CHECKING:
    from addons.runtime import Runtime


def digest_of(token: str) -> str:
    """Under which a token is known."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token(text: str, digest: str) -> bool:
    """Whether it is the token of that digest."""
    return text.count(".") == 2 and digest_of(text) == digest


class NotAdmitted(Exception):
    """No session for this request: HTTP status and a text for the client; why exactly is on record."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpSession(LiveSession):
    """`close` ends its client connection. Requests are its commands; several may be under way."""

    fixed_masks = False  # each answer is masked by the policy in force

    def __init__(self, runtime: Runtime, opened: Opened, close: Callable[[str], None]) -> None:
        super().__init__(runtime, opened, cast(Any, None))  # no protocol of ours asks it for a catalog
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
    def over(self) -> bool:
        """Whether no further request belongs to it: it was ended, or its token has expired."""
        return bool(self.end_reason) or time.time() >= self.principal.expires_at

    @property
    def at_work(self) -> bool:
        return self.under_way > 0

    def terminate(self, why: str) -> None:
        if not self.end_reason:
            self.end_reason = why
            self._close(why)

    @property
    def denials(self) -> int:
        return self.denied

    def summary(self) -> dict[str, object]:
        return {**super().summary(), "waiting": "hold" if self._waiting else None}
