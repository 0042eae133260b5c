"""Starts and ends of sessions on their way to the registry.

A transaction waits for the disk and for other writers; sessions that begin or end meanwhile share the next one. The
thread is the registry's own: whatever else is done in threads does not make a login wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from guard.state.database import StateError
from guard.state.registry import SessionEnd, SessionEntry, Sessions


@dataclass(slots=True)
class _Batch:
    started: list[SessionEntry] = field(default_factory=list)
    ended: list[SessionEnd] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Registrar:
    """For one event loop. What is added while a transaction runs goes into the next, in which starts come first."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluicegate registry")
        self._next = _Batch()
        self._writing = False

    def start(self, entry: SessionEntry) -> asyncio.Future[None]:
        """Registers a live session. The future raises `StateError`: then it must not begin."""
        self._next.started.append(entry)
        return self._wait()

    def end(self, session_id: str, at: float, reason: str) -> asyncio.Future[None]:
        """Notes an end, at `at` in epoch seconds. Ending twice keeps the first end."""
        self._next.ended.append(SessionEnd(session_id, at, reason))
        return self._wait()

    def close(self) -> None:
        """Nothing more is taken; what the thread is at is not waited for."""
        self._thread.shutdown(wait=False)

    def _wait(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.waiting.append(future)
        if not self._writing:
            self._write()
        return future

    def _write(self) -> None:
        batch, self._next = self._next, _Batch()
        self._writing = True
        try:
            self._thread.submit(self._work, batch, asyncio.get_running_loop())
        except RuntimeError:
            self._written(batch, StateError("the session registry is closed"))

    def _work(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread."""
        error: Exception | None = None
        try:
            self._sessions.write(batch.started, batch.ended)
        except Exception as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            # straight to those who wait: each turn of a busy loop in between is time that a login takes
            loop.call_soon_threadsafe(self._written, batch, error)

    def _written(self, batch: _Batch, error: Exception | None) -> None:
        self._writing = False
        for future in batch.waiting:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(None)
        if self._next.waiting and not self._writing:
            self._write()
