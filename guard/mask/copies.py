"""Which of the values that a command stores would show in the clear what its identity sees masked.

A value may be stored where reading it back shows no more than reading it where it came from:
- it is made of no column that a rule hides; for a computed one, rules that say `unknown_origin: pass` do not count, and
  a name that a rule's `names` fit does: what a result would show is the measure, in both;
- the target shows nothing of any value (strategy `null`);
- it is a plain copy, and the target is masked by the very rule that masks the source, or by one that shows no more than
  whether there is a value (`redact`) where the source's shows that, too.
A computed value has none of that by a mask at the target: part of a value, or a comparison with one, can be chosen so
that what the mask keeps (its ends, equality, whether it is NULL) tells the rest.

What is dropped ends no mask unless the mask names it: a pattern on any table is in force for the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from guard.mask import strategies
from guard.mask.globs import ColumnGlob
from protocols.contract import ANYWHERE, MaskRule, Store

_WILD = frozenset("*?[")
_REMEMBERED = 4096  # names, and stores of one command each


class _Rule:
    """One hiding rule with its patterns compiled."""

    __slots__ = ("columns", "names", "passes", "rule", "strictness")

    def __init__(self, rule: MaskRule) -> None:
        self.rule = rule
        self.columns = tuple(ColumnGlob(pattern) for pattern in rule.columns)
        self.names = tuple(ColumnGlob(pattern) for pattern in rule.names)
        self.passes = rule.unknown_origin == "pass"
        self.strictness = strategies.strictness(rule)

    def hides(self, column: str) -> bool:
        """Whether it masks the column; of `schema.table.*`, whether it masks any."""
        if column == ANYWHERE:
            return bool(self.columns)
        if column.endswith(".*"):
            return any(glob.reaches(column[:-2]) for glob in self.columns)
        return any(glob.matches(column) for glob in self.columns)

    def names_object(self, column: str) -> bool:
        """Whether it masks the column, and says in which table without a wildcard."""
        return any(
            not _WILD.intersection(glob.pattern.rpartition(".")[0]) and self.hides(column) for glob in self.columns
        )

    def named(self, name: str) -> bool:
        return any(glob.matches(name) for glob in self.names)


class Copies:
    """The rules of one identity on one resource. Immutable but for its caches, which are bounded."""

    def __init__(self, rules: Iterable[MaskRule]) -> None:
        hiding = [r for r in rules if (r.columns or r.names) and r.strategy != strategies.WATCH]
        self._rules = tuple(_Rule(rule) for rule in hiding)
        self._on = lru_cache(maxsize=_REMEMBERED)(self._find)
        self.exposed = lru_cache(maxsize=_REMEMBERED)(self._exposed)

    def _exposed(self, stores: tuple[Store, ...]) -> tuple[Store, ...]:
        """Those of the stores that show more than reading their sources does, each with its masked sources only.

        Cached: call it as `exposed(stores)`.
        """
        if not self._rules:
            return ()
        found = []
        for store in stores:
            sources = self._lost(store) if not store.target else self._shown(store)
            if sources:
                found.append(Store(store.target, sources, store.copied, store.name))
        return tuple(found)

    def _find(self, column: str) -> tuple[_Rule, ...]:
        return tuple(rule for rule in self._rules if rule.hides(column))

    def _lost(self, store: Store) -> tuple[str, ...]:
        return tuple(s for s in store.sources if any(rule.names_object(s) for rule in self._on(s)))

    def _shown(self, store: Store) -> tuple[str, ...]:
        """The masked sources that the target would show more of."""
        masked = {s: rules for s in store.sources if (rules := self._counting(store, s))}
        if masked:
            sources = tuple(masked)
        elif store.sources and not store.copied and store.name and any(r.named(store.name) for r in self._rules):
            sources = store.sources
        else:
            return ()
        target = _strictest(self._on(store.target)) if not store.target.endswith("*") else None
        if target is None:
            return sources
        if target.rule.strategy == "null":
            return ()
        source = _strictest([rule for rules in masked.values() for rule in rules])
        if not store.copied or source is None:
            return sources
        if source is target or (target.rule.strategy == "redact" and source.rule.strategy != "null"):
            return ()
        return sources

    def _counting(self, store: Store, source: str) -> Sequence[_Rule]:
        rules = self._on(source)
        return rules if store.copied else [rule for rule in rules if not rule.passes]


def _strictest(rules: Sequence[_Rule]) -> _Rule | None:
    return min(rules, key=lambda rule: rule.strictness, default=None)
