"""Sessions in mitmweb and in `-w` files: readable while they live, and nothing in them that must not be seen."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support import sample
from scripts.support.issuer import Issuer
from scripts.support.postgres import PostgresServer
from scripts.support.tls import Authority
from tests.support.bytewise import eventually
from tests.support.watched import WEB_PASSWORD, Watched, shown, tokens_of

pytestmark = pytest.mark.e2e

ROLE_PASSWORD = "a-role-password-in-a-statement"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        with running.connect() as connection:
            sample.load(connection)
        yield running


@pytest.fixture(scope="module")
def tokens(issuer: Issuer) -> dict[str, str]:
    return tokens_of(issuer)


@pytest.fixture(scope="module")
def watched(server: PostgresServer, issuer: Issuer, authority: Authority, tmp_path_factory: Any) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("live")
    with Watched(folder / "gateway", server, issuer, authority, tls="optional") as running:
        yield running


class Session:
    """psycopg, with a name by which its flow is found."""

    def __init__(self, watched: Watched, tokens: dict[str, str]) -> None:
        self._watched, self._tokens, self._number = watched, tokens, 0

    def __call__(self, identity: str, application: str, **parameters: str) -> psycopg.Connection[Any]:
        dsn = self._watched.dsn(identity, self._tokens[identity], application_name=application, **parameters)
        return psycopg.connect(dsn, autocommit=True)


@pytest.fixture(scope="module")
def session(watched: Watched, tokens: dict[str, str]) -> Session:
    return Session(watched, tokens)


def test_a_session_is_seen_while_it_lives(watched: Watched, session: Session) -> None:
    with session("analyst", "reading") as connection:
        connection.execute("SELECT id, name, email, card, national_id FROM customers ORDER BY id LIMIT 3").fetchall()
        connection.execute("SELECT count(*) FROM orders WHERE status = %s", ["paid"]).fetchall()
        eventually(lambda: len(watched.messages(watched.flow("reading"))) >= 4)
        flow = watched.flow("reading")
        address = f"{watched.server.host}:{watched.server.port}"
        client, upstream = flow["client_conn"], flow["server_conn"]
        assert client["peername"][0] == "analyst@127.0.0.1"
        assert f"{upstream['address'][0]}:{upstream['address'][1]}" == f"shop@{address}"
        assert (client["tls_established"], client["tls_version"]) == (True, "TLSv1.3")
        for words in ("analyst (groups: analysts) on shop, database shop", "listener shop-db", "sluicegate replay"):
            assert words in flow["comment"]
        first, answer, second, count = watched.messages(flow)
        assert first["from_client"]
        assert not answer["from_client"]
        assert first["view_name"] == "sluicegate session"
        assert first["text"].splitlines() == [
            "#1 allowed by demo/analysts-read: data.select",
            "SELECT id, name, email, card, national_id FROM customers ORDER BY id LIMIT 3",
        ]
        head, masked, columns, *rows = answer["text"].splitlines()
        assert head.startswith("#1 ok: 3 rows, ")
        assert masked == "masked: email (demo/email), card (demo/card), national_id (demo/national-id)"
        assert [column.strip() for column in columns.split("|")] == ["id", "name", "email", "card", "national_id"]
        assert len(rows) == 4
        assert all(row.endswith("| [masked]") and "| **** **** **** " in row for row in rows[:3])
        assert "with $1 = 'paid'" in second["text"]
        assert second["timestamp"] >= answer["timestamp"] >= first["timestamp"]
        assert count["text"].splitlines()[-1] == "SELECT 1"
        assert client["timestamp_end"] is None
    eventually(lambda: watched.flow("reading")["client_conn"]["timestamp_end"] is not None)
    assert watched.messages(watched.flow("reading"))[-1]["text"].startswith("session ended: ")
    assert "error" not in watched.flow("reading")


def test_a_denial_and_a_hold_are_marked(watched: Watched, session: Session, tokens: dict[str, str]) -> None:
    with session("agent", "deleting") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE orders")
        eventually(lambda: watched.flow("deleting")["marked"] == "⛔")
        assert "#1 DENIED by demo/agents-never-reshape: ddl.drop\nDROP TABLE orders" in watched.text("deleting")
        assert "ERROR 42501: denied by rule" in watched.text("deleting")
        deleted: list[int] = []

        def delete() -> None:
            deleted.append(connection.execute("DELETE FROM orders WHERE id = -1").rowcount)

        thread = threading.Thread(target=delete)
        thread.start()
        eventually(lambda: watched.flow("deleting")["marked"] == "⏳")
        held = watched.messages(watched.flow("deleting"))[-1]["text"]
        assert held.startswith("#2 HELD by demo/agents-delete-with-approval: data.delete\nDELETE FROM orders")
        [waiting] = watched.ask("approvals", "list", token=tokens["admin"])
        done = watched.cli("approvals", "approve", waiting.get("approval") or waiting["id"], token=tokens["admin"])
        assert done.returncode == 0, done.stderr
        thread.join(10)
        assert deleted == [0]
        eventually(lambda: watched.flow("deleting")["marked"] == "")
        eventually(lambda: "DELETE 0" in watched.text("deleting"))


def test_a_contained_session_says_so(watched: Watched, tokens: dict[str, str], issuer: Issuer) -> None:
    token = issuer.token("contractor", ["analysts"])
    dsn = watched.dsn("contractor", token, application_name="contained")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT 1")
        assert watched.cli("contain", "contractor", "--reason", "x", token=tokens["admin"]).returncode == 0
        eventually(lambda: watched.flow("contained")["marked"] == "🛑")
    assert "`contractor` is contained" in watched.flow("contained")["error"]["msg"]


def test_mitmweb_can_neither_end_nor_change_a_session(watched: Watched, session: Session) -> None:
    """What it shows is a picture. Ending a session needs an identity: `sluicegate contain`."""
    with session("analyst", "untouched") as connection:
        connection.execute("SELECT 1")
        eventually(lambda: len(watched.messages(watched.flow("untouched"))) >= 2)
        flow = watched.flow("untouched")["id"]
        for path, method in (
            (f"/flows/{flow}/kill", "POST"),
            ("/flows/kill", "POST"),
            (f"/flows/{flow}/resume", "POST"),
        ):
            watched.call(path, method)
        with contextlib.suppress(urllib.error.HTTPError):
            watched.call(f"/flows/{flow}/replay", "POST")
        assert connection.execute("SELECT 2").fetchone() == (2,)
        assert "error" not in watched.flow("untouched")
        watched.call(f"/flows/{flow}", "DELETE")
        assert connection.execute("SELECT 3").fetchone() == (3,)
        watched.call("/clear", "POST")
        assert connection.execute("SELECT 4").fetchone() == (4,)
    with session("analyst", "after the clearing") as connection:
        connection.execute("SELECT 5")
        eventually(lambda: "SELECT 5" in watched.text("after the clearing"))


def test_a_busy_session_does_not_fill_memory(watched: Watched, session: Session) -> None:
    with session("analyst", "busy") as connection:
        with connection.pipeline():
            for number in range(1500):
                connection.execute("SELECT %s::int", [number])
        eventually(lambda: "#1500 ok: 1 row" in watched.text("busy"))
        flow = watched.flow("busy")
        assert flow["messages_meta"]["count"] <= 400
        assert "more than are shown here: `sluicegate show " in watched.text("busy")
        connection.execute("SELECT repeat('x', 1000000)").fetchall()
        eventually(lambda: "#1501 ok: 1 row" in watched.text("busy"))  # an answer larger than what is looked at of it
        connection.execute(f"SELECT length('{'long ' * 2000}')").fetchall()
        eventually(lambda: "long long" in watched.text("busy"))
        assert max(len(message["text"]) for message in watched.messages(watched.flow("busy"))) < 4200


def test_no_hook_is_fired_for_a_message(watched: Watched, session: Session) -> None:
    def counts() -> dict[str, int]:
        return dict(eval(watched.counts_file.read_text()))

    eventually(lambda: counts()["tcp_end"] == counts()["tcp_start"])  # of the sessions before
    before = counts()
    with session("analyst", "hooks") as connection:
        for _ in range(50):
            connection.execute("SELECT 1")
    eventually(lambda: counts()["tcp_end"] == before["tcp_end"] + 1)
    after = counts()
    assert after["tcp_start"] == before["tcp_start"] + 1
    assert set(after) == {"tcp_start", "tcp_end"}


def test_ended_sessions_leave_the_view_at_last(watched: Watched, tokens: dict[str, str]) -> None:
    dsn = watched.dsn("analyst", tokens["analyst"], sslmode="disable", application_name="many")

    def connect() -> None:
        for _ in range(130):
            psycopg.connect(dsn).close()

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    eventually(lambda: sum("application `many`" in flow["comment"] for flow in watched.flows()) == 500)


def secrets_of(server: PostgresServer, tokens: dict[str, str]) -> list[str]:
    """What nobody may see here: tokens, the upstream's password, and the values that masks cover."""
    with server.connect() as connection:
        rows = connection.execute("SELECT email, card, national_id FROM customers").fetchall()
        kept = connection.execute("SELECT secret FROM credentials").fetchall()
    masked = [value for row in [*rows, *kept] for value in row]
    return [*tokens.values(), server.password, WEB_PASSWORD, ROLE_PASSWORD, *masked]


def test_no_secret_is_to_be_seen(
    watched: Watched, session: Session, server: PostgresServer, tokens: dict[str, str], issuer: Issuer
) -> None:
    with session("analyst", "curious") as connection:
        connection.execute("SELECT * FROM customers").fetchall()
        connection.execute("SELECT email AS x, lower(card), national_id || '' FROM customers").fetchall()
        connection.execute("SELECT to_jsonb(c) FROM customers AS c").fetchall()
        connection.execute("SELECT * FROM credentials").fetchall()
        with connection.cursor(binary=True) as cursor:
            cursor.execute("SELECT * FROM customers").fetchall()
        with connection.cursor() as cursor, cursor.copy("COPY customers TO STDOUT") as copy:
            list(copy)
    with session("admin", "careless") as connection:
        connection.execute(f"CREATE ROLE careless PASSWORD '{ROLE_PASSWORD}'")
        connection.execute("DROP ROLE careless")
    forged = issuer.token("analyst", ["analysts"], ttl=-60)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(watched.dsn("analyst", forged)).close()
    eventually(lambda: "session ended" in watched.text("curious"))
    eventually(lambda: "session ended" in watched.text("careless"))
    assert "240 rows" in watched.text("curious")
    seen = watched.everything("curious", "careless")
    assert b"client connect" in seen["events"]
    assert shown([*secrets_of(server, tokens), forged], seen) == []


def test_the_page_shows_it(watched: Watched, session: Session, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser here: install Debian's `chromium`")
    with session("analyst", "page") as connection:
        connection.execute("SELECT id, email, national_id FROM customers ORDER BY id LIMIT 2").fetchall()
        eventually(lambda: len(watched.messages(watched.flow("page"))) >= 2)
        flow = watched.flow("page")["id"]
        page = f"http://127.0.0.1:{watched._web['port']}/?token={WEB_PASSWORD}#/flows/{flow}/tcpmessages"
        own = [f"--user-data-dir={tmp_path}"]
        done = subprocess.run(
            [
                chromium,
                *["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"],
                *own,
                page,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "analyst@127.0.0.1" in done.stdout
    assert "#1 allowed by demo/analysts-read: data.select" in done.stdout
    assert "[masked]" in done.stdout


READING = """
def tcp_end(flow):
    if "application `filed`" in flow.comment:
        print(repr(flow.metadata["principal"]), flow.messages[0].content)
"""


def test_the_file_is_one_that_mitmproxy_reads(watched: Watched, session: Session, tmp_path: Path) -> None:
    reading = tmp_path / "reading.py"
    reading.write_text(READING)
    with session("analyst", "filed") as connection:
        connection.execute("SELECT 'to be filed'")
    eventually(lambda: "session ended" in watched.text("filed"))
    watched.stop()
    done = subprocess.run(
        [Path(sys.executable).with_name("mitmdump"), "-n", "-r", watched.flow_file, "-s", reading],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "'analyst' b\"#1 allowed by demo/analysts-read: data.select\\nSELECT 'to be filed'\"" in done.stdout
