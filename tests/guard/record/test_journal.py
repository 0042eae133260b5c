"""The recorder: what it returned for is in the file, in order, chained and signed."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.record import Recorder, RecordError, RecordSettings
from guard.record.checkpoints import parse
from guard.record.format import MAX_PAYLOAD
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow, segments
from guard.record.verify import verify
from tests.support.disk import file_size_limit
from tests.support.examples import examples

type Make = Callable[..., Recorder]

KINDS = st.sampled_from(["response", "alert", "session.start", "policy.loaded"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("command"), st.binary(max_size=300)),
        st.tuples(KINDS, st.binary(max_size=300)),
        st.sampled_from([("flush", b""), ("prepare", b""), ("prepare", b"")]),
    ),
    max_size=40,
)


def kinds_and_payloads(folder: Path) -> list[tuple[str, bytes]]:
    own = ("checkpoint", "journal.")
    return [(r.kind, r.payload) for r, _ in follow(folder, Cursor()) if not r.kind.startswith(own)]


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, segment_bytes=st.sampled_from([300, 2000, 10**6]), every=st.sampled_from([1, 3, 1000]))
def test_whatever_is_recorded_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes]], segment_bytes: int, every: int
) -> None:
    state = tmp_path_factory.mktemp("journal")
    recorder = Recorder(RecordSettings(segment_bytes=segment_bytes, checkpoint_every=every), state)
    for kind, body in steps:
        if kind == "command":
            assert recorder.command(body) == recorder.position().seq
        elif kind in ("flush", "prepare"):
            getattr(recorder, kind)()
        else:
            recorder.buffer(kind, body)
    recorder.close()
    assert kinds_and_payloads(state / "journal") == [step for step in steps if step[0] not in ("flush", "prepare")]
    report = verify(state / "journal", load_public(state / "keys" / "journal.pub"))
    assert report.ok, report
    assert report.unsigned == 0


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(STEPS, st.booleans()), max_size=6), every=st.sampled_from([1, 3, 1000]))
def test_what_was_prepared_does_not_outlive_a_write_that_failed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[tuple[str, bytes]], bool]], every: int
) -> None:
    """Responses that were buffered before the failure are written after it, commands are not."""
    state = tmp_path_factory.mktemp("journal")
    recorder = Recorder(RecordSettings(checkpoint_every=every), state)
    expected: list[tuple[str, bytes]] = []
    for batch, fails in steps:
        buffered = [(kind, body) for kind, body in batch if kind not in ("flush", "prepare")]
        for kind, body in batch:
            if kind == "prepare":
                recorder.prepare()
            elif kind != "flush":
                recorder.buffer(kind, body)
        recorder.prepare()
        if fails and buffered:
            with file_size_limit(recorder.position().offset + 10), pytest.raises(RecordError):
                recorder.flush()
            recorder.prepare()  # says nothing: the next flush does
            assert recorder.recover()
            buffered = [step for step in buffered if step[0] != "command"]
        recorder.flush()
        expected += buffered
    recorder.close()
    assert kinds_and_payloads(state / "journal") == expected
    assert verify(state / "journal", load_public(state / "keys" / "journal.pub")).ok


def test_preparing_moves_nothing(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    before = recorder.position()
    recorder.buffer("response", b'{"n":1}')
    recorder.prepare()
    assert recorder.position() == before
    assert kinds_and_payloads(recorder.folder) == []
    assert verify(recorder.folder, load_public(tmp_path / "keys" / "journal.pub")).ok


def test_command_writes_itself_and_everything_buffered_at_once(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path)
    writes: list[int] = []
    real = os.write
    recorder.buffer("response", b'{"n":1}')
    recorder.buffer("response", b'{"n":2}')
    assert kinds_and_payloads(recorder.folder) == []
    monkeypatch.setattr(os, "write", lambda file, data: writes.append(file) or real(file, data))
    recorder.command(b'{"n":3}')
    assert len(writes) == 1
    assert [payload for _, payload in kinds_and_payloads(recorder.folder)] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']


def test_a_batch_of_commands_is_on_file_when_flush_returns(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    for n in range(3):
        recorder.buffer("command", b'{"n":%d}' % n)
    last = recorder.flush()
    assert [r.seq for r, _ in follow(recorder.folder, Cursor()) if r.kind == "command"] == [last - 2, last - 1, last]


def test_short_writes_are_completed(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))
    recorder.command(b'{"n":1}')
    monkeypatch.undo()
    recorder.close()
    assert kinds_and_payloads(recorder.folder) == [("command", b'{"n":1}')]


def test_what_is_buffered_is_bounded(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    for _ in range(9):
        recorder.buffer("response", b"x" * 1024 * 1024)
    assert recorder._pending_bytes <= 8 * 1024 * 1024
    assert len(kinds_and_payloads(recorder.folder)) == 9


def test_events_carry_kind_time_and_session(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path, clock=lambda: 1_700_000_000_000_000_123)
    recorder.session_start("s1", {"subject": "ci", "groups": frozenset({"b", "a"})})
    recorder.event("containment", {"subject": "ci"})
    recorder.session_end("s1", {"reason": "contained"})
    found = [json.loads(payload) for _, payload in kinds_and_payloads(recorder.folder)]
    at = 1_700_000_000_000_000_123
    assert found == [
        {"t": "session.start", "at": at, "s": "s1", "subject": "ci", "groups": ["a", "b"]},
        {"t": "containment", "at": at, "subject": "ci"},
        {"t": "session.end", "at": at, "s": "s1", "reason": "contained"},
    ]


@pytest.mark.parametrize("kind", ["checkpoint", "journal.recovered", "journal.", "", "ünknown", "a\nb", "x" * 65])
def test_kinds_of_the_journal_itself_and_garbled_ones_are_refused(tmp_path: Path, make: Make, kind: str) -> None:
    recorder = make(tmp_path)
    with pytest.raises(RecordError):
        recorder.event(kind, {})
    with pytest.raises(RecordError):
        recorder.buffer(kind, b"{}")


def test_what_is_no_json_is_refused_and_leaves_the_recorder_working(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    with pytest.raises(RecordError, match="cannot be written as json"):
        recorder.event("alert", {"what": object()})
    recorder.command(b"{}")


def test_a_record_above_the_cap_is_refused(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    with pytest.raises(RecordError, match="larger than the journal takes"):
        recorder.command(bytes(MAX_PAYLOAD + 1))
    recorder.command(b"{}")


def test_checkpoints_come_by_count_and_by_time(tmp_path: Path, make: Make) -> None:
    now = [10**18]
    recorder = make(tmp_path, clock=lambda: now[0], checkpoint_every=10, checkpoint_seconds=5)

    def signed() -> list[int]:
        found = [r for r, _ in follow(recorder.folder, Cursor()) if r.kind == "checkpoint"]
        return [parse(r.payload).checkpoint.seq for r in found]

    assert len(signed()) == 1  # of the opening
    for n in range(25):
        recorder.command(b'{"n":%d}' % n)
    assert len(signed()) == 3
    recorder.tick()
    assert len(signed()) == 3
    now[0] += 6 * 10**9
    recorder.tick()
    assert len(signed()) == 4
    now[0] += 6 * 10**9
    recorder.tick()  # nothing new to sign
    assert signed()[-1] == recorder.position().seq - 1
    assert len(signed()) == 4


def test_segments_roll_and_one_chain_runs_through_them(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path, segment_bytes=1000)
    for n in range(50):
        recorder.command(b'{"n":%d}' % n)
    recorder.close()
    assert len(segments(recorder.folder)) > 5
    assert [json.loads(p)["n"] for _, p in kinds_and_payloads(recorder.folder)] == list(range(50))


def test_restarting_continues_the_journal_in_a_new_segment(tmp_path: Path, make: Make) -> None:
    for life in range(3):
        recorder = make(tmp_path)
        recorder.command(b'{"life":%d}' % life)
        recorder.close()
    assert list(segments(tmp_path / "journal")) == [1, 2, 3]
    assert [json.loads(p)["life"] for _, p in kinds_and_payloads(tmp_path / "journal")] == [0, 1, 2]
    assert not any(r.kind == "journal.recovered" for r, _ in follow(tmp_path / "journal", Cursor()))


def test_only_one_process_may_write(tmp_path: Path, make: Make) -> None:
    make(tmp_path)
    with pytest.raises(RecordError, match="another gateway process"):
        make(tmp_path)


def test_files_are_private(tmp_path: Path, make: Make) -> None:
    make(tmp_path)
    for path in [*(tmp_path / "journal").glob("*.seg"), tmp_path / "keys" / "journal.key"]:
        assert path.stat().st_mode & 0o077 == 0
    for folder in ("journal", "keys"):
        assert (tmp_path / folder).stat().st_mode & 0o077 == 0


def test_a_signing_key_that_others_can_read_is_refused(tmp_path: Path, make: Make) -> None:
    make(tmp_path).close()
    (tmp_path / "keys" / "journal.key").chmod(0o640)
    with pytest.raises(RecordError, match="chmod it to 600"):
        make(tmp_path)


def test_after_close_everything_raises(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.close()
    recorder.close()
    calls: list[Callable[[], Any]] = [
        lambda: recorder.command(b"{}"),
        lambda: recorder.buffer("response", b"{}"),
        recorder.flush,
        recorder.tick,
        lambda: recorder.event("alert", {}),
    ]
    for call in calls:
        with pytest.raises(RecordError, match="closed"):
            call()
    assert not recorder.recover()


# durability: strict


def test_the_barrier_shares_one_fsync(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path, durability="strict")
    calls: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: calls.append(file) or real(file))

    async def go() -> None:
        async def one(n: int) -> None:
            recorder.command(b'{"n":%d}' % n)
            await recorder.sync_barrier()

        await asyncio.gather(*(one(n) for n in range(50)))

    asyncio.run(go())
    assert 1 <= len(calls) <= 3
    assert recorder._synced == recorder._writer.appended


def test_the_barrier_does_not_wait_for_other_work_in_threads(tmp_path: Path, make: Make) -> None:
    """Slow work of one identity (large bodies, look-ups) would otherwise end the sessions of all others."""
    recorder = make(tmp_path, durability="strict")
    done = threading.Event()

    async def run() -> None:
        slow = [asyncio.ensure_future(asyncio.to_thread(done.wait)) for _ in range(64)]
        await asyncio.sleep(0)
        try:
            recorder.command(b'{"t":"command"}')
            await recorder.sync_barrier(within=30)
            assert not any(task.done() for task in slow)
        finally:
            done.set()
            await asyncio.gather(*slow)

    asyncio.run(run())


def test_the_barrier_is_a_no_op_unless_strict(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path)
    monkeypatch.setattr(os, "fdatasync", lambda file: pytest.fail("synced"))
    recorder.command(b"{}")
    asyncio.run(recorder.sync_barrier())


def test_a_disk_that_fails_to_sync_denies_everybody_who_waits(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path, durability="strict")

    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)

    async def go() -> None:
        recorder.command(b"{}")
        answers = await asyncio.gather(*(recorder.sync_barrier() for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [RecordError] * 3

    asyncio.run(go())
    with pytest.raises(RecordError, match="Input/output error"):
        recorder.command(b"{}")
    monkeypatch.undo()
    assert recorder.recover()
    recorder.command(b"{}")


def test_a_disk_that_hangs_denies(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make(tmp_path, durability="strict")
    free = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda file: free.wait(30))

    async def go() -> None:
        recorder.command(b"{}")
        try:
            with pytest.raises(RecordError, match="did not answer"):
                await recorder.sync_barrier(within=0.05)
        finally:
            free.set()

    asyncio.run(go())


def test_a_failing_background_sync_is_noticed(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**18]
    recorder = make(tmp_path, clock=lambda: now[0], checkpoint_every=1)

    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    now[0] += 2 * 10**9
    recorder.command(b"{}")
    recorder._syncer.close()  # type: ignore[union-attr]  # it has failed by the time it ends
    assert "Input/output error" in str(recorder.failed)
    with pytest.raises(RecordError, match="Input/output error"):
        recorder.command(b"{}")
    assert not recorder.recover()
    monkeypatch.undo()
    assert recorder.recover()
    recorder.command(b"{}")
