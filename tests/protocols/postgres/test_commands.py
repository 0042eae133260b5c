"""What may run something is judged, bound and bounded where it could first take effect."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.contract import Action, Decision, HoldTerms, Wait
from protocols.verdicts import CANCELLED
from tests.support import wire
from tests.support.port import T0, anything
from tests.support.talk import Talk, catalog
from tests.support.wire import SYNC, bind, close, execute, kinds, parse, query, ready

OTHER = "SELECT ssn FROM users"


def executing() -> Talk:
    """`x` executes `s`, which reads orders: both are prepared, a transaction is open."""
    talk = Talk(anything)
    talk.begin()
    talk.prepare("s", "SELECT total FROM orders")
    talk.prepare("x", "EXECUTE s")
    return talk


def test_a_prepared_execute_is_judged_by_what_its_name_stands_for_at_each_bind() -> None:
    talk = executing()
    for text, read in ((None, "public.orders"), (OTHER, "public.users")):
        if text is not None:
            talk.client(close("S", "s") + SYNC)
            talk.server(wire.CLOSED, ready("T"))
            talk.prepare("s", text)
        talk.client(bind("", "x") + execute() + SYNC)
        assert talk.last("command")["reads"] == [read]
        talk.server(wire.BOUND, wire.complete("SELECT 0"), ready("T"))


def test_a_prepared_execute_waits_for_the_name_that_is_being_made() -> None:
    talk = executing()
    sent = talk.client(close("S", "s") + parse("s", OTHER) + bind("", "x") + execute() + SYNC)
    assert kinds(sent) == "CPH"
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.CLOSED, wire.PARSED)
    assert kinds(talk.up()).lstrip("H") == "BES"
    assert talk.last("command")["reads"] == ["public.users"]


def test_a_portal_that_executes_a_name_runs_under_no_other_meaning_of_it() -> None:
    talk = executing()
    talk.client(bind("p", "x") + SYNC)
    talk.server(wire.BOUND, ready("T"))
    sent = talk.client(close("S", "s") + parse("s", OTHER) + execute("p") + parse("t", "SELECT 1") + SYNC)
    assert kinds(sent) == "CPH"
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.CLOSED, wire.PARSED)
    sent = talk.up()
    assert kinds(sent).lstrip("H") == "ES"  # what fails in its place; the server ignores the rest, and gets none of it
    assert execute("p") not in sent
    (error,) = wire.errors(talk.server(wire.error("34000"), ready("E")))
    assert (error["C"], "bind it again" in error["M"]) == ("55000", True)


def test_a_decision_that_is_over_is_made_anew_at_bind() -> None:
    closes = T0 + 10

    def hours(_: Any) -> Decision:
        open_now = talk.port.time < closes
        return Decision(Action.ALLOW if open_now else Action.DENY, "hours", "closed", valid_until=closes)

    talk = Talk(hours)
    talk.prepare("s", "SELECT total FROM orders")
    for later, decision in ((0, "allow"), (20, "deny")):
        talk.port.time = T0 + later
        talk.client(bind("", "s") + execute() + SYNC)
        assert talk.commands()[-1][::2] == ("bind", decision)
        talk.server(wire.BOUND, wire.complete("SELECT 0"), ready())


def test_a_parameter_of_a_type_that_somebody_has_made_counts() -> None:
    talk = Talk()
    talk.client(parse("s", "SELECT $1", 23) + SYNC)
    assert talk.commands() == []
    talk.client(parse("t", "SELECT $1", 99_999) + SYNC)
    assert talk.commands() == [("parse", "SELECT $1", "deny")]
    assert talk.last("command")["effects"] == ["data.select", "unknown"]


def test_the_digest_of_a_call_binds_its_arguments() -> None:
    talk = Talk(lambda _: Decision(Action.HOLD, "ask", "", hold=HoldTerms()))
    digests = set()
    for value in (b"1", b"2"):
        talk = Talk(lambda _: Decision(Action.HOLD, "ask", "", hold=HoldTerms()))
        talk.client(wire.call(2077, [value]))
        digests.add(talk.port.holds[0].digest)
    assert len(digests) == 2


def test_a_query_ends_at_its_zero_byte() -> None:
    talk = Talk()
    assert talk.client(wire.message("Q", b"SELECT 1\0DROP TABLE users\0")) == b""
    assert talk.fatal()["C"] == "08P01"


def test_parameters_of_a_text_that_nobody_has_read_are_not_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Analysed anew it could not be: what of it is secret nobody knows then."""
    talk = Talk(anything)
    talk.prepare("s", "SELECT name FROM users WHERE name = $1")
    talk.port.snapshot = catalog("v2")
    monkeypatch.setattr(type(talk.session), "_kept", lambda session, text, *_: session.judge._denied(text, CANCELLED))
    talk.client(bind("", "s", [b"hunter2"]) + execute() + SYNC)
    assert talk.last("command")["decision"] == "deny"
    assert "params" not in talk.last("command")


LONG = f"SELECT '{'x' * 5000}'"


@pytest.mark.parametrize(
    ("names", "messages", "fits"),
    [
        (3, [parse(f"s{n}", "SELECT 1") for n in range(4)], 2),
        (3, [bind(f"p{n}", "s") for n in range(4)], 3),
        (9, [parse(f"s{n}", LONG) for n in range(4)], 2),
    ],
    ids=["statements", "portals", "texts"],
)
def test_what_a_session_keeps_is_bounded(names: int, messages: list[bytes], fits: int) -> None:
    talk = Talk(names_max=names, texts_max=12_000)
    talk.begin()
    talk.prepare("s", "SELECT 1")
    for message in messages[:fits]:
        assert talk.client(message) == message
    assert talk.client(messages[fits]) == b""
    assert talk.fatal()["C"] == "54000"


def test_a_hold_that_says_nothing_of_approvers_is_a_denial() -> None:
    talk = Talk(lambda _: Decision(Action.HOLD, "ask", "nobody is named"))
    assert b"SELECT 1" not in talk.client(query("SELECT 1"))
    assert talk.port.holds == []


def test_names_that_others_have_changed_are_read_anew_first() -> None:
    talk = Talk()
    talk.port.outdated = True
    assert talk.client(query("SELECT total FROM orders")) == b""
    assert talk.session.waiting is Wait.CATALOG
