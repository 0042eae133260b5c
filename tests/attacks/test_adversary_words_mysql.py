"""Words that the servers take for names and sqlglot for syntax: whoever uses one is seen to use that name.

Each of these showed a masked value once, on real servers; `test_adversary_mysql.py` sends them to some. The lists of
words are what MySQL 9.7 and MariaDB 10.11 answer when they are asked for `SELECT word FROM (SELECT 1 AS `word`) x`.
"""

from __future__ import annotations

import itertools

import pytest

from protocols.mysql.catalog import Catalog
from protocols.mysql.lineage import Lineage
from protocols.mysql.settings import words
from protocols.mysql.statements import analyse
from protocols.mysql.statements.keywords import QUERY_WORDS, RESERVED, RESERVED_BY_MARIADB, RESERVED_BY_MYSQL
from tests.support.mysql_adversary import NAMES_THAT_ARE_WORDS, VERSIONS, judged, session, shows_card, table, world

# of the words that queries are made of, those that are names as well
NAMES = words(
    """
    AGAINST ANY BOOLEAN CAST COLUMNS CURRENT DATE DATETIME DAY DUPLICATE END ERROR ESCAPE EXPANSION FOLLOWING FULL HOUR
    JSON LANGUAGE MEMBER MICROSECOND MINUTE MODE MONTH NCHAR NESTED ORDINALITY PATH PRECEDING QUARTER QUERY ROLLUP
    SECOND SIGNED SOME SOUNDS TEXT TIME TIMESTAMP UNBOUNDED UNKNOWN USER VALUE WEEK WITHIN YEAR
    """
)
ONLY = {
    "mysql": words("CURRENT_ROLE OFFSET RETURNING"),
    "mariadb": words(
        """
        CUME_DIST DATABASE DENSE_RANK EMPTY FIRST_VALUE GROUPING GROUPS JSON_TABLE LAG LAST_VALUE LATERAL LEAD NTH_VALUE
        NTILE OF PERCENT_RANK RANK ROW SCHEMA WINDOW
        """
    ),
}
FLAVOURS = sorted(ONLY)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_word_that_is_a_name_counts_as_reserved(flavour: str) -> None:
    reserved = RESERVED - (RESERVED_BY_MARIADB if flavour == "mysql" else RESERVED_BY_MYSQL)
    assert (NAMES | ONLY[flavour]) & reserved == frozenset()
    assert QUERY_WORDS - reserved == NAMES | ONLY[flavour]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("text", NAMES_THAT_ARE_WORDS)
def test_what_showed_a_card_once(text: str, flavour: str) -> None:
    state = session(flavour)
    # to MariaDB these are no names
    other = flavour == "mariadb" and ("sql_cache" in text or "current_role" in text)
    assert other or shows_card(text, state) or judged(text, state).unknown


FORMS = (
    "SELECT {w} id", "SELECT {w} 'y'", "SELECT {w} `y`", "SELECT {w} AS y", "SELECT -{w} y", "SELECT 1 + {w} 'y'",
    "SELECT NOT {w} id", "SELECT concat({w})", "SELECT concat('', {w}) {w}", "SELECT CASE 1 WHEN 1 THEN {w} END {w}",
    "SELECT ({w})", "SELECT DISTINCT {w} id", "SELECT {w} LIKE 'a' ESCAPE 'b'", "SELECT {w} + INTERVAL 1 DAY",
    "SELECT if({w}, 1, {w})", "SELECT (SELECT {w} 'y')", "SELECT SQL_NO_CACHE {w} id", "SELECT max({w}) OVER ()",
)  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("form", FORMS)
def test_a_column_by_any_name_is_that_column(form: str, flavour: str) -> None:
    for word in NAMES | ONLY[flavour]:
        name = word.lower()
        text = f"{form.format(w=name)} FROM (SELECT concat(card) AS `{name}`, 1 AS id FROM customers) x"
        state = session(flavour)
        # `DATE 'y'` is a literal
        literal = "'y'" in form and word in ("DATE", "TIME", "TIMESTAMP")
        assert literal or shows_card(text, state) or judged(text, state).unknown, text


TABLES = (
    "SELECT concat({w}.card) FROM customers {w}", "SELECT concat(card) FROM customers AS {w} JOIN orders",
    "WITH {w} AS (SELECT card FROM customers) SELECT concat(card) FROM {w}",
    "WITH {w}({v}) AS (SELECT card FROM customers) SELECT concat({v}) {w} FROM {w}",
    "SELECT {v} {w} FROM (SELECT concat(card) {v} FROM customers) {w}",
    "SELECT {v} FROM (SELECT 1 AS {v}) {w} UNION SELECT {v} FROM (SELECT concat(card) {v} FROM customers) {w}",
)  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_table_by_any_name_is_that_table(flavour: str) -> None:
    names = sorted(NAMES | ONLY[flavour])
    for form, (word, other) in itertools.product(TABLES, zip(names, reversed(names), strict=True)):
        text = form.format(w=word.lower(), v=other.lower())
        state = session(flavour)
        assert shows_card(text, state) or judged(text, state).unknown, text


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_columns_with_such_names_are_not_mistaken_for_others(flavour: str) -> None:
    """Each is read, and shown as itself: a table that has them all."""
    names = sorted(w.lower() for w in NAMES | ONLY[flavour])
    catalog = Catalog("v1", flavour, VERSIONS[flavour], relations=(table("shop", "t", *names),))
    state = session(flavour)
    for one in names:
        text = f"SELECT t.{one}, {one} FROM t WHERE {one} = 1 GROUP BY {one} ORDER BY {one} DESC"
        statement = analyse(text.encode(), state, catalog).statements[0]
        assert not statement.analysis.unknown, (one, statement.analysis.why)
        shown = [flow.copied for _, flow, _ in Lineage(catalog, state).outputs(statement.tree)]
        assert shown == [frozenset({f"shop.t.{one}"})] * 2, one
        assert statement.analysis.predicates == (f"shop.t.{one}",)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT DATE '2020-01-01', TIME '10:00', TIMESTAMP '2020-01-01 10:00:00', CAST(total AS DATE) FROM orders",
        "SELECT CAST(total AS DATETIME), CAST(total AS SIGNED), CAST(total AS YEAR), CAST('1' AS JSON) FROM orders",
        "SELECT CONVERT(total, DATE), CONVERT(total, SIGNED), GET_FORMAT(DATE, 'ISO') FROM orders",
        "SELECT EXTRACT(DAY FROM total), TIMESTAMPDIFF(SECOND, total, NOW()), total + INTERVAL 1 DAY FROM orders",
        "SELECT total + INTERVAL id DAY day, total - INTERVAL (id + 1) WEEK, total + INTERVAL -id HOUR FROM orders",
        "SELECT 1 = ANY (SELECT 1), 1 > SOME (SELECT 0), total IS NOT UNKNOWN, total IS UNKNOWN FROM orders",
        "SELECT total LIKE 'a' ESCAPE '!', total SOUNDS LIKE 'b', 17 MEMBER OF ('[17]') FROM orders",
        "SELECT sum(total) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM orders",
        "SELECT sum(total) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING) FROM orders",
        "SELECT sum(total) OVER w FROM orders WINDOW w AS (ORDER BY id) LIMIT 5 OFFSET 5",
        "SELECT status.id FROM orders status GROUP BY id WITH ROLLUP",
        "SELECT JSON_VALUE('{}', '$.a' RETURNING DATE NULL ON EMPTY ERROR ON ERROR)",
        "SELECT MATCH (total) AGAINST ('x' IN NATURAL LANGUAGE MODE WITH QUERY EXPANSION) FROM orders",
        "SELECT MATCH (total) AGAINST ('x' IN BOOLEAN MODE) FROM orders",
        "SELECT CASE id WHEN 1 THEN 2 END end, id value, id text, id mode, id path, id user FROM orders",
        "SELECT year, month, sum(value) FROM (SELECT 1 AS year, 2 AS month, 3 AS value) day GROUP BY year, month",
    ],
)
def test_the_grammar_itself_is_still_understood(text: str) -> None:
    found = judged(text)
    assert not found.unknown, found.why


def test_a_character_set_that_the_server_has_not_is_no_introducer() -> None:
    catalog = Catalog(
        "v1", "mariadb", VERSIONS["mariadb"], collations={45: ("utf8mb4_general_ci", "utf8mb4"), 8: ("l", "latin1")}
    )
    assert catalog.character_sets == {"utf8mb4", "latin1"}
    state = session("mariadb")
    for text, unknown in (
        ("SELECT _gb18030 'y' FROM (SELECT 1 AS _gb18030) x", True),
        ("SELECT _koi8r 'y'", True),
        ("SELECT _utf8mb4 'y', _latin1 'y', _utf8 'y', _gb18030 0x41", False),
    ):
        assert analyse(text.encode(), state, catalog).analysis.unknown is unknown
    assert world(flavour="mariadb").character_sets == frozenset()
