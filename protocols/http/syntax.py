"""What no request may look like, whatever its rules: RFC 9110 section 5 and RFC 9112 sections 3 and 6, strictly.

HTTP/2 carries method, path, names and values as bytes that HTTP/1 would take for the end of a line: what goes from one
to the other must be nothing else than what it was taken for.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from protocols.http.targets import BadTarget

MAX_HEADERS = 500
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_TARGET = re.compile(rb"[\x21-\x7e]+\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_ECHOES = (b"TRACE", b"TRACK")
_ONCE = (b"host", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"upgrade")


def check(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> None:
    """`fields` as they came. Raises BadTarget."""
    if not _TOKEN.match(method) or len(method) > 64:
        raise BadTarget("the method is no word")
    if method.upper() in _ECHOES:
        raise BadTarget("a method whose answer shows the request, with what the gateway adds to it")
    if not _TARGET.match(target):
        raise BadTarget("characters in the request target that must be percent-encoded")
    seen: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        count += 1
        if not _TOKEN.match(name):
            raise BadTarget("a header whose name is no word")
        if not _VALUE.match(value):
            raise BadTarget("control characters in a header")
        key = name.lower()
        if key in _ONCE and key in seen:
            raise BadTarget(f"more than one {key.decode().title()} header")
        seen[key] = value
    if count > MAX_HEADERS:
        raise BadTarget(f"more than {MAX_HEADERS} headers")
    if b"content-length" in seen:
        if b"transfer-encoding" in seen:
            raise BadTarget("both Content-Length and Transfer-Encoding")
        if not _LENGTH.match(seen[b"content-length"]):
            raise BadTarget("a Content-Length that is no number")
    if seen.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise BadTarget("a Transfer-Encoding other than chunked")
