"""Kubernetes: whom somebody claims to be is seen by who approves and who investigates, and so is what was masked."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.journal import await_records, records
from tests.support.kube_lab import CARD, POLICY, KubeLab

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

VALUE = "web3-wants-this-value"
ENCODED = base64.b64encode(VALUE.encode()).decode()
SECRETS = "/api/v1/namespaces/default/secrets"
MORE = """
  - {id: others, description: who may be others, who: {groups: [admins]}, allow: {effects: [kube.impersonate]}}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab(POLICY + MORE) as running:
        for name in ("db", "mail"):
            applied = json.dumps({"kind": "Secret", "data": {"password": ENCODED}})
            metadata = {"name": name, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}}
            data = {"password": ENCODED, "user": ENCODED}
            running.apiserver.create("secrets", "default", {"metadata": metadata, "type": "Opaque", "data": data})
        running.apiserver.create(
            "configmaps", "default", {"metadata": {"name": "shop"}, "data": {"test-card": CARD, "colour": "red"}}
        )
        yield running


def _responses(lab: KubeLab, text: str, count: int = 1) -> list[dict[str, Any]]:
    """The answers to commands with that text."""
    commands = {
        (one["s"], one["n"]) for one in await_records(lab.state, lambda r: r["t"] == "command" and text in r["text"])
    }
    return await_records(lab.state, lambda r: r["t"] == "response" and (r["s"], r["n"]) in commands, count)


def test_whom_a_client_claims_to_be_is_on_record(lab: KubeLab) -> None:
    status, _ = lab.request(
        "GET",
        "/api/v1/namespaces/shop/pods",
        lab.token("imp", "admins"),
        Impersonate_User="jane",
        Impersonate_Group="x",
    )
    assert status == 200
    [command] = await_records(lab.state, lambda r: r["t"] == "command" and "list pods in shop" in r["text"])
    assert "as user:jane, group:x" in command["text"]


def test_who_approves_sees_whom_it_would_be_done_as(lab: KubeLab) -> None:
    """The text said what, and nothing of whom the API server would take for the author."""
    answers: list[int] = []
    path, token = "/api/v1/namespaces/default/configmaps/guarded-1", lab.token("eve", "editors", "admins")
    asking = threading.Thread(
        target=lambda: answers.append(lab.request("DELETE", path, token, Impersonate_User="jane")[0])
    )
    asking.start()
    ticket = lab.ticket("eve")
    shown = lab.cli("approvals", "show", ticket, "--json", token=lab.token("ann", "oncall"))
    assert "as user:jane" in json.loads(shown.stdout)["text"]
    lab.cli("approvals", "deny", ticket, "--reason", "no", token=lab.token("ann", "oncall"))
    asking.join(30)
    assert answers == [403]


def test_which_values_were_masked_is_on_record_and_none_of_them(lab: KubeLab) -> None:
    dev = lab.kubectl("reader")
    assert VALUE not in dev("get", "secret", "db", "-o", "json")
    [one] = _responses(lab, "get secrets db in default")
    names = {each["name"] for each in one["columns"]}
    assert names >= {"default/db data.password", "default/db data.user", "default/db last-applied-configuration"}
    assert {each["masked"] for each in one["columns"]} == {"secret.read"}
    dev("get", "secrets", "-o", "yaml")
    whole = max(_responses(lab, "list secrets in default"), key=lambda r: len(r.get("columns", ())))
    assert {"default/db data.password", "default/mail data.password"} <= {each["name"] for each in whole["columns"]}
    told = str(records(lab.state))
    assert VALUE not in told
    assert ENCODED not in told


def test_a_watch_and_yaml_say_it_too(lab: KubeLab) -> None:
    assert ENCODED not in str(lab.request("GET", f"{SECRETS}/mail", lab.token("yam"), Accept="application/yaml")[1])
    [one] = _responses(lab, "get secrets mail in default")
    assert "default/mail data.password" in {each["name"] for each in one["columns"]}
    process = lab.kubectl("watcher").start("get", "secrets", "--watch", "--request-timeout=5s", "-o", "json")
    await_records(lab.state, lambda r: r["t"] == "command" and r["text"].startswith("watch secrets in default"))
    lab.apiserver.create("secrets", "default", {"metadata": {"name": "late"}, "data": {"password": ENCODED}})
    seen, _ = process.communicate(timeout=30)
    assert b"late" in seen
    assert ENCODED.encode() not in seen
    [last] = _responses(lab, "watch secrets in default")
    assert [each["name"] for each in last["columns"]] == ["default/late data.password"]


def test_what_is_shown_is_not_called_masked(lab: KubeLab) -> None:
    assert ENCODED in lab.kubectl("keeper", "keepers")("get", "secret", "db", "-o", "json")
    answers = _responses(lab, "get secrets db in default", 2)
    assert any("columns" not in one for one in answers)


def test_contents_that_were_masked_are_named_by_their_detector(lab: KubeLab) -> None:
    assert CARD not in lab.kubectl("reader")("get", "configmap", "shop", "-o", "json")
    [one] = _responses(lab, "get configmaps shop in default")
    assert one["columns"] == [{"name": "card", "masked": "kube-lab/cards"}]


def test_a_responder_is_told_what_was_masked(lab: KubeLab) -> None:
    lab.kubectl("asked")("get", "secret", "db", "-o", "json")
    _responses(lab, "get secrets db in default")
    token = lab.token("rita", "security")
    found = lab.cli("search", "--subject", "asked", "--json", token=token)
    assert any("default/db data.password" in row["masked"] for row in json.loads(found.stdout))
    report = lab.cli("incident", "asked", "--json", token=token)
    assert "default/db data.password" in json.loads(report.stdout)["summary"]["masked"]
    assert "default/db data.password" in lab.cli("incident", "asked", token=token).stdout
