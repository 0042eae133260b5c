"""The MySQL and MariaDB that tests stand on: started as typed, gone when stopped, their own log the witness."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from scripts.support import mysql, sample
from scripts.support.mysql import Installation, MySQLServer
from scripts.support.process import StartError
from scripts.support.tls import Authority

pytestmark = pytest.mark.e2e


def through_tcp(server: MySQLServer, user: str, password: str) -> pymysql.Connection:
    assert server.authority is not None
    return pymysql.connect(
        host=server.host,
        port=server.port,
        user=user,
        password=password,
        database=server.database,
        ssl={"ca": str(server.authority.file), "check_hostname": True},
        autocommit=True,
    )


@pytest.fixture(scope="module")
def mysql_server(mysql_installation: Installation, authority: Authority) -> Iterator[MySQLServer]:
    with MySQLServer(mysql_installation, authority=authority, tls_only=True) as running:
        yield running


def test_the_superuser_needs_its_password_everywhere(mysql_server: MySQLServer) -> None:
    for where in ({"unix_socket": str(mysql_server.socket)}, {"host": mysql_server.host, "port": mysql_server.port}):
        with pytest.raises(pymysql.err.OperationalError):
            pymysql.connect(user="root", password="", **where)
    with contextlib.closing(mysql_server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mysql.user WHERE user IN ('root', '')")
        assert cursor.fetchone() == (2,)


def test_there_is_a_user_for_every_plugin(mysql_server: MySQLServer) -> None:
    assert set(mysql_server.logins) <= set(mysql.METHODS[mysql_server.installation.flavour])
    assert mysql_server.method in mysql_server.logins
    for plugin, (user, password) in mysql_server.logins.items():
        with contextlib.closing(mysql_server.connect("mysql")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT plugin FROM mysql.user WHERE user = %s", (user,))
            assert cursor.fetchone() == (plugin,)
        if plugin != "ed25519":  # PyMySQL needs another package for it
            with contextlib.closing(through_tcp(mysql_server, user, password)) as connection:
                assert mysql_server.installation.version in connection.get_server_info()


def test_tls_only_is_meant(mysql_server: MySQLServer) -> None:
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(
            host=mysql_server.host,
            port=mysql_server.port,
            user="root",
            password=mysql_server.password,
            ssl_disabled=True,
        )


def test_its_own_log_tells_which_statements_reached_it(mysql_server: MySQLServer) -> None:
    text = "SELECT 1,\n\t'two\nlines' -- and a comment"
    before = len(mysql_server.statements())
    with (
        contextlib.closing(through_tcp(mysql_server, "root", mysql_server.password)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(text)
        with pytest.raises(pymysql.err.ProgrammingError):
            cursor.execute("SELECT * FROM missing")
    statements = mysql_server.statements()[before:]
    assert text in statements
    assert "SELECT * FROM missing" in statements


def test_the_sample_is_the_one_that_postgresql_has(mysql_server: MySQLServer) -> None:
    mysql_server.load_sample()
    with contextlib.closing(mysql_server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name, email, card, national_id, city FROM customers ORDER BY id")
        assert list(cursor.fetchall()) == [row[:6] for row in sample.customers()]
        cursor.execute("SELECT count(*), sum(total > 0) FROM orders")
        assert cursor.fetchone() == (sample.ORDERS, sample.ORDERS)
        cursor.execute("SELECT count(*) FROM revenue_by_city")
        assert cursor.fetchone() == (10,)
        cursor.execute("DROP VIEW customer_orders, revenue_by_city")
        cursor.execute("DROP TABLE orders, customers, credentials")


def test_a_setup_script_that_fails_names_the_line(mysql_server: MySQLServer, tmp_path: Path) -> None:
    script = tmp_path / "setup.sql"
    script.write_text("CREATE TABLE half (id int);\nSELECT nonsense;\n")
    with pytest.raises(StartError, match=r"at line 2.*nonsense"):
        mysql_server.run_file(script)
    script.write_text("DROP TABLE half;\nDELIMITER //\nSELECT 1//\n")
    mysql_server.run_file(script)


def test_a_server_that_does_not_start_quotes_its_log_and_leaves_nothing(mysql_installation: Installation) -> None:
    with pytest.raises(StartError, match=r"no[-_]such[-_]setting"):
        MySQLServer(mysql_installation, settings={"no-such-setting": "1"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"method": "kerberos"}, "unknown authentication plugin"), ({"tls_only": True}, "needs an authority")],
)
def test_impossible_wishes_are_refused(
    mysql_installation: Installation, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        MySQLServer(mysql_installation, **arguments)  # type: ignore[arg-type]  # that is the point


def test_what_is_not_there_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no MySQL or MariaDB in"):
        mysql.find("/nowhere")
    monkeypatch.setenv(mysql.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(mysql, "_which", lambda _name: None)
    assert list(mysql.available()) == []
    with pytest.raises(StartError, match=mysql.ROOT_VARIABLE):
        mysql.find("mysql")
    with pytest.raises(StartError, match="mariadb-server"):
        mysql.find("mariadb")


def test_a_system_without_a_loader_is_no_system(mysql_installation: Installation, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(mysql_installation, system=tmp_path)
    with pytest.raises(StartError, match="no dynamic loader"):
        elsewhere.argv("mysqld")


def test_a_folder_in_the_way_of_the_cache_is_not_trusted(
    mysql_installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"sluicegate-mysql-{os.geteuid()}").mkdir(mode=0o777)
    (tmp_path / f"sluicegate-mysql-{os.geteuid()}").chmod(0o777)
    with pytest.raises(StartError, match="not ours alone"):
        MySQLServer(mysql_installation)
