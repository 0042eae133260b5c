"""Commands that wait for people, and what becomes of them."""

from __future__ import annotations

import hashlib

import pytest

from protocols.contract import Action, Decision, HoldTerms, Outcome, Side, Wait
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import SSN, Talk, catalog
from tests.support.mysql_wire import packets, query

HOLD = Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())


def test_a_held_statement_waits_and_goes_once_approved() -> None:
    talk = Talk()
    sent = query("DELETE FROM orders WHERE id = 1")
    assert talk.client(sent) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talk.down() == b""
    (request,) = talk.port.holds
    assert request.text == "DELETE FROM orders WHERE id = 1"
    talk.client(wire.PING)
    assert talk.resume(Outcome.APPROVED) == sent
    answer = packets(1, wire.ok(1))
    assert talk.server(answer) == answer
    assert talk.up() == wire.PING


@pytest.mark.parametrize("copied", [False, True])
def test_approved_it_does_not_run_beside_a_definition_or_define_beside_a_copy(copied: bool) -> None:
    talk, other = Talk(lambda _: HOLD, masks=[SSN]), object()
    text = "CREATE OR REPLACE VIEW mine AS SELECT id FROM orders" if copied else "DELETE FROM orders WHERE id = 1"
    talk.client(query(text))
    if copied:
        talk.port.definitions.copies.begin(other, ["app.mine"])
    else:
        talk.port.definitions.begin(other, ["app.orders"])
    assert talk.resume(Outcome.APPROVED) == b""
    found = talk.down()
    assert b"#42000" in found
    assert (b"copying" if copied else b"defining") in found
    assert talk.responses() == [(1, "error")]


@pytest.mark.parametrize(
    ("outcome", "why", "errno", "words"),
    [
        (Outcome.DENIED, "not today", 1142, "not today"),
        (Outcome.EXPIRED, "", 1142, "in time"),
        (Outcome.DEFERRED, "", 1142, "hold-1"),
        (Outcome.WITHDRAWN, "", 1317, "interrupted"),
    ],
)
def test_a_hold_that_ends_otherwise(outcome: Outcome, why: str, errno: int, words: str) -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    assert talk.resume(outcome, why) == b""
    ((sequence, code, _, text),) = wire.errors(talk.down())
    assert (sequence, code) == (1, errno)
    assert words in text
    assert talk.responses() == [(1, "error")]
    talk.ok("SELECT 1 FROM orders")


def test_a_client_that_leaves_withdraws_its_request() -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    talk.client(wire.QUIT)
    assert talk.ended
    assert talk.port.withdrawn
    assert talk.up() == b""


def test_a_cancel_withdraws_what_waits() -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    assert talk.session.cancelled() is True
    assert talk.port.withdrawn


def test_what_changed_its_meaning_while_it_waited_is_refused() -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    talk.port.snapshot = catalog("v2")
    talk.port.epoch = object()
    assert talk.resume(Outcome.APPROVED) != b""  # the same tables, the same columns
    talk.server(packets(1, wire.ok(1)))
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    talk.port.snapshot = None
    assert talk.resume(Outcome.APPROVED) == b""
    assert "changed while it waited" in wire.errors(talk.down())[0][3]


def test_nobody_can_be_asked() -> None:
    talk = Talk()
    talk.port.nobody = "no approver is configured"
    assert "no approver" in talk.denied(query("DELETE FROM orders WHERE id = 1"))[2]


def test_a_digest_covers_command_database_and_text() -> None:
    digests = set()
    for database, sql in (
        ("app", "DELETE FROM orders"),
        ("other", "DELETE FROM orders"),
        ("app", "DELETE FROM  orders"),
    ):
        talk = Talk(database=database)
        talk.client(query(sql))
        digests.add(talk.port.holds[0].digest)
    assert len(digests) == 3
    assert all(len(d) == hashlib.sha256().digest_size for d in digests)


def test_the_upstream_goes_while_a_command_is_held() -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    talk.session.lost(Side.UPSTREAM)
    ((sequence, _, _, text),) = wire.errors(talk.down())
    assert sequence == 1
    assert "did not run" in text
    assert talk.responses() == [(1, "lost")]
    assert talk.port.withdrawn


def test_terminate_while_a_command_is_held() -> None:
    talk = Talk()
    talk.client(query("DELETE FROM orders WHERE id = 1"))
    talk.session.terminate("terminating connection: contained")
    ((sequence, errno, _, _),) = wire.errors(talk.down())
    assert (sequence, errno) == (1, 1053)
    assert talk.port.withdrawn
    assert talk.up() == b""
