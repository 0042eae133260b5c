"""Attacks on HTTP, by the row of the attack list that each belongs to, on a running gateway with real connections."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from addons.web.destinations import DestinationRefused, Destinations
from protocols.http.syntax import check
from protocols.http.targets import BadTarget
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk
from tests.support.journal import await_records, records

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(inspect_body_bytes=1024 * 1024) as running:
        yield running


def proxied(lab: HttpLab, *lines: str, body: bytes = b"", token: str = "") -> bytes:
    auth = f"Proxy-Authorization: Bearer {token or lab.token()}"
    return "\r\n".join([lines[0], auth, *lines[1:], "", ""]).encode("latin-1") + body


def h2_request(lab: HttpLab, headers: list[tuple[bytes, bytes]], body: bytes | None = None) -> tuple[bytes, bytes]:
    """Status and body of a request with exactly these fields to the registered API; empty: the stream was refused."""
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    context.set_alpn_protocols(["h2"])
    config = h2.config.H2Configuration(
        header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    client = h2.connection.H2Connection(config)
    status, answer = b"", b""
    with (
        socket.create_connection(("127.0.0.1", lab.ports["api"]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        client.initiate_connection()
        client.send_headers(1, headers, end_stream=body is None)
        if body is not None:
            client.send_data(1, body, end_stream=True)
        connection.sendall(client.data_to_send())
        while True:
            try:
                data = connection.recv(65536)
            except (ConnectionError, TimeoutError):
                return status, answer
            if not data:
                return status, answer
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = bytes(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    answer += event.data
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return status, answer
            connection.sendall(client.data_to_send())


def h2_fields(lab: HttpLab, *more: tuple[bytes, bytes], **changed: bytes) -> list[tuple[bytes, bytes]]:
    pseudo = {"method": b"GET", "scheme": b"https", "path": b"/hello", "authority": b"localhost"} | changed
    fields = [(f":{name}".encode(), value) for name, value in pseudo.items()]
    return [*fields, (b"authorization", f"Bearer {lab.token()}".encode()), *more]


# ---------------------------------------------------------------- row 7: smuggling


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length : 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "X: a\x00b",
        "X: a\rY: b",
        " folded: yes",
        "Content-Length: 99999999999999999999",
    ],
)
def test_row_7_two_readings_of_where_a_request_ends(lab: HttpLab, head: str) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        request = proxied(lab, f"POST http://localhost:{server.port}/upload HTTP/1.1", "Host: localhost", head)
        answer = talk(lab.ports["proxy"], request + b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n", timeout=2.0)
        assert not re.search(rb"HTTP/1.1 2\d\d", answer)
        assert server.received == b""


def test_row_7_a_second_request_behind_the_first_is_judged(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        first = proxied(lab, f"GET http://localhost:{server.port}/one HTTP/1.1", f"Host: localhost:{server.port}")
        second = proxied(lab, f"GET http://localhost:{server.port}/admin HTTP/1.1", f"Host: localhost:{server.port}")
        third = first.replace(b"/one", b"/three")
        answer = talk(lab.ports["proxy"], first + second + third, timeout=3.0, until=b"\r\n\r\n{}HTTP/1.1 200")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer)[:2] == [b"200", b"403"]
        assert b"/admin" not in server.received
        assert b"/three" in server.received


@pytest.mark.parametrize(
    "fields",
    [
        {"more": [(b"x-a", b"b\r\nx-remote-user: root")]},
        {"more": [(b"x-a\r\nx-b", b"c")]},
        {"more": [(b"x-a", b"b\x00")]},
        {"more": [(b"transfer-encoding", b"chunked")], "body": b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"},
        {"more": [(b"content-length", b"3")], "body": b"abcGET /admin HTTP/1.1\r\n\r\n"},
        {"more": [(b"connection", b"keep-alive")]},
        {"more": [(b"host", b"other.example")]},
        {"method": b"GET /admin HTTP/1.1\r\nx: "},
        {"path": b"/hello HTTP/1.1\r\nx-remote-user: root\r\n"},
        {"path": b"/hello world"},
        {"path": b"hello"},
        {"path": b""},
        {"authority": b"localhost\r\nx: y"},
        {"authority": b"user@localhost"},
        {"scheme": b"file"},
    ],
)
def test_row_7_http2_fields_that_http1_would_read_otherwise(lab: HttpLab, fields: dict[str, Any]) -> None:
    before = len(lab.secure.requests)
    body, more = fields.pop("body", None), fields.pop("more", [])
    status, _ = h2_request(lab, h2_fields(lab, *more, **fields), body)
    arrived = lab.secure.requests[before:]
    assert len(arrived) <= 1
    for seen in arrived:  # let through only as what it was taken for
        assert seen.path == "/hello"
        assert seen.header("x-remote-user") is None
        assert seen.header("host") != "other.example"
        assert b"admin" not in seen.body
    assert status == b"" or status >= b"400" or arrived


def test_row_7_what_connection_names_and_what_says_who_one_is_ends_here(lab: HttpLab) -> None:
    lab.api(
        "--http1.1",
        "-H",
        "Connection: X-Gone",
        "-H",
        "X-Gone: 1",
        "-H",
        "X-Remote-User: root",
        "-H",
        "TE: trailers",
        "/hello",
    )
    seen = lab.secure.requests[-1]
    names = {name.lower() for name, _ in seen.headers}
    assert not names & {"x-gone", "x-remote-user", "te", "connection", "proxy-connection"}


def test_row_7_an_absolute_target_does_not_name_another_host(lab: HttpLab) -> None:
    before = len(lab.secure.requests)
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    with (
        socket.create_connection(("127.0.0.1", lab.ports["api"]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        auth = f"Authorization: Bearer {lab.token()}"
        connection.sendall(f"GET http://other.example/hello HTTP/1.1\r\nHost: localhost\r\n{auth}\r\n\r\n".encode())
        assert connection.recv(65536).split()[1] == b"400"
    assert len(lab.secure.requests) == before


def test_row_7_a_tunnel_leads_to_one_host(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        for inner in (
            b"GET http://127.0.0.1/a HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % server.port,
            b"GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: localhost:1\r\n\r\n",
            b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % server.port,
        ):
            connect = proxied(lab, f"CONNECT localhost:{server.port} HTTP/1.1")
            with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
                client.sendall(connect)
                assert b" 200 " in client.recv(65536)
                client.sendall(inner)
                assert client.recv(65536).split()[1] in (b"400", b"403")
        assert server.received == b""


def test_row_7_two_tokens_on_one_connection_are_two_identities(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        target = f"GET http://localhost:{server.port}/who HTTP/1.1"
        host = f"Host: localhost:{server.port}"
        one = proxied(lab, target, host, token=lab.token("anna"))
        two = proxied(lab, target, host, token=lab.token("bert"))
        none = f"{target}\r\n{host}\r\n\r\n".encode()
        answer = talk(lab.ports["proxy"], one + two + none, timeout=3.0, until=b"407")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"407"]
    found = [r for r in records(lab.state) if r.get("t") == "command" and "/who" in r["text"]]
    started = {r["s"]: r["subject"] for r in records(lab.state) if r.get("t") == "session.start"}
    assert [started[r["s"]] for r in found] == ["anna", "bert"]


# ---------------------------------------------------------------- row 8


def test_row_8_redirects_are_not_followed(lab: HttpLab) -> None:
    with RawServer(
        lambda c, h: c.sendall(b"HTTP/1.1 307 Go\r\nlocation: /admin\r\ncontent-length: 0\r\n\r\n")
    ) as server:
        request = proxied(
            lab, f"POST {server.url('/echo')} HTTP/1.1", f"Host: localhost:{server.port}", "Content-Length: 0"
        )
        assert talk(lab.ports["proxy"], request, timeout=2.0, until=b"\r\n\r\n").split()[1] == b"307"
        assert b"/admin" not in server.received


# ---------------------------------------------------------------- row 9


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "fd00:ec2::254",
        "fe80::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_row_9_no_address_of_ours_none_that_is_not_public(address: str) -> None:
    with pytest.raises(DestinationRefused):
        Destinations().choose("rebound.example", 443, ["93.184.216.34", address])


@pytest.mark.parametrize(
    "host",
    ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "localhost.", "LOCALHOST", "169.254.169.254"],
)
def test_row_9_other_spellings_of_loopback_reach_no_control_port(lab: HttpLab, host: str) -> None:
    """The lab names loopback as reachable; its own listeners stay closed all the same."""
    port = lab.ports["api"]
    request = proxied(lab, f"GET http://{host}:{port}/ HTTP/1.1", f"Host: {host}:{port}")
    answer = talk(lab.ports["proxy"], request, timeout=8.0, until=b"\r\n\r\n")
    assert answer.split()[1] in (b"400", b"403")


# ---------------------------------------------------------------- row 10


def test_row_10_no_byte_of_a_body_goes_before_the_verdict_on_all_of_it(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = proxied(
            lab, f"POST http://localhost:{server.port}/upload HTTP/1.1", f"Host: localhost:{server.port}",
            "Transfer-Encoding: chunked",
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head)
            for _ in range(5):
                client.sendall(b"400\r\n" + b"x" * 0x400 + b"\r\n")
                time.sleep(0.05)
            assert server.connections == 0
            client.sendall(b"12\r\n 4111111111111111 \r\n0\r\n\r\n")
            assert client.recv(65536).split()[1] == b"403"
        assert server.connections == 0


def test_row_10_a_client_that_leaves_in_the_middle_has_sent_nothing(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = proxied(
            lab, f"POST {server.url('/upload')} HTTP/1.1", f"Host: localhost:{server.port}", "Content-Length: 9"
        )
        talk(lab.ports["proxy"], head, b"half", timeout=0.3)
        time.sleep(0.3)
        assert server.received == b""


def test_row_10_a_stream_is_searched_across_its_pieces(lab: HttpLab) -> None:
    token = lab.token("ci", "uploaders")
    with RawServer(lambda c, h: None) as server:
        head = proxied(
            lab, f"POST {server.url('/upload')} HTTP/1.1", f"Host: localhost:{server.port}", "Content-Length: 3000000",
            token=token,
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head + b"\n" * 100_000)
            for piece in (b"card 4111 11", b"11 1111", b" 1111 ", b"\n" * 100_000):
                client.sendall(piece)
                time.sleep(0.1)
            client.settimeout(5)
            try:
                while client.recv(65536):
                    pass
            except (TimeoutError, ConnectionError):
                pass  # cut: that is what it looks like from here
        assert b"POST /upload" in server.received
        assert b"4111" not in server.received
    cut = await_records(lab.state, lambda r: r.get("t") == "response" and "cut" in str(r.get("tag")))
    assert cut[-1]["status"] == "lost"
    assert 0 < cut[-1]["sent"] < 200_000


# ---------------------------------------------------------------- row 20


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/..%2fadmin",
        "/%61dmin",
        "/%2561dmin",
        "/ADMIN",
        "/admin/",
        "/admin;x=1",
        "/x/..;/admin",
        "/x\\..\\admin",
        "/x%5c..%5cadmin",
        "/admin%20",
        "/admin.",
        "/x//../admin",
        "/admin?x",
        "/x/%252e%252e/admin",
    ],
)
def test_row_20_path_tricks_do_not_lead_around_a_rule(lab: HttpLab, path: str) -> None:
    before = len(lab.secure.requests)
    lab.curl("--path-as-is", lab.secure.url(path.replace("\\", "%5c")))
    assert len(lab.secure.requests) == before


# ---------------------------------------------------------------- row 27


@pytest.mark.parametrize(
    "how",
    ["plain", "base64", "hex", "percent", "gzip", "json", "form"],
)
def test_row_27_a_secret_does_not_leave_in_another_form(lab: HttpLab, how: str) -> None:
    import base64
    from urllib.parse import quote

    secret = ("ghp_" + "a1B2" * 9).encode()
    body = {
        "plain": secret,
        "base64": base64.b64encode(b"the token is " + secret),
        "hex": secret.hex().encode(),
        "percent": "".join(f"%{b:02x}" for b in secret).encode(),
        "gzip": gzip.compress(secret),
        "json": json.dumps({"a": [{"b": secret.decode()}]}).encode(),
        "form": b"a=b&c=" + quote(secret).encode(),
    }[how]
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = proxied(
            lab, f"POST {server.url('/upload')} HTTP/1.1", f"Host: localhost:{server.port}",
            f"Content-Length: {len(body)}",
        )  # fmt: skip
        assert talk(lab.ports["proxy"], head + body, timeout=3.0, until=b"}").split()[1] == b"403"
        assert server.received == b""


def test_row_27_the_gateways_own_credential_does_not_leave(lab: HttpLab) -> None:
    lab.api("/hello")  # now it has been used
    for body in ("upstream-s3cr3t-key", "x dXBzdHJlYW0tczNjcjN0LWtleQ=="):
        before = len(lab.secure.requests)
        assert b"exfil.credential" in lab.curl("-d", body, lab.secure.url("/echo")).stdout
        assert len(lab.secure.requests) == before


# ---------------------------------------------------------------- row 28


def test_row_28_tokens_and_secrets_are_in_no_record_and_no_log(lab: HttpLab) -> None:
    token = lab.token("tess")
    key = "AKIAIOSFODNN7EXAMPLQ"
    secret = "ghp_" + "c3D4" * 9
    talk(lab.ports["proxy"], proxied(lab, "GET http://localhost/ HTTP/1.1", token=token)[:-4], timeout=0.3)
    talk(lab.ports["proxy"], f"GET / HTTP/1.1\r\nProxy-Authorization : Bearer {token}\r\n\r\n".encode(), timeout=0.5)
    lab.curl("-H", f"Authorization: Bearer {secret}", "-H", f"Cookie: k={key}", lab.secure.url("/hello"), token=token)
    lab.curl("-d", f"k={secret}", lab.secure.url(f"/echo?key={secret}"), token=token)
    with RawServer(lambda c, h: c.sendall(ok(json.dumps({"token": secret}).encode()))) as server:
        assert secret.encode() in lab.curl(server.url("/vault"), token=token).stdout  # the client may see it
    with RawServer(
        lambda c, h: c.sendall(ok(gzip.compress(json.dumps({"token": secret}).encode()), "content-encoding: gzip"))
    ) as server:
        lab.curl(server.url("/vault.gz"), token=token)
    await_records(lab.state, lambda r: r.get("t") == "response" and "redacted" in _wire(r), 2)
    everything = json.dumps([{**r, "wire": _wire(r), "body": _body(r)} for r in records(lab.state)])
    for text in (everything, lab.log.read_text()):
        for hidden in (token, secret, key):
            assert hidden not in text


def _wire(record: dict[str, Any]) -> str:
    import base64

    return (
        base64.b64decode(str(record.get("wire", "")) or b"").decode("latin-1") if record.get("t") == "response" else ""
    )


def _body(record: dict[str, Any]) -> str:
    import base64

    return base64.b64decode(record["body"]).decode("latin-1") if isinstance(record.get("body"), str) else ""


# ---------------------------------------------------------------- syntax, without a gateway


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        (b"GE T", b"/", []),
        (b"", b"/", []),
        (b"GET\n", b"/", []),
        (b"GET", b"/\r\n", []),
        (b"GET", b"/ x", []),
        (b"GET", b"/\xff", []),
        (b"GET", b"/", [(b"a b", b"c")]),
        (b"GET", b"/", [(b"a\n", b"c")]),
        (b"GET", b"/", [(b"", b"c")]),
        (b"GET", b"/", [(b"a", b"b\nc")]),
        (b"GET", b"/", [(b"host", b"a"), (b"Host", b"a")]),
        (b"GET", b"/", [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        (b"GET", b"/", [(b"content-length", b"1 ")]),
        (b"GET", b"/", [(b"x", b"y")] * 501),
    ],
)
def test_row_7_syntax(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadTarget):
        check(method, target, fields)
