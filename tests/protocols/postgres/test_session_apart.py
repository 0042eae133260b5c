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
from protocols.verdicts import Read
from tests.support import wire
from tests.support.apart import answer, read
from tests.support.examples import examples
from tests.support.port import anything
from tests.support.talk import SSN, Talk, catalog
from tests.support.wire import bind, complete, errors, execute, parse, query, ready

PADDING = " /* " + "x" * LONG + " */"
UNCACHED = " /* " + "x" * MAX_CACHED_TEXT + " */"
SELECT = "SELECT id FROM users WHERE id IN (" + ", ".join(map(str, range(1000, 2000))) + ")"
INSERT = "INSERT INTO orders (id, total) VALUES " + ", ".join(f"({n}, lower('{n}'))" for n in range(400))
DELETE = "DELETE FROM users WHERE id IN (" + ", ".join(map(str, range(1000, 2000))) + ")"


def apart(decide: Callable[[Analysis], Decision] | None = None, **more: Any) -> Talk:
    talk = Talk(decide, **more) if decide is not None else Talk(**more)
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
    assert talk.session.backlog == len(query(SELECT))
    assert answer(talk) == query(SELECT)
    assert talk.commands() == [("query", SELECT, "allow")]
    assert talk.session.waiting is None


@pytest.mark.parametrize("sql", [SELECT, INSERT, DELETE, "DROP TABLE users" + PADDING, "SELEC 1" + PADDING])
def test_it_means_what_it_means_when_it_is_analysed_at_once(sql: str) -> None:
    inline, talk = Talk(masks=[SSN]), apart(masks=[SSN])
    inline.client(query(sql))
    talk.client(query(sql))
    answer(talk)
    assert talk.last("command") == inline.last("command")
    assert talk.session.waiting == inline.session.waiting


def test_bytes_behind_it_wait_and_keep_their_order() -> None:
    talk = apart()
    assert talk.client(query("SELECT 1") + query("SELECT 2")) == query("SELECT 1") + query("SELECT 2")
    talk.server(complete("SELECT 1"), ready(), complete("SELECT 1"), ready())
    assert talk.client(query(SELECT) + query("SELECT 3")) == b""
    assert talk.client(query("SELECT 4")) == b""
    assert answer(talk) == query(SELECT) + query("SELECT 3") + query("SELECT 4")
    assert [text for _, text, _ in talk.commands()][-3:] == [SELECT, "SELECT 3", "SELECT 4"]


def test_any_chunking_is_the_same() -> None:
    sent = query(SELECT) + query("SELECT 3")
    for size in (1, 100, 5000, 8192):
        talk = apart()
        for at in range(0, len(sent), size):
            assert talk.client(sent[at : at + size]) == b""
        assert answer(talk) == sent


def test_it_waits_for_everything_in_flight() -> None:
    # what is in flight may give the names in it another meaning
    talk = apart()
    first = parse("s", "SELECT id FROM orders")
    assert talk.client(first + query(SELECT)) == first + wire.FLUSH
    assert talk.session.waiting is Wait.SERVER
    assert not talk.port.long
    assert talk.server(wire.PARSED) == wire.PARSED
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(SELECT)


def test_rows_that_are_still_to_come_do_not_make_it_ask() -> None:
    talk = apart()
    talk.client(query("SELECT id FROM orders") + query(SELECT))
    for _ in range(3):
        talk.server(wire.row(b"1"))
        assert talk.session.waiting is Wait.SERVER
    talk.server(complete("SELECT 3"), ready())
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(SELECT)


def test_what_cannot_be_analysed_is_denied_in_words_whatever_the_policy_says() -> None:
    talk = apart(anything)
    talk.client(query(SELECT))
    assert SELECT.encode() not in answer(talk, why="its analysis took more than 10 s")
    (failed,) = errors(talk.server(wire.error("42601", "syntax error"), ready()))
    assert "its analysis took more than 10 s" in failed["M"]
    record = talk.last("command")
    assert (record["decision"], record["rule"]) == ("deny", "gateway")
    assert "SHA-256" in record["text"]
    # it is not remembered: the next time it is analysed
    talk.client(query(SELECT))
    assert answer(talk) == query(SELECT)


@pytest.mark.parametrize("lie", [None, object(), "read", 1])
def test_an_answer_that_is_no_analysis_is_none(lie: object) -> None:
    talk = apart(anything)
    talk.client(query(SELECT))
    talk.session.analysed(talk.port.long[-1], lie)
    assert SELECT.encode() not in talk.up()
    assert talk.last("command")["decision"] == "deny"


def test_parameters_of_a_text_that_nobody_read_are_not_on_record() -> None:
    talk = apart(anything)
    sql = "SELECT id FROM users WHERE name = $1" + UNCACHED
    talk.client(parse("s", sql) + wire.SYNC)
    answer(talk)
    talk.server(wire.PARSED, ready())
    talk.port.epoch = object()
    talk.client(bind("", "s", [b"hunter2"]) + execute() + wire.SYNC)
    answer(talk, why="it was too much")
    record = talk.last("command")
    assert record["decision"] == "deny"
    assert "params" not in record


def test_an_answer_to_another_question_is_nothing() -> None:
    talk = apart()
    talk.client(query(SELECT))
    asked = talk.port.long[-1]
    other = replace(asked)
    talk.session.analysed(other, read(talk, asked))
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query(SELECT)
    talk.session.analysed(asked, read(talk, asked))  # twice
    assert talk.up() == b""


def test_cancelled_it_is_refused_as_the_server_would() -> None:
    talk = apart()
    talk.client(query(SELECT) + query("SELECT 3"))
    assert talk.session.cancelled()
    assert SELECT.encode() not in talk.up()
    assert talk.port.forgotten == talk.port.long
    (failed,) = errors(talk.server(wire.error("42601", "syntax error"), ready()))
    assert failed["C"] == "57014"
    assert talk.up() == query("SELECT 3")
    assert talk.commands()[0][2] == "deny"
    talk.session.analysed(talk.port.long[-1], read(talk, talk.port.long[-1]))  # too late
    assert talk.up() == b""


def test_cancelled_while_names_change_it_is_cancelled_all_the_same() -> None:
    talk = apart()
    talk.client(query(SELECT))
    talk.port.snapshot = None
    assert talk.session.cancelled()
    assert talk.session.waiting is Wait.CATALOG
    talk.port.snapshot = catalog("v2")
    assert SELECT.encode() not in talk.resume(None)
    (failed,) = errors(talk.server(wire.error("42601", "syntax error"), ready()))
    assert failed["C"] == "57014"
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
    assert SELECT.encode() not in answer(talk)
    assert talk.last("command")["rule"] == "changed"


def test_another_catalog_is_another_analysis() -> None:
    talk = apart()
    talk.client(query(SELECT))
    talk.port.snapshot = catalog("v2")
    assert answer(talk) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert talk.port.long[-1].catalog is talk.port.snapshot
    assert answer(talk) == query(SELECT)


def test_names_that_never_stand_still_are_refused() -> None:
    talk = apart()
    talk.client(query(SELECT))
    for version in range(20):
        talk.port.snapshot = catalog(f"v1{version}")
        if answer(talk):
            break
    assert talk.last("command")["decision"] == "deny"
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


def test_without_a_catalog_it_is_unknown() -> None:
    talk = apart()
    talk.port.snapshot = None
    talk.client(query(SELECT))
    assert talk.resume(None) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert talk.port.long[-1].catalog is None
    answer(talk)
    assert "unknown" in talk.last("command")["effects"]
    assert len(talk.port.long) == 1


def test_a_setting_that_changes_meanwhile_is_another_analysis() -> None:
    talk = apart()
    talk.client(query(SELECT))
    talk.server(wire.parameter("client_encoding", "LATIN1"))
    assert answer(talk) == b""
    assert len(talk.port.long) == 2
    assert answer(talk) == query(SELECT)


def test_an_analysis_is_used_once() -> None:
    # what only the session holds may have come to mean something else between the two
    talk = apart(anything)
    inner = "SELECT id FROM orders"
    talk.client(parse("s", inner) + wire.SYNC)
    talk.server(wire.PARSED, ready())
    long = "EXECUTE s" + PADDING
    talk.client(query(long) + query(long))
    assert answer(talk) == query(long)
    assert talk.session.waiting is Wait.SERVER
    talk.server(complete("SELECT 0"), ready())
    assert talk.session.waiting is Wait.ANALYSIS
    assert len(talk.port.long) == 2
    assert answer(talk) == query(long)


def test_a_prepared_name_that_changes_before_it_is_asked_for_is_seen() -> None:
    talk = apart()
    talk.prepare("s", "SELECT id FROM orders")
    long = "EXECUTE s" + PADDING
    talk.client(wire.close("S", "s") + parse("s", "DELETE FROM users") + query(long))
    assert not talk.port.long
    talk.server(wire.CLOSED, wire.PARSED)
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == b""
    assert talk.session.waiting is Wait.HOLD
    assert Effect.DATA_DELETE in talk.port.holds[-1].analysis.effects


def test_a_short_text_that_stands_for_a_long_one_waits_too() -> None:
    talk = apart()
    sql = "PREPARE s AS SELECT id FROM users WHERE id IN (" + ", ".join(["1"] * NAMED_LONG) + ")"
    talk.client(query(sql))
    assert answer(talk) == query(sql)
    talk.server(complete("PREPARE"), ready())
    assert talk.client(query("EXECUTE s")) == b""
    assert talk.session.waiting is Wait.ANALYSIS
    assert answer(talk) == query("EXECUTE s")
    assert talk.last("command")["runs"] == [f"{sql[:4096]}... ({len(sql)} characters)"]


@pytest.mark.parametrize("name", ["s", "S", '"s"', '"other one"', 'U&"\\0073"', "x" * 63, "x" * 70])
def test_the_statement_that_a_short_text_names_is_found(name: str) -> None:
    talk, inline = apart(anything), Talk(anything)
    sql = f"PREPARE {name} AS SELECT name FROM users WHERE id IN (" + ", ".join(["1"] * NAMED_LONG) + ")"
    for one in (talk, inline):
        for other in ("a", "b"):
            one.client(query(f"PREPARE {other} AS SELECT total FROM orders"))
            one.server(complete("PREPARE"), ready())
        one.client(query(sql))
        if one.port.long:
            answer(one)
        one.server(complete("PREPARE"), ready())
        one.client(query(f"EXECUTE {name}"))
    assert talk.session.waiting is Wait.ANALYSIS
    assert len(talk.port.long[-1].state._prepared) in (1, 3)  # all of them only where any could be meant
    answer(talk)
    assert talk.last("command") == inline.last("command")


def test_short_statements_stay_short_however_many_there_are() -> None:
    talk = apart()
    for number in range(100):
        talk.prepare(f"s{number}", f"SELECT id FROM users WHERE name = '{'x' * 1000}'")
    assert talk.client(query("EXECUTE s5")) == query("EXECUTE s5")
    assert not talk.port.long


def test_of_very_many_names_a_long_text_knows_none() -> None:
    talk = apart(anything)
    for number in range(1001):
        talk.prepare(f"s{number}", "SELECT id FROM users")
    talk.client(query(SELECT))
    assert talk.port.long[-1].state._prepared == {}
    assert answer(talk) == query(SELECT)
    talk.server(complete("SELECT 0"), ready())
    talk.client(query("EXECUTE s5" + PADDING))
    answer(talk)
    assert "unknown" in talk.last("command")["effects"]


def test_a_long_prepared_statement_is_analysed_once_and_again_under_another_policy() -> None:
    talk = apart()
    sent = parse("s", SELECT + UNCACHED) + wire.SYNC
    assert talk.client(sent) == b""
    assert answer(talk) == sent
    talk.server(wire.PARSED, ready())
    for _ in range(2):
        run = bind("", "s") + execute() + wire.SYNC
        assert talk.client(run) == run
        talk.server(wire.BOUND, complete("SELECT 0"), ready())
    assert len(talk.port.long) == 1
    talk.port.epoch = object()
    assert talk.client(run) == b""
    assert answer(talk) == run
    assert len(talk.port.long) == 2


def test_a_long_statement_over_a_temporary_table_is_looked_at_in_both_ways() -> None:
    talk = apart()
    create = "CREATE TEMP TABLE orders AS SELECT id FROM users"
    talk.port.decision = anything
    talk.client(query(create))
    talk.server(complete("SELECT 1"), ready())
    sql = "SELECT id FROM orders" + PADDING
    talk.client(parse("s", sql) + wire.SYNC)
    for _ in range(6):
        if sent := answer(talk):
            break
    assert sent == parse("s", sql) + wire.SYNC
    talk.server(wire.PARSED, ready())
    assert {asked.variant for asked in talk.port.long} == {"", "kept"}
    inline = Talk(anything)
    inline.client(query(create))
    inline.server(complete("SELECT 1"), ready())
    inline.client(parse("s", sql) + wire.SYNC)
    inline.server(wire.PARSED, ready())
    for one in (talk, inline):
        one.client(bind("", "s") + execute() + wire.SYNC)
    assert talk.last("command") == inline.last("command")


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
    assert answer(talk) == query(DELETE) + query("SELECT 1")


@pytest.mark.parametrize("change", ["policy", "failure", "cancel"])
def test_held_and_approved_it_is_refused_when_the_last_look_says_so(change: str) -> None:
    talk = apart()
    talk.client(query(DELETE))
    answer(talk)
    talk.port.snapshot = catalog("v2")
    talk.resume(Outcome.APPROVED, "anna")
    if change == "policy":
        talk.port.decision = lambda _: Decision(Action.DENY, "changed", "meanwhile")
        sent = answer(talk)
    elif change == "failure":
        sent = answer(talk, why="it was too much")
    else:
        assert talk.session.cancelled()
        sent = talk.up()
    assert DELETE.encode() not in sent
    assert errors(talk.server(wire.error("42601", "syntax error"), ready()))[0]["C"] == "42501"
    assert talk.session.waiting is None


def test_returned_columns_are_masked_as_if_it_had_been_analysed_at_once() -> None:
    sql = (
        "INSERT INTO users (id, ssn, name) VALUES "
        + ", ".join(f"({n}, 's', lower('x'))" for n in range(400))
        + " RETURNING id, ssn"
    )
    described = wire.columns(wire.field("id", 20001, 1), wire.field("ssn", 20001, 2))
    seen = []
    for talk in (Talk(anything, masks=[SSN]), apart(anything, masks=[SSN])):
        talk.client(query(sql))
        if talk.port.long:
            answer(talk)
        seen.append(talk.server(described, wire.row(b"1", b"s"), complete("INSERT 0 1"), ready()))
    assert seen[0] == seen[1]


def test_its_answer_is_an_analysis_without_trees() -> None:
    talk = apart(anything)
    sql = "INSERT INTO users (id) VALUES " + ", ".join(f"(lower('{n}')::int)" for n in range(500)) + " RETURNING id"
    talk.client(query(sql))
    found = read(talk, talk.port.long[-1])
    assert isinstance(found, Read)
    assert not any(isinstance(one.tree, dict) for one in found.command.statements)


_TEXTS = [
    "SELECT id FROM orders",
    SELECT,
    SELECT + UNCACHED,
    "SET search_path = evil, public",
    "SET search_path = public",
    "PREPARE s AS SELECT id FROM users",
    "PREPARE s AS SELECT total FROM orders" + PADDING,
    "DEALLOCATE s",
    "EXECUTE s",
    "EXECUTE s" + PADDING,
    "CREATE TEMP TABLE orders AS SELECT ssn FROM users",
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
        for kind, body in wire.split(up):
            assert kind == "Q"
            talk.server(
                wire.error("42601", "syntax error") if body.startswith(b"sluicegate") else complete("SELECT 0"), ready()
            )
    return [r for r in talk.port.records if r["t"] == "command"]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from(_TEXTS), max_size=8), st.sampled_from([1000, 8192, 100_000]))
def test_any_pipeline_is_judged_as_if_all_were_analysed_at_once(texts: list[str], size: int) -> None:
    def decide(analysis: Analysis) -> Decision:
        stopped = Effect.DDL_DROP in analysis.effects or analysis.unknown
        return Decision(Action.DENY if stopped else Action.ALLOW, "rule", "")

    assert _played(apart(decide), texts, size) == _played(Talk(decide), texts, size)
