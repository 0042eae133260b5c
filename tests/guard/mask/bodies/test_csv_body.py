"""CSV."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.mask.bodies import BodyError, Limits
from tests.guard.mask.bodies.shared import any_step, both, contents, fields, masked
from tests.support.examples import examples

CSV = "text/csv; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"id,email\n1,x\n2,\n", b"id,email\n1,[masked]\n2,\n"),
        (b"id,Email,z\r\n1,x,3\r\n", b"id,Email,z\r\n1,[masked],3\r\n"),
        (b'"id","email"\n"1","a ""b"", c"\n', b'"id","email"\n"1","[masked]"\n'),
        (b'id,email,z\n1,"a\nb",3', b'id,email,z\n1,"[masked]",3'),
        (b"id;email\n1,5;x\n", b"id;email\n1,5;[masked]\n"),
        (b"\xef\xbb\xbfemail,id\nx,1\n", b"\xef\xbb\xbfemail,id\n[masked],1\n"),
        (b"id,email\n1\n\n", b"id,email\n1\n\n"),
        (b"email\nx\ny", b"email\n[masked]\n[masked]"),
        (b"", b""),
    ],
)
def test_columns(body: bytes, expected: bytes) -> None:
    assert any_step(CSV, body, fields("email")) == expected


def test_tabs() -> None:
    assert (
        any_step("text/tab-separated-values", b"a,b\temail\n1,2\tx\n", fields("email"))
        == b"a,b\temail\n1,2\t[masked]\n"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"id,note\n1,to bob@example.com\n2,x\n", b"id,note\n1,to [masked]\n2,x\n"),
        (b'id,note\n1,"4111 1111 1111 1111, ""x"""\n', b'id,note\n1,"[masked], ""x"""\n'),
        (b"id,password\n1,hunter2\n", b"id,password\n1,[masked]\n"),
        (b"bob@example.com,1\n2,3\n", b"[masked],1\n2,3\n"),
        (b"id,ssn\n1,123456789\n", b"id,ssn\n1,[masked]\n"),
    ],
)
def test_contents(body: bytes, expected: bytes) -> None:
    assert any_step(CSV, body, contents()) == expected


@pytest.mark.parametrize(
    "body",
    [
        b'a,email\n1,x"y\n',
        b'a,email\n1,"x"y\n',
        b"a,email\n1,x\ry\n",
        b"a,email\n1,2,3\n",
        b'a,email\n1,"x',
        b'a,email\n1,"x\n',
    ],
)
def test_what_readers_take_differently_is_an_error(body: bytes) -> None:
    for step in (1, 100):
        with pytest.raises(BodyError):
            masked(CSV, body, both("email"), step)


def test_limits() -> None:
    with pytest.raises(BodyError, match="more than 100 bytes"):
        masked(CSV, b"a,email\n" + b"x" * 500, fields("email"), step=10, limits=Limits(value=100))
    with pytest.raises(BodyError, match="columns"):
        masked(CSV, b"a," * 5000 + b"\n", fields("email"))


CELLS = st.text(alphabet='ab ,;"\n\u00e9', max_size=8)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 30))
@settings(max_examples=examples(60))
def test_another_reader_sees_the_same_but_for_the_column(rows: list[list[str]], step: int) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([["id", "email", "note"], *rows])
    out = masked(CSV, text.getvalue().encode(), fields("email"), step)
    expected = [["id", "email", "note"], *[[a, "[masked]" if b else "", c] for a, b, c in rows]]
    assert list(csv.reader(io.StringIO(out.decode(), newline=""))) == expected
