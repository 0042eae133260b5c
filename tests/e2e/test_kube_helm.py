"""helm itself through the gateway: its own Go code, as `helm-python-sdk` binds it, installs, upgrades, lists, removes.

Runs where that package is: `SLUICEGATE_HELM_PYTHON` names a Python that has it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.detect.expose import exposed
from protocols.kubernetes.kubeconfig import kubeconfig
from tests.support.kube_lab import POLICY, KubeLab

PYTHON = os.environ.get("SLUICEGATE_HELM_PYTHON", sys.executable)


def _has_helm() -> bool:
    return subprocess.run([PYTHON, "-c", "import helm_python"], capture_output=True, timeout=60).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _has_helm(), reason="helm-python-sdk is not installed (75 MB): name a Python that has it"),
]

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
PASSWORD = "hunter2-of-a-chart"
TEMPLATE = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: {{{{ .Release.Name }}}}-settings}}
data: {{colour: blue}}
---
apiVersion: v1
kind: Secret
metadata: {{name: {{{{ .Release.Name }}}}-db}}
stringData: {{password: {PASSWORD}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {{{{ .Release.Name }}}}}}
spec:
  selector: {{matchLabels: {{app: {{{{ .Release.Name }}}}}}}}
  template:
    metadata: {{labels: {{app: {{{{ .Release.Name }}}}}}}}
    spec: {{containers: [{{name: main, image: {{{{ .Values.image | quote }}}}}}]}}
"""
CLIENT = """
import json, sys
from helm_python import Config

told = []
with Config(kubeconfig_path=sys.argv[1], namespace="default") as helm:
    for step, *given in json.loads(sys.argv[3]):
        words = [sys.argv[2], *given] if step in ("install", "upgrade") else given
        try:
            found = getattr(helm, step)(*words, **({"version": 1} if step == "rollback" else {}))
            told.append([True, str(found)])
        except Exception as e:
            told.append([False, str(e)])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab(HELM) as running:
        chart = running.folder / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: web\nversion: 0.1.0\n")
        (chart / "values.yaml").write_text("image: example.org/web:1\n")
        (chart / "templates" / "all.yaml").write_text(TEMPLATE)
        yield running


def helm(lab: KubeLab, subject: str, groups: list[str], *steps: Any) -> tuple[list[tuple[bool, str]], str]:
    """Whether each step succeeded, and what it said; warnings."""
    config = lab.folder / f"helm-{subject}.yaml"
    token = lab.token(subject, *groups)
    config.write_text(kubeconfig("lab", lab.url, lab.authority.file.read_bytes(), token=token))
    argv: list[str | Path] = [PYTHON, "-c", CLIENT, config, lab.folder / "chart", json.dumps(steps)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [(bool(ok), str(said)) for ok, said in json.loads(done.stdout)], done.stderr


def test_a_release_lives_and_ends(lab: KubeLab) -> None:
    first, second = {"image": "example.org/web:1"}, {"image": "example.org/web:2"}
    told, warnings = helm(
        lab, "deployer", ["helm", "editors"],
        ["install", "web", first], ["list"], ["status", "web"], ["get_values", "web"], ["upgrade", "web", second],
        ["history", "web"], ["rollback", "web"], ["uninstall", "web"], ["list"],
    )  # fmt: skip
    assert [ok for ok, _ in told] == [True] * 9, told
    assert "'revision': 1" in told[1][1]
    assert told[3][1] == str(first)
    assert told[5][1].count("'revision'") == 2
    assert told[8][1] == "[]"
    assert "masked" not in warnings
    for record in lab.journal():
        parts = (base64.b64decode(record.get(part, "")) for part in ("body", "wire"))
        for raw in (json.dumps(record).encode(), *parts):
            assert not any(PASSWORD.encode() in form for form in exposed(raw)), record


def test_a_chart_that_a_rule_refuses_is_not_installed(lab: KubeLab) -> None:
    told, _ = helm(lab, "deployer", ["helm", "editors"], ["install", "evil", {"image": "docker.io/evil:1"}])
    [(installed, why)] = told
    assert not installed
    assert "rule `kube-lab/images`" in why


def test_without_a_grant_helm_finds_nothing_and_says_why(lab: KubeLab) -> None:
    helm(lab, "deployer", ["helm", "editors"], ["install", "kept", {"image": "example.org/web:1"}])
    told, warnings = helm(lab, "stranger", ["editors"], ["list"], ["status", "kept"])
    assert told[0] == (True, "[]")
    assert not told[1][0]
    assert "helm's releases are masked for you" in warnings
