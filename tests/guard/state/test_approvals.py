"""Attack 33: self-approval, approval reuse, approval after edit, approval that never expires. None of them works."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard.state import Approval, ApprovalConflict, ApprovalStatus, StateError, StateStore, Vote
from guard.state.approvals import FINAL, NEXT
from protocols.contract import HoldTerms

DIGEST = hashlib.sha256(b"the exact bytes").digest()


def approval(name: str = "a1", count: int = 1, **facts: Any) -> Approval:
    base = Approval(
        id=name,
        session_id="s1",
        subject="ci",
        issuer="https://idp",
        resource="shop",
        text="DELETE FROM orders WHERE id = 7",
        digest=DIGEST,
        params=("7", None),
        rule="hold-deletes",
        terms=HoldTerms(frozenset({"oncall"}), frozenset({"ann"}), count, 600.0),
        requested_at=100.0,
        expires_at=700.0,
        gateway="g1",
        details={"effects": ["data.delete"], "writes": ["public.orders"]},
    )
    return replace(base, **facts)


def vote(by: str, approve: bool = True, at: float = 200.0, **facts: Any) -> Vote:
    return replace(Vote(by, "https://idp", approve, "looked at it", at), **facts)


def test_what_is_stored_comes_back_whole(store: StateStore) -> None:
    store.approvals.insert(approval())
    assert store.approvals.get("a1") == approval()
    assert store.approvals.list(status=ApprovalStatus.PENDING) == [approval()]
    assert store.approvals.list(status=ApprovalStatus.DENIED) == []
    assert store.approvals.get("nobody") is None


def test_one_vote_approves_and_one_spend_uses_it_up(store: StateStore, journal: Any) -> None:
    store.approvals.insert(approval())
    approved = store.approvals.vote("a1", vote("ann"))
    assert (approved.status, approved.decided_at, approved.votes) == (ApprovalStatus.APPROVED, 200.0, (vote("ann"),))
    assert store.approvals.spend("a1", DIGEST, at=300.0).status is ApprovalStatus.SPENT
    with pytest.raises(ApprovalConflict, match="already spent"):
        store.approvals.spend("a1", DIGEST, at=301.0)
    assert journal.kinds == ["approval.requested", "approval.voted", "approval.decided", "approval.spent"]
    assert journal.entries[2][1]["by"] == ["ann"]


def test_several_approvers_are_needed_when_the_rule_says_so(store: StateStore) -> None:
    store.approvals.insert(approval(count=3))
    assert store.approvals.vote("a1", vote("ann")).status is ApprovalStatus.PENDING
    with pytest.raises(ApprovalConflict, match="already voted"):
        store.approvals.vote("a1", vote("ann", issuer="https://another-idp"))
    assert store.approvals.vote("a1", vote("bob")).status is ApprovalStatus.PENDING
    with pytest.raises(ApprovalConflict, match="already pending"):
        store.approvals.spend("a1", DIGEST, at=300.0)
    assert store.approvals.vote("a1", vote("eve")).status is ApprovalStatus.APPROVED


def test_one_refusal_denies_whatever_was_approved_before(store: StateStore) -> None:
    store.approvals.insert(approval(count=2))
    store.approvals.vote("a1", vote("ann"))
    denied = store.approvals.vote("a1", vote("bob", approve=False, reason="not on friday"))
    assert (denied.status, denied.reason) == (ApprovalStatus.DENIED, "not on friday")
    with pytest.raises(ApprovalConflict, match="already denied"):
        store.approvals.vote("a1", vote("eve"))


@pytest.mark.parametrize("issuer", ["https://idp", "https://another-idp"])
@pytest.mark.parametrize("spelt", ["ci", "CI"])
def test_nobody_approves_their_own_request(store: StateStore, spelt: str, issuer: str) -> None:
    store.approvals.insert(approval())
    with pytest.raises(ApprovalConflict, match="own request"):
        store.approvals.vote("a1", vote(spelt, issuer=issuer))


def test_what_was_deferred_is_open_until_it_expires(store: StateStore) -> None:
    store.approvals.insert(approval())
    store.approvals.defer("a1", at=200.0)
    assert [each.id for each in store.approvals.deferred("ci", "https://idp", at=699.0)] == ["a1"]
    assert store.approvals.deferred("ci", "https://idp", at=700.0) == []
    assert store.approvals.deferred("ci", "https://other", at=699.0) == []


def test_an_approval_is_for_exactly_these_bytes(store: StateStore) -> None:
    store.approvals.insert(approval())
    store.approvals.vote("a1", vote("ann"))
    with pytest.raises(ApprovalConflict, match="another command"):
        store.approvals.spend("a1", hashlib.sha256(b"other bytes").digest(), at=300.0)
    assert store.approvals.spend("a1", DIGEST, at=300.0).status is ApprovalStatus.SPENT


def test_expiry_counts_for_votes_and_for_spending(store: StateStore) -> None:
    store.approvals.insert(approval("late"))
    with pytest.raises(ApprovalConflict, match="has expired"):
        store.approvals.vote("late", vote("ann", at=700.0))
    store.approvals.insert(approval("unused"))
    store.approvals.vote("unused", vote("ann"))
    with pytest.raises(ApprovalConflict, match="has expired"):
        store.approvals.spend("unused", DIGEST, at=700.0)
    store.approvals.insert(approval("young", expires_at=900.0))
    assert {each.id for each in store.approvals.expire(at=700.0)} == {"late", "unused"}
    assert store.approvals.expire(at=700.0) == []
    young = store.approvals.get("young")
    assert young is not None
    assert young.status is ApprovalStatus.PENDING


def test_sessions_and_gateways_that_are_gone_withdraw_their_requests(store: StateStore, journal: Any) -> None:
    store.approvals.insert(approval("a1"))
    store.approvals.insert(approval("a2", session_id="s2"))
    store.approvals.insert(approval("a3", session_id="s3", gateway="g2"))
    store.approvals.vote("a1", vote("ann"))
    assert store.approvals.decide("a1", ApprovalStatus.WITHDRAWN, at=300.0, reason="client left").id == "a1"
    with pytest.raises(ApprovalConflict, match="already withdrawn"):
        store.approvals.spend("a1", DIGEST, at=301.0)
    assert [each.id for each in store.approvals.withdraw_gateway("g1", at=300.0, reason="restarted")] == ["a2"]
    assert [each.id for each in store.approvals.list(status=ApprovalStatus.PENDING)] == ["a3"]
    assert journal.kinds.count("approval.withdrawn") == 2


def test_only_the_transitions_of_the_table_exist(store: StateStore) -> None:
    """Every (state, decree) pair is either in the table or a conflict."""
    decrees = (ApprovalStatus.DENIED, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN)
    for number, (start, to) in enumerate(itertools.product(ApprovalStatus, ApprovalStatus)):
        name = f"a{number}"
        store.approvals.insert(approval(name))
        if start in (ApprovalStatus.APPROVED, ApprovalStatus.SPENT):
            store.approvals.vote(name, vote("ann"))
        if start is ApprovalStatus.SPENT:
            store.approvals.spend(name, DIGEST, at=201.0)
        elif start in decrees:
            store.approvals.decide(name, start, at=201.0, reason="r")
        if to in decrees and to in NEXT.get(start, ()):
            assert store.approvals.decide(name, to, at=202.0, reason="r").status is to
        else:
            with pytest.raises(ApprovalConflict):
                store.approvals.decide(name, to, at=202.0, reason="r")


def test_a_new_request_cannot_arrive_approved(store: StateStore) -> None:
    for bad in (approval(status=ApprovalStatus.APPROVED), approval(votes=(vote("ann"),))):
        with pytest.raises(ApprovalConflict):
            store.approvals.insert(bad)
    store.approvals.insert(approval())
    with pytest.raises(StateError):
        store.approvals.insert(approval())
    with pytest.raises(ApprovalConflict, match="there is no approval"):
        store.approvals.vote("nobody", vote("ann"))


def test_no_record_no_change(store: StateStore, journal: Any) -> None:
    store.approvals.insert(approval())
    journal.broken = RuntimeError("disk full")
    with pytest.raises(RuntimeError):
        store.approvals.insert(approval("a2"))
    with pytest.raises(RuntimeError):
        store.approvals.vote("a1", vote("ann"))
    assert store.approvals.list() == [approval()]
    journal.broken = None
    store.approvals.vote("a1", vote("ann"))
    journal.broken = RuntimeError("disk full")
    with pytest.raises(RuntimeError):
        store.approvals.spend("a1", DIGEST, at=300.0)
    journal.broken = None
    assert store.approvals.spend("a1", DIGEST, at=300.0).status is ApprovalStatus.SPENT


def test_secrets_are_shown_while_pending_and_gone_afterwards_and_never_journalled(
    store: StateStore, journal: Any, tmp_path: Path
) -> None:
    text = "ALTER ROLE ci PASSWORD 'hunter2'"
    for number, final in enumerate(sorted(FINAL)):
        name = f"a{number}"
        store.approvals.insert(approval(name, text=text, params=("hunter2",)))
        shown = store.approvals.get(name)
        assert shown is not None
        assert (shown.text, shown.params) == (text, ("hunter2",))
        if final is ApprovalStatus.SPENT:
            store.approvals.vote(name, vote("ann"))
            store.approvals.spend(name, DIGEST, at=300.0)
        else:
            store.approvals.decide(name, final, at=300.0, reason="r")
        kept = store.approvals.get(name)
        assert kept is not None
        assert (kept.text, kept.params) == ("ALTER ROLE ci PASSWORD '[redacted]'", ("[redacted]",))
    assert "hunter2" not in repr(journal.entries)


def test_a_garbled_row_approves_nothing(store: StateStore) -> None:
    store.approvals.insert(approval())
    store.approvals.vote("a1", vote("ann"))
    for column in ("terms", "params", "details", "status"):
        with store._database.write(durable=False) as connection:
            before = connection.exec_driver_sql(f"SELECT {column} FROM approvals").scalar_one()
            connection.exec_driver_sql(f"UPDATE approvals SET {column} = 'x'")
        with pytest.raises(StateError, match="damaged"):
            store.approvals.spend("a1", DIGEST, at=300.0)
        with store._database.write(durable=False) as connection:
            connection.exec_driver_sql(f"UPDATE approvals SET {column} = ?", (before,))


SPEND = """
import sys
from pathlib import Path
from guard.state import StateStore, ApprovalConflict
store = StateStore(Path(sys.argv[1]), busy_timeout=20)
sys.stdin.readline()
won = 0
for n in range(10):
    try:
        store.approvals.spend(f"a{n}", bytes.fromhex(sys.argv[2]), at=300.0)
        won += 1
    except ApprovalConflict:
        pass
print(won)
"""


def test_an_approval_is_spent_once_whoever_races_for_it(tmp_path: Path) -> None:
    with StateStore(tmp_path / "state.db", busy_timeout=20) as store:
        for n in range(10):
            store.approvals.insert(approval(f"a{n}"))
            store.approvals.vote(f"a{n}", vote("ann"))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SPEND, str(tmp_path / "state.db"), DIGEST.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        wins: list[int] = []

        def spend_here() -> None:
            for n in range(10):
                try:
                    store.approvals.spend(f"a{n}", DIGEST, at=300.0)
                    wins.append(1)
                except ApprovalConflict:
                    continue

        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        threads = [threading.Thread(target=spend_here) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = len(wins) + sum(int(process.communicate(timeout=60)[0]) for process in processes)
    assert total == 10
