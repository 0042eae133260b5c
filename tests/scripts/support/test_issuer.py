"""The local issuer must be a real one: what it serves verifies what it signs."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import jwt
import pytest

from scripts.support.issuer import ALGORITHMS, Issuer
from scripts.support.tls import Authority

pytestmark = pytest.mark.e2e


def fetch(issuer: Issuer, url: str) -> dict[str, Any]:
    context = ssl.create_default_context(cafile=issuer.ca_file)
    with urllib.request.urlopen(url, context=context, timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def verify(issuer: Issuer, token: str, algorithm: str) -> dict[str, Any]:
    discovery = fetch(issuer, f"{issuer.url}/.well-known/openid-configuration")
    assert discovery["issuer"] == issuer.url
    keys = jwt.PyJWKSet.from_dict(fetch(issuer, discovery["jwks_uri"]))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=[algorithm], audience=issuer.audience, issuer=issuer.url)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_its_tokens_verify_with_the_keys_it_serves(issuer: Issuer, algorithm: str) -> None:
    token = issuer.token("ada", ["oncall"], algorithm=algorithm, team="shop", nbf=None)
    claims = verify(issuer, token, algorithm)
    assert (claims["sub"], claims["groups"], claims["team"]) == ("ada", ["oncall"], "shop")
    assert "nbf" not in claims
    assert claims["jti"] != verify(issuer, issuer.token("ada"), "RS256")["jti"]


def test_expired_is_expired(issuer: Issuer) -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        verify(issuer, issuer.token("ada", ttl=-5), "RS256")


def test_rotation_drops_the_old_key_or_keeps_it(authority: Authority) -> None:
    with Issuer(authority) as own:
        first = own.token("ada")
        own.rotate(keep_old=True)
        second = own.token("ada")
        assert verify(own, first, "RS256")["sub"] == verify(own, second, "RS256")["sub"] == "ada"
        own.rotate()
        with pytest.raises(KeyError):
            verify(own, second, "RS256")


def test_it_can_be_down_and_counts_who_asked(authority: Authority) -> None:
    with Issuer(authority) as own:
        own.behave(status=503)
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            fetch(own, f"{own.url}/jwks")
        caught.value.close()
        own.behave()
        assert len(fetch(own, f"{own.url}/jwks")["keys"]) == 2
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            fetch(own, f"{own.url}/../server.key")
        caught.value.close()
        assert own.requests() == ["/jwks", "/jwks", "/../server.key"]
        folder = own.folder
    assert not folder.exists()
