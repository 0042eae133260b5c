"""Long texts in processes of their own: turns, bounds, and what a process may do wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from addons.analysts import Analysts
from protocols.contract import Apart
from protocols.verdicts import Read
from tests.support import mysql_talk, talk

# processes that do something else than they must
HANGS = (sys.executable, "-S", "-c", "import time; time.sleep(1000)")
DIES = (sys.executable, "-S", "-c", "")
LIES = (sys.executable, "-S", "-c", "import sys; sys.stdout.buffer.write(b'\\0' * 32); sys.stdout.flush(); input()")
TALKS = (sys.executable, "-S", "-c", "print('x' * 100_000)")
# answers the right number, with a pickle that prints
PICKLES = (
    sys.executable,
    "-S",
    "-c",
    "import sys, struct\n"
    "bad = b'cbuiltins\\nprint\\n(Vmade\\ntR.'\n"
    'parts = b\'[false,[],"",""]\'\n'
    "sys.stdout.buffer.write(struct.pack('!QQQQ', 1, len(bad), len(parts), 0) + bad + parts)\n"
    "sys.stdout.flush(); sys.stdin.buffer.read()",
)


def question(sql: str = "SELECT id FROM users", *, catalog: bool = False) -> Apart:
    one = talk.Talk()
    return Apart(sql.encode(), one.session.state.fork(), talk.catalog() if catalog else None)


class Desk:
    """Who asks, and what came of it."""

    def __init__(self, **options: Any) -> None:
        self.analysts = Analysts(options.pop("count", 1), **options)
        self.outcomes: list[tuple[str, Read[Any] | None, str]] = []
        self._open = 0

    def ask(self, identity: str, asked: Apart, protocol: str = "postgres") -> None:
        self._open += 1

        def done(told: Apart, read: Read[Any] | None, why: str) -> None:
            assert told is asked
            self._open -= 1
            self.outcomes.append((identity, read, why))

        self.analysts.ask(identity, protocol, asked, done)

    async def all(self) -> list[tuple[str, Read[Any] | None, str]]:
        while self._open:
            await asyncio.sleep(0.005)
        return self.outcomes


def run(play: Callable[[Desk], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        desk = Desk(**options)
        try:
            await asyncio.wait_for(cast(Any, play(desk)), 60)
        finally:
            desk.analysts.close()

    asyncio.run(whole())


def process(desk: Desk) -> Any:
    return desk.analysts._all[0]._process


@pytest.mark.slow
def test_a_real_process_says_what_the_gateway_would() -> None:
    async def play(desk: Desk) -> None:
        for protocol, session in (("postgres", talk.Talk()), ("mysql", mysql_talk.Talk())):
            state, names = session.session.state, session.port.catalog()
            sql = b"SELECT id, name FROM users WHERE ssn = 'secret' /* password hunter2 */"
            desk.ask("anna", Apart(sql, state.fork(), names), protocol)
            (_, read, why) = (await desk.all())[-1]
            assert (why, read is not None) == ("", True)
            assert read is not None
            assert read.command.analysis == session.session.judge._analyse(sql, names, state, "").analysis
            assert read.recorded.redacted
            assert b"hunter2" not in read.recorded.field
        first = process(desk).pid
        # the same catalog does not cross again, and others come and go
        for version in [str(n) for n in range(6)] * 2:
            desk.ask("anna", Apart(b"SELECT id FROM users", talk.Talk().session.state, talk.catalog(version)))
        await desk.all()
        assert all(read is not None and not read.command.analysis.unknown for _, read, _ in desk.outcomes)
        assert process(desk).pid == first

    run(play)


@pytest.mark.slow
def test_a_process_that_dies_is_replaced() -> None:
    async def play(desk: Desk) -> None:
        for _ in range(2):
            desk.ask("anna", question(catalog=True))
            assert (await desk.all())[-1][1] is not None
            process(desk).kill()
            process(desk).wait()
        desk.ask("anna", question("SELECT 1 FROM users WHERE id IN (" + "1," * 30_000 + "1)", catalog=True))
        while process(desk) is None or process(desk).poll() is not None:
            await asyncio.sleep(0)
        process(desk).kill()
        assert "failed" in (await desk.all())[-1][2]
        desk.ask("anna", question(catalog=True))
        assert (await desk.all())[-1][1] is not None

    run(play)


@pytest.mark.slow
def test_it_ends_with_the_gateway() -> None:
    async def play(desk: Desk) -> None:
        desk.ask("anna", question())
        await desk.all()
        one = process(desk)
        one.stdin.close()
        assert await asyncio.to_thread(one.wait, 20) == 0

    run(play)


@pytest.mark.slow
def test_secrets_of_the_environment_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEGATE_SECRET", "hunter2")

    async def play(desk: Desk) -> None:
        desk.ask("anna", question())
        await desk.all()
        with open(f"/proc/{process(desk).pid}/environ", "rb") as file:
            assert b"hunter2" not in file.read()
        left = os.listdir(f"/proc/{process(desk).pid}/fd")
        assert len(left) <= 4  # its three, and what lists them

    run(play)


@pytest.mark.parametrize("command", [DIES, LIES, TALKS, PICKLES, ("/nonexistent",)])
def test_a_process_that_does_not_answer_as_it_must_analyses_nothing(
    command: Sequence[str], capfd: pytest.CaptureFixture[str]
) -> None:
    async def play(desk: Desk) -> None:
        for _ in range(2):
            desk.ask("anna", question())
            (_, read, why) = (await desk.all())[-1]
            assert read is None
            assert "failed in the gateway" in why
            assert process(desk) is None

    run(play, command=command)
    assert "made" not in capfd.readouterr().out


def test_a_process_that_hangs_is_stopped() -> None:
    async def play(desk: Desk) -> None:
        desk.ask("anna", question())
        desk.ask("anna", question("x" * 10_000_000))  # does not even read it
        outcomes = await desk.all()
        assert [read for _, read, _ in outcomes] == [None, None]
        assert all("took more than 0.2 s" in why for _, _, why in outcomes)
        assert process(desk) is None

    run(play, command=HANGS, takes=0.2)


def test_identities_take_turns() -> None:
    async def play(desk: Desk) -> None:
        for _ in range(3):
            desk.ask("anna", question())
        desk.ask("bert", question())
        desk.ask("carl", question())
        assert [who for who, _, _ in await desk.all()] == ["anna", "bert", "carl", "anna", "anna"]

    run(play, command=DIES)


def test_one_identity_has_one_analysis_at_a_time() -> None:
    async def play(desk: Desk) -> None:
        for _ in range(4):
            desk.ask("anna", question())
        for _ in range(50):
            await asyncio.sleep(0.01)
            if process(desk) is not None:
                break
        assert sum(one._process is not None for one in desk.analysts._all) == 1
        desk.ask("bert", question())
        for _ in range(200):
            await asyncio.sleep(0.01)
            if sum(one._process is not None for one in desk.analysts._all) == 2:
                break
        else:
            pytest.fail("the other one has to wait")

    run(play, command=HANGS, count=3, takes=30)


def test_who_waits_too_long_is_told() -> None:
    async def play(desk: Desk) -> None:
        desk.ask("anna", question())
        desk.ask("anna", question())
        while not desk.outcomes:
            await asyncio.sleep(0.01)
        ((who, read, why),) = desk.outcomes
        assert (who, read) == ("anna", None)
        assert "waited 0.1 s" in why

    run(play, command=HANGS, waits=0.1)


def test_more_than_may_wait_are_told_at_once_but_later() -> None:
    async def play(desk: Desk) -> None:
        for _ in range(4):
            desk.ask("anna", question())
        assert desk.outcomes == []  # not from within: the session that asks is in the middle of a message
        await asyncio.sleep(0.01)
        assert [why.partition(";")[0] for _, _, why in desk.outcomes] == [
            "too many long statements wait to be analysed"
        ]
        desk.ask("bert", question())
        await asyncio.sleep(0.01)
        assert len(desk.outcomes) == 1

    run(play, command=HANGS, waiting=2)


def test_more_bytes_than_may_wait_are_told() -> None:
    async def play(desk: Desk) -> None:
        for who in ("anna", "bert"):
            desk.ask(who, question("x" * 600))
        await asyncio.sleep(0.01)
        assert [(who, why.partition(";")[0]) for who, _, why in desk.outcomes] == [
            ("bert", "too many long statements wait to be analysed")
        ]
        desk.analysts.forget(question())
        while len(desk.outcomes) < 2:
            await asyncio.sleep(0.01)
        desk.ask("bert", question("x" * 600))  # there is room again
        left = question("x" * 300)
        desk.ask("bert", left)
        desk.analysts.forget(left)
        desk.ask("carl", question("x" * 300))
        while len(desk.outcomes) < 4:
            await asyncio.sleep(0.01)
        assert all("took more" in why for _, _, why in desk.outcomes[1:])

    run(play, command=HANGS, takes=0.1, waiting_bytes=1000)


def test_what_nobody_waits_for_is_not_analysed() -> None:
    async def play(desk: Desk) -> None:
        left = question()
        desk.ask("anna", question())
        desk.ask("anna", left)
        desk.ask("anna", question())
        desk.analysts.forget(left)
        desk.analysts.forget(left)
        desk.analysts.forget(question())
        while len(desk.outcomes) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(desk.outcomes) == 2

    run(play, command=DIES)


def test_a_session_that_cannot_go_on_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def play(desk: Desk) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        desk.analysts.ask("anna", "postgres", question(), broken)
        desk.ask("anna", question())
        assert len(await desk.all()) == 1

    run(play, command=DIES)
    assert "could not go on" in caplog.text


def test_closed_it_asks_nobody_any_more() -> None:
    async def play(desk: Desk) -> None:
        desk.ask("anna", question())
        desk.ask("anna", question())
        await asyncio.sleep(0.05)
        desk.analysts.close()
        assert process(desk) is None
        desk.ask("bert", question())
        await asyncio.sleep(0.01)
        assert ("bert", None) in [(who, read) for who, read, _ in desk.outcomes]

    run(play, command=HANGS)
