"""An answer masked as it arrives: the same as one masked whole, in any pieces."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.lists import AnswerMasker
from protocols.kubernetes.requests import resolve
from protocols.kubernetes.secrets import LAST_APPLIED, MaskedObjects, mask_answer

LIST = resolve("GET", "/api/v1/namespaces/shop/secrets")
VALUE = "hunter2-and-more"
ENCODED = base64.b64encode(VALUE.encode()).decode()
WHAT = MaskedObjects()
SECRET = {
    "kind": "Secret",
    "metadata": {"name": "db", "annotations": {LAST_APPLIED: json.dumps({"data": {"p": ENCODED}})}},
    "data": {"p": ENCODED, "empty": ""},
    "stringData": {"q": VALUE},
}
METADATA = {"resourceVersion": "12", "continue": "abc", "remainingItemCount": 12}


def masked(text: str | bytes, *sizes: int, what: MaskedObjects = WHAT, max_value: int = 1 << 20) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    masker = AnswerMasker(LIST, what, max_value)
    out, at = b"", 0
    for size in sizes:
        out += masker.feed(data[at : at + size])
        at += size
    return out + masker.feed(data[at:]) + masker.flush()


@pytest.mark.parametrize(
    "document",
    [
        SECRET,
        {"kind": "SecretList", "metadata": METADATA, "items": [SECRET, SECRET]},
        {"items": [SECRET], "kind": "SecretList"},
        {"kind": "SecretList", "items": []},
        {"kind": "SecretList", "items": None},
        {"kind": "Table", "columnDefinitions": [{"name": "Name"}], "rows": [{"cells": ["db"], "object": SECRET}]},
        {"kind": "Table", "rows": [{"cells": ["db"], "object": None}, {"cells": []}]},
        {"kind": "Status", "status": "Failure", "message": "no", "code": 404},
        {"type": "ADDED", "object": SECRET},
        {"kind": "Secret", "data": [VALUE], "stringData": VALUE},
        {},
    ],
    ids=lambda d: str(d.get("kind", "other")),
)
@pytest.mark.parametrize("indent", [None, 2])
def test_it_is_what_masking_the_whole_gives(document: Any, indent: int | None) -> None:
    text = json.dumps(document, indent=indent) + "\n"
    whole = json.loads(mask_answer(text.encode(), "application/json", LIST, WHAT).body)
    for size in (1, 7, 64, len(text)):
        shown = masked(text, *([size] * (len(text) // size)))
        assert json.loads(shown) == whole
        assert VALUE.encode() not in shown
        assert ENCODED.encode() not in shown


def test_what_is_not_masked_keeps_its_bytes() -> None:
    text = ' {"kind" : "SecretList",\n "metadata":{"x":1.50, "y":"\\u00e9 é"}, "items":[ {"a":{"name":"b"}} , {}]}\n '
    assert masked(text, 5, 9, 30) == text.encode()


def test_an_element_goes_on_before_the_next_has_come() -> None:
    masker = AnswerMasker(LIST, WHAT)
    first = masker.feed(b'{"kind":"SecretList","items":[' + json.dumps(SECRET).encode() + b",")
    assert b'"name":"db"' in first
    assert ENCODED.encode() not in first
    assert masker.buffered == 0


def test_a_list_is_as_long_as_it_likes_and_memory_does_not_grow() -> None:
    masker = AnswerMasker(LIST, WHAT, max_value=65_536)
    element = json.dumps(SECRET).encode()
    shown = len(masker.feed(b'{"items":['))
    for number in range(2000):
        shown += len(masker.feed(b"," * bool(number) + element))
        assert masker.buffered < 2 * len(element)
    assert masker.feed(b"]}") + masker.flush()
    assert shown > 400_000


@pytest.mark.parametrize(
    "text",
    [
        "[]", "1", '"data"', "nul", '{"items":[1]}', '{"items":{"a":1}}', '{"items":"x"}', '{"rows":[[]]}',
        '{"data":{},"data":{}}', '{"\\u0064ata":{},"data":{}}', '{"items":[{"data":{"a":"1","a":"2"}}]}',
        '{"data":{"a":"x"}', '{"items":[{}', '{"items":[{}]', "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}', '{"a" 1}',
        '{"items":[{},]}', '{"items":[{}}', '{"a":1}{"data":{}}', '{"a":1} x', '{"a":NaN}', '{"a":"\\ud800"}',
        '{"a":' + "[" * 200 + "]" * 200 + "}", '{"a":' + "[" * 100_000 + "}", "{'a':1}", '{1:2}', '{"a":tru}',
        "\x00{}", '\ufeff{"data":{}}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_withheld_and_nothing_follows(text: str) -> None:
    masker = AnswerMasker(LIST, WHAT)
    with pytest.raises(Withheld):
        _ = masker.feed(text.encode()) + masker.flush()
    with pytest.raises(Withheld):
        masker.feed(b'{"a":1}')
    with pytest.raises(Withheld):
        masker.flush()


def test_bytes_that_are_no_text_are_withheld() -> None:
    for raw in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc3'):
        with pytest.raises(Withheld):
            masked(raw)


def test_a_number_that_goes_on_in_the_next_piece_is_one() -> None:
    assert masked('{"code": 404 }', 10, 1, 1) == b'{"code": 404 }'
    assert masked('{"code":4.0e2}', 9, 1, 1, 1, 1) == b'{"code":4.0e2}'


def test_a_value_that_is_too_long_is_withheld() -> None:
    masker = AnswerMasker(LIST, WHAT, max_value=1000)
    masker.feed(b'{"a":"')
    for _ in range(9):
        masker.feed(b"x" * 100)
    with pytest.raises(Withheld, match="too long"):
        masker.feed(b"x" * 200)


def test_a_mask_that_fails_shows_nothing() -> None:
    def fails(_: bytes) -> bytes:
        raise RuntimeError(VALUE)

    with pytest.raises(Withheld) as caught:
        masked(json.dumps({"items": [SECRET]}), what=MaskedObjects(replace=fails))
    assert VALUE not in str(caught.value)
    assert caught.value.__suppress_context__


def test_one_of_a_list_is_shown_where_its_name_is_granted() -> None:
    other = {"metadata": {"name": "other", "namespace": "shop"}, "data": {"a": ENCODED}}
    granted = MaskedObjects(shows=lambda namespace, name: (namespace, name) == ("shop", "other"))
    shown = json.loads(masked(json.dumps({"items": [SECRET, other]}), what=granted))
    assert ENCODED not in json.dumps(shown["items"][0])
    assert shown["items"][1] == other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "items", "rows", "object", "data", "stringData", "metadata", "annotations", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON, st.lists(st.integers(1, 40), max_size=8))
def test_any_document_in_any_pieces_shows_no_more_than_the_whole_masked(document: Any, sizes: list[int]) -> None:
    text = json.dumps(document, ensure_ascii=False)
    try:
        shown = json.loads(masked(text, *sizes))
    except Withheld:
        return
    assert isinstance(document, dict)
    assert shown == json.loads(masked(text))
    for name in ("data", "stringData"):
        values = document.get(name)
        for key, value in values.items() if isinstance(values, dict) else ():
            assert shown[name][key] != value or value in (None, "")


@given(st.binary(max_size=60))
def test_any_bytes_are_masked_or_withheld(data: bytes) -> None:
    with contextlib.suppress(Withheld):
        masked(b'{"data":{"k":"' + data)
