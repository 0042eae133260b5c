"""What a session remembers: settings, transactions, names; each test is a short transcript."""

from __future__ import annotations

import pgparse
import pytest

from protocols.contract import Effect
from protocols.postgres.state import SessionState
from protocols.postgres.state_changes import MAX_NAMES, MAX_SAVED
from protocols.postgres.statements import analyse
from tests.support import statements as make
from tests.support.statements import catalog, command, effects, of, ran, session


def path(state: SessionState) -> tuple[str, ...]:
    found, known = state.search_path(catalog())
    assert known
    return found


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ("public",)),
        (["SET search_path = evil"], ("evil",)),
        (["SET search_path = evil, \"Odd\", 'a b'"], ("evil", "Odd", "a b")),
        (["SET search_path = 'a, b'"], ("a, b",)),
        (["SELECT set_config('search_path', '" + "e" * 70 + ', "' + "f" * 70 + "\"', false)"], ("e" * 63, "f" * 63)),
        (["SELECT set_config('search_path', 'a, b', false)"], ("a", "b")),
        (["SET search_path = ''"], ()),
        (["SET search_path = evil", "RESET search_path"], ("public",)),
        (["SET search_path = evil", "SET search_path TO DEFAULT"], ("public",)),
        (["SET search_path = evil", "RESET ALL"], ("public",)),
        (["SET search_path = evil", "DISCARD ALL"], ("public",)),
        (["BEGIN", "SET search_path = evil", "ROLLBACK"], ("public",)),
        (["BEGIN", "SET search_path = evil", "COMMIT"], ("evil",)),
        (["BEGIN", "SET LOCAL search_path = evil"], ("evil",)),
        (["BEGIN", "SET LOCAL search_path = evil", "COMMIT"], ("public",)),
        (["BEGIN", "SET LOCAL search_path = evil", "SET search_path = other", "COMMIT"], ("other",)),
        (["BEGIN", "SAVEPOINT a", "SET search_path = evil", "ROLLBACK TO a", "COMMIT"], ("public",)),
        (["BEGIN", "SAVEPOINT a", "SET search_path = evil", "RELEASE a", "COMMIT"], ("evil",)),
        (
            ["BEGIN", "SET search_path = x", "SAVEPOINT a", "SET search_path = y", "SAVEPOINT b", "ROLLBACK TO a"],
            ("x",),
        ),
        (["BEGIN", "SET search_path = x", "SAVEPOINT a", "RELEASE a", "ROLLBACK"], ("public",)),
        (["BEGIN", "SET search_path = x", "COMMIT AND CHAIN", "SET search_path = y", "ROLLBACK"], ("x",)),
    ],
)
def test_search_path(texts: list[str], expected: tuple[str, ...]) -> None:
    assert path(ran(session(), *texts)) == expected


def test_a_savepoint_that_was_not_seen_makes_the_path_unknown() -> None:
    state = ran(session(), "BEGIN", "ROLLBACK TO nowhere")
    assert state.search_path(catalog())[1] is False
    assert of("SELECT id FROM users", state).unknown


def test_what_the_server_reports_wins() -> None:
    state = ran(session(), "SET search_path = evil")
    state.parameter_status("search_path", "public")
    assert path(state) == ("public",)


def test_an_error_undoes_the_message_and_the_transaction() -> None:
    state = session()
    for statement in command("SET search_path = evil; SELECT 1", state).statements:
        state.applied(statement)
    state.failed()
    state.ready("I")
    assert path(state) == ("public",)
    state = ran(session(), "BEGIN", "SET search_path = evil")
    state.failed()
    state.ready("E")
    ran_commit = command("COMMIT", state).statements[0]
    state.applied(ran_commit)  # the server answers ROLLBACK
    state.ready("I")
    assert path(state) == ("public",)


def test_the_user_schema_follows_the_login_role_until_the_role_changes() -> None:
    state = SessionState()
    state.startup({"user": "evil"})
    assert path(state) == ("evil", "public")
    ran(state, "SET ROLE other")
    assert path(state) == ("public",)
    ran(state, "SET ROLE evil")
    assert path(state) == ("evil", "public")
    ran(state, "RESET ROLE")
    assert state.search_path(catalog())[1] is False
    ran(state, "DISCARD ALL")
    assert path(state) == ("evil", "public")
    ran(state, "SELECT set_config('role', current_user, false)")
    assert state.search_path(catalog())[1] is False


@pytest.mark.parametrize(
    "text",
    [
        "SELECT set_config('search_path', 'evil', false) FROM users WHERE id = 0",
        "SELECT CASE WHEN random() > 0.5 THEN set_config('search_path', 'evil', false) END",
        "SELECT set_config('search_path', name, false) FROM users",
        "WITH x AS (SELECT set_config('search_path', 'evil', false)) SELECT 1",
        "INSERT INTO users(name) SELECT set_config('search_path', 'evil', false)",
    ],
)
def test_a_setting_that_may_not_have_been_made_makes_the_path_unknown(text: str) -> None:
    state = ran(session(), text)
    assert state.search_path(catalog())[1] is False
    assert of("SELECT id FROM users", state).unknown


def test_encodings_and_strings_are_what_the_server_says() -> None:
    state = session(client_encoding="UTF8")
    assert (state.encoding, state.conforming_strings, state.server_utf8) == ("UTF8", True, True)
    state.parameter_status("client_encoding", "SJIS")
    state.parameter_status("standard_conforming_strings", "off")
    state.parameter_status("server_encoding", "LATIN1")
    assert (state.encoding, state.conforming_strings, state.server_utf8) == ("SJIS", False, False)
    ran(state, "SET client_encoding = 'UTF8'")
    assert state.encoding == "UTF8"


def test_a_whole_message_is_lexed_under_the_old_setting() -> None:
    text = r"SET standard_conforming_strings = off; SELECT '\'; DROP TABLE orders; --'"
    assert {"ddl.drop", "session.parse_state"} <= effects(text)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["PREPARE p AS DELETE FROM users"], {"data.delete", "prepare"}),
        (["PREPARE p AS SELECT 1", "DEALLOCATE p", "PREPARE p AS DELETE FROM users"], {"data.delete", "prepare"}),
        (["BEGIN", "PREPARE p AS DELETE FROM users", "ROLLBACK"], {"data.delete", "prepare"}),
        (["PREPARE p AS DELETE FROM users", "DISCARD ALL"], {"prepare", "unknown"}),
        (["PREPARE p AS DELETE FROM users", "DEALLOCATE ALL"], {"prepare", "unknown"}),
        ([], {"prepare", "unknown"}),
    ],
)
def test_execute_means_what_was_prepared(texts: list[str], wanted: set[str]) -> None:
    assert effects("EXECUTE p", ran(session(), *texts)) == wanted


def test_a_prepared_statement_is_resolved_anew_under_another_path() -> None:
    state = ran(session(), "PREPARE p AS SELECT id FROM users")
    assert of("EXECUTE p", state).reads == ("public.users",)
    ran(state, "SET search_path = evil")
    assert of("EXECUTE p", state).reads == ("evil.users",)


def test_sql_and_protocol_share_one_namespace() -> None:
    state = session()
    state.prepare("s", command("DELETE FROM users", state))
    assert "data.delete" in effects("EXECUTE s", state)
    ran(state, "SET search_path = evil")
    assert of("EXECUTE s", state).writes == ("evil.users",)
    ran(state, "DEALLOCATE s", "PREPARE t AS DELETE FROM users")
    assert state.prepared("s") is None
    found = state.prepared("t")
    assert found is not None
    assert Effect.DATA_DELETE in found.analysis.effects
    state.close_statement("t")
    assert state.prepared("t") is None


@pytest.mark.parametrize(
    ("texts", "known"),
    [
        (["BEGIN", "DECLARE c CURSOR FOR SELECT ssn FROM users"], True),
        (["BEGIN", "DECLARE c CURSOR FOR SELECT ssn FROM users", "COMMIT"], False),
        (["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT ssn FROM users", "COMMIT"], True),
        (["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT ssn FROM users", "CLOSE c"], False),
        (["BEGIN", "DECLARE c CURSOR FOR SELECT ssn FROM users", "CLOSE ALL"], False),
        (["BEGIN", "DECLARE c CURSOR FOR SELECT ssn FROM users", "ROLLBACK"], False),
        (["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT ssn FROM users", "ROLLBACK"], False),
    ],
)
def test_a_cursor_brings_what_it_was_declared_for(texts: list[str], known: bool) -> None:
    found = of("FETCH 1 FROM c", ran(session(), *texts))
    assert found.unknown is not known
    assert found.reads == (("public.users",) if known else ())


def test_a_portal_is_a_cursor() -> None:
    state = session()
    state.bind("c", command("SELECT ssn FROM users", state))
    state.ready("T")
    assert of("FETCH c", state).reads == ("public.users",)
    found = state.portal("c")
    assert found is not None
    state.ready("I")
    assert state.portal("c") is None


def test_temporary_tables_hide_others_while_they_surely_exist() -> None:
    state = ran(session(), "CREATE TEMP TABLE users AS SELECT 1 AS id")
    assert of("SELECT * FROM users", state).reads == ("pg_temp.users",)
    assert of("SELECT * FROM public.users", state).reads == ("public.users",)
    ran(state, "BEGIN", "DROP TABLE users")
    assert set(of("SELECT * FROM users", state).reads) >= {"pg_temp.users", "public.users"}
    ran(state, "ROLLBACK")
    assert of("SELECT * FROM users", state).reads == ("pg_temp.users",)
    ran(state, "DISCARD TEMP")
    assert of("SELECT * FROM users", state).reads == ("public.users",)


def test_a_temporary_table_dropped_on_commit_may_be_gone() -> None:
    state = ran(session(), "BEGIN", "CREATE TEMP TABLE users (id int) ON COMMIT DROP")
    assert set(of("SELECT * FROM users", state).reads) == {"pg_temp.users", "public.users"}
    ran(state, "COMMIT")
    assert of("SELECT * FROM users", state).reads == ("public.users",)


def test_a_temporary_table_that_was_changed_may_mean_another() -> None:
    state = ran(session(), "CREATE TEMP TABLE users (id int)", "ALTER TABLE users ADD x int")
    assert set(of("SELECT * FROM users", state).reads) == {"pg_temp.users", "public.users"}
    ran(state, "DROP TABLE public.users", "CREATE TEMP TABLE t (id int)", "DROP TABLE public.t")
    assert of("SELECT * FROM t", state).reads == ("pg_temp.t",)


def test_a_path_that_begins_with_pg_temp_makes_tables_temporary() -> None:
    state = ran(session(), "SET search_path = pg_temp, public", "CREATE TABLE t (id int)")
    assert of("SELECT * FROM t", state).reads == ("pg_temp.t",)


def test_what_was_copied_into_a_temporary_table_is_not_forgotten() -> None:
    state = ran(session(), "CREATE TEMP TABLE t AS SELECT ssn FROM users")
    assert set(of("SELECT * FROM t", state).reads) == {"pg_temp.t", "public.users"}
    ran(state, "ALTER TABLE t RENAME TO orders")
    assert set(of("SELECT * FROM orders", state).reads) == {"pg_temp.orders", "public.orders", "public.users"}
    ran(state, "CREATE TEMP TABLE e (x text)", "SELECT * FROM e", "INSERT INTO e SELECT note FROM lines")
    assert set(of("SELECT * FROM e", state).reads) == {"pg_temp.e", "public.lines"}


def test_types_in_pg_temp_make_types_unknown_for_good() -> None:
    state = ran(session(), "CREATE DOMAIN pg_temp.text AS int CHECK (purge() > 0)")
    assert of("SELECT '1'::text", state).unknown
    assert not of("SELECT '1'::pg_catalog.text", state).unknown


def test_a_temporary_view_is_read_through() -> None:
    state = ran(session(), "CREATE TEMP VIEW t AS SELECT ssn FROM users")
    assert set(of("SELECT * FROM t", state).reads) == {"pg_temp.t", "public.users"}


@pytest.mark.parametrize(
    ("definition", "text", "is_unknown"),
    [
        ("CREATE TABLE fresh(id int)", "SELECT * FROM fresh", True),
        ("CREATE TABLE fresh(id int)", "SELECT * FROM users", False),
        ("ALTER TABLE users ADD x int", "SELECT * FROM users", True),
        ("ALTER TABLE orders RENAME TO users2", "SELECT * FROM users2", True),
        ("DROP VIEW v_users", "SELECT * FROM v_users", True),
        ("CREATE OR REPLACE VIEW v_users AS SELECT 1", "SELECT * FROM public.v_users", True),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'x'", "SELECT upper('x')", True),
        ("CREATE OPERATOR + (FUNCTION = f, LEFTARG = int)", "SELECT 1 + 1", True),
        ("CREATE TYPE t AS (a int)", "SELECT 1::int", True),
        ("ALTER SCHEMA evil RENAME TO e2", "SELECT * FROM users", True),
        ("DROP TABLE users CASCADE", "SELECT * FROM v_users", True),
    ],
)
def test_what_the_open_transaction_defined_is_unknown_until_it_ends(
    definition: str, text: str, is_unknown: bool
) -> None:
    state = ran(session(), "BEGIN", definition)
    assert state.definitions_changed
    assert of(text, state).unknown is is_unknown
    ran(state, "SAVEPOINT a", "ROLLBACK TO a")
    assert of(text, state).unknown is is_unknown
    ran(state, "COMMIT")
    assert not state.definitions_changed


@pytest.mark.parametrize(
    ("before", "text", "wanted"),
    [
        ([], "DISCARD ALL", {"session.set"}),
        ([], "RESET ALL", {"session.set"}),
        (["SET ROLE x"], "DISCARD ALL", {"session.set", "session.role"}),
        (["DO 'x'"], "DISCARD ALL", {"session.set", "session.role"}),
        (["SET default_transaction_read_only = on"], "RESET ALL", {"session.set", "session.guard"}),
        (["SET search_path = x"], "RESET ALL", {"session.set", "session.name_resolution"}),
        (["SET TimeZone = 'UTC'"], "RESET ALL", {"session.set"}),
        (["SET ROLE x"], "RESET ALL", {"session.set"}),
        ([], "RESET client_encoding", {"session.set"}),
        (["SET client_encoding = 'LATIN1'"], "RESET client_encoding", {"session.set"}),
        ([], "RESET search_path", {"session.name_resolution"}),
        ([], "RESET statement_timeout", {"session.guard"}),
    ],
)
def test_undoing_has_the_effect_of_what_was_done(before: list[str], text: str, wanted: set[str]) -> None:
    assert effects(text, ran(session(client_encoding="UTF8"), *before)) == wanted


def test_the_meaning_key_follows_everything_that_changes_meaning() -> None:
    seen = []
    state = session()
    for text in (
        "SELECT 1",
        "SET search_path = evil",
        "CREATE TEMP TABLE t (a int)",
        "SET ROLE x",
        "RESET search_path",
    ):
        ran(state, text)
        seen.append(state.meaning_key())
    assert len(set(seen)) == 5
    before = state.meaning_key()
    ran(state, "SELECT 1", "SET application_name = 'x'", "BEGIN", "COMMIT")
    assert state.meaning_key() == before
    state.parameter_status("client_encoding", "LATIN1")
    assert state.meaning_key() != before
    hash(state.meaning_key())


def test_thinking_ahead_changes_nothing() -> None:
    state = ran(session(), "PREPARE p AS SELECT 1", "BEGIN", "SAVEPOINT a")
    key = state.meaning_key()
    analyse(b"SET search_path = evil; DEALLOCATE p; CREATE TEMP TABLE t(a int); ROLLBACK", state, make.catalog())
    assert state.meaning_key() == key
    assert state.prepared("p") is not None
    assert state.in_block


def test_names_are_bounded() -> None:
    state = session()
    one = command("SELECT 1", state)
    for number in range(MAX_NAMES + 1):
        state.prepare(f"s{number}", one)
    assert of("EXECUTE s1", state).unknown


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        # the server says what is in force with its next ReadyForQuery only: within a message it is behind
        (["SET search_path = evil"], "RESET search_path", "public"),
        (["SET search_path = evil"], "RESET ALL", "public"),
        (["BEGIN; SET search_path = evil"], "ROLLBACK", "public"),
        (["BEGIN; SAVEPOINT a; SET search_path = evil"], "ROLLBACK TO a", "public"),
        (["SET search_path = public", "BEGIN; SET LOCAL search_path = evil"], "COMMIT", "public"),
        (["SET search_path = public", "BEGIN; SET LOCAL search_path = evil"], "ROLLBACK", "public"),
    ],
)
def test_what_the_server_reported_does_not_outlive_what_it_was_about(
    before: list[str], text: str, expected: str
) -> None:
    state = session()
    state.parameter_status("search_path", "public")
    for step in before:
        ran(state, step)
        state.parameter_status("search_path", state.search_path(catalog())[0][0])
    ahead = state.fork()
    for statement in command(text, state).statements:
        ahead.applied(statement)
    assert path(ahead) == (expected,)


def test_standard_conforming_strings_go_back_with_the_transaction() -> None:
    state = session()
    state.parameter_status("standard_conforming_strings", "off")
    ran(state, "BEGIN", "SET standard_conforming_strings = on")
    state.parameter_status("standard_conforming_strings", "on")
    assert state.conforming_strings
    state.applied(command("ROLLBACK", state).statements[0])
    assert not state.conforming_strings


def test_savepoints_between_which_nothing_happens_cost_next_to_nothing() -> None:
    state = ran(session(), "BEGIN", "SET enable_sort = off")
    savepoint = command("SAVEPOINT a", state).statements[0]
    for _ in range(MAX_NAMES + 100):
        state.applied(savepoint)
    assert len({id(saved) for _, saved in state._saved}) <= 2
    assert len(state._saved) <= MAX_NAMES + 1
    assert of("SELECT id FROM users", state).unknown  # what a way back would undo is not known any more
    ran(state, "ROLLBACK")
    assert not of("SELECT id FROM users", state).unknown


def test_savepoints_keep_a_bounded_picture_of_settings() -> None:
    state = ran(
        session(), "BEGIN", *(";".join(f"SET a.b{n} = 1" for n in range(at, at + 500)) for at in range(0, 5000, 500))
    )
    for _ in range(5):
        ran(state, "SAVEPOINT s; SET a.b1 = 2;" * 200)
    kept = {id(saved): saved.names for _, saved in state._saved}
    assert sum(kept.values()) <= MAX_SAVED + 5001
    assert of("SELECT id FROM users", state).unknown  # what a way back would undo is not known any more
    ran(state, "ROLLBACK")
    assert not of("SELECT id FROM users", state).unknown


def test_settings_are_bounded_and_those_beyond_are_still_taken_back_with_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.postgres.state_changes.MAX_NAMES", 100)
    state = ran(session(), *(f"SET a.b{number} = 1" for number in range(150)))
    assert Effect.SESSION_GUARD not in effects("RESET ALL", state)
    ran(state, "SET statement_timeout = 1", "SET search_path = evil")
    assert len(state._now.settings) <= 102
    assert {Effect.SESSION_GUARD, Effect.SESSION_NAME_RESOLUTION} <= set(effects("RESET ALL", state))
    assert path(state) == ("evil",)
    assert of("SELECT id FROM users", state).unknown


def test_only_the_texts_of_prepared_statements_are_kept_and_not_endlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.postgres.state_changes.MAX_TEXTS", 1000)
    state = session()
    for number in range(5):
        ran(state, f"PREPARE p{number} AS SELECT '{'x' * 150}'")
    ran(state, "DEALLOCATE p0", "PREPARE p0 AS SELECT 1")
    assert not of("EXECUTE p0", state).unknown
    ran(state, *(f"PREPARE q{number} AS SELECT '{'x' * 150}'" for number in range(3)))
    assert of("EXECUTE p0", state).unknown


def test_naming_a_long_statement_again_and_again_does_not_cost_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = pgparse.parse

    def counted(text: str) -> object:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr("protocols.postgres.statements.session_commands.pgparse.parse", counted)
    state = ran(session(), "PREPARE p AS SELECT id FROM users WHERE id IN (" + ",".join(map(str, range(300))) + ")")
    parsed.clear()
    for text in ("EXECUTE p", "EXECUTE p;" * 50, "SET enable_sort = off; EXECUTE p", "EXECUTE p"):
        ran(state, text)
    assert len([text for text in parsed if text.startswith("PREPARE")]) == 1
    ran(state, "SET search_path = evil")  # under other names it is another statement
    assert of("EXECUTE p", state).reads == ("evil.users",)
