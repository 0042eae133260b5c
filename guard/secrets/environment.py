"""Secrets in environment variables of the gateway's process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from guard.secrets.secret import Secret, SecretError

if TYPE_CHECKING:
    from guard.secrets.store import Resolve, SecretRef


async def read(ref: SecretRef, _resolve: Resolve) -> Secret:
    """What `value` gives."""
    return Secret(value(ref))


def value(ref: SecretRef) -> str:
    """The variable `ref.name`. Unset or empty it is a SecretError, because an empty password is never meant."""
    found = os.environ.get(ref.name or "", "")
    if not found:
        raise SecretError(f"environment variable `{ref.name}` is not set; set it where the gateway starts")
    return found
