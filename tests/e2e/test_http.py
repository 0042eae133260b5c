"""HTTP through the gateway with real clients: curl and Python, forward proxy and registered API, HTTP/1 and HTTP/2."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_lab import HttpLab
from tests.support.journal import await_records, records


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(inspect_body_bytes=4 * 1024 * 1024) as running:
        yield running


def split(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the last answer that curl -i printed."""
    while True:
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        status = int(lines[0].split()[1])
        if status != 100 and b"Connection established" not in head:
            break
        raw = body
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    return status, headers, body


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_request_through_the_proxy(lab: HttpLab, version: str) -> None:
    status, _, body = split(lab.curl(version, lab.secure.url("/hello?x=1")).stdout)
    assert status == 200
    assert json.loads(body)["path"] == "/hello?x=1"
    seen = lab.secure.requests[-1]
    assert seen.header("proxy-authorization") is None
    assert seen.header("authorization") is None


def test_plain_http_through_the_proxy(lab: HttpLab) -> None:
    status, _, body = split(lab.curl(lab.plain.url("/hello")).stdout)
    assert (status, json.loads(body)["path"]) == (200, "/hello")
    assert lab.plain.requests[-1].header("proxy-authorization") is None


def test_the_clients_own_credential_for_the_destination_goes_on(lab: HttpLab) -> None:
    split(lab.curl("-H", "Authorization: Bearer own-token", "-H", "Cookie: a=b", lab.secure.url("/hello")).stdout)
    seen = lab.secure.requests[-1]
    assert seen.header("authorization") == "Bearer own-token"
    assert seen.header("cookie") == "a=b"


def test_a_registered_api_gets_the_gateways_credential_only(lab: HttpLab) -> None:
    status, _, _ = split(lab.api("/hello").stdout)
    assert status == 200
    sent = [value for key, value in lab.secure.requests[-1].headers if key.lower() == "authorization"]
    assert sent == ["Bearer upstream-s3cr3t-key"]


@pytest.mark.parametrize("token", ["bad", "e30.e30.e30"])
def test_no_identity_no_connection(lab: HttpLab, token: str) -> None:
    before = len(lab.secure.requests)
    done = lab.curl(lab.secure.url("/hello"), token=token)
    assert b"407" in done.stdout.split(b"\r\n")[0]
    assert split(lab.api("-H", "Authorization: Bearer x", "/hello", token=token).stdout)[0] == 401
    assert len(lab.secure.requests) == before


def test_without_a_token_the_client_is_told_what_to_send(lab: HttpLab) -> None:
    status, headers, body = split(lab.curl(lab.plain.url("/hello"), token=None).stdout)
    assert status == 407
    assert headers["proxy-authenticate"].startswith("Basic")
    assert "token" in json.loads(body)["detail"]


@pytest.mark.slow
def test_an_expired_token_is_refused_in_an_open_tunnel(lab: HttpLab) -> None:
    token = lab.token("short", ttl=2.0)
    script = f"""
import http.client, ssl, time, base64
tls = ssl.create_default_context(cafile={str(lab.proxy_ca)!r})
c = http.client.HTTPSConnection("127.0.0.1", {lab.ports["proxy"]}, context=tls)
auth = base64.b64encode(b"ci:" + {token.encode()!r}).decode()
c.set_tunnel("localhost", {lab.secure.port}, {{"Proxy-Authorization": "Basic " + auth}})
c.request("GET", "/hello"); print(c.getresponse().read() and "ok")
time.sleep(8)  # its 2 seconds, and `leeway`
try:
    c.request("GET", "/hello"); r = c.getresponse(); r.read(); print(r.status)
except (OSError, http.client.HTTPException):
    print("closed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() in (["ok", "407"], ["ok", "closed"]), done.stderr


def test_denied_requests_never_arrive(lab: HttpLab) -> None:
    for words in (
        [lab.secure.url("/admin/users")],
        ["--path-as-is", lab.secure.url("/a/../admin/users")],
        ["--path-as-is", lab.secure.url("/a/%2e%2e/admin/users")],
        ["--path-as-is", lab.secure.url("//admin/users")],
        [lab.secure.url("/%61dmin/users")],
        [lab.secure.url("/ADMIN/users")],
        ["-X", "POST", "-d", "x", lab.secure.url("/elsewhere")],
    ):
        before = len(lab.secure.requests)
        status, headers, body = split(lab.curl(*words).stdout)
        assert status == 403, words
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["rule"]
        assert len(lab.secure.requests) == before


def test_destinations_that_no_rule_names_are_refused(lab: HttpLab) -> None:
    status, _, body = split(lab.curl("http://192.0.2.1/").stdout)
    assert status == 403
    assert "no rule allows" in json.loads(body)["detail"]


def test_a_body_is_judged_before_any_of_it_leaves(lab: HttpLab) -> None:
    before = len(lab.secure.requests)
    secret = "ghp_" + "a1B2" * 9
    for body in (f'{{"token": "{secret}"}}', "card 4111 1111 1111 1111"):
        status, _, answer = split(lab.curl("-d", body, lab.secure.url("/echo")).stdout)
        assert status == 403, answer
        assert "exfil." in json.loads(answer)["detail"]
    assert len(lab.secure.requests) == before


def test_a_leak_in_query_or_header_is_refused(lab: HttpLab) -> None:
    before = len(lab.secure.requests)
    assert split(lab.curl(lab.secure.url("/echo?card=4111111111111111")).stdout)[0] == 403
    assert split(lab.curl("-H", "X-Note: 4111111111111111", lab.secure.url("/echo")).stdout)[0] == 403
    assert len(lab.secure.requests) == before


def test_a_leak_in_a_compressed_body_is_refused(lab: HttpLab, tmp_path: Path) -> None:
    import gzip

    packed = tmp_path / "body.gz"
    packed.write_bytes(gzip.compress(b"card 4111 1111 1111 1111"))
    words = ["-H", "Content-Encoding: gzip", "--data-binary", f"@{packed}", lab.secure.url("/echo")]
    before = len(lab.secure.requests)
    assert split(lab.curl(*words).stdout)[0] == 403
    words[1] = "Content-Encoding: x-unknown"
    assert split(lab.curl(*words).stdout)[0] == 403
    assert len(lab.secure.requests) == before


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_bodies_arrive_as_they_were_sent(lab: HttpLab, tmp_path: Path, version: str, size: int) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x00\x01\x02" * (size // 3 + 1))
    status, _, answer = split(lab.curl(version, "--data-binary", f"@{body}", lab.secure.url("/upload")).stdout)
    assert status == 200
    assert json.loads(answer)["digest"] == hashlib.sha256(body.read_bytes()).hexdigest()


def test_a_chunked_upload_arrives(lab: HttpLab, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x00y" * 100_000)
    words = ["--http1.1", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{body}", lab.secure.url("/upload")]
    assert json.loads(split(lab.curl(*words).stdout)[2])["body"] == 200_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_cap_needs_a_rule(lab: HttpLab, tmp_path: Path, chunked: bool) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x00z" * 4_000_000)
    words = ["--http1.1", *(["-H", "Transfer-Encoding: chunked"] if chunked else [])]
    words += ["-H", "Expect:", "--data-binary", f"@{body}", lab.secure.url("/upload")]
    before = len(lab.secure.requests)
    refused = lab.curl(*words)
    assert refused.returncode in (0, 55, 56)
    assert not refused.stdout or (split(refused.stdout)[0] in (413, 200) and b"413" in refused.stdout)
    assert len(lab.secure.requests) == before
    status, _, answer = split(lab.curl(*words, token=lab.token("ci", "uploaders")).stdout)
    assert status == 200
    assert json.loads(answer)["digest"] == hashlib.sha256(body.read_bytes()).hexdigest()


def test_a_leak_in_the_middle_of_a_stream_cuts_it(lab: HttpLab, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x00z" * 3_000_000 + b" card 4111 1111 1111 1111 " + b"\x00z" * 3_000_000)
    words = ["--http1.1", "-H", "Expect:", "--data-binary", f"@{body}", lab.secure.url("/upload")]
    done = lab.curl(*words, token=lab.token("ci", "uploaders"))
    assert done.returncode != 0 or split(done.stdout)[0] >= 400
    assert not any(b"4111" in seen.body for seen in lab.secure.requests)


def test_answers_are_masked_and_clear_for_the_trusted(lab: HttpLab) -> None:
    for path in ("/people", "/people.gz"):
        words = ["--compressed", lab.secure.url(path)]
        status, headers, body = split(lab.curl(*words).stdout)
        assert status == 200
        assert "etag" not in headers
        assert [row["email"] for row in json.loads(body)] == ["[masked]", "[masked]"]
        assert b"4111" not in body
        clear = split(lab.curl(*words, token=lab.token("ada", "trusted")).stdout)[2]
        assert b"ada@example.org" in clear
        assert b"4111 1111 1111 1111" in clear
    text = split(lab.curl(lab.secure.url("/text")).stdout)[2]
    assert text == b"write to [masked] or pay with [masked]\n"


def test_a_range_of_a_masked_answer_is_not_asked_for(lab: HttpLab) -> None:
    split(lab.curl("-r", "10-20", lab.secure.url("/people")).stdout)
    assert lab.secure.requests[-1].header("range") is None


def test_an_answer_of_a_refused_type_is_withheld(lab: HttpLab) -> None:
    status, _, body = split(lab.curl(lab.secure.url("/zip")).stdout)
    assert status == 403
    assert b"PK" not in body


def test_cookies_reach_the_client_and_nobody_else(lab: HttpLab) -> None:
    _, headers, _ = split(lab.curl(lab.secure.url("/cookie")).stdout)
    assert headers["set-cookie"].startswith("session=s3cr3t-cookie")
    everything = json.dumps(records(lab.state))
    assert "s3cr3t-cookie" not in everything
    assert "s3cr3t-cookie" not in lab.log.read_text()


def test_redirects_are_the_clients_business(lab: HttpLab) -> None:
    status, headers, _ = split(lab.curl(lab.secure.url("/redirect")).stdout)
    assert (status, headers["location"]) == (302, "http://169.254.169.254/latest/")
    assert split(lab.curl("http://169.254.169.254/latest/").stdout)[0] == 403


def test_events_arrive_as_they_are_sent(lab: HttpLab) -> None:
    argv = ["curl", "-sN", "--cacert", str(lab.proxy_ca), "--noproxy", "", "--proxy", lab.proxy(lab.token())]
    process = subprocess.Popen([*argv, lab.secure.url("/events")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    times = []
    for line in process.stdout:
        if line.startswith(b"data"):
            times.append(time.monotonic())
    assert process.wait(10) == 0
    process.stdout.close()
    assert len(times) == 3
    assert times[2] - times[0] > 0.2  # they did not come all at once


def test_large_answers_pass_with_bounded_memory(lab: HttpLab) -> None:
    pid = lab.process.pid
    before = _rss(pid)
    size = 300 * 1024 * 1024
    argv = ["curl", "-s", "-o", os.devnull, "-w", "%{size_download}", "--cacert", str(lab.proxy_ca), "--noproxy", ""]
    done = subprocess.run(
        [*argv, "--proxy", lab.proxy(lab.token()), lab.secure.url(f"/size/{size}")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == str(size)
    assert _rss(pid) - before < 60 * 1024


def _rss(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def test_a_held_request_waits_for_a_person_and_passes_once(lab: HttpLab) -> None:
    words = ["-X", "DELETE", lab.secure.url("/things/1")]
    argv = ["curl", "-si", "--cacert", str(lab.proxy_ca), "--noproxy", "", "--proxy", lab.proxy(lab.token())]
    before = len(lab.secure.requests)
    process = subprocess.Popen([*argv, *words], stdout=subprocess.PIPE)
    oncall = lab.token("olga", "oncall")
    ticket = _pending(lab, oncall)
    assert len(lab.secure.requests) == before
    assert lab.cli("approvals", "approve", ticket, token=oncall).returncode == 0
    out, _ = process.communicate(timeout=20)
    assert split(out)[0] == 200
    assert lab.secure.requests[-1].method == "DELETE"


def test_a_held_request_is_refused_by_a_person(lab: HttpLab) -> None:
    argv = ["curl", "-si", "--cacert", str(lab.proxy_ca), "--noproxy", "", "--proxy", lab.proxy(lab.token())]
    process = subprocess.Popen([*argv, "-X", "DELETE", lab.secure.url("/things/2")], stdout=subprocess.PIPE)
    oncall = lab.token("olga", "oncall")
    ticket = _pending(lab, oncall)
    assert lab.cli("approvals", "deny", ticket, "--reason", "not today", token=oncall).returncode == 0
    out, _ = process.communicate(timeout=20)
    status, _, body = split(out)
    assert status == 403
    assert "not today" in json.loads(body)["detail"]


def _pending(lab: HttpLab, token: str) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = json.loads(lab.cli("approvals", "list", "--json", token=token).stdout or "[]")
        rows = found if isinstance(found, list) else found.get("approvals", [])
        waiting = [row for row in rows if row.get("status", "pending") == "pending"]
        if waiting:
            return str(waiting[-1]["id"])
        time.sleep(0.1)
    raise AssertionError("nothing is held")


def test_containment_cuts_an_open_download(lab: HttpLab) -> None:
    argv = ["curl", "-sN", "--limit-rate", "2M", "-o", os.devnull, "--cacert", str(lab.proxy_ca), "--noproxy", ""]
    process = subprocess.Popen([*argv, "--proxy", lab.proxy(lab.token("mallory")), lab.secure.url("/size/50000000")])
    await_records(lab.state, lambda r: r.get("t") == "command" and "/size/50000000" in r["text"])
    done = lab.cli("contain", "mallory", "--reason", "test", token=lab.token("sam", "security"))
    assert done.returncode == 0, done.stderr
    assert process.wait(15) != 0
    refused = split(lab.curl(lab.plain.url("/hello"), token=lab.token("mallory")).stdout)
    assert refused[0] in (403, 407)


def test_everything_is_on_record(lab: HttpLab) -> None:
    split(lab.curl("-d", "note=hello", lab.secure.url("/echo?q=find-me")).stdout)
    found = await_records(lab.state, lambda r: r.get("t") == "command" and "find-me" in r["text"])
    command = found[-1]
    assert command["decision"] == "allow"
    assert command["effects"] == ["http.write"]
    answers = await_records(
        lab.state, lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (command["s"], command["n"])
    )
    assert answers[0]["tag"].startswith("200")
    started = [r for r in records(lab.state) if r.get("t") == "session.start" and r["s"] == command["s"]]
    assert started[0]["subject"] == "ci"
    text = json.dumps(records(lab.state)) + lab.log.read_text()
    assert "upstream-s3cr3t-key" not in text


def test_graphql_operations_are_rules(lab: HttpLab) -> None:
    def post(query: str) -> int:
        body = json.dumps({"query": query})
        words = ["-H", "content-type: application/json", "-d", body, lab.secure.url("/graphql")]
        return split(lab.curl(*words).stdout)[0]

    assert post("query { users { id } }") == 200
    assert post("mutation { dropUser(id: 1) { id } }") == 403
    assert post("mutation { x: dropUser(id: 1) { id } }") == 403
    assert post("mutation { ...f } fragment f on Mutation { dropUser(id: 1) { id } }") == 403
    assert post("mutation {{{") == 403


def test_python_and_git_style_environment_variables(lab: HttpLab) -> None:
    script = f"import urllib.request as u; print(u.urlopen({lab.secure.url('/hello')!r}).status)"
    env = {**os.environ, "HTTPS_PROXY": lab.proxy(lab.token()), "SSL_CERT_FILE": str(lab.proxy_ca), "NO_PROXY": ""}
    env.pop("no_proxy", None)
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "200", done.stderr


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
        b"\x00\x01\x02\x03",
        b"GET " + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_smuggling_and_nonsense_are_refused(lab: HttpLab, raw: bytes) -> None:
    before = len(lab.plain.requests) + len(lab.secure.requests)
    with socket.create_connection(("127.0.0.1", lab.ports["proxy"]), timeout=10) as connection:
        connection.sendall(raw)
        connection.settimeout(3)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
    assert not answer or answer.split()[1] >= b"400"
    assert len(lab.plain.requests) + len(lab.secure.requests) == before
    assert split(lab.curl(lab.plain.url("/hello")).stdout)[0] == 200  # the process lives


def test_what_comes_in_clear_where_tls_is_required_is_told_so_and_on_record(lab: HttpLab) -> None:
    token = lab.token()
    with socket.create_connection(("127.0.0.1", lab.ports["api"]), timeout=20) as client:
        client.sendall(f"CONNECT api.example:443 HTTP/1.1\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode())
        answer = b""
        while data := client.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"use https:// in its address" in answer
    (refused,) = await_records(
        lab.state, lambda r: r["t"] == "session.refused" and str(r["why"]).startswith("TLS is required here"), 1
    )
    assert refused["listener"] == "api"
    assert token not in json.dumps(records(lab.state))


def test_a_session_can_be_replayed(lab: HttpLab) -> None:
    """The answers as the client saw them: head and body, not only that there were some."""
    split(lab.curl("-d", "note=again", lab.secure.url("/echo?q=replay-me")).stdout)
    command = await_records(lab.state, lambda r: r.get("t") == "command" and "replay-me" in r["text"])[-1]
    answered = lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (command["s"], command["n"])  # noqa: E731
    await_records(lab.state, answered)
    done = lab.cli("replay", command["s"], "--instant", token=lab.token("sam", "security"))
    assert done.returncode == 0, done.stderr
    assert "HTTP/1.1 200" in done.stdout
    assert hashlib.sha256(b"note=again").hexdigest() in done.stdout  # the body: what the server makes of ours
    assert "cannot be shown" not in done.stdout
