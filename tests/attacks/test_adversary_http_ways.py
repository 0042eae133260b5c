"""More of what an adversary tried against the HTTP gateway: forms of a leak, parts of an answer, odd framing."""

from __future__ import annotations

import base64
import bz2
import json
import socket
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.attacks.test_adversary_http import MAIL, TOKEN, ask
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk

pytestmark = [pytest.mark.e2e]

LEAK = TOKEN.encode()
FORM = "Content-Type: multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(inspect_body_bytes=1024 * 1024) as running:
        yield running


def part(disposition: str, body: bytes = b"x", *more: str) -> bytes:
    lines = ["--b", f"Content-Disposition: form-data; {disposition}", *more, "", ""]
    return "\r\n".join(lines).encode() + body + b"\r\n--b--\r\n"


BODIES: dict[str, tuple[str, bytes]] = {
    "the name of a file": (FORM, part(f'name=a; filename="{TOKEN}.txt"')),
    "the name of a field": (FORM, part(f'name="{TOKEN}"')),
    "a file's other name": (FORM, part("name=a; filename*=UTF-8''" + "".join(f"%{b:02X}" for b in LEAK))),
    "a part in base64": (FORM, part("name=a", base64.encodebytes(LEAK), "Content-Transfer-Encoding: base64")),
    "a quoted part": (FORM, part("name=a", b"".join(b"=%02X" % b for b in LEAK), "Content-Transfer-Encoding: 8bit")),
    "a part's own header": (FORM, part("name=a", b"x", f"X-Note: {TOKEN}")),
    "a preamble": (FORM, LEAK + b"\r\n" + part("name=a")),
    "an epilogue": (FORM, part("name=a") + LEAK),
    "zlib in base64": ("Content-Type: application/json", b'{"a": "%s"}' % base64.b64encode(zlib.compress(LEAK))),
    "bzip2": ("Content-Type: application/octet-stream", bz2.compress(LEAK)),
    "utf-16": ("Content-Type: text/plain; charset=utf-16", TOKEN.encode("utf-16")),
    "utf-16 in base64": ("Content-Type: text/plain", base64.b64encode(TOKEN.encode("utf-16-le"))),
    "base32": ("Content-Type: text/plain", base64.b32encode(LEAK)),
    "another type than it is": ("Content-Type: image/png", LEAK),
    "no type": ("X-A: b", LEAK),
    "a key of json": ("Content-Type: application/json", json.dumps({TOKEN: 1}).encode()),
    "json twice": ("Content-Type: application/json", json.dumps({"a": json.dumps({"b": TOKEN})}).encode()),
    "json with a mark": ("Content-Type: application/json", b"\xef\xbb\xbf" + json.dumps([TOKEN]).encode()),
    "joined by nothing": ("Content-Type: text/plain", "\u200b".join(TOKEN).encode()),
}


@pytest.mark.parametrize("what", BODIES)
def test_row_27_no_form_of_a_body_hides_a_credential(lab: HttpLab, what: str) -> None:
    header, body = BODIES[what]
    found, received, answer = ask(lab, "POST http://SERVER/upload HTTP/1.1", header, body=body)
    assert found == 403, answer
    assert received == b""
    assert b"exfil.credential" in answer


@pytest.mark.parametrize("name", ["Range", "If-Range", "Request-Range", "A-IM"])
def test_a_part_of_a_masked_answer_is_not_asked_for(lab: HttpLab, name: str) -> None:
    _, received, _ = ask(lab, "GET http://SERVER/people HTTP/1.1", f"{name}: bytes=0-10")
    assert name.lower().encode() not in received.lower()
    # where nothing is masked a client may ask for parts
    _, received, _ = ask(lab, "GET http://SERVER/hello HTTP/1.1", f"{name}: bytes=0-10")
    assert name.lower().encode() in received.lower()


PARTS = {
    "a half": b"HTTP/1.1 206 Partial Content\r\ncontent-type: text/plain\r\ncontent-range: bytes 4-14/15\r\n"
    b"content-length: 11\r\n\r\nexample.org",
    "several": b"HTTP/1.1 206 Partial Content\r\ncontent-type: multipart/byteranges; boundary=b\r\n"
    b"connection: close\r\n\r\n"
    b"--b\r\ncontent-type: text/plain\r\ncontent-range: bytes 0-6/15\r\n\r\nada@exa\r\n--b\r\n"
    b"content-type: text/plain\r\ncontent-range: bytes 7-14/15\r\n\r\nmple.org\r\n--b--\r\n",
    "a delta": b"HTTP/1.1 226 IM Used\r\ncontent-type: text/plain\r\nim: vcdiff\r\ncontent-length: 15\r\n\r\n" + MAIL,
}


@pytest.mark.parametrize("what", PARTS)
def test_parts_of_a_masked_answer_are_withheld(lab: HttpLab, what: str) -> None:
    found, _, answer = ask(lab, "GET http://SERVER/text/x HTTP/1.1", says=PARTS[what])
    assert found == 502, answer
    assert b"a part of an answer cannot be masked" in answer
    for piece in (b"example.org", b"mple.org", b"ada@"):
        assert piece not in answer


@pytest.mark.parametrize("status", [b"200 OK", b"304 Not Modified", b"204 No Content"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_describes_a_masked_body_goes_with_it(lab: HttpLab, method: str, status: bytes) -> None:
    lines = [
        b"HTTP/1.1 " + status, b'etag: "1234-sum"', b"content-md5: 1234-sum", b"digest: sha-256=1234-sum",
        b"x-goog-hash: md5=1234-sum", b"x-amz-checksum-sha256: 1234-sum", b"x-checksum-sha1: 1234-sum",
        b"repr-digest: sha-256=1234-sum", b"content-type: text/plain", b"connection: close", b"", b"",
    ]  # fmt: skip
    body = b"" if method == "HEAD" or not status.startswith(b"200") else b"nothing else"
    found, _, answer = ask(lab, f"{method} http://SERVER/text/x HTTP/1.1", says=b"\r\n".join(lines) + body)
    assert found == int(status[:3]), answer
    assert b"1234-sum" not in answer
    kept = ask(lab, f"{method} http://SERVER/hello HTTP/1.1", says=b"\r\n".join(lines) + body)[2]
    assert kept.count(b"1234-sum") == 7


@pytest.mark.parametrize("line", [b"099 Low", b"1000 High", b"-20 Less", b"2x0 OK", b"0 None", b"two OK"])
def test_a_status_that_is_none_is_no_answer(lab: HttpLab, line: bytes) -> None:
    said = b"HTTP/1.1 " + line + b"\r\ncontent-length: 4\r\nconnection: close\r\n\r\nevil"
    found, _, answer = ask(lab, "GET http://SERVER/hello HTTP/1.1", says=said)
    assert found == 502, answer
    assert b"application/problem+json" in answer
    assert b"evil" not in answer


def test_an_interim_answer_of_an_unknown_kind_is_none(lab: HttpLab) -> None:
    said = b"HTTP/1.1 150 Early\r\nx: evil\r\n\r\n" + ok()
    found, _, answer = ask(lab, "GET http://SERVER/hello HTTP/1.1", says=said)
    assert found == 200, answer
    assert b"evil" not in answer


def test_fields_behind_a_body_do_not_pass(lab: HttpLab) -> None:
    body = b"2\r\n{}\r\n0\r\nX-Late: here\r\nAuthorization: Basic eDp5\r\n\r\n"
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        host = f"localhost:{server.port}"
        head = [f"POST http://{host}/upload HTTP/1.1", f"Host: {host}", "Transfer-Encoding: chunked", "Trailer: X-Late"]
        head += [f"Proxy-Authorization: Bearer {lab.token()}", "Connection: close", "", ""]
        answer = talk(lab.ports["proxy"], "\r\n".join(head).encode() + body, timeout=3.0)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"late" not in server.received.lower()
        assert b"eDp5" not in server.received


SPEECHES: dict[str, bytes] = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "smtp": b"EHLO x\r\nMAIL FROM:<a@b>\r\n",
    "redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
    "redis in a line": b"FLUSHALL\r\n",
    "postgres": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    "tls of version 2": b"\x80\x2e\x01\x00\x02",
    "half a handshake": b"\x16\x03\x01\x02\x00\x01",
    "zero bytes": bytes(64),
    "h2 in the clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("what", SPEECHES)
def test_row_6_a_tunnel_to_an_odd_port_carries_http_only(lab: HttpLab, what: str) -> None:
    with RawServer(lambda c, h: None) as server, socket.create_connection(("127.0.0.1", lab.ports["proxy"]), 10) as raw:
        target = f"localhost:{server.port}"
        token = lab.token()
        raw.sendall(
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode()
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")
        raw.sendall(SPEECHES[what])
        raw.settimeout(3.0)
        try:
            said = raw.recv(4096)
        except (TimeoutError, ConnectionError):
            said = b""
        assert said == b"" or said.startswith(b"HTTP/1.1 4"), said
        assert server.received == b""


FRAMINGS: dict[str, Callable[[str, str], bytes]] = {
    "chunked in another case": lambda host, auth: (
        f"POST http://{host}/upload HTTP/1.1\r\nHost: {host}\r\n{auth}\r\nTransfer-Encoding: CHUNKED\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n"
    ).encode(),
    "HTTP/1.0 with chunks": lambda host, auth: (
        f"POST http://{host}/upload HTTP/1.0\r\nHost: {host}\r\n{auth}\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"
    ).encode(),
    "a bare line feed": lambda host, auth: (
        f"GET http://{host}/hello HTTP/1.1\nHost: {host}\n{auth}\n\nGET http://{host}/admin HTTP/1.1\n\n"
    ).encode(),
    "a chunk with a space": lambda host, auth: (
        f"POST http://{host}/upload HTTP/1.1\r\nHost: {host}\r\n{auth}\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2 \r\n{}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"
    ).encode(),
    "an extension with a line feed": lambda host, auth: (
        f"POST http://{host}/upload HTTP/1.1\r\nHost: {host}\r\n{auth}\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2;a\nb\r\n{}\r\n0\r\n\r\n"
    ).encode(),
    "an upgrade to h2c": lambda host, auth: (
        f"GET http://{host}/hello HTTP/1.1\r\nHost: {host}\r\n{auth}\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    ).encode(),
}


@pytest.mark.parametrize("what", FRAMINGS)
def test_row_7_whatever_the_framing_the_upstream_gets_one_plain_request(lab: HttpLab, what: str) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        auth = f"Proxy-Authorization: Bearer {lab.token()}"
        talk(lab.ports["proxy"], FRAMINGS[what](f"localhost:{server.port}", auth), timeout=2.0)
        received = server.received
        assert b"/admin" not in received
        assert received.count(b" HTTP/1.1\r\n") <= 1
        lower = received.lower()
        for name in (b"transfer-encoding", b"upgrade", b"http2-settings", b"proxy-authorization"):
            assert name not in lower
