"""The masks of a session's results, where what a name means, or what a server sends, is not what was expected."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Decision, HoldTerms, Outcome
from tests.support import wire
from tests.support.port import anything
from tests.support.talk import ORDERS, SSN, Talk
from tests.support.wire import SYNC, bind, execute, kinds, parse, query, ready

TOTAL = wire.columns(wire.field("total", ORDERS, 2))
READ = "SELECT total FROM orders"
SECRET = b"078-05-1120"


def answer(talk: Talk, described: bytes = TOTAL, value: bytes = SECRET) -> list[list[bytes | None]]:
    return wire.rows(talk.server(described + wire.row(value) + wire.complete("SELECT 1") + ready()))


def masked() -> Talk:
    return Talk(anything, masks=[SSN])


@pytest.mark.parametrize("known", [False, True])
def test_what_is_defined_anew_while_it_runs_is_masked_as_if_it_could_be_anything(known: bool) -> None:
    talk, other = masked(), object()
    if known:  # the same description of the same statement was found to need no mask
        talk.client(query(READ))
        assert answer(talk) == [[SECRET]]
    talk.client(query(READ))
    talk.port.definitions.begin(other, ["public.orders"])
    assert answer(talk) == [[None]]
    talk.port.definitions.end(other)
    talk.port.time += 1
    talk.client(query(READ))
    assert answer(talk) == [[SECRET]]


@pytest.mark.parametrize("first", [READ, "SELECT 1", f"{READ} WHERE id = 1"])
def test_of_several_statements_each_result_may_be_of_any(first: str) -> None:
    talk = masked()
    talk.client(query(f"{first}; SELECT ssn || '' FROM users"))
    computed = wire.columns(wire.field("?column?"))
    talk.server(computed + wire.row(b"1") + wire.complete("SELECT 1"))
    assert answer(talk, computed) == [[None]]


def test_who_copies_says_so_until_it_is_done() -> None:
    talk, other = masked(), object()
    copies = talk.port.definitions.copies
    talk.client(query("INSERT INTO orders (total) SELECT name FROM users"))
    assert copies.concern(other, ["public.users"])
    talk.server(wire.complete("INSERT 0 1"), ready())
    assert not copies.concern(other, ["public.users"])


def test_a_copy_of_what_is_defined_anew_is_masked_as_if_it_could_be_anything() -> None:
    talk, other = masked(), object()
    talk.client(query("COPY orders TO STDOUT"))
    talk.port.definitions.begin(other, ["public.orders"])
    told = talk.server(wire.copy_out(0, 0), wire.copy_data(b"1\t" + SECRET + b"\n"))
    assert SECRET not in told


@pytest.mark.parametrize("prepared", [False, True])
def test_nothing_is_stored_while_what_it_reads_is_defined_anew(prepared: bool) -> None:
    talk, other = masked(), object()
    text = "INSERT INTO orders (total) SELECT name FROM users"
    talk.prepare("s", text)
    talk.port.definitions.begin(other, ["public.users"])
    sent = talk.client(bind("", "s") + execute() + SYNC if prepared else query(text))
    assert text.encode() not in sent
    assert bind("", "s") not in sent
    assert b"defining what it reads" in talk.server(wire.error("26000" if prepared else "42601"), ready())


def test_an_approved_copy_of_a_query_has_its_columns_described_first() -> None:
    talk = Talk(lambda _: Decision(Action.HOLD, "ask", "", hold=HoldTerms()), masks=[SSN])
    assert talk.client(query("COPY (SELECT ssn FROM users) TO STDOUT")) == b""
    assert kinds(talk.resume(Outcome.APPROVED)) == "PDCSQ"


def test_copy_data_that_nothing_asked_for_is_not_passed() -> None:
    talk = masked()
    talk.client(query("SELECT ssn FROM users"))
    told = talk.server(wire.copy_data(SECRET + b"\n"))
    assert SECRET not in told
    assert talk.ended


def test_a_copy_that_ends_within_a_row_passes_nothing_of_it() -> None:
    talk = masked()
    talk.client(query("COPY users TO STDOUT"))
    told = talk.server(wire.copy_out(0, 0, 0), wire.copy_data(b"1\t" + SECRET))
    told += talk.server(wire.message("c"), wire.complete("COPY 1"), ready())
    assert SECRET not in told
    assert b"[masked]" in told or talk.ended


@pytest.mark.parametrize("behind", [parse("s", "SELECT 1"), query("SELECT 1")], ids=["parse", "query"])
def test_what_was_sent_behind_a_copy_is_not_taken_for_its_input(behind: bytes) -> None:
    talk = Talk(anything)
    talk.client(query("COPY orders FROM STDIN") + behind)
    talk.server(wire.copy_in(0, 0))
    assert talk.ended


def test_a_copy_does_not_end_before_its_input() -> None:
    talk = Talk(anything)
    talk.client(query("COPY orders FROM STDIN"))
    talk.server(wire.copy_in(0, 0), wire.complete("COPY 1"), ready())
    assert talk.ended


def test_what_needs_no_mask_is_remembered_in_bounds() -> None:
    talk = masked()
    for n in range(300):
        talk.client(query(READ))
        answer(talk, wire.columns(wire.field(f"total{n}", ORDERS, 2)))
    assert 0 < len(talk.session.unmasked) <= 256
