"""Starts and ends reach the registry together, in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from addons.registrar import Registrar
from guard.state import SessionEntry, StateError, StateStore
from guard.state.registry import SessionEnd, Sessions


def entry(name: str) -> SessionEntry:
    return SessionEntry(name, "g1", "ci", "https://idp", "shop", "http", "10.0.0.7", "curl", 1.25, 9.5)


class Slow(Sessions):
    """Writes when it is let, and remembers what came together."""

    def __init__(self, store: StateStore) -> None:
        super().__init__(store.sessions._database)
        self.let = threading.Event()
        self.batches: list[tuple[list[str], list[str]]] = []

    def write(self, started: Sequence[SessionEntry], ended: Sequence[SessionEnd]) -> None:
        assert self.let.wait(10)
        super().write(started, ended)
        self.batches.append(([e.id for e in started], [e.id for e in ended]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore(tmp_path / "state.db", busy_timeout=0.2) as made:
        yield made


def test_what_comes_while_one_is_written_goes_together_starts_first(store: StateStore) -> None:
    async def run() -> None:
        sessions = Slow(store)
        registrar = Registrar(sessions)
        work = [registrar.start(entry("a")), registrar.start(entry("b")), registrar.end("b", 2.0, "left")]
        work += [registrar.end("a", 3.0, "left"), registrar.start(entry("c")), registrar.end("nobody", 1.0, "")]
        sessions.let.set()
        await asyncio.gather(*work)
        assert sessions.batches == [(["a"], []), (["b", "c"], ["b", "a", "nobody"])]
        registrar.close()

    asyncio.run(run())
    assert [one.id for one in store.sessions.list()] == ["c"]
    ended = store.sessions.get("a")
    assert ended is not None
    assert (ended.ended_at, ended.end_reason) == (3.0, "left")
    assert store.sessions.get("c") == entry("c")


def test_a_session_that_cannot_be_registered_says_so_to_all_who_wait(store: StateStore, tmp_path: Path) -> None:
    async def run() -> None:
        registrar = Registrar(store.sessions)
        lock = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            found = await asyncio.gather(*(registrar.start(entry(n)) for n in "abc"), return_exceptions=True)
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert [type(one) for one in found] == [StateError] * 3
        await registrar.start(entry("d"))
        registrar.close()

    asyncio.run(run())
    assert [one.id for one in store.sessions.list()] == ["d"]


def test_who_stops_waiting_keeps_nobody_else_from_it(store: StateStore) -> None:
    async def run() -> None:
        sessions = Slow(store)
        registrar = Registrar(sessions)
        first = registrar.start(entry("a"))
        left, stays = asyncio.ensure_future(wait(registrar, "b")), registrar.start(entry("c"))
        await asyncio.sleep(0)
        left.cancel()
        sessions.let.set()
        await asyncio.gather(first, stays)
        registrar.close()

    async def wait(registrar: Registrar, name: str) -> None:
        await registrar.start(entry(name))

    asyncio.run(run())


def test_once_closed_nothing_begins(store: StateStore) -> None:
    async def run() -> None:
        registrar = Registrar(store.sessions)
        registrar.close()
        with pytest.raises(StateError, match="closed"):
            await registrar.start(entry("a"))
        with pytest.raises(StateError, match="closed"):
            await registrar.end("a", 1.0, "")

    asyncio.run(run())


def test_many_are_written_as_they_are_and_the_first_end_counts(store: StateStore) -> None:
    entries = [entry(f"s{n}") for n in range(1203)]
    store.sessions.write(entries, [SessionEnd("s7", 5.0, "one"), SessionEnd("s7", 6.0, "two")])
    store.sessions.write([], [SessionEnd("s7", 7.0, "three")])
    live = {one.id: one for one in store.sessions.list(limit=5000)}
    assert live == {one.id: one for one in entries if one.id != "s7"}
    ended = store.sessions.get("s7")
    assert ended is not None
    assert (ended.ended_at, ended.end_reason) == (5.0, "one")


def test_of_a_transaction_that_fails_nothing_is_noted(store: StateStore) -> None:
    store.sessions.write([entry("a")], [])
    with pytest.raises(StateError):
        store.sessions.write([entry("b"), entry("a")], [SessionEnd("a", 2.0, "")])
    assert [one.id for one in store.sessions.list()] == ["a"]
