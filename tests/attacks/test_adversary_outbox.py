"""What leaves for the upstream leaves once, and one session's trouble is no other's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from addons.busy_poll import BusyPoll
from addons.leg import Leg
from addons.relay import Outbox, Relay
from protocols.contract import Session


class Sink:
    """A leg that remembers what it was sent; `broken` ones raise instead."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sent: list[bytes] = []
        self.broken = broken
        self.closed = False

    def send(self, data: bytes) -> None:
        if self.broken:
            raise OSError("the TLS connection is in no state to write")
        self.sent.append(data)

    def close(self, *, linger: bool = False) -> None:
        self.closed = True

    def resume(self, why: str) -> None:
        """Nothing is ever paused here."""


class Talker:
    """A session as far as an outbox and a relay see one."""

    def __init__(self) -> None:
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.late: list[object] = []
        self.waiting = None
        self.ended = False

    def client(self, data: bytes) -> None:
        self.up.append(data)

    def unrecorded(self) -> None:
        self.ended = True

    def terminate(self, why: str) -> None:
        self.ended = True


async def _never() -> None:
    raise AssertionError("no catalog is asked for")


def relay(outbox: Outbox, upstream: Sink) -> Relay:
    return Relay(
        cast(Leg, Sink()),
        cast(Leg, upstream),
        cast(Session, Talker()),
        hold_buffer=65536,
        refresh=_never,
        ended=lambda why: None,
        outbox=outbox,
        busy_poll=BusyPoll(0),
    )


def _durable(strict: bool) -> Callable[[], Awaitable[None]] | None:
    async def barrier() -> None:
        await asyncio.sleep(0)

    return barrier if strict else None


def run(strict: bool, play: Callable[[Outbox], Any]) -> None:
    async def inside() -> None:
        play(Outbox(lambda: None, _durable(strict)))
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(inside())


@pytest.mark.parametrize("strict", [False, True], ids=["write", "strict"])
def test_bytes_that_came_in_two_pieces_in_one_turn_leave_once(strict: bool) -> None:
    upstream = Sink()

    def play(outbox: Outbox) -> None:
        one = relay(outbox, upstream)
        one.from_client(b"first,")
        one.from_client(b"second,")

    run(strict, play)
    assert b"".join(upstream.sent) == b"first,second,"


@pytest.mark.parametrize("strict", [False, True], ids=["write", "strict"])
def test_a_leg_that_cannot_be_written_ends_its_own_session_only(strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = Sink(), Sink(broken=True)

    def play(outbox: Outbox) -> None:
        first, second = relay(outbox, bad), relay(outbox, good)
        first.from_client(b"x")
        second.from_client(b"y")

    run(strict, play)
    assert good.sent == [b"y"]
    assert bad.closed
    assert not good.closed
    assert "internal error" in caplog.text


def test_what_the_journal_did_not_take_is_not_sent() -> None:
    upstream = Sink()

    async def inside() -> None:
        def full() -> None:
            raise OSError("no space left on device")

        one = relay(Outbox(full), upstream)
        one.from_client(b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(inside())
    assert upstream.sent == []
    assert upstream.closed
