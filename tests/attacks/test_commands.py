"""Commands that hide what they do (rows 11, 13, 15) and approvals that show less than runs (row 18), on a gateway.

What classification says of thousands of statements is in `test_classification.py`; here a few of each row go the whole
way, and the database is looked at afterwards.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.bytewise import eventually
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

HIDDEN = {
    "a cte": "WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) FROM gone",
    "a nested cte": "WITH a AS (WITH b AS (UPDATE orders SET total = 0 RETURNING id) SELECT * FROM b) SELECT * FROM a",
    "explain analyze": "EXPLAIN ANALYZE DELETE FROM orders",
    "explain, the last option counts": "EXPLAIN (ANALYZE off, ANALYZE on) DELETE FROM orders",
    "copy of a query": "COPY (DELETE FROM orders RETURNING id) TO STDOUT",
    "merge": "MERGE INTO orders o USING orders s ON o.id = s.id WHEN MATCHED THEN DELETE",
    "a dollar quote": "DO $a$ BEGIN DELETE FROM orders; END $a$",
    "an escape string": "SELECT E'\\'' ; DELETE FROM orders --'",
    "a unicode escape": "SELECT U&'\\0027' ; DELETE FROM orders --'",
    "a nested comment": "SELECT 1 /* /* */ DELETE */ ; DELETE FROM orders",
    "a quoted text": "SELECT query_to_xml('DELETE FROM orders', true, true, '')",
    "a prepared name": "PREPARE looks_harmless AS DELETE FROM orders",
    "into": "SELECT * INTO stolen FROM orders",
}

ROLES = {
    "set role": "SET ROLE postgres",
    "set local role": "BEGIN; SET LOCAL ROLE postgres",
    "session authorization": "SET SESSION AUTHORIZATION postgres",
    "set_config": "SELECT set_config('role', 'postgres', false)",
    "set_config, put together": "SELECT set_config('ro' || 'le', 'postgres', false)",
    "a hidden row": "UPDATE pg_settings SET setting = 'postgres' WHERE name = 'role'",
    "back again": "RESET ROLE",
    "back to the login": "RESET SESSION AUTHORIZATION",
    "alter": "ALTER ROLE CURRENT_USER SUPERUSER",
}

UNREADABLE = {
    "no sql": "DELET FROM orders",
    "half of it": "DELETE FROM orders WHERE (id = 1",
    "another language": "db.orders.drop()",
    "an open quote": "DELETE FROM orders WHERE total > 'x",
    "a second statement": "SELECT 1; DELET FROM orders",
}


def fingerprint(lab: Lab) -> Any:
    with lab.server.connect() as direct:
        return direct.execute("SELECT count(*), sum(total), current_user FROM orders").fetchone()


def denied(lab: Lab, identity: str, text: str) -> psycopg.errors.InsufficientPrivilege:
    """Refused with an ordinary error, and the connection lives; the server never saw it."""
    before = fingerprint(lab)
    with psycopg.connect(lab.dsn(identity), autocommit=True) as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            client.execute(text.encode())
        client.rollback()
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert fingerprint(lab) == before
    return caught.value


@pytest.mark.parametrize("how", HIDDEN)
def test_row_11_a_write_that_hides_is_a_write(attacked: Lab, how: str) -> None:
    denied(attacked, "analyst", HIDDEN[how])


@pytest.mark.parametrize("how", UNREADABLE)
def test_row_13_what_cannot_be_read_is_not_harmless(attacked: Lab, how: str) -> None:
    error = denied(attacked, "analyst", UNREADABLE[how])
    assert "cannot be proved" in str(error)


def test_row_13_a_policy_that_is_broken_changes_nothing(attacked: Lab) -> None:
    gateway = attacked.gateway
    admin = attacked.tokens["admin"]
    before = gateway.ask("status", token=admin)["policy"]
    kept = dict(gateway.document)
    try:
        for broken in (
            "rules: []",
            "version: 1\nname: demo\ndescription: x\nrules:\n  - {id: a, allow: [data.selct]}\n",
        ):
            bundle = gateway.state_dir.parent / "broken-policy.yaml"
            bundle.write_text(broken)
            gateway.document["policies"] = [*kept["policies"], str(bundle)]
            gateway.write_config()
            done = gateway.cli("reload", token=admin)
            assert done.returncode == 1
            assert "the old policies stay in force" in done.stderr
            assert gateway.ask("status", token=admin)["policy"] == before
            denied(attacked, "analyst", "DELETE FROM orders")
    finally:
        gateway.document.update(kept)
        gateway.write_config()


@pytest.mark.parametrize("how", ROLES)
@pytest.mark.parametrize("identity", ["analyst", "agent"])
def test_row_15_nobody_becomes_another_role(attacked: Lab, identity: str, how: str) -> None:
    denied(attacked, identity, ROLES[how])


def test_row_18_an_approver_sees_all_that_would_run(attacked: Lab) -> None:
    """The interesting part stands far behind what fits on a screen, and the parameter beside it."""
    admin = attacked.tokens["admin"]
    text = f"DELETE FROM orders WHERE id = %s AND {' AND '.join(['id IS NOT NULL'] * 4000)} OR id = -17"
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            with psycopg.connect(attacked.dsn("agent"), autocommit=True) as client:
                client.execute(text.encode(), ("424242",))
        except psycopg.Error as error:
            outcome.append(error)

    asking = threading.Thread(target=run)
    asking.start()
    rows: list[dict[str, Any]] = []

    def waits() -> bool:
        rows[:] = [r for r in attacked.gateway.ask("approvals", "list", token=admin) if "id IS NOT NULL" in r["text"]]
        return bool(rows)

    try:
        eventually(waits)
        (row,) = rows
        assert row["text_cut"]  # a list is for finding it
        shown = attacked.gateway.ask("approvals", "show", row["id"], token=admin)
        assert shown["text"] == text.replace("%s", "$1")
        assert not shown["text_cut"]
        assert shown["params"] == ["424242"]
        assert len(bytes.fromhex(shown["digest"])) == hashlib.sha256().digest_size
    finally:
        for row in rows:
            attacked.gateway.cli("approvals", "deny", row["id"], "--reason", "read to the end", token=admin)
        asking.join(30)
    assert not asking.is_alive()
    (error,) = outcome
    assert "read to the end" in str(error)
    (asked,) = await_records(
        attacked.gateway.state_dir, lambda r: r["t"] == "approval.requested" and r["approval"] == row["id"]
    )
    assert asked["digest"] == shown["digest"]
