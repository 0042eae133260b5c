"""What people, tools and attackers send to MySQL and MariaDB beyond the sample: some 500 reads, some 750 attacks.

`tools` is what drivers, frameworks, dumps and consoles send by themselves, `forms` the grammar of reading, `spelling`
what is written anew for sqlglot; `hidden` are side effects in disguise, `kinds` every kind of statement that changes,
locks, stops or shows what is secret, `bytes` is what lexers and character sets disagree about.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.mysql.catalog import Catalog
from protocols.mysql.functions import FUNCTIONS
from protocols.mysql.judge_lines import judge_line
from protocols.mysql.statements.calls import STRUCTURE
from scripts.support.mysql import MySQLServer
from tests.support.mysql_statements import decide, load

CASES = Path(__file__).parent / "cases"
ALL = [json.loads(line) for line in (CASES / "more_classification_mysql.jsonl").read_text("utf-8").splitlines()]
BY_GROUP = {
    group: list(cases) for group, cases in itertools.groupby(ALL, key=lambda case: str(case["id"]).rsplit("-", 2)[1])
}
EXTRA = (
    "CREATE TABLE t_geo (id INT PRIMARY KEY, g GEOMETRY NOT NULL, j JSON, d DATETIME, title VARCHAR(100), body TEXT,"
    " e ENUM('a','b'), b BLOB, `order` INT, price DECIMAL(10,2), created_at TIMESTAMP NULL,"
    " FULLTEXT KEY (title, body))",
    "CREATE TABLE dept (id INT PRIMARY KEY, parent_id INT, name VARCHAR(30),"
    " FOREIGN KEY (parent_id) REFERENCES dept (id) ON DELETE CASCADE)",
    "CREATE TABLE `Weird Name` (`a b` INT, `c-d` INT, `größe` INT)",
    "CREATE VIEW v_plain AS SELECT id, name FROM users",
)


def wrong(case: dict[str, Any], catalog: Catalog | None) -> str:
    """What is wrong with the answer to a case; "" where it is right."""
    answer = judge_line(case, decide, catalog)
    if (answer["decision"] == "allow") is (case["expected_verdict"] == "allow"):
        return ""
    return f"{case['id']}: {answer['decision']} {answer['effects']} {answer['why']}"


def test_the_cases_are_many_and_each_has_its_own_name() -> None:
    assert len({case["id"] for case in ALL}) == len(ALL)
    assert sum(case["expected_verdict"] == "allow" for case in ALL) >= 300
    assert sum(case["expected_verdict"] == "stop" for case in ALL) >= 300


@pytest.mark.parametrize("group", BY_GROUP)
def test_without_a_catalog(group: str) -> None:
    assert [found for case in BY_GROUP[group] if (found := wrong(case, None))] == []


class World:
    """A real server with the sample's schema in `test`, and some more."""

    def __init__(self, server: MySQLServer) -> None:
        self.server = server
        self.flavour = server.installation.flavour
        self.connection = server.connect()
        self.connection.autocommit(True)
        base = (CASES / "base_mysql_classification.sql").read_text("utf-8").split(";\n")
        self.run("DROP DATABASE IF EXISTS test", "CREATE DATABASE test", "USE test", *filter(str.strip, base), *EXTRA)
        self.catalog = load(self.connection, self.flavour)

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def state(self) -> Any:
        """All that a read must leave as it is: names, rows, global settings, accounts."""
        found = []
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'test' ORDER BY 1")
            names = [name for (name,) in cursor.fetchall()]
            cursor.execute("CHECKSUM TABLE " + ", ".join(f"test.`{name}`" for name in names if name != "v_plain"))
            found.append(cursor.fetchall())
            for question in (
                "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'test'",
                "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'test'",
                "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
                "SELECT user, host FROM mysql.user ORDER BY 1, 2",
                "SHOW GLOBAL VARIABLES WHERE variable_name NOT LIKE 'gtid%' AND variable_name NOT LIKE '%timestamp%'",
            ):
                cursor.execute(question)
                found.append(cursor.fetchall())
        return names, found


@pytest.fixture(scope="module")
def world(mysql_server: MySQLServer) -> Iterator[World]:
    made = World(mysql_server)
    yield made
    made.run("DROP DATABASE IF EXISTS test")
    made.connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("group", BY_GROUP)
def test_with_the_catalog_of_a_real_server(group: str, world: World) -> None:
    cases = [case for case in BY_GROUP[group] if world.flavour in case["servers"]]
    assert [found for case in cases if (found := wrong(case, world.catalog))] == []


def passes(world: World, *, alone: bool) -> list[list[str]]:
    """The allowed texts of this server, each with its prelude; `alone` those that need a session of their own."""
    return [
        [*case.get("prelude", ()), case["input"]]
        for case in ALL
        if case["expected_verdict"] == "allow"
        and world.flavour in case["servers"]
        and "input" in case
        and alone is ("prelude" in case or not case["input"].lstrip("( ").upper().startswith(_READS))
    ]


_READS = ("SELECT", "WITH", "SHOW", "EXPLAIN", "DESC", "VALUES", "TABLE", "/* ", "ANALYZE")


def play(world: World, texts: list[list[str]]) -> int:
    """Runs texts in one session; how many statements ran."""
    ran = 0
    connection = world.server.connect("test")
    for statement in itertools.chain.from_iterable(texts):
        try:
            connection.cursor().execute(statement)
            ran += 1
        except pymysql.err.MySQLError:
            pass  # refused by this version
        except UnicodeDecodeError:  # an answer in another character set, which this client leaves half read
            connection.close()
            connection = world.server.connect("test")
    connection.close()
    return ran


@pytest.mark.slow
def test_what_passes_leaves_no_trace(world: World) -> None:
    """Each allowed text runs on the real server; nothing may be another afterwards."""
    before = world.state()
    ran = play(world, passes(world, alone=False))
    ran += sum(play(world, [texts]) for texts in passes(world, alone=True))
    assert ran > 400
    assert world.state() == before


NOTHING_HIDES = (
    "SELECT {}()", "SELECT {} ()", "SELECT `{}`()", "SELECT `{}` ()", "SELECT test.{}()", "SELECT 1, {}() AS x",
    "SELECT 1 FROM users WHERE id = {}()", "SELECT 1 FROM users WHERE id IN (1, {}())", "SELECT NOT {}()",
    "SELECT id FROM users GROUP BY {}()", "SELECT (1 + {}())", "DO {}()", "SET @a = {}()", "SELECT -{} ()",
    "SELECT * FROM users ORDER BY {}()", "SELECT {{fn {}()}}", "SELECT COUNT({}()) FROM users", "SELECT 1 XOR {} ()",
)  # fmt: skip


@pytest.mark.slow
def test_a_stored_function_hides_behind_no_name(world: World) -> None:
    """Functions named like built-in ones and like words of the grammar: whoever can run one is stopped."""
    world.run("CREATE TABLE trap (hit INT)")
    if world.flavour == "mysql":
        world.run("SET GLOBAL log_bin_trust_function_creators = 1")
    names = sorted(STRUCTURE | {name for name in FUNCTIONS if name[0] in "ACJMNRSX"})
    for name in names:
        world.run(
            f"CREATE FUNCTION test.`{name}`() RETURNS INT NOT DETERMINISTIC MODIFIES SQL DATA"
            " BEGIN INSERT INTO test.trap VALUES (1); RETURN 1; END"
        )
    world.run("USE test")
    catalog = load(world.connection, world.flavour)
    fired: set[str] = set()
    missed = []
    try:
        with world.connection.cursor() as cursor:
            for name, form in itertools.product(names, NOTHING_HIDES):
                text = form.format(name)
                case = {"id": 1, "input": text, "startup": {"database": "test"}}
                if judge_line(case, decide, catalog)["decision"] != "allow":
                    fired.add(name)
                    continue
                try:
                    cursor.execute(text)
                    cursor.fetchall()
                except pymysql.err.MySQLError:
                    continue
                cursor.execute("SELECT COUNT(*) FROM test.trap")
                if cursor.fetchall() != ((0,),):
                    missed.append(text)
                    cursor.execute("DELETE FROM test.trap")
    finally:
        world.run("DROP TABLE test.trap", *(f"DROP FUNCTION test.`{name}`" for name in names))
    assert missed == []
    assert len(fired) == len(names)
