"""Masked values by ways that no select list shows: calls without parentheses, what EXPLAIN and the server's memory tell
of sizes, names that the gateway would take for something else than the server does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from protocols.contract import ANYWHERE, Analysis, Effect
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.lab import Lab
from scripts.support.postgres import Installation
from tests.support.adversary import errors, leaks, session
from tests.support.talk import ORDERS, catalog
from tests.support.told import SECRET, ran, shown


def after(*messages: str) -> tuple[Analysis, SessionState]:
    """The analysis of the last one, where those before it have run; and the session after all of them."""
    state = SessionState()
    state.startup({"user": "app", "database": "db", "client_encoding": "UTF8"})
    for text in messages:
        state.ready("T" if state.in_block else "I")
        command = analyse(text.encode(), state, catalog())
        for one in command.statements:
            state.applied(one)
    return command.analysis, state


def looked_at(text: str) -> Analysis:
    return after(text)[0]


# ---------------------------------------------------------------- `expression.function`, a call without parentheses


@pytest.mark.parametrize(
    "text",
    [
        # seeded with a character, random() tells it
        "SELECT (ascii(ssn) / 256.0::float8).setseed FROM users",
        "SELECT (ascii(ssn) - 45).lo_close FROM users",
        "SELECT ((ascii(ssn) - 45).int4).lo_close FROM users",
        "SELECT CASE WHEN ssn LIKE '9%' THEN (3).lo_close END FROM users",
        "SELECT id FROM users ORDER BY (ascii(ssn) / 256.0::float8).setseed",
    ],
)
def test_a_call_in_attribute_notation_leaves_nothing_of_a_row_in_the_session(text: str) -> None:
    assert looked_at(text).unknown


def test_what_the_client_says_itself_may_be_left_there_in_that_notation() -> None:
    assert not looked_at("SELECT (0.5::float8).setseed").unknown


def test_a_large_object_that_is_read_in_attribute_notation_is_read() -> None:
    assert looked_at("SELECT (4242::oid).lo_get").reads == ("pg_catalog.pg_largeobject",)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT (array_fill(1, ARRAY[ascii(ssn)])).unnest FROM users",
        "SELECT id, (string_to_array(ssn, '-')).unnest FROM users",
        "SELECT information_schema._pg_expandarray(array_fill(1, ARRAY[ascii(ssn)])) FROM users",
        "SELECT pg_options_to_table(array_fill('a=b'::text, ARRAY[ascii(ssn)])) FROM users",
    ],
)
def test_how_many_rows_are_made_of_a_column_is_a_probe_of_it(text: str) -> None:
    assert "public.users.ssn" in looked_at(text).predicates


@pytest.mark.parametrize(
    "text",
    [
        # the number of a large object, a lock or a sequence is read by anybody
        "SELECT (replace(ssn, '-', '')::oid).lo_create FROM users",
        "SELECT (replace(ssn, '-', '')::bigint).pg_advisory_lock FROM users",
        "SELECT (((replace(ssn, '-', '')::oid).lo_create)::text).length FROM users",
        "SELECT ssn.pg_create_restore_point FROM users ssn",
    ],
)
def test_what_a_call_in_attribute_notation_is_given_is_stored(text: str) -> None:
    stores = looked_at(text).stores
    assert any(s.target == ANYWHERE and {"public.users.ssn", "public.users.*"} & set(s.sources) for s in stores)


def test_what_is_stored_of_a_constant_in_that_notation_is_nothing() -> None:
    assert looked_at("SELECT (7::oid).lo_create FROM users").stores == ()


def test_a_nest_of_such_calls_costs_no_more_than_its_depth() -> None:
    """Were what each is given walked twice, this would never end."""
    stores = looked_at("SELECT " + "(" * 300 + "ssn" + ").lo_unlink" * 300 + " FROM users").stores
    assert all("public.users.ssn" in store.sources for store in stores)
    assert stores


@pytest.mark.parametrize(
    "text",
    [
        "SELECT CASE WHEN ssn LIKE '9%' THEN nextval('s') END FROM users",
        "SELECT CASE WHEN ssn LIKE '9%' THEN pg_advisory_lock(1) END FROM users",
        "SELECT CASE WHEN ssn LIKE '9%' THEN lo_create(0) END FROM users",
    ],
)
def test_whether_something_that_lasts_was_done_is_a_probe(text: str) -> None:
    assert "public.users.ssn" in looked_at(text).predicates


def test_a_number_beside_a_column_is_no_probe_of_it() -> None:
    assert looked_at("SELECT nextval('s'), ssn FROM users").predicates == ()


# ---------------------------------------------------------------- what the server tells of sizes, counts and patterns


@pytest.mark.parametrize(
    "text",
    [
        # since PostgreSQL 16 the `ident` of a context is the pattern that was compiled: `'x' ~ ssn` puts values there
        "SELECT ident FROM pg_backend_memory_contexts",
        "SELECT * FROM pg_catalog.pg_backend_memory_contexts",
        "SELECT m FROM pg_backend_memory_contexts m",
        "SELECT (pg_get_backend_memory_contexts()).ident",
        # what a cursor WITH HOLD keeps of `repeat('x', ascii(ssn) * 1000)` can be told by its size
        "SELECT sum(used_bytes) FROM pg_backend_memory_contexts WHERE name = 'PortalHoldContext'",
    ],
)
def test_what_is_in_the_servers_memory_is_secret(text: str) -> None:
    assert Effect.SECRET_READ in looked_at(text).effects


def test_which_contexts_there_are_is_not() -> None:
    assert looked_at("SELECT name, level FROM pg_backend_memory_contexts").effects == {Effect.DATA_SELECT}


@pytest.mark.parametrize(
    "text",
    [
        "EXPLAIN (ANALYZE, SERIALIZE TEXT) SELECT repeat('x', 1024 * ascii(ssn)) FROM users",
        "EXPLAIN ANALYZE WITH m AS MATERIALIZED (SELECT repeat('x', ascii(ssn)) AS x FROM users) SELECT 1 FROM m",
        "EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT repeat('x', 1024 * ascii(ssn)) FROM users",
    ],
)
def test_an_executed_plan_tells_sizes_which_is_a_probe(text: str) -> None:
    assert "public.users.ssn" in looked_at(text).predicates


def test_a_plan_that_is_not_executed_tells_none() -> None:
    assert looked_at("EXPLAIN SELECT repeat('x', 1024 * ascii(ssn)) FROM users").predicates == ()


def test_when_a_cycle_ends_is_a_probe_of_what_comes_again() -> None:
    found = looked_at(
        "WITH RECURSIVE r(n, s) AS (SELECT 1, ssn FROM users UNION ALL SELECT n + 1, substr(s, 2) FROM r)"
        " CYCLE s SET again USING path SELECT count(*) FROM r"
    )
    assert "public.users.ssn" in found.predicates


# ---------------------------------------------------------------- cursors that are others


@pytest.mark.parametrize("options", ["ANALYZE", "(ANALYZE)", "(ANALYZE, VERBOSE)"])
def test_explaining_a_cursor_does_not_make_it(options: str) -> None:
    """EXPLAIN ANALYZE DECLARE runs the query, and the cursor of that name stays the one that it was."""
    secret = "DECLARE c CURSOR WITH HOLD FOR SELECT upper(ssn) AS a FROM users"
    talk = ran(secret, f"EXPLAIN {options} DECLARE c CURSOR WITH HOLD FOR SELECT total FROM orders")
    assert SECRET not in shown(talk, "FETCH ALL c", 0)


def test_a_cursor_that_was_only_explained_is_none() -> None:
    found, _ = after("BEGIN", "EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT total FROM orders", "FETCH c")
    assert found.unknown


# ---------------------------------------------------------------- settings that were never made, or made before

_HERE = "SELECT pg_catalog.set_config('search_path', 'evil', false)"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT concat(set_config('search_path', 'evil', false), set_config('search_path', 'public', false))",
        "SELECT upper(CASE WHEN false THEN set_config('search_path', 'evil', false) END)",
        "SELECT set_config('application_name', coalesce('x', set_config('search_path', 'evil', false)), false)",
        "SELECT set_config('search_' || 'path', 'evil', false)",
        "SELECT set_config('search_path'::text, 'evil', false)",
        "UPDATE pg_settings SET setting = 'evil' WHERE name = 'search_path'",
    ],
)
def test_a_path_that_is_set_inside_an_expression_is_not_certain(text: str) -> None:
    _, state = after(text)
    assert state.search_path(catalog()) == ((), False)


def test_a_path_that_is_set_and_nothing_else_is() -> None:
    assert after(_HERE)[1].search_path(catalog()) == (("evil",), True)


# ---------------------------------------------------------------- temporary relations that are others

FILLED = "CREATE TEMP TABLE t AS SELECT upper(ssn) AS a FROM users"
CLEAN = "CREATE TEMP TABLE s (a text)"
ONE_STATEMENT = "WITH u AS (UPDATE users SET name = name RETURNING ssn) "

# what ran before, and how the value is asked for then
WAYS: dict[str, tuple[Sequence[str], str]] = {
    "another one of another schema is renamed to it": ((FILLED, CLEAN, "ALTER TABLE public.s RENAME TO t"), "TABLE t"),
    "one that is not there is renamed to it": ((FILLED, CLEAN, "ALTER TABLE IF EXISTS nope.s RENAME TO t"), "TABLE t"),
    "one that is gone is renamed to it": ((FILLED, CLEAN, "ALTER TABLE IF EXISTS pg_temp_9.s RENAME TO t"), "TABLE t"),
    "a permanent view of its name is made": ((FILLED, "CREATE VIEW t AS SELECT 'x' AS a"), "TABLE t"),
    "filled by a statement that writes what it reads": (
        ("CREATE TEMP TABLE t (a text)", f"{ONE_STATEMENT} INSERT INTO t SELECT ssn FROM u"),
        "TABLE t",
    ),
    "made by a statement that writes what it reads": (
        (f"CREATE TEMP TABLE t AS {ONE_STATEMENT} SELECT ssn AS a FROM u",),
        "TABLE t",
    ),
    "one of another session is dropped, and a permanent one has its name": (
        ("CREATE TEMP TABLE orders AS SELECT 1 AS id, upper(ssn) AS total FROM users",
         "DROP TABLE IF EXISTS pg_temp_99.orders"),
        "SELECT total || '' AS a FROM orders",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_a_temporary_relation_holds_is_not_taken_for_anothers(way: str) -> None:
    before, asked = WAYS[way]
    assert SECRET not in shown(ran(*before), asked, 0)


ALONE = "CREATE TEMP TABLE users (id int, ssn text)"
# after these the temporary relation `users` is gone, and its name means the permanent one again
GONE: dict[str, Sequence[str]] = {
    "with cascade": (ALONE, "DROP TABLE users CASCADE"),
    "with its type": ("CREATE TYPE y AS (ssn text)", "CREATE TEMP TABLE users OF y", "DROP TYPE y CASCADE"),
    "with its parent": (
        "CREATE TEMP TABLE p (id int, ssn text)",
        "CREATE TEMP TABLE users () INHERITS (p)",
        "DROP TABLE p CASCADE",
    ),
    "with what it is a partition of": (
        "CREATE TEMP TABLE p (id int, ssn text) PARTITION BY LIST (id)",
        "CREATE TEMP TABLE users PARTITION OF p DEFAULT",
        "DROP TABLE p",
    ),
    "with a column that it showed": (
        "CREATE TEMP TABLE p (id int, ssn text)",
        "CREATE TEMP VIEW users AS SELECT id, ssn FROM p",
        "ALTER TABLE p DROP COLUMN ssn CASCADE",
    ),
    "with the column whose sequence it was": (
        "CREATE TEMP TABLE p (id int, ssn text)",
        "CREATE TEMP SEQUENCE users OWNED BY p.id",
        "ALTER TABLE p DROP COLUMN id",
    ),
    "with all of its owner's": (ALONE, "DROP OWNED BY app"),
    "with its schema": (ALONE, "DROP SCHEMA pg_temp_3 CASCADE"),
    "by code": (ALONE, "DO 'BEGIN DROP TABLE users; END'"),
}


@pytest.mark.parametrize("way", GONE)
def test_a_temporary_relation_that_is_gone_does_not_stand_before_the_permanent_one(way: str) -> None:
    assert SECRET not in shown(ran(*GONE[way]), "SELECT upper(ssn) AS a FROM users", 0)
    found, _ = after(*GONE[way], "DELETE FROM users")
    assert "public.users" in found.writes


@pytest.mark.parametrize("path", ["public, pg_temp_3", 'public, "pg_temp_3"', "pg_temp_3, public"])
def test_a_path_with_the_number_of_a_temporary_schema_is_not_certain(path: str) -> None:
    """Is it the session's own, temporary relations are found where it stands, and not before all others."""
    found, state = after(ALONE, f"SET search_path = {path}", "DELETE FROM users")
    assert found.unknown
    assert not state.search_path(catalog())[1]


def test_nor_is_a_temporary_relation_under_a_path_that_is_not_known() -> None:
    found, _ = after(ALONE, "SELECT set_config('search_path', concat('public, pg', '_temp'), false)", "TABLE users")
    assert found.unknown


def test_one_that_is_there_still_does() -> None:
    found, _ = after(ALONE, "CREATE TEMP TABLE t (a text)", "INSERT INTO t VALUES ('x')", "DELETE FROM users")
    assert found.writes == ("pg_temp.users",)


def test_a_renamed_one_that_holds_nothing_is_shown() -> None:
    assert SECRET in shown(ran(CLEAN, "ALTER TABLE s RENAME TO t"), "SELECT a FROM t")


def test_a_permanent_one_is_shown_when_the_temporary_one_of_its_name_is_dropped() -> None:
    made = "CREATE TEMP TABLE orders AS SELECT upper(ssn) AS total FROM users"
    talk = ran(made, "DROP TABLE orders")
    assert SECRET in shown(talk, "SELECT total AS a FROM orders", ORDERS)


# ---------------------------------------------------------------- the same on a real server

POLICY = """\
version: 1
name: masked-developers
description: they make what they need, under masks that name their columns exactly
rules:
  - id: developers
    description: everything that is understood
    allow: ["data.*", "ddl.*", "session.*", "admin.lock", tx, cursor, prepare, show, probe]
  - id: personal
    description: nobody reads these
    mask: {columns: [public.customers.card, public.customers.national_id, public.customers.email], strategy: redact}
"""
FIRST_CARD = "SELECT card || '' AS x FROM customers WHERE id = 1"
REAL: dict[str, Sequence[str]] = {
    "an explained cursor": (
        "BEGIN",
        f"DECLARE c CURSOR FOR {FIRST_CARD}",
        "EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT 1",
        "FETCH ALL c",
        "ROLLBACK",
    ),
    "another schema's table renamed": (
        f"CREATE TEMP TABLE b AS {FIRST_CARD}",
        "CREATE TEMP TABLE a (x text)",
        "CREATE TABLE public.a (x text)",
        "ALTER TABLE public.a RENAME TO b",
        "SELECT x || '' FROM b",
        "DROP TABLE public.b",
    ),
    "none renamed": (
        f"CREATE TEMP TABLE b AS {FIRST_CARD}",
        "CREATE TEMP TABLE a (x text)",
        "ALTER TABLE IF EXISTS nosuch.a RENAME TO b",
        "SELECT x || '' FROM b",
    ),
    "a permanent view of its name": (
        f"CREATE TEMP TABLE b AS {FIRST_CARD}",
        "CREATE VIEW b AS SELECT 'q'::text AS x",
        "SELECT x || '' FROM b",
        "DROP VIEW public.b",
    ),
    "read and written at once": (
        "CREATE TEMP TABLE b (x text)",
        "WITH u AS (UPDATE customers SET city = city WHERE id = 1 RETURNING card) INSERT INTO b SELECT card FROM u",
        "TABLE b",
    ),
    "gone with cascade": (
        "CREATE TEMP TABLE customers (id int, card text)",
        "DROP TABLE customers CASCADE",
        FIRST_CARD,
    ),
    "gone with what it was a partition of": (
        "CREATE TEMP TABLE p (id int, card text) PARTITION BY LIST (id)",
        "CREATE TEMP TABLE customers PARTITION OF p DEFAULT",
        "DROP TABLE p",
        FIRST_CARD,
    ),
    "gone with a column": (
        "CREATE TEMP TABLE p (id int, card text)",
        "CREATE TEMP VIEW customers AS SELECT id, card FROM p",
        "ALTER TABLE p DROP COLUMN card CASCADE",
        FIRST_CARD,
    ),
    "another session's dropped": (
        "CREATE TEMP TABLE orders AS SELECT card || '' AS item FROM customers WHERE id = 1",
        "DROP TABLE IF EXISTS pg_temp_99.orders",
        "SELECT item || '' FROM orders",
    ),
}
REFUSED: dict[str, Sequence[str]] = {
    # on PostgreSQL 16 and later the pattern is shown in the clear
    "a compiled pattern": (
        "SELECT 'x' ~ card FROM customers WHERE id = 1",
        "SELECT ident FROM pg_backend_memory_contexts WHERE name = 'RegexpMemoryContext'",
    ),
    "a seed": ("SELECT (ascii(right(card, 1)) / 256.0::float8).setseed FROM customers WHERE id = 1",),
}


@pytest.mark.slow
@pytest.mark.e2e
def test_none_of_it_gives_a_masked_value_away_on_a_real_server(installation: Installation, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    with Lab([policy], tls="off", installation=installation) as lab:
        for way, statements in (REAL | REFUSED).items():
            with session(lab) as s:
                answers = [s.ask(sql) for sql in statements]
            assert not any(map(leaks, answers)), way
            assert [way for answer in answers if errors(answer)] == ([way] if way in REFUSED else []), answers
