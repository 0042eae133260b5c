"""Attack row 33: self-approval, reuse, approval after an edit, approval that never expires; on the real state store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from guard.approve import ApprovalBook, ApprovalError
from guard.approve.book import MAX_OPEN_PER_SUBJECT, MAX_TEXT
from guard.approve.summaries import summary
from guard.record.errors import RecordError
from guard.state import StateAccess, StateError, StateStore
from protocols.contract import Analysis, Effect, HoldTerms, Principal, Resource

NOW = 1_800_000_000.0
AGENT = Principal("agent-7", "https://idp.example", frozenset({"agents"}), expires_at=NOW + 86400)
ALICE = Principal("alice", "https://idp.example", frozenset({"oncall"}), expires_at=NOW + 86400)
BOB = Principal("bob", "https://idp.example", frozenset({"oncall", "dba"}), expires_at=NOW + 86400)
SHOP = Resource("shop", "postgres")
ANALYSIS = Analysis(kind="drop table", effects=frozenset({Effect.DDL_DROP}), writes=("public.orders",))
ONCALL = HoldTerms(approver_groups=frozenset({"oncall"}))
DIGEST = b"\x01" * 32


class Bench:
    """A book on a real store, with everything that it told others."""

    def __init__(self, path, **options):
        self.now = NOW
        self.journal: list[tuple[str, dict]] = []
        self.sent: list[tuple[str, dict]] = []
        self.store = StateStore(path, journal=self.event)
        self.state = StateAccess(self.store)
        self.book = ApprovalBook(self.state, self, self, lambda: self.now, gateway="g1", **options)

    def close(self):
        asyncio.run(self.state.close(5))
        self.store.close()

    async def leave(self):
        """Closes it inside a loop."""
        await self.state.close(5)
        self.store.close()

    def event(self, kind, payload):
        self.journal.append((kind, dict(payload)))
        return len(self.journal)

    def send(self, event, data):
        self.sent.append((event, dict(data)))

    async def ask(self, *, principal=AGENT, terms=ONCALL, text="DROP TABLE orders", digest=DIGEST, params=()):
        return await self.book.request("s1", principal, SHOP, terms, text, digest, ANALYSIS, "hold-ddl", params)

    def kinds(self):
        return [kind for kind, _ in self.journal]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def bench(path):
    made = Bench(path)
    yield made
    made.close()


@pytest.fixture
def loop():
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def in_loop(work):
    """Run a test's body inside an event loop; its futures live there."""
    return asyncio.run(work())


async def refused(asked, match):
    with pytest.raises(ApprovalError, match=match):
        await asked


async def settled(bench):
    """Once the store was told, or could not be told, of what was withdrawn and is overdue."""
    await asyncio.wait([bench.book._leftovers._tidying])


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


# ---------------------------------------------------------------- deferred: the client went, the request stays


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
