"""Who has a role: members, and of which issuer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guard.control.roles import APPROVER, AUDITOR, OPERATOR, RESPONDER, Roles
from protocols.contract import Principal

IDP, GITLAB = "https://idp.example", "https://gitlab.example"
ANN = Principal("ann", IDP, frozenset({"oncall"}))


@dataclass(frozen=True)
class Members:
    groups: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    approver: Members = Members(groups=("oncall",), issuers=(IDP,))
    responder: Members = Members(subjects=("ann",), issuers=(IDP,))
    auditor: Members = Members(groups=("oncall",))
    operator: Members = Members()


def test_row_33_the_same_group_of_another_issuer_is_another_group() -> None:
    roles = Roles(Settings())
    assert roles.of(ANN) == {APPROVER, RESPONDER, AUDITOR}
    assert roles.of(replace(ANN, issuer=GITLAB)) == {AUDITOR}  # which names no issuer
    assert roles.of(replace(ANN, issuer=IDP + "/")) == {AUDITOR}
    assert not roles.has(replace(ANN, subject="bob", groups=frozenset()), APPROVER)


def test_nobody_has_a_role_without_members() -> None:
    assert OPERATOR not in Roles(Settings()).of(ANN)
    everybody = Roles(Settings(operator=Members(issuers=(IDP,))))
    assert OPERATOR not in everybody.of(ANN)
