"""Text and markup: contents masked whatever the pieces, references resolved, everything else unchanged."""

from __future__ import annotations

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guard.detect.samples import FOUND, NOT_FOUND
from tests.guard.mask.bodies.shared import NULL, TOKEN, any_step, contents, masked
from tests.support.examples import examples

CASES = [
    ("text/plain", b"mail bob@example.com\nnow", b"mail [masked]\nnow"),
    ("text/plain; charset=ISO-8859-1", b"\xe9 bob@example.com \xe9", b"\xe9 [masked] \xe9"),
    ("text/event-stream", b"data: bob@example.com\n\n", b"data: [masked]\n\n"),
    ("text/html", b"<p title='bob@example.com'>a&amp;b</p>", b"<p title='[masked]'>a&amp;b</p>"),
    ("text/html", b'<a href="mailto:bob&#64;example.com">x</a>', b'<a href="mailto:[masked]">x</a>'),
    ("text/html", b"bob&#x40;example&period;com &lt;", b"[masked] &lt;"),
    ("text/html", b"bob&commat;example.com", b"[masked]"),
    ("text/html", b"<script>var u='bob@example.com'</script>", b"<script>var u='[masked]'</script>"),
    (
        "text/html",
        b"<style>/* bob@example.com */</style><!-- 4111111111111111 -->",
        b"<style>/* [masked] */</style><!-- [masked] -->",
    ),
    (
        "text/html",
        b"4111&nbsp;4111 4111&#32;1111&#32;1111&#32;1111 &copy x & y",
        b"4111&nbsp;4111 [masked] &copy x & y",
    ),
    ("application/xml", b"<password>hunter2</password>", b"<password>[masked]</password>"),
    ("image/svg+xml", b"<text>bob@example.com</text>", b"<text>[masked]</text>"),
    ("text/html", b"", b""),
]


@pytest.mark.parametrize(("kind", "body", "expected"), CASES)
def test_contents(kind: str, body: bytes, expected: bytes) -> None:
    assert any_step(kind, body, contents()) == expected


def test_a_mask_that_makes_markup_is_escaped() -> None:
    from tests.guard.mask.bodies.shared import mask

    assert masked("text/html", b"a bob@example.com", contents(by=mask(text="<b>&"))) == b"a &lt;b&gt;&amp;"
    assert masked("text/plain", b"a bob@example.com", contents(by=NULL)) == b"a [withheld]"
    token = masked("text/plain", b"4111111111111111", contents(by=TOKEN))
    assert len(token) == 16
    assert token != b"4111111111111111"


@pytest.mark.parametrize("kind", ["text/plain", "text/html"])
@pytest.mark.parametrize("data", [data for data, _ in FOUND] + NOT_FOUND, ids=lambda v: repr(v)[:40])
def test_every_split_of_every_sample(kind: str, data: bytes) -> None:
    whole = masked(kind, data, contents())
    for step in (1, 2, 3, 7, 11, 50):
        assert masked(kind, data, contents(), step) == whole


PARTS = [data for data, _ in FOUND[:30]] + [
    b"&amp;",
    b"&#64;",
    b"&",
    b"&#",
    b"&commat",
    b" <b> ",
    b"x &lt; y",
    b"caf\xc3\xa9 ",
]


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.integers(1, 30))
@settings(max_examples=examples(60))
def test_markup_in_any_pieces(parts: list[bytes], step: int) -> None:
    body = b" ".join(parts)
    assert masked("text/html", body, contents(), step) == masked("text/html", body, contents())


@given(st.sampled_from([b"bob@example.com", b"4111111111111111", b"DE89370400440532013000"]), st.data())
@settings(max_examples=examples(40))
def test_a_value_with_any_of_its_characters_as_references(value: bytes, data: st.DataObject) -> None:
    text = "".join(data.draw(st.sampled_from([chr(b), f"&#{b};", f"&#x{b:x};", f"&#{b:04d};"])) for b in value)
    out = masked("text/html", b"<i> " + text.encode() + b" </i>", contents(), data.draw(st.integers(1, 12)))
    assert value.decode() not in html.unescape(out.decode())
    assert out == b"<i> [masked] </i>"
