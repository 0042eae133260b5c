"""Column patterns: globs on `schema.table.column`.

`*` any characters (dots too), `?` one character, `[abc]`, `[!abc]`. Letter case does not count: a pattern that is
written in another case than the catalog's must mask, not silently miss.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

_TOKEN = re.compile(r"(\*)|(\?)|(\[!?\]?[^\]]*\])|(.)", re.DOTALL)
_STAR = "*"


@dataclass(frozen=True, slots=True)
class _Token:
    """One step of a pattern: a star, or a test on a single character."""

    star: bool
    test: re.Pattern[str] | None = None

    def accepts(self, char: str) -> bool:
        return self.test is not None and self.test.match(char) is not None


def problem(pattern: str) -> str | None:
    """Why this pattern can never match a column, None when it can."""
    if not pattern.strip():
        return "a column pattern is empty"
    if pattern.count(".") < 2 and "*" not in pattern:
        return f"column pattern `{pattern}` has no schema or table: write schema.table.column, or *.{pattern}"
    return None


class ColumnGlob:
    """One compiled pattern."""

    __slots__ = ("_regex", "_tokens", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        folded = pattern.casefold()
        self._regex = re.compile(fnmatch.translate(folded))
        self._tokens = tuple(
            _Token(star=m[0] == _STAR, test=None if m[0] == _STAR else re.compile(fnmatch.translate(m[0])))
            for m in _TOKEN.finditer(folded)
        )

    def matches(self, column: str) -> bool:
        return self._regex.match(column.casefold()) is not None

    def reaches(self, relation: str) -> bool:
        """Whether this pattern could match any column of the relation `schema.table`.

        Runs the pattern over `schema.table.` and asks whether something of it is left that a column name could match.
        """
        states = self._closure({0})
        for char in f"{relation.casefold()}.":
            step: set[int] = set()
            for state in states:
                if state == len(self._tokens):
                    continue
                token = self._tokens[state]
                if token.star:
                    step.add(state)
                elif token.accepts(char):
                    step.add(state + 1)
            states = self._closure(step)
            if not states:
                return False
        return any(state < len(self._tokens) for state in states)

    def _closure(self, states: set[int]) -> set[int]:
        """With every state behind a star that may match nothing."""
        out = set(states)
        for state in states:
            at = state
            while at < len(self._tokens) and self._tokens[at].star:
                at += 1
                out.add(at)
        return out
