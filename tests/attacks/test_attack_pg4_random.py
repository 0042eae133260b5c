"""Random statements of the grammar's far corners, on two databases that differ in their secrets only.

As `test_masking_random`, with what is not there: MERGE and other writes that return rows, XMLTABLE and JSON_TABLE,
grouping sets, frames, ordered-set aggregates, merged joins under aliases, SEARCH and CYCLE, composites and slices,
functions with column definitions, attribute notation. Attack row 22.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from guard.mask import Masker
from protocols.contract import Effect, MaskRule
from protocols.postgres.catalog import Catalog
from protocols.postgres.results import shape
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.postgres import PostgresServer
from tests.attacks.test_masking_random import NAMES, Queries, described
from tests.support.statements import load

SECRET = {"public.users.ssn", "public.users.p", "public.cards.pan"}
MASKER = Masker((MaskRule("r", tuple(SECRET), (), "redact", {}),), b"k" * 32)
SCHEMA = """
CREATE TYPE pair AS (a text, b text);
CREATE TABLE users(id int PRIMARY KEY, name text, ssn text, n int, p pair, tags text[]);
CREATE TABLE cards(id int, pan text, name text);
CREATE TABLE plain(id int PRIMARY KEY, name text, q int, tags text[]);
CREATE VIEW v_row AS SELECT id, users AS u, ssn AS name FROM users;
CREATE VIEW v_sets AS SELECT name, max(ssn) AS q, count(*) AS id FROM users GROUP BY GROUPING SETS ((name), ());
CREATE VIEW v_ok AS SELECT id, upper(name) AS name, n + 1 AS q FROM users;
CREATE VIEW v_window AS SELECT id, rank() OVER (ORDER BY ssn) AS q, lag(name) OVER w AS name FROM users
  WINDOW w AS (ORDER BY n);
INSERT INTO plain VALUES (1, 'p', 5, '{{a,b}}'), (2, 'q', 6, '{{c}}'), (3, 'r', 7, NULL);
INSERT INTO users VALUES (1, 'Ann', '{0}', 10, ROW('a1', '{0}')::pair, '{{t1,t2}}'),
  (2, 'Bob', '{1}', 20, ROW('b1', '{1}')::pair, '{{t3}}'), (3, 'Cy', NULL, 30, NULL, NULL);
INSERT INTO cards VALUES (1, '{2}', 'x'), (2, '{3}', 'y');
"""
DATA = {"one": ("alpha", "bravo", "4111", "4222"), "two": ("zulu", "yankee", "5111", "5333")}
TABLES = {
    "users": ["id", "name", "ssn", "n", "p", "tags"], "cards": ["id", "pan", "name"],
    "plain": ["id", "name", "q", "tags"], "v_row": ["id", "u", "name"], "v_sets": ["name", "q", "id"],
    "v_ok": ["id", "name", "q"], "v_window": ["id", "q", "name"],
}  # fmt: skip
ALIASES = ["u", "c", "users", "name", "ssn", "x", "q", "plain"]
FRAMES = ["", " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW", " GROUPS 1 PRECEDING EXCLUDE CURRENT ROW"]


class Corners(Queries):
    """Statements of few names in unusual places."""

    def __init__(self, seed: int, major: int) -> None:
        super().__init__(seed)
        self.major = major
        self.windows: list[str] = []

    def of(self, *texts: str) -> str:
        return self.random.choice(texts)

    def made(self, *ways: Callable[[], str]) -> str:
        return self.random.choice(ways)()

    def text(self, depth: int) -> str:
        return f"({self.value(depth)})::text"

    def window(self) -> str:
        first = f"PARTITION BY {self.text(0)} " if self.chance(0.4) else ""
        window = f"({first}ORDER BY {self.text(0)}{self.random.choice(FRAMES)})"
        if self.chance(0.5):
            return window
        self.windows.append(window)
        return f"w{len(self.windows)}"

    def value(self, depth: int) -> str:
        if depth <= 0:
            return self.of("1", "'k'", "NULL::text", self.column(), self.column(), self.column())
        a, b = self.text(depth - 1), self.text(depth - 1)
        row = self.random.choice(self.scope)[0] if self.scope else "1"
        name = self.random.choice(NAMES)
        found = [
            f"ROW({a}, {b}) < ROW('m', 'n')", f"({a}, {b}) = ANY (SELECT 'x', 'y')", f"ROW({row}.*)::text",
            f"(ROW({a}, {b})::pair).{self.of('a', 'b')}", f"(ARRAY[{a}, {b}, 'm'])[{self.of('1', '2:3', ':')}]::text",
            f"(ARRAY[{a}, {b}, 'm'])[length({self.text(0)}) % 3 + 1]", f"({row}.p).{self.of('a', 'b')}",
            f"to_jsonb({row}) ->> '{name}'", f"({a}).upper", f"({row}.{name}).text", f"({a}).length",
            f"overlay({a} placing {b} from 1 for 1)", f"{a} LIKE {b} || '%'", f"{a} BETWEEN SYMMETRIC {b} AND 'm'",
            f"(SELECT k FROM jsonb_each_text(to_jsonb({row})) e(k, v) ORDER BY v LIMIT 1)", f"num_nulls({a}, {b})",
            f"CASE {a} WHEN {b} THEN {a} ELSE 'z' END", f"concat({a}, {b})", f"{row}::text",
        ]  # fmt: skip
        if self.major >= 17:
            found += [
                f"JSON_VALUE(jsonb_build_object('b', 1), '$.a' DEFAULT {a} ON EMPTY)",
                f"JSON_QUERY(to_jsonb({row}), '$.{name}')::text",
                f"JSON_EXISTS(jsonb_build_object('a', {a}), '$.a ? (@ == $x)' PASSING {b} AS x)",
            ]
        if self.chance(0.25):
            return self.made(
                lambda: f"string_agg({a}, ',') OVER {self.window()}",
                lambda: f"row_number() OVER {self.window()}",
                lambda: f"nth_value({a}, 2) OVER {self.window()}",
            )
        return self.random.choice(found)

    def source(self, depth: int) -> str:
        alias = self.random.choice(ALIASES)
        if depth > 0 and self.chance(0.2):
            text, columns = self.apart(depth - 1)
            self.scope.append((alias, columns))
            return f"({text}) {alias}"
        if self.scope and self.chance(0.35):
            a, b, row = self.text(0), self.text(0), self.random.choice(self.scope)[0]
            items = [
                (f"unnest(ARRAY[{a}, {b}]) WITH ORDINALITY {alias}(x, q)", ["x", "q"]),
                (f"ROWS FROM (unnest(ARRAY[{a}]), generate_series(1, 2)) {alias}(x, n)", ["x", "n"]),
                (f"json_to_record(json_build_object('x', {a})) AS {alias}(x text, ssn text)", ["x", "ssn"]),
                (f"ROWS FROM (json_to_record(json_build_object('a', {a})) AS (a text)) AS {alias}(b)", ["b"]),
                (f"(VALUES ({a}, 1), ('v', 2)) {alias}(x, q)", ["x", "q"]),
                (f"jsonb_populate_record(NULL::plain, jsonb_build_object('name', {a})) {alias}", TABLES["plain"]),
            ]
            if self.major < 17:  # the wheel's server, which is newer, is built without libxml
                cells = f"xmlelement(name i, xmlattributes({a} as k), {b})"
                shown = f"x text PATH '@k', name text PATH '.', q text PATH 'no' DEFAULT {a}"
                table = f"XMLTABLE('/r/i' PASSING xmlelement(name r, {cells}) COLUMNS {shown}) {alias}"
                items.append((table, ["x", "name", "q"]))
            else:
                shown = f"n FOR ORDINALITY, x text PATH '$', q text PATH '$.z' DEFAULT {a} ON EMPTY"
                items += [
                    (f"JSON_TABLE(jsonb_build_array({a}, {b}), '$[*]' COLUMNS ({shown})) {alias}", ["n", "x", "q"]),
                    (f"JSON_TABLE(to_jsonb({row}), '$' COLUMNS (ssn text, NESTED PATH '$.tags[*]' COLUMNS (k text"
                     f" PATH '$'))) {alias}", ["ssn", "k"]),
                ]  # fmt: skip
            text, names = self.random.choice(items)
            self.scope.append((alias, names))
            return text
        table = self.random.choice(list(TABLES))
        renamed = self.random.sample(NAMES, self.random.randint(0, 2)) if self.chance(0.4) else []
        self.scope.append((alias, [*renamed, *TABLES[table][len(renamed) :]]))
        sample = " TABLESAMPLE BERNOULLI (100)" if self.chance(0.1) and not table.startswith("v_") else ""
        return f"{table} AS {alias}{f'({", ".join(renamed)})' if renamed else ''}{sample}"

    def apart(self, depth: int) -> tuple[str, list[str]]:
        """A query that does not see what is around it."""
        around, self.scope = self.scope, []
        try:
            return self.select(depth)
        finally:
            self.scope = around

    def joined(self, depth: int) -> str:
        text = self.source(depth)
        for _ in range(self.random.choice([0, 0, 1, 1, 2])):
            item = self.source(depth)
            kind = self.random.random()
            if kind < 0.5:
                text += f" {self.of('', 'LEFT ')}JOIN {item} ON {self.of('true', f'{self.text(0)} <> {self.text(0)}')}"
            elif kind < 0.8:
                text += f" {self.of('', 'LEFT ', 'FULL ')}JOIN {item} USING (id)"
                if self.chance(0.4):
                    text += " AS ja"
                    self.scope.append(("ja", ["id"]))
            else:
                text += f", {item}"
        return text

    def select(self, depth: int, width: int = 0) -> tuple[str, list[str]]:
        before, windows, self.windows = len(self.scope), self.windows, []
        source = self.joined(depth)
        names = [self.random.choice(NAMES) for _ in range(width or self.random.choice([1, 2, 3]))]
        if self.chance(0.3):
            keys = [self.column(), self.text(0)][: self.random.randint(1, 2)]
            a, b = self.text(0), self.text(0)
            aggregates = [
                f"max({a})", "count(*)", f"string_agg(DISTINCT {a}, ',' ORDER BY {a})", f"GROUPING({keys[0]})",
                f"mode() WITHIN GROUP (ORDER BY {a})", f"rank('m') WITHIN GROUP (ORDER BY {a})",
                f"count(*) FILTER (WHERE {a} > 'm')", f"array_agg({a} ORDER BY {b})::text",
                f"jsonb_object_agg({a}, {b})::text", f"max(max({a})) OVER ()",
            ]  # fmt: skip
            items = [keys[0], *(self.random.choice(aggregates) for _ in names[1:])]
            both = ", ".join(keys)
            sets = f"GROUPING SETS (({both}), ({keys[0]}), ())"
            tail = " GROUP BY " + self.of(both, f"ROLLUP ({both})", f"CUBE ({both})", sets)
        else:
            items = [self.value(1 if depth and self.chance(0.5) else 0) for _ in names]
            if not width and self.chance(0.2):
                alias = self.random.choice(self.scope[before:])[0]
                items, names = [self.of("*", f"{alias}.*", f"({alias}).*", f"({alias}.p).*")], []
            tail = " WINDOW " + ", ".join(f"w{n} AS {w}" for n, w in enumerate(self.windows, 1)) if self.windows else ""
        shown = ", ".join(f"{i} AS {n}" for i, n in zip(items, names, strict=True)) if names else items[0]
        del self.scope[before:]
        self.windows = windows
        return f"SELECT {shown} FROM {source}{tail}", names

    def returned(self, old: bool) -> str:
        items = [self.value(self.random.choice([0, 0, 1])) for _ in range(self.random.randint(1, 3))]
        if old and self.chance(0.4):
            items.append(self.of("old.name", "new.name", "new.q", "new", "(new).name"))
        return f" RETURNING {', '.join(items)}"

    def write(self) -> str:
        """A data change of `plain` that returns rows; nothing of it stays."""
        self.scope, old = [("plain", TABLES["plain"])], self.major >= 18
        kind = self.random.random()
        if kind < 0.35:
            source = self.joined(1)
            pair = f"(SELECT {self.text(0)}, 1)"
            change = self.of(f"name = {self.text(1)}", f"(name, q) = {pair}", f"tags[1] = {self.text(0)}",
                             f"(name, q) = ROW({self.text(0)}, length({self.text(0)}))")  # fmt: skip
            return f"UPDATE plain SET {change} FROM {source} WHERE plain.id < 10{self.returned(old)}"
        if kind < 0.6:
            self.scope = []
            text = f"INSERT INTO plain(id, name) SELECT {self.of('1', '88')}, name::text FROM {self.joined(1)} LIMIT 1"
            self.scope = [("plain", TABLES["plain"])]
            text += " ON CONFLICT (id) DO UPDATE SET " + self.of("name = excluded.name", "q = length(excluded.name)")
            return text + self.returned(old)
        if kind < 0.8 or self.major < 17:
            return f"DELETE FROM plain USING {self.joined(1)} WHERE plain.id = 1{self.returned(old)}"
        source = self.source(1)
        acts = [
            f"WHEN MATCHED AND plain.id = 1 THEN UPDATE SET name = {self.text(0)}", "WHEN MATCHED THEN DELETE",
            f"WHEN NOT MATCHED THEN INSERT (id, name) VALUES (77, {self.random.choice(ALIASES)}::text)",
        ]  # fmt: skip
        text = " ".join(self.random.sample(acts, 2))
        return f"MERGE INTO plain USING {source} ON plain.id = 1 {text}{self.returned(old)}, merge_action()"

    def statement(self) -> str:
        self.scope, self.windows = [], []
        kind = self.random.random()
        if kind < 0.15:
            first, second = self.random.sample(["name", "ssn", "'k'", "p::text", "tags::text"], 2)
            order = self.of("b, a", "a || b, a", "b, b")
            extra = self.of("SEARCH DEPTH FIRST BY a SET s", "SEARCH BREADTH FIRST BY b, n SET s",
                            "CYCLE a SET s USING k", "CYCLE n SET s TO 'y' DEFAULT 'n' USING k", "")  # fmt: skip
            union = self.of("UNION ALL", "UNION")
            turns = f"SELECT {first}, {second}, 1 FROM users {union} SELECT {order}, n + 1 FROM r WHERE n < 3"
            shown = self.of("*", "count(*)", "a || '', n + 0", "s::text, n" if extra else "r::text", "max(b), n + 1")
            return f"WITH RECURSIVE r(a, b, n) AS ({turns}) {extra} SELECT {shown} FROM r" + (
                " GROUP BY n" if "max" in shown else ""
            )
        if kind < 0.35:
            return self.write()
        if kind < 0.5:
            (one, _), (other, _) = self.select(1, 2), self.select(1, 2)
            return f"({one}) {self.of('UNION ALL', 'UNION', 'INTERSECT ALL', 'EXCEPT')} ({other})"
        if kind < 0.6:
            text, _ = self.select(1)
            return f"WITH t AS {self.of('', 'MATERIALIZED ')}({text}) {self.of('TABLE t', 'SELECT t::text FROM t')}"
        return self.select(self.random.choice([1, 2]))[0]


@pytest.fixture(scope="module")
def databases(server: PostgresServer) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    with server.connect() as admin:
        found = {}
        for name, values in DATA.items():
            admin.execute(f"DROP DATABASE IF EXISTS corners_{name}".encode())
            admin.execute(f"CREATE DATABASE corners_{name}".encode())
            found[name] = server.connect(database=f"corners_{name}")
            found[name].execute(SCHEMA.format(*values).encode())
        yield found
        for name, connection in found.items():
            connection.close()
            admin.execute(f"DROP DATABASE corners_{name}".encode())


@pytest.fixture(scope="module")
def catalog(databases: dict[str, psycopg.Connection[Any]]) -> Catalog:
    return load(databases["one"])


def _all_of(column: str) -> str:
    return column.rpartition(".")[0] + ".*"


def _asked(connection: psycopg.Connection[Any], sql: str) -> pq.abc.PGresult:
    connection.pgconn.exec_(b"BEGIN")
    try:
        return connection.pgconn.exec_(sql.encode())
    finally:
        connection.pgconn.exec_(b"ROLLBACK")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_passes_unmasked_does_not_depend_on_secrets(
    seed: int, server: PostgresServer, databases: dict[str, psycopg.Connection[Any]], catalog: Catalog
) -> None:
    statements = Corners(seed, server.installation.major)
    computed = masked = written = 0
    for _ in range(1200):
        sql = statements.statement()
        command = analyse(sql.encode(), SessionState(), catalog)
        if Effect.UNKNOWN in command.analysis.effects:
            continue
        results = [_asked(connection, sql) for connection in databases.values()]
        if any(result.status != pq.ExecStatus.TUPLES_OK for result in results):
            continue
        found = shape(described(results[0]), catalog, command.analysis, True, command.statements[0].tree)
        plan = MASKER.plan(found)
        columns = range(results[0].nfields)
        clear = [i for i in columns if plan is None or plan.columns[i] is None]
        masked += len(columns) - len(clear)
        written += bool(command.analysis.writes)
        probed = SECRET & {c for p in command.analysis.predicates for c in (p, *SECRET) if c == p or p == _all_of(c)}
        assert probed or results[0].ntuples == results[1].ntuples, sql
        if probed:  # a filter on a secret decides which rows there are, and is known to
            clear = [i for i in clear if found.columns[i].depends is not None]
        computed += sum(found.columns[i].depends is not None for i in clear)
        rows = [Counter(tuple(r.get_value(n, i) for i in clear) for n in range(r.ntuples)) for r in results]
        assert not clear or rows[0] == rows[1], sql
    assert min(computed, masked, written) > 30  # or it would prove nothing
