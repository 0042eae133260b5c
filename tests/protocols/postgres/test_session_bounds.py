"""What a session keeps for its names is bounded by what came, and in all."""

from __future__ import annotations

import base64

import pytest

from tests.support import wire
from tests.support.repeating import kept_of
from tests.support.talk import Talk
from tests.support.wire import SYNC, bind, describe, execute, parse, query, ready

MIB = 1 << 20
LONG = "SELECT '" + "x" * 100_000 + "'"


def in_block(**limits: int) -> Talk:
    talk = Talk(**limits)
    talk.client(query("BEGIN"))
    talk.server(wire.complete("BEGIN") + ready("T"))
    return talk


def test_portals_of_one_statement_share_its_text() -> None:
    """A Bind of 30 bytes must not take the room of the statement that it names."""
    talk = in_block()
    talk.client(parse("s", LONG) + SYNC)
    talk.server(wire.PARSED, ready("T"))

    def bound() -> None:
        for number in range(200):
            talk.client(bind(f"p{number}", "s") + SYNC)
            talk.server(wire.BOUND, ready("T"))

    assert kept_of(talk, bound) < 2 * MIB
    assert len(talk.session.portals) == 200


def test_statements_that_only_portals_keep_count() -> None:
    talk = in_block(texts_max=3 * len(LONG))
    for number in range(3):
        talk.client(parse("", LONG) + bind(f"p{number}", "") + SYNC)
        talk.server(wire.PARSED, wire.BOUND, ready("T"))
    assert not talk.ended
    talk.client(parse("", LONG))
    assert talk.ended
    assert wire.errors(talk.down())[0]["C"] == "54000"


def test_descriptions_are_bounded_and_what_is_left_out_is_left_out_of_the_record_alone() -> None:
    columns = wire.columns(*[wire.field(f"a rather long name {n}") for n in range(400)])
    talk = Talk(texts_max=3 * len(columns))
    for number in range(6):
        talk.client(parse(f"s{number}", f"SELECT {number}") + describe("S", f"s{number}") + SYNC)
        talk.server(wire.PARSED, wire.parameters() + columns, ready())
    assert sum(len(one.rows) for one in talk.session.prepared.values()) == 3 * len(columns)
    row = wire.row(*[b"1"] * 400)
    for name, shown in (("s0", True), ("s5", False)):
        talk.client(bind("", name) + execute() + SYNC)
        answer = wire.BOUND + row + wire.complete("SELECT 1") + ready()
        assert talk.server(answer) == answer
        assert talk.last()["rows"] == 1
        assert (b"a rather long name" in base64.b64decode(talk.last()["wire"])) == shown


@pytest.mark.parametrize("made", ["PREPARE n{} AS ", "DECLARE n{} CURSOR FOR "])
def test_texts_that_sql_gives_a_name_are_bounded(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.postgres.state_changes.MAX_TEXTS", 10 * len(LONG))
    talk = in_block()

    def named() -> None:
        for number in range(60):
            talk.client(query(made.format(number) + LONG))
            talk.server(wire.complete(made.split()[0]) + ready("T"))

    assert kept_of(talk, named) < 40 * len(LONG)
    talk.client(query("FETCH n1" if "CURSOR" in made else "EXECUTE n1"))
    assert talk.last("command")["effects"][-1] == "unknown"


@pytest.mark.parametrize("how", ["statement", "portal", "round trip"])
def test_a_very_long_description_is_not_on_record_with_each_row(how: str) -> None:
    columns = wire.columns(*[wire.field(f"a rather long name {n}") for n in range(400)])
    talk = in_block(response_max=4096)
    talk.client(parse("s", "SELECT 1") + describe("S", "s") * (how == "statement") + SYNC)
    talk.server(wire.PARSED, (wire.parameters() + columns) * (how == "statement") + ready("T"))
    answer = wire.row(*[b"1"] * 400)
    if how == "round trip":
        talk.client(bind("", "s") + describe("P") + execute() + SYNC)
        talk.server(wire.BOUND + columns + answer + wire.complete("SELECT 1") + ready("T"))
        assert len(base64.b64decode(talk.last()["wire"])) <= 4096
        return
    talk.client(bind("p", "s") + describe("P", "p") * (how == "portal") + SYNC)
    talk.server(wire.BOUND + columns * (how == "portal") + ready("T"))
    for _ in range(3):
        talk.client(execute("p", 1) + SYNC)
        talk.server(answer + wire.SUSPENDED + ready("T"))
        assert talk.last()["rows"] == 1
        assert len(base64.b64decode(talk.last()["wire"])) <= 4096
