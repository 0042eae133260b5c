"""Checking a journal offline, with nothing but its folder and the public key: was anything edited, removed, moved?

What is checked: every record's digest and place in the chain, the order and completeness of the segments, every
checkpoint's signature and Merkle root, that each finished segment ends with its final checkpoint, and that the journal
reaches at least as far as its signed head (and as far as a copy of the head that was kept elsewhere, when one is
given).

What cannot be proven is said in `Report.limits`: it is printed with every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from guard.record import checkpoints
from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import MerkleTree, Record
from guard.record.reader import Cursor, open_segment, read_header, read_records, segments
from guard.record.recovery import HEAD_FILE

type Progress = Callable[[int, int, int], None]  # segment, of how many, records so far


@dataclass(slots=True)
class Report:
    """The result. `problem` is the first bad record: `{segment, offset, seq, why}`; None means that all is proven."""

    records: int = 0
    segments: int = 0
    checkpoints: int = 0
    last_seq: int = 0
    signed_seq: int = 0  # the last record that a checkpoint covers
    unsigned: int = 0  # records behind the last checkpoint
    head_seq: int | None = None
    torn_bytes: int = 0
    problem: dict[str, Any] | None = None
    limits: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.problem is None


def verify(
    folder: Path, key: Ed25519PublicKey, *, head: Path | None = None, progress: Progress | None = None
) -> Report:
    """Check a journal folder. `head`: a copy of `head.json` from elsewhere, checked as well.

    Damage is in the report; RecordError is raised only when the files cannot be read at all.
    """
    report = Report()
    try:
        _Check(folder, key, report, progress).run(head)
    except DamagedJournal as damage:
        seq = damage.seq if damage.seq is not None else report.last_seq + 1
        report.problem = {"segment": damage.segment, "offset": damage.offset, "seq": seq, "why": damage.why}
    _say_limits(report, head is not None)
    return report


class _Check:
    def __init__(self, folder: Path, key: Ed25519PublicKey, report: Report, progress: Progress | None) -> None:
        self.folder, self.key, self.report, self.progress = folder, key, report, progress
        self.journal_id = b""
        self.heads: dict[int, tuple[bytes, str]] = {}  # seq -> chain that a head promises, and the head's name

    def run(self, head: Path | None) -> None:
        # The heads are read first: a journal that is being written only grows past them meanwhile.
        for path in [self.folder / HEAD_FILE, *([head] if head else [])]:
            self._read_head(path)
        known = segments(self.folder)
        at = Cursor()
        last = max(known, default=0)
        for number in range(1, last + 1):
            if number not in known:
                raise DamagedJournal(number, 0, "the segment is missing", seq=at.seq + 1)
            at = self._segment(number, at, newest=number == last, of=last)
            self.report.segments += 1
        for seq, (_, name) in sorted(self.heads.items()):
            if seq > at.seq:
                why = f"`{name}` proves that the journal reached record {seq}, but it ends with {at.seq}: it was cut"
                raise DamagedJournal(at.segment, at.offset, why, seq=at.seq + 1)

    def _read_head(self, path: Path) -> None:
        try:
            signed = checkpoints.parse(path.read_bytes())
        except FileNotFoundError:
            raise DamagedJournal(1, 0, f"`{path.name}`, the signed head, is missing") from None
        except OSError as error:
            raise RecordError(f"cannot read `{path}`: {error.strerror}") from error
        except ValueError:
            raise DamagedJournal(1, 0, f"`{path.name}` is not a signed head") from None
        if not checkpoints.is_genuine(signed, self.key):
            raise DamagedJournal(1, 0, f"`{path.name}` is not signed with this key")
        point = signed.checkpoint
        if self.journal_id and self.journal_id != point.journal_id:
            raise DamagedJournal(1, 0, f"`{path.name}` is the head of another journal")
        self.journal_id = point.journal_id
        earlier = self.heads.get(point.seq)
        if earlier is not None and earlier[0] != point.chain:
            raise DamagedJournal(point.segment, 0, "the two signed heads contradict each other", seq=point.seq)
        self.heads[point.seq] = (point.chain, path.name)
        self.report.head_seq = max(self.report.head_seq or 0, point.seq)

    def _segment(self, number: int, at: Cursor, *, newest: bool, of: int) -> Cursor:
        final = False
        # What a checkpoint signs as `chain` is the record before it, also across the border of two segments.
        before, tree = at.chain, MerkleTree()
        with open_segment(self.folder, number) as file:
            _, at = read_header(file, Cursor(number, 0, at.seq, at.chain), self.journal_id)
            try:
                for record in read_records(file, at):
                    if final:
                        raise DamagedJournal(
                            number, record.offset, "records follow after the segment was finished", seq=record.seq
                        )
                    if record.kind == checkpoints.KIND:
                        final = self._checkpoint(record, before, tree)
                    before = record.chain
                    tree.add(record.chain)
                    at = Cursor(number, record.end, record.seq, record.chain)
                    self._count(record, number, of)
            except DamagedJournal as damage:
                if not (damage.torn and newest):
                    raise
                self.report.torn_bytes = file.seek(0, 2) - at.offset
        if not newest and not final:
            raise DamagedJournal(
                number, at.offset, "the segment was cut: its final checkpoint is missing", seq=at.seq + 1
            )
        return Cursor(number, at.offset, at.seq, before)

    def _count(self, record: Record, number: int, of: int) -> None:
        self.report.records += 1
        self.report.last_seq = record.seq
        self.report.unsigned = 0 if record.kind == checkpoints.KIND else self.report.unsigned + 1
        promised = self.heads.get(record.seq)
        if promised is not None and promised[0] != record.chain:
            why = f"it is not the record that `{promised[1]}` was signed for"
            raise DamagedJournal(number, record.offset, why, seq=record.seq)
        if self.progress is not None and self.report.records % 10_000 == 0:
            self.progress(number, of, self.report.records)

    def _checkpoint(self, record: Record, before: bytes, tree: MerkleTree) -> bool:
        """Check a checkpoint record against what was read before it. Returns whether it is final."""
        try:
            signed = checkpoints.parse(record.payload)
        except ValueError:
            raise DamagedJournal(record.segment, record.offset, "the checkpoint is garbled", seq=record.seq) from None
        point = signed.checkpoint
        found = (point.journal_id, point.segment, point.seq, point.chain, point.tree_size, point.root)
        expected = (self.journal_id, record.segment, record.seq - 1, before, tree.size, tree.root())
        if not checkpoints.is_genuine(signed, self.key):
            why = "the checkpoint is not signed with this key"
        elif found != expected:
            why = "the checkpoint was signed for other records"
        else:
            self.report.checkpoints += 1
            self.report.signed_seq = point.seq
            return point.final
        raise DamagedJournal(record.segment, record.offset, why, seq=record.seq)


def _say_limits(report: Report, outside_head: bool) -> None:
    if report.torn_bytes:
        report.limits.append(
            f"the last {report.torn_bytes} bytes are half a record: it is being written now, or the process was killed"
        )
    if report.unsigned:
        report.limits.append(
            "after the last checkpoint comes what somebody who controls the machine could have changed or removed "
            f"without leaving a trace: {report.unsigned} of the records"
        )
    if not outside_head:
        report.limits.append(
            "records may have been cut off the end together with the head file; to rule that out, compare with a copy "
            f"of `{HEAD_FILE}` that was kept on another machine (--head FILE)"
        )
    report.limits.append("whoever held the signing key could have rewritten everything; a signature proves no more")
