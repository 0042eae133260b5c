from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guard.enforce import PolicySet

Load = Callable[..., PolicySet]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Policies from rules written as YAML list items; each argument is a bundle (`b0`, `b1`, ...)."""

    def _load(*bundles: str) -> PolicySet:
        paths = []
        for number, rules in enumerate(bundles):
            path = tmp_path / f"b{number}.yaml"
            path.write_text(f"version: 1\nname: b{number}\ndescription: test\nrules:\n{rules}")
            paths.append(path)
        return PolicySet.load(paths)

    return _load
