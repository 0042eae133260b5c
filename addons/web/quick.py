"""What mitmproxy does for each message in a roundabout way, done directly: the same results, which tests compare.

`RequestData` and `ResponseData` check the types of their fields when they are made. For each optional field that check
raises and catches exceptions that keep their frames, and those the request, alive until the collector comes: a dozen
for each request and its answer, and a pause of the event loop every hundred requests. Looking up a field of `Headers`
goes through five layers of abstract classes, and an exception where it is not there.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, cast

from hyperframe import frame
from mitmproxy import http
from mitmproxy.utils.strutils import always_bytes

_SHOWN = 10  # bytes of a frame
_checks: dict[type, tuple[tuple[str, tuple[type, ...]], ...]] = {}
_slow_check = cast(Any, http.MessageData).__post_init__


def _fields(of: type) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """Each field with the types that it may have."""
    found = []
    for field in dataclasses.fields(of):
        kind: Any = field.type
        union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        found.append((field.name, typing.get_args(kind) if union else (kind,)))
    return tuple(found)


def _check(self: Any) -> None:
    """Only what does not fit at first sight goes the long way, which says what is wrong."""
    own = type(self)
    checks = _checks.get(own)
    if checks is None:
        checks = _checks[own] = _fields(own)
    for name, kinds in checks:
        if not isinstance(getattr(self, name), kinds):
            _slow_check(self)
            return


def _get_all(self: http.Headers, name: str | bytes) -> list[str]:
    key = always_bytes(name, "utf-8", "surrogateescape").lower()
    return [value.decode("utf-8", "surrogateescape") for field, value in self.fields if field.lower() == key]


def _get(self: http.Headers, name: str | bytes, default: Any = None) -> Any:
    found = _get_all(self, name)
    if not found:
        return default
    return found[0] if len(found) == 1 else ", ".join(found)


def _contains(self: http.Headers, name: str | bytes) -> bool:
    key = always_bytes(name, "utf-8", "surrogateescape").lower()
    return any(field.lower() == key for field, _ in self.fields)


def _data_shown(data: bytes | None) -> str:
    if not data:
        return "None"
    return f"<hex:{bytes(data[:_SHOWN]).hex()}{'...' if len(data) > _SHOWN else ''}>"


def install() -> None:
    """For the whole process. Safe to call twice."""
    # h2 makes a text of each frame, for a log that nobody keeps, and of all its data for the first ten bytes
    cast(Any, frame)._raw_data_repr = _data_shown
    message, headers = cast(Any, http.MessageData), cast(Any, http.Headers)
    message.__post_init__ = _check
    headers.get_all, headers.get, headers.__contains__ = _get_all, _get, _contains
