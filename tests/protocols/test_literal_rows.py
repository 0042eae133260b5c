"""Bulk INSERTs made short: the analysis stays the same, and nothing that is not a plain literal is ever left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import Effect
from protocols.literal_rows import LEAST, shortened
from protocols.mysql.catalog import builtin_catalog
from protocols.mysql.state import SessionState as MySQLState
from protocols.mysql.statements import analyse as analyse_mysql
from protocols.postgres.judge_lines import judge_line
from tests.support.talk import usual

HEAD = b"INSERT INTO public.t (a, b) VALUES "
FILLER = b",".join(b"(%d, 'some text')" % n for n in range(400))


def bulk(*rows: bytes, tail: bytes = b"") -> bytes:
    return HEAD + b",".join((FILLER, *rows)) + tail


def test_rows_of_one_kind_become_one() -> None:
    assert shortened(bulk()) == HEAD + b"(1, 'x')"


@pytest.mark.parametrize(
    ("number", "stands"),
    [
        (b"1795337260", b"1"),  # of 32 bits, as every smaller one
        (b"2147483647", b"2147483647"),  # near the bound: itself
        (b"2147483648", b"2147483648"),
        (b"3000000000", b"33333333333"),  # of 64 bits
        (b"999999999999999999", b"33333333333"),
        (b"9223372036854775808", b"9223372036854775808"),
        (b"100000000000000000000000", b"333333333333333333333"),  # of none
        (b"00000000000", b"00000000000"),
    ],
)
def test_a_number_stands_for_those_of_its_type(number: bytes, stands: bytes) -> None:
    rows = b",".join([b"(%b)" % number] * 400)
    head = HEAD + b"(1)," * 1000
    assert shortened(head + rows) == HEAD + (b"(1)" if stands == b"1" else b"(1),(%b)" % stands)


def test_the_tail_is_never_left_out() -> None:
    tail = b" ON CONFLICT (a) DO UPDATE SET b = f(excluded.b) RETURNING pg_sleep(1)"
    assert shortened(bulk(tail=tail)) == HEAD + b"(1, 'x')" + tail


def test_a_row_of_each_kind_stays() -> None:
    rows = (
        b"(-1, 'y')",
        b"(10000000000, 'y')",
        b"(1.5, 'y')",
        b"(1e9, 'y')",
        b"(NULL, 'y')",
        b"('5', 'y')",
        b"(true, '')",
    )
    short = shortened(bulk(*rows))
    assert (
        short
        == HEAD + b"(1, 'x'),(-1, 'x'),(33333333333, 'x'),(1.1, 'x'),(1e1, 'x'),(NULL, 'x'),('x', 'x'),(true, 'x')"
    )


@pytest.mark.parametrize(
    "row",
    [
        b"(nextval('s'), 'x')",
        b"(1, (SELECT ssn FROM users LIMIT 1))",
        b"(1, 'x' || f())",
        b"(1, E'a\\'), (f(), 'b')",
        b"(1, 'x'/**/)",
        b"(1, 'x' -- )\n)",
        b"(1, $$x$$)",
        b"(1, $1)",
        b"(1, ?)",
        b"(1, @v := 2)",
        b"(1, U&'x')",
        b"(1, _binary 'x')",
        b'(1, "b")',
        b"(1, 0x41)",
        b"(1, 'x'::regclass)",
        b"(1, 'x' 'y')",
        b"(1, /*!50000 f() */ 1)",
    ],
)
def test_what_is_no_literal_stays_to_the_last_byte(row: bytes) -> None:
    for backslash in ("", "plain", "escape"):
        assert shortened(bulk(row, b"(7, 'z')"), backslash).endswith(row + b",(7, 'z')")


@pytest.mark.parametrize(
    "head",
    [
        b"INSERT INTO t SELECT * FROM (VALUES ",
        b"INSERT INTO t VALUES (f()), ",
        b"INSERT /*!50000 DELAYED */ INTO t VALUES ",
        b"EXPLAIN ANALYZE INSERT INTO t VALUES ",
        b"SELECT 1; INSERT INTO t VALUES ",
        b"INSERT INTO t (SELECT 1) VALUES ",
        b"WITH x AS (DELETE FROM u) INSERT INTO t VALUES ",
        b"INSERT INTO t PARTITION (p) VALUES ",
    ],
)
def test_other_statements_are_left_as_they_are(head: bytes) -> None:
    text = head + FILLER
    assert shortened(text) is text


def test_a_backslash_means_what_the_session_says() -> None:
    """The same bytes are two rows, or one row whose string goes on into the call."""
    hidden = rb"(1, 'a\'), (f(), 'b')"
    assert shortened(bulk(hidden), "plain").endswith(b"(1, 'x'), (f(), 'b')")
    assert b"f()" in shortened(bulk(hidden), "")
    assert shortened(bulk(rb"(1, 'it\'s')"), "escape") == HEAD + b"(1, 'x')"
    assert shortened(bulk(rb"(1, 'it\'s')"), "") == HEAD + rb"(1, 'x'),(1, 'it\'s')"


def test_short_texts_are_not_looked_at() -> None:
    text = HEAD + b"(1, 'a'), (2, 'b')"
    assert len(text) < LEAST
    assert shortened(text) is text


literals = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(st.characters(exclude_characters="\\\0", exclude_categories=["Cs"]), max_size=12).map(
        lambda text: "'" + text.replace("'", "''") + "'"
    ),
    st.sampled_from(["NULL", "true", "DEFAULT", "f()", "'a' || 'b'", "(SELECT 1)", "CURRENT_USER"]),
)


def _mysql(text: bytes) -> tuple[frozenset[Effect], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    names = builtin_catalog("mysql")
    state = MySQLState(
        flavour="mysql",
        version=names.server_version,
        charset="utf8mb4",
        sql_mode=names.sql_mode,
        database="test",
        multi_statements=False,
        lower_case_table_names=names.lower_case_table_names,
    )
    state.started()
    command = analyse_mysql(text, state, names)
    assert command.text == text
    assert [s.text for s in command.statements] == [text]
    one = command.analysis
    return one.effects, one.reads, one.writes, one.functions


@given(st.lists(st.lists(literals, min_size=2, max_size=2), min_size=1, max_size=8))
def test_the_analysis_is_that_of_the_rows_alone(rows: list[list[str]]) -> None:
    """A bulk of harmless rows around them neither adds to what is found nor takes away from it."""
    values = [("(" + ", ".join(row) + ")").encode() for row in rows]
    few, many = HEAD + b",".join(values), bulk(*values)
    assert _mysql(few) == _mysql(many)
    answers = [judge_line({"id": 1, "input": text.decode()}, usual, None) for text in (few, many)]
    assert answers[0] == answers[1]


def test_a_dump_of_a_megabyte_is_judged() -> None:
    rows = b",".join(b"(%d,'name %d','it\\'s')" % (n, n) for n in range(40_000))
    effects, _, writes, _ = _mysql(b"INSERT INTO `t` VALUES " + rows)
    assert (effects, writes) == ({Effect.DATA_INSERT}, ("test.t",))
    answer = judge_line(
        {"id": 1, "input": (b"INSERT INTO t VALUES " + rows.replace(b"\\'", b"''")).decode()}, usual, None
    )
    assert (answer["effects"], answer["writes"]) == (["data.insert"], ["public.t"])
