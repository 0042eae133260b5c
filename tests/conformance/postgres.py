"""PostgreSQL, with psycopg."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import psycopg

from scripts.support import postgres
from scripts.support.lab import Lab
from tests.conformance.adapter import Adapter, Client, Ended, Login, ServerError, Words


def _told(error: psycopg.Error) -> tuple[str, str]:
    return error.sqlstate or "", str(error)


class PostgresClient:
    """See `adapter.Client`."""

    def __init__(self, dsn: str) -> None:
        try:
            self.connection = psycopg.connect(dsn, autocommit=True, connect_timeout=20)
        except psycopg.OperationalError as error:
            # psycopg keeps no fields of an error before the session: the code is looked for in the text by nobody
            raise Ended(*_told(error)) from error

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self._ask(sql.encode(), None, prepare=False)

    def prepared(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._ask(sql.replace("?", "%s").encode(), parameters, prepare=True)

    def _ask(self, sql: bytes, parameters: Any, *, prepare: bool) -> list[tuple[Any, ...]]:
        try:
            cursor = self.connection.execute(sql, parameters, prepare=prepare)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if self.connection.closed or self.connection.broken:
                raise Ended(*_told(error)) from error
            raise ServerError(*_told(error)) from error

    def in_transaction(self) -> bool:
        return self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def cancel(self) -> None:
        self.connection.cancel_safe()

    def drop(self) -> None:
        with socket.socket(fileno=os.dup(self.connection.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()


def _connect(lab: Lab, login: Login) -> PostgresClient:
    return PostgresClient(lab.gateway.dsn(login.user, login.password, database=login.database))


def _end(direct: Client, tag: str) -> None:
    direct.run(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%{tag}%'"
    )


def _startup(*parameters: bytes) -> bytes:
    body = struct.pack("!I", 3 << 16) + b"".join(one + b"\0" for one in parameters) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


ADAPTER = Adapter(
    name="postgres",
    servers={"embedded": postgres.embedded},
    how_to_get=lambda _name: "run `uv sync`",
    words=Words(
        schema="public",
        fails="SELECT * FROM public.missing",
        sleep="SELECT pg_sleep({})",
        busy="SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        " AND query LIKE '%{}%'",
    ),
    connect=_connect,
    direct=lambda lab: PostgresClient(lab.server.dsn()),
    end=_end,
    codes_denied=frozenset({"42501"}),
    # psycopg keeps no SQLSTATE of a refused login
    codes_refused=frozenset({""}),
    codes_ended=frozenset({"57P01"}),
    codes_cancelled=frozenset({"57014"}),
    garbage=(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\xff" * 64,
        b"\0\0\0\0",
        struct.pack("!II", 8, 80877103) * 3,  # SSLRequest, and more in the clear
        _startup(b"user", b"x" * 9000),
        struct.pack("!I", 0x7FFFFFFF) + b"\0\3\0\0",
    ),
)
