"""Results and errors of a whole session with masks, as transcripts."""

from __future__ import annotations

import pytest

from protocols.mysql.masking import chooses_id
from protocols.mysql.rows import binary_row, text_row
from protocols.mysql.statements import CommandAnalysis, analyse
from tests.support import mysql_wire as wire
from tests.support.mysql_masked import Answer, recorded
from tests.support.mysql_rows import encode_binary_row
from tests.support.mysql_talk import SSN, Talk, anything

SECRET = b"078-05-1120"
END = wire.ok(head=0xFE)


def column(name: str, table: str = "users", org: str | None = None, kind: int = 0xFD) -> bytes:
    parts = ("def", "app", table, table, name, name if org is None else org)
    return b"".join(map(wire.lenenc, parts)) + b"\x0c\xff\0" + b"\x90\1\0\0" + bytes((kind,)) + b"\0\0\0\0\0"


def told(sql: str, *names: str, rows: list[bytes] | None = None, talk: Talk | None = None) -> tuple[Talk, list[bytes]]:
    """The rows that the client sees of one row (or these) of values, all of them the secret."""
    talk = talk or Talk(anything, masks=[SSN])
    assert talk.client(wire.query(sql))
    row = b"".join(wire.lenenc(SECRET) for _ in names)
    rows = [row] if rows is None else rows
    bodies = [bytes((len(names),)), *(column(n, org="") for n in names), *rows, END]
    seen = wire_packets(talk.server(wire.packets(1, *bodies)))
    return talk, seen[len(names) + 1 : -1]


def wire_packets(data: bytes) -> list[bytes]:
    out: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "little")
        assert data[at + 3] == len(out) + 1  # the sequence goes on
        out.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return out


@pytest.mark.parametrize(
    ("sql", "want"),
    [
        ("SELECT ssn FROM users", b"[masked]"),
        ("SELECT ssn AS total FROM users", b"[masked]"),
        ("SELECT REVERSE(ssn) FROM users", None),
        ("SELECT total FROM (SELECT ssn AS total FROM users) orders", b"[masked]"),
        ("SELECT @v", SECRET),
        ("SELECT name FROM users", SECRET),
        ("SELECT count(*) FROM users", SECRET),
        ("CALL p()", None),
    ],
)
def test_a_row_of_one_column(sql: str, want: bytes | None) -> None:
    talk, (row,) = told(sql, "x")
    assert text_row(row, 1) == [want]
    kept = recorded(Answer(b"", None, talk.port.records))
    assert (SECRET in kept) is (want == SECRET)


def test_the_record_says_which_columns_were_masked() -> None:
    talk, _ = told("SELECT ssn, name FROM users", "ssn", "name")
    assert talk.last()["columns"] == [{"name": "ssn", "masked": "hide-ssn"}, {"name": "name", "masked": None}]


def test_a_result_of_another_width_than_the_statement_s_is_withheld() -> None:
    _, (row,) = told("SELECT name FROM users", "name", "more")
    assert text_row(row, 2) == [None, None]


def test_a_row_that_is_none_ends_the_session() -> None:
    talk, _ = told("SELECT ssn FROM users", "ssn", rows=[wire.lenenc(SECRET) + b"\5"])
    assert talk.ended


def test_every_result_of_a_text_has_the_masks_of_its_own_statement() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.state.multi_statements = True
    talk.client(wire.query("SELECT name FROM users; SELECT ssn FROM users"))
    more = wire.ok(head=0xFE, status=wire.AUTOCOMMIT | wire.MORE)
    row = wire.lenenc(SECRET)
    seen = talk.server(wire.packets(1, b"\1", column("name"), row, more, b"\1", column("ssn"), row, END))
    bodies = wire_packets(seen)
    assert text_row(bodies[2], 1) == [SECRET]
    assert text_row(bodies[6], 1) == [b"[masked]"]


def test_binary_rows_are_masked_in_their_own_form() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.prepare(5, "SELECT id, ssn FROM users", columns=2)
    talk.client(wire.execute(5))
    kinds = [3, 0xFD]
    row = encode_binary_row([b"\1\0\0\0", SECRET], kinds)
    seen = talk.server(wire.packets(1, b"\2", column("id", kind=3), column("ssn"), row, END))
    assert binary_row(wire_packets(seen)[3], kinds) == [b"\1\0\0\0", b"[masked]"]


def test_the_same_result_is_worked_out_once() -> None:
    talk, _ = told("SELECT name FROM users", "name")
    told("SELECT name FROM users", "name", talk=talk)  # now that the session has touched what is masked
    known = dict(talk.session.known_results)
    told("SELECT name FROM users", "name", talk=talk)
    assert {k: id(v) for k, v in talk.session.known_results.items()} == {k: id(v) for k, v in known.items()}


def test_what_is_remembered_holds_for_one_statement_alone() -> None:
    talk, (row,) = told("SELECT name FROM users", "x")
    assert text_row(row, 1) == [SECRET]
    _, (row,) = told("SELECT ssn FROM users", "x", talk=talk)
    assert text_row(row, 1) == [b"[masked]"]


def test_what_is_remembered_ends_with_the_state_that_it_rests_on() -> None:
    talk = Talk(anything, masks=[SSN])
    _, (row,) = told("SELECT @v", "@v", talk=talk)
    assert text_row(row, 1) == [SECRET]
    talk.ok("SET @v = (SELECT ssn FROM users LIMIT 1)")
    _, (row,) = told("SELECT @v", "@v", talk=talk)
    assert text_row(row, 1) == [None]


@pytest.mark.parametrize(
    ("sql", "hidden"), [("SELECT ssn + 0 FROM users", True), ("SELECT total + 0 FROM orders", False)]
)
def test_errors_do_not_quote_values_of_masked_tables(sql: str, hidden: bool) -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(wire.query(sql))
    body = b"\xff" + (1292).to_bytes(2, "little") + b"#22007Truncated incorrect DOUBLE value: '" + SECRET + b"'"
    seen = talk.server(wire.packets(1, body))
    assert (SECRET in seen) is not hidden
    assert b"#22007Truncated incorrect DOUBLE value: '" in seen
    assert (SECRET in recorded(Answer(b"", None, talk.port.records))) is not hidden


def test_an_error_that_keeps_its_text_keeps_its_bytes() -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(wire.query("SELECT ssn, \xe9 FROM users"))
    sent = wire.packets(1, b"\xff" + (1054).to_bytes(2, "little") + b"#42S22Unknown column '\xe9' in 'SELECT'")
    assert talk.server(sent) == sent


@pytest.mark.parametrize(
    ("sql", "want"),
    [
        ("INSERT INTO users (name) VALUES ('x')", False),
        ("UPDATE orders SET total = LAST_INSERT_ID((SELECT ssn FROM users LIMIT 1))", True),
        ("INSERT INTO orders SELECT ssn, 1 FROM users", True),
        ("INSERT INTO orders VALUES ((SELECT ssn FROM users LIMIT 1), 1)", True),
        ("INSERT INTO orders (total) VALUES (1)", False),
        ("SELECT LAST_INSERT_ID(5)", False),
        ("SELECT LAST_INSERT_ID(ssn) FROM users", True),
        ("SELECT ssn FROM users", False),
        ("SELECT * FROM users JOIN orders USING (id)", False),
        ("EXECUTE s", True),
    ],
)
def test_an_insert_id_may_be_a_masked_value(sql: str, want: bool) -> None:
    talk = Talk(anything, masks=[SSN])
    assert chooses_id(talk.session.judge.verdict(sql.encode(), _analysed(talk, sql)), talk.port.snapshot) is want


def _analysed(talk: Talk, sql: str) -> CommandAnalysis:
    talk.session.judge.epoch(talk.port.snapshot)
    return analyse(sql.encode(), talk.state, talk.port.snapshot)
