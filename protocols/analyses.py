"""Analyses that all sessions on one resource share, bounded by their number and by what they keep.

An analysis stands for a text under one meaning: everything of a session that changes what texts mean. Of a session that
remembers thousands of names that is large, and another one after each of its statements: meanings go by number here.

INVARIANT: a number stands for one meaning for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable
from typing import Any

from cachetools import LRUCache

_ROOM = 4 << 20  # characters of normalised texts
_LEAST = 1024  # characters as which the shortest one counts
_NAMES = 65536  # that all remembered meanings know
_PLAIN = 64  # names as which a meaning counts by itself


def _size(command: Any) -> int:
    return max(_LEAST, len(command.analysis.shape))


def _names(meaning: Hashable) -> int:
    parts = meaning if isinstance(meaning, tuple) else ()
    return _PLAIN + sum(len(part) for part in parts if isinstance(part, Collection) and not isinstance(part, str))


class AnalysisCache:
    """`texts` and `shapes` are keyed by what was read, the number of a meaning, and the catalog's version."""

    def __init__(self) -> None:
        self.texts: LRUCache[Hashable, Any] = LRUCache(_ROOM, _size)
        self.shapes: LRUCache[Hashable, Any] = LRUCache(_ROOM, _size)
        self._meanings: dict[Hashable, tuple[int, int]] = {}  # -> (its number, names that it knows), oldest first
        self._known = 0  # names of all of them
        self._numbers = itertools.count()

    def number(self, meaning: Hashable) -> int:
        """What stands for it. One that was not asked for lately gets another number, and its analyses are lost."""
        found = self._meanings.pop(meaning, None)
        if found is None:
            found = next(self._numbers), _names(meaning)
            self._known += found[1]
        self._meanings[meaning] = found
        while self._known > _NAMES:
            self._known -= self._meanings.pop(next(iter(self._meanings)))[1]
        return found[0]
