"""What sessions of this gateway are defining anew on one server while others ask, or copy.

A statement that waits on the server for such a definition (its lock) is carried out under the new one, however long ago
it was judged under the old. So a session says which relations it is about to define, before the server hears of it,
and when that is over; whoever gets rows asks whether they may come from something defined since they were judged.

What is stored cannot be masked afterwards. So a session under masks says, too, what it is about to copy from, and until
that is over no other session under masks may give those names another meaning.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from protocols.contract import ANY_RELATION

_LOST = 600_000_000_000  # ns for which a definition may still come true whose session is gone
_LOST_ANY = 30_000_000_000  # ... where it may be of any relation: everybody has to do without them meanwhile
_KEPT = 512  # definitions that are over; of those before them it is known when, and not of what


class Definitions:
    """Of one server. Relations are compared by their last name alone: a new one may hide another schema's.

    `wall` and `monotonic` are clocks in nanoseconds.
    """

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._ahead = wall() - monotonic()  # of the wall clock, at most
        self._open: dict[object, set[str]] = {}
        self._over: deque[tuple[int, frozenset[str]]] = deque()
        self._latest = -1  # ns: when the last of them ended
        self.over_at = 0.0  # monotonic seconds: when the last one was seen to be over
        self._forgotten = -1  # ns: when the last of those ended that are not kept
        self.copies = Copies(monotonic)

    def begin(self, who: object, relations: Iterable[str]) -> None:
        """`who` is about to define these; of none it is not known which."""
        self._now()
        self._open.setdefault(who, set()).update(_bare(relations) or {ANY_RELATION})

    def end(self, who: object, *, certain: bool = True) -> None:
        """Everything that `who` began is there for all, or undone. Safe to call where nothing was begun.

        Not `certain`: the connection is gone, and the server may still be at it.
        """
        names = self._open.pop(who, None)
        if names is None:
            return
        self.over_at = self._monotonic() / 1e9
        at_ns = self._now()
        if not certain:
            at_ns += _still(names)
        self._latest = max(self._latest, at_ns)
        if len(self._over) >= _KEPT:
            self._forgotten = max(self._forgotten, self._over.popleft()[0])
        self._over.append((at_ns, frozenset(names)))

    def quiet_since(self, since_ns: int) -> bool:
        """Nobody is defining anything, or has since then (by the wall clock)."""
        return not self._open and since_ns > self._latest

    def concern(self, who: object, relations: Iterable[str], since_ns: int) -> bool:
        """Whether somebody else is defining one of these, or has since then (by the wall clock)."""
        if self.quiet_since(since_ns):
            return False
        names = _bare(relations)
        if not names:
            return False
        if since_ns <= self._forgotten:
            return True
        meets = any(_meet(names, theirs) for other, theirs in self._open.items() if other is not who)
        return meets or any(at >= since_ns and _meet(names, theirs) for at, theirs in self._over)

    def _now(self) -> int:
        """The wall clock, had nobody put it back: what was judged before an end stays before it."""
        monotonic = self._monotonic()
        self._ahead = max(self._ahead, self._wall() - monotonic)
        return monotonic + self._ahead


class Copies:
    """What sessions under masks store of what they read, while it is in flight. Names as in `Definitions`."""

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic = monotonic
        self._open: dict[object, set[str]] = {}
        self._lost: deque[tuple[int, set[str]]] = deque()  # until when (monotonic ns) the server may be at it

    def begin(self, who: object, relations: Iterable[str]) -> None:
        """`who` is about to copy from these, or into them."""
        self._open.setdefault(who, set()).update(_bare(relations) or {ANY_RELATION})

    def end(self, who: object, *, certain: bool = True) -> None:
        """All that `who` began is stored or undone. Not `certain`: the server may still be at it."""
        names = self._open.pop(who, None)
        if names is None or certain:
            return
        if len(self._lost) >= _KEPT:  # until they are over, any of them may be
            self._lost[-1] = (self._monotonic() + _LOST, {ANY_RELATION})
        else:
            self._lost.append((self._monotonic() + _still(names), names))

    def concern(self, who: object, relations: Iterable[str]) -> bool:
        """Whether somebody else is copying from one of these; of none: from anything."""
        if self._lost:
            now = self._monotonic()
            self._lost = deque((until, names) for until, names in self._lost if until > now)
        if not self._open and not self._lost:
            return False
        ours = _bare(relations) or {ANY_RELATION}
        meets = any(_meet(ours, theirs) for other, theirs in self._open.items() if other is not who)
        return meets or any(_meet(ours, theirs) for _, theirs in self._lost)


def _still(names: set[str]) -> int:
    """Nanoseconds for which a server may still be at what nobody waits for any more."""
    return _LOST_ANY if ANY_RELATION in names else _LOST


def _bare(relations: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in relations}


def _meet(ours: set[str], theirs: set[str] | frozenset[str]) -> bool:
    return not ours.isdisjoint(theirs) or ANY_RELATION in ours or ANY_RELATION in theirs
