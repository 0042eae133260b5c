"""The fast index and the literal reading of the rules must agree on every policy and every command."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.enforce.explain import covers, matched_by, uncovered
from guard.enforce.policyset import PolicySet
from guard.enforce.rules import compile_rule
from guard.enforce.schema import Bundle
from protocols.contract import Action, Analysis, Effect, Principal, Resource, SessionFacts, Where
from tests.support.examples import examples

EFFECTS = [
    "data.select",
    "data.insert",
    "data.delete",
    "ddl.drop",
    "ddl.create",
    "exec.call",
    "exec.dynamic",
    "admin.lock",
    "tx",
    "data.write",
    "unknown",
]
RELATIONS = ["a.x", "a.y", "b.x", "B.x", "b.y"]
FUNCTIONS = ["f.one", "f.two", "g.one"]
COLUMNS = ["a.x.c", "a.x.d", "b.x.c", "a.y.*"]
PATTERNS = ["a.*", "*.x", "a.x", "b.?", "*"]
FACTS = SessionFacts("10.0.0.1", "psql")
PRINCIPAL, RESOURCE = Principal("p", "i"), Resource("r", "postgres")


def some(items: list[str], limit: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(items), min_size=1, max_size=limit, unique=True)


@st.composite
def rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    listed = []
    for number in range(draw(st.integers(1, 6))):
        verb = draw(st.sampled_from(["allow", "allow", "allow", "hold", "deny", "terminate", "alert"]))
        effects = draw(some([*EFFECTS, "data.*", "ddl.*", "exec.*", "*"], 5))
        match: dict[str, Any] = {"effects": effects}
        if draw(st.booleans()) and draw(st.booleans()):
            match["relations"] = draw(some(PATTERNS))
        if draw(st.booleans()) and draw(st.booleans()):
            match["where"] = draw(some(["missing", "always_true", "present"]))
        calling = all(effect.startswith("exec.") for effect in effects)
        if (verb != "allow" or calling) and draw(st.integers(0, 3)) == 0:
            match["functions"] = draw(some(["f.*", "*.one", "g.one"]))
        if verb != "allow" and draw(st.integers(0, 3)) == 0:
            match["columns"] = draw(some(["a.x.c", "*.d", "b.*"]))
        if verb not in ("allow", "alert") and draw(st.integers(0, 4)) == 0:
            del match["effects"]
            match.setdefault("relations", draw(some(PATTERNS)))
        rule: dict[str, Any] = {"id": f"r{number}", "description": "d", verb: match}
        if verb == "hold":
            rule["approvers"] = {"groups": ["oncall"], "count": draw(st.integers(1, 3))}
        listed.append(rule)
    return listed


analyses = st.builds(
    Analysis,
    kind=st.just("test"),
    effects=st.frozensets(st.sampled_from([Effect(name) for name in EFFECTS]), max_size=4),
    reads=st.lists(st.sampled_from(RELATIONS), max_size=3, unique=True).map(tuple),
    writes=st.lists(st.sampled_from(RELATIONS), max_size=2, unique=True).map(tuple),
    columns=st.lists(st.sampled_from(COLUMNS), max_size=3, unique=True).map(tuple),
    functions=st.lists(st.sampled_from(FUNCTIONS), max_size=2, unique=True).map(tuple),
    where=st.sampled_from(list(Where)),
)


@settings(max_examples=examples(400), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(rules(), st.lists(analyses, min_size=1, max_size=8))
def test_the_index_means_what_the_rules_say(listed: list[dict[str, Any]], commands: list[Analysis]) -> None:
    bundle = Bundle.model_validate({"version": 1, "name": "b", "description": "d", "rules": listed})
    compiled = [compile_rule("b", model) for model in bundle.rules]
    policy = PolicySet(compiled, [bundle], "v").for_session(PRINCIPAL, RESOURCE, FACTS)
    for command in commands:
        matching = {
            verb: [r for r in compiled if r.verb == verb and matched_by(r, command, command.effects)[0]]
            for verb in ("terminate", "deny", "hold", "alert")
        }
        granting = [rule for rule in compiled if rule.verb == "allow"] + matching["hold"]
        if matching["terminate"]:
            expected, by = Action.TERMINATE, matching["terminate"]
        elif matching["deny"]:
            expected, by = Action.DENY, matching["deny"]
        elif not command.effects or (missing := uncovered(granting, command, command.effects)):
            expected, by = Action.DENY, []
            if command.effects:
                active = sum(1 << n for n, rule in enumerate(compiled) if rule in granting)
                # what the client is told is missing: part of it is enough where an effect is not granted at all
                told = policy._index.uncovered(command, command.effects, active)
                assert told
                assert set(told) <= set(missing)
        elif matching["hold"]:
            expected, by = Action.HOLD, matching["hold"]
        else:
            expected, by = Action.ALLOW, [r for r in granting if any(covers(r, e, command) for e in command.effects)]
        decision = policy.decide(command, now=0.0, facts=FACTS)
        assert decision.action is expected, (decision, command)
        assert decision.rule in ({rule.name for rule in by} or {"default"})
        assert set(decision.alerts) == {rule.name for rule in matching["alert"]}
        assert decision.why
        decides = {one.rule for one in policy.explain(command, 0.0, FACTS) if one.outcome == "decides"}
        if decision.rule == "default":
            assert not decides
        else:
            assert decides <= {rule.name for rule in compiled if rule.verb == decision.action.label}
            assert decision.action is Action.ALLOW or decision.rule in decides
        if expected is Action.HOLD:
            assert decision.hold is not None
            assert decision.hold.count == max(rule.hold.count for rule in by if rule.hold)


@settings(max_examples=examples(150), deadline=None)
@given(rules(), analyses, rules())
def test_another_stopping_rule_never_loosens_a_decision(
    listed: list[dict[str, Any]], command: Analysis, more: list[dict[str, Any]]
) -> None:
    def decide(chosen: list[dict[str, Any]]) -> Action:
        numbered = [{**rule, "id": f"r{number}"} for number, rule in enumerate(chosen)]
        bundle = Bundle.model_validate({"version": 1, "name": "b", "description": "d", "rules": numbered})
        compiled = [compile_rule("b", model) for model in bundle.rules]
        policy = PolicySet(compiled, [bundle], "v").for_session(PRINCIPAL, RESOURCE, FACTS)
        return policy.decide(command, now=0.0, facts=FACTS).action

    stops = [rule for rule in more if "deny" in rule or "terminate" in rule]
    assert decide([*listed, *stops]) >= decide(listed)
