"""What an adversary with a valid token tried against the HTTP gateway in places that rules, masks and detectors see in
another way than the upstream does."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from wsproto.frame_protocol import FrameProtocol

from addons.web.inspect import Outbound
from protocols.contract import Effect
from protocols.http.analysis import Request, analyse
from protocols.http.targets import BadTarget, host_name, read_target
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok, talk
from tests.support.http_sockets import Socket, echo
from tests.support.journal import records

MAIL = b"ada@example.org"
POLICY = """
version: 1
name: web3
description: everything but what is named
rules:
  - {id: all, description: all of it, allow: {effects: [http.read, http.write, http.delete, http.upgrade]}}
  - {id: people, description: addresses may leave, allow: {effects: [exfil.personal]}}
  - {id: no-admin, description: nobody administers, deny: {effects: ["http.*"], http: {paths: ["/admin*"]}}}
  - {id: no-loss, description: nothing is deleted, deny: {effects: [http.delete]}}
  - {id: no-drop, description: users stay, deny: {effects: ["http.*"], http: {operations: [mutation.dropUser]}}}
  - {id: looked-at, description: a person looks, hold: {effects: [http.read], http: {paths: ["/held*"]}}}
  - {id: by-type, description: JSON, mask: {detect: [email], http: {paths: ["/type*"], response_types: ["*/json"]}}}
  - {id: by-status, description: what there is, mask: {detect: [email], http: {paths: ["/status*"], statuses: ["2*"]}}}
  - {id: by-operation, description: people, mask: {detect: [email], http: {operations: [query.people]}}}
  - {id: by-field, description: what admins see, mask: {detect: [email], http: {json: {role: [admin]}}}}
  - {id: sockets, description: messages, mask: {detect: [email], http: {paths: ["/ws*"], response_types: ["*/json"]}}}
"""


def _own_header(document: dict[str, Any], _: object) -> None:
    document["listeners"][0]["hold_wait"] = 0.3
    document["resources"][1]["http_auth"] = {"kind": "header", "header": "X-Api-Key"}


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(policy=POLICY, adjust=_own_header) as running:
        yield running


def ask(
    lab: HttpLab, first: str, *headers: str, body: bytes = b"", says: bytes = b"", host: str = "localhost"
) -> tuple[int, bytes, bytes]:
    """Status, what the upstream got, and the answer. `SERVER` stands for the upstream."""
    with RawServer(lambda c, h: c.sendall(says or ok())) as server:
        lines = [first, f"Proxy-Authorization: Bearer {lab.token()}", "Host: SERVER", *headers, "Connection: close"]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        sent = "\r\n".join([*lines, "", ""]).replace("SERVER", f"{host}:{server.port}").encode() + body
        answer = talk(lab.ports["proxy"], sent, timeout=3.0)
        return int(answer.split(b" ", 2)[1]), server.received, answer


def analysed(method: str, path: str, *headers: tuple[str, str], body: bytes = b"", asks: tuple[str, ...] = ()) -> Any:
    return analyse(Request(method, "https", read_target(path, "api.example", 443), headers), asks, body)


# ---------------------------------------------------------------- masks that ask about more than the request's head


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/type", b""),
        ("/status", b""),
        ("/api", b'{"query": "{ people { email } }"}'),
        ("/api", b'{"role": "admin"}'),
    ],
)
def test_masks_by_type_status_operation_and_field_apply_without_another_rule_that_asks(
    lab: HttpLab, path: str, body: bytes
) -> None:
    said = ok(b'{"email": "' + MAIL + b'"}')
    method = "POST" if body else "GET"
    status, received, answer = ask(
        lab, f"{method} http://SERVER{path} HTTP/1.1", "Content-Type: application/json", body=body, says=said
    )
    assert (status, bool(received)) == (200, True)
    assert b"email" in answer
    assert MAIL not in answer


@pytest.mark.e2e
def test_an_answer_of_another_type_stays_as_it_is(lab: HttpLab) -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\r\n" + MAIL
    assert ask(lab, "GET http://SERVER/type HTTP/1.1", says=said)[2].endswith(MAIL)


@pytest.mark.e2e
def test_an_answer_that_does_not_say_its_type_is_masked(lab: HttpLab) -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + MAIL
    assert MAIL not in ask(lab, "GET http://SERVER/type HTTP/1.1", says=said)[2]


@pytest.mark.e2e
def test_what_follows_an_upgrade_may_be_of_any_type(lab: HttpLab) -> None:
    with RawServer(echo) as server, Socket(lab.ports["proxy"], lab.token(), server, "/ws") as client:
        client.send(bytes(client.frames.send_data("write to " + MAIL.decode())))
        assert MAIL.decode() not in client.receive()


# ---------------------------------------------------------------- a request that the upstream takes for another


@pytest.mark.e2e
@pytest.mark.parametrize(
    "headers",
    [
        ("X-Original-URL: /admin/users",),
        ("X-Rewrite-URL: /x/%2e%2e/admin",),
        ("x_original_url: //admin",),
        ("X-Forwarded-Uri: https://elsewhere.example/admin?x=1",),
        ("X-HTTP-Method-Override: DELETE, GET",),
        ("X-HTTP-Method-Override: GET,delete",),
    ],
)
def test_headers_that_stand_for_path_or_method_are_read_as_servers_read_them(
    lab: HttpLab, headers: tuple[str, ...]
) -> None:
    assert ask(lab, "POST http://SERVER/public HTTP/1.1", *headers)[:2] == (403, b"")


@pytest.mark.e2e
def test_webdav_writes_to_another_path_and_takes_away(lab: HttpLab) -> None:
    assert ask(lab, "COPY http://SERVER/a HTTP/1.1", "Destination: http://SERVER/admin/a")[:2] == (403, b"")
    assert ask(lab, "MOVE http://SERVER/a HTTP/1.1", "Destination: /b")[:2] == (403, b"")
    assert ask(lab, "COPY http://SERVER/a HTTP/1.1", "Destination: /b")[0] == 200


@pytest.mark.e2e
def test_graphql_in_an_upload_and_in_a_query_of_any_path(lab: HttpLab) -> None:
    upload = (
        b'--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{"query": "mutation { dropUser }"}\r\n--b--'
    )
    kind = "Content-Type: multipart/form-data; boundary=b"
    assert ask(lab, "POST http://SERVER/api HTTP/1.1", kind, body=upload)[:2] == (403, b"")
    assert ask(lab, "GET http://SERVER/api?query=mutation%7BdropUser%7D HTTP/1.1")[:2] == (403, b"")
    assert ask(lab, "GET http://SERVER/api?query=plain+words HTTP/1.1")[0] == 200


@pytest.mark.parametrize("name", ["Role", "ROLE", "role[]", "role[0]", "%72ole", "+role"])
def test_a_parameter_is_known_under_each_name_that_servers_take_for_it(name: str) -> None:
    found = analysed("GET", f"/x?role=user&{name}=admin", asks=("http.query.role",)).facts["http.query.role"]
    assert set(found) == {"user", "admin"}
    assert "http.query.role" not in analysed("GET", "/x?roles=admin", asks=("http.query.role",)).facts


@pytest.mark.parametrize("name", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[fe80::1%25eth0]", "[::1%lo]"])
def test_other_forms_of_an_address_do_not_pass_for_names(name: str) -> None:
    with pytest.raises(BadTarget):
        host_name(name)


def test_an_address_has_one_form() -> None:
    assert host_name("[::ffff:192.0.2.1]") == host_name("192.0.2.1.") == "192.0.2.1"
    assert host_name("3com.example") == "3com.example"


@pytest.mark.e2e
@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
def test_other_forms_of_an_address_do_not_arrive(lab: HttpLab, host: str) -> None:
    assert ask(lab, "GET http://SERVER/x HTTP/1.1", host=host)[:2] == (400, b"")


# ---------------------------------------------------------------- credentials and identities of the client's own


@pytest.mark.e2e
def test_the_upstream_gets_one_credential_and_it_is_the_gateways(lab: HttpLab) -> None:
    lab.api("-H", "X-Api-Key: static", "-H", "X_API_KEY: static", "/own")
    sent = [(name.lower(), value) for name, value in lab.secure.requests[-1].headers]
    assert [value for name, value in sent if name.replace("_", "-") == "x-api-key"] == ["upstream-s3cr3t-key"]


@pytest.mark.e2e
def test_headers_that_say_who_somebody_is_end_at_the_gateway(lab: HttpLab) -> None:
    said = ["Remote-User", "Remote_Groups", "X-Forwarded-Groups", "X-WEBAUTH-ROLE", "X-Auth-Request-Groups"]
    said += ["X-Remote-Extra-Scopes", "X-Forwarded-Client-Cert", "X-Amzn-Oidc-Identity"]
    lab.api(*(word for name in said for word in ("-H", f"{name}: root")), "/who")
    assert "root" not in [value for _, value in lab.secure.requests[-1].headers]


@pytest.mark.e2e
@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "Cookie: a=b; session={}", "X-Auth-Token: {}"])
def test_the_token_of_this_gateway_is_not_sent_elsewhere(lab: HttpLab, form: str) -> None:
    token = lab.token()
    before = len(lab.plain.requests)
    done = lab.curl("-H", form.format(token), lab.plain.url("/x"), token=token)
    assert b"exfil.credential" in done.stdout
    assert len(lab.plain.requests) == before
    assert token not in str(records(lab.state))
    assert b" 200 " in lab.curl("-H", form.format("another"), lab.plain.url("/x"), token=token).stdout


@pytest.mark.e2e
def test_an_approval_is_not_for_the_same_words_of_another_account(lab: HttpLab) -> None:
    """Who approves sees that there is a credential; with another one it would be another request there."""
    token, url = lab.token("ci"), lab.plain.url("/held")
    first = lab.curl("-H", "Authorization: Bearer mine", url, token=token)
    ticket = json.loads(first.stdout.partition(b"\r\n\r\n")[2])["ticket"]
    done = lab.cli("approvals", "approve", ticket, token=lab.token("ann", "oncall"))
    assert done.returncode == 0, done.stderr
    for other in (["-H", "Authorization: Bearer admins"], ["-H", "Cookie: a=b"], []):
        assert b" 403 " in lab.curl(*other, url, token=token).stdout
    assert b" 200 " in lab.curl("-H", "Authorization: Bearer mine", url, token=token).stdout
    assert b" 403 " in lab.curl("-H", "Authorization: Bearer mine", url, token=token).stdout
    assert [seen.header("authorization") for seen in lab.plain.requests if seen.path == "/held"] == ["Bearer mine"]
    assert "Bearer mine" not in str(records(lab.state))


# ---------------------------------------------------------------- what keeps everybody waiting


def test_parts_of_a_form_are_read_once_each() -> None:
    """Megabytes of beginnings of parts took minutes, on the loop that carries all traffic."""
    kind = ("Content-Type", "multipart/form-data; boundary=b")
    assert Effect.HTTP_DELETE not in analysed("POST", "/x", kind, body=b"name=_method\n" * 300_000).effects
    end = b'name="_method"\n\ndelete'
    assert Effect.HTTP_DELETE in analysed("POST", "/x", kind, body=b"name=_method\n" * 300_000 + end).effects


@pytest.mark.parametrize("name", ['name="_method"', "name = _method", "name='_METHOD'", "name*=utf-8''_method"])
def test_a_part_that_names_the_method_is_found_however_it_is_written(name: str) -> None:
    body = b"--b\r\nContent-Disposition: form-data; %b\r\nX: y\r\n\r\nDELETE\r\n--b--" % name.encode()
    kind = ("Content-Type", "multipart/form-data; boundary=b")
    assert Effect.HTTP_DELETE in analysed("POST", "/x", kind, body=body).effects


def test_json_of_millions_of_parts_is_not_taken_apart() -> None:
    kind = ("Content-Type", "application/json")
    found = analysed("POST", "/x", kind, body=b"[" + b"1," * 700_000 + b"1]", asks=("http.json.role",))
    assert found.facts["http.json.role"] == ("*",)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_message_of_megabytes_keeps_nobody_else_waiting(lab: HttpLab) -> None:
    token = lab.token()
    with RawServer(echo) as server, Socket(lab.ports["proxy"], token, server, "/ws") as client:
        order: list[str] = []
        large = bytes(FrameProtocol(client=True, extensions=[]).send_data(os.urandom(12 << 20), fin=True))

        def messages() -> None:
            client.timeout(60)
            client.send(large)
            client.receive()
            order.append("message")

        thread = threading.Thread(target=messages)
        thread.start()
        for _ in range(3):
            assert b" 200 " in lab.curl(lab.plain.url("/small"), token=token).stdout
        order.append("request")
        thread.join(60)
        assert order == ["request", "message"]


BOMB = gzip.compress(b"4111 1111 1111 1112 " * 1_600_000, 9)


@pytest.mark.e2e
def test_a_header_that_opens_to_megabytes_is_not_opened_and_does_not_pass(lab: HttpLab) -> None:
    """Each such request kept everybody waiting for seconds."""
    status, received, answer = ask(lab, "GET http://SERVER/x HTTP/1.1", f"X-Trace: {base64.b64encode(BOMB).decode()}")
    assert (status, received) == (403, b"")
    assert b"more is packed in its head" in answer
    assert ask(lab, "GET http://SERVER/x HTTP/1.1", f"X-Trace: {base64.b64encode(os.urandom(3000)).decode()}")[0] == 200


def test_a_small_body_that_holds_much_is_not_looked_at_on_the_event_loop() -> None:
    outbound, session = Outbound(), cast(Any, SimpleNamespace(identity="ci"))
    for body in (BOMB[:30_000], base64.b64encode(BOMB[:20_000]), b"x" * 100_000):
        assert outbound.look_at_once(session, body) is None
    looked = outbound.look_at_once(session, base64.b64encode(b"ghp_" + b"a1B2" * 9))
    assert looked is not None
    assert looked.effects == {Effect.EXFIL_CREDENTIAL}


@pytest.mark.e2e
@pytest.mark.slow
def test_a_body_that_holds_much_keeps_nobody_else_waiting(lab: HttpLab) -> None:
    token = lab.token()
    order: list[str] = []
    path = lab.folder / "bomb"
    path.write_bytes(BOMB)

    def upload() -> None:
        lab.curl("--data-binary", f"@{path}", lab.plain.url("/upload"), token=token)
        order.append("upload")

    thread = threading.Thread(target=upload)
    thread.start()
    time.sleep(0.3)  # it is being looked at
    assert b" 200 " in lab.curl(lab.plain.url("/small"), token=token).stdout
    order.append("request")
    thread.join(60)
    assert order == ["request", "upload"]


@pytest.mark.e2e
@pytest.mark.slow
def test_an_answer_that_opens_to_megabytes_is_masked_bit_by_bit(lab: HttpLab) -> None:
    """Some KB of an upstream's kept everybody waiting for seconds."""
    packed = gzip.compress(b"[" + b'"a@bcd.example",' * 250_000 + b"1]", 9)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    token = lab.token()
    order: list[str] = []
    with RawServer(lambda c, h: c.sendall(head % len(packed) + packed)) as server:

        def download() -> None:
            answer = lab.curl("--compressed", "-o", str(lab.folder / "got"), server.url("/type"), token=token)
            order.append(f"download {answer.returncode}")

        thread = threading.Thread(target=download)
        thread.start()
        time.sleep(0.3)  # it is being masked
        assert b" 200 " in lab.curl(lab.plain.url("/small"), token=token).stdout
        order.append("request")
        thread.join(60)
    assert order == ["request", "download 0"]
    got = (lab.folder / "got").read_bytes()
    assert b"a@bcd.example" not in got
    assert got.count(b'"[masked]"') == 250_000
