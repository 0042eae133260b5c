"""Held commands and the votes on them. Every transition is one transaction; the table below is the whole machine.

    pending  -> approved | denied | expired | withdrawn
    approved -> spent | expired | withdrawn

Anything else is an `ApprovalConflict`. A *deferred* one is not waited for: it outlives the connection and the gateway
process that asked, and is spent by whoever sends the same command as the same identity. Once an approval is final its
text and parameters are redacted in place: approvers had to see the exact bytes, nobody has to any more.
"""

from __future__ import annotations

import enum
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from guard.record.people import same_person
from guard.record.redact import REDACTED_PARAM, redact_params, redact_sql
from guard.state import schema
from guard.state.database import Database, StateError, bump, forget, values
from protocols.contract import HoldTerms

type Journal = Callable[[str, Mapping[str, Any]], object]


class ApprovalStatus(enum.StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    SPENT = "spent"


type KeptOut = Callable[[str], bool]
"""Whether a subject is contained. Asked in the store's thread."""

_REQUESTS = ("http.", "kube.")  # effects of what has a body
_NO_MORE = "who approved it is contained, and the approval counts no more"
FINAL = frozenset({ApprovalStatus.DENIED, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN, ApprovalStatus.SPENT})
_OPEN = (ApprovalStatus.APPROVED.value, ApprovalStatus.PENDING.value)
NEXT: Mapping[ApprovalStatus, frozenset[ApprovalStatus]] = {
    ApprovalStatus.PENDING: frozenset(
        {ApprovalStatus.APPROVED, ApprovalStatus.DENIED, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN}
    ),
    ApprovalStatus.APPROVED: frozenset({ApprovalStatus.SPENT, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN}),
}


def _nobody(_subject: str) -> bool:
    return False


class ApprovalConflict(StateError):
    """The approval is not in a state that permits this: already decided, spent, expired, another digest, own vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    subject: str
    issuer: str
    approve: bool
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Approval:
    """One held command. `digest` binds the exact bytes and parameters; times are epoch seconds."""

    id: str
    session_id: str
    subject: str
    issuer: str
    resource: str
    text: str
    digest: bytes
    params: tuple[str | None, ...]
    rule: str
    terms: HoldTerms
    requested_at: float
    expires_at: float
    gateway: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)  # effects, reads, writes, ...: shown to the approver
    status: ApprovalStatus = ApprovalStatus.PENDING
    votes: tuple[Vote, ...] = ()
    decided_at: float | None = None
    reason: str = ""
    meaning: bytes = b""  # digest of what the command was found to do: the same bytes may do other things elsewhere
    deferred: bool = False


class Approvals:
    """All methods raise StateError when the database cannot answer, ApprovalConflict when the answer is no."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal

    def insert(self, approval: Approval) -> None:
        """Store a new pending approval; journalled (with its text redacted) before it becomes visible."""
        if approval.status is not ApprovalStatus.PENDING or approval.votes:
            raise ApprovalConflict("a new approval starts pending and without votes")
        with self._database.write(durable=True) as connection:
            connection.execute(insert(schema.approvals).values(_to_row(approval)))
            bump(connection, "approvals")
            self._journal(
                "approval.requested",
                {
                    "s": approval.session_id,
                    "approval": approval.id,
                    "subject": approval.subject,
                    "issuer": approval.issuer,
                    "resource": approval.resource,
                    "text": redact_sql(approval.text),
                    "digest": approval.digest.hex(),
                    "rule": approval.rule,
                    "expires_at": approval.expires_at,
                },
            )

    def get(self, approval_id: str) -> Approval | None:
        with self._database.read(snapshot=True) as connection:
            return _fetch(connection, approval_id)

    def list(self, *, status: ApprovalStatus | None = None, limit: int = 1000) -> Sequence[Approval]:
        """Newest first."""
        table = schema.approvals
        query = select(table).order_by(table.c.requested_at.desc(), table.c.id).limit(limit)
        if status is not None:
            query = query.where(table.c.status == status.value)
        with self._database.read(snapshot=True) as connection:  # rows and their votes belong together
            return [_from_row(values(row), _votes(connection, row.id)) for row in connection.execute(query).all()]

    def vote(self, approval_id: str, vote: Vote, kept_out: KeptOut = _nobody) -> Approval:
        """Add a vote and decide when it is the deciding one: one refusal denies, `terms.count` approvals approve.
        Approvals of those who are kept out by now count no more.

        Raises ApprovalConflict for an unknown, decided or expired approval, a second vote of the same subject, and a
        vote of the requester. Whether the voter *may* vote is the caller's question. Returns the approval afterwards.
        """
        with self._database.write(durable=True) as connection:
            found = self._require(connection, approval_id, ApprovalStatus.PENDING)
            if vote.at >= found.expires_at:
                raise ApprovalConflict(f"approval `{approval_id}` has expired")
            if same_person(vote.subject, found.subject):
                raise ApprovalConflict("nobody decides on their own request")
            if any(same_person(earlier.subject, vote.subject) for earlier in found.votes):
                raise ApprovalConflict(f"`{vote.subject}` has already voted on approval `{approval_id}`")
            row: dict[str, Any] = {"approval_id": approval_id, "subject": vote.subject, "issuer": vote.issuer}
            row |= {"approve": vote.approve, "reason": vote.reason, "at": vote.at}
            connection.execute(insert(schema.votes).values(row))
            bump(connection, "approvals")
            facts: dict[str, Any] = {
                "approval": approval_id,
                "s": found.session_id,
                "subject": found.subject,
                "by": vote.subject,
            }
            facts |= {"issuer": vote.issuer, "approve": vote.approve, "reason": vote.reason}
            self._journal("approval.voted", facts)
            found = replace(found, votes=(*found.votes, vote))
            if not vote.approve:
                return self._move(connection, found, ApprovalStatus.DENIED, vote.at, vote.reason)
            if _enough(found, kept_out):
                return self._move(connection, found, ApprovalStatus.APPROVED, vote.at, vote.reason)
            return found

    def decide(self, approval_id: str, status: ApprovalStatus, *, at: float, reason: str) -> Approval:
        """Deny, expire or withdraw. Approving and spending go through `vote` and `spend` only."""
        if status not in (ApprovalStatus.DENIED, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN):
            raise ApprovalConflict(f"an approval becomes `{status}` by votes or by being spent, not by decree")
        with self._database.write(durable=True) as connection:
            found = self._require(connection, approval_id)
            bump(connection, "approvals")
            return self._move(connection, found, status, at, reason)

    def spend(
        self, approval_id: str, digest: bytes, *, at: float, session_id: str = "", kept_out: KeptOut = _nobody
    ) -> Approval:
        """Use an approval: once, before it expires, for exactly these bytes. The only way to release a held command.

        `session_id` is where it is used: of a deferred one that is another session than the one that asked. One that
        was given by somebody who is kept out by now is withdrawn instead, so that others can be asked.
        """
        with self._database.write(durable=True) as connection:
            found = self._require(connection, approval_id, ApprovalStatus.APPROVED)
            if not hmac.compare_digest(found.digest, digest):
                raise ApprovalConflict(f"approval `{approval_id}` was given for another command")
            if at >= found.expires_at:
                raise ApprovalConflict(f"approval `{approval_id}` has expired")
            bump(connection, "approvals")
            if _enough(found, kept_out):
                return self._move(connection, found, ApprovalStatus.SPENT, at, found.reason, session_id)
            self._move(connection, found, ApprovalStatus.WITHDRAWN, at, _NO_MORE)
        raise ApprovalConflict(f"{_NO_MORE}: send the command again")

    def defer(self, approval_id: str, *, at: float) -> Approval:
        """From now on it is open to the same command of the same identity, once, until it expires."""
        with self._database.write(durable=True) as connection:
            found = self._require(connection, approval_id)
            if found.status not in (ApprovalStatus.PENDING, ApprovalStatus.APPROVED) or at >= found.expires_at:
                raise ApprovalConflict(f"approval `{approval_id}` is already {found.status}")
            if found.deferred:
                return found
            table = schema.approvals
            connection.execute(update(table).where(table.c.id == approval_id).values(deferred=True))
            bump(connection, "approvals")
            facts = {"approval": found.id, "s": found.session_id, "subject": found.subject, "resource": found.resource}
            self._journal("approval.deferred", {**facts, "digest": found.digest.hex()})
            return replace(found, deferred=True)

    def deferred(self, subject: str, issuer: str, *, at: float) -> Sequence[Approval]:
        """The open deferred requests of this identity: approved ones first, then by age."""
        table = schema.approvals
        query = (
            select(table)
            .where(table.c.subject == subject, table.c.issuer == issuer, table.c.deferred, table.c.expires_at > at)
            .where(table.c.status.in_(_OPEN))
            .order_by(table.c.status, table.c.requested_at, table.c.id)
        )
        with self._database.read() as connection:
            return [_from_row(values(row), ()) for row in connection.execute(query).all()]

    def overdue(self, *, at: float) -> bool:
        """Whether `expire` would find anything; a cheap read, made many times a minute."""
        with self._database.read() as connection:
            return connection.execute(_overdue(at).limit(1)).first() is not None

    def expire(self, *, at: float) -> Sequence[Approval]:
        """Expire everything past its time; what was approved and never used, too. Returns what expired."""
        return self._close(_overdue(at), ApprovalStatus.EXPIRED, at, "nobody decided in time")

    def withdraw_gateway(self, gateway: str, *, at: float, reason: str) -> Sequence[Approval]:
        """Called when a gateway starts: the sessions of its earlier life are dead, and what they waited for is too."""
        table = schema.approvals
        query = select(table.c.id).where(table.c.status.in_(_OPEN), table.c.gateway == gateway, ~table.c.deferred)
        return self._close(query, ApprovalStatus.WITHDRAWN, at, reason)

    def _close(self, ids: Any, status: ApprovalStatus, at: float, reason: str) -> Sequence[Approval]:
        with self._database.read() as connection:  # no write lock where there is nothing to do
            if connection.execute(ids.limit(1)).first() is None:
                return []
        with self._database.write(durable=True) as connection:
            moved = [
                self._move(connection, self._require(connection, row.id), status, at, reason)
                for row in connection.execute(ids).all()
            ]
            bump(connection, "approvals")
            return moved

    def _require(self, connection: Connection, approval_id: str, status: ApprovalStatus | None = None) -> Approval:
        found = _fetch(connection, approval_id)
        if found is None:
            raise ApprovalConflict(f"there is no approval `{approval_id}`")
        if status is not None and found.status is not status:
            raise ApprovalConflict(f"approval `{approval_id}` is already {found.status}")
        return found

    def _move(
        self,
        connection: Connection,
        found: Approval,
        status: ApprovalStatus,
        at: float,
        reason: str,
        used_by: str = "",
    ) -> Approval:
        if status not in NEXT.get(found.status, frozenset()):
            raise ApprovalConflict(f"approval `{found.id}` is already {found.status}")
        moved = replace(found, status=status, reason=reason, decided_at=at)
        if status in FINAL:
            moved = replace(moved, text=redact_sql(found.text), params=_redacted(found))
            forget(connection)
        row = _to_row(moved)
        done = connection.execute(
            update(schema.approvals)
            .where(schema.approvals.c.id == found.id, schema.approvals.c.status == found.status.value)
            .values(row)
        )
        if done.rowcount != 1:
            raise ApprovalConflict(f"approval `{found.id}` changed meanwhile; look at it again")
        kind = {ApprovalStatus.SPENT: "approval.spent", ApprovalStatus.WITHDRAWN: "approval.withdrawn"}.get(
            status, "approval.decided"
        )
        facts = {"approval": found.id, "s": found.session_id, "subject": found.subject, "resource": found.resource}
        if used_by:
            facts["used_by"] = used_by
        by = [vote.subject for vote in found.votes if vote.approve == (status is not ApprovalStatus.DENIED)]
        self._journal(kind, {**facts, "status": status.value, "by": by, "reason": reason, "digest": found.digest.hex()})
        return moved


def _enough(found: Approval, kept_out: KeptOut) -> bool:
    """Whether as many as must have approved it, and none of them is contained now."""
    approving = [vote for vote in found.votes if vote.approve and not kept_out(vote.subject)]
    return len(approving) >= max(1, found.terms.count)


def _redacted(found: Approval) -> tuple[str | None, ...]:
    """The parameters once nobody has to see them any more. What goes with a request is its body: none of it stays."""
    effects = found.details.get("effects", ())
    if any(str(effect).startswith(_REQUESTS) for effect in effects):
        return (REDACTED_PARAM,) * len(found.params)
    return redact_params(found.text, found.params)


def _overdue(at: float) -> Any:
    table = schema.approvals
    return select(table.c.id).where(table.c.status.in_(_OPEN), table.c.expires_at <= at)


def _fetch(connection: Connection, approval_id: str) -> Approval | None:
    table = schema.approvals
    row = connection.execute(select(table).where(table.c.id == approval_id)).first()
    return None if row is None else _from_row(values(row), _votes(connection, approval_id))


def _votes(connection: Connection, approval_id: str) -> tuple[Vote, ...]:
    table = schema.votes
    query = select(table).where(table.c.approval_id == approval_id).order_by(table.c.at, table.c.subject)
    return tuple(
        Vote(subject=row.subject, issuer=row.issuer, approve=row.approve, reason=row.reason, at=row.at)
        for row in connection.execute(query).all()
    )


def _to_row(approval: Approval) -> dict[str, Any]:
    row = {name: getattr(approval, name) for name in schema.approvals.c.keys()}  # noqa: SIM118 - a column collection is no mapping
    terms = approval.terms
    row["terms"] = json.dumps(
        {
            "groups": sorted(terms.approver_groups),
            "subjects": sorted(terms.approver_subjects),
            "issuers": sorted(terms.approver_issuers),
            "count": terms.count,
            "expires_s": terms.expires_s,
        }
    )
    row["params"] = json.dumps(approval.params)
    row["details"] = json.dumps(dict(approval.details))
    row["status"] = approval.status.value
    return row


def _from_row(row: dict[str, Any], votes: tuple[Vote, ...]) -> Approval:
    """Raises StateError on a row that this package did not write: a garbled approval approves nothing."""
    try:
        terms = json.loads(row["terms"])
        row["terms"] = HoldTerms(
            approver_groups=frozenset(terms["groups"]),
            approver_subjects=frozenset(terms["subjects"]),
            approver_issuers=frozenset(terms.get("issuers", ())),  # absent in what an earlier release stored
            count=int(terms["count"]),
            expires_s=float(terms["expires_s"]),
        )
        row["params"] = tuple(json.loads(row["params"]))
        row["details"] = json.loads(row["details"])
        row["status"] = ApprovalStatus(row["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"approval `{row['id']}` is damaged in the state database") from error
    return Approval(**row, votes=votes)
