"""What a session does when a peer breaks the protocol: it ends with an error, and nothing of the lie is passed on."""

from __future__ import annotations

import struct

import pytest

from protocols.contract import Outcome, Wait
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk, anything
from tests.support.mysql_wire import packets, query

SELECT = query("SELECT id FROM orders")
MARK = b"LIE-MARKER"


def asked(sent: bytes = SELECT, **more: object) -> Talk:
    talk = Talk(anything, **more)  # type: ignore[arg-type]  # passed on as they are
    talk.client(sent)
    return talk


def ends(talk: Talk, *data: bytes) -> None:
    """The session ends with last words to the client, in a place where it reads them, and without the lie."""
    told = talk.server(*data)
    assert talk.ended
    assert MARK not in told
    assert wire.errors(told)
    assert [seq for seq, _ in wire.split(told)] == list(range(1, len(wire.split(told)) + 1))


HEAD = packets(1, b"\1", wire.column("id"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(wire.packet(2, wire.ok()), id="a number too high"),
        pytest.param(wire.packet(0, wire.ok()), id="a number too low"),
        pytest.param(packets(1, b""), id="an empty packet"),
        pytest.param(packets(1, b"\0"), id="an OK that is cut short"),
        pytest.param(packets(1, wire.ok() + MARK), id="an OK with a tail"),
        pytest.param(packets(1, b"\xff\1"), id="an ERR that is cut short"),
        pytest.param(packets(1, b"\xff\xff\xff" + MARK), id="a progress report"),
        pytest.param(packets(1, b"\xfc\xff\xff"), id="more columns than a result has"),
        pytest.param(packets(1, b"\1\1" + MARK), id="a count with a tail"),
        pytest.param(packets(1, b"\xfb" + MARK), id="a file asked for"),
        pytest.param(packets(1, b"\xfe" + bytes(8)), id="an end without a beginning"),
        pytest.param(packets(1, wire.ok(status=wire.MORE, head=0), b"\xfb" + MARK), id="a file asked for later"),
    ],
)
def test_a_first_packet_that_is_a_lie(answer: bytes) -> None:
    talk = asked()
    talk.server(answer)
    assert talk.ended


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(wire.packet(4, wire.row(MARK)), id="a number left out"),
        pytest.param(wire.packet(3, b""), id="a row without content"),
        pytest.param(wire.packet(3, b"\xfe" + MARK), id="an end that is none"),
        pytest.param(wire.packet(3, wire.ok(head=0xFE) + MARK), id="an end with a tail"),
    ],
)
def test_rows_that_are_a_lie(rest: bytes) -> None:
    talk = asked()
    told = talk.server(HEAD + rest)
    assert talk.ended
    assert MARK not in told


def test_old_ends_where_they_were_not_agreed_on() -> None:
    talk = asked()
    talk.server(HEAD + wire.packet(3, wire.eof()))
    assert talk.ended


def test_new_ends_where_they_were_not_agreed_on() -> None:
    talk = asked(capabilities=wire.BASE)
    talk.server(HEAD + wire.packet(3, wire.end()))
    assert talk.ended


def test_more_than_was_asked_for() -> None:
    talk = asked()
    talk.server(packets(1, wire.ok()) + wire.packet(2, wire.ok(info=MARK)))
    assert talk.ended


@pytest.mark.parametrize("data", [packets(0, wire.ok()), packets(1, b"\1"), b"\xff\xff", MARK * 10_000])
def test_an_idle_server_that_speaks(data: bytes) -> None:
    talk = Talk(anything)
    told = talk.server(data)
    told += talk.server(b"\xff" * 20)
    assert talk.ended
    assert MARK not in told


def test_half_a_packet_of_an_idle_server_is_not_taken_for_an_answer() -> None:
    talk = Talk(anything)
    early = packets(1, wire.ok())
    talk.server(early[:5])
    talk.client(SELECT)
    talk.server(early[5:])
    assert talk.ended


def test_a_prepared_statement_with_a_taken_id() -> None:
    talk = Talk(anything)
    talk.prepare(1, "SELECT id FROM orders")
    talk.client(wire.prepare("SELECT total FROM orders"))
    ends(talk, wire.prepared(1))


def test_a_prepared_statement_with_the_id_that_stands_for_the_last() -> None:
    talk = Talk(anything)
    talk.client(wire.prepare("SELECT total FROM orders"))
    ends(talk, wire.prepared(0xFFFFFFFF))


def test_fewer_definitions_than_were_announced() -> None:
    talk = Talk(anything)
    talk.client(wire.prepare("SELECT total FROM orders"))
    talk.server(packets(1, struct.pack("<BIHHBH", 0, 1, 1, 0, 0, 0)))
    assert talk.session.busy
    assert talk.session.prepared == {}


def test_a_cursor_that_nobody_opened() -> None:
    talk = Talk(anything)
    talk.prepare(1, "SELECT id FROM orders", 0, 1)
    talk.client(wire.execute(1))
    talk.server(packets(1, b"\1", wire.column("id"), wire.end(wire.CURSOR)))
    assert talk.session.prepared[1].cursor is None


def test_further_results_of_a_ping() -> None:
    talk = Talk(anything)
    talk.client(wire.PING)
    talk.server(packets(1, wire.ok(status=wire.MORE)))
    assert talk.ended


def test_a_result_for_a_ping() -> None:
    talk = Talk(anything)
    talk.client(wire.PING)
    talk.server(HEAD)
    assert talk.ended


def test_session_state_of_a_kind_that_is_not_known() -> None:
    talk = asked()
    talk.server(packets(1, wire.ok(changes=b"\x63\1x")))
    assert talk.ended


def test_an_answer_before_the_content_of_a_file() -> None:
    talk = asked(query("LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE orders"))
    talk.server(packets(1, b"\xfb/tmp/a"))
    talk.server(packets(2, wire.ok()))
    assert talk.ended


def test_more_results_than_statements_are_passed_without_a_guess_whose_they_are() -> None:
    talk = asked()
    talk.server(packets(1, wire.ok(status=wire.AUTOCOMMIT | wire.MORE)))
    assert talk.session.current is not None
    assert talk.session.current.certain is False


# ---------------------------------------------------------------- of the client


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(wire.packet(1, b"\x03SELECT 1"), id="a command that does not begin with 0"),
        pytest.param(wire.packet(0, b""), id="a command without a command byte"),
        pytest.param(wire.command(0x0E, b"x"), id="a ping with content"),
        pytest.param(wire.command(0x1B, b"\0"), id="an option that is cut short"),
        pytest.param(wire.command(0x1B, b"\0\0\0"), id="an option with a tail"),
        pytest.param(wire.command(0x0C, b"\1"), id="an id that is cut short"),
        pytest.param(wire.command(0x17, b"\1\0\0\0"), id="an execution without its fields"),
        pytest.param(wire.command(0x18, b"\1\0\0\0"), id="long data without its fields"),
        pytest.param(wire.command(0x19, b"\1\0\0"), id="a close that is cut short"),
        pytest.param(wire.command(0x1C, b"\1\0\0\0"), id="a fetch that is cut short"),
        pytest.param(wire.command(0x04, b"orders"), id="a table without its end"),
    ],
)
def test_a_command_that_is_a_lie(data: bytes) -> None:
    talk = Talk(anything)
    assert talk.client(data) == b""
    assert talk.ended
    assert wire.errors(talk.down())


def test_a_continuation_out_of_order() -> None:
    talk = Talk(anything, inspect_max=1 << 25)
    sent = query(b"SELECT 1 -- " + b" " * 0xFFFFFF)
    at = 0xFFFFFF + 4
    talk.client(sent[:at], sent[at : at + 3] + b"\7" + sent[at + 4 :])
    assert talk.ended
    assert talk.up() == b""


def test_content_out_of_order() -> None:
    talk = asked(query("LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE orders"))
    talk.server(packets(1, b"\xfb/tmp/a"))
    talk.client(wire.packet(2, b"1,2\n"), wire.packet(2, b""))
    assert talk.ended


def test_a_command_behind_a_file_that_was_not_yet_asked_for() -> None:
    talk = asked(query("LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE orders") + wire.PING)
    assert talk.session.waiting is Wait.SERVER
    talk.server(packets(1, b"\xfb/tmp/a"))
    assert talk.ended


def test_nothing_moves_a_session_that_has_ended() -> None:
    talk = Talk(anything)
    talk.session.terminate("over")
    talk.down()
    assert talk.client(SELECT) == b""
    assert talk.server(HEAD) == b""
    assert talk.resume(Outcome.APPROVED) == b""
    talk.session.terminate("again")
    assert talk.down() == b""


def test_definitions_without_end_are_bounded() -> None:
    talk = asked(inspect_max=10_000)
    talk.server(packets(1, b"\x64"))
    for i in range(100):
        talk.server(wire.packet(2 + i, wire.column("x" * 240)))
    assert talk.ended


def test_a_client_that_breaks_the_protocol_behind_a_command_is_told_so() -> None:
    talk = asked(SELECT + wire.packet(5, b"\x0e"))
    told = talk.server(packets(1, wire.ok()))
    assert talk.ended
    ((sequence, _, _, text),) = wire.errors(told)
    assert sequence == 1
    assert "out of order" in text
