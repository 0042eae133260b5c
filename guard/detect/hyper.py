"""hyperscan, as far as this package needs it: compile expressions, say where they match in a block of bytes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import hyperscan


class DetectError(Exception):
    """Detection does not work: what needed it must not pass. The text has nothing of what was scanned."""


def _hit(number: int, begin: int, end: int, _flags: int, hits: Any) -> None:
    # a module's function: python-hyperscan keeps no reference to a callback of its own
    hits.append((number, begin, end))


class _Scratch(threading.local):
    """Where one thread notes how far it has come."""

    space: Any = None


class Expressions:
    """Compiled expressions, for any number of threads: each gets scratch space of its own."""

    def __init__(self, expressions: Sequence[tuple[bytes, int]]) -> None:
        """Expressions with their flags. Raises DetectError where hyperscan cannot be used: there is no slower way."""
        self._database: Any = None
        self._scratch = _Scratch()
        self._cloning = threading.Lock()
        if not expressions:
            return
        try:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            self._database.compile(
                expressions=[expression for expression, _ in expressions],
                ids=list(range(len(expressions))),
                elements=len(expressions),
                flags=[flags for _, flags in expressions],
            )
            self.scan(b"is this processor one that hyperscan runs on?")
        except Exception as e:
            raise DetectError(f"content detection cannot start: {e}. reinstall `hyperscan` for this processor") from e

    def scan(self, data: bytes) -> list[tuple[int, int, int]]:
        """(number of the expression, begin where its flags ask for it, end) of every match. Raises DetectError."""
        hits: list[tuple[int, int, int]] = []
        if self._database is not None and data:
            try:
                space = self._scratch.space or self._space()
                self._database.scan(data, match_event_handler=_hit, context=hits, scratch=space)
            except Exception as e:
                raise DetectError(f"hyperscan failed: {type(e).__name__}") from e
        return hits

    def _space(self) -> Any:
        with self._cloning:  # of the database's own space, which nobody scans with
            self._scratch.space = self._database.scratch.clone()
        return self._scratch.space
