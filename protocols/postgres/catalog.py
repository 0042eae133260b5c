"""An immutable picture of the names in one database, and what stands behind each of them.

Built from the rows of `CATALOG_QUERIES`; every look-up afterwards is a dictionary's. What a name *does* is worked out
on first use and kept: a view's body, a domain's checks, a function's place on the reviewed lists.

INVARIANT: no I/O in this module; a Catalog is never changed after `build` but for its memos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from protocols.contract import Effect
from protocols.postgres import nodetree
from protocols.postgres.catalog_queries import CATALOG_QUERIES, FIRST_USER_OID, VERSION_QUERY
from protocols.postgres.functions import NONE, UNKNOWN, builtin_effects, extension_effects

__all__ = ["CATALOG_QUERIES", "VERSION_QUERY", "Catalog", "Function", "Relation", "Type", "ViewFacts", "build"]

Rows = Sequence[Sequence[str | None]]
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema"})
DEFAULT_SEARCH_PATH = '"$user", public'
_CALL = frozenset({Effect.EXEC_CALL})
_CAST = frozenset({Effect.EXEC_CAST})
_COMMAND_EFFECTS = {
    2: Effect.DATA_UPDATE,
    3: Effect.DATA_INSERT,
    4: Effect.DATA_DELETE,
    5: Effect.DATA_MERGE,  # CMD_UTILITY before PostgreSQL 15: see `_command_effects`
    6: Effect.EXFIL_NOTIFY,  # CMD_UTILITY: in a rule only NOTIFY
}


class Relation(NamedTuple):
    """A table, view, sequence, ... `columns`: name -> (attribute number, type OID), in order."""

    oid: int
    schema: str
    name: str
    kind: str  # pg_class.relkind
    row_security: bool
    columns: Mapping[str, tuple[int, int]]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


class Function(NamedTuple):
    oid: int
    schema: str
    name: str
    volatile: bool
    nargs: int
    defaults: int
    variadic: bool
    result: int
    effects: frozenset[Effect]  # what a call does
    at_plan_time: bool  # may run while a statement is only planned: everything but a volatile built-in
    arguments: str  # type OIDs

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    def hides(self, other: Function) -> bool:
        """Whether, earlier in the search_path, it is always chosen in the other's place: the same arguments."""
        simple = not (self.variadic or other.variadic or self.defaults or other.defaults)
        return simple and self.arguments == other.arguments

    def takes(self, nargs: int) -> bool:
        """Whether a call with that many arguments can mean this overload."""
        low = self.nargs - self.defaults - (1 if self.variadic else 0)
        return low <= nargs and (self.variadic or nargs <= self.nargs)


class Type(NamedTuple):
    oid: int
    schema: str
    name: str
    kind: str  # pg_type.typtype
    category: str
    base: int
    element: int
    relation: int
    subtype: int
    support: tuple[int, ...]  # a range's own functions
    extension: str | None


class LiveOperator(NamedTuple):
    """An operator that runs more than a plain built-in. `hidden`: pg_catalog has one with the same operand types."""

    schema: str
    unary: bool
    function: Function | None
    hidden: bool


class ViewFacts(NamedTuple):
    """What reading (or writing) a relation brings along. `reads`: qualified names, itself first."""

    reads: tuple[str, ...]
    effects: frozenset[Effect]
    functions: tuple[str, ...]
    why: str = ""


class Catalog:
    """See the module's docstring. `open_world`: the built-in picture alone, where any relation may exist."""

    def __init__(self, version: str, results: Mapping[str, Rows], known: frozenset[str], open_world: bool) -> None:
        self.version = version
        self.open_world = open_world
        session = results["session"][0]
        self.database, self.role = session[0] or "", session[1] or ""
        self.server_version, self.server_encoding = int(session[2] or 0), session[3] or ""
        self._read_names(results, known)
        self._read_behind(results)
        self._search_paths(session, results["role_settings"])
        self._facts: dict[int, ViewFacts] = {}
        self._types: dict[int, frozenset[Effect]] = {}
        self._origins: dict[tuple[int, int], tuple[str, ...] | None] = {}

    # ------------------------------------------------------------ reading the rows

    def _read_names(self, results: Mapping[str, Rows], known: frozenset[str]) -> None:
        schema_names = {int(r[0] or 0): r[1] or "" for r in results["schemas"]}
        self.schemas = frozenset(schema_names.values())
        self.usable = frozenset(r[1] or "" for r in results["schemas"] if r[2] in ("t", "true"))
        columns: dict[int, dict[str, tuple[int, int]]] = {}
        for owner, number, name, type_oid in results["attributes"]:
            columns.setdefault(int(owner or 0), {})[name or ""] = (int(number or 0), int(type_oid or 0))
        self.relations_by_oid: dict[int, Relation] = {}
        self.relations: dict[tuple[str, str], Relation] = {}
        for oid, schema, name, kind, secured in results["relations"]:
            owner_oid, home = int(oid or 0), schema_names.get(int(schema or 0))
            if home is None:
                continue  # made between two queries: the next snapshot has it
            relation = Relation(owner_oid, home, name or "", kind or "", secured == "t", columns.get(owner_oid, {}))
            self.relations_by_oid[owner_oid] = relation
            self.relations[home, relation.name] = relation
        self.functions: dict[tuple[str, str], tuple[Function, ...]] = {}
        self.functions_by_oid: dict[int, Function] = {}
        for row in results["functions"]:
            home = schema_names.get(int(row[1] or 0))
            if home is None:
                continue
            function = _function(row, home, known)
            self.functions_by_oid[function.oid] = function
            key = (home, function.name)
            self.functions[key] = (*self.functions.get(key, ()), function)
        self.types: dict[tuple[str, str], Type] = {}
        self.types_by_oid: dict[int, Type] = {}
        for row in results["types"]:
            home = schema_names.get(int(row[1] or 0))
            if home is None:
                continue
            found = _type(row, home)
            self.types_by_oid[found.oid] = found
            self.types[home, found.name] = found
        # name -> schemas that have it; name -> those that are not plain built-ins
        self.operator_schemas: dict[str, frozenset[str]] = {}
        self.live_operators: dict[str, tuple[LiveOperator, ...]] = {}
        self.operator_functions: dict[int, int] = {}
        own = {(r[2], r[5]) for r in results["operators"] if schema_names.get(int(r[1] or 0)) == "pg_catalog"}
        for oid, schema, name, kind, code, operands in results["operators"]:
            home = schema_names.get(int(schema or 0))
            if home is None or name is None:
                continue
            self.operator_schemas[name] = self.operator_schemas.get(name, frozenset()) | {home}
            self.operator_functions[int(oid or 0)] = int(code or 0)
            implements = self.functions_by_oid.get(int(code or 0))
            if code != "0" and (implements is None or implements.effects):
                live = LiveOperator(home, kind == "l", implements, home != "pg_catalog" and (name, operands) in own)
                self.live_operators[name] = (*self.live_operators.get(name, ()), live)

    def _read_behind(self, results: Mapping[str, Rows]) -> None:
        self._checks = _group(results["domain_checks"])
        self._rules: dict[int, list[tuple[str, tuple[str | None, ...]]]] = {}
        for owner, event, *trees in results["rules"]:
            self._rules.setdefault(int(owner or 0), []).append((event or "", tuple(trees)))
        self._policies = _group(results["policies"])
        self._triggers: dict[int, list[tuple[int, int]]] = {}
        for owner, function, when in results["triggers"]:
            self._triggers.setdefault(int(owner or 0), []).append((int(function or 0), int(when or 0)))
        self._parents: dict[int, list[int]] = {}
        self._children: dict[int, list[int]] = {}
        for child, parent in results["inherits"]:
            self._parents.setdefault(int(child or 0), []).append(int(parent or 0))
            self._children.setdefault(int(parent or 0), []).append(int(child or 0))
        self.cascades: dict[int, list[tuple[int, str, str, tuple[int, ...]]]] = {}
        for owner, target, on_delete, on_update, keys in results["foreign_keys"]:
            numbers = tuple(int(k) for k in (keys or "").strip("{}").split(",") if k)
            self.cascades.setdefault(int(target or 0), []).append(
                (int(owner or 0), on_delete or "a", on_update or "a", numbers)
            )
        # types whose user-defined casts run code; True under 0: a cast between two built-in types does
        self.live_casts: dict[int, frozenset[Effect]] = {}
        for source, target, code in results["casts"]:
            implements = self.functions_by_oid.get(int(code or 0))
            effects = implements.effects if implements is not None else UNKNOWN
            if effects:
                sides = [int(side or 0) for side in (source, target) if int(side or 0) >= FIRST_USER_OID] or [0]
                for side in sides:
                    self.live_casts[side] = self.live_casts.get(side, NONE) | effects | _CAST

    def _search_paths(self, session: Sequence[str | None], rows: Rows) -> None:
        setting, source = session[4] or "", session[5] or ""
        shared = source not in ("user", "database user", "client", "session", "override", "command line")
        self._base_path = setting if shared else DEFAULT_SEARCH_PATH
        self._role_paths: dict[tuple[str, bool], str] = {}
        for role, in_database, entry in rows:
            name, _, value = (entry or "").partition("=")
            if name.lower() == "search_path":
                self._role_paths[role or "", in_database == "t"] = value

    # ------------------------------------------------------------ names

    def default_search_path(self, role: str | None) -> str:
        """The search_path with which a session of this role starts (None: the role of the catalog's connection)."""
        login = role if role is not None else self.role
        for key in ((login, True), (login, False), ("", True), ("", False)):
            if key in self._role_paths:
                return self._role_paths[key]
        return self._base_path

    def origin(self, table_oid: int, attnum: int) -> tuple[str, ...] | None:
        """The columns behind one column of a RowDescription: itself, a view's base columns, inheritance parents'.

        `()`: provably computed (a view's expression). None: not in this snapshot, or a system column.
        """
        key = (table_oid, attnum)
        if key not in self._origins:
            if len(self._origins) > 200_000:
                self._origins.clear()
            self._origins[key] = self._origin(table_oid, attnum, 0)
        return self._origins[key]

    def _origin(self, oid: int, attnum: int, depth: int) -> tuple[str, ...] | None:
        relation = self.relations_by_oid.get(oid)
        if relation is None or depth > 64:
            return None
        name = next((n for n, (number, _) in relation.columns.items() if number == attnum), None)
        if name is None:
            return None
        own = f"{relation.qualified}.{name}"
        if relation.kind in "vm" and relation.schema not in SYSTEM_SCHEMAS:
            outputs = self._select_outputs(oid)
            if not 0 < attnum <= len(outputs):
                return None
            base_oid, base_number = outputs[attnum - 1]
            if base_oid == 0 or base_number <= 0:
                return ()
            base = self._origin(base_oid, base_number, depth + 1)
            return (own, *base) if base else base
        found = [own]
        for parent in self._parents.get(oid, ()):
            above = self.relations_by_oid.get(parent)
            if above is not None and name in above.columns:
                found.extend(self._origin(parent, above.columns[name][0], depth + 1) or ())
        return tuple(dict.fromkeys(found))

    def _select_outputs(self, oid: int) -> tuple[tuple[int, int], ...]:
        for event, trees in self._rules.get(oid, ()):
            if event == "1" and trees and trees[0]:
                try:
                    return nodetree.read(trees[0]).outputs
                except ValueError:
                    return ()
        return ()

    def type_info(self, oid: int) -> tuple[str, str, str, int] | None:
        """(schema, name, kind, inner OID): `d` with its base, `a` (array) with its element, else pg_type.typtype."""
        found = self.types_by_oid.get(oid)
        if found is None:
            return None
        if found.kind == "d":
            return found.schema, found.name, "d", found.base
        if found.category == "A" and found.element:
            return found.schema, found.name, "a", found.element
        return found.schema, found.name, found.kind, 0

    # ------------------------------------------------------------ what names do

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
        effects = self.live_casts.get(oid, NONE)
        if found.element and found.category == "A":
            return effects | self._type_effects(found.element, seen)
        if found.kind == "d":
            for tree in self._checks.get(oid, ()):
                ran = self.tree_effects(tree)[0]
                effects |= ran | _CAST if ran else NONE
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
                effects |= NONE if function is not None and not function.effects else _CAST
            return effects | self._type_effects(found.subtype, seen)
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
            if function is None:
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

    def _read_facts(self, start: int) -> ViewFacts:
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
                    if relation.kind == "v":  # a materialised view ran its body when it was refreshed
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
                    effects |= self.cast_effects(column_type)
        return ViewFacts(tuple(dict.fromkeys(reads)), effects, tuple(dict.fromkeys(functions)), why)

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

    def _command_effects(self, commands: frozenset[int]) -> frozenset[Effect]:
        effects = {_COMMAND_EFFECTS[c] for c in commands if c in _COMMAND_EFFECTS}
        if 5 in commands and self.server_version < 150000:
            effects.add(Effect.EXFIL_NOTIFY)
        return frozenset(effects)


def _group(rows: Rows) -> dict[int, tuple[str | None, ...]]:
    grouped: dict[int, tuple[str | None, ...]] = {}
    for owner, *trees in rows:
        grouped[int(owner or 0)] = (*grouped.get(int(owner or 0), ()), *trees)
    return grouped


def _function(row: Sequence[str | None], schema: str, known: frozenset[str]) -> Function:
    oid, name, volatile, nargs = int(row[0] or 0), row[2] or "", row[3] == "v", int(row[4] or 0)
    builtin = oid < FIRST_USER_OID and schema in SYSTEM_SCHEMAS
    if builtin:
        effects = builtin_effects(name, volatile, nargs, name in known)
    elif row[9] is not None:
        effects = extension_effects(row[9], name, volatile, row[8] or "")
    else:
        effects = _CALL
    return Function(
        oid, schema, name, volatile, nargs, int(row[5] or 0), row[6] == "t", int(row[7] or 0), effects,
        not (builtin and volatile), row[10] or "",
    )  # fmt: skip


def _type(row: Sequence[str | None], schema: str) -> Type:
    support = tuple(int(code) for code in row[9:11] if code and code != "0")
    base, element, relation, subtype = (int(value or 0) for value in row[5:9])
    return Type(
        int(row[0] or 0), schema, row[2] or "", row[3] or "", row[4] or "", base, element, relation, subtype, support,
        row[11],
    )  # fmt: skip


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
