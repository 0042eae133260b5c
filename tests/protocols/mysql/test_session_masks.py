"""Masked rows on their way through a session: which rows, in which form, and what else could tell a value."""

from __future__ import annotations

import pytest

from protocols.mysql.capabilities import Capability
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import SSN, Talk, anything
from tests.support.mysql_wire import packets, query

SECRET = "078-05-1120"
USERS = [wire.column("id", "users", 8), wire.column("ssn", "users")]


def masked(talk: Talk, *data: bytes) -> list[tuple[int, bytes]]:
    """What the client gets: without the secret, here and on record, and with packets that count without a gap."""
    told = talk.server(*data)
    assert not talk.ended
    assert SECRET.encode() not in told
    got = wire.split(told)
    assert [seq for seq, _ in got] == [(got[0][0] + i) & 0xFF for i in range(len(got))]
    assert SECRET not in str(talk.port.records)
    return got


@pytest.mark.parametrize("capabilities", [wire.BASE, wire.MODERN])
def test_text_rows(capabilities: Capability) -> None:
    talk = Talk(masks=[SSN], capabilities=capabilities)
    talk.client(query("SELECT id, ssn FROM users"))
    rows = [wire.row("1", SECRET), wire.row("2", None)]
    got = masked(talk, wire.result(USERS, rows, old=capabilities == wire.BASE))
    assert sum(body.startswith(b"\x011") for _, body in got) == 1
    assert talk.last()["columns"] == [{"name": "id", "masked": None}, {"name": "ssn", "masked": "hide-ssn"}]
    assert talk.last()["rows"] == 2


def test_binary_rows() -> None:
    talk = Talk(masks=[SSN])
    talk.prepare(1, "SELECT id, ssn FROM users", 0, 2)
    talk.client(wire.execute(1))
    masked(talk, wire.result(USERS, [wire.binary_row(1, SECRET), wire.binary_row(2, None)]))


def test_rows_of_a_cursor() -> None:
    talk = Talk(masks=[SSN])
    talk.prepare(1, "SELECT id, ssn FROM users", 0, 2)
    talk.client(wire.execute(1, flags=1))
    talk.server(packets(1, b"\2", *USERS, wire.end(wire.AUTOCOMMIT | wire.CURSOR)))
    talk.client(wire.fetch(1, 5))
    masked(talk, packets(1, wire.binary_row(1, SECRET), wire.end(wire.AUTOCOMMIT | wire.CURSOR | wire.LAST_ROW)))
    assert talk.last()["columns"][1]["masked"] == "hide-ssn"


def test_rows_in_pieces() -> None:
    answer = wire.result(USERS, [wire.row(str(i), SECRET) for i in range(20)])
    for step in (1, 7, 50):
        talk = Talk(masks=[SSN])
        talk.client(query("SELECT id, ssn FROM users"))
        masked(talk, *(answer[at : at + step] for at in range(0, len(answer), step)))
        assert talk.last()["rows"] == 20


def test_metadata_that_says_otherwise_does_not_uncover() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("WITH orders AS (SELECT ssn AS total, id FROM users) SELECT total FROM orders"))
    masked(talk, wire.result([wire.column("total", "orders")], [wire.row(SECRET)]))


def test_a_width_that_does_not_fit_withholds() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id FROM users"))
    masked(talk, wire.result([wire.column("id"), wire.column("more")], [wire.row("1", SECRET)]))


def test_the_second_result_is_masked_by_its_own_statement() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id FROM orders; SELECT ssn FROM users"))
    first = wire.result([wire.column("id", "orders", 8)], [wire.row("7")], status=wire.AUTOCOMMIT | wire.MORE)
    second = wire.result([wire.column("ssn", "users")], [wire.row(SECRET)], first=len(wire.split(first)) + 1)
    got = masked(talk, first + second)
    assert any(body == wire.row("7") for _, body in got)


def test_results_of_unseen_code_are_withheld() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(query("CALL report()"))
    first = wire.result([wire.column("x")], [wire.row(SECRET)], status=wire.AUTOCOMMIT | wire.MORE)
    masked(talk, first + wire.packets(len(wire.split(first)) + 1, wire.ok()))


def test_an_error_that_quotes_a_value() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT extractvalue(1, concat('~', ssn)) FROM users"))
    ((_, body),) = masked(talk, packets(1, wire.err(1105, "HY000", f"XPATH syntax error: '~{SECRET}'")))
    assert body[:9] == b"\xff\x51\x04#HY000"


def test_warnings_that_may_quote_a_value() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(query("SELECT id FROM users WHERE ssn + 0 = 1"))
    talk.server(wire.result([wire.column("id")], []))
    assert talk.session.tainted
    talk.client(query("SHOW WARNINGS"))
    columns = [wire.column("Level"), wire.column("Code", kind=3), wire.column("Message")]
    row = wire.row("Warning", "1292", f"Truncated incorrect DOUBLE value: '{SECRET}'")
    masked(talk, wire.result(columns, [row]))


def test_an_id_made_of_a_value_is_not_told() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(query("UPDATE orders, users SET total = LAST_INSERT_ID(ssn)"))
    body = b"\0\1\xfd\xdd\x3a\x01\2\0\0\0"
    ((_, got),) = wire.split(talk.server(packets(1, body)))
    assert got == b"\0\1\0\2\0\0\0"


def test_an_id_of_an_insert_is_told() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(query("INSERT INTO orders (total) VALUES (5)"))
    answer = packets(1, b"\0\1\x07\2\0\0\0")
    assert talk.server(answer) == answer


def test_a_masked_row_above_the_limit_ends_the_session() -> None:
    talk = Talk(masks=[SSN], inspect_max=1000)
    talk.client(query("SELECT ssn FROM users"))
    told = talk.server(packets(1, b"\1", USERS[1]), wire.packet(3, b"\xfc\x00\x10" + SECRET.encode() * 400))
    assert talk.ended
    assert SECRET.encode() not in told


def test_a_row_that_cannot_be_read_ends_the_session() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id, ssn FROM users"))
    told = talk.server(packets(1, b"\2", *USERS, wire.row("1") + b"\x7f" + SECRET.encode()))
    assert talk.ended
    assert SECRET.encode() not in told
    assert [seq for seq, _ in wire.split(told)] == [1, 2, 3, 4]  # the columns, and last words in place of the rows


def test_content_of_a_file_is_not_on_record_where_masks_are_in_force() -> None:
    talk = Talk(anything, masks=[SSN], capabilities=wire.MODERN | Capability.LOCAL_FILES)
    talk.client(query("LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE users"))
    talk.server(packets(1, b"\xfb/tmp/a"))
    talk.client(packets(2, SECRET.encode(), b""))
    talk.server(packets(4, wire.ok(1)))
    assert "input" not in talk.last()


def test_rows_that_need_no_mask_pass_as_they_are() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id, total FROM orders"))
    answer = wire.result([wire.column("id", "orders"), wire.column("total", "orders")], [wire.row("1", "2")])
    assert talk.server(answer) == answer


def test_names_that_grow_old_while_a_statement_runs_are_still_those_that_it_was_judged_by() -> None:
    """The check of the catalog is late: what is masked is masked, what is not is not lost."""
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id, ssn FROM users"))
    talk.port.snapshot = None
    got = masked(talk, wire.result(USERS, [wire.row("1", SECRET)]))
    assert any(body.startswith(b"\x011") for _, body in got)
    assert talk.last()["columns"] == [{"name": "id", "masked": None}, {"name": "ssn", "masked": "hide-ssn"}]


def test_without_names_from_the_beginning_nothing_is_shown() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.port.snapshot = None
    talk.client(query("SELECT id, ssn FROM users"))
    talk.session.resume(None)
    got = masked(talk, wire.result(USERS, [wire.row("1", SECRET)]))
    assert all(column["masked"] == "hide-ssn" for column in talk.last()["columns"])
    assert not any(body.startswith(b"\x011") for _, body in got)
