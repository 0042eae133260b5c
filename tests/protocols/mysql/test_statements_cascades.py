"""What foreign keys write by themselves, on a catalog made by hand and on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocols.contract import Effect
from protocols.mysql.catalog import Catalog, Column, ForeignKey, Relation
from scripts.support.mysql import MySQLServer
from tests.support.mysql_statements import VERSIONS, apply, judged, load, session, table


def key(name: str, column: str, referenced: str, on_delete: str = "", on_update: str = "") -> ForeignKey:
    return ForeignKey("shop", name, frozenset({column}), frozenset({referenced}), on_delete, on_update)


# users <- orders <- items <- notes, and a tree that points at itself
KEYS = {
    ("shop", "users"): [key("orders", "user_id", "id", "cascade", "cascade"), key("logins", "who", "id", "set null")],
    ("shop", "orders"): [key("items", "order_id", "id", "cascade"), key("labels", "whose", "user_id", "", "cascade")],
    ("shop", "items"): [key("notes", "item", "id", "set null")],
    ("shop", "notes"): [key("seals", "note", "item", "", "cascade")],
    ("shop", "tree"): [key("tree", "parent", "id", "cascade", "cascade")],
    ("shop", "gen"): [key("logins", "who", "h", "", "cascade")],
}
TABLES = {
    "users": ("id", "name"), "orders": ("id", "user_id"), "items": ("id", "order_id"), "notes": ("id", "item"),
    "labels": ("id", "whose"), "logins": ("id", "who"), "seals": ("note",), "tree": ("id", "parent"),
}  # fmt: skip


def catalog() -> Catalog:
    relations = [table("shop", name, *columns) for name, columns in TABLES.items()]
    relations.append(Relation("shop", "gen", "table", (Column("id", "int"), Column("h", "int", "`id` + 1"))))
    view = "select `shop`.`users`.`id` AS `id`,`shop`.`users`.`name` AS `name` from `shop`.`users`"
    relations.append(table("shop", "people", "id", "name", kind="view", definition=view))
    return Catalog("v1", "mysql", VERSIONS["mysql"], relations=relations, foreign_keys=KEYS)


FROM_USERS = {"orders", "logins", "items", "notes", "seals"}


@pytest.mark.parametrize(
    ("text", "also", "effects"),
    [
        ("DELETE FROM seals", set(), set()),
        ("DELETE FROM items", {"notes", "seals"}, {Effect.DATA_UPDATE}),
        ("DELETE FROM users", FROM_USERS, {Effect.DATA_UPDATE}),
        ("DELETE FROM users WHERE id = 1 LIMIT 1", FROM_USERS, {Effect.DATA_UPDATE}),
        ("DELETE u FROM users u JOIN tree t USING (id)", FROM_USERS, {Effect.DATA_UPDATE}),
        ("REPLACE INTO users VALUES (1, 'x')", FROM_USERS, {Effect.DATA_UPDATE}),
        ("INSERT INTO users VALUES (1, 'x')", set(), set()),
        ("INSERT INTO users VALUES (1, 'x') ON DUPLICATE KEY UPDATE name = 'y'", set(), set()),
        ("INSERT INTO users VALUES (1, 'x') ON DUPLICATE KEY UPDATE ID = 2", {"orders", "labels"}, set()),
        ("UPDATE users SET name = 'x'", set(), set()),
        ("UPDATE users SET name = 'x', `Id` = 2", {"orders", "labels"}, set()),
        ("UPDATE users u, tree t SET u.name = 'x', t.id = 1", {"orders", "labels"}, set()),
        ("UPDATE gen SET id = 1", {"logins"}, set()),
        ("DELETE FROM tree", set(), set()),
        ("UPDATE people SET name = 'x'", {"users", "orders", "labels"}, set()),
        ("DELETE FROM people", {"users", *FROM_USERS}, {Effect.DATA_UPDATE}),
        ("TRUNCATE users", set(), set()),
    ],
)
def test_what_keys_write(text: str, also: set[str], effects: set[Effect]) -> None:
    plain = judged(text, session("mysql"), Catalog("v", "mysql", VERSIONS["mysql"], relations=catalog().relations))
    found = judged(text, session("mysql"), catalog())
    assert not found.analysis.unknown, found.analysis.why
    behind = {w.removeprefix("shop.") for w in found.analysis.writes} - {"people"}
    named = {w.removeprefix("shop.") for w in plain.analysis.writes} - {"people"}
    assert behind == named | also
    assert found.analysis.effects == plain.analysis.effects | effects


def test_a_temporary_table_of_the_name_has_no_keys() -> None:
    state = apply(session("mysql"), "CREATE TEMPORARY TABLE users (id INT)", catalog=catalog())
    assert judged("DELETE FROM users", state, catalog()).analysis.writes == ("shop.users",)


def test_what_is_only_planned_writes_nothing() -> None:
    found = judged("EXPLAIN DELETE FROM users", session("mysql"), catalog()).analysis
    assert found.writes == ()
    assert found.effects == {Effect.SHOW}


SCHEMA = (
    "CREATE TABLE casc_a (id INT PRIMARY KEY, n INT)",
    "CREATE TABLE casc_b (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES casc_a (id)"
    " ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE casc_c (id INT PRIMARY KEY, b INT, FOREIGN KEY (b) REFERENCES casc_b (id) ON DELETE SET NULL)",
    "CREATE TABLE casc_d (id INT PRIMARY KEY, b INT, FOREIGN KEY (b) REFERENCES casc_b (id))",
    "CREATE TABLE casc_log (what TEXT)",
    "CREATE TRIGGER casc_t BEFORE DELETE ON casc_b FOR EACH ROW INSERT INTO casc_log VALUES ('ran')",
    "INSERT INTO casc_a VALUES (1, 1), (2, 2), (3, 3)",
    "INSERT INTO casc_b VALUES (1, 1), (2, 2)",
    "INSERT INTO casc_c VALUES (1, 1)",
)


@pytest.fixture
def keyed(mysql_server: MySQLServer) -> Iterator[MySQLServer]:
    connection = mysql_server.connect()
    connection.autocommit(True)
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS casc")
        cursor.execute("CREATE DATABASE casc")
        cursor.execute("USE casc")
        for statement in SCHEMA:
            cursor.execute(statement)
    yield mysql_server
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE casc")
    connection.close()


@pytest.mark.slow
def test_a_real_server_changes_what_was_said_and_nothing_else(keyed: MySQLServer) -> None:
    connection = keyed.connect()
    connection.autocommit(True)
    flavour = keyed.installation.flavour
    tables = [f"casc.casc_{letter}" for letter in "abcd"] + ["casc.casc_log"]

    def sums() -> dict[str, int]:
        with connection.cursor() as cursor:
            cursor.execute("CHECKSUM TABLE " + ", ".join(tables))
            return dict(cursor.fetchall())

    with connection.cursor() as cursor:
        cursor.execute("USE casc")
        names = load(connection, flavour)
        cursor.execute("USE casc")
        for statement in (
            "UPDATE casc_a SET n = 5 WHERE id = 3",
            "UPDATE casc_a SET id = 7 WHERE id = 2",
            "DELETE FROM casc_a WHERE id = 1",
        ):
            said = set(judged(statement, session(flavour, database="casc"), names).analysis.writes)
            before = sums()
            cursor.execute(statement)
            after = sums()
            changed = {name for name in tables if before[name] != after[name]}
            assert changed == said, statement
    connection.close()
