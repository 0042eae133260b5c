"""A state store in a folder of its own, and the journal calls that it made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from guard.state import StateStore


class Journal:
    """Collects what is journalled; raises while `broken` is set."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, Any]]] = []
        self.broken: Exception | None = None

    def __call__(self, kind: str, payload: Mapping[str, Any]) -> None:
        if self.broken is not None:
            raise self.broken
        self.entries.append((kind, payload))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.entries]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def store(tmp_path: Path, journal: Journal) -> Iterator[StateStore]:
    with StateStore(tmp_path / "state.db", journal=journal, busy_timeout=0.2) as opened:
        yield opened
