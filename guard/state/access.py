"""The state store for an event loop: its work is done in threads, and the loop never waits for the disk.

Three threads, each with an ordered queue of its own, so that a database that somebody has locked holds up only those
who need it: `change` for all that writes, one after the other; `look` for the regular look at what others changed;
`read` for what people ask.

A call that was not begun in time is taken back: nothing was changed. One that was begun and does not answer is a
`LostAnswer`: it may still happen, and the caller treats it as refused and sees to it that nothing comes of it.

INVARIANT: the loop never blocks on a thread. A thread may wait for the loop, to journal (`LoopJournal`), within bounds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import Any

from guard.state.approvals import Journal
from guard.state.database import StateError
from guard.state.store import StateStore

WITHIN = 5.0  # seconds for a call to be begun, and as many again for its answer
MAX_WAITING = 512  # calls in one queue


class LostAnswer(StateError):
    """The call was begun and did not answer: whether it was carried out is not known."""


class Worker:
    """One thread that does what it is given, in order. Every method belongs to the event loop."""

    def __init__(self, name: str, within: float = WITHIN) -> None:
        self._within = within
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"sluicegate state {name}")
        self._jobs: set[concurrent.futures.Future[Any]] = set()

    async def do[T](self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises StateError where it cannot be begun in time, LostAnswer after that.

        A caller that is cancelled takes it back if it is not begun; otherwise it is done, and nobody hears of it.
        """
        if len(self._jobs) >= MAX_WAITING:
            raise StateError("too much waits for the state database; try again")
        try:
            job = self._pool.submit(work)
        except RuntimeError:
            raise StateError("the state store is closed") from None
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(_heard)
        try:
            done, _ = await asyncio.wait([answer], timeout=self._within)
            if not done:
                if job.cancel():
                    raise StateError("the state database is too busy, or locked; nothing was changed: try again")
                done, _ = await asyncio.wait([answer], timeout=self._within)
        except asyncio.CancelledError:
            job.cancel()
            raise
        if not done:
            raise LostAnswer("the state database does not answer; look whether it was done before you try again")
        return answer.result()

    async def close(self, within: float) -> None:
        """Takes nothing more; gives what it has `within` seconds, and forgets what is not begun by then."""
        self._pool.shutdown(wait=False)
        if self._jobs:
            answers = [asyncio.wrap_future(job) for job in tuple(self._jobs)]
            for answer in answers:
                answer.add_done_callback(_heard)
            await asyncio.wait(answers, timeout=within)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _heard(answer: asyncio.Future[Any]) -> None:
    """Of an answer that nobody waits for any more an exception is no news."""
    if not answer.cancelled():
        answer.exception()


class StateAccess:
    """`store` behind three threads. `store` itself is for the start, before anybody is served, and for tests."""

    def __init__(self, store: StateStore, within: float = WITHIN) -> None:
        self.store = store
        self._change = Worker("changes", within)
        self._look = Worker("look", within)
        self._read = Worker("reads", within)

    async def change[T](self, work: Callable[[StateStore], T]) -> T:
        """Something that writes; changes are made in the order in which they were asked for. Raises StateError."""
        return await self._change.do(lambda: work(self.store))

    async def look[T](self, work: Callable[[StateStore], T]) -> T:
        """A short read of the regular look. Raises StateError."""
        return await self._look.do(lambda: work(self.store))

    async def read[T](self, work: Callable[[StateStore], T]) -> T:
        """A read that somebody asked for. Raises StateError."""
        return await self._read.do(lambda: work(self.store))

    async def close(self, within: float) -> None:
        """Ends the threads; what was asked for is still done if it can be done `within` seconds."""
        await asyncio.gather(*(worker.close(within) for worker in (self._change, self._look, self._read)))


class LoopJournal:
    """The recorder, for whatever thread the store works in: the recorder itself belongs to the loop's thread.

    A record is written, and the call returns; or it raises, and the record will not be written later either.
    """

    def __init__(self, record: Journal, within: float = WITHIN) -> None:
        self._record = record
        self._within = within
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def __call__(self, kind: str, payload: Mapping[str, Any]) -> object:
        """Raises what the recorder raises; StateError where the loop does not come to it."""
        if threading.get_ident() == self._thread:
            return self._record(kind, payload)
        asked: concurrent.futures.Future[object] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._write, asked, kind, payload)
        except RuntimeError:
            raise StateError("the gateway has stopped; nothing was changed") from None
        concurrent.futures.wait([asked], timeout=self._within)
        if asked.cancel():
            raise StateError("the gateway is too busy to record this; nothing was changed: try again")
        return asked.result()

    def _write(self, asked: concurrent.futures.Future[object], kind: str, payload: Mapping[str, Any]) -> None:
        """On the loop."""
        if not asked.set_running_or_notify_cancel():
            return
        try:
            asked.set_result(self._record(kind, payload))
        except BaseException as error:
            asked.set_exception(error)


__all__ = ["LoopJournal", "LostAnswer", "StateAccess", "Worker"]
