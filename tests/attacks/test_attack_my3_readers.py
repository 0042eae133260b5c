"""Where what is written anew for sqlglot, or what sqlglot makes of it, was not what the server reads.

Each of these showed a masked value, hid what a statement reads, or kept the gateway busy without end;
`test_attack_my3_servers.py` sends them to real servers.
"""

from __future__ import annotations

import pytest
from sqlglot.dialects.mysql import MySQL
from sqlglot.parser import Parser

from protocols.contract import ANYWHERE, Effect
from protocols.mysql.catalog import Catalog
from protocols.mysql.framing import Framer
from protocols.mysql.functions import FUNCTIONS
from protocols.mysql.lineage import Lineage, Untraceable
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from protocols.mysql.statements.keywords import QUERY_WORDS
from tests.support.mysql_adversary import VERSIONS, applied, judged, session, shows_card, table, world

FLAVOURS = ("mariadb", "mysql")
CARD = "FROM (SELECT concat(card) AS `{0}`, 1 AS `{1}` FROM customers WHERE id = 1) x"


def shown(text: str, index: int, state: SessionState) -> bool:
    """Whether a column of the result may hold a card, or the statement is not let pass as harmless."""
    catalog = world(flavour=state.flavour)
    statement = analyse(text.encode(), state, catalog).statements[0]
    if statement.analysis.unknown or statement.tree is None:
        return True
    try:
        flow = Lineage(catalog, state).outputs(statement.tree)[index].flow
    except Untraceable:
        return True
    return flow.anything or "shop.customers.card" in flow.copied | flow.computed


# ---------------------------------------------------------------- names that were taken for something else


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("text", "index"),
    [
        # `national nchar` is a type in CAST alone; anywhere else a column and its other name
        ("SELECT 1 z, national nchar " + CARD.format("national", "nchar"), 1),
        ("SELECT 1 z, national char_ " + CARD.format("national", "char_"), 1),
        ("SELECT concat(1, national) AS nchar " + CARD.format("national", "nchar"), 0),
        ("SELECT (SELECT ascii FROM LATERAL (SELECT 1 z, nchar ascii) l) " + CARD.format("nchar", "ascii"), 0),
        ("SELECT (SELECT byte FROM LATERAL (SELECT 1 z, nchar byte) l) " + CARD.format("nchar", "byte"), 0),
        # N"x" is a column and its other name: only N'x' is a string
        ('SELECT n"x" ' + CARD.format("n", "m"), 0),
        ('SELECT N"x" ' + CARD.format("n", "m"), 0),
        # to MariaDB `row` is a name, behind VALUES too
        ("VALUES (1, 2) UNION SELECT 1, row x " + CARD.format("row", "x"), 1),
        ("VALUES (1, (SELECT row x " + CARD.format("row", "x") + "))", 1),
        ("VALUES ROW(1, 2) UNION SELECT 1, row x " + CARD.format("row", "x"), 1),
        # the other name of a table, behind a moment
        (
            "SELECT (SELECT concat(date.card) FROM customers FOR SYSTEM_TIME AS OF NOW() date LIMIT 1) "
            "FROM (SELECT 1 AS card) date",
            0,
        ),
        (
            "SELECT (SELECT concat(transaction.card) FROM customers FOR SYSTEM_TIME FROM NOW() TO NOW() transaction "
            "LIMIT 1) FROM (SELECT 1 AS card) transaction",
            0,
        ),
    ],
)
def test_a_name_that_is_half_of_a_form_elsewhere(text: str, index: int, flavour: str) -> None:
    assert shown(text, index, session(flavour))


@pytest.mark.parametrize(
    ("flavour", "text"),
    [
        ("mysql", "SELECT CAST(total AS NATIONAL CHAR(3)), CAST(total AS CHAR(3) CHARACTER SET binary) FROM orders"),
        ("mysql", "SELECT CAST(total AS CHAR ASCII), CONVERT(total, CHAR(3) CHARACTER SET utf8mb4) FROM orders"),
        (
            "mysql",
            "SELECT CONVERT(total, DECIMAL(10, 2)), CAST(total AS DATETIME(6)), CAST(id AS BINARY(3)) FROM orders",
        ),
        ("mysql", "SELECT CONVERT(total USING utf8mb4), CHAR(65, id USING `latin1`), BINARY total FROM orders"),
        ("mysql", "SELECT DATE(total), TIME(total), YEAR(total), TIMESTAMP(total, '1:00'), BINARY(total) FROM orders"),
        ("mysql", "SELECT id FROM orders WHERE total > SOME (SELECT total FROM orders) UNION (SELECT 1)"),
        ("mysql", "VALUES ROW(1, 2), ROW(3, 4) ORDER BY 1"),
        ("mysql", "SELECT 1 FROM orders FOR UPDATE OF orders NOWAIT"),
        ("mysql", "SELECT o.id FROM orders o, work.notes n FOR SHARE OF o, n SKIP LOCKED"),
        ("mysql", "SELECT N'x', n'y', _utf8mb4 'z', DATE_FORMAT(total, '%Y') 'year' FROM orders"),
        ("mysql", "WITH RECURSIVE w (a, b) AS (SELECT 1, 2 UNION ALL SELECT a, b FROM w) SELECT a, b FROM w"),
        ("mysql", "SELECT @a, @@sql_mode, @@session.time_zone, ? FROM orders"),
        ("mariadb", "VALUES (1, 2), (3, 4) ORDER BY 1"),
        ("mariadb", "SELECT DATE_FORMAT(total, '%M', 'de_DE') FROM orders"),
        ("mariadb", "SELECT id FROM orders FOR SYSTEM_TIME AS OF NOW() o JOIN work.notes n USING (id)"),
        ("mariadb", "SELECT id FROM orders FOR SYSTEM_TIME BETWEEN TIMESTAMP '2020-01-01' AND CURRENT_TIMESTAMP o"),
    ],
)
def test_the_forms_themselves_are_still_understood(flavour: str, text: str) -> None:
    found = judged(text, session(flavour))
    assert not found.unknown, found.why


# ---------------------------------------------------------------- what sqlglot drops

LOCALE = "(SELECT if(card LIKE '4%', 'de_DE', 'fr_FR') FROM customers LIMIT 1)"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    "text",
    [
        f"SELECT DATE_FORMAT('2020-01-01', '%M', {LOCALE})",
        # a literal, or the name of a column, of the same spelling
        f"SELECT DATE_FORMAT('2020-01-01', '%M', {LOCALE}), 'card', 'customers'",
        f"SELECT DATE_FORMAT('2020-01-01', '%M', {LOCALE}), 1 'card', 2 'customers'",
        "SELECT DATE_FORMAT('2020-01-01', '%M', x.`%B`), 1 '%B' FROM (SELECT card AS `%B` FROM customers) x, orders x2",
        "WITH card (card) AS (SELECT 1), customers (customers) AS (SELECT 1) "
        "SELECT DATE_FORMAT('2020-01-01', '%M', (SELECT card FROM shop.customers LIMIT 1))",
        "SELECT DATE_FORMAT('2020-01-01', '%M', DAY), 1 + INTERVAL 1 DAY FROM (SELECT card AS DAY FROM customers) x",
        "SELECT DATE_FORMAT('2020-01-01', '%M', @@identity)",
        "SELECT DATE_FORMAT('2020-01-01', '%M', @a), @a",
        "SELECT DATE_FORMAT('2020-01-01', '%M', ?)",
    ],
)
def test_nothing_is_dropped_unnoticed(text: str, flavour: str) -> None:
    assert judged(text, session(flavour)).unknown


# ---------------------------------------------------------------- what sqlglot reads twice

TYPES = sorted(
    word
    for word, kind in MySQL.tokenizer_class.KEYWORDS.items()
    if kind in Parser.TYPE_TOKENS and word.isascii() and word.replace("_", "a").isalnum()
)


@pytest.mark.parametrize("form", ["{w}({x})", "{w}((SELECT {x}))", "1 + {w}(1, {x})", "s.{w}({x})", "`{w}`({x})"])
def test_words_for_types_do_not_double_the_time_of_each_nesting(form: str) -> None:
    """Of a text of 400 bytes it was hours: this test then does not end."""
    for word in (*TYPES, "SOME", "ANY"):
        text = "1"
        for _ in range(25):
            text = form.format(w=word, x=text)
        judged(f"SELECT {text}")


@pytest.mark.parametrize("form", ["CONVERT(1, {w}({x}))", "CAST(1 AS {w}({x}))"])
def test_nor_do_types_whose_length_is_an_expression(form: str) -> None:
    for word in TYPES:
        text = "1"
        for _ in range(25):
            text = form.format(w=word, x=text)
        assert judged(f"SELECT {text}").unknown


def test_every_word_for_a_type_that_is_a_function_is_still_one() -> None:
    for word in sorted(set(TYPES) & FUNCTIONS & QUERY_WORDS - {"INTERVAL"}):
        assert "shop.orders.total" in judged(f"SELECT {word}(total) FROM orders").columns, word


def test_functions_inside_functions_that_keep_values_do_not_double_the_time_either() -> None:
    text = "f(" * 50 + "card" + ")" * 50
    found = judged(f"SELECT {text} FROM customers")
    assert any(s.target == ANYWHERE and s.sources[0].startswith("shop.customers.") for s in found.stores)


def test_a_function_in_quotes_is_the_same_function() -> None:
    """`LAST_INSERT_ID` gives the id that was made of a masked value, however it is spelt."""
    catalog, state = world(), session()
    for text in ("SELECT LAST_INSERT_ID()", "SELECT `LAST_INSERT_ID`()", "SELECT `last_insert_id`() + 0"):
        tree = analyse(text.encode(), state, catalog).statements[0].tree
        assert Lineage(catalog, state, insert_id=True).outputs(tree)[0].flow.anything, text


def test_a_command_that_comes_in_tiny_pieces_takes_little_more_than_its_length() -> None:
    """Each piece that is kept takes forty bytes of room."""
    framer = Framer(1 << 24, restart=True)
    framer.feed((100_000).to_bytes(3, "little") + b"\0")
    for _ in range(40_000):
        framer.feed(b"xy")
    assert framer.buffered == 80_004
    assert len(framer._parts) < 10_000
    assert framer.feed(b"x" * 20_000)[1] == [(0, 0, 100_004)]


# ---------------------------------------------------------------- what is read, and where it goes


@pytest.mark.parametrize("place", ["INTO OUTFILE '/tmp/x'", "INTO DUMPFILE '/tmp/x'"])
@pytest.mark.parametrize("lock", ["FOR UPDATE OF orders", "FOR SHARE OF shop.orders", "FOR UPDATE OF orders NOWAIT"])
def test_a_file_behind_a_lock_is_written(lock: str, place: str) -> None:
    found = judged(f"SELECT id FROM orders {lock} {place}")
    assert Effect.FILE_WRITE in found.effects or found.unknown


@pytest.mark.parametrize("behind", ["", " orders,", " orders.", " (orders)", " 'orders'"])
def test_a_lock_is_of_tables(behind: str) -> None:
    assert judged(f"SELECT id FROM orders FOR UPDATE OF{behind}").unknown


@pytest.mark.parametrize("temporary", ["", "TEMPORARY "])
@pytest.mark.parametrize(
    "query",
    [
        "AS (TABLE customers)", "(TABLE customers)", "ENGINE=InnoDB TABLE customers", "AS ((TABLE customers))",
        "(a int) COMMENT 'x' TABLE customers", "IGNORE TABLE customers", "(x int) (TABLE customers)",
        "ENGINE=InnoDB VALUES ROW((SELECT card FROM customers LIMIT 1))",
    ],
)  # fmt: skip
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_a_table_is_made_of_is_read(flavour: str, query: str, temporary: str) -> None:
    found = judged(f"CREATE {temporary}TABLE made {query}", session(flavour))
    assert "shop.customers" in found.reads or found.unknown


@pytest.mark.parametrize("text", ["TABLE orders", "VALUES ROW(1)"])
def test_show_asks_no_query(text: str) -> None:
    assert judged(f"SHOW TABLES WHERE (1, 'a') < ({text} LIMIT 1)").unknown


# ---------------------------------------------------------------- guesses


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 FROM (SELECT '4000' INTERSECT SELECT left(card, 4) FROM customers) x",
        "SELECT 1 FROM (SELECT '4000' EXCEPT SELECT left(card, 4) FROM customers) x",
        "SELECT count(*) FROM (SELECT '4000' UNION SELECT left(card, 4) FROM customers) x",
        "SELECT count(*) FROM (SELECT '4000' UNION SELECT left(card, 4) FROM customers UNION ALL SELECT 1) x",
        "SELECT count(*) FROM (SELECT DISTINCT a FROM (SELECT 'x' a UNION ALL SELECT card FROM customers) y) x",
        "SELECT 1 FROM customers c, "
        "JSON_TABLE(if(c.card LIKE '4%', '[1, 2]', '[1]'), '$[*]' COLUMNS (x INT PATH '$')) j",
    ],
)
def test_rows_that_say_whether_a_guess_is_right_are_a_probe(text: str, flavour: str) -> None:
    assert "shop.customers.card" in judged(text, session(flavour)).predicates


def test_rows_that_are_only_put_together_are_none() -> None:
    assert judged("SELECT card FROM customers UNION ALL SELECT total FROM orders").predicates == ()


# ---------------------------------------------------------------- temporary tables

MADE = "CREATE TEMPORARY TABLE t (id int, total text)"
FILLED = "INSERT INTO t SELECT 1, card FROM customers"


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        # filled together with a change of the table that it is filled from
        ((MADE, "UPDATE t, customers c SET t.total = c.card, c.national_id = c.national_id"), "SELECT total FROM t"),
        (
            (MADE, "CREATE TEMPORARY TABLE u (b text)", "INSERT INTO u SELECT card FROM customers",
             "UPDATE t, u SET t.total = u.b, u.b = 'x'"),
            "SELECT total FROM t",
        ),
        # filled by the SET of a file that is loaded
        (
            (MADE, "LOAD DATA LOCAL INFILE 'x' INTO TABLE t (@d) SET total = (SELECT card FROM customers LIMIT 1)"),
            "SELECT total FROM t",
        ),
        # made once more, which does nothing
        ((MADE, FILLED, "CREATE TEMPORARY TABLE IF NOT EXISTS t (id int, total text)"), "SELECT total FROM t"),
        # under the name of a table that stays
        ((MADE, FILLED, "ALTER TABLE t RENAME TO orders"), "SELECT total FROM orders"),
        ((MADE, FILLED, "ALTER TABLE t ADD z int, RENAME orders"), "SELECT total FROM orders"),
        ((MADE, FILLED, "RENAME TABLE t TO orders"), "SELECT total FROM orders"),
        ((MADE, FILLED, "RENAME TABLE t TO z, z TO orders"), "SELECT total FROM orders"),
        # dropped as something that it is not
        (
            ("CREATE TEMPORARY TABLE orders AS SELECT 1 AS id, concat(card) AS total FROM customers",
             "DROP VIEW IF EXISTS orders"),
            "SELECT total FROM orders",
        ),
        (
            ("CREATE TEMPORARY TABLE orders AS SELECT 1 AS id, concat(card) AS total FROM customers",
             "DROP SEQUENCE IF EXISTS orders"),
            "SELECT total FROM orders",
        ),
    ],
)  # fmt: skip
def test_a_temporary_table_remembers_what_is_in_it(texts: tuple[str, ...], query: str) -> None:
    state = applied(session("mariadb"), *texts)
    state.catalog_read()
    assert shows_card(query, state)


def test_mysql_renames_the_table_behind_a_temporary_one() -> None:
    state = applied(session("mysql"), "CREATE TEMPORARY TABLE orders AS SELECT card AS total FROM customers")
    state = applied(state, "RENAME TABLE orders TO z", "CREATE TABLE orders LIKE z")
    state.catalog_read()
    assert shows_card("SELECT total FROM orders", state)


def test_a_temporary_table_of_ones_own_values_is_clear() -> None:
    state = applied(session(), MADE, "INSERT INTO t VALUES (1, 'x')", "UPDATE t SET total = 'y'")
    assert not shows_card("SELECT total FROM t", state)
    state = applied(state, FILLED, "DROP TABLE t", MADE)
    assert not shows_card("SELECT total FROM t", state)


def test_a_table_that_is_renamed_to_a_word_in_quotes_is_known_by_it() -> None:
    catalog = Catalog("v1", "mysql", VERSIONS["mysql"], relations=(table("shop", "t", "a"), table("shop", "key", "a")))
    found = analyse(b"ALTER TABLE t RENAME `key`", session(), catalog).analysis
    assert "shop.key" in found.writes
