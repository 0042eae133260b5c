"""The outside of a token: compact form, header, JSON; nothing here trusts a signature or needs a key.

RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (what goes wrong with both).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guard.identity.errors import IdentityError

MAX_TOKEN = 16 * 1024  # bytes
MAX_KID = 256  # characters

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
# an ID token says JWT or nothing; an access token may say at+jwt (RFC 9068). A logout token, a security event or a DPoP
# proof of the same issuer carries a valid signature too, and says what it is here
_TYPES = frozenset({"jwt", "at+jwt"})
_MALFORMED = "this is not a token; send a signed token of your identity provider"


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A well-formed token of which nothing has been proved yet."""

    compact: str
    algorithm: str
    kid: str | None
    access: bool  # header `typ` is at+jwt
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"UnverifiedToken(algorithm={self.algorithm!r}, kid={self.kid!r})"


def parse(token: str) -> UnverifiedToken:
    """Take a compact JWS apart; raises IdentityError for anything that a careful issuer would not have written."""
    if len(token) > MAX_TOKEN:
        raise IdentityError(f"token is larger than {MAX_TOKEN} bytes; ask for one with fewer claims")
    if not _COMPACT.fullmatch(token):
        raise IdentityError(_MALFORMED, "no compact jws")
    head, body, signature = token.split(".")
    _decode(signature)
    header, claims = strict_json(_decode(head)), strict_json(_decode(body))
    # `crit` names extensions that we must understand and do not; `b64` and `zip` change what was signed
    refused = {"crit", "b64", "zip", "enc"} & header.keys()
    if refused:
        raise IdentityError("token uses an extension that is not supported", f"header holds {sorted(refused)}")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or not isinstance(kind, str):
        raise IdentityError(_MALFORMED, "header's alg or typ is no string")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise IdentityError(_MALFORMED, "header's kid is no short string")
    kind = kind.lower().removeprefix("application/")
    if kind not in _TYPES:
        raise IdentityError("this is not an access token; send the access token or the id token", "header's typ")
    return UnverifiedToken(token, algorithm, kid, kind == "at+jwt", claims)


def strict_json(data: bytes) -> dict[str, Any]:
    """A JSON object with unique keys and finite numbers; raises IdentityError.

    Two parsers that disagree on which of two equal keys counts are a classic way to show one identity and use another.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IdentityError(_MALFORMED, f"bad json: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise IdentityError(_MALFORMED, "json is no object")
    return value


def _decode(part: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise IdentityError(_MALFORMED, "bad base64url") from None
    # a second spelling of the same bytes would give one token two digests, and one of them is not revoked
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise IdentityError(_MALFORMED, "base64url is not canonical")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no json number")
