"""Ways to stop what runs: KILL with the gateway's ids (attack row 19), containment and a token's end (row 30)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support.lab import Lab
from tests.e2e.conftest import BothMySQL

pytestmark = pytest.mark.e2e


def connect(both: BothMySQL, identity: str = "admin", token: str = "") -> pymysql.Connection[Any]:
    address = both.through(identity, "shop")
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=token or address.password,
        database="shop",
        ssl_ca=str(address.ca),
    )


class Sleeping:
    """A client whose statement runs, in a thread of its own."""

    def __init__(self, lab: Lab, connection: pymysql.Connection[Any], tag: str) -> None:
        self.lab, self.tag = lab, tag
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self.answer = self._pool.submit(self._run, connection)
        self.becomes(True)

    def _run(self, connection: pymysql.Connection[Any]) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT SLEEP(60), '{self.tag}'")
            return cursor.fetchall()

    def becomes(self, wanted: bool) -> None:
        deadline = time.monotonic() + 15
        while self.running() is not wanted:
            assert time.monotonic() < deadline, f"{self.tag} is {'not ' if wanted else 'still '}running"
            time.sleep(0.05)

    def running(self) -> bool:
        with contextlib.closing(self.lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("SHOW FULL PROCESSLIST")
            return any(self.tag in str(row) for row in cursor.fetchall())


def test_row_19_kill_query_with_the_id_of_the_greeting(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    with connect(both_mysql) as client, connect(both_mysql) as other:
        with contextlib.closing(mysql_lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            assert client.thread_id() not in {row[0] for row in cursor.fetchall()}  # the server's own never leaves us
        asleep = Sleeping(mysql_lab, client, "kill-query")
        assert other.query(f"KILL QUERY {client.thread_id()}") == 0
        asleep.becomes(False)
        outcome = asleep.answer.exception(20)
        # MariaDB says so with an error, MySQL's SLEEP returns 1
        assert outcome is None or outcome.args[0] == 1317
        assert client.query("SELECT 1") == 1


def server_id(client: pymysql.Connection) -> int:
    with client.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        (found,) = cursor.fetchone()
    return int(found)


def test_row_19_kill_query_with_the_id_that_the_server_tells(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    with connect(both_mysql) as client, connect(both_mysql) as other:
        pid = server_id(client)
        asleep = Sleeping(mysql_lab, client, "kill-query")
        assert other.query(f"KILL QUERY {pid}") == 0
        asleep.becomes(False)
        assert client.query("SELECT 1") == 1


def test_row_19_kill_ends_an_own_session(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    client = connect(both_mysql)
    asleep = Sleeping(mysql_lab, client, "kill-connection")
    with connect(both_mysql) as other:
        other.kill(client.thread_id())  # COM_PROCESS_KILL
    assert isinstance(asleep.answer.exception(20), pymysql.err.MySQLError)
    asleep.becomes(False)


def test_row_19_nobody_stops_somebody_elses_session(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    with connect(both_mysql) as client, connect(both_mysql, "agent") as agent:
        with contextlib.closing(mysql_lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            upstream = {row[0] for row in cursor.fetchall()} - {server_id(agent)}
        for pid in (client.thread_id(), *upstream, 0, 2**31 - 1):
            with pytest.raises(pymysql.err.MySQLError) as caught:
                agent.query(f"KILL QUERY {pid}")
            assert caught.value.args[0] == 1094
        assert client.query("SELECT 1") == 1
        assert agent.query("SELECT 1") == 1


def test_row_30_an_ended_session_is_told_why(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    client = connect(both_mysql, token=mysql_lab.issuer.token("eve", ["analysts"]))
    client.query("SELECT 1")
    sessions = mysql_lab.gateway.ask("sessions", token=mysql_lab.tokens["admin"])
    (mine,) = [s for s in sessions if s["subject"] == "eve"]
    done = mysql_lab.gateway.cli("terminate", mine["session"], "--reason", "drill", token=mysql_lab.tokens["admin"])
    assert done.returncode == 0, done.stderr
    with pytest.raises(pymysql.err.MySQLError):
        client.query("SELECT 1")


def test_row_30_containment_ends_sessions_and_what_they_run(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    mallory = mysql_lab.issuer.token("mallory", ["platform"])
    asleep = Sleeping(mysql_lab, connect(both_mysql, token=mallory), "contained")
    token = mysql_lab.tokens["admin"]
    done = mysql_lab.gateway.cli("contain", "mallory", "--reason", "offboarded", token=token)
    assert done.returncode == 0, done.stderr
    assert isinstance(asleep.answer.exception(20), pymysql.err.MySQLError)
    asleep.becomes(False)
    with pytest.raises(pymysql.err.MySQLError) as caught:
        connect(both_mysql, token=mallory)
    assert caught.value.args[0] == 1045
