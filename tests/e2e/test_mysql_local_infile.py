"""LOAD DATA LOCAL: the server asks the client for a file. Not offered by itself, never beyond what was let through."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import mysql
from scripts.support.lab import Lab
from tests.e2e.conftest import BothMySQL
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e


def test_row_16_it_is_refused_and_no_content_leaves_the_client(
    mysql_lab: Lab, both_mysql: BothMySQL, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("1,content-of-a-local-file\n")
    address = both_mysql.through("agent", "shop")
    connection = pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database="shop",
        ssl_ca=str(address.ca),
        local_infile=True,  # the client would
    )
    text = f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE orders"
    with connection:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            connection.query(text)
        assert caught.value.args[0] == 1142
        assert connection.query("SELECT 1") == 1
    (command,) = await_records(mysql_lab.gateway.state_dir, lambda r: r.get("text") == text)
    assert command["decision"] == "deny"
    assert "data.copy_in" in command["effects"]
    assert not any("content-of-a-local-file" in line for line in mysql_lab.server.statements())


def test_row_16_an_administrator_gets_the_servers_own_refusal(
    mysql_lab: Lab, both_mysql: BothMySQL, tmp_path: Path
) -> None:
    """The policy lets it pass, but neither leg has agreed on it: the server says no and asks for nothing."""
    path = tmp_path / "orders.csv"
    path.write_text("1,2\n")
    address = both_mysql.through("admin", "shop")
    connection = pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database="shop",
        ssl_ca=str(address.ca),
        local_infile=True,
    )
    with connection:
        with pytest.raises(pymysql.err.MySQLError):
            connection.query(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE orders")
        assert connection.query("SELECT 1") == 1


def test_row_16_where_it_is_granted_the_content_is_on_record(
    mysql_installation: mysql.Installation, tmp_path: Path
) -> None:
    def offered(document: dict[str, Any]) -> None:
        document["listeners"][0]["local_files"] = True

    path = tmp_path / "granted.csv"
    path.write_text("7,granted-content\n8,more-of-it\n")
    with Lab(installation=mysql_installation, adjust=offered) as lab:
        with lab.server.connect() as direct, direct.cursor() as cursor:
            cursor.execute("SET GLOBAL local_infile = 1")
            cursor.execute("CREATE TABLE shop.imported (id INT, note VARCHAR(40))")
        connection = pymysql.connect(
            host=lab.gateway.host,
            port=lab.gateway.port,
            user="me",
            password=lab.tokens["admin"],
            database="shop",
            ssl_ca=str(lab.authority.file),
            local_infile=True,
            autocommit=True,
        )
        text = f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE imported FIELDS TERMINATED BY ','"
        with connection, connection.cursor() as cursor:
            assert cursor.execute(text) == 2
            cursor.execute("SELECT id, note FROM imported ORDER BY id")
            assert cursor.fetchall() == ((7, "granted-content"), (8, "more-of-it"))
        (command,) = await_records(lab.gateway.state_dir, lambda r: r.get("text") == text)
        assert command["decision"] == "allow"
        answers = await_records(
            lab.gateway.state_dir,
            lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (command["s"], command["n"]),
        )
        assert b"granted-content" in base64.b64decode(answers[0]["input"])
