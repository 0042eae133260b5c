"""Stock kubectl and the Python client through the gateway: reading, writing, watching, and being refused."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver.kubectl import Kubectl
from tests.support.apiserver.server import TOKEN
from tests.support.journal import await_records, records, verify
from tests.support.kube_lab import KubeLab
from tests.support.talkative import printed, running

pytestmark = [pytest.mark.slow]

numbers = itertools.count()
SECRET = "hunter2-and-more"
ENCODED = base64.b64encode(SECRET.encode()).decode()


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab() as running:
        yield running


@pytest.fixture(scope="module")
def dev(lab: KubeLab) -> Kubectl:
    return lab.kubectl("dev", "editors")


@pytest.fixture(scope="module")
def direct(lab: KubeLab) -> Kubectl:
    return lab.direct()


@pytest.fixture(scope="module")
def secret(lab: KubeLab) -> str:
    lab.apiserver.create(
        "secrets", "default", {"metadata": {"name": "db"}, "type": "Opaque", "data": {"password": ENCODED}}
    )
    return "db"


def stable(text: str) -> str:
    return re.sub(r"\b\d+[smh]\b", "AGE", text)


@pytest.mark.parametrize(
    "words",
    [
        ["get", "pods"],
        ["get", "pods", "-o", "wide"],
        ["get", "pods", "-o", "yaml"],
        ["get", "pods", "-o", "json"],
        ["get", "pods", "-A", "-l", "app!=x", "--field-selector", "status.phase=Running"],
        ["get", "namespaces", "-o", "name"],
        ["describe", "pods"],
        ["api-resources"],
        ["get", "--raw", "/openapi/v3"],
        ["auth", "can-i", "list", "pods"],
        ["explain", "pods"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_the_same_through_the_gateway(
    lab: KubeLab, dev: Kubectl, direct: Kubectl, words: list[str]
) -> None:
    lab.pod()
    through, plain = dev.run(*words), direct.run(*words)
    assert (through.returncode, stable(through.stdout.decode())) == (plain.returncode, stable(plain.stdout.decode()))


def test_the_upstream_sees_the_gateways_account_only(lab: KubeLab, dev: Kubectl) -> None:
    dev("get", "pods")
    seen = lab.apiserver.seen[-1]
    assert seen.header("authorization") == [f"Bearer {TOKEN}"]
    assert not seen.header("impersonate-user")


def test_writes(lab: KubeLab, dev: Kubectl) -> None:
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
    assert dev("apply", "-f", "-", input=text) == "deployment.apps/shop created\n"
    assert dev("apply", "-f", "-", input=text) == "deployment.apps/shop unchanged\n"
    assert dev("apply", "-f", "-", input=text.replace("shop:1", "shop:2")) == "deployment.apps/shop configured\n"
    assert dev("apply", "--server-side", "--force-conflicts", "-f", "-", input=text).endswith("serverside-applied\n")
    dev("patch", "deployment", "shop", "-p", '{"spec": {"paused": true}}')
    dev("patch", "deployment", "shop", "--type=json", "-p", '[{"op": "remove", "path": "/spec/paused"}]')
    dev("annotate", "deployment", "shop", "who=me")
    assert lab.apiserver.find("deployments", "default", "shop", "apps")["metadata"]["annotations"]["who"] == "me"
    dev("delete", "deployment", "shop")
    dev("create", "configmap", "made", "--from-literal=a=b")
    dev("delete", "configmap", "made")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "configmap", "x", "-n", "kube-system"], "no rule allows kube.write"),
        (["run", "x", "--image=docker.io/evil"], "no images of strangers"),
        (["run", "x", "--image=a/b", "--privileged"], "nothing that reaches out of its pod"),
        (
            ["run", "x", "--image=a/b", '--overrides={"spec": {"serviceAccountName": "builder"}}'],
            "pods do not run as the builder",
        ),
        (
            [
                "run",
                "x",
                "--image=a/b",
                '--overrides={"spec": {"volumes": [{"name": "r", "hostPath": {"path": "/"}}]}}',
            ],
            "nothing that reaches out of its pod",
        ),
        (["create", "token", "default"], "no rule allows kube.token"),
        (
            ["get", "--raw", "/api/v1/nodes/n1/proxy/run/default/web/main?cmd=id"],
            "no rule allows kube.exec, kube.proxy",
        ),
        (["get", "--raw", "/api/v1/namespaces/default/services/web/proxy/"], "no rule allows kube.proxy"),
        (["get", "--raw", "/api/v1/namespaces/default/pods/web/proxy/"], "no rule allows kube.proxy"),
        (["get", "pods", "--as=jane"], "no rule allows kube.impersonate"),
        (["get", "pods", "--as=system:admin"], "one of kubernetes' own"),
        (["delete", "deployment", "x", "-n", "kube-system"], "no rule allows kube.delete"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v),
)
def test_denied_and_told_why(lab: KubeLab, dev: Kubectl, words: list[str], told: str) -> None:
    changing = {"POST", "PUT", "PATCH", "DELETE"}
    before = [seen for seen in lab.apiserver.seen if seen.method in changing or "proxy" in seen.target]
    done = dev.run(*words)
    assert done.returncode == 1
    assert told in done.stderr.decode(), done.stderr
    after = [seen for seen in lab.apiserver.seen if seen.method in changing or "proxy" in seen.target]
    assert before == after


def test_an_ephemeral_container_is_no_ordinary_write(lab: KubeLab, dev: Kubectl) -> None:
    name = lab.pod()
    body = json.dumps({"spec": {"ephemeralContainers": [{"name": "d", "image": "example.org/tools"}]}})
    path = f"/api/v1/namespaces/default/pods/{name}"
    kind = "application/strategic-merge-patch+json"
    for where in (f"{path}/ephemeralcontainers", path):
        status, answer = lab.request("PATCH", where, lab.token("dev", "editors"), body=body, kind=kind)
        assert (status, answer["reason"]) == (403, "Forbidden")
        assert "kube.debug" in answer["message"]


def test_a_denial_reads_well(dev: Kubectl) -> None:
    done = dev.run("create", "configmap", "x", "-n", "kube-system")
    assert re.fullmatch(
        r"error: failed to create configmap: `dev` may not create configmaps in namespace `kube-system`: "
        r"rule `default`: no rule allows kube\.write for dev on lab: .* \(request [0-9a-f]{16}\)\n",
        done.stderr.decode(),
    ), done.stderr


def test_no_token_no_answer(lab: KubeLab) -> None:
    before = len(lab.apiserver.seen)
    done = lab.kubectl("dev").run("get", "pods", "--token=none")
    assert done.returncode == 1
    assert b"logged in" in done.stderr or b"Unauthorized" in done.stderr or b"authentication failed" in done.stderr
    assert len(lab.apiserver.seen) == before


# ---------------------------------------------------------------- Secrets


@pytest.mark.parametrize(
    "words",
    [
        ["get", "secret", "db", "-o", "yaml"],
        ["get", "secret", "db", "-o", "json"],
        ["get", "secrets", "-o", "json"],
        ["get", "secrets", "-A", "-o", "jsonpath={.items[*].data}"],
        ["get", "secrets"],
        ["describe", "secret", "db"],
        ["get", "secret", "db", "-o", "go-template={{.data.password | base64decode}}"],
        ["get", "--raw", "/api/v1/namespaces/default/secrets/db"],
    ],
    ids=" ".join,
)
def test_values_of_secrets_are_masked(lab: KubeLab, dev: Kubectl, secret: str, words: list[str]) -> None:
    done = dev.run(*words)
    assert done.returncode == 0, done.stderr
    for shown in (done.stdout, done.stderr):
        assert SECRET.encode() not in shown
        assert ENCODED.encode() not in shown


def test_values_of_secrets_are_masked_in_a_patch_and_a_delete(lab: KubeLab, dev: Kubectl) -> None:
    lab.apiserver.create("secrets", "default", {"metadata": {"name": "gone"}, "data": {"password": ENCODED}})
    shown = dev("patch", "secret", "gone", "-p", '{"metadata": {"labels": {"a": "b"}}}', "-o", "yaml")
    assert "a: b" in shown
    shown += dev("label", "secret", "gone", "c=d", "-o", "json")
    shown += dev("delete", "secret", "gone", "-o", "name", "-v=8")
    assert ENCODED not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["get", "secrets", "-w", "-o", "json"],
        ["get", "secrets", "-w", "-o", "yaml"],
        ["get", "--raw", "/api/v1/secrets?watch=1"],
        ["get", "--raw", "/api/v1/secrets?watch=true&allowWatchBookmarks=true"],
    ],
    ids=" ".join,
)
def test_values_of_secrets_in_a_watch(lab: KubeLab, dev: Kubectl, words: list[str]) -> None:
    names = [f"late-{next(numbers)}", f"late-{next(numbers)}"]
    lab.apiserver.create("secrets", "default", {"metadata": {"name": names[0]}, "data": {"key": ENCODED}})
    with running(dev.start(*words)) as watching:
        shown = printed(watching, names[0].encode())
        lab.apiserver.create("secrets", "default", {"metadata": {"name": names[1]}, "data": {"key": ENCODED}})
        shown += printed(watching, names[1].encode())
    assert ENCODED.encode() not in shown


def test_who_is_granted_it_sees_the_values(lab: KubeLab, secret: str) -> None:
    keeper = lab.kubectl("keeper", "keepers")
    assert ENCODED in keeper("get", "secret", secret, "-o", "yaml")
    shown = keeper("get", "secret", secret, "-o", "go-template={{.data.password | base64decode}}")
    assert shown == SECRET


def test_a_mask_is_not_written_back(lab: KubeLab, dev: Kubectl, secret: str) -> None:
    shown = dev("get", "secret", secret, "-o", "yaml")
    done = dev.run("replace", "-f", "-", input=shown)
    assert done.returncode == 1
    assert lab.apiserver.find("secrets", "default", secret)["data"] == {"password": ENCODED}


def test_secrets_are_never_on_record_whoever_sees_them(lab: KubeLab, secret: str) -> None:
    keeper = lab.kubectl("recorded", "keepers", "editors")
    value = "another-s3cr3t-of-nobody"
    encoded = base64.b64encode(value.encode()).decode()
    keeper("create", "secret", "generic", "fresh", f"--from-literal=password={value}")
    keeper("get", "secret", "fresh", "-o", "yaml")
    text = json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "applied"}, "stringData": {"p": value}}
    )
    keeper("apply", "-f", "-", input=text)
    keeper("apply", "-f", "-", input=text.replace("nobody", "nobody2"))
    keeper("patch", "secret", "fresh", "-p", json.dumps({"stringData": {"q": value}}))
    keeper(
        "patch",
        "secret",
        "fresh",
        "--type=json",
        "-p",
        json.dumps([{"op": "add", "path": "/data/r", "value": encoded}]),
    )
    assert ENCODED in keeper("get", "secret", secret, "-o", "yaml")
    await_records(lab.state, lambda r: (r["t"] == "command" and "recorded" in json.dumps(r)) or r["t"] == "response")
    everything = b"".join(path.read_bytes() for path in (lab.state / "journal").iterdir() if path.is_file())
    told = json.dumps(records(lab.state)) + lab.log.read_text()
    for clear in (value, encoded, SECRET, ENCODED):
        assert clear not in told
        assert base64.b64encode(clear.encode()).decode().rstrip("=")[4:-4] not in told
        assert clear.encode() not in everything
    verify(lab.state)


def test_helm_finds_its_releases_by_label_and_reads_them_only_as_a_keeper(lab: KubeLab) -> None:
    metadata = {"name": "sh.helm.release.v1.shop.v1", "labels": {"owner": "helm", "status": "deployed"}}
    release = {"metadata": metadata, "type": "helm.sh/release.v1", "data": {"release": ENCODED}}
    lab.apiserver.create("secrets", "default", release)
    path = "/api/v1/namespaces/default/secrets?labelSelector=owner%3Dhelm%2Cstatus%3Ddeployed&limit=500"
    masked = json.loads(lab.kubectl("ci")("get", "--raw", path))
    assert [item["metadata"]["name"] for item in masked["items"]] == ["sh.helm.release.v1.shop.v1"]
    assert ENCODED not in json.dumps(masked)
    clear = json.loads(lab.kubectl("ci", "keepers")("get", "--raw", path))
    assert clear["items"][0]["data"]["release"] == ENCODED


# ---------------------------------------------------------------- watches, holds, other clients


def test_many_watches_at_once_get_their_events(lab: KubeLab, dev: Kubectl) -> None:
    watching = [dev.start("get", "configmaps", "-w", "-o", "name") for _ in range(6)]
    try:
        lab.apiserver.create("configmaps", "default", {"metadata": {"name": "first"}})
        for one in watching:
            printed(one, b"configmap/first\n")
        lab.apiserver.create("configmaps", "default", {"metadata": {"name": "second"}})
        for one in watching:
            printed(one, b"configmap/second\n")
    finally:
        for one in watching:
            one.kill()
            one.communicate()


def test_a_held_deletion_waits_and_passes(lab: KubeLab, dev: Kubectl) -> None:
    lab.apiserver.create("configmaps", "default", {"metadata": {"name": "guarded-1"}})
    with running(dev.start("delete", "configmap", "guarded-1", "--wait=false")) as process:
        ticket = lab.ticket("dev")
        assert lab.cli("approvals", "approve", ticket, token=lab.token("ann", "oncall")).returncode == 0
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert b"deleted" in out


def test_a_collection_is_about_every_name(lab: KubeLab, dev: Kubectl) -> None:
    """`delete --all` must not step around a rule about names."""
    lab.apiserver.create("configmaps", "shop", {"metadata": {"name": "guarded-2"}})
    done = dev.run("delete", "--raw", "/api/v1/namespaces/shop/configmaps")
    assert done.returncode == 1
    assert b"held for approval as " in done.stderr
    assert lab.apiserver.find("configmaps", "shop", "guarded-2")


def test_the_python_client_lists_and_watches(lab: KubeLab, tmp_path: Path) -> None:
    name = lab.pod()
    kubectl = lab.kubectl("py")
    script = f"""
import json
from kubernetes import client, config, watch
config.load_kube_config({str(kubectl.home / "config")!r})
api = client.CoreV1Api()
print(json.dumps([p.metadata.name for p in api.list_namespaced_pod("default").items]))
for event in watch.Watch().stream(api.list_namespaced_pod, "default", timeout_seconds=20):
    if event["object"].metadata.name == {name!r}:
        print(event["type"])
        break
try:
    api.delete_namespaced_pod({name!r}, "default")
except client.ApiException as e:
    print(e.status, json.loads(e.body)["reason"])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    listed, event, refused = done.stdout.splitlines()
    assert name in json.loads(listed)
    assert (event, refused) == ("ADDED", "403 Forbidden")


def test_the_exec_plugin_and_the_kubeconfig_of_ours(lab: KubeLab, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("sluicegate")
    token = tmp_path / "token"
    token.write_text(lab.token("plugged"))
    ca = str(lab.authority.file)
    words = ["kubeconfig", "--server", lab.url, "--ca", ca, "--name", "prod", "--token-file", str(token)]
    made = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    assert lab.token("plugged")[:20] not in made.stdout
    path = f"{program.parent}:{os.environ['PATH']}"
    kubectl = Kubectl(tmp_path / "home", made.stdout, extra={"PATH": path})
    kubectl("get", "pods")
    assert any(r["t"] == "session.start" and r["subject"] == "plugged" for r in records(lab.state))
    token.write_text("")
    assert kubectl.run("get", "pods").returncode == 1


# ---------------------------------------------------------------- who the gateway is upstream


GRANT = """
version: 1
name: grants
description: impersonation where it is granted
rules:
  - id: read
    description: reading
    allow: [kube.read]
  - id: others
    description: helpdesk may look as somebody else
    who: {groups: [helpdesk]}
    allow: [kube.impersonate]
"""


def test_impersonation_by_the_gateway_and_by_who_is_granted_it() -> None:
    with KubeLab(GRANT, impersonate=True) as lab:
        lab.pod()
        lab.kubectl("jane", "devs", "ops")("get", "pods")
        seen = lab.apiserver.seen[-1]
        assert (seen.user, seen.header("impersonate-group")) == ("jane", ["devs", "ops"])
        assert lab.kubectl("mallory").run("get", "pods", "--as=jane").returncode == 1
        lab.kubectl("helper", "helpdesk")("get", "pods", "--as=jane", "--as-group=devs")
        seen = lab.apiserver.seen[-1]
        assert (seen.header("impersonate-user"), seen.header("impersonate-group")) == (["jane"], ["devs"])
        before = len(lab.apiserver.seen)
        for subject in ("system:admin", "System:masters"):
            done = lab.kubectl(subject).run("get", "pods")
            assert done.returncode == 1, subject
        assert lab.kubectl("eve", "system:masters").run("get", "pods").returncode == 1
        assert len(lab.apiserver.seen) == before


def test_a_client_certificate_of_the_gateways() -> None:
    with KubeLab(GRANT, certificate=True) as lab:
        lab.pod()
        lab.kubectl("jane")("get", "pods")
        assert lab.apiserver.seen[-1].certificate == "gateway-at-cluster"
        assert not lab.apiserver.seen[-1].header("authorization")
