"""What an analyst sees of the sample shop, over several clients: never a sensitive value, in no format."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest

from scripts.support import sample
from scripts.support.lab import Lab

pytestmark = pytest.mark.e2e

CUSTOMERS = list(sample.customers())
SENSITIVE = [value for row in CUSTOMERS for value in row[2:5]]

# every one of them must show clear data and no sensitive value: aliases, expressions, views, whole rows, cursors
QUERIES = (
    "SELECT * FROM customers",
    "SELECT id, email AS id2, card AS note, national_id AS city FROM customers",
    "SELECT c.* FROM (SELECT * FROM customers) AS c",
    "WITH c AS (SELECT name, card AS x FROM customers) SELECT * FROM c",
    "SELECT name, email FROM customer_orders",
    "SELECT name, upper(email), card || '', left(national_id, 11) FROM customers",
    "SELECT name, (SELECT card FROM customers AS i WHERE i.id = o.id) FROM customers AS o",
    "SELECT name, row_to_json(customers)::text FROM customers",
    "SELECT name, customers FROM customers",
    "SELECT city, array_agg(email) FROM customers GROUP BY city",
    "SELECT name, coalesce(email, '') FROM customers UNION SELECT city, card FROM customers",
)


def leaked(seen: str) -> list[str]:
    return [value for value in SENSITIVE if value in seen or value.upper() in seen]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("query", QUERIES)
def test_no_disguise_shows_a_value(lab: Lab, query: str, binary: bool) -> None:
    with psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection:
        rows = connection.cursor(binary=binary).execute(query.encode()).fetchall()
    assert len(rows) >= 10
    assert leaked(str(rows)) == []
    with psycopg.connect(lab.dsn("admin"), autocommit=True) as connection:
        assert leaked(str(connection.execute(query.encode()).fetchall())) != [], "the test itself must be able to fail"


def test_what_is_clear_stays_clear_and_masks_keep_their_shape(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection:
        rows = connection.execute("SELECT id, name, email, card, city FROM customers ORDER BY id").fetchall()
    for row, original in zip(rows, CUSTOMERS, strict=True):
        assert (row[0], row[1], row[4]) == (original[0], original[1], original[5])
        assert row[3].replace(" ", "")[-4:] == original[3].replace(" ", "")[-4:]
    assert len({row[2] for row in rows}) == len(rows)  # tokens stay distinct


@pytest.mark.parametrize("options", ["", "(FORMAT csv)", "(FORMAT binary)"])
def test_copy_out_is_masked(lab: Lab, options: str) -> None:
    for source in ("customers", "(SELECT name, email, card AS c FROM customers)"):
        with (
            psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection,
            connection.cursor().copy(f"COPY {source} TO STDOUT {options}".encode()) as copy,
        ):
            out = b"".join(bytes(part) for part in copy)
        assert b"Amir Berg" in out
        assert leaked(out.decode(errors="replace")) == []


def test_cursors_prepared_statements_and_re_execution(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("analyst"), prepare_threshold=0) as connection:
        seen = []
        for _ in range(3):  # from the second time on without Describe
            seen.append(connection.execute("SELECT email FROM customers WHERE id < %s", (9,)).fetchall())
        connection.execute("DECLARE c CURSOR FOR SELECT card, name FROM customers ORDER BY id")
        seen.append(connection.execute("FETCH 3 FROM c").fetchall())
        connection.execute("PREPARE p AS SELECT national_id FROM customers")
        seen.append(connection.execute("EXECUTE p").fetchall())
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT email, card FROM customers")
            seen.append(cursor.fetchall())
    assert leaked(str(seen)) == []
    assert "Amir Berg" in str(seen)


def test_asyncpg(lab: Lab) -> None:
    async def run() -> Any:
        connection = await asyncpg.connect(lab.dsn("analyst"), timeout=20)
        try:
            return [tuple(row) for row in await connection.fetch("SELECT * FROM customers")]
        finally:
            await connection.close(timeout=20)

    rows = asyncio.run(run())
    assert len(rows) == sample.CUSTOMERS
    assert leaked(str(rows)) == []


def test_errors_do_not_quote_values(lab: Lab) -> None:
    statement = "SELECT email::int FROM customers"
    with psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(statement)
        assert leaked(f"{caught.value} {caught.value.diag.message_detail} {caught.value.diag.context}") == []
    with psycopg.connect(lab.dsn("admin"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught:
            connection.execute(statement)
        assert leaked(str(caught.value)) != []


def test_the_record_holds_what_the_client_saw(lab: Lab) -> None:
    # what is there already is of sessions of other files, some of which may see it all
    before = {path: path.stat().st_size for path in [*lab.gateway.state_dir.rglob("*.seg"), lab.gateway.log]}
    with psycopg.connect(lab.dsn("analyst"), autocommit=True, application_name="record-me") as connection:
        connection.execute("SELECT name, email, card, national_id FROM customers").fetchall()
        connection.execute("SELECT secret FROM credentials").fetchall()
    files = [path for path in lab.gateway.state_dir.rglob("*") if path.is_file()]
    assert files
    kept = b"".join(path.read_bytes()[before.get(path, 0) :] for path in [*files, lab.gateway.log])
    assert b"record-me" in kept
    with lab.server.connect() as connection:
        secrets = [row[0] for row in connection.execute("SELECT secret FROM credentials")]
    assert [value for value in [*SENSITIVE, *secrets] if value.encode() in kept] == []
    for token in lab.tokens.values():
        assert token.encode() not in kept
    assert lab.server.password.encode() not in kept
