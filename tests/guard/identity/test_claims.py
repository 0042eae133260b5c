"""Claims of the issuers that a preset exists for, and of issuers that write nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from guard.identity.claims import PRESETS, ClaimMap, lookup, preset
from guard.identity.errors import IdentityError


def read(claims, *, name=None, subject_claim="sub", groups_claim="groups", attributes=None):
    mapping = ClaimMap.of(name, subject_claim, groups_claim, attributes or {})
    subject = mapping.subject(claims)
    return subject, mapping.groups(claims, subject), dict(mapping.extract_attributes(claims))


def test_github_actions():
    subject, groups, attributes = read(
        {
            "sub": "repo:octo-org/octo-repo:environment:prod",
            "repository": "octo-org/octo-repo",
            "repository_owner": "octo-org",
            "ref": "refs/heads/main",
            "ref_protected": "true",
            "actor": "octocat",
            "run_id": "42",
            "runner_environment": "self-hosted",
            "unmapped": "x",
        },
        name="github-actions",
    )
    assert (subject, groups) == ("repo:octo-org/octo-repo:environment:prod", frozenset())
    assert attributes["repository"] == "octo-org/octo-repo"
    assert attributes["actor"] == "octocat"
    assert "unmapped" not in attributes


def test_gitlab_ci():
    _, groups, attributes = read(
        {
            "sub": "project_path:shop/api:ref_type:branch:ref:main",
            "project_path": "shop/api",
            "ref_protected": "true",
            "groups_direct": ["shop", "shop/ops"],
        },
        name="gitlab-ci",
    )
    assert groups == {"shop", "shop/ops"}
    assert attributes == {"project_path": "shop/api", "ref_protected": "true"}


def test_kubernetes_reads_the_account_and_derives_its_groups():
    claims = {
        "sub": "system:serviceaccount:jobs:nightly",
        "kubernetes.io": {
            "namespace": "jobs",
            "pod": {"name": "nightly-1", "uid": "u1"},
            "serviceaccount": {"name": "nightly", "uid": "u2"},
        },
        "groups": ["system:masters"],
    }
    subject, groups, attributes = read(claims, name="kubernetes")
    assert subject == "system:serviceaccount:jobs:nightly"
    assert groups == {"system:serviceaccounts", "system:serviceaccounts:jobs"}
    assert attributes["pod"] == "nightly-1"
    assert attributes["serviceaccount"] == "nightly"


@pytest.mark.parametrize("subject", ["alice", "system:serviceaccount:jobs", "system:serviceaccount::x", "a:b:c:d"])
def test_kubernetes_accepts_service_accounts_only(subject):
    with pytest.raises(IdentityError, match="service account"):
        read({"sub": subject}, name="kubernetes")


def test_keycloak_paths_and_roles():
    _, groups, attributes = read(
        {
            "sub": "f3c1",
            "typ": "Bearer",
            "groups": ["/oncall", "/eng/db"],
            "realm_access": {"roles": ["offline_access", "dba"]},
            "preferred_username": "alice",
            "azp": "cli",
        },
        name="keycloak",
    )
    assert groups == {"oncall", "eng/db"}
    assert attributes == {"username": "alice", "roles": ("offline_access", "dba"), "client_id": "cli"}


def test_okta():
    _, groups, attributes = read(
        {"sub": "alice@example.com", "uid": "00u1", "cid": "0oa1", "scp": ["openid"], "groups": ["oncall"]}, name="okta"
    )
    assert groups == {"oncall"}
    assert attributes == {"uid": "00u1", "client_id": "0oa1", "scopes": ("openid",)}


def test_configuration_overrides_a_preset():
    subject, groups, attributes = read(
        {"sub": "x", "login": "alice", "teams": "dba", "repository": "a/b", "extra": {"deep": 7}},
        name="github-actions",
        subject_claim="login",
        groups_claim="teams",
        attributes={"repository": "extra.deep"},
    )
    assert (subject, groups, attributes) == ("alice", {"dba"}, {"repository": 7})


def test_an_unknown_preset_is_a_configuration_error():
    with pytest.raises(ValueError, match="github-actions"):
        preset("github")


@pytest.mark.parametrize("verified", [None, False, "false", 1, "yes"])
def test_an_unverified_address_names_nobody(verified):
    claims = {"sub": "x", "email": "ceo@example.com", "email_verified": verified}
    with pytest.raises(IdentityError, match="verified"):
        read(claims, subject_claim="email")


@pytest.mark.parametrize("verified", [True, "true"])
def test_a_verified_address_is_a_subject(verified):
    assert read({"sub": "x", "email": "a@b.c", "email_verified": verified}, subject_claim="email")[0] == "a@b.c"


def test_sub_is_required_where_another_claim_is_the_subject():
    with pytest.raises(IdentityError, match="who it is for"):
        read({"login": "alice"}, subject_claim="login")


@pytest.mark.parametrize(
    "groups", [7, {"a": 1}, ["a", 7], [""], ["x" * 300], ["a\nb"], [["a"]], ["a"] * 1001, "", True]
)
def test_groups_of_another_shape_refuse_the_token(groups):
    with pytest.raises(IdentityError, match="groups"):
        read({"sub": "x", "groups": groups})


@pytest.mark.parametrize("value", [{"a": 1}, [1], "x" * 5000, ["x"] * 1001, 2**60, "\ud800", ["\udfff"]])
def test_an_attribute_that_cannot_be_used_refuses_the_token(value):
    with pytest.raises(IdentityError, match="claim"):
        read({"sub": "x", "a": value}, attributes={"a": "a"})


def test_the_longest_key_wins():
    claims = {"a.b": {"c": 1}, "a": {"b": {"c": 2}, "d": 3}}
    assert lookup(claims, "a.b.c") == 1
    assert lookup(claims, "a.d") == 3
    assert lookup(claims, "a.b.x") is None
    assert lookup({"a": 7}, "a.b") is None


def test_every_preset_is_named_and_maps_attributes():
    assert set(PRESETS) == {"github-actions", "gitlab-ci", "kubernetes", "keycloak", "okta"}
    for name in PRESETS:
        json.dumps(sorted(preset(name).attributes))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["sub", "groups", "email", "typ", "kubernetes.io", "realm_access", "scp", "ref", "groups_direct"]
)


@hypothesis_settings(deadline=None)
@given(st.dictionaries(names, values), st.sampled_from([None, *PRESETS]))
def test_any_claims_are_a_principal_or_an_identity_error(claims, name):
    mapping = ClaimMap.of(name, "sub", "groups", {})
    try:
        mapping.check_kind(claims)
        subject = mapping.subject(claims)
        groups = mapping.groups(claims, subject)
        mapping.extract_attributes(claims)
    except IdentityError as error:
        assert error.public  # noqa: PT017 - either outcome is right, each with its own property
    else:
        assert subject.strip()
        assert all(groups)
