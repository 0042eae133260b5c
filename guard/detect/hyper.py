"""hyperscan, as far as this package needs it: compile expressions, say where they match in a block of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hyperscan


class DetectError(Exception):
    """Detection does not work: what needed it must not pass. The text has nothing of what was scanned."""


def _hit(number: int, begin: int, end: int, _flags: int, hits: Any) -> None:
    # a module's function: python-hyperscan keeps no reference to a callback of its own
    hits.append((number, begin, end))


class Expressions:
    """Compiled expressions. For one thread at a time: its scratch space is shared by its calls."""

    def __init__(self, expressions: Sequence[tuple[bytes, int]]) -> None:
        """Expressions with their flags. Raises DetectError where hyperscan cannot be used: there is no slower way."""
        self._database: Any = None
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
                self._database.scan(data, match_event_handler=_hit, context=hits)
            except Exception as e:
                raise DetectError(f"hyperscan failed: {type(e).__name__}") from e
        return hits
