"""The signing keys of one issuer: found by discovery, cached, rotated, and never older than a bound.

A key set is fresh for `TTL_S`. A refresh that fails leaves the old keys in force until they are `MAX_STALE_S` old, then
nothing verifies: an issuer whose revoked key we cannot learn about must not stay trusted for ever. A key id that we do
not know triggers a refresh, but at most one per `MIN_INTERVAL_S` and never one per token: strangers choose key ids.

Sources: OpenID Connect Discovery 1.0 section 4, RFC 7517 (JWK), RFC 7518 section 6, RFC 8037 (OKP), RFC 8725 section 3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cachetools import TTLCache
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from guard import outbound
from guard.identity.errors import IdentityError
from guard.identity.tokens import MAX_KID, strict_json

TTL_S = 300.0
MAX_STALE_S = 3600.0
MIN_INTERVAL_S = 10.0
MAX_KEYS = 100
_MAX_CANDIDATES = 4  # keys tried for one token: two keys may share an id, and RFC 7515 makes the id optional
_UNKNOWN_KIDS = 1024

Fetch = Callable[[str, Path | None], Awaitable[bytes]]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

# algorithm -> key type and curve. What is not here is not an algorithm: no `none`, nothing symmetric
ALGORITHMS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", ""),
}
# only the public members are handed to the key builder: what else stands in a key never has an effect
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_RSA_BITS = range(2048, 8192 + 1)


class KeysError(Exception):
    """The issuer's keys cannot be had. The text may be shown to an operator."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One public key of an issuer, with what the issuer says it is for."""

    kid: str | None
    kty: str
    curve: str
    algorithm: str | None  # the only algorithm that it may be used with, where the issuer names one
    key: PublicKey

    def fits(self, algorithm: str) -> bool:
        """Whether the key's type, curve and declared algorithm agree with the algorithm in a token's header."""
        kty, curve = ALGORITHMS[algorithm]
        return self.kty == kty and curve in ("", self.curve) and self.algorithm in (None, algorithm)


def parse_jwks(data: bytes) -> tuple[SigningKey, ...]:
    """The usable signing keys of a JWK set; raises KeysError when it holds none or is none."""
    try:
        listed = strict_json(data).get("keys")
    except IdentityError as error:
        raise KeysError(f"key set is not usable: {error.detail}") from None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise KeysError(f"key set holds no list of at most {MAX_KEYS} keys")
    keys = tuple(key for entry in listed if (key := _signing_key(entry)) is not None)
    if not keys:
        raise KeysError("key set holds no public signing key that can be used")
    return keys


def _signing_key(entry: Any) -> SigningKey | None:
    """A set may hold keys for other purposes and of kinds yet unknown (RFC 7517 section 5): those are left out."""
    if not isinstance(entry, dict) or _PRIVATE_MEMBERS & entry.keys():
        return None
    kty, kid, algorithm = entry.get("kty"), entry.get("kid"), entry.get("alg")
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or (operations is not None and "verify" not in _strings(operations)):
        return None
    if not isinstance(kty, str) or kty not in _PUBLIC_MEMBERS:
        return None
    if not (kid is None or (isinstance(kid, str) and 0 < len(kid) <= MAX_KID)):
        return None
    if algorithm is not None and not (isinstance(algorithm, str) and algorithm in ALGORITHMS):
        return None
    members = {name: entry.get(name) for name in _PUBLIC_MEMBERS[kty]}
    if not all(isinstance(value, str) for value in members.values()):
        return None
    curve = str(members.get("crv", ""))
    fitting = [name for name, needs in ALGORITHMS.items() if needs in ((kty, ""), (kty, curve))]
    if not fitting:
        return None
    try:
        key = jwt.PyJWK({"kty": kty, **members}, algorithm=algorithm or fitting[0]).key
    except (jwt.PyJWTError, ValueError):
        return None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            return None
    elif not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return SigningKey(kid, kty, curve, algorithm, key)


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


class _Elapsed:
    """Seconds that have passed, in a count that never goes back: where clocks disagree, the longer time counts.

    A clock that is put back must not keep old keys alive; one that stands still while the machine sleeps neither.
    """

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._clocks = (clock, steady)
        self._seen = (clock(), steady())
        self._count = 0.0

    def __call__(self) -> float:
        now = (self._clocks[0](), self._clocks[1]())
        self._count += max(0.0, now[0] - self._seen[0], now[1] - self._seen[1])
        self._seen = now
        return self._count


class IssuerKeys:
    """The key cache of one issuer. `refresh` is single-flight; everything else answers from memory."""

    def __init__(
        self,
        issuer: str,
        jwks_uri: str | None,
        ca: Path | None,
        fetch: Fetch,
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._ca = ca
        self._fetch = fetch
        self._clock = clock
        self._elapsed = _Elapsed(clock, steady)
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched_at = float("-inf")  # as `_elapsed` counts
        self._attempted_at = float("-inf")
        self._unknown: TTLCache[str, bool] = TTLCache(_UNKNOWN_KIDS, ttl=MIN_INTERVAL_S, timer=self._elapsed)
        self.read_at: float | None = None  # when the keys were last read, in seconds since the epoch
        self._running: asyncio.Task[None] | None = None
        self.error = ""  # why the last refresh failed; empty after a good one
        self.last_error = ""  # of the last refresh that failed, however long ago
        self.failed_at: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the keys were read; infinite before the first time."""
        return self._elapsed() - self._fetched_at

    async def candidates(self, kid: str | None, algorithm: str) -> tuple[SigningKey, ...]:
        """The keys to try for a token, most often exactly one. Raises KeysError when there is none to trust."""
        found = self._lookup(kid, algorithm)
        if not found and (kid is None or kid not in self._unknown):
            await self.refresh()
            found = self._lookup(kid, algorithm)
            if not found and kid is not None and self._current():
                self._unknown[kid] = True
        if found:
            return found
        if not self._current():
            raise KeysError(self.error or "keys have not been read yet")
        return ()

    def _current(self) -> bool:
        return bool(self._keys) and self.age <= MAX_STALE_S

    def _lookup(self, kid: str | None, algorithm: str) -> tuple[SigningKey, ...]:
        if not self._current():
            return ()
        found = [key for key in self._keys if (kid is None or key.kid == kid) and key.fits(algorithm)]
        return tuple(found[:_MAX_CANDIDATES])

    async def refresh(self, *, force: bool = False) -> None:
        """Read the keys again unless that was tried a moment ago. Never raises: the outcome is in `error`.

        Callers share one running refresh, and cancelling a caller does not cancel it for the others.
        """
        if self._running is None or self._running.done():
            if not force and self._elapsed() - self._attempted_at < MIN_INTERVAL_S:
                return
            self._attempted_at = self._elapsed()
            self._running = asyncio.create_task(self._read(), name=f"keys of {self._issuer}")
        await asyncio.shield(self._running)

    async def _read(self) -> None:
        try:
            uri = self._jwks_uri or await self._discover()
            keys = parse_jwks(await self._fetch(uri, self._ca))
        except (KeysError, outbound.OutboundError) as error:
            self._failed(str(error))
        except Exception as error:  # fail closed with whatever a fetcher throws: the keys grow stale and then expire
            self._failed(f"reading the keys failed: {type(error).__name__}")
        else:
            self._keys, self._fetched_at, self.error = keys, self._elapsed(), ""
            self.read_at = self._clock()
            self._unknown.clear()

    def _failed(self, why: str) -> None:
        self.error = self.last_error = why
        self.failed_at = self._clock()

    async def _discover(self) -> str:
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            document = strict_json(await self._fetch(url, self._ca))
        except IdentityError as error:
            raise KeysError(f"discovery document is not usable: {error.detail}") from None
        if document.get("issuer") != self._issuer:
            # section 4.3: otherwise one issuer could speak for another
            raise KeysError("discovery document names another issuer; compare the configured issuer letter by letter")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str):
            raise KeysError("discovery document has no jwks_uri")
        if outbound.check_url(uri).scheme != "https" and outbound.check_url(self._issuer).scheme == "https":
            # plain http goes to this machine only, where the issuer has nothing to say
            raise KeysError("discovery document names a jwks_uri that is not https")
        return uri

    async def close(self) -> None:
        """Give up a refresh that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)


async def fetch_document(url: str, ca: Path | None) -> bytes:
    """The default `Fetch`: one GET within five seconds and one mebibyte; raises OutboundError."""
    response = await outbound.request("GET", url, headers={"Accept": "application/json"}, ca=ca, follow=True)
    if response.status != 200:
        raise outbound.OutboundError(f"{outbound.check_url(url).host} answered with status {response.status}")
    return response.body
