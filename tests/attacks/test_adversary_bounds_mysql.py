"""Texts of a few bytes that would take the gateway's time or memory: each ends within its bound, whatever it is judged.

The event loop stands still while a statement is analysed, for every session.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.lineage import Lineage, Untraceable
from protocols.mysql.statements import analyse
from protocols.mysql.statements.analyse import MAX_TOKENS_OF_TEXT
from scripts.support.gateway import ROOT
from tests.support.mysql_adversary import session, table


def _nested(depth: int) -> str:
    """Each level is read twice, for its columns and for what it does."""
    text = "SELECT id FROM orders"
    for i in range(depth):
        text = f"WITH RECURSIVE c{i} AS (SELECT * FROM ({text}) d{i} UNION ALL SELECT * FROM c{i}) SELECT * FROM c{i}"
    return text


# one small text each. Before there was a bound, the time and the memory of the first ones doubled with every table
BOMBS = {
    "joins without conditions": "SELECT 1 FROM orders" + "".join(f" JOIN orders o{i}" for i in range(40)),
    "inner joins": "SELECT 1 FROM orders" + "".join(f" INNER JOIN orders o{i}" for i in range(40)),
    "straight joins": "SELECT 1 FROM orders" + "".join(f" STRAIGHT_JOIN orders o{i}" for i in range(40)),
    "outer joins": "SELECT 1 FROM orders" + "".join(f" LEFT JOIN orders o{i}" for i in range(40)),
    "mixed joins": "SELECT 1 FROM orders" + "".join(f" JOIN orders o{i} ON 1 JOIN orders p{i}" for i in range(20)),
    "joins in brackets": "SELECT 1 FROM orders"
    + "".join(f" JOIN (orders o{i} JOIN orders p{i} JOIN orders q{i})" for i in range(13)),
    "columns that double": "WITH a0 AS (SELECT * FROM orders)"
    + "".join(f", a{i} AS (SELECT x.*, y.* FROM a{i - 1} x, a{i - 1} y)" for i in range(1, 39))
    + " SELECT * FROM a38",
    # that of the others grew with the square of their length, or with all that their names stand for
    "handlers without a block": "CREATE PROCEDURE p() BEGIN SELECT 1; DECLARE " + "HANDLER " * 50_000,
    "statements before a long one": "DO 1;" * 900 + "SELECT '" + "x" * 15_000_000 + "'",
    "many large statements": ("SELECT " + "1+" * 5000 + "1;") * 900,
    "one large statement executed again and again": "PREPARE s FROM 'SELECT 1" + ",1" * 25_000 + "';"
    + "EXECUTE s;" * 900,
    "recursive queries in each other": " UNION ALL ".join([f"({_nested(13)})"] * 40),
    "stars": "SELECT " + ",".join(["wide.*"] * 20_000) + " FROM wide",
    "stars of many": "SELECT " + ",".join(["*"] * 9_000) + " FROM wide, wide a, wide b",
    "queries of wide tables": "WITH " + ",".join(f"a{i} AS (SELECT * FROM wide)" for i in range(4000)) + " SELECT 1",
    "names beyond ASCII": "SELECT " + ",".join(["é"] * 14_000) + " FROM wide ä, wide ö, wide ü",
    "variables from variables": "SET " + ",".join(f"@a{i}=@a{i - 1}" for i in range(9000)),
    "new names": "ALTER TABLE orders " + ",".join(f"RENAME TO o{i}" for i in range(9000)),
    "columns of all tables": f"SELECT {','.join(['zz'] * 1000)} FROM "
    + ",".join(f"orders o{i}" for i in range(500)),
}  # fmt: skip


def world() -> Catalog:
    views = [
        Relation(
            "shop", f"v{i}", "view", (Column("id", "int"),),
            definition=f"select `id` AS `id` from `shop`.`{v}` union all select `id` AS `id` from `shop`.`{v}`",
        )
        for i, v in enumerate(["orders", *(f"v{i}" for i in range(18))])
    ]  # fmt: skip
    tables = [
        table("shop", "customers", "id", "card"),
        table("shop", "orders", "id", "total"),
        table("shop", "wide", *(f"c{i}" for i in range(1000))),
    ]
    return Catalog("v1", "mysql", (9, 7, 0), relations=[*tables, *views])


def run(text: str) -> None:
    """As the data path does: judge it, and trace the columns of what can give some."""
    catalog, state = world(), session()
    command = analyse(text.encode(), state, catalog)
    assert "MemoryError" not in command.analysis.why
    for statement in command.statements[:3]:
        if statement.tree is not None:
            try:
                Lineage(catalog, state).outputs(statement.tree)
            except Untraceable:
                continue


_BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from tests.attacks import test_adversary_bounds_mysql as t
t.run(t.BOMBS[sys.argv[1]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_small_text_takes_the_process_down(bomb: str) -> None:
    done = subprocess.run([sys.executable, "-c", _BOUNDED, bomb], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_views_over_views_are_read_once_each() -> None:
    catalog, state = world(), session()
    found = analyse(b"SELECT id FROM v18", state, catalog)
    assert not found.analysis.unknown
    assert "shop.orders" in found.analysis.reads
    assert sum(isinstance(key, tuple) and key[:2] == ("statements", "view") for key in catalog.memo()) == 19


@pytest.mark.slow
def test_a_text_has_so_many_tokens_and_no_more() -> None:
    piece = "SELECT " + ",".join(["1"] * 9999) + ";"  # 20,000 tokens
    fits = MAX_TOKENS_OF_TEXT // 20_000
    state = session()
    assert not analyse((piece * fits).encode(), state, world()).analysis.unknown
    found = analyse((piece * (fits + 1)).encode(), state, world())
    assert found.analysis.unknown
    assert len(found.statements) == 1  # nothing of it is let pass


def test_what_is_executed_counts_until_it_is_known() -> None:
    state, catalog = session(), world()
    for statement in analyse(b"PREPARE s FROM 'SELECT " + b",".join([b"1"] * 25_000) + b"'", state, catalog).statements:
        state.applied(statement)
    found = analyse(b"EXECUTE s;" * 50, state, catalog)
    assert not found.analysis.unknown
    assert len(found.statements) == 50
    assert sum(statement.tokens for statement in found.statements) < MAX_TOKENS_OF_TEXT
