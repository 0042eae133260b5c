"""What a session remembers, from statements that ran or failed and from what the server reports."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from protocols.mysql.settings import modes_of, set_effect
from protocols.mysql.state import SessionState
from tests.support.mysql_statements import apply, judged, session


def fail(state: SessionState, text: str) -> SessionState:
    for statement in judged(text, state).statements:
        state.failed(statement)
    return state


def test_modes_resolve_their_combinations() -> None:
    assert modes_of("ansi") == {"ANSI", "REAL_AS_FLOAT", "PIPES_AS_CONCAT", "ANSI_QUOTES", "IGNORE_SPACE"}
    assert modes_of("") == frozenset()
    assert modes_of(" strict_trans_tables , ansi_quotes") == {"STRICT_TRANS_TABLES", "ANSI_QUOTES"}
    assert modes_of("NEW_AND_UNHEARD_OF") is None
    assert modes_of("1436549152") is None
    assert modes_of(None) is None


def test_settings_are_an_allow_list() -> None:
    assert set_effect("TIME_ZONE", None) is Effect.SESSION_SET
    assert set_effect("sql_log_bin", "0") is Effect.SESSION_GUARD
    assert set_effect("transaction_read_only", "ON") is Effect.SESSION_SET
    assert set_effect("transaction_read_only", "OFF") is Effect.SESSION_GUARD
    assert set_effect("character_set_client", "utf8mb4") is Effect.SESSION_SET
    assert set_effect("character_set_client", "sjis") is Effect.SESSION_PARSE_STATE
    assert set_effect("character_set_client", None) is Effect.SESSION_PARSE_STATE
    assert set_effect("sql_mode", "NO_BACKSLASH_ESCAPES") is Effect.SESSION_PARSE_STATE
    assert set_effect("never_heard_of", "1") is Effect.SESSION_OTHER


def test_a_new_mode_counts_at_once_within_one_text() -> None:
    command = judged("SET sql_mode = 'NO_BACKSLASH_ESCAPES'; SELECT '\\'; DROP TABLE users; -- '")
    assert [s.kind for s in command.statements] == ["set", "select", "drop table", "empty"]
    command = judged("SELECT '\\'; DROP TABLE users; -- '")
    assert [s.kind for s in command.statements] == ["select"]


def test_a_new_character_set_counts_at_once() -> None:
    assert judged("SET NAMES gbk; SELECT 'é'").analysis.unknown
    state = apply(session(), "SET NAMES gbk")
    assert judged("SELECT 1", state).analysis.effects == {Effect.DATA_SELECT}
    assert judged(b"SELECT '\xbf\x5c'", state).analysis.unknown


def test_what_the_server_reports_wins() -> None:
    state = session()
    state.tracked("character_set_client", "gbk")
    assert state.charset == "gbk"
    state.tracked("sql_mode", "ANSI_QUOTES")
    assert state.mode("ANSI_QUOTES")
    state.tracked_schema("hr")
    assert state.database == "hr"
    state.tracked_schema("")
    assert state.database is None
    state.tracked("autocommit", "OFF")
    assert not state.autocommit


def test_status_flags() -> None:
    state = session()
    state.status(0x0003)
    assert state.in_transaction
    assert state.autocommit
    state.status(0)
    assert not state.in_transaction
    assert state.sql_mode == frozenset()
    state.status(0x0200)  # NO_BACKSLASH_ESCAPES, which nobody set
    assert state.sql_mode is None


def test_while_the_mode_is_not_known_only_plain_settings_are_read() -> None:
    state = session(sql_mode=None)
    assert judged("SELECT 1", state).analysis.unknown
    assert judged("SET sql_mode = CONCAT('a')", state).analysis.unknown
    assert judged("SET sql_mode = 'a' -- x", state).analysis.unknown
    assert not judged("SET SESSION sql_mode = ''", state).analysis.unknown
    apply(state, "SET SESSION sql_mode = ''")
    assert not judged("SELECT 1", state).analysis.unknown


def test_while_the_character_set_is_not_known_only_ascii_letters_are_read() -> None:
    state = session(charset=None)
    assert not judged("SET NAMES utf8mb4", state).analysis.unknown
    assert judged("SELECT 'é'", state).analysis.unknown
    assert judged("SELECT '\\'", state).analysis.unknown
    assert not judged("SELECT 'é'", apply(state, "SET NAMES utf8mb4")).analysis.unknown


def test_reset_connection_forgets() -> None:
    state = session(sql_mode=frozenset({"STRICT_TRANS_TABLES"}))
    state.started()
    apply(
        state,
        "SET NAMES gbk",
        "SET sql_mode = 'ANSI_QUOTES'",
        "PREPARE s FROM 'SELECT 1'",
        "SET @v = (SELECT ssn FROM users LIMIT 1)",
        "CREATE TEMPORARY TABLE tt AS SELECT ssn FROM users",
        "USE hr",
    )
    state.reset(frozenset({"ANSI"}), "latin1")
    assert (state.charset, state.sql_mode, state.database) == ("utf8mb4", {"ANSI"}, "hr")  # MariaDB keeps the first
    assert not state.prepared
    assert not state.variables
    assert not state.temporaries


def test_a_failed_prepare_takes_the_old_one_with_it() -> None:
    state = apply(session(), "PREPARE s FROM 'SELECT 1'")
    fail(state, "PREPARE s FROM 'SELECT * FROM users'")
    assert judged("EXECUTE s", state).analysis.unknown


def test_a_failed_statement_may_have_filled_and_assigned() -> None:
    state = apply(session(), "CREATE TEMPORARY TABLE tt AS SELECT total FROM orders")
    fail(state, "INSERT INTO tt SELECT ssn FROM users")
    assert "shop.users" in judged("SELECT * FROM tt", state).analysis.reads
    fail(state, "SELECT ssn FROM users INTO @v")
    assert judged("SELECT @v", state).analysis.reads == ("shop.users",)


def test_of_a_failed_set_of_several_nothing_is_sure() -> None:
    state = fail(session(), "SET sql_mode = 'ANSI_QUOTES', time_zone = 'nowhere'")
    assert state.sql_mode is None
    state = fail(session(), "SET sql_mode = 'ANSI_QUOTES'")
    assert state.sql_mode == frozenset()


def test_dropping_the_default_database_leaves_none() -> None:
    state = apply(session(), "DROP DATABASE shop")
    assert state.database is None


def test_definitions_of_its_own_are_unknown_until_the_catalog_is_read() -> None:
    state = apply(session(), "ALTER TABLE users ADD COLUMN x INT")
    assert state.definitions_changed
    assert judged("SELECT * FROM users", state).analysis.unknown
    state.catalog_read()
    assert not judged("SELECT * FROM users", state).analysis.unknown


def test_a_renamed_temporary_table_keeps_its_sources() -> None:
    state = apply(session(), "CREATE TEMPORARY TABLE tt AS SELECT ssn FROM users", "RENAME TABLE tt TO uu")
    assert "shop.users" in judged("SELECT * FROM uu", state).analysis.reads
    state = apply(session(), "CREATE TEMPORARY TABLE tt AS SELECT ssn FROM users", "ALTER TABLE tt RENAME TO uu")
    assert (
        judged("SELECT * FROM uu", state).analysis.reads != ("shop.uu",)
        or judged("SELECT * FROM uu", state).analysis.unknown
    )


def test_too_many_names_are_no_names() -> None:
    state = session()
    for number in range(10_001):
        state.variables[f"v{number}"] = state.variable("x")
    apply(state, "PREPARE s FROM 'SELECT 1'")
    assert state.overflow
    assert judged("EXECUTE s", state).analysis.unknown


def test_beyond_that_nothing_more_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.mysql.state.MAX_NAMES", 100)
    state = apply(session(), *(f"SET @v{number} = 1" for number in range(150)))
    assert state.overflow
    assert not state.variables
    assert not state.variable("v1").known
    monkeypatch.setattr("protocols.mysql.state.MAX_TEXTS", 1000)
    state = apply(session(), *(f"PREPARE p{number} FROM 'SELECT {'1 + ' * 100} 1'" for number in range(9)))
    assert state.overflow
    assert not state.prepared
    assert judged("EXECUTE p8", state).analysis.unknown


def test_the_meaning_changes_with_everything_that_changes_a_text() -> None:
    state = session()
    seen = {state.meaning_key()}
    for text in (
        "SET sql_mode = 'ANSI_QUOTES'",
        "SET NAMES latin1",
        "USE hr",
        "SET @v = (SELECT id FROM shop.users LIMIT 1)",
        "CREATE TEMPORARY TABLE tt (a INT)",
        "CREATE TABLE t2 (a INT)",
        "CALL shop.p()",
    ):
        apply(state, text)
        assert state.meaning_key() not in seen, text
        seen.add(state.meaning_key())


def test_a_fork_leaves_the_original_alone() -> None:
    state = session()
    ahead = state.fork()
    apply(ahead, "SET NAMES gbk", "SET @v = 1", "PREPARE s FROM 'SELECT 1'")
    assert state.charset == "utf8mb4"
    assert not state.variables
    assert not state.prepared


def test_a_connection_character_set_that_lacks_ascii_is_no_harmless_setting() -> None:
    for text in ("SET character_set_connection = swe7", "SET collation_connection = 'swe7_swedish_ci'"):
        assert judged(text).analysis.effects == {Effect.SESSION_PARSE_STATE}
    for text in ("SET character_set_connection = utf8mb4", "SET collation_connection = 'utf8mb4_unicode_ci'"):
        assert judged(text).analysis.effects == {Effect.SESSION_SET}


def test_a_temporary_table_needs_no_new_catalog() -> None:
    assert not apply(session(), "CREATE TEMPORARY TABLE tt (a INT)").definitions_changed
