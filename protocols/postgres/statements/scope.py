"""What names inside a query stand for: sources, scopes, and the columns that an output depends on.

Origins are sets of `schema.table.column` (`schema.table.*` where it may be any of a relation's). Over-estimating is
safe, under-estimating is not: what cannot be resolved falls back to everything that it could be.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from protocols.contract import ANYWHERE
from protocols.postgres.catalog import Catalog, Relation
from protocols.postgres.statements.names import Target

Origins = frozenset[str]
NOTHING: Origins = frozenset()
ANYTHING: Origins = frozenset({ANYWHERE})  # what code made that the analysis does not see into
type Copied = tuple[str, int]  # a stored column, `schema.table.column`, and its type
SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"})


@dataclass(slots=True)
class Output:
    """The columns of a query's result: (name, origins) each; `columns` None: not known one by one.

    `copies`: for each of them the stored column that it is, and nothing else; None where no column is surely one.
    """

    columns: list[tuple[str, Origins]] | None
    everything: Origins
    copies: tuple[Copied | None, ...] | None = None


class Source:
    """One item of a FROM list."""

    __slots__ = (
        "_catalog",
        "_copies",
        "_derived",
        "_found",
        "_ordered",
        "_relations",
        "_targets",
        "alias",
        "everything",
    )

    def __init__(
        self,
        alias: str,
        everything: Origins,
        derived: Mapping[str, Origins] | None = None,
        targets: Sequence[Target] = (),
        catalog: Catalog | None = None,
        ordered: bool = True,
        copies: Mapping[str, Copied] | None = None,
    ) -> None:
        """`ordered`: `derived` has every column, in order; not so where two have the same name. `copies`: those of
        `derived` that are stored columns."""
        self._copies = copies or {}
        self._ordered = ordered
        self.alias = alias
        self.everything = everything
        self._derived = derived
        self._targets = targets
        self._catalog = catalog
        self._relations: list[Relation] = [t.relation for t in targets if t.relation is not None]
        self._found: dict[str, Origins | None] = {}  # columns that were looked up: a star asks for all, again and again

    @property
    def names(self) -> list[str] | None:
        """The names of its columns, in order, or None where they are not all known."""
        if self._derived is not None:
            return list(self._derived) if self._ordered else None
        if len(self._targets) == 1:
            target = self._targets[0]
            if target.relation is not None and target.relation.columns:
                return list(target.relation.columns)
            if target.temporary is not None and target.temporary.columns is not None:
                return list(target.temporary.columns)
        return None

    def is_relation(self, schema: str, name: str) -> bool:
        return any(t.qualified == f"{schema}.{name}" for t in self._targets)

    @property
    def is_table(self) -> bool:
        return bool(self._targets)

    @property
    def has_system_columns(self) -> bool:
        """Views, and what is no relation, have none: there such a name may be a call."""
        return self.is_table and all(r.kind != "v" for r in self._relations)

    def column(self, name: str) -> Origins | None:
        """The origins of its column of this name; None where it has none, or where that is not known."""
        if self._derived is not None:
            return self._derived.get(name)
        if name not in self._found:
            self._found[name] = self._look_up(name)
        return self._found[name]

    def _look_up(self, name: str) -> Origins | None:
        found: set[str] | None = None
        for target in self._targets:
            if target.relation is not None and name in target.relation.columns:
                found = (found or set()) | self._relation_column(target.relation, name)
            elif (
                target.temporary is not None
                and target.temporary.columns is not None
                and name in target.temporary.columns
            ):
                found = (found or set()) | {f"{target.qualified}.{name}"}
        return frozenset(found) if found is not None else None

    def _relation_column(self, relation: Relation, name: str) -> set[str]:
        own = f"{relation.qualified}.{name}"
        if self._catalog is None:
            return {own}
        base = self._catalog.origin(relation.oid, relation.columns[name][0])
        if relation.kind not in "vm":
            return {own, *(base or ()), *self._catalog.made_of(relation.oid, relation.columns[name][0])}
        if base:
            return {*base, *self._catalog.made_of(relation.oid, relation.columns[name][0])}
        # a computed column of a view: it may carry anything that the view reads
        behind = self._catalog.behind(relation.oid)
        if behind is not None:
            return {own, *behind}
        return {own, *(f"{r}.*" for r in self._catalog.facts(relation.oid).reads[1:])}

    def copied(self, name: str) -> Copied | None:
        """The stored column that its column of this name is, and nothing else; None where that is not sure."""
        if self._derived is not None:
            return self._copies.get(name) if self._ordered else None
        if len(self._targets) != 1 or self._targets[0].why or self._catalog is None:
            return None
        relation = self._targets[0].relation
        if relation is None or name not in relation.columns:
            return None
        number, kind = relation.columns[name]
        behind = self._catalog.origin(relation.oid, number)
        if not behind or self._catalog.made_of(relation.oid, number):
            return None
        return behind[-1], kind

    @property
    def is_plain(self) -> bool:
        """Whether it is surely a table: its columns are stored, not computed."""
        if len(self._targets) != 1 or self._targets[0].why or len(self._relations) != 1:
            return False
        (relation,) = self._relations
        return relation.kind in "rp" and (self._catalog is None or relation.oid not in self._catalog.telling)

    def loose_column(self, name: str) -> Origins:
        """The origins of a column of this name that may exist although it is not known to."""
        if self.is_table:
            return frozenset(f"{t.qualified}.{name}" for t in self._targets)
        return self.everything


@dataclass(slots=True)
class Scope:
    """The names visible at one place of a query, and those of the queries around it."""

    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    ctes: dict[str, Output] = field(default_factory=dict)
    merged: bool = False  # a join gives one column for two of the same name: `*` is not its sides' columns in a row

    def size(self) -> int:
        """How many sources a look-up may have to pass."""
        count, scope = 0, self.parent
        while scope is not None:
            count += len(scope.sources)
            scope = scope.parent
        return count + len(self.sources)

    def cte(self, name: str) -> Output | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def source(self, alias: str) -> Source | None:
        scope: Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.alias == alias:
                    return source
            scope = scope.parent
        return None

    def row(self, name: str) -> Source | None:
        """The source whose whole row a bare name stands for; None where it may be a column, which comes first."""
        scope: Scope | None = self
        while scope is not None:
            if any(source.names is None or source.column(name) is not None for source in scope.sources):
                return None
            scope = scope.parent
        return self.source(name)

    def stores(self, names: Sequence[str]) -> bool:
        """Whether `column` or `alias.column` is surely one that a table stores."""
        if len(names) == 2:
            source = self.source(names[0])
            return source is not None and source.is_plain and source.column(names[1]) is not None
        scope: Scope | None = self if len(names) == 1 else None
        while scope is not None:
            having = [s for s in scope.sources if s.names is None or s.column(names[0]) is not None]
            if having:
                return len(having) == 1 and having[0].is_plain and having[0].column(names[0]) is not None
            scope = scope.parent
        return False

    def relation_source(self, schema: str, name: str) -> Source | None:
        scope: Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.alias == name and source.is_relation(schema, name):
                    return source
            scope = scope.parent
        return None

    def unqualified(self, name: str) -> tuple[Origins, bool]:
        """(origins of a bare name, whether it was surely found)."""
        scope: Scope | None = self
        loose: set[str] = set()
        maybe = False  # a source whose columns are not known may have it
        while scope is not None:
            found: set[str] | None = None
            for source in scope.sources:
                origins = source.column(name)
                if origins is not None:
                    found = (found or set()) | origins
                elif source.names is None:
                    loose |= source.loose_column(name)
                    maybe = True
            if found is not None:
                return frozenset(found | loose), True
            scope = scope.parent
        # the whole row; before the system columns, which a subquery of that name does not have
        source_row = self.source(name)
        if source_row is not None:
            return frozenset(loose) | source_row.everything, True
        if name in SYSTEM_COLUMNS and not loose:
            return NOTHING, True
        return frozenset(loose), maybe

    def everything(self) -> Origins:
        """All columns of the sources at this level."""
        return union(source.everything for source in self.sources)


def union(sets: Iterable[Origins]) -> Origins:
    found: set[str] = set()
    for one in sets:
        found |= one
    return frozenset(found)
