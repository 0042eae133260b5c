"""What got past the MySQL gateway once, on real servers, and the strongest attempts that did not.

The first half asks the analysis alone; the second talks to MariaDB and MySQL through the demo policy, whose `analyst`
reads `shop.customers` masked and changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from protocols.contract import Effect
from scripts.support import mysql
from scripts.support.lab import Lab
from tests.support import mysql_wire as wire
from tests.support.mysql_adversary import NAMES_THAT_ARE_WORDS, ONE, applied, client, judged, session, shows_card

# ---------------------------------------------------------------- the analysis alone


CARDS = "(SELECT card AS {0} FROM customers)"
OUTER = "SELECT (SELECT `{0}` FROM {1}) FROM (SELECT 1 AS `{0}`) o"
INNER_AND_OUTER = {
    # the inner name is not the one that the server takes: it goes on to the query around
    "an alias in another case": f"SELECT (SELECT o.x FROM (SELECT 1 AS x) O) FROM {CARDS.format('x')} o",
    "a table's alias in another case": f"SELECT (SELECT o.id FROM orders O LIMIT 1) FROM {CARDS.format('id')} o",
    "a column with an accent": f"SELECT (SELECT `é` FROM (SELECT 1 AS `e`) t) FROM {CARDS.format('`é`')} u",
    "an alias with an accent": f"SELECT (SELECT `é`.id FROM orders `e` LIMIT 1) FROM {CARDS.format('id')} `é`",
    # the inner name is the one that the server takes: it is of another length in lower case
    "a name that grows in lower case": f"SELECT (SELECT `İd` FROM {CARDS.format('id')} t) FROM (SELECT 1 AS `İd`) u",
    "a column that grows in lower case": f"SELECT (SELECT id FROM {CARDS.format('`İd`')} t) FROM (SELECT 1 AS id) u",
    # the inner query has a column of that name, which its text does not show
    "a name that the server made": OUTER.format("concat(card)", "(SELECT concat(card) FROM customers) t"),
    "a name that the server made of a column": OUTER.format("card", "(SELECT (card) FROM customers) t"),
    "a name of the first of two": OUTER.format("1", "(SELECT 1 UNION SELECT concat(card) FROM customers) t LIMIT 1, 1"),
    "a name with a blank before it": OUTER.format("a", "(SELECT concat(card) AS ' a' FROM customers) t"),
    "a quoted name with blanks before it": OUTER.format("a", "(SELECT concat(card) AS ` \t\na` FROM customers) t"),
    "a name up to its NUL": OUTER.format("a", "(SELECT concat(card) AS 'a\\0b' FROM customers) t"),
    "a name that is cut": OUTER.format("x" * 256, f"(SELECT concat(card) AS `{'x' * 300}` FROM customers) t"),
    "a name of a CTE's": f"WITH c AS (SELECT concat(card) FROM customers) {OUTER.format('concat(card)', 'c')}",
    # the inner query joins more than was looked at
    "a join in brackets behind a query": OUTER.format("id", f"((SELECT 1 AS z) t JOIN {CARDS.format('id')} c ON 1)"),
    "tables in brackets behind a query": OUTER.format("id", f"((SELECT 1 AS z) t, {CARDS.format('id')} c)"),
    "a join before two conditions": OUTER.format(
        "a",
        f"(SELECT 1 AS z) x JOIN (SELECT 1 AS z) y JOIN (SELECT 1 AS z) v JOIN {CARDS.format('a')} c ON 1 ON 1 ON 1",
    ),
    "a condition inside brackets": (
        "SELECT EXISTS (SELECT 1 FROM ((SELECT 1 AS z) t JOIN customers c ON c.card LIKE '4%' AND c.id = 1))"
    ),
}


@pytest.mark.parametrize("flavour", ["mysql", "mariadb"])
@pytest.mark.parametrize("trick", INNER_AND_OUTER)
def test_a_name_between_two_queries_carries_what_either_holds(trick: str, flavour: str) -> None:
    state = session(flavour)
    assert shows_card(INNER_AND_OUTER[trick], state) or judged(INNER_AND_OUTER[trick], state).unknown


def test_mariadb_names_the_columns_of_values_by_the_first_row() -> None:
    text = OUTER.format("1", "(VALUES (1), ((SELECT card FROM customers))) t LIMIT 1, 1")
    assert shows_card(text, session("mariadb"))


def test_a_key_has_another_name() -> None:
    text = "SELECT (SELECT _rowid FROM customers LIMIT 1) FROM (SELECT 1 AS _rowid) o"
    assert shows_card(text)  # whichever of its columns the key is
    assert (
        "shop.customers.*" in judged("SELECT id FROM orders WHERE (SELECT _rowid FROM customers) LIKE '4%'").predicates
    )


def test_a_filter_by_a_name_that_the_server_made_is_a_filter_by_what_it_stands_for() -> None:
    text = "SELECT id FROM orders WHERE (SELECT `concat(card)` FROM (SELECT concat(card) FROM customers) t) LIKE '4%'"
    assert "shop.customers.card" in judged(text).predicates


def test_a_column_with_a_name_is_not_one_without() -> None:
    assert not shows_card("SELECT t.x FROM (SELECT 1 AS x, concat(card) FROM customers) t")
    assert not shows_card("SELECT x FROM ((SELECT 1 AS x) a JOIN customers b ON 1)")
    assert not shows_card("SELECT b.id FROM ((SELECT 1 AS x) a JOIN customers b ON 1)")


def test_an_ordinary_name_is_not_taken_for_another() -> None:
    assert not shows_card("SELECT (SELECT t.x FROM (SELECT 1 AS x) t) FROM (SELECT card AS x FROM customers) o")
    assert not shows_card("SELECT (SELECT ID FROM (SELECT 1 AS id) t) FROM (SELECT card AS id FROM customers) o")


def test_a_filter_by_an_alias_in_another_case_is_a_filter_by_what_the_server_takes() -> None:
    text = "SELECT c.id FROM customers c WHERE (SELECT 1 FROM (SELECT 1 AS card) C WHERE c.card LIKE '4%')"
    assert "shop.customers.card" in judged(text).predicates


@pytest.mark.parametrize(
    "text", ["SELECT id FROM customers WHERE natİonal_id LIKE '9%'", "SELECT c.İd FROM customers c"]
)
def test_a_column_that_the_server_knows_by_another_spelling_is_not_harmless(text: str) -> None:
    assert judged(text).unknown


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE work.notes O, shop.orders o SET o.total = 1 WHERE O.id = o.id",
        "DELETE o FROM work.notes O JOIN shop.orders o ON O.id = o.id",
    ],
)
def test_a_change_of_two_tables_names_the_one_that_is_spelt_otherwise_too(text: str) -> None:
    assert "shop.orders" in judged(text).writes


@pytest.mark.parametrize(
    "text",
    [
        "SET identity = (SELECT card FROM customers LIMIT 1)",
        "SET SESSION wait_timeout = (SELECT left(card, 4) FROM customers LIMIT 1)",
        "SET @@session.lc_time_names = (SELECT if(card LIKE '4%', 'de_DE', 'en_US') FROM customers LIMIT 1)",
        "SET STATEMENT sort_buffer_size = (SELECT ascii(card) FROM customers LIMIT 1) FOR SELECT @@sort_buffer_size",
    ],
)
def test_no_setting_is_made_of_rows(text: str) -> None:
    assert judged(text).unknown


def test_no_setting_is_made_of_a_variable_that_holds_rows() -> None:
    state = applied(session(), "SET @p = (SELECT card FROM customers LIMIT 1)")
    assert judged("SET identity = @p", state).unknown


@pytest.mark.parametrize(
    "text",
    [
        "SET sql_mode = (SELECT REPLACE(@@sql_mode, 'ONLY_FULL_GROUP_BY', ''))",
        "SET @old = @@time_zone, time_zone = '+00:00'",
        "SET time_zone = @old",
    ],
)
def test_settings_made_of_settings_pass(text: str) -> None:
    state = applied(session(), "SET @old = @@time_zone")
    assert not judged(text, state).unknown


@pytest.mark.parametrize(
    "text",
    [
        "SET @é = 1",  # to the server it is @e
        "SELECT card FROM customers LIMIT 1 INTO @é",
        "SET @'e ' = 1",
        "PREPARE é FROM 'SELECT 1'",
        "EXECUTE é",
        "DEALLOCATE PREPARE é",
        "HANDLER orders OPEN AS é",
    ],
)
def test_names_that_only_a_collation_tells_apart_are_not_taken(text: str) -> None:
    assert judged(text).unknown


def test_a_prepared_statement_keeps_to_the_database_of_its_preparation() -> None:
    state = applied(session(), "PREPARE s FROM 'SELECT id FROM orders'", "USE work")
    assert judged("EXECUTE s", state).unknown


def test_two_temporary_tables_whose_names_differ_in_case() -> None:
    made = ("CREATE TEMPORARY TABLE T AS SELECT card AS a FROM customers", "CREATE TEMPORARY TABLE t AS SELECT 1 AS a")
    assert shows_card("SELECT a FROM T", applied(session(), *made))
    assert not shows_card("SELECT a FROM t", applied(session(), *made))
    folded = applied(session(lower_case_table_names=1), made[0])
    assert shows_card("SELECT a FROM t", folded)


def test_a_reset_goes_back_to_what_the_server_goes_back_to() -> None:
    # with a global gbk, `\\` behind the last byte of a character is no escape: what seems a string is not
    state = session()
    state.reset(frozenset(), "gbk")
    assert judged("SELECT '縗\\', 'x'", state).unknown
    assert not judged("SELECT 1", state).unknown


def test_joins_without_conditions_are_still_understood() -> None:
    found = judged("SELECT o.id FROM orders o JOIN customers c JOIN work.notes n ON n.id = o.id WHERE o.id = c.id")
    assert not found.unknown
    assert set(found.reads) == {"shop.orders", "shop.customers", "work.notes"}
    assert Effect.UNKNOWN in judged("SELECT 1 FROM orders o LEFT JOIN customers c").effects


# ---------------------------------------------------------------- on real servers


@pytest.fixture(scope="module")
def lab(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    with Lab(installation=mysql_installation) as running:
        with contextlib.closing(running.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("CREATE TABLE canary (id int PRIMARY KEY)")
            cursor.execute("INSERT INTO canary VALUES (1)")
        yield running


NUMBER = f"(SELECT cast(replace(card, ' ', '') AS unsigned) {ONE})"
CHANNELS: dict[str, tuple[str, ...]] = {
    **{name: (text,) for name, text in INNER_AND_OUTER.items()},
    "a name of the first of two rows": (OUTER.format("1", f"(VALUES (1), ((SELECT card {ONE}))) t LIMIT 1, 1"),),
    "a setting": (f"SET identity = {NUMBER}", "SELECT @@identity", "SHOW VARIABLES LIKE 'identity'"),
    "a setting by a variable": (f"SET @p = {NUMBER}", "SET identity = @p", "SELECT @@identity, last_insert_id()"),
    "an insert id": (
        f"SELECT last_insert_id(cast(replace(card, ' ', '') AS unsigned)) {ONE}",
        "SELECT last_insert_id(), @@last_insert_id, @@identity",
        f"SELECT last_insert_id(), {', '.join(['id'] * 5000)} FROM orders LIMIT 1",
        f"SELECT last_insert_id() AS b0{''.join(f', (SELECT b{i - 1} + b{i - 1}) AS b{i}' for i in range(1, 20))}",
        "SHOW VARIABLES LIKE 'last_insert%'",
        "SHOW SESSION VARIABLES LIKE 'identity'",
        "SELECT * FROM information_schema.session_variables WHERE variable_name LIKE '%insert_id' ",
        "SELECT * FROM performance_schema.session_variables WHERE variable_name = 'identity'",
    ),
    "a variable with an accent": (f"SET @é = (SELECT card {ONE})", "SELECT @e"),
    "a variable filled with an accent": (f"SELECT card {ONE} INTO @é", "SELECT @e"),
    "a name prepared with an accent": (
        "PREPARE e FROM 'SELECT 1 AS total'", f"PREPARE é FROM 'SELECT concat(card) {ONE}'", "EXECUTE e",
    ),
    "an error's text": (f"SELECT extractvalue(1, concat('~', (SELECT card {ONE})))", "SHOW WARNINGS", "SHOW ERRORS"),
    "an error's text in UTF-16": (
        "SET character_set_results = utf16", f"SELECT updatexml(1, concat('~', (SELECT card {ONE})), 1)",
    ),
    "a plan": (
        "EXPLAIN FORMAT=JSON SELECT o.id FROM orders o JOIN customers c ON o.item = c.card WHERE c.id = 1",
        f"EXPLAIN SELECT card {ONE}", "SHOW WARNINGS",
        "EXPLAIN FORMAT=JSON INTO @x SELECT o.id FROM orders o JOIN customers c ON o.item = c.card WHERE c.id = 1",
        "SELECT @x",
        "ANALYZE FORMAT=JSON SELECT o.id FROM orders o JOIN customers c ON o.item = c.card WHERE c.id = 1",
    ),
    "a recursive query whose columns turn": (
        "WITH RECURSIVE r(a, b, c) AS (SELECT cast('' AS char(40)), cast('' AS char(40)), cast(card AS char(40)) "
        f"{ONE} UNION SELECT b, c, a FROM r) SELECT a FROM r",
    ),
    "a CTE in another case": (f"WITH Orders AS (SELECT card AS total {ONE}) SELECT total FROM orders",),
    "a table's value": ("TABLE customers LIMIT 1", f"VALUES ROW((SELECT card {ONE}))"),
    "handlers": ("HANDLER orders OPEN", "HANDLER orders CLOSE", "HANDLER customers OPEN AS orders",
                 "HANDLER orders READ FIRST"),
    "a comment of a version": (
        f"SELECT/*!99999 id,*/ card AS total {ONE}", f"SELECT/*!50000 card AS total,*/ id {ONE}",
    ),
    "the second of two results": (
        "SELECT id FROM orders WHERE id = 1; /* nothing */; SELECT 1",
        f"DO 1; SELECT id FROM orders WHERE id = 1; SELECT concat(card) AS total {ONE}",
    ),
    **{f"a name that is a word of the grammar: {text[7:24]}": (text,) for text in NAMES_THAT_ARE_WORDS},
    "a parameter": ("PREPARE s FROM 'SELECT ? AS total'", f"SET @a = (SELECT card {ONE})", "EXECUTE s USING @a"),
}  # fmt: skip


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("channel", CHANNELS)
def test_no_masked_value_comes_out_by(lab: Lab, channel: str) -> None:
    with client(lab) as c:
        c.ask(*(text.replace("FROM customers)", f"{ONE})") for text in CHANNELS[channel]))
        assert c.seen
        assert c.leaks() == []


@pytest.mark.e2e
@pytest.mark.slow
def test_the_gateways_own_password_is_not_shown_with_its_grants(lab: Lab) -> None:
    with client(lab) as c:
        said = str(c.ask("SHOW GRANTS", "SHOW GRANTS FOR CURRENT_USER()"))
        assert "IDENTIFIED" not in said


CHANGES = (
    "SELECT 1; DELETE FROM canary",
    "SELECT 1 /*!99999 */; DELETE FROM canary",
    "/*!50000 DELETE */ FROM canary",
    "/*!999999 SELECT 1 */ DELETE FROM canary",
    "WITH a AS (SELECT 1) DELETE FROM canary",
    "SET STATEMENT max_statement_time = 1 FOR DELETE FROM canary",
    "PREPARE s FROM 'DELETE FROM canary'",
    "EXECUTE IMMEDIATE 'DELETE FROM canary'",
    "BEGIN NOT ATOMIC DELETE FROM canary; END",
    "IF 1 THEN DELETE FROM canary; END IF",
    "ANALYZE DELETE FROM canary",
    "EXPLAIN ANALYZE DELETE FROM canary",
    "SELECT 1 # \0\n; DELETE FROM canary",
    "SELECT 'a\\'; DELETE FROM canary; -- '; DELETE FROM canary",
)


@pytest.mark.e2e
@pytest.mark.slow
def test_no_change_passes_in_disguise(lab: Lab) -> None:
    with client(lab) as c:
        c.ask(*CHANGES)
        c.connection.ping(reconnect=False)
        assert c.ask("SELECT id FROM canary") == [((1,),)]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_reset_does_not_bring_another_character_set_unseen(lab: Lab) -> None:
    """With a global gbk the server would end the string behind the backslash, and run what follows."""
    hidden = wire.query("SELECT '縗\\', '; DELETE FROM canary; -- '".encode())
    with contextlib.closing(lab.server.connect()) as direct, direct.cursor() as cursor:
        cursor.execute("SET GLOBAL character_set_client = gbk")
    try:
        with client(lab) as c:
            c.send(wire.RESET_CONNECTION, answers=1)
            found = c.send(hidden, answers=1)
            ours = c.ask("SELECT @@character_set_client")
            assert ours == [(("utf8mb4",),)] or b"denied by rule" in found
            c.connection._force_close()
    finally:
        with contextlib.closing(lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("SET GLOBAL character_set_client = utf8mb4")
    with client(lab) as c:
        assert c.ask("SELECT id FROM canary") == [((1,),)]


@pytest.mark.e2e
@pytest.mark.slow
def test_pieces_of_nothing_do_not_pile_up(lab: Lab) -> None:
    """COM_STMT_SEND_LONG_DATA has no answer, and its data may be empty: the keeping of each counts."""
    with client(lab) as c:
        made = c.send(wire.prepare("SELECT ?"), answers=4)
        statement = int.from_bytes(made[5:9], "little")
        piece = wire.long_data(statement, 0, b"")
        for _ in range(50):
            c.connection._sock.sendall(piece * 10_000)
        found = c.send(wire.execute(statement, "x"), answers=1)
        assert b"above the inspection limit" in found


@pytest.mark.e2e
@pytest.mark.slow
def test_after_reading_masked_rows_the_names_of_everything_are_still_shown(lab: Lab) -> None:
    """What tools ask for by themselves: none of it holds an insert id, wherever that came from."""
    with client(lab) as c:
        c.ask(f"SELECT card {ONE}", "SELECT * FROM information_schema.tables")
        assert None not in c.ask("SELECT * FROM sys.version")[0][0]
        c.ask(f"SELECT last_insert_id(id) {ONE}")
        for text in (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'shop'",
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'orders'",
            "SELECT table_name, index_name FROM information_schema.statistics WHERE table_schema = 'shop'",
            "SELECT schema_name FROM information_schema.schemata",
            "SELECT word FROM information_schema.keywords LIMIT 1",
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'performance_schema'",
            "SELECT v.*, database() FROM (SELECT version()) v",
            "SELECT GET_FORMAT(DATE, 'ISO'), GET_FORMAT(DATETIME, 'USA')",
            "HELP 'contents'",
        ):
            (rows,) = c.ask(text)
            assert all(value is not None for row in rows for value in row), (text, rows)
            assert len(rows) > 0, text


@pytest.mark.e2e
@pytest.mark.slow
def test_a_reset_goes_back_to_the_modes_of_today(lab: Lab) -> None:
    """Under ANSI_QUOTES, switched on for all since this session began, `"card"` is a column and no text."""
    text = f'SELECT "card" {ONE}'
    with client(lab) as c, contextlib.closing(lab.server.connect()) as direct, direct.cursor() as cursor:
        assert c.ask(text) == [(("card",),)]
        cursor.execute("SELECT @@global.sql_mode")
        ((before,),) = cursor.fetchall()
        cursor.execute("SET GLOBAL sql_mode = 'ANSI_QUOTES'")
        try:
            time.sleep(2.5)  # `catalog.max_age` and what a look takes
            c.send(wire.RESET_CONNECTION, answers=1)
            ((row,),) = c.ask(text)
            assert row[0] != "card"
            assert c.leaks() == []
        finally:
            cursor.execute("SET GLOBAL sql_mode = %s", (before,))
