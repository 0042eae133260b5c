"""Headers: which ones end at the gateway, which ones nobody may see, and what a client must not say for itself.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache

Header = tuple[str, str]

# RFC 9110 section 7.6.1, and what grew around it: about one connection, never forwarded
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
# what says who somebody is: the gateway's own to set
IDENTITY = frozenset(
    {
        "x-remote-user",
        "x-remote-group",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-auth-request-user",
        "x-webauth-user",
    }
)
# shown and recorded only as `[withheld]`
SECRET = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "apikey",
        "x-auth-token",
        "x-access-token",
        "x-amz-security-token",
        "x-amz-server-side-encryption-customer-key",
        "x-amz-copy-source-server-side-encryption-customer-key",
        "x-goog-api-key",
        "x-csrf-token",
        "private-token",
        "job-token",
        "x-vault-token",
        "x-github-token",
        "npm-token",
        "sec-websocket-key",
    }
)
WITHHELD = "[withheld]"
_USUAL = 64  # characters of a name that is worth remembering
_SECRET_WORDS = ("token", "secret", "password", "passwd", "credential", "api-key", "apikey", "signature")


def folded(name: str) -> str:
    """A header's name as servers that hand it on in an environment see it: `X_Remote_User` is `X-Remote-User`."""
    return name.lower().replace("_", "-")


def is_secret(name: str) -> bool:
    """Whether a header's value must never be shown or recorded."""
    return _usual(name) if len(name) <= _USUAL else _is_secret(name)


def _is_secret(name: str) -> bool:
    lower = folded(name)
    return lower in SECRET or any(word in lower for word in _SECRET_WORDS)


_usual = lru_cache(maxsize=4096)(_is_secret)  # clients say the same names with each request


def named_by_connection(values: Iterable[str]) -> frozenset[str]:
    """The headers that `Connection` lists: they end here, too (and so a client could have them removed)."""
    return frozenset(token.strip().lower() for value in values for token in value.split(",") if token.strip())


def shown(headers: Iterable[Header]) -> list[Header]:
    """Headers as they go on record."""
    return [(name, WITHHELD if is_secret(name) else value) for name, value in headers]


def bearer(value: str) -> str:
    """The token of an `Authorization` or `Proxy-Authorization` header: Bearer, or the password of Basic. Else empty."""
    scheme, _, rest = value.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return ""
        return pair.partition(":")[2]
    return ""


def media_type(value: str) -> str:
    """`application/json` of `Application/JSON; charset=utf-8`; empty where there is none."""
    return value.partition(";")[0].strip().lower()
