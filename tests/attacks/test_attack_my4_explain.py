"""What a plan leaves behind: rows that it found by their key stay locked, and a sequence has moved on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.contract import Effect
from protocols.mysql.state import SessionState
from scripts.support.mysql import MySQLServer
from tests.support.mysql_statements import HARMLESS, judged, session

LOCKING = (
    "EXPLAIN SELECT id FROM users WHERE id = 1 FOR UPDATE",
    "EXPLAIN SELECT id FROM users WHERE id = 1 LOCK IN SHARE MODE",
    "EXPLAIN SELECT 1 FROM orders, (SELECT id FROM users WHERE id = 1 FOR UPDATE) x",
    "EXPLAIN UPDATE users u, orders o SET u.name = 'x' WHERE u.id = 1 AND o.id = 1",
    "EXPLAIN DELETE u FROM users u JOIN orders o WHERE u.id = 1 AND o.id = 1",
    "EXPLAIN INSERT INTO orders SELECT id, 1, 1 FROM users WHERE id = 1",
)
NEXT = (
    "EXPLAIN SELECT 1 FROM orders WHERE id = NEXTVAL(numbers)",
    "EXPLAIN SELECT 1 FROM orders WHERE id = NEXT VALUE FOR numbers",
    "EXPLAIN SELECT 1 FROM orders WHERE id = SETVAL(numbers, 9)",
    "EXPLAIN DELETE FROM orders WHERE id = NEXTVAL(numbers)",
)


def within(flavour: str) -> tuple[SessionState, SessionState]:
    """Two sessions whose statements keep their locks: in a transaction, and without autocommit."""
    one, other = session(flavour), session(flavour)
    one.in_transaction = True
    other.autocommit = False
    return one, other


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
@pytest.mark.parametrize("text", LOCKING)
def test_a_plan_in_a_transaction_keeps_its_locks(text: str, flavour: str) -> None:
    for state in within(flavour):
        assert Effect.ADMIN_LOCK in judged(text, state).analysis.effects
    assert judged(f"BEGIN; {text}", session(flavour)).analysis.effects >= {Effect.ADMIN_LOCK}


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
@pytest.mark.parametrize("text", LOCKING)
def test_outside_of_one_it_is_a_look(text: str, flavour: str) -> None:
    assert judged(text, session(flavour)).analysis.effects <= HARMLESS


@pytest.mark.parametrize(
    "text", ["EXPLAIN SELECT id FROM users", "EXPLAIN DELETE FROM users WHERE id = 1", "DESC users"]
)
def test_other_plans_are_looks_anywhere(text: str) -> None:
    for state in within("mariadb"):
        assert judged(text, state).analysis.effects <= HARMLESS


@pytest.mark.parametrize("text", NEXT)
def test_a_plan_that_asks_a_sequence_changes_it(text: str) -> None:
    effects = judged(text, session("mariadb")).analysis.effects
    assert Effect.DATA_WRITE in effects or Effect.UNKNOWN in effects


# ---------------------------------------------------------------- what servers do

SETUP = (
    "DROP DATABASE IF EXISTS plans",
    "CREATE DATABASE plans",
    "CREATE TABLE plans.users (id INT PRIMARY KEY, name VARCHAR(9))",
    "CREATE TABLE plans.orders (id INT PRIMARY KEY, user_id INT, total INT)",
    "INSERT INTO plans.users VALUES (1, 'a')",
    "INSERT INTO plans.orders VALUES (1, 1, 1)",
)


@pytest.fixture
def connection(mysql_server: MySQLServer) -> Iterator[pymysql.Connection[pymysql.cursors.Cursor]]:
    with contextlib.closing(mysql_server.connect()) as opened, opened.cursor() as cursor:
        for text in SETUP:
            cursor.execute(text)
        opened.select_db("plans")
        yield opened
        opened.rollback()
        cursor.execute("DROP DATABASE plans")


@pytest.mark.slow
def test_a_server_keeps_the_locks_of_a_plan(
    connection: pymysql.Connection[pymysql.cursors.Cursor], mysql_server: MySQLServer
) -> None:
    with contextlib.closing(mysql_server.connect("plans")) as other, other.cursor() as waiting:
        waiting.execute("SET innodb_lock_wait_timeout = 1")
        connection.begin()
        connection.cursor().execute("EXPLAIN INSERT INTO orders SELECT id + 5, 1, 1 FROM users WHERE id = 1")
        with pytest.raises(pymysql.err.OperationalError, match="Lock wait timeout"):
            waiting.execute("UPDATE users SET name = 'b' WHERE id = 1")
        connection.rollback()


@pytest.mark.slow
def test_mariadb_asks_a_sequence_for_a_plan(
    connection: pymysql.Connection[pymysql.cursors.Cursor], mysql_server: MySQLServer
) -> None:
    if mysql_server.installation.flavour != "mariadb":
        pytest.skip("only MariaDB has sequences")
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE numbers")
        cursor.execute("SELECT next_not_cached_value FROM numbers")
        before = cursor.fetchall()
        cursor.execute("EXPLAIN SELECT 1 FROM orders WHERE id = NEXTVAL(numbers)")
        cursor.execute("SELECT next_not_cached_value FROM numbers")
        assert cursor.fetchall() != before
