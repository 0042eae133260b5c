"""A held client's bytes: they cost no memory, none is lost, and a client that leaves is noticed although unread."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.raw import Raw, through
from tests.support.wire import SYNC, bind, execute, parse, query

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def rss(lab: Lab) -> int:
    """Bytes of memory that the gateway's process holds."""
    for line in Path(f"/proc/{lab.gateway.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def held(client: Raw, order: int = 700) -> str:
    """Sends a statement that is held; the request's id."""
    client.send(query(f"DELETE FROM public.orders WHERE id = {order + 100_000}"))
    kind, body = client.read()
    assert kind == "N"
    text = wire.fields(body)["M"]
    return text.split("request ")[1].split(" ")[0]


def status(lab: Lab, request: str) -> str:
    found: list[dict[str, Any]] = lab.gateway.ask("approvals", "list", "--status", "all", token=lab.tokens["admin"])
    return str(next(entry["status"] for entry in found if entry["id"] == request))


def becomes(lab: Lab, request: str, wanted: str) -> None:
    deadline = time.monotonic() + 15
    while (found := status(lab, request)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def flood(client: Raw, size: int) -> int:
    """Sends as much as the other side takes within a few seconds; how many bytes that was."""
    message = query("SELECT '" + "x" * 8000 + "'")
    data = message * (MIB // len(message))
    client.socket.setblocking(False)
    sent, quiet = 0, time.monotonic()
    while sent < size and time.monotonic() - quiet < 3:
        try:
            sent += client.socket.send(data[sent % len(data) :][: size - sent])
            quiet = time.monotonic()
        except BlockingIOError:
            time.sleep(0.05)
    client.socket.setblocking(True)
    return sent


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_held_client_that_keeps_sending_grows_no_memory(lab: Lab, tls: bool) -> None:
    with through(lab, "agent") as warm:
        warm.ask(query("SELECT 1"))
    with through(lab, "agent", tls=False) as client:
        request = held(client)
        before = rss(lab)
        sent = flood(client, 200 * MIB)
        assert sent < 32 * MIB  # the kernels' buffers, and no more
        assert rss(lab) - before < 16 * MIB
        with through(lab, "agent", tls=tls) as other:  # others are served meanwhile
            assert [k for k, _ in other.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
        assert status(lab, request) == "pending"
    # its end is queued behind bytes that nobody reads: it shows once the hold is over
    done = lab.gateway.cli("approvals", "deny", request, "--reason", "no", token=lab.issuer.token("dana", ["oncall"]))
    assert done.returncode == 0, done.stderr
    becomes(lab, request, "denied")


def test_what_was_sent_behind_a_hold_is_answered_after_it(lab: Lab) -> None:
    """Much more than the gateway keeps: it reads on as soon as the hold has ended, and loses nothing."""
    count = 3000
    with through(lab, "agent") as client:
        request = held(client)
        statements = [query(f"SELECT {i}, '{'y' * 500}'") for i in range(count)]
        client.socket.settimeout(0.2)
        rest = memoryview(b"".join(statements))
        while rest:
            try:
                rest = rest[client.socket.send(rest) :]
            except TimeoutError:
                break
        token = lab.issuer.token("dana", ["oncall"])
        done = lab.gateway.cli("approvals", "deny", request, "--reason", "no", token=token)
        assert done.returncode == 0, done.stderr
        answered = client.until(count=1)
        assert [k for k, _ in answered] == ["E", "Z"]
        seen = 0
        while seen < count:
            client.socket.settimeout(20)
            if rest:
                client.socket.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[client.socket.send(rest) :]
                client.socket.setblocking(True)
            rows = wire.rows(b"".join(wire.message(k, b) for k, b in client.until()))
            assert rows == [[str(seen).encode(), b"y" * 500]]
            seen += 1


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("unread", [0, 80_000], ids=["read", "unread"])
def test_a_client_that_leaves_is_noticed(lab: Lab, how: str, unread: int) -> None:
    """Also while its socket is not read any more, when asyncio sees neither its end nor its loss.

    80 kB are more than the gateway keeps and less than the kernel does. A client that leaves with more than that on
    its way cannot be seen to leave: TCP brings its end behind its bytes.
    """
    client = through(lab, "agent")
    request = held(client)
    if unread:
        flood(client, unread)
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        client.close()
    becomes(lab, request, "withdrawn")
    client.close()
    approve = lab.gateway.cli("approvals", "approve", request, token=lab.issuer.token("dana", ["oncall"]))
    assert approve.returncode == 1


def test_an_upstream_that_dies_during_a_hold_ends_it(lab: Lab) -> None:
    with through(lab, "agent", application_name="dies-held") as client:
        request = held(client)
        with lab.server.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dies-held'"
            )
        words = [wire.fields(body) for kind, body in client.rest() if kind == "E"]
    assert words[0]["S"] == "FATAL"
    becomes(lab, request, "withdrawn")


def test_an_approval_is_of_these_bytes_and_of_these_parameters(lab: Lab) -> None:
    """Two Binds of one statement with other parameters are two requests with two digests."""
    shown = []
    for value in (b"900001", b"900002"):
        with through(lab, "agent") as client:
            client.send(parse("", "DELETE FROM public.orders WHERE id = $1") + bind("", "", [value]) + execute() + SYNC)
            (notice,) = [body for kind, body in client.until("N") if kind == "N"]
            request = wire.fields(notice)["M"].split("request ")[1].split(" ")[0]
            shown.append(lab.gateway.ask("approvals", "show", request, token=lab.tokens["admin"]))
    assert shown[0]["digest"] != shown[1]["digest"]
    assert [value.decode() in str(entry["params"]) for value, entry in zip((b"900001", b"900002"), shown, strict=True)]
    assert shown[0]["text"] == shown[1]["text"]
