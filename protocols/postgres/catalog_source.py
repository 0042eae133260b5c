"""The gateway's own connections to a PostgreSQL resource: one that reads the catalog, one that cancels.

Generators in the sense of `protocols.contract` that know one side only, the upstream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from protocols.contract import CatalogError, PeerGone, Receive, Send, Side, TlsFacts, UpstreamLogin
from protocols.postgres import catalog
from protocols.postgres import login as logins
from protocols.postgres.catalog import Catalog
from protocols.postgres.errors import ProtocolError
from protocols.postgres.framing import BACKEND, CANCEL_REQUEST, Framer
from protocols.postgres.messages import DataRow, Fields, Query

type Row = tuple[str | None, ...]

_MAX_MESSAGE = 64 * 1024 * 1024
_MAX_ROWS = 2_000_000  # of one query
_MAX_BYTES = 512 * 1024 * 1024  # of one query's rows

# a look-up once hung 20 minutes on a lock that the client's own transaction held: bounded on the server as well
_SETTINGS = (
    "SET default_transaction_read_only = on; SET client_min_messages = error; "
    "SET lock_timeout = {ms}; SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}"
)


class PostgresCatalogSource:
    """See `protocols.contract.CatalogSource`. Not for concurrent use; after a failure it cannot go on."""

    def __init__(self) -> None:
        self._framer = Framer(BACKEND, {}, _MAX_MESSAGE)

    def log_in(self, login: UpstreamLogin) -> Generator[Any, Any, None]:
        """Raises `Refused`, `ProtocolError`, `CatalogError`."""
        facts: TlsFacts | None = None
        if login.tls:
            facts = yield from logins.start_tls()
        parameters = {
            "user": login.credential.username,
            "database": login.database or login.credential.username,  # as libpq does
            "client_encoding": "UTF8",
            "application_name": "sluicegate catalog",
        }
        ready = yield from logins.log_in(login.credential, parameters, facts, login.nonce)
        if ready.rest:
            raise ProtocolError("the upstream speaks before it was asked")
        yield from self.query(_SETTINGS.format(ms=int(login.timeout * 1000)))

    def version(self) -> Generator[Any, Any, str]:
        """Raises `CatalogError`, `ProtocolError`."""
        rows = yield from self.query(catalog.VERSION_QUERY)
        return "|".join("|".join(v or "" for v in row) for row in rows)

    def load(self) -> Generator[Any, Any, Callable[[], Catalog]]:
        """Raises `CatalogError`, `ProtocolError`; what it returns raises KeyError or ValueError (`catalog.build`)."""
        results: dict[str, list[Row]] = {}
        for name, sql in catalog.CATALOG_QUERIES.items():
            results[name] = yield from self.query(sql)
        return partial(catalog.build, results)

    def query(self, sql: str) -> Generator[Any, Any, list[Row]]:
        """The rows of the last result, as text. Raises `CatalogError`, `ProtocolError`."""
        yield Send(Side.UPSTREAM, Query(sql.encode()).encode())
        rows: list[Row] = []
        size = 0
        error: CatalogError | None = None
        while True:
            buf, messages, end = self._framer.feed((yield Receive(Side.UPSTREAM)))
            for kind, pos, stop in messages:
                if stop > end:
                    raise ProtocolError("a catalog row is too long")
                if kind == ord("T"):
                    rows = []
                elif kind == ord("D"):
                    size += stop - pos
                    if len(rows) >= _MAX_ROWS or size > _MAX_BYTES:
                        raise ProtocolError("the catalog is larger than the gateway keeps")
                    values = DataRow.decode(buf[pos + 5 : stop]).values
                    rows.append(tuple(None if v is None else v.decode("utf-8", "replace") for v in values))
                elif kind == ord("E"):
                    fields = Fields.decode(buf[pos + 5 : stop])
                    error = CatalogError(f"{fields.get('C')} {fields.get('M')}")
                elif kind == ord("Z"):
                    if error is not None:
                        raise error
                    if (stop, end) != (len(buf), len(buf)) or self._framer.buffered:
                        raise ProtocolError("the upstream goes on after the end of its answer")
                    return rows


def cancel(login: UpstreamLogin, pid: int, secret: bytes) -> Generator[Any, Any, None]:
    """CancelRequest (section 54.2.7), in TLS where the resource has it: the key must not cross a network in clear.

    The server answers nothing: it closes once it has passed the signal on. Raises `Refused` where it offers no TLS.
    """
    if login.tls:
        yield from logins.start_tls()
    yield Send(Side.UPSTREAM, struct.pack("!III", 12 + len(secret), CANCEL_REQUEST, pid) + secret)
    try:
        yield Receive(Side.UPSTREAM)
    except PeerGone:
        return
    raise ProtocolError("the upstream answers a cancel request")
