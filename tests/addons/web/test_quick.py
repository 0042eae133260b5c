"""mitmproxy's messages as we make them answer are mitmproxy's own: every shortcut beside the long way."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import MutableMapping
from typing import Any, cast

import pytest
from hyperframe import frame
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.coretypes.multidict import _MultiDict

from addons.web.quick import install

install()

_NAMES = st.sampled_from([b"Host", b"host", b"HOST", b"X-A", b"x-a", b"Cookie", b"\xff-odd", b""])
_FIELDS = st.lists(st.tuples(_NAMES, st.binary(max_size=6)), max_size=8)
_ASKED = st.one_of(st.text(max_size=6), st.sampled_from(["host", "Host", "X-A", "cookie", "none"]), _NAMES)


class Slow(http.Headers):
    """With the methods that mitmproxy gave it."""

    def get_all(self, name: Any) -> list[str]:
        key = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
        return [x.decode("utf-8", "surrogateescape") for x in cast(Any, _MultiDict).get_all(self, key)]

    get = cast(Any, MutableMapping.get)
    __contains__ = cast(Any, MutableMapping.__contains__)


@given(_FIELDS, _ASKED)
def test_headers_answer_as_before(fields: list[tuple[bytes, bytes]], name: str | bytes) -> None:
    quick, slow = http.Headers(fields), Slow(fields)
    assert quick.get_all(name) == slow.get_all(name)
    assert quick.get(name) == slow.get(name)
    assert quick.get(name, "x") == slow.get(name, "x")
    assert (name in quick) == (name in slow)
    if name in slow:
        assert quick[name] == slow[name]
    else:
        with pytest.raises(KeyError):
            quick[name]


@pytest.mark.parametrize("name", [1, 1.5, ()])
def test_what_is_no_name_is_refused_as_before(name: Any) -> None:
    headers = http.Headers([(b"a", b"b")])
    for ask in (headers.get_all, headers.get, headers.__contains__):
        with pytest.raises(TypeError, match="Expected str or bytes"):
            ask(name)


def made(**other: Any) -> http.ResponseData:
    facts: dict[str, Any] = {"http_version": b"HTTP/1.1", "status_code": 200, "reason": b"OK"}
    facts |= {"headers": http.Headers(), "content": None, "trailers": None, "timestamp_start": 1.0}
    return http.ResponseData(**facts | {"timestamp_end": None} | other)


@pytest.mark.parametrize(
    ("field", "value"),
    [("content", "text"), ("trailers", {}), ("timestamp_end", "now"), ("status_code", "200"), ("reason", None)],
)
def test_a_message_with_a_field_of_another_type_is_refused_as_before(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"for {field}, but got"):
        made(**{field: value})


def test_a_message_may_have_all_that_it_may_have() -> None:
    full = made(content=b"x", trailers=http.Headers(), timestamp_start=1, timestamp_end=2)
    assert (full.content, full.timestamp_end) == (b"x", 2)


def test_a_message_leaves_nothing_for_the_collector() -> None:
    def left() -> int:
        gc.collect()
        for _ in range(20):
            made()
        return gc.collect()

    gc.disable()
    try:
        assert min(left() for _ in range(5)) == 0  # threads of other tests may leave something now and then
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "data", [b"", None, b"x", bytes(range(10)), bytes(range(11)), b"y" * 100_000, memoryview(b"z" * 30)]
)
def test_a_frame_is_shown_as_before(data: bytes | None) -> None:
    spec = importlib.util.find_spec("hyperframe.frame")
    assert spec is not None
    original = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(original)
    assert original._raw_data_repr is not frame._raw_data_repr
    assert frame._raw_data_repr(data) == original._raw_data_repr(data)
