"""Bodies that are read, and those that two readers could take differently."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes.errors import Unreadable
from protocols.kubernetes.objects import MAX_BODY, MAX_YAML, media_type, read, read_json, read_yaml

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(_JSON)
def test_json_is_read_as_it_is(value: Any) -> None:
    assert read_json(json.dumps(value).encode()) == value
    assert read(json.dumps(value, ensure_ascii=False).encode(), "application/json; charset=utf-8") == value


@given(st.binary(max_size=200))
def test_only_unreadable_is_raised(data: bytes) -> None:
    for kind in ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "", "text/plain"):
        try:
            read(data, kind)
        except Unreadable:
            continue


@pytest.mark.parametrize(
    "text",
    [b'{"a": 1, "a": 2}', b'{"x": {"a": 1, "\\u0061": 2}}', b"[NaN]", b"[Infinity]", b'"\\ud800"', b"{} {}", b"{}x",
     b"\xef\xbb\xbf{}", b'{"a": "\xff"}', b"", b"[" * 2000 + b"]" * 2000, b"[" * 101 + b"]" * 101, b"'a'"],
    ids=str,
)  # fmt: skip
def test_json_that_two_readers_could_differ_on(text: bytes) -> None:
    with pytest.raises(Unreadable):
        read_json(text[:5000])


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: &x 1\nb: *x", "a: !!python/object:os.system x", "a: !secret x", "a: 1\n---\nb: 2",
     "%YAML 1.1\n---\na: 1", "? [a]\n: b", "? 2024-01-01\n: b", "<<: {a: 1}\nb: 2", "a: [",
     "\x00", "a: 2024-99-99x: y: z", "1: a\n'1': b", "a: " + "[" * 200],
)  # fmt: skip
def test_yaml_that_two_readers_could_differ_on(text: str) -> None:
    with pytest.raises(Unreadable):
        read_yaml(text.encode())


def test_yaml_is_read() -> None:
    text = b"kind: Pod\nspec:\n  containers: [{name: a, image: 'b:1'}]\n  when: 2024-01-01\n  on: yes\n  1: x\n"
    assert read_yaml(text) == {
        "kind": "Pod",
        "spec": {"containers": [{"name": "a", "image": "b:1"}], "when": "2024-01-01", "on": "yes", "1": "x"},
    }
    assert read_yaml(b'{"a": [1, true]}') == {"a": [1, True]}
    assert read_yaml(b"{a: b}") == {"a": "b"}


def test_sizes() -> None:
    with pytest.raises(Unreadable, match="larger"):
        read(b" " * (MAX_BODY + 1), "application/json")
    with pytest.raises(Unreadable, match="more yaml"):
        read(b"a: " + b"x" * MAX_YAML, "application/yaml")


def test_media_type() -> None:
    assert media_type("Application/JSON;as=Table; charset=UTF-8") == "application/json"
    with pytest.raises(Unreadable, match="send json"):
        read(b"\xa0", "application/cbor")
