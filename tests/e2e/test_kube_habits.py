"""What helm and k9s do, by their documented habits: releases in Secrets, discovery, and many watches on one connection.

Neither program is run here: their requests are sent by kubectl and by an HTTP/2 client.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.http_h2 import H2Client
from tests.support.journal import await_records
from tests.support.kube_lab import POLICY, KubeLab

pytestmark = [pytest.mark.slow]

HELM = POLICY.replace(
    "rules:\n",
    """rules:
  - id: helm
    description: helm reads its own releases
    who: {groups: [helm]}
    allow: {effects: [secret.read], kubernetes: {names: ["sh.helm.release.v1.*"]}}
""",
    1,
)
PASSWORD = "password: hunter2-of-a-chart"
SECRETS = "/api/v1/namespaces/default/secrets"
LISTED = f"{SECRETS}?labelSelector={quote('owner=helm')}"
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
GROUPS = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)


def release(name: str, version: int, status: str = "deployed") -> dict[str, Any]:
    """A Secret as helm 3 writes it: JSON, gzipped, base64, and once more for the Secret."""
    chart = {"name": name, "version": version, "info": {"status": status}, "manifest": f"kind: Secret\n{PASSWORD}\n"}
    packed = base64.b64encode(gzip.compress(json.dumps(chart).encode()))
    labels = {"owner": "helm", "name": name, "status": status, "version": str(version)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"sh.helm.release.v1.{name}.v{version}", "labels": labels},
        "type": "helm.sh/release.v1",
        "data": {"release": base64.b64encode(packed).decode()},
    }


def opened(secret: dict[str, Any]) -> dict[str, Any]:
    """As helm reads it."""
    packed = base64.b64decode(secret["data"]["release"])
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab(HELM) as running:
        running.apiserver.create("secrets", "default", release("shop", 1))
        other = {"metadata": {"name": "db", "labels": {"owner": "helm"}}, "data": {"p": "aHVudGVyMi1hbmQtbW9yZQ=="}}
        running.apiserver.create("secrets", "default", other)
        yield running


def client(lab: KubeLab, subject: str, *groups: str) -> H2Client:
    class Api:
        authority = lab.authority
        ports = {"api": lab.ports["cluster"]}  # noqa: RUF012 - read once

    return H2Client(Api(), token=lab.token(subject, *groups))  # type: ignore[arg-type]


def rss(lab: KubeLab) -> int:
    """KiB of the gateway."""
    status = Path(f"/proc/{lab.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def test_helm_list_without_a_grant_is_told_why_it_finds_nothing(lab: KubeLab) -> None:
    done = lab.kubectl("reader").run("get", "secrets", "-l", "owner=helm", "-o", "json")
    items = json.loads(done.stdout)["items"]
    assert {item["data"][key] for item in items for key in item["data"]} == {"W21hc2tlZF0="}
    assert b"Warning: helm's releases are masked for you" in done.stderr
    # nobody who looks for something else is told about helm
    assert not lab.kubectl("reader").run("get", "secrets").stderr


def test_helm_list_with_a_grant_reads_its_releases_and_nothing_else(lab: KubeLab) -> None:
    done = lab.kubectl("deployer", "helm").run("get", "--raw", LISTED)
    items = {item["metadata"]["name"]: item for item in json.loads(done.stdout)["items"]}
    assert opened(items["sh.helm.release.v1.shop.v1"])["info"] == {"status": "deployed"}
    assert items["db"]["data"] == {"p": "W21hc2tlZF0="}
    assert b"Warning" not in done.stderr
    found = await_records(lab.state, lambda r: r["t"] == "response" and "values shown" in json.dumps(r))
    assert "default/sh.helm.release.v1.shop.v1" in found[-1]["tag"]
    assert "default/db" not in found[-1]["tag"]
    assert release("shop", 1)["data"]["release"][:40] not in json.dumps(found[-1])


def test_helm_install_and_upgrade(lab: KubeLab) -> None:
    helm = lab.kubectl("installer", "helm", "editors")
    token = lab.token("installer", "helm", "editors")
    first = release("web", 1, "pending-install")
    status, made = lab.request("POST", SECRETS, token, body=json.dumps(first))
    assert status == 201, made
    first["metadata"]["labels"]["status"] = "superseded"
    path = f"{SECRETS}/{first['metadata']['name']}"
    assert lab.request("PUT", path, token, body=json.dumps(first))[0] == 200
    assert lab.request("POST", SECRETS, token, body=json.dumps(release("web", 2)))[0] == 201
    shown = json.loads(helm("get", "--raw", f"{LISTED}{quote(',name=web')}"))["items"]
    assert [opened(item)["version"] for item in shown] == [1, 2]
    assert lab.request("DELETE", path, token)[0] == 200


def test_a_release_in_a_config_map_carries_its_passwords_out(lab: KubeLab) -> None:
    """What is packed twice is opened: helm's other driver keeps the same text where nobody grants credentials."""
    token = lab.token("installer", "helm", "editors")
    body = release("web", 1) | {"kind": "ConfigMap"}
    body.pop("type")
    status, answer = lab.request("POST", "/api/v1/namespaces/default/configmaps", token, body=json.dumps(body))
    assert (status, "exfil.credential" in answer["message"]) == (403, True)


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/api", GROUPS),
        ("/apis", GROUPS),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/api/v1?hash=" + "0A" * 64, "application/com.github.proto-openapi.spec.v3@v1.0+protobuf, */*"),
        ("/version", "application/json"),
        ("/api/v1/namespaces/default/pods?limit=500", TABLE),
        (LISTED, TABLE),
    ],
    ids=lambda v: v[:40],
)  # fmt: skip
def test_discovery_and_tables_as_these_clients_ask(lab: KubeLab, path: str, accept: str) -> None:
    with client(lab, "k9s") as browser:
        answer = browser.answer(browser.request("GET", path, (b"accept", accept.encode())))
        assert answer.status == 200
        assert json.loads(answer.body)
        assert PASSWORD.encode() not in answer.body


def test_a_hundred_watches_on_one_connection(lab: KubeLab) -> None:
    streaming = (
        "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=60"
    )
    kinds = ("configmaps", "secrets", "pods", "services")
    with client(lab, "k9s") as browser:
        before = rss(lab)
        streams = []
        for number in range(100):  # as many as an API server takes, and Go's client then opens another
            path = f"/api/v1/namespaces/default/{kinds[number % 4]}?{streaming}"
            streams.append(browser.request("GET", path, (b"accept", b"application/json;stream=watch")))
            if number % 10 == 9:
                browser.until(lambda: all(browser.answers[one].status for one in streams), 60)
        browser.until(lambda: all(b"initial-events-end" in browser.answers[one].body for one in streams), 60)
        assert {browser.answers[one].status for one in streams} == {200}
        value = base64.b64encode(b"late-value-of-a-watch").decode()
        lab.apiserver.create("secrets", "default", {"metadata": {"name": "late"}, "data": {"k": value}})
        lab.apiserver.create("configmaps", "default", {"metadata": {"name": "late"}})
        told = [one for number, one in enumerate(streams) if number % 4 < 2]
        browser.until(lambda: all(b'"name": "late"' in with_spaces(browser.answers[one].body) for one in told), 60)
        assert not any(value.encode() in browser.answers[one].body for one in streams)
        assert not any(browser.answers[one].done for one in streams)
        assert rss(lab) - before < 80 * 1024
        # a client that goes away takes its watches with it
        for one in streams[:60]:
            browser.h2.reset_stream(one)
        browser.flush()
        assert browser.answer(browser.request("GET", "/version")).status == 200


def with_spaces(body: bytes) -> bytes:
    return body.replace(b'":"', b'": "')


def test_a_long_list_of_secrets_does_not_hold_up_the_others(lab: KubeLab) -> None:
    """23 MiB of Secrets pass in pieces; meanwhile others are answered, and memory stays where it was."""
    value = base64.b64encode(b"bulk-value-" * 6000).decode()
    for number in range(280):
        item = {"metadata": {"name": f"bulk-{number}"}, "data": {"k": value}}
        lab.apiserver.create("secrets", "shop", item)
    size = 280 * len(value)
    assert size > 23 << 20
    waited = []
    with client(lab, "bulk") as one, client(lab, "quick") as other:
        assert other.answer(other.request("GET", "/version")).status == 200
        before = rss(lab)
        long = one.request("GET", "/api/v1/namespaces/shop/secrets", (b"accept", b"application/json"))
        while not one.answers[long].done:
            one.read(0.02)
            began = time.monotonic()
            assert other.answer(other.request("GET", "/version")).status == 200
            waited.append(time.monotonic() - began)
        answer = one.answers[long]
        assert answer.status == 200
        assert answer.size < 1 << 20  # 280 masks in the place of 23 MiB
        assert value[:100].encode() not in answer.body
        assert rss(lab) - before < 40 * 1024
    print(f"answers while it passed: {len(waited)}, the longest wait {max(waited) * 1000:.0f} ms")
