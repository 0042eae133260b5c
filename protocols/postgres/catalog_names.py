"""The names in one database: relations, functions, operators, types, and the origins of columns.

Built from the rows of `CATALOG_QUERIES`; every look-up afterwards is a dictionary's. What a name *does* is worked out
on first use and kept: a view's body, a domain's checks, a function's place on the reviewed lists.

INVARIANT: no I/O in this module; a Catalog is never changed after `build` but for its memos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from protocols.contract import Effect
from protocols.postgres import nodetree
from protocols.postgres.catalog_queries import FIRST_USER_OID
from protocols.postgres.functions import JUDGED_BY_TEXT, NONE, UNKNOWN, builtin_effects, extension_effects

Rows = Sequence[Sequence[str | None]]
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema"})
DEFAULT_SEARCH_PATH = '"$user", public'
_CALL = frozenset({Effect.EXEC_CALL})
CAST = frozenset({Effect.EXEC_CAST})
_LANGUAGES = frozenset({"internal", "c", "sql"})  # of the functions that initdb makes; another is a replaced body


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
    constructs: bool = False  # makes a range: runs what making a value of its result's type runs

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


class CatalogNames:
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
        constructors = {row[0] for row in results["range_constructors"]}
        self.functions: dict[tuple[str, str], tuple[Function, ...]] = {}
        self.functions_by_oid: dict[int, Function] = {}
        for row in results["functions"]:
            home = schema_names.get(int(row[1] or 0))
            if home is None:
                continue
            function = _function(row, home, known, row[0] in constructors)
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
            if code != "0" and (implements is None or implements.effects or _borrows(int(oid or 0), implements)):
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
        self._generated: dict[tuple[int, int], frozenset[int] | None] = {}
        for owner, number, tree in results.get("generated", ()):  # the shipped names have none
            self._generated[int(owner or 0), int(number or 0)] = _columns(tree)
        self.telling = self._telling()
        self.cascades: dict[int, list[tuple[int, str, str, tuple[int, ...]]]] = {}
        for owner, target, on_delete, on_update, keys in results["foreign_keys"]:
            numbers = tuple(int(k) for k in (keys or "").strip("{}").split(",") if k)
            self.cascades.setdefault(int(target or 0), []).append(
                (int(owner or 0), on_delete or "a", on_update or "a", numbers)
            )
        # types whose user-defined casts, or whose comparisons, run code
        self.live_casts: dict[int, frozenset[Effect]] = {}
        # between built-in types: those that a text must ask for, by target; those that no text shows
        self.explicit_casts: dict[int, frozenset[Effect]] = {}
        self.hidden_casts = NONE
        for source, target, code, context in results["casts"]:
            effects = self._runs(code)
            if not effects:
                continue
            sides = [int(side or 0) for side in (source, target) if int(side or 0) >= FIRST_USER_OID]
            for side in sides:
                self.live_casts[side] = self.live_casts.get(side, NONE) | effects
            if not sides and context == "e":
                self.explicit_casts[int(target or 0)] = self.explicit_casts.get(int(target or 0), NONE) | effects
            elif not sides:
                self.hidden_casts |= effects
        for compared, code in results["operator_classes"]:
            if effects := self._runs(code):
                oid = int(compared or 0)
                self.live_casts[oid] = self.live_casts.get(oid, NONE) | effects
                self.hidden_casts |= effects if oid < FIRST_USER_OID else NONE

    def _runs(self, code: str | None) -> frozenset[Effect]:
        """What the function behind a cast or an operator class does besides computing."""
        implements = self.functions_by_oid.get(int(code or 0))
        effects = implements.effects if implements is not None else UNKNOWN
        return effects | CAST if effects else NONE

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

    def is_generated(self, table_oid: int, attnum: int) -> bool:
        return (table_oid, attnum) in self._generated

    def _telling(self) -> frozenset[int]:
        """Tables where IS NULL tells more than whether a value is stored, of what it was made or what is inside: those
        with generated columns or columns that are rows, and their parents."""
        rows = {kind.oid for kind in self.types_by_oid.values() if kind.category == "C"}
        waiting = [oid for oid, _ in self._generated]
        waiting += [r.oid for r in self.relations.values() if any(kind in rows for _, kind in r.columns.values())]
        found: set[int] = set()
        while waiting:
            oid = waiting.pop()
            if oid not in found:
                found.add(oid)
                waiting += self._parents.get(oid, ())
        return frozenset(found)

    def made_of(self, table_oid: int, attnum: int) -> tuple[str, ...]:
        """The columns, with their parents, that a generated column (or a view's that shows one) is computed from.

        Before version 16 a child's column may be generated where its parent's is not, and is read through it.
        """
        if not self._generated:
            return ()
        for _ in range(64):
            relation = self.relations_by_oid.get(table_oid)
            if relation is None:
                return ()
            if relation.kind not in "vm":
                break
            outputs = self._select_outputs(table_oid)
            if not 0 < attnum <= len(outputs):
                return ()
            table_oid, attnum = outputs[attnum - 1]
        if table_oid not in self.telling or relation is None:
            return ()
        found: dict[str, None] = {}
        name = next((name for name, (number, _) in relation.columns.items() if number == attnum), "")
        for oid in self._with_children(table_oid):
            found.update(dict.fromkeys(self._made_of(oid, name)))
        return tuple(found)

    def _with_children(self, oid: int) -> list[int]:
        found = [oid]
        for one in found:  # it grows
            found += [child for child in self._children.get(one, ()) if child in self.telling and child not in found]
        return found

    def _made_of(self, oid: int, name: str) -> list[str]:
        relation = self.relations_by_oid.get(oid)
        attnum = relation.columns[name][0] if relation is not None and name in relation.columns else 0
        if relation is None or (oid, attnum) not in self._generated:
            return []
        numbers = self._generated[oid, attnum]
        every = numbers is None or 0 in numbers
        return [
            origin
            for number, _ in relation.columns.values()
            if (every or number in (numbers or ())) and number != attnum
            for origin in self.origin(oid, number) or ()
        ]

    def parents(self, oid: int) -> tuple[int, ...]:
        """The tables that it inherits from or is a partition of, directly."""
        return tuple(self._parents.get(oid, ()))

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


def _borrows(operator: int, function: Function) -> bool:
    """Whether an operator that somebody made calls a built-in that is judged by the text that names it."""
    return operator >= FIRST_USER_OID and function.schema == "pg_catalog" and function.name in JUDGED_BY_TEXT


def _columns(tree: str | None) -> frozenset[int] | None:
    """The attribute numbers of a generated column's expression; None: it could not be read, any may be in it."""
    try:
        return nodetree.columns(tree or "")
    except ValueError:
        return None


def _group(rows: Rows) -> dict[int, tuple[str | None, ...]]:
    grouped: dict[int, tuple[str | None, ...]] = {}
    for owner, *trees in rows:
        grouped[int(owner or 0)] = (*grouped.get(int(owner or 0), ()), *trees)
    return grouped


def _function(row: Sequence[str | None], schema: str, known: frozenset[str], constructs: bool) -> Function:
    oid, name, volatile, nargs = int(row[0] or 0), row[2] or "", row[3] == "v", int(row[4] or 0)
    builtin = oid < FIRST_USER_OID and schema in SYSTEM_SCHEMAS
    if builtin and row[8] in _LANGUAGES:
        effects = builtin_effects(name, volatile, nargs, name in known)
    elif constructs:
        effects = NONE
    elif row[9] is not None:
        effects = extension_effects(row[9], name, volatile, row[8] or "")
    else:
        effects = _CALL
    return Function(
        oid, schema, name, volatile, nargs, int(row[5] or 0), row[6] == "t", int(row[7] or 0), effects,
        not (builtin and volatile), row[10] or "", constructs,
    )  # fmt: skip


def _type(row: Sequence[str | None], schema: str) -> Type:
    support = tuple(int(code) for code in row[9:11] if code and code != "0")
    base, element, relation, subtype = (int(value or 0) for value in row[5:9])
    return Type(
        int(row[0] or 0), schema, row[2] or "", row[3] or "", row[4] or "", base, element, relation, subtype, support,
        row[11],
    )  # fmt: skip
