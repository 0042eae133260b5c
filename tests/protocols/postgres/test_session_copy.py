"""COPY through a session: both directions, every end, and the Syncs that libpq sends before it knows of the COPY."""

from __future__ import annotations

import base64

import pytest

from tests.support import wire
from tests.support.talk import SSN, USERS, Talk
from tests.support.wire import COPY_DONE, SYNC, bind, complete, copy_data, describe, execute, kinds, parse, query, ready

INTO = "COPY orders FROM STDIN"
LINES = copy_data(b"1\tx\n") + copy_data(b"2\ty\n")


def extended(talk: Talk) -> None:
    """As libpq's PQexecParams sends it: with its Sync, in one piece. The server has begun the COPY."""
    sent = parse("", INTO) + bind("", "") + describe("P") + execute() + SYNC
    assert talk.client(sent) == sent
    assert kinds(talk.server(wire.PARSED, wire.BOUND, wire.NO_DATA, wire.copy_in(0, 0))) == "12nG"


def alive(talk: Talk) -> None:
    """The next exchange fits: nothing of the COPY is still awaited."""
    assert not talk.session.busy
    sent = parse("", "SELECT 1") + bind("", "") + execute() + SYNC
    assert talk.client(sent) == sent
    told = talk.server(wire.PARSED, wire.BOUND, wire.row(b"1"), complete("SELECT 1"), ready())
    assert kinds(told) == "12DCZ"
    assert not talk.session.busy
    assert not talk.ended


def test_copy_in_by_simple_query() -> None:
    talk = Talk()
    talk.client(query(INTO))
    talk.server(wire.copy_in(0, 0))
    assert talk.client(LINES + COPY_DONE) == LINES + COPY_DONE
    talk.server(complete("COPY 2"), ready())
    response = talk.last()
    assert (response["status"], response["rows"]) == ("ok", 2)
    assert base64.b64decode(response["input"]) == b"1\tx\n2\ty\n"
    alive(talk)


def test_copy_in_whose_data_comes_before_the_server_is_asked() -> None:
    talk = Talk()
    sent = query(INTO) + LINES + COPY_DONE
    assert talk.client(sent) == sent
    talk.server(wire.copy_in(0, 0), complete("COPY 2"), ready())
    assert base64.b64decode(talk.last()["input"]) == b"1\tx\n2\ty\n"
    alive(talk)


def test_copy_in_extended_with_an_early_sync() -> None:
    talk = Talk()
    extended(talk)
    rest = LINES + COPY_DONE + SYNC
    assert talk.client(rest) == rest
    talk.server(complete("COPY 2"), ready())
    alive(talk)


def test_copy_in_extended_with_further_syncs_and_flushes_inside() -> None:
    talk = Talk()
    extended(talk)
    rest = LINES + SYNC + wire.FLUSH + LINES + COPY_DONE + SYNC
    assert talk.client(rest) == rest
    talk.server(complete("COPY 4"), ready())
    alive(talk)


@pytest.mark.parametrize("swallowed", [True, False], ids=["sync read as data", "error before the sync was read"])
def test_copy_in_extended_that_fails(swallowed: bool) -> None:
    talk = Talk()
    extended(talk)
    told = talk.server(wire.error("22P02") + (b"" if swallowed else ready()))
    assert kinds(told) == ("E" if swallowed else "EZ")
    talk.client(LINES + COPY_DONE + SYNC)
    assert kinds(talk.server(ready())) == "Z"
    assert [s for _, s in talk.responses()] == ["error"]
    sent = parse("", "SELECT 1") + bind("", "") + execute() + SYNC
    assert talk.client(sent) == sent
    assert kinds(talk.server(wire.PARSED, wire.BOUND, complete("SELECT 0"), ready())) == "12CZ"
    assert not talk.ended


@pytest.mark.parametrize("swallowed", [True, False])
def test_an_error_after_a_copy_that_failed_is_its_own_command_s(swallowed: bool) -> None:
    talk = Talk()
    extended(talk)
    talk.server(wire.error("22P02") + (b"" if swallowed else ready()))
    talk.client(LINES + COPY_DONE + SYNC)
    talk.server(ready())
    talk.client(parse("", "SELECT 1/0") + bind("", "") + execute() + SYNC)
    talk.server(wire.PARSED, wire.BOUND, wire.error("22012"), ready())
    assert talk.last()["sqlstate"] == "22012"
    assert not talk.session.skipping
    alive(talk)


@pytest.mark.parametrize("how", ["simple", "extended"])
def test_copy_fail(how: str) -> None:
    talk = Talk()
    if how == "simple":
        talk.client(query(INTO))
        talk.server(wire.copy_in(0, 0))
        talk.client(LINES + wire.copy_fail("changed my mind"))
    else:
        extended(talk)
        talk.client(LINES + wire.copy_fail("changed my mind") + SYNC)
    talk.server(wire.error("57014"), ready())
    assert talk.last()["status"] == "error"
    alive(talk)


def test_two_copies_in_one_query() -> None:
    talk = Talk()
    talk.client(query(f"{INTO}; {INTO}"))
    for number in (1, 2):
        talk.server(wire.copy_in(0, 0))
        talk.client(LINES + COPY_DONE)
        assert kinds(talk.server(complete("COPY 2"))) == "C", number
    talk.server(ready())
    assert talk.responses() == [(1, "ok"), (1, "ok")]
    alive(talk)


def test_other_messages_during_copy_in_end_the_session() -> None:
    for message in (query("SELECT 1"), parse("", "SELECT 1"), bind("", ""), execute(), wire.call(1)):
        talk = Talk()
        talk.client(query(INTO))
        talk.server(wire.copy_in(0, 0))
        assert message not in talk.client(message)
        assert talk.fatal()["C"] == "08P01"


def test_an_oversized_message_during_copy_in_ends_the_session() -> None:
    talk = Talk(inspect_max=1000)
    talk.client(query(INTO))
    talk.server(wire.copy_in(0, 0))
    assert talk.client(query("x" * 2000)) == b""
    assert talk.fatal()["C"] == "08P01"


def test_input_is_recorded_up_to_the_limit_and_not_at_all_under_masks() -> None:
    talk = Talk(response_max=10)
    talk.client(query(INTO))
    talk.server(wire.copy_in(0, 0))
    for _ in range(5000):
        talk.client(copy_data(b"1\tx\n"))
    talk.client(COPY_DONE)
    talk.server(complete("COPY 5000"), ready())
    assert base64.b64decode(talk.last()["input"]) == b"1\tx\n1\tx\n1\t"
    assert talk.last()["bytes"] >= 20_000
    masked = Talk(masks=[SSN])
    masked.client(query("COPY users FROM STDIN"))
    masked.server(wire.copy_in(0, 0, 0))
    masked.client(copy_data(b"1\t078-05-1120\tx\n") + COPY_DONE)
    masked.server(complete("COPY 1"), ready())
    assert "078-05" not in str([base64.b64decode(r.get("input", "")) for r in masked.port.records])


def test_copy_out_passes_as_it_is() -> None:
    talk = Talk()
    talk.client(query("COPY orders TO STDOUT"))
    answer = wire.copy_out(0, 0) + LINES + wire.COPY_DONE + complete("COPY 2") + ready()
    assert talk.server(answer) == answer
    assert (talk.last()["rows"], talk.last()["status"]) == (2, "ok")
    alive(talk)


def test_large_copy_rows_pass_in_pieces_both_ways() -> None:
    big = copy_data(b"1\t" + b"z" * 300_000 + b"\n")
    talk = Talk(inspect_max=100_000)
    talk.client(query(INTO))
    talk.server(wire.copy_in(0, 0))
    assert talk.client(big[:150_000]) == big[:150_000]  # not held until it is whole
    assert talk.client(big[150_000:] + COPY_DONE) == big[150_000:] + COPY_DONE
    talk.server(complete("COPY 1"), ready())
    talk.client(query("COPY orders TO STDOUT"))
    assert talk.server(wire.copy_out(0, 0) + big[:150_000]) == wire.copy_out(0, 0) + big[:150_000]
    assert talk.server(big[150_000:]) == big[150_000:]
    talk.server(wire.COPY_DONE, complete("COPY 1"), ready())
    alive(talk)


def masked_copy(sql: str, *answers: bytes) -> tuple[Talk, bytes, bytes]:
    talk = Talk(masks=[SSN])
    sent = talk.client(query(sql))
    return talk, sent, talk.server(*answers)


def test_copy_out_of_a_table_is_masked() -> None:
    lines = copy_data(b"1\t078-05-1120\tAda\n2\t\\N\tBob\n")
    talk, sent, told = masked_copy(
        "COPY users TO STDOUT", wire.copy_out(0, 0, 0), lines, COPY_DONE, complete("COPY 2"), ready()
    )
    assert sent == query("COPY users TO STDOUT")
    data = b"".join(body for kind, body in wire.split(told) if kind == "d")
    assert b"078" not in data
    assert data.splitlines()[1] == b"2\t\\N\tBob"
    assert b"078" not in base64.b64decode(talk.last()["wire"])
    alive_masked(talk)


def alive_masked(talk: Talk) -> None:
    assert not talk.session.busy
    assert not talk.ended


def test_copy_out_of_a_query_is_described_first() -> None:
    sql = "COPY (SELECT id, ssn AS x FROM users) TO STDOUT"
    hidden = wire.PARSED + wire.parameters()
    hidden += wire.columns(wire.field("id", USERS, 1, 23), wire.field("x", USERS, 2)) + wire.CLOSED + ready()
    answer = wire.copy_out(0, 0) + copy_data(b"1\t078-05-1120\n") + COPY_DONE + complete("COPY 1") + ready()
    talk, sent, told = masked_copy(sql, hidden + answer)
    assert kinds(sent) == "PDCSQ"
    assert kinds(told) == "HdcCZ"  # the gateway's own question shows nowhere
    assert b"078" not in told
    assert talk.commands() == [("query", sql, "allow")]
    alive_masked(talk)


def test_no_sync_of_ours_commits_what_the_client_left_open() -> None:
    """Flush gets the answers, and the implicit transaction stays open: a Sync would commit it."""
    sql = "COPY (SELECT id, ssn AS x FROM users) TO STDOUT"
    talk = Talk(masks=[SSN])
    talk.client(parse("", "SELECT 1") + wire.FLUSH)
    talk.server(wire.PARSED)
    assert talk.client(query(sql)) == query(sql)
    answer = wire.copy_out(0, 0) + copy_data(b"1\t078-05-1120\n") + COPY_DONE + complete("COPY 1") + ready()
    told = talk.server(answer)
    assert kinds(told) == "HdcCZ"
    assert b"078" not in told
    alive_masked(talk)
    assert kinds(talk.client(query(sql))) == "PDCSQ"


def test_copy_out_of_a_query_that_cannot_be_described_stays_closed() -> None:
    """The description fails, the COPY works all the same: nothing unmasked comes out of it."""
    sql = "COPY (SELECT id, ssn AS x FROM users) TO STDOUT"
    answer = wire.copy_out(0, 0) + copy_data(b"1\t078-05-1120\n") + COPY_DONE + complete("COPY 1") + ready()
    talk, _, told = masked_copy(sql, wire.error("42P01") + ready(), answer)
    assert kinds(told) == "HdcCZ"
    assert b"078" not in told
    alive_masked(talk)


def test_in_a_block_the_client_hears_why_and_not_that_the_block_is_aborted() -> None:
    """The gateway's own question failed, and the block with it: the COPY's own error would have been the same."""
    talk = Talk(masks=[SSN])
    talk.begin()
    talk.client(query("COPY (SELECT ssn FROM users WHERE 1/0 > id) TO STDOUT"))
    told = talk.server(wire.error("22012", "division by zero"), ready("E"), wire.error("25P02"), ready("E"))
    assert kinds(told) == "EZ"
    assert wire.errors(told)[0]["C"] == "22012"
    talk.client(query("SELECT 1"))
    told = talk.server(wire.error("25P02"), ready("E"))
    assert wire.errors(told)[0]["C"] == "25P02"


def test_copy_out_extended_is_masked() -> None:
    talk = Talk(masks=[SSN])
    sent = talk.client(parse("", "COPY users TO STDOUT") + bind("", "") + execute() + SYNC)
    assert kinds(sent) == "PBDES"
    told = talk.server(
        wire.PARSED, wire.BOUND, wire.NO_DATA, wire.copy_out(0, 0, 0), copy_data(b"1\t078-05-1120\tAda\n"), COPY_DONE,
        complete("COPY 1"), ready(),
    )  # fmt: skip
    assert kinds(told) == "12HdcCZ"
    assert b"078" not in told
