"""Random queries on two databases that differ in their secrets only: what passes unmasked must be the same in both.

The queries are made of few names in many places (renamed columns, stars, merged joins, lateral items, recursion): what
a name means is easily mistaken. Attack row 22.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from guard.mask import Masker
from protocols.contract import MaskRule
from protocols.postgres.catalog import Catalog
from protocols.postgres.messages import FieldDescription, RowDescription
from protocols.postgres.results import shape
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.postgres import PostgresServer
from tests.support.statements import HARMLESS, load

SECRET = {"public.users.ssn", "public.cards.pan"}
MASKER = Masker((MaskRule("r", tuple(SECRET), (), "redact", {}),), b"k" * 32)
SCHEMA = """
CREATE TABLE users(id int, name text, ssn text, n int, made text GENERATED ALWAYS AS (ssn || '!') STORED);
CREATE TABLE cards(id int, pan text, name text);
CREATE TABLE plain(id int, name text, q int);
CREATE VIEW v_all AS SELECT * FROM users; CREATE VIEW v_up AS SELECT id, upper(ssn) AS name, name AS ssn FROM users;
CREATE VIEW v_join AS SELECT u.id, u.name, c.pan || '' AS q FROM users u JOIN cards c USING (id);
INSERT INTO plain VALUES (1, 'p', 5), (2, 'q', 6), (3, 'r', 7);
"""
ROWS = """
INSERT INTO users VALUES (1, 'Ann', '{0}', 10), (2, 'Bob', '{1}', 20), (3, 'Cy', NULL, 30);
INSERT INTO cards VALUES (1, '{2}', 'x'), (2, '{3}', 'y');
"""
DATA = {"one": ("alpha", "bravo", "4111", "4222"), "two": ("zulu", "yankee", "5111", "5333")}
TABLES = {
    "users": ["id", "name", "ssn", "n", "made"], "cards": ["id", "pan", "name"], "plain": ["id", "name", "q"],
    "v_all": ["id", "name", "ssn", "n", "made"], "v_up": ["id", "name", "ssn"], "v_join": ["id", "name", "q"],
}  # fmt: skip
ALIASES = ["u", "c", "users", "name", "ssn", "x", "q", "text", "ctid", "oid"]
NAMES = ["id", "name", "ssn", "pan", "n", "q", "x", "text", "a", "b", "ctid", "oid"]


class Queries:
    """Random queries; `scope` holds (alias, columns) of what may be named."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scope: list[tuple[str, list[str]]] = []

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def column(self) -> str:
        if not self.scope or self.chance(0.04):
            return self.random.choice(NAMES)
        alias, columns = self.random.choice(self.scope)
        name = self.random.choice(columns) if columns else self.random.choice(NAMES)
        return self.random.choice([name, f"{alias}.{name}", f"{alias}.{name}", f"({alias}).{name}"])

    def value(self, depth: int) -> str:
        if depth <= 0:
            return self.random.choice(["1", "'k'", "NULL::text", self.column(), self.column(), self.column()])
        a, b = self.value(depth - 1), self.value(depth - 1)
        row = self.random.choice(self.scope)[0] if self.scope else "1"
        return self.random.choice([
            f"concat({a}, {b})", f"upper(({a})::text)", f"length(({a})::text)", f"coalesce(({a})::text, ({b})::text)",
            f"CASE WHEN ({a})::text > 'c' THEN ({b})::text END", f"greatest(({a})::text)::text",
            f"to_json({row})::text", f"row_to_json({row})::text", f"({row})::text", f"ROW({a}, {b})::text",
            f"(ARRAY[({a})::text])[1]",
            f"max(({a})::text) OVER (ORDER BY ({b})::text)",
            f"count(*) OVER (ROWS coalesce(length(({self.select(0, 1)[0]} LIMIT 1)::text), 0) PRECEDING) + 0",
            f"count(({a})::text) FILTER (WHERE ({b})::text > 'c') OVER ()",
            f"(SELECT {a})", f"(SELECT {a})::text", f"({self.select(depth - 1, 1)[0]} LIMIT 1)::text",
            f"EXISTS (SELECT 1 FROM users z WHERE z.ssn > ({a})::text)", f"nullif(({a})::text, ({b})::text)",
            f"ARRAY({self.select(depth - 1, 1)[0]})::text", f"({a}) IS NULL", f"({a})::text COLLATE \"C\"",
        ])  # fmt: skip

    def renamed(self, columns: list[str]) -> tuple[str, list[str]]:
        alias = self.random.choice(ALIASES)
        if not self.chance(0.4):
            return alias, columns
        count = self.random.randint(1, max(1, min(len(columns), len(NAMES))))
        names = self.random.sample(NAMES, count)
        return f"{alias}({', '.join(names)})", names + columns[count:]

    def source(self, depth: int) -> str:
        kind = self.random.random()
        if depth > 0 and kind < 0.35:
            lateral = self.chance(0.4)
            outside = self.scope
            if not lateral:
                self.scope = []
            text, columns = self.select(depth - 1)
            self.scope = outside
            alias, columns = self.renamed(columns)
            self.scope.append((alias.partition("(")[0], columns))
            return f"{'LATERAL ' if lateral else ''}({text}) {alias}"
        if self.scope and kind < 0.45:
            alias = self.random.choice(ALIASES)
            text = f"unnest(ARRAY[({self.column()})::text]) {alias}"
            self.scope.append((alias, [alias]))
            return text
        table = self.random.choice(list(TABLES))
        alias, columns = self.renamed(TABLES[table]) if self.chance(0.7) else (table, TABLES[table])
        self.scope.append((alias.partition("(")[0], columns))
        return f"{table} {alias}" if alias != table else table

    def select(self, depth: int, width: int = 0) -> tuple[str, list[str]]:
        """A query and the names of its columns, as far as they are known here."""
        before = len(self.scope)
        text = self.source(depth)
        for _ in range(self.random.choice([0, 0, 1, 1, 2])):
            join = self.random.random()
            item = self.source(depth)
            if join < 0.55 and self.scope:
                condition = f"({self.column()})::text <> ({self.column()})::text"
                text += f" {self.random.choice(['', 'LEFT '])}JOIN {item} ON {condition}"
                continue
            text += f" JOIN {item} USING (id)" if join < 0.7 else f" NATURAL JOIN {item}" if join < 0.8 else f", {item}"
        if self.chance(0.2) and "LATERAL" not in text and "," not in text and "JOIN" in text:
            names = self.random.sample(NAMES, self.random.randint(0, 4))
            text = f"({text}) AS j" + (f"({', '.join(names)})" if names else "")
            del self.scope[before:]
            self.scope.append(("j", names))
        items, names = [], []
        for number in range(width or self.random.choice([1, 2, 2, 3])):
            if not width and self.chance(0.2):
                alias, columns = self.random.choice(self.scope[before:] or [("users", [])])
                items.append(self.random.choice(["*", f"{alias}.*"]))
                names += columns
                continue
            name = self.random.choice(NAMES)
            value = self.value(self.random.choice([0, 0, 1]) if depth else 0)
            items.append(f"{value} AS {name}" if self.chance(0.6) else value)
            names.append(
                name if " AS " in items[-1] else value.rpartition(".")[2] if value.isidentifier() else f"c{number}"
            )
        text = f"SELECT {', '.join(items)} FROM {text}"
        if self.chance(0.15):
            text += f" WHERE ({self.column()})::text IS NOT NULL"
        del self.scope[before:]
        return text, names

    def statement(self) -> str:
        self.scope = []
        kind = self.random.random()
        if kind < 0.15:
            name = self.random.choice([*ALIASES, "plain"])
            text, columns = self.select(1)
            TABLES[name], before = columns, TABLES.get(name)
            body = self.select(1)[0]
            if before is None:
                del TABLES[name]
            else:
                TABLES[name] = before
            return f"WITH {self.random.choice(['', 'RECURSIVE '])}{name} AS ({text}) {body}"
        if kind < 0.25:
            first, second, third = self.random.sample(["name", "ssn", "'k'"], 3)
            order = self.random.choice(["b, c, a", "c, a, b", "a, c, b", "a || c, b, a"])
            return (
                f"WITH RECURSIVE r(a, b, c, d) AS (SELECT {first}, {second}, {third}, 1 FROM users UNION ALL"
                f" SELECT {order}, d + 1 FROM r WHERE d < 3) SELECT a || '', concat(b), c || '', d + 0 FROM r"
            )
        text, _ = self.select(self.random.choice([1, 2, 2]))
        if kind < 0.35:
            other, _ = self.select(1)
            kind_of = self.random.choice(["UNION ALL", "UNION", "INTERSECT ALL", "EXCEPT ALL", "EXCEPT"])
            if self.chance(0.3):
                both = f"SELECT id, name FROM plain {kind_of} SELECT id, ssn FROM users"
                return f"SELECT concat(a), b FROM ({both}) t(b, a)"
            return f"{text} {kind_of} {other}"
        return text


@pytest.fixture(scope="module")
def databases(server: PostgresServer) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    with server.connect() as admin:
        found = {}
        for name, values in DATA.items():
            admin.execute(f"DROP DATABASE IF EXISTS masked_{name}".encode())
            admin.execute(f"CREATE DATABASE masked_{name}".encode())
            found[name] = server.connect(database=f"masked_{name}")
            found[name].execute((SCHEMA + ROWS.format(*values)).encode())
        yield found
        for name, connection in found.items():
            connection.close()
            admin.execute(f"DROP DATABASE masked_{name}".encode())


@pytest.fixture(scope="module")
def catalog(databases: dict[str, psycopg.Connection[Any]]) -> Catalog:
    return load(databases["one"])


def described(result: pq.abc.PGresult) -> RowDescription:
    return RowDescription(
        tuple(
            FieldDescription(result.fname(i) or b"", result.ftable(i), result.ftablecol(i), result.ftype(i), -1, -1, 0)
            for i in range(result.nfields)
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_passes_unmasked_does_not_depend_on_secrets(
    seed: int, databases: dict[str, psycopg.Connection[Any]], catalog: Catalog
) -> None:
    queries = Queries(seed)
    computed = masked = 0
    for _ in range(800):
        query = queries.statement()
        analysis = analyse(query.encode(), SessionState(), catalog).analysis
        if not analysis.effects <= HARMLESS:
            continue
        results = [connection.pgconn.exec_(query.encode()) for connection in databases.values()]
        if any(result.status != pq.ExecStatus.TUPLES_OK for result in results):
            continue
        found = shape(described(results[0]), catalog, analysis)
        plan = MASKER.plan(found)
        columns = range(results[0].nfields)
        clear = [i for i in columns if plan is None or plan.columns[i] is None]
        masked += len(columns) - len(clear)
        # a filter on a secret decides which rows there are: that is a probe, and known to be one
        if SECRET & set(analysis.predicates) or results[0].ntuples != results[1].ntuples:
            clear = [i for i in clear if found.columns[i].depends is not None]
        computed += sum(found.columns[i].depends is not None for i in clear)
        rows = [Counter(tuple(r.get_value(n, i) for i in clear) for n in range(r.ntuples)) for r in results]
        assert rows[0] == rows[1], query
    assert computed > 100  # the test would prove nothing if all computed columns were masked, or none
    assert masked > 100
