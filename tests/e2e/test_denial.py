"""A denial is a server error: afterwards client and server agree on everything, as after an error of the server's own.

Attack row 17. Each script runs direct, with a statement that fails by itself in the marked place, and through the
gateway, with one that its policy refuses there. What else the client sees must be equal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.observe import drained, told

pytestmark = pytest.mark.e2e

FAILS = "SELECT * FROM denial.missing"
REFUSED = "DROP TABLE public.orders"

Script = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def table(lab: Lab) -> None:
    """A table that the agent may write."""
    with lab.server.connect() as connection:
        connection.execute("DROP SCHEMA IF EXISTS denial CASCADE; CREATE SCHEMA denial")
        connection.execute("CREATE TABLE denial.t (i int PRIMARY KEY, v text)")
    time.sleep(1.5)  # the gateway's view of the catalog may be a second old


@pytest.fixture
def alike(lab: Lab, table: None) -> Callable[[Script], tuple[Any, Any]]:
    """Runs a script direct and as the agent through the gateway; returns both observations."""

    def run(script: Script) -> tuple[Any, Any]:
        seen = []
        for dsn, bad in ((lab.server.dsn(), FAILS), (lab.dsn("agent"), REFUSED)):
            with lab.server.connect() as connection:
                connection.execute("DELETE FROM denial.t; INSERT INTO denial.t VALUES (0, 'z')")
            seen.append(script(dsn, bad))
        with lab.server.connect() as connection:
            assert connection.execute("SELECT to_regclass('public.orders') IS NOT NULL").fetchone() == (True,)
        return seen[0], seen[1]

    return run


def same_but_for_the_error(direct: list[Any], through: list[Any]) -> None:
    """Equal entry by entry, except that the error in the marked place has the gateway's own words."""
    assert len(through) == len(direct)
    differing = [(one, other) for one, other in zip(direct, through, strict=True) if one != other]
    assert len(differing) == 1
    (mine, gateways) = differing[0]
    assert (mine[0], mine[1]) == ("error", "42P01")
    assert (gateways[0], gateways[1], gateways[2]) == ("error", "42501", "ERROR")
    assert "demo/agents-never-reshape" in gateways[3]
    assert mine[-1] == gateways[-1]  # the state of the transaction


@pytest.mark.parametrize("cursor", [psycopg.Cursor, psycopg.ClientCursor], ids=["extended", "simple"])
def test_outside_and_inside_a_transaction(alike: Any, cursor: type[psycopg.Cursor[Any]]) -> None:
    def script(dsn: str, bad: str) -> list[Any]:
        with psycopg.connect(dsn, autocommit=True, cursor_factory=cursor) as connection:
            return [told(connection, text) for text in ("SELECT 1", bad, "SELECT 2")]

    same_but_for_the_error(*alike(script))

    def block(dsn: str, bad: str) -> list[Any]:
        with psycopg.connect(dsn, autocommit=True, cursor_factory=cursor) as connection:
            texts = (
                "BEGIN", "INSERT INTO denial.t VALUES (1, 'lost')", bad, "SELECT 'aborted'",
                "COMMIT", "SELECT * FROM denial.t",
            )  # fmt: skip
            return [told(connection, text) for text in texts]

    direct, through = alike(block)
    same_but_for_the_error(direct, through)
    assert direct[3][1] == "25P02"
    assert direct[4][0][0][0] == "ROLLBACK"


def test_savepoints_and_cursors_survive_as_they_would(alike: Any) -> None:
    def script(dsn: str, bad: str) -> list[Any]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            texts = (
                "BEGIN", "DECLARE before CURSOR FOR SELECT * FROM generate_series(1, 9)", "FETCH 2 FROM before",
                "SAVEPOINT s", "INSERT INTO denial.t VALUES (1, 'lost')",
                "DECLARE within CURSOR FOR SELECT * FROM generate_series(1, 9)",
                bad, "ROLLBACK TO SAVEPOINT s", "FETCH 2 FROM before", "INSERT INTO denial.t VALUES (2, 'kept')",
                "COMMIT", "SELECT * FROM denial.t ORDER BY i",
            )  # fmt: skip
            return [told(connection, text) for text in texts]

    direct, through = alike(script)
    same_but_for_the_error(direct, through)
    assert direct[8][0][0][2] == [(3,), (4,)]


def test_statements_of_one_simple_query_are_undone_together(alike: Any) -> None:
    def script(dsn: str, bad: str) -> Any:
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            text = f"INSERT INTO denial.t VALUES (1, 'lost'); {bad}; INSERT INTO denial.t VALUES (2, 'never')"
            return [told(connection, text), told(connection, "SELECT * FROM denial.t")]

    same_but_for_the_error(*alike(script))


def test_a_pipeline_is_skipped_to_its_sync(alike: Any) -> None:
    def script(dsn: str, bad: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            pgconn = connection.pgconn
            pgconn.enter_pipeline_mode()
            for text in ("INSERT INTO denial.t VALUES (1, 'lost')", bad, "INSERT INTO denial.t VALUES (2, 'skipped')"):
                pgconn.send_query_params(text.encode(), [])
            pgconn.pipeline_sync()
            for text in ("SELECT * FROM denial.t", "INSERT INTO denial.t VALUES (3, 'kept')"):
                pgconn.send_query_params(text.encode(), [])
            pgconn.pipeline_sync()
            pgconn.send_prepare(b"named", bad.encode())
            pgconn.send_query_prepared(b"named", [])
            pgconn.pipeline_sync()
            pgconn.send_query_prepared(b"named", [])  # was never prepared
            pgconn.pipeline_sync()
            pgconn.send_query_params(b"SELECT i FROM denial.t ORDER BY i", [])
            pgconn.pipeline_sync()
            seen = drained(pgconn, 5)
            pgconn.exit_pipeline_mode()
            return [entry if entry is None or not entry[3] else (entry[0], entry[3]) for entry in seen]

    direct, through = alike(script)
    shape = [entry and entry[0] for entry in direct]
    assert [entry and entry[0] for entry in through] == shape
    differing = [other[1] for one, other in zip(direct, through, strict=True) if one != other]
    assert len(differing) == 2
    assert all(b"demo/agents-never-reshape" in text for text in differing)
    assert through[-3][2] == [[b"0"], [b"3"]]


def test_asyncpg_goes_on_after_a_denial(alike: Any) -> None:
    def script(dsn: str, bad: str) -> Any:
        async def run() -> Any:
            seen: list[Any] = []
            connection = await asyncpg.connect(dsn, timeout=20)
            try:
                for text in ("SELECT 1", bad, "SELECT 2"):
                    try:
                        seen.append(await connection.fetchval(text))
                    except asyncpg.PostgresError as error:
                        seen.append(("error", error.sqlstate))
                try:
                    async with connection.transaction():
                        await connection.execute("INSERT INTO denial.t VALUES ($1, 'lost')", 1)
                        await connection.execute(bad)
                except asyncpg.PostgresError as error:
                    seen.append(("error", error.sqlstate))
                seen.append(await connection.fetchval("SELECT count(*) FROM denial.t"))
            finally:
                await connection.close(timeout=20)
            return seen

        return asyncio.run(run())

    direct, through = alike(script)
    assert direct == [1, ("error", "42P01"), 2, ("error", "42P01"), 1]
    assert through == [1, ("error", "42501"), 2, ("error", "42501"), 1]


def test_a_pool_keeps_its_connection(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("agent"), autocommit=True) as connection:
        first = connection.execute("SELECT pg_backend_pid()").fetchone()
        for _ in range(20):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(REFUSED)
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == first
