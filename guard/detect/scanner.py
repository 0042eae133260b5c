"""One pass of hyperscan over a block says where something may be; a pattern's own expression and check then decide.

INVARIANT: what hyperscan cannot do is an error (`DetectError`), at the start or when it happens; nothing is ever
scanned by less than all patterns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import hyperscan

from guard.detect.credentials import CREDENTIALS
from guard.detect.finding import Anchor, Finding, Kind, Pattern, Reach
from guard.detect.hyper import DetectError, Expressions
from guard.detect.known import Known
from guard.detect.personal import PERSONAL

_MOST_COMPILED = 64  # choices of detectors whose compiled form is kept
LEFT = 128  # bytes of left context that a match may depend on

PATTERNS: tuple[Pattern, ...] = (*CREDENTIALS, *PERSONAL)
NAMES = tuple(dict.fromkeys(pattern.name for pattern in PATTERNS))
OWN = "gateway-secret"  # the detector's name for the gateway's own secrets
KINDS = {**{pattern.name: pattern.kind for pattern in PATTERNS}, OWN: Kind.CREDENTIAL}


class Scanner:
    """The patterns (all, or those of the given detectors) and the gateway's own secrets, compiled."""

    def __init__(self, names: Iterable[str] | None = None, known: Known | None = None) -> None:
        """Raises DetectError for an unknown name and where hyperscan cannot be used."""
        wanted = None if names is None else frozenset(names)
        if wanted is not None and (unknown := sorted(wanted - {*NAMES, OWN, *Kind})):
            raise DetectError(f"detector `{unknown[0]}` does not exist: use one of {', '.join((*Kind, *NAMES, OWN))}")
        self._patterns = tuple(p for p in PATTERNS if wanted is None or p.name in wanted or p.kind in wanted)
        own = wanted is None or OWN in wanted or Kind.CREDENTIAL in wanted
        self._known = known if known is not None and own and known.forms else None
        self._anchors: list[tuple[int, Anchor]] = [
            (i, anchor) for i, pattern in enumerate(self._patterns) for anchor in pattern.anchors
        ]
        self._reaches = _reaches(self._patterns)
        self._expressions = _compiled(self._patterns)
        # apart: they change while the gateway runs, and the others take long to compile
        own_forms = self._known.forms if self._known is not None else []
        self._own = Expressions([(b"".join(b"\\x%02x" % b for b in form), 0) for _, form in own_forms])

    def find(self, data: bytes) -> list[Finding]:
        """Everything in a whole text, in order. Findings of different detectors may overlap."""
        return self._found(data, 0)[0]

    def window(self, data: bytes, start: int, limit: int | None = None) -> tuple[list[Finding], int]:
        """What is certain in a text that goes on: findings, and where what is certain ends.

        `data[:start]` was dealt with before and is left context (`LEFT` bytes of it, where there are as many). Between
        `start` and the place returned (`limit` at most) nothing can change; what comes later is to be given again.
        """
        found, matches = self._found(data, start)
        cut = max(start, len(data) - self.held(data))
        if limit is not None:
            cut = max(start, min(cut, limit))
        moved = True
        while moved:  # a match is never cut: two of them may overlap
            moved = False
            for begin, end in matches:
                if begin < cut < end:
                    cut, moved = begin, True
        return [finding for finding in found if finding.end <= cut], cut

    def held(self, data: bytes) -> int:
        """How many bytes at the end could still become part of a match."""
        most = max((reach.held(data) for reach in self._reaches), default=0)
        return max(most, self._known.held(data)) if self._known is not None else most

    def hits(self, data: bytes) -> list[int]:
        """Where something may be: ends of anchors, in order. None: no pattern can match in a text of these bytes."""
        return sorted(end for _, _, end in (*self._expressions.scan(data), *self._own.scan(data)))

    def _found(self, data: bytes, start: int) -> tuple[list[Finding], list[tuple[int, int]]]:
        """Findings, and the spans of all matches (a finding may be a part of its match)."""
        hits, own = self._expressions.scan(data), self._own.scan(data)
        if not hits and not own:
            return [], []
        findings: list[Finding] = []
        matches: list[tuple[int, int]] = []
        anchors = self._anchors
        places: dict[int, set[int]] = {}
        for number, _, end in own:
            assert self._known is not None
            size = len(self._known.forms[number][1])
            if end - size >= start:
                findings.append(Finding(Kind.CREDENTIAL, end - size, end, OWN))
                matches.append((end - size, end))
        for number, begin, end in hits:
            pattern, anchor = anchors[number]
            place = anchor.begins(data, begin, end)
            if place >= start:
                places.setdefault(pattern, set()).add(place)
        for index, starts in places.items():
            pattern_ = self._patterns[index]
            regex, check = pattern_.regex, pattern_.check
            past = start
            for place in sorted(starts):
                if place < past:
                    continue
                match = regex.match(data, place)
                if match is None or match.end() == place:
                    continue
                begin, end = match.span(match.lastindex or 0) if pattern_.inner else match.span()
                if check is None or check(data[begin:end]):
                    past = match.end()
                    findings.append(Finding(pattern_.kind, begin, end, pattern_.name))
                    matches.append(match.span())
        findings.sort(key=lambda f: (f.start, f.end, f.detector))
        return findings, matches


_COMPILED: dict[tuple[Pattern, ...], Expressions] = {}
_COMPILING = threading.Lock()


def _compiled(patterns: tuple[Pattern, ...]) -> Expressions:
    """Once for a process: it takes some 100 ms."""
    with _COMPILING:
        found = _COMPILED.get(patterns)
        if found is None:
            if len(_COMPILED) >= _MOST_COMPILED:
                _COMPILED.pop(next(iter(_COMPILED)))
            anchors = (anchor for pattern in patterns for anchor in pattern.anchors)
            found = Expressions([(anchor.expression, _flags(anchor)) for anchor in anchors])
            _COMPILED[patterns] = found
        return found


def _flags(anchor: Anchor) -> int:
    flags: int = hyperscan.HS_FLAG_CASELESS if anchor.caseless else 0
    return flags | (hyperscan.HS_FLAG_SOM_LEFTMOST if anchor.som else 0)


def _reaches(patterns: Sequence[Pattern]) -> tuple[Reach, ...]:
    """One reach per alphabet, the longest; and each of those that begin at a name."""
    longest: dict[bytes, int] = {}
    opened: dict[bytes, Reach] = {}
    for pattern in patterns:
        reach = pattern.reach
        if reach.open is None:
            longest[reach.alphabet] = max(reach.longest, longest.get(reach.alphabet, 0))
        else:
            opened[reach.open.pattern] = reach
            # the beginning of the name itself
            for alphabet in (p.reach.alphabet for p in PATTERNS if p.reach.open is None):
                longest.setdefault(alphabet, 72)
    return (*(Reach(size, alphabet) for alphabet, size in longest.items()), *opened.values())
