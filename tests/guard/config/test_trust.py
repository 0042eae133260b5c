"""A public issuer needs a `require`, and a name that two issuers can vouch for needs to say whose it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.config import ConfigError, check, load
from tests.guard.config.conftest import BASE, POLICY

ONE = '  - {issuer: "https://idp.example", audience: sluicegate}\n'
TWO = ONE + '  - {issuer: "https://other.example", audience: sluicegate}\n'
PREFIXED = ONE + '  - {issuer: "https://other.example", audience: sluicegate, group_prefix: "other:"}\n'
GITHUB = '{issuer: "https://token.actions.githubusercontent.com", audience: s, preset: github-actions'


def rule(text: str) -> str:
    return POLICY + f"  - {{id: one, description: about somebody, {text}}}\n"


@pytest.fixture
def found(write: Any) -> Callable[..., list[str]]:
    def run(issuers: str = ONE, roles: str = "", policy: str = POLICY) -> list[str]:
        text = BASE.replace(ONE, issuers) + (f"roles: {roles}\n" if roles else "")
        path: Path = write(text=text, policy=policy)
        problems = check(path)
        if any(not problem.warning for problem in problems):
            with pytest.raises(ConfigError):
                load(path)
        else:
            load(path)
        return [problem.message for problem in problems]

    return run


@pytest.mark.parametrize(
    "require",
    [
        "",
        ", require: {ref: [refs/heads/main]}",
        ", require: {repository_owner: ['*']}",
        ", require: {repository_owner: ['acme*']}",
        ", require: {repository_owner: [acme, '?cme']}",
        ", require: {repository: ['*/shop']}",
        ", require: {repository: ['acme*']}",
        ", require: {repository: ['[a]cme/shop*']}",
        ", require: {repository: [acme/shop, '*']}",
        ", require: {sub: ['repo:*']}",
        ", require: {sub: ['repo:/*']}",
        ", require: {sub: ['repo:acme*:ref:x']}",
        ", require: {job_workflow_ref: ['acme/shared/*']}",  # anybody may call a workflow of a public repository
    ],
)
def test_public_ci_without_a_requirement_that_says_whose_does_not_start(found: Any, require: str) -> None:
    (message,) = found(f"  - {GITHUB}{require}}}\n")
    assert "anybody can get a token of https://token.actions.githubusercontent.com" in message
    assert "require: {repository_owner: [YOURS]}" in message


@pytest.mark.parametrize(
    "require",
    [
        "repository_owner: [acme]",
        "repository_owner_id: ['123', '456']",
        "repository: ['acme/*', other/shop]",
        "sub: ['repo:acme/*:ref:refs/heads/main']",
        "ref: ['*'], repository_id: ['7']",
    ],
)
def test_public_ci_that_says_whose_starts(found: Any, require: str) -> None:
    assert found(f"  - {GITHUB}, require: {{{require}}}}}\n") == []


def test_other_public_issuers(found: Any) -> None:
    for issuer, claim in (
        ("https://gitlab.com", "namespace_path"),
        ("https://agent.buildkite.com", "organization_slug"),
        ("https://app.terraform.io", "terraform_organization_name"),
        ("https://accounts.google.com", "hd"),
    ):
        (message,) = found(f'  - {{issuer: "{issuer}", audience: s}}\n')
        assert f"`require: {{{claim}: [YOURS]}}`" in message
        assert found(f'  - {{issuer: "{issuer}", audience: s, require: {{{claim}: [acme]}}}}\n') == []
    gitlab = '  - {issuer: "https://gitlab.com", audience: s, preset: gitlab-ci, require: {%s}}\n'
    assert found(gitlab % "project_path: ['acme/*']") == []
    assert found(gitlab % "project_path: ['*']") != []
    # an enterprise has an issuer of its own, and so does a server of one's own
    assert found(f"  - {GITHUB}}}\n".replace(".com", ".com/acme")) == []
    assert found('  - {issuer: "https://gitlab.example", audience: s, preset: gitlab-ci}\n') == []


@pytest.mark.parametrize(
    ("require", "words"),
    [
        ("{repository_owner: []}", "must not be empty"),
        ("{repository_owner: acme}", "expected a list"),
        ("{project_id: [7]}", "expected text"),
        ("{repository_owner: ['{a,b}']}", "braces"),
    ],
)
def test_a_requirement_is_written_strictly(found: Any, require: str, words: str) -> None:
    assert any(words in message for message in found(f"  - {GITHUB}, require: {require}}}\n"))


def test_with_one_issuer_roles_and_rules_need_not_name_it(found: Any) -> None:
    policy = rule("who: {groups: [a], subjects: [b]}, hold: [data.delete], approvers: {groups: [oncall]}")
    assert found(ONE, "{approver: {groups: [oncall], subjects: [ann]}}", policy) == []


@pytest.mark.parametrize("role", ["{groups: [oncall]}", "{subjects: [ann]}", "{groups: ['x'], subjects: [ann]}"])
@pytest.mark.parametrize("name", ["approver", "responder", "auditor", "operator"])
def test_with_two_issuers_a_role_says_whose(found: Any, name: str, role: str) -> None:
    (message,) = found(TWO, f"{{{name}: {role}}}")
    assert f"has the role `{name}`" in message
    assert "https://idp.example, https://other.example" in message
    narrowed = role.replace("}", ', issuers: ["https://idp.example"]}')
    assert found(TWO, f"{{{name}: {narrowed}}}") == []


def test_a_prefix_makes_a_group_one_issuers_own(found: Any) -> None:
    assert found(PREFIXED, "{approver: {groups: [oncall]}}") == []
    # the issuer without a prefix may have a group that is called so
    assert len(found(PREFIXED, "{approver: {groups: ['other:oncall']}}")) == 1
    both = PREFIXED.replace("audience: sluicegate}", "audience: sluicegate, group_prefix: 'idp:'}", 1)
    assert found(both, "{approver: {groups: ['other:oncall', 'idp:oncall']}}") == []
    (subject,) = found(PREFIXED, "{approver: {subjects: [ann]}}")
    assert "group_prefix" not in subject  # it would not help


def test_an_issuer_that_has_no_groups_is_in_nobodys_way(found: Any) -> None:
    ci = f"  - {GITHUB}, require: {{repository_owner: [acme]}}}}\n"
    cluster = '  - {issuer: "https://k8s.example", audience: s, preset: kubernetes}\n'
    assert found(ONE + ci + cluster, "{approver: {groups: [oncall]}}") == []
    assert len(found(ONE + ci + cluster, "{approver: {groups: ['system:serviceaccounts:ops']}}")) == 1
    assert found(ci + cluster, "{approver: {groups: ['system:serviceaccounts:ops']}}") == []


def test_a_role_names_issuers_that_exist_and_narrows_something(found: Any) -> None:
    (typo,) = found(TWO, '{approver: {groups: [a], issuers: ["https://idp.exampel"]}}')
    assert "no issuer `https://idp.exampel` is configured; did you mean `https://idp.example`?" in typo
    (alone,) = found(TWO, '{approver: {issuers: ["https://idp.example"]}}')
    assert "narrows" in alone


APPROVER = '{approver: {groups: [a], issuers: ["https://idp.example"]}}'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("who: {groups: [a]}, allow: [ddl.drop]", "who"),
        ("who: {groups: ['*']}, allow: [ddl.drop]", "who"),
        ("who: {subjects: ['a*']}, allow: [ddl.drop]", "who"),
        ("who: {groups: [a]}, hold: [ddl.drop]", "who"),
        ("deny: [ddl.drop], unless: {who: {groups: [a]}}", "unless.who"),
        ("mask: {columns: ['*.ssn']}, unless: {who: {groups: [a]}}", "unless.who"),
        ("hold: [ddl.drop], approvers: {groups: [a]}", "approvers"),
        ("hold: [ddl.drop], approvers: {subjects: [a]}", "approvers"),
    ],
)
def test_with_two_issuers_a_rule_that_opens_something_says_whose(found: Any, text: str, part: str) -> None:
    (message,) = found(TWO, APPROVER, rule(text))
    assert f"rule `small/one`: its `{part}` names no issuer" in message
    for old in ("groups: [a]}", "groups: ['*']}", "subjects: ['a*']}", "subjects: [a]}"):
        text = text.replace(old, old[:-1] + ', issuers: ["https://idp.example"]}')
    assert found(TWO, APPROVER, rule(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "who: {groups: [a]}, deny: [ddl.drop]",  # more are stopped than were meant
        "who: {groups: [a]}, alert: ['*']",
        "who: {groups: [a]}, terminate: [ddl.drop]",
        "who: {groups: [a]}, mask: {columns: ['*.ssn']}",
        "allow: [ddl.drop]",
        'who: {issuers: ["https://idp.example"]}, allow: [ddl.drop]',
        "who: {claims: {nowhere: [a]}}, allow: [ddl.drop]",
    ],
)
def test_what_stops_or_is_about_everybody_need_not(found: Any, text: str) -> None:
    assert found(TWO, APPROVER, rule(text)) == []


def test_attributes_of_two_issuers_are_told_apart_too(found: Any) -> None:
    mapped = TWO.replace("audience: sluicegate}", "audience: sluicegate, attributes: {team: team}}")
    (message,) = found(mapped, APPROVER, rule("who: {claims: {team: [blue]}}, allow: [ddl.drop]"))
    assert "its `who` names no issuer" in message
    once = TWO.replace("audience: sluicegate}", "audience: sluicegate, attributes: {team: team}}", 1)
    assert found(once, APPROVER, rule("who: {claims: {team: [blue]}}, allow: [ddl.drop]")) == []


KEYCLOAK = '  - {issuer: "https://idp.example", audience: sluicegate, preset: keycloak}\n'
BOSS = "claims: {email: ['*@acme.example']}"


@pytest.mark.parametrize(
    "text",
    [
        f"who: {{{BOSS}}}, allow: [data.update]",
        f"who: {{{BOSS}, issuers: ['https://idp.*']}}, allow: [data.update]",
        f"unless: {{who: {{{BOSS}}}}}, deny: [data.delete]",
    ],
)
def test_a_grant_by_an_address_that_nobody_verified_is_pointed_at(found: Any, text: str) -> None:
    (message,) = found(KEYCLOAK, policy=rule(text))
    assert "rule `small/one` goes by `email`" in message
    assert 'require: {email_verified: ["true"]}' in message
    assert found(KEYCLOAK.replace("keycloak", "keycloak, require: {email_verified: ['true']}"), policy=rule(text)) == []


def test_what_stops_by_an_address_or_of_another_issuer_is_not(found: Any) -> None:
    assert found(KEYCLOAK, policy=rule(f"who: {{{BOSS}}}, deny: [data.delete]")) == []
    assert found(ONE, policy=rule("who: {claims: {email: [x]}}, allow: [data.update]")) == []


def test_a_rule_about_an_issuer_that_is_not_there_is_pointed_at(found: Any) -> None:
    for text in (
        'who: {issuers: ["https://idp.exampel"]}, allow: [ddl.drop]',
        'hold: [ddl.drop], approvers: {groups: [a], issuers: ["https://idp.exampel"]}',
    ):
        (message,) = found(ONE, "{approver: {groups: [a]}}", rule(text))
        assert "which is not configured here; did you mean `https://idp.example`?" in message


def test_the_control_socket_of_a_group_has_a_place_of_its_own(write: Any, tmp_path: Path) -> None:
    def run(control: str) -> list[str]:
        return [problem.message for problem in check(write(text=BASE + f"control: {control}\n"))]

    assert run("{path: run/control.sock}") == []
    assert run("{group: root, path: run/control.sock}") == []
    assert any("needs a `path`" in message for message in run("{group: root}"))
    assert any("inside `state_dir`" in message for message in run("{group: root, path: var/x/control.sock}"))
    assert any("must hold nothing but" in message for message in run("{group: root, path: control.sock}"))
    assert any("no group `nobody-has-this`" in m for m in run("{group: nobody-has-this, path: run/control.sock}"))
    config = load(write(text=BASE))
    assert config.control_path == tmp_path / "var" / "control.sock"
    assert load(write(text=BASE + "control: {path: run/c.sock}\n")).control_path == tmp_path / "run" / "c.sock"
