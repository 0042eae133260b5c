"""Fingerprints of values that an identity got masked, and the search for them in what it sends out.

A value is reduced to its letters and digits in lower case (`Alice Smith`, `alice  smith` and `ALICE-SMITH` are one),
then to an HMAC. In a text the same is done with its words, alone and joined. That would cost an HMAC per word; so a
word is looked up first among Python's own keyed hashes, whose key is new with each process: what passes that is hashed
properly.

How strong it is: finds a value whole, in any letter case and with any separators, also within what
`guard.detect.expose` opens. Does not find a part of a value, one that was translated, encrypted, or glued to other
letters. A short or common value would be found everywhere: it is not kept (`telling`).

Kept in memory, in one process, for `keep_s`, `most` at a time. They are gone when the process ends, not when policies
are reloaded. Not thread-safe.
"""

from __future__ import annotations

import hmac
import re
import sys
from collections import OrderedDict
from dataclasses import dataclass, field

from guard.detect.expose import Effort, exposed

MIN_KEY = 16
_MOST_WORDS = 12  # of one value; of a longer one the first so many
_MOST_VALUE = 1024  # characters that count
_BLOCK = 262_144  # bytes searched at a time
_OVERLAP = 2048  # ... and bytes of the one before

# letters and digits in lower case, everything else a space; bytes of other alphabets count as letters
_FOLD = bytes(
    b + 32 if 0x41 <= b <= 0x5A else b if 0x30 <= b <= 0x39 or 0x61 <= b <= 0x7A or b >= 0x80 else 0x20
    for b in range(256)
)
_GROUPED = re.compile(rb"(?<![0-9])[0-9]{1,6}(?:[ .()/-]{1,2}[0-9]{1,6}){1,8}(?![0-9])")
_MIN_NUMBER = 8


@dataclass(frozen=True, slots=True)
class Leak:
    """What was found: how many different values. A word alone (`weak`) can be there by chance."""

    strong: int = 0
    weak: int = 0
    complete: bool = True  # False: some of the text was packed too deep or too large to be searched

    def __bool__(self) -> bool:
        """Whether it is likely to be a leak: one telling value, or three words."""
        return self.strong > 0 or self.weak >= 3


@dataclass(slots=True)
class _Entry:
    """One value: its HMAC is the key it is kept under."""

    until: float
    strong: bool
    hashes: tuple[int, int]  # of the value and of its longest word
    shape: tuple[int, int]
    number: bool  # one long word of digits


@dataclass(slots=True)
class _Owner:
    """What one identity got masked."""

    entries: OrderedDict[bytes, _Entry] = field(default_factory=OrderedDict)  # the oldest first
    quick: dict[int, int] = field(default_factory=dict)  # hash of a value or its longest word -> how many have it
    shapes: dict[tuple[int, int], int] = field(default_factory=dict)  # words before and behind that word
    numbers: int = 0  # entries that are a long number in one piece


class Fingerprints:
    """All identities' fingerprints under one key."""

    def __init__(self, key: bytes, *, keep_s: float = 86_400.0, most: int = 200_000, most_each: int = 20_000) -> None:
        """`key`: the gateway's mask key. `most` values of all identities, `most_each` of one: the oldest go first.

        Raises ValueError for a key that is too short, and where Python's string hashes are not random.
        """
        if len(key) < MIN_KEY:
            raise ValueError(f"the key of fingerprints is shorter than {MIN_KEY} bytes")
        if not sys.flags.hash_randomization:
            raise ValueError("fingerprints need random string hashes: unset PYTHONHASHSEED")
        self._key = hmac.digest(key, b"sluicegate leak v1", "sha256")
        self._keep_s = keep_s
        self._most = most
        self._most_each = most_each
        self._owners: OrderedDict[str, _Owner] = OrderedDict()
        self._count = 0
        self._lately: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return self._count

    def saw(self, principal: str, value: str, now: float) -> bool:
        """`principal` received this value masked. False: too short or too common to be kept. Never raises."""
        recent = (principal, hash(value))
        if self._lately.get(recent, 0.0) > now:
            return True
        words = value[:_MOST_VALUE].casefold().encode("utf-8", "replace").translate(_FOLD).split()[:_MOST_WORDS]
        joined = b"".join(words)
        if not telling(words):
            return False
        owner = self._owners.setdefault(principal, _Owner())
        self._owners.move_to_end(principal)
        digest = self._digest(principal, joined)
        entry = owner.entries.get(digest)
        if entry is None:
            self._add(owner, digest, words, joined, now + self._keep_s)
            self._bound(principal, owner)
        else:
            entry.until = now + self._keep_s
            owner.entries.move_to_end(digest)
        if len(self._lately) >= 65_536:
            self._lately.clear()
        self._lately[recent] = now + min(60.0, self._keep_s / 4)
        return True

    def find(self, principal: str, data: bytes, now: float, effort: Effort | None = None) -> Leak:
        """Which of its values are in something that `principal` sends: how many different ones."""
        self._expire(principal, now)
        owner = self._owners.get(principal)
        if owner is None:
            return Leak()
        found: set[bytes] = set()
        texts = exposed(data, effort)
        for text in texts:
            self._search(principal, owner, text, found)
        strong = sum(owner.entries[digest].strong for digest in found)
        return Leak(strong, len(found) - strong, texts.complete)

    def knows(self, principal: str) -> bool:
        """Whether there is anything to look for."""
        return principal in self._owners

    def search(self, principal: str, text: bytes, now: float, found: set[bytes]) -> None:
        """`find` for one form of a text, as it is: adds the fingerprints that are in it. For texts in slices."""
        self._expire(principal, now)
        owner = self._owners.get(principal)
        if owner is not None:
            self._search(principal, owner, text, found)

    def leak(self, principal: str, found: set[bytes]) -> Leak:
        """What `search` has found, weighed."""
        owner = self._owners.get(principal)
        entries = owner.entries if owner is not None else {}
        strong = sum(entry.strong for entry in map(entries.get, found) if entry is not None)
        return Leak(strong, len(found) - strong)

    # ------------------------------------------------------------ keeping

    def _digest(self, principal: str, joined: bytes) -> bytes:
        return hmac.digest(self._key, principal.encode("utf-8", "surrogatepass") + b"\0" + joined, "sha256")[:16]

    def _add(self, owner: _Owner, digest: bytes, words: list[bytes], joined: bytes, until: float) -> None:
        place = max(range(len(words)), key=lambda i: len(words[i]))
        shape = (place, len(words) - place - 1)
        hashes = (hash(joined), hash(words[place]))
        strong = len(words) > 1 or any(0x30 <= b <= 0x39 for b in joined)
        number = len(words) == 1 and len(joined) >= _MIN_NUMBER and joined.isdigit()
        owner.entries[digest] = _Entry(until, strong, hashes, shape, number)
        owner.numbers += number
        for one in set(hashes):
            owner.quick[one] = owner.quick.get(one, 0) + 1
        owner.shapes[shape] = owner.shapes.get(shape, 0) + 1
        self._count += 1

    def _drop(self, owner: _Owner, digest: bytes) -> None:
        entry = owner.entries.pop(digest)
        owner.numbers -= entry.number
        for one in set(entry.hashes):
            owner.quick[one] -= 1
            if not owner.quick[one]:
                del owner.quick[one]
        owner.shapes[entry.shape] -= 1
        if not owner.shapes[entry.shape]:
            del owner.shapes[entry.shape]
        self._count -= 1

    def _bound(self, principal: str, owner: _Owner) -> None:
        while len(owner.entries) > self._most_each:
            self._drop(owner, next(iter(owner.entries)))
        while self._count > self._most:
            name, oldest = next(iter(self._owners.items()))
            self._drop(oldest, next(iter(oldest.entries)))
            if not oldest.entries and name != principal:
                del self._owners[name]

    def _expire(self, principal: str, now: float) -> None:
        owner = self._owners.get(principal)
        while owner is not None and owner.entries:
            digest, entry = next(iter(owner.entries.items()))
            if entry.until > now:
                return
            self._drop(owner, digest)
        if owner is not None:
            del self._owners[principal]

    # ------------------------------------------------------------ searching

    def _search(self, principal: str, owner: _Owner, text: bytes, found: set[bytes]) -> None:
        for at in range(0, len(text), _BLOCK):
            self._search_block(principal, owner, text[max(0, at - _OVERLAP) : at + _BLOCK], found)

    def _search_block(self, principal: str, owner: _Owner, block: bytes, found: set[bytes]) -> None:
        if not block.isascii():
            block = block.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")
        words = block.translate(_FOLD).split()
        quick = owner.quick
        if not quick.keys().isdisjoint(map(hash, words)):
            for i in [i for i, h in enumerate(map(hash, words)) if h in quick]:
                self._look_up(principal, owner, words[i], found)
                for before, behind in owner.shapes:
                    if i >= before and (before or behind) and i + behind < len(words):
                        self._look_up(principal, owner, b"".join(words[i - before : i + behind + 1]), found)
        if not owner.numbers:
            return
        # digits that are in groups here and were in one piece where they were seen
        for match in _GROUPED.finditer(block):
            groups = match[0].translate(_FOLD).split()
            for first in range(len(groups) - 1):
                for last in range(first + 2, len(groups) + 1):
                    joined = b"".join(groups[first:last])
                    if len(joined) >= _MIN_NUMBER:
                        self._look_up(principal, owner, joined, found)

    def _look_up(self, principal: str, owner: _Owner, joined: bytes, found: set[bytes]) -> None:
        if hash(joined) in owner.quick:
            digest = self._digest(principal, joined)
            if digest in owner.entries:
                found.add(digest)


def telling(words: list[bytes]) -> bool:
    """Whether a value of these words (letters and digits, folded) says something when it turns up elsewhere.

    With digits: at least six characters, and four of them digits or a letter among them. Without: two words of ten
    letters together, or one of eight.
    """
    joined = b"".join(words)
    size, numbers = len(joined), len(joined) - len(joined.translate(None, b"0123456789"))
    if len(set(joined)) < 2:
        return False
    if numbers:
        return size >= 6 and (numbers >= 4 or numbers < size)
    return size >= (10 if len(words) > 1 else 8)
