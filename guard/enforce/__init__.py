"""Policies: YAML bundles in, decisions out.

`PolicySet.load` reads bundles or raises `ConfigError` with every problem; `for_session` narrows them to one identity on
one resource; `SessionPolicy.decide` answers one command, `explain` says why.

INVARIANTS: no match is deny. A rule that cannot be read stops the load; it never means "no match". Nothing here knows a
protocol, does I/O while deciding, or asks a clock.
"""

from guard.enforce.explain import RuleTrace
from guard.enforce.policyset import PolicySet
from guard.enforce.session import DEFAULT_RULE, SessionPolicy

__all__ = ["DEFAULT_RULE", "PolicySet", "RuleTrace", "SessionPolicy"]
