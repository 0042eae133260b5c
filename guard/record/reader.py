"""Reading a journal folder: segments, plain or compressed, from any cursor, while another process writes.

Every record read here has had its digest and its place in the chain checked. Of what retention has reduced the place in
the chain is, and that a tombstone names it; `follow` steps over segments that went altogether.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import (
    HEADER_SIZE,
    NO_CHAIN,
    PREFIX_SIZE,
    Record,
    SegmentHeader,
    is_reduced,
    open_record,
    record_size,
)
from guard.record.tombstones import AreaDigest, Tombstone, Tombstones

_NAME = re.compile(r"(\d{8})\.seg(\.gz)?")
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Cursor:
    """Right behind record `seq`, whose chain is `chain`, at byte `offset` of the (uncompressed) segment.

    The start of a journal is `Cursor()`; offset 0 means that the segment's header is still to be read.
    """

    segment: int = 1
    offset: int = 0
    seq: int = 0
    chain: bytes = NO_CHAIN


def segment_name(number: int) -> str:
    return f"{number:08d}.seg"


def segments(folder: Path) -> dict[int, Path]:
    """Number -> file, ascending. Where both forms exist (compression was interrupted) the plain one counts.

    Raises RecordError when the folder cannot be listed.
    """
    found: dict[int, Path] = {}
    try:
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and not (match[2] and int(match[1]) in found):
                found[int(match[1])] = path
    except OSError as error:
        raise RecordError(f"cannot read the journal folder `{folder}`: {error.strerror}") from error
    return dict(sorted(found.items()))


@contextmanager
def open_segment(folder: Path, number: int) -> Iterator[BinaryIO]:
    """A segment in whichever form it has at this moment. Raises DamagedJournal when it is missing or unreadable."""
    plain = folder / segment_name(number)
    packed = plain.with_suffix(".seg.gz")
    file: BinaryIO | None = None
    for path in (plain, packed, plain):  # a third look: it may have been compressed between the first two
        try:
            file = cast(BinaryIO, gzip.GzipFile(path, "rb")) if path is packed else path.open("rb", buffering=_BUFFER)
            break
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RecordError(f"cannot read `{path}`: {error.strerror}") from error
    if file is None:
        raise DamagedJournal(number, 0, "the segment is missing")
    try:
        yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedJournal(number, 0, f"the compressed segment is damaged ({error})") from error
    except OSError as error:
        raise RecordError(f"cannot read segment {number}: {error.strerror}") from error
    finally:
        file.close()


def read_header(file: BinaryIO, at: Cursor, journal_id: bytes | None = None) -> tuple[SegmentHeader, Cursor]:
    """Read a segment's header and check that it continues from `at`. Raises DamagedJournal."""
    header = SegmentHeader.decode(file.read(HEADER_SIZE), at.segment)
    if journal_id is not None and header.journal_id != journal_id:
        raise DamagedJournal(at.segment, 8, "the segment belongs to another journal")
    if header.first_seq != at.seq + 1:
        why = f"the segment starts with record {header.first_seq}, but {at.seq + 1} comes next"
        raise DamagedJournal(at.segment, 28, why, seq=at.seq + 1)
    if header.previous_chain != at.chain:
        raise DamagedJournal(at.segment, 36, "the segment does not follow from the one before it", seq=at.seq + 1)
    return header, Cursor(at.segment, HEADER_SIZE, at.seq, header.chain())


def read_records(file: BinaryIO, at: Cursor) -> Iterator[Record]:
    """The records from a cursor (where the file must stand) to the end of the file.

    Raises DamagedJournal: `torn` when the file ends inside a record, which is normal for a segment being written.
    """
    offset, seq, chain = at.offset, at.seq, at.chain
    while prefix := file.read(PREFIX_SIZE):
        if len(prefix) < PREFIX_SIZE:
            raise DamagedJournal(at.segment, offset, "the file ends inside a record", seq=seq + 1, torn=True)
        size = record_size(prefix, at.segment, offset)
        body = file.read(size)
        if len(body) < size:
            raise DamagedJournal(at.segment, offset, "the file ends inside a record", seq=seq + 1, torn=True)
        record = open_record(body, at.segment, offset, chain, seq + 1, reduced=is_reduced(prefix))
        yield record
        offset, seq, chain = record.end, record.seq, record.chain


def beginning(folder: Path, tombstones: Tombstones) -> Cursor:
    """Where a journal starts; what a tombstone stands for counts. Raises RecordError, DamagedJournal."""
    known = segments(folder)
    return Cursor() if not known or tombstones.dropped(1) is not None else Cursor(segment=min(known))


def follow(folder: Path, at: Cursor, tombstones: Tombstones | None = None) -> Iterator[tuple[Record, Cursor]]:
    """Every whole record from `at` to the journal's present end, each with the cursor behind it.

    Ends quietly at the partial tail of the newest segment. Raises DamagedJournal for anything else that is wrong.
    `tombstones` should know the journal's key: without it, or by default, a forged one passes here.
    """
    marks = tombstones or Tombstones(folder)
    while True:
        # Asked before reading: once a successor exists its predecessor is complete, so its end is the real end.
        known = segments(folder)
        if not known:
            return
        newest = max(known)
        if at.segment > newest:
            if at.segment == newest + 1 and at.offset == 0:
                return
            raise DamagedJournal(at.segment, at.offset, "the segment is missing")
        if at.segment not in known:
            at = step_over(at, marks.dropped(at.segment))
            continue
        whole, areas = at.offset == 0, AreaDigest()
        try:
            with open_segment(folder, at.segment) as file:
                tombstone = marks.get(at.segment)  # after the file was opened: it is never behind the segment
                allowed = tombstone.reduced() if tombstone is not None else frozenset()
                if whole:
                    _, at = read_header(file, at)
                else:
                    file.seek(at.offset)
                for record in read_records(file, at):
                    if record.reduced:
                        check_reduced(record, allowed)
                        areas.add(record.seq, record.payload)
                    at = Cursor(at.segment, record.end, record.seq, record.chain)
                    yield record, at
        except DamagedJournal as damage:
            if damage.torn and at.segment == newest:
                return
            if at.segment not in segments(folder) and marks.dropped(at.segment) is not None:
                continue  # it went while we were about to read it
            raise
        if whole and tombstone is not None:
            check_areas(at, areas.digest(), tombstone)
        if at.segment == newest:
            return
        at = Cursor(at.segment + 1, 0, at.seq, at.chain)


def step_over(at: Cursor, tombstone: Tombstone | None) -> Cursor:
    """The cursor behind a segment that is not there. Raises DamagedJournal unless a tombstone stands for it."""
    if tombstone is None:
        raise DamagedJournal(at.segment, 0, "the segment is missing", seq=at.seq + 1)
    if at.offset == 0 and (tombstone.first_seq, tombstone.previous_chain) != (at.seq + 1, at.chain):
        why = "the segment is missing, and its tombstone does not follow from what comes before it"
        raise DamagedJournal(at.segment, 0, why, seq=at.seq + 1)
    return Cursor(at.segment + 1, 0, tombstone.last_seq, tombstone.last_chain)


def check_reduced(record: Record, allowed: Collection[int]) -> None:
    """Raises DamagedJournal for a payload that was taken away although no tombstone names it."""
    if record.seq not in allowed:
        why = "its payload was taken away, and no tombstone names it"
        raise DamagedJournal(record.segment, record.offset, why, seq=record.seq)


def check_areas(at: Cursor, found: bytes, tombstone: Tombstone) -> None:
    """Raises DamagedJournal where what was left of reduced payloads in a segment is not what its tombstone signs."""
    if not tombstone.expects(found):
        why = "what retention left of its payloads was changed, or a part of them put back"
        raise DamagedJournal(at.segment, at.offset, why, seq=tombstone.first_seq)
