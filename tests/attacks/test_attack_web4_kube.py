"""Kubernetes: YAML that the API server reads otherwise than others, since it reads YAML 1.1."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.errors import Unreadable
from protocols.kubernetes.objects import read
from protocols.kubernetes.requests import resolve

POD = """apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - name: web
    image: registry.example/web
    command:
    - sh
    securityContext:
      runAsUser: 1000
{}
"""
# each hides `privileged: true`, or a second word of the command, from a reader of YAML 1.2
HIDDEN = {
    "a byte order mark in front of a line": POD.format("\ufeff     privileged: true"),
    "a line separator in a list": POD.format("").replace("- sh\n", "- sh\u2028    - -c\n"),
    "a paragraph separator in a list": POD.format("").replace("- sh\n", "- sh\u2029    - -c\n"),
    "a next line in a comment": POD.format("      # note\x85      privileged: true"),
    "an anchor whose name ends early": POD.format("").replace("image: registry", "image: &a:registry"),
}


@pytest.mark.parametrize("kind", ["application/yaml", "application/apply-patch+yaml"])
@pytest.mark.parametrize("how", HIDDEN)
def test_a_setting_that_only_yaml_1_1_shows_is_not_taken_for_text(how: str, kind: str) -> None:
    with pytest.raises(Unreadable):
        read(HIDDEN[how].encode(), kind)
    request = resolve("POST", "/api/v1/namespaces/shop/pods")
    assert Effect.UNKNOWN in analyse(request, HIDDEN[how].encode(), kind).effects


def test_ordinary_yaml_is_read() -> None:
    text = POD.format("      privileged: true").replace("sh\n", '"g\u00e9n\u00e9ral \u00a0"\n')
    request = resolve("POST", "/api/v1/namespaces/shop/pods")
    for body in (text, "\ufeff" + text, text.replace("\n", "\r\n")):
        found = analyse(request, body.encode(), "application/yaml")
        assert found.facts["kube.privileged"] == ("true",)
        assert Effect.UNKNOWN not in found.effects
