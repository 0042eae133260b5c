"""Attack row 34 by doing it: what breaks while the gateway runs. Nothing passes unguarded, and the process lives."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support import wire
from tests.support.disk import full_for
from tests.support.journal import await_records, verify
from tests.support.raw import Closed, Raw, through
from tests.support.wait import until
from tests.support.wire import query

pytestmark = pytest.mark.e2e

DROP = "DROP TABLE public.orders"


def quick(document: dict[str, Any]) -> None:
    document["resources"][0]["catalog"] = {"max_age": 0.5, "timeout": 1.0}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of this module's own, to be broken; each test mends what it broke. Its policy is a copy."""
    policy = tmp_path_factory.mktemp("policy") / "demo.yaml"
    policy.write_text(DEFAULT_POLICY.read_text())
    with Lab([policy], tls="off", adjust=quick) as lab:
        yield lab


@pytest.fixture(autouse=True)
def lives(broken: Lab) -> Iterator[None]:
    """Whatever a test did: it is the same process, it serves, and it refuses what it should."""
    pid = broken.gateway.process.pid
    yield
    assert broken.gateway.process.running
    assert broken.gateway.process.pid == pid
    until(lambda: serves(broken))
    with through(broken, "agent") as client:
        assert refused(client, DROP)["C"] == "42501"
    with broken.server.connect() as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (720,)


def serves(lab: Lab) -> bool:
    try:
        with through(lab, "agent") as client:
            return [k for k, _ in client.ask(query("SELECT count(*) FROM orders"))] == ["T", "D", "C", "Z"]
    except (Closed, OSError):
        return False


def refused(client: Raw, sql: str) -> dict[str, str]:
    """The error that a statement gets."""
    answer = client.ask(query(sql))
    assert [k for k, _ in answer][-2:] == ["E", "Z"], answer
    return wire.fields(answer[-2][1])


def reached(lab: Lab, tag: str) -> bool:
    """Whether a statement with this tag is in the server's own log."""
    return any(tag in text for text in lab.server.statements())


def full_disk(lab: Lab) -> AbstractContextManager[None]:
    """The gateway can write no file any further."""
    return full_for(lab.gateway.process.pid)


@pytest.mark.parametrize("how", ["simple", "extended"])
def test_a_full_disk_stops_everything_and_loses_nothing(broken: Lab, how: str) -> None:
    tag = f"full-disk-{how}"
    message = query(f"SELECT 1 /* {tag} */")
    if how == "extended":
        message = wire.parse("", f"SELECT 1 /* {tag} */") + wire.bind("", "") + wire.execute() + wire.SYNC
    with through(broken, "agent") as client:
        client.ask(query("SELECT 1"))
        with full_disk(broken):
            client.send(message)
            words = [wire.fields(body) for kind, body in client.rest() if kind == "E"]
            assert (words[-1]["S"], words[-1]["C"]) == ("FATAL", "58030")
            assert not serves(broken)
            assert not reached(broken, tag)
    until(lambda: serves(broken))
    await_records(broken.gateway.state_dir, lambda r: r["t"] == "journal.recovered")
    verify(broken.gateway.state_dir)


def test_a_full_disk_during_a_hold_does_not_release_it(broken: Lab) -> None:
    with through(broken, "agent") as client:
        client.send(query("DELETE FROM public.orders WHERE id = 1 /* full-hold */"))
        (notice,) = [body for _, body in client.until("N")]
        request = wire.fields(notice)["M"].split("request ")[1].split(" ")[0]
        with full_disk(broken):
            broken.gateway.cli("approvals", "approve", request, token=broken.issuer.token("dana", ["oncall"]))
            time.sleep(1)
            assert not reached(broken, "full-hold")
        client.close()
    assert not reached(broken, "full-hold")


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Another process holds the state store's write lock and does not let go."""
    connection = sqlite3.connect(lab.gateway.state_dir / "state.db", isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def test_a_locked_state_store_holds_nothing_through(broken: Lab) -> None:
    with through(broken, "agent") as client:
        client.ask(query("SELECT 1"))
        with locked(broken):
            error = refused(client, "DELETE FROM public.orders WHERE id = 1 /* locked */")
            assert error["C"] == "42501"
            assert "nobody can be asked" in error["M"]
            assert not serves(broken)
        assert not reached(broken, "locked")


def test_a_damaged_state_store_stops_the_traffic(broken: Lab) -> None:
    """What cannot be read might contain somebody: nothing passes until it can be read again."""
    path = broken.gateway.state_dir / "state.db"
    files = {f: f.read_bytes() for f in path.parent.glob("state.db*")}
    with through(broken, "agent") as client:
        client.ask(query("SELECT 1"))
        try:
            for file in files:
                os.truncate(file, 0)
                with file.open("r+b") as stream:
                    stream.write(b"no database" * 1000)
            until(lambda: stopped(client, "damaged"))
        finally:
            for file, data in files.items():
                file.write_bytes(data)


def stopped(client: Raw, tag: str) -> bool:
    """Whether a harmless statement is refused by now, or the session has ended."""
    try:
        return [k for k, _ in client.ask(query(f"SELECT 1 /* {tag} */"))] != ["T", "D", "C", "Z"]
    except (Closed, OSError):
        return True


def test_a_broken_policy_keeps_the_old_one(broken: Lab) -> None:
    policy = Path(broken.gateway.document["policies"][0])
    good = policy.read_text()
    admin = broken.tokens["admin"]
    with through(broken, "agent") as client:
        try:
            for bad in (
                "rules: [", "version: 1\nname: x\nrules:\n  - id: a\n    allwo: ['*']\n", "",
                "version: 1\nname: x\nrules:\n  - id: a\n    allow: ['no.such.effect']\n",
            ):  # fmt: skip
                policy.write_text(bad)
                done = broken.gateway.cli("reload", token=admin)
                assert done.returncode == 1
                assert str(policy.name) in done.stdout + done.stderr
                assert refused(client, DROP)["C"] == "42501"
                assert [k for k, _ in client.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
            policy.unlink()
            assert broken.gateway.cli("reload", token=admin).returncode == 1
            assert refused(client, DROP)["C"] == "42501"
        finally:
            policy.write_text(good)
        assert broken.gateway.cli("reload", token=admin).returncode == 0
        assert refused(client, DROP)["C"] == "42501"


def test_a_stricter_policy_reaches_what_was_prepared_and_bound(broken: Lab) -> None:
    policy = Path(broken.gateway.document["policies"][0])
    good = policy.read_text()
    with through(broken, "agent") as client:
        client.ask(query("BEGIN"))
        opened = wire.parse("s", "SELECT generate_series(1, 9)") + wire.bind("p", "s") + wire.execute("p", 1)
        client.ask(opened, wire.SYNC)
        stricter = "  - {id: closed, description: no more, who: {groups: [agents]}, deny: [data.select]}\n"
        try:
            policy.write_text(good.replace("rules:\n", "rules:\n" + stricter, 1))
            done = broken.gateway.cli("reload", token=broken.tokens["admin"])
            assert done.returncode == 0, done.stderr
            for message in (wire.execute("p", 1), wire.bind("", "s") + wire.execute()):
                answer = client.ask(message + wire.SYNC)
                assert [k for k, _ in answer] == ["E", "Z"]
                assert "closed" in wire.fields(answer[0][1])["M"] or wire.fields(answer[0][1])["C"] == "25P02"
        finally:
            policy.write_text(good)
            broken.gateway.cli("reload", token=broken.tokens["admin"])


def rows_arriving(lab: Lab, client: Raw) -> None:
    """A large result is on its way."""
    client.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 3000000)"))
    for _ in range(100):
        client.read()


def test_an_upstream_backend_that_dies_in_the_middle_of_a_result(broken: Lab) -> None:
    with through(broken, "agent", application_name="dies") as client, through(broken, "agent") as other:
        rows_arriving(broken, client)
        with broken.server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dies'")
        last = [wire.fields(body) for kind, body in client.rest() if kind == "E"]
        assert last[-1]["S"] == "FATAL"
        assert last[-1]["C"] in ("57P01", "08006")
        assert [k for k, _ in other.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
    found = await_records(broken.gateway.state_dir, lambda r: r["t"] == "response" and r["status"] in ("lost", "error"))
    assert found


def test_an_upstream_that_crashes(broken: Lab) -> None:
    """SIGKILL of one backend: the server cuts everybody off and starts again."""
    with through(broken, "agent", application_name="crashes") as client, through(broken, "agent") as other:
        rows_arriving(broken, client)
        with broken.server.connect() as connection:
            (pid,) = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'crashes'"
            ).fetchone() or (0,)
            os.kill(pid, signal.SIGKILL)
        for one in (client, other):
            words = [wire.fields(body) for kind, body in one.rest() if kind == "E"]
            assert not words or words[-1]["S"] in ("FATAL", "WARNING")


def judged_without_catalog(lab: Lab, tag: str) -> None:
    """What the catalog must say is unknown now, and unknown is denied."""
    with through(lab, "agent") as client:
        error = refused(client, f"SELECT count(*) FROM orders /* {tag} */")
        assert error["C"] == "42501"
        assert "catalog" in error["H"]
        assert refused(client, DROP)["C"] == "42501"
    assert not reached(lab, tag)


def test_a_catalog_behind_a_lock_is_no_catalog(broken: Lab) -> None:
    with broken.server.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE pg_catalog.pg_rewrite IN ACCESS EXCLUSIVE MODE")
        time.sleep(1.0)
        try:
            judged_without_catalog(broken, "catalog-locked")
        finally:
            connection.execute("ROLLBACK")


def test_a_catalog_connection_that_hangs_is_no_catalog(broken: Lab) -> None:
    assert serves(broken)
    with broken.server.connect() as connection:
        (pid,) = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'sluicegate catalog'"
        ).fetchone() or (0,)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1.0)
        with through(broken, "agent") as client:
            # the hung connection is given up; a new one serves, or what it must say is unknown
            answer = client.ask(query("SELECT count(*) FROM orders /* hung */"))
            assert [k for k, _ in answer] in (["E", "Z"], ["T", "D", "C", "Z"])
            assert refused(client, DROP)["C"] == "42501"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_indexer_that_is_killed_comes_back_and_traffic_does_not_notice(broken: Lab) -> None:
    def indexers() -> set[int]:
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"guard.record.indexer" in words and str(broken.gateway.state_dir).encode() in words:
                    found.add(int(entry.name))
        return found

    before = indexers()
    assert len(before) == 1
    os.kill(before.pop(), signal.SIGKILL)
    with through(broken, "agent") as client:
        assert [k for k, _ in client.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
    until(lambda: len(indexers()) == 1)


def test_many_clients_that_vanish_leave_nothing(broken: Lab) -> None:
    for _ in range(30):
        client = through(broken, "agent", application_name="vanishes")
        client.send(query("SELECT pg_sleep(0)"))
        client.close()
    until(lambda: not [s for s in live(broken) if s["application"] == "vanishes"])
    with broken.server.connect() as connection:
        until(lambda: connection.execute(GONE).fetchone() == (0,))


GONE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vanishes'"


def live(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.gateway.ask("sessions", "--live", token=lab.tokens["admin"])
    return found


def test_psycopg_sees_an_ordinary_server_that_went_away(broken: Lab) -> None:
    with psycopg.connect(broken.dsn("agent"), autocommit=True) as connection:
        with full_disk(broken), pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert connection.broken
    until(lambda: serves(broken))
