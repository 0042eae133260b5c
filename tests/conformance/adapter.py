"""What a protocol says about itself so that the conformance suite can ask it the same questions as all others.

`tests/conformance/NAME.py` has an `ADAPTER` for each protocol of the registry. It holds words and connections, no
expectations: those are in `test_conformance.py`, and the same for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocols.registry import PROTOCOLS
from scripts.support.lab import AnyInstallation, Lab


class ServerError(Exception):
    """An error of the protocol's own, after which the connection lives. `code`: SQLSTATE."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Ended(Exception):
    """The connection has ended; `code` and `text` of the server's last words, where it had any."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Client(Protocol):
    """A connection of an ordinary driver, in autocommit mode. Not for concurrent use, but for `cancel`."""

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a statement sent as text. Raises `ServerError` or `Ended`."""

    def prepared(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The same with a prepared statement and bound parameters; `?` marks one."""

    def in_transaction(self) -> bool:
        """What the client believes, from what the server told it."""

    def cancel(self) -> None:
        """As the driver's users do; from any thread."""

    def drop(self) -> None:
        """Leaves without a word: the end of the socket and nothing else."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody at a gateway: `user` decides nothing, `password` is where the token goes."""

    user: str
    password: str
    database: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """The same statements in the protocol's own SQL. The sample shop is loaded, and `notes` (id, note) is empty."""

    schema: str  # how records and policies call it
    fails: str  # a statement that the server refuses
    sleep: str  # `{}`: seconds
    busy: str  # true once a statement that contains `{}` runs on the server; by the superuser


@dataclass(frozen=True, slots=True)
class Adapter:
    """One protocol. Codes are SQLSTATEs, those that the gateway may answer with."""

    name: str
    servers: Mapping[str, Callable[[], AnyInstallation | None]]  # by name; None: not here. The first is the fast lane's
    how_to_get: Callable[[str], str]
    words: Words
    connect: Callable[[Lab, Login], Client]  # verified TLS; raises `Ended` where it is not let in
    direct: Callable[[Lab], Client]
    end: Callable[[Client, str], None]  # by the superuser: ends the sessions that run a statement with this tag
    codes_denied: frozenset[str]
    codes_refused: frozenset[str]
    codes_ended: frozenset[str]
    codes_cancelled: frozenset[str]
    garbage: Sequence[bytes]  # as the first bytes of a connection


def load() -> dict[str, Adapter]:
    """Every protocol of the registry has one: ModuleNotFoundError where somebody forgot."""
    return {name: importlib.import_module(f"tests.conformance.{name}").ADAPTER for name in PROTOCOLS}
