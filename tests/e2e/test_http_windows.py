"""HTTP/2 where one side is slow: the other one waits, the gateway holds little, and other streams go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.web.flow import STREAM_WINDOW
from scripts.support.tls import Authority
from tests.support.http_bulk import BulkServer, digest, pieces
from tests.support.http_h2 import H2Client
from tests.support.http_lab import HttpLab

pytestmark = pytest.mark.e2e

MIB = 1 << 20
SIZE = 24 * MIB
SOCKETS = 16 * MIB  # what lies in the kernel's buffers on the way, and in TLS, at most


class Slow:
    """A lab whose registered API is a `BulkServer`."""

    def __init__(self, *, http2: bool) -> None:
        def adjust(document: dict[str, Any], authority: Authority) -> None:
            self.server = BulkServer(authority, http2=http2)
            document["resources"][1]["port"] = self.server.port

        self.lab = HttpLab(adjust=adjust, inspect_body_bytes=MIB)
        self.token = self.lab.token("uploader", "uploaders")

    def held(self) -> int:
        """The most that the gateway has held so far, in bytes."""
        lines = Path(f"/proc/{self.lab.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

    def stop(self) -> None:
        self.server.__exit__()
        self.lab.stop()


@pytest.fixture(scope="module", params=[True, False], ids=["h2", "h1"])
def slow(request: pytest.FixtureRequest) -> Iterator[Slow]:
    """The upstream speaks HTTP/2, or HTTP/1."""
    made = Slow(http2=request.param)
    yield made
    made.stop()


def still(value: Callable[[], int]) -> int:
    """The value once it has not changed for a second."""
    last, since = value(), time.monotonic()
    deadline = since + 30
    while time.monotonic() - since < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


def test_a_client_that_takes_nothing_makes_its_upstream_wait(slow: Slow) -> None:
    with H2Client(slow.lab, token=slow.token) as client:
        assert client.answer(client.request("GET", "/bulk/1")).size == 1
        before, sent = slow.held(), slow.server.sent
        client.takes = False
        stream = client.request("GET", f"/bulk/{SIZE}")
        client.until(lambda: client.answers[stream].size == 65_535 - 1)
        assert still(lambda: slow.server.sent) - sent < SOCKETS
        assert slow.held() - before < 12 * MIB
        # the rest comes, whole, once there is room for it
        client.takes = True
        client.h2.increment_flow_control_window(1 << 24)
        client.h2.increment_flow_control_window(1 << 24, stream)
        client.h2.acknowledge_received_data(65_534, stream)
        client.flush()
        answer = client.answer(stream, 60)
        assert (answer.size, answer.digest.hexdigest()) == (SIZE, digest(SIZE))
        assert slow.held() - before < 24 * MIB


def test_a_stream_that_waits_leaves_the_others_alone(slow: Slow) -> None:
    with H2Client(slow.lab, token=slow.token, window=1000) as client:
        client.takes = False
        waiting = [client.request("GET", f"/bulk/{4 * MIB}") for _ in range(3)]
        client.until(lambda: all(client.answers[one].size == 1000 for one in waiting))
        for _ in range(3):
            quick = client.request("GET", "/bulk/900")
            assert client.answer(quick).size == 900
        assert not any(client.answers[one].done for one in waiting)


def test_an_upstream_that_takes_nothing_makes_the_client_wait(slow: Slow) -> None:
    body = list(pieces(SIZE))
    with H2Client(slow.lab, token=slow.token) as client:
        assert client.answer(client.request("GET", "/bulk/1")).size == 1
        before = slow.held()
        slow.server.reads.clear()
        try:
            stream = client.request("PUT", "/upload/x", (b"content-length", str(SIZE).encode()), end=False)
            sent = _send(client, stream, body, stop_after=2.0)
            assert sent < SOCKETS + STREAM_WINDOW
            assert slow.held() - before < 12 * MIB
        finally:
            slow.server.reads.set()
        rest = b"".join(body)[sent:]
        while rest:
            if not (window := client.room(stream)):
                assert client.read(30)
                continue
            client.h2.send_data(stream, rest[:window])
            client.flush()
            rest = rest[window:]
        client.h2.end_stream(stream)
        client.flush()
        assert digest(SIZE).encode() in client.answer(stream, 60).body
        assert slow.held() - before < 24 * MIB


def _send(client: H2Client, stream: int, body: list[bytes], *, stop_after: float) -> int:
    """Sends until there was no room for `stop_after` seconds; returns how many bytes went."""
    sent = 0
    for piece in body:
        while piece:
            if not (window := client.room(stream)):
                if not client.read(stop_after) and not client.room(stream):
                    return sent
                continue
            client.h2.send_data(stream, piece[:window])
            client.flush()
            sent += len(piece[:window])
            piece = piece[window:]
    return sent
