"""Attack row 12 by search: random scripts on few names, against a model of what the server's names mean.

Whatever the order, and however late the server's answers arrive: the record says of each row which table it was read
from, and no row of a masked table is passed.
"""

from __future__ import annotations

import base64
import copy
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from protocols.contract import Action, Analysis, Decision
from tests.support import wire
from tests.support.model import Model
from tests.support.talk import SSN, Talk
from tests.support.wire import SYNC

SECRET, CLEAR = "SELECT ssn || '' FROM users", "SELECT total || '' FROM orders"
WORDS = [
    "BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT x", "ROLLBACK TO x", "DEALLOCATE ALL",
    "SET search_path = evil", "SET search_path = public", "SELECT total || '' FROM missing",
]  # fmt: skip


class Script:
    """What clients do, and what nobody does, in random order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def name(self) -> str:
        return self.random.choice("aaab") if self.random.random() < 0.8 else ""

    def select(self) -> str:
        return self.random.choice([SECRET, CLEAR])

    def statement(self) -> str:
        pick, name = self.random.choice, self.random.choice("aaab")
        return pick([
            self.select(), pick(WORDS), pick(WORDS), f"EXECUTE {name}", f"DEALLOCATE {name}", f"CLOSE {name}",
            f"FETCH FROM {name}", f"DECLARE {name} CURSOR FOR {self.select()}", f"PREPARE {name} AS {self.select()}",
        ])  # fmt: skip

    def end(self) -> bytes:
        return self.random.choice([b"", SYNC, SYNC, SYNC, wire.FLUSH])

    def move(self) -> bytes:
        pick = self.random.choice
        run = wire.execute(self.name(), pick([0, 1]))
        return pick([
            lambda: wire.parse(self.name(), self.select()) + self.end(),
            lambda: wire.parse(self.name(), pick(WORDS)) + self.end(),
            lambda: wire.bind(self.name(), self.name()) + run + self.end(),
            lambda: wire.bind(self.name(), self.name()) + self.end(),
            lambda: run + self.end(),
            lambda: wire.query(self.statement()),
            lambda: wire.query(self.statement()),
            lambda: wire.query("; ".join(self.statement() for _ in range(pick([2, 3])))),
            lambda: wire.close(pick("SP"), self.name()) + self.end(),
            lambda: wire.describe(pick("SP"), self.name()) + self.end(),
        ])()  # fmt: skip

    def steps(self, model: Model) -> Iterator[bytes | int]:
        """Pieces of the client's stream, and how many of the server's answers arrive in between.

        Mostly what the server will accept as it is now: a block that is aborted hides what could have followed.
        """
        if self.random.random() < 0.7:
            yield wire.query("BEGIN") + wire.parse("a", CLEAR) + wire.bind("a", "a") + SYNC
            yield 99
        for _ in range(self.random.randrange(10, 40)):
            move = self.move()
            for _ in range(self.random.choice([0, 2, 6])):
                if self._accepted(model, move):
                    break
                move = self.move()
            yield move
            if self.random.random() < 0.5:
                yield self.random.choice([1, 2, 3, 99])

    def _accepted(self, model: Model, move: bytes) -> bool:
        ahead = copy.deepcopy(model)
        ahead.feed(move + wire.FLUSH)
        return not wire.errors(b"".join(ahead.answers()))


def everything(_: Analysis) -> Decision:
    return Decision(Action.ALLOW, "all", "")


@dataclass
class Run:
    talk: Talk
    model: Model
    down: bytes = b""

    def __init__(self, *, masked: bool) -> None:
        self.talk = Talk(everything, masks=[SSN] if masked else [])
        self.model = Model()
        self.late: list[bytes] = []  # answered by the server, not yet arrived

    def send(self, data: bytes) -> None:
        self.talk.session.client(data)
        self._pump()

    def arrive(self, count: int) -> None:
        for _ in range(count):
            if not self.late:
                break
            self.talk.session.server(self.late.pop(0))
            self.talk.session.catch_up()
            self._pump()

    def _pump(self) -> None:
        self.down += self.talk.down()
        self.model.feed(self.talk.up())
        self.late += self.model.answers()

    def finish(self) -> None:
        """Two Syncs end whatever is open; then everything arrives."""
        self.send(SYNC + SYNC)
        while self.late:
            self.arrive(1)
        assert not self.talk.ended, wire.errors(self.down)
        assert self.talk.session.waiting is None
        assert not self.talk.session.queue
        assert self.talk.session.status == self.model.status


def play(script: Script | Iterable[bytes | int], *, masked: bool) -> Run:
    run = Run(masked=masked)
    for step in script.steps(run.model) if isinstance(script, Script) else script:
        run.send(step) if isinstance(step, bytes) else run.arrive(step)
    run.finish()
    return run


def check_record(run: Run) -> None:
    """Each recorded row names a table that its command's record says it reads."""
    commands = {r["n"]: r for r in run.talk.port.records if r["t"] == "command"}
    seen = []
    for response in (r for r in run.talk.port.records if r["t"] == "response"):
        command = commands[response["n"]]
        for (value,) in wire.rows(base64.b64decode(response["wire"])):
            assert value is not None
            seen.append(value.decode())
            if "unknown" not in command["effects"]:
                assert value.decode() in command["reads"], (command, run.model.ran)
    assert seen == run.model.ran


@pytest.mark.parametrize("part", range(4))
def test_the_record_says_what_was_read(part: int) -> None:
    for seed in range(part * 60, part * 60 + 60):
        check_record(play(Script(seed), masked=False))


@pytest.mark.parametrize("part", range(4))
def test_no_row_of_a_masked_table_is_passed(part: int) -> None:
    shown = 0
    for seed in range(part * 60, part * 60 + 60):
        run = play(Script(seed), masked=True)
        assert b"public.users" not in run.down, seed
        shown += run.down.count(b"public.orders")
    assert shown


PB = wire.parse("a", CLEAR) + SYNC
FOUND = {
    "two parses of one name": [
        wire.parse("a", SECRET) + SYNC + PB + wire.bind("", "a") + wire.execute() + SYNC
    ],
    "a name of SQL's": [
        wire.query(f"PREPARE a AS {SECRET}"), 9, PB + wire.bind("", "a") + wire.execute() + SYNC,
    ],
    "a cursor in the place of a portal": [
        wire.query("BEGIN"), 9, PB + wire.bind("p", "a") + SYNC, 9,
        wire.query(f"CLOSE p; DECLARE p CURSOR FOR {SECRET}") + wire.execute("p", 1) + SYNC,
    ],
    "a cursor after a commit": [
        wire.query("BEGIN"), 9, PB + wire.bind("p", "a") + SYNC, 9,
        wire.query(f"COMMIT; BEGIN; DECLARE p CURSOR FOR {SECRET}") + wire.execute("p", 1) + SYNC,
    ],
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "masked"])
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_before(name: str, masked: bool) -> None:
    run = play(FOUND[name], masked=masked)
    assert run.model.ran
    if masked:
        assert b"public.users" not in run.down
    else:
        check_record(run)
