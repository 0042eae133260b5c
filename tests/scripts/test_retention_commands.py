"""What people read of retention: in `verify`, in `journal dump`, below answers, and on the command's own screens."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytest

from guard.control.wire import ControlError
from guard.record.compress import compress_finished
from guard.record.index import EvidenceIndex
from guard.record.journal import Recorder, RecordSettings
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.rules import DAY, RetentionRules
from guard.record.retention.worker import Worker
from guard.record.tombstones import listed
from scripts import removed, retention_commands
from scripts.cli import main
from scripts.player import Player

RULES = RetentionRules(content_days=30, commands_days=90, segments_days=365)
EVIL = "case \x1b]0;owned\x07 [red]"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three segments of one session each: the first has gone, the second is stripped, the third thinned."""
    now = [time.time_ns() - 400 * DAY]
    recorder = Recorder(RecordSettings(segment_seconds=3600), tmp_path, clock=lambda: now[0])
    for number, age in enumerate((400, 200, 50)):
        now[0] = max(now[0], time.time_ns() - age * DAY)
        recorder.session_start(f"s{number}", {"subject": "ann"})
        facts = {
            "t": "command",
            "s": f"s{number}",
            "n": 1,
            "text": f"SELECT {number}",
            "decision": "allow",
            "rule": "r",
        }
        recorder.command(json.dumps(facts).encode())
        answer = {"t": "response", "s": f"s{number}", "n": 1, "status": "ok", "rows": 7, "us": 1, "wire": "c2VlbiE="}
        recorder.buffer("response", json.dumps(answer).encode())
        recorder.flush()
        now[0] += DAY
        for _ in range(3):
            recorder.tick()
    now[0] = time.time_ns()
    recorder.event("alert", {"why": "x"})
    with EvidenceIndex(tmp_path) as index:
        index.catch_up()
        compress_finished(index.folder, index.read_below())
        worker = Worker(tmp_path, index, RULES, clock=lambda: now[0])
        desk = RetentionDesk(RULES, tmp_path, recorder.event, clock=lambda: now[0])
        worker.step()
        desk.poll()
        while worker.step():
            desk.poll()
        desk.poll()
        worker.close()
    recorder.close()
    return tmp_path


def test_verify_lists_what_retention_removed(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(state)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "verified:",
        "removed altogether by retention on",
        "content removed by retention on",
        "under segments_days: 365; by sluicegate: record.retention of the configuration",
        "that a payload was there is proven",
    ):
        assert words in shown
    assert main(["verify", str(state), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sorted((row["segment"], row["level"]) for row in answer["removed"]) == [
        (1, "drop"),
        (2, "strip"),
        (3, "thin"),
    ]


def test_verify_does_not_take_a_deleted_tombstone(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(state / "journal")[1].unlink()
    assert main(["verify", str(state)]) == 1
    assert "the segment is missing" in capsys.readouterr().out


def test_dump_begins_after_what_has_gone_and_says_what_is_reduced(
    state: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "dump", str(state)]) == 0
    shown = capsys.readouterr()
    assert "(removed by retention on" in shown.out
    assert "under commands_days: 90)" in shown.out
    assert "SELECT 2" in shown.out
    assert "SELECT 1" not in shown.out
    assert shown.err == ""
    assert main(["journal", "dump", str(state), "--json", "--kind", "response"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"].get("rows") for line in lines] == [None, 7]
    assert [line["removed"]["rule"] for line in lines] == ["commands_days: 90", "content_days: 30"]
    copy = tmp_path_factory.mktemp("copy") / "evidence"
    (state / "journal").rename(copy)
    assert main(["journal", "dump", str(copy)]) == 0
    assert "its tombstones are not checked" in capsys.readouterr().err


RUN: dict[str, Any] = {
    "run": "0011",
    "at": 1_800_000_000.0,
    "from_at": 1_700_000_000.0,
    "to_at": 1_710_000_000.0,
    "level": "thin",
    "rule": "content_days: 30",
    "reason": EVIL,
    "by": "dave",
    "records": 1200,
    "counts": {"response": 1200},
}


def test_an_answer_says_what_is_missing_and_lets_nobody_write_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    removed.tell([RUN] * 12)
    shown = capsys.readouterr().out
    assert "the content of 1200 records of 2023-11-1" in shown
    assert "and 2 runs more" in shown
    assert "\x1b" not in shown
    assert "[red]" in shown
    removed.tell([])
    assert capsys.readouterr().out == ""


def test_a_replay_says_it_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    player = Player(speed=1.0, max_pause=0.0, json=False)
    gone = {"at": 1_800_000_000.0, "rule": "content_days: 30", "reason": "x", "by": "y"}
    answer = {
        "kind": "response",
        "at_ms": 1.0,
        "status": "ok",
        "rows": 7,
        "lines": [],
        "truncated": True,
        "removed": gone,
    }
    player.play({"events": [answer, {"kind": "cast", "at_ms": 2.0, "cast": "", "removed": gone}]})
    shown = capsys.readouterr().out
    assert shown.count("removed by retention on 2027-01-15 under content_days: 30") == 2
    assert "keeps no more" not in shown
    assert "7 rows" in shown


def test_the_overview_has_rules_space_holds_runs_and_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [{"segment": 3, "why": f"damaged {EVIL}"}]
    run = {**RUN, "state": "done", "subject": None, "segments": 4, "bytes": 9, "kept": 0, "failed": failed}
    hold = {"hold": "ab12", "subject": None, "session": "s1", "at": 1_800_000_000.0, "by": "carol", "reason": EVIL}
    found = {
        "rules": {"content_days": 30, "commands_days": None},
        "journal_bytes": 1_234_567,
        "disk_free": 5e11,
        "disk_total": 2e12,
        "warning": "nearly full",
        "holds": [hold],
        "runs": [run],
        "removed": [RUN],
    }
    retention_commands._overview(found)
    shown = capsys.readouterr().out
    for words in (
        "content_days",
        "1.2 MB",
        "500.0 GB of 2.0 TB",
        "nearly full",
        "ab12",
        "session s1",
        "1 failed",
        "segment 3",
    ):
        assert words in shown
    assert "commands_days" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_says_that_nothing_was_removed(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"level": "erase", "rule": "erasure", "subject": "ann", "segments": 2, "records": 10, "bytes": 2000}
    plan |= {"from_at": 1.0, "to_at": 2.0}
    found = {"plans": [plan], "too_young": 3, "holds": 1, "would_start": 1}
    assert retention_commands._planned(argparse.Namespace(json=as_json), found) == 0
    shown = capsys.readouterr().out
    if as_json:
        assert json.loads(shown)["applied"] is False
    else:
        for words in ("one subject's records go", "1 hold in force", "3 records are younger", "nothing was removed"):
            assert words in shown


def test_sizes() -> None:
    sizes = [retention_commands._size(size) for size in (999, 1000, 2.5e6, 1e9, 3e13)]
    assert sizes == ["999 B", "1.0 kB", "2.5 MB", "1.0 GB", "30.0 TB"]


class Client:
    """A control client that knows one identity."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def call(self, method: str, **params: Any) -> Any:
        if method == "retention.hold":
            return {"hold": "ab12", "subject": params["subject"], "reason": params["reason"]}
        if self.broken:
            raise ControlError("unavailable", "the index does not answer")
        assert method == "sessions.list"
        return [{"session": "s1"}] if params["subject"] == "ann" else []


@pytest.mark.parametrize(("subject", "broken", "told"), [("ann", False, 0), ("anne", False, 1), ("anne", True, 0)])
def test_a_hold_on_somebody_who_was_never_here_says_so(
    capsys: pytest.CaptureFixture[str], subject: str, broken: bool, told: int
) -> None:
    args = argparse.Namespace(subject=subject, session=None, reason="case 7", json=True)
    client: Any = Client(broken)
    assert retention_commands._hold(args, client) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["hold"] == "ab12"
    assert err.count("keeps nothing yet") == told


@pytest.mark.parametrize("whose", [[], ["--subject", "ann", "--session", "s1"]])
def test_a_hold_is_of_one_identity_or_of_one_session(capsys: pytest.CaptureFixture[str], whose: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["retention", "hold", *whose, "--reason", "case 7"])
    assert left.value.code == 2
    assert "--subject" in capsys.readouterr().err
