"""HTTP/2 upstreams that flood, stop or lie behind a running gateway: the process lives, holds little, the client is
told, and it is on record. What is frame by frame is in `tests/addons/web/test_h2.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder

from scripts.support.tls import Authority
from tests.support.http_h2 import H2Client
from tests.support.http_lab import HttpLab
from tests.support.http_liar import H2Liar, frame
from tests.support.journal import await_records

pytestmark = [pytest.mark.e2e]

MIB = 1 << 20
SECRET = b"s3cr3t-of-the-upstream"
HEAD = Encoder().encode([(":status", "200"), ("content-type", "text/plain")])
type Send = Callable[[bytes], None]


class Behind:
    """A lab whose registered API is an `H2Liar`."""

    def __init__(self) -> None:
        def adjust(document: dict[str, Any], authority: Authority) -> None:
            self.liar = H2Liar(authority)
            document["resources"][1]["port"] = self.liar.port

        self.lab = HttpLab(adjust=adjust, inspect_body_bytes=MIB)

    def held(self) -> int:
        """The most that the gateway has held so far, in bytes."""
        lines = Path(f"/proc/{self.lab.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    made = Behind()
    yield made
    made.liar.__exit__()
    made.lab.stop()


def for_ever(*said: bytes) -> Callable[[Send], None]:
    def says(send: Send) -> None:
        for one in said[:-1]:
            send(one)
        block = said[-1] * max(1, 60_000 // len(said[-1]))
        for _ in range(64 * MIB // len(block)):
            send(block)

    return says


FLOODS: dict[str, Callable[[Send], None]] = {
    "pings": for_ever(frame(6, 0, 0, bytes(8))),
    "settings": for_ever(frame(4, 0, 0)),
    "settings that change the table": for_ever(frame(4, 0, 0, b"\0\1\0\1\0\0") + frame(4, 0, 0, b"\0\1\0\0\0\0")),
    "priorities": for_ever(frame(2, 0, 1, bytes(5))),
    "windows": for_ever(frame(8, 0, 0, b"\0\0\0\1")),
    "unknown frames": for_ever(frame(0xEE, 0, 0, SECRET)),
    "empty pieces": for_ever(frame(1, 4, 1, HEAD), frame(0, 0, 1)),
    "resets of nothing": for_ever(frame(3, 0, 99, bytes(4))),
    "a head that goes on": for_ever(frame(1, 0, 1, HEAD), frame(9, 0, 1, b"")),
    "a frame of 16 MiB": for_ever(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", bytes(1000)),
    "interim answers": for_ever(frame(1, 4, 1, Encoder().encode([(":status", "103")]))),
    "farewells": for_ever(frame(7, 0, 0, b"\x7f\xff\xff\xff" + bytes(4) + SECRET)),
    "nonsense": for_ever(SECRET),
}


@pytest.mark.parametrize("what", FLOODS)
def test_an_upstream_that_floods_is_cut_off(behind: Behind, what: str) -> None:
    lab, liar = behind.lab, behind.liar
    pid, before = lab.process.pid, behind.held()
    liar.says, liar.sent = FLOODS[what], 0
    liar.left.clear()
    with H2Client(lab) as client:
        answer = client.answer(client.request("GET", "/" + what.replace(" ", "-")))
        if answer.status == 200:  # the head came alone
            assert what == "empty pieces"
            assert answer.error is not None
        else:
            assert answer.status == 502
            told = json.loads(answer.body)
            assert told["status"] == 502
            [ended] = await_records(
                lab.state, lambda r: r["t"] == "response" and r["status"] == "lost" and r["bytes"] == 0
            )[-1:]
            assert ended["tag"].startswith("the ")
        assert liar.left.wait(20)
    assert liar.sent < 16 * MIB  # what the kernel takes, and what was read before it was too much
    assert lab.process.running
    assert lab.process.pid == pid
    assert behind.held() - before < 24 * MIB
    assert SECRET not in lab.log.read_bytes()


def test_an_upstream_that_says_nothing_lets_its_client_go(behind: Behind) -> None:
    behind.liar.says = lambda send: None
    for event in (behind.liar.left, behind.liar.asked):
        event.clear()
    with H2Client(behind.lab) as client:
        client.request("GET", "/silence")
        client.request("PUT", "/upload/silence", end=False)
        assert behind.liar.asked.wait(20)
    assert behind.liar.left.wait(15)
