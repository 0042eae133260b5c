"""What programs send that only read, through a real gateway: allowed, and answered as the server itself answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from scripts.support.gateway import ROOT
from scripts.support.lab import Lab
from scripts.support.postgres import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SETUP = """
CREATE VIEW spent AS SELECT c.city, count(*) AS n, sum(o.total) AS total
  FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY 1;
CREATE MATERIALIZED VIEW spent_kept AS SELECT c.city, sum(o.total) AS total
  FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY 1;
CREATE VIEW shouted AS SELECT id, upper(email) AS x, row_to_json(c)::text AS y FROM customers c;
"""


def named(text: str) -> dict[str, str]:
    """Texts under their names: `-- name`, then the text."""
    parts = (part.partition("\n") for part in text.split("-- ")[1:])
    return {name.strip(): " ".join(body.split()) for name, _, body in parts}


# in the forms of editors, report builders, mappers, exporters and analysts
STATEMENTS = named(
    """
    -- schemas
    SELECT n.oid, n.*, d.description FROM pg_namespace n LEFT JOIN pg_description d ON d.objoid = n.oid ORDER BY 1
    -- relations
    SELECT c.oid, c.*, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid) FROM pg_class c ORDER BY 1
    -- columns
    SELECT a.*, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid,
    a.attnum) FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE
    a.attrelid = 'orders'::regclass ORDER BY a.attnum
    -- keys
    SELECT ct.relname, (information_schema._pg_expandarray(i.indkey)).n FROM pg_index i JOIN pg_class ct ON ct.oid =
    i.indrelid WHERE i.indisprimary ORDER BY 1, 2
    -- indexes
    SELECT pg_get_indexdef(indexrelid), ARRAY(SELECT pg_get_indexdef(indexrelid, k + 1, true) FROM
    generate_subscripts(indkey, 1) AS k ORDER BY k) FROM pg_index ORDER BY indexrelid
    -- types
    SELECT t.oid, t.typname, t.typinput, r.rngsubtype FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid
    ORDER BY 1
    -- described types
    WITH RECURSIVE tree AS (SELECT oid, typelem FROM pg_type WHERE oid = 'text[]'::regtype UNION ALL SELECT t.oid,
    t.typelem FROM pg_type t JOIN tree ON t.oid = tree.typelem) SELECT oid::regtype::text FROM tree
    -- privileges
    SELECT schemaname, tablename, has_table_privilege(current_user, quote_ident(schemaname) || '.' ||
    quote_ident(tablename), 'select') FROM pg_tables ORDER BY 1, 2
    -- bodies
    SELECT relname, pg_get_viewdef(oid, true) FROM pg_class WHERE relkind IN ('v', 'm') ORDER BY oid
    -- words
    SELECT string_agg(word, ',' ORDER BY word) FROM pg_get_keywords() WHERE catcode = 'R'
    -- settings
    SELECT name, vartype, category FROM pg_settings ORDER BY 1
    -- sessions
    SELECT count(*) >= 1, max(application_name) IS NOT NULL FROM pg_stat_activity WHERE state IS NOT NULL
    -- standard
    SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns ORDER BY 1, 2, 3
    -- no rows
    SELECT * FROM (SELECT * FROM orders) AS probe WHERE false LIMIT 0
    -- as JSON
    SELECT coalesce(json_agg(row_to_json(x) ORDER BY x.id), '[]') FROM (SELECT id, total FROM orders) x
    -- buckets
    SELECT floor(extract(epoch FROM placed_at) / 3600) * 3600, sum(total) FROM orders GROUP BY 1 ORDER BY 1
    -- pivot
    SELECT city, count(*) FILTER (WHERE o.status = 'paid'), sum(CASE WHEN o.status = 'new' THEN total END) FROM
    orders o JOIN customers c ON c.id = o.customer_id GROUP BY GROUPING SETS ((city), ()) ORDER BY 1
    -- windows
    SELECT id, rank() OVER w, lag(total) OVER w, avg(total) OVER (ORDER BY id ROWS 3 PRECEDING) FROM orders WINDOW w
    AS (PARTITION BY status ORDER BY total, id) ORDER BY id
    -- percentiles
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total), string_agg(item, ',' ORDER BY id) FROM orders
    -- existence
    SELECT EXISTS (SELECT * FROM customers WHERE id = 1), id IN (1, 2), CASE WHEN EXISTS (SELECT c.email FROM customers
    c WHERE c.id = o.customer_id) THEN 'known' END FROM orders o ORDER BY id
    -- completeness
    SELECT sum(CASE WHEN email IS NULL THEN 1 ELSE 0 END), round(count(email) * 100.0 / count(*), 1), count(DISTINCT
    card) + 0, count(*) OVER () FROM customers
    -- view
    SELECT * FROM spent ORDER BY city
    -- computed from a view
    SELECT upper(city), n + 1, total * 2 FROM spent ORDER BY 1
    -- materialised view
    SELECT * FROM spent_kept ORDER BY city
    """
)
# as drivers and mappers say them, one session each
SESSIONS = named(
    """
    -- own read-only
    SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SELECT 1; SET SESSION CHARACTERISTICS AS TRANSACTION READ
    WRITE; BEGIN READ WRITE; SELECT 2; COMMIT
    -- autocommit
    SET default_transaction_read_only TO 'on'; SELECT 1; SET default_transaction_read_only TO 'off'
    -- cursor
    BEGIN READ ONLY; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id; FETCH 3 FROM c; CLOSE c;
    COMMIT
    -- back to the pool
    SELECT 1; CLOSE ALL; UNLISTEN *; RESET ALL; SELECT pg_advisory_unlock_all(); DISCARD ALL
    -- settings
    SET extra_float_digits = 3; SET application_name = 'report'; SHOW TRANSACTION ISOLATION LEVEL; SET
    client_encoding TO 'UTF8'; SET TIME ZONE 'UTC'; SHOW server_version
    -- savepoints
    BEGIN; SAVEPOINT "a b"; SELECT 1; ROLLBACK TO SAVEPOINT "a b"; RELEASE SAVEPOINT "a b"; COMMIT
    """
)


@pytest.fixture(scope="module")
def lab(installation: Installation) -> Iterator[Lab]:
    policies = [ROOT / "policies" / name for name in ("read-only.yaml", "pii-masking.yaml")]
    with Lab(policies, installation=installation, tls="optional") as made:
        with made.server.connect() as direct:
            direct.execute(SETUP)
        yield made


def answers(dsn: str, texts: list[str], prepare: bool) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = []
        for text in texts:
            cursor = connection.execute(text, prepare=prepare)
            found.append(cursor.fetchall() if cursor.description else cursor.statusmessage)
        return found


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("prepare", [False, True])
def test_a_statement_that_only_reads(lab: Lab, name: str, prepare: bool) -> None:
    texts = [STATEMENTS[name]]
    assert answers(lab.dsn("analyst"), texts, prepare) == answers(lab.server.dsn(), texts, prepare)


@pytest.mark.parametrize("name", SESSIONS)
def test_what_a_driver_says_around_its_statements(lab: Lab, name: str) -> None:
    texts = SESSIONS[name].split("; ")
    assert answers(lab.dsn("analyst"), texts, False) == answers(lab.server.dsn(), texts, False)


def test_a_computed_column_of_a_view_over_masked_columns_is_masked(lab: Lab) -> None:
    rows = answers(lab.dsn("analyst"), ["SELECT id, x, y FROM shouted ORDER BY id"], False)[0]
    assert rows
    assert all(row[0] is not None and row[1:] == (None, None) for row in rows)


@pytest.mark.parametrize("size", [3, 100])
def test_a_portal_of_a_named_statement_is_fetched_in_parts(lab: Lab, size: int) -> None:
    """As JDBC does with a fetch size, and psycopg with a server-side cursor."""
    with psycopg.connect(lab.dsn("analyst")) as connection, connection.cursor(name="parts") as cursor:
        cursor.itersize = size
        cursor.execute("SELECT id, total FROM orders ORDER BY id")
        found = list(cursor)
    assert found == answers(lab.server.dsn(), ["SELECT id, total FROM orders ORDER BY id"], False)[0]
