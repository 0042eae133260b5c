"""Stock kubectl against the API server for tests, and every stream that they spoke through this package's decoders."""

from __future__ import annotations

import itertools
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest

from protocols.contract import Effect, Side
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.channels import (
    Carried,
    Channel,
    Event,
    ExecWebSocket,
    Finished,
    PortCarried,
    PortOpened,
    Resized,
)
from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.kubeconfig import exec_credential, kubeconfig
from protocols.kubernetes.media import negotiate
from protocols.kubernetes.output import MaskedOutput
from protocols.kubernetes.requests import resolve
from protocols.kubernetes.secrets import MaskedObjects, mask_answer
from protocols.kubernetes.spdystreams import ExecSpdy, PortForwardSpdy
from scripts.support.tls import Authority
from tests.support.apiserver.kubectl import BINARY, Kubectl
from tests.support.apiserver.remote import Recording
from tests.support.apiserver.server import TOKEN, ApiServer
from tests.support.talkative import echo_server, printed, running

pytestmark = [pytest.mark.slow]

_numbers = itertools.count()
ECHO = ["sh", "-c", "echo started; while read line; do echo got $line; done"]


def pod(server: ApiServer, command: list[str] | None = None) -> str:
    name = f"web-{next(_numbers)}"
    container = {"name": "main", "image": "example.org/web:1"} | ({"command": command} if command else {})
    server.create("pods", "default", {"metadata": {"name": name}, "spec": {"containers": [container]}})
    return name


def decoded(recording: Recording) -> list[tuple[Side, Event]]:
    """Everything that the two sides said, through the decoder for it."""
    stream: ExecWebSocket | ExecSpdy | PortForwardSpdy
    if recording.subresource == "portforward":
        stream = PortForwardSpdy()
    else:
        stream = ExecWebSocket(recording.protocol) if recording.websocket else ExecSpdy()
    found: list[tuple[Side, Event]] = []
    for side, data in recording.said:
        taken = (stream.client if side is Side.CLIENT else stream.server)(data)
        for piece in taken if isinstance(taken, list) else [taken]:
            found += [(side, event) for event in piece.events]
    return found


def said(events: list[tuple[Side, Event]], channel: Channel) -> bytes:
    return b"".join(e.data for _, e in events if isinstance(e, Carried) and e.channel is channel)


def settled(server: ApiServer, check: Callable[[list[tuple[Side, Event]]], bool]) -> list[tuple[Side, Event]]:
    """The last stream's events once `check` holds: the server may still be writing them down."""
    for _ in range(200):
        events = decoded(server.recordings[-1])
        if check(events):
            return events
        time.sleep(0.02)
    raise AssertionError(events)


def test_get_list_table_and_yaml(plain: Kubectl, apiserver: ApiServer) -> None:
    plain("create", "secret", "generic", "db", "--from-literal=password=hunter2")
    assert re.search(r"db +Opaque +1", plain("get", "secrets"))
    assert "password: aHVudGVyMg==" in plain("get", "secret", "db", "-o", "yaml")
    assert "hunter2" not in plain("describe", "secret", "db")
    plain("delete", "secret", "db")
    missing = plain.run("get", "secret", "db")
    assert (missing.returncode, missing.stderr) == (1, b'Error from server (NotFound): secrets "db" not found\n')


def test_get_watch(plain: Kubectl, apiserver: ApiServer) -> None:
    first = pod(apiserver)
    with running(plain.start("get", "pods", "-w", "--no-headers")) as watching:
        printed(watching, first.encode())
        second = pod(apiserver)
        assert second in printed(watching, second.encode()).decode()


def test_apply_client_side_and_server_side(plain: Kubectl, apiserver: ApiServer) -> None:
    text = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: main, image: "example.org/shop:1"}]}
"""
    assert plain("apply", "-f", "-", input=text) == "deployment.apps/shop created\n"
    assert plain("apply", "-f", "-", input=text) == "deployment.apps/shop unchanged\n"
    changed = text.replace("shop:1", "shop:2")
    assert plain("apply", "-f", "-", input=changed) == "deployment.apps/shop configured\n"
    patch = apiserver.seen[-1]
    judged = analyse(resolve(patch.method, patch.target), patch.body, patch.header("content-type")[0])
    assert judged.facts["kube.image"] == ("example.org/shop:2",)
    assert Effect.UNKNOWN not in judged.effects
    found = apiserver.find("deployments", "default", "shop", "apps")
    assert found["spec"]["template"]["spec"]["containers"] == [{"image": "example.org/shop:2", "name": "main"}]
    served = plain("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)
    assert served == "deployment.apps/shop serverside-applied\n"
    assert "example.org/shop:1" in plain("describe", "deployment", "shop")
    plain("delete", "deployment", "shop")


CREATED = [
    (("create", "configmap", "made", "--from-literal=a=b"), {Effect.KUBE_WRITE}),
    (("create", "deployment", "made", "--image=example.org/web:1"), {Effect.KUBE_WRITE}),
    (("create", "job", "made", "--image=example.org/web:1"), {Effect.KUBE_WRITE}),
    (("create", "sa", "made"), {Effect.KUBE_WRITE}),
    (("create", "rolebinding", "made", "--clusterrole=admin", "--user=jane"), {Effect.KUBE_WRITE, Effect.PRIV_GRANT}),
    (("run", "made", "--image=example.org/web:1"), {Effect.KUBE_WRITE}),
    (("auth", "can-i", "list", "pods"), {Effect.KUBE_READ}),
]


@pytest.mark.parametrize(("arguments", "effects"), CREATED, ids=lambda v: v[1] if isinstance(v, tuple) else "")
def test_what_kubectl_creates_is_judged(
    plain: Kubectl, apiserver: ApiServer, arguments: tuple[str, ...], effects: set[Effect]
) -> None:
    """Some of these come in protobuf, from a kubectl that nobody told to."""
    plain(*arguments)
    request = next(seen for seen in reversed(apiserver.seen) if seen.method == "POST")
    info = resolve(request.method, request.target)
    judged = analyse(info, request.body, request.header("content-type")[0])
    assert judged.effects == effects, judged.why
    if "--image=example.org/web:1" in arguments:
        assert judged.facts["kube.image"] == ("example.org/web:1",)
    if "--clusterrole=admin" in arguments:
        assert judged.facts["kube.role_ref"] == ("admin",)
        assert judged.facts["kube.subject"] == ("User:jane",)
    if info.resource != "selfsubjectaccessreviews":
        assert judged.facts["kube.name"] == ("made",)
        plain("delete", info.resource, "made", "--wait=false")


def test_everything_that_kubectl_asked_is_canonical(plain: Kubectl, apiserver: ApiServer) -> None:
    """Not one request of a stock client may be refused for its form."""
    plain("get", "pods", "-A", "-l", "app in (a, b),tier!=x", "--field-selector", "status.phase=Running")
    plain("get", "--raw", "/openapi/v3")
    plain("api-resources")
    for seen in apiserver.seen:
        info = resolve(seen.method, seen.target)
        for accept in seen.header("accept"):
            negotiate(accept, info)


def test_can_i(plain: Kubectl) -> None:
    assert plain("auth", "can-i", "list", "pods") == "yes\n"
    denied = plain.run("auth", "can-i", "delete", "nodes")
    assert (denied.returncode, denied.stdout) == (1, b"no - system:serviceaccount:gateway:gateway may not\n")


def test_a_token_that_is_none_and_impersonation(apiserver: ApiServer, plain: Kubectl) -> None:
    refused = plain.run("get", "pods", "--token=none")
    assert refused.returncode == 1
    assert b"Unauthorized" in refused.stderr or b"must be logged in" in refused.stderr
    plain("get", "pods", "--as=jane", "--as-group=ops")
    assert apiserver.seen[-1].user == "jane"
    assert apiserver.seen[-1].header("impersonate-group") == ["ops"]


def test_client_certificate(apiserver: ApiServer, tmp_path: Path) -> None:
    pair = apiserver.authority.client("jane")
    text = kubeconfig("lab", apiserver.url, apiserver.authority.file.read_bytes(), token="unused")
    client = f"client-certificate: {pair.certificate}\n    client-key: {pair.key}"
    kubectl = Kubectl(tmp_path / "home", text.replace("token: unused", client))
    kubectl("get", "pods")
    assert (apiserver.seen[-1].certificate, apiserver.seen[-1].user) == ("jane", "jane")


def test_exec_plugin(apiserver: ApiServer, tmp_path: Path) -> None:
    """The plugin's answer is what `exec_credential` prints."""
    answer = tmp_path / "answer.json"
    answer.write_text(exec_credential(TOKEN, 4_000_000_000))
    authority = apiserver.authority.file.read_bytes()
    kubectl = Kubectl(tmp_path / "home", kubeconfig("lab", apiserver.url, authority, command=["cat", str(answer)]))
    kubectl("get", "pods")
    assert apiserver.seen[-1].header("authorization") == [f"Bearer {TOKEN}"]


def test_logs_follow(plain: Kubectl, apiserver: ApiServer) -> None:
    name = pod(apiserver, ["sh", "-c", "echo one; read line; echo $line"])
    with running(plain.start("logs", "-f", name)) as following:
        printed(following, b"one\n")
        attached = plain.run("attach", "-i", name, input="two\n")
        assert attached.returncode == 0, attached.stderr
        assert following.communicate()[0] == b"two\n"
    assert plain("logs", name) == "one\ntwo\n"


def test_exec_with_its_exit_code(kubectl: Kubectl, apiserver: ApiServer) -> None:
    name = pod(apiserver)
    done = kubectl.run("exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr == b"err\ncommand terminated with exit code 3\n"
    assert apiserver.recordings[-1].websocket is not kubectl.spdy
    events = settled(apiserver, lambda found: any(isinstance(e, Finished) for _, e in found))
    assert said(events, Channel.STDOUT) == b"out\n"
    assert said(events, Channel.STDERR) == b"err\n"
    (end,) = (event for _, event in events if isinstance(event, Finished))
    assert end.code == 3


class _Words:
    """Masks a word in what has come so far; holds back a tail that could become one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        shown, self._held = self._held + data, b""
        return shown.replace(b"hunter2", b"[masked]")

    def flush(self) -> bytes:
        return b""


def test_output_of_stock_kubectl_is_masked(kubectl: Kubectl, apiserver: ApiServer) -> None:
    kubectl("exec", pod(apiserver), "--", "sh", "-c", "echo hunter2; echo hunter2 >&2")
    settled(apiserver, lambda found: any(isinstance(e, Finished) for _, e in found))
    recording = apiserver.recordings[-1]
    stream = ExecWebSocket(recording.protocol) if recording.websocket else ExecSpdy()
    output, shown = MaskedOutput(stream, _Words), Recording("exec", recording.protocol, recording.websocket)
    for side, data in recording.said:
        taken = (stream.client if side is Side.CLIENT else stream.server)(data)
        pieces = taken if isinstance(taken, list) else [taken]
        wire = [piece.wire for piece in pieces] if side is Side.CLIENT else output.server(pieces, 1).wire
        shown.said += [(side, part) for part in wire]
    events = decoded(shown)
    assert said(events, Channel.STDOUT) == said(events, Channel.STDERR) == b"[masked]\n"
    assert isinstance(events[-1][1], Finished)


def test_an_api_server_that_answers_protobuf_all_the_same(authority: Authority, tmp_path: Path) -> None:
    """What the client would see then is withheld; the client itself could read it."""
    with ApiServer(authority, lie=("application/vnd.kubernetes.protobuf", b"k8s\x00")) as lying:
        config = kubeconfig("lab", lying.url, authority.file.read_bytes(), token=TOKEN)
        assert Kubectl(tmp_path / "home", config).run("get", "secrets").returncode == 1
        request = resolve("GET", lying.seen[-1].target)
    assert request.full_resource == "secrets"
    with pytest.raises(Withheld):
        mask_answer(lying.lie[1], lying.lie[0], request, MaskedObjects())  # type: ignore[index]


def test_exec_of_what_is_not_there(kubectl: Kubectl, apiserver: ApiServer) -> None:
    done = kubectl.run("exec", pod(apiserver), "--", "no-such-command")
    assert done.returncode == 1
    assert b"no such file" in done.stderr
    events = settled(apiserver, lambda found: any(isinstance(e, Finished) for _, e in found))
    assert next(e.code for _, e in events if isinstance(e, Finished)) == -1


def test_exec_reads_stdin_to_its_end(kubectl: Kubectl, apiserver: ApiServer) -> None:
    sent = os.urandom(300_000)
    done = kubectl.run("exec", "-i", pod(apiserver), "--", "cat", input=sent)
    assert (done.returncode, done.stdout == sent) == (0, True)
    events = settled(apiserver, lambda found: any(isinstance(e, Finished) for _, e in found))
    assert said(events, Channel.STDIN) == said(events, Channel.STDOUT) == sent
    assert any(isinstance(e, Carried) and e.channel is Channel.STDIN and e.last for _, e in events)


def test_exec_on_a_terminal(kubectl: Kubectl, apiserver: ApiServer) -> None:
    """`exec -it`: kubectl on a terminal of 100x30 that becomes 90x25."""
    name = pod(apiserver)
    master, slave = pty.openpty()
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", "import os,sys; os.setsid(); import fcntl,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
         "os.execvp(sys.argv[1], sys.argv[1:])", str(BINARY), "exec", "-it", name, "--", "sh"],
        env=kubectl.environment, stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    try:
        _ask(master, "stty size", "30 100")
        ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 90, 0, 0))
        settled(apiserver, lambda found: (Side.CLIENT, Resized(90, 25)) in found)
        _ask(master, "stty size", "25 90")
        os.write(master, b"exit 4\n")
        assert process.wait(30) == 4
    finally:
        process.kill()
        process.wait()
        os.close(master)
    events = decoded(apiserver.recordings[-1])
    assert (Side.CLIENT, Resized(100, 30)) in events
    assert b"30 100" in said(events, Channel.STDOUT)
    assert b"stty size" in said(events, Channel.STDIN)


def _ask(master: int, line: str, wanted: str) -> None:
    os.write(master, line.encode() + b"\n")
    seen = b""
    while wanted.encode() not in seen:
        ready, _, _ = select.select([master], [], [], 30)
        assert ready, seen
        seen += os.read(master, 4096)


def test_cp_both_ways(kubectl: Kubectl, apiserver: ApiServer, tmp_path: Path) -> None:
    name = pod(apiserver)
    (tmp_path / "sent").write_bytes(os.urandom(100_000))
    there = tmp_path / "there"
    there.mkdir()
    kubectl("cp", str(tmp_path / "sent"), f"{name}:{there}/copied")
    assert (there / "copied").read_bytes() == (tmp_path / "sent").read_bytes()
    kubectl("cp", f"{name}:{there}/copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_port_forward(kubectl: Kubectl, apiserver: ApiServer) -> None:
    name = pod(apiserver)
    with echo_server() as port, running(kubectl.start("port-forward", name, f":{port}")) as forwarding:
        local = int(re.search(rb"127\.0\.0\.1:(\d+)", printed(forwarding, b"->"))[1])  # type: ignore[index]
        for text in (b"first", b"x" * 200_000 + b"y"):
            with socket.create_connection(("127.0.0.1", local)) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                while data := connection.recv(65536):
                    answer += data
            assert answer == text[::-1]
    events = decoded(apiserver.recordings[-1])
    assert [e.port for _, e in events if isinstance(e, PortOpened)] == [port, port]
    sent = b"".join(e.data for side, e in events if isinstance(e, PortCarried) and side is Side.CLIENT)
    assert sent == b"first" + b"x" * 200_000 + b"y"


def test_port_forward_to_a_closed_port(kubectl: Kubectl, apiserver: ApiServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with running(kubectl.start("port-forward", pod(apiserver), f":{port}")) as forwarding:
        local = int(re.search(rb"127\.0\.0\.1:(\d+)", printed(forwarding, b"->"))[1])  # type: ignore[index]
        with socket.create_connection(("127.0.0.1", local)) as connection:
            assert connection.recv(10) == b""
        assert forwarding.stderr is not None
        assert b"cannot reach port" in forwarding.stderr.readline() + forwarding.stderr.readline()
