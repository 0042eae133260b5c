"""From the origins of a result's columns and the rules of a principal to one mask per column.

Which rule applies:
- known origin: every rule with a glob on one of the column's origins; clear: none;
- computed: every rule with a glob on the result column's name; and when the statement reads a relation with a column
  that a rule masks (or one whose columns are not known, where a rule could mask some), the value is withheld unless all
  those rules say `unknown_origin: pass`, or it is known which columns it is computed from and no rule masks any. A
  computed column that also lists columns (its relation was written in the same statement) takes their masks besides.
Of several the strictest wins: withhold > null > redact > hash > tokenise > partial > date > watch; of two alike the one
that shows less (fewer characters kept, a coarser date, a shorter hash); then the earlier one. A `watch` hides nothing:
what is computed from its columns is nobody's secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from guard.mask import strategies
from guard.mask.globs import ColumnGlob, problem
from guard.mask.strategies import MaskRuleError, Transform
from protocols.contract import ANY_RELATION, MaskRule, Origin, ResultColumn, ResultShape, ValueKind

MIN_KEY = 16  # bytes


@dataclass(frozen=True, slots=True)
class ColumnMask:
    """What happens to one column's values, and the rule that says so."""

    rule: str
    strategy: str
    withhold: bool = False
    constant: bool = False
    _transform: Transform = field(default=strategies.withhold, repr=False)

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        """The masked text, valid for `kind`; None is NULL. `limit` as in `protocols.contract.ColumnMask`."""
        return self._transform(text, kind, limit)


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """One entry per output column; None passes."""

    columns: tuple[ColumnMask | None, ...]


class _Compiled:
    """One rule with its patterns compiled."""

    __slots__ = ("columns", "hides", "names", "rule", "strictness")

    def __init__(self, rule: MaskRule) -> None:
        problems = strategies.check_rule(rule)
        problems += [text for pattern in rule.columns if (text := problem(pattern)) is not None]
        if not rule.columns and not rule.names:
            problems.append("a mask names neither columns nor names: it would mask nothing")
        if problems:
            raise MaskRuleError(f"mask rule `{rule.rule}`: {'; '.join(problems)}")
        self.rule = rule
        self.hides = rule.strategy != strategies.WATCH
        self.columns = tuple(ColumnGlob(p) for p in rule.columns)
        self.names = tuple(ColumnGlob(p) for p in rule.names)
        self.strictness = strategies.strictness(rule)

    def origin(self, columns: Iterable[str]) -> bool:
        return any(glob.matches(column) for column in columns for glob in self.columns)

    def named(self, name: str) -> bool:
        return any(glob.matches(name) for glob in self.names)

    def reaches(self, relation: str) -> bool:
        if relation == ANY_RELATION:
            return bool(self.columns)
        return any(glob.reaches(relation) for glob in self.columns)


class Masker:
    """The mask rules of one principal on one resource. Immutable but for its caches, which are bounded."""

    def __init__(self, rules: tuple[MaskRule, ...], key: bytes) -> None:
        """Raises MaskRuleError for a rule or a key that cannot work."""
        if len(key) < MIN_KEY:
            raise MaskRuleError(f"the mask key is shorter than {MIN_KEY} bytes")
        self._rules = tuple(_Compiled(rule) for rule in rules)
        self._key = key
        self.plan = lru_cache(maxsize=1024)(self._plan)
        self._masking = lru_cache(maxsize=4096)(self._rules_within)
        self._on_column = lru_cache(maxsize=16384)(self._rules_on)

    @classmethod
    def of(cls, rules: Iterable[MaskRule], key: bytes) -> Masker | None:
        """A masker of those rules that are about columns; None where there are none."""
        about_columns = tuple(rule for rule in rules if rule.columns or rule.names)
        return cls(about_columns, key) if about_columns else None

    def touches(self, reads: Iterable[str], read_columns: Iterable[str] = ()) -> bool:
        """Whether some rule could apply to a statement that reads these (as in `ResultShape`)."""
        return any(self._masking(relation) for relation in reads) or any(map(self._hiding, read_columns))

    def _plan(self, shape: ResultShape) -> MaskPlan | None:
        """The masks of a result, None when it passes as it is. Cached: call it as `plan(shape)`."""
        if not self._rules:
            return None
        touching = [rule for relation in shape.reads for rule in self._masking(relation)]
        touching += [rule for column in shape.read_columns for rule in self._hiding(column)]
        columns = tuple(self._column(column, touching) for column in shape.columns)
        return MaskPlan(columns) if any(columns) else None

    def _column(self, column: ResultColumn, touching: list[_Compiled]) -> ColumnMask | None:
        if column.origin is Origin.CLEAR:
            return None
        rules = list(dict.fromkeys(rule for origin in column.columns for rule in self._on_column(origin)))
        if column.origin is not Origin.KNOWN:
            if column.depends is not None:
                touching = [rule for one in column.depends for rule in self._hiding(one)]
            for rule in touching:
                if rule.rule.unknown_origin != "pass":
                    return ColumnMask(rule.rule.rule, "withhold", withhold=True, constant=True)
            rules += [rule for rule in self._rules if rule.named(column.name)]
        if not rules:
            return None
        chosen = min(rules, key=lambda rule: rule.strictness).rule
        # the root of an inheritance tree comes last: one value has one token, whichever table it is read through
        domain = column.columns[-1] if column.columns else f"name {column.name.casefold()}"
        return ColumnMask(
            chosen.rule,
            chosen.strategy,
            withhold=chosen.strategy == "null",
            constant=chosen.strategy in ("null", "redact"),
            _transform=strategies.build(chosen, self._key, domain),
        )

    def _rules_within(self, relation: str) -> tuple[_Compiled, ...]:
        return tuple(rule for rule in self._rules if rule.hides and rule.reaches(relation))

    def _hiding(self, column: str) -> tuple[_Compiled, ...]:
        return tuple(rule for rule in self._on_column(column) if rule.hides)

    def _rules_on(self, column: str) -> tuple[_Compiled, ...]:
        return tuple(rule for rule in self._rules if rule.origin((column,)))
