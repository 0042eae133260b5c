"""Retention through the control socket: what goes and when, what is held, and one subject's erasure.

Who may destroy and who may stop it are two roles: an operator runs what the configuration asks for, a responder holds.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from guard.control.evidence import Evidence
from guard.control.params import Params
from guard.control.wire import ControlError
from guard.record.errors import RecordError
from guard.record.people import same_person
from guard.record.removals import removals
from guard.record.retention import plan as planning
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.holds import HOLD, RELEASE, Hold, Holds
from guard.record.retention.runs import Plan, Run, runs
from protocols.contract import Principal

_RUNS = 50  # of the newest
_NONE = "this gateway has no retention"

log = logging.getLogger("sluicegate.control")


class RetentionHandlers:
    """desk: announces and records; None where the process has none. contained: who is kept out at present."""

    def __init__(
        self,
        evidence: Evidence,
        desk: RetentionDesk | None,
        contained: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._evidence = evidence
        self._desk = desk
        self._contained = contained
        self._clock = clock

    def table(self) -> dict[str, Callable[[Principal, Mapping[str, Any]], Awaitable[Any]]]:
        """The methods of this module."""
        return {
            "retention.show": self.show,
            "retention.removed": self.removed,
            "retention.plan": self.plan,
            "retention.run": self.run,
            "retention.erase": self.erase,
            "retention.hold": self.hold,
            "retention.release": self.release,
        }

    # -- looking

    async def show(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """`rules` in force, `journal` and disk sizes (bytes), `warning`, `holds`, the newest `runs`."""
        Params(params).done()
        desk = self._working()

        def ask(index: Any) -> tuple[Holds, list[Run], Any]:
            found: tuple[Holds, list[Run]] = index.ask(lambda connection: (Holds.read(connection), runs(connection)))
            return *found, desk.measure()

        holds, known, space = await self._evidence.ask(ask)
        return {
            "rules": asdict(desk.rules),
            "journal_bytes": space.journal,
            "disk_free": space.free,
            "disk_total": space.total,
            "warning": desk.warning,
            "holds": [_hold(each) for each in holds.by_id.values()],
            "runs": [_run(run) for run in reversed(known[-_RUNS:])],
        }

    async def removed(self, _principal: Principal, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is missing of a time: a row a run, newest first."""
        given = Params(params)
        since, until = given.optional_number("since"), given.optional_number("until")
        limit = int(given.number("limit", default=100, most=1000))
        given.done()
        return await self._evidence.ask(
            lambda index: index.ask(lambda connection: removals(connection, since, until, limit), damaged_ok=True)
        )

    async def plan(self, _principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """What `run` (or, with `subject`, `erase`) would do now. Nothing is done."""
        given = Params(params)
        subject = given.optional_text("subject")
        given.done()
        found, shown, left, held = await self._due(subject)
        return {"plans": shown, "too_young": left, "holds": held, "would_start": len(found)}

    # -- acting

    async def run(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Announce what the rules ask for now. The indexer carries it out; `show` says how far it is."""
        given = Params(params)
        reason = given.text("reason", default="asked for by an operator")
        given.done()
        await self._not_twice(None)
        found, shown, _, _ = await self._due(None)
        return {"runs": self._begin(found, principal, reason), "plans": shown}

    async def erase(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Announce the erasure of one subject's records."""
        given = Params(params)
        subject, reason = given.text("subject"), given.text("reason")
        given.done()
        if same_person(subject, principal.subject):
            raise ControlError("forbidden", "nobody erases their own records; ask another operator")
        if self._contained(subject):
            raise ControlError("conflict", f"`{subject}` is contained: release it, or let a responder hold its records")
        await self._not_twice(subject)
        found, shown, left, _ = await self._due(subject)
        return {"runs": self._begin(found, principal, reason), "plans": shown, "too_young": left}

    async def hold(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Keep everything of one subject or one session, until released."""
        given = Params(params)
        subject, session = given.optional_text("subject"), given.optional_text("session")
        reason = given.text("reason")
        given.done()
        if (subject is None) == (session is None):
            raise ControlError("bad_request", "give `subject` or `session`, one of them")
        name = secrets.token_hex(4)
        whom = {"subject": subject} if subject is not None else {"session": session}
        self._record(
            HOLD, {"hold": name, **whom, "reason": reason, "by": principal.subject, "issuer": principal.issuer}
        )
        return {"hold": name, **whom, "reason": reason}

    async def release(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Lift a hold. Nobody lifts one on themselves."""
        given = Params(params)
        name, reason = given.text("hold"), given.text("reason")
        given.done()
        holds: Holds = await self._evidence.ask(lambda index: index.ask(Holds.read))
        found = holds.by_id.get(name)
        if found is None:
            raise ControlError("not_found", f"there is no hold `{name}`; see `sluicegate retention show`")
        if found.subject and same_person(found.subject, principal.subject):
            raise ControlError("forbidden", "nobody releases the hold on themselves; ask another responder")
        self._record(RELEASE, {"hold": name, "reason": reason, "by": principal.subject, "issuer": principal.issuer})
        return {**_hold(found), "released": True}

    # -- inside

    def _working(self) -> RetentionDesk:
        if self._desk is None:
            raise ControlError("unavailable", _NONE)
        return self._desk

    async def _not_twice(self, subject: str | None) -> None:
        known: list[Run] = await self._evidence.ask(lambda index: index.ask(runs))
        if any(run.done is None and run.plan.subject == subject for run in known):
            raise ControlError("conflict", "this is under way already; see `sluicegate retention show`")

    async def _due(self, subject: str | None) -> tuple[list[Plan], list[dict[str, Any]], int, int]:
        """Plans, the same for people, records that are too young to be erased, holds in force."""
        desk, now = self._working(), int(self._clock() * 1e9)

        def ask(index: Any) -> tuple[list[Plan], list[dict[str, Any]], int, int]:
            def look(connection: Connection) -> tuple[list[Plan], list[dict[str, Any]], int, int]:
                left = 0
                if subject is None:
                    found = planning.plans(index.folder, connection, desk.rules, now)
                else:
                    one, left = planning.erasure(index.folder, connection, desk.rules, subject, now)
                    found = [] if one is None else [one]
                known = {each.number: each for each in planning.finished(index.folder, connection)}
                shown = [_plan(each, known) for each in found]
                return found, shown, left, len(Holds.read(connection).by_id)

            result: tuple[list[Plan], list[dict[str, Any]], int, int] = index.ask(look)
            return result

        return await self._evidence.ask(ask)

    def _begin(self, found: list[Plan], principal: Principal, reason: str) -> list[str]:
        desk = self._working()
        try:
            return [desk.begin(plan, by=principal.subject, issuer=principal.issuer, reason=reason) for plan in found]
        except RecordError as error:
            raise ControlError("unavailable", f"nothing is removed that cannot be recorded: {error}") from error

    def _record(self, kind: str, facts: Mapping[str, Any]) -> None:
        try:
            self._working().record(kind, facts)
        except RecordError as error:
            raise ControlError("unavailable", f"the hold is not as you asked: {error}") from error


def _hold(hold: Hold) -> dict[str, Any]:
    shown = {"hold": hold.id, "subject": hold.subject, "session": hold.session, "reason": hold.reason, "by": hold.by}
    return {**shown, "at": hold.at / 1e9}


def _run(run: Run) -> dict[str, Any]:
    shown: dict[str, Any] = {"run": run.id, "at": run.at / 1e9, "by": run.by, "reason": run.reason}
    shown |= {"level": run.plan.level, "rule": run.plan.rule, "subject": run.plan.subject}
    shown |= {"segments": len(run.plan.segments), "state": "under way" if run.done is None else "done"}
    names = ("reduced", "dropped", "records", "bytes", "kept", "failed")
    return shown | {name: (run.done or {}).get(name) for name in names}


def _plan(plan: Plan, known: Mapping[int, planning.Segment]) -> dict[str, Any]:
    here = [known[number] for number in plan.segments if number in known]
    return {
        "level": plan.level,
        "rule": plan.rule,
        "subject": plan.subject,
        "segments": len(plan.segments),
        "records": sum(each.records for each in here),
        "bytes": sum(each.size for each in here),
        "from_at": min((each.first_at for each in here), default=0) / 1e9,
        "to_at": max((each.last_at for each in here), default=0) / 1e9,
    }
