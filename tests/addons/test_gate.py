"""Ids and cancel keys, upstream connections of strangers, and what one session may do to another."""

from __future__ import annotations

import asyncio
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons import wire_layer
    from addons.busy_poll import BusyPoll
    from addons.drive import last_words
    from addons.gate import Gate
    from addons.leg import Leg
    from addons.live import LiveSession, Opened
    from addons.relay import Outbox, Relay
    from addons.runtime import Runtime
    from addons.upstreams import EARLY

from guard.config import load
from guard.enforce import PolicySet
from guard.mask import keys as mask_keys
from guard.record.journal import Recorder
from guard.state import StateAccess, StateError, StateStore
from guard.state.blocklist import Blocklist
from protocols.contract import (
    Action,
    Admission,
    Analysis,
    Authenticate,
    Cancel,
    Connect,
    Credential,
    Decision,
    Effect,
    KeepKey,
    ListenerTerms,
    Permit,
    Principal,
    RecordFailed,
    Refused,
    Register,
    Resource,
    SessionFacts,
)
from protocols.postgres import handshake
from protocols.postgres.state import SessionState
from protocols.registry import PROTOCOLS
from tests.addons.test_relay import FakeLeg
from tests.guard.config.conftest import BASE, POLICY
from tests.support.handshake import NONCE
from tests.support.mysql_talk import Talk as MysqlTalk
from tests.support.talk import Talk

ADA = Principal("ada", "https://idp", expires_at=4e9)
SHOP = Resource("shop", "postgres", {}, "shop")


class Bench:
    """The parts of a runtime that a gate and a live session use; the real ones."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        path = folder / "gateway.yaml"
        path.write_text(BASE)
        config = load(path)
        self.folder = folder / "state"
        self.runtime = runtime = Runtime(config)
        runtime.recorder = Recorder(config.record, self.folder)
        runtime.store = StateStore(self.folder / "state.db", journal=runtime.recorder.event, busy_timeout=0.3)
        runtime.blocklist = Blocklist(StateAccess(runtime.store))
        runtime.mask_key = mask_keys.load_or_create(self.folder / "keys" / "mask.key")
        runtime.upstream_tls = {"shop": None}
        runtime.policies = PolicySet.load(config.policies)

    def gate(self) -> Gate:
        config = self.runtime.config
        return Gate(self.runtime, PROTOCOLS["postgres"], config.listeners[0], config.resources[0], "10.0.0.7")

    def live(self, name: str, principal: Principal = ADA, resource: Resource = SHOP) -> LiveSession:
        """A session that runs, between two legs without a network."""
        runtime, facts = self.runtime, SessionFacts("10.0.0.7", "job", 1.0)
        policy = runtime.policies.for_session(principal, resource, facts)
        keeper = runtime.upstreams.keeper(runtime.config.resources[0], "shop")
        live = LiveSession(runtime, Opened(name, principal, resource, facts, policy), keeper)
        live.session = Talk().session
        live.relay = Relay(
            cast(Leg, FakeLeg()),
            cast(Leg, FakeLeg()),
            live.session,
            hold_buffer=1000,
            refresh=live.refresh_catalog,
            ended=lambda why: None,
            outbox=Outbox(lambda: None),
            busy_poll=BusyPoll(0),
        )
        return live

    def journal(self) -> bytes:
        self.runtime.recorder.flush()
        return b"".join(p.read_bytes() for p in self.folder.rglob("*") if p.is_file())

    def close(self) -> None:
        self.runtime.recorder.close()
        self.runtime.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- ids and keys


def test_an_id_told_before_the_login_is_the_one_that_is_kept(bench: Bench) -> None:
    gate, keys = bench.gate(), bench.runtime.cancel_keys
    pid = gate.reserve_id()
    assert keys[pid] == (None, b"")
    assert gate.reserve_id() == pid
    assert gate.keep_key(KeepKey(99, b"upstream", 4))[0] == pid
    assert len(bench.gate().keep_key(KeepKey(99, b"", 32))[1]) == 32


def test_ids_are_unique_from_the_moment_they_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([4, 4, 4, 6])
    monkeypatch.setattr("secrets.randbelow", lambda _: next(drawn))
    assert [bench.gate().reserve_id(), bench.gate().reserve_id()] == [5, 7]


def test_the_client_is_told_the_id_that_the_server_knows_it_by(bench: Bench) -> None:
    """Notifications and locks name it. Where two servers gave the same, the second client gets another."""
    first, second = bench.gate(), bench.gate()
    pid, secret = first.keep_key(KeepKey(4711, b"upstream", 8))
    assert pid == 4711
    assert secret != b"upstream"
    assert second.keep_key(KeepKey(4711, b"upstream", 8))[0] not in (0, 4711)


def test_the_id_of_a_handshake_that_fails_is_free_again(bench: Bench) -> None:
    gate = bench.gate()
    gate.reserve_id()
    gate.failed("it left")
    gate.failed("twice does no harm")
    assert bench.runtime.cancel_keys == {}


def remembering(asked: list[int], wait: float = 0) -> Callable[[], asyncio.Task[None]]:
    """In place of a cancel request upstream, which takes `wait` seconds: `asked` counts those that are through."""

    async def request() -> None:
        await asyncio.sleep(wait)
        asked.append(1)

    return lambda: asyncio.ensure_future(request())


def test_a_cancel_request_ends_when_the_upstream_has_been_asked(bench: Bench) -> None:
    """Else the client's next statement might be cancelled in place of this one."""

    async def run() -> None:
        live = bench.live("s1")
        asked: list[int] = []
        live.cancel_upstream = remembering(asked, 0.05)
        bench.runtime.cancel_keys[8] = (live, b"key")
        await bench.gate().cancel(Cancel(8, b"key"))
        assert asked == [1]
        leaves = asyncio.ensure_future(bench.gate().cancel(Cancel(8, b"key")))
        await asyncio.sleep(0)
        leaves.cancel()  # who asked does not wait: it is asked all the same
        await asyncio.sleep(0.2)
        assert asked == [1, 1]

    asyncio.run(run())


def test_row_19_an_id_without_a_secret_cancels_nothing(bench: Bench) -> None:
    """The ids of MySQL are no secret: who knows one has no key."""

    async def run() -> None:
        live = bench.live("s1")
        asked: list[int] = []
        live.cancel_upstream = remembering(asked)
        keys = bench.runtime.cancel_keys
        keys[7], keys[8], keys[9] = (live, b""), (live, b"key"), (None, b"")
        for pid, secret in ((7, b""), (7, b"\0"), (8, b""), (8, b"kex"), (9, b""), (10, b"")):
            await bench.gate().cancel(Cancel(pid, secret))
        assert asked == []
        await bench.gate().cancel(Cancel(8, b"key"))
        assert asked == [1]

    asyncio.run(run())
    assert bench.journal().count(b'"t":"cancel.refused"') == 6


# ---------------------------------------------------------------- upstream connections of strangers


def test_few_strangers_have_an_upstream_at_a_time(bench: Bench) -> None:
    async def run() -> None:
        gates = [bench.gate() for _ in range(EARLY)]
        for gate in gates:
            await gate.may_connect()
        last = asyncio.ensure_future(bench.gate().may_connect())
        await asyncio.sleep(0.01)
        assert not last.done()
        gates[0].failed("it left")
        gates[0].failed("once is enough")
        await last
        gone = asyncio.ensure_future(bench.gate().may_connect())
        await asyncio.sleep(0.01)
        gone.cancel()  # its login took too long: it has no place to give back
        with pytest.raises(asyncio.CancelledError):
            await gone
        known = bench.gate()
        known._live = bench.live("s1")
        await known.may_connect()  # somebody: the bound on connections counts

    asyncio.run(run())


def test_a_second_upstream_is_an_error(bench: Bench) -> None:
    async def run() -> None:
        layer = wire_layer.WireLayer.__new__(wire_layer.WireLayer)
        layer._gate, layer._connecting = bench.gate(), True
        with pytest.raises(RuntimeError, match="twice"):
            await layer._ask(Connect())

    asyncio.run(run())


# ---------------------------------------------------------------- last words


def test_the_protocol_has_the_last_word_where_it_waits() -> None:
    serving = handshake.serve(ListenerTerms("off"), NONCE)
    next(serving)
    words = last_words(serving, Refused("the login took too long", "57014"))
    assert words.startswith(b"E")
    assert b"57014" in words
    assert b"the login took too long" in words


def test_no_word_where_the_protocol_has_none() -> None:
    def stubborn() -> Any:
        try:
            yield Connect()
        except Refused as e:
            raise ValueError("a bug") from e

    serving = stubborn()
    next(serving)
    assert last_words(serving, Refused("no")) == b""
    assert last_words(handshake.serve(ListenerTerms("off"), NONCE), Refused("not begun")) == b""


@pytest.mark.parametrize("make", [Talk, MysqlTalk], ids=["postgres", "mysql"])
def test_behind_the_handshake_the_session_says_why_it_ends(bench: Bench, make: Callable[[], Any]) -> None:
    """The client has been told that it is in: it reads what comes as the answer to its first command."""
    gate = bench.gate()
    assert gate.last_words("not yet", "XX000") == PROTOCOLS["postgres"].refusal("not yet", "XX000")
    gate._live = bench.live("s1")
    gate._live.session = make().session
    words = gate.last_words("internal error in the gateway", "XX000")
    assert b"internal error in the gateway" in words
    assert words.startswith(b"E" if make is Talk else words[:3] + b"\1\xff")
    assert make is Talk or words[7:8] == b"#"  # with an SQLSTATE
    assert gate._live.session.ended


# ---------------------------------------------------------------- steps of a handshake


def test_a_registry_that_cannot_be_written_is_a_refusal_of_the_protocol_s_own(bench: Bench) -> None:
    class Locked:
        async def register(self) -> None:
            raise StateError("locked")

    async def run() -> None:
        layer = wire_layer.WireLayer.__new__(wire_layer.WireLayer)
        layer._gate, layer._registered = cast(Gate, Locked()), False
        with pytest.raises(Refused, match="nothing passes until it can") as caught:
            await layer._ask(Register())
        assert caught.value.code == "58030"
        assert not layer._registered

    asyncio.run(run())


@pytest.mark.parametrize("action", list(Action))
def test_a_setting_of_the_login_is_judged_as_a_statement(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    gate = bench.gate()
    gate._live = live = bench.live("s1")
    alerts: list[Any] = []
    decision = Decision(action, "r", "ask first", alerts=("r",))
    monkeypatch.setattr(LiveSession, "decide", lambda self, analysis: decision)
    monkeypatch.setattr(LiveSession, "alert", lambda self, names, number: alerts.append((names, number)))
    asked = Permit(Analysis("set", frozenset({Effect.SESSION_OTHER})), "SET app.token = 'hunter2'")
    if action is Action.ALLOW:
        gate.permit(asked)
        assert live.attributes == {"startup 1": "SET app.token = '[redacted]'"}
    else:
        with pytest.raises(Refused, match="refused by rule `r`") as caught:
            gate.permit(asked)
        assert caught.value.code == "42501"
        assert "`session.other`" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert ("needs approval" in str(caught.value)) is (action is Action.HOLD)
        assert live.attributes == {}
    assert alerts == [(("r",), 0)]


# ---------------------------------------------------------------- one session on another


def others(bench: Bench, act: Callable[[LiveSession], bool], victim: LiveSession) -> tuple[bool, list[int], str]:
    """(found, cancel requests upstream, why the victim ends) of an act by another session on id 7."""

    async def run() -> tuple[bool, list[int], str]:
        asked: list[int] = []
        victim.cancel_upstream = remembering(asked)
        bench.runtime.cancel_keys[7] = (victim, b"")
        found = act(bench.live("s2"))
        assert (asked, victim.end_reason) == ([], "")  # not from within a message
        await asyncio.sleep(0.01)
        return found, asked, victim.end_reason

    return asyncio.run(run())


def test_a_session_cancels_another_of_the_same_identity(bench: Bench) -> None:
    found, asked, why = others(bench, lambda live: live.cancel_other(7, end=False), bench.live("s1"))
    assert (found, asked, why) == (True, [1], "")


def test_a_session_ends_another_of_the_same_identity(bench: Bench) -> None:
    victim = bench.live("s1")
    found, asked, why = others(bench, lambda live: live.cancel_other(7, end=True), victim)
    assert (found, asked) == (True, [1])
    assert why == "ended by `ada` from session s2"
    assert victim.session is not None
    assert victim.session.ended


def test_a_session_ends_itself_after_its_message(bench: Bench) -> None:
    async def run() -> None:
        live = bench.live("s1")
        bench.runtime.cancel_keys[7] = (live, b"")
        assert live.cancel_other(7, end=True)
        assert live.session is not None
        assert not live.session.ended
        await asyncio.sleep(0)
        assert live.session.ended

    asyncio.run(run())


@pytest.mark.parametrize(
    ("principal", "resource"),
    [
        (Principal("eve", "https://idp", expires_at=4e9), SHOP),
        (Principal("ada", "https://other", expires_at=4e9), SHOP),  # the same name of another issuer
        (ADA, Resource("other", "postgres", {}, "shop")),
    ],
)
@pytest.mark.parametrize("end", [False, True])
def test_row_19_a_session_of_somebody_else_is_not_there(
    bench: Bench, principal: Principal, resource: Resource, end: bool
) -> None:
    victim = bench.live("s1", principal, resource)
    assert others(bench, lambda live: live.cancel_other(7, end=end), victim) == (False, [], "")


def test_an_id_that_nobody_has_or_that_is_only_reserved(bench: Bench) -> None:
    pid = bench.gate().reserve_id()
    assert not bench.live("s2").cancel_other(pid, end=True)
    assert not bench.live("s2").cancel_other(0, end=True)


def test_nothing_is_cancelled_that_cannot_be_recorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record.errors import RecordError

    def full() -> None:
        raise RecordError("no space left on device")

    monkeypatch.setattr(bench.runtime.recorder, "flush", full)

    def act(live: LiveSession) -> bool:
        with pytest.raises(RecordFailed):
            live.cancel_other(7, end=True)
        return False

    assert others(bench, act, bench.live("s1")) == (False, [], "")


# ---------------------------------------------------------------- who uses a catalog


@pytest.mark.parametrize("breaks", ["acquire", "_known", None])
def test_what_is_released_was_acquired(bench: Bench, monkeypatch: pytest.MonkeyPatch, breaks: str | None) -> None:
    """A keeper that counted a session too few would close its connection while others use it."""
    runtime = bench.runtime
    keeper = runtime.upstreams.keeper(runtime.config.resources[0], "shop")

    async def verify(_: str) -> Principal:
        return ADA

    async def credential(_: object) -> Credential:
        return Credential("app", "")

    def broken() -> None:
        raise RuntimeError(breaks)

    monkeypatch.setattr(runtime, "verifier", SimpleNamespace(verify=verify), raising=False)
    monkeypatch.setattr(runtime.upstreams, "credential", credential)

    async def run() -> None:
        gate = bench.gate()
        with monkeypatch.context() as patched:
            if breaks is not None:
                patched.setattr(keeper if breaks == "acquire" else gate, breaks, broken)
                with pytest.raises(RuntimeError, match=breaks):
                    await gate.admit(Authenticate("token", "app", "shop", "job"))
            else:
                await gate.admit(Authenticate("token", "app", "shop", "job"))
                assert (keeper.users, runtime.connections) == (1, 1)
        gate.failed("RuntimeError in the handshake")
        assert (keeper.users, runtime.connections) == (0, 0)
        keeper.close()

    asyncio.run(run())


def test_a_keeper_that_cannot_begin_has_no_user(bench: Bench) -> None:
    keeper = bench.runtime.upstreams.keeper(bench.runtime.config.resources[0], "shop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the coroutine that no loop runs
        with pytest.raises(RuntimeError, match="no running event loop"):
            keeper.acquire()
    assert keeper.users == 0


# ---------------------------------------------------------------- a store that does not answer


def test_a_session_whose_start_fails_has_an_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is on record already: nothing of it stays behind, and its end is on record, too."""
    runtime = bench.runtime
    runtime.busy_poll, runtime.outbox, runtime.view = BusyPoll(0), Outbox(runtime.recorder.flush), None

    def broken(*_: object) -> None:
        raise RuntimeError("the view")

    monkeypatch.setattr(runtime, "watch", broken)

    async def run() -> tuple[FakeLeg, FakeLeg]:
        gate, legs = bench.gate(), (FakeLeg(), FakeLeg())
        live = bench.live("s1")
        live.relay = None
        gate._live = live
        gate.keep_key(KeepKey(4711, b"upstream", 4))
        state = SessionState()
        state.ready("I")
        handover = handshake.Handover(Admission(ADA, SHOP, Credential("app", ""), "shop", False), state, b"", b"")
        client = cast(Any, SimpleNamespace(send=legs[0].send, close=legs[0].close, tls=None))
        with pytest.raises(RuntimeError, match="the view"):
            gate.start(handover, client, cast(Leg, legs[1]), cast(Any, None))
        assert runtime.sessions
        gate.failed("RuntimeError in the handshake")
        return legs

    client, upstream = asyncio.run(run())
    assert client.closed
    assert upstream.closed
    assert not runtime.sessions
    assert not runtime.cancel_keys
    journal = bench.journal()
    assert journal.count(b'"session.start"') == journal.count(b'"session.end"') == 1


def test_a_locked_store_keeps_one_login_waiting_and_nobody_else(bench: Bench) -> None:
    async def run() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        gate = bench.gate()
        gate._live = bench.live("s1")
        lock = sqlite3.connect(bench.folder / "state.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        ticking = asyncio.ensure_future(others())
        try:
            with pytest.raises(StateError, match="locked"):
                await gate.register()
            assert turns > 5
        finally:
            ticking.cancel()
            lock.execute("ROLLBACK")
            lock.close()
        await gate.register()
        assert [entry.id for entry in bench.runtime.store.sessions.list()] == ["s1"]
        gate._live.keeper.acquire()
        gate.failed("the upstream is gone")  # no session came of it: it is not live
        while bench.runtime._registering:
            await asyncio.sleep(0.01)
        assert list(bench.runtime.store.sessions.list()) == []
        bench.runtime.upstreams.keeper(bench.runtime.config.resources[0], "shop").close()

    asyncio.run(run())
