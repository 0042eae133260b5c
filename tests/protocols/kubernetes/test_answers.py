"""Status objects, impersonation, kubeconfig and the plugin's answer."""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from protocols.contract import Principal
from protocols.kubernetes import status
from protocols.kubernetes.channels import Finished, read_status
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.impersonation import asked, impersonation_headers
from protocols.kubernetes.kubeconfig import exec_credential, kubeconfig
from protocols.kubernetes.requests import resolve

POD = resolve("GET", "/api/v1/namespaces/shop/pods/web")
DEPLOYMENT = resolve("DELETE", "/apis/apps/v1/namespaces/shop/deployments/web")
PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_a_denial() -> None:
    answer = status.denied(DEPLOYMENT, "ci@example.org", "no-deletes", "ask\nin #ops", "r-1")
    body = json.loads(answer.body)
    assert (answer.code, body["code"], body["reason"], body["kind"]) == (403, 403, "Forbidden", "Status")
    assert body["status"] == "Failure"
    assert body["details"] == {
        "name": "web",
        "group": "apps",
        "kind": "deployments",
        "causes": [{"reason": "PolicyRule", "message": "no-deletes"}],
    }
    assert body["message"] == (
        '`ci@example.org` may not delete deployments.apps "web" in namespace `shop`: '
        "rule `no-deletes`: ask in #ops (request r-1)"
    )
    assert ("content-type", "application/json") in answer.headers


@pytest.mark.parametrize(
    ("code", "reason"), [(401, "Unauthorized"), (429, "TooManyRequests"), (504, "Timeout"), (418, "Unknown")]
)
def test_reasons(code: int, reason: str) -> None:
    answer = status.status(code, "text")
    body = json.loads(answer.body)
    assert (body["reason"], body["code"], answer.code) == (reason, code, code)


def test_held() -> None:
    held = status.held(POD, "t-7", "rule `exec` needs an approval")
    assert held.code == 403
    assert "t-7" in json.loads(held.body)["message"]
    assert all(name != "retry-after" for name, _ in held.headers)


def test_last_words_of_a_stream() -> None:
    assert read_status(status.stream_status(0, "")) == Finished(0, "")
    assert read_status(status.stream_status(403, "cut by the gateway")) == Finished(-1, "cut by the gateway")


def test_what_a_client_claims_to_be() -> None:
    headers = [
        ("Accept", "x"), ("Impersonate-User", "system:admin"), ("impersonate-group", "system:masters"),
        ("IMPERSONATE-EXTRA-scopes", "a"), ("Impersonate_User", "x"), ("Impersonate-Uid", "1"), ("X-Remote-User", "x"),
        ("x-remote-extra-a", "b"), ("Authorization", "Bearer t"), ("Cookie", "c"), ("User-Agent", "kubectl"),
        (" Impersonate-User", "x"),
    ]  # fmt: skip
    assert asked(headers)[:2] == ("user:system:admin", "group:system:masters")
    assert len(asked(headers)) == 6


def test_whom_the_gateway_acts_as() -> None:
    jane = Principal("jane@example.org", "https://issuer", frozenset({"ops", "dev"}))
    assert impersonation_headers(jane) == [
        ("Impersonate-User", "jane@example.org"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
    ]


@pytest.mark.parametrize(
    ("subject", "group"),
    [("system:admin", "a"), ("a", "system:masters"), ("SYSTEM:admin", "a"), (" system:x", "a"), ("a\r\nX: y", "b"),
     ("", "a"), ("a", ""), ("a ", "b"), ("j\u00e4ne", "b"), ("a", "b\x00")],
)  # fmt: skip
def test_identities_that_are_not_sent(subject: str, group: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        impersonation_headers(Principal(subject, "i", frozenset({group})))
    assert caught.value.code == 403


def test_too_many_groups() -> None:
    with pytest.raises(RequestRefused):
        impersonation_headers(Principal("a", "i", frozenset(map(str, range(300)))))


def test_kubeconfig() -> None:
    text = kubeconfig("prod", "https://gateway.example.org:6443", PEM, namespace="shop")
    document = YAML(typ="safe", pure=True).load(text)
    assert document["current-context"] == "prod"
    assert document["clusters"][0]["cluster"]["server"] == "https://gateway.example.org:6443"
    assert document["contexts"][0]["context"] == {"cluster": "prod", "user": "prod", "namespace": "shop"}
    plugin = document["users"][0]["user"]["exec"]
    assert (plugin["command"], plugin["args"]) == ("sluicegate", ["exec-credential"])
    assert plugin["apiVersion"] == "client.authentication.k8s.io/v1"
    assert "token:" not in text.replace("token\n", "")


@pytest.mark.parametrize(
    ("name", "server", "authority"),
    [("a\nb", "https://h", PEM), ("a", "http://h", PEM), ("a", "https://h\nx: y", PEM), ("a", "https://h", b"x"),
     ("", "https://h", PEM)],
)  # fmt: skip
def test_kubeconfigs_that_are_not_written(name: str, server: str, authority: bytes) -> None:
    with pytest.raises(ValueError, match="the "):
        kubeconfig(name, server, authority)


def test_exec_credential() -> None:
    asked_for = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {}})
    found = json.loads(exec_credential("abc.def", 1_700_000_000.9, asked_for))
    assert found["status"] == {"token": "abc.def", "expirationTimestamp": "2023-11-14T22:13:20Z"}
    assert "expirationTimestamp" not in json.loads(exec_credential("abc"))["status"]
    for token, info in [
        ("", ""),
        ("a b", ""),
        ("a\n", ""),
        ("a", "{"),
        ("a", '{"apiVersion": "x/v1beta1"}'),
        ("a", "[]"),
    ]:
        with pytest.raises(ValueError, match=r"[a-z]"):
            exec_credential(token, None, info)
