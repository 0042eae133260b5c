"""A text that is known by its one number has the shape of the text that it is known by, and is shown as it is."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.mysql.statements.text import shape_key as mysql_shape
from protocols.numbered import Numbered
from protocols.postgres.statements.text import shape_key as postgres_shape
from tests.support.examples import examples

type Shape = Callable[[bytes], bytes | None]

SHAPES = pytest.mark.parametrize("shape", [postgres_shape, mysql_shape], ids=["postgres", "mysql"])
PIECES = st.sampled_from(
    [
        *(b"select ", b"SELECT a FROM t WHERE id = ", b" and ", b" or b=", b"a1", b"1a", b"_1", b"t.", b".5", b"0x1f"),
        *(b"'", b"''", b"'1'", b'"', b"`", b"1e", b"e5", b"--", b"-- ", b"/*", b"*/", b"#", b"-", b"+", b"(", b")"),
        *(b",", b"$1", b"?", b"@a", b"\\", b";", b" ", b"\n", b"\xc2\xb5", b"limit ", b" as ", b"::", b"/*!", b"N"),
    ]
)
NUMBERS = st.one_of(
    st.integers(0, 10**10).map(lambda n: b"%d" % n), st.sampled_from([b"007", b"0", b"1.5", b"999999999"])
)
TEXTS = st.lists(st.one_of(PIECES, NUMBERS), max_size=6).map(lambda parts: b"SELECT " + b"".join(parts))


@SHAPES
@settings(max_examples=examples(600), deadline=None)
@given(text=TEXTS, other=TEXTS, number=NUMBERS)
def test_what_is_found_is_alike(shape: Shape, text: bytes, other: bytes, number: bytes) -> None:
    numbered: Numbered[bytes] = Numbered()
    if shape(text) is None:
        return
    numbered.remember(text, text, shape)
    candidates = [other, text, number.join(text.split(b"1"))]
    candidates += [text[:at] + number + text[at:] for at in range(len(text) + 1)]
    candidates += [text[:at] + number + text[at + 1 :] for at in range(len(text))]
    for one in candidates:
        found = numbered.find(one)
        if found is not None:
            assert shape(one) == shape(found[0]) is not None
            assert found[1] == orjson.dumps(one.decode())


@SHAPES
def test_another_number_in_the_same_words_is_found(shape: Shape) -> None:
    numbered: Numbered[str] = Numbered()
    numbered.remember(b"SELECT a FROM t WHERE id = 5 AND b = c", "known", shape)
    for number in (b"0", b"7", b"123456789"):
        text = b"SELECT a FROM t WHERE id = %b AND b = c" % number
        assert numbered.find(text) == ("known", orjson.dumps(text.decode()))
    for number in (b"", b"1234567890", b"-1", b"1.5", b"x", b"1 OR 1", b"'1'", b"1\xc2\xb2", b"\xd9\xa3"):
        assert numbered.find(b"SELECT a FROM t WHERE id = %b AND b = c" % number) is None


@SHAPES
@pytest.mark.parametrize(
    "text",
    [
        b"SELECT a FROM t",
        b"SELECT a FROM t WHERE id = 5 LIMIT 1",
        b"SELECT a FROM t WHERE id = '5'",
        b"SELECT a1 FROM t",
        b"SELECT 1.5",
        b"SELECT -5",
        b'SELECT "a" FROM t WHERE id = 5',
        b"SELECT t.5",
        b"SELECT 1234567890",
    ],
)
def test_what_has_no_single_plain_number_is_not_remembered(shape: Shape, text: bytes) -> None:
    numbered: Numbered[str] = Numbered()
    numbered.remember(text, "known", shape)
    assert numbered.find(text) is None


def test_a_number_that_changes_the_shape_is_not_remembered() -> None:
    numbered: Numbered[str] = Numbered()
    numbered.remember(b"SELECT 5", "known", lambda text: text)
    assert numbered.find(b"SELECT 5") is None


def test_only_so_many_are_kept_and_all_go_at_once() -> None:
    numbered: Numbered[int] = Numbered()
    for n in range(100):
        numbered.remember(b"SELECT a%d FROM t LIMIT 5" % n, n, postgres_shape)
    found = [n for n in range(100) if numbered.find(b"SELECT a%d FROM t LIMIT 6" % n)]
    assert found == list(range(16))
    numbered.clear()
    assert numbered.find(b"SELECT a1 FROM t LIMIT 6") is None


def test_where_many_find_no_room_others_get_it() -> None:
    numbered: Numbered[int] = Numbered()
    for n in range(1020):
        numbered.remember(b"SELECT a%d FROM t LIMIT 5" % n, n, postgres_shape)
    assert numbered.find(b"SELECT a1019 FROM t LIMIT 6")
    assert not numbered.find(b"SELECT a1 FROM t LIMIT 6")
