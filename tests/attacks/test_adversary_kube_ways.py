"""More ways to a Secret's value, and to what nobody granted: kubectl's commands, formats, identities, subresources."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator

import pytest

from tests.attacks.test_adversary_kube import SECRETS, ask
from tests.support.apiserver.kubectl import Kubectl
from tests.support.journal import records
from tests.support.kube_lab import KubeLab

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

VALUE = "nobody-may-see-this-77"
ENCODED = base64.b64encode(VALUE.encode()).decode()
TEST_PATCH = '[{"op": "test", "path": "/metadata/name", "value": "db"}]'
LAST = "kubectl.kubernetes.io/last-applied-configuration"


def secret(name: str) -> dict[str, object]:
    data = {"value": ENCODED}
    applied = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    packed = base64.b64encode(gzip.compress(applied.encode())).decode()
    annotations = {LAST: applied, "kapp.k14s.io/original": applied, "objectset.rio.cattle.io/applied": packed}
    return {"metadata": {"name": name, "annotations": annotations}, "data": data}


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab() as running:
        for name in ("db", "other"):
            running.apiserver.create("secrets", "default", secret(name))
        yield running


@pytest.fixture(scope="module")
def dev(lab: KubeLab) -> Kubectl:
    return lab.kubectl("dev", "editors")


def hides(shown: bytes) -> bool:
    return not any(text in shown for text in (VALUE.encode(), ENCODED.encode(), b"H4sI"))  # the last: something packed


@pytest.mark.parametrize(
    "words",
    [
        ["get", "secret", "db", "-o", "yaml", "--show-managed-fields"],
        ["get", "secret", "db", "-o", "custom-columns=A:.data.value,B:.metadata.annotations"],
        ["get", "secret", "db", "-o", "jsonpath={.metadata.annotations}"],
        ["get", "secrets", "-o", "wide", "--show-labels"],
        ["get", "secrets", "-A", "-o", "go-template={{range .items}}{{.data}}{{.metadata.annotations}}{{end}}"],
        ["get", "secrets", "--chunk-size=1", "-o", "json"],
        ["get", "secrets", "--server-print=false", "-o", "json"],
        ["get", "secrets,configmaps", "-o", "json"],
        ["annotate", "secret", "db", "note=1", "--overwrite", "-o", "yaml"],
        ["label", "secret", "db", "a=b", "--overwrite", "-o", "json"],
        ["patch", "secret", "db", "--type=json", "-p", TEST_PATCH, "-o", "json"],
        ["patch", "secret", "db", "--type=merge", "-p", "{}", "-o", "yaml", "--dry-run=server"],
        ["describe", "secrets"],
        ["get", "secret", "db", "-o", "kyaml"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_of_kubectls_shows_a_value(lab: KubeLab, dev: Kubectl, words: list[str]) -> None:
    done = dev.run(*words)
    assert hides(done.stdout), done.stdout
    assert hides(done.stderr)


def test_what_is_sent_and_shown_again_is_masked_too(lab: KubeLab, dev: Kubectl) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Secret", **secret("mine")})
    for words in (
        ["apply", "--server-side", "-f", "-", "-o", "yaml"],
        ["apply", "--server-side", "--force-conflicts", "-f", "-", "-o", "json", "--dry-run=server"],
        ["replace", "-f", "-", "-o", "yaml"],
    ):
        done = dev.run(*words, input=text)
        assert hides(done.stdout), (words, done.stdout)


def test_a_diff_shows_no_value_of_the_cluster(lab: KubeLab, dev: Kubectl) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"other": "eA=="}})
    done = dev.run("diff", "-f", "-", input=text)
    assert hides(done.stdout)
    assert hides(done.stderr)


@pytest.mark.parametrize(
    "query",
    [
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1",
        "watch=1&timeoutSeconds=1&resourceVersion=0",
        "limit=1",
        "fieldSelector=metadata.name%3Ddb",
        "labelSelector=a%3Db",
    ],
)
@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/cbor, application/json;q=0.5",
        "application/cbor-seq,application/json",
        "application/vnd.kubernetes.protobuf;stream=watch,application/json",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
    ],
)
def test_no_view_of_a_list_shows_a_value(lab: KubeLab, query: str, accept: str) -> None:
    for more in ("", "&includeObject=Object"):
        status, answer = ask(lab, f"GET {SECRETS}?{query}{more}", f"Accept: {accept}")
        assert status in (200, 406), answer[:300]
        assert hides(answer)


@pytest.mark.parametrize("kind", ["application/cbor", "application/apply-patch+cbor", "application/cbor-seq"])
def test_a_body_in_cbor_is_refused(lab: KubeLab, kind: str) -> None:
    before = len(lab.apiserver.seen)
    for line in (f"POST {SECRETS}", f"PATCH {SECRETS}/db"):
        status, _ = ask(lab, line, f"Content-Type: {kind}", body=b"\xa1dkindfSecret", groups=("editors",))
        assert status in (403, 415)
    assert len(lab.apiserver.seen) == before


@pytest.mark.parametrize(
    "headers",
    [
        ("Impersonate-User: jane", "Impersonate-Uid: 7"),
        ("Impersonate-Uid: 7",),
        ("Impersonate-User: jane", "Impersonate-Extra-scopes: all"),
        ("Impersonate-User: jane", "Impersonate-Extra-%73copes: all"),
        ("impersonate_user: jane",),
        ("Impersonate-Group: system:masters",),
        ("Impersonate-User: system:admin",),
        ("Impersonate-User: system:node:n1",),
        ("X-Remote-User: admin", "X-Remote-Group: system:masters", "X-Remote-Extra-Scopes: all"),
        ("X-Remote-Uid: 0",),
    ],
)
def test_nobody_becomes_another(lab: KubeLab, headers: tuple[str, ...]) -> None:
    before = len(lab.apiserver.seen)
    ask(lab, "GET /api/v1/namespaces/default/pods", *headers)
    for seen in lab.apiserver.seen[before:]:
        for name, _ in seen.headers:
            assert not name.lower().replace("_", "-").startswith(("impersonate-", "x-remote-"))


CSR = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        (f"PUT {CSR}/x/approval", "kube.token"),
        (f"PATCH {CSR}/x/status", "kube.token"),
        (f"POST {CSR}", "kube.token"),
        ("POST /api/v1/namespaces/default/serviceaccounts/default/token", "kube.token"),
        ("POST /apis/authentication.k8s.io/v1/tokenreviews", "kube.token"),
        ("POST /api/v1/namespaces/default/pods/web/attach?stdin=true", "kube.exec"),
        ("GET /api/v1/namespaces/default/pods/web/portforward", "kube.forward"),
        ("PATCH /api/v1/namespaces/default/pods/web/ephemeralcontainers", "kube.debug"),
        ("PUT /api/v1/namespaces/shop/pods/web/anything", "unknown"),
        ("PATCH /api/v1/nodes/n1/status", "kube.write"),
        ("PATCH /api/v1/namespaces/kube-system/pods/web/resize", "kube.write"),
        ("POST /api/v1/namespaces/kube-system/pods/web/eviction", "kube.delete"),
        ("POST /api/v1/namespaces/kube-system/pods/web/binding", "kube.write"),
        ("POST /api/v1/namespaces/kube-system/bindings", "kube.write"),
        ("PUT /apis/apps/v1/namespaces/kube-system/deployments/web/scale", "kube.write"),
        ("POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "priv.grant"),
        ("POST /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "admin.config"),
        ("POST /apis/apiregistration.k8s.io/v1/apiservices", "admin.config"),
        ("DELETE /api/v1/namespaces/kube-system/secrets", "kube.delete"),
        ("POST /healthz", "unknown"),
        ("GET /api/v1/namespaces/default/endpoints/x/proxy", "kube.proxy"),
    ],
)
def test_what_nobody_granted_is_refused_for_what_it_is(lab: KubeLab, line: str, effect: str) -> None:
    before = len(lab.apiserver.seen)
    body = b"" if line.startswith(("GET", "DELETE")) else b'{"metadata": {"name": "x"}}'
    kind = "application/merge-patch+json" if line.startswith("PATCH") else "application/json"
    status, answer = ask(lab, line, f"Content-Type: {kind}", body=body, groups=("editors",))
    assert status in (400, 403), answer
    assert len(lab.apiserver.seen) == before
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["kind"] == "Status"
    if status == 403:
        found = records(lab.state)
        [command] = [r for r in found if r["t"] == "command"][-1:]
        assert effect in command["effects"]


def test_nothing_of_it_is_on_record(lab: KubeLab) -> None:
    text = json.dumps(records(lab.state))
    assert VALUE not in text
    assert ENCODED not in text
    for record in records(lab.state):
        for part in ("body", "wire"):
            assert hides(base64.b64decode(record.get(part, "")))
