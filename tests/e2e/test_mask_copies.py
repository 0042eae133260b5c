"""A writer who sees columns masked tries to get their values out by storing them somewhere else, on every server."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgres_insert

from scripts.support import mysql as servers
from scripts.support import sample
from scripts.support.lab import AnyInstallation, Lab
from scripts.support.postgres import Installation
from tests.support.bytewise import eventually
from tests.support.journal import await_records

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

POLICY = """
version: 1
name: writers
description: writers who may do nearly everything, but see personal data masked
rules:
  - id: administrators
    description: everything, in the clear
    who: {groups: [platform]}
    allow: ["*", unknown]
  - id: writers
    description: rows and tables
    who: {groups: [agents]}
    allow: [data.*, ddl.*, priv.triggers, show, tx, cursor, prepare, session.*, probe, listen, exfil.notify, admin.*]
  - id: archive
    description: the archive is kept by others
    who: {groups: [agents]}
    allow: {effects: [mask.copy], relations: ["*.archive"]}
  - id: personal
    description: tokens for all others
    mask: {columns: ["*.email", "*.customers.national_id"], strategy: tokenise}
    unless: {who: {groups: [platform]}}
  - id: card
    description: the last digits
    mask: {columns: ["*.customers.card"], strategy: partial, keep_last: 4}
    unless: {who: {groups: [platform]}}
"""
CUSTOMERS = list(sample.customers())
SENSITIVE = [value for row in CUSTOMERS for value in row[2:5]]
FEW = CUSTOMERS[:3]


def leaked(seen: object) -> list[str]:
    text = str(seen).upper()
    return [value for value in SENSITIVE if value.upper() in text]


# name -> (what it does, how it is read there). The administrator's run of the same shows the value: the test can fail.
COMMON = {
    "create table as": (["CREATE TABLE loot AS SELECT id, card FROM customers"], "SELECT * FROM loot"),
    "create table as, all of it": (["CREATE TABLE loot AS SELECT * FROM customers"], "SELECT * FROM loot"),
    "computed, under a masked name": (
        ["CREATE TABLE loot AS SELECT concat(email, '') AS name FROM customers"], "SELECT * FROM loot"),
    "insert select": (["INSERT INTO notes (id, body) SELECT id, card FROM customers"], "SELECT * FROM notes"),
    "insert select, by position": (["INSERT INTO notes SELECT id, email FROM customers"], "SELECT * FROM notes"),
    "insert values": (
        ["INSERT INTO notes VALUES (1, (SELECT max(card) FROM customers))"], "SELECT * FROM notes"),
    "insert of a derived table": (
        ["INSERT INTO notes SELECT id, x FROM (SELECT id, card AS x FROM customers) d"], "SELECT * FROM notes"),
    "update, to another column": (["UPDATE customers SET name = card"], "SELECT name FROM customers"),
    "update, by a condition": (
        ["UPDATE customers SET name = CASE WHEN card LIKE '4%' THEN card ELSE card END"], "SELECT name FROM customers"),
    "update, from a query": (
        ["UPDATE customers SET city = (SELECT max(card) FROM (SELECT card FROM customers) c)"],
        "SELECT city FROM customers"),
    "rename the column": (
        ["ALTER TABLE customers RENAME COLUMN card TO colour"], "SELECT colour FROM customers"),
    "rename the table": (["ALTER TABLE customers RENAME TO clients"], "SELECT card FROM clients"),
    "a generated column": (
        ["ALTER TABLE customers ADD COLUMN g varchar(60) GENERATED ALWAYS AS (card) STORED"],
        "SELECT g FROM customers"),
    "through a table that the mask covers": (
        ["CREATE TABLE loot AS SELECT id, email FROM customers", "ALTER TABLE loot RENAME COLUMN email TO e"],
        "SELECT e FROM loot"),
    "through a view": (
        ["CREATE VIEW seen AS SELECT id, card AS c FROM customers", "INSERT INTO notes SELECT id, c FROM seen"],
        "SELECT * FROM notes"),
    "through a prepared statement": (
        ["PREPARE p FROM 'INSERT INTO notes SELECT id, card FROM customers'", "EXECUTE p"], "SELECT * FROM notes"),
}  # fmt: skip
POSTGRES = COMMON | {
    "through a prepared statement": (
        ["PREPARE p AS INSERT INTO notes SELECT id, card FROM customers", "EXECUTE p"], "SELECT * FROM notes"),
    "select into": (["SELECT id, card INTO loot FROM customers"], "SELECT * FROM loot"),
    "materialized view": (
        ["CREATE MATERIALIZED VIEW loot AS SELECT card || '' AS c FROM customers"], "SELECT * FROM loot"),
    "unlogged, whole rows": (
        ["CREATE UNLOGGED TABLE loot AS SELECT row_to_json(customers)::text AS j FROM customers"],
        "SELECT * FROM loot"),
    "through a temporary table": (
        ["CREATE TEMP TABLE t AS SELECT id, card AS c FROM customers", "INSERT INTO notes SELECT id, c FROM t"],
        "SELECT * FROM notes"),
    "a temporary table": (["CREATE TEMP TABLE t AS SELECT card || '' AS c FROM customers"], "SELECT * FROM t"),
    "on conflict": (
        ["INSERT INTO customers SELECT * FROM customers ON CONFLICT (id) DO UPDATE SET name = customers.card"],
        "SELECT name FROM customers"),
    "on conflict, excluded": (
        ["INSERT INTO customers SELECT * FROM customers ON CONFLICT (id) DO UPDATE SET name = excluded.card"],
        "SELECT name FROM customers"),
    "update from": (
        ["INSERT INTO notes VALUES (1, '')", "UPDATE notes SET body = c.card FROM customers c WHERE c.id = notes.id"],
        "SELECT * FROM notes"),
    "a list of columns": (
        ["UPDATE customers SET (name, city) = ROW(card, email)"], "SELECT name, city FROM customers"),
    "in a common table expression": (
        ["WITH w AS (UPDATE customers SET name = card RETURNING 1) SELECT count(*) FROM w"],
        "SELECT name FROM customers"),
    "what was deleted": (
        ["WITH d AS (DELETE FROM credentials RETURNING secret), c AS (SELECT max(card) AS m FROM customers) "
         "INSERT INTO notes SELECT 1, m FROM c"], "SELECT * FROM notes"),
    "copy to a file": (
        ["COPY (SELECT id, card FROM customers) TO '/tmp/no-such-folder/x'"], "SELECT 1"),
    "another type": (
        ["ALTER TABLE customers ALTER COLUMN name TYPE text USING card"], "SELECT name FROM customers"),
    "another schema": (
        ["CREATE SCHEMA elsewhere", "ALTER TABLE customers RENAME TO people",
         "ALTER TABLE people SET SCHEMA elsewhere"],
        "SELECT card FROM elsewhere.people"),
    "inheritance": (
        ["CREATE TABLE parent (card text)", "ALTER TABLE customers INHERIT parent"], "SELECT card FROM parent"),
    "a notification": (["LISTEN loot", "SELECT pg_notify('loot', card) FROM customers LIMIT 1"], "SELECT 1"),
    "a rule": (
        ["CREATE RULE r AS ON INSERT TO notes DO ALSO UPDATE customers SET name = card",
         "INSERT INTO notes VALUES (9, '')"],
        "SELECT name FROM customers"),
    "a sequence": (
        ["CREATE SEQUENCE s", "SELECT setval('s', replace(card, ' ', '')::bigint) FROM customers WHERE id = 1"],
        "SELECT concat_ws(' ', left(x, 4), substr(x, 5, 4), substr(x, 9, 4), substr(x, 13))"
        " FROM (SELECT last_value::text AS x FROM s) d"),
    "a large object": (
        ["SELECT lo_from_bytea(777, convert_to(card, 'UTF8')) FROM customers WHERE id = 1"],
        "SELECT convert_from(lo_get(777), 'UTF8')"),
}  # fmt: skip
MERGE = {
    "merge": (
        ["MERGE INTO notes n USING customers c ON n.id = c.id WHEN NOT MATCHED THEN INSERT VALUES (c.id, c.card)"],
        "SELECT * FROM notes"),
}  # fmt: skip
MYSQL = COMMON | {
    "replace": (["REPLACE INTO notes SELECT id, card FROM customers"], "SELECT * FROM notes"),
    "insert set": (["INSERT INTO notes SET id = 1, body = (SELECT MAX(card) FROM customers)"], "SELECT * FROM notes"),
    "a narrower copy": (
        ["SET sql_mode = ''", "CREATE TABLE loot (email CHAR(5)) SELECT email FROM customers"],
        "SELECT CONCAT(email, '') FROM loot"),
    "update of several tables": (
        ["INSERT INTO notes VALUES (1, '')", "UPDATE notes n JOIN customers c ON n.id = c.id SET n.body = c.card"],
        "SELECT * FROM notes"),
    "on duplicate key": (
        ["INSERT INTO customers SELECT * FROM customers ON DUPLICATE KEY UPDATE name = VALUES(card)"],
        "SELECT name FROM customers"),
    "on duplicate key, the old row": (
        ["INSERT INTO customers SELECT * FROM customers c ON DUPLICATE KEY UPDATE name = c.card"],
        "SELECT name FROM customers"),
    "a variable": (
        ["SELECT card INTO @c FROM customers WHERE id = 1", "INSERT INTO notes VALUES (1, @c)"], "SELECT * FROM notes"),
    "a variable, set": (
        ["SET @c = (SELECT card FROM customers WHERE id = 1)", "INSERT INTO notes VALUES (1, CONCAT(@c, ''))"],
        "SELECT * FROM notes"),
    "a parameter": (
        ["SELECT card INTO @c FROM customers WHERE id = 1", "PREPARE p FROM 'INSERT INTO notes VALUES (1, ?)'",
         "EXECUTE p USING @c"], "SELECT * FROM notes"),
    "through a temporary table": (
        ["CREATE TEMPORARY TABLE t SELECT id, card AS c FROM customers", "INSERT INTO notes SELECT id, c FROM t"],
        "SELECT * FROM notes"),
    "a temporary table": (["CREATE TEMPORARY TABLE t SELECT CONCAT(card, '') AS c FROM customers"], "SELECT * FROM t"),
    "change": (
        ["ALTER TABLE customers CHANGE card colour VARCHAR(30)"], "SELECT colour FROM customers"),
    "rename table": (["RENAME TABLE customers TO clients"], "SELECT card FROM clients"),
    "a generated column made plain": (
        ["ALTER TABLE customers ADD COLUMN g VARCHAR(60) AS (card) STORED",
         "ALTER TABLE customers MODIFY g VARCHAR(60)"],
        "SELECT g FROM customers"),
    "a default": (
        ["ALTER TABLE customers ADD COLUMN g VARCHAR(60) DEFAULT (card)"], "SELECT g FROM customers"),
    "a number that insert keeps": (
        ["CREATE TABLE loot (id BIGINT AUTO_INCREMENT PRIMARY KEY)",
         "INSERT INTO loot SELECT REPLACE(card, ' ', '') FROM customers WHERE id = 1"],
        "SELECT CONCAT_WS(' ', LEFT(id, 4), SUBSTR(id, 5, 4), SUBSTR(id, 9, 4), SUBSTR(id, 13)) FROM loot"),
    "the last insert id": (
        ["SELECT LAST_INSERT_ID(REPLACE(card, ' ', '')) FROM customers WHERE id = 1", "SET @n = LAST_INSERT_ID()",
         "INSERT INTO notes SELECT 1, CONCAT_WS(' ', LEFT(x, 4), SUBSTR(x, 5, 4), SUBSTR(x, 9, 4), SUBSTR(x, 13))"
         " FROM (SELECT LAST_INSERT_ID() AS x) d"], "SELECT * FROM notes"),
    "a trigger's table": (
        ["CREATE TABLE loot LIKE notes", "INSERT INTO loot SELECT id, card FROM customers"], "SELECT * FROM loot"),
}  # fmt: skip
# what a writer does all day, through the same masks
HARMLESS = (
    "INSERT INTO notes VALUES (1, '4000 1234 5678 9010')",
    "INSERT INTO notes SELECT id + 1000, name FROM customers WHERE id < 3",
    "UPDATE notes SET body = concat(body, '!') WHERE id = 1",
    "UPDATE customers SET email = 'new@shop.example', card = '1' WHERE id = 1",
    "UPDATE customers SET card = card, name = 'Ann' WHERE id = 2",
    "INSERT INTO notes SELECT count(*) + 5000, 'so many' FROM customers",
    "CREATE TABLE copied AS SELECT id, email, city FROM customers",  # its mask is one on any table's column
    "DELETE FROM notes WHERE id = 1",
    "DROP TABLE copied",
    "CREATE TABLE archive AS SELECT id, card FROM customers WHERE id < 3",  # which its policy allows
    "DROP TABLE archive",
)


class Shop:
    """The sample shop with a table more, behind a gateway; every attempt finds it as it was."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.made = 0  # times
        self.is_mysql = isinstance(lab.server, servers.MySQLServer)

    @contextlib.contextmanager
    def connected(self, who: str) -> Iterator[Any]:
        """A cursor of an identity's own session."""
        if self.is_mysql:
            gateway, server = self.lab.gateway, self.lab.server
            connection = mysql.connector.connect(
                host=gateway.host, port=gateway.port, user=who, password=self.lab.tokens[who],
                database=server.database, ssl_ca=str(gateway.ca_file), use_pure=True, autocommit=True,
            )  # fmt: skip
            with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
                yield cursor
        else:
            with psycopg.connect(self.lab.dsn(who), autocommit=True) as session, session.cursor() as made:
                yield made

    def direct(self, *statements: str) -> None:
        with contextlib.closing(self.lab.server.connect()) as connection:
            if self.is_mysql:
                with connection.cursor() as cursor:
                    for statement in statements:
                        cursor.execute(statement)
            else:
                for statement in statements:
                    connection.execute(statement)

    def refill(self) -> None:
        """The rows as they were; no name changes."""
        self.direct(*_EMPTY, "INSERT INTO customers SELECT * FROM kept")

    def rebuild(self) -> None:
        """The tables as they were, and nothing beside them."""
        if self.is_mysql:
            self.direct(
                "SET foreign_key_checks = 0",
                "DROP VIEW IF EXISTS seen",
                *(f"DROP TABLE IF EXISTS {name}" for name in _TABLES),
                "CREATE TABLE customers LIKE kept",
                "CREATE TABLE notes (id int PRIMARY KEY, body varchar(200))",
            )
        else:
            kind = "MATERIALIZED VIEW" if self._is_view("loot") else "TABLE"
            self.direct(
                "DROP SCHEMA IF EXISTS elsewhere CASCADE",
                "DROP SEQUENCE IF EXISTS s",
                f"DROP {kind} IF EXISTS loot",
                *(f"DROP TABLE IF EXISTS {name} CASCADE" for name in _TABLES),
                "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
                "CREATE TABLE customers (LIKE kept INCLUDING ALL)",
                "CREATE TABLE notes (id int PRIMARY KEY, body text)",
            )
        self.refill()
        self.direct(f"DROP TABLE IF EXISTS made{self.made}")
        self.made += 1
        self.direct(f"CREATE TABLE made{self.made} (id int)")
        self.known()

    def _is_view(self, name: str) -> bool:
        with contextlib.closing(self.lab.server.connect()) as connection:
            return bool(connection.execute("SELECT 1 FROM pg_matviews WHERE matviewname = %s", (name,)).fetchone())

    def attempt(self, who: str, statements: list[str], read: str) -> tuple[list[str], str]:
        """(the errors on the way, everything that was seen). `who` "": past the gateway."""
        errors, seen = [], ""
        with self.connected(who) if who else self._past_the_gateway() as cursor:
            for statement in [*statements, read]:
                try:
                    cursor.execute(statement)
                    if cursor.description is not None:
                        seen += str(cursor.fetchall())
                except (psycopg.Error, mysql.connector.Error, pymysql.err.MySQLError) as error:
                    errors.append(str(error))
            if not self.is_mysql:
                seen += str(list(cursor.connection.notifies(timeout=0.1)))
        return errors, seen + str(errors)

    @contextlib.contextmanager
    def _past_the_gateway(self) -> Iterator[Any]:
        with contextlib.closing(self.lab.server.connect()) as connection, connection.cursor() as cursor:
            yield cursor

    def known(self) -> None:
        """The gateway has seen the names as they are now."""

        def asked() -> bool:
            with self.connected("agent") as cursor:
                try:
                    cursor.execute(f"INSERT INTO made{self.made} SELECT id FROM customers WHERE 1 = 0")
                except (psycopg.Error, mysql.connector.Error):
                    return False
                return True

        eventually(asked)


def _shop(installation: AnyInstallation, folder: Path) -> Iterator[Shop]:
    policy = folder / "writers.yaml"
    policy.write_text(POLICY)
    with Lab([policy], installation=installation, tls="optional") as lab:
        shop = Shop(lab)
        keep = (
            "CREATE TABLE kept LIKE customers" if shop.is_mysql else "CREATE TABLE kept (LIKE customers INCLUDING ALL)"
        )
        shop.direct("DROP TABLE orders" + ("" if shop.is_mysql else " CASCADE"))  # it refers to customers
        shop.direct(keep, "INSERT INTO kept SELECT * FROM customers WHERE id <= 3")
        shop.rebuild()
        yield shop


@pytest.fixture(scope="module")
def shop(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from _shop(installation, tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def mysql_shop(mysql_installation: servers.Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from _shop(mysql_installation, tmp_path_factory.mktemp("copies"))


_TABLES = ("loot", "notes", "copied", "archive", "clients", "parent", "customers")
_EMPTY = ("DELETE FROM notes", "DELETE FROM customers")
_DEFINES = ("CREATE", "ALTER", "RENAME", "SELECT id, card INTO")


def tried(shop: Shop, form: tuple[list[str], str]) -> None:
    defines = any(statement.startswith(_DEFINES) for statement in form[0])
    try:
        shop.refill()
        errors, seen = shop.attempt("agent", *form)
        assert leaked(seen) == [], form
        if not (len(form[0]) == 1 and form[0][0].startswith("CREATE TEMP")):
            assert any("mask.copy" in error for error in errors), errors
        shop.rebuild() if defines else shop.refill()
        errors, seen = shop.attempt("", *form)
        if "no-such-folder" not in str(form) and "CHAR(5)" not in str(form):
            assert leaked(seen) != [], f"the test itself must be able to fail: {errors}"
    finally:
        if defines:
            shop.rebuild()


@pytest.mark.parametrize("form", POSTGRES)
def test_no_form_of_storing_shows_a_value_on_postgres(shop: Shop, form: str) -> None:
    tried(shop, POSTGRES[form])


def test_merge_shows_none(shop: Shop, installation: Installation) -> None:
    if installation.major < 15:
        pytest.skip("a server without MERGE")
    tried(shop, MERGE["merge"])


@pytest.mark.parametrize("form", MYSQL)
def test_no_form_of_storing_shows_a_value_on_mysql(mysql_shop: Shop, form: str) -> None:
    tried(mysql_shop, MYSQL[form])


def test_the_record_says_that_it_was_tried(shop: Shop) -> None:
    mark = "a copy that is on record"
    shop.attempt("agent", [f"INSERT INTO notes SELECT id, card FROM customers -- {mark}"], "SELECT 1")
    (command,) = await_records(
        shop.lab.gateway.state_dir,
        lambda r: r.get("t") == "command" and "INSERT INTO notes SELECT id, card" in r["text"] and mark in r["text"],
    )
    assert "mask.copy" in command["effects"]
    assert command["decision"] == "deny"


def does_its_work(shop: Shop) -> None:
    shop.rebuild()
    with shop.connected("agent") as cursor:
        for statement in HARMLESS:
            cursor.execute(statement)
        cursor.execute("SELECT name, email, card FROM customers WHERE id = 2")
        assert leaked(cursor.fetchall()) == []


def test_what_copies_nothing_masked_is_not_stopped_on_postgres(shop: Shop) -> None:
    does_its_work(shop)


def test_what_copies_nothing_masked_is_not_stopped_on_mysql(mysql_shop: Shop) -> None:
    does_its_work(mysql_shop)


def orm(shop: Shop, engine: sa.Engine, insert: Any) -> None:
    """What SQLAlchemy sends for inserts, upserts and updates of objects that have masked columns."""
    shop.rebuild()
    metadata = sa.MetaData()
    with engine.connect() as connection:
        customers = sa.Table("customers", metadata, autoload_with=connection)
        values = {"name": "Ann", "email": "a@b.example", "card": "9", "national_id": "8", "city": "Oslo"}
        when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        connection.execute(sa.insert(customers), {"id": 900, **values, "created_at": when})
        upsert = insert(customers).values(id=900, **values, created_at=when)
        kept = {name: upsert.excluded[name] if insert is postgres_insert else upsert.inserted[name] for name in values}
        upsert = (
            upsert.on_conflict_do_update(index_elements=["id"], set_=kept)
            if insert is postgres_insert
            else upsert.on_duplicate_key_update(**kept)
        )
        connection.execute(upsert)
        connection.execute(sa.update(customers).where(customers.c.id == 900).values(email="c@d.example", name="Bea"))
        connection.execute(sa.delete(customers).where(customers.c.id == 900))
        with pytest.raises(sa.exc.DBAPIError, match=r"mask\.copy"):
            connection.execute(sa.update(customers).values(name=customers.c.card))
        connection.rollback()
    engine.dispose()


def test_an_orm_works_as_before_on_postgres(shop: Shop) -> None:
    dsn = shop.lab.dsn("agent").replace("postgresql://", "postgresql+psycopg://", 1)
    orm(shop, sa.create_engine(dsn), postgres_insert)


def test_an_orm_works_as_before_on_mysql(mysql_shop: Shop) -> None:
    gateway = mysql_shop.lab.gateway
    url = sa.URL.create(
        "mysql+mysqlconnector", "agent", mysql_shop.lab.tokens["agent"], gateway.host, gateway.port, "shop",
        {"ssl_ca": str(gateway.ca_file), "use_pure": "True"},
    )  # fmt: skip
    orm(mysql_shop, sa.create_engine(url), mysql_insert)
