"""What an adversary with a valid token tried against the HTTP gateway: to outlive a change of the policy, to be read
otherwise by the upstream, to have something approved that the approver does not see."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from protocols.contract import Effect
from protocols.http.analysis import Request, analyse
from protocols.http.charsets import legible
from protocols.http.targets import read_target
from scripts.support.process import wait_until
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk
from tests.support.http_sockets import Socket, echo
from tests.support.journal import await_records

pytestmark = pytest.mark.slow  # a gateway, and waits

POLICY = """
version: 1
name: web4
description: everything but what is named
rules:
  - id: all
    description: all of it
    allow: {effects: [http.read, http.write, http.upgrade, http.stream]}
  - {id: pinned, description: unopened, who: {groups: [pinned]}, allow: {effects: [http.opaque]}}
  - id: no-admins
    description: nobody becomes one
    deny: {effects: ["http.*"], http: {paths: ["/users"], json: {role: [admin]}}}
  - {id: looked-at, description: a person looks, hold: {effects: [http.write], http: {paths: ["/held*"]}}}
  - {id: no-tokens, description: none of them, deny: {effects: ["http.*"], http: {headers: {private-token: ["*"]}}}}
  - {id: no-role, description: none, deny: {effects: ["http.*"], http: {headers: {cookie: ["*role=admin*"]}}}}
  - {id: archives, description: none, deny: {effects: ["http.*"], http: {response_types: [application/zip]}}}
"""
STRICTER = (
    POLICY
    + """
  - {id: no-more, description: over, deny: {effects: ["http.*"], http: {paths: ["/ws*", "/events*", "/upload*"]}}}
  - {id: not-unseen, description: over, deny: {effects: [http.opaque]}}
"""
)
HELD = POLICY + '  - {id: asked, description: ask, hold: {effects: [http.upgrade], http: {paths: ["/ws*"]}}}\n'
OTHER = POLICY + '  - {id: other, description: over, deny: {effects: ["http.*"], http: {paths: ["/other"]}}}\n'
MASKED = POLICY + '  - {id: people, description: addresses, mask: {detect: [email], http: {paths: ["/events*"]}}}\n'
ELSEWHERE = POLICY + '  - {id: people, description: addresses, mask: {detect: [email], http: {paths: ["/else*"]}}}\n'


def _quick(document: dict[str, Any], _: object) -> None:
    document["listeners"][0]["hold_wait"] = 1.0


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpLab]:
    with HttpLab(policy=POLICY, adjust=_quick, inspect_body_bytes=1 << 20) as running:
        yield running


@pytest.fixture
def lab(shared: HttpLab) -> Iterator[HttpLab]:
    yield shared
    load(shared, POLICY)


def load(lab: HttpLab, policy: str) -> None:
    (lab.folder / "policy.yaml").write_text(policy)
    done = lab.cli("reload", token=lab.token("pat", "platform"))
    assert done.returncode == 0, done.stderr


class Client:
    """A connection to the proxy that sends a head, and then whatever it likes."""

    def __init__(self, lab: HttpLab, first: str, port: int, *headers: str, group: str = "ci") -> None:
        self.connection = socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10)
        lines = [
            first,
            f"Host: localhost:{port}",
            f"Proxy-Authorization: Bearer {lab.token('ci', group)}",
            *headers,
            "",
            "",
        ]
        self.connection.sendall("\r\n".join(lines).encode())

    def until(self, end: bytes) -> bytes:
        """What comes up to `end`, or to the end of the connection."""
        got = b""
        while end not in got and (piece := self._piece()):
            got += piece
        return got

    def _piece(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except ConnectionError:
            return b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()


# ---------------------------------------------------------------- what is under way when the policy changes


@pytest.mark.e2e
@pytest.mark.parametrize("policy", [STRICTER, HELD])
def test_a_websocket_does_not_outlive_what_granted_it(lab: HttpLab, policy: str) -> None:
    with RawServer(echo) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws/4") as client:
        client.send(bytes(client.frames.send_data("before", fin=True)))
        assert client.receive() == "before"
        load(lab, policy)
        client.send(bytes(client.frames.send_data("afterwards", fin=True)))
        assert client.receive() is None
    found = await_records(lab.state, lambda r: r.get("t") == "message" and r["text"] == "afterwards")
    assert found[-1]["stopped"] is True
    assert server.received.count(b"afterwards") == 0
    ended = await_records(lab.state, lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (found[-1]["s"], 1))
    assert "rule `web4/" in ended[-1]["tag"]


@pytest.mark.e2e
def test_a_websocket_lives_on_where_the_change_is_about_something_else(lab: HttpLab) -> None:
    with RawServer(echo) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws/4") as client:
        load(lab, OTHER)
        client.send(bytes(client.frames.send_data("afterwards", fin=True)))
        assert client.receive() == "afterwards"


def _events(lab: HttpLab, policy: str) -> bytes:
    """What a client still gets of a stream of events after a change of the policy."""
    go = threading.Event()

    def tell(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: before\n\n")
        go.wait(20)
        connection.sendall(b"data: ada@example.org\n\n")
        connection.close()

    with RawServer(tell) as server:
        first = f"GET http://localhost:{server.port}/events HTTP/1.1"
        with Client(lab, first, server.port, "Connection: close") as client:
            assert b"before" in client.until(b"before\n\n")
            load(lab, policy)
            go.set()
            return client.until(b"no such thing")


@pytest.mark.e2e
@pytest.mark.parametrize("policy", [STRICTER, MASKED])
def test_an_answer_does_not_outlive_what_granted_it_nor_its_masks(lab: HttpLab, policy: str) -> None:
    assert b"ada" not in _events(lab, policy)


@pytest.mark.e2e
@pytest.mark.parametrize("policy", [OTHER, ELSEWHERE])
def test_an_answer_goes_on_where_the_change_is_about_something_else(lab: HttpLab, policy: str) -> None:
    assert b"ada@example.org" in _events(lab, policy)


@pytest.mark.e2e
@pytest.mark.parametrize(("policy", "arrives"), [(STRICTER, False), (OTHER, True)])
def test_an_upload_does_not_outlive_what_granted_it(lab: HttpLab, policy: str, arrives: bool) -> None:
    piece, size = b"hello world\n" * 200_000, 6_000_000
    with RawServer(lambda c, h: None) as server:
        first = f"POST http://localhost:{server.port}/upload HTTP/1.1"
        with Client(lab, first, server.port, f"Content-Length: {size}") as client:
            client.connection.sendall(piece)
            wait_until(
                lambda: b"hello" in server.received,
                10.0,
                what="the upload",
                alive=lambda: lab.process.running,
                log=lab.log,
            )
            load(lab, policy)
            client.connection.sendall(b"AFTERWARDS\n")
            client.connection.settimeout(1.0)
            try:
                client.until(b"no such thing")
            except TimeoutError:
                assert arrives
        assert (b"AFTERWARDS" in server.received) is arrives


@pytest.mark.e2e
def test_a_tunnel_that_is_not_opened_does_not_outlive_what_granted_it(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(h)) as server:
        with Client(lab, f"CONNECT localhost:{server.port} HTTP/1.1", server.port, group="pinned") as client:
            assert b" 200 " in client.until(b"\r\n\r\n")
            client.connection.sendall(b"before\r\n\r\n")
            assert client.until(b"before") == b"before"
            load(lab, STRICTER)
            client.connection.sendall(b"afterwards\r\n\r\n")
            assert client.until(b"no such thing") == b""
        assert server.received == b"before\r\n\r\n"


# ---------------------------------------------------------------- two readings of one body


FORM = ("content-type", "application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    "body", [b"+role=admin", b"%20role=admin", b"role[]=admin", b"role[0]=admin", b"role%00=admin", b"role%00x=admin"]
)
def test_a_forms_field_is_known_under_each_name_that_servers_take_for_it(body: bytes) -> None:
    request = Request("POST", "https", read_target("/", "api.example", 443), (FORM,))
    assert analyse(request, ("http.json.role",), body).facts["http.json.role"] == ("admin",)


def test_a_parameters_name_ends_at_a_nul_for_some() -> None:
    request = Request("GET", "https", read_target("/?role%00x=admin", "api.example", 443), ())
    assert analyse(request, ("http.query.role",)).facts["http.query.role"] == ("admin",)


@pytest.mark.parametrize("coded", [b"Content-Type: text/plain; charset=utf-7", b"Content-Transfer-Encoding: base64"])
@pytest.mark.parametrize("first", [True, False])
def test_a_method_in_a_part_that_is_coded_may_be_any(coded: bytes, first: bool) -> None:
    named = b'Content-Disposition: form-data; name="_method"'
    head = b"\r\n".join([coded, named] if first else [named, coded])
    body = b"--x\r\n" + head + b"\r\n\r\nREVMRVRF\r\n--x--\r\n"
    kind = ("content-type", "multipart/form-data; boundary=x")
    request = Request("POST", "https", read_target("/", "api.example", 443), (kind,))
    assert Effect.HTTP_DELETE in analyse(request, (), body).effects


UTF7 = b'{"role": "+AGEAZABtAGkAbg-"}'
EBCDIC = "role=admin".encode("cp037")
SHIFTED = '{"a": "あ\\", "role": "admin'.encode() + b'"}'  # in Shift_JIS the backslash is the half of a character


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json; charset=utf-7", UTF7),
        ('application/json; charset="UTF-7"', UTF7),
        ("application/json; charset=utf-8; charset=utf-7", UTF7),
        ("application/json; charset*=utf-8''utf-7", UTF7),
        ('application/json; charset="utf\\-7"', UTF7),
        ("application/json; charset=utf-16le", b'{"role": 1}'),
        ("application/json; charset=shift_jis", SHIFTED),
        ("application/x-www-form-urlencoded; charset=ibm037", EBCDIC),
        ("application/graphql; charset=utf-7", b"+AG0AdQB0AGEAdABpAG8AbgA- {x}"),
        ("multipart/form-data; boundary=x; charset=cp500", b"--x--"),
    ],
)
def test_a_body_in_a_charset_that_hides_it_is_not_legible(kind: str, body: bytes) -> None:
    assert not legible(kind, body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", UTF7),
        ("application/json; charset=utf-8", b"{}"),
        ('application/json;charset="UTF-8"; profile=x', b"{}"),
        ("application/json; charset=utf-16", '{"a": 1}'.encode("utf-16")),
        ("application/json; charset=Shift_JIS", b'{"a": 1}'),
        ("application/x-www-form-urlencoded; charset=Windows-31J", b"a=%82%a0"),
        ("application/x-www-form-urlencoded; charset=iso-8859-15", b"a=%e4"),
        ("text/csv; charset=utf-16", b"\xff\xfea\x00"),
    ],
)
def test_what_everybody_reads_alike_is_legible(kind: str, body: bytes) -> None:
    assert legible(kind, body)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json; charset=utf-7", UTF7),
        ("application/x-www-form-urlencoded; charset=ibm037", EBCDIC),
        ("application/x-www-form-urlencoded", b"+role=admin"),
        ("application/x-www-form-urlencoded", b"role[]=admin"),
    ],
)
def test_what_the_upstream_reads_otherwise_does_not_arrive(lab: HttpLab, kind: str, body: bytes) -> None:
    said = body.decode(kind.partition("charset=")[2] or "ascii")
    assert "admin" in said
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = [f"POST http://localhost:{server.port}/users HTTP/1.1", f"Host: localhost:{server.port}"]
        head += [f"Proxy-Authorization: Bearer {lab.token()}", f"Content-Type: {kind}", "Connection: close"]
        answer = talk(lab.ports["proxy"], "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        assert answer.startswith(b"HTTP/1.1 403"), answer
        assert server.received == b""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("fields", "arrives"),
    [
        (["Private-Token: abcdefgh"], False),
        (["private_token: abcdefgh"], False),
        (["Cookie: role=admin"], False),
        (["Cookie: a=b", "Cookie: role=admin"], False),
        (["Cookie: role=user"], True),
    ],
)
def test_a_rule_about_a_field_that_nobody_may_see_is_kept(lab: HttpLab, fields: list[str], arrives: bool) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = [f"GET http://localhost:{server.port}/list HTTP/1.1", f"Host: localhost:{server.port}", *fields]
        head += [f"Proxy-Authorization: Bearer {lab.token()}", "Connection: close", "", ""]
        answer = talk(lab.ports["proxy"], "\r\n".join(head).encode())
        assert answer.startswith(b"HTTP/1.1 200" if arrives else b"HTTP/1.1 403"), answer
        assert bool(server.received) is arrives


# ---------------------------------------------------------------- what an approver sees


@pytest.mark.e2e
def test_who_approves_sees_the_fields_that_say_what_is_done(lab: HttpLab) -> None:
    with RawServer(lambda c, h: c.sendall(ok())) as server:
        head = [f"COPY http://localhost:{server.port}/held/payroll HTTP/1.1", f"Host: localhost:{server.port}"]
        head += [f"Proxy-Authorization: Bearer {lab.token()}", "Destination: /public/payroll", "User-Agent: curl"]
        head += ["Content-Type: application/json", "X-Api-Key: k1234567890abcdef", "Content-Length: 2"]
        answer = talk(lab.ports["proxy"], "\r\n".join([*head, "Connection: close", "", ""]).encode() + b"{}")
        assert b" 403 " in answer
        ticket = json.loads(answer.partition(b"\r\n\r\n")[2])["ticket"]
    shown = lab.cli("approvals", "show", ticket, "--json", token=lab.token("ann", "oncall"))
    params = json.loads(shown.stdout)["params"]
    assert {"Destination: /public/payroll", "Content-Type: application/json", "X-Api-Key: [withheld]"} <= set(params)
    assert not any(param.lower().startswith(("user-agent:", "host:", "content-length:")) for param in params)
    assert params[-2] == "{}"


# ---------------------------------------------------------------- small inputs that would take long


def test_brackets_without_an_end_keep_nobody_waiting() -> None:
    many = 200_000
    request = Request("POST", "https", read_target("/?" + "[" * 16_000 + "=1", "api.example", 443), (FORM,))
    asks = ("http.query.role", "http.json.role")
    body = b"a" + b"[" * many + b"=1&role[x]=admin&items[0][id]=7"
    found = analyse(request, (*asks, "http.json.items[].id"), body).facts  # quadratic, it took hours
    assert found["http.json.role"] == ("admin",)
    assert found["http.json.items[].id"] == ("7",)
