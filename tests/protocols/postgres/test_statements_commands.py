"""Statements that are no queries: their effects, the relations they name, and what they change in the session."""

from __future__ import annotations

import dataclasses

import pgparse
import pytest

from protocols.contract import Effect
from protocols.judging import defines
from protocols.postgres.base import OWN
from protocols.postgres.catalog import Catalog
from protocols.postgres.statements import analyse, analyse_function_call, with_parameter_types
from protocols.postgres.statements.nodes import FIELDS
from tests.support import statements as make
from tests.support.statements import catalog, effects, of


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("", "empty", set()),
        ("BEGIN", "begin", {"tx"}),
        ("BEGIN READ WRITE", "begin", {"tx", "session.guard"}),
        ("BEGIN READ ONLY", "begin", {"tx"}),
        ("PREPARE TRANSACTION 'a'", "prepare", {"tx", "admin.lock"}),
        ("SET application_name = 'x'", "set", {"session.set"}),
        ("SET ROLE r", "set", {"session.role"}),
        ("SET search_path = a", "set", {"session.name_resolution"}),
        ("SET statement_timeout = 0", "set", {"session.guard"}),
        ("SET client_encoding = 'GBK'", "set", {"session.parse_state"}),
        ("SET session_replication_role = replica", "set", {"priv.triggers"}),
        ("SET my.setting = 1", "set", {"session.other"}),
        ("SHOW all", "show", {"show"}),
        ("EXPLAIN DELETE FROM users", "explain delete", {"show"}),
        ("EXPLAIN ANALYZE DELETE FROM users", "explain analyze delete", {"show", "data.delete"}),
        ("EXPLAIN SELECT purge()", "explain select", {"show", "exec.call"}),
        ("EXPLAIN SELECT pg_sleep(1)", "explain select", {"show"}),
        ("COPY users TO STDOUT", "copy to", {"data.copy_out", "data.select"}),
        ("COPY users FROM STDIN", "copy from", {"data.copy_in", "data.insert"}),
        ("COPY users TO '/x'", "copy to", {"data.select", "file.write"}),
        ("COPY users FROM PROGRAM 'x'", "copy from", {"data.copy_in", "data.insert", "exec.program"}),
        ("PREPARE p AS DELETE FROM users", "prepare", {"prepare", "data.delete"}),
        ("DECLARE c CURSOR FOR SELECT 1", "declare cursor", {"cursor", "data.select"}),
        ("DO 'x'", "do", {"exec.dynamic"}),
        ("NOTIFY a", "notify", {"exfil.notify"}),
        ("LISTEN a", "listen", {"listen"}),
        ("UNLISTEN *", "unlisten", {"session.set"}),
        ("LOCK users", "lock table", {"admin.lock"}),
        ("TRUNCATE users", "truncate", {"data.truncate"}),
        ("DROP TABLE users", "drop table", {"ddl.drop"}),
        ("CREATE TABLE t (a int DEFAULT purge())", "create table", {"ddl.create", "exec.call"}),
        ("CREATE VIEW v AS SELECT purge()", "create view", {"ddl.create", "data.select", "exec.call"}),
        ("CREATE TABLE t AS SELECT * FROM users", "create table as", {"ddl.create", "data.select"}),
        ("SELECT * INTO t FROM users", "select into", {"ddl.create", "data.select"}),
        ("ALTER TABLE users DISABLE TRIGGER x", "alter table", {"ddl.alter", "priv.triggers"}),
        ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", "alter table", {"ddl.alter", "priv.policy"}),
        ("GRANT a TO b", "grant role", {"priv.grant"}),
        ("CREATE SCHEMA s CREATE TABLE t() GRANT SELECT ON t TO PUBLIC", "create schema", {"ddl.create", "priv.grant"}),
        ("ALTER USER u SET role = x", "alter role set", {"admin.config", "priv.role"}),
        ("BEGIN; DELETE FROM users; COMMIT", "begin; delete; commit", {"tx", "data.delete"}),
    ],
)
def test_kinds_and_effects(text: str, kind: str, wanted: set[str]) -> None:
    assert (of(text).kind, effects(text)) == (kind, wanted)


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("DROP TABLE users, evil.users", {"public.users", "evil.users"}),
        ("ALTER TABLE users ADD x int", {"public.users"}),
        ("CREATE TABLE t(a int)", {"public.t"}),
        ("CREATE TEMP TABLE t(a int)", {"pg_temp.t"}),
        ("CREATE TABLE t AS SELECT 1", {"public.t"}),
        ("CREATE INDEX ON users(name)", {"public.users"}),
        ("TRUNCATE orders", {"public.orders"}),
        ("LOCK users", {"public.users"}),
        ("COPY users FROM STDIN", {"public.users"}),
        ("VACUUM users", {"public.users"}),
        ("SELECT nextval('public.orders')", {"public.orders"}),
        ("EXPLAIN DELETE FROM users", set()),
    ],
)
def test_what_a_definition_names(text: str, writes: set[str]) -> None:
    assert set(of(text).writes) == writes


@pytest.mark.parametrize(
    ("oid_of", "wanted"),
    [
        ("lower", {"data.select"}),
        ("pg_read_file", {"data.select", "file.read"}),
        ("lo_open", {"data.select", "data.write"}),
        ("pg_input_is_valid", {"data.select", "exec.cast"}),
        ("jsonb_populate_record", {"data.select", "exec.cast"}),
    ],
)
def test_a_call_by_oid_is_judged_like_a_call_by_name(oid_of: str, wanted: set[str]) -> None:
    function = catalog().functions["pg_catalog", oid_of][0]
    assert {e.value for e in analyse_function_call(function.oid, catalog()).analysis.effects} == wanted


def test_a_call_by_an_unknown_oid_is_unknown() -> None:
    assert analyse_function_call(999_999, catalog()).analysis.unknown
    assert analyse_function_call(870, None).analysis.unknown
    assert Effect.EXEC_CALL in analyse_function_call(31001, catalog()).analysis.effects


def test_the_types_of_parameters_count() -> None:
    one = make.command("SELECT $1")
    assert with_parameter_types(one, [23, 25, 0], catalog()) is one
    assert with_parameter_types(one, [], None) is one
    unknown = with_parameter_types(one, [99_999], catalog())
    assert unknown.analysis.unknown
    assert unknown.statements[0].analysis.unknown
    assert with_parameter_types(one, [99_999], None).analysis.unknown


def test_without_a_catalog_only_what_names_nothing_is_known() -> None:
    state = make.session()
    for text in (b"BEGIN", b"SET application_name = 'x'", b"SELECT 1", b"SHOW all", b""):
        assert not analyse(text, state, None).analysis.unknown, text
    for text in (b"SELECT * FROM users", b"SELECT now()", b"SELECT 1::int", b"INSERT INTO a VALUES (1)"):
        assert analyse(text, state, None).analysis.unknown, text


def test_a_statement_is_judged_after_those_before_it_in_the_message() -> None:
    assert of("SET search_path = evil; SELECT id FROM users").reads == ("evil.users",)
    assert "data.delete" in effects("PREPARE p AS DELETE FROM users; EXECUTE p")
    assert of("CREATE TABLE t(a int); SELECT * FROM t").unknown
    assert of("ALTER FUNCTION purge() RENAME TO lower; SELECT lower('x')").unknown


def test_every_node_of_the_grammar_that_is_not_listed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unlisted node, and a listed one with a field that nobody thought of, are both unknown."""
    assert not of("SELECT count(*) FROM users").unknown
    monkeypatch.delitem(FIELDS, "FuncCall")
    assert of("SELECT count(*) FROM users").unknown
    monkeypatch.setitem(FIELDS, "FuncCall", frozenset({"funcname", "location"}))
    assert of("SELECT count(*) FROM users").unknown


def test_a_statement_kind_that_is_not_listed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgparse, "parse", lambda _: [{"stmt": {"BrandNewStmt": {}}}])
    assert of("ANYTHING").unknown


@pytest.mark.parametrize("fault", [KeyError("x"), TypeError("x"), MemoryError(), RecursionError(), ValueError("x")])
def test_a_fault_of_ours_is_unknown(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Catalog, "facts", broken)
    found = of("SELECT * FROM users")
    assert found.unknown
    assert found.effects == {Effect.UNKNOWN}


def test_analyses_are_values() -> None:
    one, two = of("SELECT * FROM users WHERE id = 1"), of("SELECT * FROM users WHERE id = 1")
    assert one == two
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.kind = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT 1", None),
        ("CREATE TABLE t (a int)", ("public.t",)),
        ("CREATE FOREIGN TABLE t (a int) SERVER s", ("public.t",)),
        ("DROP TABLE users", ("public.users",)),
        ("ALTER TABLE users RENAME TO t", ("public.users", "t")),
        ("ALTER TABLE users RENAME name TO n", ("public.users",)),
        ("ALTER TABLE users SET SCHEMA app", ("public.users",)),
        ("CREATE SCHEMA s", None),
        ("CREATE ROLE r", None),
        ("ALTER ROLE r SET search_path = a", None),
        ("GRANT SELECT ON users TO r", None),
        ("REVOKE USAGE ON SCHEMA app FROM r", ()),
        ("GRANT r TO s", ()),
        # what a name, call, cast or operator means may be another one's from now on
        ("CREATE SCHEMA s CREATE VIEW users AS SELECT 1 AS id", ()),
        ("CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1'", ()),
        ("CREATE AGGREGATE max(varchar) (sfunc = f, stype = text)", ()),
        ("CREATE OPERATOR || (leftarg = varchar, rightarg = text, function = f)", ()),
        ("CREATE CAST (int AS text) WITH FUNCTION f(int)", ()),
        ("CREATE DOMAIN d AS text CHECK (VALUE <> '')", ()),
        ("DROP TABLE users CASCADE", ()),
        ("DROP FUNCTION f(int); CREATE TABLE t (a int)", ()),
        ("DO 'x'; CREATE TABLE t (a int)", ()),
        # nobody else's
        ("CREATE TEMP TABLE t AS SELECT * FROM users", None),
        ("CREATE TEMP TABLE t (a int); DROP TABLE t CASCADE", None),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", None),
        ("CREATE TEMP TABLE t (a int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", ()),
    ],
)
def test_what_has_another_meaning_for_other_sessions(text: str, wanted: tuple[str, ...] | None) -> None:
    assert defines(analyse(text.encode(), make.session(), catalog()).analysis, OWN) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT 1, now(), current_user", False),
        ("SELECT pg_catalog.lower('a')", False),
        ("SHOW search_path", False),
        ("SELECT lower('a')", True),
        ("SELECT 1 + 1", True),
        ("SELECT (users).name_of FROM users", True),
        ("BEGIN; SELECT lower('a')", True),
        ("PREPARE p AS SELECT lower('a'); EXECUTE p", True),
    ],
)
def test_what_a_new_function_could_be_called_by(text: str, wanted: bool) -> None:
    assert analyse(text.encode(), make.session(), catalog()).analysis.resolves is wanted
