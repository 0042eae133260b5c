"""Logins on real servers: every authentication plugin that they have, with and without TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.contract import Credential, CredentialRefused, Refused, Side, UpstreamLogin
from protocols.mysql import login
from protocols.mysql.capabilities import SHARED, Capability
from protocols.mysql.exchange import Exchange
from protocols.mysql.protocol import PROTOCOL
from scripts.support.mysql import MySQLServer
from scripts.support.tls import Authority
from tests.support.mysql_login import run

pytestmark = pytest.mark.slow
C = Capability


def asking(asked: UpstreamLogin, text: str) -> Generator[Any, Any, list[list[bytes | None]]]:
    upstream = Exchange(Side.UPSTREAM)
    ready = yield from login.open_own(asked, upstream, "test")
    return (yield from login.query(upstream, ready.capabilities, text))


def by(server: MySQLServer, plugin: str, *, tls: bool, password: str = "", database: str = "shop") -> UpstreamLogin:
    user, right = server.logins[plugin]
    return UpstreamLogin(Credential(user, password or right), database, tls, b"")


def authority_of(server: MySQLServer, tls: bool) -> Path | None:
    assert server.authority is not None
    return server.authority.file if tls else None


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_every_plugin_of_the_server(mysql_server: MySQLServer, tls: bool) -> None:
    """Twice each, and plain after TLS: caching_sha2_password then knows the hash and takes its short way."""
    assert len(mysql_server.logins) >= 2
    for plugin in [*mysql_server.logins] * 2:
        asked = by(mysql_server, plugin, tls=tls)
        text = "SELECT CURRENT_USER(), DATABASE(), @@character_set_client"
        rows = run(asking(asked, text), mysql_server.host, mysql_server.port, authority_of(mysql_server, tls))
        assert rows == [[f"by_{plugin}@%".encode(), b"shop", b"utf8mb4"]]


@pytest.mark.parametrize("password", ["wrong", "ü" * 40])
def test_a_wrong_password(mysql_server: MySQLServer, password: str) -> None:
    for plugin in mysql_server.logins:
        asked = by(mysql_server, plugin, tls=True, password=password)
        with pytest.raises(CredentialRefused) as e:
            run(asking(asked, "SELECT 1"), mysql_server.host, mysql_server.port, authority_of(mysql_server, True))
        assert "by_" not in str(e.value)
        assert "by_" in str(e.value.__cause__)


@pytest.mark.parametrize("length", [1, 18, 100])
def test_a_password_that_the_server_has_not_seen_yet(mysql_server: MySQLServer, length: int) -> None:
    """No TLS and no hash that the server remembers: with MySQL it goes encrypted with the key of the server."""
    password = "ü" * length
    with mysql_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER fresh@'%%' IDENTIFIED BY %s", (password,))
        try:
            asked = UpstreamLogin(Credential("fresh", password), "", False, b"")
            assert run(asking(asked, "SELECT 1"), mysql_server.host, mysql_server.port) == [[b"1"]]
        finally:
            cursor.execute("DROP USER fresh@'%'")


def test_an_account_without_password(mysql_server: MySQLServer) -> None:
    with mysql_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS open@'%' IDENTIFIED BY ''")
    for tls in (True, False):
        asked = UpstreamLogin(Credential("open", ""), "", tls, b"")
        answer = run(asking(asked, "SELECT 1"), mysql_server.host, mysql_server.port, authority_of(mysql_server, tls))
        assert answer == [[b"1"]]


def test_a_database_that_is_not_there(mysql_server: MySQLServer) -> None:
    asked = by(mysql_server, mysql_server.method, tls=False, database="nosuch")
    with pytest.raises(Refused, match="nosuch") as e:
        run(asking(asked, "SELECT 1"), mysql_server.host, mysql_server.port)
    assert e.value.code == "1049/42000"


def test_a_certificate_of_somebody_else(mysql_server: MySQLServer, tmp_path: Path) -> None:
    asked = by(mysql_server, mysql_server.method, tls=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        run(asking(asked, "SELECT 1"), mysql_server.host, mysql_server.port, Authority(tmp_path).file)


@pytest.mark.parametrize("wanted", [SHARED, C(0), C.DEPRECATE_EOF, C.SESSION_TRACK | C.MULTI_RESULTS])
def test_every_variant_of_the_protocol(mysql_server: MySQLServer, wanted: Capability) -> None:
    """What was agreed is what the server then speaks: the answer is read to its end in each."""
    user, password = mysql_server.logins[mysql_server.method]

    def talk() -> Generator[Any, Any, list[list[bytes | None]]]:
        upstream = Exchange(Side.UPSTREAM)
        greeting = yield from login.read_greeting(upstream)
        ready = yield from login.log_in(upstream, greeting, Credential(user, password), wanted, tls=False)
        assert ready.capabilities & SHARED == wanted & greeting.capabilities & SHARED | C.LONG_PASSWORD
        yield from login.query(upstream, ready.capabilities, "SET NAMES latin1")
        return (yield from login.query(upstream, ready.capabilities, "SELECT 1, NULL, @@character_set_client"))

    assert run(talk(), mysql_server.host, mysql_server.port) == [[b"1", None, b"latin1"]]


def test_row_19_cancelling_what_runs(mysql_server: MySQLServer) -> None:
    assert mysql_server.authority is not None
    asked = by(mysql_server, mysql_server.method, tls=True)
    user, password = mysql_server.logins[mysql_server.method]
    victim = pymysql.connect(host=mysql_server.host, port=mysql_server.port, user=user, password=password)
    answers: list[Any] = []

    def sleep() -> None:
        try:
            with victim.cursor() as cursor:
                cursor.execute("SELECT SLEEP(60)")
                answers.append(cursor.fetchall())
        except pymysql.err.MySQLError as e:
            answers.append(e.args[0])

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    with mysql_server.connect() as watcher, watcher.cursor() as cursor:
        running = 0
        while not running:
            cursor.execute(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s AND info LIKE 'SELECT SLEEP%%'",
                (victim.thread_id(),),
            )
            (running,) = cursor.fetchone()
    cancel = PROTOCOL.cancel(asked, victim.thread_id(), b"")
    run(cancel, mysql_server.host, mysql_server.port, mysql_server.authority.file)
    sleeper.join(30)
    assert answers in ([1317], [((1,),)])  # both servers end it; one says 1: the sleep was interrupted
    with victim.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    victim.close()
    # it is gone now, which is no failure
    run(
        PROTOCOL.cancel(asked, victim.thread_id(), b""),
        mysql_server.host,
        mysql_server.port,
        mysql_server.authority.file,
    )
