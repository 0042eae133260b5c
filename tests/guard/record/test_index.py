"""The index: answers that are never stale, exactly the records of the journal, questions an incident responder asks."""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.record import DamagedJournal, Recorder, RecordError, RecordSettings
from guard.record.compress import compress_finished
from guard.record.index import EvidenceIndex
from guard.record.indexer import command as indexer_command
from guard.record.queries import Search
from guard.record.reader import segments
from tests.support.examples import examples

type Make = Callable[..., Recorder]


def _helpers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command, response = _helpers().command, _helpers().response


@pytest.fixture
def story(tmp_path: Path, make: Make) -> Recorder:
    """Two people, two sessions: `ci` reads customers masked and is refused a drop, `ann` writes orders."""
    now = [1_700_000_000_000_000_000]

    def clock() -> int:
        now[0] += 1_000_000_000
        return now[0]

    recorder = make(tmp_path, clock=clock, segment_bytes=1500)
    who = {
        "issuer": "https://idp",
        "groups": ["ci"],
        "resource": "shop",
        "protocol": "postgres",
        "client": "10.0.0.7:1",
    }
    recorder.session_start("s-ci", {**who, "subject": "ci", "application": "psql", "token_id": "t1", "expires_at": 9.0})
    recorder.session_start("s-ann", {**who, "subject": "ann", "resource": "crm"})
    recorder.command(
        command("s-ci", 1, "SELECT email FROM customers WHERE id = 50", reads=["public.customers"], params=["50", None])
    )
    masked = [{"name": "email", "masked": "pii"}, {"name": "id", "masked": None}]
    recorder.buffer("response", response("s-ci", 1, rows=3, bytes=90, columns=masked, wire="RAAAAA=="))
    recorder.command(
        command("s-ann", 1, "UPDATE orders SET x = 1", effects=["data.update"], writes=["sales.orders"], rule="w")
    )
    recorder.buffer("response", response("s-ann", 1, status="error", rows=0, sqlstate="23505", tag="", columns=None))
    drop = {"effects": ["ddl.drop"], "reads": [], "writes": ["public.customers"], "decision": "deny", "rule": "no-ddl"}
    recorder.command(command("s-ci", 2, "DROP TABLE customers", kind="drop table", why="no", **drop))
    recorder.event("alert", {"s": "s-ci", "subject": "ci", "why": "ddl"})
    recorder.event("containment", {"act": "contain", "subject": "ci", "by": "ann"})
    recorder.session_end("s-ci", {"reason": "contained"})
    recorder.flush()
    return recorder


@pytest.fixture
def index(story: Recorder, tmp_path: Path) -> EvidenceIndex:
    return EvidenceIndex(tmp_path)


def texts(found: list[dict[str, object]]) -> list[object]:
    return [each["text"] for each in found]


def test_sessions_are_listed_with_what_happened_in_them(index: EvidenceIndex) -> None:
    ann, ci = index.sessions()
    assert (ci["session"], ci["subject"], ci["groups"], ci["live"], ci["end_reason"]) == (
        "s-ci",
        "ci",
        ["ci"],
        False,
        "contained",
    )
    assert (ci["commands"], ci["denied"], ci["rows"], ci["bytes"]) == (2, 1, 3, 90)
    assert (ann["session"], ann["live"], ann["ended_at"]) == ("s-ann", True, None)
    assert ci["started_at"] < ann["started_at"]
    assert [each["session"] for each in index.sessions(subject="ci")] == ["s-ci"]
    assert [each["session"] for each in index.sessions(resource="crm")] == ["s-ann"]
    assert [each["session"] for each in index.sessions(live=True)] == ["s-ann"]
    assert [each["session"] for each in index.sessions(since=ci["ended_at"] + 1)] == ["s-ann"]
    assert index.sessions(until=ci["started_at"] - 1) == []
    index.close()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Search(), ["DROP TABLE customers", "UPDATE orders SET x = 1", "SELECT email FROM customers WHERE id = 50"]),
        (Search(subject="ann"), ["UPDATE orders SET x = 1"]),
        (Search(resource="crm"), ["UPDATE orders SET x = 1"]),
        (Search(session="s-ann"), ["UPDATE orders SET x = 1"]),
        (Search(relation="public.customers"), ["DROP TABLE customers", "SELECT email FROM customers WHERE id = 50"]),
        (Search(relation="customers", access="read"), ["SELECT email FROM customers WHERE id = 50"]),
        (Search(relation="customers", access="write"), ["DROP TABLE customers"]),
        (Search(relation="sales.customers"), []),
        (Search(effect="ddl.*"), ["DROP TABLE customers"]),
        (Search(effect="ddl"), []),
        (Search(effect="data.update"), ["UPDATE orders SET x = 1"]),
        (Search(decision="deny"), ["DROP TABLE customers"]),
        (Search(rule="w"), ["UPDATE orders SET x = 1"]),
        (Search(text="drop table"), ["DROP TABLE customers"]),
        (Search(text="%"), []),
        (Search(text="_"), []),
        (Search(text="'"), []),
        (Search(limit=1), ["DROP TABLE customers"]),
        (Search(limit=0), []),
        (Search(since=4e9), []),
        (Search(until=4e9, subject="ci", effect="data.select"), ["SELECT email FROM customers WHERE id = 50"]),
    ],
)
def test_search_finds_exactly_what_matches_every_field(index: EvidenceIndex, wanted: Search, found: list[str]) -> None:
    with index:
        assert texts(index.search(wanted)) == found


def test_a_command_comes_with_its_outcome(index: EvidenceIndex) -> None:
    with index:
        (select,) = index.search(Search(subject="ci", decision="allow"))
        (update,) = index.search(Search(subject="ann"))
    assert select["params"] == ["50", None]
    assert select["reads"] == ["public.customers"]
    (answer,) = select["responses"]
    assert (answer["status"], answer["rows"], answer["masked"]) == ("ok", 3, ["email"])
    assert (update["responses"][0]["status"], update["responses"][0]["sqlstate"]) == ("error", "23505")


def test_pages_go_on_where_the_last_one_ended(index: EvidenceIndex) -> None:
    with index:
        first = index.search(Search(limit=2))
        rest = index.search(Search(before=first[-1]["seq"]))
    assert texts(first + rest) == [
        "DROP TABLE customers",
        "UPDATE orders SET x = 1",
        "SELECT email FROM customers WHERE id = 50",
    ]


def test_show_tells_a_session_from_start_to_end(index: EvidenceIndex) -> None:
    with index:
        shown = index.show("s-ci")
        assert shown is not None
        assert [each["n"] for each in shown["commands"]] == [1, 2]
        assert [each["kind"] for each in shown["events"]] == ["session.start", "alert", "session.end"]
        assert index.show("s-ci", after=shown["commands"][0]["seq"])["commands"] == shown["commands"][1:]  # type: ignore[index]
        assert index.show("nobody") is None


def test_events_are_found_by_kind_and_subject(index: EvidenceIndex) -> None:
    with index:
        assert [each["kind"] for each in index.events(subject="ci")] == [
            "session.end",
            "containment",
            "alert",
            "session.start",
        ]
        assert [each["facts"]["subject"] for each in index.events(kind="session.*", subject="ann")] == ["ann"]


def test_the_summary_answers_who_what_and_did_it_comply(index: EvidenceIndex) -> None:
    with index:
        summary = index.summary("ci")
    assert summary["commands"] == {"allow": 1, "deny": 1}
    assert {(r["relation"], r["access"]) for r in summary["relations"]} == {
        ("public.customers", "read"),
        ("public.customers", "write"),
    }
    assert (summary["rows"], summary["masked"], summary["sessions"]) == (3, ["email"], 1)
    assert {(r["rule"], r["decision"]) for r in summary["rules"]} == {("readers", "allow"), ("no-ddl", "deny")}


def test_a_held_command_touches_nothing_until_it_runs(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.session_start("s", {"subject": "ci", "resource": "shop"})
    recorder.session_start("later", {"subject": "ci", "resource": "shop"})
    drop = {"effects": ["ddl.drop"], "reads": [], "decision": "hold", "rule": "ddl"}

    def held(session: str, number: int, relation: str) -> None:
        recorder.command(command(session, number, f"DROP TABLE {relation}", writes=[relation], **drop))

    held("s", 2, "public.refused")
    recorder.event("approval.decided", {"s": "s", "approval": "a2", "status": "denied"})
    recorder.buffer("response", response("s", 2, status="error"))
    held("s", 3, "public.ran")
    recorder.event("approval.spent", {"s": "s", "approval": "a3", "used_by": "s"})
    recorder.buffer("response", response("s", 3))
    held("s", 4, "public.runs")  # the server has not answered yet
    recorder.event("approval.spent", {"s": "s", "approval": "a4", "used_by": ""})
    held("s", 5, "public.deferred")
    recorder.buffer("response", response("s", 5, status="error"))
    held("later", 1, "public.deferred")  # the same command again, after approval: in another session
    recorder.event("approval.spent", {"s": "s", "approval": "a5", "used_by": "later"})
    recorder.buffer("response", response("later", 1))
    held("s", 6, "public.waits")  # nobody has decided
    recorder.flush()
    with EvidenceIndex(tmp_path) as index:
        found = {row["relation"]: (row["commands"], row["held"]) for row in index.summary("ci")["relations"]}
    assert found == {
        "public.waits": (1, 1),
        "public.refused": (1, 1),
        "public.ran": (1, 0),
        "public.runs": (1, 0),
        "public.deferred": (2, 1),
    }


def test_replay_is_in_order_and_timed_and_survives_compression(index: EvidenceIndex, story: Recorder) -> None:
    with index:
        before = list(index.replay("s-ci"))
        assert [each.kind for each in before] == [
            "session.start",
            "command",
            "response",
            "command",
            "alert",
            "session.end",
        ]
        assert before[0].ms == 0.0
        assert all(later.ms >= earlier.ms for earlier, later in itertools.pairwise(before))
        assert before[2].wire == b"\x44\x00\x00\x00"
        assert "wire" not in before[2].facts
        assert compress_finished(story.folder, 99)
        assert list(index.replay("s-ci")) == before
        assert list(index.replay("nobody")) == []


def test_answers_are_never_stale(index: EvidenceIndex, story: Recorder) -> None:
    with index:
        for n in range(3, 30):
            story.command(command("s-ci", n, f"SELECT {n}"))
            assert texts(index.search(Search(limit=1))) == [f"SELECT {n}"]


def test_two_indexes_on_one_database_neither_lose_nor_double(story: Recorder, tmp_path: Path) -> None:
    with EvidenceIndex(tmp_path) as one, EvidenceIndex(tmp_path) as two:
        for n in range(3, 40):
            story.command(command("s-ci", n, f"SELECT {n}", reads=[f"public.t{n}"]))
            (one if n % 2 else two).catch_up()
        assert len(one.search(Search(subject="ci"))) == 39
        for n in range(3, 40):
            assert texts(two.search(Search(relation=f"t{n}"))) == [f"SELECT {n}"]


def _index_in_process(state: Path, stop: threading.Event) -> None:
    with EvidenceIndex(state) as index:
        while not stop.is_set():
            index.catch_up()
            compress_finished(index.folder, index.position().segment)


def test_writer_indexers_and_compression_at_the_same_time(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path, segment_bytes=20_000)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    other = context.Process(target=_index_in_process, args=(tmp_path, stop))
    other.start()
    try:
        with EvidenceIndex(tmp_path) as index:
            for n in range(1500):
                recorder.command(command("s", n, f"SELECT {n}"))
                if n % 100 == 99:
                    assert texts(index.search(Search(limit=1))) == [f"SELECT {n}"]
            assert index.sessions()[0]["commands"] == 1500
    finally:
        stop.set()
        other.join(30)
    assert other.exitcode == 0


def test_sessions_of_a_gateway_that_died_are_ended_when_it_comes_back(tmp_path: Path, make: Make) -> None:
    first = make(tmp_path)
    first.session_start("s1", {"subject": "ci"})
    first._abandon()
    with EvidenceIndex(tmp_path) as index:
        assert index.sessions()[0]["live"]
        second = make(tmp_path)
        second.session_start("s2", {"subject": "ci"})
        found = {each["session"]: each for each in index.sessions()}
    assert (found["s1"]["live"], found["s1"]["end_reason"]) == (False, "the gateway process ended")
    assert found["s2"]["live"]


def test_another_journal_in_the_same_place_starts_the_index_over(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.command(command("old", 1))
    recorder.close()
    with EvidenceIndex(tmp_path) as index:
        assert len(index.search(Search())) == 1
        shutil.move(tmp_path / "journal", tmp_path / "aside")
        assert texts(index.search(Search(session="old"))) == ["SELECT 1"]  # a journal that is not there changes nothing
        make(tmp_path).command(command("new", 1))
        assert [each["session"] for each in index.search(Search())] == ["new"]


def test_an_index_of_another_version_is_rebuilt(story: Recorder, tmp_path: Path) -> None:
    with EvidenceIndex(tmp_path) as index:
        assert len(index.search(Search())) == 3
        with index._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA user_version=99")
    with EvidenceIndex(tmp_path) as index:
        assert len(index.search(Search())) == 3


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RecordError, match="delete it"):
        EvidenceIndex(tmp_path)


def test_a_damaged_journal_is_not_answered_from_silently(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    for n in range(5):
        recorder.command(command("s", n, f"SELECT {n}"))
    path = recorder.folder / "00000001.seg"
    path.write_bytes(path.read_bytes().replace(b"SELECT 3", b"SELECT 9"))
    with EvidenceIndex(tmp_path) as index:
        with pytest.raises(DamagedJournal, match="payload was changed"):
            index.search(Search())
        assert texts(index.search(Search(), damaged_ok=True)) == ["SELECT 2", "SELECT 1", "SELECT 0"]
        assert index.damage is not None
    recorder._abandon()


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)
FIELDS = st.sampled_from(
    [
        "s",
        "n",
        "text",
        "effects",
        "reads",
        "writes",
        "columns",
        "decision",
        "rows",
        "bytes",
        "us",
        "tag",
        "params",
        "at",
    ]
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["command", "response", "alert", "session.end"]),
            st.dictionaries(FIELDS, JSONISH, max_size=6).map(lambda facts: json.dumps(facts).encode())
            | st.binary(max_size=20),
        ),
        max_size=12,
    )
)
def test_odd_records_are_indexed_too_and_break_nothing(
    tmp_path_factory: pytest.TempPathFactory, odd: list[tuple[str, bytes]]
) -> None:
    state = tmp_path_factory.mktemp("odd")
    recorder = Recorder(RecordSettings(), state)
    for kind, body in odd:
        recorder.buffer(kind, body)
    recorder.close()
    with EvidenceIndex(state) as index:
        assert len(index.search(Search())) == sum(1 for kind, _ in odd if kind == "command")
        for session in index.sessions():
            index.show(session["session"])
            list(index.replay(session["session"]))


# the process


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_the_indexer_process_indexes_compresses_and_ends_on_sigterm(story: Recorder, tmp_path: Path) -> None:
    process = subprocess.Popen([*indexer_command(tmp_path), "--interval", "0.02"])
    try:
        with EvidenceIndex(tmp_path) as index:
            wait_for(lambda: index.position().seq == story.position().seq)
            for n in range(3, 60):
                story.command(command("s-ci", n, f"SELECT {n}"))
            wait_for(lambda: index.position().seq == story.position().seq)
            newest = max(segments(story.folder))
            wait_for(lambda: all((path.suffix == ".gz") == (n < newest) for n, path in segments(story.folder).items()))
            assert len(index.search(Search(subject="ci"))) == 59
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_the_indexer_ends_when_its_parent_is_gone(story: Recorder, tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [*indexer_command(tmp_path), "--interval", "0.02"]
    process = subprocess.Popen([sys.executable, "-c", parent, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    with EvidenceIndex(tmp_path) as index:
        wait_for(lambda: index.position().seq == story.position().seq)
    process.kill()
    process.wait()
    process.stdout.close()

    def gone() -> bool:
        try:
            with Path(f"/proc/{child}/stat").open() as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone)


def test_the_indexer_says_what_is_damaged(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.command(command("s", 1, "SELECT 3"))
    path = recorder.folder / "00000001.seg"
    path.write_bytes(path.read_bytes().replace(b"SELECT 3", b"SELECT 9"))
    done = subprocess.run([*indexer_command(tmp_path), "--once"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "payload was changed" in done.stderr
    recorder._abandon()


def test_compression_that_cannot_finish_keeps_the_original(story: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in segments(story.folder).values()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        compress_finished(story.folder, 99)
    assert {path: path.read_bytes() for path in segments(story.folder).values()} == before
    assert not list(story.folder.glob("*.seg.gz.tmp"))
