"""What ended long ago leaves the registry: in small pieces, every day, whatever the store says today."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from guard.state import StateAccess, StateError, StateStore
from guard.state.housekeeping import AGAIN_S, BATCH, EVERY_S, KEEP_S, forget_once, forget_regularly, lost
from guard.state.registry import SessionEnd, SessionEntry

NOW = 1_800_000_000.0


def session(name: str) -> SessionEntry:
    return SessionEntry(name, "g1", "ann", "https://idp", "shop", "postgres", "127.0.0.1:1", "", 1.0, NOW)


def fill(store: StateStore, ended: dict[str, float | None]) -> None:
    store.sessions.write(
        [session(name) for name in ended],
        [SessionEnd(name, at, "left") for name, at in ended.items() if at is not None],
    )


def names(store: StateStore) -> set[str]:
    return {entry.id for entry in store.sessions.list(live=False, limit=10_000)}


def test_the_old_go_in_pieces_and_the_live_never(store: StateStore) -> None:
    fill(store, {f"old-{n}": NOW - KEEP_S - n - 1 for n in range(2 * BATCH + 1)})
    fill(store, {"live": None, "young": NOW - KEEP_S + 1})
    pauses: list[float] = []

    async def run() -> int:
        state = StateAccess(store)

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            kept = await state.read(names)  # somebody else's turn, in between
            assert len(kept) == 2 + 2 * BATCH + 1 - BATCH * len(pauses)

        try:
            return await forget_once(state, NOW - KEEP_S, sleep)
        finally:
            await state.close(5)

    assert asyncio.run(run()) == 2 * BATCH + 1
    assert len(pauses) == 2
    assert names(store) == {"live", "young"}


class Stop(Exception):
    pass


def test_daily_and_sooner_after_a_failure(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, {"old": NOW - KEEP_S - 1, "young": NOW - 1})
    forget: Callable[..., int] = store.sessions.forget_ended
    failures = iter([StateError("the state database is locked")])
    waited: list[float] = []

    def locked_once(before: float, limit: int) -> int:
        for error in failures:
            raise error
        return forget(before, limit)

    monkeypatch.setattr(store.sessions, "forget_ended", locked_once)

    async def run() -> None:
        state = StateAccess(store)

        async def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 4:
                raise Stop

        try:
            await forget_regularly(state, lambda: NOW, sleep)
        finally:
            await state.close(5)

    with pytest.raises(Stop):
        asyncio.run(run())
    assert waited == [AGAIN_S, AGAIN_S, EVERY_S, EVERY_S]
    assert names(store) == {"young"}


def test_a_store_that_is_missing_beside_a_journal_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert lost(path, recorded=False) == ""  # the first start of all
    assert "who was contained" in lost(path, recorded=True)
    path.touch()
    assert "`state.db` was lost" in lost(path, recorded=True)
    StateStore(path).close()
    assert lost(path, recorded=True) == ""
