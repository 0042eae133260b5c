"""A credential that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretError(Exception):
    """A secret cannot be had. The text names the place and what to do, never a value."""


class Secret:
    """A password and, where the provider has them, the user name and the session token that belong to it.

    No `str`, `repr`, `format`, pickle, copy or ordering of it shows a value: only `password` and `session_token` do.
    """

    __slots__ = ("_password", "_session_token", "_username")

    def __init__(self, password: str, username: str | None = None, session_token: str = "") -> None:
        self._password = password
        self._username = username
        self._session_token = session_token

    @property
    def password(self) -> str:
        """The value itself; an empty string where the upstream asks for none."""
        return self._password

    @property
    def username(self) -> str | None:
        """The user name kept beside it, or None."""
        return self._username

    @property
    def session_token(self) -> str:
        """The session token kept beside it; empty where there is none."""
        return self._session_token

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same = hmac.compare_digest(self._password.encode(), other._password.encode())
        same &= hmac.compare_digest(self._session_token.encode(), other._session_token.encode())
        return same and self._username == other._username

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is no key of a dictionary")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied or written anywhere")
