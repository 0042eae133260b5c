"""Transport and framing, row by row of the threat table (1, 2, 4, 5, 6, 19), on a running gateway.

Each test ends with the same question: does the process live, and does it still refuse and record what it should?
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.journal import await_records
from tests.support.raw import Closed, Raw, connect, through
from tests.support.wire import SYNC, bind, execute, parse, query

pytestmark = pytest.mark.e2e

ONE = ["T", "D", "C", "Z"]


@pytest.fixture(autouse=True)
def lives(attacked: Lab) -> Iterator[None]:
    pid = attacked.gateway.process.pid
    yield
    assert (attacked.gateway.process.running, attacked.gateway.process.pid) == (True, pid)
    with through(attacked, "agent") as client:
        assert [k for k, _ in client.ask(query("SELECT 1"))] == ONE
        assert errors(client.ask(query("DROP TABLE public.orders"))) == ["42501"]


def errors(answer: list[tuple[str, bytes]]) -> list[str]:
    return [wire.fields(body)["C"] for kind, body in answer if kind == "E"]


def reached(lab: Lab, tag: str) -> bool:
    return any(tag in text for text in lab.server.statements())


def ends(client: Raw, *data: bytes) -> None:
    """The session ends, with the protocol's own error where there is a place for one."""
    try:
        client.send(*data)
        last = client.rest()
    except OSError:
        return
    assert not last or last[-1][0] == "E"
    assert all(wire.fields(body)["S"] == "FATAL" for kind, body in last if kind == "E")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 0x40000000], ids=hex)
@pytest.mark.parametrize("kind", ["Q", "P", "B", "d"])
def test_row_01_a_length_that_wraps_smuggles_nothing(attacked: Lab, kind: str, length: int) -> None:
    """CVE-2024-27304: what stands behind the wrapped length must never be read as a message of its own."""
    inner = query("INSERT INTO long_secrets VALUES ('x') /* smuggled */")
    with through(attacked, "agent") as client:
        ends(client, kind.encode() + struct.pack("!I", length) + b"\0" * 20 + inner)
    assert not reached(attacked, "smuggled")


def test_row_01_a_bind_whose_values_wrap_smuggles_nothing(attacked: Lab) -> None:
    inner = query("INSERT INTO long_secrets VALUES ('x') /* smuggled-bind */")
    body = b"\0\0" + struct.pack("!HHI", 0, 1, 0xFFFFFFF0) + inner
    with through(attacked, "agent") as client:
        client.ask(parse("", "SELECT $1::text") + SYNC)
        ends(client, wire.message("B", body))
    assert not reached(attacked, "smuggled-bind")


@pytest.mark.parametrize("length", range(4))
def test_row_02_lengths_below_their_own_size(attacked: Lab, length: int) -> None:
    with through(attacked, "agent") as client:
        ends(client, b"Q" + struct.pack("!I", length) + b"SELECT 1\0")


@pytest.mark.parametrize("kind", [chr(c) for c in range(256) if chr(c) not in "QPBDECFSHXdcf"][::9])
def test_row_02_types_that_are_none(attacked: Lab, kind: str) -> None:
    with through(attacked, "agent") as client:
        ends(client, kind.encode("latin-1") + b"\0\0\0\4")


def test_row_02_startup_packets_that_cannot_be(attacked: Lab) -> None:
    address = (attacked.gateway.host, attacked.gateway.port)
    for data in (
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\x27\x11" + b"x" * 10_000,
        b"\0\0\0\x08\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with connect(address, None) as raw:
            raw.sendall(data)
            raw.settimeout(20)
            assert b"SELECT" not in raw.recv(4096)


@pytest.mark.parametrize("how", ["query", "parse", "bind"])
def test_row_04_above_the_inspection_limit_nothing_is_forwarded(attacked: Lab, how: str) -> None:
    """Neither the statement nor its tail; the connection lives, and the attempt is on record."""
    huge = "SELECT 1 /* " + "x" * (17 << 20) + " */; DROP TABLE public.orders /* behind_the_limit */"
    message = {
        "query": query(huge),
        "parse": parse("", huge) + bind("", "") + execute() + SYNC,
        "bind": bind("", "", [b"x" * (17 << 20) + b"behind_the_limit"]) + execute() + SYNC,
    }[how]
    with through(attacked, "agent") as client:
        client.ask(parse("", "SELECT $1::text") + SYNC)
        assert errors(client.ask(message)) == ["54000"]
        assert [k for k, _ in client.ask(query("SELECT 1"))] == ONE
    assert not reached(attacked, "behind_the_limit")
    await_records(attacked.gateway.state_dir, lambda r: r["t"] == "command" and r.get("rule") == "limit")


@pytest.mark.parametrize("code", [80877103, 80877104], ids=["ssl", "gss"])
def test_row_05_cleartext_stuffed_behind_an_encryption_request(attacked: Lab, code: int) -> None:
    stuffed = wire.request(code) + wire.startup(user="agent", database="shop")
    with connect((attacked.gateway.host, attacked.gateway.port), None) as raw:
        raw.sendall(stuffed)
        raw.settimeout(20)
        answer = b""
        while part := raw.recv(4096):
            answer += part
    assert b"R\0\0\0" not in answer  # nobody is asked for a token


def test_row_06_encryption_and_compression_that_we_cannot_read_are_refused(attacked: Lab) -> None:
    with connect((attacked.gateway.host, attacked.gateway.port), None) as raw:
        raw.sendall(wire.request(80877104))
        raw.settimeout(20)
        assert raw.recv(10) == b"N"
    with through(attacked, "agent", **{"_pq_.compression": "zstd"}) as client:
        (version,) = [body for kind, body in client.greeting if kind == "v"]
        assert b"_pq_.compression" in version  # said not to be known
        assert [k for k, _ in client.ask(query("SELECT 1"))] == ONE


@pytest.mark.parametrize("replication", ["true", "database", "1"])
def test_row_14_replication_is_refused(attacked: Lab, replication: str) -> None:
    with pytest.raises(Closed) as caught:
        through(attacked, "admin", replication=replication)
    assert caught.value.args[0]["C"] == "42501"


def test_a_connection_that_dies_in_the_middle_of_a_message_leaves_nothing(attacked: Lab) -> None:
    for end in range(1, 40, 6):
        client = through(attacked, "agent")
        client.send((query("INSERT INTO long_secrets VALUES ('x') /* half */") + SYNC)[:end])
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert not reached(attacked, "half")
