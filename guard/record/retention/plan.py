"""Which segments are due, from the index and the files' sizes. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from guard.record import index_schema as schema
from guard.record import removals
from guard.record.errors import RecordError
from guard.record.reader import segments
from guard.record.retention.holds import Holds
from guard.record.retention.rules import RetentionRules, stays
from guard.record.retention.runs import MOST_SEGMENTS, Plan
from guard.record.tombstones import FOLDER, Level

_RANK: Mapping[str, int] = {"thin": 0, "strip": 1, "drop": 2}


@dataclass(frozen=True, slots=True)
class Segment:
    """One finished segment. Times are ns; `size`: bytes on the disk; `payload`: bytes of its records."""

    number: int
    first_at: int
    last_at: int
    records: int
    payload: int
    size: int


def finished(folder: Path, connection: Connection) -> list[Segment]:
    """What retention may look at, oldest first: indexed, and with a successor."""
    files = segments(folder)
    newest = max(files, default=0)
    table = schema.segments
    found = []
    for row in connection.execute(select(table).order_by(table.c.number)):
        path = files.get(row.number)
        if path is None or row.number >= newest:
            continue
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            continue
        found.append(Segment(row.number, row.first_at, row.last_at, row.records, row.payload, size))
    return found


def plans(folder: Path, connection: Connection, rules: RetentionRules, now: int) -> list[Plan]:
    """What the rules ask for now, the strictest first; no segment is in two of them."""
    known = finished(folder, connection)
    due = _Due(connection)
    taken: set[int] = set()
    made: list[Plan] = []
    for level, rule, before in rules.by_age(now):
        numbers = [each.number for each in known if each.last_at < before and each.number not in taken]
        wanted = [number for number in numbers if due(number, level)][:MOST_SEGMENTS]
        taken.update(wanted)
        if wanted:
            made.append(Plan(level, rule, tuple(wanted), before))
    if rules.max_bytes is not None:
        young = rules.youngest(now)
        left = usage(folder) - rules.max_bytes - sum(each.size for each in known if each.number in dropping(made))
        wanted = []
        for each in known:
            if left <= 0 or each.last_at >= young or len(wanted) == MOST_SEGMENTS:
                break
            if each.number not in dropping(made) and due(each.number, "drop"):
                wanted.append(each.number)
                left -= each.size
        if wanted:
            made = [without for plan in made if (without := _without(plan, set(wanted))) is not None]
            made.append(Plan("drop", rules.by_size, tuple(wanted), young))
    return made


def dropping(made: list[Plan]) -> set[int]:
    """Segments that go altogether already."""
    return {number for plan in made if plan.level == "drop" for number in plan.segments}


def _without(plan: Plan, numbers: set[int]) -> Plan | None:
    left = tuple(number for number in plan.segments if number not in numbers)
    return Plan(plan.level, plan.rule, left, plan.before, plan.subject) if left else None


def erasure(
    folder: Path, connection: Connection, rules: RetentionRules, subject: str, now: int
) -> tuple[Plan | None, int]:
    """The plan that erases one subject, and how many of its records are too young or still being written to go."""
    young = rules.youngest(now)
    old = {each.number for each in finished(folder, connection) if each.last_at < young}
    where = _of_subject(connection, subject)
    wanted = tuple(sorted(number for number in where if number in old))[:MOST_SEGMENTS]
    left = sum(count for number, count in where.items() if number not in wanted)
    return (Plan("erase", "erasure", wanted, young, subject) if wanted else None), left


def _of_subject(connection: Connection, subject: str) -> dict[int, int]:
    """Segment -> how many records there are this subject's own."""
    session, event = schema.sessions, schema.events
    theirs = select(session.c.id).where(session.c.subject == subject)
    counted: dict[int, int] = {}
    for rows in (schema.commands, schema.responses):
        query = select(rows.c.segment, func.count()).where(rows.c.session.in_(theirs))
        for number, count in connection.execute(query.group_by(rows.c.segment)):
            counted[number] = counted.get(number, 0) + count
    mine = event.c.session.in_(theirs) | (event.c.subject == subject)
    query = select(event.c.segment, event.c.kind, func.count()).where(mine)
    for number, kind, count in connection.execute(query.group_by(event.c.segment, event.c.kind)):
        if not stays(kind):
            counted[number] = counted.get(number, 0) + count
    return counted


class _Due:
    """Whether it is worth looking at a segment (again)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.holds = Holds.read(connection)
        table = schema.examined
        self._seen: dict[int, list[Any]] = {}
        for row in connection.execute(select(table)):
            self._seen.setdefault(row.segment, []).append(row)

    def __call__(self, number: int, level: Level) -> bool:
        seen = [row for row in self._seen.get(number, ()) if _RANK[row.goal] >= _RANK[level]]
        if not seen:
            return True
        row = max(seen, key=lambda each: _RANK[each.goal])
        if row.kept and row.holds != self.holds.digest():
            return True
        return bool(row.later) and any(self._ended(session, number) for session in self._began(number))

    def _began(self, number: int) -> list[str]:
        return removals.began_in(self._connection, number)

    def _ended(self, session: str, number: int) -> bool:
        """Nothing of it lies behind the segment any more, and no hold keeps its start."""
        if removals.goes_on(self._connection, session, number):
            return False
        subject = removals.subject_of(self._connection, session)
        return not self.holds.keep({"s": session, "subject": subject}, lambda _: subject)


def note_examined(connection: Connection, number: int, goal: Level, kept: int, later: int, holds: str) -> None:
    """Retention has looked at the segment with this goal."""
    values = {"kept": kept, "later": later, "holds": holds}
    statement = insert(schema.examined).values(segment=number, goal=goal, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["segment", "goal"], set_=values))


def usage(folder: Path) -> int:
    """Bytes of the journal on the disk. Raises RecordError."""
    total = 0
    try:
        for path in (*folder.iterdir(), *((folder / FOLDER).iterdir() if (folder / FOLDER).is_dir() else ())):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # compressed or dropped at this moment
    except OSError as error:
        raise RecordError(f"cannot read the journal folder `{folder}`: {error.strerror}") from error
    return total
