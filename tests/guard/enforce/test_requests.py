"""Rules about HTTP and Kubernetes requests: any value stops, all values must be allowed."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from guard.enforce import PolicySet
from protocols.contract import Action, Analysis, Effect, Principal, Resource, SessionFacts

WHO = Principal("ci", "https://idp.example", frozenset({"ci"}))
WHERE = Resource("internet", "http")
FACTS = SessionFacts("10.0.0.1", "curl", 0.0)


def policy(tmp_path: Path, rules: str) -> PolicySet:
    path = tmp_path / "p.yaml"
    head = "version: 1\nname: p\ndescription: test rules\nrules:\n"
    path.write_text(head + textwrap.indent(textwrap.dedent(rules), "  "))
    return PolicySet.load([path])


def action(found: PolicySet, effects: set[Effect], **facts: tuple[str, ...]) -> Action:
    named = {f"http.{name}": value for name, value in facts.items()}
    analysis = Analysis("GET", frozenset(effects), facts=named)
    session = found.for_session(WHO, WHERE, FACTS)
    decision = session.decide(analysis, now=0.0, facts=FACTS)
    traced = session.explain(analysis, 0.0, FACTS)
    deciding = {one.verb for one in traced if one.outcome == "decides"}
    assert deciding == ({decision.action.label} if decision.rule != "default" else set())
    return decision.action


ALLOW = """
- id: api
  description: the API's read side
  allow: {effects: [http.read], http: {hosts: ["*.example.com", example.com], paths: ["/v1/*"]}}
"""


def test_an_allow_needs_every_reading_of_a_path(tmp_path: Path) -> None:
    found = policy(tmp_path, ALLOW)
    read = {Effect.HTTP_READ}
    assert action(found, read, host=("a.example.com",), path=("/v1/users",)) is Action.ALLOW
    assert action(found, read, host=("a.example.com",), path=("/v1/../admin", "/admin")) is Action.DENY
    assert action(found, read, host=("evil.example",), path=("/v1/users",)) is Action.DENY
    assert action(found, read, host=("a.example.com",)) is Action.DENY  # without a path nothing fits
    assert action(found, {Effect.HTTP_WRITE}, host=("a.example.com",), path=("/v1/users",)) is Action.DENY


def test_a_denial_needs_one_reading_and_no_letter_case(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
- id: all
  description: everything
  allow: [http.*]
- id: admin
  description: nobody administers from here
  deny: {effects: [http.*], http: {paths: ["/admin*"]}}
""",
    )
    read = {Effect.HTTP_READ}
    assert action(found, read, path=("/v1/users",)) is Action.ALLOW
    assert action(found, read, path=("/v1/../ADMIN", "/ADMIN")) is Action.DENY
    assert action(found, read, path=("*",)) is Action.DENY  # could be anything


def test_query_headers_and_fields_are_conditions(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
- id: all
  description: everything
  allow: [http.*]
- id: force
  description: no force
  deny: {effects: [http.*], http: {query: {force: ["true", "1"]}}}
- id: role
  description: no administrators
  hold: {effects: [http.write], http: {json: {user.role: [admin]}}}
""",
    )
    assert action(found, {Effect.HTTP_READ}, **{"query.force": ("false",)}) is Action.ALLOW
    assert action(found, {Effect.HTTP_READ}, **{"query.force": ("false", "true")}) is Action.DENY
    assert action(found, {Effect.HTTP_WRITE}, **{"json.user.role": ("Admin",)}) is Action.HOLD
    assert action(found, {Effect.HTTP_WRITE}, **{"json.user.role": ("*",)}) is Action.HOLD


def test_an_answer_is_refused_by_its_status(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
- id: all
  description: everything
  allow: [http.*]
- id: archives
  description: no archives from there
  deny: {effects: [http.read], http: {response_types: ["application/zip"]}}
""",
    )
    assert action(found, {Effect.HTTP_READ}, status=("200",), response_type=("application/zip",)) is Action.DENY
    assert action(found, {Effect.HTTP_READ}) is Action.ALLOW
    assert found.for_session(WHO, WHERE, FACTS).asks == {"http.response_type"}


def test_an_allow_cannot_ask_for_what_comes_later(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="too late"):
        policy(tmp_path, '- id: x\n  description: y\n  allow: {effects: [http.read], http: {statuses: ["200"]}}')


def test_a_leak_is_denied_unless_allowed(tmp_path: Path) -> None:
    found = policy(tmp_path, ALLOW)
    effects = {Effect.HTTP_READ, Effect.EXFIL_CREDENTIAL}
    assert action(found, effects, host=("a.example.com",), path=("/v1/x",)) is Action.DENY


def test_kubernetes_settings(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
- id: all
  description: everything
  allow: [kube.*]
- id: privileged
  description: no privileged pods
  deny: {effects: [kube.write], kubernetes: {settings: [privileged, host_*]}}
""",
    )
    session = found.for_session(WHO, WHERE, FACTS)
    write = frozenset({Effect.KUBE_WRITE})
    bad = Analysis("create pods", write, facts={"kube.setting": ("host_path",)})
    good = Analysis("create pods", write, facts={"kube.verb": ("create",)})
    assert session.decide(bad, now=0.0, facts=FACTS).action is Action.DENY
    assert session.decide(good, now=0.0, facts=FACTS).action is Action.ALLOW


def test_pods_that_use_a_secret(tmp_path: Path) -> None:
    """Who may run a pod with a Secret in it can read it, whatever they may read otherwise."""
    found = policy(
        tmp_path,
        """
- id: all
  description: everything
  allow: [kube.*]
- id: vault
  description: nobody mounts the vault's keys
  deny: {effects: [kube.write], kubernetes: {secret_refs: ["vault-*"]}}
""",
    )
    session = found.for_session(WHO, WHERE, FACTS)
    for names, action in ((("db", "vault-key"), Action.DENY), (("db",), Action.ALLOW), ((), Action.ALLOW)):
        facts = {"kube.verb": ("create",)} | ({"kube.secret_ref": names} if names else {})
        asked = Analysis("create pods", frozenset({Effect.KUBE_WRITE}), facts=facts)
        assert session.decide(asked, now=0.0, facts=FACTS).action is action
