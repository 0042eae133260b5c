"""Held commands while the state store is slow, locked, full, or loses its answer: released once, by `spend`, or not.

Session, relay, book, journal and store are the real ones; the two legs and the catalog are in our hands.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons.busy_poll import BusyPoll
    from addons.definitions import Definitions
    from addons.leg import Leg
    from addons.live import LiveSession, Opened
    from addons.relay import Outbox, Relay
    from addons.runtime import Runtime

from guard.approve import ApprovalBook
from guard.config import load
from guard.enforce import PolicySet
from guard.mask import keys as mask_keys
from guard.record.journal import Recorder
from guard.state import ApprovalStatus, LoopJournal, SessionEntry, StateAccess, StateError, StateStore, Vote
from guard.state.blocklist import Blocklist
from protocols.contract import Principal, Resource, SessionFacts
from protocols.postgres.judging import AnalysisCache
from protocols.postgres.limits import Limits
from protocols.postgres.session import PostgresSession
from protocols.postgres.state import SessionState
from tests.addons.test_relay import FakeLeg
from tests.guard.config.conftest import BASE
from tests.support import wire
from tests.support.disk import file_size_limit
from tests.support.talk import catalog
from tests.support.wire import query

AGENT = Principal("agent-7", "https://idp", frozenset({"agents"}), expires_at=4e9)
ALICE = Principal("alice", "https://idp", frozenset({"oncall"}), expires_at=4e9)
SHOP = Resource("shop", "postgres", {}, "shop")
DELETE = "DELETE FROM orders WHERE id = 1"
POLICY = """\
version: 1
name: small
description: deletes are held
rules:
  - {id: work, description: reads, allow: [data.select, data.delete]}
  - {id: ask, description: deletes wait, hold: [data.delete], approvers: {groups: [oncall], expires: 10m}}
"""
STRICTER = POLICY + "  - {id: never, description: no deletes, deny: [data.delete]}\n"


class Catalogs:
    """A catalog that is always fresh."""

    def __init__(self) -> None:
        self.definitions = Definitions()

    def current(self, not_before: float = 0.0) -> Any:
        return catalog()

    async def refresh(self, not_before: float = 0.0) -> None: ...


class Bench:
    """Inside a loop: a gateway's parts, and one session of an agent."""

    def __init__(self, folder: Path, busy_timeout: float = 0.2, within: float = 5.0) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        path = folder / "gateway.yaml"
        path.write_text(BASE + "roles: {approver: {groups: [oncall]}}\n")
        config = load(path)
        self.folder = folder / "state"
        self.runtime = runtime = Runtime(config)
        runtime.recorder = Recorder(config.record, self.folder)
        self.store = runtime.store = StateStore(
            self.folder / "state.db", journal=LoopJournal(runtime.recorder.event), busy_timeout=busy_timeout
        )
        runtime.state = StateAccess(self.store, within)
        runtime.blocklist = Blocklist(runtime.state)
        runtime.approvals = self.book = ApprovalBook(runtime.state, runtime.recorder, gateway=runtime.name)
        runtime.mask_key = mask_keys.load_or_create(self.folder / "keys" / "mask.key")
        runtime.policies = PolicySet.load(config.policies)
        self.client, self.upstream = FakeLeg(), FakeLeg()
        self.live = self.session("s1", self.client, self.upstream)

    def session(self, name: str, client: FakeLeg, upstream: FakeLeg) -> LiveSession:
        facts = SessionFacts("10.0.0.7", "job", 1.0)
        policy = self.runtime.policies.for_session(AGENT, SHOP, facts)
        live = LiveSession(self.runtime, Opened(name, AGENT, SHOP, facts, policy), cast(Any, Catalogs()))
        live.apart = False  # long statements are analysed here
        state = SessionState()
        state.startup({"user": "app", "database": "db", "client_encoding": "UTF8"})
        for setting, value in (("client_encoding", "UTF8"), ("standard_conforming_strings", "on")):
            state.parameter_status(setting, value)
        state.ready("I")
        live.session = PostgresSession(name, live, state, AnalysisCache(), Limits())
        live.relay = Relay(
            cast(Leg, client),
            cast(Leg, upstream),
            live.session,
            hold_buffer=1000,
            refresh=live.refresh_catalog,
            ended=lambda why: None,
            outbox=Outbox(self.runtime.recorder.flush),
            busy_poll=BusyPoll(0),
        )
        live.relay.start(b"", b"")
        return live

    # ------------------------------------------------------------ what happens

    def send(self, text: str = DELETE, live: LiveSession | None = None) -> None:
        relay = (live or self.live).relay
        assert relay is not None
        relay.from_client(query(text))

    async def held(self, text: str = DELETE) -> str:
        """Sends it, and returns the id of the request once the client is told."""
        self.send(text)
        await until(lambda: b"waits for approval" in self.client.sent)
        [waiting] = [one.id for one in self.store.approvals.list(status=ApprovalStatus.PENDING)]
        return waiting

    def status(self, approval_id: str) -> str:
        found = self.store.approvals.get(approval_id)
        assert found is not None
        return found.status.value

    async def refusal(self) -> str:
        """The error that the client gets: the upstream answers the stand-in that went in place of the command."""
        await until(lambda: bool(self.upstream.sent))
        assert DELETE.encode() not in self.upstream.sent
        assert self.live.relay is not None
        self.live.relay.from_upstream(wire.error("42601") + wire.ready())
        [error] = wire.errors(self.client.sent)
        return error["M"]

    def ran(self) -> int:
        """How often the command went upstream."""
        return self.upstream.sent.count(DELETE.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process has the store, and keeps it."""
        lock = sqlite3.connect(self.folder / "state.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            lock.execute("ROLLBACK")
            lock.close()

    async def close(self) -> None:
        for task in list(self.runtime._tasks):
            task.cancel()
        await self.runtime.state.close(5.0)
        self.runtime.registrar.close()
        self.runtime.recorder.close()
        self.store.close()


class Gate:
    """A call of the store that waits in its thread: `before` it is made, or `after` it was, with its answer to come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
        self.let, self.arrived = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def gated(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs) if after else None
            self.arrived.set()
            assert self.let.wait(20)
            return answer if after else real(*args, **kwargs)

        monkeypatch.setattr(owner, name, gated)

    async def reached(self) -> None:
        await until(self.arrived.is_set)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


def run(folder: Path, work: Callable[[Bench], Coroutine[Any, Any, None]], **options: float) -> None:
    async def with_bench() -> None:
        bench = Bench(folder, **options)
        try:
            await work(bench)
        finally:
            await bench.close()

    asyncio.run(with_bench())


def test_approved_it_runs_once_after_it_was_spent(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        waiting = await bench.held()
        assert bench.upstream.sent == b""
        await bench.book.vote(waiting, ALICE, True)
        await until(lambda: bench.ran() == 1)
        assert bench.status(waiting) == "spent"
        assert bench.book.waiting == 0

    run(tmp_path, work)


def test_nobody_is_told_of_a_request_before_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "insert")
        bench.send()
        await gate.reached()
        assert bench.client.sent == b""
        assert bench.live.session is not None
        assert bench.live.session.waiting is not None
        gate.let.set()
        await until(lambda: b"waits for approval" in bench.client.sent)

    run(tmp_path, work)


def test_a_locked_store_refuses_the_command_and_the_session_lives(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        with bench.locked():
            bench.send()
            why = await bench.refusal()
        assert "nobody can be asked" in why
        assert "cannot keep the request now" in why
        assert str(bench.folder) not in why
        assert bench.ran() == 0
        bench.upstream.sent = bench.client.sent = b""
        await bench.book.vote(await bench.held(), ALICE, True)  # the lock is gone: it works
        await until(lambda: bench.ran() == 1)

    run(tmp_path, work)


def test_a_full_disk_refuses_the_command_and_the_login_and_the_session_lives(tmp_path: Path) -> None:
    """The state store's alone: with the journal's nothing would pass."""

    async def work(bench: Bench) -> None:
        entry = SessionEntry("s7", "g1", "ci", "https://idp", "shop", "postgres", "10.0.0.7", "job", 1.0, 9.0)
        with file_size_limit((bench.folder / "state.db-wal").stat().st_size):
            bench.send()
            assert "cannot keep the request now" in await bench.refusal()
            with pytest.raises(StateError, match="check space"):
                await bench.runtime.registrar.start(entry)
            stored = bench.runtime.blocklist.contain("ci", "carol", "stolen", 1.0)
            with pytest.raises(StateError, match="check space"):
                await stored
            assert bench.runtime.blocklist.contained == {"ci"}
        bench.upstream.sent = bench.client.sent = b""
        await bench.book.vote(await bench.held(), ALICE, True)
        await until(lambda: bench.ran() == 1)

    run(tmp_path, work)


def test_a_store_that_never_answers_refuses_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was stored although nobody heard of it is withdrawn."""

    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "insert", after=True)
        bench.send()
        assert "cannot keep the request now" in await bench.refusal()
        gate.let.set()
        await until(lambda: bool(bench.store.approvals.list(status=ApprovalStatus.WITHDRAWN)))
        assert bench.store.approvals.list(status=ApprovalStatus.PENDING) == []

    run(tmp_path, work, within=0.2)


def test_a_vote_elsewhere_before_anybody_here_knows_that_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "insert", after=True)
        bench.send()
        await gate.reached()
        with StateStore(bench.folder / "state.db") as other:
            [waiting] = other.approvals.list()
            other.approvals.vote(waiting.id, Vote("alice", "https://idp", True, "seen", time.time()))
        await bench.book.poll()  # this look has seen the vote, and nobody waits for it yet
        gate.let.set()
        await until(lambda: b"waits for approval" in bench.client.sent)
        await bench.book.poll()
        await until(lambda: bench.ran() == 1)

    run(tmp_path, work)


def test_a_cancel_request_waits_for_what_it_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh names may take a while: until they are there the server has not got the statement, and forgets the wish."""

    async def work(bench: Bench) -> None:
        fresh, asked = asyncio.Event(), []
        monkeypatch.setattr(bench.live.keeper, "current", lambda not_before=0.0: catalog() if fresh.is_set() else None)
        monkeypatch.setattr(bench.live.keeper, "refresh", lambda not_before=0.0: fresh.wait())
        monkeypatch.setattr(bench.live, "cancel_upstream", lambda: asked.append(bench.upstream.sent))
        bench.send("SELECT id FROM orders")
        bench.live.cancel()
        await asyncio.sleep(0.1)
        assert not asked
        fresh.set()
        await until(lambda: bool(asked))
        assert asked == [query("SELECT id FROM orders")]

    run(tmp_path, work)


@pytest.mark.parametrize("after", [False, True])
def test_a_client_that_cancels_while_its_request_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "insert", after=after)
        bench.send()
        await gate.reached()
        bench.live.cancel()
        assert "canceling statement" in await bench.refusal()  # at once: the store has not answered
        gate.let.set()
        await until(lambda: bool(bench.store.approvals.list(status=ApprovalStatus.WITHDRAWN)))
        assert bench.book.waiting == 0

    run(tmp_path, work)


def test_a_client_that_is_gone_while_its_request_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "insert")
        bench.send()
        await gate.reached()
        assert bench.live.relay is not None
        bench.live.relay._client_gone()
        gate.let.set()
        await until(lambda: bool(bench.store.approvals.list(status=ApprovalStatus.WITHDRAWN)))
        assert (bench.ran(), bench.live._holds) == (0, {})

    run(tmp_path, work)


@pytest.mark.parametrize("how", ["cancels", "leaves", "is contained"])
@pytest.mark.parametrize("after", [False, True])
def test_who_leaves_while_the_approval_is_spent_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, after: bool
) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "spend", after=after)
        waiting = await bench.held()
        await bench.book.vote(waiting, ALICE, True)
        await gate.reached()
        assert bench.live.relay is not None
        if how == "cancels":
            bench.live.cancel()
            assert "canceling statement" in await bench.refusal()
        elif how == "leaves":
            bench.live.relay._client_gone()
        else:
            bench.live.terminate("contained")
        gate.let.set()
        await until(lambda: bench.status(waiting) in ("spent", "withdrawn"))
        await until(lambda: not bench.runtime._tasks)
        assert bench.ran() == 0

    run(tmp_path, work)


def test_a_spending_whose_answer_is_lost_releases_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "spend", after=True)
        waiting = await bench.held()
        await bench.book.vote(waiting, ALICE, True)
        assert "cannot use the approval now" in await bench.refusal()
        assert bench.status(waiting) == "spent"  # it was: nobody else can use it
        gate.let.set()
        await until(lambda: not bench.runtime._tasks)
        assert bench.ran() == 0

    run(tmp_path, work, within=0.2)


def test_an_approval_that_cannot_be_spent_is_withdrawn_when_the_store_answers(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        waiting = await bench.held()
        with bench.locked(), pytest.raises(StateError, match="locked"):
            await bench.book.vote(waiting, ALICE, True)
        await bench.book.vote(waiting, ALICE, True)
        with bench.locked():
            assert "cannot use the approval now" in await bench.refusal()
        while bench.status(waiting) != "withdrawn":
            await bench.book.poll()
            await asyncio.sleep(0.01)
        assert bench.ran() == 0

    run(tmp_path, work)


@pytest.mark.parametrize("approvers", ["{groups: [oncall], count: 2}", "{groups: [security]}", "{subjects: [bob]}"])
@pytest.mark.parametrize("late", [False, True])
def test_an_approval_is_not_of_those_whom_another_policy_asks_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approvers: str, late: bool
) -> None:
    """A reload may ask for more than what was given, before the vote or while it is spent."""

    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "spend", after=True)
        waiting = await bench.held()
        if late:
            await bench.book.vote(waiting, ALICE, True)
            await gate.reached()
        gate.let.set()
        (tmp_path / "policy.yaml").write_text(POLICY.replace("{groups: [oncall], expires: 10m}", approvers))
        policies = PolicySet.load(bench.runtime.config.policies)
        bench.live.new_policy(policies.for_session(AGENT, SHOP, bench.live.facts))
        if not late:
            await bench.book.vote(waiting, ALICE, True)
        assert "asks for other or more approvers" in await bench.refusal()
        assert bench.ran() == 0

    run(tmp_path, work)


def test_an_approval_stands_where_another_policy_asks_for_less(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        waiting = await bench.held()
        less = POLICY.replace("[oncall], expires: 10m", "[oncall, security], expires: 2m")
        assert less != POLICY
        (tmp_path / "policy.yaml").write_text(less)
        policies = PolicySet.load(bench.runtime.config.policies)
        bench.live.new_policy(policies.for_session(AGENT, SHOP, bench.live.facts))
        await bench.book.vote(waiting, ALICE, True)
        await until(lambda: bench.ran() == 1)

    run(tmp_path, work)


def test_a_policy_that_became_stricter_while_the_approval_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "spend", after=True)
        waiting = await bench.held()
        await bench.book.vote(waiting, ALICE, True)
        await gate.reached()
        (tmp_path / "policy.yaml").write_text(STRICTER)
        policies = PolicySet.load(bench.runtime.config.policies)
        bench.live.new_policy(policies.for_session(AGENT, SHOP, bench.live.facts))
        gate.let.set()
        assert "policy changed meanwhile: denied by rule `small/never`" in await bench.refusal()
        assert bench.ran() == 0

    run(tmp_path, work)


def test_a_subject_contained_while_the_approval_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory only, as while the store is locked: the regular look has not ended the session yet."""

    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "spend", after=True)
        waiting = await bench.held()
        await bench.book.vote(waiting, ALICE, True)
        await gate.reached()
        stored = bench.runtime.blocklist.contain("agent-7", "carol", "stolen", 1.0)
        gate.let.set()
        assert "is contained" in await bench.refusal()
        await stored
        assert bench.ran() == 0

    run(tmp_path, work)


def test_a_vote_that_waits_until_the_request_has_expired_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        clock = [time.time()]
        bench.book._clock = lambda: clock[0]
        waiting = await bench.held()
        gate = Gate(monkeypatch, bench.store.approvals, "vote")
        vote = asyncio.ensure_future(bench.book.vote(waiting, ALICE, True))
        await gate.reached()
        clock[0] += 601
        gate.let.set()
        assert (await vote).status == "approved"  # it was cast in time
        assert "has expired" in await bench.refusal()
        assert bench.ran() == 0

    run(tmp_path, work)


def test_a_spending_that_waits_until_the_request_has_expired_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        clock = [time.time()]
        bench.book._clock = lambda: clock[0]
        waiting = await bench.held()
        gate = Gate(monkeypatch, bench.store.approvals, "spend")
        await bench.book.vote(waiting, ALICE, True)
        await gate.reached()
        clock[0] += 601
        gate.let.set()
        assert "has expired" in await bench.refusal()
        assert (bench.status(waiting), bench.ran()) == ("spent", 0)

    run(tmp_path, work)


def test_patience_that_ends_while_the_store_is_locked(tmp_path: Path) -> None:
    """It cannot be deferred: the client is told that nobody approved it, and the request is withdrawn."""

    async def work(bench: Bench) -> None:
        bench.live.hold_wait = 0.2
        waiting = await bench.held()
        with bench.locked():
            assert "nobody approved it in time" in await bench.refusal()
        while bench.status(waiting) != "withdrawn":
            await bench.book.poll()
            await asyncio.sleep(0.01)

    run(tmp_path, work)


def test_a_client_that_leaves_while_its_request_is_deferred_takes_it_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(bench: Bench) -> None:
        gate = Gate(monkeypatch, bench.store.approvals, "defer", after=True)
        bench.live.hold_wait = 0.1
        waiting = await bench.held()
        await gate.reached()
        bench.live.cancel()
        assert "canceling statement" in await bench.refusal()
        gate.let.set()
        await until(lambda: bench.status(waiting) == "withdrawn")

    run(tmp_path, work)


def test_two_sessions_ask_for_one_deferred_command_at_the_same_moment(tmp_path: Path) -> None:
    """One joins it, the other asks anew; the one approval lets one of them through."""

    async def work(bench: Bench) -> None:
        bench.live.hold_wait = 0.1
        waiting = await bench.held()
        assert "once it is approved" in await bench.refusal()
        await bench.book.vote(waiting, ALICE, True)
        legs = [(FakeLeg(), FakeLeg()) for _ in range(4)]
        for number, (client, upstream) in enumerate(legs):
            bench.send(live=bench.session(f"t{number}", client, upstream))
        await until(lambda: any(upstream.sent for _, upstream in legs))
        await until(lambda: sum(b"waits for approval" in client.sent for client, _ in legs) == 4)
        await until(lambda: bench.status(waiting) == "spent")
        assert [upstream.sent.count(DELETE.encode()) for _, upstream in legs].count(1) == 1
        assert len(bench.store.approvals.list(status=ApprovalStatus.PENDING)) == 3

    run(tmp_path, work)


def test_a_restart_while_it_is_stored_leaves_nothing_to_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[Gate] = []

    async def before(bench: Bench) -> None:
        gates.append(gate := Gate(monkeypatch, bench.store.approvals, "insert", after=True))
        bench.send()
        await gate.reached()
        gate.let.set()  # stored, and the process ends before anybody has heard of it

    async def after(bench: Bench) -> None:
        bench.book.start()
        assert bench.store.approvals.list(status=ApprovalStatus.PENDING) == []
        assert len(bench.store.approvals.list(status=ApprovalStatus.WITHDRAWN)) == 1

    run(tmp_path, before)
    run(tmp_path, after)


def test_what_is_too_long_is_refused_without_asking(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.send(DELETE + " -- " + "x" * 300_000)
        await until(lambda: bool(bench.upstream.sent))
        assert bench.store.approvals.list() == []
        assert bench.ran() == 0

    run(tmp_path, work)
