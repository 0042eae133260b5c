"""Attack 35: the log is edited, truncated, reordered or deleted after the fact. `verify` names the first bad record."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from guard.record import Recorder
from guard.record.compress import compress_finished
from guard.record.format import CHAINED, HEAD, HEAD_SIZE, HEADER_SIZE, PREFIX_SIZE, Record, SegmentHeader
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow, open_segment, segments
from guard.record.verify import Report, verify

type Make = Callable[..., Recorder]


@pytest.fixture
def state(tmp_path: Path, make: Make) -> Path:
    """Three segments, closed properly."""
    recorder = make(tmp_path / "state", segment_bytes=1500, checkpoint_every=3)
    for n in range(14):
        recorder.command(b'{"n":%d,"text":"DELETE FROM orders"}' % n)
    recorder.close()
    assert len(segments(tmp_path / "state" / "journal")) >= 3
    return tmp_path / "state"


def check(state: Path, **options: Path) -> Report:
    return verify(state / "journal", load_public(state / "keys" / "journal.pub"), **options)  # type: ignore[arg-type]


def found(state: Path, segment: int | None = None) -> list[Record]:
    records = [record for record, _ in follow(state / "journal", Cursor())]
    return [record for record in records if segment is None or record.segment == segment]


def problem(report: Report) -> tuple[int, int, str]:
    assert report.problem is not None
    return report.problem["segment"], report.problem["seq"], report.problem["why"]


def segment(state: Path, number: int) -> Path:
    return state / "journal" / f"{number:08d}.seg"


def test_an_untouched_journal_is_proven(state: Path) -> None:
    report = check(state)
    assert (report.ok, report.records, report.torn_bytes, report.unsigned) == (True, len(found(state)), 0, 0)


def test_every_edited_byte_is_found_and_its_record_named(state: Path) -> None:
    whole = segment(state, 2).read_bytes()
    records = found(state, 2)
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        segment(state, 2).write_bytes(changed)
        number, seq, _ = problem(check(state))
        bad = next((record.seq for record in records if record.offset <= position < record.end), records[0].seq)
        assert (number, seq) == (2, bad), position


def test_every_truncation_of_any_segment_is_found(state: Path) -> None:
    for number in segments(state / "journal"):
        whole, records = segment(state, number).read_bytes(), found(state, number)
        newest = number == max(segments(state / "journal"))
        # The very last record is the final checkpoint itself: only a head kept elsewhere could miss it.
        upto = records[-1].offset if newest else len(whole)
        for cut in range(0, upto, 11):
            segment(state, number).write_bytes(whole[:cut])
            bad, seq, _ = problem(check(state))
            assert bad == number
            assert seq == next((record.seq for record in records if record.end > cut), records[-1].seq + 1)
        segment(state, number).write_bytes(whole)
    assert check(state).ok


@pytest.mark.parametrize("which", [0, 1, -1])
def test_deleted_duplicated_and_swapped_records_are_found(state: Path, which: int) -> None:
    records = found(state, 2)
    whole = segment(state, 2).read_bytes()
    pieces = [whole[record.offset : record.end] for record in records]
    head = whole[:HEADER_SIZE]
    deleted = [piece for piece in pieces if piece is not pieces[which]]
    doubled = [*pieces[: which % len(pieces) + 1], *pieces[which % len(pieces) :]]
    swapped = list(pieces)
    swapped[which], swapped[which - 1] = swapped[which - 1], swapped[which]
    for changed in (deleted, doubled, swapped):
        segment(state, 2).write_bytes(head + b"".join(changed))
        assert problem(check(state))[0] == 2


def test_missing_segments_are_named(state: Path) -> None:
    last = max(segments(state / "journal"))
    for number in range(1, last):
        away = segment(state, number).rename(state / "away")
        assert problem(check(state))[0] == number
        assert "missing" in problem(check(state))[2]
        away.rename(segment(state, number))
    segment(state, last).unlink()
    assert "it was cut" in problem(check(state))[2]


def test_swapped_segments_are_found(state: Path) -> None:
    first, second = segment(state, 1).read_bytes(), segment(state, 2).read_bytes()
    segment(state, 1).write_bytes(second)
    segment(state, 2).write_bytes(first)
    assert problem(check(state))[:2] == (1, 1)


def test_the_same_segment_of_another_journal_of_the_same_key_is_found(state: Path, tmp_path: Path, make: Make) -> None:
    other = tmp_path / "other"
    shutil.copytree(state / "keys", other / "keys")
    make(other).close()
    shutil.copy(segment(other, 1), segment(state, 1))
    assert "another journal" in problem(check(state))[2]


def rechained(data: bytes, journal: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """What an attacker without the key can do: edit payloads and recompute every digest and the whole chain."""
    header = SegmentHeader.decode(data[:HEADER_SIZE], 1)
    out, chain, offset = bytearray(data[:HEADER_SIZE]), header.chain(), HEADER_SIZE
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4])
        body = data[offset + PREFIX_SIZE : offset + PREFIX_SIZE + size]
        seq, at, payload_size, kind_size, _, _ = HEAD.unpack_from(body)
        kind, salted = body[HEAD_SIZE : HEAD_SIZE + kind_size], body[HEAD_SIZE + kind_size :]
        salted = edit(salted)
        chained = CHAINED.pack(seq, at, payload_size, kind_size, hashlib.sha256(salted).digest())
        chain = hashlib.sha256(b"\x00" + chain + chained + kind).digest()
        out += data[offset : offset + PREFIX_SIZE] + chained + chain + kind + salted
        offset += PREFIX_SIZE + size
    return bytes(out)


def test_an_edit_with_the_whole_chain_recomputed_is_found_at_the_next_checkpoint(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path, checkpoint_every=3)
    for n in range(10):
        recorder.command(b'{"n":%d,"text":"DELETE FROM orders"}' % n)
    recorder.close()
    target = segment(tmp_path, 1)
    edited = rechained(target.read_bytes(), b"", lambda p: p.replace(b'"n":4,"text":"DELETE', b'"n":4,"text":"SELECT'))
    assert len(edited) == len(target.read_bytes())
    target.write_bytes(edited)
    assert b'"n":4,"text":"SELECT' in target.read_bytes()
    _, seq, why = problem(check(tmp_path))
    assert why == "the checkpoint was signed for other records"
    bad = next(r.seq for r in found(tmp_path) if b'"n":4' in r.payload)
    assert seq == next(r.seq for r in found(tmp_path) if r.kind == "checkpoint" and r.seq > bad)


def test_a_checkpoint_of_another_key_is_found(state: Path, tmp_path: Path, make: Make) -> None:
    make(tmp_path / "other").close()
    report = verify(state / "journal", load_public(tmp_path / "other" / "keys" / "journal.pub"))
    assert "not signed with this key" in problem(report)[2]


def test_a_journal_cut_together_with_its_head_is_found_with_a_head_kept_elsewhere(
    state: Path, tmp_path: Path, make: Make
) -> None:
    """The honest limit: without the outside copy this succeeds, and the report says so."""
    kept = shutil.copy(state / "journal" / "head.json", tmp_path / "kept.json")
    earlier = next(r for r in found(state) if r.kind == "checkpoint" and r.segment == 2)
    (state / "journal" / "head.json").write_bytes(earlier.payload)
    for number in segments(state / "journal"):
        if number > 2:
            segment(state, number).unlink()
    whole = segment(state, 2).read_bytes()
    segment(state, 2).write_bytes(whole[: earlier.end])
    blind = check(state)
    assert blind.ok
    assert any("kept on another machine" in limit for limit in blind.limits)
    report = check(state, head=Path(kept))
    assert "it was cut" in problem(report)[2]
    assert problem(report)[1] == earlier.seq + 1


def test_a_live_journal_verifies_and_says_what_is_not_signed_yet(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.command(b'{"n":1}')
    recorder.command(b'{"n":2}')
    with segment(tmp_path, 1).open("ab") as file:
        file.write(b"\x00\x00")  # as if the next record was being written
    report = check(tmp_path)
    assert (report.ok, report.unsigned, report.torn_bytes) == (True, 2, 2)
    assert any("without leaving a trace" in limit for limit in report.limits)
    recorder._writer.cut_back()


def test_compressed_segments_verify_and_every_changed_byte_is_found_or_changes_nothing(state: Path) -> None:
    with open_segment(state / "journal", 1) as file:
        original = file.read()
    compress_finished(state / "journal", 99)
    assert check(state).ok
    packed = state / "journal" / "00000001.seg.gz"
    whole = packed.read_bytes()
    caught = 0
    positions = [*range(12), *range(12, len(whole), 5)]
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0x10
        packed.write_bytes(changed)
        report = check(state)
        if report.ok:  # a byte of gzip's own header, such as its time stamp
            with gzip.open(packed) as unpacked:
                assert unpacked.read() == original
        else:
            caught += 1
    assert caught >= len(positions) - 10
    packed.write_bytes(whole[:-20])
    assert problem(check(state))[0] == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"journal": 1}', b'{"journal":"zz"}'])
def test_a_garbled_head_is_a_finding_not_a_crash(state: Path, content: bytes) -> None:
    (state / "journal" / "head.json").write_bytes(content)
    assert "not a signed head" in problem(check(state))[2]


def test_a_missing_head_is_a_finding(state: Path) -> None:
    (state / "journal" / "head.json").unlink()
    assert "is missing" in problem(check(state))[2]
