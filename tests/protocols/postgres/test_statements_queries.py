"""Queries and data changes: effects, relations, columns, predicates, and what columns are provably clear."""

from __future__ import annotations

import pytest

from protocols.contract import Cacheable, Where
from protocols.postgres.statements.scope import Origins, Source
from tests.support import statements as make
from tests.support.statements import effects, of


@pytest.mark.parametrize(
    ("text", "reads", "columns", "predicates"),
    [
        ("SELECT name FROM users", {"public.users"}, {"users.name"}, set()),
        ("SELECT u.name FROM users AS u WHERE ssn = 'x'", {"public.users"}, {"users.name", "users.ssn"}, {"users.ssn"}),
        ("SELECT * FROM users", {"public.users"}, {"users.*"}, set()),
        ("SELECT u.* FROM users u, orders o", {"public.users", "public.orders"}, {"users.*"}, set()),
        ("TABLE orders", {"public.orders"}, {"orders.*"}, set()),
        (
            "SELECT 1 FROM users u JOIN orders o ON o.user_id = u.id",
            {"public.users", "public.orders"},
            {"users.id", "orders.user_id"},
            {"users.id", "orders.user_id"},
        ),
        ("SELECT 1 FROM users ORDER BY ssn", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT name, ssn FROM users ORDER BY 2", {"public.users"}, {"users.name", "users.ssn"}, {"users.ssn"}),
        ("SELECT ssn AS x FROM users ORDER BY x", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT count(*) FROM users GROUP BY ssn", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT count(*) FILTER (WHERE ssn = '1') FROM users", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT rank() OVER (ORDER BY ssn) FROM users", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT DISTINCT ON (ssn) id FROM users", {"public.users"}, {"users.ssn", "users.id"}, {"users.ssn"}),
        ("SELECT 1 FROM (SELECT ssn AS x FROM users) t WHERE x = '1'", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("WITH t AS (SELECT ssn FROM users) SELECT 1 FROM t WHERE ssn > ''", {"public.users"},
         {"users.ssn"}, {"users.ssn"}),
        ("WITH t(a) AS (SELECT ssn FROM users) SELECT 1 FROM t WHERE a > ''", {"public.users"},
         {"users.ssn"}, {"users.ssn"}),
        (
            "SELECT id FROM users UNION SELECT user_id FROM orders ORDER BY 1",
            {"public.users", "public.orders"},
            {"users.id", "orders.user_id"},
            {"users.id", "orders.user_id"},
        ),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM users WHERE ssn = '1')", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT 1 WHERE 'x' IN (SELECT ssn FROM users)", {"public.users"}, {"users.ssn"}, {"users.ssn"}),
        ("SELECT (u).ssn FROM users u", {"public.users"}, {"users.*", "users.ssn"}, set()),
        ("SELECT a FROM users AS u(a, b)", {"public.users"}, {"users.id"}, set()),
        ("SELECT 1 FROM users u JOIN orders o USING (id)", {"public.users", "public.orders"},
         {"users.id", "orders.id"}, {"users.id", "orders.id"}),
        ("SELECT 1 FROM users NATURAL JOIN orders", {"public.users", "public.orders"},
         set(), {"users.id", "orders.id"}),
        (
            "SELECT x.n FROM users u, LATERAL (SELECT u.ssn AS n) x WHERE x.n = ''",
            {"public.users"},
            {"users.ssn"},
            {"users.ssn"},
        ),
    ],
)  # fmt: skip
def test_what_a_query_reads(text: str, reads: set[str], columns: set[str], predicates: set[str]) -> None:
    found = of(text)
    assert effects(text) == {"data.select"}
    assert set(found.reads) == reads
    assert {c for c in found.columns if c.startswith("public.")} >= {f"public.{c}" for c in columns}
    assert set(found.predicates) == {f"public.{c}" for c in predicates}


def test_a_view_is_read_through() -> None:
    found = of("SELECT shout FROM v_users WHERE name = 'x'")
    assert set(found.reads) == {"public.v_users", "public.users"}
    assert "public.users.name" in found.predicates
    assert "public.users.*" in found.columns  # `shout` is computed: it may be anything that the view reads


def test_a_cte_hides_a_table_of_its_name_and_only_where_it_is_visible() -> None:
    assert of("WITH users AS (SELECT 1 AS id) SELECT id FROM users").reads == ()
    assert of("WITH a AS (SELECT * FROM users), users AS (SELECT 1) SELECT * FROM a").reads == ("public.users",)
    assert of("WITH RECURSIVE a AS (SELECT * FROM users), users AS (SELECT 1 AS id) SELECT * FROM a").reads == ()
    assert of("SELECT * FROM (WITH users AS (SELECT 1) SELECT 1) x, users").reads == ("public.users",)
    assert of("WITH users AS (SELECT 1) SELECT * FROM public.users").reads == ("public.users",)


def test_a_recursive_query_carries_what_its_first_branch_does() -> None:
    found = of(
        "WITH RECURSIVE t(x) AS (SELECT ssn FROM users UNION SELECT x || '' FROM t) SELECT 1 FROM t WHERE x > ''"
    )
    assert "public.users.ssn" in found.predicates


def test_attribute_notation_is_a_column_where_one_exists_and_a_call_elsewhere() -> None:
    assert effects("SELECT u.name FROM users u") == {"data.select"}
    assert "exec.call" in effects("SELECT u.purge_row FROM users u")
    assert "exec.call" in effects("SELECT (SELECT u FROM users u).purge_row")
    # the join's alias hides the inner `u`, so the outer one is meant
    hidden = "SELECT u.purge_row FROM ((SELECT 1 AS purge_row) u CROSS JOIN orders) j, users u"
    assert "exec.call" in effects(hidden)


@pytest.mark.parametrize(
    ("text", "wanted", "writes", "where"),
    [
        ("INSERT INTO users VALUES (1)", {"data.insert"}, {"public.users"}, Where.NONE),
        ("INSERT INTO users SELECT * FROM orders", {"data.insert", "data.select"}, {"public.users"}, Where.NONE),
        ("INSERT INTO users VALUES (1) RETURNING id", {"data.insert", "data.select"}, {"public.users"}, Where.NONE),
        ("INSERT INTO users VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x'", {"data.insert", "data.update"},
         {"public.users"}, Where.NONE),
        ("UPDATE users SET name = 'x'", {"data.update"}, {"public.users"}, Where.MISSING),
        ("UPDATE users SET name = 'x' WHERE id = 1", {"data.update"}, {"public.users"}, Where.PRESENT),
        ("UPDATE users SET name = 'x' WHERE true", {"data.update"}, {"public.users"}, Where.ALWAYS_TRUE),
        ("UPDATE users SET name = o.id::text FROM orders o WHERE o.id = users.id", {"data.update", "data.select"},
         {"public.users"}, Where.PRESENT),
        ("DELETE FROM users", {"data.delete"}, {"public.users"}, Where.MISSING),
        ("DELETE FROM users WHERE 1 = 1", {"data.delete"}, {"public.users"}, Where.ALWAYS_TRUE),
        ("DELETE FROM orders WHERE id = 1", {"data.delete"}, {"public.orders", "public.lines"}, Where.PRESENT),
        ("WITH d AS (DELETE FROM users RETURNING 1) SELECT 1 FROM d", {"data.delete", "data.select"},
         {"public.users"}, Where.MISSING),
        ("DELETE FROM v_users WHERE id = 1", {"data.delete"}, {"public.v_users", "public.users"}, Where.PRESENT),
        ("MERGE INTO users u USING orders o ON o.id = u.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT"
         " VALUES (1)", {"data.merge", "data.delete", "data.insert", "data.select"}, {"public.users"}, Where.NONE),
    ],
)  # fmt: skip
def test_what_a_data_change_writes(text: str, wanted: set[str], writes: set[str], where: Where) -> None:
    found = of(text)
    assert (effects(text), set(found.writes), found.where) == (wanted, writes, where)


@pytest.mark.parametrize(
    "clause",
    ["true", "1=1", "'a'='a'", "id = id", "users.id = id", "NOT false", "id = 1 OR true", "1 < 2", "2 > 1 AND 1 <> 2",
     "'t'", "1::int = '1'", "name LIKE '%'", "1 IN (1, 2)", "id IN (id)", "1 BETWEEN 0 AND 2", "NULL IS NULL",
     "1 IS NOT NULL", "(1 = 1) IS TRUE", "EXISTS (SELECT 1)", "1 + 1 = 2", "coalesce(null) IS NULL OR true",
     "id IS NOT DISTINCT FROM id"],
)  # fmt: skip
def test_an_always_true_filter_is_seen(clause: str) -> None:
    assert of(f"DELETE FROM users WHERE {clause}").where is Where.ALWAYS_TRUE


@pytest.mark.parametrize(
    "clause", ["id = 1", "1 = 2", "id = 1 OR false", "name LIKE 'a%'", "id IS NULL", "id IN (1)", "f"]
)
def test_a_filter_that_filters_is_not_called_always_true(clause: str) -> None:
    assert of(f"DELETE FROM users WHERE {clause}").where is Where.PRESENT


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("SELECT 1, name, count(*), count(ssn), ssn IS NULL, now() FROM users", {0, 2, 3, 4, 5}),
        ("SELECT name, 'x', *, 1 FROM users", {1}),
        ("SELECT count(DISTINCT ssn), count(upper(ssn)), max(ssn), length(ssn) FROM users", {0}),
        ("SELECT count(*) FILTER (WHERE ssn = '1') FROM users", set()),
        ("SELECT count(*) OVER (ORDER BY ssn) FROM users", set()),
        ("SELECT ssn = '1', (SELECT 1), CASE WHEN ssn = '1' THEN 1 END FROM users", set()),
        ("SELECT 1 UNION SELECT 2", set()),
        ("VALUES (1)", set()),
        ("SELECT version(), current_user, upper('x') || 'y', -1, 1::text, true AND false", {0, 1, 2, 3, 4, 5}),
        ("SELECT current_setting('x'), query_to_xml('a', true, true, '')", set()),
        ("SELECT 1, purge()", set()),
        ("SELECT (u.*).ssn, 1 FROM users u", {1}),
        ("SELECT (u).*, 1 FROM users u", set()),
        # what is computed can say by being NULL what its source was
        ("SELECT x IS NULL, count(x), 1 FROM (SELECT nullif(ssn, '1') AS x FROM users) t", {2}),
        ("WITH t AS (SELECT nullif(ssn, '1') AS x FROM users) SELECT x IS NULL, count(x) FROM t", set()),
        ("SELECT x IS NULL, count(*) FROM users, LATERAL (SELECT nullif(ssn, '1') AS x) t", {1}),
        ("SELECT u.ssn IS NULL FROM users u JOIN users o ON u.id = o.id", {0}),
        ("EXPLAIN SELECT ssn FROM users", {0}),
        ("EXPLAIN SELECT purge()", set()),
    ],
)
def test_clear_columns_are_only_those_that_are_certain(text: str, clear: set[int]) -> None:
    assert of(text).clear_columns == clear


@pytest.mark.parametrize(
    ("text", "cacheable"),
    [
        ("SELECT id FROM users WHERE id = 1", Cacheable.SHAPE),
        ("UPDATE users SET name = 'x' WHERE id = 1", Cacheable.SHAPE),
        ("SELECT id FROM users ORDER BY 1", Cacheable.TEXT),
        ("DELETE FROM users WHERE 1 = 1", Cacheable.TEXT),
        ("SELECT set_config('application_name', 'x', false)", Cacheable.TEXT),
        ("SELECT 1; SELECT 2", Cacheable.TEXT),
        ("BEGIN", Cacheable.TEXT),
        ("EXECUTE p", Cacheable.NO),
        ("FETCH c", Cacheable.NO),
        ("EXPLAIN EXECUTE p", Cacheable.NO),
        ("DISCARD ALL", Cacheable.NO),
        ("RESET ALL", Cacheable.NO),
    ],
)
def test_how_far_an_analysis_may_be_shared(text: str, cacheable: Cacheable) -> None:
    assert of(text).cacheable is cacheable


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1 FROM nowhere", "does not exist in the catalog snapshot"),
        ("SELECT nothing(1)", "does not exist in the catalog snapshot"),
        ("SELECT 1::no_type", "does not exist in the catalog snapshot"),
        ("SELECT 1 !!!! 2", "does not exist in the catalog snapshot"),
        ("SELECT 1 FROM other.public.users", "another database"),
        ("SELEC 1", "does not parse"),
        ("SELECT 'secret", "does not parse"),
        ("SELECT * FROM users TABLESAMPLE mine(1)", "sampling method"),
    ],
)
def test_what_is_not_known_says_why_and_quotes_nothing(text: str, why: str) -> None:
    found = of(text)
    assert found.unknown
    assert why in found.why
    assert "secret" not in found.why


def test_a_name_in_two_schemas_of_the_path_means_both_where_privileges_are_not_known() -> None:
    mine = make.ran(make.session(), "SET search_path = evil, public")
    assert of("SELECT id FROM users", mine).reads == ("evil.users",)
    other = make.session()
    other.startup({"user": "somebody else"})
    other = make.ran(other, "SET search_path = evil, public")
    assert set(of("SELECT id FROM users", other).reads) == {"evil.users", "public.users"}


def test_a_user_function_with_a_built_ins_arguments_is_hidden_by_it_unless_the_path_says_otherwise() -> None:
    assert effects("SELECT lower(name) FROM users") == {"data.select"}
    first = make.ran(make.session(), "SET search_path = public, pg_catalog")
    assert "exec.call" in effects("SELECT lower(name) FROM users", first)


def test_secrets_of_the_catalog_are_known_by_column() -> None:
    assert effects("SELECT rolname FROM pg_authid") == {"data.select"}
    for text in ("SELECT rolpassword FROM pg_authid", "SELECT * FROM pg_authid", "SELECT a FROM pg_authid a",
                 "SELECT 1 FROM pg_authid WHERE rolpassword LIKE 'md5%'",
                 "SELECT usename FROM pg_shadow ORDER BY passwd",
                 "SELECT x FROM (SELECT rolpassword AS x FROM pg_authid) y"):  # fmt: skip
        assert "secret.read" in effects(text), text


def test_a_write_names_its_tree_where_rows_come_back() -> None:
    assert make.command("UPDATE users SET name = 'x' RETURNING name").statements[0].tree is not None
    assert make.command("UPDATE users SET name = 'x'").statements[0].tree is None
    assert make.command("SELECT 1").statements[0].tree is None


def test_stars_of_many_tables_cost_no_more_than_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand stars over a hundred tables, in five kilobytes: the server takes no more than 1,664 columns."""
    looked_up = 0
    real = Source._look_up

    def counted(source: Source, name: str) -> Origins | None:
        nonlocal looked_up
        looked_up += 1
        return real(source, name)

    monkeypatch.setattr(Source, "_look_up", counted)
    sources = ", ".join(f"users u{i}" for i in range(100))
    assert make.of(f"SELECT {', '.join('*' * 2000)} FROM {sources}").depends == ()
    assert looked_up <= 100 * 5
    assert len(make.of(f"SELECT {', '.join('*' * 3)} FROM {sources}").depends) == 1500
