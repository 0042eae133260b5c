"""Secrets in environment variables of the gateway's process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from guard.secrets.secret import Secret, SecretError

if TYPE_CHECKING:
    from guard.secrets.store import Resolve, SecretRef


async def read(ref: SecretRef, _resolve: Resolve) -> Secret:
    """The variable `ref.name`; one that is unset or empty is an error, because an empty password is never meant."""
    value = os.environ.get(ref.name or "", "")
    if not value:
        raise SecretError(f"environment variable `{ref.name}` is not set; set it where the gateway starts")
    return Secret(value)
