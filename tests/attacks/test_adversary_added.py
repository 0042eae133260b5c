"""What was added last, attacked: portals that stop between rows, what is loaded, emptied paths, stars of joins."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlglot import exp

from guard.record.redact import redact_params
from protocols.contract import MaskRule
from protocols.mysql.capabilities import Capability
from protocols.mysql.lineage import Lineage
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.mysql import MySQLServer
from tests.support import mysql_talk, mysql_wire, wire
from tests.support.adversary import CARD, bytes_of, errors, leaks, session
from tests.support.mysql_statements import load as load_catalog
from tests.support.port import anything
from tests.support.talk import SSN, Talk, catalog
from tests.support.wire import COPY_DONE, SYNC, bind, complete, copy_data, execute, parse, query, ready

SUSPENDED = wire.message("s")
SECRET = b"078-05-1120"


# ---------------------------------------------------------------- PostgreSQL: a portal that stops between its rows


def in_part(talk: Talk, sql: str, *rows: bytes) -> None:
    """Executes it for one row: the server has more, and commits."""
    sent = parse("", sql) + bind("", "") + execute("", 1) + SYNC
    assert talk.client(sent)
    described = [wire.columns(wire.field("x"))] if talk.session.masking else []
    talk.server(wire.PARSED, wire.BOUND, *described, *rows, SUSPENDED, ready())


def shown(talk: Talk, sql: str) -> bytes:
    assert talk.client(query(sql)) == query(sql)
    return talk.server(
        wire.columns(wire.field("a", 99_999, 1)), wire.row(SECRET), wire.complete("SELECT 1"), wire.ready()
    )


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t SELECT ssn FROM users RETURNING 1",
        "WITH x AS (INSERT INTO t SELECT ssn FROM users RETURNING 1) SELECT * FROM x, generate_series(1, 3)",
    ],
)
def test_what_a_suspended_portal_has_put_into_a_temporary_table_stays_masked(sql: str) -> None:
    talk = Talk(anything, masks=[SSN])
    talk.client(query("CREATE TEMP TABLE t (a text)"))
    talk.server(complete("CREATE TABLE"), ready())
    in_part(talk, sql, wire.row(b"1"))
    assert SECRET not in shown(talk, "SELECT a FROM t")
    assert SECRET not in shown(talk, "SELECT upper(a) FROM t")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('search_path', 'evil', false)",
        "SELECT set_config('search_path', 'evil', false) UNION ALL SELECT set_config('search_path', 'public', false)",
    ],
)
def test_a_path_that_a_suspended_portal_has_set_is_not_certain(sql: str) -> None:
    talk = Talk(anything)
    in_part(talk, sql, wire.row(b"evil"))
    path, certain = talk.session.state.search_path(catalog())
    assert not certain, path


def test_a_cursor_that_sets_something_when_it_is_fetched_is_not_understood() -> None:
    talk = Talk()
    talk.begin()
    sql = "DECLARE c CURSOR FOR SELECT set_config('search_path', 'evil', false)"
    talk.client(query(sql))
    (*_, command) = [r for r in talk.port.records if r["t"] == "command"]
    assert "unknown" in command["effects"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT {} WHERE false",
        "SELECT {} LIMIT 0",
        "SELECT {} OFFSET 1",
        "SELECT {} FROM orders",
        "SELECT CASE WHEN false THEN {} END",
        "SELECT coalesce('a', {})",
        "SELECT {} UNION ALL SELECT set_config('search_path', 'public', false)",
        "SELECT 1 WHERE EXISTS (SELECT {})",
        "WITH x AS (SELECT {}) SELECT 1",
        "EXPLAIN ANALYZE SELECT {}",
        "COPY (SELECT {}) TO STDOUT",
        "CREATE TEMP TABLE x AS SELECT {} WITH NO DATA",
        "INSERT INTO orders (total) SELECT {}",
    ],
)
def test_a_path_that_may_not_have_been_set_is_not_certain(sql: str) -> None:
    talk = Talk(anything)
    talk.client(query(sql.format("set_config('search_path', 'evil', false)")))
    talk.server(complete("SELECT 0"), ready())
    assert not talk.session.state.search_path(catalog())[1]


@pytest.mark.parametrize("piped", [False, True])
def test_a_portal_that_writes_is_bound_again_once_its_temporary_table_was_filled(piped: bool) -> None:
    """Unlike a SELECT's it has no snapshot before it runs: it returns what was put there since it was bound."""
    talk = Talk(anything, masks=[SSN])
    talk.client(query("CREATE TEMP TABLE t (a text)"))
    talk.server(complete("CREATE TABLE"), ready())
    talk.begin()
    bound = parse("p", "UPDATE t SET a = a RETURNING a") + bind("p", "p")
    fill = parse("", "INSERT INTO t SELECT ssn FROM users") + bind("", "") + execute()
    described = [wire.PARSED, wire.BOUND, wire.columns(wire.field("a", 99_999, 1))]
    filled = [wire.PARSED, wire.BOUND, wire.NO_DATA, complete("INSERT 0 1")]
    if piped:
        sent = talk.client(bound + fill + execute("p") + SYNC)
        talk.server(*described, *filled)
        sent += talk.up()
    else:
        talk.client(bound + SYNC)
        talk.server(*described, ready("T"))
        part = execute("p", 1) + SYNC  # a fetch size: its own name is no reason to refuse it
        assert talk.client(part) == part
        talk.server(wire.SUSPENDED, ready("T"))
        talk.client(fill + SYNC)
        talk.server(*filled, ready("T"))
        sent = talk.client(execute("p") + SYNC)
    assert execute("p") not in sent


@pytest.mark.e2e
def test_nobody_takes_masked_values_out_of_a_real_gateway_that_way(tmp_path: Path) -> None:
    """Analysts who may fill temporary tables, and masks that name their columns exactly."""
    text = DEFAULT_POLICY.read_text()
    text = text.replace(
        "[data.select, data.copy_out, probe]", "[data.select, data.insert, data.update, ddl.create, probe]"
    )
    text = text.replace('columns: ["*.customers.card"], names: ["card*"]', 'columns: ["public.customers.card"]')
    text = text.replace(', names: ["*email*"]', "").replace(', names: ["national_id*"]', "")
    policy = tmp_path / "policy.yaml"
    policy.write_text(text.replace(', names: ["*secret*"]', "").replace('["*.', '["public.'))
    with Lab(tls="off", policies=(policy,)) as lab, session(lab, "analyst") as s:
        assert not errors(s.ask("CREATE TEMP TABLE t (a text)"))
        fill = "INSERT INTO t SELECT card FROM customers ORDER BY id RETURNING 1"
        found = s.say(parse("", fill), bind("", ""), execute("", 1), SYNC)
        assert "s" in [kind for kind, _ in found]
        answer = s.ask("SELECT count(*) FROM t", "SELECT a FROM t", "SELECT upper(a) FROM t")
        assert not errors(answer)
        assert CARD.encode() not in bytes_of(answer)
        assert not leaks(answer)
        s.ask("CREATE TEMP TABLE u (a text)", "BEGIN")
        s.say(parse("p", "UPDATE u SET a = a RETURNING a"), bind("p", "p"), SYNC)
        assert not errors(s.ask("INSERT INTO u SELECT card FROM customers"))
        assert not leaks(s.say(execute("p"), SYNC))


# ---------------------------------------------------------------- what is loaded, on record


def postgres_load(talk: Talk, sql: str, data: bytes, width: int, end: bytes = b"") -> dict[str, Any]:
    assert talk.client(query(sql)) == query(sql)
    talk.server(wire.copy_in(*(0,) * width))
    talk.client(copy_data(data) + COPY_DONE)
    talk.server(end or complete("COPY 1"), ready())
    return talk.last()


def test_a_null_marker_that_is_a_value_is_replaced_where_the_server_takes_it_for_one() -> None:
    sql = "COPY users FROM STDIN WITH (FORMAT csv, NULL '078-05-1120', FORCE_NOT_NULL (ssn))"
    record = postgres_load(Talk(masks=[SSN]), sql, b"1,078-05-1120,x\n", 3)
    assert base64.b64decode(record["input"]) == b"1,[redacted],x\n"


@pytest.mark.parametrize(
    "more",
    [
        {"W": 'COPY orders, line 1, column password: "swordfish"'},
        {"D": "Failing row contains (1, swordfish)."},
    ],
)
def test_an_error_about_a_load_quotes_no_secret_on_record_that_its_input_does_not_show(more: dict[str, str]) -> None:
    talk = Talk(anything)
    talk.port.redact_params = redact_params  # type: ignore[assignment,method-assign]
    end = wire.error("22001", "value too long for type character varying(5)", **more)
    record = postgres_load(talk, "COPY orders (id, password) FROM STDIN", b"1\tswordfish\n", 2, end)
    assert base64.b64decode(record["input"]) == b"1\t[redacted]\n"
    assert b"swordfish" not in base64.b64decode(record["wire"])


def mysql_load(masks: list[MaskRule], into: str, data: bytes) -> bytes:
    talk = mysql_talk.Talk(anything, masks=masks, capabilities=mysql_wire.MODERN | Capability.LOCAL_FILES)
    talk.port.redact_params = redact_params  # type: ignore[assignment,method-assign]
    talk.client(mysql_wire.query(f"LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE {into}"))
    talk.server(mysql_wire.packets(1, b"\xfb/tmp/a"))
    talk.client(mysql_wire.packets(2, data, b""))
    talk.server(mysql_wire.packets(4, mysql_wire.ok(1)))
    return base64.b64decode(talk.last().get("input", ""))


@pytest.mark.parametrize(
    "into",
    [
        "users (id, name) SET ssn = name, name = NULL",
        "users (id, name) SET `SSN` = CONCAT(name, ''), name = 'x'",
        "users (id, name) SET app.users.ssn = name",
    ],
)
def test_a_field_that_set_moves_into_a_masked_column_is_replaced(into: str) -> None:
    assert SECRET not in mysql_load([mysql_talk.SSN], into, b"1\t078-05-1120\n")


@pytest.mark.parametrize(
    "into",
    [
        "accounts (id, @pw) SET password = SHA2(@pw, 256)",
        "accounts (id, note) SET password = note, note = ''",
        "accounts (id, @password)",
    ],
)
def test_a_secret_that_comes_by_a_variable_is_replaced_as_in_a_statement(into: str) -> None:
    assert b"swordfish" not in mysql_load([], into, b"1\tswordfish\n")


def test_set_that_fills_nothing_masked_hides_nothing_else() -> None:
    assert mysql_load([mysql_talk.SSN], "users (id, ssn) SET name = 'x'", b"1\t078\n") == b"1\t[redacted]\n"


# ---------------------------------------------------------------- MySQL: what `*` shows of joins

MARK = "S-078"
SETUP = """
CREATE TABLE users (id INT, ssn VARCHAR(20), name VARCHAR(20));
CREATE TABLE p (id INT, ssn VARCHAR(20), k INT);
CREATE TABLE q (id INT, SSN VARCHAR(20), Name VARCHAR(20), z INT);
CREATE TABLE r (id INT, k INT);
INSERT INTO users VALUES (1, 'S-078', 'Ada');
INSERT INTO p VALUES (1, 'other', 7);
INSERT INTO q VALUES (1, 'third', 'Ada', 9);
INSERT INTO r VALUES (1, 7)
"""
QUERIES = """
SELECT * FROM users NATURAL LEFT JOIN p
SELECT * FROM p NATURAL RIGHT JOIN users
SELECT ssn FROM p RIGHT JOIN users USING (ssn)
SELECT SSN FROM q RIGHT JOIN users USING (SSN)
SELECT * FROM p RIGHT JOIN users USING (ssn)
SELECT * FROM r, p RIGHT JOIN users USING (ssn)
SELECT * FROM r, users LEFT JOIN p USING (ssn)
SELECT * FROM r JOIN (p RIGHT JOIN users USING (ssn)) USING (id)
SELECT * FROM (r, users) LEFT JOIN p USING (ssn)
SELECT * FROM r JOIN (users, p) ON r.id = users.id
SELECT * FROM r NATURAL JOIN (users CROSS JOIN (SELECT 5 AS v) d)
SELECT * FROM (SELECT id AS a, ssn AS b FROM users) x NATURAL LEFT JOIN (SELECT 'no' AS b) y
SELECT * FROM (SELECT 'no' AS b) y NATURAL RIGHT JOIN (SELECT ssn AS b FROM users) x
SELECT b FROM (SELECT 'no' AS b) y NATURAL RIGHT JOIN (SELECT ssn AS b FROM users) x
SELECT z.* FROM (SELECT * FROM p RIGHT JOIN users USING (ssn)) z
SELECT z.* FROM (SELECT p.k, users.* FROM p RIGHT JOIN users USING (ssn)) z
SELECT p.*, users.* FROM p RIGHT JOIN users USING (ssn)
SELECT users.ssn AS k, p.ssn FROM p RIGHT JOIN users USING (id, ssn)
SELECT * FROM users u LEFT JOIN p USING (ssn) LEFT JOIN q USING (ssn)
SELECT * FROM p RIGHT JOIN (q RIGHT JOIN users USING (ssn)) USING (ssn)
SELECT * FROM q LEFT JOIN p USING (ssn) RIGHT JOIN users USING (ssn)
SELECT ssn FROM q LEFT JOIN p USING (ssn) RIGHT JOIN users USING (ssn)
SELECT q.ssn, p.ssn, ssn FROM q LEFT JOIN p USING (ssn) RIGHT JOIN users USING (ssn)
SELECT * FROM r, q LEFT JOIN p USING (ssn) RIGHT JOIN users USING (ssn), r r2
SELECT * FROM r STRAIGHT_JOIN users NATURAL LEFT JOIN p
SELECT * FROM users NATURAL LEFT JOIN p NATURAL LEFT JOIN r
SELECT * FROM r NATURAL JOIN users NATURAL LEFT JOIN q
SELECT * FROM r NATURAL RIGHT JOIN users, p
SELECT * FROM users u1 NATURAL JOIN users u2
SELECT * FROM (users u1 NATURAL JOIN users u2) NATURAL LEFT JOIN p
WITH c AS (SELECT * FROM p NATURAL RIGHT JOIN users) SELECT * FROM c
WITH c (a, b, d, e) AS (SELECT * FROM p NATURAL RIGHT JOIN users) SELECT b, a FROM c
SELECT * FROM (SELECT * FROM r, p NATURAL RIGHT JOIN users) d (a, b, c, e, f, g)
SELECT (SELECT ssn FROM p RIGHT JOIN users USING (ssn)) AS v
SELECT * FROM r LEFT JOIN (users LEFT JOIN p USING (ssn)) ON true
SELECT * FROM r JOIN users USING (id), q
SELECT x.*, r.* FROM r, users x, q NATURAL LEFT JOIN p
SELECT * FROM users JOIN r USING (id) UNION SELECT * FROM users JOIN r USING (id)
SELECT max(ssn) FROM p RIGHT JOIN users USING (ssn)
SELECT ssn, count(*) FROM p RIGHT JOIN users USING (ssn) GROUP BY ssn
SELECT 1 FROM r WHERE EXISTS (SELECT * FROM users NATURAL LEFT JOIN p)
SELECT * FROM (SELECT p.k, ssn AS name FROM p RIGHT JOIN users USING (ssn)) t LEFT JOIN r USING (k)
SELECT * FROM r, LATERAL (SELECT ssn AS k2 FROM users LEFT JOIN p USING (ssn)) l
SELECT * FROM { OJ users LEFT OUTER JOIN p ON users.id = p.id }
SELECT * FROM users INNER JOIN (p, r) USING (id)
SELECT * FROM ((users)) NATURAL LEFT JOIN ((p))
SELECT * FROM users AS p NATURAL LEFT JOIN p AS users
SELECT p.ssn, users.ssn FROM users AS p LEFT JOIN p AS users USING (ssn)
SELECT users.* FROM users AS p NATURAL LEFT JOIN p AS users
SELECT p.* FROM users AS p NATURAL LEFT JOIN p AS users
TABLE users
SELECT * FROM users NATURAL LEFT JOIN p ORDER BY ssn LIMIT 1
""".strip().splitlines()


@pytest.fixture(scope="module")
def shop(mysql_server: MySQLServer) -> Iterator[Any]:
    with contextlib.closing(mysql_server.connect()) as found, found.cursor() as cursor:
        cursor.execute("CREATE DATABASE added")
        cursor.execute("USE added")
        for statement in SETUP.strip().split(";\n"):
            cursor.execute(statement)
        found.commit()
        yield found
        cursor.execute("DROP DATABASE added")


@pytest.mark.slow
def test_what_a_joined_star_shows_is_traced_to_its_column(shop: Any, mysql_server: MySQLServer) -> None:
    """Wherever the masked value comes out, under whichever name, the column is among what is behind it."""
    flavour = mysql_server.installation.flavour
    tables = load_catalog(shop, flavour)
    seen = 0
    with shop.cursor() as cursor:
        for sql in QUERIES:
            try:
                cursor.execute(sql)
            except pymysql.err.MySQLError:
                continue  # one of the two servers does not take it
            rows = cursor.fetchall()
            shows = {i for row in rows for i, value in enumerate(row) if MARK in str(value)}
            state = SessionState(flavour=flavour, version=tables.server_version, database="added")
            state.started()
            (statement,) = analyse(sql.encode(), state, tables).statements
            assert isinstance(statement.tree, exp.Expr), sql
            found = Lineage(tables, state).outputs(statement.tree)
            assert not rows or len(found) == len(rows[0]), sql
            seen += len(shows)
            for i in shows:
                assert "added.users.ssn" in found[i].flow.copied | found[i].flow.computed, (sql, i)
    assert seen > 40
