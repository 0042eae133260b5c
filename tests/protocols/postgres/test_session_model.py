"""Attack row 12 by search: random scripts on few names, against a model of what the server's names mean.

Whatever the order, and however late the server's answers arrive: the record says of each row which table it was read
from, and no row of a masked table is passed.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Action, Analysis, Decision
from tests.support import wire
from tests.support.model import Model
from tests.support.talk import SSN, Talk
from tests.support.wire import SYNC

NAMES = ["", "a", "b"]
SQL_NAMES = ["a", "b"]
TABLES = ["users", "orders"]

names, sql_names = st.sampled_from(NAMES), st.sampled_from(SQL_NAMES)
selects = st.sampled_from(["SELECT ssn || '' FROM users", "SELECT total || '' FROM orders"])
words = st.sampled_from(
    ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT x", "ROLLBACK TO x", "DEALLOCATE ALL", "SET search_path = evil",
     "SET search_path = public", "SELECT 1/0 FROM missing", "SELECT total || '' FROM missing"]
)  # fmt: skip
named = st.builds(
    "{} {}".format, st.sampled_from(["EXECUTE", "DEALLOCATE", "CLOSE", "FETCH FROM"]), sql_names
) | st.builds("{} {}{}".format, st.just("DECLARE"), sql_names, selects.map(" CURSOR FOR {}".format))
statements = st.one_of(selects, words, named, st.builds("PREPARE {} AS {}".format, sql_names, selects))
several = st.lists(statements, min_size=1, max_size=3).map("; ".join)

messages = st.one_of(
    several.map(wire.query),
    st.builds(wire.parse, names, statements),
    st.builds(wire.bind, names, names),
    st.builds(wire.bind, names, names),
    st.builds(wire.execute, names, st.sampled_from([0, 1])),
    st.builds(wire.execute, names, st.sampled_from([0, 1])),
    st.builds(wire.close, st.sampled_from("SP"), names),
    st.builds(wire.describe, st.sampled_from("SP"), names),
    st.just(SYNC),
    st.just(SYNC),
    st.just(wire.FLUSH),
)
# a piece of the client's stream, or so many of the server's answers that arrive
steps = st.lists(st.one_of(st.lists(messages, min_size=1, max_size=6).map(b"".join), st.integers(0, 6)), max_size=14)


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


def play(script: list[bytes | int], *, masked: bool) -> Run:
    run = Run(masked=masked)
    for step in script:
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


@settings(max_examples=400, deadline=None)
@given(steps)
def test_the_record_says_what_was_read(script: list[bytes | int]) -> None:
    check_record(play(script, masked=False))


@settings(max_examples=400, deadline=None)
@given(steps)
def test_no_row_of_a_masked_table_is_passed(script: list[bytes | int]) -> None:
    run = play(script, masked=True)
    assert b"public.users" not in run.down


PB = wire.parse("a", "SELECT total || '' FROM orders") + SYNC
FOUND = {
    "two parses of one name": [
        wire.parse("a", "SELECT ssn || '' FROM users") + SYNC + PB + wire.bind("", "a") + wire.execute() + SYNC
    ],
    "a name of SQL's": [
        wire.query("PREPARE a AS SELECT ssn || '' FROM users"), 9, PB + wire.bind("", "a") + wire.execute() + SYNC,
    ],
    "a cursor in the place of a portal": [
        wire.query("BEGIN"), 9, PB + wire.bind("p", "a") + SYNC, 9,
        wire.query("CLOSE p; DECLARE p CURSOR FOR SELECT ssn || '' FROM users") + wire.execute("p", 1) + SYNC,
    ],
    "a cursor after a commit": [
        wire.query("BEGIN"), 9, PB + wire.bind("p", "a") + SYNC, 9,
        wire.query("COMMIT; BEGIN; DECLARE p CURSOR FOR SELECT ssn || '' FROM users") + wire.execute("p", 1) + SYNC,
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
