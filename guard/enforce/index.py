"""The rules of one session as bit masks: rule `n` is bit `n`, a set of rules is one integer.

A decision is a handful of dictionary look-ups and bit operations; a thousand rules are integers of 125 bytes, which is
why they cost hardly more than ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from guard.enforce.patterns import NameIndex
from guard.enforce.rules import GRANTS, Rule
from protocols.contract import Analysis, Effect, Where

# which of a command's relations an effect applies to. What is in none of them stands for itself
READING = frozenset({Effect.DATA_SELECT, Effect.DATA_COPY_OUT, Effect.SECRET_READ})
WRITING = frozenset(
    {
        Effect.DATA_INSERT,
        Effect.DATA_UPDATE,
        Effect.DATA_DELETE,
        Effect.DATA_MERGE,
        Effect.DATA_TRUNCATE,
        Effect.DATA_COPY_IN,
        Effect.DDL_CREATE,
        Effect.DDL_ALTER,
        Effect.DDL_DROP,
        Effect.PRIV_GRANT,
        Effect.PRIV_REVOKE,
        Effect.PRIV_POLICY,
        Effect.PRIV_TRIGGERS,
        Effect.MASK_COPY,
    }
)
TARGETED = frozenset({Effect.ADMIN_LOCK, Effect.ADMIN_MAINT})  # about every relation that is named
CALLING = frozenset(effect for effect in Effect if effect.value.startswith("exec."))


class RuleIndex:
    """The command parts of `rules`, compiled. Who, where from and when are not asked here."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        numbered = list(enumerate(self.rules))
        self.everything = (1 << len(numbered)) - 1
        by_verb = {verb: _mask(n for n, rule in numbered if rule.verb == verb) for verb in _VERBS}
        self.allow, self.hold = by_verb["allow"], by_verb["hold"]
        self.deny, self.terminate = by_verb["deny"], by_verb["terminate"]
        self.alert = _mask(n for n, rule in numbered if rule.alert)
        self.granting = self.allow | self.hold
        # an allow takes part in matching only for its own alert; `match` answers for all others and for these
        self._stops = {e: _mask(n for n, r in numbered if e in _stopping(r)) for e in Effect}
        self._grants = {e: _mask(n for n, r in numbered if r.verb in GRANTS and e in r.grants) for e in Effect}
        self._relations = NameIndex(((n, rule.relations) for n, rule in numbered), granting=False)
        self._columns = NameIndex(((n, rule.columns) for n, rule in numbered), granting=False)
        self._functions = NameIndex(((n, rule.functions) for n, rule in numbered), granting=False)
        self._granted_relations = NameIndex(((n, rule.relations) for n, rule in numbered), granting=True)
        self._granted_functions = NameIndex(((n, rule.functions) for n, rule in numbered), granting=True)
        self._where_stops = {w: _mask(n for n, r in numbered if not r.where or w in r.where) for w in Where}
        self._where_grants = dict(self._where_stops)
        self._where_grants[Where.NONE] = self.everything
        names = sorted({name for rule in self.rules for name, _ in rule.facts})
        self._facts = {name: self._fact_index(name, granting=False) for name in names}
        self._granted_facts = {name: self._fact_index(name, granting=True) for name in names}

    def _fact_index(self, name: str, *, granting: bool) -> NameIndex:
        patterns = (
            (n, [p for fact, globs in rule.facts if fact == name for p in globs]) for n, rule in enumerate(self.rules)
        )
        return NameIndex(patterns, granting=granting)

    def _facts_hold(self, analysis: Analysis, granting: int) -> int:
        """Those of the rules whose every fact has values, all of which fit: what an allow needs."""
        for name, index in self._granted_facts.items():
            if granting & ~index.unlimited:
                values = analysis.facts.get(name, ())
                fitting = self.everything if values else index.unlimited
                for value in values:
                    fitting &= index.rules(value)
                granting &= fitting
        return granting

    def match(self, analysis: Analysis, effects: Iterable[Effect]) -> int:
        """The rules that match any of what the command does."""
        reading = writing = other = 0
        stops = self._stops
        for effect in effects:
            if effect in READING:
                reading |= stops[effect]
            elif effect in WRITING:
                writing |= stops[effect]
            else:
                other |= stops[effect]
        relations = self._relations
        read = _union(relations.rules, analysis.reads, relations.unlimited)
        # what is written without a known name could be any relation
        written = _union(relations.rules, analysis.writes, 0) if analysis.writes else self.everything
        matched = (reading & read) | (writing & written) | (other & (read | written if analysis.writes else read))
        matched &= self._where_stops[analysis.where]
        columns = self._columns
        if matched & ~columns.unlimited:
            matched &= _union(columns.rules, columns_read(analysis), columns.unlimited)
        functions = self._functions
        if matched & ~functions.unlimited:
            matched &= _union(functions.rules, analysis.functions, functions.unlimited)
        for name, index in self._facts.items():
            if matched & ~index.unlimited:
                matched &= _union(index.rules, analysis.facts.get(name, ()), index.unlimited)
        return matched

    def covered(self, analysis: Analysis, effects: Iterable[Effect], granting: int) -> int:
        """Whether the rules in `granting` together cover the whole command: 0, or the rules that take part."""
        granting &= self._where_grants[analysis.where]
        if self._granted_facts:
            granting = self._facts_hold(analysis, granting)
        grants, granted, unlimited = self._grants, self._granted_relations.rules, self._granted_relations.unlimited
        reads, writes = analysis.reads, analysis.writes
        taking_part = read_by = written_by = 0
        for effect in effects:
            able = grants[effect] & granting
            if effect in READING:
                read_by |= able
                names: tuple[str, ...] = reads
            elif effect in WRITING:
                written_by |= able
                names = writes
                if not writes:
                    able &= unlimited
            elif effect in CALLING:
                names = ()
                able &= self._granted_functions.unlimited if not analysis.functions else self.everything
                for function in analysis.functions:
                    if not able & self._granted_functions.rules(function):
                        return 0
            else:
                names = reads + writes if effect in TARGETED else ()
            if not able:
                return 0
            for name in names:
                if not able & granted(name):
                    return 0
            taking_part |= able
        if reads and not read_by and not self._reads_covered(reads, writes, granting, written_by):
            return 0
        if writes and not written_by:
            # no effect says how they are written: then every rule that takes part must be about them
            for name in writes:
                if not taking_part & granted(name):
                    return 0
        return taking_part

    def _reads_covered(self, reads: tuple[str, ...], writes: tuple[str, ...], granting: int, written_by: int) -> bool:
        """A command that reads without an effect that says so (the filter of a DELETE, an EXPLAIN) needs the right to
        read; a rule that lets it write a relation lets it filter that relation, too."""
        able = self._grants[Effect.DATA_SELECT] & granting
        for name in reads:
            rules = able | written_by if name in writes else able
            if not rules & self._granted_relations.rules(name):
                return False
        return True

    def uncovered(self, analysis: Analysis, effects: Iterable[Effect], granting: int) -> list[tuple[Effect, str]]:
        """What `covered` missed: (effect, relation or function, or nothing where no rule grants the effect at all)."""
        granting = self._facts_hold(analysis, granting & self._where_grants[analysis.where])
        relations, functions = self._granted_relations.rules, self._granted_functions.rules
        reads, writes = analysis.reads, analysis.writes
        missing: list[tuple[Effect, str]] = []
        listed = sorted(effects)
        for effect in listed:
            able = self._grants[effect] & granting
            look_up, names = relations, _relations_of(effect, reads, writes)
            if effect in WRITING and not writes:
                able &= self._granted_relations.unlimited
            elif effect in CALLING:
                look_up, names = functions, analysis.functions
                able &= self.everything if names else self._granted_functions.unlimited
            if not able:
                missing.append((effect, ""))
            else:
                missing += [(effect, name) for name in names if not able & look_up(name)]
        able = self._grants[Effect.DATA_SELECT] & granting
        written_by = _union(self._grants.__getitem__, (e for e in listed if e in WRITING), 0) & granting
        if not READING.intersection(listed):
            for name in reads:
                if not (able | (written_by if name in writes else 0)) & relations(name):
                    missing.append((Effect.DATA_SELECT, name))
        if listed and not WRITING.intersection(listed):
            any_effect = _union(self._grants.__getitem__, listed, 0) & granting
            missing += [(listed[0], name) for name in writes if not any_effect & relations(name)]
        return missing


def _relations_of(effect: Effect, reads: tuple[str, ...], writes: tuple[str, ...]) -> tuple[str, ...]:
    if effect in READING:
        return reads
    if effect in WRITING:
        return writes
    return reads + writes if effect in TARGETED else ()


_VERBS = ("allow", "hold", "deny", "terminate", "alert", "mask")


def columns_read(analysis: Analysis) -> tuple[str, ...]:
    """The columns that a rule must reckon with: those the text names, and all of a relation that is read or written
    without naming any (through a view, or as a whole)."""
    named = {column.rpartition(".")[0] for column in analysis.columns}
    whole = tuple(f"{name}.*" for name in (*analysis.reads, *analysis.writes) if name not in named)
    return analysis.columns + whole


def _stopping(rule: Rule) -> frozenset[Effect]:
    return rule.grants if rule.verb == "allow" else rule.stops


def _mask(bits: Iterable[int]) -> int:
    mask = 0
    for bit in bits:
        mask |= 1 << bit
    return mask


def _union[T](look_up: Callable[[T], int], names: Iterable[T], start: int) -> int:
    mask = start
    for name in names:
        mask |= look_up(name)
    return mask
