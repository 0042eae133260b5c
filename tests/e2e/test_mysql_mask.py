"""What an analyst sees of the sample shop on MariaDB and MySQL: never a sensitive value, in no format."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import mysql.connector
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import sample
from tests.e2e.conftest import Address, BothMySQL
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

CUSTOMERS = list(sample.customers())
SENSITIVE = [value for row in CUSTOMERS for value in row[2:5]]

# every one of them must show clear data and no sensitive value: aliases, expressions, views, CTEs with borrowed names
QUERIES = (
    "SELECT * FROM customers",
    "SELECT id, email AS id2, card AS note, national_id AS city FROM customers",
    "SELECT c.* FROM (SELECT * FROM customers) AS c",
    "WITH c AS (SELECT name, card AS x FROM customers) SELECT * FROM c",
    "WITH orders AS (SELECT name, card AS total FROM customers) SELECT name, total FROM orders",
    "SELECT name, total FROM (SELECT name, card AS total FROM customers) orders",
    "SELECT name, UPPER(email), CONCAT(card, ''), LEFT(national_id, 11) FROM customers",
    "SELECT name, (SELECT card FROM customers AS i WHERE i.id = o.id) FROM customers AS o",
    "SELECT name, JSON_OBJECT('a', email, 'b', card) FROM customers",
    "SELECT city, GROUP_CONCAT(email) FROM customers GROUP BY city",
    "SELECT name, COALESCE(email, '') FROM customers UNION SELECT city, card FROM customers",
    "SELECT name, LAG(card) OVER (ORDER BY id), MAX(email) OVER () FROM customers",
)


def leaked(seen: str) -> list[str]:
    return [value for value in SENSITIVE if value in seen or value.upper() in seen]


@contextlib.contextmanager
def connected(address: Address) -> Iterator[Any]:
    context = ssl.create_default_context(cafile=str(address.ca))
    connection = pymysql.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, database=address.database,
        ssl=context, autocommit=True, charset="utf8mb4",
    )  # fmt: skip
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


def asked(address: Address, query: str) -> list[Any]:
    with connected(address) as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def prepared(address: Address, query: str) -> list[Any]:
    """Over the binary protocol."""
    connection = mysql.connector.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, database=address.database,
        ssl_ca=str(address.ca), ssl_verify_cert=True, use_pure=True, autocommit=True,
    )  # fmt: skip
    with contextlib.closing(connection), contextlib.closing(connection.cursor(prepared=True)) as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("query", QUERIES)
def test_no_disguise_shows_a_value(both_mysql: BothMySQL, query: str, binary: bool) -> None:
    run = prepared if binary else asked
    rows = run(both_mysql.through("analyst", "shop"), query)
    assert len(rows) >= 3
    assert leaked(repr(rows)) == []
    shown = run(both_mysql.through("admin", "shop"), query)
    assert leaked(repr(shown)) != [], "the test itself must be able to fail"


def test_what_is_clear_stays_clear_and_masks_keep_their_shape(both_mysql: BothMySQL) -> None:
    rows = asked(both_mysql.through("analyst", "shop"), "SELECT id, name, email, card, city FROM customers ORDER BY id")
    for row, original in zip(rows, CUSTOMERS, strict=True):
        assert (row[0], row[1], row[4]) == (original[0], original[1], original[5])
        assert row[3].replace(" ", "")[-4:] == original[3].replace(" ", "")[-4:]
    assert len({row[2] for row in rows}) == len(rows)  # tokens stay distinct


def test_both_forms_show_the_same_masks(both_mysql: BothMySQL) -> None:
    analyst = both_mysql.through("analyst", "shop")
    query = "SELECT id, name, email, card, national_id, city FROM customers ORDER BY id"
    assert [tuple(row) for row in prepared(analyst, query)] == [tuple(row) for row in asked(analyst, query)]


def test_an_expression_over_clear_columns_is_not_withheld(both_mysql: BothMySQL) -> None:
    rows = asked(both_mysql.through("analyst", "shop"), "SELECT CONCAT(name, '!'), id * 2 FROM customers ORDER BY id")
    assert [row[0] for row in rows] == [f"{original[1]}!" for original in CUSTOMERS]


def test_whether_and_how_many_rows_there_are_is_shown(both_mysql: BothMySQL) -> None:
    """As mappers ask before they insert, and reports and pages count."""
    number = len(CUSTOMERS)
    for query, want in (
        ("SELECT EXISTS(SELECT * FROM customers WHERE id = 1) AS `exists`", (1,)),
        ("SELECT COUNT(DISTINCT email), COUNT(card), COUNT(*) OVER () FROM customers", (number, number, 1)),
        ("SELECT COUNT(*) OVER (), id FROM customers ORDER BY id LIMIT 1", (number, 1)),
    ):
        assert asked(both_mysql.through("analyst", "shop"), query) == [want]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ST_GeomFromText(email) FROM customers",
        "SELECT ExtractValue('<a/>', CONCAT('/', email)) FROM customers",
        "SELECT 18446744073709551615 + ASCII(card) FROM customers WHERE id = 1",
        "SELECT JSON_EXTRACT(email, '$') FROM customers",
        "SELECT (SELECT email FROM customers) FROM customers",
    ],
)
def test_errors_and_warnings_do_not_quote(both_mysql: BothMySQL, query: str) -> None:
    with connected(both_mysql.through("analyst", "shop")) as cursor:
        said = ""
        try:
            cursor.execute(query)
            said = repr(cursor.fetchall())
        except pymysql.err.MySQLError as error:
            said = repr(error.args)
        cursor.execute("SHOW WARNINGS")
        said += repr(cursor.fetchall())
    assert leaked(said) == []


def test_a_variable_remembers_what_it_was_given(both_mysql: BothMySQL) -> None:
    with connected(both_mysql.through("analyst", "shop")) as cursor:
        try:
            cursor.execute("SELECT card INTO @c FROM customers WHERE id = 1")
        except pymysql.err.MySQLError:
            return  # the policy may refuse it: that is as good
        cursor.execute("SELECT @c")
        assert leaked(repr(cursor.fetchall())) == []


def test_the_record_holds_what_the_client_saw(both_mysql: BothMySQL) -> None:
    mark = "as the client saw it"
    asked(both_mysql.through("analyst", "shop"), f"SELECT name, email, card, '{mark}' FROM customers")
    state = both_mysql.lab.gateway.state_dir
    (command,) = await_records(state, lambda r: r.get("t") == "command" and mark in r["text"])

    def its(record: dict[str, Any]) -> bool:
        return record.get("t") == "response" and (record["s"], record["n"]) == (command["s"], command["n"])

    (response,) = await_records(state, its)
    wire = base64.b64decode(response["wire"]).decode("utf-8", "replace")
    assert CUSTOMERS[0][1] in wire
    assert leaked(wire) == []
    assert [c["name"] for c in response["columns"] if c["masked"]] == ["email", "card"]
