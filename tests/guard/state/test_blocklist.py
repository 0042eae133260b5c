"""Who is kept out: an order is in force at once, survives a store that fails, and is lifted by the store only."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from guard.state import StateAccess, StateError, StateStore, blocklist
from guard.state.blocklist import Blocklist
from protocols.contract import Principal

CI = Principal("ci", "https://idp", expires_at=9e9, token_id="t1")
CD = Principal("cd", "https://idp", expires_at=9e9, token_id="t2")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.db"
        self.journal: list[dict[str, Any]] = []
        self.broken: Exception | None = None
        self.store = StateStore(self.path, journal=self.record, busy_timeout=0.1)
        self.state = StateAccess(self.store)
        self.list = Blocklist(self.state)
        self.list.load()

    def record(self, kind: str, payload: Any) -> int:
        if self.broken is not None:
            raise self.broken
        self.journal.append({"kind": kind, **payload})
        return len(self.journal)

    def kept_out(self) -> str:
        return "".join(name for name, who in (("i", CI), ("d", CD)) if self.list.why(who))


def run(folder: Path, work: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def with_bench() -> None:
        bench = Bench(folder)
        try:
            await work(bench)
        finally:
            await bench.state.close(5.0)
            bench.store.close()

    asyncio.run(with_bench())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocklist, "RETRY_AFTER", 0.0)


def test_contained_until_released(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        stored = bench.list.contain("ci", "ann", "stolen", 1.0)
        assert bench.kept_out() == "i"  # before the store was asked
        assert bench.list.unstored() == [{"subject": "ci", "by": "ann", "reason": "stolen", "at": 1.0}]
        await stored
        assert bench.list.unstored() == []
        for _ in range(3):
            await bench.list.look()
            assert bench.kept_out() == "i"
        assert bench.list.contained == {"ci"}
        assert await bench.list.release("ci", "bob", 2.0)
        await bench.list.look()
        assert bench.kept_out() == ""
        assert not await bench.list.release("ci", "bob", 2.0)
        assert [entry["act"] for entry in bench.journal] == ["contain", "release"]

    run(tmp_path, work)


def test_a_revoked_token_is_refused_and_its_owner_is_not(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        stored = bench.list.revoke("t1", "ann", "lost", 1.0)
        assert "revoked" in (bench.list.why(CI) or "")
        assert bench.list.why(Principal("ci", "https://idp", expires_at=9e9, token_id="t9")) is None
        assert bench.list.why(Principal("ci", "https://idp", expires_at=9e9)) is None
        await stored
        await bench.list.look()
        assert bench.kept_out() == "i"
        assert bench.list.contained == frozenset()

    run(tmp_path, work)


def test_what_others_order_and_lift_is_seen_at_the_next_look(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        with StateStore(bench.path) as other:
            other.contain("ci", "ann", "r", 1.0)
            other.revoke_token("t2", "ann", "r", 1.0)
            assert bench.kept_out() == ""
            await bench.list.look()
            assert bench.kept_out() == "id"
            await bench.list.contain("ci", "ann", "again, here", 2.0)
            await bench.list.look()
            other.release("ci", "ann", 3.0)
            await bench.list.look()
            assert bench.kept_out() == "d"

    run(tmp_path, work)


@pytest.mark.usefixtures("impatient")
def test_a_locked_store_keeps_nobody_connected_and_the_order_is_stored_later(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        lock = sqlite3.connect(bench.path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="locked"):
            await bench.list.contain("ci", "ann", "stolen", 1.0)
        for _ in range(3):
            await bench.list.look()
            assert bench.kept_out() == "i"
        assert len(bench.list.unstored()) == 1
        lock.execute("ROLLBACK")
        lock.close()
        while bench.list.unstored():
            await bench.list.look()
            await asyncio.sleep(0.01)
        assert bench.store.contained() == {"ci"}
        assert [entry["subject"] for entry in bench.journal] == ["ci"]

    run(tmp_path, work)


@pytest.mark.usefixtures("impatient")
def test_an_order_that_cannot_be_recorded_is_recorded_later(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.broken = OSError("no space left on device")
        with pytest.raises(OSError, match="no space"):
            await bench.list.contain("ci", "ann", "stolen", 1.0)
        await bench.list.look()
        assert bench.kept_out() == "i"
        bench.broken = None
        while bench.list.unstored():
            await bench.list.look()
            await asyncio.sleep(0.01)
        assert [entry["act"] for entry in bench.journal] == ["contain"]

    run(tmp_path, work)


def test_a_look_that_began_before_the_order_does_not_lift_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look has read who is contained, and delivers it when somebody else is by now."""

    async def work(bench: Bench) -> None:
        read, deliver = threading.Event(), threading.Event()
        real = bench.store.revoked_tokens

        def slow() -> frozenset[str]:
            read.set()
            assert deliver.wait(10)
            return real()

        with StateStore(bench.path) as other:
            other.contain("cd", "ann", "r", 1.0)  # so that there is something to read
        monkeypatch.setattr(bench.store, "revoked_tokens", slow)
        look = asyncio.ensure_future(bench.list.look())
        await asyncio.to_thread(read.wait, 10)
        await bench.list.contain("ci", "ann", "stolen", 1.0)
        deliver.set()
        await look
        assert bench.kept_out() == "id"
        await bench.list.look()
        assert bench.kept_out() == "id"

    run(tmp_path, work)


def test_what_cannot_be_released_stays_and_an_order_that_never_was_stored_can_be(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        lock = sqlite3.connect(bench.path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="locked"):
            await bench.list.contain("ci", "ann", "stolen", 1.0)
        with pytest.raises(StateError, match="locked"):
            await bench.list.release("ci", "bob", 2.0)
        assert bench.kept_out() == "i"
        lock.execute("ROLLBACK")
        lock.close()
        assert await bench.list.release("ci", "bob", 3.0)
        await bench.list.look()
        assert bench.kept_out() == ""
        assert bench.store.contained() == frozenset()

    run(tmp_path, work)


def test_a_store_that_does_not_answer_is_an_error_and_lifts_nothing(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await bench.list.contain("ci", "ann", "stolen", 1.0)
        await bench.list.look()
        seen = bench.list.seen
        bench.store.close()
        bench.path.write_bytes(b"this is no database" * 500)
        with pytest.raises(StateError):
            await bench.list.look()
        assert bench.list.seen == seen
        assert bench.kept_out() == "i"

    run(tmp_path, work)


def test_a_restart_reads_what_was_stored(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        await bench.list.contain("ci", "ann", "stolen", 1.0)

    async def after(bench: Bench) -> None:
        assert bench.kept_out() == "i"

    run(tmp_path, before)
    run(tmp_path, after)


def test_nobody_and_nothing_cannot_be_ordered(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        with pytest.raises(StateError, match="nobody"):
            bench.list.contain("", "ann", "r", 1.0)
        with pytest.raises(StateError, match="nothing"):
            bench.list.revoke("", "ann", "r", 1.0)
        assert bench.kept_out() == ""

    run(tmp_path, work)
