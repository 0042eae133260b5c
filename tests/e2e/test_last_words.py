"""A session that is ended while its client's bytes wait unread: the client still learns why, and sees no reset."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from protocols.mysql.capabilities import Capability
from scripts.support import mysql
from scripts.support.lab import Lab
from tests.support import mysql_wire, wire
from tests.support.held import approvals
from tests.support.raw import through

pytestmark = pytest.mark.e2e

TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
REASON = "credential found in a public repository"


def flood(connected: socket.socket, command: bytes) -> None:
    """Sends until the other side takes no more: it has stopped reading."""
    connected.settimeout(0.5)
    data = memoryview(command * ((1 << 20) // len(command)))
    at = 0
    with contextlib.suppress(TimeoutError):
        while True:
            at = (at + connected.send(data[at:])) % len(data)


def held(lab: Lab) -> None:
    """Waits until a statement of this lab waits for approval."""
    deadline = time.monotonic() + 20
    while not any(entry["status"] == "pending" for entry in approvals(lab)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(lab: Lab) -> None:
    """A responder ends the agent's session."""
    token = lab.issuer.token("carol", ["security"])
    (live,) = [row for row in lab.gateway.ask("sessions", "--live", token=token) if row["subject"] == "agent"]
    done = lab.gateway.cli("terminate", live["session"], "--reason", REASON, token=token)
    assert done.returncode == 0, done.stderr


def last_words(connected: socket.socket) -> bytes:
    """Everything up to the end; raises ConnectionResetError. A socket in error is given up, as psycopg does."""
    found = b""
    connected.settimeout(20.0)
    events = select.poll()
    events.register(connected, select.POLLIN)
    while True:
        pending_tls = getattr(connected, "pending", lambda: 0)()
        if not pending_tls:
            ((_, seen),) = events.poll(20_000)
            if seen & select.POLLERR:
                raise ConnectionResetError("a reset took what was not read yet")
        if not (data := connected.recv(65536)):
            return found
        found += data


@TLS
def test_a_postgres_client_that_was_not_read_learns_why(lab: Lab, tls: bool) -> None:
    with through(lab, "agent", tls=tls) as client:
        client.send(wire.query("DELETE FROM public.orders WHERE id = 100701"))
        assert client.read()[0] == "N"  # it waits for approval
        flood(client.socket, wire.query("SELECT '" + "x" * 8000 + "'"))
        end(lab)
        said = last_words(client.socket)
        assert b"C57P01\0" in said
        assert REASON.encode() in said
        assert b"SELECT" not in said  # of what came later nothing was answered


@TLS
def test_a_postgres_client_that_sends_on_learns_why(lab: Lab, tls: bool) -> None:
    with through(lab, "agent", tls=tls) as client:
        client.ask(wire.query("SELECT 1"))
        end(lab)
        for _ in range(20):  # the first of them would be answered by a reset, were the socket closed
            client.send(wire.query("SELECT 1"))
            time.sleep(0.005)
        assert REASON.encode() in last_words(client.socket)


# ---------------------------------------------------------------- MySQL


@pytest.fixture(scope="module")
def mysql_shop(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    """A lab with a second listener, that has no TLS."""

    def clear(document: dict[str, Any]) -> None:
        first = document["listeners"][0]
        document["listeners"].append({**first, "name": "clear", "listen": "127.0.0.1:0", "tls": {"mode": "off"}})

    with Lab(installation=mysql_installation, adjust=clear) as made:
        yield made


def in_clear(lab: Lab) -> socket.socket:
    """Logged in on the listener without TLS: drivers do not send a long token there."""
    ready = json.loads((lab.gateway.state_dir / "ready.json").read_bytes())
    host, _, port = ready["listeners"]["clear"].rpartition(":")
    made = socket.create_connection((host, int(port)), 20.0)
    try:
        _log_in(lab, made)
    except BaseException:
        made.close()
        raise
    return made


def _log_in(lab: Lab, made: socket.socket) -> None:
    made.recv(65536)  # the greeting
    flags = mysql_wire.MODERN | Capability.CONNECT_WITH_DB | Capability.PLUGIN_AUTH_LENENC
    login = struct.pack("<IIB23x", flags, 1 << 24, 45) + b"agent\0" + mysql_wire.lenenc(lab.tokens["agent"] + "\0")
    made.sendall(mysql_wire.packet(1, login + lab.server.database.encode() + b"\0mysql_clear_password\0"))
    assert made.recv(65536)[4] == 0  # OK


@contextlib.contextmanager
def agent(lab: Lab, tls: bool) -> Iterator[socket.socket]:
    """The socket of a client that is logged in."""
    if not tls:
        with in_clear(lab) as made:
            yield made
        return
    client = pymysql.connect(
        host=lab.gateway.host,
        port=lab.gateway.port,
        user="agent",
        password=lab.tokens["agent"],
        database=lab.server.database,
        ssl_ca=str(lab.gateway.ca_file),
    )
    try:
        yield client._sock
    finally:
        client._force_close()


@TLS
def test_a_mysql_client_that_was_not_read_learns_why(mysql_shop: Lab, tls: bool) -> None:
    with agent(mysql_shop, tls) as connected:
        connected.sendall(mysql_wire.command(3, "DELETE FROM orders WHERE id = 100701"))
        held(mysql_shop)
        flood(connected, mysql_wire.command(3, "SELECT '" + "x" * 8000 + "'"))
        end(mysql_shop)
        said = last_words(connected)
        (code,) = struct.unpack_from("<H", said, said.index(b"\xff") + 1)
        assert code == 1053
        assert REASON.encode() in said


@TLS
def test_a_mysql_client_that_sends_on_learns_why(mysql_shop: Lab, tls: bool) -> None:
    with agent(mysql_shop, tls) as connected:
        end(mysql_shop)
        for _ in range(20):
            connected.sendall(mysql_wire.command(3, "SELECT 1"))
            time.sleep(0.005)
        assert REASON.encode() in last_words(connected)
