"""MariaDB runs functions while it prepares a statement: `ROUND(1.5, (SELECT f()))` is as wide as f says.

A preparation went up without being asked about, and without a record: a call that needed approval ran before anybody
had seen it, and what it left in variables was taken for the client's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from protocols.contract import Action, Analysis, Decision, Effect, HoldTerms, MaskRule, Outcome, Wait
from protocols.mysql.catalog import Catalog, Column, Relation, Routine
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from scripts.support.mysql import MySQLServer
from tests.support import mysql_wire as wire
from tests.support.mysql_masked import Masked, recorded, source
from tests.support.mysql_talk import Talk, anything
from tests.support.mysql_wire import execute, packets, prepare

NUMBER = "457-55-5462"
RULES = (MaskRule("hide", ("*.users.ssn",), (), "redact"),)
ROUNDED = "SELECT ROUND(1.123456789, (SELECT wipe()))"
EARLY = (
    ROUNDED,
    "SELECT 1 FROM orders WHERE total = TRUNCATE(1.5, COALESCE((SELECT wipe())))",
    "DELETE FROM orders WHERE id = SUBSTR('1234', (SELECT wipe()) + 1)",
    "DO ROUND(1.5, (SELECT wipe()))",
    # a deterministic function needs no query around it
    "SELECT ROUND(1.5, wipe())",
    "SELECT SUBSTR('abcd', wipe())",
    "VALUES (ROUND(1.5, wipe()))",
    "SELECT ROUND(')' + 1.5, wipe())",
    "SELECT a FROM hidden",
    "(SELECT ROUND(1.5, (SELECT wipe())))",
)
LATE = ("SELECT wipe()", "CALL wipe_all(?)", "INSERT INTO watched VALUES (?)")
NAMES = Catalog(
    "v1",
    "mariadb",
    (10, 11, 6),
    relations=(
        Relation("app", "users", "table", (Column("id", "int"), Column("ssn", "varchar"))),
        Relation("app", "orders", "table", (Column("id", "int"), Column("total", "int"))),
        Relation("app", "hidden", "view", (Column("a", "int"),), "select round(1.5,(select `app`.`wipe`())) AS `a`"),
    ),
    routines=(Routine("app", "wipe", "function"), Routine("app", "wipe_all", "procedure")),
)


def held_calls(analysis: Analysis) -> Decision:
    if analysis.effects & {Effect.EXEC_CALL, Effect.EXEC_PROCEDURE}:
        return Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())
    return Decision(Action.ALLOW, "all", "")


def talking(flavour: str = "mariadb") -> Talk:
    talk = Talk(held_calls, flavour=flavour)
    talk.port.snapshot = NAMES
    return talk


@pytest.mark.parametrize("text", EARLY)
def test_what_may_run_while_it_is_prepared_is_held_before_that(text: str) -> None:
    talk = talking()
    assert talk.client(prepare(text)) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talk.port.holds[-1].text == text
    assert talk.last("command")["phase"] == "prepare"
    assert talk.resume(Outcome.APPROVED) == prepare(text)
    talk.server(wire.prepared(1))
    assert talk.last("response")["status"] == "ok"
    assert talk.client(execute(1)) == b""  # an execution is another command
    assert len(talk.port.holds) == 2


def test_one_that_is_refused_never_reaches_the_server() -> None:
    talk = talking()
    talk.client(prepare(ROUNDED))
    assert talk.resume(Outcome.DENIED, "no") == b""
    ((_, errno, _, _),) = wire.errors(talk.down())
    assert errno == 1142
    assert talk.client(execute(1)) == b""


@pytest.mark.parametrize("text", LATE)
def test_what_runs_with_its_execution_alone_is_held_there_alone(text: str) -> None:
    talk = talking()
    assert talk.client(prepare(text)) == prepare(text)
    assert not talk.port.holds


def test_mysql_runs_nothing_that_it_prepares() -> None:
    assert talking("mysql").client(prepare(ROUNDED)) == prepare(ROUNDED)


def test_a_preparation_that_may_run_something_is_on_record_with_its_error() -> None:
    talk = Talk(anything)
    talk.port.snapshot = NAMES
    assert talk.client(prepare(ROUNDED)) == prepare(ROUNDED)
    talk.server(packets(1, wire.err()))
    phases = [r["phase"] for r in talk.port.records if r["t"] == "command"]
    assert phases == ["prepare"]
    assert talk.last("response")["status"] == "error"
    assert talk.state.opaque


def test_a_list_of_a_views_fields_calls_what_the_view_does() -> None:
    talk = talking()
    assert talk.client(wire.command(0x04, b"hidden\0")) == b""
    assert talk.session.waiting is Wait.HOLD
    talk = talking()
    assert talk.client(wire.command(0x04, b"orders\0")) == wire.command(0x04, b"orders\0")


def test_a_view_that_is_checked_calls_what_it_calls() -> None:
    talk = talking()
    assert talk.client(wire.query("CHECK TABLE hidden")) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talking().client(wire.query("CHECK TABLE orders")) == wire.query("CHECK TABLE orders")


@pytest.mark.parametrize(
    "text",
    [
        "CREATE VIEW seen AS SELECT ROUND(1.5, wipe()) AS a",
        "CREATE OR REPLACE VIEW seen (a) AS SELECT id FROM orders WHERE id = (SELECT wipe()) WITH LOCAL CHECK OPTION",
        "ALTER VIEW hidden AS SELECT ROUND(1.5, (SELECT wipe())) AS a",
        "DESCRIBE hidden",
        "SHOW COLUMNS FROM hidden",
        "SHOW CREATE VIEW hidden",
        "SHOW INDEX FROM hidden",
    ],
)
def test_whose_columns_are_worked_out_is_called(text: str) -> None:
    talk = talking()
    assert talk.client(wire.query(text)) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talking("mysql").client(wire.query(text.replace("hidden", "orders"))) == (
        wire.query(text.replace("hidden", "orders"))
    )


@pytest.mark.parametrize(
    "text",
    [
        "CREATE VIEW seen AS SELECT upper(total) AS a FROM orders WITH CHECK OPTION",
        "DESCRIBE orders",
        "SHOW INDEX FROM orders",
    ],
)
def test_what_calls_nothing_is_worked_out_as_ever(text: str) -> None:
    assert talking().client(wire.query(text)) == wire.query(text)


# ---------------------------------------------------------------- a real server

MADE = (
    "DROP DATABASE IF EXISTS work",
    "CREATE DATABASE work",
    "CREATE TABLE work.users (id INT PRIMARY KEY, ssn VARCHAR(20))",
    f"INSERT INTO work.users VALUES (1, '{NUMBER}')",
    "CREATE FUNCTION work.leaky() RETURNS INT READS SQL DATA"
    " BEGIN SET @told = (SELECT ssn FROM work.users); RETURN 1; END",
)


@pytest.fixture
def session(mysql_server: MySQLServer) -> Iterator[Masked]:
    with contextlib.closing(mysql_server.connect()) as connection, connection.cursor() as cursor:
        for text in MADE:
            cursor.execute(text)
        with source(mysql_server) as opened:
            catalog = opened.load()
        with contextlib.closing(Masked(mysql_server, catalog, RULES, "work")) as made:
            yield made
        cursor.execute("DROP DATABASE work")


@pytest.mark.slow
def test_what_a_preparation_left_in_a_variable_may_be_anything(session: Masked) -> None:
    session._exchange(prepare("SELECT ROUND(1.123456789, (SELECT leaky()))"))
    answer = session.query("SELECT @told")
    assert NUMBER.encode() not in answer.data
    assert NUMBER.encode() not in recorded(answer)


RUN = (
    "CREATE TABLE work.ran (i INT)",
    "CREATE FUNCTION work.told() RETURNS INT DETERMINISTIC MODIFIES SQL DATA"
    " BEGIN INSERT INTO ran VALUES (1); RETURN 1; END",
    "CREATE VIEW work.wide AS SELECT ROUND(1.5, told()) AS a",
)
OPENED = ("CREATE OR REPLACE VIEW other AS SELECT ROUND(1.5, told()) AS a", "DESCRIBE wide", "SHOW COLUMNS FROM wide")


@pytest.mark.slow
@pytest.mark.parametrize("text", [*OPENED, "PREPARE s FROM 'SELECT SUBSTR(''abc'', told())'"])
def test_what_a_server_runs_before_it_is_asked_for_rows_is_judged_as_a_call(
    session: Masked, mysql_server: MySQLServer, text: str
) -> None:
    """Where this server's count goes up, the statement has to say that it calls something."""
    with contextlib.closing(mysql_server.connect()) as connection, connection.cursor() as cursor:
        for made in ("USE work", *RUN, "DELETE FROM ran", text):
            cursor.execute(made)
        cursor.fetchall()
        cursor.execute("SELECT count(*) FROM ran")
        ran = cursor.fetchall()[0][0]
        with source(mysql_server) as opened:
            catalog = opened.load()
    state = SessionState(
        flavour=catalog.flavour,
        version=catalog.server_version,
        database="work",
        lower_case_table_names=catalog.lower_case_table_names,
    )
    calls = Effect.EXEC_CALL in analyse(text.encode(), state, catalog).analysis.effects
    assert ran == (0 if catalog.flavour == "mysql" else 1)
    assert calls or not ran
