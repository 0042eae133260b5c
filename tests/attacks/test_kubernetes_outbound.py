"""What leaves into a cluster (row 27): objects, queries, command lines, and what is typed into a pod."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from protocols.contract import Side
from protocols.kubernetes.kubeconfig import kubeconfig
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.tls import Authority
from tests.protocols.kubernetes.test_protobuf import envelope, field
from tests.support.apiserver.kubectl import Kubectl
from tests.support.apiserver.server import TOKEN, ApiServer
from tests.support.journal import await_records, records
from tests.support.kube_lab import CARD, POLICY, KubeLab, on_a_terminal

pytestmark = [pytest.mark.slow]

KEY = "ghp_" + "a1B2" * 9
VALUE = "correct-horse-battery-17"
ENCODED = base64.b64encode(VALUE.encode()).decode()
WATCHFUL = POLICY.replace(
    "rules:\n",
    """rules:
  - id: held-cards
    description: personal data in the namespace shop is looked at first
    hold: {effects: [exfil.personal], kubernetes: {namespaces: [shop]}}
  - id: what-was-masked
    description: what was masked somewhere does not go into the cluster
    deny: [exfil.masked]
    and_alert: true
""",
    1,
)
WEB = {"name": "main", "image": "example.org/web:1"}
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab(WATCHFUL) as running:
        running.apiserver.create("secrets", "default", {"metadata": {"name": "db"}, "data": {"password": ENCODED}})
        running.apiserver.create("configmaps", "default", {"metadata": {"name": "there"}, "data": {"a": "b"}})
        running.apiserver.create("pods", "default", {"metadata": {"name": "web"}, "spec": {"containers": [WEB]}})
        yield running


@pytest.fixture(scope="module")
def dev(lab: KubeLab) -> Kubectl:
    return lab.kubectl("dev", "editors", "operators")


def everything(lab: KubeLab) -> str:
    journal = b"".join(path.read_bytes() for path in (lab.state / "journal").iterdir() if path.is_file())
    return json.dumps(records(lab.state)) + lab.log.read_text() + journal.decode("utf-8", "replace")


def changes(lab: KubeLab) -> int:
    return sum(seen.method not in ("GET", "HEAD") for seen in lab.apiserver.seen)


def post(
    lab: KubeLab, body: str | bytes, kind: str = "application/json", path: str = MAPS, method: str = "POST"
) -> Any:
    text = body if isinstance(body, str) else body.decode("latin-1")
    return lab.request(method, path, lab.token("dev", "editors", "operators"), body=text, kind=kind)


# ---------------------------------------------------------------- objects


@pytest.mark.parametrize(
    "words",
    [
        ["create", "configmap", "x", f"--from-literal=k={KEY}"],
        ["create", "configmap", "x", f"--from-literal=k={base64.b64encode(KEY.encode()).decode()}"],
        ["create", "configmap", "x", f"--from-literal=note=card {CARD}"],
        ["run", "x", "--image=example.org/a", f"--env=TOKEN={KEY}"],
        ["run", "x", "--image=example.org/a", "--env=DB_PASSWORD=hunter2-hunter2"],
        ["run", "x", "--image=example.org/a", "--command", "--", "curl", "-H", f"Authorization: Bearer {KEY}"],
        ["create", "deployment", "x", f"--image=example.org/a:{KEY}"],
        ["annotate", "configmap", "there", f"a={KEY}"],
        ["patch", "configmap", "there", "-p", json.dumps({"data": {"k": KEY}})],
        ["patch", "configmap", "there", "--type=merge", "-p", json.dumps({"data": {"k": KEY}})],
        ["patch", "configmap", "there", "--type=json", "-p", f'[{{"op": "add", "path": "/data/k", "value": "{KEY}"}}]'],
        ["create", "job", "x", "--image=example.org/a", "--", "sh", "-c", f"echo {KEY}"],
        ["delete", "configmaps", "-l", f"a={KEY}"],
        ["get", "pods", "-l", f"a={KEY}"],
        ["get", "--raw", f"/api/v1/pods?continue={KEY}"],
        ["exec", "web", "--", "curl", "-u", f"me:{KEY}"],
        ["exec", "web", "--", "sh", "-c", f"echo '{CARD}' > /tmp/x"],
    ],
    ids=lambda words: " ".join(words)[:60],
)  # fmt: skip
def test_row_27_no_object_query_or_command_line_carries_it(lab: KubeLab, dev: Kubectl, words: list[str]) -> None:
    before, streams = changes(lab), len(lab.apiserver.recordings)
    done = dev.run(*words)
    assert done.returncode == 1
    assert b"no rule allows exfil." in done.stderr or b"kube.impersonate" in done.stderr, done.stderr
    assert (changes(lab), len(lab.apiserver.recordings)) == (before, streams)
    assert KEY not in everything(lab)


CARD_ESCAPED = CARD.replace(" ", "\\u0020")
YAML = "application/apply-patch+yaml"
FORMS: dict[str, tuple[str | bytes, str, str]] = {
    "escaped": ('{"metadata":{"name":"x"},"data":{"k":"' + CARD_ESCAPED + '"}}', "application/json", "POST"),
    "yaml": ('metadata: {name: x}\ndata:\n  k: "4111\\x201111\\x201111\\x201111"\n', "application/yaml", "POST"),
    "folded": ("metadata: {name: x}\ndata:\n  k: >-\n    4111\n    1111\n    1111\n    1111\n", YAML, "PATCH"),
    "comment": (f"metadata: {{name: x}}\n# {KEY}\n", YAML, "PATCH"),
    "protobuf": (
        envelope("v1", "ConfigMap", field(1, field(1, "x")) + field(2, field(1, "k") + field(2, KEY.ljust(0x41)))),
        "application/vnd.kubernetes.protobuf",
        "POST",
    ),
    "list": (json.dumps({"items": [{"data": {"k": KEY}}]}), "application/json", "POST"),
    "key": (json.dumps({"metadata": {"name": "x"}, "data": {KEY: "v"}}), "application/json", "POST"),
    "large": (
        json.dumps({"metadata": {"name": "x"}, "data": {"f": "x y " * 60_000, "k": KEY}}),
        "application/json",
        "POST",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_row_27_no_format_hides_it(lab: KubeLab, form: str) -> None:
    body, kind, method = FORMS[form]
    before = changes(lab)
    path = MAPS if method == "POST" else f"{MAPS}/x?fieldManager=me&force=true"
    status, answer = post(lab, body, kind, path, method)
    assert (status, answer["reason"]) == (403, "Forbidden"), answer
    assert "exfil." in answer["message"]
    assert changes(lab) == before


def test_a_coded_body_is_refused_and_not_guessed_at(lab: KubeLab) -> None:
    before = changes(lab)
    token = lab.token("dev", "editors")
    status, answer = lab.request("POST", MAPS, token, body='{"metadata":{"name":"x"}}', Content_Encoding="gzip")
    assert (status, "content-encoding" in answer["message"]) == (415, True)
    assert changes(lab) == before


def test_a_credential_is_at_home_in_a_secret_where_a_rule_says_so(lab: KubeLab, dev: Kubectl) -> None:
    dev("create", "secret", "generic", "keys", f"--from-literal=token={KEY}")
    assert lab.apiserver.find("secrets", "default", "keys")
    # the rule is about credentials and about Secrets
    done = dev.run("create", "secret", "generic", "cards", f"--from-literal=note={CARD}")
    assert (done.returncode, b"exfil.personal" in done.stderr) == (1, True)
    assert KEY not in everything(lab)


def test_the_gateways_own_secrets_do_not_go_out(lab: KubeLab, dev: Kubectl) -> None:
    dev("get", "pods")  # from here on the gateway has read its credential
    done = dev.run("create", "configmap", "x", f"--from-literal=k={TOKEN}")
    assert (done.returncode, b"exfil.credential" in done.stderr) == (1, True)


def test_personal_data_is_held_where_a_rule_says_so(lab: KubeLab) -> None:
    editor = lab.kubectl("held", "editors")
    allowed = lab.kubectl("held", "editors", "trusted")
    process = editor.start("create", "configmap", "c", "-n", "shop", "--from-literal=mail=alice@example.org")
    try:
        ticket = lab.ticket("held")
        denied = lab.cli("approvals", "deny", ticket, "--reason", "not here", token=lab.token("ann", "oncall"))
        assert denied.returncode == 0, denied.stderr
        assert b"not here" in process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.communicate()
    allowed("create", "configmap", "c", "--from-literal=mail=alice@example.org")
    assert lab.apiserver.find("configmaps", "default", "c")["data"]["mail"] == "alice@example.org"


def test_what_was_masked_in_a_secret_does_not_come_back_as_something_else(lab: KubeLab) -> None:
    seen = lab.kubectl("curious", "editors", "operators")
    other = lab.kubectl("other", "editors")
    assert ENCODED not in seen("get", "secret", "db", "-o", "yaml")
    for words in (
        ["create", "configmap", "x", f"--from-literal=k={VALUE}"],
        ["create", "configmap", "x", f"--from-literal=k={VALUE.upper().replace('-', ' ')}"],
        ["create", "secret", "generic", "x", f"--from-literal=k={VALUE}"],
        ["exec", lab.pod(), "--", "echo", VALUE],
    ):
        done = seen.run(*words)
        assert (done.returncode, b"rule `kube-lab/what-was-masked`" in done.stderr) == (1, True), done.stderr
    other("create", "configmap", "x", f"--from-literal=k={VALUE}-of-another")
    await_records(lab.state, lambda r: r["t"] == "alert" and "what-was-masked" in json.dumps(r))
    mine = [r for r in records(lab.state) if r["t"] == "command" and "exfil.masked" in r["effects"]]
    assert len(mine) >= 4
    assert VALUE not in json.dumps(mine)


def test_who_keeps_a_secret_may_apply_it_again_without_reading_it(lab: KubeLab) -> None:
    """`kubectl apply` gets the masked object first, and then sends the value from its file."""
    keeper = lab.kubectl("pipeline", "editors")

    def manifest(name: str, **values: str) -> str:
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        return json.dumps(document)

    value, more = "kept-by-the-pipeline-42", "another-of-the-pipeline-43"
    for values in ({"p": value}, {"p": value}, {"p": value, "q": more}, {"p": value, "q": more}, {"p": value}):
        done = keeper.run("apply", "-f", "-", input=manifest("kept", **values))
        assert done.returncode == 0, done.stderr
    keeper("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest("kept", p=value, q=more))
    # ... but not anywhere else
    for words, text in (
        (["apply", "-f", "-"], manifest("other", p=value)),
        (["annotate", "secret", "db", f"a={value}"], ""),
    ):
        done = keeper.run(*words, input=text)
        assert (done.returncode, b"what-was-masked" in done.stderr) == (1, True), done.stderr


def test_a_kept_value_does_not_take_a_piece_out_of_another(lab: KubeLab) -> None:
    """What was masked in a Secret may be written there again: a card that has it as a part is found all the same."""
    keeper = lab.kubectl("cutter", "editors")
    keeper("create", "secret", "generic", "cut", "--from-literal=a=4111 111", "--from-literal=b=1")
    keeper("get", "secret", "cut")
    keeper("get", "secret", "cut", "-o", "yaml")
    body = {"stringData": {"a": "4111 111", "b": "1", "c": CARD}}
    done = keeper.run("patch", "secret", "cut", "-p", json.dumps(body))
    assert (done.returncode, b"exfil.personal" in done.stderr) == (1, True), done.stderr


# ---------------------------------------------------------------- what goes into a pod


def last_input(lab: KubeLab) -> bytes:
    return b"".join(data for who, data in lab.apiserver.recordings[-1].said if who is Side.CLIENT)


@pytest.fixture(params=["websocket", "spdy"])
def operator(lab: KubeLab, request: pytest.FixtureRequest) -> Kubectl:
    return lab.kubectl("dev", "operators", "editors", spdy=request.param == "spdy")


@pytest.mark.parametrize(
    "sent",
    [
        f"some text\ntoken {KEY} and more\n",
        "x" * 32_760 + f" {KEY} " + "y" * 100,  # across the pieces that kubectl sends
        "a\n" + base64.b64encode(f"login with {KEY}".encode()).decode() + "\n",
        "-----BEGIN RSA PRIVATE KEY-----\n" + "QUJD" * 400 + "\n-----END RSA PRIVATE KEY-----\n",
    ],
    ids=["line", "across", "base64", "key"],
)
def test_row_27_input_of_a_command_is_cut_before_it(lab: KubeLab, operator: Kubectl, sent: str) -> None:
    done = operator.run("exec", "-i", lab.pod(), "--", "cat", input=sent)
    assert done.returncode == 1
    assert b"the input is cut here: " in done.stderr, done.stderr
    assert KEY.encode() not in done.stdout
    assert KEY.encode()[:30] not in last_input(lab)
    assert b"QUJD" * 10 not in last_input(lab)
    assert KEY not in everything(lab)


def test_row_27_a_copied_file_is_cut(lab: KubeLab, operator: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "env").write_text("A=b\n" * 9000 + f"TOKEN={KEY}\n" + "C=d\n" * 100)
    done = operator.run("cp", str(tmp_path / "env"), f"{lab.pod()}:{tmp_path}/there/env")
    assert done.returncode == 1
    assert KEY.encode()[:30] not in last_input(lab)


def test_ordinary_input_passes_unchanged_and_without_waiting(lab: KubeLab, operator: Kubectl) -> None:
    name, sent = lab.pod(), os.urandom(200_000) + b"\nplain text, no line end"
    assert operator.run("exec", "-i", name, "--", "cat", input=sent).stdout == sent
    process = operator.start("exec", "-i", name, "--", "cat", stdin=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"a question ", b"half a number 4111 1111 "):
            process.stdin.write(word)
            process.stdin.flush()
            assert os.read(process.stdout.fileno(), 100)
    finally:
        process.kill()
        process.communicate()


def test_what_is_typed_on_a_terminal_passes_but_for_its_last_letter(lab: KubeLab, operator: Kubectl) -> None:
    with on_a_terminal(operator, "exec", "-it", lab.pod(), "--", "cat", rows=20, columns=200) as (process, master):
        for letter in f"say {KEY} ":
            try:
                os.write(master, letter.encode())
            except OSError:
                break
            time.sleep(0.02)
        assert process.wait(30) != 0
    assert f"{KEY} ".encode() not in last_input(lab)


def test_row_27_a_forwarded_port_is_no_way_around(lab: KubeLab, operator: Kubectl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        port = listening.getsockname()[1]
        process = operator.start("port-forward", lab.pod(), f":{port}")
        try:
            assert process.stdout is not None
            line = b""
            while b"->" not in line:
                line += os_read(process)
            local = int(re.search(rb"127\.0\.0\.1:(\d+)", line)[1])  # type: ignore[index]
            with socket.create_connection(("127.0.0.1", local)) as client:
                client.sendall(b"POST / HTTP/1.1\r\n\r\nplain\n")
                inside, _ = listening.accept()
                with inside:
                    inside.settimeout(20)
                    assert inside.recv(100)
                    client.sendall(f"token {KEY}\n".encode())
                    with contextlib.suppress(ConnectionError):
                        assert inside.recv(100) == b""
        finally:
            process.kill()
            process.communicate()


def os_read(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    data = os.read(process.stdout.fileno(), 4096)
    assert data
    return data


# ---------------------------------------------------------------- from a database to a cluster


EGRESS = """
version: 1
name: egress
description: what may go into the cluster
rules:
  - id: writing
    description: writing objects
    allow: {effects: [kube.read, kube.write, exfil.personal], kubernetes: {namespaces: ["*"]}}
  - id: discovery
    description: what the API server tells about itself
    allow: [kube.read]
"""


@pytest.mark.e2e
def test_row_27_what_psql_showed_masked_is_no_configmap(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    policy = tmp_path / "egress.yaml"
    policy.write_text(EGRESS)
    pair = authority.server("gateway")
    with ApiServer(authority) as apiserver:

        def adjust(config: dict[str, Any]) -> None:
            tls = {"mode": "required", "certificate": str(pair.certificate), "key": str(pair.key)}
            listener = {"name": "cluster", "protocol": "kubernetes", "listen": "127.0.0.1:0", "resource": "cluster"}
            config["listeners"].append(listener | {"tls": tls})
            resource = {"name": "cluster", "protocol": "kubernetes", "host": "127.0.0.1", "port": apiserver.port}
            resource |= {"tls": {"mode": "verify-full", "ca": str(authority.file)}, "http_auth": {"kind": "bearer"}}
            config["resources"].append(resource | {"credential": {"provider": "file", "path": str(token)}})

        lab = Lab([DEFAULT_POLICY, policy], tls="off", adjust=adjust)
        try:
            told = json.loads((lab.gateway.state_dir / "ready.json").read_bytes())
            url = "https://127.0.0.1:" + told["listeners"]["cluster"].rpartition(":")[2]
            config = kubeconfig("lab", url, authority.file.read_bytes(), token=lab.tokens["analyst"])
            kubectl = Kubectl(tmp_path / "home", config)
            with lab.server.connect() as truth:
                mail = truth.execute("SELECT email FROM customers ORDER BY email LIMIT 1").fetchall()[0][0]
            kubectl("create", "configmap", "before", f"--from-literal=mail={mail}")
            with psycopg.connect(lab.dsn("analyst"), autocommit=True) as session:
                shown = session.execute("SELECT email FROM customers ORDER BY email LIMIT 3").fetchall()
            assert mail not in str(shown)
            done = kubectl.run("create", "configmap", "after", f"--from-literal=mail={mail}")
            assert (done.returncode, b"denies exfil.masked" in done.stderr) == (1, True), done.stderr
            assert apiserver.find("configmaps", "default", "before")
            assert not any(b"after" in seen.target.encode() for seen in apiserver.seen)
        finally:
            lab.stop()
