"""Identity towards the API server: what a client may not say, and what the gateway says for it.

Source: Kubernetes' reference, "User impersonation".
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence

from protocols.contract import Principal
from protocols.kubernetes.errors import RequestRefused

USER = "Impersonate-User"
GROUP = "Impersonate-Group"
UID = "Impersonate-Uid"
EXTRA = "Impersonate-Extra-"
MAX_GROUPS = 200
# what the front proxy of an API server says: nothing that a client may ever say
_FORGED = ("impersonate-", "x-remote-")
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$&'*+-.^_`|~")  # RFC 9110, 5.6.2, without `%`
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


def stripped(headers: Headers) -> list[tuple[str, str]]:
    """The headers without any that claim an identity, and without credentials, which were the gateway's to read.

    A `Connection` header naming one of ours would make a next hop drop it: hop-by-hop headers are the caller's to
    remove *before* it adds `impersonation_headers`.
    """
    return [
        (name, value)
        for name, value in headers
        if _folded(name) not in _CREDENTIALS and not _folded(name).startswith(_FORGED)
    ]


def impersonation_headers(
    principal: Principal,
    *,
    user_prefix: str = "",
    group_prefix: str = "",
    groups: Sequence[str] | None = None,
    extra: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """The headers that make the upstream act as this principal, with prefixes that keep its names from meaning others'.

    Raises `RequestRefused` for a name that a header cannot carry or that is Kubernetes' own (`system:`): a token's
    subject must not become `system:admin`, nor one of its groups `system:masters`.
    """
    named = [(USER, f"{user_prefix}{principal.subject}")]
    chosen = sorted(principal.groups) if groups is None else list(groups)
    if len(chosen) > MAX_GROUPS:
        raise RequestRefused("the identity has too many groups", 403, "Forbidden")
    named += [(GROUP, f"{group_prefix}{group}") for group in chosen]
    for name, value in named:
        if is_reserved(value):
            raise RequestRefused(f"the identity's {name.lower()} is one of kubernetes' own names", 403, "Forbidden")
    for key, values in sorted((extra or {}).items()):
        named += [(EXTRA + _escaped(key), value) for value in values]
    for _, value in named:
        if not value or value != value.strip() or not value.isprintable() or not value.isascii():
            raise RequestRefused("the identity holds what no header can carry", 403, "Forbidden")
    return named


def is_reserved(value: str) -> bool:
    """Whether it is a name of Kubernetes' own, which no client becomes."""
    return value.casefold().strip().startswith(_RESERVED)


def _folded(name: str) -> str:
    # `_` for `-` is one header for some servers
    return name.strip().lower().replace("_", "-")


def _escaped(key: str) -> str:
    """Keys are lower-cased by the server and percent-encoded where they hold more than a header's name may."""
    if not key:
        raise RequestRefused("an extra attribute of the identity has no name", 403, "Forbidden")
    return "".join(chr(byte) if chr(byte) in _TOKEN and byte < 128 else f"%{byte:02X}" for byte in key.lower().encode())
