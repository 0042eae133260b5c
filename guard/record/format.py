"""The journal's bytes. Sans-io: this module packs, unpacks and hashes, and touches no file.

A journal is a folder of segments `00000001.seg`, `00000002.seg`, ...; a finished one may be `00000001.seg.gz`. All
integers are big-endian, all digests SHA-256.

    segment  = SegmentHeader record*
    SegmentHeader = magic(8) journal_id(16) number(u32) first_seq(u64) previous_chain(32)              68 bytes
    record   = prefix head kind salt(16) payload
    prefix   = size(u32) check(u32) flags(u8)         size: bytes after the prefix; check: size XOR a constant
    head     = seq(u64) at(u64, ns since epoch) payload_size(u32) kind_size(u8) digest(32) chain(32)
    digest   = H(salt payload)
    chain    = H(0x00 previous_chain seq at payload_size kind_size digest kind)

The first `previous_chain` of a segment is `H(0x02 SegmentHeader)`, and the header holds the last chain of the segment
before: one chain runs through the whole journal. The chain covers salt and payload only through `digest`, so both can
be dropped later (the salt makes short payloads unguessable from their digest) while the chain still verifies.

`flags` is 0, or 1 for a *reduced* record: retention has put zeros in place of the salt, and in place of the payload
what may stay of it (its *residue*, often nothing), filled up with zeros. The record keeps its size, so no position in
the segment changes. Nothing in the chain says that this was allowed, or what stayed: the segment's signed tombstone
does (`tombstones`), and without one a reduced record is damage.

`chain` is at the same time the RFC 6962 leaf hash of the record (leaf data: previous_chain and the head's fields), so
the Merkle tree over a segment costs inner nodes only. A *checkpoint* is a record whose payload signs, with Ed25519, the
position and chain right before it and the Merkle root of the segment up to there; a segment that is finished ends with
a final one. The check word tells a record that was cut off (the prefix is whole, bytes are missing) from a damaged
length.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from guard.record.errors import DamagedJournal

MAGIC = b"SLGJRNL1"
SALT_SIZE = 16
MAX_PAYLOAD = 128 * 1024 * 1024  # bytes; a 16 MiB statement, escaped as JSON, fits
CHECK = 0x5A17C3E9
REDUCED = 1  # the only flag
NO_CHAIN = bytes(32)  # `previous_chain` of the first segment

PREFIX = struct.Struct(">IIB")
HEAD = struct.Struct(">QQIB32s32s")
CHAINED = struct.Struct(">QQIB32s")  # the head without its chain
BEGINNING = struct.Struct(">IIBQQIB32s")  # prefix and head, without the chain
HEADER = struct.Struct(">8s16sIQ32s")
PREFIX_SIZE, HEAD_SIZE, HEADER_SIZE = PREFIX.size, HEAD.size, HEADER.size
MAX_SIZE = HEAD_SIZE + 255 + SALT_SIZE + MAX_PAYLOAD

_CHECKPOINT_DOMAIN = b"sluicegate journal checkpoint v1\x00"
_CHECKPOINT = struct.Struct(">16sIQ32sQ32sB")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first bytes of a segment file."""

    journal_id: bytes
    number: int
    first_seq: int
    previous_chain: bytes

    def encode(self) -> bytes:
        return HEADER.pack(MAGIC, self.journal_id, self.number, self.first_seq, self.previous_chain)

    @classmethod
    def decode(cls, data: bytes, expected_number: int) -> SegmentHeader:
        """Raises DamagedJournal; torn when the file ends inside the header."""
        if len(data) < HEADER_SIZE:
            torn = MAGIC.startswith(data[:8])
            raise DamagedJournal(expected_number, 0, "the file ends inside the segment header", torn=torn)
        magic, journal_id, number, first_seq, previous = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise DamagedJournal(expected_number, 0, "the file does not start like a journal segment")
        if number != expected_number:
            raise DamagedJournal(expected_number, 24, f"the header says that this is segment {number}")
        return cls(journal_id, number, first_seq, previous)

    def chain(self) -> bytes:
        """What the first record of the segment is chained to."""
        return hashlib.sha256(b"\x02" + self.encode()).digest()


@dataclass(frozen=True, slots=True)
class Record:
    """One decoded record and where it is: `offset` and `end` are byte positions in the (uncompressed) segment."""

    segment: int
    offset: int
    end: int
    seq: int
    at: int
    kind: str
    payload: bytes  # of a reduced record its residue
    chain: bytes
    reduced: bool = False


def record_size(prefix: bytes, segment: int, offset: int) -> int:
    """Bytes that follow this prefix. Raises DamagedJournal before anything is allocated from a wrong length."""
    size: int
    size, check, flags = PREFIX.unpack(prefix)
    if size ^ CHECK != check:
        raise DamagedJournal(segment, offset, "the length of the record is damaged")
    if not HEAD_SIZE + 1 + SALT_SIZE <= size <= MAX_SIZE:
        raise DamagedJournal(segment, offset, f"the length of the record ({size} bytes) is impossible")
    if flags & ~REDUCED:
        raise DamagedJournal(segment, offset, f"the record has unknown flags ({flags})")
    return size


def is_reduced(prefix: bytes) -> bool:
    """Whether retention was at this record; ask `record_size` first, which checks the prefix."""
    return bool(prefix[-1])


def open_record(body: bytes, segment: int, offset: int, previous: bytes, seq: int, *, reduced: bool = False) -> Record:
    """Decode and verify the bytes after a prefix. `previous` and `seq`: what the chain says must come next.

    Of a reduced record the head is verified, not the residue.
    """
    found_seq, at, payload_size, kind_size, digest, chain = HEAD.unpack_from(body)
    kind = body[HEAD_SIZE : HEAD_SIZE + kind_size]
    salted = body[HEAD_SIZE + kind_size :]
    if len(kind) != kind_size or len(salted) != SALT_SIZE + payload_size:
        raise DamagedJournal(segment, offset, "the lengths inside the record disagree", seq=seq)
    if found_seq != seq:
        why = f"expected record {seq} here, found {found_seq}: records were removed, added or moved"
        raise DamagedJournal(segment, offset, why, seq=seq)
    payload = opened(salted, digest, reduced=reduced)
    if payload is None:
        raise DamagedJournal(segment, offset, "the payload was changed", seq=seq)
    chained = CHAINED.pack(found_seq, at, payload_size, kind_size, digest)
    if hashlib.sha256(b"\x00" + previous + chained + kind).digest() != chain:
        why = "the record does not follow from the one before it: it or an earlier one was changed"
        raise DamagedJournal(segment, offset, why, seq=seq)
    end = offset + PREFIX_SIZE + len(body)
    try:
        name = kind.decode("ascii")
    except UnicodeDecodeError:
        raise DamagedJournal(segment, offset, "the record's kind is no plain word", seq=seq) from None
    return Record(segment, offset, end, found_seq, at, name, payload, chain, reduced)


def opened(salted: bytes, digest: bytes, *, reduced: bool) -> bytes | None:
    """The payload behind its salt, or the residue of a reduced record; None where it is not what was written."""
    if reduced:
        return None if any(salted[:SALT_SIZE]) else salted[SALT_SIZE:].rstrip(b"\x00")
    return salted[SALT_SIZE:] if hashlib.sha256(salted).digest() == digest else None


def reduce_record(body: bytes, residue: bytes) -> bytes:
    """The whole reduced record (prefix included) for the bytes after a prefix. `residue` must not end with a zero byte.

    Raises ValueError when the residue is longer than the payload was.
    """
    _, _, payload_size, kind_size, _, _ = HEAD.unpack_from(body)
    if len(residue) > payload_size or residue.endswith(b"\x00"):
        raise ValueError("this residue does not fit")
    head = body[: HEAD_SIZE + kind_size]
    filling = bytes(payload_size - len(residue))
    return b"".join((PREFIX.pack(len(body), len(body) ^ CHECK, REDUCED), head, bytes(SALT_SIZE), residue, filling))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint signs: the journal up to and including record `seq`, all in one segment's tree.

    `seq` is 0 for a journal without records. `final`: nothing but this checkpoint follows in the segment.
    """

    journal_id: bytes
    segment: int
    seq: int
    chain: bytes
    tree_size: int
    root: bytes
    final: bool

    def message(self) -> bytes:
        """The bytes that are signed."""
        return _CHECKPOINT_DOMAIN + _CHECKPOINT.pack(
            self.journal_id, self.segment, self.seq, self.chain, self.tree_size, self.root, self.final
        )


_UNSETTLED = 64  # leaves, a power of two: hashed together they take some tens of microseconds
_WORTHWHILE = 32  # leaves: together they take half as long as one by one


class MerkleTree:
    """The root over a growing list of leaf hashes (RFC 6962, section 2.1), in logarithmic memory once it is settled."""

    __slots__ = ("_new", "_peaks", "_settled")

    def __init__(self) -> None:
        self._settled = 0  # leaves that are in `_peaks`
        self._peaks: list[bytes] = []  # roots of the complete subtrees, largest first: one per bit set in `_settled`
        self._new: list[bytes] = []  # leaves that are in none of them yet

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return self._settled + len(self._new)

    def add(self, leaf: bytes) -> None:
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        self._new.extend(leaves)
        if len(self._new) >= _UNSETTLED:
            self.settle()

    def settle_ahead(self) -> None:
        """For a moment when nobody waits: as `settle`, once that is worthwhile."""
        if len(self._new) >= _WORTHWHILE:
            self.settle()

    def settle(self) -> None:
        """Does the hashing that is left to do: `root` would, and might be in more of a hurry."""
        size, peaks, new, sha256 = self._settled, self._peaks, self._new, hashlib.sha256
        at = 0
        while at < len(new):
            # the largest complete subtree that begins here: no larger than the one before it, and all of it is there
            block = size & -size or _UNSETTLED
            while block > len(new) - at:
                block >>= 1
            level = new[at : at + block]
            while len(level) > 1:
                pairs = zip(level[::2], level[1::2], strict=True)
                level = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
            root, rest = level[0], size // block
            while rest & 1:
                root = sha256(b"\x01" + peaks.pop() + root).digest()
                rest >>= 1
            peaks.append(root)
            at += block
            size += block
        self._settled = size
        new.clear()

    def copy(self) -> MerkleTree:
        self.settle()
        copied = MerkleTree()
        copied._settled, copied._peaks = self._settled, list(self._peaks)
        return copied

    def root(self) -> bytes:
        """H() of nothing for an empty tree."""
        self.settle()
        if not self._peaks:
            return hashlib.sha256().digest()
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = hashlib.sha256(b"\x01" + peak + root).digest()
        return root
