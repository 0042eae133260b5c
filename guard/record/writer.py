"""The journal's files as one thing to append to: hashing, segments, signatures. `Recorder` decides when.

Errors are plain OSErrors here. INVARIANT: `offset`, `seq`, `chain` and `tree` describe what is in the file; they move
only after a write succeeded, so `cut_back()` undoes whatever a failed one left behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard.record import checkpoints
from guard.record.durable import sync_folder, write_head
from guard.record.errors import RecordError
from guard.record.format import (
    BEGINNING,
    CHECK,
    HEAD_SIZE,
    HEADER_SIZE,
    NO_CHAIN,
    PREFIX_SIZE,
    SALT_SIZE,
    Checkpoint,
    MerkleTree,
    SegmentHeader,
)
from guard.record.keys import load_or_make
from guard.record.reader import Cursor, segment_name
from guard.record.recovery import HEAD_FILE, Tail, find_tail

_SALT_BLOCK = 4096

type Item = tuple[bytes, int, bytes]  # kind, at (ns), payload


class _Sealed:
    """Records that are hashed, to come right behind record `seq` of this chain."""

    __slots__ = ("after", "chain", "items", "leaves", "pieces", "seq")

    def __init__(self, chain: bytes, seq: int) -> None:
        self.after = (chain, seq)
        self.chain, self.seq = chain, seq  # of the last of them
        self.items: list[Item] = []
        self.pieces: list[bytes] = []  # of the file
        self.leaves: list[bytes] = []

    def begins(self, items: Sequence[Item], chain: bytes, seq: int) -> bool:
        """Whether `items`, behind this record, begin with these."""
        return self.after == (chain, seq) and items[: len(self.items)] == self.items


class JournalWriter:
    """Holds the folder's lock. After `open()` there is a current segment, until `close()`."""

    def __init__(self, folder: Path, keys: Path, *, strict: bool) -> None:
        self.folder = folder
        self.strict = strict  # new and finished segments are synced in line
        self.file = self._lock = -1
        self.seq = self.offset = self.segment = self.appended = 0
        self._chain = self._link = NO_CHAIN
        self._tree = MerkleTree()
        self._journal_id = b""
        self._keys = keys
        self._salts, self._salt_at = b"", 0
        self._sealed: _Sealed | None = None

    def open(self, at: int) -> dict[str, Any]:
        """Lock, find and repair the journal's end, start the next segment.

        Returns what was wrong with the end as the facts of a `journal.recovered` record, empty when it was closed
        properly. Raises RecordError (locked, damaged, key missing) or OSError.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"another gateway process writes the journal in `{self.folder}`; stop it first") from None
        has_head = (self.folder / HEAD_FILE).exists()
        fresh = not has_head and not any(self.folder.glob("*.seg*"))
        self._signer = checkpoints.Signer(load_or_make(self._keys, may_make=fresh))
        tail = find_tail(self.folder, self._signer)
        found = {} if tail is None else self._continue(tail, at)
        if tail is None and has_head:  # the process died between writing the head and the first segment
            signed = checkpoints.parse((self.folder / HEAD_FILE).read_bytes())
            self._journal_id = signed.checkpoint.journal_id
        elif tail is None:
            # The head comes first, so that segments without a head are never normal.
            self._journal_id = secrets.token_bytes(16)
            write_head(self.folder, self.sign(at, final=False))
        self._start_segment()
        sync_folder(self.folder)
        return found

    def append(self, items: Sequence[Item]) -> None:
        """Hash and write records in one write(). Raises OSError; then nothing has moved and `cut_back()` is due."""
        sealed, self._sealed = self._sealed, None
        if sealed is None or not sealed.begins(items, self._chain, self.seq):
            sealed = _Sealed(self._chain, self.seq)
        self._seal(sealed, items)
        data = b"".join(sealed.pieces)
        _write_all(self.file, data)
        self._chain, self.seq = sealed.chain, sealed.seq
        self.offset += len(data)
        self.appended += len(data)
        self._tree.extend(sealed.leaves)

    def prepare(self, items: Sequence[Item]) -> None:
        """Does ahead what `append` will have to do with these and more behind them, but for the write. To be called
        where there is time: `append` is waited for. Nothing of the journal moves."""
        self._tree.settle_ahead()
        sealed, self._sealed = self._sealed, None
        if sealed is None or not sealed.begins(items, self._chain, self.seq):
            sealed = _Sealed(self._chain, self.seq)
        self._seal(sealed, items)
        self._sealed = sealed  # only now: one that failed half way is never written

    def _seal(self, sealed: _Sealed, items: Sequence[Item]) -> None:
        """Hashes those of `items` that are not in `sealed` yet."""
        sha256, pack = hashlib.sha256, BEGINNING.pack
        chain, seq, salts, start = sealed.chain, sealed.seq, self._salts, self._salt_at
        pieces, leaves = sealed.pieces, sealed.leaves
        new = items[len(sealed.items) :] if sealed.items else items
        for kind, at, payload in new:
            seq += 1
            if start >= len(salts):
                salts, start = os.urandom(_SALT_BLOCK), 0
                self._salts = salts
            salted = salts[start : start + SALT_SIZE] + payload
            start += SALT_SIZE
            size = len(salted) + len(kind) + HEAD_SIZE
            head = pack(size, size ^ CHECK, 0, seq, at, len(payload), len(kind), sha256(salted).digest())
            chain = sha256(b"".join((b"\x00", chain, head[PREFIX_SIZE:], kind))).digest()
            pieces += (head, chain, kind, salted)
            leaves.append(chain)
        self._salt_at = start  # a salt is never used twice, whatever becomes of the write
        sealed.chain, sealed.seq = chain, seq
        sealed.items += new

    @property
    def has_records(self) -> bool:
        """Whether anything is in the current segment."""
        return self._tree.size > 0

    def cut_back(self) -> None:
        """Remove what a failed append left in the file. Raises OSError."""
        os.ftruncate(self.file, self.offset)

    def sign(self, at: int, *, final: bool) -> bytes:
        """The payload of a checkpoint over everything appended so far."""
        # Before its first record a segment's chain is that of its header; what is signed is the record before it.
        chain = self._chain if self._tree.size else self._link
        root = self._tree.root()
        point = Checkpoint(self._journal_id, self.segment, self.seq, chain, self._tree.size, root, final)
        return self._signer.sign(point, at)

    def finish_segment(self, at: int) -> bytes:
        """Append the final checkpoint; nothing may follow in this segment. Returns its payload."""
        payload = self.sign(at, final=True)
        self.append([(b"checkpoint", at, payload)])
        return payload

    def roll(self, at: int) -> tuple[int, bytes]:
        """Finish the segment and start the next. Returns the old file, for the caller to close, and its checkpoint.

        Raises OSError; then the old segment is still the current one (and `cut_back()` is due).
        """
        before = (self._chain, self.seq, self.offset, self.appended)
        tree = self._tree.copy()
        payload = self.finish_segment(at)
        old = self.file
        try:
            if self.strict:
                os.fsync(old)
            self._start_segment()
        except OSError:
            self._chain, self.seq, self.offset, self.appended = before
            self._tree = tree
            raise
        return old, payload

    def _start_segment(self) -> None:
        """Create the next file with its header and switch to it. Raises OSError and leaves no trace."""
        header = SegmentHeader(self._journal_id, self.segment + 1, self.seq + 1, self._chain)
        path = self.folder / segment_name(header.number)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, header.encode())
            if self.strict:
                os.fsync(file)
                sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self.file, self.segment, self.offset = file, header.number, HEADER_SIZE
        self._chain, self._link, self._tree = header.chain(), header.previous_chain, MerkleTree()

    def _continue(self, tail: Tail, at: int) -> dict[str, Any]:
        """Take up the journal where the life before left it, and finish its last segment."""
        self._journal_id, self.segment, self._tree = tail.journal_id, tail.end.segment, tail.tree
        self.seq, self._chain, self.offset, self._link = tail.end.seq, tail.end.chain, tail.end.offset, tail.link
        if not tail.finished:
            path = self.folder / segment_name(self.segment)
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self.finish_segment(at)
            os.fsync(self.file)
            os.close(self.file)
            self.file = -1
        elif tail.torn_header is None:
            return {}
        return {
            "why": "the gateway process ended without closing its journal",
            "segment": tail.end.segment,
            "last_seq": tail.end.seq,
            "torn_bytes": tail.torn_bytes,
            "torn_segment": tail.torn_header,
        }

    def position(self) -> Cursor:
        return Cursor(self.segment, self.offset, self.seq, self._chain)

    def close(self) -> None:
        """Release the file and the lock, finishing nothing."""
        for handle in (self.file, self._lock):
            if handle >= 0:
                os.close(handle)
        self.file = self._lock = -1


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data)
    while written < len(data):  # a short write: the next one says why, or completes it
        written += os.write(file, data[written:])
