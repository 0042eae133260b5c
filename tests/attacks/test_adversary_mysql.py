"""What got past the MySQL gateway once, on real servers, and the strongest attempts that did not.

The first half asks the analysis alone; the second talks to MariaDB and MySQL through the demo policy, whose `analyst`
reads `shop.customers` masked and changes nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.contract import Analysis, Effect
from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.lineage import Lineage, Untraceable
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from scripts.support import mysql, sample
from scripts.support.gateway import ROOT
from scripts.support.lab import Lab
from tests.support import mysql_wire as wire

# ---------------------------------------------------------------- the analysis alone


def table(schema: str, name: str, *columns: str) -> Relation:
    return Relation(schema, name, "table", tuple(Column(c, "varchar") for c in columns))


def world(folding: int = 0) -> Catalog:
    """Two schemas; `shop.customers.card` is what everybody is after."""
    return Catalog(
        "v1",
        "mysql",
        (9, 7, 0),
        schemas=("shop", "work"),
        relations=(
            table("shop", "customers", "id", "card", "national_id"),
            table("shop", "orders", "id", "total"),
            table("work", "notes", "id", "total"),
        ),
        lower_case_table_names=folding,
    )


def session(**more: Any) -> SessionState:
    state = SessionState(flavour="mysql", version=(9, 7, 0), database="shop", multi_statements=True, **more)
    state.started()
    return state


def judged(text: str, state: SessionState | None = None) -> Analysis:
    return analyse(text.encode(), state or session(), world()).analysis


def applied(state: SessionState, *texts: str) -> SessionState:
    for text in texts:
        for statement in analyse(text.encode(), state, world()).statements:
            state.applied(statement)
    return state


def shows_card(text: str, state: SessionState | None = None) -> bool:
    """Whether the first column may hold a card, by the lineage that masks go by."""
    state = state or session()
    statement = analyse(text.encode(), state, world()).statements[0]
    if statement.tree is None:
        return True
    try:
        flow = Lineage(world(), state).outputs(statement.tree)[0].flow
    except Untraceable:
        return True
    return flow.anything or "shop.customers.card" in flow.copied | flow.computed


CARDS = "(SELECT card AS {0} FROM customers)"
INNER_AND_OUTER = {
    # the inner name is not the one that the server takes: it goes on to the query around
    "an alias in another case": f"SELECT (SELECT o.x FROM (SELECT 1 AS x) O) FROM {CARDS.format('x')} o",
    "a table's alias in another case": f"SELECT (SELECT o.id FROM orders O LIMIT 1) FROM {CARDS.format('id')} o",
    "a column with an accent": f"SELECT (SELECT `é` FROM (SELECT 1 AS `e`) t) FROM {CARDS.format('`é`')} u",
    "an alias with an accent": f"SELECT (SELECT `é`.id FROM orders `e` LIMIT 1) FROM {CARDS.format('id')} `é`",
    # the inner name is the one that the server takes: it is of another length in lower case
    "a name that grows in lower case": f"SELECT (SELECT `İd` FROM {CARDS.format('id')} t) FROM (SELECT 1 AS `İd`) u",
    "a column that grows in lower case": f"SELECT (SELECT id FROM {CARDS.format('`İd`')} t) FROM (SELECT 1 AS id) u",
}


@pytest.mark.parametrize("trick", INNER_AND_OUTER)
def test_a_name_between_two_queries_carries_what_either_holds(trick: str) -> None:
    assert shows_card(INNER_AND_OUTER[trick])


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
    state.started(frozenset(), "gbk")
    state.reset()
    assert judged("SELECT '縗\\', 'x'", state).unknown
    assert not judged("SELECT 1", state).unknown


# one small text each; before there was a bound, the time and the memory of each doubled with every table
BOMBS = {
    "joins without conditions": "SELECT 1 FROM orders" + "".join(f" JOIN orders o{i}" for i in range(40)),
    "inner joins": "SELECT 1 FROM orders" + "".join(f" INNER JOIN orders o{i}" for i in range(40)),
    "straight joins": "SELECT 1 FROM orders" + "".join(f" STRAIGHT_JOIN orders o{i}" for i in range(40)),
    "outer joins": "SELECT 1 FROM orders" + "".join(f" LEFT JOIN orders o{i}" for i in range(40)),
    "mixed joins": "SELECT 1 FROM orders" + "".join(f" JOIN orders o{i} ON 1 JOIN orders p{i}" for i in range(20)),
    "joins in brackets": "SELECT 1 FROM orders"
    + "".join(f" JOIN (orders o{i} JOIN orders p{i} JOIN orders q{i})" for i in range(13)),
    "columns that double": "WITH a0 AS (SELECT * FROM orders)"
    + "".join(f", a{i} AS (SELECT x.*, y.* FROM a{i - 1} x, a{i - 1} y)" for i in range(1, 39))
    + " SELECT * FROM a38",
    "columns of all tables": f"SELECT {','.join(['zz'] * 1000)} FROM "
    + ",".join(f"orders o{i}" for i in range(500)),
}  # fmt: skip
_BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from tests.attacks import test_adversary_mysql as t
t.shows_card(t.BOMBS[sys.argv[1]])
assert "MemoryError" not in t.judged(t.BOMBS[sys.argv[1]]).why
"""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_small_text_takes_the_process_down(bomb: str) -> None:
    done = subprocess.run([sys.executable, "-c", _BOUNDED, bomb], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_joins_without_conditions_are_still_understood() -> None:
    found = judged("SELECT o.id FROM orders o JOIN customers c JOIN work.notes n ON n.id = o.id WHERE o.id = c.id")
    assert not found.unknown
    assert set(found.reads) == {"shop.orders", "shop.customers", "work.notes"}
    assert Effect.UNKNOWN in judged("SELECT 1 FROM orders o LEFT JOIN customers c").effects


# ---------------------------------------------------------------- on real servers

SECRETS = tuple(str(value) for row in sample.customers() for value in row[2:5])
DIGITS = tuple(str(row[3]).replace(" ", "") for row in sample.customers())
ONE = "FROM customers WHERE id = 1"


@pytest.fixture(scope="module")
def lab(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    with Lab(installation=mysql_installation) as running:
        with contextlib.closing(running.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("CREATE TABLE canary (id int PRIMARY KEY)")
            cursor.execute("INSERT INTO canary VALUES (1)")
        yield running


class Client:
    """What one session of the analyst saw, whatever it was."""

    def __init__(self, lab: Lab, **more: Any) -> None:
        gateway = lab.gateway
        self.connection = pymysql.connect(
            host=gateway.host,
            port=gateway.port,
            user="analyst",
            password=lab.tokens["analyst"],
            database="shop",
            ssl_ca=str(gateway.ca_file),
            autocommit=True,
            client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS,
            **more,
        )
        self.seen: list[Any] = []

    def ask(self, *texts: str) -> list[Any]:
        start = len(self.seen)
        for text in texts:
            with self.connection.cursor() as cursor:
                try:
                    cursor.execute(text)
                    self.seen.append(cursor.fetchall())
                    while cursor.nextset():
                        self.seen.append(cursor.fetchall())
                except pymysql.err.MySQLError as error:
                    self.seen.append(error.args)
        return self.seen[start:]

    def send(self, *messages: bytes, answers: int) -> bytes:
        """Raw commands at once, and as many packets back."""
        sock = self.connection._sock
        sock.sendall(b"".join(messages))
        found = b""
        while len(wire_packets(found)) < answers:
            data = sock.recv(1 << 16)
            assert data, found
            found += data
        return found

    def leaks(self) -> list[str]:
        said = str(self.seen).upper()
        return [s for s in SECRETS if s.upper() in said] + [d for d in DIGITS if d in said]


def wire_packets(data: bytes) -> list[bytes]:
    """The whole packets in `data`."""
    found, pos = [], 0
    while pos + 4 <= len(data) and (end := pos + 4 + int.from_bytes(data[pos : pos + 3], "little")) <= len(data):
        found.append(data[pos:end])
        pos = end
    return found


@contextlib.contextmanager
def client(lab: Lab, **more: Any) -> Iterator[Client]:
    made = Client(lab, **more)
    try:
        yield made
    finally:
        with contextlib.suppress(pymysql.err.Error):
            made.connection.close()


NUMBER = f"(SELECT cast(replace(card, ' ', '') AS unsigned) {ONE})"
CHANNELS: dict[str, tuple[str, ...]] = {
    **{name: (text,) for name, text in INNER_AND_OUTER.items()},
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
