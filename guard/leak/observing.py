"""The hook by which masked values are remembered: a `ResultMasker` and a `ColumnMask` that tell what they mask.

Wrap the masker of a session where the session is made; protocols notice nothing. A mask whose answer never depends on
the value (`constant`, `withhold`) would never be shown one: it is wrapped as one that does, and answers as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from protocols.contract import ColumnMask, MaskPlan, ResultMasker, ResultShape, ValueKind

# texts of these kinds are worth remembering; a date, a truth value or a document is found everywhere or nowhere
_KINDS = frozenset({ValueKind.TEXT, ValueKind.INTEGER, ValueKind.NUMBER, ValueKind.UUID, ValueKind.ADDRESS})


@dataclass(frozen=True, slots=True)
class ObservedMask:
    """A `ColumnMask` that hands each value to `saw` before it masks it."""

    mask: ColumnMask
    saw: Callable[[str], object]

    @property
    def rule(self) -> str:
        return self.mask.rule

    @property
    def strategy(self) -> str:
        return self.mask.strategy

    @property
    def withhold(self) -> bool:
        return False

    @property
    def constant(self) -> bool:
        return False

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        if kind in _KINDS:
            self.saw(text)
        return None if self.mask.withhold else self.mask.apply(text, kind, limit)


@dataclass(frozen=True, slots=True)
class _Plan:
    columns: Sequence[ColumnMask | None]


class ObservedMasker:
    """A `ResultMasker` whose column masks are observed."""

    def __init__(self, masker: ResultMasker, saw: Callable[[str], object]) -> None:
        self._masker = masker
        self._saw = saw

    def plan(self, shape: ResultShape) -> MaskPlan | None:
        plan = self._masker.plan(shape)
        if plan is None:
            return None
        return _Plan(tuple(None if mask is None else ObservedMask(mask, self._saw) for mask in plan.columns))

    def touches(self, reads: Iterable[str], read_columns: Iterable[str] = ()) -> bool:
        return self._masker.touches(reads, read_columns)
