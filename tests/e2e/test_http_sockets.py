"""WebSockets through the gateway, frame by frame: what passes, what is cut, what is masked, what is on record."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from wsproto.frame_protocol import FrameProtocol

from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer
from tests.support.http_sockets import Socket, accepted, echo
from tests.support.journal import await_records, records

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab() as running:
        yield running


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer(echo) as running:
        yield running


def connect(lab: HttpLab, server: RawServer, path: str = "/ws", *headers: str) -> Socket:
    return Socket(lab.ports["proxy"], lab.token(), server, path, *headers)


def test_messages_pass_and_are_on_record(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/ws", "Sec-WebSocket-Extensions: permessage-deflate") as client:
        assert client.head.startswith(b"HTTP/1.1 101")
        assert b"sec-websocket-accept" in client.head.lower()
        client.send(client.frames.send_data("hello sockets", fin=True))
        assert client.receive() == "hello sockets"
        client.send(client.frames.send_data(b"\x00\xff", fin=True))
        assert bytes(client.receive()) == b"\x00\xff"
        client.send(client.frames.send_data("in ", fin=False) + client.frames.send_data("pieces", fin=True))
        assert client.receive() == "in pieces"
        client.send(client.frames.ping(b"are you there"))
        assert bytes(client.receive()) == b"are you there"
        large = "x" * 200_000
        client.send(client.frames.send_data(large, fin=True))
        got = ""
        while len(got) < len(large):
            got += client.receive()
        assert got == large
    assert b"deflate" not in server.received
    found = await_records(lab.state, lambda r: r.get("t") == "message" and r["text"] == "in pieces", 2)
    assert [r["from_client"] for r in found] == [True, False]
    commands = [r for r in records(lab.state) if r.get("t") == "command" and r["s"] == found[0]["s"]]
    assert "http.upgrade" in commands[-1]["effects"]
    ended = await_records(lab.state, lambda r: r.get("t") == "response" and r["s"] == found[0]["s"])
    assert ended[-1]["tag"].startswith("101")


@pytest.mark.parametrize("secret", ["ghp_" + "a1B2" * 9, "4111 1111 1111 1111"])
def test_row_27_a_leak_in_a_message_does_not_arrive(lab: HttpLab, server: RawServer, secret: str) -> None:
    with connect(lab, server) as client:
        start, end = secret[:10], secret[10:]
        client.send(client.frames.send_data(f"it is {start}", fin=False))
        client.send(client.frames.send_data(f"{end}.", fin=True))
        assert client.receive() is None
    assert secret.encode() not in server.received
    stopped = await_records(lab.state, lambda r: r.get("t") == "message" and r["stopped"])
    assert secret not in json.dumps(stopped)


def test_row_27_a_leak_in_a_ping_does_not_arrive(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server) as client:
        client.send(client.frames.ping(b"4111 1111 1111 1111"))
        assert client.receive() is None


@pytest.mark.parametrize("secret", ["ghp_" + "a1B2" * 9, "4111 1111 1111 1111"])
def test_row_27_a_leak_that_is_spread_over_messages_does_not_arrive_whole(
    lab: HttpLab, server: RawServer, secret: str
) -> None:
    with connect(lab, server) as client:
        for piece in ("it is ", secret[:4], secret[4:10]):
            client.send(client.frames.send_data(piece, fin=True))
            assert client.receive() == piece
        client.send(client.frames.send_data(f"{secret[10:]}.", fin=True))
        assert client.receive() is None
    assert secret[10:].encode() not in server.received
    stopped = await_records(lab.state, lambda r: r.get("t") == "message" and r["stopped"])
    assert stopped[-1]["effects"]


def test_row_27_a_leak_that_is_typed_does_not_arrive_whole(lab: HttpLab, server: RawServer) -> None:
    typed = "pay with 4111111111111111 now"
    with connect(lab, server) as client:
        got = ""
        for letter in typed:
            client.send(client.frames.send_data(letter, fin=True))
            answer = client.receive()
            if answer is None:
                break
            got += answer
    assert got == "pay with 411111111111111"


def test_messages_that_say_nothing_together_pass(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server) as client:
        for piece in ("4111 ", "x", "1111 1111 1111", '{"a": "411', "1"):
            client.send(client.frames.send_data(piece, fin=True))
            assert client.receive() == piece


def speaking(*messages: str | bytes) -> Any:
    """An upstream that sends these."""

    def tell(connection: socket.socket, head: bytes) -> None:
        frames = FrameProtocol(client=False, extensions=[])
        connection.sendall(accepted(head))
        for message in messages:
            connection.sendall(frames.send_data(message, fin=True))

    return tell


def test_a_value_that_is_spread_over_messages_to_the_client_does_not_arrive_whole(lab: HttpLab) -> None:
    messages = ("write to ada@exa", "mple.org or ", "bob@example.org", "4111 1111", " 1111 1111, thanks")
    with RawServer(speaking(*messages)) as telling, connect(lab, telling, "/text/ws") as client:
        assert client.receive() == "write to ada@exa"
        assert client.receive() == "[withheld] or "
        assert client.receive() == "[masked]"
        assert client.receive() == "4111 1111"
        assert client.receive() == "[withheld], thanks"


def test_messages_to_the_client_are_masked_by_content(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/text/ws") as client:
        client.send(client.frames.send_data("write to ada@example.org", fin=True))
        # what goes out has personal data in it, and no rule lets that leave
        assert client.receive() is None

    def tell(connection, head):  # type: ignore[no-untyped-def]
        echo_back = connection.sendall
        from wsproto.frame_protocol import FrameProtocol

        frames = FrameProtocol(client=False, extensions=[])
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        assert key
        echo_back(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        echo_back(frames.send_data("write to ada@example.org", fin=True))
        echo_back(frames.send_data('{"note": "ask ada@example.org"}', fin=True))
        echo_back(frames.send_data(b"ada@example.org", fin=True))

    with RawServer(tell) as telling, connect(lab, telling, "/text/ws") as client:
        assert client.receive() == "write to [masked]"
        assert json.loads(client.receive()) == {"note": "ask [masked]"}
        assert client.receive() is None  # bytes of no known kind cannot be masked: they are withheld


def test_an_upgrade_needs_a_rule(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/elsewhere") as client:
        assert client.head.startswith(b"HTTP/1.1 403")
    assert server.received == b""


def test_an_upgrade_that_the_upstream_refuses_is_an_answer(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/ws/refused") as client:
        assert client.head.startswith(b"HTTP/1.1 200")
        assert client.raw() == b'{"upgraded": false}'
        client.send(f"GET /next HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert b"200 OK" in client.raw()


def test_row_8_a_redirect_on_an_upgrade_is_not_followed(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/ws/redirect") as client:
        assert client.head.startswith(b"HTTP/1.1 302")
        assert server.connections == 1


def test_another_protocol_than_asked_for_is_refused(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server, "/ws/other") as client:
        assert client.head.startswith(b"HTTP/1.1 502")


def test_what_is_no_websocket_ends_it(lab: HttpLab, server: RawServer) -> None:
    with connect(lab, server) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
        assert client.receive() is None


def test_containment_cuts_a_socket(lab: HttpLab, server: RawServer) -> None:
    with Socket(lab.ports["proxy"], lab.token("carl"), server, "/ws") as client:
        client.send(client.frames.send_data("hello", fin=True))
        assert client.receive() == "hello"
        done = lab.cli("contain", "carl", "--reason", "test", token=lab.token("sam", "security"))
        assert done.returncode == 0, done.stderr
        assert client.receive() is None
