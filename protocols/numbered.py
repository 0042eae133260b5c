"""Texts that differ from one that was judged before in one number only: known without being read again.

Most statements that arrive as text are such: an application puts a key into the same words over and over.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

_MAX = 16  # texts remembered
_PATIENCE = 1000  # texts that found no room
_DIGITS = 9  # of a number: up to here every number is of the same type, in both protocols
# a number that stands by itself, and everything that could make it part of something else
_NUMBER = re.compile(rb"""(?<![\w.$@#'"`\\-])[0-9]{1,9}(?![\w.$@#'"`\\])""")
_PROBES = (b"0", b"1", b"7" * _DIGITS)


class Numbered[V]:
    """`V` is whatever is known of a text and of all that are like it.

    Bounded: the first ones stay, and where they are of little use all go, to make room for others.
    """

    __slots__ = ("_in_vain", "_known")

    def __init__(self) -> None:
        self._known: list[tuple[bytes, bytes, bytes, bytes, V]] = []
        self._in_vain = 0  # asked to remember, while there was no room

    def find(self, text: bytes) -> tuple[V, bytes] | None:
        """-> (what is known of its like, the text as JSON)."""
        for before, after, shown_before, shown_after, known in self._known:
            if text.startswith(before) and text.endswith(after):
                number = text[len(before) : len(text) - len(after)]
                if number.isdigit() and len(before) + len(number) + len(after) == len(text) and len(number) <= _DIGITS:
                    return known, b"".join((shown_before, number, shown_after))
        return None

    def remember(self, text: bytes, known: V, shape: Callable[[bytes], bytes | None]) -> None:
        """`shape` says what texts share that differ in their numbers only."""
        if len(self._known) >= _MAX:
            self._in_vain += 1
            if self._in_vain < _PATIENCE:
                return
            self.clear()
        found = _NUMBER.finditer(text)
        match = next(found, None)
        if match is None or next(found, None) is not None or b"'" in text or b'"' in text:
            return
        before, after = text[: match.start()], text[match.end() :]
        if {shape(b"%b%b%b" % (before, probe, after)) for probe in _PROBES} != {shape(text)}:
            return
        shown_before, shown_after = orjson.dumps(before.decode())[:-1], orjson.dumps(after.decode())[1:]
        self._known.append((before, after, shown_before, shown_after, known))

    def clear(self) -> None:
        self._known.clear()
        self._in_vain = 0
