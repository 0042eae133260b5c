"""What an adversary with a valid token tried to get a Secret's value out of a cluster through the gateway."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.requests import resolve
from protocols.kubernetes.secrets import MaskedObjects
from tests.attacks.test_kubernetes_gateway import raw
from tests.support.http_h2 import Answer, H2Client
from tests.support.journal import records
from tests.support.kube_lab import KubeLab

VALUE = "adversary-wants-this-9"
ENCODED = base64.b64encode(VALUE.encode()).decode()
SECRETS = "/api/v1/namespaces/default/secrets"


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    applied = json.dumps({"kind": "Secret", "data": {"value": ENCODED}})
    metadata = {"name": "db", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}}
    with KubeLab() as running:
        running.apiserver.create("secrets", "default", {"metadata": metadata, "data": {"value": ENCODED}})
        yield running


def ask(lab: KubeLab, line: str, *headers: str, body: bytes = b"", groups: tuple[str, ...] = ()) -> tuple[int, bytes]:
    """Status and answer."""
    lines = [f"{line} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {lab.token('dev', *groups)}", *headers]
    lines += ["Connection: close", *([f"Content-Length: {len(body)}"] if body else []), "", ""]
    answer = raw(lab, "\r\n".join(lines).encode() + body)
    return int(answer.split(b" ", 2)[1]), answer


def hides(answer: bytes) -> bool:
    return VALUE.encode() not in answer and ENCODED.encode() not in answer


@pytest.mark.parametrize("end", ["", "/status", "/log", "/scale", "/token", "/anything"])
def test_no_subresource_of_a_secret_is_taken_for_something_else(end: str) -> None:
    assert MaskedObjects().applies(resolve("GET", f"{SECRETS}/db{end}"))


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(
    "path",
    [
        *(f"{SECRETS}{end}" for end in ("", "/db", "/db/status", "/db/log", "/db/scale", "/db/", "//db", "%2Fdb")),
        *(f"{SECRETS}/db?{query}" for query in ("watch=true&timeoutSeconds=1", "includeObject=Object")),
        f"{SECRETS}?watch=1&timeoutSeconds=1",
        f"{SECRETS}?fieldSelector=metadata.name%3Ddb&watch=1&timeoutSeconds=1",
        "/api/v1/secrets",
        "/api/v1/namespaces/default/pods/../secrets/db",
        "/api/v1/proxy/namespaces/default/secrets/db",
        "/api/v1/watch/namespaces/default/secrets/db?timeoutSeconds=1",
        "/api/v2/namespaces/default/secrets/db",
    ],
)
def test_no_path_shows_a_value(lab: KubeLab, path: str) -> None:
    assert hides(ask(lab, f"GET {path}")[1])


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("json-patch", '[{"op": "copy", "from": "/data/value", "path": "/metadata/labels/x"}]'),
        ("json-patch", '[{"op": "move", "from": "/data/value", "path": "/metadata/labels/x"}]'),
        (
            "json-patch",
            '[{"op": "copy", "Op": "add", "from": "/data/value", "path": "/metadata/labels/x", "value": "1"}]',
        ),
        ("merge-patch", '{"metadata": {"labels": {"a": "b"}}}'),
        ("strategic-merge-patch", '{"metadata": {"labels": {"a": "b"}}}'),
    ],
)
def test_no_patch_shows_a_value(lab: KubeLab, kind: str, patch: str) -> None:
    header = f"Content-Type: application/{kind}+json"
    status, answer = ask(lab, f"PATCH {SECRETS}/db?dryRun=All", header, body=patch.encode(), groups=("editors",))
    assert status == (403 if kind == "json-patch" else 200)
    assert hides(answer)


@pytest.mark.slow
@pytest.mark.e2e
def test_none_of_it_is_on_record(lab: KubeLab) -> None:
    assert ask(lab, f"GET {SECRETS}/db")[0] == 200
    assert VALUE not in lab.log.read_text()
    assert hides(json.dumps(records(lab.state)).encode())


@pytest.mark.parametrize(
    ("body", "fact", "value"),
    [
        ({"spec": {"securityContext": {"windowsOptions": {"hostProcess": True}}}}, "kube.privileged", "true"),
        ({"spec": {"local": {"path": "/etc"}}}, "kube.host_path", "/etc"),
        ({"spec": {"template": {"spec": {"initContainers": [{"image": "evil"}]}}}}, "kube.image", "evil"),
        ({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"hostPID": True}}}}}}, "kube.host_pid", "true"),
        ({"spec": {"$patch": "replace", "containers": [{"image": "evil"}]}}, "kube.image", "evil"),
        ({"spec": {"anything": [{"podSpec": {"volumes": [{"hostPath": {"path": "/"}}]}}]}}, "kube.host_path", "/"),
        ({"items": [{"spec": {"containers": [{"image": "evil"}]}}]}, "kube.image", "evil"),
    ],
)
def test_no_place_hides_what_a_pod_asks_of_its_node(body: dict[str, object], fact: str, value: str) -> None:
    for method, kind in (("POST", "application/json"), ("PATCH", "application/apply-patch+yaml")):
        target = "/apis/example.org/v1/namespaces/shop/things" + ("/x" if method == "PATCH" else "")
        facts = analyse(resolve(method, target), json.dumps(body).encode(), kind).facts
        assert facts[fact] == (value,)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("CONNECT 127.0.0.1:443", (), 403),
        ("CONNECT /api/v1/namespaces/default/pods/web/exec", (), 403),
        ("TRACE /api/v1/pods", (), 400),
        ("PROPFIND /api/v1/pods", (), 405),
        ("GET /api/v1/pods", ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), 400),
        ("GET /api/v1/nodes/n1/exec?command=id", (), 403),
        ("GET /api/v1/nodes/n1/log", (), 200),
        ("GET /logs/kube-apiserver.log", (), 403),
        ("GET /debug/pprof/profile", (), 403),
        ("GET /metrics/cadvisor", (), 403),
        (f"GET {SECRETS}/db", ("X-HTTP-Method-Override: DELETE", "X-Original-URL: /api/v1/nodes/n1/proxy/run"), 200),
    ],
)
def test_no_method_and_no_upgrade_is_another_way_in(
    lab: KubeLab, line: str, headers: tuple[str, ...], status: int
) -> None:
    found, answer = ask(lab, line, *headers)
    assert found in (status, 404) if status == 200 else found == status, answer[:300]
    assert hides(answer)
    assert not any(
        seen.header("x-http-method-override") or seen.header("x-original-url") for seen in lab.apiserver.seen
    )


@pytest.mark.slow
@pytest.mark.e2e
def test_a_websocket_over_http2_opens_nothing(lab: KubeLab) -> None:
    """RFC 8441: CONNECT with a `:protocol`, which would be an exec that is no upgrade."""

    class Api:
        authority = lab.authority
        ports = {"api": lab.ports["cluster"]}  # noqa: RUF012 - read once

    streams = len(lab.apiserver.recordings)
    path = "/api/v1/namespaces/default/pods/web/exec?command=id&stdout=true"
    with H2Client(Api(), token=lab.token("dev", "operators"), lies=True) as client:  # type: ignore[arg-type]
        pseudo = [(b":protocol", b"websocket")]
        fields = client.fields("CONNECT", path)
        stream = client.h2.get_next_available_stream_id()
        client.answers[stream] = Answer()
        client.h2.send_headers(stream, fields[:4] + pseudo + fields[4:], end_stream=False)
        client.flush()
        while not client.answers[stream].done and not client.closed and client.read(5.0):
            pass
        assert client.closed or client.answers[stream].error is not None or client.answers[stream].status >= 400
    assert len(lab.apiserver.recordings) == streams
