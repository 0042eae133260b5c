"""Attacks on Kubernetes traffic, by the rows of the threat table: what a request is taken for, and what comes back.

These hold for the library that the gateway's Kubernetes listener judges and masks with.
"""

from __future__ import annotations

import base64
import json

import pytest

from protocols.contract import Effect, Principal
from protocols.kubernetes import spdy
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.asciicast import Header, Writer
from protocols.kubernetes.channels import V5, ExecWebSocket, choose
from protocols.kubernetes.errors import RequestRefused, StreamError, Withheld
from protocols.kubernetes.impersonation import asked, impersonation_headers
from protocols.kubernetes.media import negotiate
from protocols.kubernetes.requests import resolve
from protocols.kubernetes.secrets import MaskedObjects, mask_answer
from protocols.kubernetes.spdystreams import ExecSpdy
from scripts.player import Player

NS = "/api/v1/namespaces/shop"
HARMLESS = {Effect.KUBE_READ}
PASSWORD = base64.b64encode(b"hunter2").decode()
SECRET = {"kind": "Secret", "metadata": {"name": "db"}, "data": {"password": PASSWORD}}


@pytest.mark.parametrize(
    "target",
    [f"{NS}/pods/web/exec?command=sh", f"{NS}/pods/web/attach", f"{NS}/pods/web/portforward",
     "/api/v1/nodes/n1/proxy/run/shop/web/main?cmd=id", "/api/v1/nodes/n1/proxy/exec/shop/web/main?command=id",
     "/api/v1/proxy/nodes/n1/run/shop/web/main", f"{NS}/pods/web/proxy/", f"{NS}/services/web:80/proxy/admin",
     f"{NS}/pods/web/ephemeralcontainers/", f"{NS}/secrets", f"{NS}/secrets/db", "/api/v1/secrets?watch=1",
     "/api/v1/watch/namespaces/shop/secrets", "/api/v1/watch/secrets"],
)  # fmt: skip
def test_row_20_a_get_that_is_no_read(target: str) -> None:
    """exec is a GET over WebSocket, and the kubelet behind nodes/proxy runs commands for one."""
    try:
        found = analyse(resolve("GET", target))
    except RequestRefused:
        return
    assert not found.effects <= HARMLESS


@pytest.mark.parametrize(
    "target",
    ["/api/v1/nodes/n1/proxy/../../namespaces/shop/secrets", "/api/v1/nodes/n1/%70roxy/run", f"{NS}/pods/web/%65xec",
     f"{NS}//secrets", f"{NS}/secrets/", f"{NS}/./secrets", f"{NS}/x/../secrets", f"{NS}/secrets%2fdb",
     f"{NS}/secret%73", "/API/v1/secrets", f"{NS}/Secrets", f"{NS}/pods/web/exec/", f"https://upstream{NS}/secrets",
     f"{NS}/pods/..%2fsecrets", f"{NS}/secrets;x", f"{NS}/secrets%00", f"{NS}/secrets%3fwatch=1", f"/%2e{NS}/secrets",
     f"/healthz/..{NS}/secrets"],
)  # fmt: skip
def test_row_20_second_spellings_of_a_path(target: str) -> None:
    """What one reader decodes or cleans and another does not is refused, never repaired."""
    try:
        found = analyse(resolve("GET", target))
    except RequestRefused:
        return
    # an escaped `?` stays part of a name: the API server reads it so too
    assert found.facts["kube.resource"] == ("secrets?watch=1",)


def test_row_20_ephemeral_containers_by_every_way_in() -> None:
    body = json.dumps({"spec": {"ephemeralContainers": [{"name": "d", "image": "evil:1"}]}}).encode()
    for method, target in (
        ("PATCH", f"{NS}/pods/web/ephemeralcontainers"),
        ("PUT", f"{NS}/pods/web/ephemeralcontainers"),
        ("PATCH", f"{NS}/pods/web"),
        ("POST", f"{NS}/pods"),
    ):
        found = analyse(resolve(method, target), body, "application/strategic-merge-patch+json")
        assert Effect.KUBE_DEBUG in found.effects
        assert found.facts["kube.image"] == ("evil:1",)


CLAIMS = ["Impersonate-User", "impersonate-user", "IMPERSONATE-GROUP", "Impersonate_Extra_scopes", "Impersonate-Uid",
          " Impersonate-User"]  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_row_20_a_client_claims_to_be_another(name: str) -> None:
    found = analyse(resolve("GET", f"{NS}/pods"), impersonates=asked([(name, "system:admin")]))
    assert Effect.KUBE_IMPERSONATE in found.effects


@pytest.mark.parametrize("group", ["system:masters", "SYSTEM:MASTERS", "a\r\nImpersonate-Group: system:masters"])
def test_row_07_a_tokens_group_becomes_no_group_of_kubernetes(group: str) -> None:
    with pytest.raises(RequestRefused):
        impersonation_headers(Principal("ci", "https://issuer", frozenset({group})))


def test_row_10_a_body_that_has_not_arrived_is_unknown() -> None:
    assert analyse(resolve("POST", f"{NS}/pods"), body_known=False).unknown


@pytest.mark.parametrize(
    ("body", "kind"),
    [('{"spec":{"hostNetwork":false,"hostNetwork":true}}', "application/json"),
     ("a: &a {hostNetwork: true}\nspec: *a\n", "application/yaml"),
     ("spec: {<<: {hostNetwork: true}}\n", "application/yaml"),
     ("kind: Pod\n---\nspec: {hostNetwork: true}\n", "application/yaml"),
     ('{"spec":{}}{"spec":{"hostNetwork":true}}', "application/json"),
     ('[{"op":"copy","from":"/metadata/annotations/x","path":"/spec/hostNetwork"}]', "application/json-patch+json"),
     ("\xa1dspec", "application/cbor"), ("k8s\x00", "application/vnd.kubernetes.protobuf")],
)  # fmt: skip
def test_row_12_a_body_that_two_readers_could_differ_on(body: str, kind: str) -> None:
    assert analyse(resolve("PATCH", f"{NS}/pods/web"), body.encode("latin-1"), kind).unknown


@pytest.mark.parametrize(
    ("path", "value"),
    [("/spec/hostNetwork", True), ("/spec", {"hostNetwork": True}), ("", {"spec": {"hostNetwork": True}}),
     ("/spec/host~1Network", None)],
)  # fmt: skip
def test_row_12_a_json_patch_that_cuts_the_key_from_its_value(path: str, value: object) -> None:
    body = json.dumps([{"op": "add", "path": path, "value": value}]).encode()
    found = analyse(resolve("PATCH", f"{NS}/pods/web"), body, "application/json-patch+json")
    assert ("kube.host_network" in found.facts) == (value is not None)


def test_row_16_dry_run_in_the_query_and_not_in_the_body() -> None:
    found = analyse(resolve("DELETE", f"{NS}/pods?dryRun=All"), b'{"kind":"DeleteOptions"}', "application/json")
    assert found.facts["kube.dry_run"] == ("false",)


@pytest.mark.parametrize(
    "accept",
    ["application/vnd.kubernetes.protobuf", "application/cbor", "application/vnd.kubernetes.protobuf;as=Table"],
)
def test_row_24_formats_that_cannot_be_masked_are_not_asked_for(accept: str) -> None:
    request = resolve("GET", f"{NS}/secrets")
    with pytest.raises(RequestRefused):
        negotiate(accept, request)
    assert "json" in negotiate(f"{accept}, application/json", request)
    assert "kubernetes" not in negotiate(f"{accept}, application/json", request)
    with pytest.raises(Withheld):
        mask_answer(b"k8s\x00", accept, request, MaskedObjects())


def test_row_22_a_secret_under_another_name() -> None:
    """A Secret in a list, a table, an event, an annotation, or called something else."""
    request = resolve("GET", f"{NS}/secrets")
    applied = {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(SECRET)}}}
    for answer in (
        {"kind": "SecretList", "items": [SECRET]},
        {"kind": "List", "items": [SECRET | {"kind": "ConfigMap"}]},
        {"kind": "Table", "rows": [{"cells": [], "object": SECRET}]},
        {"type": "ADDED", "object": SECRET},
        {"kind": "PartialObjectMetadataList", "items": [applied]},
    ):
        masked = mask_answer(json.dumps(answer).encode(), "application/json", request, MaskedObjects())
        assert PASSWORD not in masked.body.decode()


def test_row_22_a_patch_of_nothing_reads_the_secret() -> None:
    request = resolve("PATCH", f"{NS}/secrets/db")
    assert Effect.SECRET_READ in analyse(request, b"{}", "application/merge-patch+json").effects
    masked = mask_answer(json.dumps(SECRET).encode(), "application/json", request, MaskedObjects())
    assert PASSWORD not in masked.body.decode()


def test_row_06_stream_protocols_that_hide_their_bytes_are_refused() -> None:
    with pytest.raises(RequestRefused):
        choose(["base64.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io"])


def test_row_02_a_stream_that_lies_ends() -> None:
    with pytest.raises(StreamError):
        ExecWebSocket(V5).client(b"\x01forged output")
    stream = ExecSpdy()
    with pytest.raises(StreamError):
        stream.server(spdy.Encoder().encode(spdy.SynStream(2, {"streamtype": "stdin"})))
    with pytest.raises(StreamError):
        stream.client(b"")


def test_row_21_a_recording_does_not_act_on_the_terminal_of_who_replays_it(capsys: pytest.CaptureFixture[str]) -> None:
    evil = b"\x1b]52;c;cm0gLXJmIC8K\x07\x1b]0;title\x07\x1b[6n\x1bP+q544e\x1b\\\xc2\x9b6nfine"
    cast = (Writer.header(Header(80, 24, 0)) + Writer(0).output(0, evil)).decode()
    Player(speed=1.0, max_pause=0.0, json=False).play({"events": [{"kind": "cast", "at_ms": 0, "cast": cast}]})
    assert capsys.readouterr().out == "fine"


def test_row_28_masked_values_are_in_no_record() -> None:
    request = resolve("GET", f"{NS}/secrets/db")
    masked = mask_answer(json.dumps(SECRET).encode(), "application/json", request, MaskedObjects())
    assert masked.fields == ("/db data.password",)
    assert "hunter2" not in repr(masked)
    assert PASSWORD not in repr(masked)
