"""What `*` shows of commas and joins in one FROM: the columns that the servers say, in their order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlglot import exp

from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.lineage import Lineage, Output, Untraceable
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from scripts.support.mysql import MySQLServer
from tests.support.mysql_statements import load

TABLES = {
    "t1": ("id", "a", "b"),
    "t2": ("id", "b", "c"),
    "t3": ("c", "d", "a"),
    "t4": ("e", "id", "d"),
}
CATALOG = Catalog(
    "1",
    "mariadb",
    (10, 11, 0),
    relations=tuple(
        Relation("stars", name, "table", tuple(Column(c, "int") for c in columns)) for name, columns in TABLES.items()
    ),
)


def outputs(query: str, catalog: Catalog, flavour: str = "mariadb") -> tuple[Output, ...]:
    version = (10, 11, 6) if flavour == "mariadb" else (9, 7, 0)
    state = SessionState(flavour=flavour, version=version, database="stars")
    state.started()
    (statement,) = analyse(query.encode(), state, catalog).statements
    assert isinstance(statement.tree, exp.Expr), statement.analysis.why
    return Lineage(catalog, state).outputs(statement.tree)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ("t1, t2 NATURAL JOIN t4", "t1.id t1.a t1.b t2.id+t4.id t2.b t2.c t4.e t4.d"),
        ("t1, t2 JOIN t4 USING (id)", "t1.id t1.a t1.b t2.id+t4.id t2.b t2.c t4.e t4.d"),
        ("t1 NATURAL JOIN t2, t4", "t1.id+t2.id t1.b+t2.b t1.a t2.c t4.e t4.id t4.d"),
        ("t3, t1, t2 NATURAL JOIN t4, t3 x",
         "t3.c t3.d t3.a t1.id t1.a t1.b t2.id+t4.id t2.b t2.c t4.e t4.d t3.c t3.d t3.a"),
    ],
)  # fmt: skip
def test_a_comma_binds_less_than_a_join(tables: str, expected: str) -> None:
    found = outputs(f"SELECT * FROM {tables}", CATALOG)
    names = [part.split("+")[0].rpartition(".")[2] for part in expected.split()]
    assert [one.name for one in found] == names
    for one, part in zip(found, expected.split(), strict=True):
        assert {f"stars.{column}" for column in part.split("+")} <= one.flow.copied | one.flow.computed


class Froms:
    """Random FROM clauses: commas, and joins with and without conditions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        names = [f"{self.random.choice(list(TABLES))} x{n}" for n in range(self.random.randint(2, 5))]
        out = names[0]
        for n, name in enumerate(names[1:], 1):
            out += self.random.choice(
                [
                    f", {name}",
                    f", {name}",
                    f" NATURAL JOIN {name}",
                    f" NATURAL LEFT JOIN {name}",
                    f" NATURAL RIGHT JOIN {name}",
                    f" JOIN {name} USING (id)",
                    f" LEFT JOIN {name} USING ({self.random.choice('abcd')})",
                    f" RIGHT JOIN {name} USING (id)",
                    f" JOIN {name}",
                    f" CROSS JOIN {name}",
                    f" STRAIGHT_JOIN {name}",
                    f" JOIN {name} ON x{n}.{self.random.choice(['id', 'a', 'd'])} = 1",
                ]
            )
        return out


@pytest.fixture(scope="module")
def connection(mysql_server: MySQLServer) -> Iterator[Any]:
    with contextlib.closing(mysql_server.connect()) as found, found.cursor() as cursor:
        cursor.execute("CREATE DATABASE stars")
        cursor.execute("USE stars")
        for name, columns in TABLES.items():
            cursor.execute(f"CREATE TABLE {name} ({', '.join(f'{c} INT' for c in columns)})")
        yield found
        cursor.execute("DROP DATABASE stars")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_stars_are_what_the_server_says(connection: Any, mysql_server: MySQLServer, seed: int) -> None:
    flavour = mysql_server.installation.flavour
    catalog = load(connection, flavour)
    froms = Froms(seed)
    agreed = mixed = refused = 0
    with connection.cursor() as cursor:
        for _ in range(500):
            tables = froms.text()
            query = f"SELECT * FROM {tables}"
            try:
                cursor.execute(query)
            except pymysql.err.MySQLError:
                refused += 1
                continue
            told = [(f.name, f"stars.{f.org_table}.{f.org_name}" if f.org_name else "") for f in cursor._result.fields]
            try:
                found = outputs(query, catalog, flavour)
            except Untraceable:
                continue
            assert [one.name for one in found] == [name for name, _ in told], query
            for one, (_, origin) in zip(found, told, strict=True):
                assert not origin or one.flow.anything or origin in one.flow.copied | one.flow.computed, query
            agreed += 1
            mixed += "," in tables and ("NATURAL" in tables or "USING" in tables)
    assert agreed > 100
    assert mixed > 40
