"""The rules of one session: a command's analysis in, a decision out.

terminate > deny > hold > allow, whatever the order of the rules. What no rule matches is denied. A hold is an allow
that waits: what it does not name itself must be covered by other rules, or the command is denied at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guard.enforce.explain import RuleTrace, describe, trace
from guard.enforce.index import RuleIndex
from guard.enforce.patterns import NameIndex
from guard.enforce.rules import Condition, Rule
from guard.mask.copies import Copies
from protocols.contract import (
    ANYWHERE,
    Action,
    Analysis,
    Decision,
    Effect,
    HoldTerms,
    MaskRule,
    Principal,
    Resource,
    SessionFacts,
    Store,
)

DEFAULT_RULE = "default"
EMPTY = "empty"  # the `kind` of a command without a statement
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Activity:
    """A rule that is not always in force: only while `condition` holds and `exemption` does not."""

    bit: int
    condition: Condition
    exemption: Condition | None

    def active(self, now: float, facts: SessionFacts) -> bool:
        """Whether the rule is in force now."""
        return self.condition.holds(now, facts) and not (
            self.exemption is not None and self.exemption.holds(now, facts)
        )

    def unchanged_until(self, now: float) -> float:
        """Until when time alone cannot change that."""
        exemption = _FOREVER if self.exemption is None else self.exemption.unchanged_until(now)
        return min(self.condition.unchanged_until(now), exemption)


@dataclass(slots=True)
class _Window:
    """Which rules are in force from `begin` until `end`, for one application name."""

    begin: float
    end: float
    application: str
    active: int


class SessionPolicy:
    """What one identity may do on one resource. Made by `PolicySet.for_session`; lives as long as the session.

    A decision depends on the analysis, on `now` until its `valid_until`, and on `facts.application`.
    """

    def __init__(
        self,
        *,
        version: str,
        principal: Principal,
        resource: Resource,
        facts: SessionFacts,
        index: RuleIndex,
        activities: Sequence[Activity],
        only_stops: int,
        masks: tuple[MaskRule, ...],
        all_rules: tuple[Rule, ...],
    ) -> None:
        self.version = version
        self.principal = principal
        self.resource = resource
        self.masks = masks
        self._facts = facts
        self._index = index
        self._activities = tuple(activities)
        self._granting = index.everything & ~only_stops
        self._all_rules = all_rules
        self._changing = sum(1 << activity.bit for activity in self._activities)
        self._masked = _masked(masks)
        self._copies = Copies(masks)
        self._window: _Window | None = None
        judged = frozenset(name for rule in index.rules for name, _ in rule.facts)
        self.asks = judged | {name for mask in masks for name, _ in mask.facts}
        """The facts that a rule of this session asks about, its masks among them."""
        self.may_connect = self._may_connect()

    def decide(self, a: Analysis, *, now: float, facts: SessionFacts) -> Decision:
        """Judge one command. Pure but for a memo of which rules are in force; `now` is in epoch seconds."""
        effects = self.effects(a)
        decision = self._judge(a, effects, now, facts)
        return decision if effects is a.effects else replace(decision, adds=effects - a.effects)

    def _judge(self, a: Analysis, effects: frozenset[Effect], now: float, facts: SessionFacts) -> Decision:
        index = self._index
        active, until = self._active(now, facts)
        matched = index.match(a, effects)
        # an allow that is out of force may decide by its absence: the answer is good until any rule changes
        valid_until = until if self._changing else _FOREVER
        matched_now = matched & active
        alerts = self._names(matched_now & index.alert)
        if stopped := matched_now & index.terminate:
            return self._stop(Action.TERMINATE, stopped, a, effects, alerts, valid_until)
        if stopped := matched_now & index.deny:
            return self._stop(Action.DENY, stopped, a, effects, alerts, valid_until)
        held = matched_now & index.hold
        granting = ((index.allow & active) | held) & self._granting
        taking_part = index.covered(a, effects, granting)
        if not taking_part and index.granting & self._granting & active and does_nothing(a):
            # whoever may do anything at all may send nothing: a lone semicolon, a comment
            return Decision(Action.ALLOW, DEFAULT_RULE, "an empty command does nothing", self.version)
        if not taking_part:
            return self._uncovered(a, effects, granting, alerts, valid_until)
        if held:
            return self._hold(held, a, effects, alerts, valid_until)
        rule = index.rules[_lowest(taking_part)]
        return Decision(Action.ALLOW, rule.name, f"allowed by `{rule.name}`", self.version, None, alerts, valid_until)

    def effects(self, a: Analysis) -> frozenset[Effect]:
        """The command's effects, with those that depend on this identity's masks.

        `probe`: a filter depends on a column that it sees masked. `mask.copy`: see `copies`.
        """
        effects = a.effects
        if self._masked is not None and a.predicates and any(self._masked.rules(column) for column in a.predicates):
            effects |= {Effect.PROBE}
        if a.stores and self._copies.exposed(a.stores):
            effects |= {Effect.MASK_COPY}
        return effects

    def copies(self, a: Analysis) -> tuple[Store, ...]:
        """What the command stores, moves or renames so that this identity could then read it in the clear."""
        return self._copies.exposed(a.stores)

    def explain(self, a: Analysis, now: float, facts: SessionFacts) -> list[RuleTrace]:
        """What every rule of the set says about the command, and why; in the order of the files."""
        return trace(self._all_rules, self.principal, self.resource, self._facts, facts, a, self.effects(a), now)

    def _active(self, now: float, facts: SessionFacts) -> tuple[int, float]:
        if not self._changing:
            return self._index.everything, _FOREVER
        window = self._window
        if window is None or not window.begin <= now < window.end or window.application != facts.application:
            active, end = self._index.everything, _FOREVER
            for activity in self._activities:
                if not activity.active(now, facts):
                    active &= ~(1 << activity.bit)
                end = min(end, activity.unchanged_until(now))
            window = self._window = _Window(now, end, facts.application, active)
        return window.active, window.end

    def _names(self, bits: int) -> tuple[str, ...]:
        return tuple(rule.name for rule in self._rules(bits)) if bits else ()

    def _rules(self, bits: int) -> list[Rule]:
        rules = []
        while bits:
            rules.append(self._index.rules[_lowest(bits)])
            bits &= bits - 1
        return rules

    def _stop(
        self,
        action: Action,
        stopped: int,
        a: Analysis,
        effects: frozenset[Effect],
        alerts: tuple[str, ...],
        valid_until: float,
    ) -> Decision:
        rule = self._index.rules[_lowest(stopped)]
        what = describe(a, effects & rule.stops)
        does = "denies" if action is Action.DENY else "ends this session because of"
        if effects & rule.stops == {Effect.MASK_COPY}:
            what = f"{what} ({_copying(self.copies(a))})"
        why = f"rule `{rule.name}` {does} {what}: {rule.message or _advice(rule)}"
        return Decision(action, rule.name, why, self.version, None, alerts, valid_until)

    def _hold(
        self, held: int, a: Analysis, effects: frozenset[Effect], alerts: tuple[str, ...], valid_until: float
    ) -> Decision:
        rules = self._rules(held)
        terms = narrowest(rule.hold or HoldTerms() for rule in rules)
        first = rules[0]
        if terms is None:
            names = ", ".join(f"`{rule.name}`" for rule in rules)
            why = f"rules {names} hold this command for different approvers: send its parts one at a time"
            return Decision(Action.DENY, first.name, why, self.version, None, alerts, valid_until)
        what = describe(a, effects & first.stops)
        why = f"rule `{first.name}` holds {what} until {_approval(terms)}: {first.message or first.description}"
        return Decision(Action.HOLD, first.name, why, self.version, terms, alerts, valid_until)

    def _uncovered(
        self,
        a: Analysis,
        effects: frozenset[Effect],
        granting: int,
        alerts: tuple[str, ...],
        valid_until: float,
    ) -> Decision:
        missing = self._index.uncovered(a, effects, granting)
        said = [f"{effect.value} on {name}" if name else describe(a, (effect,)) for effect, name in missing]
        words = list(dict.fromkeys(said))
        what = ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
        who = f"{self.principal.subject} on {self.resource.name}"
        if (Effect.UNKNOWN, "") in missing:
            reason = f" ({a.why})" if a.why else ""
            why = (
                f"it cannot be proved what this command does{reason}, and no rule grants `unknown` to {who}: "
                "write it in a plainer form, or ask the owners of the policy"
            )
        elif all(effect is Effect.MASK_COPY for effect, _ in missing):
            why = (
                f"{_copying(self.copies(a))}, and no rule allows `mask.copy` for {who}: leave it out, store it in a "
                "column that is masked alike, or ask the owners of the policy"
            )
        else:
            why = f"no rule allows {what or 'this'} for {who}: ask the owners of the policy for a rule that does"
        return Decision(Action.DENY, DEFAULT_RULE, why, self.version, None, alerts, valid_until)

    def _may_connect(self) -> bool:
        index = self._index
        refusing = (index.deny | index.terminate) & ~self._changing
        for n, rule in enumerate(index.rules):
            narrowed = rule.relations or rule.columns or rule.functions or rule.where or rule.facts
            if refusing >> n & 1 and not narrowed and rule.stops == frozenset(Effect):
                return False
        return bool(index.granting & self._granting)


def _masked(masks: Sequence[MaskRule]) -> NameIndex | None:
    # a column that is only watched shows its values anyway
    patterns = [pattern for mask in masks if mask.strategy != "watch" for pattern in mask.columns]
    return NameIndex([(0, patterns)], granting=False) if patterns else None


def does_nothing(a: Analysis) -> bool:
    """Whether a protocol says outright that there is no command in it; an analysis that found nothing is not that."""
    return a.kind == EMPTY and not (a.effects or a.reads or a.writes or a.functions or a.columns or a.why)


def narrowest(terms: Iterable[HoldTerms]) -> HoldTerms | None:
    """Terms that satisfy all of several holds: the narrowest approvers, the largest count, the shortest time.

    None where no set of approvers lies within all others: one approval could then not stand for every rule.
    """
    listed = list(terms)
    for one in listed:
        if all(_within(one, other) for other in listed):
            return replace(
                one, count=max(other.count for other in listed), expires_s=min(other.expires_s for other in listed)
            )
    return None


def _within(one: HoldTerms, other: HoldTerms) -> bool:
    if other.approver_issuers and not (one.approver_issuers and one.approver_issuers <= other.approver_issuers):
        return False
    if not other.approver_groups and not other.approver_subjects:
        return True
    if not one.approver_groups and not one.approver_subjects:
        return False
    return one.approver_groups <= other.approver_groups and one.approver_subjects <= other.approver_subjects


def _approval(terms: HoldTerms) -> str:
    who = sorted([*(f"group {name}" for name in terms.approver_groups), *terms.approver_subjects])
    of = f" of {' or '.join(sorted(terms.approver_issuers))}" if terms.approver_issuers else ""
    people = "one approver" if terms.count == 1 else f"{terms.count} approvers"
    named = f" out of {' or '.join(who)}" if who else ""
    return f"{people}{named}{of} agree{'s' if terms.count == 1 else ''} within {terms.expires_s:g} s"


def _copying(stores: Sequence[Store]) -> str:
    """In words what would become clear; of several the first."""
    if not stores:
        return "a masked value would be stored in the clear"
    first = stores[0]
    one = first.sources[0]
    source = "what may be masked for you" if one == ANYWHERE else f"`{one}`, which is masked for you,"
    more = f" (and {len(stores) - 1} more)" if len(stores) > 1 else ""
    if not first.target:
        return f"{source} would be dropped{more}, and its mask with it"
    place = "where no mask applies" if first.target == ANYWHERE else f"in `{first.target}`, which is not masked alike"
    return f"{source} would be stored {place}{more}"


def _advice(rule: Rule) -> str:
    return f"{rule.description.rstrip('.')}; ask the owners of the policy if you need it"


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
