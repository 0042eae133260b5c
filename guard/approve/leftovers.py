"""What the store must still be told, whatever it takes: requests whose client has left, and those whose time is up.

Neither is dangerous while it waits: only the connection that left could have spent its approval, and what is overdue is
refused by whoever looks at it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from guard.state import Approval, ApprovalConflict, ApprovalStatus, StateAccess

log = logging.getLogger("sluicegate.approve")


class Leftovers:
    """For one event loop. `expired` is told of each request that the store has noted as such."""

    def __init__(
        self, state: StateAccess, clock: Callable[[], float], expired: Callable[[Sequence[Approval]], None]
    ) -> None:
        self._state = state
        self._clock = clock
        self._expired = expired
        self._left: dict[str, str] = {}  # id -> reason
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tidying: asyncio.Task[None] | None = None
        self._complaint = ""

    @property
    def withdrawals(self) -> int:
        """How many the store does not know of yet."""
        return len(self._left)

    def has(self, approval_id: str) -> bool:
        """Whether it is to be withdrawn, and the store does not know yet."""
        return approval_id in self._left

    def withdraw(self, approval_id: str, reason: str) -> None:
        """Has it withdrawn as soon as the store can be told; one that is decided, or never was stored, is left alone.

        The store is told after whatever was asked of it before: a request or a spending that is under way comes first.
        """
        self._left[approval_id] = reason
        self.tidy()

    def tidy(self) -> None:
        """Expires and withdraws, unless that is under way: a locked store must not pile up attempts."""
        if self._tidying is None or self._tidying.done():
            self._tidying = self.task(self._tidy())

    async def _tidy(self) -> None:
        complaint = ""
        for work in (self._withdraw_all, self.expire):
            try:
                await work()
            except Exception as error:
                complaint = str(error)
                if complaint != self._complaint:
                    log.warning("requests cannot be withdrawn or expired yet: %s", error)
        self._complaint = complaint

    async def _withdraw_all(self) -> None:
        while self._left:
            approval_id, reason = next(iter(self._left.items()))
            try:
                await self._withdraw_one(approval_id, reason)
            except BaseException:
                self._left[approval_id] = self._left.pop(approval_id)  # the next attempt begins with another
                raise
            del self._left[approval_id]

    async def _withdraw_one(self, approval_id: str, reason: str) -> None:
        try:
            await self._state.change(
                lambda store: store.approvals.decide(
                    approval_id, ApprovalStatus.WITHDRAWN, at=self._clock(), reason=reason
                )
            )
        except ApprovalConflict as error:
            log.debug("nothing left to withdraw: %s", error)

    async def expire(self) -> None:
        """Expire in the store what is overdue. Raises StateError."""
        self._expired(await self._state.change(lambda store: store.approvals.expire(at=self._clock())))

    def task[T](self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Something that is done to the end, also where its caller is cancelled: others wait to hear of it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone


__all__ = ["Leftovers"]
