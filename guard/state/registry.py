"""The session registry: which sessions are live now, on every gateway that shares the database.

It is a convenience for people and for containment, not evidence: that is the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import batched

from sqlalchemy import select, update

from guard.state import schema
from guard.state.database import Database, values


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One session. Times are epoch seconds; `ended_at` is None while it is live."""

    id: str
    gateway: str
    subject: str
    issuer: str
    resource: str
    protocol: str
    client: str
    application: str
    started_at: float
    expires_at: float
    ended_at: float | None = None
    end_reason: str = ""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """When and why a session ended."""

    id: str
    at: float
    reason: str


_ROWS = 500  # in one statement; SQLite takes 32766 parameters
_NAMES = tuple(schema.sessions.c.keys())
_INSERT = f"INSERT INTO sessions ({', '.join(_NAMES)}) VALUES {{}}"  # noqa: S608 - columns of the schema, and marks
_UPDATE = """UPDATE sessions SET ended_at = e.column2, end_reason = e.column3 FROM (VALUES {}) AS e
    WHERE sessions.id = e.column1 AND sessions.ended_at IS NULL"""


def _rows(count: int, width: int) -> str:
    return ", ".join([f"({', '.join('?' * width)})"] * count)


def _flat(rows: Iterable[object], names: Sequence[str]) -> list[object]:
    return [getattr(row, name) for row in rows for name in names]


class Sessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, started: Sequence[SessionEntry], ended: Sequence[SessionEnd]) -> None:
        """Starts and then ends of several sessions in one transaction. Raises StateError: then none is noted.

        Of an end whose session is not registered or has ended nothing is noted.
        """
        ends: dict[str, SessionEnd] = {}
        for end in ended:
            ends.setdefault(end.id, end)
        with self._database.write(durable=False) as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            # one statement for many rows: the thread must get the interpreter back after each one, from a busy loop
            for entries in batched(started, _ROWS):
                driver.execute(_INSERT.format(_rows(len(entries), len(_NAMES))), _flat(entries, _NAMES))
            for some in batched(ends.values(), _ROWS):
                driver.execute(_UPDATE.format(_rows(len(some), 3)), _flat(some, ("id", "at", "reason")))

    def end_all(self, gateway: str, at: float, reason: str) -> int:
        """End what a gateway left behind (called at its start, before it accepts anybody). Returns how many."""
        table = schema.sessions
        with self._database.write(durable=False) as connection:
            done = connection.execute(
                update(table)
                .where(table.c.gateway == gateway, table.c.ended_at.is_(None))
                .values(ended_at=at, end_reason=reason)
            )
            return done.rowcount

    def get(self, session_id: str) -> SessionEntry | None:
        with self._database.read() as connection:
            row = connection.execute(select(schema.sessions).where(schema.sessions.c.id == session_id)).first()
        return None if row is None else SessionEntry(**values(row))

    def list(self, *, live: bool = True, limit: int = 1000) -> Sequence[SessionEntry]:
        """Newest first. live: only those that have not ended."""
        table = schema.sessions
        query = select(table).order_by(table.c.started_at.desc(), table.c.id).limit(limit)
        if live:
            query = query.where(table.c.ended_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [SessionEntry(**values(row)) for row in rows]

    def forget_ended(self, before: float, limit: int = 500) -> int:
        """Drop rows of sessions that ended before that time, at most `limit`; the journal keeps the evidence.

        Returns how many.
        """
        table = schema.sessions
        old = select(table.c.id).where(table.c.ended_at < before).limit(limit)
        with self._database.write(durable=False) as connection:
            return connection.execute(table.delete().where(table.c.id.in_(old))).rowcount
