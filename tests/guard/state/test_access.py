"""The store behind threads: the loop never waits, order is kept, and what is not known is said to be not known."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from guard.state import LoopJournal, LostAnswer, StateAccess, StateError, StateStore, access
from guard.state.access import Worker

SOON = 0.3  # seconds


def run(work: Callable[[Worker], Coroutine[Any, Any, None]], within: float = 5.0) -> None:
    async def with_worker() -> None:
        worker = Worker("test", within)
        try:
            await work(worker)
        finally:
            await worker.close(5.0)

    asyncio.run(with_worker())


def test_answers_and_errors_come_back_and_order_is_kept() -> None:
    async def work(worker: Worker) -> None:
        done: list[int] = []
        await asyncio.gather(*(worker.do(lambda n=n: done.append(n)) for n in range(100)))  # type: ignore[misc]
        assert done == list(range(100))
        assert await worker.do(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await worker.do(lambda: 1 / 0)

    run(work)


def test_the_loop_goes_on_while_a_call_waits() -> None:
    async def work(worker: Worker) -> None:
        let = threading.Event()
        waiting = asyncio.ensure_future(worker.do(lambda: let.wait(10)))
        await asyncio.sleep(0)  # had it to wait for the thread, it would wait for ever
        let.set()
        assert await waiting

    run(work)


def test_what_is_not_begun_in_time_is_not_done() -> None:
    async def work(worker: Worker) -> None:
        let, done = threading.Event(), []
        first = asyncio.ensure_future(worker.do(lambda: let.wait(10)))
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="nothing was changed") as caught:
            await worker.do(lambda: done.append(1))
        assert not isinstance(caught.value, LostAnswer)
        let.set()
        assert await asyncio.wait_for(first, 5)  # it had been begun: its answer is waited for twice as long
        await worker.do(lambda: None)
        assert done == []

    run(work, within=SOON)


def test_what_was_begun_and_does_not_answer_may_be_done() -> None:
    async def work(worker: Worker) -> None:
        let, done = threading.Event(), []

        def slow() -> None:
            let.wait(10)
            done.append(1)

        with pytest.raises(LostAnswer, match="look whether it was done"):
            await worker.do(slow)
        let.set()
        await worker.do(lambda: None)
        assert done == [1]

    run(work, within=SOON)


def test_a_caller_that_leaves_takes_back_what_is_not_begun() -> None:
    async def work(worker: Worker) -> None:
        let, done = threading.Event(), []

        def first() -> None:
            let.wait(10)
            done.append(1)

        begun = asyncio.ensure_future(worker.do(first))
        waits = asyncio.ensure_future(worker.do(lambda: done.append(2)))
        await asyncio.sleep(0)
        begun.cancel()
        waits.cancel()
        await asyncio.wait([begun, waits])
        let.set()
        await worker.do(lambda: None)
        assert done == [1]

    run(work)


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_WAITING", 3)

    async def work(worker: Worker) -> None:
        let = threading.Event()
        taken = [asyncio.ensure_future(worker.do(lambda: let.wait(10))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="too much waits"):
            await worker.do(lambda: None)
        let.set()
        assert all(await asyncio.gather(*taken))
        await worker.do(lambda: None)

    run(work)


def test_closing_does_what_was_asked_for_and_takes_nothing_more() -> None:
    async def work(worker: Worker) -> None:
        done: list[int] = []
        asked = [asyncio.ensure_future(worker.do(lambda n=n: done.append(n))) for n in range(20)]  # type: ignore[misc]
        await asyncio.sleep(0)
        await worker.close(5.0)
        await asyncio.gather(*asked)
        assert done == list(range(20))
        with pytest.raises(StateError, match="closed"):
            await worker.do(lambda: None)

    run(work)


def test_closing_waits_for_no_thread_that_hangs() -> None:
    let = threading.Event()

    async def work(worker: Worker) -> None:
        done: list[int] = []
        hangs = asyncio.ensure_future(worker.do(lambda: let.wait(30)))
        never = asyncio.ensure_future(worker.do(lambda: done.append(1)))
        await asyncio.sleep(0)
        await worker.close(SOON)
        let.set()
        assert await hangs
        with pytest.raises(asyncio.CancelledError):
            await never
        assert done == []

    run(work)


# ---------------------------------------------------------------- the store itself


def test_a_lock_holds_up_changes_and_neither_looks_nor_reads(tmp_path: Path) -> None:
    async def work() -> None:
        with StateStore(tmp_path / "state.db", busy_timeout=0.3) as store:
            state = StateAccess(store)
            lock = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
            lock.execute("BEGIN EXCLUSIVE")
            change = asyncio.ensure_future(state.change(lambda s: s.contain("ci", "ann", "r", 1.0)))
            await asyncio.sleep(0)
            assert await state.look(lambda s: s.contained()) == frozenset()
            assert await state.read(lambda s: s.approvals.list()) == []
            with pytest.raises(StateError, match="locked"):
                await change
            lock.execute("ROLLBACK")
            lock.close()
            await state.change(lambda s: s.contain("ci", "ann", "r", 1.0))
            assert await state.look(lambda s: s.contained()) == {"ci"}
            await state.close(5.0)

    asyncio.run(work())


# ---------------------------------------------------------------- the journal belongs to the loop


class Journal:
    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self.broken: Exception | None = None

    def __call__(self, kind: str, payload: Mapping[str, Any]) -> int:
        if self.broken is not None:
            raise self.broken
        self.entries.append((kind, threading.get_ident()))
        return len(self.entries)


def test_a_thread_journals_on_the_loop(tmp_path: Path) -> None:
    async def work() -> None:
        journal = Journal()
        with StateStore(tmp_path / "state.db", journal=LoopJournal(journal)) as store:
            state = StateAccess(store)
            await state.change(lambda s: s.contain("ci", "ann", "r", 1.0))
            store.contain("cd", "ann", "r", 1.0)  # on the loop itself, at the start: at once
            assert journal.entries == [("containment", threading.get_ident())] * 2
            journal.broken = OSError("no space left on device")
            with pytest.raises(OSError, match="no space"):
                await state.change(lambda s: s.release("ci", "ann", 1.0))
            assert store.contained() == {"ci", "cd"}  # not recorded, so not released
            await state.close(5.0)

    asyncio.run(work())


def test_a_loop_that_does_not_come_to_it_writes_nothing_later_either(tmp_path: Path) -> None:
    async def work() -> None:
        journal = Journal()
        with StateStore(tmp_path / "state.db", journal=LoopJournal(journal, within=SOON)) as store:
            store.contain("ci", "ann", "r", 1.0)
            journal.entries.clear()
            failed: list[StateError] = []

            def release() -> None:
                try:
                    store.release("ci", "ann", 1.0)
                except StateError as error:
                    failed.append(error)

            thread = threading.Thread(target=release)
            thread.start()
            thread.join()  # the loop is kept from everything until the thread has given up
            assert "too busy" in str(failed[0])
            await asyncio.sleep(0)
            assert journal.entries == []
            assert store.contained() == {"ci"}

    asyncio.run(work())


def test_after_the_end_of_the_loop_nothing_is_loosened(tmp_path: Path) -> None:
    async def made() -> LoopJournal:
        return LoopJournal(Journal())

    with StateStore(tmp_path / "state.db", journal=asyncio.run(made())) as store:
        errors: list[BaseException] = []

        def work() -> None:
            with pytest.raises(StateError, match="has stopped") as caught:
                store.contain("ci", "ann", "r", 1.0)  # what tightens is stored, and says that it is not on record
            errors.append(caught.value)
            with pytest.raises(StateError, match="has stopped") as caught:
                store.release("ci", "ann", 1.0)
            errors.append(caught.value)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(errors) == 2
        assert store.contained() == {"ci"}
