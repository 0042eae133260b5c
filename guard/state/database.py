"""Opening and using the state database: short transactions, one kind of error.

A write transaction starts with BEGIN IMMEDIATE, so two processes never read the same row and then both change it. It
waits at most `busy_timeout` for another writer and then raises `StateError`: no answer is a denial, not a hang.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert, update
from sqlalchemy.exc import SQLAlchemyError

from guard.state import schema


class StateError(Exception):
    """The state cannot be read or changed. The caller denies; the text tells the operator what to do."""


class Database:
    """One SQLite file. Methods may be called from any thread; each call is its own transaction."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self.path = path
        self._busy_ms = int(busy_timeout * 1000)
        self._create_private(path)
        self._engine = create_engine(
            f"sqlite+pysqlite:///{path}", connect_args={"isolation_level": None, "timeout": busy_timeout}
        )
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "begin", _begin_immediate)
        try:
            self._check_or_make_schema()
        except BaseException:
            self._engine.dispose()
            raise

    def _create_private(self, path: Path) -> None:
        """INVARIANT: the file is never readable by others, not even between its creation and a later chmod."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StateError(f"cannot open the state database `{path}`: {error.strerror}") from error

    def _prepare(self, connection: sqlite3.Connection, _record: object) -> None:
        # secure_delete: the exact text of a held command goes when it is decided, also from the pages that it was on
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON", f"busy_timeout={self._busy_ms}"):
            connection.execute(f"PRAGMA {pragma}")

    def _check_or_make_schema(self) -> None:
        with self.write(durable=True) as connection:
            found = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found == 0 and version == 0:
                if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
                    raise StateError(f"`{self.path}` is a database of another program; set another state_dir")
                schema.metadata.create_all(connection)
                connection.execute(
                    insert(schema.changes), [{"scope": "control", "counter": 0}, {"scope": "approvals", "counter": 0}]
                )
                connection.exec_driver_sql(f"PRAGMA application_id={schema.APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")
            elif found != schema.APPLICATION_ID:
                raise StateError(f"`{self.path}` is a database of another program; set another state_dir")
            elif not 1 <= version <= schema.VERSION:
                raise StateError(
                    f"`{self.path}` has schema version {version}, this release reads {schema.VERSION}; "
                    "start the release that wrote it"
                )
            for step in range(version + 1, schema.VERSION + 1) if version else ():
                for statement in schema.MIGRATIONS[step]:
                    connection.exec_driver_sql(statement)
                connection.exec_driver_sql(f"PRAGMA user_version={step}")
            damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if damage != "ok":
                raise StateError(f"the state database `{self.path}` is damaged; restore it from a backup")

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[Connection]:
        """A write transaction: commits when the block ends, rolls back when it raises.

        durable: fsync before returning (containment, approvals). The session registry does without: after a power
        loss no session is live anyway.
        """
        with self._translated(), self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            with connection.begin():
                yield connection
            if connection.info.pop(_FORGET, False):
                self._truncate_log(driver)

    def _truncate_log(self, driver: sqlite3.Connection) -> None:
        """Empties the write-ahead log, which keeps what was overwritten. Busy readers are not waited for."""
        driver.execute("PRAGMA busy_timeout=0")
        try:
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            driver.execute(f"PRAGMA busy_timeout={self._busy_ms}")

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A read without a write lock; one statement sees one state, with `snapshot` all of the block does."""
        with self._translated(), self._engine.connect() as connection:
            connection.execution_options(reading=True)
            if snapshot:
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> StateError:
        """The same failure in our words: the driver's text may quote parameters, so it is not passed on."""
        original = getattr(error, "orig", None) or error
        text = str(original).lower()
        if "locked" in text or "busy" in text:
            return StateError(f"the state database `{self.path}` is locked by another process; try again")
        if "malformed" in text or "not a database" in text:
            return StateError(f"the state database `{self.path}` is damaged; restore it from a backup")
        if "readonly" in text or "unable to open" in text or "full" in text or "i/o" in text:
            return StateError(f"the state database `{self.path}` cannot be written; check space and permissions")
        return StateError(f"the state database `{self.path}` failed ({type(original).__name__})")

    def close(self) -> None:
        self._engine.dispose()


def _begin_immediate(connection: Connection) -> None:
    if not connection.get_execution_options().get("reading"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


_FORGET = "sluicegate forget"


def forget(connection: Connection) -> None:
    """What this transaction overwrites must not stay in the write-ahead log."""
    connection.info[_FORGET] = True


def bump(connection: Connection, scope: str) -> None:
    """Tell other processes, with this same transaction, that `scope` (control, approvals) changed."""
    row = schema.changes
    connection.execute(update(row).where(row.c.scope == scope).values(counter=row.c.counter + 1))


def values(row: Any) -> dict[str, Any]:
    """A result row as a dict by column name, in plain strings."""
    return {str(name): value for name, value in row._mapping.items()}
