"""A credential that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretError(Exception):
    """A secret cannot be had. The text names the place and what to do, never a value."""


class Secret:
    """A password and, where the provider has one, the user name that belongs to it.

    No `str`, `repr`, `format`, pickle, copy or ordering of it shows the value: only `password` does.
    """

    __slots__ = ("_password", "_username")

    def __init__(self, password: str, username: str | None = None) -> None:
        self._password = password
        self._username = username

    @property
    def password(self) -> str:
        """The value itself; an empty string where the upstream asks for none."""
        return self._password

    @property
    def username(self) -> str | None:
        """The user name kept beside it, or None."""
        return self._username

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same = hmac.compare_digest(self._password.encode(), other._password.encode())
        return same and self._username == other._username

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is no key of a dictionary")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied or written anywhere")
