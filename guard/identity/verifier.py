"""A token in, a principal out, or IdentityError.

Order matters: nothing is looked up for a token that is not well formed, no key is used before issuer and algorithm are
settled from our side, and no claim is read for its meaning before the signature holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt

from guard.identity.claims import ClaimMap, Requirement, token_id
from guard.identity.errors import IdentityError
from guard.identity.keys import (
    ALGORITHMS,
    MAX_STALE_S,
    TTL_S,
    Fetch,
    IssuerKeys,
    KeysError,
    SigningKey,
    fetch_document,
)
from guard.identity.tokens import UnverifiedToken, parse, strict_json
from protocols.contract import Principal

MAX_LEEWAY_S = 30.0
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # after the first, second, ... failed refresh in a row
_LATEST = 253402300800.0  # the year 10000: a larger number is no time
_PROOFS = 1024  # tokens whose signature is remembered to hold

log = logging.getLogger("sluicegate.identity")

Blocked = Callable[[Principal], str | None]
"""Why a principal may not act although its token is good (contained, revoked), as a public text; None: it may."""


class IssuerConfig(Protocol):
    """What is read from one entry of `issuers:` in the configuration."""

    @property
    def issuer(self) -> str: ...
    @property
    def audience(self) -> str: ...
    @property
    def preset(self) -> str | None: ...
    @property
    def jwks_uri(self) -> str | None: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def algorithms(self) -> Sequence[str]: ...
    @property
    def subject_claim(self) -> str: ...
    @property
    def groups_claim(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...
    @property
    def require(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def group_prefix(self) -> str | None: ...
    @property
    def azp(self) -> str | None: ...
    @property
    def leeway(self) -> float: ...
    @property
    def session_end(self) -> str: ...
    @property
    def session_max(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Issuer:
    config: IssuerConfig
    algorithms: frozenset[str]
    leeway: float
    claims: ClaimMap
    requirements: tuple[Requirement, ...]
    keys: IssuerKeys


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a signature proved: which key made it, and what it signed."""

    issuer: _Issuer
    algorithm: str
    kid: str | None
    access: bool  # header `typ` is at+jwt
    key: SigningKey
    claims: Mapping[str, Any]


class Verifier:
    """Verifies tokens of the configured issuers.

    `blocked` is asked for every principal, after its token was found good; when it raises, the token is refused.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerConfig],
        *,
        fetch: Fetch = fetch_document,
        clock: Callable[[], float] = time.time,
        blocked: Blocked | None = None,
    ) -> None:
        self._clock = clock
        self._blocked = blocked
        self._issuers: dict[str, _Issuer] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._proofs: OrderedDict[bytes, _Proof] = OrderedDict()  # by the keyed digest of a token
        self._digest_key = secrets.token_bytes(32)
        for config in issuers:
            if config.issuer in self._issuers:
                raise ValueError(f"issuer {config.issuer} is configured twice")
            self._issuers[config.issuer] = _build(config, fetch, clock)

    async def start(self) -> None:
        """Read every issuer's keys in the background from now on; returns at once."""
        self._tasks = [
            asyncio.create_task(self._keep_fresh(issuer), name=f"refresh {name}")
            for name, issuer in self._issuers.items()
        ]

    async def stop(self) -> None:
        """Stop the background work."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for issuer in self._issuers.values():
            await issuer.keys.close()

    def status(self) -> list[dict[str, Any]]:
        """For operators, of each issuer: the age of its keys in seconds and when they were last read (None: never),
        when they expire unless they are read again, what is wrong now (None: nothing), and the last failure, if any.

        Times are seconds since the epoch.
        """
        return [
            {
                "issuer": name,
                "keys_age": round(issuer.keys.age, 1) if math.isfinite(issuer.keys.age) else None,
                "read_at": issuer.keys.read_at,
                "usable_until": None if issuer.keys.read_at is None else issuer.keys.read_at + MAX_STALE_S,
                "error": issuer.keys.error or None,
                "last_error": issuer.keys.last_error or None,
                "failed_at": issuer.keys.failed_at,
            }
            for name, issuer in self._issuers.items()
        ]

    async def verify(self, token: str) -> Principal:
        """The principal that a token proves. Raises IdentityError; waits for the network only on an unknown key id."""
        proof = await self._proof(token)
        claims, issuer = proof.claims, proof.issuer
        now = self._clock()
        expires = _check_times(claims, now, issuer.leeway)
        _check_audience(claims, issuer.config)
        _check_purpose(claims, proof.access)
        issuer.claims.check_kind(claims)
        subject = issuer.claims.subject(claims)
        for requirement in issuer.requirements:
            requirement.check(claims, subject)
        principal = Principal(
            subject=subject,
            issuer=issuer.config.issuer,
            groups=issuer.claims.groups(claims, subject),
            attributes=issuer.claims.extract_attributes(claims),
            expires_at=_session_deadline(expires, now, issuer.config),
            token_id=token_id(claims, token),
        )
        self.recheck(principal)
        return principal

    def recheck(self, principal: Principal) -> None:
        """Raises IdentityError when a principal verified earlier may act no longer: expired, contained, revoked."""
        late = self._clock() - principal.expires_at
        if late >= 0:
            raise IdentityError(f"token expired {late:.0f} s ago; get a new one", subject=principal.subject)
        if self._blocked is None:
            return
        try:
            reason = self._blocked(principal)
        except Exception as error:
            log.exception("cannot tell whether %s is contained", principal.subject)
            detail = f"containment check failed: {type(error).__name__}"
            text = "the gateway cannot check this identity now; try again later"
            raise IdentityError(text, detail, subject=principal.subject) from error
        if reason is not None:
            raise IdentityError(reason, subject=principal.subject)

    def _issuer_of(self, token: UnverifiedToken) -> _Issuer:
        name = token.claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise IdentityError("token's issuer is not trusted here", "issuer is not configured")
        if token.algorithm not in issuer.algorithms:
            raise IdentityError("token is signed in a way that is not accepted", "algorithm is not pinned for issuer")
        return issuer

    async def _proof(self, token: str) -> _Proof:
        """What the token's signature proves.

        A client sends one token with each of its connections. That its signature holds under a key does not change;
        whether that key is still the issuer's is asked each time, and so is everything that the claims say.
        """
        mark = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), key=self._digest_key, digest_size=32).digest()
        known = self._proofs.get(mark)
        if known is not None:
            if known.key in await self._keys(known.issuer, known.kid, known.algorithm):
                if mark in self._proofs:  # another may have dropped it while keys were asked for
                    self._proofs.move_to_end(mark)
                return known
            self._proofs.pop(mark, None)
        unverified = parse(token)
        proof = await self._prove(unverified, self._issuer_of(unverified))
        self._proofs[mark] = proof
        if len(self._proofs) > _PROOFS:
            self._proofs.popitem(last=False)
        return proof

    async def _keys(self, issuer: _Issuer, kid: str | None, algorithm: str) -> tuple[SigningKey, ...]:
        try:
            return await issuer.keys.candidates(kid, algorithm)
        except KeysError as error:
            public = "the gateway cannot check tokens of this issuer now; try again in a moment"
            raise IdentityError(public, f"no keys of {issuer.config.issuer}: {error}") from None

    async def _prove(self, token: UnverifiedToken, issuer: _Issuer) -> _Proof:
        candidates = await self._keys(issuer, token.kid, token.algorithm)
        for key in candidates:
            payload = _signed_payload(token, key)
            if payload is not None:
                # what was signed, not what was looked at before: there is then only one reading of the token
                return _Proof(issuer, token.algorithm, token.kid, token.access, key, strict_json(payload))
        why = "no signature holds" if candidates else "key id is unknown or its key does not fit the algorithm"
        raise IdentityError("token's signature does not hold; get a new token", f"{issuer.config.issuer}: {why}")

    async def _keep_fresh(self, issuer: _Issuer) -> None:
        failures = 0
        while True:
            await issuer.keys.refresh(force=True)
            if issuer.keys.error:
                log.warning("keys of %s: %s", issuer.config.issuer, issuer.keys.error)
                delay = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
            else:
                delay, failures = TTL_S, 0
            # spread over gateways that started together
            await asyncio.sleep(delay * random.uniform(0.8, 1.0))  # noqa: S311 - no secret


def _build(config: IssuerConfig, fetch: Fetch, clock: Callable[[], float]) -> _Issuer:
    algorithms = frozenset(config.algorithms)
    if not algorithms or not algorithms <= ALGORITHMS.keys():
        raise ValueError(f"issuer {config.issuer}: algorithms must be asymmetric: {', '.join(ALGORITHMS)}")
    if not config.audience:
        raise ValueError(f"issuer {config.issuer}: audience must not be empty")
    if not 0 <= config.leeway <= MAX_LEEWAY_S:
        raise ValueError(f"issuer {config.issuer}: leeway must be 0 to {MAX_LEEWAY_S:.0f} seconds")
    if config.session_end not in ("token", "duration") or not 0 < config.session_max < float("inf"):
        raise ValueError(f"issuer {config.issuer}: session_end is token or duration, session_max a number of seconds")
    return _Issuer(
        config=config,
        algorithms=algorithms,
        leeway=float(config.leeway),
        claims=ClaimMap.of(
            config.preset, config.subject_claim, config.groups_claim, config.attributes, config.group_prefix
        ),
        requirements=tuple(Requirement.of(claim, patterns) for claim, patterns in config.require.items()),
        keys=IssuerKeys(config.issuer, config.jwks_uri, config.ca, fetch, clock),
    )


def _signed_payload(token: UnverifiedToken, key: SigningKey) -> bytes | None:
    try:
        jws = jwt.PyJWS(algorithms=[token.algorithm])
        decoded = jws.decode_complete(token.compact, key.key, algorithms=[token.algorithm])
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    payload = decoded["payload"]
    return payload if isinstance(payload, bytes) else None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise IdentityError("token's times cannot be read; get a new token", f"claim `{name}` is no time")
    return float(value)


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """The expiry. It has no leeway: a session ends at the same moment at which a new one is refused."""
    expires, issued, begins = _time(claims, "exp"), _time(claims, "iat"), _time(claims, "nbf")
    if expires is None:
        raise IdentityError("token never expires and is therefore refused; get one with an expiry", "no exp")
    if expires <= now:
        raise IdentityError(f"token expired {now - expires:.0f} s ago; get a new one")
    for name, moment in (("nbf", begins), ("iat", issued)):
        if moment is not None and moment > now + leeway:
            raise IdentityError(f"token is not valid for another {moment - now:.0f} s; check the clocks", name)
    return expires


def _check_audience(claims: Mapping[str, Any], config: IssuerConfig) -> None:
    audience = claims.get("aud")
    listed = [audience] if isinstance(audience, str) else audience
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise IdentityError("token does not say what it is for; ask for one for this gateway", "aud")
    if config.audience not in listed:
        raise IdentityError("token was made for something else; ask for one for this gateway's audience", "aud")
    if config.azp is not None and claims.get("azp") != config.azp:
        raise IdentityError("token was given to a client that is not accepted here", "azp")


def _check_purpose(claims: Mapping[str, Any], access: bool) -> None:
    if access and not isinstance(claims.get("client_id"), str):
        # RFC 9068 section 2.2 requires it; without it this is something else that borrowed the type
        raise IdentityError("this is not an access token; send the access token or the id token", "at+jwt: client_id")
    if "events" in claims:
        # a security event or logout token (RFC 8417 section 2.2), whatever its header says
        raise IdentityError("this is not an access token; send the access token or the id token", "events")
    if "cnf" in claims:
        # RFC 7800: only the holder of another key may use it, and a password cannot prove that
        raise IdentityError("token is bound to a client key and cannot be used as a password; ask for a bearer token")


def _session_deadline(expires: float, now: float, config: IssuerConfig) -> float:
    return now + config.session_max if config.session_end == "duration" else expires
