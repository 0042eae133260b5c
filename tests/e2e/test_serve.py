"""`sluicegate serve`: how it ends, politely and otherwise, and starts again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.gateway import LISTENER, ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.postgres import PostgresServer
from scripts.support.tls import Authority
from tests.support.bytewise import eventually

pytestmark = pytest.mark.e2e

SLUICEGATE = Path(sys.executable).with_name("sluicegate")


class Served(Gateway):
    """`sluicegate serve` with a grace of our own."""

    grace = "20"

    def _argv(self) -> list[str | Path]:
        return [*super()._argv(), "--grace", self.grace]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        with running.connect() as connection:
            connection.execute("CREATE TABLE notes (id integer)")
        yield running


@pytest.fixture(scope="module")
def served(server: PostgresServer, issuer: Issuer, authority: Authority, tmp_path_factory: Any) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("serve")
    policy = [ROOT / "policies" / "demo.yaml"]
    with Served(folder / "gateway", server, [issuer], policy, authority, tls="off", launcher="serve") as running:
        yield running


@pytest.fixture
def running(served: Served) -> Served:
    """Up, whatever the test before did to it."""
    served.grace = Served.grace
    if not served.process.running:
        served.stop()  # lets go of the old process
        served.start()
    return served


@pytest.fixture
def dsn(running: Served, issuer: Issuer) -> str:
    return running.dsn("admin", issuer.token("admin", ["platform", "security"]))


def connected(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True)


def verify(gateway: Gateway) -> None:
    done = gateway.cli("verify", str(gateway.state_dir / "journal"))
    assert done.returncode == 0, done.stdout + done.stderr


def refuses(gateway: Gateway) -> bool:
    try:
        socket.create_connection(gateway.listeners[LISTENER], timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_drains(running: Served, server: PostgresServer, dsn: str, number: int) -> None:
    with connected(dsn) as idle, connected(dsn) as working:
        working.execute("BEGIN")
        working.execute("INSERT INTO notes VALUES (1)")
        idle.execute("SELECT 1")
        running.process.signal(number)
        eventually(lambda: refuses(running))
        # who does nothing goes at once, politely; a transaction goes on
        with pytest.raises(psycopg.errors.AdminShutdown, match="the gateway shuts down"):
            idle.execute("SELECT 1")
        assert running.process.running
        working.execute("INSERT INTO notes VALUES (2)")
        working.execute("COMMIT")
        assert running.process.wait(15) == 0
        with pytest.raises(psycopg.OperationalError):
            working.execute("SELECT 1")
    with server.connect() as connection:
        found = connection.execute("SELECT count(*) FROM notes").fetchone()
        connection.execute("TRUNCATE notes")
    assert found == (2,)
    verify(running)
    assert not (running.state_dir / "ready.json").exists()


def test_a_running_statement_is_waited_for(running: Served, dsn: str) -> None:
    with connected(dsn) as working:
        answers: list[Any] = []

        def work() -> None:
            answers.append(working.execute("SELECT pg_sleep(1.5), 7").fetchone())

        thread = threading.Thread(target=work)
        thread.start()
        eventually(lambda: "pg_sleep(1.5)" in "".join(running.server.statements()[-3:]))
        running.process.signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        thread.join(5)
    assert answers == [("", 7)]


def test_the_grace_ends(running: Served, server: PostgresServer, dsn: str) -> None:
    running.stop()
    running.grace = "0.5"
    running.start()
    port = running.listeners[LISTENER][1]
    with psycopg.connect(dsn, port=port, autocommit=True) as working:
        working.execute("BEGIN")
        working.execute("INSERT INTO notes VALUES (3)")
        running.process.signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        with pytest.raises(psycopg.errors.AdminShutdown):
            working.execute("COMMIT")
    with server.connect() as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    verify(running)


def test_a_held_command_does_not_hold_up_the_end(running: Served, issuer: Issuer) -> None:
    dsn = running.dsn("agent", issuer.token("agent", ["agents"]))
    with connected(dsn) as waiting:
        failures: list[psycopg.Error] = []

        def work() -> None:
            try:
                waiting.execute("DELETE FROM notes WHERE id = 1")
            except psycopg.Error as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        admin = issuer.token("admin", ["platform", "oncall", "security"])
        eventually(lambda: running.ask("approvals", "list", token=admin))
        running.process.signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        thread.join(5)
    assert [error.sqlstate for error in failures] == ["57P01"]
    verify(running)


def test_it_starts_again_after_sigkill(running: Served, dsn: str) -> None:
    with connected(dsn) as connection:
        connection.execute("SELECT 'before the end'")
        running.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    running.stop()
    running.start()
    verify(running)
    done = running.cli("journal", "dump", str(running.state_dir / "journal"), "--json")
    assert "before the end" in done.stdout


def test_a_second_one_on_the_same_state_refuses_to_start(running: Served, dsn: str) -> None:
    done = serve(running.config)
    assert done.returncode == 1
    assert str(running.state_dir) in done.stderr
    assert "Traceback" not in done.stderr
    with connected(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_configuration_with_problems_is_explained(running: Served, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nlistenerz: []\n")
    done = serve(path)
    assert done.returncode == 1
    assert f"{path}:2:" in done.stderr
    done = serve(tmp_path / "not-there.yaml")
    assert done.returncode == 1
    assert "not-there.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_stops_the_start(running: Served) -> None:
    running.stop()
    document = {**running.document}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running.document = {**document, "listeners": [{**document["listeners"][0], "listen": f"127.0.0.1:{port}"}]}
        running.write_config()
        done = serve(running.config)
        running.document = document
        running.write_config()
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert LISTENER in done.stderr


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    return subprocess.run(
        [SLUICEGATE, "serve", config], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
