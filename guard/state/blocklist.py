"""Who is kept out, as this process knows it without asking the store: identities that are contained, tokens revoked.

What the store said at the last look counts, and so does what was ordered here and is not seen in the store yet. An
order is in force at once; it is stored and journalled afterwards, and tried again until both have succeeded, so that a
locked or full disk keeps no intruder connected. Letting somebody in again goes the other way: the store first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guard.record.people import plainly, same_person
from guard.state.access import StateAccess
from guard.state.database import StateError
from guard.state.store import ChangeToken, StateStore
from protocols.contract import Principal

RETRY_AFTER = 1.0  # seconds between two attempts to store an order

log = logging.getLogger("sluicegate.state")


@dataclass(slots=True, eq=False)
class Order:
    """One containment or revocation that was ordered here."""

    subject: str  # or "", and then
    token_id: str
    by: str
    reason: str
    at: float  # epoch seconds
    stored: bool = False  # and journalled
    lifting: bool = False  # it is being released
    attempt: asyncio.Task[None] | None = field(default=None, repr=False)
    tried_at: float = 0.0  # monotonic

    def write(self, store: StateStore) -> None:
        if self.token_id:
            store.revoke_token(self.token_id, self.by, self.reason, self.at)
        else:
            store.contain(self.subject, self.by, self.reason, self.at)


class Blocklist:
    """For one event loop. `seen` is when the store last answered a look, in monotonic seconds."""

    def __init__(self, state: StateAccess, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._contained: frozenset[str] = frozenset()
        self._names: frozenset[str] = frozenset()  # ... without what spellings differ in
        self._revoked: frozenset[str] = frozenset()
        self._orders: list[Order] = []
        self._change: ChangeToken | None = None
        self.seen = clock()

    def load(self) -> None:
        """Reads it all, at the start: nobody is served before it. Raises StateError."""
        store = self._state.store
        self._change, _ = store.changed_since(None)
        self._knows(store.contained(), store.revoked_tokens())
        self.seen = self._clock()

    def _knows(self, contained: frozenset[str], revoked: frozenset[str]) -> None:
        self._contained, self._revoked = contained, revoked
        self._names = frozenset(map(plainly, contained))

    def why(self, principal: Principal) -> str | None:
        """Why this principal may not act although its token is good; None: it may."""
        subject, token_id = principal.subject, principal.token_id
        if self.keeps_out(subject):
            return f"`{subject}` is contained: every access is cut until a responder releases it"
        if not token_id:
            return None
        if token_id in self._revoked or any(order.token_id == token_id for order in self._orders):
            return "this token was revoked; get a new one"
        return None

    def keeps_out(self, subject: str) -> bool:
        """Whether this subject is contained. As with votes its spelling does not matter: many issuers let people choose
        theirs, and a capital letter must not open the door again."""
        name = plainly(subject)
        return name in self._names or any(plainly(order.subject) == name for order in self._orders if order.subject)

    @property
    def contained(self) -> frozenset[str]:
        """The subjects that are kept out."""
        return self._contained.union(order.subject for order in self._orders if order.subject)

    def unstored(self) -> list[dict[str, Any]]:
        """Containments that are in force here and not known to be in the store: `subject`, `by`, `reason`, `at`."""
        return [
            {"subject": order.subject, "by": order.by, "reason": order.reason, "at": order.at}
            for order in self._orders
            if order.subject and not order.stored
        ]

    # -- orders

    def contain(self, subject: str, by: str, reason: str, at: float) -> asyncio.Task[None]:
        """In force when this returns. The task ends when it is stored and journalled, or raises; it is then tried again
        by `look`, until it is. Raises StateError for no subject."""
        return self._order(Order(subject, "", by, reason, at))

    def revoke(self, token_id: str, by: str, reason: str, at: float) -> asyncio.Task[None]:
        """As `contain`, for a token."""
        return self._order(Order("", token_id, by, reason, at))

    async def release(self, subject: str, by: str, at: float) -> bool:
        """Lets a subject in again, in each of its spellings, once that is stored and journalled. False: it was not
        contained. Raises StateError, RecordError: it stays contained."""
        orders = [order for order in self._orders if order.subject and same_person(order.subject, subject)]
        for order in orders:
            order.lifting = True
        try:
            released = await self._state.change(lambda store: _release(store, subject, by, at))
        finally:
            for order in orders:
                order.lifting = False
        self._orders = [order for order in self._orders if order not in orders]
        return released or bool(orders)

    def _order(self, order: Order) -> asyncio.Task[None]:
        if not (order.subject or order.token_id):
            raise StateError("nobody and nothing is named")
        self._orders.append(order)
        return self._attempt(order)

    def _attempt(self, order: Order) -> asyncio.Task[None]:
        order.tried_at = self._clock()
        order.attempt = asyncio.ensure_future(self._store(order))
        order.attempt.add_done_callback(_said)
        return order.attempt

    async def _store(self, order: Order) -> None:
        await self._state.change(order.write)
        order.stored = True

    # -- the regular look

    async def look(self) -> None:
        """Reads what has changed, also through other processes, and tries orders again. Raises StateError."""
        self._try_again()
        settled = [order for order in self._orders if order.stored]  # before the look: so it sees them
        change, contained, revoked = await self._state.look(self._read)
        self.seen = self._clock()
        if contained is not None and revoked is not None:
            self._knows(contained, revoked)
            self._orders = [order for order in self._orders if order not in settled]
        self._change = change

    def _read(self, store: StateStore) -> tuple[ChangeToken, frozenset[str] | None, frozenset[str] | None]:
        """In a thread."""
        change, changed = store.changed_since(self._change)
        return (change, store.contained(), store.revoked_tokens()) if changed else (change, None, None)

    def _try_again(self) -> None:
        now = self._clock()
        for order in self._orders:
            idle = order.attempt is None or order.attempt.done()
            if idle and not order.stored and not order.lifting and now - order.tried_at >= RETRY_AFTER:
                self._attempt(order)


def _release(store: StateStore, subject: str, by: str, at: float) -> bool:
    """In a thread."""
    found = {subject, *(one for one in store.contained() if same_person(one, subject))}
    return sum(store.release(one, by, at) for one in sorted(found)) > 0  # each of them


def _said(attempt: asyncio.Task[None]) -> None:
    if not attempt.cancelled() and (error := attempt.exception()) is not None:
        log.error("a containment or revocation is in force here, and not stored or recorded yet: %s", error)


__all__ = ["Blocklist", "Order"]
