"""The regular look: what changes without a message of a session's own, five times in a second.

INVARIANT: what fails here closes. A store or recorder that stops answering stops the traffic (`Runtime.stopped` says
why) until it answers again; a look that fails itself ends every session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from guard.record.errors import RecordError
from guard.state import StateError

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate")

_TICK = 0.2  # seconds between looks at approvals, containment and deadlines
_LOST_AFTER = 5.0  # seconds without the state store after which nothing passes


class RegularLook:
    """For one event loop. `start` once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ticker: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None  # the state store
        self._store_error = ""
        self._longest_delay = 0.0

    def start(self) -> None:
        self._ticker = asyncio.create_task(self._tick(), name="sluicegate ticker")
        self._ticker.add_done_callback(self._failed)

    def stop(self) -> None:
        for task in (self._ticker, self._asking):
            if task is not None:
                task.cancel()

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._longest_delay = max(self._longest_delay, time.monotonic() - due)
            self.look()

    def take_longest_delay(self) -> float:
        """Seconds by which a look was late at most, since this was asked last: how long the event loop was held up."""
        longest, self._longest_delay = self._longest_delay, 0.0
        return longest

    def look(self) -> None:
        """Containment, revocation, approvals, deadlines, checkpoints: one round."""
        runtime = self._runtime
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_store(), name="look at the state store")
            self._asking.add_done_callback(self._asked)
        runtime.approvals.tick()
        store, record = self._lost_store(), self._failed_record()
        stopped = store or record
        if stopped != runtime.stopped:
            runtime.stopped = stopped
            log.error("stopped: %s", stopped) if stopped else log.warning("serving again")
            for live in list(runtime.sessions.values()):
                live.forget_decisions()
        runtime.refusals.flush()
        now = time.time()
        for live in list(runtime.sessions.values()):
            live.check(now)

    def _lost_store(self) -> str:
        """Why nothing passes for want of the state store; empty: it answers."""
        if time.monotonic() - self._runtime.blocklist.seen <= _LOST_AFTER:
            return ""
        return f"the gateway's state store does not answer: {self._store_error or 'its disk hangs'}"

    def _failed_record(self) -> str:
        """Why nothing passes for want of the record; empty: it is written."""
        runtime = self._runtime
        try:
            runtime.recorder.tick()
        except RecordError as e:
            if runtime.recorder.recover():
                return ""
            if not runtime.stopped:
                log.error("recording stopped: %s", e)
            return "the gateway cannot record; nothing passes until it can"
        return ""

    async def _ask_store(self) -> None:
        """What others changed. It may wait for the disk, and then the rest of the look does not."""
        try:
            await self._runtime.blocklist.look()
            await self._runtime.approvals.poll()
        except StateError as e:
            if str(e) != self._store_error:
                log.error("the state store: %s", e)
            self._store_error = str(e)
        else:
            self._store_error = ""

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is not None:
            self._failed(task)

    def _failed(self, task: asyncio.Task[None]) -> None:
        """Without the regular look containment would not reach anybody: nothing may pass."""
        if task.cancelled():
            return
        runtime = self._runtime
        self.stop()  # another round would find all well, and say so
        log.critical("the regular look failed; everything stops", exc_info=task.exception())
        runtime.stopped = "internal error in the gateway; nothing passes until it is restarted"
        runtime.draining = True
        for live in list(runtime.sessions.values()):
            live.terminate("internal error in the gateway")
