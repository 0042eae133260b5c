"""Peers that lie, flood, drip or stop in the middle, in front of the gateway and behind it.

Whatever they do: it costs a bounded amount of memory, ends only what they take part in, and shows nothing that a rule
withholds. The same process serves the next request.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wsproto.frame_protocol import FrameProtocol

from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk
from tests.support.http_sockets import Socket, accepted, echo
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

MIB = 1 << 20
MAIL = b"ada@example.org"


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(inspect_body_bytes=MIB, auth_timeout=3.0) as running:
        yield running


@pytest.fixture(autouse=True)
def lives(lab: HttpLab) -> Iterator[None]:
    pid, before = lab.process.pid, held(lab)
    yield
    assert lab.process.running
    assert lab.process.pid == pid
    assert b" 200 " in lab.api("/hello").stdout.split(b"\r\n")[0]
    assert held(lab) - before < 48 * MIB


def held(lab: HttpLab) -> int:
    """The most that the gateway has held so far, in bytes."""
    lines = Path(f"/proc/{lab.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def head(lab: HttpLab, server: RawServer, method: str, path: str, *headers: str, token: str = "") -> bytes:
    lines = [f"{method} http://localhost:{server.port}{path} HTTP/1.1", f"Host: localhost:{server.port}", *headers]
    lines.append(f"Proxy-Authorization: Bearer {token or lab.token()}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0


def until(done: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---------------------------------------------------------------- upstreams

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
LIES = {
    "interim answers without end": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 5000 + ok(), 502),
    "a head without end": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * MIB, 502),
    "a hundred thousand headers": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000 + b"\r\n", 502),
    "an extension without end": (CHUNKED + b"1;" + b"a" * (4 * MIB), 200),
    "a chunk without a size": (CHUNKED + b"\r\n\r\n", 200),
    "a negative chunk": (CHUNKED + b"-1\r\n\r\n", 200),
    "a chunk of 2^64 bytes": (CHUNKED + b"10000000000000000\r\n", 200),
    "a length that is none": (b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n{}", 502),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}}", 502),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", 502),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", 502),
    "nothing": (b"", 502),
    "zero bytes": (bytes(MIB), 502),
}


@pytest.mark.parametrize("what", LIES)
def test_an_upstream_that_lies_about_its_answer(lab: HttpLab, what: str) -> None:
    said, expected = LIES[what]

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_RDWR)

    with RawServer(answer) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", "/hello"), timeout=10.0)
        assert status(got) == expected, got[:300]
        assert not got.endswith(b"0\r\n\r\n")  # what is cut does not look as if it were whole
        assert len(got) < MIB


def test_more_than_its_length_is_no_part_of_an_answer(lab: HttpLab) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(ok(b"{}") + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil!" * 3)

    with RawServer(answer) as server:
        request = head(lab, server, "GET", "/hello")
        got = talk(lab.ports["proxy"], request, request.replace(b"/hello", b"/again"), timeout=3.0)
        assert b"evil" not in got


def test_an_answer_with_a_length_and_chunks_has_no_length(lab: HttpLab) -> None:
    """A client that went by the length would take the rest for another answer."""
    said = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + b"5\r\nhello\r\n0\r\n\r\n"
    with RawServer(lambda c, h: c.sendall(said)) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", "/hello"), timeout=5.0, until=b"0\r\n\r\n")
        assert b"content-length" not in got.lower()
        assert got.endswith(b"5\r\nhello\r\n0\r\n\r\n")


def test_less_than_its_length_is_seen_to_be_cut(lab: HttpLab) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nhalf")
        connection.close()

    with RawServer(answer) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", "/cut"), timeout=10.0)
        assert got.endswith(b"half")
        assert b"content-length: 100" in got
        [ended] = await_records(lab.state, lambda r: r["t"] == "response" and r["status"] == "lost")[-1:]
        assert ended["bytes"] == 4


@pytest.mark.parametrize("path", ["/people", "/text"])
def test_an_answer_that_opens_to_far_more_than_it_is(lab: HttpLab, path: str) -> None:
    """A mask must open it. What it opens to passes in pieces, or is withheld; it is never held."""
    packed = gzip.compress(bytes(64 * MIB), 9)
    kind = "application/json" if path == "/people" else "text/plain"
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", "content-encoding: gzip", f"content-length: {len(packed)}"]
    said = "\r\n".join([*lines, "", ""]).encode() + packed
    with RawServer(lambda c, h: c.sendall(said)) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", path, "Accept-Encoding: gzip"), timeout=20.0)
        assert status(got) in (200, 502)


def test_trailers_end_here(lab: HttpLab) -> None:
    said = CHUNKED + b"2\r\n{}\r\n0\r\nset-cookie: a=b\r\nx: " + MAIL + b"\r\n\r\n"
    with RawServer(lambda c, h: c.sendall(said)) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", "/text", "TE: trailers"), until=b"0\r\n\r\n")
        assert got.endswith(b"0\r\n\r\n")
        assert b"set-cookie" not in got
        assert MAIL not in got
        assert b"trailers" not in server.received


def test_an_answer_before_the_request_is_whole(lab: HttpLab) -> None:
    """An upstream that answers the head of a streamed upload: the client hears it, the rest has nowhere to go."""

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(ok(b'{"early": true}', "connection: close"))
        connection.close()

    with RawServer(answer) as server:
        request = head(
            lab, server, "POST", "/upload", f"Content-Length: {8 * MIB}", token=lab.token("early", "uploaders")
        )
        got = talk(lab.ports["proxy"], request + b"a\n" * MIB, b"a\n" * MIB, timeout=5.0)
        assert status(got) in (200, 502)
        assert len(server.received) < 8 * MIB


def test_an_upstream_never_answers_what_nobody_judged_yet(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        request = head(lab, server, "POST", "/upload", "Content-Length: 10")
        got = talk(lab.ports["proxy"], request + b"half", timeout=2.0)
        assert (got, server.received) == (b"", b"")


def test_a_reset_in_the_middle_of_a_body(lab: HttpLab) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(CHUNKED + b"5\r\nhello\r\n")
        time.sleep(0.3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with RawServer(answer) as server:
        got = talk(lab.ports["proxy"], head(lab, server, "GET", "/reset"), timeout=10.0)
        assert b"hello" in got
        assert not got.endswith(b"0\r\n\r\n")


def test_an_upstream_that_drips_costs_nobody_else_anything(lab: HttpLab) -> None:
    over = threading.Event()

    def answer(connection: socket.socket, _: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1000:
            connection.sendall(bytes([byte]))
            if over.wait(0.2):
                return

    with RawServer(answer) as server:
        request = head(lab, server, "GET", "/slow")
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(request)
            until(lambda: server.connections == 1)
            for _ in range(3):
                assert b" 200 " in lab.api("/hello").stdout.split(b"\r\n")[0]
        # the client has left: nobody waits for the upstream any more
        await_records(lab.state, lambda r: r["t"] == "response" and r["status"] == "lost")
        over.set()


def test_events_without_end_stop_with_their_reader(lab: HttpLab) -> None:
    sent = 0
    broken = threading.Event()

    def answer(connection: socket.socket, _: bytes) -> None:
        nonlocal sent
        connection.sendall(CHUNKED.replace(b"text/plain", b"text/event-stream"))
        event = b"data: " + b"x" * 10_000 + b"\n\n"
        try:
            while True:
                connection.sendall(b"%x\r\n%s\r\n" % (len(event), event))
                sent += len(event)
        except OSError:
            broken.set()

    with RawServer(answer) as server:
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head(lab, server, "GET", "/events"))
            assert client.recv(100)
            until(lambda: sent > MIB)
            time.sleep(1.0)  # it reads nothing: the upstream must wait
            assert sent < 24 * MIB
        assert broken.wait(20)


# ---------------------------------------------------------------- clients


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET http://localhost/ HTTP/1.1\r\nHost: loc", b"\x16\x03\x01"])
def test_a_client_that_says_nothing_whole_is_cut(lab: HttpLab, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=20) as client:
        client.sendall(sent)
        assert client.recv(1000) == b""


def test_ten_thousand_headers(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        for count, expected in ((10_000, 400), (100_000, 431)):
            asked = head(lab, server, "GET", "/", *["a: b"] * count)
            assert status(talk(lab.ports["proxy"], asked, timeout=10.0, until=b"\r\n\r\n")) == expected
        assert server.received == b""


def test_a_hundred_requests_at_once_are_answered_in_order(lab: HttpLab) -> None:
    def answer(connection: socket.socket, start: bytes) -> None:
        connection.sendall(ok(b"<%s>" % start.split()[1]))

    with RawServer(answer) as server:
        token = lab.token()
        many = b"".join(head(lab, server, "GET", f"/{n}", token=token) for n in range(100))
        got = talk(lab.ports["proxy"], many, timeout=10.0, until=b"</99>")
        assert re.findall(rb"</(\d+)>", got) == [b"%d" % n for n in range(100)]


def test_a_body_is_asked_for_only_where_it_may_go(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        expects = ("Expect: 100-continue", "Content-Length: 5")
        refused = talk(lab.ports["proxy"], head(lab, server, "POST", "/admin", *expects), timeout=3.0)
        # whether it is refused depends on the body, too: it may be asked for, and must not be forwarded
        assert status(refused) in (100, 403)
        assert server.received == b""
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head(lab, server, "POST", "/upload", *expects))
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert server.received == b""
            client.sendall(b"hello")
            assert status(client.recv(1000)) == 200
        assert b"expect" not in server.received.lower()


def test_an_upgrade_to_http2_in_the_clear_is_not_passed_on(lab: HttpLab) -> None:
    settings = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        got = talk(
            lab.ports["proxy"],
            head(lab, server, "GET", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", settings),
            timeout=5.0,
            until=b"{}",
        )
        assert status(got) == 200
        assert b"h2c" not in server.received.lower()
        assert b"http2-settings" not in server.received.lower()
        preface = talk(lab.ports["proxy"], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), timeout=5.0)
        assert status(preface) != 200


@pytest.mark.parametrize(
    "named", ["content-length", "host", "transfer-encoding", "content-type", "close, content-length, host", "\x0b"]
)
def test_what_connection_names_cannot_change_where_a_body_ends(lab: HttpLab, named: str) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        request = head(lab, server, "POST", "/upload", f"Connection: {named}", "Content-Length: 25")
        got = talk(lab.ports["proxy"], request + b"GET /admin HTTP/1.1\r\nA: b\r\n"[:25], timeout=2.0)
        assert status(got) in (200, 400)
        if status(got) == 200:
            assert server.received.lower().count(b"host: localhost") == 1
            assert b"content-length: 25" in server.received.lower()
        else:
            assert server.received == b""


def _h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


H2_FLOODS = {
    "continuations without end": (_h2_frame(1, 0, 1, b"\x82"), _h2_frame(9, 0, 1, b"\x00\x01a\x01b" * 100)),
    "large continuations": (_h2_frame(1, 0, 1, b"\x82"), _h2_frame(9, 0, 1, b"\x00\x01a\x7f\x80\x7e" + b"b" * 16_000)),
    "empty continuations": (_h2_frame(1, 0, 1, b"\x82"), _h2_frame(9, 0, 1, b"")),
    "settings": (b"", _h2_frame(4, 0, 0, b"\x00\x04\x00\x00\xff\xff" * 100)),
    "pings": (b"", _h2_frame(6, 0, 0, bytes(8))),
    "a frame larger than agreed": (b"", _h2_frame(0, 0, 1, b"")[:1] * 9 + b"\xff" * 1000),
    "data for no stream": (b"", _h2_frame(0, 0, 9, b"a" * 1000)),
    "windows that overflow": (b"", _h2_frame(8, 0, 0, b"\x7f\xff\xff\xff")),
    "an index of nothing": (b"", _h2_frame(1, 5, 1, b"\xff\xff\xff\xff\x7f")),
}


@pytest.mark.parametrize("what", H2_FLOODS)
def test_floods_of_http2_frames(lab: HttpLab, what: str) -> None:
    """Cut, or taken in stride; what is kept of them is bounded (see `lives`)."""
    first, flood = H2_FLOODS[what]
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    context.set_alpn_protocols(["h2"])
    before = len(lab.secure.requests)
    with (
        socket.create_connection(("127.0.0.1", lab.ports["api"]), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _h2_frame(4, 0, 0, b"") + first)
        sent = 0
        try:
            while sent < 8 * MIB:
                client.sendall(flood * 50)
                sent += len(flood) * 50
        except OSError:
            pass  # cut
    assert len(lab.secure.requests) == before


# ---------------------------------------------------------------- WebSockets

SERVER_LIES = {
    "a masked frame": b"\x81\x82\0\0\0\0hi",
    "reserved bits": b"\xf1\x02hi",
    "an extension that was not agreed": b"\xc1\x02hi",
    "a length of 2^63": b"\x82\x7f\x80\0\0\0\0\0\0\0",
    "a length of 2^62": b"\x82\x7f\x40\0\0\0\0\0\0\0" + b"a" * (17 * MIB),
    "a control frame in parts": b"\x09\x01a",
    "a long control frame": b"\x89\x7e\x00\xff" + b"a" * 255,
    "a message within a message": b"\x01\x01a\x01\x01b",
    "no UTF-8": b"\x81\x02\xff\xfe",
    "a length that is longer than it need be": b"\x81\x7e\x00\x02hi",
    "an answer of HTTP": ok(MAIL),
}


@pytest.mark.parametrize("what", SERVER_LIES)
def test_an_upstream_whose_frames_are_none(lab: HttpLab, what: str) -> None:
    def answer(connection: socket.socket, start: bytes) -> None:
        connection.sendall(accepted(start) + bytes(FrameProtocol(client=False, extensions=[]).send_data("first")))
        assert connection.recv(100)  # the client has it
        with contextlib.suppress(OSError):
            connection.sendall(SERVER_LIES[what])
            while connection.recv(65536):
                pass

    with RawServer(answer) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws") as client:
        assert b" 101 " in client.head
        assert client.receive() == "first"
        client.send(bytes(client.frames.send_data("thanks")))
        if what == "a length that is longer than it need be":
            assert client.receive() in ("hi", None)  # written anew, as short as it is
        else:
            assert client.receive() is None


@pytest.mark.parametrize("how", ["parts", "pings", "empty parts"])
def test_floods_of_frames(lab: HttpLab, how: str) -> None:
    """Parts of one message are bounded as it is; pings go on and are answered, no faster than the other side reads."""
    frames = FrameProtocol(client=True, extensions=[])
    with RawServer(echo) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws") as client:
        assert b" 101 " in client.head
        part = bytes(frames.send_data(b"" if how == "empty parts" else b"a" * 60_000, fin=False))
        flood = bytes(frames.ping(b"a" * 100)) * 500 if how == "pings" else part
        cut = False
        try:
            client.send(flood)
            again = bytes(frames.send_data(b"" if how == "empty parts" else b"a" * 60_000, fin=False))
            for _ in range(20 if how == "pings" else 400):
                client.send(flood if how == "pings" else again)
                if how == "pings":
                    client.raw()
        except OSError:
            cut = True
        if how == "parts":
            assert cut or client.receive() is None
            assert b"aaaa" not in server.received


def test_a_socket_nobody_reads_makes_its_writer_wait(lab: HttpLab) -> None:
    stopped = threading.Event()

    def answer(connection: socket.socket, start: bytes) -> None:
        connection.sendall(accepted(start))
        stopped.wait(60)  # and reads nothing

    with RawServer(answer) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws") as client:
        assert b" 101 " in client.head
        frames = FrameProtocol(client=True, extensions=[])
        client.timeout(2.0)
        sent = 0
        frame = bytes(frames.send_data(b"a" * 60_000, fin=True))
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                client.send(frame)
                sent += len(frame)
        assert sent < 64 * MIB
        stopped.set()


def test_what_is_on_record_of_all_this_can_be_read(lab: HttpLab) -> None:
    done = lab.cli("search", "--json", token=lab.token("ann", "security"))
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines()[:50]:
        json.loads(line)
