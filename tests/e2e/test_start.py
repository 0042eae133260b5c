"""`mitmdump -s addons/gateway.py`, as typed: what it says and what gets through, with every kind of configuration."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.gateway import LISTENER, ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.lab import Lab
from scripts.support.postgres import PostgresServer
from scripts.support.process import Process, free_port, wait_until
from scripts.support.tls import Authority
from tests.support.bytewise import Raw, connect, eventually

pytestmark = pytest.mark.e2e

SCRIPT = ROOT / "addons" / "gateway.py"
BINARIES = Path(sys.executable).parent
POLICY = ROOT / "policies" / "demo.yaml"


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SLUICEGATE")}


def ran(folder: Path, *words: str | Path, launcher: str = "mitmdump", env: dict[str, str] | None = None) -> Any:
    """A start that is expected to fail: (exit status, everything it said)."""
    web = ["--no-web-open-browser", "--web-port", str(free_port())] if launcher == "mitmweb" else []
    own = ["--set", f"confdir={folder / 'mitmproxy'}", "--listen-host", "127.0.0.1", "--listen-port", str(free_port())]
    done = subprocess.run(
        [BINARIES / launcher, *web, "-s", SCRIPT, *own, *words],
        cwd=folder,
        env={**clean(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


# ---------------------------------------------------------------- without a configuration


@pytest.mark.parametrize("launcher", ["mitmdump", "mitmweb"])
def test_without_a_configuration_it_says_how_to_write_one_and_ends(tmp_path: Path, launcher: str) -> None:
    status, said = ran(tmp_path, launcher=launcher)
    assert status == 1
    assert f"there is no configuration file `{tmp_path / 'sluicegate.yaml'}`" in said
    for words in ("lets nothing through", "listeners:", "--set sluicegate=FILE", "SLUICEGATE_CONFIG=FILE"):
        assert words in said
    assert "sluicegate check FILE" in said
    assert "Traceback" not in said


def test_the_example_that_it_prints_is_a_configuration(tmp_path: Path) -> None:
    """But for the places that it names as examples: an upstream and an issuer, which are not looked up."""
    said = ran(tmp_path)[1]
    example = said[said.index("    version: 1") : said.index("and name it:")]
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "read-only.yaml").write_bytes((ROOT / "policies" / "read-only.yaml").read_bytes())
    (tmp_path / "sluicegate.yaml").write_text(textwrap.dedent(example))
    done = subprocess.run([BINARIES / "sluicegate", "check", "sluicegate.yaml"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_named_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    status, said = ran(tmp_path, env={"SLUICEGATE_CONFIG": "elsewhere.yaml"})
    assert status == 1
    assert f"`{tmp_path / 'elsewhere.yaml'}` (as named)" in said


# ---------------------------------------------------------------- while there is no configuration yet


class Target:
    """Something worth reaching. `reached` counts who did."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]

    @property
    def reached(self) -> bool:
        self.listening.settimeout(0.3)
        try:
            self.listening.accept()[0].close()
        except TimeoutError:
            return False
        return True


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.listening.close()


# holds the start of everything after it: mitmproxy's own listener is open by then
WAITING = """
import asyncio, pathlib
async def running():
    pathlib.Path({started!r}).touch()
    while not pathlib.Path({go!r}).exists():
        await asyncio.sleep(0.02)
"""


def attempts(port: int) -> dict[str, bytes]:
    """What people send to a proxy, all of it to a target at `port`."""
    where = f"127.0.0.1:{port}".encode()
    return {
        "http": b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\n\r\n" % (where, where),
        "http to the proxy itself": b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % where,
        "connect": b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (where, where),
        "connect and more": b"CONNECT %b HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n" % where,
        "websocket": b"GET ws://%b/ HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        % (where, where),
        "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "socks": b"\x05\x01\x00",
        "postgres": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        "nothing we know": bytes(range(256)),
    }


def refused(port: int, target: Target) -> None:
    """Nothing of all that reaches the target, and no answer looks like success."""
    for what, sent in attempts(target.port).items():
        with connect(("127.0.0.1", port)) as client:
            client.send(sent)
            answer = client.rest()
        assert not answer or b" 403 " in answer.split(b"\r\n")[0], (what, answer)
    assert not target.reached


MODES = ("regular", "socks5", "reverse:http://{target}", "reverse:tcp://{target}", "upstream:http://{target}", "dns")


@pytest.fixture
def waiting(tmp_path: Path, target: Target) -> Iterator[tuple[dict[str, int], Callable[[], int]]]:
    """A mitmdump with every mode, halted before it reads its configuration: (port of each mode, go on to the end)."""
    started, go, log = tmp_path / "started", tmp_path / "go", tmp_path / "log"
    (tmp_path / "wait.py").write_text(WAITING.format(started=str(started), go=str(go)))
    ports = {mode: free_port() for mode in MODES}
    argv: list[str | Path] = [BINARIES / "mitmdump", "--set", f"confdir={tmp_path / 'mitmproxy'}"]
    argv += ["-s", tmp_path / "wait.py", "-s", SCRIPT]
    for mode, port in ports.items():
        argv += ["--mode", f"{mode.format(target=f'127.0.0.1:{target.port}')}@127.0.0.1:{port}"]
    process = Process(argv, log=log, cwd=tmp_path, env=clean())

    def proceed() -> int:
        go.touch()
        return process.wait(30)

    try:
        wait_until(started.exists, 30, what="mitmdump", alive=lambda: process.running, log=log)
        yield ports, proceed
    finally:
        process.stop()


def test_attack_34_until_the_configuration_is_there_every_mode_is_shut(
    waiting: tuple[dict[str, int], Callable[[], int]], target: Target
) -> None:
    """mitmproxy opens its usual port before any addon has run: the guard is in force before that."""
    ports, proceed = waiting
    for mode, port in ports.items():
        if mode != "dns":
            refused(port, target)
    question = bytes.fromhex("abcd01000001000000000000") + b"\x09localhost\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1.0)
        asking.sendto(question, ("127.0.0.1", ports["dns"]))
        with pytest.raises(TimeoutError):
            asking.recv(512)
    assert proceed() == 1
    assert not target.reached
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            Raw(("127.0.0.1", port))


# ---------------------------------------------------------------- with a configuration that is wrong


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_every_problem_of_a_configuration_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad-policy.yaml").write_text("version: 1\nname: x\nrules:\n  - {id: a, allow: [data.selekt]}\n")
    path = write(
        tmp_path,
        """\
        version: 1
        listeners:
          - {name: a, protocol: postgres, listen: "127.0.0.1:6432", resource: shop, colour: red}
          - {name: b, protocol: mongodb, listen: "127.0.0.1:6433", resource: shop}
        resources:
          - name: shop
            protocol: postgres
            host: 127.0.0.1
            port: 99999
            database: shop
            credential: hunter2
        issuers:
          - {issuer: "http://idp.example", audience: sluicegate}
        policies: [bad-policy.yaml]
        """,
    )
    status, said = ran(tmp_path, "--set", f"sluicegate={path}")
    assert status == 1
    for line in (3, 4, 9, 11, 13):
        assert f"{path}:{line}:" in said, said
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    status, said = ran(tmp_path, "--set", f"sluicegate={tmp_path}")
    assert status == 1
    assert str(tmp_path) in said
    assert "Traceback" not in said


def test_a_bad_policy_stops_the_start(tmp_path: Path) -> None:
    policy = tmp_path / "bad.yaml"
    policy.write_text("version: 1\nname: x\nrules:\n  - {id: a, allow: [data.selekt]}\n")
    path = write(
        tmp_path,
        """\
        version: 1
        listeners: [{name: a, protocol: postgres, listen: "127.0.0.1:0", resource: shop}]
        resources:
          - {name: shop, protocol: postgres, host: 127.0.0.1, database: shop, credential: {provider: none, user: app}}
        issuers: [{issuer: "https://idp.example", audience: sluicegate}]
        policies: [bad.yaml]
        """,
    )
    status, said = ran(tmp_path, "--set", f"sluicegate={path}")
    assert status == 1
    assert f"{policy}:4:" in said


# ---------------------------------------------------------------- what goes wrong around it


@pytest.fixture(scope="module")
def gateway(server: PostgresServer, issuer: Issuer, authority: Authority, tmp_path_factory: Any) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("start")
    with Gateway(folder / "gateway", server, [issuer], [POLICY], authority, tls="off") as running:
        yield running


@pytest.fixture
def made(gateway: Gateway) -> Iterator[Gateway]:
    """A gateway that a test may stop and whose configuration it may change."""
    document = copy.deepcopy(gateway.document)
    if not gateway.process.running:
        gateway.stop()  # lets go of the old process
        gateway.start()
    yield gateway
    gateway.document = document
    gateway.write_config()


def test_a_second_gateway_on_the_same_state_does_not_start(made: Gateway, tmp_path: Path) -> None:
    # what the first one writes meanwhile comes behind it; only its head is written anew, with each checkpoint
    before = {p: p.read_bytes() for p in (made.state_dir / "journal").glob("*.seg")}
    assert before
    status, said = ran(
        tmp_path, "-n", "--set", f"sluicegate={made.config}", env={"SHOP_DB_PASSWORD": made.server.password}
    )
    assert status == 1
    assert "lets nothing through" in said
    assert str(made.state_dir) in said
    assert "Traceback" not in said
    assert made.process.running
    for path, content in before.items():
        assert path.read_bytes().startswith(content)


def test_a_port_that_is_taken_stops_the_start(made: Gateway, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made.stop()
        made.document["listeners"][0]["listen"] = f"127.0.0.1:{port}"
        made.write_config()
        status, said = ran(tmp_path, "-n", "--set", f"sluicegate={made.config}")
        assert status == 1
        assert LISTENER in said
        assert "in use" in said
    made.start()  # the port is free again, and nothing of the failed start is in the way


def test_a_state_folder_that_cannot_be_made_stops_the_start(made: Gateway, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made.stop()
    made.document["state_dir"] = str(tmp_path / "file" / "state")
    made.write_config()
    status, said = ran(tmp_path, "-n", "--set", f"sluicegate={made.config}")
    assert status == 1
    assert str(tmp_path / "file") in said
    assert "Traceback" not in said


def test_sigterm_ends_it_politely(made: Gateway, issuer: Issuer) -> None:
    token = issuer.token("admin", ["platform"])
    with psycopg.connect(made.dsn("admin", token), autocommit=True) as connection:
        connection.execute("SELECT 1")
        made.process.signal(signal.SIGTERM)
        assert made.process.wait(20) == 0
        with pytest.raises(psycopg.errors.AdminShutdown, match="the gateway shuts down"):
            connection.execute("SELECT 2")
    verified = made.cli("verify", str(made.state_dir / "journal"))
    assert verified.returncode == 0, verified.stdout + verified.stderr


# ---------------------------------------------------------------- the script is touched while it runs


class Scripted(Gateway):
    """A gateway whose script is a copy that a test may spoil, and which loads another script beside it."""

    def _argv(self) -> list[str | Path]:
        self.script = self.folder / "script" / "gateway.py"
        self.beside = self.folder / "beside.py"
        if not self.script.exists():
            self.script.parent.mkdir()
            self.script.write_bytes(SCRIPT.read_bytes())
            self.beside.write_text("")
        return [self.script if part == SCRIPT else part for part in super()._argv()] + ["-s", self.beside]

    def reloaded(self, path: Path, text: str | None) -> None:
        """Waits until mitmproxy has seen the change."""
        before = self.log.read_text().count(str(path))
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
            later = path.stat().st_mtime + 2
            os.utime(path, (later, later))
        eventually(lambda: self.log.read_text().count(str(path)) > before)


@pytest.fixture
def scripted(tmp_path: Path, server: PostgresServer, issuer: Issuer, authority: Authority) -> Iterator[Scripted]:
    with Scripted(tmp_path / "gateway", server, [issuer], [POLICY], authority, tls="off") as running:
        yield running


OPENS_A_PROXY = """
from mitmproxy import ctx
def running():
    ctx.options.update(mode=[*ctx.options.mode, {mode!r}], connection_strategy="eager")
"""


def test_attack_34_nothing_that_happens_to_the_script_takes_the_guard_away(
    scripted: Scripted, issuer: Issuer, target: Target
) -> None:
    agent = scripted.dsn("agent", issuer.token("agent", ["agents"]))

    def guarded(connection: psycopg.Connection[Any]) -> None:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE IF EXISTS anything")

    text = SCRIPT.read_text()
    with psycopg.connect(agent, autocommit=True) as older:
        guarded(older)
        for change in (text, "def broken(:\n", "raise RuntimeError('no')\n", "", text, text, None):
            scripted.reloaded(scripted.script, change)
            guarded(older)
            with psycopg.connect(agent, autocommit=True) as newer:
                guarded(newer)
        # another script opens mitmproxy's own proxy beside our listeners: our guard is still there to shut it
        port = free_port()
        scripted.reloaded(scripted.beside, OPENS_A_PROXY.format(mode=f"regular@127.0.0.1:{port}"))
        eventually(lambda: f"proxy listening at 127.0.0.1:{port}" in scripted.log.read_text())
        refused(port, target)
        guarded(older)
    assert scripted.stop() == 0
    verified = scripted.cli("verify", str(scripted.state_dir / "journal"))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_mitmweb_serves_too(tmp_path: Path) -> None:
    web = {"port": str(free_port()), "password": "web-password-of-this-test"}
    with Lab(tls="required", launcher="mitmweb", web=web, folder=tmp_path / "lab") as lab:
        with psycopg.connect(lab.dsn("admin")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert lab.gateway.stop() == 0
