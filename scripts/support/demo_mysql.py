"""MariaDB or MySQL beside the demo's PostgreSQL, behind the same gateway: where the machine has one."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pymysql  # type: ignore[import-untyped]  # it ships no types

from scripts.support import mysql
from scripts.support.gateway import Gateway

LISTENER = "shop-mysql"


class Neighbour:
    """The same sample shop on another server, and what the gateway's configuration needs of it. Raises StartError."""

    def __init__(self, installation: mysql.Installation) -> None:
        self.server = mysql.MySQLServer(installation)
        self._folder = Path(tempfile.mkdtemp(prefix="sgdemo-"))
        try:
            self.server.load_sample()
            self._password = self._folder / "password"
            self._password.touch(mode=0o600)
            self._password.write_text(self.server.password)
        except BaseException:
            self.stop()
            raise

    def adjust(self, config: dict[str, Any]) -> None:
        """One listener and one resource more; the listener has the certificate of the other one."""
        tls = config["listeners"][0]["tls"] | {"mode": "required"}
        config["listeners"].append(
            {"name": LISTENER, "protocol": "mysql", "listen": "127.0.0.1:0", "resource": LISTENER, "tls": tls}
        )
        config["resources"].append(
            {
                "name": LISTENER,
                "protocol": "mysql",
                "host": self.server.host,
                "port": self.server.port,
                "database": self.server.database,
                "labels": {"env": "lab"},
                "tls": {"mode": "off"},
                "credential": {"user": self.server.user, "provider": "file", "path": str(self._password)},
            }
        )

    def stop(self) -> None:
        """Its end. May be called again."""
        self.server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@contextlib.contextmanager
def connected(gateway: Gateway, identity: str, token: str) -> Iterator[Any]:
    """A PyMySQL cursor through the gateway, verified TLS, the token where the password was."""
    host, port = gateway.listeners[LISTENER]
    connection = pymysql.connect(
        host=host,
        port=port,
        user=identity,
        password=token,
        database="shop",
        ssl=ssl.create_default_context(cafile=str(gateway.ca_file)),
        autocommit=True,
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


def told(cursor: Any, statement: str) -> str:
    """What a client prints: the rows, or the error."""
    try:
        cursor.execute(statement)
    except pymysql.err.MySQLError as error:
        return f"ERROR {error.args[0]}: {error.args[1]}"
    names = [column[0] for column in cursor.description]
    return "\n".join(" | ".join("NULL" if value is None else str(value) for value in row) for row in [names, *cursor])
