"""The indexer is killed (SIGKILL) before each step of an act: nothing is half done, and the next one finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from guard.record.reader import segments
from guard.record.retention.rules import DAY
from guard.record.tombstones import listed

WORKER = """
import os, signal, sys
from pathlib import Path
from guard.record.index import EvidenceIndex
from guard.record.retention.rules import RetentionRules
from guard.record.retention.worker import Worker

state, step, left, now = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def steps(name):
    global left
    if name == step:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

with EvidenceIndex(state) as index:
    worker = Worker(state, index, RetentionRules(), clock=lambda: now, steps=steps)
    while worker.step():
        pass
"""

LEVELS = {"thin": 40, "drop": 400}
_COMMON = ["write", "signed", "replaced", "indexed", "reported"]
STEPS = {"thin": [*_COMMON, "written"], "drop": _COMMON}  # a segment that goes altogether is not written


def announced(place: Any, days: int) -> None:
    """Everything is ready, and the run is on record."""
    place.now += days * DAY
    place.settle()
    desk, worker = place.desk(), place.worker()
    worker.step()
    desk.poll()
    worker.close()
    place.recorder.flush()
    assert place.runs()


def left_over(place: Any) -> Any:
    sessions = place.index.sessions()
    acts = [(row["segment"], row["level"], row["records"], row["bytes"]) for row in place.verify().removed]
    shown = [place.index.show(row["session"]) for row in sessions]
    # checkpoints name their journal, and no two are the same
    kept = [(record.seq, record.payload) for record in place.records() if record.kind != "checkpoint"]
    kept = [each for each in kept if each[0] < 130]
    return sessions, shown, sorted(acts), kept, list(segments(place.journal))


@pytest.mark.slow
@pytest.mark.parametrize(("level", "step"), [(level, step) for level in LEVELS for step in STEPS[level]])
def test_killed_before_a_step(level: str, step: str, place: Any, open_place: Callable[..., Any], tmp_path: Any) -> None:
    undisturbed = open_place(tmp_path / "undisturbed")
    for _ in range(5):
        undisturbed.day("ann", "bob")
    announced(undisturbed, LEVELS[level])
    undisturbed.work()

    announced(place, LEVELS[level])
    nth = "1" if step == "reported" else "2"
    done = subprocess.run([sys.executable, "-c", WORKER, str(place.state), step, nth, str(place.now)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    # at this moment everything that is there is proven, and everybody gets an answer
    report = place.verify()
    assert report.problem is None, report.problem
    assert report.unfinished == [place.runs()[0].id]
    pending = [row["segment"] for row in report.removed if row["pending"]]
    assert len(pending) == (step == "signed")
    for row in place.index.sessions():
        assert list(place.index.replay(row["session"]))
    place.recorder.command(b'{"t":"command","s":"live","n":1}')
    # the next one finishes, and what is left is what would have been left
    place.work()
    assert place.verify().unfinished == []
    done_record = place.runs()[0].done
    assert done_record is not None
    assert done_record["failed"] == []
    place.recorder.event("session.end", {"s": "live"})
    assert left_over(place)[2:4] == left_over(undisturbed)[2:4]
    assert not list(place.journal.glob("*.seg.gz.tmp"))
    assert listed(place.journal).keys() == listed(undisturbed.journal).keys()
    again = place.rebuilt()
    assert [row["session"] for row in again.sessions() if row["session"] != "live"] == [
        row["session"] for row in undisturbed.index.sessions()
    ]
