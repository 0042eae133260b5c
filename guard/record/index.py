"""`EvidenceIndex`: the journal of one gateway, searchable. Every answer includes what the journal holds *now*.

The index is derived: each method first reads what the journal gained since the last time, in one transaction with its
cursor, so several processes may share it (the indexer process keeps it nearly up to date, and queries then have little
to do). Responses that the recorder still holds in memory are not in the journal yet: the gateway calls
`recorder.flush()` first.

Synchronous and possibly slow (it may have to index a backlog): never call it on an event loop; use a thread. All times
in arguments and answers are seconds since the epoch.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, delete, event, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from guard.record import index_schema as schema
from guard.record import queries, removals
from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import HEADER_SIZE, SegmentHeader
from guard.record.ingest import Ingest, Shared
from guard.record.keys import PUBLIC, load_public
from guard.record.queries import Search
from guard.record.reader import Cursor, beginning, follow, open_segment, segments
from guard.record.replay import TimedEvent, timed_events
from guard.record.tombstones import Tombstones, listed
from guard.record.tombstones import changed_at as tombstones_changed

INDEX_FILE = "index.db"
_BATCH = 5_000  # records per transaction
_SEGMENT_GUESS = 64 * 1024 * 1024  # bytes, of a segment that is not looked at


class EvidenceIndex:
    """Opens (or makes) `state_dir/index.db` over `state_dir/journal`. Thread-safe. Raises RecordError from every
    method.

    A damaged journal makes every question raise DamagedJournal, unless it is asked with `damaged_ok`: then the answer
    ends where the damage begins, and `damage` says where that is.
    """

    def __init__(self, state_dir: Path, *, busy_timeout: float = 30.0, follow: bool = True) -> None:
        """follow: False leaves it to another process to let the rows follow what retention took, which may take
        seconds of computing; the gateway itself has no time for that."""
        self.folder = state_dir / "journal"
        self.path = state_dir / INDEX_FILE
        self.damage: DamagedJournal | None = None
        self._keys = state_dir / "keys"
        self._tombstones: Tombstones | None = None
        self._follow = follow
        self._followed = 0  # state of the tombstones that the rows follow
        self._shared = Shared()
        self._lock = threading.Lock()
        self._reached: tuple[int, int, int] | None = None  # the journal's end when it was last indexed completely
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise RecordError(f"cannot open the index `{self.path}`: {error.strerror}") from error
        arguments = {"isolation_level": None, "timeout": busy_timeout}
        self._engine = create_engine(f"sqlite+pysqlite:///{self.path}", connect_args=arguments)
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        with self._transaction(write=True) as connection:
            self._make_schema(connection)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> EvidenceIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # keeping up

    def catch_up(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Index everything that the journal holds at this moment. Returns the number of new records.

        `stop` is asked now and then; when it says yes, what is left waits for the next time.

        Raises DamagedJournal at the first record that does not verify (what comes before it is indexed).
        """
        added = 0
        with self._lock:
            goal = self._journal_end()
            if goal is None:
                return 0
            if goal == self._reached:
                if self._follow:
                    self._follow_removals()
                return 0
            while not stop():
                count, cursor = self._batch()
                added += count
                if self.damage is not None:
                    raise self.damage
                if count < _BATCH or (cursor.segment, cursor.offset) >= goal[:2]:
                    if self._follow:
                        self._follow_removals()
                    self._reached = goal
                    break
        return added

    def follow_removals(self) -> None:
        """Let the rows follow what the tombstones say. `catch_up` does it, too, where that is wanted."""
        with self._lock:
            self._follow_removals()

    def _follow_removals(self) -> None:
        state = tombstones_changed(self.folder)
        if state in (0, self._followed):
            return
        with self._transaction(write=False) as connection:
            known = removals.followed(connection)
        complete = True
        for number in listed(self.folder):
            tombstone = self.tombstones().get(number)
            if tombstone is None or len(tombstone.acts) == known.get(number, 0):
                continue
            if not removals.carried_out(self.folder, tombstone):
                complete = False  # retention is at it, or was killed and will come back to it
                continue
            with self._transaction(write=True) as connection:
                removals.follow(connection, tombstone)
            self._forget_deleted()
        if complete:
            self._followed = state

    def _forget_deleted(self) -> None:
        """What was deleted must not stay in SQLite's log either. A reader that is in the way only delays that."""
        with self._engine.connect() as connection:
            patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
            connection.exec_driver_sql("PRAGMA busy_timeout=500")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql(f"PRAGMA busy_timeout={patience}")

    def tombstones(self) -> Tombstones:
        """The journal's tombstones; only those signed with its key are taken."""
        if self._tombstones is None:
            public = self._keys / PUBLIC
            if not public.exists() and not listed(self.folder):
                return Tombstones(self.folder)  # of a journal at which retention never was
            self._tombstones = Tombstones(self.folder, load_public(public))
        return self._tombstones

    def ask[T](self, question: Callable[[Connection], T], *, damaged_ok: bool = False) -> T:
        """A question of another module, asked like those below."""
        with self._answering(damaged_ok) as connection:
            return question(connection)

    def note[T](self, work: Callable[[Connection], T]) -> T:
        """Write something derived of another module, in one transaction."""
        with self._transaction(write=True) as connection:
            return work(connection)

    def position(self) -> Cursor:
        """Behind the last indexed record."""
        with self._transaction(write=False) as connection:
            return _cursor(connection)[1]

    def read_below(self) -> int:
        """Every record in segments with a number under this one is indexed."""
        at, known = self.position(), segments(self.folder) if self.folder.exists() else {}
        newest = max(known, default=0)
        if at.segment >= newest:
            return at.segment
        with open_segment(self.folder, newest) as file:
            data = file.read(HEADER_SIZE)
        whole = len(data) == HEADER_SIZE and SegmentHeader.decode(data, newest).first_seq == at.seq + 1
        return newest if whole else at.segment

    def behind(self) -> int:
        """About how many bytes of journal are not indexed yet."""
        goal, at = self._journal_end(), self.position()
        if goal is None:
            return 0
        return goal[1] - at.offset if goal[0] == at.segment else goal[1] + (goal[0] - at.segment) * _SEGMENT_GUESS

    def _journal_end(self) -> tuple[int, int, int] | None:
        """Newest segment, its size in bytes and which file it is (inode); None while there is no journal."""
        known = segments(self.folder) if self.folder.exists() else {}
        if not known:
            return None
        newest = max(known)
        try:
            found = known[newest].stat()
        except FileNotFoundError:  # it was compressed at this moment, so it is not the newest any more
            return newest, 0, 0
        return newest, found.st_size, found.st_ino

    def _batch(self) -> tuple[int, Cursor]:
        with self._transaction(write=True) as connection:
            journal_id, cursor = _cursor(connection)
            generation = connection.execute(select(schema.progress.c.generation)).scalar_one()
            if self._shared.generation != generation:
                self._shared = Shared(generation)
            found = self._journal_id()
            if found != journal_id:
                if journal_id:
                    self._clear(connection)
                cursor = beginning(self.folder, self.tombstones())
            ingest = Ingest(connection, self._shared)
            count, self.damage = 0, None
            try:
                try:
                    for record, behind in follow(self.folder, cursor, self.tombstones()):
                        ingest.add(record)
                        cursor, count = behind, count + 1
                        if count >= _BATCH:
                            break
                except DamagedJournal as damage:
                    self.damage = damage
                ingest.finish()
                place = {"segment": cursor.segment, "offset": cursor.offset, "seq": cursor.seq, "chain": cursor.chain}
                connection.execute(update(schema.progress).values(journal_id=found, **place))
            except BaseException:
                self._shared = Shared(generation)  # it may name rows that are rolled back now
                raise
        return count, cursor

    def _journal_id(self) -> bytes:
        """The id in the first segment's header; empty while that is not whole yet."""
        first = min(segments(self.folder))
        with open_segment(self.folder, first) as file:
            data = file.read(HEADER_SIZE)
        return SegmentHeader.decode(data, first).journal_id if len(data) == HEADER_SIZE else b""

    def _clear(self, connection: Connection) -> None:
        """Another journal lies there now: start over."""
        self._shared = Shared(self._shared.generation)
        self._tombstones, self._followed = None, 0
        for table in schema.metadata.sorted_tables:
            if table is not schema.progress:
                connection.execute(delete(table))

    # questions

    def sessions(
        self,
        *,
        subject: str | None = None,
        resource: str | None = None,
        since: float | None = None,
        until: float | None = None,
        live: bool | None = None,
        limit: int = 100,
        damaged_ok: bool = False,
    ) -> list[dict[str, Any]]:
        """Sessions, newest first: `session, subject, issuer, groups, resource, protocol, client, application, token_id,
        started_at, ended_at, end_reason, live, commands, denied, held, rows, bytes`.
        """
        with self._answering(damaged_ok) as connection:
            return queries.sessions(connection, subject, resource, since, until, live, limit)

    def show(
        self, session: str, *, after: int = 0, limit: int = 1000, damaged_ok: bool = False
    ) -> dict[str, Any] | None:
        """`{"session": ..., "commands": [...], "events": [...], "next": ...}` in order, or None for an unknown
        session.

        Commands are as in `search`. Of a long session: what comes behind record `after`, at most `limit` commands and
        as much as fits into one answer; `next` is the `after` for the rest, or None.
        """
        with self._answering(damaged_ok) as connection:
            return queries.show(connection, session, after, limit)

    def search(self, wanted: Search, *, damaged_ok: bool = False) -> list[dict[str, Any]]:
        """Commands that match every given field, newest first, each with its outcome: `seq, session, n, at, subject,
        issuer, resource, kind, text, effects, reads, writes, columns, decision, rule, why, approval, params, phase,
        responses: [{at, status, rows, bytes, us, tag, sqlstate, columns, masked}]`.
        """
        with self._answering(damaged_ok) as connection:
            return queries.search(connection, wanted)

    def events(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        damaged_ok: bool = False,
    ) -> list[dict[str, Any]]:
        """Everything that is no command or response, newest first: `seq, at, kind, session, facts`."""
        with self._answering(damaged_ok) as connection:
            return queries.events(connection, kind, subject, since, until, limit)

    def refusals(
        self,
        *,
        subject: str | None = None,
        resource: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        damaged_ok: bool = False,
    ) -> list[dict[str, Any]]:
        """Those who did not get a session, newest first: `seq, at, kind, listener, resource, client, subject,
        claimed_user, application, why, count`. `subject` is a proven one, or what the client claimed to be.
        """
        with self._answering(damaged_ok) as connection:
            return queries.refusals(connection, subject, resource, since, until, limit)

    def summary(
        self, subject: str, *, since: float | None = None, until: float | None = None, damaged_ok: bool = False
    ) -> dict[str, Any]:
        """An incident in one answer: `sessions, commands (by decision), relations [{relation, access, commands,
        stopped, held}], rows, bytes, masked [column], rules [{rule, decision, commands}], first_at, last_at`. `stopped`
        and `held` (asked for, and not approved) are those of `commands` that did not run.
        """
        with self._answering(damaged_ok) as connection:
            return queries.summary(connection, subject, since, until)

    def removed(
        self, *, since: float | None = None, until: float | None = None, limit: int = 100, damaged_ok: bool = False
    ) -> list[dict[str, Any]]:
        """What retention took of that time, a row a run, newest first: see `removals.removals`."""
        with self._answering(damaged_ok) as connection:
            return removals.removals(connection, since, until, limit)

    def replay(self, session: str, *, damaged_ok: bool = False) -> Iterator[TimedEvent]:
        """Everything recorded of a session, in order and timed, read from the journal itself. Empty when unknown."""
        with self._answering(damaged_ok) as connection:
            places = queries.places(connection, session)
        return timed_events(self.folder, places, self.tombstones())

    @contextmanager
    def _answering(self, damaged_ok: bool) -> Iterator[Connection]:
        try:
            self.catch_up()
        except DamagedJournal:
            if not damaged_ok:
                raise
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(writing=write) as connection, connection.begin():
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            original = getattr(error, "orig", None) or error
            raise RecordError(
                f"the index `{self.path}` failed ({type(original).__name__}: {original}); if it is damaged, delete it: "
                "it is rebuilt from the journal"
            ) from error

    def _make_schema(self, connection: Connection) -> None:
        found = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if (found, version) == (schema.APPLICATION_ID, schema.VERSION):
            return
        if found not in (0, schema.APPLICATION_ID):
            raise RecordError(f"`{self.path}` is a database of another program; set another state_dir")
        schema.metadata.drop_all(connection)  # another version of a derived thing is rebuilt, not converted
        schema.metadata.create_all(connection)
        connection.execute(
            insert(schema.progress).values(id=1, journal_id=b"", segment=1, offset=0, seq=0, chain=Cursor().chain)
        )
        connection.exec_driver_sql(f"PRAGMA application_id={schema.APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA secure_delete=ON")  # what retention removes is overwritten in the file


def _begin(connection: Connection) -> None:
    # IMMEDIATE is the lock: whoever holds it reads the cursor, indexes what follows and moves the cursor.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writing") else "BEGIN")


def _cursor(connection: Connection) -> tuple[bytes, Cursor]:
    row = connection.execute(select(schema.progress)).one()
    return row.journal_id, Cursor(row.segment, row.offset, row.seq, row.chain)
