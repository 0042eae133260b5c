"""The meaning of the rules, one rule at a time and in words.

This is the slow twin of `index`: it says the same by reading each rule literally. `explain` shows it to people, and the
tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guard.enforce.index import CALLING, READING, TARGETED, WRITING, columns_read
from guard.enforce.patterns import matches, touches
from guard.enforce.rules import GRANTS, Rule
from protocols.contract import Analysis, Effect, Principal, Resource, SessionFacts, Where

_OF_ANSWERS = ("http.status", "http.response_type")  # not known while a request is judged: they may be anything
_SHOWN = 3  # names in one sentence


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """What one rule says about a command.

    outcome: `decides` (it or one of its kind gives the answer), `matches` (would stop, or raises its alert, but
    something stricter decides or nothing needs deciding), `covers` (an allow that takes part), `masks`, or `silent`.
    """

    rule: str
    verb: str
    description: str
    outcome: str
    reason: str


def describe(a: Analysis, effects: Iterable[Effect]) -> str:
    """`data.delete on public.orders`, for a sentence."""
    chosen = sorted(effects & a.effects if isinstance(effects, frozenset) else effects)
    if not chosen:
        chosen = sorted(effects)
    words = _list(effect.value for effect in chosen)
    names = a.writes if any(effect in WRITING for effect in chosen) and a.writes else (*a.reads, *a.writes)
    if any(effect in CALLING for effect in chosen) and a.functions:
        names = a.functions
    return f"{words} on {_list(names)}" if names else words


def matched_by(rule: Rule, a: Analysis, effects: frozenset[Effect]) -> tuple[str, str]:
    """(what matches, "") for a rule that stops or alerts, or ("", why it does not)."""
    if rule.where and a.where not in rule.where:
        return "", f"its `where` is {_list(sorted(rule.where))}, the command's is {a.where.value}"
    wanted = rule.grants if rule.verb == "allow" else rule.stops
    common = effects & wanted
    if not common:
        return "", f"none of its effects ({_list(sorted(effect.value for effect in effects)) or 'none'} in the command)"
    if rule.relations:
        common = frozenset(effect for effect in common if _on_relation(rule, effect, a))
        if not common:
            return "", f"about other relations than {_list((*a.reads, *a.writes)) or 'none'}"
    if rule.columns and not any(touches(p, column) for p in rule.columns for column in columns_read(a)):
        return "", f"about other columns than {_list(columns_read(a)) or 'none'}"
    if rule.functions and not any(touches(p, function) for p in rule.functions for function in a.functions):
        return "", f"about other functions than {_list(a.functions) or 'none'}"
    for name, globs in rule.facts:
        if not any(touches(pattern, value) for pattern in globs for value in a.facts.get(name, ())):
            return "", f"its `{name}` is another"
    return describe(a, common), ""


def _on_relation(rule: Rule, effect: Effect, a: Analysis) -> bool:
    if effect in WRITING and not a.writes:
        return True
    names = a.reads if effect in READING else a.writes if effect in WRITING else (*a.reads, *a.writes)
    return any(touches(pattern, name) for pattern in rule.relations for name in names)


def covers(rule: Rule, effect: Effect, a: Analysis, *, relation: str = "", function: str = "") -> bool:
    """Whether an allow or a hold covers one effect, on one relation or of one function where given."""
    if effect not in rule.grants or rule.verb not in GRANTS:
        return False
    if rule.where and a.where is not Where.NONE and a.where not in rule.where:
        return False
    if not facts_covered(rule, a):
        return False
    if relation and rule.relations and not any(matches(pattern, relation) for pattern in rule.relations):
        return False
    if effect in WRITING and not a.writes and rule.relations:
        return False
    if effect in CALLING and rule.functions:
        # without a name: could it cover any of them; where none is known, a rule about some covers nothing
        return any(matches(pattern, function) for pattern in rule.functions) if function else bool(a.functions)
    return True


def facts_covered(rule: Rule, a: Analysis) -> bool:
    """Whether each fact that a granting rule names has a value, and every value fits."""
    for name, globs in rule.facts:
        values = a.facts.get(name, ())
        if not values or not all(any(matches(pattern, value) for pattern in globs) for value in values):
            return False
    return True


def uncovered(rules: Sequence[Rule], a: Analysis, effects: frozenset[Effect]) -> list[tuple[Effect, str]]:
    """What no rule of `rules` covers, as `RuleIndex.uncovered` gives it; empty where everything is covered."""
    missing: list[tuple[Effect, str]] = []
    for effect in sorted(effects):
        if not any(covers(rule, effect, a) for rule in rules):
            missing.append((effect, ""))
            continue
        relations = a.reads if effect in READING else a.writes if effect in WRITING else ()
        if effect in TARGETED:
            relations = (*a.reads, *a.writes)
        for name in relations:
            if not any(covers(rule, effect, a, relation=name) for rule in rules):
                missing.append((effect, name))
        for name in a.functions if effect in CALLING else ():
            if not any(covers(rule, effect, a, function=name) for rule in rules):
                missing.append((effect, name))
    if not effects & READING:
        missing += [(Effect.DATA_SELECT, name) for name in a.reads if not _may_read(rules, name, a, effects)]
    if effects and not effects & WRITING:
        for name in a.writes:
            if not any(covers(rule, effect, a, relation=name) for rule in rules for effect in effects):
                missing.append((min(effects), name))
    return missing


def _may_read(rules: Sequence[Rule], name: str, a: Analysis, effects: frozenset[Effect]) -> bool:
    able = {Effect.DATA_SELECT, *(effects & WRITING if name in a.writes else ())}
    return any(covers(rule, effect, a, relation=name) for rule in rules for effect in able)


def trace(
    rules: Sequence[Rule],
    principal: Principal,
    resource: Resource,
    start: SessionFacts,
    facts: SessionFacts,
    a: Analysis,
    effects: frozenset[Effect],
    now: float,
) -> list[RuleTrace]:
    """Every rule's say; `start` are the facts at the session's begin, `facts` those of this moment."""
    silent = {rule.name: _out_of_force(rule, principal, resource, start, facts, now) for rule in rules}
    traces = [_trace_one(rule, silent[rule.name], a, effects) for rule in rules]
    for verb in ("terminate", "deny"):
        if any(one.verb == verb and one.outcome == "matches" for one in traces):
            return _mark(traces, verb)
    matching = {one.rule for one in traces if one.outcome == "matches"}
    granting = [
        rule
        for rule in rules
        if not silent[rule.name]
        and (rule.verb == "allow" or (rule.name in matching and not rule.only_stops(principal, start)))
    ]
    if not effects or uncovered(granting, a, effects):
        return traces
    if any(one.verb == "hold" and one.outcome == "matches" for one in traces):
        return _mark(traces, "hold")
    return _mark(traces, "allow")


def _mark(traces: list[RuleTrace], verb: str) -> list[RuleTrace]:
    """The traces, with those of the verb that decides marked."""
    return [
        replace(one, outcome="decides") if one.verb == verb and one.outcome in ("matches", "covers") else one
        for one in traces
    ]


def _out_of_force(
    rule: Rule, principal: Principal, resource: Resource, start: SessionFacts, facts: SessionFacts, now: float
) -> str:
    reason = rule.concerns(principal, resource, start)
    if reason:
        return reason
    if not rule.condition.holds(now, facts):
        return "not in force now (`when`, or the application)"
    exemption = rule.exemption(principal, resource, start)
    if exemption is not None and exemption.holds(now, facts):
        return "exempt at this time (`unless`)"
    return ""


def _trace_one(rule: Rule, out_of_force: str, a: Analysis, effects: frozenset[Effect]) -> RuleTrace:
    def answer(outcome: str, reason: str) -> RuleTrace:
        return RuleTrace(rule.name, rule.verb, rule.description, outcome, reason)

    if out_of_force:
        return answer("silent", out_of_force)
    if rule.mask is not None:
        columns = [f"{name}.*" for name in (*a.reads, *a.writes)]
        if rule.mask.columns and not any(touches(p, c) for p in rule.mask.columns for c in columns):
            return answer("silent", "about columns of other relations")
        for name, globs in rule.mask.facts:
            values = a.facts.get(name, ("*",) if name in _OF_ANSWERS else ())
            if not any(touches(pattern, value) for pattern in globs for value in values):
                return answer("silent", f"its `{name}` is another")
        masked = (*rule.mask.columns, *rule.mask.names, *rule.mask.fields, *rule.mask.detectors)
        return answer("masks", f"masks {_list(masked)} ({rule.mask.strategy})")
    if rule.verb == "allow":
        covered = [effect.value for effect in sorted(effects) if _covers_some(rule, effect, a)]
        return answer("covers", f"covers {_list(covered)}") if covered else answer("silent", _why_not(rule, a, effects))
    what, why_not = matched_by(rule, a, effects)
    return answer("matches", what) if what else answer("silent", why_not)


def _covers_some(rule: Rule, effect: Effect, a: Analysis) -> bool:
    if not covers(rule, effect, a):
        return False
    names = a.reads if effect in READING else a.writes if effect in WRITING else ()
    if effect in CALLING and a.functions:
        return any(covers(rule, effect, a, function=name) for name in a.functions)
    return not names or any(covers(rule, effect, a, relation=name) for name in names)


def _why_not(rule: Rule, a: Analysis, effects: frozenset[Effect]) -> str:
    if rule.where and a.where is not Where.NONE and a.where not in rule.where:
        return f"its `where` is {_list(sorted(rule.where))}, the command's is {a.where.value}"
    if not effects & rule.grants:
        return "grants none of the effects"
    if not facts_covered(rule, a):
        return "about other requests"
    return "grants them on other relations or functions"


def _list(words: Iterable[str]) -> str:
    listed = [str(word) for word in words]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
