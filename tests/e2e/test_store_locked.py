"""Another process has the state store and keeps it: whoever needs it waits or is refused, and nobody else notices."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.held import Waiting, approvals, status
from tests.support.wait import until

pytestmark = pytest.mark.e2e

DELETE = "DELETE FROM public.orders WHERE id = %s RETURNING id"
HOLDER = """
import sqlite3, sys
lock = sqlite3.connect(sys.argv[1], isolation_level=None)
lock.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(tls="off") as made:
        yield made


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """A real second process holds an exclusive lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lab.gateway.state_dir / "state.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        assert holder.poll() is None
    finally:
        holder.communicate()


class Traffic:
    """A session that asks something all the time. `waits` are the seconds that each answer took."""

    def __init__(self, lab: Lab, identity: str) -> None:
        self.waits: list[float] = []
        self.error: psycopg.Error | None = None
        self._connection = psycopg.connect(lab.dsn(identity), autocommit=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            while not self._over.wait(0.005):
                began = time.monotonic()
                self._connection.execute("SELECT count(*) FROM orders")
                self.waits.append(time.monotonic() - began)
        except psycopg.Error as error:
            self.error = error

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()


@pytest.fixture
def others(lab: Lab) -> Iterator[Traffic]:
    made = Traffic(lab, "admin")
    yield made
    made.stop()
    assert made.error is None


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


def vote(lab: Lab, request: str) -> subprocess.CompletedProcess[str]:
    token = lab.issuer.token("dana", ["oncall"])
    return lab.gateway.cli("approvals", "approve", request, "--reason", "seen", token=token)


def test_other_sessions_notice_nothing(lab: Lab, others: Traffic, pool: ThreadPoolExecutor) -> None:
    """Holds, votes, cancels, logins, lists and containments at once, for longer than any of them waits."""
    with (
        psycopg.connect(lab.dsn("agent"), autocommit=True) as first,
        psycopg.connect(lab.dsn("agent"), autocommit=True) as second,
    ):
        held = Waiting(lab, lambda: first.execute(DELETE, (700,)).fetchall())
        until(lambda: others.waits)
        before = len(others.waits)
        with locked(lab):
            work: list[Future[Any]] = [
                pool.submit(second.execute, DELETE, (701,)),
                pool.submit(vote, lab, held.id),
                pool.submit(approvals, lab),
                pool.submit(ask_once, lab, "analyst"),
                pool.submit(contain, lab, "nobody-here"),
            ]
            refused, voted, listed, login, contained = work
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody can be asked"):
                refused.result(20)
            with pytest.raises(psycopg.OperationalError, match="nothing passes until it can"):
                login.result(20)
            assert [entry["id"] for entry in listed.result(20)] == [held.id]  # reading needs no lock
            assert "nothing was changed" in voted.result(20).stderr or "locked" in voted.result(20).stderr
            assert "not stored or not recorded yet" in contained.result(20).stderr
            first.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                held.answer.result(20)
        # each of these waits for the lock for 2 s at least; a statement of somebody else for none of them
        assert len(others.waits) > before + 50
        assert max(others.waits[before:]) < 2.0
        assert second.execute("SELECT 1").fetchone() == (1,)
        # and what was ordered meanwhile is made up for
        assert status(lab, held, "withdrawn") == "withdrawn"
        until(lambda: any(row["subject"] == "nobody-here" and row["stored"] for row in listed_contained(lab)))


def ask_once(lab: Lab, identity: str) -> None:
    with psycopg.connect(lab.dsn(identity)) as connection:
        connection.execute("SELECT 1")


def contain(lab: Lab, subject: str) -> subprocess.CompletedProcess[str]:
    return lab.gateway.cli(
        "contain", subject, "--reason", "stolen token", token=lab.issuer.token("carol", ["security"])
    )


def listed_contained(lab: Lab) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lab.gateway.ask("contained", token=lab.issuer.token("carol", ["security"]))
    return rows


def test_containment_reaches_live_sessions_while_the_store_is_locked(
    lab: Lab, others: Traffic, pool: ThreadPoolExecutor
) -> None:
    lab.tokens["intruder"] = lab.issuer.token("intruder", ["agents"])
    intruder = Traffic(lab, "intruder")
    with locked(lab):
        told = pool.submit(contain, lab, "intruder")
        until(lambda: intruder.error is not None)
        assert not told.done()  # the store has not answered yet
        assert "contained" in str(intruder.error)
        with pytest.raises(psycopg.OperationalError, match="contained"):
            ask_once(lab, "intruder")
        answer = told.result(20)
        assert answer.returncode != 0
        assert "is kept out here" in answer.stderr
        with pytest.raises(psycopg.OperationalError, match="contained"):
            ask_once(lab, "intruder")
        assert [row["stored"] for row in listed_contained(lab) if row["subject"] == "intruder"] == [False]
    intruder.stop()
    # the store has it as soon as it can be told, and so a restart has it, too
    until(lambda: [row["stored"] for row in listed_contained(lab) if row["subject"] == "intruder"] == [True])
    with sqlite3.connect(lab.gateway.state_dir / "state.db") as stored:
        assert stored.execute("SELECT count(*) FROM containment WHERE subject = 'intruder'").fetchone() == (1,)
    stored.close()
    security = lab.issuer.token("carol", ["security"])
    assert lab.gateway.cli("release", "intruder", token=security).returncode == 0
    until(lambda: enters(lab, "intruder"))


def enters(lab: Lab, identity: str) -> bool:
    try:
        ask_once(lab, identity)
    except psycopg.OperationalError:
        return False
    return True


def test_an_approval_that_meets_a_lock_is_used_once_or_not_at_all(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """The lock comes and goes while votes are cast; nothing runs twice, and nothing runs that was not spent."""
    outcomes: list[str] = []
    ids = range(680, 692)
    for number in ids:
        with psycopg.connect(lab.dsn("agent"), autocommit=True) as client:
            held = Waiting(lab, lambda client=client, number=number: client.execute(DELETE, (number,)).fetchall())
            voted = pool.submit(vote, lab, held.id)
            time.sleep(0.3 + (number % 5) * 0.05)
            with locked(lab):
                time.sleep(0.1)
            assert voted.result(20).returncode == 0
            try:
                assert held.answer.result(20) == [(number,)]
                outcomes.append("ran")
            except psycopg.errors.InsufficientPrivilege:
                outcomes.append("refused")
            wanted = {"ran": ["spent"], "refused": ["withdrawn", "spent"]}[outcomes[-1]]
            until(lambda held=held, wanted=wanted: state(lab, held.id) in wanted)
    ran = [number for number, outcome in zip(ids, outcomes, strict=True) if outcome == "ran"]
    with lab.server.connect() as direct:
        left = {row[0] for row in direct.execute("SELECT id FROM orders WHERE id BETWEEN 680 AND 691").fetchall()}
    assert left == set(ids) - set(ran)
    assert ran


def state(lab: Lab, request: str) -> str:
    return str(next(entry["status"] for entry in approvals(lab) if entry["id"] == request))
