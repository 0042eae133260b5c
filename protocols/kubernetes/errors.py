"""Typed failures of this protocol, each with the HTTP status and the reason that a Status object names."""

from __future__ import annotations

from protocols.contract import WireError


class RequestRefused(Exception):
    """A request that is not in the one form that is judged. The text is for the client: lower case, no secrets."""

    def __init__(self, message: str, code: int = 400, reason: str = "BadRequest") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Unreadable(Exception):
    """A body that cannot be read as the API server would: what it does is unknown."""


class Withheld(Exception):
    """An answer that cannot be masked: nothing of it may reach the client."""


class StreamError(WireError):
    """Bytes that SPDY/3.1 or a channel protocol does not allow. The stream ends; the process goes on."""
