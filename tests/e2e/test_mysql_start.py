"""One process for several protocols, and what it does while a database is not there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import psycopg
import pymysql
import pytest

from scripts.support import mysql, postgres
from scripts.support.gateway import Gateway
from scripts.support.issuer import Issuer
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.mysql import MySQLServer
from scripts.support.tls import Authority
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def shop(mysql_installation: mysql.Installation, authority: Authority) -> Iterator[MySQLServer]:
    with MySQLServer(mysql_installation, authority=authority) as server:
        server.load_sample()
        yield server


def enter(host: str, port: int, token: str, ca: Any) -> pymysql.Connection:
    return pymysql.connect(
        host=host, port=port, user="me", password=token, database="shop", ssl={"ca": str(ca)}, autocommit=True
    )


@pytest.mark.parametrize("launcher", ["mitmdump", pytest.param("serve", marks=pytest.mark.slow)])
def test_both_protocols_in_one_process(shop: MySQLServer, launcher: str) -> None:
    def both(document: dict[str, Any]) -> None:
        document["listeners"].append(
            {**copy.deepcopy(document["listeners"][0]), "name": "mysql", "protocol": "mysql", "resource": "other"}
        )
        document["resources"].append(
            {
                "name": "other", "protocol": "mysql", "host": shop.host, "port": shop.port, "database": shop.database,
                "tls": {"mode": "verify-full", "ca": str(shop.authority.file if shop.authority else "")},
                "credential": {"user": shop.user, "provider": "file", "path": str(secret)},
            }
        )  # fmt: skip

    secret = shop.folder.with_name(f"{shop.folder.name}.secret")
    secret.touch(mode=0o600)
    secret.write_text(shop.password)
    try:
        with Lab(installation=postgres.embedded(), adjust=both, launcher=launcher) as lab:
            host, port = lab.gateway.listeners["mysql"]
            with (
                psycopg.connect(lab.dsn("agent"), autocommit=True) as one,
                contextlib.closing(enter(host, port, lab.tokens["agent"], lab.authority.file)) as other,
                other.cursor() as cursor,
            ):
                for text in ("SELECT count(*) FROM orders", "SELECT max(id) FROM orders"):
                    cursor.execute(text)
                    assert one.execute(text).fetchall() == list(cursor.fetchall())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    one.execute("DROP TABLE orders")
                with pytest.raises(pymysql.err.MySQLError) as caught:
                    cursor.execute("DROP TABLE orders")
                assert caught.value.args[0] == 1142
                sessions = lab.gateway.ask("sessions", token=lab.tokens["admin"])
                assert {(session["subject"], session["resource"]) for session in sessions} == {
                    ("agent", "shop"), ("agent", "other"),
                }  # fmt: skip
                # one command cuts the identity off everywhere
                done = lab.gateway.cli("contain", "agent", "--reason", "both", token=lab.tokens["admin"])
                assert done.returncode == 0, done.stderr
                await_records(lab.gateway.state_dir, lambda r: r["t"] == "session.end", 2)
                with pytest.raises(psycopg.OperationalError):
                    one.execute("SELECT 1")
                with pytest.raises(pymysql.err.MySQLError):
                    cursor.execute("SELECT 1")
    finally:
        secret.unlink()


def test_a_database_that_is_away_is_said_and_found_again(
    mysql_installation: mysql.Installation, issuer: Issuer, authority: Authority, tmp_path: Any
) -> None:
    token = issuer.token("admin", ["platform"])
    with MySQLServer(mysql_installation, authority=authority) as server:
        server.load_sample()
        with Gateway(tmp_path / "gateway", server, [issuer], [DEFAULT_POLICY], authority) as gateway:
            with contextlib.closing(enter(gateway.host, gateway.port, token, authority.file)) as connection:
                server.process.signal(9)
                server.process.wait(20)
                with pytest.raises(pymysql.err.MySQLError), connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            with pytest.raises(pymysql.err.MySQLError) as caught:
                enter(gateway.host, gateway.port, token, authority.file)
            assert "upstream" in str(caught.value)
            assert server.password not in str(caught.value)
            assert gateway.process.running
            # another server, after a restart
            with MySQLServer(mysql_installation, authority=authority) as second:
                second.load_sample()
                gateway.document["resources"][0]["port"] = second.port
                gateway.server = second
                gateway.write_config()
                gateway.stop()
                gateway.start()
                with (
                    contextlib.closing(enter(gateway.host, gateway.port, token, authority.file)) as connection,
                    connection.cursor() as cursor,
                ):
                    cursor.execute("SELECT count(*) FROM orders")
                    assert cursor.fetchone() == (720,)
