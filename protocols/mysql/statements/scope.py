"""Which names a query sees, and which columns of which relations stand behind them.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.mysql.flows import alike

Origins = frozenset[str]
NOTHING: Origins = frozenset()
Outputs = Sequence[tuple[str, Origins]]  # of a query: (name in lower case, what it shows)


@dataclass(slots=True)
class Source:
    """One entry of FROM. `columns` None: not known which it has; then any name may be one of it."""

    alias: str
    columns: Mapping[str, Origins] | None
    relation: str = ""  # `schema.name`
    schema: str = ""  # as the text may write it in front of the alias
    everything: Origins = NOTHING

    def column(self, name: str) -> Origins | None:
        """None: it has no such column."""
        if self.columns is None:
            return frozenset({f"{self.relation}.{name}"}) if self.relation else self.everything
        return self.columns.get(name)


@dataclass(slots=True)
class Scope:
    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    ctes: dict[str, Outputs | None] = field(default_factory=dict)  # by exact name
    aliases: dict[str, Origins] = field(default_factory=dict)  # of the select list
    listing: bool = False  # the list is read: its own items do not see its aliases; their windows and inner queries do
    waiting: dict[str, list[Any]] = field(default_factory=dict)  # items by their aliases that were not worked out

    def cte(self, name: str) -> tuple[str, Outputs | None]:
        """(the name that was found, its columns): "" for none. It may differ from `name` in case."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return name, scope.ctes[name]
            scope = scope.parent
        scope = self
        while scope is not None:
            for known, outputs in scope.ctes.items():
                if known.lower() == name.lower():
                    return known, outputs
            scope = scope.parent
        return "", None

    def named(self, alias: str, schema: str = "") -> list[Source]:
        """Every entry that this name may mean, from the inside out, up to the one that is spelled just so.

        Whether the case of a table's name counts is the server's own business (`lower_case_table_names`): `o` may pass
        over an `O` that is nearer. Taking one too many is the stricter error.
        """
        found: list[Source] = []
        schema = schema.lower()
        scope: Scope | None = self
        while scope is not None:
            here = [
                source
                for source in scope.sources
                if alike(source.alias, alias) and (not schema or source.schema.lower() == schema)
            ]
            found += here
            if any(source.alias == alias for source in here):
                break
            scope = scope.parent
        return found

    def find(self, name: str) -> Origins | None:
        """What a name without a table stands for; None: nothing in sight has it."""
        scope: Scope | None = self
        unnamed: set[str] = set()  # columns whose names are the server's own
        while scope is not None:
            found: set[str] = set()
            hit = False
            for source in scope.sources:
                origins = source.column(name)
                if origins is not None:
                    hit = True
                    found |= origins
            if name in scope.aliases and not (scope is self and self.listing):
                hit = True
                found |= scope.aliases[name]
            if hit:
                return frozenset(found | unnamed)
            for source in scope.sources:
                unnamed |= source.everything if name == "_rowid" else (source.columns or {}).get("", NOTHING)
            scope = scope.parent
        return frozenset(unnamed) if unnamed else None


def union(sets: Iterable[Origins]) -> Origins:
    found: set[str] = set()
    for one in sets:
        found |= one
    return frozenset(found)


def named(outputs: Outputs | None) -> dict[str, Origins]:
    """The columns that have a name."""
    found: dict[str, Origins] = {}
    for name, origins in outputs or ():
        if name:
            found[name] = found.get(name, NOTHING) | origins
    return found
