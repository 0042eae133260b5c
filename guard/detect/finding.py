"""What a detector says: where something is and what it is. Never what it was."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """The two families that policies speak of (`exfil.credential`, `exfil.personal`)."""

    CREDENTIAL = "credential"
    PERSONAL = "personal"


@dataclass(frozen=True, slots=True)
class Finding:
    """Bytes `start:end` of what was scanned are a value of this kind; `detector` names the pattern that says so.

    INVARIANT: carries no part of the value. It may be logged and recorded.
    """

    kind: Kind
    start: int
    end: int
    detector: str


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a match can still grow: which bytes it may consist of, and how many of them (its lookahead counted).

    INVARIANT: a match, or the beginning of one, that touches the end of the text lies within the last `longest`
    bytes, and within the run of `alphabet` bytes that ends there, or begins at a match of `open`, which is searched in
    the last `longest` bytes and matches up to their end.
    """

    longest: int
    alphabet: bytes = b""
    open: re.Pattern[bytes] | None = None
    line: int | None = None  # `open` begins at most so many bytes before the last end of a line; None: anywhere

    def held(self, data: bytes) -> int:
        """How many bytes at the end could still become part of a match that is not finished."""
        low = max(0, len(data) - self.longest)
        if self.open is not None:
            if self.line is not None:
                # searching all of it for each piece of a stream takes longer than everything else together
                low = max(low, max(data.rfind(b"\n", low), data.rfind(b"\r", low)) - self.line)
            found = self.open.search(data, low)
            return len(data) - found.start() if found else 0
        tail = data[low:]
        return len(tail) - len(tail.rstrip(self.alphabet))


@dataclass(frozen=True, slots=True)
class Anchor:
    """A hyperscan expression, and how the place follows from its match where a match of the pattern may begin.

    That is `back` bytes before its end; with `seek` where that last stands before its end; with `som` where it begins
    itself. `stretch`: bytes before that place which belong to the match, up to 64 of them.
    """

    expression: bytes
    back: int
    stretch: bytes = b""
    seek: bytes = b""
    som: bool = False
    caseless: bool = False

    def begins(self, data: bytes, begin: int, end: int) -> int:
        """Where a match may begin, given the expression's own match (`begin` counts with `som` only)."""
        if self.som:
            return begin
        start = data.rfind(self.seek, max(0, end - 512), end) if self.seek else end - self.back
        if self.stretch:
            low = max(0, start - 64)
            return low + len(data[low:start].rstrip(self.stretch))
        return start


@dataclass(frozen=True, slots=True)
class Pattern:
    """One detector. `regex` is matched where an anchor says; with `inner` the last group that matched is the value.

    `check` decides on the value's bytes; it must be total and quick.
    """

    name: str
    kind: Kind
    anchors: tuple[Anchor, ...]
    regex: re.Pattern[bytes]
    reach: Reach
    check: Callable[[bytes], bool] | None = None
    inner: bool = False
