"""What the claims of a verified token mean: subject, groups, attributes; and presets for well-known issuers.

A claim is named by its key, or by keys joined with dots where it sits inside an object (`realm_access.roles`). A key
that itself holds a dot (`kubernetes.io`) is found too: the longest key that exists wins.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from guard.identity.errors import IdentityError

MAX_SUBJECT = 512  # characters
MAX_GROUPS = 1000
MAX_GROUP = 256  # characters
MAX_ATTRIBUTE = 4096  # characters of one attribute value
MAX_TOKEN_ID = 128  # characters; a longer `jti` is stored as its digest

Attribute = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """What one kind of issuer calls things. `attributes` maps our name to the claim's."""

    subject_claim: str = "sub"
    groups_claim: str = "groups"
    attributes: Mapping[str, str] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()  # values accepted in the *claim* `typ`; empty: the claim is not looked at
    account_groups: bool = False  # Kubernetes: derive the groups that the API server gives a service account


def _same(*names: str) -> Mapping[str, str]:
    return MappingProxyType({name: name for name in names})


# sources: each vendor's page on the claims of its ID tokens, and for Kubernetes "Service account token claims"
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "github-actions": Preset(
            groups_claim="",
            attributes=_same(
                "repository",
                "repository_id",
                "repository_owner",
                "repository_owner_id",
                "repository_visibility",
                "ref",
                "ref_type",
                "ref_protected",
                "base_ref",
                "head_ref",
                "sha",
                "workflow",
                "workflow_ref",
                "job_workflow_ref",
                "environment",
                "event_name",
                "actor",
                "actor_id",
                "run_id",
                "run_number",
                "run_attempt",
                "runner_environment",
                "enterprise",
            ),
        ),
        "gitlab-ci": Preset(
            groups_claim="groups_direct",
            attributes=_same(
                "namespace_id",
                "namespace_path",
                "project_id",
                "project_path",
                "project_visibility",
                "user_id",
                "user_login",
                "user_email",
                "user_access_level",
                "pipeline_id",
                "pipeline_source",
                "job_id",
                "ref",
                "ref_type",
                "ref_path",
                "ref_protected",
                "environment",
                "environment_protected",
                "deployment_tier",
                "runner_id",
                "runner_environment",
                "sha",
                "ci_config_ref_uri",
            ),
        ),
        "kubernetes": Preset(
            groups_claim="",
            attributes=MappingProxyType(
                {
                    "namespace": "kubernetes.io.namespace",
                    "serviceaccount": "kubernetes.io.serviceaccount.name",
                    "serviceaccount_uid": "kubernetes.io.serviceaccount.uid",
                    "pod": "kubernetes.io.pod.name",
                    "pod_uid": "kubernetes.io.pod.uid",
                    "node": "kubernetes.io.node.name",
                }
            ),
            account_groups=True,
        ),
        "keycloak": Preset(
            attributes=MappingProxyType(
                {
                    "username": "preferred_username",
                    "email": "email",
                    "client_id": "azp",
                    "roles": "realm_access.roles",
                    "session": "sid",
                }
            ),
            # a refresh, offline or logout token of the same realm is signed for other purposes
            kinds=frozenset({"Bearer", "ID"}),
        ),
        "okta": Preset(
            attributes=MappingProxyType({"email": "email", "uid": "uid", "client_id": "cid", "scopes": "scp"}),
        ),
    }
)
_PLAIN = Preset()


def preset(name: str | None) -> Preset:
    """The preset of that name; raises ValueError, because an unknown preset is a broken configuration."""
    if name is None:
        return _PLAIN
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"unknown preset `{name}`: known are {', '.join(sorted(PRESETS))}") from None


@dataclass(frozen=True, slots=True)
class ClaimMap:
    """How the tokens of one issuer become a principal: its preset, overridden by what the configuration says."""

    subject_claim: str
    groups_claim: str
    attributes: Mapping[str, str]
    preset: Preset
    group_prefix: str = ""

    @classmethod
    def of(
        cls,
        preset_name: str | None,
        subject_claim: str,
        groups_claim: str,
        attributes: Mapping[str, str],
        group_prefix: str | None = None,
    ) -> ClaimMap:
        """A configured claim that still has its default value gives way to the preset's."""
        base = preset(preset_name)
        return cls(
            subject_claim=base.subject_claim if subject_claim == _PLAIN.subject_claim else subject_claim,
            groups_claim=base.groups_claim if groups_claim == _PLAIN.groups_claim else groups_claim,
            attributes=MappingProxyType({**base.attributes, **attributes}),
            preset=base,
            group_prefix=group_prefix or "",
        )

    def subject(self, claims: Mapping[str, Any]) -> str:
        """Who this is. `sub` must be there even where another claim names the person (RFC 7519 section 4.1.2)."""
        _text(claims.get("sub"), "sub")
        subject = _text(lookup(claims, self.subject_claim), self.subject_claim)
        verified = claims.get("email_verified")
        if self.subject_claim == "email" and verified is not True and verified != "true":
            # anyone may write any address into an account of many issuers
            raise IdentityError("token's e-mail address is not verified; ask your identity provider's administrator")
        return subject

    def groups(self, claims: Mapping[str, Any], subject: str) -> frozenset[str]:
        """The groups; a groups claim of another shape refuses the token, because a group may also take rights away."""
        found = lookup(claims, self.groups_claim) if self.groups_claim else None
        listed = [found] if isinstance(found, str) else found
        if listed is None:
            listed = []
        if not isinstance(listed, list) or len(listed) > MAX_GROUPS or not all(_is_group(group) for group in listed):
            raise IdentityError(
                "token's groups are not a list of names; ask your identity provider's administrator",
                f"claim `{self.groups_claim}` is no list of at most {MAX_GROUPS} short strings",
            )
        groups = {group.removeprefix("/") for group in listed}  # Keycloak writes a group as its full path
        if self.preset.account_groups:
            groups |= _account_groups(subject)
        return frozenset(self.group_prefix + group for group in groups)

    def extract_attributes(self, claims: Mapping[str, Any]) -> Mapping[str, Attribute]:
        """The mapped claims that are there. An object or an oversized value refuses the token rather than being cut."""
        found: dict[str, Attribute] = {}
        for name, claim in self.attributes.items():
            value = lookup(claims, claim)
            if value is not None:
                found[name] = _attribute(value, claim)
        return MappingProxyType(found)

    def check_kind(self, claims: Mapping[str, Any]) -> None:
        """Where the issuer writes what a token is for into the claim `typ`, only access and ID tokens open anything."""
        kind = claims.get("typ")
        if self.preset.kinds and kind is not None and (not isinstance(kind, str) or kind not in self.preset.kinds):
            raise IdentityError("this is not an access token; send the access token or the id token")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One claim that a token of an issuer must have, and what it may be."""

    claim: str
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, claim: str, patterns: Sequence[str]) -> Requirement:
        """Patterns as in policies: `*`, `?` and `[ab]`; letter case counts."""
        return cls(claim, tuple(re.compile(fnmatch.translate(pattern)) for pattern in patterns))

    def check(self, claims: Mapping[str, Any], subject: str) -> None:
        """Raises IdentityError, which names the claim and never its value."""
        value = lookup(claims, self.claim)
        found = [_word(item) for item in value] if isinstance(value, list) else [_word(value)]
        if not found or None in found:
            raise IdentityError(
                f"token has no usable claim `{self.claim}`, which this gateway requires of its issuer; "
                "ask the gateway's operator",
                f"claim `{self.claim}` is absent, or neither a word nor a list of words",
                subject=subject,
            )
        if not any(pattern.match(word) for word in found if word is not None for pattern in self.patterns):
            raise IdentityError(
                f"token's claim `{self.claim}` is not one that this gateway accepts from its issuer; "
                "ask the gateway's operator",
                f"claim `{self.claim}` fits no pattern of `require`",
                subject=subject,
            )


def _word(value: Any) -> str | None:
    """A claim's value as patterns see it, or None for what has no such form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 2**53:
        return str(value)
    return value if _is_plain(value) else None


def lookup(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at `path`, or None."""
    if path in claims:
        return claims[path]
    keys = path.split(".")
    for length in range(len(keys) - 1, 0, -1):
        inner = claims.get(".".join(keys[:length]))
        if isinstance(inner, Mapping):
            found = lookup(inner, ".".join(keys[length:]))
            if found is not None:
                return found
    return None


def token_id(claims: Mapping[str, Any], token: str) -> str:
    """The name under which a token can be revoked: its `jti`, or a digest where it has none.

    The digest covers what was signed and not the signature: an ECDSA signature has a second valid form (r, n-s), which
    would be a second name for one token.
    """
    jti = claims.get("jti")
    if isinstance(jti, str) and 0 < len(jti) <= MAX_TOKEN_ID and jti.isprintable():
        return jti
    return "sha256:" + hashlib.sha256(token.rpartition(".")[0].encode("ascii")).hexdigest()[:32]


def _text(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_SUBJECT or not value.isprintable():
        raise IdentityError("token does not say who it is for", f"claim `{claim}` is no short, printable string")
    return value


def _is_group(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_GROUP and value.isprintable()


def _attribute(value: Any, claim: str) -> Attribute:
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**53) or _is_plain(value):
        return value  # type: ignore[no-any-return]  # narrowed by _is_plain
    if isinstance(value, list) and len(value) <= MAX_GROUPS and all(_is_plain(item) for item in value):
        return tuple(value)
    raise IdentityError(
        "token carries a claim that cannot be used; ask your identity provider's administrator",
        f"claim `{claim}` is neither a short value nor a list of strings",
    )


def _is_plain(value: Any) -> bool:
    # a lone surrogate can be written in json and in nothing else
    return isinstance(value, str) and len(value) <= MAX_ATTRIBUTE and not any("\ud800" <= c <= "\udfff" for c in value)


def _account_groups(subject: str) -> set[str]:
    # `system:serviceaccount:NAMESPACE:NAME`, as the Kubernetes API server reads it
    parts = subject.split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"] or not all(parts):
        raise IdentityError("token is not a kubernetes service account token")
    return {"system:serviceaccounts", f"system:serviceaccounts:{parts[2]}"}
