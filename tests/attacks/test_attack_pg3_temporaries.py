"""Temporary relations: whose rows they hold, which names they take, and every way in which those rows come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from protocols.contract import Analysis
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.lab import Lab
from tests.support.adversary import errors, leaks, session
from tests.support.talk import ORDERS, catalog
from tests.support.told import SECRET, ran, shown
from tests.support.wire import complete, error, query, ready

FILL = "INSERT INTO t SELECT upper(ssn) FROM users"


# what ran before, and how the value is asked for then
WAYS: dict[str, tuple[Sequence[str], str]] = {
    "created again, if there is none": (
        ("CREATE TEMP TABLE t (a text)", FILL, "CREATE TEMP TABLE IF NOT EXISTS t (a text)"),
        "SELECT a FROM t",
    ),
    "made again of a query, if there is none": (
        ("CREATE TEMP TABLE t (a text)", FILL, "CREATE TEMP TABLE IF NOT EXISTS t AS SELECT 'x' AS a"),
        "SELECT a FROM t",
    ),
    "a view of that name, if there is no table": (
        ("CREATE TEMP VIEW t AS SELECT upper(ssn) AS a FROM users", "CREATE TEMP TABLE IF NOT EXISTS t (a text)"),
        "SELECT a FROM t",
    ),
    "returned by an update": (("CREATE TEMP TABLE t (a text)", FILL), "UPDATE t SET a = a RETURNING a"),
    "returned by a delete": (("CREATE TEMP TABLE t (a text)", FILL), "DELETE FROM t RETURNING a"),
    "returned inside a query": (
        ("CREATE TEMP TABLE t (a text)", FILL),
        "WITH d AS (DELETE FROM t RETURNING a) SELECT a || '' AS a FROM d",
    ),
    "through a view that was there first": (
        ("CREATE TEMP TABLE t (a text)", "CREATE TEMP VIEW v AS SELECT a FROM t", FILL),
        "SELECT a FROM v",
    ),
    "through a view on a table that has another name now": (
        (
            "CREATE TEMP TABLE t (a text)",
            "CREATE TEMP VIEW v AS SELECT a FROM t",
            "ALTER TABLE t RENAME TO u",
            "CREATE TEMP TABLE t (a text)",
            FILL.replace("INTO t", "INTO u"),
        ),
        "SELECT a FROM v",
    ),
    "from a child": (
        ("CREATE TEMP TABLE p (a text)", "CREATE TEMP TABLE t () INHERITS (p)", FILL),
        "SELECT a FROM p",
    ),
    "from a partition": (
        ("CREATE TEMP TABLE p (a text) PARTITION BY LIST (a)", "CREATE TEMP TABLE t PARTITION OF p DEFAULT", FILL),
        "SELECT a FROM p",
    ),
    "in a partition": (
        ("CREATE TEMP TABLE t (a text) PARTITION BY LIST (a)", "CREATE TEMP TABLE c PARTITION OF t DEFAULT", FILL),
        "SELECT a FROM c",
    ),
    "from a child that became one later": (
        ("CREATE TEMP TABLE p (a text)", "CREATE TEMP TABLE t (a text)", FILL, "ALTER TABLE t INHERIT p"),
        "SELECT a FROM p",
    ),
    "from a partition that was attached": (
        (
            "CREATE TEMP TABLE p (a text) PARTITION BY LIST (a)",
            "CREATE TEMP TABLE t (a text)",
            FILL,
            "ALTER TABLE p ATTACH PARTITION t DEFAULT",
        ),
        "SELECT a FROM p",
    ),
    "where a rule has put it": (
        (
            "CREATE TEMP TABLE t (a text)",
            "CREATE TEMP TABLE u (a text)",
            "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO u VALUES (NEW.a)",
            FILL,
        ),
        "SELECT a FROM u",
    ),
    "made by code": (("CREATE TEMP TABLE t AS SELECT f() AS a",), "SELECT a FROM t"),
    "made by code, and computed": (("CREATE TEMP TABLE t AS SELECT f() AS a",), "SELECT upper(a) AS a FROM t"),
    "made by code, and copied": (
        ("CREATE TEMP TABLE t AS SELECT f() AS a", "CREATE TEMP TABLE u AS SELECT a FROM t"),
        "SELECT a FROM u",
    ),
    "made by code, through a view": (
        ("CREATE TEMP TABLE t AS SELECT f() AS a", "CREATE TEMP VIEW v AS SELECT a FROM t"),
        "SELECT a FROM v",
    ),
    "made by code, and returned": (("CREATE TEMP TABLE t AS SELECT f() AS a",), "DELETE FROM t RETURNING a"),
    "of a table that was made after they were mixed": (
        (
            "CREATE TEMP TABLE t (a text)",
            "CREATE TEMP TABLE c () INHERITS (t)",
            FILL,
            "CREATE TEMP TABLE d () INHERITS (t)",
        ),
        "SELECT a FROM d",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_temporary_relation_holds_is_not_forgotten(way: str) -> None:
    before, asked = WAYS[way]
    assert SECRET not in shown(ran(*before), asked)


def test_what_code_has_put_there_may_be_of_anywhere() -> None:
    found, _ = after("CREATE TEMP TABLE t AS SELECT f() AS a", "INSERT INTO orders (total) SELECT a FROM t")
    assert [(s.target, s.sources) for s in found.stores] == [("public.orders.total", ("*",))]


def test_nor_after_a_rollback_to_where_it_was_known() -> None:
    talk = ran("CREATE TEMP TABLE t (a text)", FILL)
    talk.begin()
    for sql in ("SAVEPOINT s", "DROP TABLE t", "CREATE TEMP TABLE t (a text)", "ROLLBACK TO s"):
        assert talk.client(query(sql))
        talk.server(complete("OK"), ready("T"))
    assert SECRET not in shown(talk, "SELECT a FROM t")


CLEAN: dict[str, tuple[Sequence[str], str]] = {
    "another table": (("CREATE TEMP TABLE t (a text)", FILL, "CREATE TEMP TABLE u (a text)"), "SELECT a FROM u"),
    "a new table of that name": (
        ("CREATE TEMP TABLE t (a text)", FILL, "DROP TABLE t", "CREATE TEMP TABLE t (a text)"),
        "SELECT a FROM t",
    ),
    "a table whose name a column has got": (
        ("CREATE TEMP TABLE t (a text)", FILL, "ALTER TABLE t RENAME COLUMN a TO u", "CREATE TEMP TABLE u (a text)"),
        "SELECT upper(a) AS a FROM u",
    ),
    "related tables without any of it": (
        ("CREATE TEMP TABLE p (a text)", "CREATE TEMP TABLE t () INHERITS (p)", "INSERT INTO t VALUES ('x')"),
        "UPDATE t SET a = a RETURNING a",
    ),
    "after everything was discarded": (
        (
            "CREATE TEMP TABLE p (a text)",
            "CREATE TEMP TABLE t () INHERITS (p)",
            FILL,
            "DISCARD TEMP",
            "CREATE TEMP TABLE t (a text)",
        ),
        "SELECT a FROM t",
    ),
    "a view of tables without any of it": (
        ("CREATE TEMP TABLE t (a text)", "CREATE TEMP VIEW v AS SELECT a FROM t"),
        "SELECT a FROM v",
    ),
}


@pytest.mark.parametrize("way", CLEAN)
def test_what_holds_nothing_masked_is_shown(way: str) -> None:
    before, asked = CLEAN[way]
    assert SECRET in shown(ran(*before), asked)


def test_how_many_rows_code_has_made_is_shown() -> None:
    assert SECRET in shown(ran("CREATE TEMP TABLE t AS SELECT f() AS a"), "SELECT count(*) AS a FROM t", 0)


# ---------------------------------------------------------------- a view that is temporary without saying so

SHADOWS = "CREATE VIEW orders AS SELECT upper(u.ssn) AS total FROM users u, {} z"


@pytest.mark.parametrize(
    "before",
    [
        ("CREATE TEMP TABLE t (a text)", SHADOWS.format("t")),
        ("CREATE TEMP TABLE t (a text)", SHADOWS.format("(SELECT (SELECT count(*) FROM t)) x, orders")),
        ("CREATE TEMP SEQUENCE s", SHADOWS.format("s")),
        # the table's own sequence is `t_id_seq`: of a permanent one with that name nothing can be told
        ("CREATE TEMP TABLE t (id serial)", SHADOWS.format("evil.orders")),
    ],
)
def test_a_view_over_temporary_relations_hides_the_permanent_one_of_its_name(before: Sequence[str]) -> None:
    """view.c: it is made in pg_temp, which comes before every schema."""
    assert SECRET not in shown(ran(*before), "SELECT total AS a FROM orders")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW orders AS SELECT upper(ssn) AS total FROM users",
        "CREATE TABLE orders AS SELECT upper(ssn) AS total FROM users",
        "SELECT upper(ssn) AS total INTO orders FROM users",
    ],
)
def test_nor_does_a_relation_that_lands_in_pg_temp_by_the_path(sql: str) -> None:
    """A schema of the path that is not there is passed over, and the next one is where new relations go."""
    talk = ran("SET search_path = missing, pg_temp, public", sql)
    assert SECRET not in shown(talk, "SELECT total AS a FROM orders")


def test_a_view_of_a_session_without_temporary_relations_is_permanent() -> None:
    talk = ran("CREATE VIEW v AS SELECT total FROM orders")
    assert SECRET in shown(talk, "SELECT total AS a FROM orders", ORDERS)
    assert not talk.session.state.names(catalog()).temporaries


# ---------------------------------------------------------------- rows of a temporary child in a permanent table


def after(*messages: str) -> tuple[Analysis, SessionState]:
    """The analysis of the last one, where those before it have run."""
    state = SessionState()
    state.startup({"user": "app", "database": "db", "client_encoding": "UTF8"})
    for text in messages:
        state.ready("I")
        command = analyse(text.encode(), state, catalog())
        for one in command.statements:
            state.applied(one)
    return command.analysis, state


@pytest.mark.parametrize("parent", ["orders", "public.orders"])
def test_what_fills_a_temporary_child_is_stored_in_its_parent(parent: str) -> None:
    made = (f"CREATE TEMP TABLE t () INHERITS ({parent})", "CREATE TEMP TABLE c () INHERITS (t)")
    for table in ("t", "c"):
        found, _ = after(*made, f"INSERT INTO {table} (total) SELECT upper(ssn) FROM users")
        assert [(s.target, s.sources) for s in found.stores] == [("public.orders.total", ("public.users.ssn",))]


@pytest.mark.parametrize("made", ["CREATE TEMP TABLE t (total text)", "CREATE TEMP TABLE t () INHERITS (orders)"])
def test_a_temporary_table_does_not_become_a_child_of_a_permanent_one(made: str) -> None:
    above = "orders" if "INHERITS" not in made else "t"
    found, _ = after(made, "CREATE TEMP TABLE u (total text)", f"ALTER TABLE u INHERIT {above}")
    assert found.unknown


# ---------------------------------------------------------------- errors, and what is left in the session


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET b = NULL",
        "ALTER TABLE t ADD CHECK (a::int > 0)",
        "ALTER TABLE pg_temp.t ALTER a TYPE int USING a::int",
        "CREATE UNIQUE INDEX ON t (a)",
    ],
)
def test_an_error_does_not_quote_what_a_temporary_table_holds(sql: str) -> None:
    talk = ran("CREATE TEMP TABLE t (a text, b int NOT NULL)", FILL)
    assert talk.client(query(sql)) == query(sql)
    text = f'invalid input syntax for type integer: "{SECRET.decode()}"'
    assert SECRET not in talk.server(error("22P02", text, D=f"Failing row contains ({SECRET.decode()})."), ready())


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = set_config('application_name', a, false)",
        "UPDATE users SET ssn = set_config('application_name', ssn, false)",
        "UPDATE t SET a = CASE WHEN setseed(ascii(a) / 256.0) IS NULL THEN a END",
        "WITH u AS (UPDATE t SET a = set_config('application_name', a, false)) SELECT 1",
        "ALTER TABLE t ADD CHECK (setseed(ascii(a) / 256.0) IS NOT NULL)",
        "ALTER TABLE t ALTER a TYPE text USING CASE WHEN setseed(ascii(a) / 256.0) IS NULL THEN a END",
        "CREATE TEMP TABLE u (a text CHECK (setseed(ascii(a) / 256.0) IS NOT NULL))",
        "CREATE DOMAIN d AS text CHECK (setseed(ascii(VALUE) / 256.0) IS NOT NULL)",
    ],
)
def test_a_write_leaves_nothing_of_a_row_in_the_session(sql: str) -> None:
    found, _ = after("CREATE TEMP TABLE t (a text)", FILL, sql)
    assert found.unknown


def test_what_the_client_says_itself_may_be_left_there_while_it_writes() -> None:
    found, _ = after("INSERT INTO orders (total) VALUES (set_config('application_name', 'mine', false))")
    assert not found.unknown, found.why


# ---------------------------------------------------------------- the same on a real server

DEVELOPERS = """\
  - id: developers
    description: they make what they need, under the masks of everybody
    who: {groups: [agents]}
    allow: [data.select, data.insert, data.update, data.delete, data.copy_out, data.write, probe, "ddl.*"]

"""
REAL: dict[str, Sequence[str]] = {
    "if not exists": (
        "CREATE TEMP TABLE t AS SELECT upper(email) AS a FROM customers",
        "CREATE TEMP TABLE IF NOT EXISTS t (a text)",
        "SELECT a FROM t",
    ),
    "returning": ("CREATE TEMP TABLE t AS SELECT upper(email) AS a FROM customers", "DELETE FROM t RETURNING a"),
    "a temporary view by itself": (
        "CREATE TEMP TABLE t (a int)",
        "CREATE VIEW orders AS SELECT upper(email) AS total FROM customers, (SELECT count(*) FROM t) z",
        "SELECT total FROM orders",
    ),
    "a view that was there first": (
        "CREATE TEMP TABLE t (a text)",
        "CREATE TEMP VIEW v AS SELECT a FROM t",
        "INSERT INTO t SELECT upper(email) FROM customers",
        "SELECT a FROM v",
    ),
    "a child": (
        "CREATE TEMP TABLE p (a text)",
        "CREATE TEMP TABLE c () INHERITS (p)",
        "INSERT INTO c SELECT upper(email) FROM customers",
        "SELECT a FROM p",
    ),
    "an error": (
        "CREATE TEMP TABLE t AS SELECT upper(email) AS a, 1 AS b FROM customers",
        "ALTER TABLE t ADD CHECK (b > 1 OR a::int > 0)",
    ),
}
REFUSED: dict[str, Sequence[str]] = {
    "a setting": (
        "CREATE TEMP TABLE t AS SELECT upper(email) AS a FROM customers WHERE id = 1",
        "UPDATE t SET a = set_config('application_name', a, false)",
        "SHOW application_name",
    ),
    "a child of a permanent table": (
        "CREATE TEMP TABLE c () INHERITS (orders)",
        "INSERT INTO c SELECT 0, 1, upper(email), 1, 'new', now() FROM customers",
        "SELECT item FROM orders WHERE id = 0",
    ),
}


@pytest.mark.slow
@pytest.mark.e2e
def test_no_temporary_relation_of_a_real_server_gives_a_masked_value_away(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    text = (Path(__file__).parents[2] / "policies" / "demo.yaml").read_text()
    start, end = text.index("  # ---- agent"), text.index("  # ---- HTTP")
    # masks that name their columns exactly, and no result's name
    text = (text[:start] + DEVELOPERS + text[end:]).replace('["*.', '["public.')
    for names in ('names: ["*email*"], ', 'names: ["card*"], ', 'names: ["national_id*"], ', 'names: ["*secret*"], '):
        text = text.replace(names, "")
    policy.write_text(text)
    with Lab(tls="off", policies=(policy,)) as lab:
        for way, statements in (REAL | REFUSED).items():
            with session(lab, "agent") as s:
                for sql in statements:
                    answer = s.ask(sql)
                    assert not leaks(answer), (way, sql)
                    assert way in REFUSED or way == "an error" or not errors(answer), (way, sql, errors(answer))
