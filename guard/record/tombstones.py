"""Tombstones: what retention took out of a segment, signed, so that what is left can still be proven.

`journal/removed/NNNNNNNN.json` belongs to one segment and is signed as a whole (Ed25519, the journal's key). It
repeats what the segment's own checkpoints say (range, link to the segments before and after, Merkle root), and lists
the *acts*: by which rule, when, why and on whose word which records were reduced, or that the segment went altogether.
A reduced record that no act names, a missing segment without an act of level `drop`, a tombstone that is not signed
with the key: damage, as ever.

`areas` is a digest over the residues that stand in place of reduced payloads (`AreaDigest`), so they cannot be edited
either. A tombstone is on the disk *before* the segment changes: until then `before` says what the segment looks like,
and whoever reads in between (or after a crash) sees an act that is not carried out yet.

    signature = Ed25519(domain, JSON of everything but `key` and `sig`, keys sorted)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from guard.record.errors import DamagedJournal, RecordError
from guard.record.keys import key_id

FOLDER = "removed"
Level = Literal["thin", "strip", "erase", "drop"]
LEVELS: tuple[Level, ...] = ("thin", "strip", "erase", "drop")

_DOMAIN = b"sluicegate journal tombstone v1\x00"
_NAME = re.compile(r"(\d{8})\.json")
_MAX_FILE = 64 * 1024 * 1024  # bytes
_SORTED = orjson.OPT_SORT_KEYS


class AreaDigest:
    """Digest over the reduced records of a segment, in order: number and residue of each."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, seq: int, residue: bytes) -> None:
        self._hash.update(seq.to_bytes(8) + hashlib.sha256(residue).digest())

    def digest(self) -> bytes:
        return self._hash.digest()


NOTHING_REDUCED = AreaDigest().digest()


@dataclass(frozen=True, slots=True)
class Act:
    """One act of retention on one segment.

    run: its name in `retention.intended` and `retention.done`; intended: number of the former record. rule: what asked
    for it (`content_days: 30`, `erasure`). seqs: the records that it reduced (empty for `drop`: all). counts: how many
    of which kind; size: bytes of payload taken away. kept: records that a hold, or what retention itself still needs,
    kept back.
    """

    run: str
    intended: int
    level: Level
    rule: str
    reason: str
    by: str
    at: int
    seqs: frozenset[int] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """All acts on one segment, oldest first. Times are ns; `last_chain` is what the next segment is chained to."""

    journal_id: bytes
    segment: int
    first_seq: int
    last_seq: int
    first_at: int
    last_at: int
    previous_chain: bytes
    last_chain: bytes
    tree_size: int
    root: bytes
    acts: tuple[Act, ...]
    areas: bytes = NOTHING_REDUCED
    before: bytes = NOTHING_REDUCED

    @property
    def dropped(self) -> bool:
        """Whether the whole segment went, or is about to."""
        return bool(self.acts) and self.acts[-1].level == "drop"

    def act_on(self, seq: int) -> Act | None:
        """The last act that took something of this record."""
        if not self.first_seq <= seq <= self.last_seq:
            return None
        for act in reversed(self.acts):
            if act.level == "drop" or seq in act.seqs:
                return act
        return None

    def reduced(self) -> frozenset[int]:
        """Every record that an act names."""
        return frozenset[int]().union(*(act.seqs for act in self.acts))

    def expects(self, areas: bytes) -> bool:
        """Whether a segment with this `AreaDigest` is one that the acts can have left (the last may be under way)."""
        return areas in (self.areas, self.before)

    def undone(self) -> Tombstone:
        """Without its last act, which was not carried out."""
        return replace(self, acts=self.acts[:-1], areas=self.before, before=self.before)

    def encode(self, key: Ed25519PrivateKey) -> bytes:
        """The file's bytes, signed."""
        document = self._document()
        signature = key.sign(_DOMAIN + orjson.dumps(document, option=_SORTED))
        signed = {**document, "key": key_id(key.public_key()), "sig": signature.hex()}
        return orjson.dumps(signed, option=_SORTED | orjson.OPT_INDENT_2)

    def _document(self) -> dict[str, Any]:
        return {
            "t": "tombstone",
            "journal": self.journal_id.hex(),
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: getattr(self, name).hex() for name in _DIGESTS},
            "acts": [self._act(act) for act in self.acts],
        }

    def _act(self, act: Act) -> dict[str, Any]:
        plain = {name: getattr(act, name) for name in (*_ACT_TEXTS, *_ACT_NUMBERS)}
        return {**plain, "counts": dict(act.counts), "seqs": pack(act.seqs, self.first_seq, self.last_seq)}

    @classmethod
    def decode(cls, data: bytes, expected_segment: int, key: Ed25519PublicKey | None) -> Tombstone:
        """Raises DamagedJournal for everything that is not exactly a tombstone of this segment, signed with `key`."""
        try:
            document = orjson.loads(data)
            signature, signer = bytes.fromhex(document.pop("sig")), document.pop("key")
            made = cls._of(document)
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error):
            raise DamagedJournal(expected_segment, 0, "its tombstone is garbled") from None
        if made.segment != expected_segment:
            raise DamagedJournal(expected_segment, 0, f"its tombstone is that of segment {made.segment}")
        if key is not None:
            try:
                if signer != key_id(key):
                    raise InvalidSignature
                key.verify(signature, _DOMAIN + orjson.dumps(document, option=_SORTED))
            except InvalidSignature:
                raise DamagedJournal(expected_segment, 0, "its tombstone is not signed with this key") from None
        return made

    @classmethod
    def _of(cls, document: dict[str, Any]) -> Tombstone:
        if document.keys() != {"t", "journal", "acts", *_NUMBERS, *_DIGESTS} or document["t"] != "tombstone":
            raise ValueError("not a tombstone")
        numbers: dict[str, Any] = {name: natural(document[name]) for name in _NUMBERS}
        digests: dict[str, Any] = {name: _digest(document[name]) for name in _DIGESTS}
        first, last = numbers["first_seq"], numbers["last_seq"]
        journal = bytes.fromhex(document["journal"])
        if len(journal) != 16 or not 0 < first <= last or not document["acts"]:
            raise ValueError("not a tombstone")
        acts = tuple(_read_act(act, first, last) for act in document["acts"])
        if any(act.level == "drop" for act in acts[:-1]):
            raise ValueError("something happened to a segment after it had gone")
        return cls(journal_id=journal, acts=acts, **numbers, **digests)


_NUMBERS = ("segment", "first_seq", "last_seq", "first_at", "last_at", "tree_size")
_DIGESTS = ("previous_chain", "last_chain", "root", "areas", "before")
_ACT_TEXTS = ("run", "level", "rule", "reason", "by")
_ACT_NUMBERS = ("intended", "at", "size", "kept")


def _read_act(document: dict[str, Any], first: int, last: int) -> Act:
    texts: dict[str, Any] = {name: document[name] for name in _ACT_TEXTS}
    numbers: dict[str, Any] = {name: natural(document[name]) for name in _ACT_NUMBERS}
    counts = {str(kind): natural(count) for kind, count in document["counts"].items()}
    known = {*texts, *numbers, "counts", "seqs"}
    if document.keys() != known or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("not a tombstone")
    if texts["level"] not in LEVELS:
        raise ValueError("not a tombstone")
    return Act(**texts, **numbers, counts=counts, seqs=unpack(document["seqs"], first, last))


def pack(seqs: Iterable[int], first: int, last: int) -> str:
    """Record numbers as a compressed bit field over the segment: bit 0 of the first byte is `first`."""
    field_ = bytearray((last - first) // 8 + 1)
    for seq in seqs:
        place = seq - first
        field_[place >> 3] |= 1 << (place & 7)
    return base64.b64encode(zlib.compress(bytes(field_))).decode()


def unpack(text: str, first: int, last: int) -> frozenset[int]:
    """The inverse of `pack`. Raises ValueError, zlib.error."""
    size = (last - first) // 8 + 1
    engine = zlib.decompressobj()
    try:
        bits = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if len(bits) != size or not engine.eof or engine.unused_data:
        raise ValueError("the field of records has another size")
    found = frozenset(
        first + (at << 3) + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    )
    if found and max(found) > last:
        raise ValueError("a record of another segment")
    return found


def path_of(folder: Path, segment: int) -> Path:
    return folder / FOLDER / f"{segment:08d}.json"


def listed(folder: Path) -> dict[int, Path]:
    """Segment -> tombstone file, ascending; empty where retention was never at work. Raises RecordError."""
    try:
        names = os.listdir(folder / FOLDER)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RecordError(f"cannot read `{folder / FOLDER}`: {error.strerror}") from error
    found = {int(match[1]): folder / FOLDER / name for name in names if (match := _NAME.fullmatch(name))}
    return dict(sorted(found.items()))


def changed_at(folder: Path) -> int:
    """Something that is another number whenever a tombstone was written; 0 where there are none. Raises RecordError."""
    try:
        return (folder / FOLDER).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise RecordError(f"cannot read `{folder / FOLDER}`: {error.strerror}") from error


class Tombstones:
    """The tombstones of a journal folder, each read once. Without a key their form is checked, not their signature."""

    def __init__(self, folder: Path, key: Ed25519PublicKey | None = None) -> None:
        self._folder = folder
        self._key = key
        self._read: dict[int, tuple[tuple[int, int], Tombstone]] = {}

    def get(self, segment: int) -> Tombstone | None:
        """None where there is none. Raises DamagedJournal for one that is not genuine, RecordError."""
        path = path_of(self._folder, segment)
        try:
            found = path.stat()
            stamp = (found.st_ino, found.st_mtime_ns)
            known = self._read.get(segment)
            if known is not None and known[0] == stamp:
                return known[1]
            if found.st_size > _MAX_FILE:
                raise DamagedJournal(segment, 0, "its tombstone is too large to be one")
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(f"cannot read `{path}`: {error.strerror}") from error
        made = Tombstone.decode(data, segment, self._key)
        if len(self._read) >= 64:
            self._read.clear()
        self._read[segment] = (stamp, made)
        return made

    def dropped(self, segment: int) -> Tombstone | None:
        """The tombstone of a segment that went altogether."""
        found = self.get(segment)
        return found if found is not None and found.dropped else None


def natural(value: object, limit: int = 2**64) -> int:
    """A whole number from 0 up. Raises ValueError."""
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("no natural number")
    return value


def _digest(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != 32:
        raise ValueError("no digest")
    return found
