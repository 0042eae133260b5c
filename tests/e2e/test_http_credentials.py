"""Registered APIs: each way in which the gateway shows its credential, which no client sees; and a hold that outlasts
its client's patience."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.support.tls import Authority
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok
from tests.support.http_server import HttpServer
from tests.support.journal import await_records, records

pytestmark = [pytest.mark.e2e]

SECRET = "upstream-s3cr3t-key"  # what the lab's gateway has in its environment


class Ways:
    """A lab with a listener for each way, and one whose holds are short."""

    def __init__(self) -> None:
        def adjust(document: dict[str, Any], authority: Authority) -> None:
            self.demanding = HttpServer(authority)
            context = self.demanding._server.socket.context  # type: ignore[attr-defined]  # it is a TLS socket
            context.load_verify_locations(str(authority.file))
            context.verify_mode = ssl.CERT_REQUIRED
            own = authority.client("gateway-at-billing")
            port = document["resources"][1]["port"]
            document["listeners"][0]["hold_wait"] = 0.5
            credential = {"provider": "env", "name": "BILLING_TOKEN"}
            tls = {"mode": "verify-full", "ca": str(authority.file)}
            mutual = tls | {"certificate": str(own.certificate), "key": str(own.key)}
            ways: dict[str, dict[str, Any]] = {
                "header": {"credential": credential, "http_auth": {"kind": "header", "header": "X-Billing-Key"}},
                "basic": {"credential": credential | {"user": "gateway"}, "http_auth": {"kind": "basic"}},
                "mutual": {"http_auth": {"kind": "none"}, "port": self.demanding.port, "tls": mutual},
                "stranger": {"http_auth": {"kind": "none"}, "port": self.demanding.port},
            }
            for name, way in ways.items():
                listener = dict(document["listeners"][1]) | {"name": name, "resource": name}
                document["listeners"].append(listener)
                resource = {"name": name, "protocol": "http", "host": "localhost", "port": port, "tls": tls}
                document["resources"].append(resource | way)
            plain = json.loads(json.dumps(document))  # YAML would refer from one place to another
            document.update(plain)

        self.lab = HttpLab(adjust=adjust)

    def ask(self, name: str, *words: str) -> bytes:
        ports = self.lab.ports
        ports["api"], before = ports[name], ports["api"]
        try:
            return self.lab.api(*words, "/hello").stdout
        finally:
            ports["api"] = before


@pytest.fixture(scope="module")
def ways() -> Iterator[Ways]:
    made = Ways()
    yield made
    made.demanding.__exit__()
    made.lab.stop()


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("header", "x-billing-key", SECRET),
        ("basic", "authorization", "Basic " + base64.b64encode(f"gateway:{SECRET}".encode()).decode()),
        ("api", "authorization", f"Bearer {SECRET}"),
    ],
)
def test_the_upstream_gets_the_gateways_credential_and_no_other(ways: Ways, name: str, header: str, value: str) -> None:
    answer = ways.ask(name, "-H", f"{header.title() if name == 'header' else 'X-Other'}: forged")
    assert b" 200 " in answer.split(b"\r\n")[0]
    seen = ways.lab.secure.requests[-1]
    assert [v for k, v in seen.headers if k.lower() == header][-1] == value
    if header == "authorization":
        assert len([v for k, v in seen.headers if k.lower() == header]) == 1
    assert value.encode() not in answer
    text = json.dumps(records(ways.lab.state))
    assert SECRET not in text
    assert value not in text


def test_a_client_certificate_is_the_gateways(ways: Ways) -> None:
    assert b" 200 " in ways.ask("mutual").split(b"\r\n")[0]
    assert not any(k.lower() == "authorization" for k, _ in ways.demanding.requests[-1].headers)
    count = len(ways.demanding.requests)
    refused = ways.ask("stranger")
    assert b" 502 " in refused.split(b"\r\n")[0]
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["status"] == 502
    assert len(ways.demanding.requests) == count


def test_who_waits_too_long_gets_a_ticket_and_passes_once_later(ways: Ways) -> None:
    lab = ways.lab
    words = ["-X", "DELETE", lab.secure.url("/things/late")]
    count = len(lab.secure.requests)
    first = lab.curl(*words).stdout
    told = json.loads(first.rpartition(b"\r\n\r\n")[2])
    assert told["status"] == 403
    assert told["ticket"] in told["detail"]
    assert len(lab.secure.requests) == count
    oncall = lab.token("olga", "oncall")
    done = lab.cli("approvals", "approve", told["ticket"], token=oncall)
    assert done.returncode == 0, done.stderr
    assert b" 200 " in lab.curl(*words).stdout.rpartition(b"HTTP/1.1")[2].split(b"\r\n")[0]
    assert lab.secure.requests[-1].path == "/things/late"
    again = json.loads(lab.curl(*words).stdout.rpartition(b"\r\n\r\n")[2])
    assert again["status"] == 403
    assert again["ticket"] != told["ticket"]
    assert len(await_records(lab.state, lambda r: r["t"] == "approval.spent")) == 1


def test_no_answer_leads_to_another_protocol(ways: Ways) -> None:
    """HTTP/3 would go past the gateway."""
    said = ok(b"{}", 'alt-svc: h3=":443"; ma=86400', "alt-used: elsewhere", "x-kept: 1")
    with RawServer(lambda c, h: c.sendall(said)) as server:
        answer = ways.lab.curl(server.url("/hello")).stdout.lower()
        assert b"x-kept: 1" in answer
        assert b"alt-" not in answer
