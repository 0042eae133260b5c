"""Held commands: nothing of them is sent before the outcome, and afterwards everybody is where they would be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from protocols.contract import Action, Decision, Effect, HoldTerms, Outcome, Side, Wait
from tests.support import wire
from tests.support.talk import SSN, USERS, Talk, catalog
from tests.support.wire import FLUSH, SYNC, bind, complete, execute, kinds, parse, query, ready

DELETE = "DELETE FROM users WHERE id = 1"
HOLD = Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())
STOPPED = wire.message("E", b"SERROR\0C42601\0Msyntax error\0\0")  # of a server that got the stand-in


def held_query() -> Talk:
    talk = Talk()
    assert talk.client(query(DELETE) + query("SELECT 1")) == b""
    return talk


def held_bind() -> Talk:
    talk = Talk()
    talk.prepare("s", "DELETE FROM users WHERE id = $1")
    assert talk.client(bind("", "s", [b"7"]) + execute() + SYNC) == b""
    return talk


def test_the_client_is_told_and_nothing_is_sent() -> None:
    talk = held_query()
    assert talk.session.waiting is Wait.HOLD
    ((kind, body),) = wire.split(talk.down())
    assert kind == "N"
    assert "hold-1" in wire.fields(body)["M"]
    (request,) = talk.port.holds
    assert (request.number, request.text) == (1, DELETE)
    assert request.digest == hashlib.sha256(b"Q" + DELETE.encode()).digest()


def test_the_digest_binds_the_exact_parameters() -> None:
    digests = set()
    for value in (b"7", b"8", b"\0\0\0\7", None):
        talk = Talk()
        talk.prepare("s", "DELETE FROM users WHERE id = $1")
        talk.client(bind("", "s", [value], [1] if value and value[0] == 0 else []) + execute() + SYNC)
        digests.add(talk.port.holds[0].digest)
        assert len(talk.port.holds[0].params) == 1
    assert len(digests) == 4


def test_the_digest_of_a_bind_is_of_its_statement_too() -> None:
    digests = set()
    for text in ("DELETE FROM users WHERE id = $1", "DELETE FROM users WHERE id > $1"):
        talk = Talk()
        talk.prepare("s", text)
        talk.client(bind("", "s", [b"7"]) + execute() + SYNC)
        digests.add(talk.port.holds[0].digest)
    assert len(digests) == 2


def test_who_approves_sees_parameters_whole() -> None:
    talk, value = Talk(), b"x" * 100_000
    talk.prepare("s", "DELETE FROM users WHERE name = $1")
    talk.client(bind("", "s", [value]) + execute() + SYNC)
    assert talk.port.holds[0].params == (value.decode(),)


def told(*before: str, sql: str = DELETE) -> bytes:
    """What the session adds to the statement's meaning, after these."""
    talk = Talk(lambda a: HOLD if Effect.DATA_DELETE in a.effects else Decision(Action.ALLOW, "allow", ""))
    for one in before:
        talk.client(query(one))
        talk.server(complete(" ".join(one.split()[:2]) if one.startswith("CREATE") else one.split()[0]), ready())
    talk.client(query(sql))
    return talk.port.holds[-1].told


@pytest.mark.parametrize(
    "setting",
    ["SET datestyle = dmy", "SET TIME ZONE 'UTC'", "SET search_path = evil", "SET ROLE boss", "SET app.tenant = 'x'"],
)
def test_row_18_the_same_text_under_other_settings_is_another_command(setting: str) -> None:
    """An approval that waits for the command to be sent again must not release it where it does something else."""
    assert told(setting) == told(setting) != told()
    assert told(setting, "SET work_mem = '1MB'", "SET application_name = 'x'") == told(setting)
    assert told("SET work_mem = '1MB'", "BEGIN", "COMMIT") == told()


@pytest.mark.parametrize("picked", ["CREATE TEMP TABLE picked AS SELECT id FROM users", "DO $$begin end$$"])
def test_row_18_what_only_a_session_holds_is_of_that_session_as_it_is(picked: str) -> None:
    sql = "DELETE FROM users WHERE id IN (SELECT id FROM picked)" if "picked" in picked else DELETE
    first = told(picked, sql=sql)
    assert first.startswith(b"s1 ")
    assert told(picked, "SET datestyle = dmy", sql=sql) != first


def named(statement: str, how: str) -> Talk:
    """A deletion that is held under the name `p`, prepared in one of two ways."""
    talk = Talk()
    if how == "parse":
        talk.prepare("p", statement)
    else:
        talk.client(query(f"PREPARE p AS {statement}"))
        talk.resume(Outcome.APPROVED)
        talk.server(complete("PREPARE"), ready())
        talk.port.holds.clear()
    talk.client(query("EXECUTE p"))
    return talk


@pytest.mark.parametrize("how", ["parse", "sql"])
def test_row_18_a_name_is_shown_and_bound_with_what_it_stands_for(how: str) -> None:
    digests = set()
    for statement in (DELETE, "DELETE FROM users WHERE id > 0"):
        talk = named(statement, how)
        (request,) = talk.port.holds
        assert request.text.startswith("EXECUTE p\n")
        assert statement in request.text
        digests.add(request.digest)
        command = [record for record in talk.port.records if record["t"] == "command"][-1]
        assert command["runs"] == [statement if how == "parse" else f"PREPARE p AS {statement}"]
        assert command["text"] == "EXECUTE p"
    assert len(digests) == 2


def test_approved_it_runs_as_it_was_and_the_rest_follows() -> None:
    talk = held_query()
    assert talk.resume(Outcome.APPROVED) == query(DELETE) + query("SELECT 1")
    talk.server(complete("DELETE 1"), ready())
    assert talk.responses() == [(1, "ok")]


@pytest.mark.parametrize(
    ("held", "message"), [(held_query, query(DELETE)), (held_bind, bind("", "s", [b"7"]))], ids=["query", "bind"]
)
def test_approved_it_runs_where_it_means_what_it_did_under_other_definitions(
    held: Callable[[], Talk], message: bytes
) -> None:
    talk = held()
    talk.port.snapshot = catalog("v2")
    assert talk.resume(Outcome.APPROVED).startswith(message)
    assert not wire.errors(talk.down())


def lost_its_table(talk: Talk) -> None:
    talk.port.snapshot = catalog("v2", without=USERS)


def would_be_held_as_something_else(talk: Talk) -> None:
    lost_its_table(talk)
    talk.port.decision = lambda _: HOLD


def lost_its_catalog(talk: Talk) -> None:
    talk.port.snapshot = None


def came_to_be_denied(talk: Talk) -> None:
    talk.port.decision, talk.port.epoch = lambda _: Decision(Action.DENY, "no-more", "never"), object()


@pytest.mark.parametrize("held", [held_query, held_bind], ids=["query", "bind"])
@pytest.mark.parametrize(
    "change", [lost_its_table, would_be_held_as_something_else, lost_its_catalog, came_to_be_denied]
)
def test_approved_it_does_not_run_where_it_means_something_else_by_now(
    held: Callable[[], Talk], change: Callable[[Talk], None]
) -> None:
    talk = held()
    talk.down()
    change(talk)
    sent = talk.resume(Outcome.APPROVED)
    assert b"DELETE" not in sent
    assert bind("", "s", [b"7"]) not in sent
    (error,) = wire.errors(talk.server(STOPPED, ready()))
    assert (error["C"], "changed while it waited" in error["M"]) == ("42501", True)


@pytest.mark.parametrize("over", [False, True])
def test_approved_it_runs_under_no_definition_that_is_in_progress(over: bool) -> None:
    talk, other = Talk(masks=[SSN]), object()
    talk.client(query(DELETE))
    talk.down()
    talk.port.definitions.begin(other, ["public.users"])
    if over:
        talk.port.definitions.end(other)
        assert talk.resume(Outcome.APPROVED) == query(DELETE)
        return
    assert DELETE.encode() not in talk.resume(Outcome.APPROVED)
    ((found, _), *_) = [(fields["C"], fields["M"]) for fields in wire.errors(talk.server(STOPPED, ready()))]
    assert found == "55006"


def test_approved_it_defines_nothing_that_somebody_copies_from() -> None:
    talk, other = Talk(lambda _: HOLD, masks=[SSN]), object()
    text = "CREATE OR REPLACE VIEW mine AS SELECT id FROM orders"
    talk.client(query(text))
    talk.down()
    talk.port.definitions.copies.begin(other, ["public.mine"])
    assert text.encode() not in talk.resume(Outcome.APPROVED)
    (found,) = wire.errors(talk.server(STOPPED, ready()))
    assert (found["C"], "copying" in found["M"]) == ("55006", True)


def test_approved_bind_runs_as_it_was() -> None:
    talk = held_bind()
    assert talk.resume(Outcome.APPROVED) == bind("", "s", [b"7"]) + execute() + SYNC
    assert kinds(talk.server(wire.BOUND, complete("DELETE 1"), ready())) == "N2CZ"


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        (Outcome.DENIED, "42501", "not on a Friday"),
        (Outcome.EXPIRED, "42501", "nobody approved it in time"),
        (Outcome.WITHDRAWN, "57014", "canceling statement due to user request"),
    ],
)
@pytest.mark.parametrize("held", [held_query, held_bind])
def test_refused_it_fails_and_the_session_goes_on(
    held: Callable[[], Talk], outcome: Outcome, code: str, text: str
) -> None:
    talk = held()
    talk.down()
    sent = talk.resume(outcome, "not on a Friday")
    assert DELETE.encode() not in sent
    assert bind("", "s", [b"7"]) not in sent
    if held is held_query:
        assert kinds(sent) == "QQ"
        told = talk.server(wire.error("42601"), ready(), complete("SELECT 0"), ready())
    else:
        assert kinds(sent) == "BS"
        told = talk.server(wire.error("26000"), ready())
    (error,) = wire.errors(told)
    assert error["C"] == code
    assert text in error["M"]
    assert not talk.session.busy
    assert not talk.ended


def test_a_cancel_withdraws_once() -> None:
    talk = held_query()
    assert talk.session.cancelled()
    assert talk.port.withdrawn == ["the client cancelled it"]
    talk.resume(Outcome.WITHDRAWN)
    talk.server(wire.error("42601"), ready(), complete("SELECT 0"), ready())
    assert not talk.session.cancelled()  # nothing waits: it is for the server


@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_leaves_withdraws(side: Side) -> None:
    talk = held_query()
    talk.session.lost(side)
    assert talk.ended
    assert len(talk.port.withdrawn) == 1
    assert talk.resume(Outcome.APPROVED) == b""


def test_the_end_of_the_session_withdraws() -> None:
    talk = held_query()
    talk.session.terminate("contained")
    assert len(talk.port.withdrawn) == 1
    assert talk.resume(Outcome.APPROVED) == b""


def test_where_nobody_can_be_asked_it_is_denied() -> None:
    talk = Talk()
    talk.port.nobody = "no approver is configured"
    sent = talk.client(query(DELETE))
    assert DELETE.encode() not in sent
    (error,) = wire.errors(talk.server(wire.error("42601"), ready()))
    assert error["C"] == "42501"
    assert "no approver is configured" in error["M"]


def test_outcomes_that_nobody_waits_for_do_nothing() -> None:
    talk = Talk()
    assert talk.resume(Outcome.APPROVED) == b""
    talk.client(query(DELETE))
    assert talk.resume(None) == b""  # a catalog: this one waits for people
    assert talk.session.waiting is Wait.HOLD


def test_what_a_held_client_sends_is_kept_and_counted() -> None:
    talk = held_query()
    for _ in range(10):
        assert talk.client(query("SELECT 2")) == b""
    assert talk.session.backlog >= 10 * len(query("SELECT 2"))
    sent = talk.resume(Outcome.APPROVED)
    talk.server(complete("DELETE 1"), ready())
    sent += talk.up()
    assert kinds(sent) == "Q" * 12


def test_an_earlier_message_that_fails_meanwhile_takes_the_held_one_along() -> None:
    """The server ignores what follows until Sync, approved or not: it is neither sent nor awaited."""
    talk = Talk()
    talk.prepare("s", "DELETE FROM users WHERE id = $1")
    talk.prepare("i", "INSERT INTO orders VALUES (1, 'x')")
    talk.client(bind("", "i") + execute() + FLUSH + bind("", "s", [b"7"]) + execute() + SYNC)
    assert talk.session.waiting is Wait.HOLD
    talk.server(wire.BOUND, wire.error("23505"))
    sent = talk.resume(Outcome.APPROVED)
    assert sent == SYNC
    assert kinds(talk.server(ready())) == "Z"
    assert talk.responses()[-1] == (2, "skipped")
    assert not talk.session.busy
    assert not talk.ended


def test_the_notice_waits_for_the_end_of_a_large_row() -> None:
    talk = Talk()
    talk.prepare("s", "SELECT 1")
    talk.client(bind("", "s") + execute() + FLUSH)
    row = wire.row(b"z" * 200_000)
    told = talk.server(wire.BOUND, row[:100_000])
    talk.client(parse("d", DELETE) + bind("", "d"))
    told += talk.down() + talk.server(row[100_000:])
    assert kinds(told) == "2DN"


def test_masks_hold_for_what_was_approved() -> None:
    for message, described in ((query("DELETE FROM users RETURNING ssn"), False), (b"", True)):
        talk = Talk(masks=[SSN])
        if described:
            talk.prepare("s", "DELETE FROM users RETURNING ssn")
            message = bind("", "s") + execute() + SYNC
        assert talk.client(message) == b""
        sent = talk.resume(Outcome.APPROVED)
        assert kinds(sent) == ("BDES" if described else "Q")
        rows = wire.columns(wire.field("ssn", USERS, 2)) + wire.row(b"078-05-1120") + complete("DELETE 1") + ready()
        told = talk.server((wire.BOUND if described else b"") + rows)
        assert wire.rows(told) != [[b"078-05-1120"]]
        assert len(wire.rows(told)) == 1
