"""MySQL and MariaDB, with Oracle's pure Python driver: it has prepared statements of the server's own."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import mysql.connector
from mysql.connector import errors

from scripts.support import mysql as servers
from scripts.support.lab import Lab
from tests.conformance.adapter import Adapter, Client, Ended, Login, ServerError, Words


class MySQLClient:
    """See `adapter.Client`."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        try:
            self.connection = connect()
        except errors.Error as error:
            raise Ended(error.sqlstate or "", str(error)) from error
        self.id = self.connection.connection_id
        # made once: for a new one the driver pings first, and swallows what the server has said meanwhile
        self._cursor = self.connection.cursor()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._ask(self._cursor, sql, ())
        except errors.Error as error:
            raise self._judged(error) from error

    def prepared(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        try:
            cursor = self.connection.cursor(prepared=True)
            try:
                return self._ask(cursor, sql, parameters)
            finally:
                with contextlib.suppress(errors.Error):  # the connection may be gone: the first error tells
                    cursor.close()
        except errors.Error as error:
            raise self._judged(error) from error

    @staticmethod
    def _ask(cursor: Any, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        cursor.execute(sql, parameters)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def _judged(self, error: errors.Error) -> ServerError | Ended:
        """Whether the connection lives on is for the server to say."""
        try:
            self.connection.ping(reconnect=False)
        except errors.Error:
            return Ended(error.sqlstate or "", str(error))
        return ServerError(error.sqlstate or "", str(error))

    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction)

    def cancel(self) -> None:
        with contextlib.closing(self._connect()) as other, contextlib.closing(other.cursor()) as cursor:
            cursor.execute(f"KILL QUERY {self.id}")

    def drop(self) -> None:
        with socket.socket(fileno=os.dup(self.connection._socket.sock.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(errors.Error):  # it may have ended
            self.connection.close()


def _client(host: str, port: int, user: str, password: str, database: str, ca: str) -> MySQLClient:
    return MySQLClient(
        lambda: mysql.connector.connect(
            host=host,
            port=port,
            user=user,
            password=password,
            database=database,
            ssl_ca=ca,
            ssl_verify_cert=True,
            ssl_verify_identity=True,
            autocommit=True,
            use_pure=True,
            connection_timeout=30,
        )
    )


def _connect(lab: Lab, login: Login) -> MySQLClient:
    gateway = lab.gateway
    database = login.database or lab.server.database
    return _client(gateway.host, gateway.port, login.user, login.password, database, str(gateway.ca_file))


def _direct(lab: Lab) -> MySQLClient:
    server = lab.server
    assert server.authority is not None
    return _client(server.host, server.port, server.user, server.password, server.database, str(server.authority.file))


def _end(direct: Client, tag: str) -> None:
    """KILL takes no subquery."""
    found = f"SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND info LIKE '%{tag}%'"
    for (number,) in direct.run(found):
        direct.run(f"KILL {number}")


def _server(flavour: str) -> Callable[[], servers.Installation | None]:
    return lambda: next((one for one in servers.available() if one.flavour == flavour), None)


ADAPTER = Adapter(
    name="mysql",
    servers={flavour: _server(flavour) for flavour in servers.FLAVOURS},
    how_to_get=servers.how_to_get,
    words=Words(
        schema="shop",
        fails="SELECT * FROM missing",
        sleep="SELECT SLEEP({})",
        busy="SELECT count(*) FROM information_schema.processlist WHERE id <> connection_id() AND info LIKE '%{}%'",
    ),
    connect=_connect,
    direct=_direct,
    end=_end,
    codes_denied=frozenset({"42000"}),
    codes_refused=frozenset({"28000"}),
    codes_ended=frozenset({"08S01"}),
    codes_cancelled=frozenset({"70100"}),
    garbage=(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\xff\xff\xff\x01" + b"\xff" * 64,
        b"\0\0\0\0",
        b"\0\0\0\x01",
        b"\x20\0\0\x01" + b"\x0d\xa6\x03\0" * 8,  # an SSLRequest by its length, with no TLS behind it
        b"\x20\0\0\x07" + b"\0" * 32,  # a sequence number out of order
        b"\x05\0\0\x01\x85\xa6\xff\x01\0",
    ),
)
