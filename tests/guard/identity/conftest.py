"""An identity provider in memory: real keys, real signatures; only the network between it and us is a function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from guard.outbound import OutboundError

NOW = 1_800_000_000.0


@dataclass(frozen=True)
class IssuerSettings:
    """One entry of `issuers:` with the defaults of the configuration."""

    issuer: str = "https://idp.example"
    audience: str = "sluicegate"
    preset: str | None = None
    jwks_uri: str | None = None
    ca: Path | None = None
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    attributes: Mapping[str, str] = field(default_factory=dict)
    require: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_prefix: str | None = None
    azp: str | None = None
    leeway: float = 30
    session_end: str = "token"
    session_max: float = 28800


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


class Provider:
    """Signs tokens, and answers `fetch` for its discovery document and its key set."""

    def __init__(self, issuer: str = "https://idp.example") -> None:
        self.issuer = issuer
        self.keys: dict[str, Any] = {"rsa-1": RSA_KEY, "ec-1": EC_KEY}
        self.extra_keys: list[dict[str, Any]] = []
        self.documents: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.fail: Exception | None = None

    def jwk(self, kid: str) -> dict[str, Any]:
        public = self.keys[kid].public_key()
        kinds: dict[type, Any] = {
            rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
            ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
        }
        kind = next(algorithm for cls, algorithm in kinds.items() if isinstance(public, cls))
        return {**kind.to_jwk(public, as_dict=True), "kid": kid, "use": "sig"}

    def document(self, url: str) -> bytes:
        if url in self.documents:
            return self.documents[url]
        if url == f"{self.issuer}/.well-known/openid-configuration":
            return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}).encode()
        if url == f"{self.issuer}/keys":
            return json.dumps({"keys": [*map(self.jwk, self.keys), *self.extra_keys]}).encode()
        raise OutboundError(f"nothing at {url}")

    async def fetch(self, url: str, ca: Path | None) -> bytes:
        self.fetched.append(url)
        if self.fail is not None:
            raise self.fail
        return self.document(url)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good token; a change to None leaves the claim out."""
        claims = {
            "iss": self.issuer,
            "aud": "sluicegate",
            "sub": "ci-job@shop",
            "groups": ["agents"],
            "exp": int(NOW) + 600,
            "iat": int(NOW) - 5,
            "nbf": int(NOW) - 5,
            "jti": "token-1",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, *, kid: str = "rsa-1", algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        return jwt.encode(
            self.claims(**changes), self.keys[kid], algorithm=algorithm, headers={"kid": kid, **(headers or {})}
        )


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings() -> type[IssuerSettings]:
    return IssuerSettings


@pytest.fixture
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ED_KEY
