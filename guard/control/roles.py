"""Who may call what. One table; a method that is not in it does not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from protocols.contract import Principal

APPROVER, RESPONDER, AUDITOR, OPERATOR = "approver", "responder", "auditor", "operator"


@dataclass(frozen=True, slots=True)
class Method:
    """Any one of `roles` suffices; empty: every verified principal. `act`: it changes something.

    `tightens`: it only ever takes access away, and is therefore carried out even when it cannot be recorded at the
    moment: a full disk must not keep an intruder connected. The caller is told.
    """

    roles: frozenset[str]
    act: bool = False
    tightens: bool = False


_READERS = frozenset({RESPONDER, AUDITOR})
_RESPONDERS = frozenset({RESPONDER})
_OPERATORS = frozenset({OPERATOR})
_APPROVERS = frozenset({APPROVER})

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "whoami": Method(frozenset()),
        "status": Method(frozenset({OPERATOR, RESPONDER, AUDITOR})),
        "policy.reload": Method(frozenset({OPERATOR}), act=True),
        "sessions.list": Method(_READERS),
        "sessions.show": Method(_READERS),
        "sessions.replay": Method(_READERS),
        "search": Method(_READERS),
        "refusals": Method(_READERS),
        "events": Method(_READERS),
        "incident": Method(_READERS),
        "sessions.terminate": Method(_RESPONDERS, act=True, tightens=True),
        "contain": Method(_RESPONDERS, act=True, tightens=True),
        "release": Method(_RESPONDERS, act=True),
        "revoke": Method(_RESPONDERS, act=True, tightens=True),
        "contained": Method(_READERS),
        "retention.show": Method(_READERS | _OPERATORS),
        "retention.removed": Method(_READERS | _OPERATORS),
        "retention.plan": Method(_READERS | _OPERATORS),
        "retention.run": Method(_OPERATORS, act=True),
        "retention.erase": Method(_OPERATORS, act=True),
        "retention.hold": Method(_RESPONDERS, act=True),
        "retention.release": Method(_RESPONDERS, act=True),
        "approvals.list": Method(_APPROVERS | _READERS),
        "approvals.show": Method(_APPROVERS | _READERS),
        "approvals.approve": Method(_APPROVERS, act=True),
        "approvals.deny": Method(_APPROVERS, act=True),
    }
)


class RoleMembers(Protocol):
    """Who has one role."""

    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def subjects(self) -> Sequence[str]: ...
    @property
    def issuers(self) -> Sequence[str]: ...


class RolesConfig(Protocol):
    """The `roles:` section of the configuration."""

    @property
    def approver(self) -> RoleMembers: ...
    @property
    def responder(self) -> RoleMembers: ...
    @property
    def auditor(self) -> RoleMembers: ...
    @property
    def operator(self) -> RoleMembers: ...


class Roles:
    """The configured roles. Nobody has a role whose lists are empty."""

    def __init__(self, config: RolesConfig) -> None:
        members = {
            APPROVER: config.approver,
            RESPONDER: config.responder,
            AUDITOR: config.auditor,
            OPERATOR: config.operator,
        }
        self._members = {
            role: (frozenset(who.groups), frozenset(who.subjects), frozenset(who.issuers))
            for role, who in members.items()
        }

    def of(self, principal: Principal) -> frozenset[str]:
        """The roles that this principal has."""
        return frozenset(
            role
            for role, (groups, subjects, issuers) in self._members.items()
            if (not issuers or principal.issuer in issuers)
            and (principal.subject in subjects or principal.groups & groups)
        )

    def has(self, principal: Principal, role: str) -> bool:
        """Whether this principal has this role."""
        return role in self.of(principal)

    def may(self, principal: Principal, method: Method) -> bool:
        """Whether this principal may call this method."""
        return not method.roles or bool(method.roles & self.of(principal))
