"""Ways to stop what runs: a cancel with the gateway's keys (attack row 19), containment and a token's end (row 30)."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import psycopg
import pytest

from guard.state import StateStore
from scripts.support.lab import Lab
from tests.support import wire
from tests.support.journal import await_records
from tests.support.raw import Raw, through
from tests.support.wire import query

pytestmark = pytest.mark.e2e

SLEEP = "SELECT pg_sleep(60) /* {} */"


def running(lab: Lab, tag: str) -> bool:
    with lab.server.connect() as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()",
            (f"%{tag}%",),
        ).fetchone()
    assert found is not None
    return bool(found[0])


def becomes(lab: Lab, tag: str, wanted: bool) -> None:
    """Waits until the statement with this tag runs on the server, or does not any more."""
    deadline = time.monotonic() + 15
    while running(lab, tag) is not wanted:
        assert time.monotonic() < deadline, f"{tag} is {'not ' if wanted else 'still '}running"
        time.sleep(0.05)


@pytest.mark.parametrize(("tls", "minor"), [(False, 0), (False, 2), (True, 0), (True, 2)])
def test_row_19_a_cancel_with_the_gateways_own_key(lab: Lab, tls: bool, minor: int) -> None:
    tag = f"cancel-{tls}-{minor}"
    with through(lab, "admin", tls=tls, minor=minor) as client:
        assert len(client.key) == 4 + (32 if minor >= 2 else 4)
        client.send(query(SLEEP.format(tag)))
        becomes(lab, tag, True)
        with socket.create_connection((lab.server.host, lab.server.port), 5) as server:
            server.sendall(struct.pack("!II", 12 + len(client.key) - 4, 80877102) + client.key)
            assert server.recv(1) == b""
        time.sleep(0.1)
        assert running(lab, tag)  # its secret is not the server's: that one never leaves the gateway
        client.cancel()
        answer = client.until()
        assert [k for k, _ in answer][-2:] == ["E", "Z"]
        assert wire.fields(answer[-2][1])["C"] == "57014"
        assert [k for k, _ in client.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]


def test_row_19_what_is_sent_after_a_cancel_is_not_cancelled(lab: Lab) -> None:
    """Who waits for the end of its cancel request, as drivers do, has cancelled what it meant, and nothing later."""
    with through(lab, "admin") as client:
        for round_ in range(20):
            tag = f"mine-{round_}"
            client.send(query(f"SELECT pg_sleep(0.0{round_ % 5}) /* {tag} */"))
            client.cancel()
            first = client.until()
            assert [k for k, _ in first] in (["E", "Z"], ["T", "E", "Z"], ["T", "D", "C", "Z"])
            assert [k for k, _ in client.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"], tag


def test_a_client_knows_its_own_notifications_and_its_id(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("admin"), autocommit=True) as connection:
        backend = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert backend == (connection.info.backend_pid,)
        connection.execute("LISTEN news")
        connection.execute("NOTIFY news, 'x'")
        (told,) = connection.notifies(timeout=10, stop_after=1)
        assert told.pid == connection.info.backend_pid


def test_a_server_that_ends_a_session_has_the_last_word(lab: Lab) -> None:
    with through(lab, "admin") as client:
        client.send(query("SELECT 1; SELECT pg_terminate_backend(pg_backend_pid())"))
        errors = wire.errors(b"".join(wire.message(k, body) for k, body in client.rest()))
        assert [e["C"] for e in errors] == ["57P01"]


def test_row_19_a_cancel_in_the_clear_for_a_session_in_tls(lab: Lab) -> None:
    """libpq before 17 sends it so."""
    with through(lab, "admin", tls=True) as client:
        client.send(query(SLEEP.format("clear")))
        becomes(lab, "clear", True)
        client.cancel(tls=False)
        assert wire.fields(client.until()[-2][1])["C"] == "57014"


def test_row_19_wrong_keys_cancel_nothing(lab: Lab) -> None:
    with through(lab, "admin", minor=2) as client, through(lab, "admin") as other:
        client.send(query(SLEEP.format("guessed")))
        becomes(lab, "guessed", True)
        pid, secret = client.key[:4], client.key[4:]
        flipped = bytes((secret[0] ^ 1,)) + secret[1:]
        with lab.server.connect() as connection:
            (backend,) = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE '%guessed%' AND pid <> pg_backend_pid()"
            ).fetchone() or (0,)
        assert pid == struct.pack("!I", backend)
        for key in (
            pid + flipped, pid + secret[:4], pid + secret + b"\0", pid + b"\0\0\0\0", other.key[:4] + secret,
            pid + other.key[4:], struct.pack("!I", backend + 1) + secret, pid + b"\1" * 4,
        ):  # fmt: skip
            client.cancel(key)
        client.cancel(other.key)  # that session is idle: nothing of anybody is cancelled
        assert running(lab, "guessed")
        assert [k for k, _ in other.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
        client.cancel()
        assert wire.fields(client.until()[-2][1])["C"] == "57014"
    await_records(lab.gateway.state_dir, lambda r: r["t"] == "cancel.refused", 8)


def test_row_19_a_late_cancel_hits_nobody(lab: Lab) -> None:
    """The session is over: its key is, too, whoever has its server process now."""
    with through(lab, "admin") as client:
        key = client.key
        client.send(wire.TERMINATE)
        client.rest()
        with through(lab, "admin") as other:
            other.send(query(SLEEP.format("late")))
            becomes(lab, "late", True)
            client.cancel(key)
            assert running(lab, "late")
            other.cancel()
            assert wire.fields(other.until()[-2][1])["C"] == "57014"


def victim(lab: Lab, subject: str, tag: str) -> Raw:
    """A session that runs a long statement."""
    client = through(lab, subject, token=lab.issuer.token(subject, ["platform"]))
    client.send(query(SLEEP.format(tag)))
    becomes(lab, tag, True)
    return client


def ended(client: Raw) -> dict[str, str]:
    """The last words of the gateway."""
    last = [body for kind, body in client.rest() if kind == "E"][-1]
    return wire.fields(last)


def test_row_30_containment_cuts_a_running_statement(lab: Lab) -> None:
    with victim(lab, "mallory", "contained") as client:
        done = lab.gateway.cli("contain", "mallory", "--reason", "offboarded", token=lab.tokens["admin"])
        assert done.returncode == 0, done.stderr
        words = ended(client)
        assert (words["S"], words["C"]) == ("FATAL", "57P01")
        assert "contained" in words["M"]
        becomes(lab, "contained", False)
    state = lab.gateway.state_dir
    (session,) = {r["s"] for r in await_records(state, lambda r: r.get("subject") == "mallory" and "s" in r)}
    (end,) = await_records(state, lambda r: r["t"] == "session.end" and r["s"] == session)
    (act,) = await_records(state, lambda r: r["t"] == "containment" and r.get("subject") == "mallory")
    assert end["at"] - act["at"] < 1_000_000_000
    assert "contained" in end["reason"]
    lab.gateway.cli("release", "mallory", token=lab.tokens["admin"])


def test_row_30_containment_by_another_gateway_reaches_this_one(lab: Lab) -> None:
    """Several gateways share a store: what another one wrote is seen here."""
    with victim(lab, "trent", "elsewhere") as client:
        store = StateStore(lab.gateway.state_dir / "state.db")
        try:
            written = time.time_ns()
            store.contain("trent", "somebody", "offboarded", time.time())
            assert ended(client)["C"] == "57P01"
        finally:
            store.release("trent", "somebody", time.time())
            store.close()
        becomes(lab, "elsewhere", False)
    ends = await_records(lab.gateway.state_dir, lambda r: r["t"] == "session.end" and "trent" in r["reason"])
    assert ends[-1]["at"] - written < 1_000_000_000


def test_row_30_a_session_ends_with_its_token_and_is_told_before(lab: Lab) -> None:
    token = lab.issuer.token("victor", ["platform"], ttl=4)
    with through(lab, "victor", token=token) as client:
        kind, body = client.read()
        assert kind == "N"
        assert "token" in wire.fields(body)["M"]
        words = ended(client)
    assert (words["S"], words["C"]) == ("FATAL", "57P01")
    assert "expired" in words["M"]


def test_an_ended_session_leaves_nothing_behind(lab: Lab) -> None:
    """Its server process goes, and so does its place in the list."""
    with through(lab, "admin", application_name="leaves-nothing") as client:
        client.ask(query("BEGIN"))
        (before,) = [s for s in lab.gateway.ask("sessions", token=lab.tokens["admin"]) if live(s, "leaves-nothing")]
        done = lab.gateway.cli("terminate", before["session"], "--reason", "test", token=lab.tokens["admin"])
        assert done.returncode == 0, done.stderr
        assert ended(client)["C"] == "57P01"
    deadline = time.monotonic() + 10
    with lab.server.connect() as connection:
        while connection.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'leaves-nothing'").fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def live(session: dict[str, Any], application: str) -> bool:
    return bool(session.get("live")) and session.get("application") == application
