"""One lab for each PostgreSQL, and a way to run the same client script direct and through the gateway."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripts.support.lab import Lab
from scripts.support.postgres import Installation


class Both:
    """Runs a script against the server directly and through the gateway, each time with a fresh schema `work`.

    The script gets a DSN and returns what it observed; both observations must be equal.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, script: Callable[[str], Any], *, identity: str = "admin", **parameters: str) -> Any:
        direct = self._run(script, self.lab.server.dsn(**parameters))
        through = self._run(script, self.lab.dsn(identity, **parameters))
        assert through == direct
        return direct

    def _run(self, script: Callable[[str], Any], dsn: str) -> Any:
        with self.lab.server.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS work CASCADE")
            connection.execute("CREATE SCHEMA work")
        observed = script(dsn)
        return asyncio.run(observed) if inspect.iscoroutine(observed) else observed


@pytest.fixture(scope="session")
def lab(installation: Installation) -> Iterator[Lab]:
    """The sample shop behind a gateway with the demo policy, on each PostgreSQL in turn.

    The listener takes plaintext too: the embedded psql and pgbench are built without TLS. Tests must leave `public` as
    they found it and may do what they like in the schema `work`.
    """
    with Lab(installation=installation, tls="optional") as running:
        yield running


@pytest.fixture
def both(lab: Lab) -> Both:
    return Both(lab)
