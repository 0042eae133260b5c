"""A small journal with history: three people, a year of days, one segment a day; and the hands that work on it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guard.record.compress import compress_finished
from guard.record.index import EvidenceIndex
from guard.record.journal import Recorder, RecordSettings
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow, open_segment, segments
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.rules import DAY, RetentionRules
from guard.record.retention.runs import Run, runs
from guard.record.retention.worker import Worker
from guard.record.verify import Report, verify

SECOND = 10**9
START = 1_700_000_000 * SECOND
SECRET = "the-answer-"
RULES = RetentionRules(content_days=30, commands_days=90, segments_days=365)


@dataclass
class Place:
    """A gateway's state folder with its writer, its indexer's hands and its clock."""

    state: Path
    now: int = START
    rules: RetentionRules = RULES
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = RecordSettings(segment_seconds=86_400, checkpoint_every=5)
        self.recorder = Recorder(settings, self.state, clock=lambda: self.now)
        self.index = EvidenceIndex(self.state)
        self._workers: list[Worker] = []

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    def session(self, name: str, subject: str) -> None:
        who = {"subject": subject, "issuer": "https://idp", "groups": [], "resource": "shop", "protocol": "postgres"}
        self.recorder.session_start(name, who | {"client": "10.0.0.1:1", "application": "psql", "token_id": "t"})

    def ask(self, session: str, n: int, text: str, rows: int = 3) -> None:
        self.now += SECOND
        facts = {"t": "command", "s": session, "n": n, "kind": "select", "text": text, "decision": "allow", "rule": "r"}
        facts |= {"effects": ["data.select"], "reads": ["public.orders"], "writes": [], "columns": [], "params": ["p"]}
        self.recorder.command(json.dumps(facts).encode())
        wire = base64.b64encode(f"{SECRET}{session}-{n}".encode() * 3).decode()
        answer = {"t": "response", "s": session, "n": n, "status": "ok", "rows": rows, "bytes": 40, "us": 9, "tag": "T"}
        self.recorder.buffer("response", json.dumps(answer | {"wire": wire, "columns": None}).encode())

    def day(self, *people: str, talk: int = 4) -> None:
        """One day, one segment: each of the people has one session, and says `talk` things."""
        number = self.recorder.position().segment
        for person in people:
            name = f"{person}-{number}"
            self.session(name, person)
            for n in range(1, talk + 1):
                self.ask(name, n, f"SELECT '{person} {number}.{n}'")
            self.recorder.session_end(name, {"commands": talk, "reason": "client left"})
        self.recorder.event("admin.read", {"method": "search", "by": "carol", "params": {}})
        self.now += DAY
        self.recorder.flush()
        self.recorder.tick()
        self.recorder.tick()

    def age(self, days: int) -> None:
        """Time passes, and what is being written ends."""
        self.now += days * DAY
        self.recorder.tick()
        self.recorder.tick()
        self.settle()

    def settle(self) -> None:
        """Index and compress what is finished, as the indexer does."""
        self.recorder.flush()
        self.index.catch_up()
        compress_finished(self.journal, self.index.read_below())

    def desk(self, rules: RetentionRules | None = None) -> RetentionDesk:
        return RetentionDesk(rules or self.rules, self.state, self.recorder.event, self._tell, clock=lambda: self.now)

    def _tell(self, event: str, data: Any) -> None:
        self.told.append((event, dict(data)))

    def worker(self, steps: Callable[[str], None] = lambda _: None, rules: RetentionRules | None = None) -> Worker:
        made = Worker(self.state, self.index, rules or self.rules, clock=lambda: self.now, steps=steps, plan_every=0)
        self._workers.append(made)
        return made

    def work(self, rules: RetentionRules | None = None, rounds: int = 8) -> None:
        """Everything that the rules ask for now, until nothing is left to do."""
        self.settle()
        desk, worker = self.desk(rules), self.worker(rules=rules)
        for _ in range(rounds):
            while worker.step():
                pass
            desk.poll()
            self.settle()
        worker.close()
        self.index.catch_up()

    def runs(self) -> list[Run]:
        return self.index.ask(runs)

    def verify(self, **options: Any) -> Report:
        return verify(self.journal, load_public(self.state / "keys" / "journal.pub"), **options)

    def records(self) -> list[Any]:
        return [record for record, _ in follow(self.journal, Cursor())]

    def bytes(self) -> bytes:
        """Every byte of the journal, uncompressed, and of the index."""
        found = b"".join(path.read_bytes() for path in self.state.glob("index.db*"))
        for number in segments(self.journal):
            with open_segment(self.journal, number) as file:
                found += file.read()
        return found

    def rebuilt(self) -> EvidenceIndex:
        """A new index from what the journal holds now."""
        self.index.close()
        for path in self.state.glob("index.db*"):
            path.unlink()
        self.index = EvidenceIndex(self.state)
        self.index.catch_up()
        return self.index

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self.index.close()
        if self.recorder._writer.file >= 0:
            self.recorder.close()


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    opened: list[Place] = []

    def make(folder: Path | None = None, **options: Any) -> Place:
        opened.append(Place(folder or tmp_path / "state", **options))
        return opened[-1]

    yield make
    for place in opened:
        place.close()


@pytest.fixture
def place(open_place: Callable[..., Place]) -> Place:
    """Five days: ann and bob each day."""
    made = open_place()
    for _ in range(5):
        made.day("ann", "bob")
    made.settle()
    return made
