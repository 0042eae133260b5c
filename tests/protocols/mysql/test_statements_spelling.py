"""Forms of the grammars that are spelt anew for sqlglot: what they read stays seen, and nothing hides in them."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from tests.support.mysql_statements import HARMLESS, judged, session, shop

JSON = "JSON_TABLE((SELECT ssn FROM users LIMIT 1), '$[*]' COLUMNS ("


@pytest.mark.parametrize(
    ("flavour", "text", "reads"),
    [
        ("both", f"SELECT * FROM {JSON}a INT PATH '$' DEFAULT '1' ON EMPTY ERROR ON ERROR)) t", {"shop.users"}),
        ("both", f"SELECT t.b FROM {JSON}NESTED PATH '$.x' COLUMNS (b INT PATH '$'), c INT EXISTS PATH '$')) t",
         {"shop.users"}),
        ("both", "SELECT 1 FROM users WHERE MATCH name, users.email AGAINST ('x' IN BOOLEAN MODE)", {"shop.users"}),
        ("both", "WITH c AS (SELECT 1) (SELECT id FROM users) ORDER BY 1", {"shop.users"}),
        ("both", "SELECT CAST(ssn AS CHAR(3) CHARACTER SET binary), CAST(id AS NATIONAL CHAR) FROM users",
         {"shop.users"}),
        ("both", "SELECT 1 AS national, CAST('1' AS DOUBLE PRECISION), DEFAULT(shop.users.id) FROM users",
         {"shop.users"}),
        ("mysql", "TABLE users UNION TABLE users", {"shop.users"}),
        ("mysql", "SELECT 1 FROM orders WHERE id IN (TABLE hr.users)", {"shop.orders", "hr.users"}),
        ("mysql", "SELECT name FROM users GROUP BY ROLLUP (name, (SELECT MAX(id) FROM orders))",
         {"shop.users", "shop.orders"}),
        ("mysql", "SELECT LAG (id) RESPECT NULLS OVER (ORDER BY id), ROW_NUMBER () OVER () FROM users", {"shop.users"}),
        ("mysql", "EXPLAIN FORMAT=JSON INTO @x FOR SCHEMA hr SELECT * FROM users", {"hr.users"}),
        ("mariadb", "SELECT name FROM users GROUP BY name ASC, (SELECT 1 FROM orders) DESC WITH ROLLUP",
         {"shop.users", "shop.orders"}),
        ("mariadb", "SELECT id FROM users ORDER BY id OFFSET 1 ROW FETCH FIRST 2 ROWS WITH TIES", {"shop.users"}),
        ("mariadb", "SELECT id FROM users FOR SYSTEM_TIME AS OF TIMESTAMP '2020-01-01' u JOIN orders USING (id)",
         {"shop.users", "shop.orders"}),
        ("mariadb", "SELECT GROUP_CONCAT(name ORDER BY id SEPARATOR ',' LIMIT 1 OFFSET 2) FROM users", {"shop.users"}),
        ("mariadb", "WITH RECURSIVE t(a) AS (SELECT id FROM users UNION SELECT a FROM t) CYCLE a RESTRICT SELECT 1",
         {"shop.users"}),
    ],
)  # fmt: skip
def test_what_is_spelt_anew_passes_with_all_that_it_reads(flavour: str, text: str, reads: set[str]) -> None:
    for server in ("mysql", "mariadb") if flavour == "both" else (flavour,):
        analysis = judged(text, session(server), shop(server)).analysis
        assert analysis.effects <= HARMLESS, (server, analysis.why)
        assert set(analysis.reads) == reads


@pytest.mark.parametrize(
    ("flavour", "text"),
    [
        ("both", "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH '$' DEFAULT SLEEP(1) ON EMPTY)) t"),
        ("both", "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH LOAD_FILE('x'))) t"),
        ("both", "SELECT * FROM JSON_TABLE(LOAD_FILE('x'), '$' COLUMNS (a INT PATH '$' NULL ON EMPTY)) t"),
        ("both", "WITH c AS (SELECT 1) (SELECT id FROM users INTO OUTFILE 'x')"),
        ("both", "WITH c AS (SELECT 1) (SELECT SLEEP(1))"),
        ("both", "SELECT CAST(SLEEP(1) AS CHAR CHARACTER SET binary)"),
        ("mariadb", "SELECT * FROM users FOR SYSTEM_TIME AS OF SLEEP(1)"),
        ("mariadb", "SELECT * FROM users FOR SYSTEM_TIME AS OF (SELECT pay FROM hr.users)"),
        ("mariadb", "SELECT * FROM users FOR SYSTEM_TIME BETWEEN '2020-01-01' AND wipe()"),
        ("mariadb", "SELECT name FROM users GROUP BY ROLLUP (name)"),  # a stored function, for this server
        ("mariadb", "SELECT id FROM users OFFSET SLEEP(1) ROWS"),
        ("mysql", "SELECT name FROM users GROUP BY ROLLUP (SLEEP(1))"),
        ("mysql", "EXPLAIN FOR SCHEMA mysql SELECT * FROM user"),
        ("mysql", "SELECT 1 FROM orders WHERE id IN (TABLE mysql.user)"),
        ("mariadb", "SELECT AGAINST()"),
        ("mariadb", "SELECT {fn AGAINST('a')}"),
        ("mariadb", "SELECT OF(1)"),
        ("mariadb", "SELECT COLUMNS(1)"),
        ("mariadb", "SELECT 1 LIKE ESCAPE(1)"),
        ("mariadb", "SELECT JSON_TABLE()"),
        ("mariadb", "SELECT 1 + JSON_TABLE('a', 'b')"),
        ("mariadb", "SELECT ROW_NUMBER (1)"),
    ],
)
def test_nothing_hides_in_what_is_spelt_anew(flavour: str, text: str) -> None:
    for server in ("mysql", "mariadb") if flavour == "both" else (flavour,):
        assert not judged(text, session(server), shop(server)).analysis.effects <= HARMLESS


def test_a_secret_that_another_table_gets_stays_one() -> None:
    for text in (
        "UPDATE orders SET total = (SELECT authentication_string FROM mysql.user LIMIT 1)",
        "UPDATE orders SET total = 1 WHERE id = (SELECT COUNT(*) FROM mysql.user)",
        "DELETE FROM orders WHERE id IN (SELECT 1 FROM mysql.user)",
        "UPDATE orders o JOIN mysql.user u ON 1 SET o.total = 1",
    ):
        assert Effect.SECRET_READ in judged(text).analysis.effects


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "MATCH " * 8000,
        "SELECT CAST(1 AS CHAR SET " + ", CHAR SET " * 6000,
        "SELECT * FROM " + "JSON_TABLE(" * 6000,
        "SELECT * FROM JSON_TABLE('', '$' COLUMNS (" + "NESTED PATH '$' COLUMNS (" * 4000,
        "SELECT 1 FROM t " + ") CYCLE a" * 6000,
        "LOAD DATA INFILE 'x' INTO TABLE users SET name = " + "JSON_TABLE(" * 6000 + ")" * 6000,
        "SELECT 1 GROUP BY " + "(GROUP BY " * 4000,
        "SELECT 1 FROM t " + "FOR SYSTEM_TIME AS OF " * 4000,
        "SELECT " + "a, " * 8000 + "a AGAINST ('x')",
    ],
)
def test_strange_lengths_are_answered(text: str) -> None:
    for server in ("mysql", "mariadb"):
        assert Effect.UNKNOWN in judged(text, session(server), shop(server)).analysis.effects
