"""Checking a journal offline, with nothing but its folder and the public key: was anything edited, removed, moved?

What is checked: every record's digest and place in the chain, the order and completeness of the segments, every
checkpoint's signature and Merkle root, that each finished segment ends with its final checkpoint, and that the journal
reaches at least as far as its signed head (and as far as a copy of the head that was kept elsewhere, when one is
given).

What retention took away is checked, too: a reduced payload or a missing segment needs a genuine tombstone that names
it, what stands in a payload's place must be what the tombstone signs, and the act must have been announced in the
journal (`retention.intended`) for as long as that record is there. `Report.removed` lists all of it.

What cannot be proven is said in `Report.limits`: it is printed with every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from guard.record import checkpoints
from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import MerkleTree, Record
from guard.record.reader import (
    Cursor,
    check_areas,
    check_reduced,
    follow,
    open_segment,
    read_header,
    read_records,
    segments,
    step_over,
)
from guard.record.recovery import HEAD_FILE
from guard.record.tombstones import Act, AreaDigest, Tombstone, Tombstones, listed

RUNS = ("retention.intended", "retention.done")

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
    # what retention took away: `{segment, level, rule, reason, by, at (s), run, records, counts, bytes, kept,
    # first_seq, last_seq, pending}`; pending: signed, and not carried out yet
    removed: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)  # runs of retention that were announced and not reported done
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
        self.tombstones = Tombstones(folder, key)
        self.acts: list[tuple[int, Act]] = []  # segment and act, as the tombstones have them
        self.intended: dict[int, str] = {}  # seq -> run
        self.done: set[str] = set()
        self.gone: list[tuple[int, int]] = []  # first and last record of segments that went

    def run(self, head: Path | None) -> None:
        # The heads are read first: a journal that is being written only grows past them meanwhile.
        for path in [self.folder / HEAD_FILE, *([head] if head else [])]:
            self._read_head(path)
        known = segments(self.folder)
        at = Cursor()
        last = max(known, default=0)
        for number in range(1, last + 1):
            if number not in known:
                at = self._gone(number, at)
                continue
            try:
                at = self._segment(number, at, newest=number == last, of=last)
            except DamagedJournal:
                if number in segments(self.folder):
                    raise
                at = self._gone(number, at)  # it went while we were about to read it
            else:
                self.report.segments += 1
        if any(act.intended > at.seq for _, act in self.acts):
            # the journal grows while it is read: an act may be younger than where the reading had begun
            for record, _ in follow(self.folder, at, self.tombstones):
                if record.kind in RUNS:
                    self._run(record)
        self._check_acts(last)
        for seq, (_, name) in sorted(self.heads.items()):
            if seq > at.seq:
                why = f"`{name}` proves that the journal reached record {seq}, but it ends with {at.seq}: it was cut"
                raise DamagedJournal(at.segment, at.offset, why, seq=at.seq + 1)

    def _tombstone(self, number: int) -> Tombstone | None:
        found = self.tombstones.get(number)
        if found is None:
            return None
        if found.journal_id != self.journal_id:
            raise DamagedJournal(number, 0, "its tombstone belongs to another journal")
        self.acts += [(number, act) for act in found.acts]
        return found

    def _gone(self, number: int, at: Cursor) -> Cursor:
        """Step over a segment for which a tombstone stands."""
        tombstone = self._tombstone(number)
        if tombstone is not None and not tombstone.dropped:
            why = "the segment is missing; its tombstone is of payloads only"
            raise DamagedJournal(number, 0, why, seq=at.seq + 1)
        at = step_over(Cursor(number, 0, at.seq, at.chain), tombstone)
        assert tombstone is not None  # step_over raised otherwise
        self.gone.append((tombstone.first_seq, tombstone.last_seq))
        self._report(tombstone, pending=False)
        for seq, (chain, name) in self.heads.items():
            if tombstone.first_seq <= seq < tombstone.last_seq:
                self.report.limits.append(
                    f"`{name}` was signed for record {seq}, which retention removed: nobody can compare them any more"
                )
            elif seq == tombstone.last_seq and chain != tombstone.last_chain:
                why = f"its tombstone does not end with the record that `{name}` was signed for"
                raise DamagedJournal(tombstone.segment, 0, why, seq=seq)
        self.report.last_seq = at.seq
        return at

    def _report(self, tombstone: Tombstone, *, pending: bool) -> None:
        whole = tombstone.last_seq - tombstone.first_seq + 1
        for act in tombstone.acts:
            self.report.removed.append(
                {
                    "segment": tombstone.segment,
                    "level": act.level,
                    "rule": act.rule,
                    "reason": act.reason,
                    "by": act.by,
                    "at": act.at / 1e9,
                    "run": act.run,
                    "records": whole if act.level == "drop" else len(act.seqs),
                    "counts": dict(act.counts),
                    "bytes": act.size,
                    "kept": act.kept,
                    "first_seq": tombstone.first_seq,
                    "last_seq": tombstone.last_seq,
                    "pending": pending and act is tombstone.acts[-1],
                }
            )

    def _check_acts(self, last: int) -> None:
        """Every act was announced, and every tombstone is of a segment that is or was there."""
        if beyond := [number for number in listed(self.folder) if not 0 < number < max(last, 1)]:
            raise DamagedJournal(beyond[0], 0, "there is a tombstone, and retention cannot have been there")
        for number, act in self.acts:
            if any(first <= act.intended <= upto for first, upto in self.gone):
                continue
            if self.intended.get(act.intended) != act.run:
                why = (
                    f"its tombstone names run `{act.run}`, which the journal does not announce in record {act.intended}"
                )
                raise DamagedJournal(number, 0, why, seq=act.intended)
        self.report.unfinished = sorted(set(self.intended.values()) - self.done)

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
        areas = AreaDigest()
        whole = 0  # records that a tombstone names, and that have their payload
        # What a checkpoint signs as `chain` is the record before it, also across the border of two segments.
        before, tree = at.chain, MerkleTree()
        with open_segment(self.folder, number) as file:
            tombstone = self._tombstone(number)  # after the file was opened: it is never behind the segment
            allowed = frozenset[int]() if tombstone is None else tombstone.reduced()
            _, at = read_header(file, Cursor(number, 0, at.seq, at.chain), self.journal_id)
            try:
                for record in read_records(file, at):
                    if final:
                        raise DamagedJournal(
                            number, record.offset, "records follow after the segment was finished", seq=record.seq
                        )
                    if record.reduced:
                        check_reduced(record, allowed)
                        areas.add(record.seq, record.payload)
                    elif record.seq in allowed:
                        whole += 1
                    if record.kind == checkpoints.KIND:
                        final = self._checkpoint(record, before, tree)
                    elif record.kind in RUNS and not record.reduced:
                        self._run(record)
                    before = record.chain
                    tree.add(record.chain)
                    at = Cursor(number, record.end, record.seq, record.chain)
                    self._count(record, number, of)
            except DamagedJournal as damage:
                if not (damage.torn and newest):
                    raise
                self.report.torn_bytes = file.seek(0, 2) - at.offset
        if tombstone is not None:
            check_areas(at, areas.digest(), tombstone)
            self._matches(tombstone, at)
            self._report(tombstone, pending=tombstone.dropped or whole > 0 or areas.digest() != tombstone.areas)
        if not newest and not final:
            raise DamagedJournal(
                number, at.offset, "the segment was cut: its final checkpoint is missing", seq=at.seq + 1
            )
        return Cursor(number, at.offset, at.seq, before)

    def _matches(self, tombstone: Tombstone, at: Cursor) -> None:
        """What a tombstone says of its segment must be so while the segment is there to look at."""
        if (tombstone.last_seq, tombstone.last_chain) != (at.seq, at.chain):
            raise DamagedJournal(at.segment, 0, "its tombstone is of other records", seq=tombstone.first_seq)

    def _run(self, record: Record) -> None:
        try:
            run = orjson.loads(record.payload)["run"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return  # it announces nothing, then
        if record.kind == RUNS[0]:
            self.intended[record.seq] = str(run)
        else:
            self.done.add(str(run))

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
    pending = sum(1 for each in report.removed if each["pending"])
    if pending or report.unfinished:
        report.limits.append(
            f"retention has begun and not finished: {len(report.unfinished)} runs, {pending} segments; the gateway "
            "finishes them when it runs"
        )
    if any(not each["pending"] for each in report.removed):
        report.limits.append(
            "what retention removed is listed with its tombstones; that a payload was there is proven, what was in it "
            "cannot be any more, and what is left of a reduced record is the gateway's word at that time"
        )
    if not outside_head:
        report.limits.append(
            "records may have been cut off the end together with the head file; to rule that out, compare with a copy "
            f"of `{HEAD_FILE}` that was kept on another machine (--head FILE)"
        )
    report.limits.append("whoever held the signing key could have rewritten everything; a signature proves no more")
