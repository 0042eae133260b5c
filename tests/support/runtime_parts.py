"""A runtime with the real parts that tests beneath `start` need, inside an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from addons.runtime import Runtime
from guard.config import load
from guard.enforce import PolicySet
from guard.mask import keys as mask_keys
from guard.record.journal import Recorder
from guard.record.reader import Cursor, follow
from guard.state import LoopJournal, StateAccess, StateStore
from guard.state.blocklist import Blocklist


class Parts:
    """Of a configuration and its one policy: recorder, state, blocklist, policies. Nothing runs by itself."""

    def __init__(self, folder: Path, config: str, policy: str) -> None:
        self.policy, self.folder = folder / "policy.yaml", folder / "state"
        self.policy.write_text(policy)
        path = folder / "gateway.yaml"
        path.write_text(config)
        self.runtime = runtime = Runtime(load(path))
        runtime.recorder = Recorder(runtime.config.record, self.folder)
        journal = LoopJournal(runtime.recorder.event)
        runtime.store = StateStore(self.folder / "state.db", journal=journal, busy_timeout=0.3)
        runtime.state = StateAccess(runtime.store)
        runtime.blocklist = Blocklist(runtime.state)
        runtime.mask_key = mask_keys.load_or_create(self.folder / "keys" / "mask.key")
        runtime.policies = PolicySet.load(runtime.config.policies)

    def journal(self, kind: str) -> list[dict[str, Any]]:
        """The records of this kind, in order."""
        self.runtime.recorder.flush()
        found = follow(self.folder / "journal", Cursor())
        return [json.loads(record.payload) for record, _ in found if record.kind == kind]

    def registered(self) -> dict[str, str]:
        """Session id -> why it has ended; empty: it is live."""
        with contextlib.closing(sqlite3.connect(self.folder / "state.db")) as store:
            return dict(store.execute("SELECT id, end_reason FROM sessions"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another process writes to the state store, and takes its time."""
        with contextlib.closing(sqlite3.connect(self.folder / "state.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            yield
            lock.execute("ROLLBACK")

    async def settle(self) -> None:
        """What is on its way to the registry has arrived."""
        while self.runtime._registering:
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self.settle()
        self.runtime.upstreams.close()
        self.runtime.registrar.close()
        await self.runtime.state.close(1)
        self.runtime.recorder.close()
        self.runtime.store.close()


def run[P: Parts](make: Callable[[], P], work: Callable[[P], Awaitable[object]]) -> None:
    """A coroutine function with parts of its own."""

    async def within() -> None:
        parts = make()
        try:
            await work(parts)
        finally:
            await parts.close()

    asyncio.run(within())
