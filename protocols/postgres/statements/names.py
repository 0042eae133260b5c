"""Resolving the names of a statement: search_path, temporary objects, what the open transaction touched.

The rule throughout: a name that could mean several things means all of them.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from protocols.postgres.catalog import Catalog, Function, Relation, Type
from protocols.postgres.statements.model import Temporary

_PATH_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"]+))\s*(,|$)')
TEMP = "pg_temp"
MAX_NAME = 63  # bytes of a name; the server cuts longer ones
# what EXTRACT(... FROM ...) means: a function of its own since 14, as the grammar here has it; another name before
EXTRACT = ("pg_catalog", "extract")
DATE_PART = ("pg_catalog", "date_part")
# since 16 these are keywords that mean pg_catalog's own, as the grammar here has it; before, names like any other
JSON_OBJECT = ("pg_catalog", "json_object")
JSON = ("pg_catalog", "json")


def holds_anything(function: str) -> bool:
    """Whether this entry of `Analysis.functions` is a temporary relation that code has filled: see `Findings.holds`."""
    return function.startswith(f"{TEMP}.")


def split_path(value: str) -> tuple[str, ...] | None:
    """The schemas of a search_path value, as the server splits it; None when it is malformed."""
    found: list[str] = []
    position = 0
    while position < len(value):
        match = _PATH_ITEM.match(value, position)
        if match is None:
            return None
        quoted, plain, separator = match.groups()
        name = quoted.replace('""', '"') if quoted is not None else plain.lower()
        if not name.isascii() and len(name.encode()) > MAX_NAME:
            return None  # cut at a character, in an encoding that is not known here
        found.append(name[:MAX_NAME])
        position = match.end()
        if separator == "," and position == len(value):
            return None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Target:
    """What the name of a relation stands for. `relation` and `temporary` None: not known to exist."""

    qualified: str
    relation: Relation | None = None
    temporary: Temporary | None = None
    why: str = ""  # not empty: this is not certain


@dataclass(frozen=True, slots=True)
class NameSpace:
    """The names in force for one statement."""

    catalog: Catalog
    path: tuple[str, ...]  # schemas, `$user` already resolved
    path_known: bool
    same_role: bool  # the session's role is the one whose schema privileges the catalog shows
    temporaries: tuple[Temporary, ...]
    touched: frozenset[str]  # `schema.name` or `name`, touched by DDL in the open transaction
    touched_all: bool  # anything may have been
    temp_types: bool  # the session made types in pg_temp

    def with_plans(self) -> NameSpace:
        """For a statement planned at another time: the name of a temporary relation may be another one's as well."""
        if not self.temporaries:
            return self
        return replace(self, temporaries=tuple(replace(t, certain=False) for t in self.temporaries))

    def schemas(self) -> tuple[str, ...]:
        """The schemas in which functions and operators are looked up."""
        return self.path if "pg_catalog" in self.path else ("pg_catalog", *self.path)

    def _in_path(self, schemas: Iterable[str]) -> Iterable[tuple[str, bool]]:
        """(schema, whether a match there surely ends the search)."""
        for schema in schemas:
            yield schema, schema == "pg_catalog" or (self.same_role and schema in self.catalog.usable)

    def relations(self, schema: str | None, name: str) -> list[Target]:
        """Everything that this name of a relation can stand for; never empty."""
        if schema == TEMP or (schema is not None and schema.startswith("pg_temp_")):
            own = next((t for t in self.temporaries if t.name == name), None)
            if own is None:
                return [Target(f"{TEMP}.{name}", why=f"the session has no known temporary relation `{name}`")]
            return [Target(f"{TEMP}.{name}", temporary=own)]
        if schema is not None:
            return [self._qualified(schema, name)]
        found: list[Target] = []
        if TEMP not in self.path:
            own = next((t for t in self.temporaries if t.name == name), None)
            if own is not None:
                found.append(Target(f"{TEMP}.{name}", temporary=own))
                if own.certain and self.path_known:  # a path may name the temporary schema, behind others
                    return found
        if not self.path_known:
            found.append(Target(f"unknown.{name}", why="search_path is not known"))
        if name in self.touched or self.touched_all:
            found.append(Target(self._first(name), why="the open transaction changed what this name means"))
            return found
        for home, certain in self._in_path(self.schemas()):
            if home == TEMP:
                own = next((t for t in self.temporaries if t.name == name), None)
                if own is not None:
                    found.append(Target(f"{TEMP}.{name}", temporary=own))
                    if own.certain:
                        return found
                continue
            relation = self.catalog.relations.get((home, name))
            if relation is not None or f"{home}.{name}" in self.touched:
                found.append(self._qualified(home, name))
                if certain and relation is not None:
                    return found
        if not found:
            why = "" if self.catalog.open_world else f"relation `{name}` does not exist in the catalog snapshot"
            found.append(Target(self._first(name), why=why))
        return found

    def is_table(self, schema: str | None, name: str) -> bool:
        """Whether this name surely stands for a table: its columns are stored, not computed."""
        found = self.relations(schema, name)
        return all(
            not one.why
            and one.relation is not None
            and one.relation.kind in ("r", "p")
            and one.relation.oid not in self.catalog.telling
            for one in found
        )

    def _first(self, name: str) -> str:
        return f"{next((s for s in self.path if s not in ('pg_catalog', TEMP)), 'public')}.{name}"

    def _qualified(self, schema: str, name: str) -> Target:
        qualified = f"{schema}.{name}"
        if self.touched_all or qualified in self.touched or name in self.touched:
            return Target(qualified, why="the open transaction changed what this name means")
        relation = self.catalog.relations.get((schema, name))
        if relation is None and not (self.catalog.open_world and schema not in ("pg_catalog", "information_schema")):
            return Target(qualified, why=f"relation `{qualified}` does not exist in the catalog snapshot")
        return Target(qualified, relation)

    def functions(self, names: Sequence[str]) -> list[Function]:
        """Every overload that this name can mean, whatever its arguments."""
        if len(names) == 2:
            if tuple(names) == EXTRACT and self.catalog.server_version < 140000:
                names = DATE_PART
            elif tuple(names) == JSON_OBJECT and self.catalog.server_version < 160000:
                return self.functions(names[1:])
            return list(self.catalog.functions.get((names[0], names[1]), ()))
        if len(names) != 1:
            return []
        found: list[Function] = []
        builtin: tuple[Function, ...] = ()
        for home in self.schemas():
            here = self.catalog.functions.get((home, names[0]), ())
            if home == "pg_catalog":
                builtin = here
                found.extend(here)
            elif here:
                found.extend(f for f in here if not any(b.hides(f) for b in builtin))
        return found

    def operators(self, names: Sequence[str], unary: bool) -> tuple[list[tuple[str, Function | None]], bool]:
        """The operators of this name that are no plain built-ins, and whether the name exists at all."""
        name = names[-1]
        homes = (names[0],) if len(names) == 2 else self.schemas()
        candidates = self.catalog.live_operators.get(name, ())
        first = list(homes).index("pg_catalog") if candidates and "pg_catalog" in homes else len(homes)
        live = [
            (f"{one.schema}.{name}", one.function)
            for one in candidates
            if one.schema in homes
            and one.unary == unary
            and not (one.hidden and len(names) == 1 and first < list(homes).index(one.schema))
        ]
        return live, not self.catalog.operator_schemas.get(name, frozenset()).isdisjoint(homes)

    def types(self, names: Sequence[str]) -> tuple[list[Type], str]:
        """The types that this name can mean, and why that is not certain."""
        why = "the open transaction changed definitions" if self.touched_all else ""
        if len(names) > 2:
            names = names[-2:]
        if tuple(names) == JSON and self.catalog.server_version < 160000:
            names = names[1:]
        if len(names) == 2:
            if names[0].startswith(TEMP):
                return [], "a type in pg_temp"
            if f"{names[0]}.{names[1]}" in self.touched:
                why = "the open transaction changed what this type is"
            found = self.catalog.types.get((names[0], names[1]))
            return ([found] if found is not None else []), why
        name = names[0]
        if name in self.touched or not self.path_known:
            why = "the open transaction or an unknown search_path changes what this type is"
        if self.temp_types or any(t.name == name for t in self.temporaries):
            why = "the session made types of its own"
        matches: list[Type] = []
        for home, certain in self._in_path(self.schemas()):
            found = self.catalog.types.get((home, name))
            if found is not None:
                matches.append(found)
                if certain:
                    break
        return matches, why
