"""Long statements of one session keep no other waiting, whatever the protocol, and are judged like any other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import conftest
from tests.conformance.adapter import Adapter, Client
from tests.conformance.conftest import Stand, stands
from tests.conformance.test_conformance import attempt, outcome, until
from tests.support.journal import await_records

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def listed(count: int) -> str:
    return f"SELECT count(*) FROM orders WHERE id IN ({', '.join(map(str, range(1, count)))})"


LARGEST = listed(25_000)  # some tenths of a second of analysis, within the limits on tokens of both
LONG = listed(2_000)


@pytest.fixture(scope="module", params=stands())
def long_stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Limits as they are by default."""
    one: Adapter
    one, name = request.param
    with conftest.start(one, name) as lab:
        yield Stand(one, lab, "")


def analysts(stand: Stand) -> list[int]:
    """The processes in which the gateway analyses long statements."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == stand.lab.gateway.process.pid and b"addons.analyst" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_long_statement_answers_as_directly(long_stand: Stand) -> None:
    with long_stand.client("agent") as client, long_stand.direct() as direct:
        for sql in (LONG, LARGEST):
            assert client.run(sql) == direct.run(sql)
        prepared = LONG.replace("WHERE", "WHERE customer_id > ? AND")
        for value in (0, 0, 100):
            assert client.prepared(prepared, value) == direct.prepared(prepared, value)
    texts = {r["text"] for r in await_records(long_stand.lab.gateway.state_dir, lambda r: r["t"] == "command", 5)}
    assert {LONG, LARGEST} <= texts


def test_a_long_statement_is_denied_and_the_session_goes_on(long_stand: Stand) -> None:
    padding = "x" * 100_000
    with long_stand.client("agent") as client:
        assert outcome(lambda: client.run(f"DROP TABLE orders /* {padding} */"))[1] in long_stand.adapter.codes_denied
        assert client.run("SELECT count(*) FROM orders") == [(720,)]


def test_while_the_largest_are_analysed_others_are_served(long_stand: Stand) -> None:
    """Each of the largest takes tenths of a second: in the loop nobody else would be answered meanwhile."""
    done = threading.Event()

    def hog(client: Client) -> int:
        rounds = 0
        while not done.is_set():
            client.run(f"{LARGEST} /* {rounds} */")
            rounds += 1
        return rounds

    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(2) as pool:
        hogs = [stack.enter_context(long_stand.client(who)) for who in ("agent", "admin")]
        other = stack.enter_context(long_stand.client("analyst"))
        for client in hogs:
            client.run(LARGEST)  # the process is there
        running = [pool.submit(hog, client) for client in hogs]
        served = 0
        began = time.monotonic()
        while time.monotonic() - began < 6 or served < 200:
            assert other.run("SELECT 1") == [(1,)]
            served += 1
            assert not any(one.done() for one in running)
        done.set()
        rounds = sum(one.result(60) for one in running)
    # with the analysis in the loop there are one or two for each
    assert served > 20 * rounds
    assert rounds > 2


@contextlib.contextmanager
def hanging(stand: Stand, client: Client) -> Iterator[concurrent.futures.Future[object]]:
    """The largest statement waits for a process that does not answer."""
    client.run(LONG)
    (one,) = analysts(stand)
    os.kill(one, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(attempt, lambda: client.run(LARGEST + " /* never-ran */"))
            until(lambda: _waits(stand))
            yield waiting
            os.kill(one, signal.SIGKILL)
            waiting.result(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    until(lambda: one not in analysts(stand))
    until(lambda: not _waits(stand))
    assert not stand.reached("never-ran")


def _waits(stand: Stand) -> bool:
    return any(one.get("waiting") == "analysis" for one in stand.ask("sessions"))


def test_a_process_that_hangs_or_dies_denies_one_statement(long_stand: Stand) -> None:
    with long_stand.client("agent") as client:
        with hanging(long_stand, client) as waiting, long_stand.client("analyst") as other:
            assert other.run("SELECT 1") == [(1,)]
        answer = waiting.result(60)
        assert getattr(answer, "code", None) in long_stand.adapter.codes_denied
        assert "failed in the gateway" in str(answer)
        assert client.run(LONG) == [(720,)]


def test_cancelled_while_it_is_analysed(long_stand: Stand) -> None:
    with long_stand.client("agent") as client, hanging(long_stand, client) as waiting:
        client.cancel()
        assert getattr(waiting.result(20), "code", None) in long_stand.adapter.codes_cancelled
        assert client.run("SELECT 1") == [(1,)]


def test_ended_while_it_is_analysed(long_stand: Stand) -> None:
    client = long_stand.connect("agent")
    with hanging(long_stand, client) as waiting:
        (session,) = [s for s in long_stand.ask("sessions") if s.get("waiting") == "analysis"]
        long_stand.ask("terminate", session["session"], "--reason", "test")
        assert getattr(waiting.result(20), "code", None) in long_stand.adapter.codes_ended
    client.close()


def test_a_client_that_leaves_meanwhile_leaves_nothing(long_stand: Stand) -> None:
    client = long_stand.connect("agent")
    with hanging(long_stand, client) as waiting:
        client.drop()
        waiting.result(20)
        until(lambda: not _waits(long_stand))
    client.close()


@pytest.mark.parametrize("killed", [False, True])
def test_its_processes_end_with_the_gateway(long_stand: Stand, killed: bool) -> None:
    gateway = long_stand.lab.gateway
    client = long_stand.connect("agent")
    client.run(LONG)
    (one,) = analysts(long_stand)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        if killed:
            gateway.kill()
        else:
            os.kill(one, signal.SIGSTOP)  # even where it hangs
            waiting = pool.submit(attempt, lambda: client.run(LARGEST))
            until(lambda: _waits(long_stand))
            assert gateway.stop() == 0
            assert getattr(waiting.result(20), "code", None) in long_stand.adapter.codes_ended
    until(lambda: not Path(f"/proc/{one}").exists())
    client.close()
    gateway.start()
