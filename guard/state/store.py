"""`StateStore`: containment, revocations, approvals and the session registry of all gateways on one database.

Calls are synchronous and short (tens of microseconds to read, one fsync for what must survive a power loss), and wait
up to `busy_timeout` for a database that somebody has locked: an event loop uses `access.StateAccess`. Every method is
thread-safe, where `journal` is.

Every change is handed to `journal(kind, payload)`, in one order per direction:
- what *loosens* (release, an approval) is journalled before it is committed: no record, no change;
- what *tightens* (contain, revoke) is committed before it is journalled: a full disk must not keep an identity alive.
  The journal's error still reaches the caller.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from guard.state import schema
from guard.state.approvals import Approvals, Journal
from guard.state.database import Database, StateError, bump, values
from guard.state.registry import Sessions


@dataclass(frozen=True, slots=True)
class ChangeToken:
    """What `changed_since` has seen; opaque to callers."""

    data_version: int = -1
    control: int = -1
    approvals: int = -1


class StateStore:
    """Raises StateError from every method when the database is locked, damaged, full or unwritable."""

    def __init__(self, path: Path, *, journal: Journal | None = None, busy_timeout: float = 2.0) -> None:
        self._journal = journal or _unrecorded
        self._database = Database(path, busy_timeout)
        self.approvals = Approvals(self._database, self._journal)
        self.sessions = Sessions(self._database)
        # Its own connection, never used to write: SQLite's data_version then moves with every commit of anybody else.
        self._poll_lock = threading.Lock()
        try:
            self._poll = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=busy_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            self._database.close()
            raise self._database.explain(error) from error

    def close(self) -> None:
        with self._poll_lock:
            self._poll.close()
        self._database.close()

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # containment and revocation

    def contain(self, subject: str, by: str, reason: str, at: float) -> None:
        """End and refuse every session of this subject, on all gateways, until released. Doing it twice is fine."""
        if not subject:
            raise StateError("the subject to contain is empty")
        row = {"subject": subject, "by": by, "reason": reason, "at": at}
        with self._database.write(durable=True) as connection:
            connection.execute(insert(schema.containment).values(row).on_conflict_do_nothing())
            bump(connection, "control")
        self._journal("containment", {"act": "contain", "subject": subject, "by": by, "reason": reason})

    def release(self, subject: str, by: str, at: float) -> bool:
        """Lift a containment. Returns False when there was none (then nothing is journalled)."""
        with self._database.write(durable=True) as connection:
            done = connection.execute(delete(schema.containment).where(schema.containment.c.subject == subject))
            if not done.rowcount:
                return False
            bump(connection, "control")
            self._journal("containment", {"act": "release", "subject": subject, "by": by})
        return True

    def contained(self) -> frozenset[str]:
        with self._database.read() as connection:
            return frozenset(connection.execute(select(schema.containment.c.subject)).scalars())

    def containments(self) -> list[dict[str, Any]]:
        """`subject`, `by`, `reason`, `at` of each contained subject, oldest first."""
        with self._database.read() as connection:
            query = select(schema.containment).order_by(schema.containment.c.at)
            return [values(row) for row in connection.execute(query)]

    def revoke_token(self, token_id: str, by: str, reason: str, at: float) -> None:
        """Refuse this token id for good. Doing it twice is fine."""
        if not token_id:
            raise StateError("the token id to revoke is empty")
        row = {"token_id": token_id, "by": by, "reason": reason, "at": at}
        with self._database.write(durable=True) as connection:
            connection.execute(insert(schema.revocations).values(row).on_conflict_do_nothing())
            bump(connection, "control")
        self._journal("revocation", {"token_id": token_id, "by": by, "reason": reason})

    def revoked_tokens(self) -> frozenset[str]:
        with self._database.read() as connection:
            return frozenset(connection.execute(select(schema.revocations.c.token_id)).scalars())

    # changes

    def changed_since(self, token: ChangeToken | None = None) -> tuple[ChangeToken, bool]:
        """Has any containment, revocation or approval changed, by any process? Costs a few microseconds when not.

        The first call (token None) always answers True. Session registry writes do not count as changes.
        """
        seen = token or ChangeToken()
        try:
            with self._poll_lock:
                version = self._poll.execute("PRAGMA data_version").fetchone()[0]
                if version == seen.data_version:
                    return seen, False
                counters = dict(self._poll.execute("SELECT scope, counter FROM changes").fetchall())
        except sqlite3.Error as error:
            raise self._database.explain(error) from error
        try:
            now = ChangeToken(version, counters["control"], counters["approvals"])
        except KeyError as error:
            raise StateError(f"the state database `{self._database.path}` is damaged; restore it") from error
        return now, (now.control, now.approvals) != (seen.control, seen.approvals)


def _unrecorded(_kind: str, _payload: Mapping[str, Any]) -> None:
    """For tools and tests without a journal; the gateway passes `recorder.event`."""
