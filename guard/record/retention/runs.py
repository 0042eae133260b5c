"""A run of retention: announced in the journal, carried out by the indexer, reported in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from guard.record import removals
from guard.record.tombstones import LEVELS, Level, natural

INTENDED, DONE = "retention.intended", "retention.done"
MOST_SEGMENTS = 200  # of one run: the next one takes the rest


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. No record younger than `before` (ns) is touched; `subject` with level `erase` only."""

    level: Level
    rule: str
    segments: tuple[int, ...]
    before: int
    subject: str | None = None

    def facts(self) -> dict[str, Any]:
        shown = {"level": self.level, "rule": self.rule, "segments": list(self.segments), "before": self.before}
        return shown | ({"subject": self.subject} if self.subject is not None else {})

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Plan:
        """Raises ValueError, KeyError, TypeError for what is no plan."""
        level, rule, subject = facts["level"], facts["rule"], facts.get("subject")
        numbers = tuple(natural(number, 2**32) for number in facts["segments"])
        if level not in LEVELS or not isinstance(rule, str) or not isinstance(subject, str | None):
            raise ValueError("no plan")
        if (level == "erase") != bool(subject) or len(numbers) > MOST_SEGMENTS:
            raise ValueError("no plan")
        return cls(level, rule, numbers, natural(facts["before"]), subject)


@dataclass(frozen=True, slots=True)
class Run:
    """An announced plan. `seq`, `at` (ns): its record; `done`: what was reported of it."""

    id: str
    plan: Plan
    reason: str
    by: str
    seq: int
    at: int
    done: Mapping[str, Any] | None = field(default=None, compare=False)


def runs(connection: Connection) -> list[Run]:
    """Every run that the index knows, oldest first."""
    found: dict[str, Run] = {}
    for seq, at, kind, facts in removals.happened(connection, (INTENDED, DONE)):
        name = str(facts.get("run"))
        if kind == DONE:
            if (run := found.get(name)) is not None:
                found[name] = Run(run.id, run.plan, run.reason, run.by, run.seq, run.at, facts)
            continue
        try:
            plan = Plan.of(facts)
        except (ValueError, KeyError, TypeError):
            continue  # not announced by this program: nothing is done on its word
        found[name] = Run(name, plan, str(facts.get("reason") or ""), str(facts.get("by") or ""), seq, at)
    return list(found.values())
