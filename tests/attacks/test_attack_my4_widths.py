"""What a column looks like can be a masked value: MariaDB makes it as wide as the values of constants say.

A variable is a constant to it, and so is a scalar query: `REPEAT('x', @n)` is four times `@n` bytes wide in the
definition of the column, whatever becomes of its rows. Each of these told a masked number in one statement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.contract import MaskRule
from protocols.mysql.catalog import Catalog
from protocols.mysql.messages import ColumnDefinition
from scripts.support.mysql import MySQLServer
from tests.support import mysql_wire as wire
from tests.support.mysql_masked import Masked, source
from tests.support.mysql_talk import SSN, Talk, anything
from tests.support.mysql_wire import packets, query

RULES = (MaskRule("hide", ("*.users.ssn", "*.users.salary"), (), "redact"),)
SALARY = "(SELECT salary FROM users WHERE id = 1)"
NUMBER = "(SELECT ssn FROM users WHERE id = 1)"
DATA = (("123-45-6789", 1234), ("457-55-5462", 4321))
N, S = f"SET @n = {SALARY}", f"SET @s = {NUMBER}"
EACH_DIGIT = ", ".join(f"REPEAT('x', ASCII(SUBSTR(@s, {i}, 1)))" for i in range(1, 12))
TOLD = (
    (N, "SELECT REPEAT('x', @n)"),
    (N, "SELECT RPAD('x', @n, 'y') FROM orders LIMIT 0"),
    (N, "SELECT SPACE(@n), 1"),
    (N, "SELECT LEFT(REPEAT('abc', 9999), @n)"),
    (N, "SELECT SUBSTR(REPEAT('x', 10000), @n)"),
    (N, "SELECT ROUND(1.123456789012345678, @n % 10)"),
    (N, "SELECT a FROM (SELECT TRUNCATE(1.123456789012345678, @n % 10) AS a) x UNION SELECT 1.5"),
    (N, "SELECT FORMAT(1.1, @n % 10)"),
    (N, "WITH q AS (SELECT CEILING(ROUND(123456789012345678.123456789, @n % 30)) AS c) SELECT c FROM q"),
    (N, "SELECT STR_TO_DATE('10', IF(@n > 2000, '%Y', '%H'))"),
    (S, f"SELECT {EACH_DIGIT}"),
    (f"SELECT ROUND(1.123456789012345678, {SALARY} % 10) FROM orders LIMIT 0",),
    (f"SELECT SUBSTR(REPEAT('x', 100), {SALARY} % 20)",),
    (N, "PREPARE p FROM 'SELECT REPEAT(\"x\", ?)'", "EXECUTE p USING @n"),
    (N, "CREATE TEMPORARY TABLE t AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a", "DESCRIBE t"),
    (N, "CREATE TEMPORARY TABLE t AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a", "SHOW FULL COLUMNS FROM t"),
    (N, "CREATE TEMPORARY TABLE t AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a", "SHOW COLUMNS FROM t FROM work"),
    (N, "CREATE TEMPORARY TABLE t AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a", "SHOW CREATE TABLE work.t"),
    (N, "CREATE TEMPORARY TABLE t AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a", "SELECT a FROM t LIMIT 0"),
)
MADE = (
    "CREATE TEMPORARY TABLE looked AS SELECT LEFT(REPEAT('abc', 10), @n % 30) AS a",
    f"CREATE VIEW looked AS SELECT ROUND(1.123456789012345678, {SALARY} % 10) AS a",
)


class World:
    """`work.users` with one set of data or the other; nothing else differs."""

    def __init__(self, server: MySQLServer) -> None:
        self.server = server
        self.run(
            "DROP DATABASE IF EXISTS work",
            "CREATE DATABASE work",
            "CREATE TABLE work.users (id INT PRIMARY KEY, ssn VARCHAR(20), salary INT)",
            "CREATE TABLE work.orders (id INT PRIMARY KEY, total INT)",
            "INSERT INTO work.users VALUES (1, '', 0)",
            "ANALYZE TABLE work.users, work.orders",
        )
        with source(server) as opened:
            self.catalog: Catalog = opened.load()

    def run(self, *texts: str) -> None:
        with contextlib.closing(self.server.connect()) as connection, connection.cursor() as cursor:
            for text in texts:
                cursor.execute(text)

    @contextlib.contextmanager
    def session(self, data: int) -> Iterator[Masked]:
        with contextlib.closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE work.users SET ssn = %s, salary = %s", DATA[data])
        with contextlib.closing(Masked(self.server, self.catalog, RULES, "work")) as made:
            yield made

    def seen(self, data: int, texts: tuple[str, ...], *, prepared: bool) -> list[bytes]:
        with self.session(data) as made:
            return [(made.execute(text) if prepared else made.query(text)).data for text in texts]

    def prepared(self, data: int, texts: tuple[str, ...]) -> list[tuple[int, bytes]]:
        """The answer to the preparation of the last text, behind the packet with the number of the statement."""
        with self.session(data) as made:
            for text in texts[:-1]:
                made.query(text)
            return wire.split(made._exchange(wire.prepare(texts[-1])))[1:]

    def fields(self, data: int, made: str) -> bytes:
        """What COM_FIELD_LIST says of what was made."""
        with self.session(data) as session:
            session.query(N)
            session.query("DROP VIEW IF EXISTS looked")
            session.query(made)
            with contextlib.suppress(pymysql.err.MySQLError), source(self.server) as opened:
                session.port.snapshot = opened.load()
            return session._exchange(wire.command(0x04, b"looked\0"))


@pytest.fixture(scope="module")
def world(mysql_server: MySQLServer) -> Iterator[World]:
    made = World(mysql_server)
    yield made
    made.run("DROP DATABASE work")


@pytest.mark.slow
@pytest.mark.parametrize("texts", TOLD, ids=lambda texts: texts[-1][:60])
def test_no_definition_of_a_column_is_as_wide_as_what_is_masked(world: World, texts: tuple[str, ...]) -> None:
    for prepared in (False, True):
        assert world.seen(0, texts, prepared=prepared) == world.seen(1, texts, prepared=prepared)
    assert world.prepared(0, texts) == world.prepared(1, texts)


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE, ids=["table", "view"])
def test_nor_is_one_in_a_list_of_fields(world: World, made: str) -> None:
    assert world.fields(0, made) == world.fields(1, made)
    world.run("DROP VIEW IF EXISTS work.looked")


# ---------------------------------------------------------------- without a server


def shown(definition: bytes, sql: str) -> ColumnDefinition:
    """A definition as a client gets it, in the answer to `sql`."""
    talk = Talk(anything, masks=[SSN])
    talk.client(query(sql))
    told = talk.server(packets(1, b"\1", definition, wire.row(None)))
    return ColumnDefinition.decode(wire.split(told)[1][1])


def computed(kind: int, length: int, decimals: int = 0) -> bytes:
    return ColumnDefinition(b"", b"", b"", b"x", b"", 45, length, kind, 1, decimals).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (computed(253, 8), computed(253, 4936)),
        (computed(253, 8), computed(250, 1 << 20)),
        (computed(246, 8, 4), computed(246, 5, 1)),
        (computed(3, 8), computed(246, 20)),
        (computed(10, 10), computed(11, 8)),
    ],
)
def test_withheld_columns_that_differ_in_width_look_alike(one: bytes, other: bytes) -> None:
    sql = "SELECT concat(ssn) FROM users"
    assert shown(one, sql) == shown(other, sql)
    assert shown(one, sql).name == b"x"


def test_a_column_that_is_no_secret_keeps_its_definition() -> None:
    plain = computed(253, 4936)
    assert shown(plain, "SELECT concat(name) FROM users").encode() == plain


def test_what_is_behind_the_head_of_a_result_comes_in_any_pieces() -> None:
    head = packets(1, b"\2", computed(253, 8), computed(253, 80), wire.row(None, None))
    sql = query("SELECT concat(ssn), concat(ssn) FROM users")
    whole = Talk(anything, masks=[SSN])
    whole.client(sql)
    expected = whole.server(head)
    for size in (1, 3, 7, 40):
        talk = Talk(anything, masks=[SSN])
        talk.client(sql)
        got = b"".join(talk.server(head[at : at + size]) for at in range(0, len(head), size))
        assert got == expected
