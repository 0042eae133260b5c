"""The one form of a request's target that is judged: everything else is refused, never repaired.

Two readers of one path must agree. The API server decodes percent-encodings and trims slashes before it resolves, other
proxies clean `..`; a target in which any two of them could differ does not pass.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from protocols.kubernetes.errors import RequestRefused

MAX_TARGET = 16_384  # bytes; an exec with a long command line fits, and the API server takes no more in a header
MAX_PARAMETERS = 512

# RFC 3986, section 3.3: what stands for itself in a path segment. Encoded, each of these would be a second spelling.
_PLAIN = frozenset((string.ascii_letters + string.digits + "-._~" + "$&+,;=:@").encode())
# `!'()*` may stand for themselves or be encoded: Go's client encodes them, others do not, and no reader splits at them
_SEGMENT = re.compile(rb"(?:[A-Za-z0-9\-._~$&+,;=:@!'()*]|%[0-9A-F]{2})*\Z")
_QUERY = re.compile(rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*\Z")
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Target:
    """A target that has one meaning: decoded path segments, and the query's parameters in order."""

    path: str  # decoded; starts with `/`
    segments: tuple[str, ...]
    trailing: bool  # the path ends in `/` (only behind a `proxy` subresource does the API server tell them apart)
    query: tuple[tuple[str, str], ...]

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.query if key == name)


def parse(target: str) -> Target:
    """Reads an origin-form request target. Raises `RequestRefused` for one that is not canonical."""
    if len(target) > MAX_TARGET:
        raise RequestRefused("the request target is too long", 414, "RequestURITooLong")
    try:
        raw = target.encode("ascii")
    except UnicodeEncodeError:
        raise RequestRefused("the request target is not ascii: percent-encode it") from None
    if not raw.startswith(b"/"):
        raise RequestRefused("the request target must be a path: absolute and authority forms are not taken")
    if b"#" in raw:
        raise RequestRefused("the request target holds a fragment")
    path, _, query = raw.partition(b"?")
    segments, trailing = _segments(path)
    return Target("/" + "/".join(segments) + ("/" * trailing), segments, trailing, _parameters(query))


def _segments(path: bytes) -> tuple[tuple[str, ...], bool]:
    if path == b"/":
        return (), False
    parts = path[1:].split(b"/")
    trailing = not parts[-1]
    if trailing:
        parts.pop()
    return tuple(map(_segment, parts)), trailing


def _segment(raw: bytes) -> str:
    if not raw:
        raise RequestRefused("the path holds an empty segment (`//`)")
    if not _SEGMENT.match(raw):
        raise RequestRefused("the path holds a character or an escape that is not in canonical form")
    for found in _ESCAPE.finditer(raw):
        code = int(found[1], 16)
        if code in _PLAIN or code in b"/\\%" or code < 0x20 or code == 0x7F:
            raise RequestRefused(f"the path holds `%{found[1].decode()}`, which is not canonical")
    try:
        segment = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RequestRefused("the path is not utf-8") from None
    if segment in (".", ".."):
        raise RequestRefused("the path holds `.` or `..`")
    if not segment.isprintable():
        raise RequestRefused("the path holds a character that cannot be shown")
    return segment


def _parameters(query: bytes) -> tuple[tuple[str, str], ...]:
    """As Go's `url.ParseQuery`, except that what it would drop silently is refused."""
    if not query:
        return ()
    if not _QUERY.match(query):
        raise RequestRefused("the query holds a character or an escape that is not valid")
    if b";" in query:
        raise RequestRefused("the query holds `;`, which some readers take for a separator: encode it as `%3B`")
    pairs = query.split(b"&")
    if len(pairs) > MAX_PARAMETERS:
        raise RequestRefused("the query holds too many parameters")
    return tuple((_decoded(key), _decoded(value)) for key, _, value in (pair.partition(b"=") for pair in pairs if pair))


def _decoded(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise RequestRefused("the query is not utf-8") from None
