"""The blocks of the page about Kubernetes work: its policy, its configuration, its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.docs.test_blocks import Desk
from tests.support.journal import await_records
from tests.support.kube_lab import KubeLab
from tests.support.markdown import Block, page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BLOCKS = page("docs/kubernetes.md").blocks


def with_text(needle: str) -> Block:
    (found,) = [block for block in BLOCKS if needle in block.text]
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    """A gateway with the page's own policy."""
    with KubeLab(with_text("name: shop-team").text) as running:
        yield running


@pytest.fixture
def desk(lab: KubeLab, tmp_path: Path) -> Desk:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "SLUICEGATE"))}
    (tmp_path / "ca.crt").write_bytes(lab.authority.file.read_bytes())
    env = {**kept, "HOME": str(tmp_path)}
    desk = Desk(tmp_path, env, {"https://gateway.example:6443": lab.url})
    provider = tmp_path / ".programs" / "my-idp"
    provider.write_text(f"#!/bin/sh\necho {lab.token('dev@example', 'shop-dev')}\n")
    provider.chmod(0o755)
    return desk


def test_a_kubeconfig_and_what_it_opens(desk: Desk) -> None:
    desk.take(with_text("sluicegate kubeconfig"))


def test_the_operators_configuration_is_accepted(lab: KubeLab, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    document: dict[str, Any] = yaml.load(lab.config)
    told = yaml.load(with_text("listeners:").text)
    real = document["listeners"][0]["tls"]
    told["listeners"][0]["tls"] |= {"certificate": real["certificate"], "key": real["key"]}
    told["listeners"][0]["listen"] = "127.0.0.1:0"
    told["resources"][0]["tls"]["ca"] = str(lab.authority.file)
    told["resources"][0]["credential"]["path"] = document["resources"][0]["credential"]["path"]
    document |= told
    with (tmp_path / "gateway.yaml").open("w") as stream:
        yaml.dump(document, stream)
    program = Path(sys.executable).with_name("sluicegate")
    done = subprocess.run([program, "check", tmp_path / "gateway.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_policy_does_what_it_says(lab: KubeLab) -> None:
    dev = lab.kubectl("dev@example", "shop-dev")
    token = "ghp_" + "a1B2" * 9
    for words, told in (
        (["create", "configmap", "c", "-n", "shop", f"--from-literal=k={token}"], b"exfil.credential"),
        (["create", "configmap", "c"], b"kube.write"),
        (["run", "x", "-n", "shop", "--image=docker.io/evil"], b"our-images"),
        (["run", "x", "-n", "shop", "--image=a/b", "--privileged"], b"no-node-access"),
    ):
        done = dev.run(*words)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    dev("create", "secret", "generic", "keys", "-n", "shop", f"--from-literal=token={token}")
    assert token not in dev("get", "secrets", "-n", "shop", "-o", "yaml")


def test_what_a_responder_types(lab: KubeLab, desk: Desk) -> None:
    dev = lab.kubectl("dev@example", "shop-dev")
    process = dev.start("exec", "-n", "shop", lab.pod(namespace="shop"), "--", "echo", "looked at")
    try:
        ticket = lab.ticket("dev@example")
        assert lab.cli("approvals", "approve", ticket, token=lab.token("ann", "oncall")).returncode == 0
        assert process.communicate(timeout=30)[0] == b"looked at\n"
    finally:
        process.kill()
        process.communicate()
    (ended,) = await_records(lab.state, lambda r: r["t"] == "cast" and "end" in r)
    await_records(lab.state, lambda r: r["t"] == "response" and (r["s"], r["n"]) == (ended["s"], ended["n"]))
    block = with_text("sluicegate contain")
    for line in block.text.replace("SESSION", str(ended["s"])).splitlines():
        words = re.findall(r'"[^"]*"|\S+', line)[1:]
        words = [str(desk.folder / "session.cast") if word == "session.cast" else word.strip('"') for word in words]
        done = lab.cli(*words, token=lab.token("ops", "security"))
        assert done.returncode == 0, line + done.stdout + done.stderr
        assert "search" not in words or str(ended["s"]) in done.stdout
    first = json.loads((desk.folder / "session.cast").read_text().splitlines()[0])
    assert first["version"] == 2
    assert dev.run("get", "pods", "-n", "shop").returncode == 1
