"""Identity towards the API server: what a client may not say, and what the gateway says for it.

Source: Kubernetes' reference, "User impersonation".
"""

from __future__ import annotations

from collections.abc import Iterable

from protocols.contract import Principal
from protocols.kubernetes.errors import RequestRefused

USER = "Impersonate-User"
GROUP = "Impersonate-Group"
MAX_GROUPS = 200
_RESERVED = "system:"

type Headers = Iterable[tuple[str, str]]


def asked(headers: Headers) -> tuple[str, ...]:
    """What the client's own headers ask to be (`user:jane`, `group:ops`): an effect that a rule must grant."""
    found = []
    for name, value in headers:
        lower = _folded(name)
        if lower.startswith("impersonate-"):
            found.append(f"{lower.removeprefix('impersonate-')}:{value}")
    return tuple(found)


def impersonation_headers(principal: Principal) -> list[tuple[str, str]]:
    """The headers that make the upstream act as this principal.

    Raises `RequestRefused` for a name that a header cannot carry or that is Kubernetes' own (`system:`): a token's
    subject must not become `system:admin`, nor one of its groups `system:masters`.
    """
    groups = sorted(principal.groups)
    if len(groups) > MAX_GROUPS:
        raise RequestRefused("the identity has too many groups", 403, "Forbidden")
    named = [(USER, principal.subject), *((GROUP, group) for group in groups)]
    for name, value in named:
        if is_reserved(value):
            raise RequestRefused(f"the identity's {name.lower()} is one of kubernetes' own names", 403, "Forbidden")
        if not value or value != value.strip() or not value.isprintable() or not value.isascii():
            raise RequestRefused("the identity holds what no header can carry", 403, "Forbidden")
    return named


def is_reserved(value: str) -> bool:
    """Whether it is a name of Kubernetes' own, which no client becomes."""
    return value.casefold().strip().startswith(_RESERVED)


def _folded(name: str) -> str:
    # `_` for `-` is one header for some servers
    return name.strip().lower().replace("_", "-")
