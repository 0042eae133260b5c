"""Streams of HTTP/2 that are opened and given up at once, in thousands (CVE-2023-44487): each costs a verdict, a record
and an upstream's attention, and none of them counts against the number of streams that may be open.

What counts is every stream that ends by a reset, whoever sends it: a client can also make us send it (CVE-2025-8671).
"""

from __future__ import annotations

from collections.abc import Callable

BURST = 200  # resets that a connection may have at once
RATE = 20.0  # ... and then in a second: clients that cancel what they no longer need stay far below


class Resets:
    """How many one connection may have now: a bucket that fills again with time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._seen = clock()
        self.total = 0

    def one(self) -> bool:
        """One more; False: it is too many."""
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._seen) * RATE)
        self._seen = now
        self._left -= 1.0
        self.total += 1
        return self._left >= 0.0
