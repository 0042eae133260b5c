"""A token that comes again is not verified again, and is refused from the moment at which a new one would be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from guard.identity import IdentityError, Verifier
from guard.identity import verifier as module
from guard.identity.keys import MAX_STALE_S, MIN_INTERVAL_S
from guard.outbound import OutboundError


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was computed."""
    found: list[str] = []
    real = module._signed_payload

    def counting(token: Any, key: Any) -> bytes | None:
        found.append(token.compact)
        return real(token, key)

    monkeypatch.setattr(module, "_signed_payload", counting)
    return found


def test_a_signature_is_computed_once(provider: Any, clock: Any, settings: Any, counted: list[str]) -> None:
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        token, other = provider.token(), provider.token(jti="another")
        assert await verifier.verify(token) == await verifier.verify(token)
        await verifier.verify(other)
        assert counted == [token, other]

    asyncio.run(run())


def test_one_changed_letter_is_another_token(provider: Any, clock: Any, settings: Any) -> None:
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        token = provider.token()
        await verifier.verify(token)
        head, body, signature = token.split(".")
        for changed in (f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body[:-4]}AAAA.{signature}", f"{token} "):
            with pytest.raises(IdentityError):
                await verifier.verify(changed)

    asyncio.run(run())


def test_expiry_counts_each_time(provider: Any, clock: Any, settings: Any) -> None:
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        token = provider.token(exp=clock.now + 60)
        await verifier.verify(token)
        clock.now += 60
        with pytest.raises(IdentityError, match="expired"):
            await verifier.verify(token)

    asyncio.run(run())


def test_containment_and_revocation_count_each_time(provider: Any, clock: Any, settings: Any) -> None:
    async def run() -> None:
        why: list[str] = []
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock, blocked=lambda _: why[0] if why else None)
        token = provider.token()
        await verifier.verify(token)
        why.append("contained")
        with pytest.raises(IdentityError, match="contained"):
            await verifier.verify(token)

    asyncio.run(run())


def test_a_key_that_the_issuer_has_withdrawn_proves_nothing_any_more(provider: Any, clock: Any, settings: Any) -> None:
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        token = provider.token()
        await verifier.verify(token)
        # the same key id, another key
        provider.keys["rsa-1"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        clock.now += MIN_INTERVAL_S
        await verifier._issuers["https://idp.example"].keys.refresh(force=True)
        with pytest.raises(IdentityError, match="signature"):
            await verifier.verify(token)

    asyncio.run(run())


def test_keys_that_are_too_old_prove_nothing(provider: Any, clock: Any, settings: Any) -> None:
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        token = provider.token(exp=clock.now + 10 * MAX_STALE_S)
        await verifier.verify(token)
        provider.fail = OutboundError("the issuer is down")
        clock.now += MAX_STALE_S + 1
        with pytest.raises(IdentityError):
            await verifier.verify(token)

    asyncio.run(run())


def test_what_is_remembered_is_bounded_and_holds_no_token(
    provider: Any, clock: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        monkeypatch.setattr(module, "_PROOFS", 3)
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        tokens = [provider.token(jti=f"t{n}") for n in range(6)]
        for token in tokens:
            await verifier.verify(token)
        assert len(verifier._proofs) == 3
        assert not any(token in repr(verifier._proofs) for token in tokens)

    asyncio.run(run())
