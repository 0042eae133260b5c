"""Attack row 33: self-approval, reuse, approval after an edit, approval that never expires; on the real state store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from guard.approve import ApprovalBook, ApprovalError
from guard.approve.book import MAX_OPEN_PER_SUBJECT, MAX_TEXT, summary
from guard.record.errors import RecordError
from guard.state import StateError, StateStore
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
        self.book = ApprovalBook(self.store, self, self, lambda: self.now, gateway="g1", **options)

    def event(self, kind, payload):
        self.journal.append((kind, dict(payload)))
        return len(self.journal)

    def send(self, event, data):
        self.sent.append((event, dict(data)))

    def ask(self, *, principal=AGENT, terms=ONCALL, text="DROP TABLE orders", digest=DIGEST, params=()):
        return self.book.request("s1", principal, SHOP, terms, text, digest, ANALYSIS, "hold-ddl", params)

    def kinds(self):
        return [kind for kind, _ in self.journal]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def bench(path):
    made = Bench(path)
    yield made
    made.store.close()


@pytest.fixture
def loop():
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def in_loop(work):
    """Run a test's body inside an event loop; its futures live there."""

    async def run():
        return work()

    return asyncio.run(run())


def refused(work, match):
    with pytest.raises(ApprovalError, match=match):
        work()


def test_approved_spent_and_recorded(bench):
    def work():
        held = bench.ask()
        assert held.expires_at == NOW + 600
        assert not held.future.done()
        approval = bench.book.vote(held.id, ALICE, True, "seen, fine")
        assert approval.status == "approved"
        outcome = held.future.result()
        assert (outcome.approved, outcome.by, outcome.status) == (True, ("alice",), "approved")
        assert bench.book.waiting == 0
        bench.book.spend(held.id, DIGEST)
        assert bench.kinds() == ["approval.requested", "approval.voted", "approval.decided", "approval.spent"]
        assert [event for event, _ in bench.sent] == ["approval.requested", "approval.decided"]

    in_loop(work)


def test_row_33_an_approval_is_spent_once(bench):
    def work():
        held = bench.ask()
        refused(lambda: bench.book.spend(held.id, DIGEST), "already pending")
        bench.book.vote(held.id, ALICE, True)
        bench.book.spend(held.id, DIGEST)
        refused(lambda: bench.book.spend(held.id, DIGEST), "already spent")

    in_loop(work)


def test_row_33_an_approval_binds_the_exact_command(bench):
    def work():
        held = bench.ask()
        bench.book.vote(held.id, ALICE, True)
        refused(lambda: bench.book.spend(held.id, b"\x02" * 32), "another command")
        bench.book.spend(held.id, DIGEST)

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
    def work():
        held = bench.ask()
        refused(lambda: bench.book.vote(held.id, self_again, approve, "it is fine"), "their own request")
        assert not held.future.done()
        assert bench.kinds()[-1] == "alert"
        assert bench.sent[-1][0] == "alert"
        assert bench.book.get(held.id).votes == ()

    in_loop(work)


def test_row_33_only_those_whom_the_rule_names(bench):
    def work():
        terms = HoldTerms(approver_groups=frozenset({"dba"}), approver_subjects=frozenset({"carol"}))
        held = bench.ask(terms=terms)
        refused(lambda: bench.book.vote(held.id, ALICE, True), "decided by dba, carol")
        assert bench.book.vote(held.id, BOB, True).status == "approved"
        other = bench.ask(terms=terms)
        assert bench.book.vote(other.id, replace(ALICE, subject="carol"), True).status == "approved"

    in_loop(work)


def test_row_33_without_the_role_nobody_approves(path):
    def work():
        bench = Bench(path, is_approver=lambda principal: "dba" in principal.groups)
        held = bench.ask(terms=HoldTerms())
        refused(lambda: bench.book.vote(held.id, ALICE, True), "role `approver`")
        assert bench.book.vote(held.id, BOB, True).status == "approved"
        bench.store.close()

    in_loop(work)


def test_row_33_several_approvers_are_several_people(bench):
    def work():
        held = bench.ask(terms=replace(ONCALL, count=2))
        assert bench.book.vote(held.id, ALICE, True).status == "pending"
        refused(lambda: bench.book.vote(held.id, ALICE, True), "already voted")
        refused(lambda: bench.book.vote(held.id, replace(ALICE, issuer="https://other"), True), "already voted")
        assert not held.future.done()
        assert bench.book.vote(held.id, BOB, True).status == "approved"
        assert held.future.result().by == ("alice", "bob")

    in_loop(work)


def test_one_refusal_decides_and_needs_a_reason(bench):
    def work():
        held = bench.ask(terms=replace(ONCALL, count=2))
        for reason in ("", "  ", "x" * 1001, "a\x1b[2J"):
            refused(lambda reason=reason: bench.book.vote(held.id, BOB, False, reason), "reason")
        bench.book.vote(held.id, ALICE, True)
        bench.book.vote(held.id, BOB, False, "not in production")
        outcome = held.future.result()
        assert (outcome.approved, outcome.status, outcome.reason) == (False, "denied", "not in production")
        refused(lambda: bench.book.spend(held.id, DIGEST), "already denied")

    in_loop(work)


def test_row_33_expiry_denies_and_cannot_be_approved_later(bench):
    def work():
        held = bench.ask()
        bench.now = held.expires_at
        refused(lambda: bench.book.vote(held.id, ALICE, True), "expired")
        assert held.future.result().status == "expired"
        assert bench.sent[-1][1]["status"] == "expired"

    in_loop(work)


def test_row_33_an_approval_that_was_never_used_expires(bench):
    def work():
        held = bench.ask()
        bench.book.vote(held.id, ALICE, True)
        bench.now = held.expires_at
        refused(lambda: bench.book.spend(held.id, DIGEST), "expired")
        bench.book.poll()
        assert bench.book.get(held.id).status == "expired"

    in_loop(work)


def test_a_rule_never_holds_longer_than_the_limit_or_the_token(path):
    def work():
        bench = Bench(path, max_hold=60)
        assert bench.ask(terms=replace(ONCALL, expires_s=9999)).expires_at == NOW + 60
        assert bench.ask(terms=replace(ONCALL, expires_s=5)).expires_at == NOW + 5
        assert bench.ask(principal=replace(AGENT, expires_at=NOW + 30)).expires_at == NOW + 30
        refused(lambda: bench.ask(principal=replace(AGENT, expires_at=NOW)), "session ends")
        bench.store.close()

    in_loop(work)


def test_poll_expires_what_nobody_decided(bench):
    def work():
        held, later = bench.ask(), bench.ask(terms=replace(ONCALL, expires_s=601), principal=ALICE)
        bench.now = held.expires_at - 0.1
        bench.book.poll()
        assert not held.future.done()
        bench.now = held.expires_at
        bench.book.poll()
        assert held.future.result().reason == "nobody decided in time"
        assert later.future.done() is (later.expires_at <= bench.now)

    in_loop(work)


def test_a_vote_through_another_process_is_picked_up(bench, path):
    def work():
        held, other = bench.ask(), bench.ask(principal=replace(AGENT, subject="agent-8"))
        bench.book.poll()
        second = Bench(path)  # its own connections, as in another process
        second.book.vote(held.id, ALICE, True, "ok")
        assert not held.future.done()
        bench.book.poll()
        assert held.future.result().approved
        assert not other.future.done()
        second.book.vote(other.id, ALICE, False, "no")
        bench.book.poll()
        assert other.future.result().reason == "no"
        second.store.close()

    in_loop(work)


def test_row_33_a_client_that_leaves_withdraws_its_request(bench):
    def work():
        held = bench.ask()
        bench.book.withdraw(held.id, "the client left")
        assert held.future.result().status == "withdrawn"
        refused(lambda: bench.book.vote(held.id, ALICE, True), "already withdrawn")
        approved = bench.ask()
        bench.book.vote(approved.id, ALICE, True)
        bench.book.withdraw(approved.id, "the client left")
        refused(lambda: bench.book.spend(approved.id, DIGEST), "already withdrawn")
        bench.book.withdraw(approved.id, "again")

    in_loop(work)


def test_requests_of_a_crashed_gateway_are_withdrawn_at_the_next_start(bench, path):
    def work():
        held, approved = bench.ask(), bench.ask()
        bench.book.vote(approved.id, ALICE, True)
        again = Bench(path)
        assert again.book.start() == 2
        refused(lambda: again.book.vote(held.id, ALICE, True), "already withdrawn")
        refused(lambda: again.book.spend(approved.id, DIGEST), "already withdrawn")
        again.store.close()

    in_loop(work)


def test_a_store_that_fails_holds_nothing_and_releases_nothing(bench):
    def work():
        held = bench.ask()
        approved = bench.ask()
        bench.book.vote(approved.id, ALICE, True)
        bench.store.close()
        (bench.store._database.path).write_bytes(b"this is no database" * 500)
        for work_on_it in (bench.ask, lambda: bench.book.spend(approved.id, DIGEST), bench.book.poll):
            with pytest.raises(StateError):
                work_on_it()
        bench.book.withdraw(held.id, "the client left")
        assert held.future.result().status == "withdrawn"
        assert bench.book.waiting == 0

    in_loop(work)


def test_an_expiry_needs_no_store(bench):
    def work():
        held = bench.ask()
        bench.store.close()
        bench.store._database.path.write_bytes(b"this is no database" * 500)
        bench.now = held.expires_at
        with pytest.raises(StateError):
            bench.book.poll()
        assert held.future.result().status == "expired"

    in_loop(work)


def test_a_journal_that_fails_holds_nothing_and_approves_nothing(bench):
    def work():
        held = bench.ask()

        def broken(kind, payload):
            raise RecordError("the journal cannot be written: /var/lib/sluicegate/journal")

        bench.store.approvals._journal = broken
        refused(bench.ask, "cannot record")
        assert bench.book.waiting == 1
        refused(lambda: bench.book.vote(held.id, ALICE, True), "cannot record this now")
        assert not held.future.done()
        assert bench.store.approvals.get(held.id).status == "pending"

    in_loop(work)


def test_a_withdrawal_that_the_store_missed_is_made_up_for(bench, monkeypatch):
    def work():
        held = bench.ask()
        real = bench.store.approvals.decide

        def broken(*args, **kwargs):
            raise StateError("locked")

        monkeypatch.setattr(bench.store.approvals, "decide", broken)
        bench.book.withdraw(held.id, "the client left")
        assert bench.store.approvals.get(held.id).status == "pending"
        monkeypatch.setattr(bench.store.approvals, "decide", real)
        bench.book.poll()
        assert bench.store.approvals.get(held.id).status == "withdrawn"

    in_loop(work)


def test_one_identity_cannot_bury_the_approvers(bench):
    def work():
        for _ in range(MAX_OPEN_PER_SUBJECT):
            bench.ask()
        refused(bench.ask, "requests open")
        assert bench.ask(principal=ALICE).id

    in_loop(work)


def test_what_nobody_can_read_is_not_held(bench):
    def work():
        refused(lambda: bench.ask(text="x" * (MAX_TEXT + 1)), "too long")
        refused(lambda: bench.ask(params=("x" * MAX_TEXT, None)), "too long")

    in_loop(work)


def test_approvers_see_the_exact_text_and_everybody_else_the_redacted_one(bench):
    def work():
        text = "ALTER ROLE app PASSWORD 'hunter2'"
        held = bench.ask(text=text)
        assert bench.book.get(held.id).text == text
        assert "hunter2" not in str(bench.sent) + str(bench.journal) + str(summary(bench.book.get(held.id)))
        bench.book.vote(held.id, ALICE, True)
        bench.book.spend(held.id, DIGEST)
        assert "hunter2" not in bench.book.get(held.id).text

    in_loop(work)


def test_lists_by_status(bench):
    def work():
        first, second = bench.ask(), bench.ask()
        bench.book.vote(first.id, ALICE, True)
        assert [approval.id for approval in bench.book.list("pending")] == [second.id]
        assert len(bench.book.list()) == 2
        refused(lambda: bench.book.list("maybe"), "no status `maybe`")
        refused(lambda: bench.book.vote("nope", ALICE, True), "no request `nope`")

    in_loop(work)


def test_a_future_that_its_connection_cancelled_is_left_alone(bench):
    def work():
        held = bench.ask()
        held.future.cancel()
        bench.book.vote(held.id, ALICE, True)
        assert bench.book.get(held.id).status == "approved"

    in_loop(work)


# ---------------------------------------------------------------- deferred: the client went, the request stays


def deferred(bench, **more):
    held = bench.ask(**more)
    bench.book.defer(held.id)
    assert bench.book.waiting == 0
    assert not held.future.done()
    return held.id


def test_a_deferred_request_approved_late_passes_once_from_another_connection(bench):
    def work():
        ticket = deferred(bench)
        bench.book.vote(ticket, ALICE, True)
        again = bench.ask()
        assert again.id == ticket
        assert again.future.result().approved
        bench.book.spend(ticket, DIGEST, "s2")
        assert dict(bench.journal)["approval.spent"]["used_by"] == "s2"
        assert bench.kinds().count("approval.requested") == 1
        assert bench.kinds().count("approval.deferred") == 1
        third = bench.ask()  # spent: people are asked anew
        assert third.id != ticket
        assert not third.future.done()

    in_loop(work)


def test_a_deferred_request_is_joined_before_its_approval(bench):
    def work():
        ticket = deferred(bench)
        again = bench.ask()
        assert again.id == ticket
        assert not again.future.done()
        assert len([event for event, _ in bench.sent if event == "approval.requested"]) == 1
        bench.book.defer(ticket)  # its patience ends a second time
        last = bench.ask()
        bench.book.vote(ticket, ALICE, True)
        assert last.future.result().approved

    in_loop(work)


def test_approved_elsewhere_and_not_heard_of_yet(bench, path):
    """The vote came through another process, and the client's patience ended before this one looked."""

    def work():
        held = bench.ask()
        other = Bench(path)
        other.book.vote(held.id, ALICE, True)
        other.store.close()
        bench.book.defer(held.id)
        assert bench.ask().future.result().approved

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
    def work():
        ticket = deferred(bench)
        bench.book.vote(ticket, ALICE, True)
        asked = {"principal": AGENT, "terms": ONCALL, "digest": DIGEST, "rule": "hold-ddl", "resource": SHOP}
        asked |= {"analysis": ANALYSIS} | change
        other = bench.book.request(
            "s9",
            asked["principal"],
            asked["resource"],
            asked["terms"],
            "DROP TABLE orders",
            asked["digest"],
            asked["analysis"],
            asked["rule"],
        )
        assert other.id != ticket
        assert not other.future.done()
        assert bench.ask().id == ticket  # while the rightful one still passes

    in_loop(work)


def test_two_connections_with_one_deferred_command(bench):
    """One approval lets one of them through."""

    def work():
        ticket = deferred(bench)
        first, second = bench.ask(), bench.ask()
        assert first.id == ticket
        assert second.id != ticket
        bench.book.vote(ticket, ALICE, True)
        bench.book.spend(ticket, DIGEST)
        assert not second.future.done()
        refused(lambda: bench.book.spend(ticket, DIGEST), "already spent")

    in_loop(work)


def test_two_gateways_with_one_deferred_command(bench, path):
    def work():
        ticket = deferred(bench)
        other = Bench(path)
        here, there = bench.ask(), other.ask()
        assert (here.id, there.id) == (ticket, ticket)
        bench.book.vote(ticket, ALICE, True)
        other.book.poll()
        assert there.future.result().approved
        other.book.spend(ticket, DIGEST)
        refused(lambda: bench.book.spend(ticket, DIGEST), "already spent")
        other.store.close()

    in_loop(work)


def test_a_deferred_request_ends_with_its_hold(bench):
    def work():
        ticket = deferred(bench)
        bench.book.vote(ticket, ALICE, True)
        bench.now += 600
        bench.book.poll()
        assert bench.book.get(ticket).status == "expired"
        assert bench.book.get(ticket).text == "DROP TABLE orders"
        assert bench.ask().id != ticket

    in_loop(work)


def test_an_overdue_approval_is_not_used_before_anybody_looked(bench):
    def work():
        ticket = deferred(bench)
        bench.book.vote(ticket, ALICE, True)
        bench.now += 600
        assert bench.ask().id != ticket

    in_loop(work)


def test_a_deferred_request_survives_a_restart_and_a_waiting_one_does_not(bench, path):
    def work():
        ticket = deferred(bench)
        waiting = bench.ask(digest=b"\x03" * 32)
        bench.book.vote(ticket, ALICE, True)
        bench.store.close()
        bench.store = (second := Bench(path)).store
        second.book.start()
        assert second.book.get(waiting.id).status == "withdrawn"
        again = second.ask()
        assert again.id == ticket
        assert again.future.result().approved
        second.book.spend(ticket, DIGEST)

    in_loop(work)


def test_who_joined_a_deferred_request_and_leaves_does_not_take_it_along(bench):
    def work():
        ticket = deferred(bench)
        again = bench.ask()
        bench.book.withdraw(ticket, "the client connection is gone")
        assert again.future.result().status == "withdrawn"
        assert bench.book.get(ticket).status == "pending"
        bench.book.vote(ticket, ALICE, True)
        assert bench.ask().future.result().approved

    in_loop(work)


def test_what_is_decided_cannot_be_deferred(bench):
    def work():
        held = bench.ask()
        bench.book.vote(held.id, ALICE, False, "no")
        refused(lambda: bench.book.defer(held.id), "already denied")
        other = bench.ask(digest=b"\x04" * 32)
        bench.now += 600
        refused(lambda: bench.book.defer(other.id), "already pending|expired")
        refused(lambda: bench.book.defer("nothing"), "no approval")

    in_loop(work)


def test_a_journal_that_fails_leaves_it_waiting(bench):
    def work():
        held = bench.ask()
        bench.store.approvals._journal = failing
        refused(lambda: bench.book.defer(held.id), "cannot record")
        assert bench.book.waiting == 1
        bench.store.approvals._journal = bench.event
        assert not bench.book.get(held.id).deferred

    def failing(kind, payload):
        raise RecordError("disk full")

    in_loop(work)


def test_deferred_requests_count_among_the_open_ones(bench):
    def work():
        for number in range(MAX_OPEN_PER_SUBJECT):
            deferred(bench, digest=bytes([number]) * 32)
        refused(lambda: bench.ask(digest=b"\xff" * 32), "requests open")
        bench.ask(digest=b"\x07" * 32)  # joins its own

    in_loop(work)
