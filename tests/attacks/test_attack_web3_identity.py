"""Identities that differ from one another in their spelling only: nobody gets out of what stops them by a capital
letter, and nobody gets in by one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guard.enforce import PolicySet
from guard.enforce.policyset import load_bundle
from guard.enforce.rules import compile_rule
from guard.state import Approval, ApprovalStatus, StateAccess, StateStore
from guard.state.blocklist import Blocklist
from protocols.contract import Action, Analysis, Effect, HoldTerms, Principal, Resource, SessionFacts
from tests.support.http_lab import HttpLab

POLICY = """
version: 1
name: who
description: who may read
rules:
  - {id: read, description: everybody, allow: [http.read]}
  - {id: write, description: writers, who: {subjects: [eve@corp.example], groups: [writers]}, allow: [http.write]}
  - {id: gone, description: has left, who: {subjects: [mallory@corp.example]}, deny: {effects: ["*"]}}
  - {id: outside, description: not them, who: {groups: [contractors]}, deny: {effects: [http.read]}}
  - id: spared
    description: nobody but ann
    deny: {effects: [http.delete]}
    unless: {who: {subjects: [ann]}}
  - {id: mail, description: addresses, who: {groups: [temps]}, mask: {detect: [email]}}
"""


def _policies(tmp_path: Path) -> PolicySet:
    path = tmp_path / "who.yaml"
    path.write_text(POLICY)
    _, bundle = load_bundle(path)
    return PolicySet([compile_rule(bundle.name, model) for model in bundle.rules], [bundle], "1")


def _principal(subject: str, *groups: str) -> Principal:
    return Principal(subject, "https://idp.example", frozenset(groups), {}, 4e9, "t1")


def _decide(policies: PolicySet, who: Principal, effect: Effect) -> Action:
    facts = SessionFacts("10.0.0.1", "curl", 0.0)
    session = policies.for_session(who, Resource("api", "http", {}), facts)
    return session.decide(Analysis(kind="GET", effects=frozenset({effect})), now=1.0, facts=facts).action


@pytest.mark.parametrize("subject", ["mallory@corp.example", "Mallory@Corp.example", "MALLORY@CORP.EXAMPLE"])
def test_a_rule_that_stops_somebody_stops_them_however_they_are_spelt(tmp_path: Path, subject: str) -> None:
    assert _decide(_policies(tmp_path), _principal(subject), Effect.HTTP_READ) is Action.DENY


def test_groups_too_and_masks(tmp_path: Path) -> None:
    policies = _policies(tmp_path)
    assert _decide(policies, _principal("bob", "Contractors"), Effect.HTTP_READ) is Action.DENY
    facts = SessionFacts("10.0.0.1", "curl", 0.0)
    assert policies.for_session(_principal("bob", "TEMPS"), Resource("api", "http", {}), facts).masks


def test_what_grants_and_what_spares_goes_letter_by_letter(tmp_path: Path) -> None:
    policies = _policies(tmp_path)
    assert _decide(policies, _principal("Eve@corp.example", "Writers"), Effect.HTTP_WRITE) is Action.DENY
    assert _decide(policies, _principal("eve@corp.example", "writers"), Effect.HTTP_WRITE) is Action.ALLOW
    assert _decide(policies, _principal("Ann"), Effect.HTTP_DELETE) is Action.DENY


def test_an_explanation_says_only_of_masks_that_apply_that_they_mask(tmp_path: Path) -> None:
    path = tmp_path / "masks.yaml"
    path.write_text("""
version: 1
name: masks
description: what is masked where
rules:
  - {id: here, description: mail, mask: {detect: [email], http: {paths: ["/people*"], response_types: ["*/json"]}}}
  - {id: there, description: cards, mask: {fields: ["**.card"], http: {paths: ["/cards*"]}}}
""")
    facts = SessionFacts("10.0.0.1", "curl", 0.0)
    session = PolicySet.load([path]).for_session(_principal("ann"), Resource("api", "http", {}), facts)
    asked = Analysis(kind="GET", effects=frozenset({Effect.HTTP_READ}), facts={"http.path": ("/people/1",)})
    told = {one.rule: (one.outcome, one.reason) for one in session.explain(asked, 1.0, facts)}
    assert told == {
        "masks/here": ("masks", "masks email (redact)"),
        "masks/there": ("silent", "its `http.path` is another"),
    }


def test_who_is_contained_does_not_come_back_with_a_capital_letter(tmp_path: Path) -> None:
    async def work() -> None:
        with StateStore(tmp_path / "state.db") as store:
            access = StateAccess(store)
            try:
                blocked = Blocklist(access)
                blocked.load()
                await blocked.contain("Mallory@corp.example", "ann", "stolen", 1.0)
                for subject in ("mallory@corp.example", "MALLORY@corp.example", "\uff4dallory@corp.example"):
                    assert blocked.why(_principal(subject))
                await blocked.look()
                again = Blocklist(access)
                again.load()
                assert again.why(_principal("mallory@corp.example"))
                assert again.why(_principal("mallory@corp.example.org")) is None
                await blocked.contain("mallory@corp.example", "bob", "again", 2.0)
                assert await blocked.release("MALLORY@corp.example", "ann", 3.0)
                await blocked.look()
                assert blocked.why(_principal("mallory@corp.example")) is None
                assert store.contained() == frozenset()
            finally:
                await access.close(5.0)

    asyncio.run(work())


def test_of_a_request_that_was_decided_no_body_stays_in_the_store(tmp_path: Path) -> None:
    with StateStore(tmp_path / "state.db") as store:
        approval = Approval(
            id="abcdefgh",
            session_id="s1",
            subject="eve",
            issuer="https://idp.example",
            resource="api",
            text="POST https://api.example/users",
            digest=bytes(32),
            params=('{"name": "Ada", "diagnosis": "x-ray"}', "(37 bytes)"),
            rule="b/hold",
            terms=HoldTerms(),
            requested_at=1.0,
            expires_at=100.0,
            details={"effects": ["http.write"]},
        )
        store.approvals.insert(approval)
        store.approvals.decide("abcdefgh", ApprovalStatus.WITHDRAWN, at=2.0, reason="left")
        kept = store.approvals.get("abcdefgh")
        assert kept is not None
        assert kept.params == ("[redacted]", "[redacted]")
    assert b"x-ray" not in b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))


@pytest.mark.slow
@pytest.mark.e2e
def test_a_reload_is_held_against_the_issuers_that_the_process_trusts(tmp_path: Path) -> None:
    """The file may name one issuer by now: the process still takes the word of both."""
    bound = """
version: 1
name: bound
description: whose word counts
rules:
  - {id: read, description: ops read, who: {groups: [ops], issuers: [ISSUER]}, allow: [http.read]}
"""
    other = "https://other.example"

    def adjust(document: dict[str, Any], _: object) -> None:
        issuer = document["issuers"][0]["issuer"]
        document["issuers"].append({"issuer": other, "audience": "sluicegate"})
        document["roles"] = {name: {**who, "issuers": [issuer]} for name, who in document["roles"].items()}
        path = Path(document["policies"][0])
        path.write_text(path.read_text().replace("ISSUER", f'"{issuer}"'))

    with HttpLab(policy=bound, adjust=adjust) as lab:
        operator = lab.token("olga", "platform")
        assert lab.cli("reload", token=operator).returncode == 0
        yaml = YAML(typ="safe")
        document = yaml.load(lab.config.read_text())
        document["issuers"] = document["issuers"][:1]
        with lab.config.open("w") as stream:
            yaml.dump(document, stream)
        policy = Path(document["policies"][0])
        policy.write_text(bound.replace(", issuers: [ISSUER]", ""))
        done = lab.cli("reload", token=operator)
        assert done.returncode != 0
        assert other in done.stdout + done.stderr
