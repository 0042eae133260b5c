"""Opening a journal after a crash: nothing that was acknowledged is lost, a torn tail is cut, anything else refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guard.record import Recorder, RecordError, RecordSettings
from guard.record.checkpoints import parse
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow
from guard.record.verify import verify

type Make = Callable[..., Recorder]


def seqs_and_ends(folder: Path) -> list[tuple[int, int]]:
    return [(record.seq, record.end) for record, _ in follow(folder, Cursor())]


def crashed(tmp_path: Path, make: Make, count: int = 6) -> Path:
    """The state folder as a SIGKILL leaves it: everything written, nothing closed."""
    recorder = make(tmp_path / "live")
    for n in range(count):
        recorder.command(b'{"n":%d}' % n)
    recorder._syncer.close()  # type: ignore[union-attr]  # so that the head file is there
    shutil.copytree(tmp_path / "live", tmp_path / "crashed")
    return tmp_path / "crashed"


def commands(state: Path) -> list[int]:
    return [json.loads(r.payload)["n"] for r, _ in follow(state / "journal", Cursor()) if r.kind == "command"]


def test_a_killed_journal_is_finished_and_says_so(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make)
    recorder = make(state)
    recorder.command(b'{"n":6}')
    assert commands(state) == list(range(7))
    (recovered,) = [r for r, _ in follow(state / "journal", Cursor()) if r.kind == "journal.recovered"]
    assert (recovered.segment, json.loads(recovered.payload)["torn_bytes"]) == (2, 0)


def test_every_truncation_is_repaired_or_refused_and_keeps_every_whole_record(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make)
    segment = state / "journal" / "00000001.seg"
    whole, ends = segment.read_bytes(), seqs_and_ends(state / "journal")
    head = parse((state / "journal" / "head.json").read_bytes()).checkpoint
    signed_end = next(end for seq, end in ends if seq == head.seq)
    outcomes = set()
    edges = {0, 68, *(end for _, end in ends)}
    for cut in sorted({edge + step for edge in edges for step in (-1, 0, 1, 9)} | set(range(0, len(whole), 41))):
        if not 0 <= cut < len(whole):
            continue
        target = tmp_path / "cut"
        shutil.copytree(state, target)
        (target / "journal" / "00000001.seg").write_bytes(whole[:cut])
        if cut < signed_end:
            with pytest.raises(RecordError, match="cannot be continued"):
                make(target)
            assert (target / "journal" / "00000001.seg").exists() or cut < 68
            outcomes.add("refused")
        else:
            make(target).close()
            kept = [seq for seq, end in ends if end <= cut]
            found = list(follow(target / "journal", Cursor()))
            assert [record.seq for record, _ in found if record.segment == 1][:-1] == kept  # and the final checkpoint
            (why,) = [json.loads(r.payload) for r, _ in found if r.kind == "journal.recovered"]
            assert why["torn_bytes"] == cut - max(end for _, end in ends if end <= cut)
            report = verify(target / "journal", load_public(target / "keys" / "journal.pub"))
            assert report.ok, (cut, report)
            outcomes.add("repaired")
        shutil.rmtree(target)
    assert outcomes == {"refused", "repaired"}


def test_a_tail_of_zeros_is_cut(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make)
    with (state / "journal" / "00000001.seg").open("ab") as file:
        file.write(bytes(4096))
    make(state).close()
    assert commands(state) == list(range(6))


def test_a_tail_of_garbage_is_refused_and_left_alone(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make)
    segment = state / "journal" / "00000001.seg"
    with segment.open("ab") as file:
        file.write(b"garbage that nobody wrote")
    before = segment.read_bytes()
    with pytest.raises(RecordError, match="length of the record is damaged"):
        make(state)
    assert segment.read_bytes() == before


def test_every_changed_byte_refuses_to_open(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make, count=2)
    segment = state / "journal" / "00000001.seg"
    whole = segment.read_bytes()
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        segment.write_bytes(changed)
        with pytest.raises(RecordError):
            make(state)
        assert segment.read_bytes() == changed


def test_a_segment_without_a_whole_header_is_removed_and_named(tmp_path: Path, make: Make) -> None:
    make(tmp_path).close()
    (tmp_path / "journal" / "00000002.seg").write_bytes(b"SLGJRN")
    make(tmp_path)
    found = [json.loads(r.payload) for r, _ in follow(tmp_path / "journal", Cursor()) if r.kind == "journal.recovered"]
    assert [each["torn_segment"] for each in found] == [2]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda s: (s / "journal" / "head.json").unlink(), "head.json"),
        (lambda s: (s / "journal" / "head.json").write_bytes(b"{}"), "head.json` is damaged"),
        (lambda s: (s / "keys" / "journal.key").unlink(), "signing key"),
        (lambda s: (s / "keys" / "journal.key").write_bytes(b"x"), "PEM private key"),
        (lambda s: (s / "journal" / "00000001.seg").unlink(), "segments are missing"),
        (lambda s: (s / "journal" / "00000001.seg").rename(s / "journal" / "00000003.seg"), "segment 1 is missing"),
    ],
    ids=["no head", "bad head", "no key", "bad key", "no segments", "renumbered"],
)
def test_what_is_missing_or_replaced_refuses(
    tmp_path: Path, make: Make, broken: Callable[[Path], object], why: str
) -> None:
    state = crashed(tmp_path, make)
    broken(state)
    with pytest.raises(RecordError, match=why):
        make(state)


def test_another_key_refuses(tmp_path: Path, make: Make) -> None:
    state = crashed(tmp_path, make)
    make(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "keys" / "journal.key", state / "keys" / "journal.key")
    with pytest.raises(RecordError, match="not signed by this gateway's key"):
        make(state)


def test_a_journal_cut_back_to_an_earlier_whole_record_refuses(tmp_path: Path, make: Make) -> None:
    make(tmp_path).close()
    recorder = make(tmp_path)
    for n in range(5):
        recorder.command(b'{"n":%d}' % n)
    recorder.close()
    ends = [record.end for record, _ in follow(tmp_path / "journal", Cursor()) if record.segment == 2]
    os.truncate(tmp_path / "journal" / "00000002.seg", ends[-4])
    with pytest.raises(RecordError, match="signed head says"):
        make(tmp_path)


def test_dying_between_the_first_head_and_the_first_segment_is_no_damage(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path / "a")
    state = tmp_path / "b"
    recorder.close()
    shutil.copytree(tmp_path / "a", state)
    (state / "journal" / "00000001.seg").unlink()
    writer = recorder._writer
    writer.seq, writer.segment = 0, 0
    writer._tree, writer._link = type(writer._tree)(), bytes(32)
    (state / "journal" / "head.json").write_bytes(writer.sign(1, final=False))
    make(state).command(b'{"n":0}')
    assert commands(state) == [0]


WRITER = """
import sys
from pathlib import Path
from guard.record import Recorder, RecordSettings
recorder = Recorder(RecordSettings(segment_bytes=20_000, checkpoint_every=7), Path(sys.argv[1]))
n = 0
while True:
    recorder.buffer("response", b'{"n":%d}' % n)
    recorder.command(b'{"n":%d}' % n)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
    n += 1
"""


def test_sigkill_loses_no_command_that_was_acknowledged(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(700):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = 700 + sum(1 for line in process.stdout if line.endswith("\n"))
        process.wait()
        process.stdout.close()
        recorder = Recorder(RecordSettings(), tmp_path)
        found = commands(tmp_path)
        this_life = found[len(found) - 1 - found[::-1].index(0) :]
        assert this_life[:acknowledged] == list(range(acknowledged))
        recorder.close()
    report = verify(tmp_path / "journal", load_public(tmp_path / "keys" / "journal.pub"))
    assert report.ok, report
