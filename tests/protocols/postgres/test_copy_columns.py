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


@given(st.binary(max_size=60) | st.text("COPY()SELECT1'$ \n;", max_size=60).map(str.encode))
def test_arbitrary_text_raises_nothing(text: bytes) -> None:
    copy_columns.inner_query(text, 1)
    copy_columns.tree_of(text, 0, 1)
