"""What an adversary with a valid token tried against the HTTP gateway: each way that worked once, and strong ones that
did not."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import time
from collections.abc import Iterator

import brotli  # type: ignore[import-untyped]  # it has no stubs
import pytest
import zstandard

from protocols.contract import Effect
from protocols.http.analysis import Request, analyse
from protocols.http.syntax import check
from protocols.http.targets import BadTarget, read_target, readings
from tests.attacks.test_http import h2_fields, h2_request, proxied
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk
from tests.support.http_sockets import Socket, echo
from tests.support.journal import await_records

MAIL = b"ada@example.org"
TOKEN = "ghp_" + "a1B2" * 9


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(inspect_body_bytes=1024 * 1024) as running:
        yield running


def status(answer: bytes) -> int:
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 else 0


def ask(
    lab: HttpLab, first: str, *headers: str, body: bytes = b"", token: str = "", says: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Status, what the upstream got and the whole answer. `SERVER` stands for the upstream."""
    with RawServer(lambda c, h: c.sendall(says or ok())) as server:
        lines = [line.replace("SERVER", f"localhost:{server.port}") for line in (first, "Host: SERVER", *headers)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        request = proxied(lab, *lines, "Connection: close", body=body, token=token)
        answer = talk(lab.ports["proxy"], request, timeout=2.0)
        return status(answer), server.received, answer


def request(
    path: str = "/x", *headers: tuple[str, str], method: str = "POST", body: bytes = b"", asks: tuple[str, ...] = ()
) -> frozenset[Effect]:
    target = read_target(path, "api.example.org", 443)
    return analyse(Request(method, "https", target, headers), asks, body).effects


def facts(name: str, body: bytes, kind: str = "application/json", path: str = "/x") -> tuple[str, ...]:
    found = Request("POST", "https", read_target(path, "a.example.org", 443), (("content-type", kind),))
    return analyse(found, {name}, body).facts.get(name, ())


# ---------------------------------------------------------------- one request is one request


@pytest.mark.e2e
def test_http2_announces_a_body_that_does_not_come(lab: HttpLab) -> None:
    """Over HTTP/1 the upstream would wait for it, and take the next request for it."""
    before = len(lab.secure.requests)
    assert h2_request(lab, h2_fields(lab, (b"content-length", b"50")))[0] == b"400"
    assert len(lab.secure.requests) == before


@pytest.mark.e2e
@pytest.mark.parametrize(
    "changed",
    [
        {"path": b"http://elsewhere.example/x"},
        {"path": b"/x HTTP/1.1\r\nHost: elsewhere.example\r\n\r\nGET /admin"},
        {"method": b"GET /admin HTTP/1.1\r\nX: "},
        {"method": b"CONNECT"},
        {"method": b"TRACE"},
        {"scheme": b"http://elsewhere.example/?"},
        {"authority": b"a@localhost"},
        {"path": b"/x#/admin"},
        {"path": b""},
    ],
)
def test_http2_pseudo_headers_that_say_more_than_they_should(lab: HttpLab, changed: dict[str, bytes]) -> None:
    before = len(lab.secure.requests)
    assert h2_request(lab, h2_fields(lab, **changed))[0][:1] != b"2"
    assert len(lab.secure.requests) == before


@pytest.mark.e2e
def test_a_trace_would_show_the_gateways_credential(lab: HttpLab) -> None:
    for method in ("TRACE", "TRACK", "trace"):
        answered, received, _ = ask(lab, f"{method} http://SERVER/upload HTTP/1.1")
        assert (answered, received) == (400, b"")
    with pytest.raises(BadTarget):
        check(b"Trace", b"/", ())


@pytest.mark.e2e
def test_an_upstream_that_says_more_than_one_answer(lab: HttpLab) -> None:
    answered, _, answer = ask(lab, "GET http://SERVER/hello HTTP/1.1", says=ok(b"{}") + ok(b'"' + MAIL + b'"'))
    assert answered == 200
    assert MAIL not in answer


# ---------------------------------------------------------------- a method by another name


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"_method=DELETE&a=b"),
        ("application/x-www-form-urlencoded", b"a=b&%5Fm%65thod=delete"),
        ("application/x-www-form-urlencoded", b"a=b;_method=DELETE"),
        ("application/x-www-form-urlencoded", b"_method=DELETE&a=\xff"),
        ("application/json", b'{"_method": "DELETE"}'),
        ("application/json", b'{"\\u005fmethod": "DELETE"}'),
        ("multipart/form-data", b'--x\r\ncontent-disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--x--\r\n'),
        ("multipart/form-data", b"--x\r\nContent-Disposition: form-data; name=_METHOD; a=b\r\nx: y\r\n\r\nDelete\r\n"),
    ],
)  # fmt: skip
def test_a_form_that_says_it_is_a_delete(kind: str, body: bytes) -> None:
    assert Effect.HTTP_DELETE in request("/x", ("content-type", kind), body=body)


def test_a_form_without_a_method_is_a_write() -> None:
    kind = ("content-type", "application/x-www-form-urlencoded")
    assert request("/x", kind, body=b"my_method=DELETE&a=b") == {Effect.HTTP_WRITE}


@pytest.mark.parametrize("name", ["X_HTTP_Method_Override", "x-http_method", "X-Method_Override"])
def test_a_method_override_with_underscores(name: str) -> None:
    assert Effect.HTTP_DELETE in request("/x", (name, "DELETE"))


@pytest.mark.e2e
def test_a_held_method_in_a_form_is_not_just_written(lab: HttpLab) -> None:
    kind = "Content-Type: application/x-www-form-urlencoded"
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = proxied(
            lab, f"POST {server.url('/upload')} HTTP/1.1", f"Host: localhost:{server.port}", kind, "Content-Length: 14"
        )
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head + b"_method=DELETE")
            held = await_records(
                lab.state, lambda r: r.get("t") == "command" and r.get("decision") == "hold" and "/upload" in r["text"]
            )
        assert "http.delete" in held[-1]["effects"]
        assert server.received == b""


@pytest.mark.e2e
def test_who_one_is_with_underscores(lab: HttpLab) -> None:
    _, received, _ = ask(lab, "GET http://SERVER/x HTTP/1.1", "X_Remote_User: root", "Proxy_Authorization: Basic x")
    assert received.startswith(b"GET /x ")
    assert b"root" not in received
    assert b"roxy" not in received


# ---------------------------------------------------------------- names that two readers take differently


@pytest.mark.parametrize("body", [b'{"Role": "admin"}', b'{"role": "user", "ROLE": "admin"}'])
def test_a_fields_name_in_another_letter_case(body: bytes) -> None:
    assert "admin" in facts("http.json.role", body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"query": "{ok}", "Query": "mutation{dropUser(id: 1){id}}"}'),
        ("application/json", b'{"QUERY": "mutation{dropUser(id: 1){id}}"}'),
        ("application/json", b'[{"query": "{ok}"}, {"query": "mutation{a: dropUser{id}}"}]'),
        ("application/json", b'{"query": "mutation{...f} fragment f on M {... on M {dropUser{id}}}"}'),
        ("application/x-www-form-urlencoded", b"query=mutation%7BdropUser%7Bid%7D%7D"),
        ("application/graphql", b"mutation{dropUser{id}}"),
    ],
)
def test_an_operation_that_is_hidden_in_its_envelope(kind: str, body: bytes) -> None:
    assert "mutation.dropUser" in facts("http.graphql", body, kind, "/api")


def test_a_form_that_is_no_graphql_is_none() -> None:
    assert facts("http.graphql", b"query=shoes&page=2", "application/x-www-form-urlencoded", "/search") == ()


@pytest.mark.parametrize(
    "path",
    ["/%252561dmin", "/%25252561dmin", "/%ef%bd%81dmin", "/%EF%BC%8Fadmin", "/x/%ef%bc%8e%ef%bc%8e/admin", "/admin%23",
     "/%2525252e%2525252e/admin"],
)  # fmt: skip
def test_a_path_that_becomes_another_behind_us(path: str) -> None:
    assert any(found.startswith("/admin") for found in readings(path))


def test_a_path_that_is_encoded_without_end_has_no_reading() -> None:
    with pytest.raises(BadTarget):
        readings("/%2525252525252561dmin")


# ---------------------------------------------------------------- what leaves


@pytest.fixture(scope="module")
def contractor(lab: HttpLab) -> str:
    """Somebody who has got Ada's address masked."""
    token = lab.token("contractor")
    assert MAIL not in lab.curl(lab.secure.url("/people"), token=token).stdout
    return token


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/x?ada@example.org", "A: b"),
        ("/x?ada%40example.org=1", "A: b"),
        ("/x?q=ada%252540example%25252eorg", "A: b"),
        ("/x?q=" + base64.urlsafe_b64encode(b"mail " + MAIL + b" now").decode(), "A: b"),
        ("/x/" + MAIL.hex(), "A: b"),
        ("/x;ada@example.org", "A: b"),
        ("/x", "X-My-Token: ada@example.org"),
        ("/x", "Cookie: a=ada@example.org"),
        ("/x", "Authorization: Basic " + base64.b64encode(b"x:" + MAIL).decode()),
        ("/x", "X-ada-example-org: 1"),
        ("/x", "User-Agent: " + base64.b64encode(b"mail " + MAIL + b" now").decode()),
    ],
)
def test_a_masked_value_in_a_head_does_not_leave(lab: HttpLab, contractor: str, path: str, header: str) -> None:
    answered, received, _ = ask(lab, f"GET http://SERVER{path} HTTP/1.1", header, token=contractor)
    assert (answered, received) == (403, b"")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path",
    [f"/x?{TOKEN}", "/x?q=" + base64.urlsafe_b64encode(b"t " + TOKEN.encode()).decode(), "/x/gh%2570_" + TOKEN[4:]],
)
def test_a_credential_in_a_target_does_not_leave(lab: HttpLab, path: str) -> None:
    answered, received, _ = ask(lab, f"GET http://SERVER{path} HTTP/1.1")
    assert (answered, received) == (403, b"")


@pytest.mark.e2e
def test_a_clients_own_credential_may_leave_where_credentials_do(lab: HttpLab) -> None:
    answered, received, _ = ask(lab, "GET http://SERVER/x HTTP/1.1", f"Authorization: Bearer {TOKEN}")
    assert answered == 200
    assert TOKEN.encode() in received


@pytest.mark.e2e
def test_bodies_that_open_to_far_more_than_they_are(lab: HttpLab) -> None:
    twice = gzip.compress(gzip.compress(bytes(1 << 26)))
    for coding, body in {
        "gzip, gzip": twice,
        "br": brotli.compress(bytes(1 << 24), quality=2),
        "zstd": zstandard.compress(bytes(1 << 26)),
        "gzip, br, gzip, br": twice,
        "x-unknown": b"abc",
    }.items():
        answered, received, _ = ask(lab, "POST http://SERVER/upload HTTP/1.1", f"Content-Encoding: {coding}", body=body)
        assert (answered, received) == (403, b""), coding


# ---------------------------------------------------------------- what is masked


def served(body: bytes, kind: str, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("coding", "kind"),
    [
        ("utf-16", "text/plain"),
        ("utf-16-le", "text/html"),
        ("utf-16-be", "text/csv"),
        ("utf-32", "text/xml; charset=utf-8"),
    ],
)
def test_a_text_in_wide_characters_is_not_what_it_says(lab: HttpLab, coding: str, kind: str) -> None:
    body = "write to ada@example.org".encode(coding)
    _, received, answer = ask(lab, "GET http://SERVER/text HTTP/1.1", says=served(body, kind))
    assert received
    assert MAIL not in answer.replace(b"\0", b"")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "says",
    [
        served(b'{"email": "ada@example.org"}', "image/png"),
        served(b'{"email": "ada@example.org"}', "application/json", "content-type: text/plain"),
        served(b'{"email": "ada@example.org"}', "application/json", "content-encoding: exi"),
        served(b'{"email": "ada@example.org"}' * 2, "application/json"),
        served(b'{"email": "x"} ada@example.org', "application/json"),
        served(gzip.compress(b'{"email": "ada@example.org"}'), "application/json"),
        served(json.dumps({"email": MAIL.decode()}).encode("utf-16"), "application/json"),
        served(b"a" * 3, "application/json").replace(b"200 OK", b"204 No") + MAIL,
        b"HTTP/1.1 304 No\r\ncontent-length: 15\r\n\r\n" + MAIL,
        b"HTTP/1.1 103 Early\r\nlink: <" + MAIL + b">\r\n\r\n" + ok(),
        b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n" + MAIL,
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2;" + MAIL
        + b"\r\n{}\r\n0\r\nx: " + MAIL + b"\r\n\r\n",
        b"ada@example.org\r\n\r\n",
    ],
)  # fmt: skip
def test_an_answer_that_is_dressed_up(lab: HttpLab, says: bytes) -> None:
    _, received, answer = ask(lab, "GET http://SERVER/people HTTP/1.1", "Range: bytes=0-9", says=says)
    assert received.startswith(b"GET /people ")
    assert b"bytes=0-9" not in received
    assert MAIL not in answer
    assert MAIL not in answer.replace(b"\0", b"")


# ---------------------------------------------------------------- WebSockets


@pytest.mark.e2e
@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x02hi",  # not masked
        b"\xc1\x82\0\0\0\0hi",  # an extension's bit
        b"\x80\x82\0\0\0\0hi",  # goes on with nothing
        b"\x09\x82\0\0\0\0hi",  # a control frame in parts
        b"\x89\xfe\0\xff\0\0\0\0" + b"a" * 255,  # ... and a long one
        b"\x81\x82\0\0\0\0\xff\xfe",  # a text that is none
        b"\x83\x82\0\0\0\0hi",  # a kind that there is not
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # longer than lengths are
    ],
)
def test_a_frame_that_is_none_ends_the_socket(lab: HttpLab, frame: bytes) -> None:
    with (
        RawServer(echo) as server,
        Socket(
            lab.ports["proxy"], lab.token(), server, "/ws", "Sec-WebSocket-Extensions: permessage-deflate"
        ) as client,
    ):
        assert b" 101 " in client.head
        before = len(server.received)
        assert b"permessage" not in server.received
        client.send(frame)
        assert client.raw() == b""
        assert len(server.received) == before


# ---------------------------------------------------------------- approvals


@pytest.mark.e2e
def test_an_approval_for_somebody_who_has_left_lets_nothing_go(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = proxied(
            lab, f"DELETE {server.url('/gone')} HTTP/1.1", f"Host: localhost:{server.port}", token=lab.token("leaver")
        )
        ann = lab.token("ann", "oncall")
        with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as client:
            client.sendall(head)
            for _ in range(100):
                waiting = json.loads(lab.cli("approvals", "list", "--json", token=ann).stdout)
                mine = [one for one in waiting if one["subject"] == "leaver"]
                if mine:
                    break
                time.sleep(0.1)
        lab.cli("approve", str(mine[0]["id"]), token=ann)  # too late, or in the last moment: nothing goes either way
        held = await_records(lab.state, lambda r: r.get("t") == "command" and "/gone" in r["text"])[0]
        ended = await_records(
            lab.state, lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (held["s"], held["n"])
        )
        assert (held["decision"], ended[0]["status"]) == ("hold", "error")
        assert server.received == b""
