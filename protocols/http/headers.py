"""Headers: which ones end at the gateway, which ones nobody may see, and what a client must not say for itself.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import base64
import binascii
import re
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
# what says who somebody is, to a server that believes the proxy before it: the gateway's own to set
IDENTITY = frozenset(
    {
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "x-forwarded-access-token",
        "x-forwarded-client-cert",
        "x-authenticated-user",
        "x-authenticated-groups",
        "remote-user",
        "remote-groups",
        "remote-email",
        "remote-name",
        "x-goog-iap-jwt-assertion",
        "cf-access-authenticated-user-email",
        "x-pomerium-jwt-assertion",
        "x-pomerium-claim-email",
    }
)
_IDENTITIES = (  # ... by how they begin
    "x-remote-",
    "x-webauth-",
    "x-auth-request-",
    "x-authentik-",
    "x-goog-authenticated-user-",
    "x-amzn-oidc-",
    "x-ms-client-principal",
    "tailscale-user-",
    "x-ssl-client-",
    "ssl-client-",
    "x-client-cert",
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


def names_somebody(name: str) -> bool:
    """Whether a header, by its folded name, says who somebody is."""
    return name in IDENTITY or name.startswith(_IDENTITIES)


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


def words(value: str) -> list[str]:
    """What could be a token in a header that carries some: `Bearer x`, `a=x; b=y`, the password of Basic."""
    found = re.split(r"[\s,;=:\"]+", value)
    return [*found, hidden] if (hidden := bearer(value)) else found


def media_type(value: str) -> str:
    """`application/json` of `Application/JSON; charset=utf-8`; empty where there is none."""
    return value.partition(";")[0].strip().lower()
