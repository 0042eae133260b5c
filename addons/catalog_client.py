"""The gateway's own connection to a PostgreSQL resource: reads the catalog, nothing else."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from addons.drive import drive
from addons.leg import Leg
from protocols.contract import Credential, TlsFacts
from protocols.postgres import catalog as catalogs
from protocols.postgres import login
from protocols.postgres.catalog import Catalog
from protocols.postgres.errors import ProtocolError
from protocols.postgres.framing import BACKEND, Framer
from protocols.postgres.messages import DataRow, Fields, ParameterStatus, Query

_MAX_MESSAGE = 64 * 1024 * 1024
_MAX_ROWS = 2_000_000

# a look-up once hung 20 minutes on a lock that the client's own transaction held: bounded on the server as well
_SETTINGS = (
    "SET default_transaction_read_only = on; SET client_min_messages = error; "
    "SET lock_timeout = {ms}; SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}"
)


class CatalogError(Exception):
    """The catalog could not be read. Statements that need it are unknown."""


class CatalogClient:
    """One connection. Not for concurrent use. Every call is bounded by `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._leg = Leg()
        self._framer = Framer(BACKEND, {}, _MAX_MESSAGE)
        self.parameters: dict[str, str] = {}

    async def connect(
        self,
        host: str,
        port: int,
        credential: Credential,
        database: str,
        tls: ssl.SSLContext | None,
        server_name: str | None = None,
    ) -> None:
        """Raises `CatalogError`."""
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                if host.startswith("/"):
                    await loop.create_unix_connection(lambda: self._leg, f"{host}/.s.PGSQL.{port}")
                else:
                    await loop.create_connection(lambda: self._leg, host, port)
                ready = await drive(
                    self._login(credential, database, tls is not None),
                    lambda _side: self._leg,
                    lambda _asked: (_required(tls), False, server_name or host),
                    _nothing_to_ask,
                )
                for kind, message in ready.greeting:
                    if kind == ord("S"):
                        status = ParameterStatus.decode(message[5:])
                        self.parameters[status.name.decode()] = status.value.decode("utf-8", "replace")
        except CatalogError:
            raise
        except Exception as e:
            self.close()
            raise CatalogError(f"the metadata connection failed: {e.__cause__ or e or type(e).__name__}") from e
        await self.query(_SETTINGS.format(ms=int(self._timeout * 1000)))

    def _login(self, credential: Credential, database: str, tls: bool) -> Generator[Any, Any, login.LoggedIn]:
        facts: TlsFacts | None = None
        if tls:
            facts = yield from login.start_tls()
        parameters = {
            "user": credential.username,
            "database": database,
            "client_encoding": "UTF8",
            "application_name": "sluicegate catalog",
        }
        return (yield from login.log_in(credential, parameters, facts, os.urandom(18)))

    async def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows of the last result, as text. Raises `CatalogError`."""
        rows: list[tuple[str | None, ...]] = []
        for kind, body in await self._roundtrip(Query(sql.encode()).encode()):
            if kind == ord("T"):
                rows = []
            elif kind == ord("D"):
                values = DataRow.decode(body).values
                rows.append(tuple(None if v is None else v.decode("utf-8", "replace") for v in values))
        return rows

    async def _roundtrip(self, message: bytes) -> list[tuple[int, bytes]]:
        out: list[tuple[int, bytes]] = []
        error: CatalogError | None = None
        try:
            async with asyncio.timeout(self._timeout):
                self._leg.send(message)
                while True:
                    buf, messages, end = self._framer.feed(await self._leg.receive())
                    for kind, pos, stop in messages:
                        if stop > end:
                            raise ProtocolError("a catalog row is too long")
                        if kind == ord("E"):
                            fields = Fields.decode(buf[pos + 5 : stop])
                            error = CatalogError(f"{fields.get('C')} {fields.get('M')}")
                        elif kind == ord("Z"):
                            if error is not None:
                                raise error
                            return out
                        else:
                            out.append((kind, buf[pos + 5 : stop]))
                    if len(out) > _MAX_ROWS:
                        raise ProtocolError("the catalog is larger than the gateway keeps")
        except CatalogError:
            raise
        except BaseException as e:
            self.close()  # its place in the stream is lost
            if isinstance(e, Exception):
                raise CatalogError(f"a catalog look-up failed: {e or type(e).__name__}") from e
            raise

    @property
    def closed(self) -> bool:
        return self._leg.transport is None or self._leg.gone or self._leg.transport.is_closing()

    def close(self) -> None:
        if self._leg.transport is not None:
            self._leg.gone = True
            self._leg.close()

    async def version(self) -> str:
        """Changes whenever a name may mean something else."""
        rows = await self.query(catalogs.VERSION_QUERY)
        return "|".join("|".join(v or "" for v in row) for row in rows)

    async def load(self) -> Catalog:
        """The whole snapshot. Raises `CatalogError`."""
        results = {name: await self.query(sql) for name, sql in catalogs.CATALOG_QUERIES.items()}
        try:
            return await asyncio.to_thread(catalogs.build, results)
        except Exception as e:
            raise CatalogError(f"the catalog cannot be understood: {type(e).__name__}: {e}") from e


def _required(tls: ssl.SSLContext | None) -> ssl.SSLContext:
    assert tls is not None
    return tls


async def _nothing_to_ask(asked: Any) -> Any:
    raise TypeError(f"a login asked for {type(asked).__name__}")


async def fetch_dsn(dsn: str, bound: float = 10.0) -> Catalog:
    """The catalog behind `postgresql://user:password@host:port/database?sslmode=...&sslrootcert=...`.

    Raises `CatalogError`, also for a DSN that is not of that form.
    """
    url = urlsplit(dsn)
    if url.scheme not in ("postgresql", "postgres"):
        raise CatalogError("a DSN looks like postgresql://user:password@host:port/database")
    options = dict(parse_qsl(url.query))
    user = unquote(url.username or options.get("user", ""))
    credential = Credential(user, unquote(url.password or options.get("password", os.environ.get("PGPASSWORD", ""))))
    mode = options.get("sslmode", "prefer")
    context: ssl.SSLContext | None = None
    if mode in ("require", "verify-ca", "verify-full"):
        context = ssl.create_default_context(cafile=options.get("sslrootcert"))
        if mode != "verify-full":
            context.check_hostname = False
        if mode == "require" and "sslrootcert" not in options:
            context.verify_mode = ssl.CERT_NONE
        if "sslcert" in options:
            context.load_cert_chain(Path(options["sslcert"]), options.get("sslkey"))
    client = CatalogClient(bound)
    try:
        host = options.get("host") or url.hostname or "127.0.0.1"
        database = unquote(url.path.lstrip("/")) or options.get("dbname", "") or user
        await client.connect(host, url.port or int(options.get("port", "5432")), credential, database, context)
        return await client.load()
    finally:
        client.close()
