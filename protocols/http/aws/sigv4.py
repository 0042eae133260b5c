"""AWS Signature Version 4, in headers. Source: AWS IAM User Guide, "Create a signed AWS API request".

`written` gives a request target one spelling before it is judged; the same spelling is signed and sent. So what a rule
has seen, what the signature covers and what the upstream reads cannot differ.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

from protocols.http.aws.keys import Keys
from protocols.http.targets import BadTarget

Field = tuple[bytes, bytes]

UNSIGNED = "UNSIGNED-PAYLOAD"
# these sign a path as it is; all others normalise it and encode it twice
AS_IT_IS = frozenset({"s3", "s3-outposts", "s3-object-lambda", "s3express"})

_ALGORITHM = "AWS4-HMAC-SHA256"
# written by `Signer.sign` and by nobody else
OWN = frozenset({b"authorization", b"x-amz-date", b"x-amz-content-sha256", b"x-amz-security-token"})
# about one connection, or changed by what stands between two servers: a signature over them would break
_UNSIGNED = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"content-length"}
    | {b"accept-encoding", b"user-agent", b"cookie", b"via", b"forwarded", b"x-real-ip", b"max-forwards"}
    | {b"x-amzn-trace-id", b"traceparent", b"tracestate", b"baggage"}
)
_UNSIGNED_FAMILIES = (b"x-forwarded-", b"proxy-", b"sec-websocket-")


def written(target: str, service: str) -> str:
    """Path and query with each part percent-encoded as AWS does it: unreserved characters as they are, all else `%XX`.

    A `+` in a query is a space, an encoded slash stays one. Raises BadTarget for a path that the service would change
    before it checks a signature.
    """
    path, mark, query = target.partition("?")
    if not path.startswith("/"):
        raise BadTarget("the path does not begin with a slash")
    segments = [unquote_to_bytes(part) for part in path.split("/")]
    if service not in AS_IT_IS and (b"" in segments[1:-1] or not {b".", b".."}.isdisjoint(segments)):
        raise BadTarget(f"`//`, `.` or `..` in a path: `{service}` signs another one; write the path that is meant")
    spelled = "/".join(_encode(part) for part in segments)
    pairs = [_pair(piece) for piece in query.split("&") if piece]
    return spelled + ("?" + "&".join(pairs) if mark and pairs else "")


def _pair(piece: str) -> str:
    name, equals, value = piece.replace("+", " ").partition("=")
    return _encode(unquote_to_bytes(name)) + equals + _encode(unquote_to_bytes(value))


def _encode(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="-_.~")


class Signer:
    """Signs with one set of keys for one service in one region. The key of a day is derived once."""

    def __init__(self, keys: Keys, region: str, service: str) -> None:
        self.keys = keys
        self.region = region
        self.service = service
        self._day = ""
        self._key = b""

    def sign(
        self, method: bytes, target: bytes, host: bytes, fields: Iterable[Field], payload: str, at: float
    ) -> list[Field]:
        """The header fields to add to a request.

        `target` as `written` gives it, `host` as it is sent, `fields` all others. `payload`: the body's SHA-256 in
        hexadecimal, or `UNSIGNED`. `at`: seconds since the epoch. Raises ValueError where `fields` say what only this
        may say.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        added = [(b"x-amz-date", stamp.encode()), (b"x-amz-content-sha256", payload.encode())]
        if self.keys.session_token:
            added.append((b"x-amz-security-token", self.keys.session_token.encode()))
        signature = self.signature(method, target, [(b"host", host), *_plain(fields), *added], payload, stamp)
        return [*added, (b"authorization", signature.encode())]

    def signature(self, method: bytes, target: bytes, fields: Iterable[Field], payload: str, stamp: str) -> str:
        """The value of `Authorization` for exactly these fields."""
        names, lines = _canonical(fields)
        path, _, query = target.partition(b"?")
        if self.service not in AS_IT_IS:
            path = quote_from_bytes(path, safe="/-_.~").encode()
        request = b"\n".join((method, path, _sorted(query), lines, names, payload.encode()))
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request).hexdigest()}"
        mark = hmac.digest(self._of_day(stamp[:8]), text.encode(), "sha256").hex()
        by = f"Credential={self.keys.access_key_id}/{scope}"
        return f"{_ALGORITHM} {by}, SignedHeaders={names.decode()}, Signature={mark}"

    def _of_day(self, day: str) -> bytes:
        if day != self._day:
            key = b"AWS4" + self.keys.secret_access_key.encode()
            for part in (day, self.region, self.service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
        return self._key


def _plain(fields: Iterable[Field]) -> Iterable[Field]:
    """Everything that is signed of a request besides `OWN` and the host."""
    for name, value in fields:
        lower = name.lower()
        if lower in OWN:
            raise ValueError("a header that only the gateway's signature may write")
        if lower != b"host" and lower not in _UNSIGNED and not lower.startswith(_UNSIGNED_FAMILIES):
            yield lower, value


def _canonical(fields: Iterable[Field]) -> tuple[bytes, bytes]:
    """(names, lines). Values of one name are joined in the order in which they stand; runs of blanks are one space."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name.lower(), []).append(b" ".join(value.split()))
    names = sorted(values)
    lines = b"".join(name + b":" + b",".join(values[name]) + b"\n" for name in names)
    return b";".join(names), lines


def _sorted(query: bytes) -> bytes:
    pairs = sorted(piece.partition(b"=")[::2] for piece in query.split(b"&") if piece)
    return b"&".join(name + b"=" + value for name, value in pairs)
