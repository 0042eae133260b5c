"""What people and files see of HTTP: mitmweb in the middle of requests, `-w` files; and nobody sends from there."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer, ok
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

SECRET = "ghp_" + "e5F6" * 9
PEOPLE = {"/people": b"[masked]"}


class Web:
    """mitmweb's own API."""

    def __init__(self, lab: HttpLab) -> None:
        self._base = f"http://127.0.0.1:{lab.web_port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        both = "ab" * 16  # against forged requests mitmweb wants the same in a cookie and in a header
        self._headers = {"Authorization": f"Bearer {lab.web_password}", "Content-Type": "application/json"}
        self._headers |= {"Cookie": f"_mitmproxy_xsrf={both}", "X-XSRFToken": both}

    def ask(self, path: str, method: str = "GET", data: Any = None) -> bytes:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self._base + path, body, self._headers, method=method)
        with self._opener.open(request, timeout=10) as answer:
            return bytes(answer.read())

    def flows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ask("/flows"))
        return found

    def everything(self) -> bytes:
        """The list, and the contents of all messages."""
        text = self.ask("/flows")
        for flow in json.loads(text):
            for side in ("request", "response"):
                if flow.get(side) is None:
                    continue
                try:
                    text += self.ask(f"/flows/{flow['id']}/{side}/content.data")
                except urllib.error.HTTPError:
                    continue  # it has none
        return text


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(launcher="mitmweb") as running:
        yield running


@pytest.fixture(scope="module")
def web(lab: HttpLab) -> Web:
    return Web(lab)


def test_row_28_people_who_look_see_no_secret_at_any_moment(lab: HttpLab, web: Web) -> None:
    token = lab.token("looked-at")
    seen: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(web.everything())
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()

    def slowly(connection: socket.socket, head: bytes) -> None:
        time.sleep(0.2)
        body = json.dumps([{"email": "ada@example.org", "card": "4111 1111 1111 1111"}]).encode()
        start = ok(body, "set-cookie: session=c00kie-value")
        connection.sendall(start[:-20])
        time.sleep(0.2)
        connection.sendall(start[-20:])

    try:
        words = [
            "-H",
            f"Authorization: Bearer {SECRET}",
            "-H",
            "Cookie: a=c00kie-value",
            "-H",
            "X-Api-Key: c00kie-value",
        ]
        with RawServer(slowly) as server:
            for path in ("/people", "/people?x=1"):
                answer = lab.curl(*words, server.url(path), token=token).stdout
                assert b"[masked]" in answer
                assert SECRET.encode() in server.received
        lab.api("/hello", token=token)
        lab.curl("-d", f"key={SECRET}", lab.secure.url(f"/echo?k={SECRET}"), token=token)
        lab.curl("-d", "note=shown", lab.secure.url("/echo"), token=token)
        time.sleep(0.3)
    finally:
        over.set()
        looking.join(20)
    seen.append(web.everything())
    assert len(seen) > 5
    for text in seen:
        for hidden in (token, SECRET, "c00kie-value", "upstream-s3cr3t-key", "ada@example.org", "4111 1111"):
            assert hidden.encode() not in text
    shown = seen[-1]
    assert b"note=shown" in shown
    assert b"[masked]" in shown
    flow = next(f for f in web.flows() if f["request"]["path"].startswith("/people"))
    assert flow["comment"] == "looked-at: allow by http-lab/read"
    assert any(f["comment"].startswith("looked-at: deny by") and f["marked"] for f in web.flows())


def test_nothing_can_be_sent_from_mitmweb(lab: HttpLab, web: Web) -> None:
    lab.curl(lab.plain.url("/hello"))
    flow = next(f for f in web.flows() if f["request"]["path"] == "/hello")
    before = len(lab.plain.requests) + len(lab.secure.requests)
    taken = []
    for path, method, data in (
        (f"/flows/{flow['id']}", "PUT", {"request": {"path": "/admin", "method": "POST"}}),
        (f"/flows/{flow['id']}/replay", "POST", None),
        (f"/flows/{flow['id']}/duplicate", "POST", None),
        ("/commands/replay.client", "POST", {"arguments": ["@all"]}),
        ("/commands/view.flows.create", "POST", {"arguments": ["GET", lab.plain.url("/admin")]}),
        ("/commands/replay.client", "POST", {"arguments": ["@all"]}),
    ):
        try:
            web.ask(path, method, data if data is not None else {})
        except urllib.error.HTTPError:
            continue  # refused already
        taken.append(path)
    assert f"/flows/{flow['id']}" in taken
    assert "/commands/replay.client" in taken
    time.sleep(2.0)
    assert len(lab.plain.requests) + len(lab.secure.requests) == before


def test_an_intercepted_request_goes_as_it_was_judged(lab: HttpLab, web: Web) -> None:
    web.ask("/options", "PUT", {"intercept": "~u /intercepted"})
    try:
        before = len(lab.plain.requests)
        argv = ["curl", "-sS", "--max-time", "20", "--noproxy", "", "--proxy", lab.proxy(lab.token())]
        client = subprocess.Popen([*argv, lab.plain.url("/intercepted")], stdout=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while not (waiting := [f for f in web.flows() if f.get("intercepted")]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(lab.plain.requests) == before
        number = waiting[0]["id"]
        web.ask(
            f"/flows/{number}", "PUT", {"request": {"path": "/admin", "content": "smuggled", "headers": [["X", "y"]]}}
        )
        while any(f.get("intercepted") for f in web.flows()):
            web.ask(f"/flows/{number}/resume", "POST", {})
            time.sleep(0.1)
        out, _ = client.communicate(timeout=20)
        assert json.loads(out)["path"] == "/intercepted"
        assert [seen.path for seen in lab.plain.requests[before:]] == ["/intercepted"]
        assert lab.plain.requests[-1].body == b""
    finally:
        web.ask("/options", "PUT", {"intercept": ""})


def test_row_28_a_file_of_flows_has_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "flows"
    with HttpLab(more=["-w", str(file)]) as lab:
        token = lab.token("written")
        lab.curl(
            "-H",
            f"Authorization: Bearer {SECRET}",
            "-H",
            "Cookie: c00kie-value",
            lab.secure.url("/people"),
            token=token,
        )
        lab.curl("-d", f"key={SECRET}", lab.secure.url("/echo"), token=token)
        lab.curl(lab.secure.url("/cookie"), token=token)
        lab.api("/hello", token=token)
        deadline = time.monotonic() + 10
        while b"/cookie" not in file.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        written = file.read_bytes()
        for hidden in (token, SECRET, "c00kie", "s3cr3t-cookie", "upstream-s3cr3t-key", "ada@example.org"):
            assert hidden.encode() not in written
        assert b"written: deny by" in written


def test_a_pinned_client_is_refused_and_on_record(lab: HttpLab) -> None:
    done = lab.curl("--cacert", str(lab.authority.file), lab.secure.url("/hello"), token=lab.token("pinner"))
    assert done.returncode == 60
    found = await_records(lab.state, lambda r: r.get("t") == "tls.refused" and r["subject"] == "pinner")
    assert found[0]["host"] == "localhost"
    assert "http.opaque" in found[0]["why"]


def test_a_rule_lets_a_pinned_client_pass_unopened(lab: HttpLab) -> None:
    words = ["--cacert", str(lab.authority.file), lab.secure.url("/hello")]
    done = lab.curl(*words, token=lab.token("pinner", "pinned"))
    assert done.returncode == 0, done.stderr
    assert b'"path": "/hello"' in done.stdout
    found = await_records(lab.state, lambda r: r.get("t") == "command" and "(opaque)" in r["text"])
    assert found[0]["effects"] == ["http.opaque"]
    ended = await_records(
        lab.state, lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (found[0]["s"], found[0]["n"])
    )
    assert ended[0]["bytes"] > 500
    assert ended[0]["sent"] > 100
