"""What the configuration says about how long records stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import orjson

from guard.record.tombstones import Level

DAY = 86_400 * 10**9  # ns

# stripping leaves what the gateway did itself, and what its administrators did
KEPT = ("checkpoint", "journal.", "gateway.", "retention.", "admin.", "containment", "revocation", "policy.loaded")


class RetentionConfig(Protocol):
    """The `record.retention` section of the configuration."""

    @property
    def content_days(self) -> float | None: ...
    @property
    def commands_days(self) -> float | None: ...
    @property
    def segments_days(self) -> float | None: ...
    @property
    def max_bytes(self) -> int | None: ...
    @property
    def keep_days(self) -> float: ...
    @property
    def warn_percent(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """Ages are days, counted from the newest record of a segment (checkpoints aside). None: never.

    The defaults remove nothing.
    """

    content_days: float | None = None
    commands_days: float | None = None
    segments_days: float | None = None
    max_bytes: int | None = None
    keep_days: float = 7.0
    warn_percent: float = 90.0

    @classmethod
    def of(cls, config: RetentionConfig) -> RetentionRules:
        return cls(
            config.content_days,
            config.commands_days,
            config.segments_days,
            config.max_bytes,
            config.keep_days,
            config.warn_percent,
        )

    @property
    def any(self) -> bool:
        """Whether anything ever goes by itself."""
        return any(value is not None for value in (*self._ages().values(), self.max_bytes))

    def _ages(self) -> dict[Level, float | None]:
        return {"drop": self.segments_days, "strip": self.commands_days, "thin": self.content_days}

    def by_age(self, now: int) -> list[tuple[Level, str, int]]:
        """`(level, rule, before)` of each rule, the strictest first: what is older than `before` (ns) is due."""
        names: dict[Level, str] = {"drop": "segments_days", "strip": "commands_days", "thin": "content_days"}
        return [
            (level, f"{names[level]}: {days:g}", now - int(max(days, self.keep_days) * DAY))
            for level, days in self._ages().items()
            if days is not None
        ]

    @property
    def by_size(self) -> str:
        """The name of the rule on size."""
        return f"max_bytes: {self.max_bytes}"

    def youngest(self, now: int) -> int:
        """What is younger than this (ns) never goes: a flood of records must not push out the traces of yesterday."""
        return now - int(self.keep_days * DAY)

    def say(self, level: str, rule: str, before: int, now: int) -> bool:
        """Whether these rules ask for this at this moment."""
        if self.max_bytes is not None and (level, rule) == ("drop", self.by_size):
            return before <= self.youngest(now)
        return any((level, rule) == (asked, name) and before <= limit for asked, name, limit in self.by_age(now))

    def encode(self) -> str:
        """For a command line."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def decode(cls, text: str) -> RetentionRules:
        """Raises ValueError, TypeError."""
        document: dict[str, Any] = orjson.loads(text)
        return cls(**document)


def stays(kind: str) -> bool:
    """Whether records of this kind outlive stripping."""
    return any(kind.startswith(word) if word.endswith(".") else kind == word for word in KEPT)
