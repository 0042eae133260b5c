"""Whose word counts for what: issuers that anybody can get a token of, and names that several issuers can vouch for.

A gateway that trusts a public issuer, and asks no more of its tokens, has the whole internet among its identities. With
two issuers, a group that the one gives its on-call engineers is a group that anybody may found at the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal

from guard.config.schema import Config, IssuerConfig, RoleMembers, RolesConfig
from guard.documents import Document, Problem
from guard.documents.validate import suggest
from guard.enforce import PolicySet
from guard.enforce.patterns import is_literal
from guard.enforce.rules import GRANTS, Rule
from guard.enforce.schema import Who
from guard.identity.claims import ClaimMap

_ANY_GROUP = ""
_EMAIL, _EMAIL_VERIFIED = "email", "email_verified"
_ACCOUNT_GROUPS = "system:serviceaccounts"
_ACCOUNTS = "system:serviceaccount:"

# `whole`: a pattern without wildcards; `path`: also one that names what is before the first slash
_Form = Literal["whole", "path"]
_GITHUB: Mapping[str, _Form] = {
    "repository_owner": "whole",
    "repository_owner_id": "whole",
    "repository": "path",
    "repository_id": "whole",
    "enterprise": "whole",
    "enterprise_id": "whole",
    "sub": "path",
}
_GITLAB: Mapping[str, _Form] = {
    "namespace_path": "path",
    "namespace_id": "whole",
    "project_path": "path",
    "project_id": "whole",
    "sub": "path",
}
# what stands before the path in `sub`, as the issuers document it
_SUB_HEADS = ("repo:", "project_path:")

PUBLIC: Mapping[str, Mapping[str, _Form]] = MappingProxyType(
    {
        "https://token.actions.githubusercontent.com": _GITHUB,
        "https://gitlab.com": _GITLAB,
        "https://agent.buildkite.com": {"organization_slug": "whole", "organization_id": "whole"},
        "https://app.terraform.io": {"terraform_organization_name": "whole", "terraform_organization_id": "whole"},
        "https://accounts.google.com": {"hd": "whole", "email": "whole", "sub": "whole"},
    }
)
"""Issuers that sign tokens for everybody with an account, for any audience; and the claims that say whose they are."""


def public_issuers(config: Config, document: Document) -> Iterator[Problem]:
    """Public issuers whose `require` does not say whose tokens are meant."""
    for index, issuer in enumerate(config.issuers):
        claims = PUBLIC.get(issuer.issuer.rstrip("/").lower())
        if claims is None or any(
            _narrows(issuer.require.get(claim, ()), claim, form) for claim, form in claims.items()
        ):
            continue
        example = next(iter(claims))
        known = ", ".join(f"`{claim}`" for claim in claims)
        told = "does not say whose are meant" if issuer.require else "is missing"
        yield document.problem(
            ("issuers", index),
            f"anybody can get a token of {issuer.issuer} for any audience, and `require` {told}: write "
            f"`require: {{{example}: [YOURS]}}` (one of {known}, each pattern with your own name in full)",
        )


def _narrows(patterns: Sequence[str], claim: str, form: _Form) -> bool:
    return bool(patterns) and all(_names_one(pattern, claim, form) for pattern in patterns)


def _names_one(pattern: str, claim: str, form: _Form) -> bool:
    if is_literal(pattern):
        return True
    if form == "whole":
        return False
    head = _head(pattern)
    if claim == "sub":
        begun = next((begun for begun in _SUB_HEADS if head.startswith(begun)), None)
        if begun is None:
            return False
        head = head.removeprefix(begun)
    return head.find("/") > 0


def unclear_roles(config: Config, document: Document) -> Iterator[Problem]:
    """Roles that identities of several issuers have, where only one of them can have been meant."""
    known = [issuer.issuer for issuer in config.issuers]
    for name in RolesConfig.model_fields:
        role: RoleMembers = getattr(config.roles, name)
        for index, issuer in enumerate(role.issuers):
            if issuer not in known:
                place = ("roles", name, "issuers", index)
                yield document.problem(place, f"no issuer `{issuer}` is configured{suggest(issuer, known)}")
        if role.issuers:
            continue
        named = [("group", group, _naming_group(config.issuers, [group])) for group in role.groups]
        named += [("subject", subject, _naming_subject(config.issuers, [subject])) for subject in role.subjects]
        for what, word, issuers in named:
            if len(issuers) > 1:
                yield document.problem(
                    ("roles", name),
                    f"{what} `{word}` has the role `{name}`, whichever issuer says so, and {_several(issuers)} can: "
                    f"{_remedy(what)}",
                    key=True,
                )
                break


def unclear_rules(config: Config, document: Document, policies: PolicySet) -> Iterator[Problem]:
    """Rules that grant, spare or let people decide by names that several issuers can vouch for."""
    for rule in policies.rules:
        for part, issuers in _unclear_parts(config.issuers, rule):
            yield document.problem(
                ("policies",),
                f"rule `{rule.name}`: its `{part}` names no issuer, and {_several(issuers)} can vouch for such an "
                f"identity: {_remedy('group')}",
                key=True,
            )
        yield from _unknown_issuers(config, document, rule)
        yield from _by_unverified_email(config, document, rule)


def _unclear_parts(issuers: Sequence[IssuerConfig], rule: Rule) -> Iterator[tuple[str, Sequence[IssuerConfig]]]:
    model = rule.model
    # a stop, an alert or a mask that reaches more identities than were meant opens nothing
    if rule.verb in GRANTS and model.who is not None and len(found := _fitting(issuers, model.who)) > 1:
        yield "who", found
    if model.unless is not None and model.unless.who is not None:
        spared = _fitting(issuers, model.unless.who)
        if len(spared) > 1:
            yield "unless.who", spared
    terms = model.approvers
    if terms is not None and not terms.issuers:
        naming = [_naming_group(issuers, [group]) for group in terms.groups]
        naming += [_naming_subject(issuers, [subject]) for subject in terms.subjects]
        unclear = next((several for several in naming if len(several) > 1), None)
        if unclear is not None:
            yield "approvers", unclear


def _by_unverified_email(config: Config, document: Document, rule: Rule) -> Iterator[Problem]:
    """Warnings: grants by an e-mail address, which some issuers let everybody write into their own account."""
    model = rule.model
    granting = (model.who if rule.verb in GRANTS else None, model.unless.who if model.unless is not None else None)
    for who in granting:
        for issuer in config.issuers:
            if who is None or _EMAIL_VERIFIED in issuer.require:
                continue
            attributes = _map(issuer).attributes
            named = [name for name in who.claims if attributes.get(name) == _EMAIL]
            if named and (not who.issuers or any(fnmatchcase(issuer.issuer, one) for one in who.issuers)):
                message = (
                    f"rule `{rule.name}` goes by `{named[0]}`, which some issuers let everybody write: `require: "
                    f'{{{_EMAIL_VERIFIED}: ["true"]}}` at {issuer.issuer} refuses tokens whose address nobody verified'
                )
                yield document.problem(("policies",), message, key=True, warning=True)


def _unknown_issuers(config: Config, document: Document, rule: Rule) -> Iterator[Problem]:
    model = rule.model
    known = [issuer.issuer for issuer in config.issuers]
    whose = [model.who, model.unless.who if model.unless is not None else None]
    named = [name for who in whose if who is not None for name in who.issuers if is_literal(name)]
    named += model.approvers.issuers if model.approvers is not None else ()
    for name in named:
        if name not in known:
            message = f"rule `{rule.name}` is about issuer `{name}`, which is not configured here{suggest(name, known)}"
            yield document.problem(("policies",), message, key=True, warning=True)


def _fitting(issuers: Sequence[IssuerConfig], who: Who) -> Sequence[IssuerConfig]:
    """The issuers whose identities `who` can fit; none where it says which are meant."""
    if who.issuers:
        return ()
    found = list(issuers)
    if who.subjects:
        found = _naming_subject(found, who.subjects)
    if who.groups:
        found = _naming_group(found, who.groups)
    return [issuer for issuer in found if who.claims.keys() <= _map(issuer).attributes.keys()]


def _naming_group(issuers: Iterable[IssuerConfig], patterns: Sequence[str]) -> list[IssuerConfig]:
    return [x for x in issuers if any(_can_begin(pattern, head) for pattern in patterns for head in _group_heads(x))]


def _naming_subject(issuers: Iterable[IssuerConfig], patterns: Sequence[str]) -> list[IssuerConfig]:
    return [x for x in issuers if any(_can_begin(pattern, _subject_head(x)) for pattern in patterns)]


def _group_heads(issuer: IssuerConfig) -> list[str]:
    """How the groups of this issuer's identities begin; empty: they have none."""
    claims = _map(issuer)
    heads = [_ANY_GROUP] if claims.groups_claim else []
    if claims.preset.account_groups:
        heads.append(_ACCOUNT_GROUPS)
    return [claims.group_prefix + head for head in heads]


def _subject_head(issuer: IssuerConfig) -> str:
    return _ACCOUNTS if _map(issuer).preset.account_groups else ""


def _map(issuer: IssuerConfig) -> ClaimMap:
    return ClaimMap.of(issuer.preset, issuer.subject_claim, issuer.groups_claim, issuer.attributes, issuer.group_prefix)


def _can_begin(pattern: str, head: str) -> bool:
    """Whether a name that begins with `head` can fit the pattern."""
    if is_literal(pattern):
        return pattern.startswith(head)
    begin = _head(pattern)
    return begin.startswith(head) or head.startswith(begin)


def _head(pattern: str) -> str:
    """What stands before the first wildcard."""
    return pattern[: min(at for wild in "*?[" if (at := pattern.find(wild)) >= 0)]


def _several(issuers: Sequence[IssuerConfig]) -> str:
    names = [issuer.issuer for issuer in issuers]
    return f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"


def _remedy(what: str) -> str:
    also = ", or give the other issuers a `group_prefix`" if what == "group" else ""
    return f"add `issuers: [...]` to it{also}"
