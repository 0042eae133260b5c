"""An immutable picture of the names in one database, and what stands behind each of them.

Built from the rows of `CATALOG_QUERIES`; every look-up afterwards is a dictionary's. What a name *does* is worked out
on first use and kept: a view's body, a domain's checks, a function's place on the reviewed lists.

Not seen: constant calls of immutable user functions that only the planner evaluates (in index expressions, CHECK
constraints and extended statistics), which need the table's owner to plant them.

INVARIANT: no I/O in this module; a Catalog is never changed after `build` but for its memos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from protocols.contract import Effect
from protocols.postgres import nodetree
from protocols.postgres.catalog_names import CAST, SYSTEM_SCHEMAS, CatalogNames, Function, Relation, Rows, Type
from protocols.postgres.catalog_queries import CATALOG_QUERIES, FIRST_USER_OID, VERSION_QUERY
from protocols.postgres.functions import LEAVES_A_TRACE, NONE, UNKNOWN, extension_effects

__all__ = ["CATALOG_QUERIES", "VERSION_QUERY", "Catalog", "Function", "Relation", "Rows", "Type", "ViewFacts", "build"]

_COMMAND_EFFECTS = {
    2: Effect.DATA_UPDATE,
    3: Effect.DATA_INSERT,
    4: Effect.DATA_DELETE,
    5: Effect.DATA_MERGE,  # CMD_UTILITY before PostgreSQL 15: see `_command_effects`
    6: Effect.EXFIL_NOTIFY,  # CMD_UTILITY: in a rule only NOTIFY
}


class ViewFacts(NamedTuple):
    """What reading (or writing) a relation brings along. `reads`: qualified names, itself first."""

    reads: tuple[str, ...]
    effects: frozenset[Effect]
    functions: tuple[str, ...]
    why: str = ""


class Catalog(CatalogNames):
    """See the module's docstring."""

    def __init__(self, version: str, results: Mapping[str, Rows], known: frozenset[str], open_world: bool) -> None:
        super().__init__(version, results, known, open_world)
        self._facts: dict[int, ViewFacts] = {}
        self._types: dict[int, frozenset[Effect]] = {}
        self._behind: dict[int, frozenset[str] | None] = {}

    def type_effects(self, oid: int) -> frozenset[Effect]:
        """What making a value of this type may run: domain checks, user casts, an extension's input function."""
        if oid not in self._types:
            self._types[oid] = self._type_effects(oid, set())
        return self._types[oid]

    def _type_effects(self, oid: int, seen: set[int]) -> frozenset[Effect]:
        if oid in seen:
            return NONE
        seen.add(oid)
        found = self.types_by_oid.get(oid)
        if found is None:
            return UNKNOWN
        effects = self.live_casts.get(oid, NONE) | self.explicit_casts.get(oid, NONE)
        if found.element and found.category == "A":
            return effects | self._type_effects(found.element, seen)
        if found.kind == "d":
            for tree in self._checks.get(oid, ()):
                ran = self.tree_effects(tree)[0]
                effects |= ran | CAST if ran else NONE
            return effects | self._type_effects(found.base, seen)
        if found.kind == "c":
            owner = self.relations_by_oid.get(found.relation)
            if owner is None:
                return effects | (NONE if oid < FIRST_USER_OID else UNKNOWN)
            for _, column_type in owner.columns.values():
                effects |= self._type_effects(column_type, seen)
            return effects
        if found.kind == "r":
            for code in found.support:
                function = self.functions_by_oid.get(code)
                effects |= NONE if function is not None and not function.effects else CAST
            return effects | self._type_effects(found.subtype, seen)
        if found.kind == "m" and oid >= FIRST_USER_OID:  # the catalog's rows do not say which range it is made of
            for one in self.types_by_oid.values():
                if one.kind == "r" and one.oid >= FIRST_USER_OID:
                    effects |= self._type_effects(one.oid, seen)
        if found.kind == "b" and oid >= FIRST_USER_OID and found.element == 0:
            effects |= extension_effects(found.extension or "", found.name, False, "c")
        return effects

    def cast_effects(self, oid: int, depth: int = 0) -> frozenset[Effect]:
        """What user-defined casts may run for values of this type, or for values inside them."""
        effects = self.live_casts.get(oid, NONE)
        found = self.types_by_oid.get(oid)
        if found is None or depth > 8:
            return effects
        for inner in (found.element, found.base, found.subtype):
            if inner:
                effects |= self.cast_effects(inner, depth + 1)
        owner = self.relations_by_oid.get(found.relation) if found.kind == "c" else None
        for _, column_type in owner.columns.values() if owner is not None else ():
            effects |= self.cast_effects(column_type, depth + 1)
        return effects

    def holders(self, oid: int) -> tuple[str, ...]:
        """The relations with a column in which a value of this type may be: itself, in an array, a row, a range, ...

        `schema.table`, in no order that means anything.
        """
        inside = {oid}
        grown = True
        while grown:
            grown = False
            for one in self.types_by_oid.values():
                owner = self.relations_by_oid.get(one.relation) if one.kind == "c" else None
                parts = {one.element, one.base, one.subtype, *(t for _, t in (owner.columns.values() if owner else ()))}
                if one.kind == "m":  # the catalog's rows do not say which range it is made of
                    parts |= {t.oid for t in self.types_by_oid.values() if t.kind == "r" and t.oid in inside}
                if one.oid not in inside and not parts.isdisjoint(inside):
                    inside.add(one.oid)
                    grown = True
        return tuple(
            relation.qualified
            for relation in self.relations_by_oid.values()
            if any(column_type in inside for _, column_type in relation.columns.values())
        )

    def reads_text(self, oid: int, depth: int = 0) -> bool:
        """Whether an operator turns an untyped literal beside a value of this type into this very type.

        Arrays and ranges: their operators are polymorphic. Of a domain over anything else the base type is taken.
        """
        found = self.types_by_oid.get(oid)
        if found is None or depth > 8:
            return True
        if found.kind == "d":
            return self.reads_text(found.base, depth + 1)
        return found.category == "A" or found.kind in ("r", "m")

    def tree_effects(self, text: str | None) -> tuple[frozenset[Effect], tuple[str, ...]]:
        """What evaluating a stored expression may run, and the names of the functions that are no plain built-ins."""
        if not text:
            return NONE, ()
        try:
            tree = nodetree.read(text)
        except ValueError:
            return UNKNOWN, ()
        return self._named_effects(tree)

    def _named_effects(self, tree: nodetree.Tree) -> tuple[frozenset[Effect], tuple[str, ...]]:
        effects: frozenset[Effect] = NONE
        named = []
        for oid in tree.functions | {self.operator_functions.get(o, 0) for o in tree.operators} - {0}:
            function = self.functions_by_oid.get(oid)
            if function is None or (function.schema == "pg_catalog" and function.name in LEAVES_A_TRACE):
                effects |= UNKNOWN
            elif function.effects:
                effects |= function.effects
                named.append(function.qualified)
        for oid in tree.types:
            effects |= self.type_effects(oid)
        return effects, tuple(sorted(named))

    def facts(self, oid: int) -> ViewFacts:
        """What reading this relation brings along: the relations and functions of view bodies and row policies."""
        if oid not in self._facts:
            self._facts[oid] = self._read_facts(oid)
        return self._facts[oid]

    def refresh_facts(self, oid: int) -> ViewFacts:
        """What REFRESH MATERIALIZED VIEW brings along: its body runs, which reading it does not do."""
        return self._read_facts(oid, refreshed=oid)

    def _read_facts(self, start: int, refreshed: int = 0) -> ViewFacts:
        reads: list[str] = []
        effects: frozenset[Effect] = NONE
        functions: list[str] = []
        why = ""
        waiting, seen = [start], {start}
        while waiting:
            oid = waiting.pop()
            relation = self.relations_by_oid.get(oid)
            if relation is None:
                effects, why = effects | UNKNOWN, "a view reads a relation that is not in the catalog snapshot"
                continue
            reads.append(relation.qualified)
            if relation.kind == "f" or self._foreign_below(oid):
                effects |= {Effect.NET_EGRESS}
            trees: list[str | None] = []
            if relation.kind in "vm":
                bodies = [trees[0] for event, trees in self._rules.get(oid, ()) if event == "1"]
                if not bodies and relation.schema not in SYSTEM_SCHEMAS:
                    effects, why = effects | UNKNOWN, f"the body of `{relation.qualified}` is not in the snapshot"
                for body in bodies:
                    try:
                        tree = nodetree.read(body or "")
                    except ValueError:
                        effects, why = effects | UNKNOWN, f"the body of `{relation.qualified}` cannot be read"
                        continue
                    waiting.extend(sorted(tree.relations - seen))
                    seen |= tree.relations
                    if relation.kind == "v" or oid == refreshed:  # a materialised view ran its body before
                        trees.append(body)
            if relation.row_security:
                trees.extend(self._policies.get(oid, ()))
            for text in trees:
                ran, named = self.tree_effects(text)
                effects |= ran
                functions.extend(named)
                if text is not None:
                    inside = nodetree.read(text).relations if not ran & UNKNOWN else frozenset()
                    waiting.extend(sorted(inside - seen))
                    seen |= inside
            if self.live_casts:
                for _, column_type in relation.columns.values():
                    ran = self.cast_effects(column_type)
                    effects |= ran
                    if ran and column_type in self.types_by_oid:
                        cast = self.types_by_oid[column_type]
                        functions.append(f"{cast.schema}.{cast.name}")
        return ViewFacts(tuple(dict.fromkeys(reads)), effects, tuple(dict.fromkeys(functions)), why)

    def behind(self, oid: int) -> frozenset[str] | None:
        """The columns that a view's computed columns can be made of: all that its body reads, in filters as well.

        None where that is not certain: every column of every relation that it reads may be in them.
        """
        if oid not in self._behind:
            self._behind[oid] = None  # a body that reads itself
            self._behind[oid] = self._read_behind_view(oid)
        return self._behind[oid]

    def _read_behind_view(self, oid: int) -> frozenset[str] | None:
        view = self.relations_by_oid.get(oid)
        bodies = [trees[0] or "" for event, trees in self._rules.get(oid, ()) if event == "1"]
        if view is None or oid < FIRST_USER_OID or len(bodies) != 1:
            return None
        ran, named = self.tree_effects(bodies[0])
        read = nodetree.selected(bodies[0])
        if ran or named or read is None or not nodetree.read(bodies[0]).relations <= {inner for inner, _ in read}:
            return None  # code may read what no list of columns shows
        found: set[str] = set()
        for inner, numbers in read:
            if inner == oid and not numbers:
                continue  # OLD and NEW, up to PostgreSQL 15
            columns = self._read_columns(inner, numbers, stored=view.kind == "m")
            if columns is None:
                return None
            found |= columns
        return frozenset(found)

    def _read_columns(self, oid: int, numbers: frozenset[int], *, stored: bool) -> set[str] | None:
        """These columns of a relation, and what is behind them. `stored`: as they were at another time."""
        relation = self.relations_by_oid.get(oid)
        kinds = "rp" if stored else "rpvm"  # which view stood there when the rows were stored is not known
        if relation is None or oid < FIRST_USER_OID or relation.kind not in kinds or relation.row_security:
            return None
        names = {number: name for name, (number, _) in relation.columns.items()}
        asked = {number for number in numbers if number >= 0}
        if not asked <= names.keys():  # the whole row is number 0
            return None
        found: set[str] = set()
        for number in asked:
            found |= {f"{relation.qualified}.{names[number]}", *(self.origin(oid, number) or ())}
            found.update(self.made_of(oid, number))
        if relation.kind in "vm":
            inner = self.behind(oid)
            if inner is None:
                return None
            found |= inner
        return found

    def _foreign_below(self, oid: int) -> bool:
        """Whether a partition or inheriting table, at any level, is a foreign table."""
        waiting, seen = [oid], {oid}
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                relation = self.relations_by_oid.get(child)
                if relation is not None and relation.kind == "f":
                    return True
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
        return False

    def write_facts(self, oid: int, event: str) -> tuple[frozenset[Effect], tuple[str, ...], tuple[str, ...]]:
        """What a write also does: (effects, relations written, functions), by rules, views and triggers.

        `event`: pg_rewrite.ev_type (2 update, 3 insert, 4 delete). Triggers add their functions' names only: they are
        part of what the write is.
        """
        effects: frozenset[Effect] = NONE
        writes: list[str] = []
        functions: list[str] = []
        waiting, seen = [oid], {oid}
        while waiting:
            current = waiting.pop()
            relation = self.relations_by_oid.get(current)
            if relation is None:
                effects |= UNKNOWN
                continue
            if current != oid:
                writes.append(relation.qualified)
            for rule_event, trees in self._rules.get(current, ()):
                if rule_event not in (event, "1"):
                    continue
                for text in trees:
                    if not text or text == "<>":
                        continue
                    ran, named = self.tree_effects(text)
                    effects |= ran
                    functions.extend(named)
                    if ran & UNKNOWN:
                        continue
                    tree = nodetree.read(text)
                    effects |= self._command_effects(tree.commands) if rule_event != "1" else NONE
                    inside = {o for o in tree.relations if o >= FIRST_USER_OID} - seen
                    waiting.extend(sorted(inside))
                    seen |= inside
            for code, _ in self._triggers.get(current, ()):
                function = self.functions_by_oid.get(code)
                functions.append(function.qualified if function is not None else "unknown trigger function")
        return effects, tuple(dict.fromkeys(writes)), tuple(dict.fromkeys(functions))

    def rewritten(self, oid: int, event: str) -> bool:
        """Whether a rule of its own decides where the rows of a write go, or makes more of them; `event` as above."""
        return any(found == event for found, _ in self._rules.get(oid, ()))

    def _command_effects(self, commands: frozenset[int]) -> frozenset[Effect]:
        effects = {_COMMAND_EFFECTS[c] for c in commands if c in _COMMAND_EFFECTS}
        if 5 in commands and self.server_version < 150000:
            effects.add(Effect.EXFIL_NOTIFY)
        return frozenset(effects)


def build(results: Mapping[str, Rows]) -> Catalog:
    """The catalog behind the rows of `CATALOG_QUERIES` (text values, None for NULL).

    Its version is a digest of the rows: a refresh that finds the same names gives the same version.
    Raises KeyError or ValueError for rows that are not those queries'.
    """
    from protocols.postgres.builtins import known_functions

    digest = hashlib.blake2b(digest_size=16)
    for name in CATALOG_QUERIES:
        for row in sorted(results[name], key=repr):
            digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return Catalog(digest.hexdigest(), results, known_functions(), open_world=False)
