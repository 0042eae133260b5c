"""The query inside a COPY is cut out only where it is certain to be the one that runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.postgres import copy_columns


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("COPY (SELECT 1) TO STDOUT", "SELECT 1"),
        ("COPY ( SELECT (1), f(')') FROM t ) TO STDOUT (FORMAT csv, HEADER)", " SELECT (1), f(')') FROM t "),
        (
            "copy/* ( */(select ')' from t where (a)=(b))to stdout with (format binary)",
            "select ')' from t where (a)=(b)",
        ),
        ("COPY (DELETE FROM t RETURNING (a)) TO STDOUT", "DELETE FROM t RETURNING (a)"),
        ("COPY ((SELECT 1)) TO STDOUT", "(SELECT 1)"),
        ("COPY (SELECT $a$ ) TO STDOUT $a$) TO STDOUT", "SELECT $a$ ) TO STDOUT $a$"),
    ],
)
def test_the_inner_query(text: str, inner: str) -> None:
    found = copy_columns.inner_query(text.encode(), 1)
    assert found is not None
    assert found.decode() in (inner, inner.strip(), f"({inner})", inner.removeprefix("(").removesuffix(")"))


@pytest.mark.parametrize(
    "text",
    [
        "COPY t TO STDOUT",
        "COPY t (a, b) TO STDOUT",
        "COPY t FROM STDIN",
        "SELECT (1)",
        "COPY (SELECT 1) TO STDOUT; SELECT 2",
        "COPY (SELECT 1",
        "",
        "\xff",
    ],
)
def test_what_is_no_copy_of_a_query(text: str) -> None:
    assert copy_columns.inner_query(text.encode("latin-1"), 1) is None


def test_several_statements_are_none() -> None:
    assert copy_columns.inner_query(b"COPY (SELECT 1) TO STDOUT", 2) is None
    assert copy_columns.inner_query(b"COPY (SELECT 1" + b",1" * 10_000 + b") TO STDOUT", 1) is None


@given(st.binary(max_size=60) | st.text("COPY()SELECT1'$ \n;", max_size=60).map(str.encode))
def test_arbitrary_text_raises_nothing(text: bytes) -> None:
    copy_columns.inner_query(text, 1)
    copy_columns.tree_of(text, 0, 1)


def test_a_deep_query_ends_nothing() -> None:
    inner = "SELECT " + "||".join(["ssn"] * 1500) + " FROM users"
    assert copy_columns.inner_query(f"COPY ({inner}) TO STDOUT".encode(), 1) == inner.encode()


@pytest.mark.parametrize(
    "inner",
    [
        "SELECT ')' || $$)($$ || E'\\')' AS \")\" FROM users /* ) /* ( */ */ -- )",
        "SELECT (1), ((2)), x[1] FROM (SELECT ARRAY[(3)] AS x) y",
        "WITH a AS (SELECT 1) SELECT * FROM a",
    ],
)
def test_the_query_ends_at_its_own_parenthesis(inner: str) -> None:
    text = f"/* ( */ CoPy -- (\n ({inner}\n) TO STDOUT (FORMAT csv, NULL ')')"
    assert copy_columns.inner_query(text.encode(), 1) == f"{inner}\n".encode()


def test_what_a_very_long_text_copies_is_not_known() -> None:
    text = b"COPY t FROM STDIN"
    assert copy_columns.tree_of(text, 0, 1) is not None
    assert copy_columns.tree_of(text + b" " * 70_000, 0, 1) is None
