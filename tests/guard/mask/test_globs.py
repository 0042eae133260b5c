"""Column patterns: what they match, and which relations they could reach into."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask.globs import ColumnGlob, problem

CASES = [
    ("public.users.ssn", "public.users.ssn", True),
    ("public.users.ssn", "public.users.ssn2", False),
    ("public.users.ssn", "publicXusers.ssn", False),
    ("*.ssn", "public.users.ssn", True),
    ("*.ssn", "public.users.ssn_hash", False),
    ("public.*.*ssn*", "public.users.my_ssn_old", True),
    ("public.user?.ssn", "public.users.ssn", True),
    ("public.[uv]sers.ssn", "public.vsers.ssn", True),
    ("public.[!u]sers.ssn", "public.users.ssn", False),
    ("Public.Users.SSN", "public.users.ssn", True),
    ("public.users.ssn", "public.users.SSN", True),
    ("a[.b.c", "a[.b.c", True),
]


@pytest.mark.parametrize(("pattern", "column", "expected"), CASES)
def test_matches(pattern: str, column: str, expected: bool) -> None:
    assert ColumnGlob(pattern).matches(column) is expected


@pytest.mark.parametrize(
    ("pattern", "relation", "expected"),
    [
        ("public.users.ssn", "public.users", True),
        ("public.users.ssn", "public.orders", False),
        ("public.users.ssn", "public.user", False),
        ("*.ssn", "public.orders", True),
        ("public.*", "public.orders", True),
        ("public.*", "hr.orders", False),
        ("public.[uv]sers.*", "public.vsers", True),
        ("public.[!u]sers.*", "public.users", False),
        ("public.users.", "public.users", False),
        ("PUBLIC.users.s*", "public.USERS", True),
    ],
)
def test_reaches(pattern: str, relation: str, expected: bool) -> None:
    assert ColumnGlob(pattern).reaches(relation) is expected


names = st.text(alphabet="ab.", min_size=1, max_size=4)


@given(st.text(alphabet="ab.*?", min_size=1, max_size=8), names, names)
def test_a_pattern_that_matches_a_column_reaches_its_relation(pattern: str, relation: str, column: str) -> None:
    glob = ColumnGlob(pattern)
    whole = f"{relation}.{column}"
    assert glob.matches(whole) == fnmatch.fnmatchcase(whole, pattern)
    if glob.matches(whole):
        assert glob.reaches(relation)


@pytest.mark.parametrize("pattern", ["", "  ", "ssn", "users.ssn", "users.s?n"])
def test_a_pattern_that_cannot_match_any_column_is_a_problem(pattern: str) -> None:
    assert problem(pattern) is not None


@pytest.mark.parametrize("pattern", ["public.users.ssn", "*.ssn", "*ssn*", "*"])
def test_a_pattern_that_can_match_is_none(pattern: str) -> None:
    assert problem(pattern) is None
