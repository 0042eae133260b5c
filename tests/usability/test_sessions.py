"""What drivers do around their statements: it must pass where the server itself would have allowed it unasked."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Decision, Effect
from protocols.mysql.settling import denial as mysql_denial
from protocols.mysql.state import SessionState as MySQLState
from protocols.mysql.statements import analyse as analyse_mysql
from protocols.postgres.settling import denial
from protocols.postgres.state import SessionState
from protocols.verdicts import Command, StatementVerdict
from tests.support.mysql_statements import session as mysql_session
from tests.support.mysql_statements import shop
from tests.support.statements import command, effects, of, ran, session

READ_ONLY = "default_transaction_read_only"
LIFTS = [
    "BEGIN READ WRITE",  # psycopg: `connection.read_only = False`
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE, DEFERRABLE",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",  # pgjdbc, pg8000: `setReadOnly(false)`
    "SET default_transaction_read_only TO 'off'",  # psycopg2: `set_session(readonly=False)`
    "SET SESSION default_transaction_read_only = off",
    "SET LOCAL transaction_read_only = off",
    "SET default_transaction_read_only TO DEFAULT",
    "RESET default_transaction_read_only",
]


def began(value: str | None) -> SessionState:
    state = session(client_encoding="UTF8")
    if value is not None:
        state.parameter_status(READ_ONLY, value)
    return state


@pytest.mark.parametrize("text", LIFTS)
def test_a_session_may_take_back_that_it_only_reads(text: str) -> None:
    assert "session.guard" not in effects(text, began("off"))
    assert "session.guard" not in effects(text, ran(began("off"), "SET default_transaction_read_only = on"))


@pytest.mark.parametrize("text", LIFTS)
@pytest.mark.parametrize("value", ["on", None])  # the server wants it so, or does not say: before PostgreSQL 14
def test_it_does_not_lift_what_the_server_began_with(text: str, value: str | None) -> None:
    assert "session.guard" in effects(text, began(value))


def test_what_somebody_else_switches_on_later_is_not_lifted() -> None:
    """ALTER SYSTEM and a reload reach sessions that are open."""
    state = began("off")
    state.parameter_status(READ_ONLY, "on")
    assert "session.guard" in effects("BEGIN READ WRITE", state)
    state.parameter_status(READ_ONLY, "off")
    assert "session.guard" in effects("BEGIN READ WRITE", state)


@pytest.mark.parametrize(
    "own",
    [
        ["SET default_transaction_read_only = on"],
        ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
        ["BEGIN", "SET LOCAL default_transaction_read_only = on"],
    ],
)
def test_what_the_session_itself_switched_on_is_its_own(own: list[str]) -> None:
    state = ran(began("off"), *own)
    state.parameter_status(READ_ONLY, "on")  # the server reports what was set
    assert "session.guard" not in effects("BEGIN READ WRITE", state)
    assert effects("RESET ALL", state) == {"session.set"}


def test_other_guards_stay_guards() -> None:
    for text in ("SET statement_timeout = 0", "SET row_security = off", "SET LOCAL lock_timeout = 0"):
        assert "session.guard" in effects(text, began("off"))


def test_a_verdict_is_not_shared_between_sessions_that_may_and_may_not() -> None:
    assert began("off").meaning_key() != began("on").meaning_key()
    assert began("on").fork().writable is False
    assert began("off").fork().writable is True
    assert of("BEGIN READ WRITE", began("off")).effects == {Effect.TX}


# ---------------------------------------------------------------- MySQL and MariaDB


def mysql_effects(text: str, state: MySQLState, flavour: str = "mariadb") -> frozenset[Effect]:
    return analyse_mysql(text.encode(), state, shop(flavour)).analysis.effects


@pytest.mark.parametrize(
    "text",
    [
        "set autocommit=1, sql_mode = concat(@@sql_mode,',STRICT_TRANS_TABLES')",  # as MariaDB's Connector/J begins
        "SET sql_mode = 'IGNORE_SPACE,STRICT_ALL_TABLES'",
        "SET SESSION sql_mode = (SELECT CONCAT(@@sql_mode, ',NO_ZERO_DATE'))",
    ],
)
def test_modes_that_read_texts_as_now_are_harmless(text: str) -> None:
    """Drivers that ask for IGNORE_SPACE as they connect have it in @@sql_mode."""
    spaced = mysql_session(sql_mode=frozenset({"IGNORE_SPACE", "ERROR_FOR_DIVISION_BY_ZERO"}))
    assert mysql_effects(text, spaced) <= {Effect.SESSION_SET, Effect.DATA_SELECT}


@pytest.mark.parametrize(
    ("modes", "text"),
    [
        ({"IGNORE_SPACE"}, "SET sql_mode = 'IGNORE_SPACE,ANSI_QUOTES'"),
        ({"IGNORE_SPACE"}, "SET sql_mode = 'IGNORE_SPACE,NO_SUCH_MODE'"),
        ({"PIPES_AS_CONCAT", "ANSI_QUOTES", "IGNORE_SPACE"}, "SET sql_mode = 'ORACLE'"),
        (set(), "SET sql_mode = 'IGNORE_SPACE'"),
        (None, "SET sql_mode = 'IGNORE_SPACE'"),
        ({"IGNORE_SPACE"}, "SET GLOBAL sql_mode = 'IGNORE_SPACE'"),
    ],
)
def test_other_modes_change_how_texts_are_read(modes: set[str] | None, text: str) -> None:
    state = mysql_session(sql_mode=None if modes is None else frozenset(modes))
    assert mysql_effects(text, state) & {Effect.SESSION_PARSE_STATE, Effect.ADMIN_CONFIG}


LIMITS = [
    ("mariadb", "SET SESSION max_statement_time = 5"),
    ("mariadb", "SET STATEMENT max_statement_time=5 FOR SELECT 1"),  # `Statement.setQueryTimeout` of Connector/J
    ("mariadb", "SET max_statement_time = 0"),  # what mariadb-dump begins with
    ("mysql", "SET SESSION max_execution_time = 30000"),
    ("mysql", "SET @@session.max_execution_time = DEFAULT"),
]


@pytest.mark.parametrize(("flavour", "text"), LIMITS)
def test_a_time_limit_is_the_sessions_own_where_the_server_has_none(flavour: str, text: str) -> None:
    free, limited, reset = (mysql_session(flavour=flavour) for _ in range(3))
    free.unlimited = reset.unlimited = True
    reset.reset(frozenset(), "utf8mb4")  # the server may have a limit by now
    assert Effect.SESSION_GUARD not in mysql_effects(text, free, flavour)
    assert Effect.SESSION_GUARD in mysql_effects(text, limited, flavour)
    assert Effect.SESSION_GUARD in mysql_effects(text, reset, flavour)
    assert free.meaning_key() != limited.meaning_key()


def test_a_time_limit_of_the_server_is_not_the_sessions() -> None:
    state = mysql_session()
    state.unlimited = True
    assert Effect.ADMIN_CONFIG in mysql_effects("SET GLOBAL max_statement_time = 0", state)
    assert Effect.SESSION_GUARD in mysql_effects("SET max_join_size = 1", state)


# ---------------------------------------------------------------- refusals


REFUSED = Decision(Action.DENY, "default", "no rule allows it")


def verdict[C: Command](judged: C) -> StatementVerdict[C]:
    return StatementVerdict(judged, b"", REFUSED, b"", False, False, False, False)


def test_a_refusal_names_what_a_query_calls() -> None:
    """Why a SELECT is more than one is not in its text."""
    _, _, hint = denial(verdict(command("SELECT lower(name), txid_current(), purge() FROM users")))
    assert hint.endswith("; it calls pg_catalog.txid_current, public.purge")
    assert "calls" not in denial(verdict(command("DELETE FROM users")))[2]
    analysed = analyse_mysql(b"SELECT UPPER(name), nothing_known(1) FROM users", mysql_session(), shop("mariadb"))
    assert mysql_denial(verdict(analysed)).endswith("; it calls shop.nothing_known)")
