"""One segment: look at it, take from it, or take it away. The order of the steps makes each of them safe to die in.

    1. the new segment is written beside the old one, synced and read back
    2. the tombstone is written and synced: from here on the act is signed
    3. the new segment replaces the old one (or the old one is removed)

Died before 2: nothing has happened. Died between 2 and 3: the segment looks as the tombstone's `before` says; `settle`
takes the act back, and whoever comes next decides anew: a hold may have been set in between.
"""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from guard.record import checkpoints
from guard.record.compress import gzip_writer
from guard.record.durable import sync_folder
from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import (
    HEADER_SIZE,
    PREFIX_SIZE,
    Checkpoint,
    MerkleTree,
    Record,
    SegmentHeader,
    is_reduced,
    open_record,
    record_size,
    reduce_record,
)
from guard.record.reader import Cursor, check_areas, check_reduced, open_segment, read_records, segment_name
from guard.record.residue import residue
from guard.record.tombstones import FOLDER, NOTHING_REDUCED, Act, AreaDigest, Level, Tombstone, Tombstones, path_of

type Verdict = Literal["take", "leave", "keep", "later"]
type Choose = Callable[[Record, Mapping[str, Any] | None], Verdict]
type Steps = Callable[[str], None]
type Permit = Callable[[], None]  # raises RecordError when the act must not be signed any more


@dataclass(slots=True)
class Scan:
    """A segment, proven by its final checkpoint, and what would be taken from it."""

    header: SegmentHeader
    end: Cursor
    first_at: int
    last_at: int
    tree_size: int
    root: bytes
    taken: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    kept: int = 0
    later: int = 0


def packed(folder: Path, number: int) -> Path:
    """The compressed segment: the only form that is touched."""
    return folder / f"{segment_name(number)}.gz"


def facts_of(record: Record) -> Mapping[str, Any] | None:
    """None where the payload is no JSON object."""
    try:
        facts = orjson.loads(record.payload)
    except orjson.JSONDecodeError:
        return None
    return facts if isinstance(facts, dict) else None


def scan(
    folder: Path, number: int, key: Ed25519PublicKey, tombstone: Tombstone | None, level: Level, choose: Choose
) -> Scan:
    """Prove the segment and ask about each record that still has something to take.

    Raises DamagedJournal: what does not verify is left alone, or retention would bury the damage.
    """
    allowed = tombstone.reduced() if tombstone is not None else frozenset[int]()
    areas, tree, final = AreaDigest(), MerkleTree(), None
    with open_segment(folder, number) as file:
        header = SegmentHeader.decode(file.read(HEADER_SIZE), number)
        at = Cursor(number, HEADER_SIZE, header.first_seq - 1, header.chain())
        found = Scan(header, at, 0, 0, 0, b"")
        before = header.previous_chain
        for record in read_records(file, at):
            if record.reduced:
                check_reduced(record, allowed)
                areas.add(record.seq, record.payload)
            if record.kind == checkpoints.KIND:
                final = _final(record, header, before, tree, key) or final
            elif record.payload or not record.reduced:
                _ask(found, record, level, choose)
            found.first_at = found.first_at or record.at
            if record.kind != checkpoints.KIND or not found.last_at:
                found.last_at = max(found.last_at, record.at)
            before = record.chain
            tree.add(record.chain)
            found.end = Cursor(number, record.end, record.seq, record.chain)
    if final is None:
        raise DamagedJournal(number, found.end.offset, "the segment was cut: its final checkpoint is missing")
    if tombstone is not None:
        check_areas(found.end, areas.digest(), tombstone)
    found.tree_size, found.root = final.tree_size, final.root
    return found


def _final(
    record: Record, header: SegmentHeader, before: bytes, tree: MerkleTree, key: Ed25519PublicKey
) -> Checkpoint | None:
    try:
        signed = checkpoints.parse(record.payload)
    except ValueError:
        raise DamagedJournal(record.segment, record.offset, "the checkpoint is garbled", seq=record.seq) from None
    point = signed.checkpoint
    expected = (header.journal_id, record.segment, record.seq - 1, before, tree.size, tree.root())
    found = (point.journal_id, point.segment, point.seq, point.chain, point.tree_size, point.root)
    if not checkpoints.is_genuine(signed, key) or found != expected:
        why = "the checkpoint was signed for other records, or with another key"
        raise DamagedJournal(record.segment, record.offset, why, seq=record.seq)
    return point if point.final else None


def _ask(found: Scan, record: Record, level: Level, choose: Choose) -> None:
    left = residue(record.kind, record.payload) if level == "thin" and not record.reduced else b""
    if left is None or (level == "thin" and record.reduced):
        return
    match choose(record, facts_of(record)):
        case "take":
            found.taken.add(record.seq)
            found.counts[record.kind] += 1
            found.size += len(record.payload) - len(left)
        case "keep":
            found.kept += 1
        case "later":
            found.later += 1


def settle(folder: Path, number: int, key: Ed25519PrivateKey) -> Tombstone | None:
    """The segment's tombstone, after an act that was signed and not carried out was taken back.

    Raises DamagedJournal when segment and tombstone do not belong together.
    """
    tombstone = Tombstones(folder, key.public_key()).get(number)
    if tombstone is None or not packed(folder, number).exists():
        return tombstone
    if not tombstone.dropped:
        areas = AreaDigest()
        with open_segment(folder, number) as file:
            header = SegmentHeader.decode(file.read(HEADER_SIZE), number)
            for record in read_records(file, Cursor(number, HEADER_SIZE, header.first_seq - 1, header.chain())):
                if record.reduced:
                    areas.add(record.seq, record.payload)
            end = Cursor(number, 0, tombstone.last_seq)
        check_areas(end, areas.digest(), tombstone)
        if areas.digest() == tombstone.areas:
            return tombstone
    undone = tombstone.undone()
    if undone.acts:
        _write_tombstone(folder, undone, key)
        return undone
    path_of(folder, number).unlink()
    sync_folder(folder / FOLDER)
    return None


def reduce_segment(
    folder: Path,
    found: Scan,
    before: Tombstone | None,
    act: Act,
    key: Ed25519PrivateKey,
    permit: Permit,
    steps: Steps,
) -> Tombstone:
    """Reduce the records that the scan took. Raises RecordError, DamagedJournal; OSError on a full disk."""
    number = found.header.number
    steps("write")
    temporary = packed(folder, number).with_suffix(".gz.tmp")
    areas = AreaDigest()
    try:
        with gzip_writer(temporary) as target, open_segment(folder, number) as source:

            def put(data: bytes) -> None:
                try:
                    target.write(data)
                except OSError as error:  # told apart from what cannot be read
                    raise RecordError(f"cannot write `{temporary}`: {error.strerror}") from error

            put(source.read(HEADER_SIZE))
            _copy(source, put, found, act.level, areas)
        if _read_back(temporary, found) != areas.digest():
            raise RecordError(f"`{temporary}` is not what was written; check the disk")
        steps("written")
        permit()
        tombstone = _tombstone(found, before, act, areas.digest())
        _write_tombstone(folder, tombstone, key)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    steps("signed")
    temporary.rename(packed(folder, number))
    sync_folder(folder)
    steps("replaced")
    return tombstone


def drop_segment(
    folder: Path,
    found: Scan,
    before: Tombstone | None,
    act: Act,
    key: Ed25519PrivateKey,
    permit: Permit,
    steps: Steps,
) -> Tombstone:
    """Leave nothing but the tombstone. Raises RecordError, OSError."""
    steps("write")
    permit()
    areas = before.areas if before is not None else NOTHING_REDUCED
    tombstone = _tombstone(found, before, act, areas)
    _write_tombstone(folder, tombstone, key)
    steps("signed")
    packed(folder, found.header.number).unlink()
    sync_folder(folder)
    steps("replaced")
    return tombstone


def _copy(source: BinaryIO, put: Callable[[bytes], None], found: Scan, level: Level, areas: AreaDigest) -> None:
    number, offset, chain = found.header.number, HEADER_SIZE, found.header.chain()
    seq = found.header.first_seq
    while prefix := source.read(PREFIX_SIZE):
        body = source.read(record_size(prefix, number, offset))
        record = open_record(body, number, offset, chain, seq, reduced=is_reduced(prefix))
        if record.seq in found.taken:
            left = (residue(record.kind, record.payload) or b"") if level == "thin" else b""
            put(reduce_record(body, left))
            areas.add(record.seq, left)
        else:
            put(prefix + body)
            if record.reduced:
                areas.add(record.seq, record.payload)
        offset, chain, seq = record.end, record.chain, seq + 1


def _read_back(path: Path, found: Scan) -> bytes:
    """Its `AreaDigest`, if it is the same chain as before. Raises DamagedJournal."""
    areas = AreaDigest()
    number = found.header.number
    with gzip.open(path, "rb") as file:
        if file.read(HEADER_SIZE) != found.header.encode():
            raise RecordError(f"`{path}` is not what was written; check the disk")
        at = Cursor(number, HEADER_SIZE, found.header.first_seq - 1, found.header.chain())
        for record in read_records(file, at):  # type: ignore[arg-type]  # typeshed: a GzipFile is no BinaryIO
            if record.reduced:
                areas.add(record.seq, record.payload)
            at = Cursor(number, record.end, record.seq, record.chain)
    if at != found.end:
        raise RecordError(f"`{path}` is not what was written; check the disk")
    return areas.digest()


def _tombstone(found: Scan, before: Tombstone | None, act: Act, areas: bytes) -> Tombstone:
    return Tombstone(
        journal_id=found.header.journal_id,
        segment=found.header.number,
        first_seq=found.header.first_seq,
        last_seq=found.end.seq,
        first_at=found.first_at,
        last_at=found.last_at,
        previous_chain=found.header.previous_chain,
        last_chain=found.end.chain,
        tree_size=found.tree_size,
        root=found.root,
        acts=(*(before.acts if before is not None else ()), act),
        areas=areas,
        before=before.areas if before is not None else NOTHING_REDUCED,
    )


def _write_tombstone(folder: Path, tombstone: Tombstone, key: Ed25519PrivateKey) -> None:
    """Whole or not at all, and on the disk. Raises OSError."""
    path = path_of(folder, tombstone.segment)
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700)
        sync_folder(folder)
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(tombstone.encode(key))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)
