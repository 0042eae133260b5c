"""The indexer's side: carries out what the journal announces, one segment at a time, and says what is due.

Results and wishes go into files in `state_dir/retention`, where the gateway's `RetentionDesk` takes them. None of them
makes anything go: only a `retention.intended` record in the journal does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from guard.record import removals
from guard.record.compress import compress_finished
from guard.record.errors import RecordError
from guard.record.format import Record
from guard.record.index import EvidenceIndex
from guard.record.keys import load_or_make
from guard.record.reader import segments
from guard.record.retention import rewrite
from guard.record.retention.holds import HOLD, Holds
from guard.record.retention.plan import note_examined, plans
from guard.record.retention.rules import RetentionRules, stays
from guard.record.retention.runs import DONE, INTENDED, Plan, Run, runs
from guard.record.tombstones import Act, Tombstone, Tombstones

FOLDER = "retention"
WANTED = "wanted.json"
_PLAN_EVERY = 300 * 10**9  # ns


def result_file(state_dir: Path, run: str) -> Path:
    return state_dir / FOLDER / f"done-{run}.json"


@dataclass(slots=True)
class _Work:
    """A run under way, and what has come of it."""

    run: Run
    todo: list[int]
    totals: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("reduced", "dropped", "records", "bytes", "kept", "later"), 0)
    )
    failed: list[dict[str, Any]] = field(default_factory=list)


class Worker:
    """`step()` does a piece of work and says whether there was any. Only one worker of a state folder gets to work.

    steps: called with the name of each step before the next one begins, for tests that die there.
    """

    def __init__(
        self,
        state_dir: Path,
        index: EvidenceIndex,
        rules: RetentionRules,
        *,
        clock: Callable[[], int] = time.time_ns,
        steps: rewrite.Steps = lambda _: None,
        plan_every: int = _PLAN_EVERY,
    ) -> None:
        self._state_dir = state_dir
        self._index = index
        self._rules = rules
        self._clock = clock
        self._steps = steps
        self._plan_every = plan_every
        self._plan_at = 0
        self._seen = -1  # the last announcement or report when there was nothing to do
        self._lock = -1
        self._work: _Work | None = None

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def step(self) -> bool:
        """Raises RecordError, DamagedJournal where the index cannot be asked or nothing can be written."""
        if not self._locked():
            return False
        seen, due = self._index.ask(_newest_run), self._rules.any and self._clock() >= self._plan_at
        if self._work is None and seen == self._seen and not due:
            return False
        unfinished = [run for run in self._index.ask(runs) if run.done is None]
        waiting = [run for run in unfinished if not result_file(self._state_dir, run.id).exists()]
        if waiting:
            self._advance(waiting[0])
            return True
        self._seen = seen
        if not unfinished and due:
            self._plan_at = self._clock() + self._plan_every
            self._wish()
        return False

    def _locked(self) -> bool:
        if self._lock >= 0:
            return True
        folder = self._state_dir / FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordError(f"cannot work in `{folder}`: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def _wish(self) -> None:
        path = self._state_dir / FOLDER / WANTED
        if path.exists():
            return  # the gateway has not seen it yet: perhaps it cannot record
        now = self._clock()
        found = self._index.ask(lambda connection: plans(self._index.folder, connection, self._rules, now))
        if found:
            _leave(path, [plan.facts() for plan in found])

    # carrying out

    def _advance(self, run: Run) -> None:
        """The next segment of the run, or its result."""
        if self._work is None or self._work.run.id != run.id:
            # the youngest first: the start of a session stays until everything behind it has gone
            self._work = _Work(run, sorted(run.plan.segments, reverse=True))
        work = self._work
        if work.todo:
            number = work.todo.pop(0)
            try:
                self._segment(work, number)
            except (RecordError, OSError) as error:
                # a damaged segment, a full disk: what is left of the run is done, and the result says what is not
                why = f"cannot be written anew: {error.strerror}" if isinstance(error, OSError) else str(error)
                work.failed.append({"segment": number, "why": why})
            return
        result = {"run": run.id, "level": run.plan.level, "rule": run.plan.rule, "segments": len(run.plan.segments)}
        _leave(result_file(self._state_dir, run.id), result | work.totals | {"failed": work.failed})
        self._steps("reported")
        self._work = None

    def _segment(self, work: _Work, number: int) -> None:
        run, folder = work.run, self._index.folder
        key = load_or_make(self._state_dir / "keys", may_make=False)
        here = segments(folder)
        gone = None if number in here else Tombstones(folder, key.public_key()).dropped(number)
        if gone is not None:
            self._index.follow_removals()
            self._count_done(work, gone)
            return
        if number not in here or number >= max(here):
            raise RecordError("the segment is not there, or not finished")
        if here[number].suffix != ".gz":
            compress_finished(folder, number + 1)
        before = rewrite.settle(folder, number, key)
        if before is not None and before.acts[-1].run == run.id:
            self._index.follow_removals()
            self._count_done(work, before)
            return
        self._take(work, number, before, key)

    def _take(self, work: _Work, number: int, before: Tombstone | None, key: Ed25519PrivateKey) -> None:
        plan, folder = work.run.plan, self._index.folder

        def look(connection: Connection) -> tuple[rewrite.Scan, str]:
            chooser = _Chooser(connection, plan, number)
            found = rewrite.scan(folder, number, key.public_key(), before, plan.level, chooser)
            return found, chooser.holds.digest()

        found, holds = self._index.ask(look)
        if found.last_at >= plan.before:
            raise RecordError("the segment is younger than the rule says")
        dropping = plan.level == "drop" and not found.kept
        if found.taken or dropping:
            self._act(work, found, before, key, holds, dropping=dropping)
        if plan.level != "erase" and not dropping:
            self._index.note(lambda c: note_examined(c, number, plan.level, found.kept, found.later, holds))
        work.totals["kept"] += found.kept
        work.totals["later"] += found.later

    def _act(
        self,
        work: _Work,
        found: rewrite.Scan,
        before: Tombstone | None,
        key: Ed25519PrivateKey,
        holds: str,
        *,
        dropping: bool,
    ) -> None:
        run, plan = work.run, work.run.plan
        act = Act(
            run=run.id,
            intended=run.seq,
            # a segment of which something must stay is stripped of all the rest
            level=plan.level if dropping or plan.level != "drop" else "strip",
            rule=plan.rule,
            reason=run.reason,
            by=run.by,
            at=self._clock(),
            seqs=frozenset() if dropping else frozenset(found.taken),
            counts=dict(found.counts),
            size=found.size,
            kept=found.kept,
        )

        def permit() -> None:
            if self._index.ask(Holds.read).digest() != holds:
                raise RecordError("the holds in force changed meanwhile; the next run looks again")

        rewritten = rewrite.drop_segment if dropping else rewrite.reduce_segment
        made = rewritten(self._index.folder, found, before, act, key, permit, self._steps)
        self._index.follow_removals()
        self._steps("indexed")
        self._count_done(work, made)

    def _count_done(self, work: _Work, tombstone: Tombstone | None) -> None:
        if tombstone is None or (act := tombstone.acts[-1]).run != work.run.id:
            return
        whole = tombstone.last_seq - tombstone.first_seq + 1
        work.totals["dropped" if act.level == "drop" else "reduced"] += 1
        work.totals["records"] += whole if act.level == "drop" else len(act.seqs)
        work.totals["bytes"] += act.size


class _Chooser:
    """Which records of a segment a plan takes."""

    def __init__(self, connection: Connection, plan: Plan, number: int) -> None:
        self.holds = Holds.read(connection)
        self._connection = connection
        self._plan = plan
        self._number = number
        self._unfinished = {run.id for run in runs(connection) if run.done is None}
        self._subjects: dict[str, str] = {}

    def __call__(self, record: Record, facts: Mapping[str, Any] | None) -> rewrite.Verdict:
        level, kind = self._plan.level, record.kind
        if level in ("strip", "erase") and stays(kind):
            return "leave"
        if level == "erase" and not self._theirs(facts):
            return "leave"
        if self._needed(kind, facts) or self.holds.keep(facts, self._subject_of):
            return "keep"
        session = (facts or {}).get("s")
        if level in ("strip", "erase") and kind == "session.start" and isinstance(session, str):
            # without it nobody could tell whose the rest of the session is
            return "later" if removals.goes_on(self._connection, session, self._number) else "take"
        return "take"

    def _needed(self, kind: str, facts: Mapping[str, Any] | None) -> bool:
        """Retention's own: a hold in force, and what is announced and not done."""
        if kind == HOLD:
            return facts is None or facts.get("hold") in self.holds.by_id
        return kind == INTENDED and (facts is None or facts.get("run") in self._unfinished)

    def _theirs(self, facts: Mapping[str, Any] | None) -> bool:
        if facts is None:
            return False
        subject, session = self._plan.subject, facts.get("s")
        if facts.get("subject") == subject:
            return True
        return isinstance(session, str) and bool(session) and self._subject_of(session) == subject

    def _subject_of(self, session: str) -> str:
        if session not in self._subjects:
            self._subjects[session] = removals.subject_of(self._connection, session)
        return self._subjects[session]


def _newest_run(connection: Connection) -> int:
    return removals.newest(connection, (INTENDED, DONE))


def _leave(path: Path, document: Any) -> None:
    """Whole or not at all. Raises RecordError."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(orjson.dumps(document))
        temporary.rename(path)
    except OSError as error:
        raise RecordError(f"cannot write `{path}`: {error.strerror}") from error
