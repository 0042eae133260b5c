"""One lab for each database server, and a way to run the same client script direct and through the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.support import mysql
from scripts.support.lab import AnyInstallation, Lab
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


class Labs:
    """The labs of a worker, one for each installation, up until all its files are done.

    A fixture with parameters ends the lab of one parameter for that of the next, and so starts two for every file.
    """

    def __init__(self) -> None:
        self._kept: dict[AnyInstallation, Lab] = {}

    def get(self, installation: AnyInstallation, **options: Any) -> Lab:
        kept = self._kept.get(installation)
        if kept is not None and not (kept.gateway.process.running and kept.server.process.running):
            kept.stop()  # a test that ends them has one of its own; this was none that meant to
            kept = None
        if kept is None:
            kept = self._kept[installation] = Lab(installation=installation, **options)
        return kept

    def stop(self) -> None:
        while self._kept:
            self._kept.popitem()[1].stop()


@pytest.fixture(scope="session")
def labs() -> Iterator[Labs]:
    made = Labs()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def lab(installation: Installation, labs: Labs) -> Lab:
    """The sample shop behind a gateway with the demo policy, on each PostgreSQL in turn.

    The listener takes plaintext too: the embedded psql and pgbench are built without TLS. Tests must leave `public` as
    they found it and may do what they like in the schema `work`.
    """
    return labs.get(installation, tls="optional")


@pytest.fixture
def both(lab: Lab) -> Both:
    return Both(lab)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a MySQL client connects, and as whom; TLS is verified with `ca`."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ca: Path


class BothMySQL:
    """Runs a script against the server directly and through the gateway, each time with a fresh database `work`.

    The script gets an `Address` and returns what it observed; both observations must be equal.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def flavour(self) -> str:
        assert isinstance(self.lab.server, mysql.MySQLServer)
        return self.lab.server.installation.flavour

    def direct(self) -> Address:
        server = self.lab.server
        assert server.authority is not None
        return Address(server.host, server.port, server.user, server.password, "work", server.authority.file)

    def through(self, identity: str = "admin", database: str = "work") -> Address:
        gateway = self.lab.gateway
        return Address(gateway.host, gateway.port, identity, self.lab.tokens[identity], database, gateway.ca_file)

    def __call__(self, script: Callable[[Address], Any], *, identity: str = "admin") -> Any:
        direct = self._run(script, self.direct())
        through = self._run(script, self.through(identity))
        assert through == direct
        return direct

    def _run(self, script: Callable[[Address], Any], address: Address) -> Any:
        with contextlib.closing(self.lab.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS work")
            cursor.execute("CREATE DATABASE work")
        observed = script(address)
        return asyncio.run(observed) if inspect.iscoroutine(observed) else observed


@pytest.fixture(scope="session")
def mysql_lab(mysql_installation: mysql.Installation, labs: Labs) -> Lab:
    """The sample shop behind a gateway with the demo policy, on MariaDB and MySQL in turn, TLS on both legs.

    Tests leave `shop` as they found it and may do what they like in the database `work`.
    """
    return labs.get(mysql_installation, adjust=_work_too)


def _work_too(document: dict[str, Any]) -> None:
    document["resources"][0]["databases"] = ["work"]


@pytest.fixture
def both_mysql(mysql_lab: Lab) -> BothMySQL:
    return BothMySQL(mysql_lab)
