"""What the methods do, over the real socket with a real state store."""

from __future__ import annotations

import asyncio

import pytest

from guard.control.wire import ControlError
from protocols.contract import Analysis, Effect, HoldTerms, Principal, Resource

NOW = 1_800_000_000.0
AGENT = Principal("agent-7", "https://idp", frozenset({"agents"}), expires_at=NOW + 3600)
ANALYSIS = Analysis(kind="alter role", effects=frozenset({Effect.PRIV_ROLE}))
TEXT = "ALTER ROLE app PASSWORD 'hunter2'"


@pytest.fixture
def held(gateway):
    return gateway.run(
        gateway.book.request(
            "s1",
            AGENT,
            Resource("shop", "postgres"),
            HoldTerms(frozenset({"oncall"})),
            TEXT,
            b"d" * 32,
            ANALYSIS,
            "hold-priv",
            ("x",),
        )
    )


def refused(gateway, who, method, code, match=None, **params):
    with pytest.raises(ControlError, match=match) as caught:
        gateway.call(who, method, **params)
    assert caught.value.code == code


def outcome(gateway, held):
    return gateway.in_loop(held.future.result)


# -- approvals


def test_approve(gateway, held):
    [row] = gateway.call("oncall", "approvals.list")
    assert (row["id"], row["subject"], row["rule"]) == (held.id, "agent-7", "hold-priv")
    assert "hunter2" not in str(row)
    shown = gateway.call("oncall", "approvals.show", id=held.id)
    assert (shown["text"], shown["params"], shown["you_may_decide"]) == (TEXT, ["x"], True)
    decided = gateway.call("oncall", "approvals.approve", id=held.id, reason="ticket 7")
    assert decided["status"] == "approved"
    assert outcome(gateway, held).approved
    assert gateway.call("oncall", "approvals.list") == []
    assert len(gateway.call("oncall", "approvals.list", status="all")) == 1
    assert "hunter2" not in str(gateway.journal) + str(gateway.sent)


def test_deny_needs_a_reason(gateway, held):
    refused(gateway, "oncall", "approvals.deny", "conflict", "reason", id=held.id)
    gateway.call("oncall", "approvals.deny", id=held.id, reason="not in production")
    assert outcome(gateway, held).reason == "not in production"
    refused(gateway, "oncall", "approvals.approve", "conflict", "already denied", id=held.id)


def test_readers_see_a_request_redacted(gateway, held):
    for who in ("security", "audit"):
        shown = gateway.call(who, "approvals.show", id=held.id)
        assert "hunter2" not in str(shown)
        assert shown["you_may_decide"] is False
        assert "params" not in shown
    refused(gateway, "audit", "approvals.approve", "forbidden", id=held.id)
    refused(gateway, "agent", "approvals.show", "forbidden", id=held.id)


def test_unknown_requests_and_statuses(gateway):
    refused(gateway, "oncall", "approvals.show", "not_found", id="nope")
    refused(gateway, "oncall", "approvals.approve", "conflict", "no request", id="nope")
    refused(gateway, "oncall", "approvals.list", "conflict", "no status", status="maybe")
    refused(gateway, "oncall", "approvals.show", "bad_request", "required")
    refused(gateway, "oncall", "approvals.show", "bad_request", "text", id=7)
    refused(gateway, "oncall", "approvals.list", "bad_request", "at most", limit=100_000)


# -- containment


def test_contain_and_release(gateway):
    answer = gateway.call("security", "contain", subject="agent-7", reason="leaked credential")
    assert answer == {"subject": "agent-7", "contained": True, "ended": 1}
    assert set(gateway.live.sessions) == {"s2"}
    assert gateway.store.contained() == {"agent-7"}
    assert gateway.kinds() == ["admin.act", "containment"]
    assert gateway.sent[-1] == (
        "containment",
        {"act": "contain", "subject": "agent-7", "by": "carol", "reason": "leaked credential"},
    )
    [row] = gateway.call("audit", "contained")
    assert (row["subject"], row["by"], row["reason"]) == ("agent-7", "carol", "leaked credential")
    assert gateway.call("security", "release", subject="agent-7")["contained"] is False
    assert gateway.store.contained() == frozenset()
    refused(gateway, "security", "release", "not_found", subject="agent-7")


def test_contain_needs_a_reason_and_a_subject(gateway):
    refused(gateway, "security", "contain", "bad_request", "`reason` is required", subject="x")
    refused(gateway, "security", "contain", "bad_request", "`subject`", subject=" ", reason="x")
    refused(gateway, "security", "contain", "bad_request", "unknown parameter `when`", subject="x", reason="y", when=1)
    refused(gateway, "oncall", "contain", "forbidden", subject="x", reason="y")
    assert gateway.live.ended == []


def test_nobody_releases_themselves(gateway):
    gateway.store.contain("carol", "dave", "test", NOW)
    refused(gateway, "security", "release", "forbidden", subject="carol")


def test_containment_reaches_live_sessions_even_when_the_store_is_gone(gateway):
    gateway.store.close()
    gateway.store._database.path.write_bytes(b"this is no database" * 500)
    refused(
        gateway,
        "security",
        "contain",
        "unavailable",
        "1 live sessions of it were ended",
        subject="agent-7",
        reason="x",
    )
    assert set(gateway.live.sessions) == {"s2"}


def test_containment_is_stored_and_reaches_live_sessions_when_the_journal_is_full(gateway):
    gateway.record_error = OSError("no space left on device")
    refused(gateway, "security", "contain", "unavailable", "not recorded", subject="agent-7", reason="x")
    assert gateway.store.contained() == {"agent-7"}
    assert set(gateway.live.sessions) == {"s2"}


def test_a_release_that_cannot_be_recorded_is_not_done(gateway):
    gateway.call("security", "contain", subject="agent-7", reason="x")
    gateway.record_error = OSError("no space left on device")
    refused(gateway, "security", "release", "internal", subject="agent-7")
    assert gateway.store.contained() == {"agent-7"}


def test_revoke_ends_what_the_token_opened(gateway):
    assert gateway.call("security", "revoke", token_id="t1", reason="lost") == {"token_id": "t1", "ended": 1}
    assert gateway.live.ended == [("s1", "the token was revoked; get a new one")]
    assert gateway.store.revoked_tokens() == {"t1"}
    assert gateway.call("security", "revoke", token_id="t-unknown")["ended"] == 0


def test_revocation_reaches_live_sessions_even_when_the_store_is_gone(gateway):
    gateway.store.close()
    gateway.store._database.path.write_bytes(b"this is no database" * 500)
    refused(gateway, "security", "revoke", "unavailable", token_id="t1")
    assert set(gateway.live.sessions) == {"s2"}


def test_terminate(gateway):
    assert gateway.call("security", "sessions.terminate", session="s1", reason="strange")["ended"] == 1
    assert gateway.live.ended == [("s1", "strange (carol)")]
    refused(gateway, "security", "sessions.terminate", "not_found", session="s1")
    assert gateway.kinds()[-1] == "admin.refused"


# -- the gateway


def test_status_and_reload(gateway):
    status = gateway.call("platform", "status")
    assert status == {"version": "0.1.0", "approvals_waiting": 0, "sessions_live": 2}
    assert gateway.call("platform", "policy.reload") == {"policy_version": "v2"}
    gateway.reload_error = ValueError("policies/x.yaml:3: unknown effect `ddl.dorp`")
    refused(gateway, "platform", "policy.reload", "conflict", "old policies stay in force: policies/x.yaml:3")


def test_reloads_come_one_after_the_other(gateway):
    """What was read first must not come into force last."""
    order = []

    async def slow():
        number = len(order) // 2
        order.append(f"{number} begins")
        await asyncio.sleep(0.02 if number else 0.1)
        order.append(f"{number} ends")
        return {}

    gateway.handlers._reload = slow

    async def both():
        await asyncio.gather(*(gateway.handlers.reload(AGENT, {}) for _ in range(2)))

    gateway.run(both())
    assert order == ["0 begins", "0 ends", "1 begins", "1 ends"]


def test_whoami(gateway):
    assert gateway.call("security", "whoami") == {
        "subject": "carol",
        "issuer": "https://idp",
        "groups": ["security"],
        "roles": ["responder"],
        "expires_at": NOW + 3600,
        "token_id": "t3",
    }


def test_several_calls_on_one_connection(gateway):
    with gateway.client("tok-security") as client:
        for _ in range(3):
            assert client.call("whoami")["subject"] == "carol"
            with pytest.raises(ControlError):
                client.call("policy.reload")
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0), gateway.loop).result(5) is None
