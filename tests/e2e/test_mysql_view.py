"""Sessions of MariaDB and MySQL in mitmweb and in `-w` files: polled while they run, and nothing secret in them."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import mysql as servers
from scripts.support import sample
from scripts.support.issuer import Issuer
from scripts.support.tls import Authority
from tests.support.bytewise import eventually
from tests.support.watched import WEB_PASSWORD, Watched, shown, tokens_of

pytestmark = pytest.mark.e2e

USER_PASSWORD = "a-password-in-a-statement"
CUSTOMERS = list(sample.customers())
READ = "SELECT id, name, email, card, national_id FROM customers ORDER BY id LIMIT 3"

type Connect = Callable[..., contextlib.AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def tokens(issuer: Issuer) -> dict[str, str]:
    return tokens_of(issuer)


@pytest.fixture(scope="module")
def watched(
    mysql_installation: servers.Installation, issuer: Issuer, authority: Authority, tmp_path_factory: Any
) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("view")
    with servers.MySQLServer(mysql_installation, authority=authority) as server:
        server.load_sample()
        with Watched(folder / "gateway", server, issuer, authority) as running:
            yield running


@pytest.fixture(scope="module")
def connect(watched: Watched, tokens: dict[str, str]) -> Connect:
    @contextlib.contextmanager
    def connected(identity: str, application: str, token: str = "") -> Iterator[Any]:
        """A cursor of PyMySQL in a session that the flow list knows by its application."""
        connection = pymysql.connect(
            host=watched.host, port=watched.port, user=identity, password=token or tokens[identity], database="shop",
            ssl=ssl.create_default_context(cafile=str(watched.ca_file)), program_name=application, autocommit=True,
        )  # fmt: skip
        with contextlib.closing(connection), connection.cursor() as cursor:
            yield cursor

    return connected


def test_a_session_is_seen_while_it_lives(watched: Watched, connect: Connect) -> None:
    with connect("analyst", "reading") as cursor:
        cursor.execute(READ)
        assert len(cursor.fetchall()) == 3
        cursor.execute("SELECT count(*) FROM orders WHERE status = 'paid'")
        eventually(lambda: "count(*) FROM orders" in watched.text("reading"))
        eventually(lambda: watched.text("reading").count(" ok: ") >= 3)
        flow = watched.flow("reading")
        client, upstream = flow["client_conn"], flow["server_conn"]
        assert client["peername"][0] == "analyst@127.0.0.1"
        assert upstream["address"][0] == f"shop@{watched.server.host}"
        assert client["tls_established"]
        for words in ("analyst (groups: analysts) on shop, database shop", "listener shop-db", "sluicegate replay"):
            assert words in flow["comment"]
        messages = watched.messages(flow)
        [at] = [n for n, message in enumerate(messages) if "national_id FROM customers" in message["text"]]
        asked, answer = messages[at : at + 2]
        assert (asked["from_client"], answer["from_client"]) == (True, False)
        number, _, rest = asked["text"].partition(" ")
        assert rest.splitlines() == ["allowed by demo/analysts-read: data.select", READ]
        head, masked, columns, *rows = answer["text"].splitlines()
        assert head.startswith(f"{number} ok: 3 rows, ")
        assert masked == "masked: email (demo/email), card (demo/card), national_id (demo/national-id)"
        assert [column.strip() for column in columns.split("|")] == ["id", "name", "email", "card", "national_id"]
        assert len(rows) == 3
        assert all(row.endswith("| [masked]") and "| **** **** **** " in row for row in rows)
        assert client["timestamp_end"] is None, "it still lives"
    eventually(lambda: watched.flow("reading")["client_conn"]["timestamp_end"] is not None)
    assert watched.messages(watched.flow("reading"))[-1]["text"].startswith("session ended: ")


def test_a_result_is_polled_in_its_middle(watched: Watched, connect: Connect, tokens: dict[str, str]) -> None:
    """The command stands there while its rows are still on their way, and nothing of them is shown in the clear."""
    with connect("analyst", "middle") as cursor:
        streamed = cursor.connection.cursor(pymysql.cursors.SSCursor)
        streamed.execute("SELECT a.* FROM customers AS a CROSS JOIN customers AS b CROSS JOIN (SELECT 1) AS c")
        assert streamed.fetchone() is not None
        eventually(lambda: "CROSS JOIN" in watched.text("middle"))
        assert "240 rows" not in watched.text("middle")
        assert shown(hidden(watched, tokens), watched.everything("middle")) == []
        assert len(streamed.fetchall()) == 240 * 240 - 1
        streamed.close()
    eventually(lambda: "57600 rows" in watched.text("middle"))


def test_a_prepared_statement_is_shown_with_its_parameters(watched: Watched, tokens: dict[str, str]) -> None:
    with (
        contextlib.closing(
            mysql.connector.connect(
                host=watched.host,
                port=watched.port,
                user="analyst",
                password=tokens["analyst"],
                database="shop",
                ssl_ca=str(watched.ca_file),
                ssl_verify_cert=True,
                use_pure=True,
                conn_attrs={"program_name": "prepared"},
            )
        ) as connection,
        contextlib.closing(connection.cursor(prepared=True)) as cursor,
    ):
        cursor.execute("SELECT name FROM customers WHERE id = %s AND city <> %s", (1, "it's"))
        assert cursor.fetchall()
        eventually(lambda: "with $1 = '1', $2 = \"it's\"" in watched.text("prepared"))
        assert "SELECT name FROM customers WHERE id = ? AND city <> ?" in watched.text("prepared")


def test_a_denial_and_a_hold_are_marked(watched: Watched, connect: Connect, tokens: dict[str, str]) -> None:
    with connect("agent", "deleting") as cursor:
        with pytest.raises(pymysql.err.OperationalError, match="agents-never-reshape"):
            cursor.execute("DROP TABLE orders")
        eventually(lambda: watched.flow("deleting")["marked"] == "\N{NO ENTRY}")
        assert "DENIED by demo/agents-never-reshape: ddl.drop\nDROP TABLE orders" in watched.text("deleting")
        assert "ERROR 1142 (42000): denied by rule" in watched.text("deleting")
        deleted: list[int] = []
        thread = threading.Thread(target=lambda: deleted.append(cursor.execute("DELETE FROM orders WHERE id = -1")))
        thread.start()
        eventually(lambda: watched.flow("deleting")["marked"] == "\N{HOURGLASS WITH FLOWING SAND}")
        held = watched.messages(watched.flow("deleting"))[-1]["text"]
        assert "HELD by demo/agents-delete-with-approval: data.delete\nDELETE FROM orders" in held
        [waiting] = watched.ask("approvals", "list", token=tokens["admin"])
        assert watched.cli("approvals", "approve", waiting["id"], token=tokens["admin"]).returncode == 0
        thread.join(10)
        assert deleted == [0]
        eventually(lambda: watched.flow("deleting")["marked"] == "")
        eventually(lambda: "OK, 0 affected" in watched.text("deleting"))


def hidden(watched: Watched, tokens: dict[str, str]) -> list[str]:
    """What nobody may see here: tokens, the upstream's password, and the values that masks cover."""
    with contextlib.closing(watched.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM credentials")
        kept = [secret for (secret,) in cursor.fetchall()]
    masked = [value for row in CUSTOMERS for value in row[2:5]]
    return [*tokens.values(), watched.server.password, WEB_PASSWORD, USER_PASSWORD, *kept, *masked]


def test_no_secret_is_to_be_seen(watched: Watched, connect: Connect, tokens: dict[str, str], issuer: Issuer) -> None:
    with connect("analyst", "curious") as cursor:
        for query in (
            "SELECT * FROM customers",
            "SELECT email AS x, LOWER(card), CONCAT(national_id, '') FROM customers",
            "SELECT JSON_OBJECT('a', email) FROM customers",
            "WITH orders AS (SELECT card AS total FROM customers) SELECT total FROM orders",
            "SELECT * FROM credentials",
        ):
            cursor.execute(query)
            cursor.fetchall()
    with connect("admin", "careless") as cursor:
        cursor.execute(f"CREATE USER careless IDENTIFIED BY '{USER_PASSWORD}'")
        cursor.execute("DROP USER careless")
    expired = issuer.token("analyst", ["analysts"], ttl=-60)
    with pytest.raises(pymysql.err.OperationalError), connect("analyst", "refused", expired):
        pass
    eventually(lambda: "session ended" in watched.text("curious"))
    eventually(lambda: "session ended" in watched.text("careless"))
    assert "240 rows" in watched.text("curious")
    assert "CREATE USER careless" in watched.text("careless")
    seen = watched.everything("curious", "careless")
    assert b"client connect" in seen["events"]
    assert shown([*hidden(watched, tokens), expired], seen) == []
