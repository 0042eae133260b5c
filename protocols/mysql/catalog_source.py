"""The gateway's own connection to a MySQL or MariaDB resource: reads the names on it, and nothing else.

How a change is noticed. Neither server has a number that changes with every definition, and reading all of
information_schema costs from milliseconds to seconds. So each `version()` reads the server's counters of definition
statements (one cheap SHOW STATUS), and a digest of information_schema itself only when a counter moved, for as long
afterwards as a counted statement may still be running, and at least every `MAX_UNSEEN` seconds or 50 times what the
digest costs. The counters move when a statement *begins*: one that runs on for longer than `SETTLING` seconds after it
was counted (a large ALTER, a wait for a lock) is noticed by the next digest.

INVARIANT: sans-io; the time is the server's own, asked together with the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from typing import Any

from protocols.contract import CatalogError, CatalogSnapshot, Side, UpstreamLogin
from protocols.mysql import catalog, catalog_queries, login
from protocols.mysql.catalog_queries import COUNTERS_QUERY, CatalogRows, Question, Row
from protocols.mysql.errors import ProtocolError
from protocols.mysql.exchange import Exchange
from protocols.mysql.login import LoggedIn, QueryFailed

MAX_ROWS = 2_000_000  # of one answer
MAX_BYTES = 256 << 20
SETTLING = 60.0  # seconds after a counter moved in which every check reads the digest
MAX_UNSEEN = 30.0  # seconds without a digest while no counter moves
_COST_SHARE = 50  # a digest that takes t is not repeated sooner than this many t, where no counter moved
_ROW_MAX = (1 << 24) - 2  # bytes of one row: a view's text


class MysqlCatalogSource:
    """See `protocols.contract.CatalogSource`. One connection; any failure ends it."""

    def __init__(self) -> None:
        self._upstream = Exchange(Side.UPSTREAM)
        self._ready: LoggedIn | None = None
        self._flavour = ""
        self._counters: tuple[tuple[str, str], ...] = ()
        self._digest = ""
        self._digested = datetime.min  # on the server's clock
        self._moved = datetime.min
        self._cost = 0.0

    def log_in(self, login_: UpstreamLogin) -> Generator[Any, Any, None]:
        """From the first byte until it takes questions; raises `Refused` or `WireError`."""
        self._ready = yield from login.open_own(login_, self._upstream, "sluicegate catalog")
        self._upstream.limit = _ROW_MAX
        self._flavour = self._ready.greeting.flavour
        for text in catalog_queries.settings(login_.timeout)[self._flavour]:
            yield from self._ask(text)

    def version(self) -> Generator[Any, Any, str]:
        """Changes whenever a name may mean something else. Raises `CatalogError` or `WireError`."""
        rows = yield from self._ask(COUNTERS_QUERY)
        counters = tuple((_text(n), _text(v)) for n, v in rows if catalog_queries.counts_change(_text(n)))
        if not counters:
            raise CatalogError("the server does not show how often names were changed")
        now, usual = yield from self._clock()
        if counters != self._counters:
            self._counters = counters
            self._moved = now
        quiet = (now - self._digested).total_seconds() if self._digest else float("inf")
        settling = (now - self._moved).total_seconds() < SETTLING
        # a clock that was set back counts as time gone by
        if settling or quiet < 0 or quiet >= max(MAX_UNSEEN, self._cost * _COST_SHARE):
            ((began, digest, ended),) = yield from self._rows(catalog_queries.digest_query(), 3)
            self._digest = _text(digest)
            self._digested = _time(ended)
            self._cost = (self._digested - _time(began)).total_seconds()
        code = " ".join(value for name, value in counters if catalog_queries.counts_code(name))
        return f"{self._digest} {code} {usual}"

    def load(self) -> Generator[Any, Any, Callable[[], CatalogSnapshot]]:
        """Reads everything; what it returns builds the snapshot, in a thread. Raises `CatalogError` or `WireError`."""
        answers: dict[str, list[Row]] = {}
        for name, question in catalog_queries.catalog_queries(self._flavour).items():
            found = yield from self._question(question)
            if found is not None:
                answers[name] = found
        return lambda: _built(answers)

    def _question(self, question: Question) -> Generator[Any, Any, list[Row] | None]:
        try:
            return (yield from self._texts(question.sql))
        except QueryFailed as e:
            if question.optional and e.errno in _MAY_NOT_ASK:
                return None
            raise _failed(e) from e

    def _clock(self) -> Generator[Any, Any, tuple[datetime, str]]:
        """(the server's time, what a session is reset to): no counter tells that the latter has changed."""
        ((now, mode, charset),) = yield from self._rows(catalog_queries.NOW_QUERY, 3)
        return _time(now), f"{mode} {charset}"

    def _rows(self, sql: str, width: int) -> Generator[Any, Any, list[Row]]:
        rows = yield from self._ask(sql)
        if len(rows) != 1 or len(rows[0]) != width:
            raise CatalogError("the server answers a catalog look-up in another form")
        return rows

    def _ask(self, sql: str) -> Generator[Any, Any, list[Row]]:
        try:
            return (yield from self._texts(sql))
        except QueryFailed as e:
            raise _failed(e) from e

    def _texts(self, sql: str) -> Generator[Any, Any, list[Row]]:
        if self._ready is None:
            raise CatalogError("the catalog connection is not logged in")
        capabilities = self._ready.capabilities
        rows = yield from login.query(self._upstream, capabilities, sql, max_rows=MAX_ROWS, max_bytes=MAX_BYTES)
        try:
            return [tuple(None if v is None else v.decode("utf-8") for v in row) for row in rows]
        except UnicodeDecodeError:
            raise ProtocolError("a name in the catalog is no utf-8") from None


# no such table, access denied (table, column, database, command)
_MAY_NOT_ASK = frozenset({1044, 1109, 1142, 1143, 1146, 1227})


def _failed(error: QueryFailed) -> CatalogError:
    return CatalogError(f"a catalog look-up failed: {error}")


def _text(value: str | None) -> str:
    if value is None:
        raise CatalogError("the server answers a catalog look-up with NULL")
    return value


def _time(value: str | None) -> datetime:
    try:
        return datetime.fromisoformat(_text(value))
    except ValueError:
        raise CatalogError("the server answers a catalog look-up in another form") from None


def _built(answers: Mapping[str, list[Row]]) -> CatalogSnapshot:
    rows: CatalogRows = answers
    try:
        return catalog.build(rows)
    except (KeyError, ValueError) as e:
        raise CatalogError(f"the catalog cannot be understood: {type(e).__name__}: {e}") from e
