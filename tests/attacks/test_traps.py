"""Random queries over a database full of traps: what the analysis calls harmless must fire none of them.

Every function, cast, operator, domain, view, aggregate and row policy here writes to a log when it runs. The queries
are made of the same few names in every position, so that aliases, columns, functions and types collide.
Attack rows 11 and 12.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from protocols.postgres.catalog import Catalog
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.postgres import PostgresServer
from tests.support.statements import HARMLESS, load

TRAP = "LANGUAGE plpgsql AS 'begin perform public.fire(); return {}; end'"
SETUP = f"""
CREATE TABLE trap_log(t int);
CREATE FUNCTION fire() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
  'begin insert into public.trap_log values (1); end';
CREATE TYPE evil AS ENUM ('x', 'y'); CREATE TYPE pair AS (a int, b text);
CREATE FUNCTION chk(int) RETURNS bool {TRAP.format("true")};
CREATE DOMAIN edom AS int CHECK (chk(VALUE)); CREATE DOMAIN okdom AS int CHECK (VALUE > -1000000);
CREATE TYPE cdom AS (d edom, n int);
CREATE TABLE users(id int, name text, email varchar, salary int, p pair, tags text[], j jsonb);
INSERT INTO users SELECT g, 'n', 'e', g, ROW(g, 'b')::pair, '{{a}}', '{{"a": 1, "d": 5}}' FROM generate_series(1, 3) g;
CREATE TABLE orders(id int, user_id int, shout text, purge_row int); INSERT INTO orders VALUES (1, 1, 's', 1);
CREATE TABLE lower(id int, upper text); INSERT INTO lower VALUES (1, 'u');
CREATE TABLE evs(e evil, ea evil[]); INSERT INTO evs VALUES ('x', '{{x,y}}');
CREATE TABLE doms(id int, d edom); INSERT INTO doms VALUES (1, 2);
CREATE SCHEMA other; CREATE TABLE other.users(id int, zap text); INSERT INTO other.users VALUES (1, 'z');
CREATE FUNCTION purge_row(users) RETURNS int {TRAP.format("1")};
CREATE FUNCTION zap(users) RETURNS int {TRAP.format("1")};
CREATE FUNCTION zap(int) RETURNS int {TRAP.format("1")};
CREATE FUNCTION shout(anyelement) RETURNS text {TRAP.format("1")};
CREATE FUNCTION lower(varchar) RETURNS text {TRAP.format("$1")};
CREATE FUNCTION length(int) RETURNS int {TRAP.format("1")};
CREATE FUNCTION imm(int) RETURNS int IMMUTABLE {TRAP.format("1")};
CREATE FUNCTION other.abs(int) RETURNS int {TRAP.format("1")};
CREATE FUNCTION etext(evil) RETURNS text {TRAP.format("''x''")};
CREATE CAST (evil AS text) WITH FUNCTION etext(evil) AS IMPLICIT;
CREATE FUNCTION ejson(evil) RETURNS json {TRAP.format("''1''")}; CREATE CAST (evil AS json) WITH FUNCTION ejson(evil);
CREATE FUNCTION opvv(varchar, varchar) RETURNS bool {TRAP.format("true")};
CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = opvv);
CREATE FUNCTION opti(text, int) RETURNS bool {TRAP.format("true")};
CREATE OPERATOR < (LEFTARG = text, RIGHTARG = int, FUNCTION = opti);
CREATE OPERATOR <~> (LEFTARG = text, RIGHTARG = int, FUNCTION = opti);
CREATE FUNCTION opneg(text) RETURNS int {TRAP.format("1")}; CREATE OPERATOR - (RIGHTARG = text, FUNCTION = opneg);
CREATE FUNCTION sf(int, int) RETURNS int {TRAP.format("1")}; CREATE AGGREGATE agg(int) (SFUNC = sf, STYPE = int);
CREATE TABLE arrs(id int, ds edom[], r int4range); INSERT INTO arrs VALUES (1, '{{2}}', '[1,5)');
CREATE TYPE ordered AS (n int); CREATE FUNCTION olt(ordered, ordered) RETURNS bool {TRAP.format("false")};
CREATE FUNCTION ocmp(ordered, ordered) RETURNS int {TRAP.format("0")};
CREATE OPERATOR <! (LEFTARG = ordered, RIGHTARG = ordered, FUNCTION = olt);
CREATE OPERATOR =! (LEFTARG = ordered, RIGHTARG = ordered, FUNCTION = olt);
CREATE OPERATOR CLASS ordered_ops DEFAULT FOR TYPE ordered USING btree AS
  OPERATOR 1 <!, OPERATOR 3 =!, FUNCTION 1 ocmp(ordered, ordered);
CREATE TABLE sorts(id int, o ordered); INSERT INTO sorts VALUES (1, ROW(1)::ordered), (2, ROW(2)::ordered);
CREATE FUNCTION i2d(int) RETURNS date {TRAP.format("now()")}; CREATE CAST (int AS date) WITH FUNCTION i2d(int);
CREATE VIEW v_ok AS SELECT id, name, salary FROM users;
CREATE VIEW v_trap AS SELECT zap(1) AS n, id FROM users; CREATE VIEW v_deep AS SELECT n FROM v_trap WHERE id > 1;
CREATE VIEW v_dom AS SELECT salary::edom AS d FROM users;
CREATE VIEW v_op AS SELECT email = 'x'::varchar AS t FROM users;
CREATE TABLE rls(id int); INSERT INTO rls VALUES (1); ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls USING (imm(id) = 1);
CREATE SEQUENCE s1;
TRUNCATE trap_log;
CREATE ROLE trapped; GRANT ALL ON ALL TABLES IN SCHEMA public, other TO trapped;
GRANT ALL ON SCHEMA public, other TO trapped;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO trapped;
"""
TABLES: dict[str, list[str]] = {
    "users": ["id", "name", "email", "salary", "p", "tags", "j"], "orders": ["id", "user_id", "shout", "purge_row"],
    "lower": ["id", "upper"], "evs": ["e", "ea"], "doms": ["id", "d"], "other.users": ["id", "zap"],
    "v_ok": ["id", "name", "salary"], "v_trap": ["n", "id"], "v_deep": ["n"], "v_dom": ["d"], "v_op": ["t"],
    "arrs": ["id", "ds", "r"], "sorts": ["id", "o"], "rls": ["id"], "s1": ["last_value"],
    "pg_class": ["oid", "relname"],
}  # fmt: skip
USUAL = ["users", "users", "users", "orders", "lower", "v_ok", "doms"]
ALIASES = ["u", "o", "users", "orders", "lower", "x", "zap", "purge_row"]
FUNCTIONS = [
    "lower", "upper", "length", "abs", "zap", "purge_row", "shout", "imm", "agg", "count", "max", "name", "text",
    "concat", "array_append", "array_position", "array_cat", "range_merge", "greatest", "date",
    "to_jsonb", "row_to_json", "array_agg", "nextval", "now", "jsonb_populate_record", "unnest", "int4", "edom",
    "evil",
    "okdom", "pair", "other.abs", "pg_catalog.lower", "public.lower", "enum_first", "quote_literal", "md5",
]  # fmt: skip
TYPES = ["ordered", "date", "edom[]", "int", "text", "varchar", "evil", "edom", "okdom", "pair", "cdom", "users",
         "evil[]", "jsonb", "pg_catalog.text", "other.users"]  # fmt: skip
OPERATORS = ["+", "-", "=", "<", ">", "||", "<~>", "<>", "LIKE", "IS DISTINCT FROM", "OPERATOR(public.=)",
             "OPERATOR(pg_catalog.=)", "AND", "->>"]  # fmt: skip
LITERALS = ["'{2}'", "'[1,2)'", "'(1)'", "1", "2", "'x'", "'1'", "'(1,2)'", "'{x,y}'", "NULL", "'x'::varchar", "true",
            '\'{"a":1,"d":5}\'', "'s1'"]  # fmt: skip


class Queries:
    """Random queries; those in scope are named more often than not, so that many of them run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scope: list[tuple[str, list[str]]] = []

    def pick(self, items: list[str]) -> str:
        return self.random.choice(items)

    def column(self) -> str:
        alias, columns = self.random.choice(self.scope) if self.scope else ("users", ["id"])
        name = self.pick(columns) if columns and self.random.random() < 0.9 else self.pick(FUNCTIONS[:8])
        return self.pick([name, f"{alias}.{name}", f"({alias}).{name}", f"{alias}.{name}"])

    def expression(self, depth: int) -> str:
        if depth <= 0:
            return self.pick([self.pick(LITERALS), self.pick(LITERALS), self.column(), self.column()])
        a, b = self.expression(depth - 1), self.expression(depth - 1)
        arguments = ", ".join(self.expression(depth - 1) for _ in range(self.random.choice([0, 1, 1, 1, 2])))
        forms = [
            f"{self.pick(FUNCTIONS)}({arguments})", f"{self.pick(FUNCTIONS)}({arguments})",
            f"({a} {self.pick(OPERATORS)} {b})", f"({a} {self.pick(OPERATORS)} {b})", f"({a})::{self.pick(TYPES)}",
            f"({a}).{self.pick(FUNCTIONS[:8])}", f"CASE {a} WHEN {b} THEN 1 END", f"({a} IN ({b}, 1))",
            f"ARRAY[{a}, {b}]", f"ROW({a}, {b})", f"nullif({a}, {b})", f"(- {a})", f"({a} BETWEEN {b} AND 3)",
            f"{self.pick(TYPES[:10])} {self.pick(LITERALS[5:9])}", f"count(*) FILTER (WHERE {a} IS NULL)",
            self.column(),
        ]  # fmt: skip
        return self.pick(forms) if self.random.random() < 0.93 else f"({self.select(depth - 1)})"

    def source(self, depth: int) -> str:
        if self.random.random() < 0.12:
            inner = self.select(depth - 1)
            alias = self.pick(ALIASES)
            self.scope.append((alias, []))
            return f"({inner}) {alias}"
        table = self.pick(USUAL if self.random.random() < 0.7 else list(TABLES))
        alias = self.pick(["", self.pick(ALIASES)])
        self.scope.append((alias or table.rpartition(".")[2], TABLES[table]))
        return f"{table} {alias}"

    def select(self, depth: int) -> str:
        before = len(self.scope)
        text = self.source(depth)
        join = self.random.random()
        if join < 0.15:
            text += f" JOIN {self.source(depth)} USING (id)"
        elif join < 0.25:
            text += f" NATURAL JOIN {self.source(depth)}"
        elif join < 0.4:
            text += f", {self.source(depth)}"
        items = ", ".join(self.pick([self.expression(depth), "*"]) for _ in range(self.random.choice([1, 2])))
        text = f"SELECT {items} FROM {text}"
        if self.random.random() < 0.3:
            text += f" WHERE {self.expression(depth)} IS NOT NULL"
        if self.random.random() < 0.2:
            text += f" ORDER BY {self.expression(depth - 1)}"
        del self.scope[before:]
        return text

    def statement(self) -> str:
        query = self.select(self.random.choice([1, 1, 2]))
        shape = self.random.random()
        if shape < 0.1:
            return f"WITH {self.pick(ALIASES)} AS ({self.select(1)}) {query}"
        if shape < 0.15:
            return f"EXPLAIN {query}"
        return query


@pytest.fixture(scope="module")
def connection(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with server.connect() as admin:
        admin.autocommit = True
        admin.execute("DROP DATABASE IF EXISTS traps")
        admin.execute("CREATE DATABASE traps")
        with server.connect(database="traps") as conn:
            conn.autocommit = True
            conn.execute(SETUP.encode())
            yield conn
        admin.execute("DROP DATABASE traps WITH (FORCE)")
        admin.execute("DROP ROLE trapped")


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return load(connection)


def fires(connection: psycopg.Connection[Any], query: str) -> tuple[bool, bool]:
    """(whether the server ran it, whether a trap wrote or a transaction id was taken)."""
    pg = connection.pgconn
    pg.exec_(b"BEGIN; SET LOCAL ROLE trapped")
    try:
        if pg.exec_(query.encode()).status != pq.ExecStatus.TUPLES_OK:
            return False, False
        pg.exec_(b"RESET ROLE")
        logged = pg.exec_(b"SELECT (SELECT count(*) FROM trap_log) > 0 OR pg_current_xact_id_if_assigned() IS NOT NULL")
        return True, logged.get_value(0, 0) == b"t"
    finally:
        pg.exec_(b"ROLLBACK")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_passes_fires_a_trap(seed: int, connection: psycopg.Connection[Any], catalog: Catalog) -> None:
    queries = Queries(seed)
    passed = fired = 0
    for _ in range(1500):
        query = queries.statement()
        harmless = analyse(query.encode(), SessionState(), catalog).analysis.effects <= HARMLESS
        if not harmless and queries.random.random() < 0.9:
            continue
        ran, trapped = fires(connection, query)
        assert not (harmless and trapped), query
        passed += harmless and ran
        fired += trapped
    assert passed > 20  # the test would prove nothing if all queries failed, or if no trap worked
    assert fired > 2
