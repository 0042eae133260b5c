"""What goes, what stays, and what answers say afterwards: the gateway's and the indexer's side, on real journals."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.record import Recorder, RecordError, RecordSettings
from guard.record.errors import DamagedJournal
from guard.record.index import EvidenceIndex
from guard.record.keys import load_public
from guard.record.queries import Search
from guard.record.reader import Cursor, follow, open_segment, segments
from guard.record.removals import removals
from guard.record.retention.plan import erasure, plans, usage
from guard.record.retention.rules import DAY, RetentionRules
from guard.record.retention.runs import Plan
from guard.record.tombstones import path_of
from guard.record.verify import Report, _Check

CONTENT = base64.b64encode(b"the-answer-")[:-2]  # as it stands in `wire`
YEAR = 365 * DAY


def texts(index: EvidenceIndex) -> list[str]:
    return [str(row["text"]) for row in index.search(Search(limit=1000))]


def answers(index: EvidenceIndex) -> Any:
    """Everything that people ask an index for, without what only the journal's tail changes."""
    sessions = index.sessions()
    shown = [index.show(row["session"]) for row in sessions]
    return sessions, shown, index.search(Search(limit=1000)), index.summary("ann"), index.summary("bob")


def kinds(place: Any) -> set[str]:
    return {record.kind for record in place.records() if record.payload}


def test_without_a_rule_nothing_ever_goes(place: Any) -> None:
    before = place.bytes()
    place.now += 50 * YEAR
    place.work(RetentionRules())
    assert place.runs() == []
    assert CONTENT in before
    assert place.verify().removed == []


def test_thinning_takes_content_and_leaves_the_story(place: Any) -> None:
    before = answers(place.index)
    assert CONTENT in place.bytes()
    place.now += 40 * DAY
    place.work()
    assert CONTENT not in place.bytes()
    assert answers(place.index) == before
    report = place.verify()
    assert (report.problem, report.unfinished) == (None, [])
    assert {(row["level"], row["rule"], row["records"]) for row in report.removed} == {("thin", "content_days: 30", 8)}
    assert answers(place.rebuilt()) == before


def test_a_replay_says_what_was_removed_when_and_under_which_rule(place: Any) -> None:
    place.now += 40 * DAY
    place.work()
    events = list(place.index.replay("ann-1"))
    answered = [event for event in events if event.kind == "response"]
    assert [event.kind for event in events][:3] == ["session.start", "command", "response"]
    assert {event.wire for event in answered} == {b""}
    assert {event.removed.rule for event in answered if event.removed} == {"content_days: 30"}
    assert all(event.removed is not None and event.removed.at <= place.now for event in answered)
    assert [event.removed for event in events if event.kind == "command"] == [None] * 4
    assert answered[0].facts["rows"] == 3


def test_stripping_takes_what_people_did_and_leaves_what_administrators_did(place: Any) -> None:
    place.now += 100 * DAY
    place.work()
    assert b"SELECT 'ann" not in place.bytes()
    assert b"10.0.0.1" not in place.bytes()
    assert (place.index.sessions(), texts(place.index)) == ([], [])
    assert place.index.summary("ann")["commands"] == {}
    assert len(place.index.events(kind="admin.read")) == 5
    assert not kinds(place) & {"command", "response", "session.start", "session.end"}
    rows = place.index.ask(removals)
    assert {row["level"] for row in rows} == {"strip"}
    assert sum(row["counts"]["command"] for row in rows) == 40
    assert place.verify().ok
    place.rebuilt()
    assert (place.index.sessions(), len(place.index.events(kind="admin.read"))) == ([], 5)
    assert sum(row["records"] for row in place.index.ask(removals)) == 100


def test_a_dropped_segment_leaves_a_tombstone_and_the_journal_goes_on(place: Any) -> None:
    place.now += 400 * DAY
    place.work()
    assert min(segments(place.journal)) == 6
    assert all(path_of(place.journal, number).stat().st_size < 2000 for number in range(1, 6))
    report = place.verify()
    assert (report.problem, sorted({row["segment"] for row in report.removed})) == (None, [1, 2, 3, 4, 5])
    assert {row["level"] for row in report.removed} == {"drop"}
    first = min(record.seq for record in place.records())
    assert first == max(row["last_seq"] for row in report.removed) + 1
    place.day("ann")
    place.recorder.close()
    again = Recorder(RecordSettings(), place.state, clock=lambda: place.now)
    again.command(b'{"n":1}')
    again.close()
    assert place.verify().ok
    place.rebuilt()
    assert len(place.index.sessions(subject="ann")) == 1


def test_an_index_that_lags_behind_steps_over_what_went(place: Any, tmp_path: Path) -> None:
    late = EvidenceIndex(place.state)  # another process, which has read everything
    late.catch_up()
    place.now += 400 * DAY
    place.work()
    place.day("ann")
    place.recorder.flush()
    assert [row["subject"] for row in late.sessions()] == ["ann"]
    late.close()


def test_ids_that_another_process_remembers_do_not_outlive_their_rows(place: Any) -> None:
    other = EvidenceIndex(place.state)
    other.catch_up()
    place.session("x", "eve")
    place.ask("x", 1, "SELECT 'ann 1.1'")  # a text that `other` knows from indexing it itself
    place.recorder.flush()
    other.catch_up()
    place.age(100)
    place.work()
    assert texts(place.index) == []
    place.session("y", "eve")
    place.ask("y", 1, "SELECT 'ann 1.1'")
    place.recorder.flush()
    other.catch_up()
    assert texts(other) == ["SELECT 'ann 1.1'"]
    other.close()


def test_nothing_is_done_twice_and_a_new_index_changes_nothing(place: Any) -> None:
    place.now += 40 * DAY
    place.work()
    done = len(place.runs())
    acts = sorted(path.read_bytes() for path in (place.journal / "removed").iterdir())
    place.work()
    assert len(place.runs()) == done
    place.rebuilt()
    place.work()
    assert sorted(path.read_bytes() for path in (place.journal / "removed").iterdir())[: len(acts)] == acts
    assert place.verify().ok


def test_each_level_follows_the_one_before_and_every_act_is_on_the_tombstone(place: Any) -> None:
    for days in (40, 60, 300):
        place.now += days * DAY
        place.work()
        assert place.verify().ok
    acts = [row["level"] for row in place.verify().removed if row["segment"] == 1]
    assert acts == ["thin", "strip", "drop"]
    rows = place.index.ask(removals)
    assert {row["rule"] for row in rows} == {"content_days: 30", "commands_days: 90", "segments_days: 365"}


# -- holds


def hold(place: Any, **whom: str) -> str:
    name = f"h{place.recorder.position().seq}"
    place.recorder.event("retention.hold", {"hold": name, "reason": "case 7", "by": "carol", **whom})
    return name


def release(place: Any, name: str) -> None:
    place.recorder.event("retention.release", {"hold": name, "by": "carol"})


@pytest.mark.parametrize("whom", [{"subject": "ann"}, {"session": "ann-2"}])
def test_what_is_held_stays_whatever_the_rules_say(place: Any, whom: dict[str, str]) -> None:
    name = hold(place, **whom)
    place.age(400)
    place.work()
    held = [whom["session"]] if "session" in whom else [f"ann-{n}" for n in (5, 4, 3, 2, 1)]
    assert [row["session"] for row in place.index.sessions()] == held
    assert len(texts(place.index)) == 4 * len(held)
    assert not any("bob" in text for text in texts(place.index))
    assert CONTENT in place.bytes()
    report = place.verify()
    assert report.ok
    assert any(row["kept"] for row in report.removed)
    before = len(place.runs())
    place.work()
    assert len(place.runs()) == before  # what is held is not looked at again and again
    release(place, name)
    place.work()
    assert texts(place.index) == []
    assert CONTENT not in place.bytes()
    assert place.verify().ok


def test_a_hold_that_comes_later_stops_what_is_left(place: Any) -> None:
    place.now += 40 * DAY
    place.work()
    hold(place, subject="ann")
    place.now += 60 * DAY
    place.work()
    assert [row["subject"] for row in place.index.sessions()] == ["ann"] * 5
    assert texts(place.index) == [f"SELECT 'ann {n}.{m}'" for n in (5, 4, 3, 2, 1) for m in (4, 3, 2, 1)]
    place.rebuilt()
    assert len(texts(place.index)) == 20


def test_a_hold_outlives_the_segment_that_it_was_set_in_and_a_new_index(place: Any) -> None:
    hold(place, subject="ann")
    place.day("bob")
    place.now += 400 * DAY
    place.work()
    place.rebuilt()
    place.now += 400 * DAY
    place.work()
    assert [row["subject"] for row in place.index.sessions()] == ["ann"] * 5
    assert [row["facts"]["subject"] for row in place.index.events(kind="retention.hold")] == ["ann"]


def test_whose_session_it_is_nobody_can_tell_is_held_with_everybody(place: Any) -> None:
    place.ask("orphan", 1, "SELECT 'of nobody'")
    hold(place, subject="ann")
    place.age(100)
    place.work()
    assert "SELECT 'of nobody'" in texts(place.index)


def test_a_hold_set_while_a_segment_is_rewritten_is_in_force(place: Any) -> None:
    place.now += 100 * DAY
    place.settle()
    desk = place.desk()

    def steps(name: str) -> None:
        if name == "written" and not held:
            held.append(hold(place, subject="ann"))

    held: list[str] = []
    worker = place.worker(steps)
    while worker.step():
        pass
    desk.poll()
    while worker.step():
        pass
    desk.poll()
    place.settle()
    done = place.runs()[0].done
    assert done is not None
    assert "holds in force changed" in done["failed"][0]["why"]
    assert "SELECT 'ann 1.1'" in texts(place.index)
    worker.close()
    place.work()
    assert [row["subject"] for row in place.index.sessions()] == ["ann"] * 5
    assert place.verify().ok


def test_a_session_that_goes_on_keeps_its_beginning_until_its_end_has_gone(open_place: Callable[..., Any]) -> None:
    place = open_place()
    place.session("long", "ann")
    place.day("bob")
    place.ask("long", 1, "SELECT 'the second day'")
    place.recorder.session_end("long", {"reason": "client left"})
    place.day("bob")
    place.now += 88 * DAY + DAY // 2
    place.work()
    assert [row["subject"] for row in place.index.sessions() if row["session"] == "long"] == ["ann"]
    assert "SELECT 'bob 1.1'" not in texts(place.index)
    place.now += 10 * DAY
    place.work()
    assert place.index.sessions() == []
    assert "session.start" not in kinds(place)


def test_a_session_that_lasts_keeps_its_beginning(open_place: Callable[..., Any]) -> None:
    """A pool's connection that has said nothing for months: who it is must be known when it does."""
    place = open_place()
    place.session("idle", "ann")
    place.day("bob")
    place.age(100)
    place.work()
    assert [row["session"] for row in place.index.sessions()] == ["idle"]
    place.ask("idle", 1, "SELECT 'at last'")
    place.recorder.flush()
    assert [row["subject"] for row in place.index.search(Search())] == ["ann"]
    place.recorder.session_end("idle", {"reason": "client left"})
    place.age(100)
    place.work()
    assert place.index.sessions() == []
    assert place.verify().ok


# -- one subject


def begin_erasure(place: Any, subject: str = "ann") -> tuple[Plan | None, int]:
    place.settle()
    found: tuple[Plan | None, int] = place.index.ask(
        lambda connection: erasure(place.journal, connection, place.rules, subject, place.now)
    )
    plan, _ = found
    if plan is not None:
        place.desk().begin(plan, by="dave", reason="request 4711")
    return found


def test_an_erasure_takes_one_subject_and_nobody_else(place: Any) -> None:
    place.recorder.event("alert", {"alert": "ddl", "subject": "ann", "s": "ann-5"})
    place.recorder.event("alert", {"alert": "ddl", "subject": "bob", "s": "bob-5"})
    place.recorder.event("containment", {"act": "contain", "subject": "ann", "by": "carol"})
    place.age(10)
    bobs = [record.payload for record in place.records() if b'"bob-' in record.payload]
    plan, left = begin_erasure(place)
    assert (plan is not None and plan.segments, left) == ((1, 2, 3, 4, 5, 6), 0)
    place.work(RetentionRules())
    assert b"SELECT 'ann" not in place.bytes()
    assert [row["subject"] for row in place.index.sessions()] == ["bob"] * 5
    assert [record.payload for record in place.records() if b'"bob-' in record.payload] == bobs
    assert [row["facts"]["subject"] for row in place.index.events(kind="alert")] == ["bob"]
    assert len(place.index.events(kind="containment")) == 1
    report = place.verify()
    assert report.ok
    assert {(row["rule"], row["reason"], row["by"]) for row in report.removed} == {("erasure", "request 4711", "dave")}


def test_an_erasure_leaves_what_is_young_and_says_so(place: Any) -> None:
    place.now += 3 * DAY
    plan, left = begin_erasure(place)
    assert plan is not None
    assert plan.segments == (1, 2)
    assert left == 3 * 10
    place.work(RetentionRules())
    assert [row["session"] for row in place.index.sessions(subject="ann")] == ["ann-5", "ann-4", "ann-3"]


def test_an_erasure_takes_nothing_that_is_held(place: Any) -> None:
    hold(place, subject="ann")
    place.age(10)
    begin_erasure(place)
    place.work(RetentionRules())
    done = place.runs()[0].done
    assert done is not None
    assert (done["records"], done["kept"]) == (0, 50)
    assert len(texts(place.index)) == 40


# -- size


def test_beyond_max_bytes_the_oldest_go_first_after_a_warning(place: Any) -> None:
    place.now += 10 * DAY
    place.settle()
    sizes = {number: path.stat().st_size for number, path in segments(place.journal).items()}
    rules = RetentionRules(max_bytes=usage(place.journal) - sizes[1] - 1)
    place.work(rules)
    gone = {row["segment"] for row in place.verify().removed}
    assert {1, 2} <= gone == set(range(1, max(gone) + 1))  # tombstones take their place, too
    assert max(gone) < 5
    assert (
        usage(place.journal)
        <= rules.max_bytes + 2 * segments(place.journal)[max(segments(place.journal))].stat().st_size
    )
    [(event, alert)] = place.told
    assert (event, alert["alert"]) == ("alert", "retention")
    kinds_in_order = [record.kind for record in place.records()]
    assert kinds_in_order.index("alert") < kinds_in_order.index("retention.intended")


def test_a_flood_does_not_push_out_what_is_young(place: Any) -> None:
    place.now += DAY
    place.work(RetentionRules(max_bytes=1))
    assert place.verify().removed == []
    assert len(texts(place.index)) == 40


def test_space_is_warned_of_once_until_there_is_space_again(place: Any) -> None:
    desk = place.desk(RetentionRules(max_bytes=usage(place.journal) + 1))
    space = desk.measure()
    assert space.journal == usage(place.journal)
    desk.judge(space)
    desk.judge(space)
    assert len(place.told) == 1
    assert "max_bytes" in str(desk.warning)
    full = type(space)(journal=1, free=1, total=1000)
    desk.judge(full)
    assert "nearly full" in str(desk.warning)
    desk.judge(type(space)(journal=1, free=900, total=1000))
    assert desk.warning is None
    desk.judge(full)
    assert len(place.told) == 2


def test_an_act_that_is_announced_while_verify_reads_is_no_finding(place: Any) -> None:
    place.now += 40 * DAY
    place.settle()
    acted = []

    def progress(*_: int) -> None:
        if not acted:
            acted.append(True)
            for _day in range(2):
                place.day("ann")  # the journal grows past what the reading began with
            place.work()

    report = Report()
    check = _Check(place.journal, load_public(place.state / "keys" / "journal.pub"), report, None)
    read = check._segment

    def slowly(number: int, *given: Any, **named: Any) -> Any:
        if number == 2:
            progress()
        return read(number, *given, **named)

    check._segment = slowly  # type: ignore[method-assign]
    check.run(None)
    assert acted
    assert {row["segment"] for row in report.removed} >= {2, 3}


# -- failing closed


def test_what_cannot_be_announced_does_not_happen(place: Any) -> None:
    place.now += 40 * DAY
    place.settle()
    desk, worker = place.desk(), place.worker()
    place.recorder._failed = "the disk is full"
    worker.step()
    desk.poll()
    assert (place.state / "retention" / "wanted.json").exists()
    assert not worker.step()
    assert CONTENT in place.bytes()
    place.recorder._failed = None
    worker.close()
    place.work()
    assert CONTENT not in place.bytes()


@pytest.mark.parametrize(
    "wish",
    [
        b"{",
        b"7",
        b'["x"]',
        json.dumps([{"level": "drop", "rule": "segments_days: 1", "segments": [1], "before": 1}]).encode(),
        json.dumps([{"level": "drop", "rule": "content_days: 30", "segments": [1], "before": 1}]).encode(),
        json.dumps([{"level": "thin", "rule": "content_days: 30", "segments": [1], "before": 2**63}]).encode(),
        json.dumps([{"level": "erase", "rule": "erasure", "segments": [1], "before": 1, "subject": "ann"}]).encode(),
        json.dumps([{"level": "thin", "rule": "content_days: 30", "segments": [-1], "before": 1}]).encode(),
    ],
)
def test_files_beside_the_journal_make_nothing_go_that_is_not_configured(place: Any, wish: bytes) -> None:
    (place.state / "retention").mkdir()
    (place.state / "retention" / "wanted.json").write_bytes(wish)
    place.desk().poll()
    place.settle()
    assert place.runs() == []
    assert not (place.state / "retention" / "wanted.json").exists()


def test_a_segment_that_does_not_verify_is_left_alone_and_reported(place: Any) -> None:
    with open_segment(place.journal, 2) as file:
        data = bytearray(file.read())
    place.now += 400 * DAY
    data[data.index(b"SELECT 'ann")] ^= 1
    path = segments(place.journal)[2]
    path.write_bytes(gzip.compress(bytes(data)))
    kept = path.read_bytes()
    place.work(rounds=2)
    assert path.read_bytes() == kept
    done = place.runs()[0].done
    assert done is not None
    assert [(row["segment"], "payload was changed" in row["why"]) for row in done["failed"]] == [(2, True)]
    report = place.verify()
    assert report.problem is not None
    assert (report.problem["segment"], report.problem["why"]) == (2, "the payload was changed")
    with pytest.raises(DamagedJournal):
        place.rebuilt()


def test_what_is_younger_than_the_announcement_says_is_left_alone(place: Any) -> None:
    place.desk().begin(Plan("drop", "segments_days: 365", (1, 2), place.now - YEAR), by="x", reason="y")
    place.work(RetentionRules())
    done = place.runs()[0].done
    assert done is not None
    assert "younger" in done["failed"][0]["why"]
    assert min(segments(place.journal)) == 1


def test_the_newest_segment_and_what_is_not_there_are_never_touched(place: Any) -> None:
    newest = max(segments(place.journal))
    place.desk().begin(Plan("drop", "segments_days: 365", (newest, newest + 7), place.now + YEAR), by="x", reason="y")
    place.work(RetentionRules())
    done = place.runs()[0].done
    assert done is not None
    assert len(done["failed"]) == 2
    assert newest in segments(place.journal)
    assert place.verify().ok


def test_two_workers_do_not_meet(place: Any) -> None:
    first, second = place.worker(), place.worker()
    place.now += 40 * DAY
    place.settle()
    first.step()
    place.desk().poll()
    assert not second.step()
    assert first.step()
    first.close()


def test_a_segment_that_is_there_in_both_forms_is_compressed_first(place: Any) -> None:
    packed = segments(place.journal)[1]
    plain = packed.with_suffix("")
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    place.index.ask(lambda connection: plans(place.journal, connection, place.rules, place.now))
    place.now += 40 * DAY
    place.work()
    assert not plain.exists()
    assert CONTENT not in place.bytes()
    assert place.verify().ok


def test_a_segment_ends_when_it_is_old_even_where_nothing_happens(tmp_path: Path) -> None:
    now = [10**18]
    recorder = Recorder(RecordSettings(segment_seconds=100), tmp_path, clock=lambda: now[0])
    recorder.command(b"{}")
    for _ in range(5):
        now[0] += 60 * 10**9
        recorder.tick()
    assert recorder.position().segment == 2  # the second has nothing in it, so it lasts
    recorder.command(b"{}")
    now[0] += 101 * 10**9
    recorder.command(b"{}")
    assert recorder.position().segment == 3
    recorder.close()
    assert len(list(follow(tmp_path / "journal", Cursor()))) > 3


def test_a_result_that_cannot_be_recorded_waits(place: Any) -> None:
    place.now += 40 * DAY
    place.settle()
    desk, worker = place.desk(), place.worker()
    worker.step()
    desk.poll()
    while worker.step():
        pass
    place.recorder._failed = "the disk is full"
    desk.poll()
    place.recorder._failed = None
    assert len(list((place.state / "retention").glob("done-*.json"))) == 1
    desk.poll()
    place.settle()
    assert place.runs()[0].done is not None
    worker.close()


def test_an_announcement_needs_the_journal(place: Any) -> None:
    place.recorder._failed = "the disk is full"
    with pytest.raises(RecordError):
        place.desk().begin(Plan("thin", "content_days: 30", (1,), 1), by="x", reason="y")
    place.recorder._failed = None
