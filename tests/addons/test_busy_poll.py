"""Awake for a moment after traffic, asleep otherwise."""

from __future__ import annotations

import asyncio

from addons.busy_poll import BusyPoll


class Loop:
    """Counts turns: each one calls what was asked for before it."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self, poll: BusyPoll, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while poll._running and asyncio.get_running_loop().time() < end:
            self.turns += 1
            await asyncio.sleep(0)


def test_it_stays_awake_and_then_sleeps() -> None:
    async def main() -> None:
        poll, loop = BusyPoll(0.005), Loop()
        poll.traffic()
        assert poll._running
        await loop.run(poll, 10)
        assert not poll._running
        assert loop.turns > 1
        poll.traffic()  # and again
        assert poll._running
        await loop.run(poll, 10)
        assert not poll._running

    asyncio.run(main())


def test_traffic_prolongs_it_and_is_one_timer_for_all() -> None:
    async def main() -> None:
        poll = BusyPoll(0.01)
        called = 0
        start = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < start + 0.03:
            poll.traffic()
            poll.traffic()
            await asyncio.sleep(0)
            assert poll._running
            called += 1
        assert called > 1
        await Loop().run(poll, 10)
        assert not poll._running

    asyncio.run(main())


def test_zero_is_never() -> None:
    async def main() -> None:
        poll = BusyPoll(0)
        poll.traffic()
        assert not poll._running

    asyncio.run(main())
