"""A held command waits for a person, runs exactly as shown or not at all, and costs the client nothing but time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support.lab import Lab
from tests.e2e.conftest import BothMySQL
from tests.support.held import Waiting, status
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

STATEMENT = "DELETE FROM orders WHERE id = {}"


def connect(both: BothMySQL) -> pymysql.Connection[Any]:
    address = both.through("agent", "shop")
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database="shop",
        ssl_ca=str(address.ca),
        autocommit=True,
    )


class Held(Waiting):
    def __init__(self, lab: Lab, connection: pymysql.Connection[Any], order: int) -> None:
        super().__init__(lab, lambda: connection.query(STATEMENT.format(order)))


def vote(lab: Lab, verb: str, held: Held, *, reason: str = "because") -> None:
    token = lab.issuer.token("dana", ["oncall"])
    done = lab.gateway.cli("approvals", verb, held.id, "--reason", reason, token=token)
    assert done.returncode == 0, done.stderr


def exists(lab: Lab, order: int) -> bool:
    with contextlib.closing(lab.server.connect()) as direct, direct.cursor() as cursor:
        return bool(cursor.execute("SELECT 1 FROM orders WHERE id = %s", (order,)))


@pytest.fixture
def agent(mysql_lab: Lab, both_mysql: BothMySQL) -> Iterator[pymysql.Connection[Any]]:
    with connect(both_mysql) as connection:
        yield connection
    with contextlib.closing(mysql_lab.server.connect()) as direct, direct.cursor() as cursor:
        for order in range(1, 11):  # whatever was deleted comes back
            cursor.execute("INSERT IGNORE INTO orders VALUES (%s, 1, 'umbrella', 1, 'new', now())", (order,))


def test_an_approved_command_runs_once(mysql_lab: Lab, agent: pymysql.Connection[Any]) -> None:
    held = Held(mysql_lab, agent, 1)
    assert exists(mysql_lab, 1)
    vote(mysql_lab, "approve", held)
    assert held.answer.result(20) == 1
    assert not exists(mysql_lab, 1)
    assert status(mysql_lab, held, "spent") == "spent"
    again = Held(mysql_lab, agent, 1)  # the same bytes wait again: an approval is for once
    assert again.id != held.id
    vote(mysql_lab, "approve", again)
    assert again.answer.result(20) == 0


def test_a_refused_command_is_an_error_with_its_reason(mysql_lab: Lab, agent: pymysql.Connection[Any]) -> None:
    held = Held(mysql_lab, agent, 2)
    vote(mysql_lab, "deny", held, reason="not on a Friday")
    with pytest.raises(pymysql.err.MySQLError, match="not on a Friday") as caught:
        held.answer.result(20)
    assert caught.value.args[0] == 1142
    assert exists(mysql_lab, 2)
    assert agent.query("SELECT 1") == 1


def test_a_kill_query_of_the_clients_own_driver_withdraws(
    mysql_lab: Lab, both_mysql: BothMySQL, agent: pymysql.Connection[Any]
) -> None:
    held = Held(mysql_lab, agent, 4)
    with connect(both_mysql) as other:
        other.query(f"KILL QUERY {agent.thread_id()}")
    with pytest.raises(pymysql.err.MySQLError) as caught:
        held.answer.result(20)
    assert caught.value.args[0] == 1317
    assert status(mysql_lab, held, "withdrawn") == "withdrawn"
    assert exists(mysql_lab, 4)
    assert agent.query("SELECT 1") == 1


def test_a_client_that_leaves_withdraws(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    connection = connect(both_mysql)
    held = Held(mysql_lab, connection, 5)
    assert connection._sock is not None
    connection._sock.shutdown(2)
    assert held.answer.exception(20) is not None
    assert status(mysql_lab, held, "withdrawn") == "withdrawn"
    assert exists(mysql_lab, 5)


def test_what_waits_is_in_the_journal_before_it_runs(mysql_lab: Lab, agent: pymysql.Connection[Any]) -> None:
    held = Held(mysql_lab, agent, 6)
    text = STATEMENT.format(6)
    (command,) = await_records(
        mysql_lab.gateway.state_dir, lambda r: r.get("text") == text and r.get("decision") == "hold"
    )
    assert exists(mysql_lab, 6)
    vote(mysql_lab, "approve", held)
    assert held.answer.result(20) == 1
    (response,) = await_records(
        mysql_lab.gateway.state_dir,
        lambda r: r.get("t") == "response" and r.get("s") == command["s"] and r.get("n") == command["n"],
    )
    assert (response["status"], response["rows"]) == ("ok", 1)
