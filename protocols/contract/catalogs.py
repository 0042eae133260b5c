"""Connections of the gateway's own, which read what names stand for.

Their methods are generators that yield `Send`, `Receive` and `StartTls` for `Side.UPSTREAM`, like a handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocols.contract.handshakes import Credential


class CatalogSnapshot(Protocol):
    """An immutable picture of the names on a resource. `version` changes with any of them."""

    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    """How a connection of the gateway's own logs in. `timeout` (seconds) bounds each look-up, on the server as well."""

    credential: Credential
    database: str
    tls: bool
    nonce: bytes = field(repr=False)
    timeout: float = 5.0


class CatalogError(Exception):
    """The catalog could not be read: statements that need it are unknown. The text is for the gateway's log."""


class CatalogSource(Protocol):
    """One connection that reads the names on a resource, and nothing else. Any failure ends it."""

    def log_in(self, login: UpstreamLogin) -> Generator[Any, Any, None]:
        """From the first byte until it takes questions; raises `Refused` or `WireError`."""

    def version(self) -> Generator[Any, Any, str]:
        """Changes whenever a name may mean something else. Raises `CatalogError` or `WireError`."""

    def load(self) -> Generator[Any, Any, Callable[[], CatalogSnapshot]]:
        """Reads everything; what it returns builds the snapshot, in a thread. Raises `CatalogError` or `WireError`."""
