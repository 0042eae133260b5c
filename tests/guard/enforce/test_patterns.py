"""Patterns on names, and the index that answers for many rules at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.enforce.patterns import (
    NameIndex,
    check_column,
    check_glob,
    check_relation,
    could_match_under,
    expand_effects,
    matches,
    touches,
)
from protocols.contract import Effect

PATTERN = st.text("ab.*?", min_size=1, max_size=8)
NAME = st.text("ab.", min_size=1, max_size=8)


@pytest.mark.parametrize("pattern", ["", " a", "a\n", "a[b", "a[!", "[]", "{a,b}.*"])
def test_a_pattern_that_cannot_mean_what_it_says_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_glob(pattern)


def test_a_name_without_schema_is_refused_because_it_would_never_match() -> None:
    with pytest.raises(ValueError, match=r"write `public\.orders`"):
        check_relation("orders")
    with pytest.raises(ValueError, match=r"`\*\.email` for any table"):
        check_column("customers.email")
    assert check_relation("*.orders") == "*.orders"
    assert check_column("*.email") == "*.email"


def test_effects_families_and_everything() -> None:
    assert expand_effects("tx") == {Effect.TX}
    assert expand_effects("ddl.*") == {Effect.DDL_CREATE, Effect.DDL_ALTER, Effect.DDL_DROP}
    assert expand_effects("*") == frozenset(Effect) - {Effect.UNKNOWN}


@pytest.mark.parametrize("pattern", ["data.selct", "dd.*", "tx.*", "unknown.*", "d*", "", "DATA.SELECT", "data"])
def test_an_effect_that_does_not_exist_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no effect"):
        expand_effects(pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "answer"),
    [
        ("public.users.ssn", "public.users.*", True),
        ("*.ssn", "public.users.*", True),
        ("public.u[sx]ers.s?n", "public.users.*", True),
        ("public.users", "public.users.*", False),
        ("public.orders.ssn", "public.users.*", False),
        ("public.users.*", "public.users.*", True),
        ("Public.Users.SSN", "public.users.ssn", True),  # another case must not silently miss
        ("public.users.ssn", "*", True),
        ("public.users.ssn", "public.users", False),
    ],
)
def test_all_columns_of_a_table_touch_each_pattern_beneath_it(pattern: str, name: str, answer: bool) -> None:
    assert touches(pattern, name) is answer
    assert bool(NameIndex([(0, [pattern])], granting=False).rules(name)) is answer


def test_a_grant_is_never_wider_than_it_is_written() -> None:
    index = NameIndex([(0, ["public.a*"]), (1, ["Public.users"]), (2, ["*"])], granting=True)
    assert index.rules("public.*") == 0b100
    assert index.rules("*") == 0b100
    assert index.rules("public.users") == 0b100
    assert index.rules("Public.users") == 0b110


@given(PATTERN, st.text("ab.", max_size=6))
def test_could_match_under_finds_every_name_that_exists(pattern: str, prefix: str) -> None:
    suffixes = ["a", "b", "ab", "ba", "aab", "bab", "a.b", "..", "aaaaaaaa"]
    if any(matches(pattern, prefix + suffix) for suffix in suffixes):
        assert could_match_under(pattern, prefix)


@given(st.lists(st.lists(PATTERN, max_size=3), max_size=6), st.lists(NAME, max_size=5), st.booleans())
def test_the_index_says_what_each_pattern_says(rules: list[list[str]], names: list[str], granting: bool) -> None:
    index = NameIndex(enumerate(rules), granting=granting)
    for name in [*names, *(f"{name}.*" for name in names), *names]:  # twice: from the cache, too
        fits = matches if granting else touches
        wanted = {n for n, patterns in enumerate(rules) if not patterns or any(fits(p, name) for p in patterns)}
        assert {n for n in range(len(rules)) if index.rules(name) >> n & 1} == wanted


def test_the_cache_is_bounded() -> None:
    index = NameIndex([(0, ["a.*"])], granting=False)
    for number in range(10_000):
        assert index.rules(f"a.t{number}") == 1
    assert len(index._found) <= 4096
