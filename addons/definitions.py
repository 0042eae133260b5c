"""What sessions of this gateway are defining anew on one server while others ask.

A statement that waits on the server for such a definition (its lock) is carried out under the new one, however long ago
it was judged under the old. So a session says which relations it is about to define, before the server hears of it,
and when that is over; whoever gets rows asks whether they may come from something defined since they were judged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from protocols.contract import ANY_RELATION

_LOST = 600_000_000_000  # ns for which a definition may still come true whose session is gone
_LOST_ANY = 30_000_000_000  # ... where it may be of any relation: everybody has to do without them meanwhile
_KEPT = 512  # definitions that are over; of those before them it is known when, and not of what


class Definitions:
    """Of one server. Relations are compared by their last name alone: a new one may hide another schema's."""

    def __init__(self) -> None:
        self._open: dict[object, set[str]] = {}
        self._over: deque[tuple[int, frozenset[str]]] = deque()
        self._latest = -1  # ns: when the last of them ended
        self.over_at = 0.0  # monotonic seconds: when the last one was seen to be over
        self._forgotten = -1  # ns: when the last of those ended that are not kept

    def begin(self, who: object, relations: Iterable[str]) -> None:
        """`who` is about to define these; of none it is not known which."""
        self._open.setdefault(who, set()).update(_bare(relations) or {ANY_RELATION})

    def end(self, who: object, at_ns: int, *, certain: bool = True) -> None:
        """Everything that `who` began is there for all, or undone. Safe to call where nothing was begun.

        Not `certain`: the connection is gone, and the server may still be at it.
        """
        names = self._open.pop(who, None)
        if names is None:
            return
        self.over_at = time.monotonic()
        if not certain:
            at_ns += _LOST_ANY if ANY_RELATION in names else _LOST
        self._latest = max(self._latest, at_ns)
        if len(self._over) >= _KEPT:
            self._forgotten = max(self._forgotten, self._over.popleft()[0])
        self._over.append((at_ns, frozenset(names)))

    def concern(self, who: object, relations: Iterable[str], since_ns: int) -> bool:
        """Whether somebody else is defining one of these, or has since then."""
        if not self._open and since_ns > self._latest:
            return False
        names = _bare(relations)
        if not names:
            return False
        if since_ns <= self._forgotten:
            return True
        meets = any(_meet(names, theirs) for other, theirs in self._open.items() if other is not who)
        return meets or any(at >= since_ns and _meet(names, theirs) for at, theirs in self._over)


def _bare(relations: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in relations}


def _meet(ours: set[str], theirs: set[str] | frozenset[str]) -> bool:
    return not ours.isdisjoint(theirs) or ANY_RELATION in ours or ANY_RELATION in theirs
