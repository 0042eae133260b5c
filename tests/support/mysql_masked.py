"""A `MysqlSession` with masks in front of a real server: what of the server's secrets its client sees."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import CatalogSnapshot, Credential, MaskRule, PeerGone, Receive, Send, Side, UpstreamLogin
from protocols.mysql import login
from protocols.mysql.capabilities import Capability
from protocols.mysql.catalog import Catalog
from protocols.mysql.catalog_source import MysqlCatalogSource
from protocols.mysql.exchange import Exchange
from protocols.mysql.judging import AnalysisCache
from protocols.mysql.limits import Limits
from protocols.mysql.session import MysqlSession
from protocols.mysql.state import SessionState
from scripts.support.mysql import MySQLServer
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import OwnPort, anything

WANTED = login.OWN_CONNECTION | Capability.MULTI_STATEMENTS | Capability.PS_MULTI_RESULTS | Capability.SESSION_TRACK


def drive(generator: Generator[Any, Any, Any], sock: socket.socket) -> Any:
    """Runs a generator of the gateway's own connections over a blocking socket."""
    try:
        asked = next(generator)
        while True:
            if isinstance(asked, Send):
                sock.sendall(asked.data)
                asked = generator.send(None)
            elif isinstance(asked, Receive):
                data = sock.recv(1 << 18)
                asked = generator.send(data) if data else generator.throw(PeerGone())
            else:
                raise TypeError(f"asked for {type(asked).__name__}")
    except StopIteration as done:
        return done.value


class Source:
    """A catalog connection to a real server."""

    def __init__(self, server: MySQLServer, user: str | None = None, password: str | None = None) -> None:
        self.sock = socket.create_connection((server.host, server.port), timeout=20)
        self.source = MysqlCatalogSource()
        credential = Credential(user or server.user, server.password if password is None else password)
        drive(self.source.log_in(UpstreamLogin(credential, "", False, b"")), self.sock)

    def version(self) -> str:
        found: str = drive(self.source.version(), self.sock)
        return found

    def load(self) -> Catalog:
        snapshot: CatalogSnapshot = drive(self.source.load(), self.sock)()
        assert isinstance(snapshot, Catalog)
        return snapshot

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def source(server: MySQLServer, user: str | None = None, password: str | None = None) -> Iterator[Source]:
    opened = Source(server, user, password)
    try:
        yield opened
    finally:
        opened.close()


@dataclass(slots=True)
class Answer:
    """What the client saw: all bytes, and of the last result the columns that were masked (None: it had no rows)."""

    data: bytes
    masked: frozenset[int] | None
    records: list[dict[str, Any]] = field(default_factory=list)


class Masked:
    """One session of one client; everything is allowed, and what the rules name is masked."""

    def __init__(self, server: MySQLServer, catalog: Catalog, rules: Sequence[MaskRule], database: str) -> None:
        self.server = server
        self.sock = socket.create_connection((server.host, server.port), timeout=20)
        self.port = OwnPort(anything, rules)
        self.port.snapshot = catalog
        upstream = Exchange(Side.UPSTREAM)

        def log_in() -> Generator[Any, Any, login.LoggedIn]:
            greeting = yield from login.read_greeting(upstream)
            credential = Credential(server.user, server.password)
            return (yield from login.log_in(upstream, greeting, credential, WANTED, tls=False, database=database))

        ready: login.LoggedIn = drive(log_in(), self.sock)
        self.state = SessionState(
            flavour=catalog.flavour,
            version=catalog.server_version,
            database=database,
            sql_mode=catalog.sql_mode,
            multi_statements=True,
            lower_case_table_names=catalog.lower_case_table_names,
        )
        self.state.started()
        self.session = MysqlSession(
            "s1", self.port, self.state, AnalysisCache(), Limits(), ready.capabilities, ready.greeting.connection
        )
        self.capabilities = ready.capabilities

    def close(self) -> None:
        self.sock.close()

    def _exchange(self, data: bytes) -> bytes:
        self.session.client(data)
        while True:
            if self.session.up:
                self.sock.sendall(b"".join(self.session.up))
                self.session.up.clear()
            if self.session.ended or self.session.current is None:
                break
            self.session.server(self.sock.recv(1 << 18))
            self.session.catch_up()
        seen = b"".join(self.session.down)
        self.session.down.clear()
        return seen

    def query(self, sql: str) -> Answer:
        return self._answer(wire.query(sql))

    def execute(self, sql: str) -> Answer:
        """Prepared, executed without parameters and closed."""
        before = set(self.session.prepared)
        seen = self._exchange(wire.prepare(sql))
        made = set(self.session.prepared) - before
        if not made:
            return Answer(seen, None)
        (statement,) = made
        answer = self._answer(wire.execute(statement))
        self._exchange(wire.close(statement))
        return answer

    def _answer(self, message: bytes) -> Answer:
        start = len(self.port.records)
        seen = self._exchange(message)
        records = self.port.records[start:]
        masked: frozenset[int] | None = None
        for record in records:
            if record["t"] != "response":
                continue
            if record.get("columns") is not None:
                masked = frozenset(i for i, column in enumerate(record["columns"]) if column["masked"])
            elif record["tag"].endswith("rows"):
                masked = frozenset()
        return Answer(seen, masked, records)


def recorded(answer: Answer) -> bytes:
    """Everything on record of an answer, its wire bytes decoded."""
    return b"".join(base64.b64decode(r.get("wire", "")) for r in answer.records) + str(answer.records).encode()
