"""What of an answer was masked, by name and never by value, for its record."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.contract import ColumnMask, ValueKind

_MOST = 200  # names in one record
_LONGEST = 300  # characters of one: servers choose some of them


class MaskedNames:
    """The names of one exchange, each once, in the order in which they came."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._more = ""

    def add(self, name: str, rule: str) -> None:
        name = name[:_LONGEST]
        if name in self._names:
            return
        if len(self._names) < _MOST:
            self._names[name] = rule
        else:
            self._more = rule

    def columns(self) -> list[dict[str, str]]:
        """As in the response records of databases, `[{name, masked}]`; empty where nothing was masked."""
        found = [{"name": name, "masked": rule} for name, rule in self._names.items()]
        return [*found, {"name": "and others", "masked": self._more}] if self._more else found


@dataclass(frozen=True, slots=True)
class NotedMask:
    """A `ColumnMask` that notes that it was used. One that only watches shows the value: it masks nothing."""

    mask: ColumnMask
    name: str
    noted: MaskedNames

    @property
    def rule(self) -> str:
        return self.mask.rule

    @property
    def strategy(self) -> str:
        return self.mask.strategy

    @property
    def withhold(self) -> bool:
        return self.mask.withhold

    @property
    def constant(self) -> bool:
        return self.mask.constant

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        if self.mask.strategy != "watch":
            self.noted.add(self.name, self.mask.rule)
        return self.mask.apply(text, kind, limit)
