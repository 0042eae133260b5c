"""Attacks on Kubernetes through a running gateway: rows 8, 20, 21, 28 and 34 of the attack list."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_h2 import H2Client
from tests.support.journal import records
from tests.support.kube_lab import CARD, KubeLab
from tests.support.lying_apiserver import LyingServer

pytestmark = [pytest.mark.slow]

VALUE = base64.b64encode(b"row-20-is-a-secret").decode()
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab() as running:
        running.apiserver.create("secrets", "default", {"metadata": {"name": "db"}, "data": {"password": VALUE}})
        yield running


def raw(lab: KubeLab, sent: bytes) -> bytes:
    """Bytes to the gateway as they are, and what it answers until it is done."""
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    with (
        socket.create_connection(("127.0.0.1", lab.ports["cluster"]), 15) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(sent)
        answer = b""
        secure.settimeout(5)
        try:
            while not _complete(answer) and (data := secure.recv(65536)):
                answer += data
        except (TimeoutError, ssl.SSLError, ConnectionError):
            pass  # it waits for more, or it has cut us off
        return answer


def _complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def upgrade(path: str, token: str, *more: str, method: str = "GET") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {token}", "Connection: Upgrade",
        "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", *more,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


V5 = "Sec-WebSocket-Protocol: v5.channel.k8s.io"


# ---------------------------------------------------------------- row 20: what a GET can do


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/default/pods/web/exec?command=id&stdout=true",
        "/api/v1/namespaces/default/pods/web/attach?stdout=true",
        "/api/v1/namespaces/default/pods/web/portforward",
        "/api/v1/nodes/n1/proxy/exec/default/web/main?command=id",
        "/api/v1/proxy/nodes/n1/exec/default/web/main?command=id",
        "/api/v1/namespaces/default/pods/web/proxy/",
        "/api/v1/namespaces/default/services/web/proxy/",
    ],
)
def test_row_20_a_get_that_runs_something_is_no_reading(lab: KubeLab, path: str) -> None:
    before = [seen.target for seen in lab.apiserver.seen]
    answer = raw(lab, upgrade(path, lab.token("reader"), V5))
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert [seen.target for seen in lab.apiserver.seen] == before


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/default/pods/web/ex%65c?command=id",
        "/api/v1/namespaces/default/pods//web/exec?command=id",
        "/api/v1/namespaces/default/pods/web/../web/exec?command=id",
        "/api/v1/namespaces/default/pods/web/%2e%2e/db",
        "/API/v1/namespaces/default/secrets",
        "/api/v1/namespaces/default/Secrets/db",
        "/api/v1/namespaces/default/secrets/db/",
        "/api/v1/namespaces/default/secrets?watch=0&watch=1",
        "/api/v1/namespaces/default/secrets?Watch=1",
    ],
)
def test_row_20_other_spellings_do_not_arrive(lab: KubeLab, path: str) -> None:
    before = [seen.target for seen in lab.apiserver.seen]
    status, answer = lab.request("GET", path, lab.token("reader"))
    text = json.dumps(answer)
    assert VALUE not in text
    if status == 200:
        assert "masked" in text or "items" in text
    else:
        assert [seen.target for seen in lab.apiserver.seen] == before


@pytest.mark.parametrize(
    "name", ["Impersonate-User", "impersonate_user", "IMPERSONATE-GROUP", "Impersonate-Extra-Scopes"]
)
def test_row_20_a_clients_impersonation_never_arrives(lab: KubeLab, name: str) -> None:
    before = len(lab.apiserver.seen)
    token = lab.token("reader")
    head = f"GET /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n"
    answer = raw(lab, f"{head}{name}: admin\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert len(lab.apiserver.seen) == before


def test_row_20_what_a_front_proxy_says_is_stripped(lab: KubeLab) -> None:
    status, _ = lab.request(
        "GET", "/api/v1/pods", lab.token("reader"), X_Remote_User="system:admin", X_Remote_Group="system:masters"
    )
    assert status == 200
    assert not [name for name, _ in lab.apiserver.seen[-1].headers if name.lower().startswith("x-remote")]


@pytest.mark.parametrize("accept", ["application/vnd.kubernetes.protobuf", "application/cbor", "text/html"])
def test_row_20_secrets_in_a_format_that_is_not_masked(lab: KubeLab, accept: str) -> None:
    status, answer = lab.request("GET", "/api/v1/namespaces/default/secrets", lab.token("reader"), Accept=accept)
    assert status == 406
    assert VALUE not in json.dumps(answer)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "identity"])
def test_row_20_secrets_in_a_coded_answer(lab: KubeLab, coding: str) -> None:
    path = "/api/v1/namespaces/default/secrets/db"
    status, answer = lab.request("GET", path, lab.token("reader"), Accept_Encoding=coding)
    assert (status, VALUE in json.dumps(answer)) == (200, False)


def test_row_20_a_watch_over_a_websocket_would_pass_the_masks(lab: KubeLab) -> None:
    before = len(lab.apiserver.seen)
    answer = raw(lab, upgrade("/api/v1/namespaces/default/secrets?watch=1", lab.token("reader")))
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"only exec, attach and port-forward" in answer
    assert len(lab.apiserver.seen) == before


def test_row_20_frames_in_the_body_of_an_upgrade_would_be_seen_by_nobody(lab: KubeLab) -> None:
    path = f"/api/v1/namespaces/default/pods/{lab.pod()}/exec?command=cat&stdin=true&stdout=true"
    before = len(lab.apiserver.recordings)
    answer = raw(lab, upgrade(path, lab.token("dev", "operators"), V5, "Content-Length: 8") + b"\x82\x86\0\0\0\0\0id")
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"has no body" in answer
    assert len(lab.apiserver.recordings) == before


def test_row_20_a_second_token_among_the_channel_protocols_does_not_arrive(lab: KubeLab) -> None:
    path = f"/api/v1/namespaces/default/pods/{lab.pod()}/exec?command=true&stdout=true"
    other = "Sec-WebSocket-Protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWRtaW4"
    answer = raw(lab, upgrade(path, lab.token("dev", "operators"), other))
    assert answer.startswith(b"HTTP/1.1 101"), answer
    assert lab.apiserver.seen[-1].header("sec-websocket-protocol") == ["v5.channel.k8s.io"]


# ---------------------------------------------------------------- row 8, and other lies of an upstream


@pytest.fixture(scope="module")
def liar() -> Iterator[tuple[KubeLab, LyingServer]]:
    with KubeLab() as running, LyingServer(running.authority, running.apiserver) as server:
        yield running, server


REDIRECTS = [
    b"HTTP/1.1 302 Found\r\nLocation: https://attacker.example/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: //attacker.example/\r\nContent-Length: 0\r\n\r\n",
]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
SWITCHES = {
    "another protocol": SWITCH + b"Upgrade: h2c\r\n\r\n",
    "another channel protocol": SWITCH + b"Upgrade: websocket\r\nSec-WebSocket-Protocol: base64.channel.k8s.io\r\n\r\n",
    "no channel protocol": SWITCH + b"Upgrade: websocket\r\n\r\n",
    "compression": SWITCH
    + b"Upgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n"
    + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
}
EXEC = "/api/v1/namespaces/default/pods/web/exec?command=id&stdout=true&stderr=true"


@pytest.mark.parametrize("answer", REDIRECTS, ids=["302", "307"])
@pytest.mark.parametrize("path", [EXEC, "/api/v1/namespaces/default/pods"], ids=["exec", "list"])
def test_row_8_a_redirect_is_neither_followed_nor_passed_on(
    liar: tuple[KubeLab, LyingServer], answer: bytes, path: str
) -> None:
    lab, server = liar
    with server.saying(answer):
        told = raw(lab, upgrade(path, lab.token("dev", "operators"), V5)) if "exec" in path else b""
        if not told:
            status, body = lab.request("GET", path, lab.token("dev", "operators"))
            told = f"HTTP/1.1 {status} {json.dumps(body)}".encode()
    assert told.startswith(b"HTTP/1.1 502"), told
    assert b"attacker" not in told


@pytest.mark.parametrize("answer", SWITCHES.values(), ids=list(SWITCHES))
def test_an_upstream_that_switches_to_something_else(liar: tuple[KubeLab, LyingServer], answer: bytes) -> None:
    lab, server = liar
    with server.saying(answer + b"\x82\x10" + b"\x01row-20-is-a-secr"):
        told = raw(lab, upgrade(EXEC, lab.token("dev", "operators"), V5))
    assert told.startswith(b"HTTP/1.1 502"), told
    assert b"row-20" not in told


BROKEN = {
    "nothing": b"",
    "nonsense": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-type: appl",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}}",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_an_upstream_that_breaks_off_is_told_as_a_status(
    liar: tuple[KubeLab, LyingServer], answer: bytes, version: str
) -> None:
    """mitmproxy's own page is HTML, which kubectl shows as it is."""

    class Api:
        authority = liar[0].authority
        ports = {"api": liar[0].ports["cluster"]}  # noqa: RUF012 - read once

    lab, server = liar
    path = "/api/v1/namespaces/default/pods"
    with server.saying(answer):
        if version == "HTTP/2":
            with H2Client(Api(), token=lab.token("dev")) as client:  # type: ignore[arg-type]
                found = client.answer(client.request("GET", path))
                status, told = found.status, json.loads(found.body)
        else:
            status, told = lab.request("GET", path, lab.token("dev"))
    assert status == 502
    assert (told["kind"], told["status"], told["code"]) == ("Status", "Failure", 502)
    assert "upstream" in told["message"]


AGREED = SWITCH + b"Upgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"


@pytest.mark.parametrize(
    "frames",
    [
        b"\x81\x05\x01text",
        b"\x82\x05\x09data",
        b"\x82\x05\x00data",
        b"\x82\x05\x03data",
        b"\xc2\x05\x01data",
        b"\xff\xff",
    ],
    ids=["text", "unknown channel", "stdin from the server", "no status", "reserved bit", "no frame"],
)
def test_what_cannot_be_decoded_ends_the_stream(liar: tuple[KubeLab, LyingServer], frames: bytes) -> None:
    lab, server = liar
    with server.saying(AGREED + frames):
        told = raw(lab, upgrade(EXEC, lab.token("dev", "operators"), V5))
    assert told.startswith(b"HTTP/1.1 101"), told
    assert frames[2:] not in told.partition(b"\r\n\r\n")[2] or not frames[2:]
    assert b"ended by the gateway" in told


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/vnd.kubernetes.protobuf", b"k8s\x00" + VALUE.encode()),
        ("text/plain", VALUE.encode()),
        ("application/json", b'{"data": {"a": "' + VALUE.encode() + b'"'),
        ("application/json", b'["' + VALUE.encode() + b'"]'),
        ("", b'{"kind": "Secret", "data": {"password": "' + VALUE.encode() + b'"}}'),
    ],
    ids=["protobuf", "text", "half", "a list", "no type"],
)
def test_an_answer_that_cannot_be_masked_is_withheld(liar: tuple[KubeLab, LyingServer], kind: str, body: bytes) -> None:
    lab, server = liar
    typed = f"Content-Type: {kind}\r\n".encode() if kind else b""
    head = b"HTTP/1.1 200 OK\r\n" + typed + f"Content-Length: {len(body)}\r\n\r\n".encode()
    token = lab.token("reader")
    asked = f"GET /api/v1/namespaces/default/secrets/db HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n\r\n"
    with server.saying(head + body):
        told = raw(lab, asked.encode())
    assert VALUE.encode() not in told
    assert b"row-20" not in told


# ---------------------------------------------------------------- row 21: what a terminal can hide


def test_row_21_what_is_masked_does_not_depend_on_how_it_is_cut(lab: KubeLab) -> None:
    kubectl = lab.kubectl("dev", "operators")
    script = "for c in 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1; do printf $c; done; echo"
    assert kubectl("exec", lab.pod(), "--", "sh", "-c", script) == "[masked]\n"


def test_row_21_the_command_that_is_judged_is_the_one_that_runs(lab: KubeLab) -> None:
    """Words that a shell would join are shown apart, and a second `command` is part of it."""
    kubectl = lab.kubectl("dev", "operators")
    name = lab.pod()
    kubectl("exec", name, "--", "echo", "a b", "c")
    text = [r for r in records(lab.state) if r["t"] == "command" and f" {name} " in r["text"]][-1]["text"]
    assert "echo 'a b' c" in text
    assert kubectl.run("exec", name, "--", "rm", "x").returncode == 1


# ---------------------------------------------------------------- row 28: the record is no leak


def test_row_28_kubectl_create_secret_is_not_in_the_record(lab: KubeLab) -> None:
    kubectl = lab.kubectl("writer", "editors")
    kubectl("create", "secret", "generic", "pw", "--from-literal=password=row-28-in-the-clear")
    kubectl("create", "configmap", "cm", "--from-literal=note=kept")
    encoded = base64.b64encode(b"row-28-in-the-clear").decode()
    told = json.dumps(records(lab.state)) + lab.log.read_text(errors="replace")
    assert "row-28-in-the-clear" not in told
    assert encoded not in told
    assert "upstream-token" not in told


def test_row_28_a_recording_of_a_terminal_holds_no_credentials_and_needs_a_role(lab: KubeLab) -> None:
    kubectl = lab.kubectl("dev", "operators", "trusted")
    name = lab.pod()
    token = "ghp_" + "a1B2" * 9
    assert kubectl("exec", name, "--", "echo", token) == f"{token}\n"
    session = [r for r in records(lab.state) if r["t"] == "command" and f" {name} " in r["text"]][-1]["s"]
    time.sleep(0.5)
    assert token not in json.dumps([r for r in records(lab.state) if r["t"] in ("cast", "response")])
    refused = lab.cli("replay", session, "--instant", token=lab.token("dev", "operators"))
    assert refused.returncode == 1
    shown = lab.cli("replay", session, "--instant", token=lab.token("sam", "security"))
    assert shown.returncode == 0, shown.stderr
    assert "[redacted]" in shown.stdout


def test_a_recording_is_replayed_without_what_acts_on_the_terminal(lab: KubeLab, tmp_path: Path) -> None:
    kubectl = lab.kubectl("dev", "operators")
    name = lab.pod()
    kubectl("exec", name, "--", "printf", r"\033]0;owned\007\033[31mred\033[0m\033]52;c;AAAA\007\n")
    session = [r for r in records(lab.state) if r["t"] == "command" and f" {name} " in r["text"]][-1]["s"]
    responder = lab.token("sam", "security")
    for _ in range(50):
        shown = lab.cli("replay", session, "--instant", token=responder)
        if "exit code 0" in shown.stdout:
            break
        time.sleep(0.1)
    assert "\x1b[31mred\x1b[0m" in shown.stdout
    assert "\x1b]0;owned" not in shown.stdout
    assert "\x1b]" not in shown.stdout
    file = tmp_path / "session.cast"
    written = lab.cli("replay", session, "--cast", str(file), token=responder)
    assert written.returncode == 0, written.stderr
    first, *rest = file.read_text().split("\n")
    assert json.loads(first)["version"] == 2
    assert any("red" in line for line in rest)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert lab.cli("replay", session, "--cast", str(file), token=responder).returncode == 2  # it is there already


# ---------------------------------------------------------------- row 34: when things break


def test_row_34_a_gateway_that_cannot_record_passes_nothing() -> None:
    with KubeLab() as lab:
        kubectl = lab.kubectl("dev", "operators", "editors")
        name = lab.pod()
        with subprocess.Popen(
            [str(a) for a in (_binary(), "exec", "-i", name, "--", "cat")],
            env=kubectl.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"before\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"before\n"
            lab.break_journal()
            before = len(lab.apiserver.seen)
            process.stdin.write(b"after\n")
            process.stdin.flush()
            out, _ = process.communicate(timeout=30)
            assert b"after" not in out
        assert kubectl.run("delete", "pod", name).returncode == 1
        assert kubectl.run("exec", name, "--", "id").returncode == 1
        assert [seen for seen in lab.apiserver.seen[before:] if seen.method != "GET" or "exec" in seen.target] == []
        sent = b"".join(data for recording in lab.apiserver.recordings for _, data in recording.said)
        assert b"after" not in sent


def _binary() -> Any:
    from tests.support.apiserver.kubectl import BINARY

    return BINARY


def test_row_34_a_token_that_ends_ends_its_stream() -> None:
    with KubeLab() as lab:
        name = lab.pod()
        kubectl = lab.kubectl("short", "operators", ttl=8.0)
        done = kubectl.run("exec", name, "--", "sh", "-c", "echo begun; exec sleep 50")
        assert (done.returncode != 0, done.stdout) == (True, b"begun\n")
        assert b"the token of this session has expired" in done.stderr


def test_a_mask_that_is_asked_for_holds_in_logs_and_objects(lab: KubeLab) -> None:
    name = lab.pod(["sh", "-c", f"echo paid with {CARD}"])
    lab.apiserver.create("configmaps", "default", {"metadata": {"name": "card"}, "data": {"card": CARD}})
    kubectl = lab.kubectl("dev")
    for _ in range(50):
        if (shown := kubectl("logs", name)) != "":
            break
        time.sleep(0.1)
    assert shown == "paid with [masked]\n"
    assert CARD not in kubectl("get", "configmap", "card", "-o", "yaml")
