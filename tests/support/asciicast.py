"""Reads what `protocols.kubernetes.asciicast` writes, strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from protocols.kubernetes.asciicast import Header


@dataclass(frozen=True, slots=True)
class CastEvent:
    at: float  # seconds since the start
    code: str
    data: str


def read(lines: Iterable[str]) -> tuple[Header, list[CastEvent]]:
    """The header and the events. Raises ValueError for what is not asciicast v2, or goes back in time."""
    first, *rest = (json.loads(line) for line in lines if line)
    if first.pop("version") != 2:
        raise ValueError("not asciicast v2")
    events = []
    before = 0.0
    for value in rest:
        match value:
            case [int() | float() as at, "o" | "i" | "r" | "m" as code, str(data)] if math.inf > at >= before:
                before = float(at)
                events.append(CastEvent(before, code, data))
            case _:
                raise ValueError(f"no event: {value}")
    return Header(**first), events
