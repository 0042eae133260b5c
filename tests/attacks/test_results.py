"""What sensitive values try to leave by, row by row of the threat table: results (22 to 25) and the record (28).

The policy masks `public.users.ssn`. `SECRET` must never reach the client or the record.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest

from protocols.contract import Action, Analysis, Decision
from tests.support import wire
from tests.support.talk import ORDERS, SSN, USERS, Talk
from tests.support.wire import SYNC, bind, complete, describe, execute, kinds, parse, query, ready

SECRET = b"078-05-1120"
SSN_FIELD = wire.field("x", USERS, 2)  # whatever its alias: the server says where it is from
COMPUTED = wire.field("x")


def told(sql: str, column: bytes, value: bytes = SECRET) -> tuple[Talk, bytes]:
    """A simple query answered with one row of one column."""
    talk = Talk(masks=[SSN])
    assert talk.client(query(sql)) == query(sql)
    answer = wire.columns(column) + wire.row(value) + complete("SELECT 1") + ready()
    return talk, talk.server(answer)


def kept(talk: Talk) -> bytes:
    """Everything on record, its wire bytes decoded."""
    wires = [base64.b64decode(r.get("wire", "")) for r in talk.port.records]
    return b"".join(wires) + str(talk.port.records).encode()


def everything(_: Analysis) -> Decision:
    return Decision(Action.ALLOW, "all", "")


HIDES = [
    ("SELECT ssn AS total FROM users", SSN_FIELD),
    ("SELECT ssn || '' FROM users", COMPUTED),
    ("SELECT left(ssn, 11)::varchar FROM users", COMPUTED),
    ("SELECT row_to_json(u) FROM users u", COMPUTED),
    ("SELECT u FROM users u", COMPUTED),
    ("WITH c AS (SELECT ssn FROM users) SELECT max(ssn) FROM c", COMPUTED),
    ("SELECT total FROM orders UNION SELECT ssn FROM users", COMPUTED),
    ("SELECT (SELECT ssn FROM users LIMIT 1) FROM orders", COMPUTED),
    ("SELECT coalesce(o.total, u.ssn) FROM orders o, users u", COMPUTED),
    ("EXPLAIN ANALYZE SELECT * FROM users", wire.field("QUERY PLAN")),
    ("UPDATE orders SET total = u.ssn FROM users u RETURNING total", wire.field("total", ORDERS, 2)),
]


@pytest.mark.parametrize(("sql", "column"), HIDES)
def test_row_22_no_expression_shows_the_value(sql: str, column: bytes) -> None:
    talk, data = told(sql, column)
    if not sql.startswith("EXPLAIN"):  # a plan is no value
        assert SECRET not in data
        assert SECRET not in kept(talk)
    assert len(wire.rows(data)) == 1


def test_row_22_what_is_not_masked_stays_as_it_is() -> None:
    for sql, column in (
        ("SELECT name FROM users", wire.field("name", USERS, 3)),
        ("SELECT count(*) FROM users", COMPUTED),
        ("SELECT total FROM orders", wire.field("total", ORDERS, 2)),
        ("SELECT total || 'x' FROM orders", COMPUTED),
    ):
        _, data = told(sql, column, b"shown")
        assert wire.rows(data) == [[b"shown"]], sql


def test_row_23_an_sql_cursor_is_masked() -> None:
    talk = Talk(masks=[SSN])
    talk.begin()
    talk.client(query("DECLARE c CURSOR FOR SELECT ssn || '' FROM users"))
    talk.server(complete("DECLARE CURSOR"), ready("T"))
    talk.client(query("FETCH 1 FROM c"))
    data = talk.server(wire.columns(COMPUTED), wire.row(SECRET), complete("FETCH 1"), ready("T"))
    assert wire.rows(data) == [[None]]


@pytest.mark.parametrize("kind", ["E", "N"])
def test_row_23_errors_and_notices_do_not_quote(kind: str) -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT ssn::int FROM users"))
    fields = {"M": f'invalid input syntax for type integer: "{SECRET.decode()}"', "D": f"Key ({SECRET.decode()})"}
    fields |= {"W": f'COPY users, line 1: "{SECRET.decode()}"'}
    body = b"".join(k.encode() + wire.text(v) for k, v in {"S": "ERROR", "C": "22P02", **fields}.items()) + b"\0"
    data = talk.server(wire.message(kind, body), ready() if kind == "E" else b"")
    assert SECRET not in data
    assert wire.split(data)[0][0] == kind
    assert b"C22P02\0" in data
    assert SECRET not in kept(talk)


@pytest.mark.parametrize("fmt", [0, 1])
def test_row_24_null_stays_null_in_both_formats(fmt: int) -> None:
    talk = Talk(masks=[SSN])
    talk.client(parse("", "SELECT ssn FROM users") + bind("", "", results=[fmt]) + execute() + SYNC)
    data = talk.server(
        wire.PARSED, wire.BOUND, wire.columns(wire.field("ssn", USERS, 2, 25, fmt)),
        wire.row(None), wire.row(SECRET), complete("SELECT 2"), ready(),
    )  # fmt: skip
    assert wire.rows(data)[0] == [None]
    assert wire.rows(data)[1] != [None]
    assert SECRET not in data


def prepared(column: bytes = SSN_FIELD, sql: str = "SELECT ssn FROM users") -> Talk:
    """`s` is prepared and described once, as drivers do."""
    talk = Talk(masks=[SSN])
    talk.client(parse("s", sql) + describe("S", "s") + SYNC)
    talk.server(wire.PARSED, wire.parameters(), wire.columns(column), ready())
    return talk


def run(talk: Talk, message: bytes, *answers: bytes) -> bytes:
    """Sends an exchange; the gateway's own Describe is answered first."""
    sent = talk.client(message)
    assert "D" in kinds(sent)
    return talk.server(*answers)


def test_row_25_wp_007_no_describe_and_binary() -> None:
    talk = Talk(masks=[SSN])
    message = parse("", "SELECT ssn FROM users") + bind("", "", results=[1]) + execute() + SYNC
    data = run(
        talk, message, wire.PARSED, wire.BOUND, wire.columns(wire.field("ssn", USERS, 2, 25, 1)), wire.row(SECRET),
        complete("SELECT 1"), ready(),
    )  # fmt: skip
    assert kinds(data) == "12DCZ"  # no RowDescription: none was asked for
    assert SECRET not in data


def test_row_25_executed_again_without_describe() -> None:
    talk = prepared()
    for _ in range(3):
        data = run(
            talk, bind("", "s") + execute() + SYNC, wire.BOUND, wire.columns(SSN_FIELD), wire.row(SECRET),
            complete("SELECT 1"), ready(),
        )  # fmt: skip
        assert kinds(data) == "2DCZ"
        assert SECRET not in data


def test_row_25_wp_027_row_limits() -> None:
    talk = prepared()
    message = bind("p", "s") + execute("p", 1) + execute("p", 1) + execute("p") + SYNC
    row = wire.row(SECRET)
    data = run(
        talk, message, wire.BOUND, wire.columns(SSN_FIELD), row, wire.SUSPENDED, row, wire.SUSPENDED, row,
        complete("SELECT 1"), ready(),
    )  # fmt: skip
    assert kinds(data) == "2DsDsDCZ"
    assert SECRET not in data
    assert [s for _, s in talk.responses()] == ["suspended", "suspended", "ok"]


def test_row_25_rows_whose_columns_nobody_saw_end_the_session() -> None:
    talk = prepared()
    talk.client(bind("", "s") + execute() + SYNC)
    assert SECRET not in talk.server(wire.BOUND + wire.row(SECRET) + complete("SELECT 1") + ready())
    assert talk.ended


@pytest.mark.parametrize(
    "rows",
    [
        [SECRET, SECRET],
        [],
        [None, SECRET],
    ],
)
def test_rows_wider_or_narrower_than_announced_end_the_session(rows: Sequence[bytes | None]) -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT ssn FROM users"))
    data = talk.server(wire.columns(SSN_FIELD), wire.row(*rows))
    assert SECRET not in data
    assert talk.ended


def test_rows_above_the_limit_are_not_passed_unmasked() -> None:
    talk = Talk(masks=[SSN], inspect_max=1000)
    talk.client(query("SELECT ssn FROM users"))
    data = talk.server(wire.columns(SSN_FIELD), wire.row(SECRET * 500)[:900], wire.row(SECRET * 500)[900:])
    assert SECRET not in data
    assert talk.ended


def test_a_function_call_s_result_is_withheld_where_it_may_touch_masked_data() -> None:
    talk = Talk(everything, masks=[SSN])
    talk.client(wire.call(1234567))
    data = talk.server(wire.message("V", b"\0\0\0\x0b" + SECRET), ready())
    assert SECRET not in data
    assert kinds(data) == "VZ"


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER ROLE app PASSWORD 'hunter2'",
        "CREATE USER x PASSWORD 'hunter2'",
        "SELECT dblink('host=x password=hunter2')",
    ],
)
def test_row_28_secrets_in_statements_are_not_on_record(sql: str) -> None:
    talk = Talk()
    talk.client(query(sql))
    assert "hunter2" not in str(talk.port.records)
