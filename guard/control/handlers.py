"""What each method of the control API does. The runtime constructs `Handlers` and gives `table()` to the server.

The state store and the evidence are asked in threads, because a database may be locked and a search may take long; what
ends a session does not wait for either. What a caller may read is decided in `roles`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from guard.approve import ApprovalBook, ApprovalError, Notifier
from guard.approve.summaries import summary
from guard.control.evidence import MAX_ROWS, Evidence
from guard.control.params import Params
from guard.control.retention import RetentionHandlers
from guard.control.roles import Roles
from guard.control.wire import ControlError
from guard.record.people import same_person
from guard.record.retention.desk import RetentionDesk
from guard.state import Approval, StateAccess, StateError
from guard.state.blocklist import Blocklist
from protocols.contract import Principal

Handler = Callable[[Principal, Mapping[str, Any]], Awaitable[Any]]

log = logging.getLogger("sluicegate.control")


class LiveSessions(Protocol):
    """The sessions that run in this gateway; the runtime has them."""

    def list(self) -> Sequence[Mapping[str, Any]]:
        """`session`, `subject`, `issuer`, `token_id`, `resource`, `client`, `application`, `started_at` (epoch
        seconds), `commands`, `denied`, and what else the runtime knows."""
        ...

    def terminate(self, session_id: str, reason: str) -> bool:
        """End one session now, its upstream work cancelled. False: there is none of that id here."""
        ...

    def contain(self, subject: str) -> int:
        """End every live session of this subject now. Returns how many were ended."""
        ...


class Handlers:
    """The methods, by name. `status` answers the gateway's own facts; `reload` loads the policies again and answers the
    new version, or raises with every problem as its text while the old policies stay in force."""

    def __init__(
        self,
        *,
        roles: Roles,
        state: StateAccess,
        blocklist: Blocklist,
        book: ApprovalBook,
        live: LiveSessions,
        evidence: Evidence,
        status: Callable[[], Mapping[str, Any]],
        reload: Callable[[], Awaitable[Mapping[str, Any]]],
        notifier: Notifier | None = None,
        retention: RetentionDesk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._roles = roles
        self._state = state
        self._blocklist = blocklist
        self._book = book
        self._live = live
        self._evidence = evidence
        self._status = status
        self._reload = reload
        self._notifier = notifier
        self._clock = clock
        self._reloading = asyncio.Lock()
        self._retention = RetentionHandlers(evidence, retention, blocklist.keeps_out, clock)

    def table(self) -> dict[str, Handler]:
        """Every method of `roles.METHODS` with its handler."""
        return {
            "whoami": self.whoami,
            "status": self.status,
            "policy.reload": self.reload,
            "sessions.list": self.sessions_list,
            "sessions.show": self.sessions_show,
            "sessions.replay": self.sessions_replay,
            "search": self.search,
            "refusals": self.refusals,
            "events": self.events,
            "incident": self.incident,
            "sessions.terminate": self.terminate,
            "contain": self.contain,
            "release": self.release,
            "revoke": self.revoke,
            "contained": self.contained,
            "approvals.list": self.approvals_list,
            "approvals.show": self.approvals_show,
            "approvals.approve": self.approve,
            "approvals.deny": self.deny,
            **self._retention.table(),
        }

    # -- the gateway

    async def whoami(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """The caller as the gateway sees them."""
        Params(params).done()
        return {
            "subject": principal.subject,
            "issuer": principal.issuer,
            "groups": sorted(principal.groups),
            "roles": sorted(self._roles.of(principal)),
            "expires_at": principal.expires_at,
            "token_id": principal.token_id,
        }

    async def status(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """The runtime's facts, and what waits."""
        Params(params).done()
        return {**self._status(), "approvals_waiting": self._book.waiting, "sessions_live": len(self._live.list())}

    async def reload(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Load the policies again."""
        Params(params).done()
        try:
            # one after the other: what was read first must not come into force last
            async with self._reloading:
                return dict(await self._reload())
        except Exception as error:
            # the problems of a policy are for the operator who reloads it: file, line and what is wrong
            log.warning("policies were not reloaded by %s: %s", principal.subject, error)
            raise ControlError("conflict", f"the old policies stay in force: {error}") from error

    # -- evidence

    async def sessions_list(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Sessions, newest first, the live ones marked; filters: subject, resource, live, since, until, limit.

        `everywhere`: the live ones, also of other gateways that share the state store, each with its `gateway`.
        """
        given = Params(params)
        if not given.flag("everywhere"):
            return await self._evidence.sessions(given, self._live.list())
        with _store_errors():
            others = await self._elsewhere()
        rows = await self._evidence.sessions(Params({**given.left, "live": True}), self._live.list())
        wanted = {name: given.left[name] for name in ("subject", "resource") if given.left.get(name) is not None}
        fitting = [row for row in others if all(row[name] == value for name, value in wanted.items())]
        mine = [{**row, "gateway": self._status().get("gateway", "")} for row in rows]
        return sorted((*mine, *fitting), key=lambda row: float(row["started_at"] or 0), reverse=True)

    async def _elsewhere(self) -> list[dict[str, Any]]:
        """Live sessions of other gateways, as the registry has them: one that was killed leaves them there until it
        starts again. Raises StateError."""
        here = self._status().get("gateway", "")
        entries = await self._state.read(lambda store: store.sessions.list(live=True, limit=MAX_ROWS))
        return [{**asdict(one), "session": one.id, "live": True} for one in entries if one.gateway != here]

    async def sessions_show(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """One session with its commands."""
        return await self._evidence.show(Params(params), self._live.list())

    async def sessions_replay(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """A page of the timed events of one session, rendered."""
        return await self._evidence.replay(Params(params))

    async def search(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Commands that match every filter, newest first."""
        return await self._evidence.search(Params(params))

    async def refusals(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Those who did not get a session, newest first."""
        return await self._evidence.refusals(Params(params))

    async def events(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is on record beside commands and answers, newest first."""
        return await self._evidence.events(Params(params))

    async def incident(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Who, what, and did it comply: one identity. Answered even when the store cannot say who is contained."""
        report = await self._evidence.incident(Params(params), self._live.list())
        try:
            stored = await self._state.read(lambda store: store.contained())
            here = {row["subject"] for row in self._blocklist.unstored()}
            report["contained"] = any(same_person(one, report["subject"]) for one in stored | here)
            report["elsewhere"] = [
                row for row in await self._elsewhere() if same_person(row["subject"], report["subject"])
            ]
        except StateError:
            log.exception("cannot tell whether %s is contained, or connected elsewhere", report["subject"])
            report["contained"] = report["elsewhere"] = None
        return report

    # -- containment

    async def terminate(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """End one live session."""
        given = Params(params)
        session, reason = given.text("session"), given.text("reason", default="ended by a responder")
        given.done()
        if not self._live.terminate(session, f"{reason} ({principal.subject})"):
            raise ControlError("not_found", f"no live session `{session}` here; see `sluicegate sessions --live`")
        return {"session": session, "ended": 1}

    async def contain(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a subject out until it is released, and end all that it has open.

        In force here before the store is asked, and whatever it answers: it is then tried again until it is stored and
        on record, and until then neither survives a restart nor is known to other gateways; the error says so.
        """
        given = Params(params)
        subject, reason = given.text("subject"), given.text("reason")
        given.done()
        stored = self._blocklist.contain(subject, principal.subject, reason, self._clock())
        ended = self._live.contain(subject)
        self._tell("containment", {"act": "contain", "subject": subject, "by": principal.subject, "reason": reason})
        await _kept(stored, f"`{subject}` is kept out here and {ended} live sessions of it were ended", "containment")
        return {"subject": subject, "contained": True, "ended": ended}

    async def release(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Let a contained subject in again."""
        given = Params(params)
        subject = given.text("subject")
        given.done()
        if same_person(subject, principal.subject):
            raise ControlError("forbidden", "nobody releases themselves; ask another responder")
        with _store_errors():
            if not await self._blocklist.release(subject, principal.subject, self._clock()):
                raise ControlError("not_found", f"`{subject}` is not contained")
        self._tell("containment", {"act": "release", "subject": subject, "by": principal.subject})
        return {"subject": subject, "contained": False}

    async def revoke(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse one token for good, and end the sessions that it opened; as `contain` does."""
        given = Params(params)
        token_id, reason = given.text("token_id"), given.text("reason", default="revoked")
        given.done()
        stored = self._blocklist.revoke(token_id, principal.subject, reason, self._clock())
        opened = [str(entry["session"]) for entry in self._live.list() if entry.get("token_id") == token_id]
        ended = sum(self._live.terminate(session, "the token was revoked; get a new one") for session in opened)
        await _kept(stored, f"the token is refused here and {ended} live sessions were ended", "revocation")
        return {"token_id": token_id, "ended": ended}

    async def contained(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Who is kept out, since when, by whom and why; `stored` is False of what only this gateway knows yet."""
        Params(params).done()
        with _store_errors():
            rows = await self._state.read(lambda store: store.containments())
        known = {row["subject"] for row in rows}
        here = [row for row in self._blocklist.unstored() if row["subject"] not in known]
        return [{**row, "stored": True} for row in rows] + [{**row, "stored": False} for row in here]

    # -- approvals

    async def approvals_list(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Requests, newest first; `status` defaults to pending, `all` is every one."""
        given = Params(params)
        status, limit = given.text("status", default="pending"), given.number("limit", default=100, most=1000)
        given.done()
        with _store_errors():
            return [summary(each) for each in await self._book.list(None if status == "all" else status, int(limit))]

    async def approvals_show(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """One request. Who may decide on it sees the exact statement and its parameters: all that would run."""
        given = Params(params)
        approval_id = given.text("id")
        given.done()
        with _store_errors():
            approval = await self._book.get(approval_id)
        if approval is None:
            raise ControlError("not_found", f"there is no request `{approval_id}`; see `sluicegate approvals list`")
        return self._shown(approval, principal)

    async def approve(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Vote for a request."""
        return await self._vote(principal, params, approve=True)

    async def deny(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Vote against a request; the reason is required and goes to the person who asked."""
        return await self._vote(principal, params, approve=False)

    async def _vote(self, principal: Principal, params: Mapping[str, Any], *, approve: bool) -> dict[str, Any]:
        given = Params(params)
        approval_id, reason = given.text("id"), given.text("reason", default="")
        given.done()
        with _store_errors():
            return summary(await self._book.vote(approval_id, principal, approve, reason))

    def _shown(self, approval: Approval, principal: Principal) -> dict[str, Any]:
        shown = summary(approval)
        objection = self._book.objection(approval, principal)
        if objection is None:
            shown |= {"text": approval.text, "text_cut": False, "params": list(approval.params)}
        return {**shown, "you_may_decide": objection is None, "why_not": objection}

    def _tell(self, event: str, data: Mapping[str, Any]) -> None:
        if self._notifier is not None:
            self._notifier.send(event, data)


async def _kept(stored: asyncio.Task[None], done: str, what: str) -> None:
    """Waits until the order is stored and on record. Raises ControlError: what is `done` holds all the same."""
    try:
        await asyncio.shield(stored)  # a caller who gives up takes nothing back
    except Exception as error:
        raise ControlError(
            "unavailable",
            f"{done}, but the {what} is not stored or not recorded yet: it is tried again until it is, and a restart "
            "before that forgets it; other gateways do not know of it. look at the disk of state_dir and at its locks",
        ) from error


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turns what the store and the book say into what a caller may read."""
    try:
        yield
    except ApprovalError as error:
        raise ControlError("conflict", str(error)) from error
    except StateError as error:
        raise ControlError("unavailable", str(error)) from error
