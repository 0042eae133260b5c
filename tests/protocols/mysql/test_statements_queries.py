"""What queries and data changes read, write and filter by, against a catalog made by hand."""

from __future__ import annotations

import pytest

from protocols.contract import Analysis, Cacheable, Effect, Where
from tests.support.mysql_statements import apply, judged, session, shop


def of(text: str) -> Analysis:
    return judged(text).analysis


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("SELECT 1", ()),
        ("SELECT 1 FROM DUAL", ()),
        ("SELECT * FROM users", ("shop.users",)),
        ("SELECT * FROM hr.users", ("hr.users",)),
        ("SELECT * FROM users u, orders o WHERE u.id = o.id", ("shop.users", "shop.orders")),
        ("SELECT (SELECT MAX(id) FROM orders) FROM users", ("shop.users", "shop.orders")),
        ("SELECT 1 FROM users WHERE EXISTS (SELECT 1 FROM orders)", ("shop.users", "shop.orders")),
        ("SELECT * FROM (SELECT id FROM users) t", ("shop.users",)),
        ("WITH c AS (SELECT * FROM users) SELECT * FROM c", ("shop.users",)),
        ("WITH users AS (SELECT * FROM orders) SELECT * FROM users", ("shop.orders",)),
        ("WITH users AS (SELECT * FROM users) SELECT * FROM users", ("shop.users",)),
        ("WITH USERS AS (SELECT 1 AS id) SELECT * FROM users", ("shop.users",)),
        ("WITH users AS (SELECT 1 AS id) SELECT * FROM shop.users", ("shop.users",)),
        ("SELECT 1 UNION SELECT id FROM orders", ("shop.orders",)),
        ("SELECT 1 FROM users UNION (SELECT id FROM orders ORDER BY id) LIMIT 1", ("shop.users", "shop.orders")),
        ("SELECT * FROM ((users) JOIN orders USING (id))", ("shop.users", "shop.orders")),
        ("SELECT * FROM v_users", ("shop.v_users", "shop.users")),
        ("SELECT 1 ORDER BY (SELECT id FROM orders LIMIT 1)", ("shop.orders",)),
        ("SELECT 1 LIMIT 1 OFFSET 0", ()),
        ("INSERT INTO orders SELECT * FROM users", ("shop.users",)),
        ("INSERT INTO orders (id) VALUES ((SELECT MAX(id) FROM users))", ("shop.users",)),
        ("INSERT INTO orders SELECT * FROM orders", ("shop.orders",)),
        ("INSERT INTO orders (id) VALUES (1)", ()),
        ("INSERT INTO orders (id) VALUES (1) ON DUPLICATE KEY UPDATE total = 1", ("shop.orders",)),
        ("UPDATE orders SET total = 1", ()),
        ("UPDATE orders SET total = (SELECT MAX(total) FROM orders)", ("shop.orders",)),
        ("UPDATE orders SET total = 1 ORDER BY id LIMIT 1", ("shop.orders",)),
        ("UPDATE orders SET total = (SELECT MAX(salary) FROM users)", ("shop.users",)),
        ("UPDATE orders SET total = (SELECT MAX(salary) FROM users) WHERE id = 1", ("shop.orders", "shop.users")),
        ("UPDATE orders o JOIN users u ON u.id = o.user_id SET o.total = 1", ("shop.orders", "shop.users")),
        ("DELETE FROM orders", ()),
        ("DELETE FROM orders LIMIT 1", ()),
        ("DELETE FROM orders WHERE id = 1", ("shop.orders",)),
        ("DELETE o FROM orders o JOIN users u ON u.id = o.user_id", ("shop.orders", "shop.users")),
        ("DELETE FROM orders WHERE id IN (SELECT id FROM users)", ("shop.orders", "shop.users")),
        ("DELETE FROM orders WHERE id = 1 RETURNING id", ("shop.orders",)),
        ("EXPLAIN UPDATE orders SET id = 1", ("shop.orders",)),
    ],
)
def test_reads(text: str, reads: tuple[str, ...]) -> None:
    analysis = of(text)
    assert sorted(analysis.reads) == sorted(reads)
    assert not analysis.unknown, analysis.why


@pytest.mark.parametrize(
    ("text", "writes", "effects"),
    [
        ("INSERT INTO orders VALUES (1, 2, 3)", ("shop.orders",), {Effect.DATA_INSERT}),
        ("INSERT orders SET id = 1", ("shop.orders",), {Effect.DATA_INSERT}),
        ("INSERT INTO orders (id) SELECT 1", ("shop.orders",), {Effect.DATA_INSERT, Effect.DATA_SELECT}),
        (
            "INSERT INTO orders(id) VALUES (1) ON DUPLICATE KEY UPDATE total = 1",
            ("shop.orders",),
            {Effect.DATA_INSERT, Effect.DATA_UPDATE},
        ),
        ("REPLACE INTO orders VALUES (1, 2, 3)", ("shop.orders",), {Effect.DATA_INSERT, Effect.DATA_DELETE}),
        ("UPDATE orders SET total = 1", ("shop.orders",), {Effect.DATA_UPDATE}),
        (
            "UPDATE users u, orders o SET u.name = 'x', total = 1",
            ("shop.users", "shop.orders"),
            {Effect.DATA_UPDATE, Effect.DATA_SELECT},
        ),
        ("DELETE FROM orders", ("shop.orders",), {Effect.DATA_DELETE}),
        (
            "DELETE u, o FROM users u JOIN orders o ON u.id = o.id",
            ("shop.users", "shop.orders"),
            {Effect.DATA_DELETE, Effect.DATA_SELECT},
        ),
        (
            "DELETE FROM o USING orders o JOIN users u ON u.id = o.id",
            ("shop.orders",),
            {Effect.DATA_DELETE, Effect.DATA_SELECT},
        ),
        (
            "UPDATE v_users SET n = 1 WHERE id = 1",
            ("shop.v_users", "shop.users"),
            {Effect.DATA_UPDATE, Effect.DATA_SELECT},
        ),
    ],
)
def test_writes(text: str, writes: tuple[str, ...], effects: set[Effect]) -> None:
    analysis = of(text)
    assert sorted(analysis.writes) == sorted(writes)
    assert analysis.effects == effects, analysis.why


@pytest.mark.parametrize(
    ("text", "predicates"),
    [
        ("SELECT id FROM users WHERE ssn = '1'", {"shop.users.ssn"}),
        ("SELECT id FROM users u WHERE u.ssn LIKE '1%' AND 1", {"shop.users.ssn"}),
        ("SELECT u.id FROM users u JOIN orders o ON u.email = o.total", {"shop.users.email", "shop.orders.total"}),
        ("SELECT 1 FROM users JOIN orders USING (id)", {"shop.users.id", "shop.orders.id"}),
        ("SELECT name FROM users GROUP BY ssn", {"shop.users.ssn"}),
        ("SELECT name FROM users ORDER BY ssn", {"shop.users.ssn"}),
        ("SELECT name, ssn FROM users ORDER BY 2", {"shop.users.ssn"}),
        ("SELECT ssn AS s FROM users ORDER BY s", {"shop.users.ssn"}),
        ("SELECT COUNT(*) FROM users HAVING MAX(ssn) > 1", {"shop.users.ssn"}),
        ("SELECT RANK() OVER (ORDER BY ssn) FROM users", {"shop.users.ssn"}),
        ("SELECT * FROM (SELECT ssn AS s FROM users) t WHERE s = 1", {"shop.users.ssn"}),
        ("WITH c(s) AS (SELECT ssn FROM users) SELECT 1 FROM c WHERE s = 1", {"shop.users.ssn"}),
        ("SELECT 1 FROM v_users WHERE n = 1", {"shop.v_users.n", "shop.users.ssn"}),
        ("DELETE FROM users WHERE ssn = 1", {"shop.users.ssn"}),
        (
            "SELECT 1 FROM orders o WHERE EXISTS (SELECT 1 FROM users u WHERE u.ssn = o.id)",
            {"shop.users.ssn", "shop.orders.id"},
        ),
        # behind a set operation, or brackets
        ("SELECT ssn, id FROM users UNION ALL SELECT '3', 0 ORDER BY 1", {"shop.users.ssn"}),
        ("SELECT id, ssn AS s FROM users UNION ALL SELECT 0, '3' ORDER BY s LIMIT 1", {"shop.users.ssn"}),
        ("SELECT id FROM (SELECT id, ssn FROM users UNION ALL SELECT 0, '3' ORDER BY 2 LIMIT 1) t", {"shop.users.ssn"}),
        ("SELECT * FROM users, hr.users u UNION ALL SELECT 1 ORDER BY 1", {"shop.users.*"}),
        ("(SELECT id, ssn FROM users) ORDER BY (2)", {"shop.users.ssn"}),
        # a number in another form
        ("SELECT ssn, COUNT(*) FROM users GROUP BY (1)", {"shop.users.ssn"}),
        ("SELECT ssn, COUNT(*) FROM users GROUP BY TRUE WITH ROLLUP", {"shop.users.ssn"}),
        ("SELECT ssn, id FROM users ORDER BY -(-1)", {"shop.users.ssn"}),
        ("SELECT ssn, id FROM users ORDER BY id, ? DESC", {"shop.users.ssn"}),
        # what the list calls so, in its windows and its inner queries
        ("SELECT ssn AS name, RANK() OVER (ORDER BY name) FROM users", {"shop.users.ssn"}),
        ("SELECT COUNT(*) OVER (PARTITION BY s), ssn = '1' AS s FROM users", {"shop.users.ssn"}),
        ("SELECT ssn = '1' AS s, EXISTS(SELECT 1 FROM orders WHERE s) FROM users", {"shop.users.ssn"}),
        ("SELECT id FROM (SELECT id, ssn AS s, (SELECT (SELECT s)) AS k FROM users) t ORDER BY k", {"shop.users.ssn"}),
        ("SELECT u.*, ssn AS s FROM users u, (SELECT 1) U ORDER BY s", {"shop.users.ssn"}),
        # each turn of a recursive query carries a value one column further
        (
            "WITH RECURSIVE r(a, b, c) AS (SELECT 1, 2, ssn FROM users UNION ALL SELECT b, c, 3 FROM r)"
            " SELECT 1 FROM r WHERE a = 1",
            {"shop.users.ssn"},
        ),
        (
            "WITH RECURSIVE r(a, b) AS (SELECT 1, ssn FROM users UNION ALL SELECT b, 2 FROM r WHERE a <> 1) SELECT 1",
            {"shop.users.ssn"},
        ),
        ("SELECT id FROM made WHERE sum = 1", {"shop.made.sum", "shop.made.a"}),
        ("SELECT id FROM made ORDER BY given", {"shop.made.given", "shop.made.a", "shop.made.id"}),
    ],
)
def test_predicates(text: str, predicates: set[str]) -> None:
    analysis = of(text)
    assert predicates <= set(analysis.predicates)
    assert not analysis.unknown, analysis.why


def test_a_common_table_expression_may_hide_a_table_from_those_before_it() -> None:
    text = (
        "WITH RECURSIVE a AS (SELECT id FROM orders), {} AS (SELECT ssn AS id FROM users) SELECT 1 FROM a WHERE id = 1"
    )
    assert of(text.format("orders")).unknown
    assert not of(text.format("later")).unknown


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ssn AS name, name AS x FROM users ORDER BY x",
        "SELECT ssn, RANK() OVER (ORDER BY id) FROM users ORDER BY 2 + 0, NULL, '1', RAND()",
        "SELECT ssn, name FROM users UNION ALL SELECT 1, 2 ORDER BY name, 2",
        "SELECT ssn AS s, (SELECT MAX(id) FROM orders WHERE id = users.id) FROM users",
    ],
)
def test_what_is_only_shown_is_no_predicate(text: str) -> None:
    assert "shop.users.ssn" not in of(text).predicates


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("SELECT name FROM users", ("shop.users.name",)),
        ("SELECT users.name, shop.users.ssn FROM users", ("shop.users.name", "shop.users.ssn")),
        ("SELECT * FROM users", ("shop.users.*",)),
        ("SELECT o.* FROM users u, orders o", ("shop.orders.*",)),
        ("SELECT NAME FROM users", ("shop.users.name",)),
        ("SELECT 'name' FROM users", ()),
    ],
)
def test_columns(text: str, columns: tuple[str, ...]) -> None:
    assert of(text).columns == columns


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("SELECT 1", Where.NONE),
        ("DELETE FROM users", Where.MISSING),
        ("DELETE FROM users LIMIT 1", Where.MISSING),
        ("DELETE FROM users WHERE id = 1", Where.PRESENT),
        ("DELETE FROM users WHERE 1", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE 1 = 1", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE 'a' = 'a'", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE id = id", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE id = 1 OR 1 = 1", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE (id = 1) OR (TRUE)", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE id = 1 AND 1 = 1", Where.PRESENT),
        ("DELETE FROM users WHERE NOT FALSE", Where.ALWAYS_TRUE),
        ("DELETE FROM users WHERE 1 = 0", Where.PRESENT),
        ("UPDATE users SET name = 'x'", Where.MISSING),
        ("UPDATE users u JOIN orders o ON u.id = o.id SET name = 'x'", Where.PRESENT),
        ("UPDATE users u LEFT JOIN orders o ON u.id = o.id SET name = 'x'", Where.MISSING),
        ("UPDATE users SET name = 'x' WHERE id = ?", Where.PRESENT),
    ],
)
def test_where(text: str, where: Where) -> None:
    assert of(text).where is where


@pytest.mark.parametrize(
    "text",
    [
        "SELECT wipe()",
        "SELECT shop.wipe()",
        "SELECT `wipe`()",
        "SELECT WIPE ()",
        "SELECT nosuch(1)",
        "SELECT hr.lower('a')",
        "SELECT * FROM v_wipe",
        "SELECT * FROM v_over",
        "SELECT * FROM v_hidden",
        "SELECT * FROM nosuch",
        "SELECT * FROM users WHERE wipe()",
        "SELECT `count`(1)",
        "SELECT count (1)",
        "WITH f(a) AS (SELECT 1) SELECT f(1)",
        "EXPLAIN SELECT wipe()",
        "DO wipe()",
        "INSERT INTO orders (id) VALUES (wipe())",
        "INSERT INTO orders (id) VALUES (1) ON DUPLICATE KEY UPDATE id = wipe()",
        "INSERT INTO audit VALUES (1, 'x')",
        "INSERT INTO unsure VALUES (1)",
        "UPDATE orders SET id = wipe() WHERE id = 1",
        "SET @a = wipe()",
        "DELETE FROM orders WHERE id = wipe()",
        "SHOW TABLES WHERE wipe()",
        "SET max_sort_length = (SELECT wipe())",
        "CALL p()",
        "CALL nosuch()",
        "SELECT * FROM users ORDER BY wipe()",
        "SELECT 1 GROUP BY wipe()",
        "SELECT 1 LIMIT wipe()",
        "SELECT {fn wipe()}",
        "SELECT SUM(1) OVER (ORDER BY wipe())",
        "SELECT JSON_ARRAYAGG(wipe())",
        "SELECT CASE WHEN wipe() THEN 1 END",
    ],
)
def test_what_runs_code_or_is_not_known_never_counts_as_harmless(text: str) -> None:
    effects = of(text).effects
    assert effects & {Effect.EXEC_CALL, Effect.EXEC_PROCEDURE, Effect.UNKNOWN}, effects


def test_functions_are_named() -> None:
    assert of("SELECT wipe()").functions == ("shop.wipe",)
    assert of("SELECT wipe()").effects == {Effect.DATA_SELECT, Effect.EXEC_CALL}
    assert of("CALL p()").functions == ("shop.p",)
    assert of("INSERT INTO audit VALUES (1, 'x')").effects == {Effect.DATA_INSERT, Effect.EXEC_CALL}


def test_a_function_that_one_version_lacks_may_be_a_stored_one() -> None:
    every = shop("mysql", routines_known=True, loadable_known=True)
    some = shop("mysql", routines_known=False, loadable_known=True)
    state = session("mysql")
    assert not judged("SELECT MD5('a')", state, every).analysis.unknown
    assert judged("SELECT MD5('a')", state, some).analysis.unknown
    assert not judged("SELECT UPPER('a')", state, some).analysis.unknown


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("SELECT 1 INTO OUTFILE '/x'", Effect.FILE_WRITE),
        ("SELECT 1 FROM users INTO DUMPFILE '/x'", Effect.FILE_WRITE),
        ("SELECT LOAD_FILE('/x')", Effect.FILE_READ),
        ("SELECT SLEEP(1)", Effect.ADMIN_DOS),
        ("SELECT BENCHMARK(1, 1)", Effect.ADMIN_DOS),
        ("SELECT GET_LOCK('a', 1)", Effect.ADMIN_LOCK),
        ("SELECT * FROM users FOR UPDATE", Effect.ADMIN_LOCK),
        ("SELECT * FROM users FOR SHARE", Effect.ADMIN_LOCK),
        ("SELECT * FROM users LOCK IN SHARE MODE", Effect.ADMIN_LOCK),
        ("SELECT * FROM mysql.user", Effect.SECRET_READ),
        ("SELECT * FROM information_schema.PROCESSLIST", Effect.SECRET_READ),
        ("SELECT * FROM information_schema.processlist", Effect.SECRET_READ),
        ("SELECT /*+ SET_VAR(sql_mode='') */ 1", Effect.SESSION_PARSE_STATE),
        ("SELECT NEXTVAL(s)", Effect.DATA_WRITE),
        ("UPDATE mysql.user SET User = 'x'", Effect.ADMIN_CONFIG),
    ],
)
def test_effects_of_what_stands_inside(text: str, effect: Effect) -> None:
    assert effect in of(text).effects


def test_the_schema_only_tables_are_no_secret() -> None:
    assert of("SELECT * FROM information_schema.tables").effects == {Effect.DATA_SELECT}


@pytest.mark.parametrize(
    ("text", "cacheable"),
    [
        ("SELECT name FROM users WHERE id = 1", Cacheable.SHAPE),
        ("INSERT INTO orders VALUES (1, 2, 3)", Cacheable.SHAPE),
        ("DELETE FROM users WHERE 1 = 1", Cacheable.TEXT),
        ("SELECT name FROM users ORDER BY 1", Cacheable.TEXT),
        ("SET sql_mode = ''", Cacheable.TEXT),
        ("EXECUTE s", Cacheable.NO),
        ("HANDLER users READ FIRST", Cacheable.NO),
    ],
)
def test_how_far_an_analysis_may_be_shared(text: str, cacheable: Cacheable) -> None:
    assert of(text).cacheable is cacheable


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("SELECT 1, name, COUNT(*), COUNT(ssn), ssn IS NULL, LENGTH(ssn) FROM users", {0, 2, 3, 4}),
        ("SELECT *, 1 FROM users", set()),
        ("SELECT 1 + 2, (SELECT ssn FROM users LIMIT 1), @v", {0}),
    ],
)
def test_clear_columns(text: str, clear: set[int]) -> None:
    assert of(text).clear_columns == clear


def test_a_temporary_table_brings_its_sources() -> None:
    state = apply(session(), "CREATE TEMPORARY TABLE tt AS SELECT ssn AS s FROM users")
    analysis = judged("SELECT s FROM tt", state).analysis
    assert set(analysis.reads) == {"shop.tt", "shop.users"}
    assert not analysis.unknown
    apply(state, "INSERT INTO tt SELECT total FROM orders")
    assert "shop.orders" in judged("SELECT s FROM tt", state).analysis.reads
    apply(state, "DROP TABLE tt")
    assert judged("SELECT s FROM tt", state).analysis.unknown


def test_a_variable_brings_its_sources() -> None:
    state = apply(session(), "SET @v = (SELECT ssn FROM users LIMIT 1)")
    assert judged("SELECT @v", state).analysis.reads == ("shop.users",)
    apply(state, "SELECT total FROM orders LIMIT 1 INTO @w")
    assert set(judged("SELECT CONCAT(@V, @w)", state).analysis.reads) == {"shop.users", "shop.orders"}


def test_names_without_a_schema_need_a_default_database() -> None:
    assert judged("SELECT * FROM users", session(database=None)).analysis.unknown
    assert judged("SELECT * FROM hr.users", session(database=None)).analysis.reads == ("hr.users",)
    assert judged("SELECT * FROM users", session(database="hr")).analysis.reads == ("hr.users",)


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
@pytest.mark.parametrize(
    "word", ["HIGH_PRIORITY", "SQL_BIG_RESULT", "SQL_CALC_FOUND_ROWS", "SQL_SMALL_RESULT", "STRAIGHT_JOIN"]
)
def test_a_modifier_before_a_bracket_is_no_function(word: str, flavour: str) -> None:
    found = judged(f"SELECT {word} (id), (SELECT 1) FROM orders", session(flavour)).analysis
    assert (found.effects, found.functions) == (frozenset({Effect.DATA_SELECT}), ())
