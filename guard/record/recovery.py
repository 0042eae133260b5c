"""Opening an existing journal for writing: find its end, cut off what was left half written, refuse the rest.

Cut off is only a record whose beginning is whole and whose end is missing, or a tail of zeros (a file system that grew
the file before its data arrived): `Recorder` had not returned for it, so nothing was forwarded. Everything else that
is wrong refuses to open: appending to a damaged journal would bury the damage.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from guard.record import checkpoints
from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import HEADER_SIZE, PREFIX_SIZE, MerkleTree, SegmentHeader
from guard.record.reader import Cursor, open_segment, read_records, segment_name, segments
from guard.record.tombstones import Tombstones

HEAD_FILE = "head.json"


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a journal after repair: where the next segment starts, and what was found."""

    end: Cursor
    journal_id: bytes
    tree: MerkleTree
    finished: bool  # the last segment ends with its final checkpoint
    link: bytes  # `previous_chain` of the last segment's header
    torn_bytes: int  # cut off the last segment
    torn_header: int | None  # number of a segment that was removed because not even its header was whole


def find_tail(folder: Path, signer: checkpoints.Signer) -> Tail | None:
    """None: there is no journal yet. Repairs a torn tail. Raises RecordError for everything else that is wrong."""
    known = segments(folder)
    head = _read_head(folder, signer)
    if head is None:
        if known:
            raise RecordError(_refusal(folder, f"`{HEAD_FILE}` is missing, so nobody can tell whether records are"))
        return None
    torn_header = None
    if known:
        last = max(known)
        if len(known) != last:
            _missing(folder, known, signer)
        if known[last].suffix == ".seg" and _header_is_torn(known[last], last):
            known[last].unlink()
            torn_header = last
            del known[last]
    if not known:
        if head.checkpoint.seq:
            raise RecordError(_refusal(folder, "the segments are missing"))
        return None
    try:
        tail = _read_tail(folder, known, head, torn_header)
    except DamagedJournal as damage:
        raise RecordError(_refusal(folder, str(damage))) from damage
    return tail


def _missing(folder: Path, known: dict[int, Path], signer: checkpoints.Signer) -> None:
    """Raises RecordError unless a genuine tombstone stands for every segment that is not there."""
    tombstones = Tombstones(folder, signer.public)
    for number in range(1, max(known)):
        if number in known:
            continue
        try:
            found = tombstones.dropped(number)
        except DamagedJournal as damage:
            raise RecordError(_refusal(folder, str(damage))) from damage
        if found is None:
            raise RecordError(_refusal(folder, f"segment {number} is missing"))


def _read_head(folder: Path, signer: checkpoints.Signer) -> checkpoints.Signed | None:
    try:
        signed = checkpoints.parse((folder / HEAD_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read `{folder / HEAD_FILE}`: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(_refusal(folder, f"`{HEAD_FILE}` is damaged")) from error
    if not checkpoints.is_genuine(signed, signer.public):
        raise RecordError(_refusal(folder, f"`{HEAD_FILE}` is not signed by this gateway's key"))
    return signed


def _header_is_torn(path: Path, number: int) -> bool:
    try:
        with path.open("rb") as file:
            data = file.read(HEADER_SIZE)
        SegmentHeader.decode(data, number)
    except DamagedJournal as damage:
        return damage.torn
    except OSError as error:
        raise RecordError(f"cannot read `{path}`: {error.strerror}") from error
    return False


def _read_tail(folder: Path, known: dict[int, Path], head: checkpoints.Signed, torn_header: int | None) -> Tail:
    last = max(known)
    signed = head.checkpoint
    plain = known[last].suffix == ".seg"
    with open_segment(folder, last) as file:
        header = SegmentHeader.decode(file.read(HEADER_SIZE), last)
        if header.journal_id != signed.journal_id:
            raise DamagedJournal(last, 8, "the segment belongs to another journal")
        at = Cursor(last, HEADER_SIZE, header.first_seq - 1, header.chain())
        tree = MerkleTree()
        final = False
        chain_at_head = header.previous_chain if signed.seq == at.seq else None
        torn_bytes = 0
        try:
            for record in read_records(file, at):
                at = Cursor(last, record.end, record.seq, record.chain)
                tree.add(record.chain)
                if record.seq == signed.seq:
                    chain_at_head = record.chain
                final = record.kind == checkpoints.KIND and checkpoints.parse(record.payload).checkpoint.final
        except DamagedJournal as damage:
            torn_bytes = _torn_tail(file, known[last], at.offset, damage) if plain else 0
            if not torn_bytes:
                raise
    if signed.segment > last or signed.seq > at.seq:
        why = f"the signed head says that the journal reached record {signed.seq}, but it ends with {at.seq}"
        raise DamagedJournal(last, at.offset, why, seq=at.seq + 1)
    if signed.seq >= header.first_seq - 1 and chain_at_head != signed.chain:
        raise DamagedJournal(last, 0, "the records are not those that the signed head covers", seq=signed.seq)
    if not final and not plain:
        raise DamagedJournal(last, at.offset, "the compressed segment is not finished")
    if torn_bytes:
        _cut(folder / segment_name(last), at.offset)
    return Tail(at, header.journal_id, tree, final and not torn_bytes, header.previous_chain, torn_bytes, torn_header)


def _torn_tail(file: BinaryIO, path: Path, offset: int, damage: DamagedJournal) -> int:
    """Bytes to cut off, 0 when the damage is something else than a torn tail."""
    size = path.stat().st_size
    if damage.torn:
        return size - offset
    file.seek(offset)
    while chunk := file.read(1 << 20):
        if any(chunk):
            return 0
    return size - offset if size - offset >= PREFIX_SIZE else 0


def _cut(path: Path, size: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(handle, size)
        os.fsync(handle)
    except OSError as error:
        raise RecordError(f"cannot repair `{path}`: {error.strerror}") from error
    finally:
        os.close(handle)


def _refusal(folder: Path, why: str) -> str:
    return (
        f"the journal in `{folder}` cannot be continued: {why}. run `sluicegate verify` on it; to start a new "
        "one, move the folder aside and keep it: it is evidence"
    )
