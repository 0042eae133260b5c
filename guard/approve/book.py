"""The requests that connections of this process wait on, and the votes on requests of any process.

    request -> (vote ...) -> approved -> spend          the command runs
                          -> denied | expired | withdrawn   it does not

`defer` lets the connection go while its request stays open: the same command of the same identity then joins it, from
whatever connection, and is released by the same approval, once.

The store journals every step inside its own transaction, so nothing here is recorded twice. What is added: who may
vote, how many requests one identity may have open, and the futures that connections wait on.

INVARIANT: one thread (the event loop's), because the store writes the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from guard.record.errors import RecordError
from guard.record.redact import redact_sql
from guard.state import Approval, ApprovalConflict, ApprovalStatus, StateError, StateStore, Vote
from guard.state.store import ChangeToken
from protocols.contract import Analysis, HoldTerms, Principal, Resource

MAX_OPEN_PER_SUBJECT = 20  # a looping agent must not bury what approvers should read
MAX_REASON = 1000  # characters
MAX_TEXT = 256 * 1024  # characters of statement and parameters: what is approved is shown whole
SHORT_TEXT = 4096  # characters of a statement in lists and webhooks
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: people read ids to each other
_ID_LENGTH = 8
_FINAL_TEXT = {
    ApprovalStatus.DENIED: "refused",
    ApprovalStatus.EXPIRED: "nobody decided in time",
    ApprovalStatus.WITHDRAWN: "withdrawn",
    ApprovalStatus.SPENT: "already used",
}

log = logging.getLogger("sluicegate.approve")


class ApprovalError(Exception):
    """A request or a vote that is not accepted. The text is for the person who asked."""


class Notifier(Protocol):
    """Tells people. INVARIANT: returns at once and never raises."""

    def send(self, event: str, data: Mapping[str, Any]) -> None: ...


class EventRecorder(Protocol):
    """The part of the recorder that is needed here."""

    def event(self, kind: str, payload: Mapping[str, Any]) -> int: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wait ended. An approved one still has to be spent."""

    approved: bool
    by: tuple[str, ...]
    reason: str  # for the client; no secrets
    status: str  # approved, denied, expired, withdrawn


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A command that waits. `future` always gets an outcome, at the latest when the request expires and is polled."""

    id: str
    expires_at: float  # seconds since the epoch
    future: asyncio.Future[Outcome]
    subject: str
    deferred: bool = False  # joined a request that had been deferred


class ApprovalBook:
    """Requests, votes and outcomes. `max_hold` (seconds) bounds what a rule may ask for.

    `is_approver` says whether a principal has the approver's role at all; the terms of a request narrow that further.
    """

    def __init__(
        self,
        store: StateStore,
        recorder: EventRecorder,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.time,
        *,
        gateway: str = "",
        max_hold: float = 600.0,
        is_approver: Callable[[Principal], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._notifier = notifier
        self._clock = clock
        self._gateway = gateway
        self._max_hold = max_hold
        self._is_approver = is_approver
        self._held: dict[str, Held] = {}
        self._unwithdrawn: dict[str, str] = {}  # id -> reason: to be tried again
        self._seen: ChangeToken | None = None

    def start(self) -> int:
        """Withdraw what an earlier life of this gateway left waiting: those connections are gone. Raises StateError."""
        left = self._store.approvals.withdraw_gateway(
            self._gateway, at=self._clock(), reason="the gateway was restarted; send the command again"
        )
        return len(left)

    # -- the waiting side

    def request(
        self,
        session_id: str,
        principal: Principal,
        resource: Resource,
        terms: HoldTerms,
        text: str,
        digest: bytes,
        analysis: Analysis,
        rule: str,
        params: Sequence[str | None] = (),
    ) -> Held:
        """Ask for approval of one command, or join the request that was deferred for it.

        Raises ApprovalError or StateError: the caller denies.

        `text` is the exact statement, because an approver must see what would run; it is redacted wherever it leaves
        the approver's view (journal, webhook), and in the store once the request is final. `digest` binds text and
        parameters.
        """
        if len(text) + sum(len(param) for param in params if param is not None) > MAX_TEXT:
            raise ApprovalError(f"a command of more than {MAX_TEXT} characters is too long for anybody to approve")
        now = self._clock()
        meaning = _meaning(analysis, resource)
        deferred = self._store.approvals.deferred(principal.subject, principal.issuer, at=now)
        for one in deferred:
            asked = (one.resource, one.rule, one.terms, one.digest, one.meaning)
            if asked == (resource.name, rule, terms, digest, meaning) and one.id not in self._held:
                return self._wait(one)
        waiting = {held.id for held in self._held.values() if held.subject == principal.subject}
        if len(waiting.union(one.id for one in deferred)) >= MAX_OPEN_PER_SUBJECT:
            raise ApprovalError(f"`{principal.subject}` has {MAX_OPEN_PER_SUBJECT} requests open; wait for answers")
        # an approval that outlives the identity it is for would release a command of nobody
        expires_at = min(now + min(terms.expires_s, self._max_hold), principal.expires_at)
        if expires_at <= now:
            raise ApprovalError("the session ends before anybody could approve; get a new token")
        approval = Approval(
            id="".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)),
            session_id=session_id,
            gateway=self._gateway,
            subject=principal.subject,
            issuer=principal.issuer,
            resource=resource.name,
            text=text,
            digest=digest,
            params=tuple(params),
            rule=rule,
            terms=terms,
            details=_details(analysis),
            requested_at=now,
            expires_at=expires_at,
            meaning=meaning,
        )
        with _conflicts():
            self._store.approvals.insert(approval)
        self._notify("approval.requested", approval)
        return self._wait(approval)

    def _wait(self, approval: Approval) -> Held:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        held = Held(approval.id, approval.expires_at, future, approval.subject, approval.deferred)
        self._held[held.id] = held
        self._settle(approval)  # a deferred one may be decided already
        return held

    def defer(self, approval_id: str) -> None:
        """The connection waits no longer, the request stays open for the same command of the same identity.

        Raises ApprovalError or StateError: it is not deferred then, and still waits.
        """
        with _conflicts():
            self._store.approvals.defer(approval_id, at=self._clock())
        self._held.pop(approval_id, None)

    def withdraw(self, approval_id: str, reason: str) -> None:
        """The client left or cancelled. Never raises: if the store cannot be told now, `poll` tells it later.

        A request that had been deferred before stays open: nothing of it can run unless its command is sent again.
        """
        held = self._held.get(approval_id)
        if held is not None and held.deferred:
            self._finish(approval_id, Outcome(False, (), reason, ApprovalStatus.WITHDRAWN.value))
            return
        self._finish(approval_id, Outcome(False, (), reason, ApprovalStatus.WITHDRAWN.value))
        self._unwithdrawn[approval_id] = reason
        self._withdraw_left()

    def spend(self, approval_id: str, digest: bytes, session_id: str = "") -> None:
        """Use the approval, once, for exactly these bytes, in this session. When this returns the command may run.

        Raises ApprovalError or StateError: deny.
        """
        with _conflicts():
            self._store.approvals.spend(approval_id, digest, at=self._clock(), session_id=session_id)

    # -- the deciding side

    def get(self, approval_id: str) -> Approval | None:
        """One request as the store has it now, its overdue ones expired first. Raises StateError."""
        self._expire()
        return self._store.approvals.get(approval_id)

    def list(self, status: str | None = None, limit: int = 1000) -> Sequence[Approval]:
        """Requests, newest first. Raises StateError; ApprovalError for a status that does not exist."""
        self._expire()
        try:
            wanted = None if status is None else ApprovalStatus(status)
        except ValueError:
            known = ", ".join(each.value for each in ApprovalStatus)
            raise ApprovalError(f"there is no status `{status}`: {known}") from None
        return self._store.approvals.list(status=wanted, limit=limit)

    def objection(self, approval: Approval, principal: Principal) -> str | None:
        """Why this principal may not decide on this request; None: they may."""
        if principal.subject.casefold() == approval.subject.casefold():
            # whatever issuer vouches for it: one person with two accounts is still one person
            return "nobody decides on their own request; ask another approver"
        if not self._is_approver(principal):
            return "you do not have the role `approver`"
        terms = approval.terms
        named = terms.approver_groups or terms.approver_subjects
        if named and not (principal.subject in terms.approver_subjects or principal.groups & terms.approver_groups):
            who = sorted(terms.approver_groups) + sorted(terms.approver_subjects)
            return f"this request is decided by {', '.join(who)}"
        return None

    def vote(self, approval_id: str, principal: Principal, approve: bool, reason: str = "") -> Approval:
        """Approve or refuse. Returns the request afterwards.

        Raises ApprovalError or StateError; then nothing changed.
        """
        reason = reason.strip()
        if not approve and not reason:
            raise ApprovalError("a refusal needs a reason: the person who asked will read it")
        if len(reason) > MAX_REASON or not all(char.isprintable() or char in "\n\t" for char in reason):
            raise ApprovalError(f"a reason is printable text of at most {MAX_REASON} characters")
        approval = self.get(approval_id)
        if approval is None:
            raise ApprovalError(f"there is no request `{approval_id}`; see `sluicegate approvals list`")
        objection = self.objection(approval, principal)
        if objection is not None:
            self._alert(approval, principal, approve, objection)
            raise ApprovalError(objection)
        vote = Vote(principal.subject, principal.issuer, approve, reason, self._clock())
        with _conflicts():
            decided = self._store.approvals.vote(approval_id, vote)
        if decided.status is not ApprovalStatus.PENDING:
            self._notify("approval.decided", decided)
            self._settle(decided)
        return decided

    def poll(self) -> None:
        """Pick up expiry, and decisions made through other processes. To be called a few times a second.

        Raises StateError when the store does not answer; what is overdue has then been refused all the same.
        """
        now = self._clock()
        for held in [held for held in self._held.values() if held.expires_at <= now]:
            self._finish(held.id, Outcome(False, (), _FINAL_TEXT[ApprovalStatus.EXPIRED], "expired"))
        self._withdraw_left()
        self._expire()
        seen, changed = self._store.changed_since(self._seen)
        if changed:
            for approval_id in tuple(self._held):
                found = self._store.approvals.get(approval_id)
                if found is None:
                    self._finish(approval_id, Outcome(False, (), "the request is gone", "withdrawn"))
                else:
                    self._settle(found)
        # last: a look that failed half way is repeated
        self._seen = seen

    @property
    def waiting(self) -> int:
        """How many connections of this process wait."""
        return len(self._held)

    # -- inside

    def _expire(self) -> None:
        for approval in self._store.approvals.expire(at=self._clock()):
            self._notify("approval.decided", approval)
            self._settle(approval)

    def _withdraw_left(self) -> None:
        for approval_id, reason in tuple(self._unwithdrawn.items()):
            try:
                self._store.approvals.decide(
                    approval_id, ApprovalStatus.WITHDRAWN, at=self._clock(), reason=reason[:MAX_REASON]
                )
            except ApprovalConflict:
                pass  # decided, spent or expired meanwhile: there is nothing left to withdraw
            except Exception:
                # harmless until it expires, since only the connection that left could have spent it
                log.exception("cannot withdraw request %s yet", approval_id)
                return
            del self._unwithdrawn[approval_id]

    def _settle(self, approval: Approval) -> None:
        """Give a waiting connection its outcome, if the request is decided."""
        if approval.status is ApprovalStatus.PENDING:
            return
        by = tuple(vote.subject for vote in approval.votes)
        approved = approval.status is ApprovalStatus.APPROVED
        reason = approval.reason or _FINAL_TEXT.get(approval.status, "")
        self._finish(approval.id, Outcome(approved, by, reason, approval.status.value))

    def _finish(self, approval_id: str, outcome: Outcome) -> None:
        held = self._held.pop(approval_id, None)
        if held is not None and not held.future.done():
            held.future.set_result(outcome)

    def _alert(self, approval: Approval, principal: Principal, approve: bool, why: str) -> None:
        facts = {
            "alert": "vote refused",
            "approval": approval.id,
            "s": approval.session_id,
            "subject": approval.subject,
            "by": principal.subject,
            "issuer": principal.issuer,
            "approve": approve,
            "why": why,
        }
        with _conflicts():
            self._recorder.event("alert", facts)
        if self._notifier is not None:
            self._notifier.send("alert", facts)

    def _notify(self, event: str, approval: Approval) -> None:
        if self._notifier is not None:
            self._notifier.send(event, summary(approval))


def summary(approval: Approval) -> dict[str, Any]:
    """A request as JSON for lists and webhooks: the statement is redacted and may be cut, parameters are left out."""
    text = redact_sql(approval.text)
    return {
        "id": approval.id,
        "status": approval.status.value,
        "session": approval.session_id,
        "subject": approval.subject,
        "issuer": approval.issuer,
        "resource": approval.resource,
        "rule": approval.rule,
        "text": text[:SHORT_TEXT],
        "text_cut": len(text) > SHORT_TEXT,
        "deferred": approval.deferred,
        "digest": approval.digest.hex(),
        "details": dict(approval.details),
        "requested_at": approval.requested_at,
        "expires_at": approval.expires_at,
        "decided_at": approval.decided_at,
        "reason": approval.reason,
        "approvers": {
            "groups": sorted(approval.terms.approver_groups),
            "subjects": sorted(approval.terms.approver_subjects),
            "count": approval.terms.count,
        },
        "votes": [
            {
                "subject": vote.subject,
                "issuer": vote.issuer,
                "approve": vote.approve,
                "reason": vote.reason,
                "at": vote.at,
            }
            for vote in approval.votes
        ],
    }


@contextmanager
def _conflicts() -> Iterator[None]:
    """What the store refuses, in words for the person; the journal's own error names files and goes to the log."""
    try:
        yield
    except ApprovalConflict as error:
        raise ApprovalError(str(error)) from error
    except RecordError as error:
        log.error("approvals cannot be recorded: %s", error)
        raise ApprovalError("the gateway cannot record this now, so nothing was changed; try again later") from error


def _meaning(analysis: Analysis, resource: Resource) -> bytes:
    """A digest of everything that was found out about a command: where any of it differs, it is another command."""
    known = {
        **_details(analysis),
        "database": resource.database,
        "columns": list(analysis.columns),
        "predicates": list(analysis.predicates),
        "functions": list(analysis.functions),
        "shape": analysis.shape,
        "clear": sorted(analysis.clear_columns),
        "facts": {name: list(found) for name, found in analysis.facts.items()},
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()


def _details(analysis: Analysis) -> dict[str, Any]:
    return {
        "kind": analysis.kind,
        "effects": sorted(analysis.effects),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "where": analysis.where.value,
        "unknown": analysis.unknown,
        "why": analysis.why,
    }


__all__ = ["ApprovalBook", "ApprovalError", "Held", "Notifier", "Outcome", "StateError", "summary"]
