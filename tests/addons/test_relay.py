"""Two legs and a session between them: what goes wrong in one place ends the session, and lets nothing through."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from addons.busy_poll import BusyPoll
from addons.leg import Leg
from addons.relay import Outbox, Relay
from protocols.contract import Outcome, Side, Wait
from protocols.waits import TURN_NS
from tests.support import wire
from tests.support.talk import Talk
from tests.support.wire import query, ready

ONE = wire.columns(wire.field("a")) + wire.row(b"1") + wire.complete("SELECT 1") + ready()  # an answer
DELETE = "DELETE FROM users WHERE id = 1"


class FakeLeg:
    """A leg without a network: what it was sent, and why it is not read."""

    def __init__(self) -> None:
        self.sent = b""
        self.paused: set[str] = set()
        self.closed = False
        self.gone = False
        self.left = False
        self.on_data: Callable[[bytes], None] | None = None

    def attach(self, on_data: Callable[[bytes], None], on_gone: Any, on_writable: Any) -> None:
        self.on_data, self.on_gone, self.on_writable = on_data, on_gone, on_writable

    def send(self, data: bytes) -> None:
        assert not self.closed
        self.sent += data

    def pause(self, why: str) -> None:
        self.paused.add(why)

    def resume(self, why: str) -> None:
        self.paused.discard(why)

    def peer_left(self) -> bool:
        return self.left

    def close(self, *, linger: bool = False) -> None:
        self.closed = True


class World:
    """A real session behind a relay whose legs, journal and catalog are in our hands."""

    def __init__(self, *, barrier: Callable[[], Awaitable[None]] | None = None, hold_buffer: int = 1000) -> None:
        self.talk = Talk()
        self.client, self.upstream = FakeLeg(), FakeLeg()
        self.ended: list[str] = []
        self.flushed = 0
        self.full = False
        self.refresh: Callable[[], Awaitable[None]] = self._fresh
        self.relay = Relay(
            cast(Leg, self.client),
            cast(Leg, self.upstream),
            self.talk.session,
            hold_buffer=hold_buffer,
            refresh=lambda: self.refresh(),
            ended=self.ended.append,
            outbox=Outbox(self._flush, barrier),
            busy_poll=BusyPoll(0),
        )
        self.relay.start(b"", b"")

    def _flush(self) -> None:
        if self.full:
            raise OSError("no space left on device")
        self.flushed = len(self.talk.port.records)

    async def _fresh(self) -> None:
        """The catalog is read again."""

    def says(self, data: bytes) -> None:
        assert self.client.on_data is not None
        self.client.on_data(data)

    def answers(self, data: bytes) -> None:
        assert self.upstream.on_data is not None
        self.upstream.on_data(data)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(play: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(cast(Any, play()), 20))


def fatal(data: bytes) -> str:
    return wire.errors(data)[-1]["C"]


async def exchange(world: World) -> None:
    """One statement and its answer."""
    world.says(query("SELECT 1"))
    await turns(2)
    world.answers(ONE)
    await turns(2)


def test_an_answer_goes_to_the_client_and_then_on_record() -> None:
    async def play() -> None:
        world = World()
        on_record: list[int] = []
        send = world.client.send

        def sends(data: bytes) -> None:
            on_record.append(len(world.talk.port.records))
            send(data)

        world.client.send = sends  # type: ignore[method-assign]
        await exchange(world)
        assert on_record == [1]  # the command alone
        assert [r["t"] for r in world.talk.port.records] == ["command", "response"]

    run(play)


def test_of_many_sessions_each_is_recorded_before_its_client_is_woken() -> None:
    async def play() -> None:
        one, two = World(), World()
        two.relay._outbox = one.relay._outbox
        for world in (one, two):
            world.says(query("SELECT 1"))
        await turns(2)
        on_record: list[int] = []
        send = one.client.send

        def sends(data: bytes) -> None:
            on_record.append(len(one.talk.port.records))
            send(data)

        one.client.send = sends  # type: ignore[method-assign]
        one.answers(ONE)
        assert on_record == [2]
        assert one.client.sent == ONE

    run(play)


def test_no_answer_reaches_the_client_while_nothing_can_be_recorded() -> None:
    async def play() -> None:
        world = World()
        world.says(query("SELECT 1"))
        await turns(2)
        world.talk.port.full = True
        world.answers(ONE)
        await turns(2)
        assert world.ended
        assert wire.row(b"1") not in world.client.sent
        assert fatal(world.client.sent) == "58030"

    run(play)


def test_an_answer_that_cannot_be_put_on_record_after_all_ends_the_session() -> None:
    async def play() -> None:
        world = World()
        world.says(query("SELECT 1"))
        await turns(2)
        send = world.client.send

        def fills_the_disk(data: bytes) -> None:
            world.talk.port.full = True
            send(data)

        world.client.send = fills_the_disk  # type: ignore[method-assign]
        world.answers(ONE)
        await turns(2)
        assert world.ended
        assert fatal(world.client.sent) == "58030"

    run(play)


def test_a_record_that_cannot_be_made_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        world = World()
        world.says(query("SELECT 1"))
        await turns(2)

        def broken() -> None:
            raise ValueError("a bug")

        world.talk.session.catch_up = broken
        world.answers(ONE)
        await turns(2)
        assert world.ended == ["internal error"]
        world.says(query("SELECT 2"))
        await turns(2)
        assert b"SELECT 2" not in world.upstream.sent

    run(play)
    assert "internal error" in caplog.text


def test_a_client_is_not_read_while_the_disk_is_slow_and_much_of_it_waits() -> None:
    async def play() -> None:
        disk = asyncio.Event()

        async def barrier() -> None:
            await disk.wait()

        world = World(barrier=barrier, hold_buffer=1000)
        large = query("SELECT '" + "x" * 900 + "'")
        world.says(large)
        await turns(3)
        assert not world.client.paused
        world.says(large)
        await turns(3)
        assert world.client.paused == {"sync"}
        assert world.upstream.sent == b""
        disk.set()
        await turns(10)
        assert world.upstream.sent == large * 2
        assert not world.client.paused

    run(play)


def test_recorded_first_and_forwarded_in_the_next_turn() -> None:
    async def play() -> None:
        world = World()
        world.says(query("SELECT 1"))
        assert world.upstream.sent == b""
        await turns(2)
        assert world.flushed == 1
        assert world.upstream.sent == query("SELECT 1")

    run(play)


def test_strict_waits_for_the_disk_and_keeps_the_order() -> None:
    async def play() -> None:
        gate = asyncio.Event()
        world = World(barrier=lambda: cast(Any, gate.wait()))
        world.says(query("SELECT 1"))
        await turns()
        world.says(query("SELECT 2"))
        await turns()
        assert world.upstream.sent == b""
        gate.set()
        await turns()
        assert world.upstream.sent == query("SELECT 1") + query("SELECT 2")

    run(play)


@pytest.mark.parametrize("side", list(Side))
def test_row_34_an_exception_in_a_session_ends_it_and_forwards_nothing(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        world = World()

        def bug(_: bytes) -> None:
            world.talk.session.up.append(b"half of something")
            raise ZeroDivisionError

        cast(Any, world.talk.session)._client = bug
        cast(Any, world.talk.session)._server = bug
        (world.says if side is Side.CLIENT else world.answers)(b"x")
        await turns()
        assert world.upstream.sent == b""
        assert fatal(world.client.sent) == "57P01"
        assert world.client.closed
        assert world.upstream.closed
        assert world.ended == ["internal error"]

    run(play)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("strict", [False, True])
def test_row_34_a_full_disk_forwards_nothing(strict: bool) -> None:
    async def play() -> None:
        async def barrier() -> None:
            raise AssertionError("not reached: nothing was flushed")

        world = World(barrier=barrier if strict else None)
        world.full = True
        world.says(query("SELECT 1"))
        await turns()
        assert world.upstream.sent == b""
        assert fatal(world.client.sent) == "58030"
        assert len(world.ended) == 1

    run(play)


def test_row_34_a_disk_that_cannot_sync_forwards_nothing() -> None:
    async def play() -> None:
        async def barrier() -> None:
            raise OSError("input/output error")

        world = World(barrier=barrier)
        world.says(query("SELECT 1"))
        await turns()
        assert world.upstream.sent == b""
        assert fatal(world.client.sent) == "58030"

    run(play)


@pytest.mark.parametrize("fails", [False, True])
def test_row_34_a_catalog_that_cannot_be_had_denies(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        world = World()
        world.talk.port.snapshot = None

        async def refresh() -> None:
            if fails:
                raise OSError("the metadata connection failed")

        world.refresh = refresh
        world.says(query("SELECT * FROM users"))
        assert world.talk.session.waiting is Wait.CATALOG
        await turns()
        assert world.upstream.sent == query("sluicegate: stopped by policy")
        assert world.talk.commands() == [("query", "SELECT * FROM users", "deny")]

    run(play)
    assert ("could not be refreshed" in caplog.text) == fails


def test_who_sends_much_at_once_is_served_in_turns() -> None:
    """The others come in between, and it needs no further bytes to go on."""

    async def play() -> None:
        world = World()
        clock = itertools.count(int(world.talk.port.time * 1e9), TURN_NS // 3)
        world.talk.port.now_ns = lambda: next(clock)  # type: ignore[method-assign]
        data = b"".join(query(f"SELECT {n}") for n in range(60))
        world.says(data)
        seen = set()
        while world.upstream.sent != data:
            seen.add(len(world.upstream.sent))
            await turns(1)
        assert len(seen) > 5
        assert not world.client.paused

    run(play)


def test_a_waiting_client_is_not_read_beyond_the_limit() -> None:
    async def play() -> None:
        world = World(hold_buffer=100)
        world.says(query(DELETE))
        assert world.client.paused == set()
        world.says(query("SELECT 1") * 20)
        assert world.client.paused == {"wait"}
        world.relay.step(lambda: world.talk.session.resume(Outcome.APPROVED))
        await turns()
        assert world.client.paused == set()
        assert world.upstream.sent == query(DELETE) + query("SELECT 1") * 20

    run(play)


def test_a_waiting_client_that_has_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addons.relay._PROBE_EVERY", 0.01)

    async def play() -> None:
        world = World(hold_buffer=1)
        world.says(query(DELETE) + query("SELECT 1"))
        world.client.left = True
        while not world.ended:
            await asyncio.sleep(0.01)
        assert world.talk.port.withdrawn
        assert world.upstream.sent == b""
        assert world.upstream.closed

    run(play)


def test_back_pressure_goes_from_each_side_to_the_other() -> None:
    async def play() -> None:
        world = World()
        world.client.on_writable(False)
        assert world.upstream.paused == {"peer"}
        world.client.on_writable(True)
        assert world.upstream.paused == set()
        world.upstream.on_writable(False)
        assert world.client.paused == {"peer"}

    run(play)


def test_an_upstream_that_is_gone_is_told_and_recorded() -> None:
    async def play() -> None:
        world = World()
        world.says(query("SELECT 1"))
        await turns()
        world.upstream.on_gone()
        assert fatal(world.client.sent) == "08006"
        assert world.talk.responses() == [(1, "lost")]
        assert world.ended == ["the upstream closed the connection"]
        world.upstream.on_gone()
        world.client.on_gone()
        assert len(world.ended) == 1

    run(play)


def test_bytes_that_the_handshake_had_read_come_first() -> None:
    async def play() -> None:
        world = World()
        world.relay.start(query("SELECT 1"), wire.notice("hello"))
        assert wire.kinds(world.client.sent) == "N"
        await turns()
        assert world.upstream.sent == query("SELECT 1")
        world.answers(wire.complete("SELECT 0") + ready())
        assert wire.kinds(world.client.sent) == "NCZ"

    run(play)
