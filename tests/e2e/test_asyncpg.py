"""asyncpg (binary throughout, prepares everything) sees the same through the gateway as without it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import io
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

pytestmark = pytest.mark.e2e

VALUES: tuple[tuple[str, Any], ...] = (
    ("int8", -5),
    ("numeric", decimal.Decimal("3.14159265358979323846")),
    ("text", "gr\u00fc\u00df dich \U0001f44b"),
    ("bytea", b"\x00\x01\xfe\xff"),
    ("timestamptz", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    ("uuid", uuid.UUID(int=7)),
    ("inet", "10.0.0.0/8"),
    ("int4range", (1, 9)),
    ("text[]", ["a", None, "c,d"]),
    ("jsonb", '{"a": [1, null]}'),
    ("interval", datetime.timedelta(days=2, seconds=3)),
)


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn, timeout=20)
    try:
        yield connection
    finally:
        await connection.close(timeout=20)


def test_values_and_prepared_statements(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with connected(dsn) as connection:
            seen: list[Any] = []
            for kind, value in VALUES:
                seen.append((kind, str(await connection.fetchval(f"SELECT $1::{kind}", value))))
            statement = await connection.prepare("SELECT id, name FROM customers WHERE id = any($1::int[]) ORDER BY id")
            seen.append([attribute.name for attribute in statement.get_attributes()])
            seen += [tuple(row) for row in await statement.fetch([3, 1, 2])]
            seen.append(statement.get_statusmsg())
            row = await connection.fetchrow("SELECT (1, 'x', NULL)::record AS r, ARRAY[ROW(1, 2)] AS a")
            seen.append(str(row))
            return seen

    both(script)


def test_transactions_and_errors(both: Any) -> None:
    async def script(dsn: str) -> Any:
        seen: list[Any] = []
        async with connected(dsn) as connection:
            await connection.execute(
                "CREATE TABLE work.t (i int PRIMARY KEY, t text); INSERT INTO work.t VALUES (1, 'a')"
            )
            for statement in ("INSERT INTO work.t VALUES (1)", "SELECT nope", "SELEC", "SELECT 1/0"):
                try:
                    async with connection.transaction():
                        seen.append(await connection.execute("INSERT INTO work.t VALUES (2)"))
                        await connection.fetch(statement)
                except asyncpg.PostgresError as error:
                    seen.append((error.sqlstate, str(error), getattr(error, "position", None)))
            async with connection.transaction(isolation="serializable", readonly=True):
                try:
                    async with connection.transaction():
                        await connection.execute("DELETE FROM work.t")
                except asyncpg.PostgresError as error:
                    seen.append(error.sqlstate)
                seen.append(await connection.fetch("SELECT * FROM work.t"))
        return seen

    both(script)


def test_cursors_and_executemany(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with connected(dsn) as connection:
            await connection.execute("CREATE TABLE work.m (i int PRIMARY KEY, t text)")
            await connection.executemany("INSERT INTO work.m VALUES ($1, $2)", [(n, f"row {n}") for n in range(1000)])
            seen: list[Any] = []
            async with connection.transaction():
                cursor = await connection.cursor("SELECT * FROM work.m ORDER BY i")
                seen += [await cursor.fetch(3), await cursor.forward(900), await cursor.fetchrow()]
                async for row in connection.cursor("SELECT i FROM work.m ORDER BY i DESC LIMIT 120", prefetch=50):
                    seen.append(row["i"])
            try:
                await connection.executemany("INSERT INTO work.m VALUES ($1, '')", [(n,) for n in (5000, 6, 5001)])
            except asyncpg.UniqueViolationError as error:
                seen.append(error.sqlstate)
            seen.append(await connection.fetchval("SELECT count(*) FROM work.m"))  # the batch is one transaction
            return [str(entry) for entry in seen]

    assert both(script)[-1] == "1000"


def test_copy(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with connected(dsn) as connection:
            await connection.execute("CREATE TABLE work.c (i int, t text)")
            records = [(n, None if n % 7 == 0 else "y" * n) for n in range(500)]
            seen: list[Any] = [await connection.copy_records_to_table("c", records=records, schema_name="work")]
            for form in ("text", "csv", "binary"):
                out = io.BytesIO()
                query = "SELECT * FROM work.c WHERE i % $1 = 0 ORDER BY i"
                seen.append(await connection.copy_from_query(query, 50, output=out, format=form))
                seen.append(out.getvalue())
            return seen

    both(script)


def test_listen_and_notify(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with connected(dsn) as listener, connected(dsn) as sender:
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            await listener.add_listener(
                "news", lambda _c, _pid, channel, payload: arrived.put_nowait((channel, payload))
            )
            await sender.execute("NOTIFY news, 'extra'")
            found = await asyncio.wait_for(arrived.get(), 20)
            await listener.reset()
            return found

    assert both(script) == ("news", "extra")


def test_a_timeout_cancels_upstream_and_the_connection_lives(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with connected(dsn) as connection:
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT pg_sleep(60)", timeout=0.3)
            return await connection.fetchval("SELECT 'alive'")

    assert both(script) == "alive"


def test_a_pool_resets_its_connections(both: Any) -> None:
    async def script(dsn: str) -> Any:
        async with asyncpg.create_pool(dsn, min_size=2, max_size=4, timeout=20) as pool:
            async with pool.acquire() as connection:
                await connection.execute("SET application_name = 'dirty'; CREATE TEMP TABLE t (i int)")
            values = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(50)))
            names = await asyncio.gather(*(pool.fetchval("SHOW application_name") for _ in range(4)))
            return values, set(names)

    both(script)
