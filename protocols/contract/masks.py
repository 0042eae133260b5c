"""Columns of results, and how they are masked."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class MaskRule:
    """One column mask that applies to this principal on this resource (compiled from a policy)."""

    rule: str
    columns: tuple[str, ...]  # glob patterns on `schema.table.column`
    names: tuple[str, ...]  # glob patterns on a result column's name, for columns without origin
    strategy: str  # redact | null | partial | hash | tokenise | date | watch
    options: Mapping[str, Any] = field(default_factory=dict)  # keep_first, keep_last, precision, ...
    unknown_origin: str = "withhold"  # withhold | pass: computed columns of a statement that reads a masked table
    fields: tuple[str, ...] = ()  # glob patterns on the path of a field in a document (`user.email`, `items[].id`)
    detectors: tuple[str, ...] = ()  # what is masked wherever it is found: `e-mail`, `card`, `credential`, ...
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # fields and detectors: of which requests' answers


class Origin(enum.StrEnum):
    """How well the origin of an output column is known."""

    KNOWN = "known"  # exactly the columns listed
    CLEAR = "clear"  # provably no column's value (constants, count)
    COMPUTED = "computed"  # an expression: origin not known


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One output column as `guard.mask` sees it: its name and where its values come from."""

    name: str
    origin: Origin
    columns: tuple[str, ...] = ()  # `schema.table.column`; a child table's column also lists its parents'
    depends: tuple[str, ...] | None = None  # computed from these and no others; None: from anything that is read


ANY_RELATION = "*"  # among the relations of a ResultShape: the statement may read what its text does not show


@dataclass(frozen=True, slots=True)
class ResultShape:
    """The columns of one result, and what its statement reads: relations (or `ANY_RELATION`) of which it is not known
    what columns they have, and all columns of the others, `schema.table.column`.
    """

    columns: tuple[ResultColumn, ...]
    reads: tuple[str, ...] = ()
    read_columns: tuple[str, ...] = ()

    def of_anything(self) -> ResultShape:
        """The same columns, filled from whatever there may be."""
        return ResultShape(tuple(ResultColumn(one.name, Origin.COMPUTED) for one in self.columns), (ANY_RELATION,))


class ValueKind(enum.StrEnum):
    """What the text given to a `ColumnMask` is. A protocol turns its wire formats into these, and back.

    text: any characters. integer: decimal, with sign. number: decimal with sign and point, no exponent. uuid: hex in
    groups of 8-4-4-4-12. date: `YYYY-MM-DD`. timestamp: `YYYY-MM-DD HH:MM:SS[.ffffff]`, in UTC where it has a zone.
    bytes: hex digits. json: a JSON document. address: an IPv4 or IPv6 address. opaque: only NULL fits.
    """

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    UUID = "uuid"
    DATE = "date"
    TIMESTAMP = "timestamp"
    BYTES = "bytes"
    JSON = "json"
    ADDRESS = "address"
    OPAQUE = "opaque"


class ColumnMask(Protocol):
    """How one column is masked. `withhold`: always NULL. `constant`: the answer never depends on the value."""

    @property
    def rule(self) -> str: ...

    @property
    def strategy(self) -> str: ...

    @property
    def withhold(self) -> bool: ...

    @property
    def constant(self) -> bool: ...

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        """The masked text, valid for `kind`; None is NULL. Never raises for a text of that kind.

        `limit` is what the type can hold: characters of a text, the largest integer, whole digits of a number.
        """


class MaskPlan(Protocol):
    @property
    def columns(self) -> Sequence[ColumnMask | None]: ...


class ResultMasker(Protocol):
    def plan(self, shape: ResultShape) -> MaskPlan | None: ...

    def touches(self, reads: Iterable[str], read_columns: Iterable[str] = ()) -> bool:
        """Whether a rule could apply to a statement that reads these (as in `ResultShape`)."""
