"""The regular look, where what it looks at fails: everything stops, says why, and goes on when it is back."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons import regular_look
    from addons.regular_look import RegularLook
    from tests.support.runtime_parts import Parts, run

from guard.approve import ApprovalBook
from guard.record.errors import RecordError
from guard.state import StateError
from tests.guard.config.conftest import BASE, POLICY


class Live:
    """What the look does to a session."""

    def __init__(self) -> None:
        self.checked = self.forgot = 0
        self.ended = ""

    def check(self, now: float) -> None:
        self.checked += 1

    def forget_decisions(self) -> None:
        self.forgot += 1

    def terminate(self, why: str) -> None:
        self.ended = why


class Bench(Parts):
    """The parts that the look concerns, and one session."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, BASE, POLICY)
        runtime = self.runtime
        runtime.approvals = ApprovalBook(runtime.state, runtime.recorder, gateway=runtime.name)
        self.live = Live()
        runtime.sessions["s1"] = cast(Any, self.live)
        self.look = RegularLook(runtime)

    async def answered(self) -> None:
        """What this round asks of the store is answered."""
        while self.look._asking is not None:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.look.stop()
        await super().close()


@pytest.fixture
def inside(tmp_path: Path) -> Callable[[Callable[[Bench], Any]], None]:
    """Runs a coroutine function with a bench of its own."""

    return partial(run, partial(Bench, tmp_path))


def test_a_round_checks_every_session(inside: Any) -> None:
    async def work(bench: Bench) -> None:
        bench.look.look()
        await bench.answered()
        assert bench.runtime.stopped == ""
        assert (bench.live.checked, bench.live.forgot, bench.live.ended) == (1, 0, "")

    inside(work)


def test_without_the_store_nothing_passes_until_it_answers(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        async def broken() -> None:
            raise StateError("database is locked")

        runtime, sound = bench.runtime, bench.runtime.blocklist.look
        monkeypatch.setattr(runtime.blocklist, "look", broken)
        bench.look.look()
        await bench.answered()
        assert runtime.stopped == ""  # it may come back in time
        runtime.blocklist.seen = time.monotonic() - regular_look._LOST_AFTER - 1
        bench.look.look()
        assert runtime.stopped == "the gateway's state store does not answer: database is locked"
        assert (bench.live.forgot, bench.live.checked, bench.live.ended) == (1, 2, "")
        await bench.answered()
        monkeypatch.setattr(runtime.blocklist, "look", sound)
        bench.look.look()
        await bench.answered()
        bench.look.look()
        assert runtime.stopped == ""
        assert bench.live.forgot == 2  # what was decided under the stop does not stand
        await bench.answered()

    inside(work)


def test_a_store_that_hangs_does_not_hold_up_the_rest(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        async def hangs() -> None:
            await asyncio.sleep(3600)

        monkeypatch.setattr(bench.runtime.blocklist, "look", hangs)
        for _ in range(3):
            bench.look.look()
            await asyncio.sleep(0)
        assert bench.live.checked == 3
        bench.runtime.blocklist.seen = time.monotonic() - regular_look._LOST_AFTER - 1
        bench.look.look()
        assert bench.runtime.stopped == "the gateway's state store does not answer: its disk hangs"

    inside(work)


@pytest.mark.parametrize("recovers", [True, False])
def test_without_the_record_nothing_passes(inside: Any, monkeypatch: pytest.MonkeyPatch, recovers: bool) -> None:
    async def work(bench: Bench) -> None:
        def full() -> None:
            raise RecordError("no space left on device")

        monkeypatch.setattr(bench.runtime.recorder, "tick", full)
        monkeypatch.setattr(bench.runtime.recorder, "recover", lambda: recovers)
        bench.look.look()
        assert bench.runtime.stopped == ("" if recovers else "the gateway cannot record; nothing passes until it can")
        await bench.answered()

    inside(work)


@pytest.mark.parametrize("part", ["tick", "poll"])
def test_a_look_that_fails_itself_ends_everything(
    inside: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    async def work(bench: Bench) -> None:
        def broken() -> Any:
            raise RuntimeError("a bug")

        runtime = bench.runtime
        monkeypatch.setattr(regular_look, "_TICK", 0.001)
        monkeypatch.setattr(runtime.approvals, part, broken)
        bench.look.start()
        while not runtime.draining:
            await asyncio.sleep(0.001)
        checked = bench.live.checked
        await asyncio.sleep(0.02)
        assert bench.live.checked == checked
        assert "serving again" not in caplog.text
        assert runtime.stopped == "internal error in the gateway; nothing passes until it is restarted"
        assert bench.live.ended == "internal error in the gateway"
        assert "the regular look failed; everything stops" in caplog.text

    inside(work)


def test_one_that_is_stopped_is_no_failure(inside: Any) -> None:
    async def work(bench: Bench) -> None:
        bench.look.start()
        await asyncio.sleep(0)
        bench.look.stop()
        await asyncio.sleep(0)
        assert not bench.runtime.draining
        assert bench.live.ended == ""

    inside(work)
