"""How many examples a property is tried with: fewer in the fast lane (`--hypothesis-profile fast`, see conftest)."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # Hypothesis' own default


def examples(usual: int) -> int:
    """`usual`, or as many fewer as the profile in force has fewer than the default."""
    share = settings.default.max_examples / _USUAL if settings.default is not None else 1.0
    return max(10, int(usual * min(1.0, share)))
