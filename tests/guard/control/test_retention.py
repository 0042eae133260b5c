"""Retention through the control socket, over the real recorder, journal and index."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from guard.control.evidence import Evidence
from guard.control.params import Params
from guard.control.retention import RetentionHandlers
from guard.control.roles import METHODS
from guard.control.wire import ControlError
from guard.record.journal import Recorder, RecordSettings
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.rules import DAY, RetentionRules
from guard.record.retention.worker import Worker
from protocols.contract import Principal

START = 1_800_000_000 * 10**9
DAVE = Principal("dave", "https://idp", frozenset({"platform"}), expires_at=2e9)
CAROL = Principal("carol", "https://idp", frozenset({"security"}), expires_at=2e9)


class Gateway:
    """The parts of a gateway that retention needs, and the indexer's hands."""

    def __init__(self, folder: Path, rules: RetentionRules) -> None:
        self.now = START
        self.contained = {"eve"}
        self.recorder = Recorder(RecordSettings(segment_seconds=3600), folder, clock=lambda: self.now)
        self.evidence = Evidence(folder, lambda protocol, wire: [wire.decode()], self.recorder.flush)
        self.desk = RetentionDesk(rules, folder, self.recorder.event, clock=lambda: self.now)
        self.handlers = RetentionHandlers(self.evidence, self.desk, self.contained.__contains__, lambda: self.now / 1e9)
        self.folder, self.rules = folder, rules
        for who in ("ann", "bob"):
            self.recorder.session_start(f"s-{who}", {"subject": who, "protocol": "postgres"})
            facts = {"t": "command", "s": f"s-{who}", "n": 1, "text": f"SELECT '{who}'", "decision": "allow"}
            self.recorder.command(json.dumps(facts).encode())
            answer = {"t": "response", "s": f"s-{who}", "n": 1, "rows": 1, "wire": "c2VlbiBieSBjbGllbnQ="}
            self.recorder.buffer("response", json.dumps(answer).encode())
            self.recorder.session_end(f"s-{who}", {"reason": "left"})
        self.age(1)

    def age(self, days: int) -> None:
        self.now += days * DAY
        for _ in range(3):
            self.recorder.tick()

    def call(self, method: str, who: Principal = DAVE, **params: Any) -> Any:
        return asyncio.run(self.handlers.table()[f"retention.{method}"](who, params))

    def work(self) -> None:
        def run(index: Any) -> None:
            worker = Worker(self.folder, index, RetentionRules(), clock=lambda: self.now)
            while worker.step():
                pass
            worker.close()

        asyncio.run(self.evidence.ask(run))
        self.desk.poll()

    def kinds(self) -> list[str]:
        return [row["kind"] for row in asyncio.run(self.evidence.ask(lambda index: index.events(kind="retention.*")))]


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path, RetentionRules(content_days=30, commands_days=90))
    yield made
    made.evidence.close()
    made.recorder.close()


def refused(gateway, code, match, method, who=DAVE, **params):
    with pytest.raises(ControlError, match=match) as caught:
        gateway.call(method, who, **params)
    assert caught.value.code == code


def test_every_method_is_here(gateway):
    assert set(gateway.handlers.table()) == {name for name in METHODS if name.startswith("retention.")}


def test_a_plan_changes_nothing_and_a_run_does_what_it_said(gateway):
    assert gateway.call("plan")["plans"] == []
    gateway.age(40)
    planned = gateway.call("plan")
    [plan] = planned["plans"]
    assert (plan["level"], plan["rule"], plan["segments"]) == ("thin", "content_days: 30", 1)
    assert plan["from_at"] == START / 1e9
    assert gateway.kinds() == []
    started = gateway.call("run", reason="spring cleaning")
    assert started["plans"] == planned["plans"]
    [run] = gateway.call("show")["runs"]
    assert (run["run"], run["state"], run["by"], run["reason"]) == (
        started["runs"][0],
        "under way",
        "dave",
        "spring cleaning",
    )
    gateway.work()
    [run] = gateway.call("show")["runs"]
    assert (run["state"], run["records"], run["failed"]) == ("done", 2, [])
    [row] = gateway.call("removed")
    assert (row["rule"], row["records"], row["counts"]) == ("content_days: 30", 2, {"response": 2})
    assert gateway.call("removed", until=1.0) == []
    assert gateway.kinds() == ["retention.done", "retention.intended"]


def test_what_is_under_way_is_not_begun_again(gateway):
    gateway.age(40)
    gateway.call("run")
    refused(gateway, "conflict", "under way", "run")
    gateway.call("erase", subject="ann", reason="x")
    refused(gateway, "conflict", "under way", "erase", subject="ann", reason="x")
    gateway.work()
    gateway.work()
    assert gateway.call("run")["runs"] == []
    assert [run["state"] for run in gateway.call("show")["runs"]] == ["done", "done"]


def test_show_says_what_is_in_force(gateway):
    shown = gateway.call("show")
    assert shown["rules"]["content_days"] == 30
    assert 0 < shown["journal_bytes"] < shown["disk_total"]
    assert (shown["holds"], shown["runs"], shown["warning"]) == ([], [], None)


def test_a_hold_is_set_seen_and_lifted(gateway):
    held = gateway.call("hold", CAROL, subject="ann", reason="case 7")
    [shown] = gateway.call("show")["holds"]
    assert (shown["hold"], shown["subject"], shown["by"], shown["reason"]) == (held["hold"], "ann", "carol", "case 7")
    assert shown["at"] == gateway.now / 1e9
    gateway.age(100)
    gateway.call("run")
    gateway.work()
    texts = [row["text"] for row in asyncio.run(gateway.evidence.ask(lambda index: index.show("s-ann")))["commands"]]
    assert texts == ["SELECT 'ann'"]
    assert asyncio.run(gateway.evidence.ask(lambda index: index.show("s-bob"))) is None
    gateway.call("release", CAROL, hold=held["hold"], reason="closed")
    assert gateway.call("show")["holds"] == []
    refused(gateway, "not_found", "no hold", "release", CAROL, hold=held["hold"], reason="again")


def test_holds_that_make_no_sense_are_refused(gateway):
    refused(gateway, "bad_request", "one of them", "hold", CAROL, reason="x")
    refused(gateway, "bad_request", "one of them", "hold", CAROL, subject="a", session="b", reason="x")
    refused(gateway, "bad_request", "`reason` is required", "hold", CAROL, subject="a")
    refused(gateway, "bad_request", "unknown parameter", "hold", CAROL, subject="a", reason="x", days=3)
    held = gateway.call("hold", CAROL, subject="carol", reason="about a responder")
    refused(gateway, "forbidden", "on themselves", "release", CAROL, hold=held["hold"], reason="x")


def test_an_erasure_is_planned_announced_and_done(gateway):
    gateway.age(10)
    assert gateway.call("plan", subject="ann")["plans"][0]["rule"] == "erasure"
    gateway.call("erase", subject="ann", reason="request 4711")
    gateway.work()
    [run] = gateway.call("show")["runs"]
    assert (run["subject"], run["records"], run["reason"]) == ("ann", 4, "request 4711")
    sessions = asyncio.run(gateway.evidence.ask(lambda index: index.sessions()))
    assert [row["subject"] for row in sessions] == ["bob"]


def test_what_is_young_is_not_erased(gateway):
    planned = gateway.call("plan", subject="ann")
    assert (planned["plans"], planned["too_young"]) == ([], 4)
    assert gateway.call("erase", subject="ann", reason="x")["runs"] == []


def test_nobody_erases_themselves_or_who_is_contained(gateway):
    refused(gateway, "forbidden", "their own", "erase", subject="dave", reason="x")
    refused(gateway, "conflict", "contained", "erase", subject="eve", reason="x")
    refused(gateway, "bad_request", "`reason` is required", "erase", subject="ann")


def test_what_cannot_be_recorded_is_not_done(gateway):
    gateway.age(40)
    gateway.call("plan")
    gateway.recorder._failed = "the disk is full"
    refused(gateway, "unavailable", "cannot be recorded", "run")
    refused(gateway, "unavailable", "not as you asked", "hold", CAROL, subject="a", reason="x")
    gateway.recorder._failed = None
    assert gateway.kinds() == []


def test_a_process_without_retention_says_so(gateway):
    without = RetentionHandlers(gateway.evidence, None, lambda _: False)
    for method in ("show", "plan", "run"):
        with pytest.raises(ControlError, match="has no retention"):
            asyncio.run(without.table()[f"retention.{method}"](DAVE, {}))


def test_evidence_says_what_is_missing(gateway):
    def ask(method, *extra, **params):
        return asyncio.run(getattr(gateway.evidence, method)(Params(params), *extra))

    gateway.age(40)
    gateway.call("run")
    gateway.work()
    [removed] = ask("incident", [], subject="ann")["removed"]
    assert removed["rule"] == "content_days: 30"
    assert ask("show", [], session="s-ann")["removed"] == [removed]
    [answer] = [event for event in ask("replay", session="s-ann")["events"] if event["kind"] == "response"]
    assert (answer["lines"], answer["removed"]["rule"], answer["rows"]) == ([], "content_days: 30", 1)
    gateway.age(60)
    gateway.call("run")
    gateway.work()
    for method, extra in (("show", [[]]), ("replay", [])):
        with pytest.raises(ControlError, match="may have been among them"):
            ask(method, *extra, session="s-ann")
