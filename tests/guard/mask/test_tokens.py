"""Tokens keep the format, are a permutation within it, and depend on the key."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from guard.mask.tokens import MAX_CHARS, tokenise, tokenise_digits

KEY = b"k" * 32
OTHER = b"o" * 32
values = st.text(alphabet=string.ascii_letters + string.digits + "-@. ", min_size=1, max_size=60)


def shape_of(text: str) -> str:
    return "".join("0" if c.isdigit() else "a" if c.islower() else "A" if c.isupper() else c for c in text)


@given(values)
def test_format_is_kept_and_equal_values_give_equal_tokens(text: str) -> None:
    token = tokenise(KEY, text)
    if not any(c.isalnum() for c in text):
        assert token is None
    else:
        assert token is not None
        assert shape_of(token) == shape_of(text)
        assert tokenise(KEY, text) == token


def test_every_value_of_a_format_has_its_own_token() -> None:
    values = [f"{i:03d}" for i in range(1000)]
    assert sorted(tokenise(KEY, v) or "" for v in values) == values
    letters = [a + b for a in string.ascii_lowercase for b in string.ascii_lowercase]
    assert sorted(tokenise(KEY, v) or "" for v in letters) == letters
    assert sorted(tokenise(KEY, c) or "" for c in string.digits) == list(string.digits)


def test_another_key_gives_other_tokens() -> None:
    assert tokenise(KEY, "4111-1111-1111-1111") != tokenise(OTHER, "4111-1111-1111-1111")


def test_a_neighbour_has_an_unrelated_token() -> None:
    # a digit-by-digit substitution would keep the common prefix
    one, two = tokenise(KEY, "4111-1111-1111-1111"), tokenise(KEY, "4111-1111-1111-1112")
    assert one is not None
    assert two is not None
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 12


@given(st.text(min_size=1, max_size=40))
def test_any_text_gives_a_text_of_its_length_or_nothing(text: str) -> None:
    token = tokenise(KEY, text)
    assert token is None or len(token) == len(text)
    if token is not None:
        assert token.isascii()


def test_texts_that_differ_outside_ascii_differ() -> None:
    assert tokenise(KEY, "Jürgen Müller") != tokenise(KEY, "Jörgen Möller")


def test_a_long_text_is_not_tokenised() -> None:
    assert tokenise(KEY, "a" * MAX_CHARS) is not None
    assert tokenise(KEY, "a" * (MAX_CHARS + 1)) is None


@given(st.integers(min_value=100, max_value=500), st.integers(min_value=500, max_value=999))
def test_digits_stay_in_range(n: int, high: int) -> None:
    token = tokenise_digits(KEY, str(n), 100, high)
    assert token is not None
    assert 100 <= int(token) <= high


def test_digits_are_a_permutation_of_their_range() -> None:
    assert sorted(int(tokenise_digits(KEY, str(n), 100, 999) or 0) for n in range(100, 1000)) == list(range(100, 1000))
