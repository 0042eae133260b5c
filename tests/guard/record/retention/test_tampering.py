"""What was removed by hand is never taken for retention: `verify` says so, and no index is made of it."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard.record import Recorder, RecordError, RecordSettings
from guard.record.errors import DamagedJournal
from guard.record.format import (
    CHAINED,
    HEAD,
    HEAD_SIZE,
    HEADER_SIZE,
    PREFIX_SIZE,
    SegmentHeader,
    reduce_record,
)
from guard.record.keys import load_or_make
from guard.record.reader import segments
from guard.record.retention.rewrite import scan
from guard.record.retention.rules import DAY
from guard.record.tombstones import Act, Tombstone, path_of


def data_of(place: Any, number: int) -> bytearray:
    path = segments(place.journal)[number]
    data = path.read_bytes()
    return bytearray(gzip.decompress(data) if path.suffix == ".gz" else data)


def put(place: Any, number: int, data: bytes) -> None:
    path = segments(place.journal)[number]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def reduced(place: Any, record: Any, residue: bytes = b"") -> bytes:
    """The segment with one record reduced by hand."""
    data = data_of(place, record.segment)
    body = bytes(data[record.offset + PREFIX_SIZE : record.end])
    data[record.offset : record.end] = reduce_record(body, residue)
    return bytes(data)


def key_of(place: Any) -> Ed25519PrivateKey:
    return load_or_make(place.state / "keys", may_make=False)


def tombstone(place: Any, number: int) -> Tombstone:
    return Tombstone.decode(path_of(place.journal, number).read_bytes(), number, None)


def write(place: Any, number: int, made: Tombstone, key: Ed25519PrivateKey | None = None) -> None:
    path_of(place.journal, number).parent.mkdir(exist_ok=True)
    path_of(place.journal, number).write_bytes(made.encode(key or key_of(place)))


def found(place: Any, segment: int, why: str, seq: int | None = None) -> None:
    """`verify` names it, and neither a new index nor a gateway takes it."""
    problem = place.verify().problem
    assert problem is not None
    assert (problem["segment"], why in problem["why"]) == (segment, True), problem
    assert seq in (None, problem["seq"])


def refused_by_a_new_index(place: Any) -> None:
    with pytest.raises((DamagedJournal, RecordError)):
        place.rebuilt()


@pytest.fixture
def thinned(place: Any) -> Any:
    place.now += 40 * DAY
    place.work()
    assert place.verify().ok
    return place


@pytest.fixture
def dropped(place: Any) -> Any:
    place.now += 400 * DAY
    place.work()
    assert place.verify().ok
    return place


def test_every_record_that_is_reduced_by_hand_is_named(place: Any) -> None:
    records = [record for record in place.records() if record.segment == 2]
    whole = bytes(data_of(place, 2))
    for record in records:
        put(place, 2, reduced(place, record))
        # a checkpoint without its payload is garbled before anything else is asked
        problem = place.verify().problem
        assert problem is not None
        assert (problem["segment"], problem["seq"]) == (2, record.seq)
        put(place, 2, whole)
    put(place, 2, reduced(place, records[3]))
    refused_by_a_new_index(place)


def test_a_record_more_than_the_tombstone_names_is_named(thinned: Any) -> None:
    record = next(r for r in thinned.records() if r.segment == 2 and r.kind == "command")
    put(thinned, 2, reduced(thinned, record))
    found(thinned, 2, "no tombstone names it", record.seq)
    refused_by_a_new_index(thinned)


def test_what_is_left_of_a_record_cannot_be_edited(thinned: Any) -> None:
    record = next(r for r in thinned.records() if r.segment == 2 and r.reduced)
    data = data_of(thinned, 2)
    at = data.index(b'"rows":3', record.offset)
    data[at : at + 8] = b'"rows":9'
    put(thinned, 2, data)
    found(thinned, 2, "what retention left of its payloads was changed")
    refused_by_a_new_index(thinned)


def test_what_is_left_of_a_record_cannot_be_taken_or_hidden_in_its_padding(thinned: Any) -> None:
    record = next(r for r in thinned.records() if r.segment == 2 and r.reduced)
    whole = bytes(data_of(thinned, 2))
    put(thinned, 2, reduced(thinned, record))
    found(thinned, 2, "was changed")
    smuggled = bytearray(whole)
    smuggled[record.end - 1] = 7
    put(thinned, 2, smuggled)
    found(thinned, 2, "was changed")
    salted = bytearray(whole)
    body = record.end - len(record.payload)
    salted[salted.index(record.payload, record.offset) - 1] = 1
    assert body > 0
    put(thinned, 2, salted)
    found(thinned, 2, "the payload was changed", record.seq)


def test_one_payload_put_back_is_found(place: Any) -> None:
    before = data_of(place, 2)
    place.now += 40 * DAY
    place.work()
    record = next(r for r in place.records() if r.segment == 2 and r.reduced)
    data = data_of(place, 2)
    data[record.offset : record.end] = before[record.offset : record.end]
    put(place, 2, data)
    found(place, 2, "a part of them put back")
    put(place, 2, before)  # the whole segment, as from a backup: nothing is missing, and it is said
    report = place.verify()
    assert report.ok
    assert [row["segment"] for row in report.removed if row["pending"]] == [2]
    assert any("begun and not finished" in limit for limit in report.limits)


def test_a_tombstone_that_was_deleted_takes_the_permission_with_it(thinned: Any) -> None:
    path_of(thinned.journal, 2).unlink()
    found(thinned, 2, "no tombstone names it")
    refused_by_a_new_index(thinned)


def test_a_missing_segment_without_its_tombstone_stays_missing(dropped: Any) -> None:
    whole = path_of(dropped.journal, 2).read_bytes()
    path_of(dropped.journal, 2).unlink()
    found(dropped, 2, "the segment is missing")
    refused_by_a_new_index(dropped)
    dropped.recorder.close()
    with pytest.raises(RecordError, match="segment 2 is missing"):
        Recorder(RecordSettings(), dropped.state)
    path_of(dropped.journal, 2).write_bytes(whole)
    assert dropped.verify().ok


def test_a_segment_that_was_deleted_beside_a_tombstone_of_payloads_stays_missing(thinned: Any) -> None:
    segments(thinned.journal)[2].unlink()
    found(thinned, 2, "its tombstone is of payloads only")
    refused_by_a_new_index(thinned)


def test_every_changed_byte_of_a_tombstone_is_found(dropped: Any) -> None:
    path = path_of(dropped.journal, 2)
    whole = path.read_bytes()
    before = orjson.loads(whole)
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 7)
        path.write_bytes(changed)
        problem = dropped.verify().problem
        if problem is None:  # white space, or another way of writing the same signature
            again = orjson.loads(bytes(changed))
            assert again | {"sig": again["sig"].lower()} == before
        else:
            assert problem["segment"] == 2
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(last_seq=d["last_seq"] + 1),
        lambda d: d.update(last_chain="00" * 32),
        lambda d: d["acts"][0].update(rule="segments_days: 1"),
        lambda d: d["acts"][0].update(by="somebody else"),
        lambda d: d["acts"].append(dict(d["acts"][0], level="thin")),
        lambda d: d.update(acts=[]),
        lambda d: d.update(more=1),
        lambda d: d.pop("root"),
        lambda d: d["acts"][0].update(seqs="AAAA"),
        lambda d: d["acts"][0].update(intended=-1),
    ],
)
def test_a_forged_tombstone_is_found(dropped: Any, change: Callable[[dict[str, Any]], object]) -> None:
    path = path_of(dropped.journal, 2)
    document = orjson.loads(path.read_bytes())
    change(document)
    path.write_bytes(orjson.dumps(document))
    found(dropped, 2, "its tombstone is")
    refused_by_a_new_index(dropped)


def test_a_tombstone_of_another_key_of_another_segment_or_another_journal_is_found(
    dropped: Any, open_place: Callable[..., Any], tmp_path: Path
) -> None:
    path = path_of(dropped.journal, 2)
    whole = path.read_bytes()
    write(dropped, 2, tombstone(dropped, 2), Ed25519PrivateKey.generate())
    found(dropped, 2, "not signed with this key")
    path.write_bytes(path_of(dropped.journal, 3).read_bytes())
    found(dropped, 2, "that of segment 3")
    path.write_bytes(whole)
    other = open_place(tmp_path / "other")
    shutil.copy(dropped.state / "keys" / "journal.key", other.state / "keys" / "journal.key")
    for _ in range(3):
        other.day("ann")
    other.recorder._writer._signer = dropped.recorder._writer._signer
    stranger = tombstone(dropped, 2)
    stranger = Tombstone(**{name: getattr(stranger, name) for name in stranger.__slots__} | {"journal_id": b"x" * 16})
    write(dropped, 2, stranger)
    found(dropped, 2, "belongs to another journal")


def test_a_tombstone_that_nobody_announced_is_found_even_when_the_key_signed_it(place: Any) -> None:
    """Somebody gets at the key for a moment: without rewriting the journal it does not hide a removal."""
    place.now += DAY
    place.work()
    records = [record for record in place.records() if record.segment == 2]
    first = segments(place.journal)[2]
    seen = scan(place.journal, 2, key_of(place).public_key(), None, "drop", lambda record, facts: "take")
    made = Tombstone(
        journal_id=seen.header.journal_id,
        segment=2,
        first_seq=records[0].seq,
        last_seq=records[-1].seq,
        first_at=seen.first_at,
        last_at=seen.last_at,
        previous_chain=seen.header.previous_chain,
        last_chain=seen.end.chain,
        tree_size=seen.tree_size,
        root=seen.root,
        acts=(Act("made-up", 1, "drop", "segments_days: 1", "tidy", "mallory", place.now),),
    )
    first.unlink()
    write(place, 2, made)
    found(place, 2, "which the journal does not announce")


def test_a_tombstone_must_fit_where_it_stands(dropped: Any) -> None:
    here = tombstone(dropped, 2)
    wrong = {name: getattr(here, name) for name in here.__slots__}
    write(dropped, 2, Tombstone(**wrong | {"previous_chain": hashlib.sha256().digest()}))
    found(dropped, 2, "does not follow from what comes before it")
    write(dropped, 2, Tombstone(**wrong | {"last_chain": hashlib.sha256().digest()}))
    found(dropped, 3, "does not follow from what comes before it")
    refused_by_a_new_index(dropped)


def test_a_tombstone_of_the_newest_segment_or_of_none_is_found(dropped: Any) -> None:
    newest = max(segments(dropped.journal))
    shutil.copy(path_of(dropped.journal, 2), path_of(dropped.journal, newest + 3))
    found(dropped, newest + 3, "retention cannot have been there")


def test_a_head_kept_elsewhere_of_what_is_gone_is_said_and_one_that_contradicts_is_found(
    place: Any, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    early = next(r for r in place.records() if r.segment == 2 and r.kind == "checkpoint")
    kept.write_bytes(early.payload)
    place.now += 400 * DAY
    place.work()
    report = place.verify(head=kept)
    assert report.ok
    assert any("nobody can compare them any more" in limit for limit in report.limits)


def rechained(data: bytes, old: bytes, new: bytes) -> bytes:
    """What somebody without the key can do: edit payloads and recompute every digest and the whole chain."""
    header = SegmentHeader.decode(data[:HEADER_SIZE], 2)
    out, chain, offset = bytearray(data[:HEADER_SIZE]), header.chain(), HEADER_SIZE
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4])
        body = data[offset + PREFIX_SIZE : offset + PREFIX_SIZE + size]
        seq, at, payload_size, kind_size, _, _ = HEAD.unpack_from(body)
        kind, salted = body[HEAD_SIZE : HEAD_SIZE + kind_size], body[HEAD_SIZE + kind_size :].replace(old, new)
        chained = CHAINED.pack(seq, at, payload_size, kind_size, hashlib.sha256(salted).digest())
        chain = hashlib.sha256(b"\x00" + chain + chained + kind).digest()
        out += data[offset : offset + PREFIX_SIZE] + chained + chain + kind + salted
        offset += PREFIX_SIZE + size
    return bytes(out)


def test_an_evil_index_cannot_make_retention_bury_a_forgery(place: Any) -> None:
    """The chain inside a segment is recomputed by somebody without the key: the final checkpoint tells."""
    edited = rechained(bytes(data_of(place, 2)), b"SELECT 'ann", b"SELECT 'bob")
    put(place, 2, edited)
    before = segments(place.journal)[2].read_bytes()
    place.now += 400 * DAY
    place.settle()
    desk, worker = place.desk(), place.worker()
    for _ in range(3):
        while worker.step():
            pass
        desk.poll()
        place.settle()
    assert segments(place.journal)[2].read_bytes() == before
    assert "signed for other records" in str(place.runs()[0].done)
    worker.close()


def test_a_new_index_of_a_large_segment_finds_it_too(thinned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads a segment in several parts, none of which shows the whole of what was left."""
    monkeypatch.setattr("guard.record.index._BATCH", 3)
    assert len(thinned.rebuilt().sessions()) == 10
    record = next(r for r in thinned.records() if r.segment == 2 and r.reduced)
    data = data_of(thinned, 2)
    at = data.index(b'"rows":3', record.offset)
    data[at : at + 8] = b'"rows":9'
    put(thinned, 2, data)
    with pytest.raises(DamagedJournal, match="was changed"):
        thinned.rebuilt()
