"""A thousand rules must not cost much more than ten. Counted in look-ups: a clock would measure the machine."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from guard.enforce.policyset import PolicySet
from guard.enforce.rules import compile_rule
from guard.enforce.schema import Bundle
from protocols.contract import Analysis, Effect, Principal, Resource, SessionFacts

FACTS = SessionFacts("10.0.0.1", "psql")


def policy(count: int) -> Any:
    rules: list[dict[str, Any]] = [{"id": "read", "description": "d", "allow": {"effects": ["data.select", "tx"]}}]
    for n in range(count - 1):
        verb = ("deny", "hold", "allow", "alert", "terminate")[n % 5]
        effects = (["data.delete"], ["ddl.*"], ["data.select"], ["data.insert"])[n % 4]
        pattern = (f"app{n}.*", f"*.secret_{n}", f"public.t{n}", f"pub*.x{n}?")[n % 4]
        rules.append({"id": f"r{n}", "description": "d", verb: {"effects": effects, "relations": [pattern]}})
    bundle = Bundle.model_validate({"version": 1, "name": "b", "description": "d", "rules": rules})
    policies = PolicySet([compile_rule("b", model) for model in bundle.rules], [bundle], "v")
    return policies.for_session(Principal("p", "i"), Resource("r", "postgres"), FACTS)


def calls(count: int, command: Analysis) -> int:
    """Python functions called for one decision, names cached as in a running gateway."""
    session = policy(count)
    session.decide(command, now=0.0, facts=FACTS)
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        session.decide(command, now=0.0, facts=FACTS)
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("effects", [{Effect.DATA_SELECT}, {Effect.DATA_SELECT, Effect.DATA_DELETE}, {Effect.UNKNOWN}])
def test_the_work_does_not_grow_with_the_rules(effects: set[Effect]) -> None:
    command = Analysis("test", frozenset(effects), ("public.orders", "public.customers"), ("public.orders",))
    assert calls(1000, command) <= calls(10, command) + 2
