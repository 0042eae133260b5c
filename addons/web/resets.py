"""What of HTTP/2 costs much and serves nothing, and how much of it one connection may do.

Streams that are opened and given up at once, in thousands (CVE-2023-44487): each costs a verdict, a record and an
upstream's attention, and none of them counts against the number of streams that may be open. What counts is every
stream that ends by a reset, whoever sends it: a client can also make us send it (CVE-2025-8671).

Frames that carry nothing (CVE-2019-9512, 9513, 9515, 9518): pings, settings, priorities, empty pieces, window updates:
each keeps the event loop busy, which all connections share.
"""

from __future__ import annotations

from collections.abc import Callable

BURST = 200  # resets that a connection may have at once
RATE = 20.0  # ... and then in a second: clients that cancel what they no longer need stay far below
IDLE_BURST = 1000  # frames that carry nothing that a connection may send at once, besides those that it has earned
IDLE_RATE = 100.0  # ... and then in a second
IDLE_EARNED = 10_000  # ... of which so many may be left for later


class _Bucket:
    """How many one connection may have now: fills again with time."""

    def __init__(self, burst: int, rate: float, clock: Callable[[], float]) -> None:
        self._burst, self._rate, self._clock = float(burst), rate, clock
        self._left = self._burst
        self._seen = clock()

    def one(self) -> bool:
        """One more; False: it is too many."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        self._left -= 1.0
        return self._left >= 0.0


class Resets(_Bucket):
    """Streams that were reset."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(BURST, RATE, clock)
        self.total = 0

    def one(self) -> bool:
        self.total += 1
        return super().one()


class Idle(_Bucket):
    """Frames that serve nothing. Those that serve something earn some: acknowledging and measuring belong to it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(IDLE_BURST, IDLE_RATE, clock)
        self._earned = 0

    def served(self, count: int) -> None:
        self._earned = min(IDLE_EARNED, self._earned + count)

    def one(self) -> bool:
        if self._earned:
            self._earned -= 1
            return True
        return super().one()
