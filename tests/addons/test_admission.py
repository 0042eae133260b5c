"""The way in is one, over a database's wire and over HTTP: the same questions, the same words, the same records."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from mitmproxy import connection

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons import controlled
    from addons.busy_poll import BusyPoll
    from addons.gate import Gate
    from addons.leg import Leg
    from addons.live import LiveSession
    from addons.relay import Outbox
    from addons.web.destinations import Destinations
    from addons.web.gate import HttpGate
    from addons.web.inspect import Outbound
    from addons.web.live import NotAdmitted
    from tests.support.runtime_parts import Parts, run

from guard.enforce import PolicySet
from guard.identity import Verifier
from guard.record.errors import RecordError
from guard.state import StateError
from guard.state.registry import SessionEntry
from protocols.contract import Authenticate, KeepKey, Refused
from protocols.postgres import handshake
from protocols.postgres.state import SessionState
from protocols.registry import PROTOCOLS
from tests.addons.test_relay import FakeLeg
from tests.guard.config.conftest import BASE
from tests.guard.identity.conftest import Clock, IssuerSettings, Provider

CONFIG = BASE.replace(
    "resources:\n",
    """\
  - name: api
    protocol: http
    listen: "127.0.0.1:6480"
    resource: store
resources:
  - {name: store, protocol: http, host: api.internal}
""",
)
POLICY = """\
version: 1
name: small
description: agents read
rules:
  - {id: read, description: reads, who: {groups: [agents]}, allow: [data.select, http.read]}
"""
CLOSED = POLICY.replace("agents", "nobody")
OUTBOUND = Outbound()  # one: its detectors take a while to build
HTTP_IS_MISSING = "this gateway needs a token"


class Bench(Parts):
    """The parts of a runtime that admission uses."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG, POLICY)
        runtime = self.runtime
        self.provider = Provider()
        runtime.verifier = Verifier(
            [IssuerSettings()], fetch=self.provider.fetch, clock=Clock(), blocked=runtime.blocklist.why
        )
        runtime.upstream_tls = {"shop": None}
        runtime.http = cast(Any, SimpleNamespace(outbound=OUTBOUND))
        runtime.fingerprints = None
        runtime.busy_poll, runtime.outbox, runtime.view = BusyPoll(0), Outbox(runtime.recorder.flush), None

    def close_policy(self) -> None:
        self.policy.write_text(CLOSED)
        self.runtime.policies = PolicySet.load(self.runtime.config.policies)


class Wire:
    """A database client, from its token to its session."""

    listener, resource, application = "shop-db", "shop", "job"
    codes: ClassVar[dict[str, object]] = {
        "full": "53300",
        "closed": "57P03",
        "identity": "28P01",
        "policy": "28000",
        "state": "58030",
    }

    def __init__(self, bench: Bench) -> None:
        config = bench.runtime.config
        listener, resource = config.listeners[0], next(r for r in config.resources if r.name == "shop")
        self.gate = Gate(bench.runtime, PROTOCOLS["postgres"], listener, resource, "10.0.0.7")
        self.gate.arrive()
        self.legs = (FakeLeg(), FakeLeg())

    async def enter(self, token: str) -> LiveSession:
        try:
            await self.gate.admit(Authenticate(token, "ada", "shop", self.application))
            await self.gate.register()
            return self._start()
        except BaseException as e:
            self.gate.failed("it did not become a session", refused=isinstance(e, Refused))
            raise
        finally:
            self.gate.arrived()

    def _start(self) -> LiveSession:
        gate, live = self.gate, self.gate._live
        assert live is not None
        gate.keep_key(KeepKey(4711, b"upstream", 4))
        state = SessionState()
        state.ready("I")
        client = cast(Any, self.legs[0])
        client.tls = None
        gate.start(
            handshake.Handover(cast(Any, None), state, b"", b""), client, cast(Leg, self.legs[1]), cast(Any, None)
        )
        return live

    def leave(self) -> None:
        if self.gate._live is not None and self.gate._live.relay is not None:
            self.gate._live.relay.end("the client closed the connection")

    @staticmethod
    def code(error: Exception) -> object:
        return cast(Refused, error).code


class Http:
    """An HTTP client connection, and one request on it."""

    listener, resource, application = "api", "store", "curl"
    codes: ClassVar[dict[str, object]] = {"full": 503, "closed": 503, "identity": 401, "policy": 403, "state": 503}

    def __init__(self, bench: Bench) -> None:
        config = bench.runtime.config
        listener, resource = config.listeners[1], next(r for r in config.resources if r.name == "store")
        client = connection.Client(peername=("10.0.0.7", 1), sockname=("", 0), timestamp_start=0.0)
        self.gate = HttpGate(bench.runtime, listener, resource, client, Destinations())
        self.cuts: list[str] = []  # what mitmproxy's connection would have been cut for
        cast(Any, self.gate).close = self.cuts.append
        self.gate.arrive()

    async def enter(self, token: str) -> LiveSession:
        return await self.gate.identify(token, self.application)

    def leave(self) -> None:
        self.gate.disconnected()

    @staticmethod
    def code(error: Exception) -> object:
        return cast(NotAdmitted, error).status


type Side = type[Wire] | type[Http]

SIDES = pytest.mark.parametrize("side", [Wire, Http])


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Bench], Any]], None]:
    """Runs a coroutine function with a bench of its own."""
    monkeypatch.setenv("SHOP_DB_PASSWORD", "app-password-1")

    return partial(run, partial(Bench, tmp_path))


def nothing_left(bench: Bench) -> None:
    runtime = bench.runtime
    assert (runtime.connections, runtime.strangers.count, runtime.sessions) == (0, 0, {})
    assert all(bench.registered().values())


async def refused(bench: Bench, side: Side, token: str, ground: str, words: str) -> dict[str, Any]:
    """One attempt that fails, as the client hears of it; -> the record of it."""
    before = len(bench.journal("session.refused"))
    here = side(bench)
    with pytest.raises((Refused, NotAdmitted), match=words) as told:
        await here.enter(token)
    assert side.code(told.value) == side.codes[ground]
    here.leave()
    await bench.settle()
    nothing_left(bench)
    records = bench.journal("session.refused")[before:]
    assert len(records) == 1
    shared = (side.listener, side.resource, "10.0.0.7", side.application)
    assert tuple(records[0][key] for key in ("listener", "resource", "client", "application")) == shared
    assert records[0]["claimed_user"] == ("ada" if side is Wire else "")
    return records[0]


# ---------------------------------------------------------------- let in


@SIDES
def test_a_session_is_registered_recorded_listed_and_ended(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        runtime, here = bench.runtime, side(bench)
        assert runtime.strangers.count == 1
        live = await here.enter(bench.provider.token())
        assert runtime.sessions == {live.id: live}
        assert (runtime.connections, runtime.strangers.count) == (1, 0)
        assert bench.registered() == {live.id: ""}
        [start] = bench.journal("session.start")
        claimed = "ada" if side is Wire else ""
        assert {k: v for k, v in start.items() if k not in ("t", "at", "s", "seq", "policy", "token_id")} == {
            "subject": "ci-job@shop",
            "issuer": "https://idp.example",
            "groups": ["agents"],
            "expires_at": live.principal.expires_at,
            "resource": side.resource,
            "protocol": live.resource.protocol,
            "database": "shop" if side is Wire else "",
            "listener": side.listener,
            "client": "10.0.0.7",
            "application": side.application,
            "claimed_user": claimed,
        }
        assert (start["s"], start["policy"], live.listener) == (live.id, live.policy.version, side.listener)
        here.leave()
        await bench.settle()
        nothing_left(bench)
        assert bench.registered() == {live.id: "the client closed the connection"}
        [end] = bench.journal("session.end")
        assert (end["s"], end["reason"]) == (live.id, "the client closed the connection")
        assert bench.journal("session.refused") == []

    inside(work)


# ---------------------------------------------------------------- kept out


@SIDES
def test_who_it_is_must_be_proved(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        record = await refused(bench, side, "no.token.at-all", "identity", "^authentication failed: ")
        assert record["subject"] == ""
        assert record["detail"]
        assert not record["why"].startswith("authentication failed")

    inside(work)


@SIDES
def test_who_is_contained_is_named_on_record(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        await bench.runtime.blocklist.contain("ci-job@shop", "ann", "an incident", 1.0)
        record = await refused(bench, side, bench.provider.token(), "identity", "is contained")
        assert record["subject"] == "ci-job@shop"

    inside(work)


@SIDES
def test_no_policy_no_session(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        bench.close_policy()
        words = f"^no policy opens `{side.resource}` to you; ask its owner for a rule$"
        record = await refused(bench, side, bench.provider.token(), "policy", words)
        assert (record["subject"], record["detail"]) == ("ci-job@shop", "")

    inside(work)


@SIDES
def test_nobody_comes_in_while_nothing_passes(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        runtime = bench.runtime
        runtime.stopped = "the gateway cannot record"
        await refused(bench, side, bench.provider.token(), "closed", "^the gateway cannot record$")
        runtime.stopped, runtime.draining = "", True
        await refused(bench, side, bench.provider.token(), "closed", "^the gateway shuts down$")
        assert bench.provider.fetched == []  # the token was not even looked at

    inside(work)


@SIDES
def test_a_bound_holds_while_somebody_is_being_verified(inside: Any, side: Side) -> None:
    """Whose issuer is slow has a place: many of them at once do not pass the bound together."""

    async def work(bench: Bench) -> None:
        bench.runtime.config.limits.__dict__["max_connections"] = 1
        bench.runtime.connections = 0
        answer = asyncio.Event()
        sound = bench.provider.fetch

        async def slow(url: str, ca: Path | None) -> bytes:
            await answer.wait()
            return await sound(url, ca)

        bench.runtime.verifier = Verifier([IssuerSettings()], fetch=slow, clock=Clock())
        first, second = side(bench), side(bench)
        entering = asyncio.ensure_future(first.enter(bench.provider.token()))
        await asyncio.sleep(0.01)
        assert bench.runtime.connections == 1
        with pytest.raises(
            (Refused, NotAdmitted), match=r"^the gateway has too many connections; try again later$"
        ) as e:
            await second.enter(bench.provider.token())
        assert side.code(e.value) == side.codes["full"]
        second.leave()
        answer.set()
        await entering
        assert bench.runtime.connections == 1
        first.leave()

    inside(work)


@SIDES
def test_a_verifier_that_raises_lets_nobody_in_and_keeps_no_place(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        async def broken(token: str) -> Any:
            raise RuntimeError("a verifier that is broken")

        bench.runtime.verifier = cast(Any, SimpleNamespace(verify=broken))
        here = side(bench)
        with pytest.raises(RuntimeError, match="broken"):
            await here.enter("a token")
        here.leave()
        nothing_left(bench)

    inside(work)


@SIDES
def test_a_state_that_cannot_be_looked_at_keeps_everybody_out(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        def broken(principal: object) -> str | None:
            raise StateError("the disk is gone: /secret/path")

        bench.runtime.blocklist = cast(Any, SimpleNamespace(why=broken))
        words = "^the gateway cannot record or check state; nothing passes until it can$"
        record = await refused(bench, side, bench.provider.token(), "state", words)
        assert record["detail"] == ""

    inside(work)


# ---------------------------------------------------------------- what changes meanwhile


async def while_registering(bench: Bench, side: Side, change: Callable[[Bench], object]) -> tuple[Any, str]:
    """Somebody comes in, and `change` happens while the registry is written; -> (their side, why they are out)."""
    here = side(bench)
    start = bench.runtime.registrar.start

    def slowly(entry: Any) -> Any:
        async def work() -> None:
            await start(entry)
            change(bench)

        return asyncio.ensure_future(work())

    cast(Any, bench.runtime.registrar).start = slowly
    if isinstance(here, Http):
        with pytest.raises(NotAdmitted) as told:
            await here.enter(bench.provider.token())
        assert told.value.status == side.codes["policy"]
        return here, str(told.value)
    live = await here.enter(bench.provider.token())
    assert here.legs[0].closed  # it is told, in its protocol, and ends before its first command
    return here, live.end_reason


@SIDES
def test_a_policy_that_closes_while_somebody_comes_in(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        here, why = await while_registering(bench, side, Bench.close_policy)
        assert why == "the policy no longer gives you this resource"
        here.leave()
        await bench.settle()
        nothing_left(bench)
        assert list(bench.registered().values()) == [why]

    inside(work)


@SIDES
def test_a_containment_while_somebody_comes_in(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        def contain(bench: Bench) -> None:
            bench.runtime.blocklist.contain("ci-job@shop", "ann", "an incident", 1.0)

        here, why = await while_registering(bench, side, contain)
        assert "is contained" in why
        here.leave()
        await bench.settle()
        nothing_left(bench)

    inside(work)


# ---------------------------------------------------------------- what cannot be noted


@SIDES
def test_what_cannot_be_recorded_does_not_begin(inside: Any, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        def full(*_: object) -> None:
            raise RecordError("no space left on device")

        monkeypatch.setattr(bench.runtime.recorder, "session_start", full)
        here = side(bench)
        with pytest.raises((RecordError, NotAdmitted)):
            await here.enter(bench.provider.token())
        here.leave()
        await bench.settle()
        nothing_left(bench)
        assert len(bench.registered()) == 1
        assert bench.journal("session.start") == []

    inside(work)


@SIDES
def test_a_locked_registry_lets_nobody_in(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        here = side(bench)
        with bench.locked(), pytest.raises((StateError, NotAdmitted)):
            await here.enter(bench.provider.token())
        here.leave()
        await bench.settle()
        nothing_left(bench)

    inside(work)


@SIDES
def test_a_registry_that_hangs_lets_nobody_in_and_keeps_nobody_waiting(inside: Any, side: Side) -> None:
    async def work(bench: Bench) -> None:
        here, registrar = side(bench), bench.runtime.registrar
        limits = bench.runtime.config.limits.model_copy(update={"auth_timeout": 0.05})
        bench.runtime.config = bench.runtime.config.model_copy(update={"limits": limits})
        asked: list[SessionEntry] = []

        def hangs(entry: SessionEntry) -> asyncio.Future[None]:
            asked.append(entry)
            return asyncio.get_running_loop().create_future()

        begins, registrar.start = registrar.start, hangs  # type: ignore[method-assign]
        with pytest.raises((StateError, NotAdmitted)):
            await here.enter(bench.provider.token())
        assert len(asked) == 1
        registrar.start = begins  # type: ignore[method-assign]
        here.leave()
        await bench.settle()
        nothing_left(bench)
        assert not bench.journal("session.start")
        assert len(bench.journal("session.failed") + bench.journal("session.refused")) == 1

    inside(work)


@SIDES
def test_who_leaves_while_being_registered_is_not_listed_for_ever(inside: Any, side: Side) -> None:
    """The registry takes the entry all the same: an end has to follow it."""

    async def work(bench: Bench) -> None:
        here = side(bench)
        with bench.locked():
            entering = asyncio.ensure_future(here.enter(bench.provider.token()))
            while not bench.runtime.registrar._writing:
                await asyncio.sleep(0.005)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
        here.leave()
        await bench.settle()
        nothing_left(bench)
        assert len(bench.registered()) == 1

    inside(work)


# ---------------------------------------------------------------- several identities on one connection


def test_identities_of_one_connection_share_its_place(inside: Any) -> None:
    async def work(bench: Bench) -> None:
        here, provider = Http(bench), bench.provider
        first = await here.enter(provider.token())
        with pytest.raises(NotAdmitted, match="no policy opens"):
            await here.enter(provider.token(sub="eve", groups=["others"]))
        with pytest.raises(NotAdmitted, match=HTTP_IS_MISSING):
            await here.enter("")
        assert bench.runtime.connections == 1  # the first one's
        second = await here.enter(provider.token(sub="bob"))
        assert bench.runtime.connections == 1
        assert set(bench.runtime.sessions) == {first.id, second.id}
        told = [(record["subject"], record["why"][:9]) for record in bench.journal("session.refused")]
        assert told == [("eve", "no policy"), ("", "this gate")]  # whose token was missing, nobody knows
        here.leave()
        await bench.settle()
        nothing_left(bench)

    inside(work)


# ---------------------------------------------------------------- a reload, and the end of a token


MASKED = POLICY + "  - {id: hide, description: hides, mask: {columns: ['*.email'], strategy: redact}}\n"


@SIDES
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (POLICY, ""),
        (CLOSED, "the policy no longer gives you this resource"),
        (MASKED, "what is masked for you has changed; connect again"),
    ],
)
def test_a_reload_reaches_those_who_are_in(inside: Any, side: Side, text: str, why: str) -> None:
    """Over HTTP each answer is masked by the policy in force: other masks end nobody's session there."""

    async def work(bench: Bench) -> None:
        here = side(bench)
        live = await here.enter(bench.provider.token())
        bench.policy.write_text(text)
        told = await controlled.reload(bench.runtime)
        assert told["changed"] is (text != POLICY)
        stays = not why or (text is MASKED and side is Http)
        assert live.end_reason == ("" if stays else why)
        if isinstance(here, Http):
            assert here.cuts == ([] if stays else [why])
        if stays:
            assert live.policy.version == told["version"]
        here.leave()

    inside(work)


def test_a_reload_that_cannot_be_recorded_changes_nothing(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        def full(*_: Any) -> int:
            raise RecordError("no space left on device")

        before = bench.runtime.policies
        bench.policy.write_text(CLOSED)
        with monkeypatch.context() as patched:
            patched.setattr(bench.runtime.recorder, "event", full)
            with pytest.raises(RecordError):
                await controlled.reload(bench.runtime)
        assert bench.runtime.policies is before
        assert (await controlled.reload(bench.runtime))["changed"]

    inside(work)


@SIDES
def test_a_session_ends_with_its_token(inside: Any, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        here = side(bench)
        live = await here.enter(bench.provider.token())
        end = live.principal.expires_at
        live.check(end - 30)
        assert live.end_reason == ""
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: end)
            live.check(end)
        assert live.end_reason == "the token of this session has expired; connect again with a new one"
        here.leave()

    inside(work)
