"""A gateway with a year of history and rules for it: records go by themselves, on demand, and not where held."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from guard.record.journal import Recorder, RecordSettings
from scripts.support.lab import Lab

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DAY = 86_400 * 10**9
AGES = (400, 200, 100, 50, 20)  # days
CONTENT = base64.b64encode(b"what the client saw").decode()


def history(state: Path, **held: str) -> None:
    """What an earlier life of the gateway left: one segment for each of the ages, the same two people in each."""
    now = [time.time_ns() - 401 * DAY]
    recorder = Recorder(RecordSettings(segment_seconds=3600), state, clock=lambda: now[0])
    if held:
        recorder.event("retention.hold", {"hold": "h1", "reason": "case 7", "by": "carol", **held})
    for age in AGES:
        now[0] = time.time_ns() - age * DAY
        for who in ("ann", "bob"):
            session = f"{who}-{age}"
            facts = {"subject": who, "issuer": "https://idp", "groups": [], "resource": "shop", "protocol": "postgres"}
            recorder.session_start(session, facts | {"client": "10.0.0.1:1", "application": "psql"})
            command = {"t": "command", "s": session, "n": 1, "kind": "select", "text": f"SELECT '{session}'"}
            command |= {"decision": "allow", "rule": "r", "effects": ["data.select"], "reads": ["public.orders"]}
            recorder.command(json.dumps(command).encode())
            answer = {"t": "response", "s": session, "n": 1, "status": "ok", "rows": 3, "bytes": 9, "us": 5}
            recorder.buffer("response", json.dumps(answer | {"tag": "SELECT 3", "wire": CONTENT}).encode())
            recorder.session_end(session, {"commands": 1, "reason": "client left"})
        now[0] += DAY
        recorder.tick()
    recorder.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    started: list[Lab] = []

    def run(rules: dict[str, Any], **held: str) -> Lab:
        folder = tmp_path / "lab"
        (folder / "state").mkdir(parents=True, mode=0o700)
        history(folder / "state", **held)

        def adjust(document: dict[str, Any]) -> None:
            document["record"] = {"retention": rules}

        started.append(Lab(tls="off", folder=folder, adjust=adjust))
        return started[-1]

    yield run
    for lab in started:
        lab.stop()


def until(lab: Lab, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What `retention show` says as soon as it says that."""
    deadline = time.monotonic() + 40
    while True:
        shown: dict[str, Any] = lab.gateway.ask("retention", "show", token=lab.tokens["admin"])
        if done(shown):
            return shown
        assert time.monotonic() < deadline, (shown, lab.gateway.log.read_text())
        time.sleep(0.2)


def all_done(shown: dict[str, Any]) -> bool:
    rules = {run["rule"].partition(":")[0] for run in shown["runs"] if run["state"] == "done"}
    return rules >= {"content_days", "commands_days", "segments_days"}


def verified(lab: Lab) -> dict[str, Any]:
    done = lab.gateway.cli("verify", str(lab.gateway.state_dir), "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True), report
    return report


RULES = {"content_days": 30, "commands_days": 90, "segments_days": 365}


def test_records_go_by_themselves_and_every_answer_says_so(start: Callable[..., Lab]) -> None:
    lab = start(RULES)
    admin = lab.tokens["admin"]
    for moment in (0.3, 1.0):  # killed wherever it happens to be
        time.sleep(moment)
        lab.gateway.kill()
        lab.gateway.start()
    with psycopg.connect(lab.dsn("analyst"), autocommit=True) as analyst:
        until(lab, all_done)
        analyst.execute("SELECT id FROM orders ORDER BY id LIMIT 1")  # traffic goes on meanwhile
    report = verified(lab)
    assert {row["level"] for row in report["removed"]} == {"thin", "strip", "drop"}
    assert not report["unfinished"]
    found = {row["text"] for row in lab.gateway.ask("search", "--text", "-", token=admin)}
    assert {"SELECT 'ann-50'", "SELECT 'ann-20'"} <= found
    assert not {text for text in found if any(f"-{age}'" in text for age in (400, 200, 100))}
    said = lab.gateway.cli("search", "--subject", "ann", token=admin).stdout
    assert "removed by retention on" in said
    assert "commands_days: 90" in said
    assert "under segments_days: 365" in lab.gateway.cli("incident", "ann", token=admin).stdout
    replayed = lab.gateway.cli("replay", "ann-50", "--instant", token=admin).stdout
    assert "removed by retention on" in replayed
    assert "what the client saw" not in replayed
    gone = lab.gateway.cli("show", "ann-200", token=admin)
    assert gone.returncode == 1
    assert "may have been among them" in gone.stderr
    people = lab.gateway.cli("verify", str(lab.gateway.state_dir))
    assert "removed altogether by retention on" in people.stdout
    dumped = lab.gateway.cli("journal", "dump", str(lab.gateway.state_dir))
    assert dumped.returncode == 0
    assert "(removed by retention on" in dumped.stdout
    shown = lab.gateway.cli("retention", "show", token=admin).stdout
    assert "content_days" in shown
    lab.gateway.kill()
    lab.gateway.start()
    verified(lab)
    assert {row["text"] for row in lab.gateway.ask("search", "--text", "-", token=admin)} >= {"SELECT 'ann-50'"}


def test_a_hold_from_before_keeps_what_the_rules_would_take(start: Callable[..., Lab]) -> None:
    lab = start(RULES, subject="ann")
    admin = lab.tokens["admin"]
    shown = until(lab, all_done)
    assert [(hold["hold"], hold["subject"]) for hold in shown["holds"]] == [("h1", "ann")]
    texts = {row["text"] for row in lab.gateway.ask("search", "--subject", "ann", token=admin)}
    assert texts == {f"SELECT 'ann-{age}'" for age in AGES}
    assert {row["text"] for row in lab.gateway.ask("search", "--subject", "bob", token=admin)} == {
        "SELECT 'bob-50'",
        "SELECT 'bob-20'",
    }
    verified(lab)
    lab.gateway.ask("retention", "release", "h1", "--reason", "closed", token=admin)
    done = lab.gateway.cli("retention", "run", "--apply", "--wait", "--reason", "case closed", token=admin, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(lab.gateway.ask("search", "--subject", "ann", token=admin)) == 2
    verified(lab)


def who_may_do_what(lab: Lab) -> None:
    for words in (
        ["run", "--apply"],
        ["hold", "--subject", "x", "--reason", "y"],
        ["show"],
        ["release", "h", "--reason", "y"],
    ):
        refused = lab.gateway.cli("retention", *words, token=lab.tokens["analyst"])
        assert (refused.returncode, "takes the role" in refused.stderr) == (1, True), refused
    held = lab.gateway.ask("retention", "hold", "--session", "ann-50", "--reason", "y", token=lab.tokens["admin"])
    assert held["session"] == "ann-50"
    both = lab.gateway.cli("retention", "hold", "--reason", "y", token=lab.tokens["admin"])
    assert both.returncode == 2
    released = lab.gateway.ask("retention", "release", held["hold"], "--reason", "y", token=lab.tokens["admin"])
    assert released["released"]


def test_an_operator_erases_one_subject_after_looking(start: Callable[..., Lab]) -> None:
    lab = start({})
    admin = lab.tokens["admin"]
    who_may_do_what(lab)
    looked = lab.gateway.ask("retention", "erase", "ann", token=admin)
    assert [(plan["rule"], plan["segments"]) for plan in looked["plans"]] == [("erasure", len(AGES))]
    assert not looked["applied"]
    assert len(lab.gateway.ask("search", "--subject", "ann", token=admin)) == len(AGES)
    wrong = lab.gateway.cli("retention", "erase", "ann", "--apply", token=admin)
    assert wrong.returncode == 2
    lab.gateway.ask("contain", "ann", "--reason", "looked at", token=admin)
    kept = lab.gateway.cli("retention", "erase", "ann", "--apply", "--reason", "request 4711", token=admin)
    assert (kept.returncode, "is contained" in kept.stderr) == (1, True)
    lab.gateway.ask("release", "ann", token=admin)
    deadline = time.monotonic() + 10
    while "ann" in lab.gateway.ask("status", token=admin)["contained"]:
        assert time.monotonic() < deadline
    words = ("retention", "erase", "ann", "--apply", "--wait", "--reason", "request 4711", "--json")
    done = lab.gateway.cli(*words, token=admin, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["results"][0]["records"] == 4 * len(AGES)
    assert lab.gateway.ask("search", "--subject", "ann", token=admin) == []
    assert len(lab.gateway.ask("search", "--subject", "bob", token=admin)) == len(AGES)
    report = verified(lab)
    assert {(row["level"], row["reason"], row["by"]) for row in report["removed"]} == {
        ("erase", "request 4711", "admin")
    }
