"""Long texts are analysed apart: the session waits, keeps the order, and lets nothing pass that was not judged as it is
now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Action, Analysis, Decision, Effect, Outcome, Side, Wait
from protocols.judging import LONG, MAX_CACHED_TEXT, NAMED_LONG
from tests.support import mysql_wire as wire
from tests.support.apart import answer, read
from tests.support.examples import examples
from tests.support.mysql_talk import SSN, Talk, anything, catalog, usual
from tests.support.mysql_wire import errors, execute, packets, prepare, query

PADDING = " /* " + "x" * LONG + " */"
UNCACHED = " /* " + "x" * MAX_CACHED_TEXT + " */"
SELECT = "SELECT id FROM users WHERE id IN (" + ", ".join(map(str, range(1000, 2000))) + ")"
INSERT = "INSERT INTO orders (id, total) VALUES " + ", ".join(f"({n}, length('{n}'))" for n in range(400))
DELETE = "DELETE FROM users WHERE id IN (" + ", ".join(map(str, range(1000, 2000))) + ")"
OK = packets(1, wire.ok())


def apart(decide: Callable[..., Decision] = usual, **more: Any) -> Talk:
    talk = Talk(decide, **more)
    talk.port.apart = True
    return talk


def test_a_short_text_is_analysed_at_once() -> None:
    talk = apart()
    assert talk.client(query("SELECT 1")) == query("SELECT 1")
    assert not talk.port.long


def test_a_long_text_waits_and_then_passes_as_it_came() -> None:
    talk = apart()
    assert talk.client(query(SELECT)) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert not talk.commands()
    assert answer(talk) == query(SELECT)
    assert talk.commands() == [("query", SELECT, "allow")]
    assert talk.session.waiting is None


@pytest.mark.parametrize(
    "sql",
    [
        SELECT,
        INSERT,
        DELETE,
        "DROP TABLE users" + PADDING,
        "SELEC 1" + PADDING,
        "SELECT 1; SELECT id FROM users" + PADDING,
        "KILL 5 or so" + PADDING,
    ],
)
def test_it_means_what_it_means_when_it_is_analysed_at_once(sql: str) -> None:
    inline, talk = Talk(masks=[SSN]), apart(masks=[SSN])
    inline.client(query(sql))
    talk.client(query(sql))
    answer(talk)
    assert talk.last("command") == inline.last("command")
    assert talk.session.waiting == inline.session.waiting


def test_bytes_behind_it_wait_and_keep_their_order() -> None:
    talk = apart()
    assert talk.client(query(SELECT) + query("SELECT 3")) == b""
    assert talk.client(query("SELECT 4")) == b""
    assert answer(talk) == query(SELECT)
    talk.server(OK)
    assert talk.up() == query("SELECT 3")
    talk.server(OK)
    assert talk.up() == query("SELECT 4")


def test_any_chunking_is_the_same() -> None:
    sent = query(SELECT) + query("SELECT 3")
    for size in (1, 100, 5000, 8192):
        talk = apart()
        for at in range(0, len(sent), size):
            assert talk.client(sent[at : at + size]) == b""
        assert answer(talk) == query(SELECT)
        talk.server(OK)
        assert talk.up() == query("SELECT 3")


def test_what_cannot_be_analysed_is_denied_in_words_whatever_the_policy_says() -> None:
    talk = apart(anything)
    talk.client(query(SELECT))
    assert answer(talk, why="its analysis took more than 10 s") == b""
    ((_, errno, _, text),) = errors(talk.down())
    assert (errno, "its analysis took more than 10 s" in text) == (1142, True)
    record = talk.last("command")
    assert (record["decision"], record["rule"]) == ("deny", "gateway")
    assert "SHA-256" in record["text"]
    talk.client(query(SELECT))
    assert answer(talk) == query(SELECT)


@pytest.mark.parametrize("lie", [None, object(), "read", 1])
def test_an_answer_that_is_no_analysis_is_none(lie: object) -> None:
    talk = apart(anything)
    talk.client(query(SELECT))
    talk.session.analysed(talk.port.long[-1], lie)
    assert talk.up() == b""
    assert talk.last("command")["decision"] == "deny"


def test_an_answer_to_another_question_is_nothing() -> None:
    talk = apart()
    talk.client(query(SELECT))
    asked = talk.port.long[-1]
    talk.session.analysed(replace(asked), read(talk, asked))
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(SELECT)
    talk.session.analysed(asked, read(talk, asked))  # twice
    assert talk.up() == b""


def test_cancelled_it_is_refused_as_the_server_would() -> None:
    talk = apart()
    talk.client(query(SELECT) + query("SELECT 3"))
    assert talk.session.cancelled()
    assert talk.up() == query("SELECT 3")
    assert talk.port.forgotten == talk.port.long
    ((_, errno, _, _),) = errors(talk.down())
    assert errno == 1317
    talk.session.analysed(talk.port.long[-1], read(talk, talk.port.long[-1]))  # too late
    assert talk.up() == b""


def test_cancelled_while_names_change_it_is_cancelled_all_the_same() -> None:
    talk = apart()
    talk.client(query(SELECT))
    talk.port.snapshot = None
    assert talk.session.cancelled()
    assert talk.session.waiting is Wait.CATALOG
    talk.port.snapshot = catalog("v2")
    assert talk.resume(None) == b""
    assert errors(talk.down())[0][1] == 1317
    assert len(talk.port.long) == 1


def test_terminated_or_lost_it_never_passes() -> None:
    for end in (lambda t: t.session.terminate("contained"), lambda t: t.session.lost(Side.CLIENT)):
        talk = apart()
        talk.client(query(SELECT))
        end(talk)
        assert talk.ended
        assert talk.port.forgotten == talk.port.long
        talk.session.analysed(talk.port.long[-1], read(talk, talk.port.long[-1]))
        assert talk.up() == b""
        assert not talk.commands()


def test_the_policy_of_the_moment_decides() -> None:
    talk = apart(anything)
    talk.client(query(SELECT))
    talk.port.epoch = object()
    talk.port.decision = lambda _: Decision(Action.DENY, "changed", "meanwhile")
    assert answer(talk) == b""
    assert talk.last("command")["rule"] == "changed"


def test_another_catalog_is_another_analysis() -> None:
    talk = apart()
    talk.client(query(SELECT))
    talk.port.snapshot = catalog("v2")
    assert answer(talk) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(SELECT)
    assert len(talk.port.long) == 2


def test_names_that_never_stand_still_are_refused() -> None:
    talk = apart()
    talk.client(query(SELECT))
    for version in range(20):
        talk.port.snapshot = catalog(f"v1{version}")
        answer(talk)
        if talk.session.waiting is None:
            break
    assert "changed each time" in talk.last("command")["why"]
    assert len(talk.port.long) < 10


def test_a_stale_catalog_is_waited_for_and_the_analysis_is_not_made_again() -> None:
    talk = apart()
    talk.client(query(SELECT))
    snapshot, talk.port.snapshot = talk.port.snapshot, None
    assert answer(talk) == b""
    assert talk.session.waiting is Wait.CATALOG
    talk.port.snapshot = snapshot
    assert talk.resume(None) == query(SELECT)
    assert len(talk.port.long) == 1


def test_a_short_text_that_stands_for_a_long_one_waits_too() -> None:
    talk = apart()
    sql = "PREPARE s FROM 'SELECT id FROM users WHERE id IN (" + ", ".join(["1000000"] * (NAMED_LONG // 8)) + ")'"
    talk.client(query(sql))
    assert answer(talk) == query(sql)
    talk.server(OK)
    assert talk.client(query("EXECUTE s")) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query("EXECUTE s")
    assert "app.users" in talk.last("command")["reads"]


def test_a_long_prepared_statement_is_analysed_once_and_again_under_another_policy() -> None:
    talk = apart()
    sql = SELECT + UNCACHED
    assert talk.client(prepare(sql)) == b""
    assert answer(talk) == prepare(sql)
    talk.server(wire.prepared(1, 0, 1))
    for _ in range(2):
        assert talk.client(execute(1)) == execute(1)
        talk.server(OK)
    assert len(talk.port.long) == 1
    talk.port.epoch = object()
    assert talk.client(execute(1)) == b""
    assert answer(talk) == execute(1)
    assert len(talk.port.long) == 2


def test_parameters_of_a_text_that_nobody_read_are_not_on_record() -> None:
    talk = apart(anything)
    talk.client(prepare("SELECT id FROM users WHERE name = ?" + UNCACHED))
    answer(talk)
    talk.server(wire.prepared(1, 1, 1))
    talk.port.epoch = object()
    talk.client(execute(1, "hunter2"))
    assert answer(talk, why="it was too much") == b""
    record = talk.last("command")
    assert record["decision"] == "deny"
    assert "params" not in record


def test_a_long_statement_prepared_elsewhere_is_judged_where_it_was_prepared() -> None:
    talk = apart()
    sql = "SELECT total FROM orders" + UNCACHED
    talk.client(prepare(sql))
    answer(talk)
    talk.server(wire.prepared(1, 0, 1))
    talk.ok("USE other")
    assert talk.client(execute(1)) == b""
    assert answer(talk) == execute(1)
    assert talk.last("command")["reads"] == ["app.orders"]


def test_a_long_statement_prepared_under_other_quotes_is_refused() -> None:
    talk = apart()
    sql = "SELECT total FROM orders" + UNCACHED
    talk.client(prepare(sql))
    answer(talk)
    talk.server(wire.prepared(1, 0, 1))
    talk.ok("SET sql_mode = 'ANSI_QUOTES'")
    assert talk.client(execute(1)) == b""
    assert talk.session.waiting is None
    assert "prepare it again" in errors(talk.down())[-1][3]
    record = talk.last("command")
    assert (record["decision"], record["text"]) == ("deny", sql)


def test_held_it_is_released_as_it_was_shown() -> None:
    talk = apart()
    talk.client(query(DELETE))
    assert answer(talk) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talk.port.holds[-1].text == DELETE
    assert talk.resume(Outcome.APPROVED, "anna") == query(DELETE)
    assert len(talk.port.long) == 1


def test_held_while_names_changed_it_is_analysed_once_more() -> None:
    talk = apart()
    talk.client(query(DELETE) + query("SELECT 1"))
    answer(talk)
    talk.port.snapshot = catalog("v2")
    assert talk.resume(Outcome.APPROVED, "anna") == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(DELETE)
    talk.server(OK)
    assert talk.up() == query("SELECT 1")


@pytest.mark.parametrize("change", ["policy", "failure", "cancel"])
def test_held_and_approved_it_is_refused_when_the_last_look_says_so(change: str) -> None:
    talk = apart()
    talk.client(query(DELETE))
    answer(talk)
    talk.port.snapshot = catalog("v2")
    talk.resume(Outcome.APPROVED, "anna")
    if change == "policy":
        talk.port.decision = lambda _: Decision(Action.DENY, "changed", "meanwhile")
        answer(talk)
    elif change == "failure":
        answer(talk, why="it was too much")
    else:
        assert talk.session.cancelled()
    assert talk.up() == b""
    assert errors(talk.down())[0][1] == 1142
    assert talk.session.waiting is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, ssn, concat(ssn, name) FROM users" + PADDING,
        "SELECT id, ssn AS name, (SELECT max(ssn) FROM users) AS m FROM users AS u" + PADDING,
        "SELECT total, id, 1 FROM orders" + PADDING,
        "SELECT 1; SELECT id, ssn, name FROM users" + PADDING,
    ],
)
def test_its_rows_are_masked_as_if_it_had_been_analysed_at_once(sql: str) -> None:
    rows = wire.result([wire.column(n, "users") for n in ("id", "ssn", "name")], [wire.row("1", "078-05", "Ada")])
    seen = []
    for talk in (Talk(anything, masks=[SSN]), apart(anything, masks=[SSN])):
        talk.client(query(sql))
        if talk.port.long:
            answer(talk)
        seen.append(talk.server(rows))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders; SELECT id, ssn, name FROM users" + PADDING,
        "USE other; SELECT id, total, id FROM orders" + PADDING,
        "SET @v = (SELECT ssn FROM users LIMIT 1); SELECT @v, 1, 2" + PADDING,
        "CREATE TEMPORARY TABLE t AS SELECT ssn FROM users; SELECT ssn, 1, 2 FROM t" + PADDING,
    ],
)
def test_every_result_of_a_long_text_is_masked_by_its_own_statement(sql: str) -> None:
    columns = [wire.column(n, "users") for n in ("id", "ssn", "name")]
    seen = []
    for talk in (Talk(anything, masks=[SSN]), apart(anything, masks=[SSN])):
        talk.client(query(sql))
        if talk.port.long:
            answer(talk)
        if sql.startswith("SELECT"):
            first = wire.result([wire.column("id", "orders")], [wire.row("7")], status=wire.AUTOCOMMIT | wire.MORE)
        else:
            first = packets(1, wire.ok(status=wire.AUTOCOMMIT | wire.MORE))
        second = wire.result(columns, [wire.row("1", "078-05", "Ada")], first=len(wire.split(first)) + 1)
        seen.append(talk.server(first + second))
        assert not talk.ended
    assert seen[0] == seen[1]


_TEXTS = [
    "SELECT id FROM orders",
    SELECT,
    SELECT + UNCACHED,
    "USE other",
    "USE app",
    "PREPARE s FROM 'SELECT id FROM users'",
    "PREPARE s FROM 'SELECT total FROM orders'" + PADDING,
    "EXECUTE s",
    "EXECUTE s" + PADDING,
    "SET @v = (SELECT ssn FROM users LIMIT 1)",
    "SELECT @v" + UNCACHED,
    "SET sql_mode = 'ANSI_QUOTES'",
    'SELECT "id" FROM orders' + UNCACHED,
    "CREATE TEMPORARY TABLE orders AS SELECT ssn FROM users",
    "SELECT * FROM orders" + UNCACHED,
    "DROP TABLE users" + PADDING,
]


def _played(talk: Talk, texts: list[str], size: int) -> list[Any]:
    """The records of a client that sends all at once, and of a server that answers each."""
    sent = b"".join(map(query, texts))
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    while pieces or talk.session.waiting is not None:
        up = talk.client(pieces.pop(0)) if pieces else talk.up()
        if talk.session.waiting is Wait.ANALYSIS:
            up += answer(talk)
        if up:
            talk.server(OK)
    return [r for r in talk.port.records if r["t"] == "command"]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from(_TEXTS), max_size=8), st.sampled_from([1000, 8192, 100_000]))
def test_any_pipeline_is_judged_as_if_all_were_analysed_at_once(texts: list[str], size: int) -> None:
    def decide(analysis: Analysis) -> Decision:
        stopped = Effect.DDL_DROP in analysis.effects or analysis.unknown
        return Decision(Action.DENY if stopped else Action.ALLOW, "rule", "")

    assert _played(apart(decide), texts, size) == _played(Talk(decide), texts, size)
