"""References in, secrets out; and the registry of providers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from cachetools import TTLCache

from guard.secrets import environment, files, vault
from guard.secrets.secret import Secret, SecretError

TIMEOUT_S = 10.0
CACHE_S = 30.0
_CACHE_SIZE = 256


class SecretRef(Protocol):
    """What is read from a `SecretRef` or `Credential` of the configuration; fields of other providers are None."""

    @property
    def provider(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def token(self) -> SecretRef | None: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def namespace(self) -> str | None: ...


Resolve = Callable[[SecretRef], Awaitable[Secret]]
Provider = Callable[[SecretRef, Resolve], Awaitable[Secret]]
"""Reads one secret, or raises SecretError. The second argument resolves what it needs itself (Vault's token)."""


async def _none(_ref: SecretRef, _resolve: Resolve) -> Secret:
    """The upstream asks for no password."""
    return Secret("")


PROVIDERS: Mapping[str, Provider] = {
    "env": environment.read,
    "file": files.read,
    "vault": vault.read,
    "none": _none,
}
_CACHED = frozenset({"vault"})  # a look-up over the network; the others are as cheap as the cache


async def resolve(ref: SecretRef) -> Secret:
    """Read the secret that `ref` names now. Raises SecretError, within ten seconds in any case."""
    provider = PROVIDERS.get(ref.provider)
    if provider is None:
        raise SecretError(f"there is no secret provider `{ref.provider}`")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await provider(ref, resolve)
    except TimeoutError:
        raise SecretError(f"secret provider `{ref.provider}` did not answer within {TIMEOUT_S:g} s") from None


class Secrets:
    """`resolve` with a short memory, for a gateway that opens many connections with one credential.

    A secret is read at most every `CACHE_S` seconds and by one caller at a time; an error is never remembered. After an
    upstream refused a password, `fresh=True` asks again, since it may just have been rotated.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, reader: Resolve = resolve) -> None:
        self._cache: TTLCache[SecretRef, Secret] = TTLCache(_CACHE_SIZE, ttl=CACHE_S, timer=clock)
        self._locks: TTLCache[SecretRef, asyncio.Lock] = TTLCache(_CACHE_SIZE, ttl=3600, timer=clock)
        self._reader = reader

    async def resolve(self, ref: SecretRef, *, fresh: bool = False) -> Secret:
        """The secret, at most `CACHE_S` seconds old. Raises SecretError."""
        if ref.provider not in _CACHED:
            return await self._reader(ref)
        seen = self._cache.get(ref)
        if seen is not None and not fresh:
            return seen
        async with self._locks.setdefault(ref, asyncio.Lock()):
            current = self._cache.get(ref)
            if current is not None and current is not seen:
                return current  # somebody else has just read it
            secret = await self._reader(ref)
            self._cache[ref] = secret
            return secret
