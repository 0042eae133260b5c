"""Refusals on record, without a flood: strangers must not be able to fill the journal, and nothing is lost silently."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# what somebody can cause whom nobody knows, or without any cost
KINDS = frozenset({"session.refused", "cancel.refused", "tls.refused", "client.flood", "admin.refused"})
EACH = 100  # of one client on one listener in one period: each on record by itself
PERIOD = 60.0  # seconds after which those beyond that are on record as a number
MAX_CLIENTS = 10_000  # counted by themselves at a time; those beyond share one count
MAX_REASONS = 10  # told apart in one count
_OTHERS = "(other clients)"


@dataclass(slots=True)
class _Count:
    first: Mapping[str, Any]
    until: float
    seen: int = 0
    left_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Refusals:
    """`record(kind, payload)` puts one on record; a summary has the same kind, and `count`."""

    def __init__(
        self, record: Callable[[str, Mapping[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record = record
        self._clock = clock
        self._counts: dict[tuple[str, str, str], _Count] = {}
        self.totals: Counter[tuple[str, str]] = Counter()  # by listener and kind, on record or counted

    def add(self, kind: str, payload: Mapping[str, Any]) -> None:
        """One refusal, recorded now or counted."""
        key = (kind, str(payload.get("listener", "")), str(payload.get("client", "")))
        self.totals[key[1], kind] += 1
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= MAX_CLIENTS:
                key = (kind, "", _OTHERS)
            count = self._counts.setdefault(key, _Count(payload, self._clock() + PERIOD))
        count.seen += 1
        if count.seen <= EACH:
            self._record(kind, payload)
            return
        count.left_out += 1
        why = str(payload.get("why", ""))
        count.reasons[why if why in count.reasons or len(count.reasons) < MAX_REASONS else "other reasons"] += 1

    def flush(self, *, everything: bool = False) -> None:
        """Puts the counts whose period is over on record; `everything`: the gateway stops."""
        now = self._clock()
        # made in the order in which they end: all periods are equally long
        while self._counts:
            key = next(iter(self._counts))
            count = self._counts[key]
            if count.until > now and not everything:
                return
            del self._counts[key]
            if count.left_out:
                self._record(key[0], _summary(key, count))


def _summary(key: tuple[str, str, str], count: _Count) -> dict[str, Any]:
    told = "; ".join(f"{number} x {why}" for why, number in count.reasons.most_common() if why)
    summary: dict[str, Any] = dict.fromkeys(count.first, "")
    summary |= {"listener": key[1], "client": key[2], "count": count.left_out}
    if "resource" in summary and key[1]:
        summary["resource"] = count.first["resource"]
    if "why" in summary:
        summary["why"] = f"{count.left_out} more within {PERIOD:g} s: {told}"
    return summary
