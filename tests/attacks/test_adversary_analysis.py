"""What the analysis says of a statement that gets at a masked column sideways, and what it costs to say it."""

from __future__ import annotations

import pytest

from protocols.contract import Analysis
from protocols.postgres.catalog import Catalog
from protocols.postgres.origins import reach
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from protocols.postgres.statements.text import Budget, Unreadable, check_depth
from tests.support.talk import catalog


def looked_at(text: str, names: Catalog | None = None) -> Analysis:
    state = SessionState()
    state.startup({"user": "app", "database": "db", "client_encoding": "UTF8"})
    state.ready("I")
    return analyse(text.encode(), state, names or catalog()).analysis


# how many rows come back tells the value, or which values are equal, without any filter on the column
COUNTS = (
    "SELECT count(*) FROM (SELECT generate_series(1, ascii(ssn)) FROM users) x",
    "SELECT count(*) FROM users u, generate_series(1, ascii(u.ssn))",
    "SELECT count(*) FROM users u CROSS JOIN LATERAL unnest(string_to_array(u.ssn, '-'))",
    "SELECT 1 FROM (SELECT regexp_split_to_table(ssn, '-') FROM users) x",
    "SELECT 1 + generate_series(1, length(ssn)) FROM users",
    "EXPLAIN (ANALYZE) SELECT generate_series(1, ascii(ssn)) FROM users",
    "SELECT count(*) FROM (SELECT '900-10-1000' INTERSECT SELECT ssn FROM users) x",
    "SELECT count(*) FROM (SELECT ssn FROM users EXCEPT ALL SELECT '900-10-1000' UNION SELECT 'x') x",
    "SELECT count(*) FROM (SELECT DISTINCT ssn FROM users) x",
    "SELECT '900-10-1000' IN (SELECT ssn FROM users)",
)


@pytest.mark.parametrize("text", COUNTS)
def test_counting_rows_made_of_a_column_is_a_probe_of_it(text: str) -> None:
    found = looked_at(text)
    assert not found.unknown, found.why
    assert {"public.users.ssn", "public.users.*"} & set(found.predicates)


def test_showing_a_column_is_no_probe() -> None:
    for text in ("SELECT ssn FROM users", "SELECT upper(ssn) FROM users UNION ALL SELECT name FROM users"):
        assert looked_at(text).predicates == ()


LEFT_BEHIND = (
    "SELECT set_config('application_name', ssn, false) FROM users",
    "SELECT set_config('application_name', (SELECT ssn FROM users LIMIT 1), true)",
    "SELECT CASE WHEN ssn LIKE '9%' THEN set_config('application_name', 'nine', false) END FROM users",
    "SELECT setseed(ascii(ssn) / 256.0) FROM users",
    "SELECT lo_lseek(0, ascii(ssn), 0) FROM users",
    "SELECT loread(0, ascii(ssn)) FROM users",
    "PREPARE p AS SELECT setseed(ascii(ssn) / 256.0) FROM users",
    "DECLARE c CURSOR FOR SELECT setseed(ascii(ssn) / 256.0) FROM users",
    "COPY (SELECT setseed(ascii(ssn) / 256.0) FROM users) TO STDOUT",
    "EXPLAIN ANALYZE SELECT setseed(ascii(ssn) / 256.0) FROM users",
    "WITH s AS (SELECT ssn FROM users) SELECT setseed(ascii(ssn) / 256.0) FROM s",
)


@pytest.mark.parametrize("text", LEFT_BEHIND)
def test_what_is_left_in_the_session_must_not_come_from_rows(text: str) -> None:
    assert looked_at(text).unknown


def test_what_the_client_says_itself_may_be_left_there() -> None:
    for text in (
        "SELECT set_config('application_name', 'mine', false)",
        "SELECT set_config('application_name', $1, false)",
        "SELECT set_config('bytea_output', 'hex', false) FROM pg_settings WHERE name = 'bytea_output'",
        "SELECT setseed(0.5), random()",
    ):
        assert not looked_at(text).unknown, looked_at(text).why


# each of these took seconds to minutes, or gigabytes
MUCH_WORK = {
    "columns in many tables": "SELECT {} FROM {}".format(
        ",".join(f"n{i}" for i in range(2000)), ",".join(f"users c{i}" for i in range(2000))
    ),
    "stars over many tables": "SELECT count(*) FROM (SELECT {} FROM {}) x".format(
        ",".join(["*"] * 1500), ",".join(f"users c{i}" for i in range(1500))
    ),
    "qualified columns": "SELECT {} FROM {}".format(
        ",".join(f"c1999.n{i}" for i in range(2000)), ",".join(f"users c{i}" for i in range(2000))
    ),
    "joins": "SELECT 1 FROM users c0 " + " ".join(f"JOIN users c{i} USING (id, ssn, name)" for i in range(1, 1400)),
    "output names": "SELECT {} FROM users ORDER BY {}".format(
        ",".join(f"id a{i}" for i in range(3000)), ",".join(f"a{i}" for i in range(3000))
    ),
    "branches of a recursion": "WITH RECURSIVE r AS ({}) SELECT 1 FROM r".format(
        " UNION ALL ".join(["SELECT id FROM users"] * 1400)
    ),
    "statements that share the bound": ";".join(
        "SELECT {} FROM {}".format(",".join(["n"] * 300), ",".join(f"users c{i}" for i in range(300)))
        for _ in range(40)
    ),
}


@pytest.mark.parametrize("name", MUCH_WORK)
def test_a_statement_that_takes_too_much_work_is_unknown(name: str) -> None:
    found = looked_at(MUCH_WORK[name])
    assert found.unknown
    assert "too much work" in found.why


def test_the_bound_is_spent_once() -> None:
    budget = Budget(3)
    budget.spend(2)
    budget.spend(1)
    with pytest.raises(Unreadable, match="too much work"):
        budget.spend(1)


def test_long_literals_cost_no_memory() -> None:
    import tracemalloc

    for text in (
        "SELECT '" + "x" * 2_000_000 + "'",
        "SELECT '" + "''" * 1_000_000 + "'",
        "SELECT E'" + "\\\\x" * 700_000 + "'",
        'SELECT 1 AS "' + "x" * 2_000_000 + '"',
        "SELECT '" + "x" * 2_000_000,
    ):
        tracemalloc.start()
        try:
            check_depth(text)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000  # the regular expression engine's own marks are counted, too


DEEP = {
    "filters": ("count(*) FILTER (WHERE ", "true", ")"),
    "windows": ("rank() OVER (PARTITION BY ", "1", ")"),
    "orders within": ("mode() WITHIN GROUP (ORDER BY ", "1", ")"),
    "aggregates' orders": ("array_agg(1 ORDER BY ", "1", ")"),
    "series": ("generate_series(1, ", "1", ")"),
    "subqueries": ("(SELECT ", "1", ")"),
    "cases": ("CASE WHEN ", "true", " THEN 1 END = 1"),
    "subscripts": ("(ARRAY[1])[", "1", "]"),
    "from functions": ("(SELECT 1 FROM generate_series(1, ", "1", ") x)"),
    "json": ("JSON_VALUE(", "'{}'", ", '$')"),
    "settings": ("set_config('a.b', ", "'x'", ", false)"),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("depth", [40, 59, 400])
def test_nesting_costs_no_more_than_its_depth(name: str, depth: int) -> None:
    before, core, after = DEEP[name]
    assert looked_at("SELECT " + before * depth + core + after * depth).kind  # twice the work per level would not end


def test_reach_lists_a_childs_columns_under_its_parents_name_too() -> None:
    class Child:
        oid = 7
        columns = {"ssn": (1, 25)}  # noqa: RUF012

    class Names:
        relations = {("public", "vips"): Child()}  # noqa: RUF012

        def origin(self, table_oid: int, attnum: int) -> tuple[str, ...]:
            assert (table_oid, attnum) == (7, 1)
            return ("public.vips.ssn", "public.users.ssn")

    analysis = Analysis("select", frozenset(), reads=("public.vips",))
    assert reach(analysis, Names())[1] == ("public.vips.ssn", "public.users.ssn")  # type: ignore[arg-type]
