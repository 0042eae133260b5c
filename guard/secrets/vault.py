"""Secrets in HashiCorp Vault's key/value engine, version 2.

Source: Vault HTTP API, "KV secrets engine - version 2", Read secret version: `GET /v1/:mount/data/:path` answers
`{"data": {"data": {...}, "metadata": {...}}}`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from guard import outbound
from guard.secrets.secret import Secret, SecretError

if TYPE_CHECKING:
    from guard.secrets.store import Resolve, SecretRef

_DEFAULT_USERNAME_KEY = "username"
_REASONS = {
    307: "this node is a standby that redirects; name the active node, or let vault forward requests",
    400: "the request was not understood; is the engine mounted there?",
    403: "permission denied; renew the token, or give it a policy for reading",
    404: "no such secret",
    429: "too many requests",
    473: "this node is a standby without forwarding",
    503: "sealed or down for maintenance",
}


async def read(ref: SecretRef, resolve: Resolve) -> Secret:
    """The value of `ref.key` in the newest version of the secret at `ref.path`, and the user name beside it.

    The user name is looked for only where the reference is a credential without a `user`, a session token where it
    names that key. Redirects are not followed: a standby node that answers with one would have our token carried to a
    host that nobody configured.
    """
    if ref.token is None:
        raise SecretError("vault needs a `token` reference")
    token = await resolve(ref.token)
    url = f"{(ref.address or '').rstrip('/')}/v1/{quote(_path(ref.path or ''))}"
    headers = {"X-Vault-Token": token.password, "X-Vault-Request": "true"}
    if ref.namespace:
        headers["X-Vault-Namespace"] = ref.namespace
    try:
        response = await outbound.request("GET", url, headers=headers, ca=ref.ca)
    except outbound.OutboundError as error:
        raise SecretError(f"vault: {error}") from None
    if response.status != 200:
        reason = _REASONS.get(response.status, f"status {response.status}")
        raise SecretError(f"vault: `{ref.path}`: {reason}")
    values = _values(response.body, ref.path or "")
    username = None
    if hasattr(ref, "user") and ref.user is None:
        username = _text(values, getattr(ref, "username_key", None) or _DEFAULT_USERNAME_KEY, ref.path or "")
    token_key = getattr(ref, "session_token_key", None)
    session_token = _text(values, token_key, ref.path or "") if token_key else ""
    return Secret(_text(values, ref.key or "", ref.path or ""), username, session_token)


def _path(path: str) -> str:
    """`secret/data/shop`, as the API has it; `secret/shop`, as the command line has it, gets its `data/`."""
    parts = path.strip("/").split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise SecretError(f"vault path `{path}` must be the engine's mount, `data/` and the secret's name")
    if len(parts) == 2 or "data" not in parts[1:-1]:
        parts.insert(1, "data")
    return "/".join(parts)


def _values(body: bytes, path: str) -> dict[str, Any]:
    try:
        values = json.loads(body)["data"]["data"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise SecretError(f"vault: the answer for `{path}` is no version 2 secret") from None
    if not isinstance(values, dict):
        # a deleted version is answered with 404 or with null data, depending on the release
        raise SecretError(f"vault: the newest version of `{path}` is deleted")
    return values


def _text(values: dict[str, Any], key: str, path: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise SecretError(f"vault: `{path}` has no text under the key `{key}`")
    return value
