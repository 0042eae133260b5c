"""A denial is a server error: afterwards client and server agree on everything, as after an error of the server's own.

Attack row 17. Each script runs direct, with a statement that fails by itself in the marked place, and through the
gateway, with one that its policy refuses there. What else the client sees must be equal.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
from pymysql.constants import CLIENT  # type: ignore[import-untyped]  # as above

from scripts.support.lab import Lab
from tests.e2e.conftest import Address, BothMySQL

pytestmark = pytest.mark.e2e

FAILS = "SELECT * FROM work.missing"
REFUSED = "DROP TABLE shop.orders"


def connect(address: Address, **more: Any) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        ssl_ca=str(address.ca),
        autocommit=True,
        **more,
    )


def told(connection: pymysql.Connection[Any], sql: str) -> Any:
    """What the client sees of one text: rows and counts of each result, or the error, and the transaction's state."""
    seen: list[Any] = []
    with connection.cursor() as cursor:
        try:
            cursor.execute(sql)
            seen.append((cursor.rowcount, cursor.fetchall()))
            while cursor.nextset():
                seen.append((cursor.rowcount, cursor.fetchall()))
        except pymysql.err.MySQLError as error:
            seen.append(("error", *error.args))
    return seen, bool(connection.server_status & 1)


def known(both: BothMySQL) -> None:
    """Waits until the gateway has seen the table as it is now: its view of the catalog may be a second old, and another
    file may have had a table of the same name."""
    deadline = time.monotonic() + 20
    with connect(both.through("agent")) as connection:
        while told(connection, "SELECT i, v FROM t")[0] != [(1, ((0, "z"),))]:
            assert time.monotonic() < deadline, "the table is not known yet"
            time.sleep(0.1)


@pytest.fixture
def alike(mysql_lab: Lab, both_mysql: BothMySQL) -> Callable[[Callable[..., Any]], tuple[Any, Any]]:
    """Runs a script direct and as the agent through the gateway; returns both observations."""

    def fresh() -> None:
        with contextlib.closing(mysql_lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS work")
            cursor.execute("CREATE DATABASE work")
            cursor.execute("CREATE TABLE work.t (i int PRIMARY KEY, v text)")
            cursor.execute("INSERT INTO work.t VALUES (0, 'z')")

    def run(script: Callable[..., Any]) -> tuple[Any, Any]:
        fresh()
        direct = script(both_mysql.direct(), FAILS)
        fresh()
        known(both_mysql)
        through = script(both_mysql.through("agent"), REFUSED)
        with contextlib.closing(mysql_lab.server.connect()) as connection, connection.cursor() as cursor:
            assert cursor.execute("SELECT 1 FROM shop.orders LIMIT 1") == 1
        return direct, through

    return run


def same_but_for_the_error(direct: list[Any], through: list[Any]) -> None:
    """Equal entry by entry, except that the error in the marked place has the gateway's own words."""
    assert len(through) == len(direct)
    differing = [(one, other) for one, other in zip(direct, through, strict=True) if one != other]
    assert len(differing) == 1
    ((mine, mine_open), (gateways, gateways_open)) = differing[0]
    assert mine[-1][:2] == ("error", 1146)
    assert gateways[-1][:2] == ("error", 1142)
    assert "demo/agents-never-reshape" in gateways[-1][2]
    assert mine[:-1] == gateways[:-1]
    assert mine_open == gateways_open


def test_outside_and_inside_a_transaction(alike: Any) -> None:
    def script(address: Address, bad: str) -> list[Any]:
        texts = (
            "SELECT 1", bad, "BEGIN", "INSERT INTO t VALUES (1, 'kept')", "SAVEPOINT s",
            "INSERT INTO t VALUES (2, 'gone')", "ROLLBACK TO SAVEPOINT s", "COMMIT", "SELECT * FROM t ORDER BY i",
        )  # fmt: skip
        with connect(address) as connection:
            return [told(connection, text) for text in texts]

    same_but_for_the_error(*alike(script))

    def block(address: Address, bad: str) -> list[Any]:
        texts = (
            "BEGIN",
            "INSERT INTO t VALUES (1, 'kept')",
            bad,
            "SELECT * FROM t ORDER BY i",
            "COMMIT",
            "SELECT * FROM t",
        )
        with connect(address) as connection:
            return [told(connection, text) for text in texts]

    direct, through = alike(block)
    same_but_for_the_error(direct, through)
    assert direct[2][1] is True  # an error of this class leaves the transaction open


def test_a_text_of_several_statements_runs_as_a_whole_or_not_at_all(alike: Any) -> None:
    """Direct, the server runs what stands before the one that fails; the gateway lets none of it run."""

    def script(address: Address, bad: str) -> list[Any]:
        with connect(address, client_flag=CLIENT.MULTI_STATEMENTS) as connection:
            text = f"INSERT INTO t VALUES (1, 'x'); {bad}; INSERT INTO t VALUES (2, 'never')"
            return [told(connection, text), told(connection, "SELECT i FROM t ORDER BY i")]

    direct, through = alike(script)
    assert direct[1][0] == [(2, ((0,), (1,)))]
    assert through[0][0][0][:2] == ("error", 1142)
    assert through[1][0] == [(1, ((0,),))]


def test_a_pool_goes_on_with_its_connection(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    with connect(both_mysql.through("agent", "shop")) as connection:
        for _ in range(20):
            assert told(connection, REFUSED)[0][0][1] == 1142
            assert told(connection, "SELECT count(*) > 0 FROM orders") == ([(1, ((1,),))], False)
        connection.ping(reconnect=False)


def test_a_denied_prepare(both_mysql: BothMySQL) -> None:
    import mysql.connector

    address = both_mysql.through("agent", "shop")
    connection = mysql.connector.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        ssl_ca=str(address.ca),
        use_pure=True,
    )
    with contextlib.closing(connection), connection.cursor(prepared=True) as cursor:
        with pytest.raises(mysql.connector.Error) as caught:
            cursor.execute("DROP TABLE orders")
        assert caught.value.errno == 1142
        cursor.execute("SELECT city FROM customers WHERE id = %s", (1,))
        assert cursor.fetchall() == [("Lyon",)]


@pytest.mark.parametrize("command", [0x05, 0x08, 0x11, 0x12, 0x15, 0x1E, 0x20])
def test_commands_that_are_never_let_through(both_mysql: BothMySQL, command: int) -> None:
    with connect(both_mysql.through("admin", "shop")) as connection:
        connection._execute_command(command, b"whatever")
        with pytest.raises(pymysql.err.MySQLError) as caught:
            connection._read_ok_packet()
        assert caught.value.args[0] == 1047
        assert told(connection, "SELECT 1")[0] == [(1, ((1,),))]
