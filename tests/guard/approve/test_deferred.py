"""Deferred requests: the client went, the request stays, and the same command of the same identity passes once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.approve.waits import MAX_OPEN_PER_SUBJECT
from guard.record.errors import RecordError
from protocols.contract import HoldTerms, Resource
from tests.guard.approve.conftest import (
    AGENT,
    ALICE,
    ANALYSIS,
    BOB,
    DIGEST,
    ONCALL,
    SHOP,
    Bench,
    in_loop,
    refused,
)


async def deferred(bench, **more):
    held = await bench.ask(**more)
    await bench.book.defer(held)
    assert bench.book.waiting == 0
    assert not held.future.done()
    return held


def test_a_deferred_request_approved_late_passes_once_from_another_connection(bench):
    async def work():
        ticket = await deferred(bench)
        await bench.book.vote(ticket.id, ALICE, True)
        again = await bench.ask()
        assert again.id == ticket.id
        assert again.future.result().approved
        await bench.book.spend(ticket, DIGEST, "s2")
        assert dict(bench.journal)["approval.spent"]["used_by"] == "s2"
        assert bench.kinds().count("approval.requested") == 1
        assert bench.kinds().count("approval.deferred") == 1
        third = await bench.ask()  # spent: people are asked anew
        assert third.id != ticket.id
        assert not third.future.done()

    in_loop(work)


def test_what_a_contained_approver_has_approved_releases_nothing_and_others_can_be_asked(path):
    contained: set[str] = set()
    bench = Bench(path, kept_out=contained.__contains__)

    async def work():
        ticket = await deferred(bench)
        await bench.book.vote(ticket.id, ALICE, True)
        contained.add("alice")
        again = await bench.ask()
        await refused(bench.book.spend(again, DIGEST, "s2"), "who approved it is contained")
        assert "approval.spent" not in bench.kinds()
        assert dict(bench.journal)["approval.withdrawn"]["by"] == ["alice"]
        anew = await bench.ask()
        assert anew.id != ticket.id
        await bench.book.vote(anew.id, BOB, True)
        await bench.book.spend(anew, DIGEST)
        await bench.leave()

    in_loop(work)


def test_a_deferred_request_is_joined_before_its_approval(bench):
    async def work():
        ticket = await deferred(bench)
        again = await bench.ask()
        assert again.id == ticket.id
        assert not again.future.done()
        assert len([event for event, _ in bench.sent if event == "approval.requested"]) == 1
        await bench.book.defer(again)  # its patience ends a second time
        last = await bench.ask()
        await bench.book.vote(ticket.id, ALICE, True)
        assert last.future.result().approved

    in_loop(work)


def test_approved_elsewhere_and_not_heard_of_yet(bench, path):
    """The vote came through another process, and the client's patience ended before this one looked."""

    async def work():
        held = await bench.ask()
        other = Bench(path)
        await other.book.vote(held.id, ALICE, True)
        await other.leave()
        await bench.book.defer(held)
        assert (await bench.ask()).future.result().approved

    in_loop(work)


@pytest.mark.parametrize(
    "change",
    [
        {"principal": replace(AGENT, subject="agent-8")},
        {"principal": replace(AGENT, issuer="https://other.example")},
        {"digest": b"\x02" * 32},  # other bytes, or other parameters
        {"terms": HoldTerms(approver_groups=frozenset({"oncall"}), count=2)},  # the policy became stricter
        {"terms": HoldTerms(approver_groups=frozenset({"dba"}))},
        {"rule": "hold-all"},
        {"resource": Resource("shop-2", "postgres")},
        {"resource": Resource("shop", "postgres", database="other")},
        {"analysis": replace(ANALYSIS, writes=("evil.orders",))},  # the same words mean another table here
        {"analysis": replace(ANALYSIS, functions=("public.f",))},
        {"told": b"datestyle dmy"},
    ],
)
def test_an_approval_for_later_is_for_the_same_command_of_the_same_identity(bench, change):
    async def work():
        ticket = await deferred(bench)
        await bench.book.vote(ticket.id, ALICE, True)
        asked = {"principal": AGENT, "terms": ONCALL, "digest": DIGEST, "rule": "hold-ddl", "resource": SHOP}
        asked |= {"analysis": ANALYSIS} | change
        other = await bench.book.request(
            "s9",
            asked["principal"],
            asked["resource"],
            asked["terms"],
            "DROP TABLE orders",
            asked["digest"],
            asked["analysis"],
            asked["rule"],
            told=asked.get("told", b""),
        )
        assert other.id != ticket.id
        assert not other.future.done()
        assert (await bench.ask()).id == ticket.id  # while the rightful one still passes

    in_loop(work)


def test_two_connections_with_one_deferred_command(bench):
    """One approval lets one of them through."""

    async def work():
        ticket = await deferred(bench)
        first, second = await bench.ask(), await bench.ask()
        assert first.id == ticket.id
        assert second.id != ticket.id
        await bench.book.vote(ticket.id, ALICE, True)
        await bench.book.spend(ticket, DIGEST)
        assert not second.future.done()
        await refused(bench.book.spend(ticket, DIGEST), "already spent")

    in_loop(work)


def test_two_gateways_with_one_deferred_command(bench, path):
    async def work():
        ticket = await deferred(bench)
        other = Bench(path)
        here, there = await bench.ask(), await other.ask()
        assert (here.id, there.id) == (ticket.id, ticket.id)
        await bench.book.vote(ticket.id, ALICE, True)
        await other.book.poll()
        assert there.future.result().approved
        await other.book.spend(ticket, DIGEST)
        await refused(bench.book.spend(ticket, DIGEST), "already spent")
        await other.leave()

    in_loop(work)


def test_a_deferred_request_ends_with_its_hold(bench):
    async def work():
        ticket = await deferred(bench)
        await bench.book.vote(ticket.id, ALICE, True)
        bench.now += 600
        await bench.book.poll()
        assert (await bench.book.get(ticket.id)).status == "expired"
        assert (await bench.book.get(ticket.id)).text == "DROP TABLE orders"
        assert (await bench.ask()).id != ticket

    in_loop(work)


def test_an_overdue_approval_is_not_used_before_anybody_looked(bench):
    async def work():
        ticket = await deferred(bench)
        await bench.book.vote(ticket.id, ALICE, True)
        bench.now += 600
        assert (await bench.ask()).id != ticket

    in_loop(work)


def test_a_deferred_request_survives_a_restart_and_a_waiting_one_does_not(bench, path):
    async def work():
        ticket = await deferred(bench)
        waiting = await bench.ask(digest=b"\x03" * 32)
        await bench.book.vote(ticket.id, ALICE, True)
        await bench.leave()
        second = Bench(path)
        bench.store, bench.state = second.store, second.state
        second.book.start()
        assert (await second.book.get(waiting.id)).status == "withdrawn"
        again = await second.ask()
        assert again.id == ticket.id
        assert again.future.result().approved
        await second.book.spend(ticket, DIGEST)

    in_loop(work)


def test_who_joined_a_deferred_request_and_leaves_does_not_take_it_along(bench):
    async def work():
        ticket = await deferred(bench)
        again = await bench.ask()
        bench.book.withdraw(again, "the client connection is gone")
        assert again.future.result().status == "withdrawn"
        assert (await bench.book.get(ticket.id)).status == "pending"
        await bench.book.vote(ticket.id, ALICE, True)
        assert (await bench.ask()).future.result().approved

    in_loop(work)


def test_what_is_decided_cannot_be_deferred(bench):
    async def work():
        held = await bench.ask()
        await bench.book.vote(held.id, ALICE, False, "no")
        await refused(bench.book.defer(held), "already denied")
        other = await bench.ask(digest=b"\x04" * 32)
        bench.now += 600
        await refused(bench.book.defer(other), "already pending|expired")
        await refused(bench.book.defer(replace(other, id="nothing")), "no approval")

    in_loop(work)


def test_a_journal_that_fails_leaves_it_waiting(bench):
    async def work():
        held = await bench.ask()
        bench.store.approvals._journal = failing
        await refused(bench.book.defer(held), "cannot record")
        assert bench.book.waiting == 1
        bench.store.approvals._journal = bench.event
        assert not (await bench.book.get(held.id)).deferred

    def failing(kind, payload):
        raise RecordError("disk full")

    in_loop(work)


def test_deferred_requests_count_among_the_open_ones(bench):
    async def work():
        for number in range(MAX_OPEN_PER_SUBJECT):
            await deferred(bench, digest=bytes([number]) * 32)
        await refused(bench.ask(digest=b"\xff" * 32), "requests open")
        await bench.ask(digest=b"\x07" * 32)  # joins its own

    in_loop(work)
