"""Attack row 33: self-approval, reuse, approval after an edit, approval that never expires; on the real state store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.approve.summaries import summary
from guard.approve.waits import MAX_OPEN_PER_SUBJECT, MAX_TEXT
from guard.record.errors import RecordError
from guard.state import StateError
from protocols.contract import HoldTerms
from tests.guard.approve.conftest import (
    AGENT,
    ALICE,
    BOB,
    DIGEST,
    NOW,
    ONCALL,
    Bench,
    in_loop,
    refused,
    settled,
)


def test_approved_spent_and_recorded(bench):
    async def work():
        held = await bench.ask()
        assert held.expires_at == NOW + 600
        assert not held.future.done()
        approval = await bench.book.vote(held.id, ALICE, True, "seen, fine")
        assert approval.status == "approved"
        outcome = held.future.result()
        assert (outcome.approved, outcome.by, outcome.status) == (True, ("alice",), "approved")
        assert bench.book.waiting == 0
        await bench.book.spend(held, DIGEST)
        assert bench.kinds() == ["approval.requested", "approval.voted", "approval.decided", "approval.spent"]
        assert [event for event, _ in bench.sent] == ["approval.requested", "approval.decided"]

    in_loop(work)


def test_row_33_an_approval_is_spent_once(bench):
    async def work():
        held = await bench.ask()
        await refused(bench.book.spend(held, DIGEST), "already pending")
        await bench.book.vote(held.id, ALICE, True)
        await bench.book.spend(held, DIGEST)
        await refused(bench.book.spend(held, DIGEST), "already spent")

    in_loop(work)


def test_row_33_an_approval_binds_the_exact_command(bench):
    async def work():
        held = await bench.ask()
        await bench.book.vote(held.id, ALICE, True)
        await refused(bench.book.spend(held, b"\x02" * 32), "another command")
        await bench.book.spend(held, DIGEST)

    in_loop(work)


@pytest.mark.parametrize(
    "self_again",
    [
        AGENT,
        replace(AGENT, groups=frozenset({"oncall"})),
        replace(AGENT, issuer="https://other.example", groups=frozenset({"oncall"})),
        replace(AGENT, subject="Agent-7", groups=frozenset({"oncall"})),
    ],
)
@pytest.mark.parametrize("approve", [True, False])
def test_row_33_nobody_decides_on_their_own_request(bench, self_again, approve):
    async def work():
        held = await bench.ask()
        await refused(bench.book.vote(held.id, self_again, approve, "it is fine"), "their own request")
        assert not held.future.done()
        assert bench.kinds()[-1] == "alert"
        assert bench.sent[-1][0] == "alert"
        assert (await bench.book.get(held.id)).votes == ()

    in_loop(work)


def test_row_33_only_those_whom_the_rule_names(bench):
    async def work():
        terms = HoldTerms(approver_groups=frozenset({"dba"}), approver_subjects=frozenset({"carol"}))
        held = await bench.ask(terms=terms)
        await refused(bench.book.vote(held.id, ALICE, True), "decided by dba, carol")
        assert (await bench.book.vote(held.id, BOB, True)).status == "approved"
        other = await bench.ask(terms=terms)
        assert (await bench.book.vote(other.id, replace(ALICE, subject="carol"), True)).status == "approved"

    in_loop(work)


def test_row_33_the_rule_says_whose_group_it_means(bench):
    """A group of the same name at another issuer is another group, also after the request came back from the store."""

    async def work():
        for terms in (
            HoldTerms(approver_groups=frozenset({"dba"}), approver_issuers=frozenset({BOB.issuer})),
            HoldTerms(approver_issuers=frozenset({BOB.issuer})),
        ):
            held = await bench.ask(terms=terms)
            elsewhere = replace(BOB, issuer="https://gitlab.example")
            await refused(bench.book.vote(held.id, elsewhere, True), f"decided by identities of {BOB.issuer}")
            found = await bench.book.get(held.id)
            assert found.terms == terms
            assert (await bench.book.vote(held.id, BOB, True)).status == "approved"

    in_loop(work)


@pytest.mark.parametrize("again", ["ALICE", "Alice", "\uff21lice", "alice"])
@pytest.mark.parametrize("issuer", ["https://idp", "https://other"])
def test_row_33_one_person_spelt_twice_counts_once(bench, again, issuer):
    async def work():
        held = await bench.ask(terms=replace(ONCALL, count=2))
        assert (await bench.book.vote(held.id, ALICE, True)).status == "pending"
        await refused(bench.book.vote(held.id, replace(ALICE, subject=again, issuer=issuer), True), "has already voted")
        assert (await bench.book.get(held.id)).status == "pending"

    in_loop(work)


def test_row_33_without_the_role_nobody_approves(path):
    async def work():
        bench = Bench(path, is_approver=lambda principal: "dba" in principal.groups)
        held = await bench.ask(terms=HoldTerms())
        await refused(bench.book.vote(held.id, ALICE, True), "role `approver`")
        assert (await bench.book.vote(held.id, BOB, True)).status == "approved"
        await bench.leave()

    in_loop(work)


def test_row_33_several_approvers_are_several_people(bench):
    async def work():
        held = await bench.ask(terms=replace(ONCALL, count=2))
        assert (await bench.book.vote(held.id, ALICE, True)).status == "pending"
        await refused(bench.book.vote(held.id, ALICE, True), "already voted")
        await refused(bench.book.vote(held.id, replace(ALICE, issuer="https://other"), True), "already voted")
        assert not held.future.done()
        assert (await bench.book.vote(held.id, BOB, True)).status == "approved"
        assert held.future.result().by == ("alice", "bob")

    in_loop(work)


def test_one_refusal_decides_and_needs_a_reason(bench):
    async def work():
        held = await bench.ask(terms=replace(ONCALL, count=2))
        for reason in ("", "  ", "x" * 1001, "a\x1b[2J"):
            await refused(bench.book.vote(held.id, BOB, False, reason), "reason")
        await bench.book.vote(held.id, ALICE, True)
        await bench.book.vote(held.id, BOB, False, "not in production")
        outcome = held.future.result()
        assert (outcome.approved, outcome.status, outcome.reason) == (False, "denied", "not in production")
        await refused(bench.book.spend(held, DIGEST), "already denied")

    in_loop(work)


def test_row_33_expiry_denies_and_cannot_be_approved_later(bench):
    async def work():
        held = await bench.ask()
        bench.now = held.expires_at
        await refused(bench.book.vote(held.id, ALICE, True), "expired")
        assert held.future.result().status == "expired"
        assert bench.sent[-1][1]["status"] == "expired"

    in_loop(work)


def test_row_33_an_approval_that_was_never_used_expires(bench):
    async def work():
        held = await bench.ask()
        await bench.book.vote(held.id, ALICE, True)
        bench.now = held.expires_at
        await refused(bench.book.spend(held, DIGEST), "expired")
        await bench.book.poll()
        assert (await bench.book.get(held.id)).status == "expired"

    in_loop(work)


def test_a_rule_never_holds_longer_than_the_limit_or_the_token(path):
    async def work():
        bench = Bench(path, max_hold=60)
        assert (await bench.ask(terms=replace(ONCALL, expires_s=9999))).expires_at == NOW + 60
        assert (await bench.ask(terms=replace(ONCALL, expires_s=5))).expires_at == NOW + 5
        assert (await bench.ask(principal=replace(AGENT, expires_at=NOW + 30))).expires_at == NOW + 30
        await refused(bench.ask(principal=replace(AGENT, expires_at=NOW)), "session ends")
        await bench.leave()

    in_loop(work)


def test_poll_expires_what_nobody_decided(bench):
    async def work():
        held, later = await bench.ask(), await bench.ask(terms=replace(ONCALL, expires_s=601), principal=ALICE)
        bench.now = held.expires_at - 0.1
        await bench.book.poll()
        assert not held.future.done()
        bench.now = held.expires_at
        await bench.book.poll()
        assert held.future.result().reason == "nobody decided in time"
        assert later.future.done() is (later.expires_at <= bench.now)

    in_loop(work)


def test_a_vote_through_another_process_is_picked_up(bench, path):
    async def work():
        held, other = await bench.ask(), await bench.ask(principal=replace(AGENT, subject="agent-8"))
        await bench.book.poll()
        second = Bench(path)  # its own connections, as in another process
        await second.book.vote(held.id, ALICE, True, "ok")
        assert not held.future.done()
        await bench.book.poll()
        assert held.future.result().approved
        assert not other.future.done()
        await second.book.vote(other.id, ALICE, False, "no")
        await bench.book.poll()
        assert other.future.result().reason == "no"
        await second.leave()

    in_loop(work)


def test_row_33_a_client_that_leaves_withdraws_its_request(bench):
    async def work():
        held = await bench.ask()
        bench.book.withdraw(held, "the client left")
        assert held.future.result().status == "withdrawn"
        await refused(bench.book.vote(held.id, ALICE, True), "already withdrawn")
        approved = await bench.ask()
        await bench.book.vote(approved.id, ALICE, True)
        bench.book.withdraw(approved, "the client left")
        await refused(bench.book.spend(approved, DIGEST), "already withdrawn")
        bench.book.withdraw(approved, "again")

    in_loop(work)


def test_requests_of_a_crashed_gateway_are_withdrawn_at_the_next_start(bench, path):
    async def work():
        held, approved = await bench.ask(), await bench.ask()
        await bench.book.vote(approved.id, ALICE, True)
        again = Bench(path)
        assert again.book.start() == 2
        await refused(again.book.vote(held.id, ALICE, True), "already withdrawn")
        await refused(again.book.spend(approved, DIGEST), "already withdrawn")
        await again.leave()

    in_loop(work)


def test_a_store_that_fails_holds_nothing_and_releases_nothing(bench):
    async def work():
        held = await bench.ask()
        approved = await bench.ask()
        await bench.book.vote(approved.id, ALICE, True)
        bench.store.close()
        (bench.store._database.path).write_bytes(b"this is no database" * 500)
        for work_on_it in (bench.ask, lambda: bench.book.spend(approved, DIGEST), bench.book.poll):
            with pytest.raises(StateError):
                await work_on_it()
        bench.book.withdraw(held, "the client left")
        assert held.future.result().status == "withdrawn"
        assert bench.book.waiting == 0

    in_loop(work)


def test_an_expiry_needs_no_store(bench):
    async def work():
        held = await bench.ask()
        bench.store.close()
        bench.store._database.path.write_bytes(b"this is no database" * 500)
        bench.now = held.expires_at
        with pytest.raises(StateError):
            await bench.book.poll()
        assert held.future.result().status == "expired"

    in_loop(work)


def test_a_journal_that_fails_holds_nothing_and_approves_nothing(bench):
    async def work():
        held = await bench.ask()

        def broken(kind, payload):
            raise RecordError("the journal cannot be written: /var/lib/sluicegate/journal")

        bench.store.approvals._journal = broken
        await refused(bench.ask(), "cannot record")
        assert bench.book.waiting == 1
        await refused(bench.book.vote(held.id, ALICE, True), "cannot record this now")
        assert not held.future.done()
        assert bench.store.approvals.get(held.id).status == "pending"

    in_loop(work)


def test_a_withdrawal_that_the_store_missed_is_made_up_for(bench, monkeypatch):
    async def work():
        held = await bench.ask()
        real = bench.store.approvals.decide

        def broken(*args, **kwargs):
            raise StateError("locked")

        monkeypatch.setattr(bench.store.approvals, "decide", broken)
        bench.book.withdraw(held, "the client left")
        await settled(bench)
        assert bench.store.approvals.get(held.id).status == "pending"
        monkeypatch.setattr(bench.store.approvals, "decide", real)
        await bench.book.poll()
        await settled(bench)
        assert bench.store.approvals.get(held.id).status == "withdrawn"

    in_loop(work)


def test_one_identity_cannot_bury_the_approvers(bench):
    async def work():
        for _ in range(MAX_OPEN_PER_SUBJECT):
            await bench.ask()
        await refused(bench.ask(), "requests open")
        assert (await bench.ask(principal=ALICE)).id

    in_loop(work)


def test_what_nobody_can_read_is_not_held(bench):
    async def work():
        await refused(bench.ask(text="x" * (MAX_TEXT + 1)), "too long")
        await refused(bench.ask(params=("x" * MAX_TEXT, None)), "too long")

    in_loop(work)


def test_approvers_see_the_exact_text_and_everybody_else_the_redacted_one(bench):
    async def work():
        text = "ALTER ROLE app PASSWORD 'hunter2'"
        held = await bench.ask(text=text)
        assert (await bench.book.get(held.id)).text == text
        assert "hunter2" not in str(bench.sent) + str(bench.journal) + str(summary(await bench.book.get(held.id)))
        await bench.book.vote(held.id, ALICE, True)
        await bench.book.spend(held, DIGEST)
        assert "hunter2" not in (await bench.book.get(held.id)).text

    in_loop(work)


def test_lists_by_status(bench):
    async def work():
        first, second = await bench.ask(), await bench.ask()
        await bench.book.vote(first.id, ALICE, True)
        assert [approval.id for approval in await bench.book.list("pending")] == [second.id]
        assert len(await bench.book.list()) == 2
        await refused(bench.book.list("maybe"), "no status `maybe`")
        await refused(bench.book.vote("nope", ALICE, True), "no request `nope`")

    in_loop(work)


def test_a_future_that_its_connection_cancelled_is_left_alone(bench):
    async def work():
        held = await bench.ask()
        held.future.cancel()
        await bench.book.vote(held.id, ALICE, True)
        assert (await bench.book.get(held.id)).status == "approved"

    in_loop(work)


def test_the_vote_of_somebody_who_was_contained_since_is_none(path):
    contained: set[str] = set()
    bench = Bench(path, kept_out=contained.__contains__)

    async def work():
        held = await bench.ask(terms=replace(ONCALL, count=2))
        await bench.book.vote(held.id, ALICE, True)
        contained.add("alice")
        assert (await bench.book.vote(held.id, BOB, True)).status == "pending"
        assert not held.future.done()
        third = replace(BOB, subject="carol")
        assert (await bench.book.vote(held.id, third, True)).status == "approved"
        await bench.book.spend(held, DIGEST)
        await bench.leave()

    in_loop(work)
