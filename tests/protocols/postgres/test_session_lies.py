"""A server that says what it was not asked, or not what it was asked: the session ends, and the client hears why."""

from __future__ import annotations

import pytest

from tests.support import wire
from tests.support.talk import SSN, Talk
from tests.support.wire import SYNC, bind, complete, describe, execute, kinds, parse, query, ready

ONE = wire.columns(wire.field("x")) + wire.row(b"1")

UNASKED = {
    "rows": wire.row(b"1"),
    "columns": wire.columns(wire.field("x")),
    "complete": complete("SELECT 1"),
    "ready": ready(),
    "parsed": wire.PARSED,
    "bound": wire.BOUND,
    "closed": wire.CLOSED,
    "no data": wire.NO_DATA,
    "suspended": wire.SUSPENDED,
    "empty": wire.EMPTY,
    "parameters": wire.parameters(23),
    "copy in": wire.copy_in(0),
    "copy out": wire.copy_out(0),
    "copy both": wire.message("W", b"\0\0\0"),
    "copy data": wire.copy_data(b"1"),
    "copy done": wire.COPY_DONE,
    "function result": wire.message("V", b"\xff\xff\xff\xff"),
    "authentication": wire.message("R", b"\0\0\0\0"),
    "cancel key": wire.message("K", b"\0" * 8),
    "negotiation": wire.message("v", b"\0" * 8),
    "no message of PostgreSQL": wire.message("y", b""),
}


def ended(talk: Talk) -> None:
    assert talk.fatal()["C"] == "08006"
    assert talk.client(query("SELECT 1")) == b""
    assert talk.server(ready()) == b""


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "masked"])
@pytest.mark.parametrize("what", UNASKED)
def test_unasked_while_idle(what: str, masked: bool) -> None:
    talk = Talk(masks=[SSN] if masked else [])
    talk.session.server(UNASKED[what])
    ended(talk)


@pytest.mark.parametrize("what", sorted(UNASKED.keys() - {"ready"}))
def test_unasked_while_a_sync_is_awaited(what: str) -> None:
    talk = Talk()
    talk.client(SYNC)
    talk.session.server(UNASKED[what])
    ended(talk)


@pytest.mark.parametrize("what", sorted(UNASKED.keys() - {"parsed"}))
def test_another_answer_than_to_the_parse(what: str) -> None:
    talk = Talk()
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.session.server(UNASKED[what])
    ended(talk)


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "masked"])
@pytest.mark.parametrize("answer", [ONE, complete("DROP TABLE"), wire.row(b"1"), wire.copy_out(0), ready(), wire.EMPTY])
def test_a_stand_in_that_succeeds(answer: bytes, masked: bool) -> None:
    talk = Talk(masks=[SSN] if masked else [])
    talk.client(query("DROP TABLE users"))
    talk.session.server(answer)
    ended(talk)


def test_a_stand_in_bind_that_succeeds() -> None:
    talk = Talk()
    talk.client(bind("", "ghost") + execute() + SYNC)
    talk.session.server(wire.BOUND)
    ended(talk)


@pytest.mark.parametrize(
    "answer",
    [
        wire.message("Z", b"X"),
        wire.message("Z", b""),
        wire.message("Z", b"II"),
        wire.message("C", b"SELECT 1"),
        wire.message("C", b"SELECT\0 1\0"),
        wire.message("E", b"SERROR\0"),
        wire.message("G", b"\0"),
        wire.message("S", b"TimeZone\0"),
        b"Z\0\0\0\3",
        b"D\xff\xff\xff\xff",
        b"C\x7f\xff\xff\xff",
    ],
    ids=repr,
)
def test_malformed_answers(answer: bytes) -> None:
    talk = Talk()
    talk.client(query("SELECT 1"))
    talk.session.server(answer)
    ended(talk)


def test_malformed_columns_are_found_where_they_are_read() -> None:
    for bad in (b"\0\1", b"\0\1x\0", b"\0\1x\0" + b"\0" * 18 + b"!", b"\0\0!"):
        talk = Talk(masks=[SSN])
        talk.client(query("SELECT * FROM users"))
        talk.session.server(wire.message("T", bad))
        ended(talk)


def test_what_a_lying_server_had_said_before_is_passed_and_recorded() -> None:
    talk = Talk()
    talk.client(query("SELECT 1"))
    told = talk.server(ONE, complete("SELECT 1"), ready() + ready())
    assert kinds(told) == "TDCE"
    assert talk.responses() == [(1, "ok")]
    assert talk.ended


def test_more_statements_done_than_were_sent() -> None:
    """The messages are believed; nothing of what they would change is."""
    talk = Talk()
    talk.client(query("SELECT 1"))
    talk.server(ONE, complete("SELECT 1"), complete("SET"), complete("SET"), ready())
    assert not talk.ended
    assert talk.session.state.meaning_key() == Talk().session.state.meaning_key()


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "masked"])
def test_the_fast_way_believes_no_more_than_the_long_one(masked: bool) -> None:
    """Bind, Execute and Sync of a known statement in one piece: the same lies end the session there."""
    for answer in (
        wire.row(b"1") + complete("SELECT 1") + ready(),
        wire.BOUND + wire.BOUND + complete("SELECT 1") + ready(),
        wire.BOUND + complete("SELECT 1") + complete("SELECT 1") + ready(),
        wire.BOUND + complete("SELECT 1") + ready() + ready(),
        wire.BOUND + wire.columns(wire.field("x")) + complete("SELECT 1") + ready(),
        wire.BOUND + wire.PARSED + complete("SELECT 1") + ready(),
        wire.BOUND + wire.message("C", b"SELECT 1") + ready(),
        wire.BOUND + complete("SELECT 1") + wire.message("Z", b"?"),
        wire.BOUND + ready(),
    ):
        talk = Talk(masks=[SSN] if masked else [])
        talk.prepare("s", "SELECT 1")
        talk.client(bind("", "s") + execute() + SYNC)
        talk.session.server(answer if not masked else answer.replace(wire.BOUND, wire.BOUND + wire.NO_DATA))
        ended(talk)


def test_the_fast_way_and_the_long_way_leave_the_same() -> None:
    """The same exchange answered in one piece and byte by byte: records, bytes and what is awaited are equal."""
    seen = []
    for described in (False, True):
        for step in (1, 10_000):
            talk = Talk()
            talk.prepare("s", "SELECT $1::int")
            message = bind("", "s", [b"7"]) + (describe("P") if described else b"") + execute() + SYNC
            sent = talk.client(message)
            columns = wire.columns(wire.field("int4")) if described else b""
            answer = wire.BOUND + columns + wire.row(b"7") + complete("SELECT 1") + ready()
            got = b"".join(talk.server(answer[i : i + step]) for i in range(0, len(answer), step))
            assert got == answer
            assert not talk.session.busy
            seen.append((sent == message, [{**r, "us": 0} for r in talk.port.records]))
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
