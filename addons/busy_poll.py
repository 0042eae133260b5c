"""A moment of wakefulness after traffic: the event loop looks for more before it lets its CPU sleep.

What follows a statement is its answer, some tens of microseconds later, and what follows an answer is the next
statement. A CPU that has gone to sleep meanwhile takes about as long again to wake, most of all on a virtual machine.
"""

from __future__ import annotations

import asyncio
from time import perf_counter


class BusyPoll:
    """`traffic()` keeps the loop awake for `seconds`; 0: never. One for the process, for all of its sessions."""

    __slots__ = ("_fresh", "_loop", "_running", "_seconds", "_until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._fresh = self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def traffic(self) -> None:
        """Bytes came or went."""
        self._fresh = True
        if not self._running and self._seconds:
            self._running = True
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One turn of the loop: what is ready is handled between this call and the next."""
        assert self._loop is not None
        now = perf_counter()
        if self._fresh:
            self._fresh = False
            self._until = now + self._seconds
        elif now >= self._until:
            self._running = False
            return
        self._loop.call_soon(self._turn)
