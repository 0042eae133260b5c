"""search_path emptied by somebody who may not set it: what passes, and what needs leave afterwards."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.postgres.judge_lines import judge_line
from tests.support import wire
from tests.support.talk import Talk
from tests.support.wire import SYNC, bind, complete, execute, kinds, parse, query, ready

EMPTY = "SELECT pg_catalog.set_config('search_path', '', false)"


def no_paths(analysis: Analysis) -> Decision:
    """All but name resolution and what is not understood."""
    if analysis.effects & {Effect.SESSION_NAME_RESOLUTION, Effect.UNKNOWN}:
        return Decision(Action.DENY, "no-paths", "not yours")
    return Decision(Action.ALLOW, "allow", "")


def passes(talk: Talk, sql: str) -> bool:
    """Whether it goes up; the server then says yes."""
    sent = talk.client(query(sql))
    if sent != query(sql):
        talk.server(wire.error("42601"), ready(talk.session.status if talk.session.status != "T" else "E"))
        return False
    tag = sql.split(maxsplit=1)[0].upper()
    status = {"BEGIN": "T", "COMMIT": "I", "ROLLBACK": "I"}.get(tag, talk.session.status)
    talk.server(complete(tag), ready(status))
    return True


@pytest.mark.parametrize(
    "sql",
    [
        EMPTY,
        "select set_config('search_path', '', false);",
        "SELECT set_config('search_path', 'pg_catalog', false)",
        "SET search_path = ''",
        "set session search_path to '';",
        "SET search_path = pg_catalog",
        'SET search_path TO "pg_catalog"',
    ],
)
def test_what_empties_the_path_and_does_nothing_else_is_a_harmless_setting(sql: str) -> None:
    talk = Talk(no_paths)
    assert passes(talk, sql)
    (command,) = [r for r in talk.port.records if r["t"] == "command"]
    assert "session.set" in command["effects"]
    assert talk.session.state.path_emptied
    assert judge_line({"input": sql}, no_paths, None)["decision"] == "allow"
    assert judge_line({"input": sql, "prelude": ["BEGIN"]}, no_paths, None)["decision"] == "deny"


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path = evil",
        "SET search_path = pg_temp",
        "SET search_path = '', evil",
        "SET search_path = 'pg_catalog, evil'",
        "SET search_path = pg_catalog, pg_temp",
        "SET search_path = '\"\"'",
        "SET search_path = PG_CATALOG_",
        "SET LOCAL search_path = ''",
        "SET search_path TO DEFAULT",
        "RESET search_path",
        "SELECT set_config('search_path', 'evil', false)",
        "SELECT set_config('search_path', '', true)",
        "SELECT set_config('search_path', '', false) FROM users",
        "SELECT CASE WHEN random() > 0.5 THEN set_config('search_path', '', false) END",
        "SELECT evil.set_config('search_path', '', false)",
        "SELECT set_config('search_path', '', false), set_config('role', 'x', false)",
        "SELECT set_config('search_path', '', false); SELECT 1",
        "SET search_path = ''; SET search_path = evil",
        "SET search_path = '' /* */",
        "SET search_path = pg_catalog.evil",
        "UPDATE pg_settings SET setting = '' WHERE name = 'search_path'",
        "PREPARE p AS SELECT set_config('search_path', '', false)",
    ],
)
def test_everything_else_needs_leave(sql: str) -> None:
    talk = Talk(no_paths)
    assert not passes(talk, sql)
    assert not talk.session.state.path_emptied


def test_not_while_a_transaction_is_open() -> None:
    """A trigger that was deferred would run under the other path when it commits."""
    talk = Talk(no_paths)
    assert passes(talk, "BEGIN")
    assert not passes(talk, EMPTY)
    # an implicit one: what was executed is not committed before its Sync, or the end of the next simple query
    talk = Talk(no_paths)
    sent = parse("", "INSERT INTO orders (id) VALUES (1)") + bind("", "") + execute()
    assert talk.client(sent) == sent
    assert EMPTY.encode() not in talk.client(query(EMPTY))
    # behind another command in flight, and in the extended protocol, it is not certain what is open
    talk = Talk(no_paths)
    assert EMPTY.encode() not in talk.client(query("INSERT INTO orders (id) VALUES (1)") + query(EMPTY))
    talk = Talk(no_paths)
    assert EMPTY.encode() not in talk.client(parse("", EMPTY) + bind("", "") + execute() + SYNC)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM public.users",
        "SELECT count(*), lower('A') FROM pg_class",
        "LOCK TABLE public.users IN ACCESS SHARE MODE",
        "BEGIN",
        "SHOW search_path",
        "EXPLAIN SELECT id FROM public.users",
        "COPY public.users (id) TO STDOUT",
        "SET jit = off",
    ],
)
def test_under_an_empty_path_reading_needs_no_leave(sql: str) -> None:
    talk = Talk(no_paths)
    assert passes(talk, EMPTY)
    assert talk.client(query(sql)) == query(sql)
    assert judge_line({"input": "SELECT 1", "prelude": [EMPTY]}, no_paths, None)["decision"] == "allow"


@pytest.mark.parametrize("sql", ["RESET search_path", "SET search_path TO DEFAULT", "RESET ALL", "DISCARD ALL"])
def test_the_way_back_needs_no_leave(sql: str) -> None:
    talk = Talk(no_paths)
    assert passes(talk, EMPTY)
    assert passes(talk, sql)
    assert not talk.session.state.path_emptied
    assert passes(talk, "SELECT id FROM users")
    talk = Talk()
    assert passes(talk, "SET search_path = evil")
    talk.port.decision = no_paths
    talk.port.epoch = object()
    assert not passes(talk, sql), "from anywhere else it does"


def test_there_and_back_in_a_transaction_that_only_reads_as_pg_dump_does() -> None:
    talk = Talk(no_paths)
    for sql in (EMPTY, "BEGIN", "SELECT id FROM public.users", "RESET search_path", "SELECT id FROM users", EMPTY):
        assert passes(talk, sql), sql
    assert talk.session.state.path_emptied
    assert passes(talk, "ROLLBACK")
    assert talk.session.state.path_emptied


@pytest.mark.parametrize(
    "between",
    [
        ["INSERT INTO public.orders (id) VALUES (1)"],
        ["SELECT id FROM users", "DELETE FROM public.orders", "SELECT id FROM users"],
        ["PREPARE p AS INSERT INTO public.orders (id) VALUES (1)", "EXECUTE p"],
        ["CREATE TEMP TABLE t (a int)"],
    ],
)
def test_not_in_a_transaction_that_did_more(between: list[str]) -> None:
    talk = Talk(no_paths)
    for sql in (EMPTY, "BEGIN", "RESET search_path", *between):
        assert passes(talk, sql), sql
    assert not passes(talk, EMPTY)
    # the same in one message with the way back, and in the extended protocol
    talk = Talk(no_paths)
    for sql in (EMPTY, "BEGIN", "; ".join(["RESET search_path", *between])):
        assert passes(talk, sql), sql
    assert not passes(talk, EMPTY)
    talk = Talk(no_paths)
    for sql in (EMPTY, "BEGIN", "RESET search_path"):
        assert passes(talk, sql), sql
    sent = parse("", "INSERT INTO public.orders (id) VALUES (1)") + bind("", "") + execute() + SYNC
    assert talk.client(sent) == sent
    talk.server(wire.PARSED, wire.BOUND, complete("INSERT 0 1"), ready("T"))
    assert not passes(talk, EMPTY)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO public.orders (id) VALUES (1)",
        "UPDATE public.orders SET id = 1",
        "DELETE FROM public.orders",
        "WITH x AS (DELETE FROM public.orders RETURNING id) SELECT id FROM x",
        "COPY public.orders FROM STDIN",
        "TRUNCATE public.orders",
        "EXPLAIN ANALYZE INSERT INTO public.orders (id) VALUES (1)",
        "CREATE TABLE public.t (a int)",
        "DO $$ BEGIN END $$",
    ],
)
def test_under_an_empty_path_what_may_run_code_of_others_needs_leave(sql: str) -> None:
    talk = Talk(no_paths)
    assert talk.client(query(sql)) == query(sql), "it needs none before"
    talk = Talk(no_paths)
    assert passes(talk, EMPTY)
    assert sql.encode() not in talk.client(query(sql))


def test_a_name_without_a_schema_stands_for_nothing_then() -> None:
    talk = Talk(no_paths)
    assert passes(talk, EMPTY)
    assert b"FROM users" not in talk.client(query("SELECT id FROM users"))


def test_verdicts_of_other_sessions_do_not_stand_here() -> None:
    first = Talk(no_paths)
    insert = "INSERT INTO public.orders (id) VALUES (1)"
    assert passes(first, insert)
    second = Talk(no_paths, cache=first.session.judge._cache)
    assert passes(second, EMPTY)
    assert not passes(second, insert)
    # prepared before, run after
    third = Talk(no_paths)
    third.prepare("s", insert)
    assert passes(third, EMPTY)
    assert bind("", "s") not in third.client(bind("", "s") + execute() + SYNC)


def test_a_function_of_somebody_s_by_the_fast_path() -> None:
    def lenient(analysis: Analysis) -> Decision:
        denied = Effect.SESSION_NAME_RESOLUTION in analysis.effects
        return Decision(Action.DENY if denied else Action.ALLOW, "r", "")

    talk = Talk(lenient)
    assert talk.client(wire.call(1_234_567)) == wire.call(1_234_567)
    talk.server(wire.message("V", b"\xff\xff\xff\xff"), ready())
    assert passes(talk, EMPTY)
    assert talk.client(wire.call(1_234_567)) == wire.call(0)


def test_whoever_may_set_it_notices_nothing() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    assert passes(talk, EMPTY)
    assert passes(talk, "INSERT INTO public.orders (id) VALUES (1)")
    (command, _) = [r for r in talk.port.records if r["t"] == "command"]
    assert "session.name_resolution" in command["effects"]
    assert kinds(talk.client(query("SET search_path = public"))) == "Q"
