"""LOAD DATA LOCAL: the server asks the client for a file. Not offered by itself, never beyond what was let through."""

from __future__ import annotations

from pathlib import Path

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

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
