"""The connection that reads names: on real servers, and against an upstream that lies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from protocols.contract import CatalogError, Receive, Send, WireError
from protocols.mysql.capabilities import Capability
from protocols.mysql.catalog_queries import counts_change, counts_code
from protocols.mysql.catalog_source import MysqlCatalogSource
from protocols.mysql.connection import Greeting
from protocols.mysql.fields import string
from protocols.mysql.login import LoggedIn
from protocols.mysql.messages import Err, Ok
from scripts.support.mysql import MySQLServer
from tests.support import mysql_wire as wire
from tests.support.mysql_masked import Source, drive, source

# each changes what some name means; the version must change with every one of them
CHANGES = [
    "CREATE TABLE t (id INT PRIMARY KEY, a INT)",
    "ALTER TABLE t ADD COLUMN b VARCHAR(10)",
    "ALTER TABLE t MODIFY COLUMN b VARCHAR(20)",  # not a change of names: see below
    "ALTER TABLE t RENAME COLUMN a TO c",
    "ALTER TABLE t DROP COLUMN b",
    "ALTER TABLE t ADD COLUMN g INT AS (c + 1)",
    "ALTER TABLE t ADD COLUMN d VARCHAR(30) DEFAULT (CONCAT('x'))",
    "ALTER TABLE t ALTER COLUMN d SET DEFAULT (CONCAT('y'))",
    "SET GLOBAL character_set_client = latin1",
    "SET GLOBAL character_set_client = DEFAULT",
    "RENAME TABLE t TO u",
    "CREATE VIEW v AS SELECT id FROM u",
    "CREATE OR REPLACE VIEW v AS SELECT c AS id FROM u",
    "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1",
    "DROP FUNCTION f",
    "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 2",
    "CREATE PROCEDURE p() SELECT 1",
    "CREATE TRIGGER g BEFORE INSERT ON u FOR EACH ROW SET NEW.c = 1",
    "DROP TRIGGER g",
    "CREATE SCHEMA names2",
    "DROP SCHEMA names2",
    "SET GLOBAL sql_mode = 'ANSI_QUOTES'",
    "SET GLOBAL sql_mode = DEFAULT",
    "PREPARE s FROM 'CREATE TABLE w (id INT)'; EXECUTE s",
    "CREATE PROCEDURE q() CREATE TABLE x (id INT); CALL q()",
    "DROP TABLE x",
    "CREATE USER other",
    "GRANT TRIGGER ON names.* TO other",
    "CREATE TABLE child (id INT PRIMARY KEY, u INT)",
    "ALTER TABLE child ADD CONSTRAINT k FOREIGN KEY (u) REFERENCES u (id) ON DELETE CASCADE",
    "ALTER TABLE child DROP FOREIGN KEY k",
    "ALTER TABLE child ADD CONSTRAINT k FOREIGN KEY (u) REFERENCES u (id) ON DELETE SET NULL",
    "DROP TABLE child",
    "DROP VIEW v",
    "DROP TABLE u",
]
_NO_NAME = {"CREATE USER other"}  # a type counts: what is copied between columns of one type stays as it is


@pytest.fixture
def names(mysql_server: MySQLServer) -> Iterator[Any]:
    with contextlib.closing(mysql_server.connect()) as connection, connection.cursor() as cursor:
        for statement in (
            "DROP SCHEMA IF EXISTS names",
            "DROP USER IF EXISTS other",
            "CREATE SCHEMA names",
            "USE names",
        ):
            cursor.execute(statement)
        yield cursor
        cursor.execute("DROP SCHEMA names")
        cursor.execute("DROP USER IF EXISTS other")


@pytest.mark.slow
def test_every_definition_changes_the_version(mysql_server: MySQLServer, names: Any) -> None:
    with source(mysql_server) as opened:
        before = opened.version()
        assert opened.version() == before
        for change in CHANGES:
            for statement in change.split("; "):
                names.execute(statement)
            now = opened.version()
            assert (now == before) is (change in _NO_NAME), change
            before = now


@pytest.mark.slow
def test_work_on_rows_does_not(mysql_server: MySQLServer, names: Any) -> None:
    names.execute("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
    with source(mysql_server) as opened:
        before, loaded = opened.version(), opened.load().version
        for statement in ("INSERT INTO t (a) VALUES (1), (2)", "UPDATE t SET a = 3", "DELETE FROM t WHERE id = 1",
                          "CREATE TEMPORARY TABLE tt (a INT)", "DROP TEMPORARY TABLE tt"):  # fmt: skip
            names.execute(statement)
            assert opened.version() == before
        assert opened.load().version == loaded


@pytest.mark.slow
def test_a_quiet_server_is_not_asked_for_a_digest_each_time(mysql_server: MySQLServer, names: Any) -> None:
    with source(mysql_server) as opened:
        first = opened.version()
        opened.source._moved = opened.source._moved.min  # long ago
        before = len(mysql_server.logged())
        assert opened.version() == first
        asked = [line.text for line in mysql_server.logged()[before:] if line.command == "Query"]
        assert not any("BIT_XOR" in text for text in asked)
        names.execute("CREATE TABLE t (id INT)")
        assert opened.version() != first


@pytest.mark.slow
def test_what_it_reads(mysql_server: MySQLServer, names: Any) -> None:
    for statement in (
        "CREATE TABLE t (id INT PRIMARY KEY, Ssn VARCHAR(20), g VARCHAR(80) AS (CONCAT(Ssn, '!')),"
        " i INT DEFAULT 1 INVISIBLE)",
        "CREATE VIEW v AS SELECT Ssn AS x FROM t",
        "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW SET NEW.i = 2",
        "CREATE FUNCTION f(a INT) RETURNS INT READS SQL DATA RETURN (SELECT COUNT(*) FROM t)",
    ):
        names.execute(statement)
    with source(mysql_server) as opened:
        found = opened.load()
    assert found.flavour == mysql_server.installation.flavour
    table, shown = found.relation("names", "t"), found.relation("names", "v")
    assert table is not None
    assert shown is not None
    assert [(c.name, bool(c.generated), c.visible) for c in table.columns] == [
        ("id", False, True), ("Ssn", False, True), ("g", True, True), ("i", False, False),
    ]  # fmt: skip
    assert (table.has_triggers("update"), table.has_triggers("insert")) == (True, False)
    assert shown.kind == "view"
    assert "`Ssn`" in (shown.definition or "")
    routine = found.routine("names", "F", "function")
    assert routine is not None
    assert routine.kind == "function"
    assert found.collations[45] == ("utf8mb4_general_ci", "utf8mb4")
    assert found.routines_known


@pytest.mark.slow
def test_what_an_account_may_not_see_is_not_known(mysql_server: MySQLServer, names: Any) -> None:
    for statement in (
        "CREATE TABLE t (id INT PRIMARY KEY, ssn INT)", "CREATE TABLE hidden (id INT)",
        "CREATE VIEW v AS SELECT id FROM t", "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW SET NEW.id = 2",
        "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1",
        "CREATE USER other IDENTIFIED BY 'pw'", "GRANT SELECT (id) ON names.t TO other",
        "GRANT SELECT ON names.v TO other",
    ):  # fmt: skip
        names.execute(statement)
    with source(mysql_server, "other", "pw") as opened:
        opened.version()
        found = opened.load()
    table, shown = found.relation("names", "t"), found.relation("names", "v")
    assert table is not None
    assert shown is not None
    assert [c.name for c in table.columns] == ["id"]
    assert table.has_triggers("update") is None
    assert shown.definition is None
    assert found.relation("names", "hidden") is None
    assert found.routine("names", "f") is None
    assert not found.routines_known
    assert not found.loadable_known


@pytest.mark.slow
def test_it_may_not_write_and_does_not_wait(mysql_server: MySQLServer, names: Any) -> None:
    names.execute("CREATE TABLE t (id INT)")
    opened = Source(mysql_server)
    try:
        with pytest.raises(CatalogError, match="READ ONLY"):
            _ask(opened, "INSERT INTO names.t VALUES (1)")
        names.execute("LOCK TABLES t WRITE")
        opened.version()  # a lock of a client is none of its business
        with pytest.raises(CatalogError, match=r"max_statement_time|maximum statement execution time|interrupted"):
            _ask(opened, "SELECT SLEEP(30) FROM information_schema.tables a, information_schema.tables b")
    finally:
        names.execute("UNLOCK TABLES")
        opened.close()


def _ask(opened: Source, sql: str) -> Any:
    return drive(opened.source._ask(sql), opened.sock)


# ---------------------------------------------------------------- an upstream that lies


CAPABILITIES = Capability.PROTOCOL_41 | Capability.DEPRECATE_EOF


def ready() -> MysqlCatalogSource:
    made = MysqlCatalogSource()
    greeting = Greeting(b"10.11.19-MariaDB", 7, b"x" * 20, CAPABILITIES, 45, 2, b"mysql_native_password")
    made._ready = LoggedIn(greeting, CAPABILITIES, Ok(), b"")
    made._flavour = "mariadb"
    return made


def answer(columns: int, *rows: Sequence[str | None]) -> bytes:
    bodies = [bytes((columns,))]
    bodies += [b"\x03def" + b"\0" * 5 + b"\x0c" + b"\x2d\0" + b"\0" * 4 + b"\xfd" + b"\0" * 5] * columns
    bodies += [b"".join(b"\xfb" if v is None else string(v.encode()) for v in row) for row in rows]
    bodies.append(b"\xfe\0\0\x02\0\0\0")
    return wire.packets(1, *bodies)


def play(generator: Any, *answers: bytes) -> Any:
    left = list(answers)
    try:
        asked = next(generator)
        while True:
            if isinstance(asked, Send):
                asked = generator.send(None)
            else:
                assert isinstance(asked, Receive)
                asked = generator.send(left.pop(0))
    except StopIteration as done:
        return done.value


COUNTERS = answer(2, ("Com_create_table", "1"), ("Com_select", "9"))


@pytest.mark.parametrize(
    "answers",
    [
        [answer(2, ("Com_select", "9"))],  # no counter of definitions at all
        [COUNTERS, answer(1)],
        [COUNTERS, answer(1, (None,))],
        [COUNTERS, answer(1, ("yesterday",))],
        [COUNTERS, answer(2, ("2026-01-01 00:00:00.000000", "x"))],
        [COUNTERS, wire.packets(1, Err(1142, "42000", b"denied").encode())],
        [answer(2, ("Com_create_table", None))],
    ],
)
def test_answers_in_another_form_are_no_version(answers: list[bytes]) -> None:
    with pytest.raises(CatalogError):
        play(ready().version(), *answers)


@pytest.mark.parametrize(
    "answers",
    [[b"\x01\0\0\x05\0"], [b"\x01\0\0\x01\x07"], [wire.packets(1, b"\xfbfile")], [answer(1, ("a", "b"))],
     [COUNTERS + b"\0\0\0\0"]],
)  # fmt: skip
def test_answers_that_the_protocol_does_not_have_end_it(answers: list[bytes]) -> None:
    with pytest.raises((WireError, IndexError)):
        play(ready().version(), *answers)


def test_a_catalog_that_cannot_be_asked_for_is_none() -> None:
    with pytest.raises(CatalogError):
        play(ready().load(), wire.packets(1, Err(1146, "42S02", b"gone").encode()))
    with pytest.raises(CatalogError):
        play(MysqlCatalogSource().version())


def test_rows_that_make_no_sense_are_no_catalog() -> None:
    tables = [answer(6, ("10.11.1-MariaDB", "", "x", "", "latin1", "0"))]
    tables += [answer(n) for n in (1, 3, 6, 4, 7, 7, 5, 7, 3, 3)]
    tables += [wire.packets(1, Err(1142, "42000", b"denied").encode())] * 2  # optional ones
    build = play(ready().load(), *tables)
    with pytest.raises(CatalogError, match="cannot be understood"):
        build()


def test_which_counters_count() -> None:
    for name in (
        "Com_create_table",
        "com_alter_db",
        "Com_drop_view",
        "Com_rename_table",
        "Com_grant",
        "Com_revoke_all",
    ):
        assert counts_change(name)
    for name in ("Com_select", "Com_show_create_table", "Com_create_temporary_table", "Com_insert", "Com_stmt_execute"):
        assert not counts_change(name)
    assert counts_code("Com_create_udf")
    assert not counts_code("Com_create_table")
