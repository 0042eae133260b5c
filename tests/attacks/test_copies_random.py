"""Random scripts that write and read, on two databases that differ in masked values only: what they leave is the same.

A script is a row of statements that store, move and rename. Those that have `probe`, `mask.copy` or `unknown` for an
identity that sees masks are not run, as they would not be; all others run on both databases. After each of them every
column that shows in the clear must hold the same in both.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from guard.mask import Masker
from guard.mask.copies import Copies
from protocols.contract import Analysis, Effect, MaskRule, Origin, ResultColumn, ResultShape
from protocols.mysql.statements import analyse as analyse_mysql
from protocols.postgres.catalog import Catalog
from protocols.postgres.statements import analyse
from scripts.support.mysql import MySQLServer
from scripts.support.postgres import PostgresServer
from tests.attacks.test_masking_random import Queries
from tests.support import mysql_statements
from tests.support.statements import load, session

# one mask on a table's own column, one on any table's
RULES = (
    MaskRule("ssn", ("*.users.ssn",), (), "tokenise"),
    MaskRule("pan", ("*.pan",), (), "partial", {"keep_last": 1}),
)
COPIES, MASKER = Copies(RULES), Masker(RULES, b"k" * 32)
# what the databases differ in: a filter on it is a probe, whichever table it has gone to
NEVER = frozenset({Effect.UNKNOWN, Effect.EXEC_CALL})


def probes(analysis: Analysis) -> bool:
    return MASKER.touches((), [c for c in analysis.predicates if not c.endswith(".*")]) or any(
        MASKER.touches([c.removesuffix(".*")]) for c in analysis.predicates if c.endswith(".*")
    )


def clear(column: str) -> bool:
    """Whether a table's column shows as it is."""
    return MASKER.plan(ResultShape((ResultColumn(column.rpartition(".")[2], Origin.KNOWN, (column,)),))) is None


SCHEMA = """
CREATE TABLE users(id int, name text, ssn text, n int); CREATE TABLE cards(id int, pan text, name text);
CREATE TABLE plain(id int, name text, q int); CREATE TABLE keyed (k int PRIMARY KEY, name text, ssn text);
CREATE VIEW v_all AS SELECT * FROM users; CREATE VIEW v_up AS SELECT id, upper(ssn) AS name, name AS ssn FROM users;
CREATE VIEW v_join AS SELECT u.id, u.name, c.pan || '' AS q FROM users u JOIN cards c USING (id);
INSERT INTO plain VALUES (1, 'p', 5), (2, 'q', 6), (3, 'r', 7);
"""
ROWS = """
INSERT INTO users VALUES (1, 'Ann', '{0}', 10), (2, 'Bob', '{1}', 20), (3, 'Cy', NULL, 30);
INSERT INTO cards VALUES (1, '{2}', 'x'), (2, '{3}', 'y');
"""
DATA = {"one": ("alpha", "bravo", "4111", "4222"), "two": ("zulu", "yankee", "5111", "5333")}


class Scripts:
    """Random statements that write. `tables`: names and columns, as far as this script made them."""

    def __init__(self, seed: int, *, mysql: bool = False) -> None:
        self.random = random.Random(seed)
        self.queries = Queries(seed)
        self.mysql = mysql
        self.made = 0
        self.begin()

    def begin(self) -> None:
        self.tables = {
            "users": ["id", "name", "ssn", "n"],
            "cards": ["id", "pan", "name"],
            "plain": ["id", "name", "q"],
        }

    def pick(self, *items: Any) -> Any:
        return self.random.choice(items)

    def table(self) -> str:
        return str(self.random.choice(sorted(self.tables)))

    def column(self, table: str, *, text: bool = True) -> str:
        return str(
            self.random.choice([c for c in self.tables[table] if not text or c not in ("id", "n", "q")] or ["id"])
        )

    def select(self, width: int) -> str:
        """A query of so many columns."""
        if not self.mysql and self.random.random() < 0.4:
            self.queries.scope = []
            return self.queries.select(self.pick(1, 2), width)[0]
        table, other = self.table(), self.table()
        items = []
        for _ in range(width):
            column = f"a.{self.column(table)}"
            items.append(
                self.pick(
                    column, column, "'k'", f"concat({column}, '')", f"upper({column})", f"left({column}, 2)",
                    f"coalesce({column}, 'x')", f"CASE WHEN {column} > 'b' THEN 'yes' ELSE 'no' END",
                    f"(SELECT max({self.column(other)}) FROM {other})", f"b.{self.column(other)}",
                    f"{column} AS {self.pick('ssn', 'pan', 'name')}",
                )
            )  # fmt: skip
        source = self.pick(
            f"{table} a, {other} b", f"(SELECT * FROM {table}) a, {other} b", f"{table} a JOIN {other} b ON a.id = b.id"
        )
        text = f"SELECT {', '.join(items)} FROM {source}"
        return f"WITH {table} AS (SELECT * FROM {table}) {text}" if self.random.random() < 0.1 else text

    def insert(self) -> str:
        table = self.table()
        columns = self.random.sample(self.tables[table], self.random.randint(1, len(self.tables[table])))
        columns = [c for c in columns if c not in ("id", "n", "q")] or [self.column(table)]
        listed = f"{table} ({', '.join(columns)})"
        kind = self.random.random()
        if kind < 0.15:
            return f"INSERT INTO {listed} VALUES ({', '.join(self.pick(repr('v'), 'NULL') for _ in columns)})"
        if kind < 0.3:
            value = f"(SELECT max({self.column(other)}) FROM {other})" if (other := self.table()) else ""
            return f"INSERT INTO {listed} VALUES ({', '.join(self.pick(value, repr('v')) for _ in columns)})"
        if kind < 0.45:
            same = f"SELECT {', '.join(columns)} FROM {table}"
            return f"INSERT INTO {listed} {same}"
        return f"INSERT INTO {listed} {self.select(len(columns))}"

    def update(self) -> str:
        table, other = self.table(), self.table()
        first, second = self.column(table), self.column(table)
        value = self.pick(
            f"{table}.{self.column(table)}", f"b.{self.column(other)}", f"b.{first}", "'u'", f"upper({table}.{second})",
            f"concat({table}.{first}, b.{self.column(other)})", f"CASE WHEN b.{self.column(other)} > 'c' THEN 'x' END",
        )  # fmt: skip
        if self.mysql:
            return f"UPDATE {table} JOIN {other} b ON {table}.id = b.id SET {table}.{first} = {value}"
        if self.random.random() < 0.2 and first != second:
            return f"UPDATE {table} SET ({first}, {second}) = ROW({value}, 'r') FROM {other} b WHERE b.id = {table}.id"
        return f"UPDATE {table} SET {first} = {value} FROM {other} b WHERE b.id = {table}.id"

    def create(self) -> str:
        self.made += 1
        name = f"made{self.made}"
        columns = self.random.sample(["name", "ssn", "pan", "id"], self.pick(1, 2, 3))
        self.tables[name] = columns
        if self.random.random() < 0.3:
            other = self.table() if name not in self.tables else self.pick("users", "cards", "plain")
            self.tables[name] = self.tables[other]
            return f"CREATE TABLE {name} AS SELECT * FROM {other}"
        items = [
            f"{self.pick('a', 'a', 'b')}.{c} AS {d}"
            for c, d in zip(self._of("users", "cards", len(columns)), columns, strict=True)
        ]
        return f"CREATE TABLE {name} AS SELECT {', '.join(items)} FROM users a JOIN cards b ON a.id = b.id"

    def _of(self, one: str, other: str, count: int) -> list[str]:
        shared = ["name", "name", "id", "ssn", "pan"]
        return [str(self.random.choice(shared)) for _ in range(count)]

    def define(self) -> str:
        table, new = self.table(), f"to{self.random.randint(1, 3)}"
        column = self.column(table)
        kind = self.random.random()
        if kind < 0.3:
            self.tables[table] = [new if c == column else c for c in self.tables[table]]
            return f"ALTER TABLE {table} RENAME COLUMN {column} TO {new}"
        if kind < 0.5:
            return f"ALTER TABLE {table} RENAME TO {new}"
        if kind < 0.7:
            return f"ALTER TABLE {table} ADD COLUMN {new} varchar(50) GENERATED ALWAYS AS ({column}) STORED"
        if kind < 0.85 and not self.mysql:
            return f"ALTER TABLE {table} ALTER COLUMN {self.column(table)} TYPE text USING {column}"
        return f"ALTER TABLE {table} ADD COLUMN {new} varchar(50)"

    def more(self) -> str:
        """What one kind of server has."""
        table, other = self.table(), self.table()
        first, from_other = self.column(table), self.column(other)
        if self.mysql:
            return str(self.pick(
                f"REPLACE INTO {table} ({first}) SELECT {from_other} FROM {other}",
                f"INSERT INTO {table} ({first}) SELECT {from_other} FROM {other} b"
                f" ON DUPLICATE KEY UPDATE {first} = b.{from_other}",
                f"INSERT INTO {table} SET {first} = (SELECT max({from_other}) FROM {other})",
            ))  # fmt: skip
        return str(self.pick(
            f"WITH d AS (DELETE FROM {table} RETURNING *) INSERT INTO {other} ({from_other}) SELECT {first} FROM d",
            f"WITH d AS (UPDATE {table} SET {first} = 'z' RETURNING *)"
            f" INSERT INTO {other} ({from_other}) SELECT d.{first} FROM d",
            f"INSERT INTO keyed (k, name, ssn) SELECT id, {first}, 'x' FROM {table} ON CONFLICT (k) DO UPDATE SET"
            f" name = {self.pick('excluded.name', 'excluded.ssn', 'keyed.ssn')}",
            f"MERGE INTO {table} t USING {other} s ON t.id = s.id"
            f" WHEN MATCHED THEN UPDATE SET {first} = s.{from_other}",
            f"SELECT {first} AS {self.pick('ssn', 'pan', 'q')} INTO made{self.random.randint(50, 60)} FROM {table}",
        ))  # fmt: skip

    def statement(self) -> str:
        return str(self.pick(self.insert, self.insert, self.update, self.update, self.create, self.define, self.more)())


def allowed(analysis: Analysis) -> str:
    """Why a statement is not run for somebody who sees masks; "" where it is."""
    if not NEVER.isdisjoint(analysis.effects):
        return "unknown"
    if probes(analysis):
        return "probe"
    return "copy" if COPIES.exposed(analysis.stores) else ""


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def databases(server: PostgresServer) -> Iterator[list[psycopg.Connection[Any]]]:
    with server.connect() as admin, contextlib.ExitStack() as stack:
        found = []
        for name, values in DATA.items():
            admin.execute(f"DROP DATABASE IF EXISTS copied_{name}".encode())
            admin.execute(f"CREATE DATABASE copied_{name}".encode())
            stack.callback(admin.execute, f"DROP DATABASE copied_{name}".encode())
            connection = stack.enter_context(contextlib.closing(server.connect(database=f"copied_{name}")))
            connection.execute((SCHEMA + ROWS.format(*values)).encode())
            found.append(connection)
        yield found


def seen(connection: psycopg.Connection[Any], catalog: Catalog) -> dict[str, Counter[Any]]:
    """What shows in the clear, table by table."""
    found = {}
    for relation in catalog.relations.values():
        if relation.schema == "public" and relation.kind == "r":
            shown = [c for c in relation.columns if clear(f"{relation.qualified}.{c}")]
            rows = connection.execute(f'SELECT {", ".join(shown) or "1"} FROM "{relation.name}"'.encode()).fetchall()
            found[relation.name] = Counter(rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_scripts_leave_in_the_clear_does_not_depend_on_secrets_on_postgres(
    seed: int, databases: list[psycopg.Connection[Any]]
) -> None:
    scripts, outcomes = Scripts(seed), Counter[str]()
    for _ in range(25):
        scripts.begin()
        for connection in databases:
            connection.execute("BEGIN")
        catalog, ran = load(databases[0]), []
        for _ in range(12):
            text = scripts.statement()
            analysis = analyse(text.encode(), session(), catalog).analysis
            if why := allowed(analysis):
                outcomes[why] += 1
                continue
            if not _run(databases, text):
                outcomes["error"] += 1
                continue
            ran.append(text)
            outcomes["ran"] += 1
            outcomes["ran over masked columns"] += MASKER.touches((), analysis.columns)
            if any(effect.value.startswith("ddl.") for effect in analysis.effects):
                catalog = load(databases[0])
            one, other = (seen(connection, catalog) for connection in databases)
            assert one == other, ran
        for connection in databases:
            connection.execute("ROLLBACK")
    # the test would prove nothing if nothing ran, or nothing was stopped
    assert outcomes["ran"] > 60, outcomes
    assert outcomes["ran over masked columns"] > 10, outcomes
    assert outcomes["copy"] > 60, outcomes


def _run(databases: Sequence[psycopg.Connection[Any]], text: str) -> bool:
    """Whether it ran on both; where it did not it has left nothing."""
    good = True
    for connection in databases:
        connection.execute("SAVEPOINT s")
        try:
            connection.execute(text.encode())
        except psycopg.Error:
            good = False
    if not good:
        for connection in databases:
            connection.execute("ROLLBACK TO s")
    return good


# ---------------------------------------------------------------- MariaDB and MySQL

MYSQL_SCHEMA = (
    "CREATE TABLE users(id int, name varchar(50), ssn varchar(50), n int)",
    "CREATE TABLE cards(id int, pan varchar(50), name varchar(50))",
    "CREATE TABLE plain(id int, name varchar(50), q int)",
    "INSERT INTO plain VALUES (1, 'p', 5), (2, 'q', 6), (3, 'r', 7)",
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_scripts_leave_in_the_clear_does_not_depend_on_secrets_on_mysql(
    seed: int, mysql_server: MySQLServer
) -> None:
    flavour = mysql_server.installation.flavour
    scripts, outcomes = Scripts(seed, mysql=True), Counter[str]()
    with contextlib.ExitStack() as stack:
        cursors = []
        for _ in DATA:
            connection = stack.enter_context(contextlib.closing(mysql_server.connect()))
            cursors.append(stack.enter_context(connection.cursor()))
        for _ in range(12):
            scripts.begin()
            for cursor, (name, values) in zip(cursors, DATA.items(), strict=True):
                for text in (f"DROP DATABASE IF EXISTS c_{name}", f"CREATE DATABASE c_{name}", f"USE c_{name}",
                             *MYSQL_SCHEMA, *ROWS.format(*values).strip().split(";\n")):  # fmt: skip
                    cursor.execute(text.removesuffix(";"))
            catalog = mysql_statements.load(cursors[0].connection, flavour)
            for cursor in cursors if seed % 2 else ():
                cursor.execute("SET sql_mode = ''")  # what does not fit is cut
            mode = frozenset[str]() if seed % 2 else catalog.sql_mode
            state = mysql_statements.session(flavour, database="c_one", sql_mode=mode)
            ran = []
            for _ in range(12):
                text = scripts.statement()
                analysis = analyse_mysql(text.encode(), state, catalog).analysis
                if why := allowed(analysis):
                    outcomes[why] += 1
                    continue
                errors = 0
                for cursor in cursors:
                    try:
                        cursor.execute(text)
                    except pymysql.err.MySQLError:
                        errors += 1
                if errors:
                    outcomes["error"] += 1
                    if errors == 1:
                        break  # it tells something by failing, and leaves what it had done
                    continue
                ran.append(text)
                outcomes["ran"] += 1
                outcomes["ran over masked columns"] += MASKER.touches((), analysis.columns)
                if any(effect.value.startswith("ddl.") for effect in analysis.effects):
                    catalog = mysql_statements.load(cursors[0].connection, flavour)
                one, other = (_shown(cursor, catalog) for cursor in cursors)
                assert one == other, ran
        for cursor, name in zip(cursors, DATA, strict=True):
            cursor.execute(f"DROP DATABASE c_{name}")
    assert outcomes["ran"] > 25, outcomes
    assert outcomes["ran over masked columns"] > 5, outcomes
    assert outcomes["copy"] > 25, outcomes


def _shown(cursor: Any, catalog: Any) -> dict[str, Counter[Any]]:
    found = {}
    cursor.execute("SHOW TABLES")
    for (name,) in cursor.fetchall():
        relation = catalog.relation("c_one", name)
        shown = [c.name for c in relation.columns if clear(f"{relation.qualified}.{c.name}")]
        cursor.execute(f"SELECT {', '.join(shown) or '1'} FROM `{name}`")
        found[name] = Counter(cursor.fetchall())
    return found
