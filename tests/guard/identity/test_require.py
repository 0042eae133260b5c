"""What an issuer's entry asks of its tokens beyond the signature, and whose groups a group is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from guard.identity import IdentityError, Verifier
from guard.outbound import OutboundError

OWNER = {"repository_owner": ("acme",), "repository": ("acme/shop", "acme/api-*")}


@pytest.fixture
def verify(provider, clock, settings):
    def run(token: str, **changes: Any):
        return asyncio.run(Verifier([settings(**changes)], fetch=provider.fetch, clock=clock).verify(token))

    return run


@pytest.fixture
def refused(verify):
    def run(token: str, **changes: Any) -> IdentityError:
        with pytest.raises(IdentityError) as caught:
            verify(token, **changes)
        return caught.value

    return run


def test_a_strangers_repository_opens_nothing(verify, refused, provider):
    """Anybody's workflow gets a token with our audience from the same issuer, signed with the same key."""
    ours = {"sub": "repo:acme/shop:ref:refs/heads/main", "repository_owner": "acme", "repository": "acme/shop"}
    assert verify(provider.token(**ours), require=OWNER, preset="github-actions").subject == ours["sub"]
    theirs = {"sub": "repo:mallory/shop:ref:x", "repository_owner": "mallory", "repository": "mallory/shop"}
    error = refused(provider.token(**theirs), require=OWNER, preset="github-actions")
    assert "`repository_owner`" in error.public
    assert "mallory" not in error.public + error.detail
    assert error.subject == theirs["sub"]  # proved, and worth knowing afterwards


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"repository_owner": "acme", "repository": "acme/other"}, "repository"),  # every claim counts
        ({"repository_owner": "ACME", "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": "acme-evil", "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": "acme\n", "repository": "acme/shop"}, "repository_owner"),
        ({"repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": {"acme": "acme"}, "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": 1.5, "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": [], "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": ["acme", 7.5], "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": [["acme"]], "repository": "acme/shop"}, "repository_owner"),
        ({"repository_owner": "", "repository": "acme/shop"}, "repository_owner"),
    ],
)
def test_a_claim_that_does_not_fit_refuses(refused, provider, claims, named):
    error = refused(provider.token(**claims), require=OWNER)
    assert f"`{named}`" in error.public
    assert "evil" not in error.public + error.detail


@pytest.mark.parametrize(
    ("require", "claims"),
    [
        ({"org.team": ("blue",)}, {"org": {"team": "blue"}}),
        ({"groups": ("staff", "ops*")}, {"groups": ["x", "opsgenie"]}),
        ({"email_verified": ("true",)}, {"email_verified": True}),
        ({"project_id": ("42",)}, {"project_id": 42}),
        ({}, {}),
    ],
)
def test_what_may_be_required(verify, provider, require, claims):
    assert verify(provider.token(**claims), require=require).issuer == "https://idp.example"


def test_a_remembered_proof_is_held_to_the_requirement_each_time(provider, clock, settings):
    async def run() -> None:
        verifier = Verifier([settings(require={"groups": ("staff",)})], fetch=provider.fetch, clock=clock)
        token = provider.token()
        for _ in range(3):
            with pytest.raises(IdentityError, match="`groups`"):
                await verifier.verify(token)

    asyncio.run(run())


def test_groups_carry_their_issuers_prefix(verify, provider):
    token = provider.token(groups=["oncall", "/path"])
    assert verify(token, group_prefix="gitlab:").groups == {"gitlab:oncall", "gitlab:path"}
    account = provider.token(sub="system:serviceaccount:shop:orders", groups=None)
    found = verify(account, preset="kubernetes", group_prefix="k8s:").groups
    assert found == {"k8s:system:serviceaccounts", "k8s:system:serviceaccounts:shop"}


def test_an_operator_sees_that_keys_cannot_be_read_before_anybody_is_refused(provider, clock, settings):
    async def run() -> None:
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        keys = verifier._issuers["https://idp.example"].keys
        never = verifier.status()[0]
        assert (never["keys_age"], never["read_at"], never["usable_until"], never["failed_at"]) == (None,) * 4
        await keys.refresh(force=True)
        good = verifier.status()[0]
        assert (good["read_at"], good["error"], good["last_error"]) == (clock.now, None, None)
        began = clock.now
        provider.fail = OutboundError("idp.example: connection refused")
        clock.now += 600
        await keys.refresh(force=True)
        failing = verifier.status()[0]
        assert failing["keys_age"] == 600.0
        assert failing["usable_until"] == began + 3600
        assert failing["error"] == failing["last_error"] == "idp.example: connection refused"
        assert failing["failed_at"] == began + 600
        await verifier.verify(provider.token(exp=int(clock.now) + 60))  # nobody has been refused yet
        provider.fail = None
        clock.now += 60
        await keys.refresh(force=True)
        again = verifier.status()[0]
        assert (again["error"], again["read_at"]) == (None, clock.now)
        assert (again["last_error"], again["failed_at"]) == ("idp.example: connection refused", began + 600)

    asyncio.run(run())
