"""Code that an expression calls: functions, operators and casts, resolved by name; what each of them can do.

INVARIANT: no I/O in this module; nothing here raises for a tree that the parser made, whatever it contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocols.contract import ANYWHERE, Effect, Store
from protocols.postgres.catalog import Function
from protocols.postgres.functions import (
    CONSUMES_RANDOM,
    LEAVES_A_TRACE,
    MULTIPLIES_ROWS,
    NAMES_TYPE,
    NONE,
    READS_LARGE_OBJECTS,
    RUNS_TYPE_INPUT,
)
from protocols.postgres.settings import canonical, set_effect, words
from protocols.postgres.statements.findings import OPENS, Findings
from protocols.postgres.statements.model import Change, ChangeKind
from protocols.postgres.statements.nodes import KEYWORD_FUNCTIONS, Node, constant, strings
from protocols.postgres.statements.scope import ANYTHING, NOTHING, Origins, Output, Scope

_SIDE_CHANNELS = frozenset(
    {
        Effect.SESSION_ROLE,
        Effect.SESSION_GUARD,
        Effect.SESSION_NAME_RESOLUTION,
        Effect.SESSION_PARSE_STATE,
        Effect.SESSION_OTHER,
    }
)
_OPERATORS_OF_KIND = {
    "AEXPR_BETWEEN": (">=", "<="),
    "AEXPR_NOT_BETWEEN": ("<", ">"),
    "AEXPR_BETWEEN_SYM": (">=", "<="),
    "AEXPR_NOT_BETWEEN_SYM": ("<", ">"),
}
# which setting is not known: one that means something else for names afterwards, and is not reported before 18
ANY_SETTING = (Change(ChangeKind.OPAQUE), Change(ChangeKind.SET, "search_path"))
COUNTED = MULTIPLIES_ROWS | CONSUMES_RANDOM  # how often something happens tells the values at hand
_POPULATES = "#="  # hstore: a record, with values that are read as the types of its columns
_READS = frozenset({Effect.SECRET_READ, Effect.DATA_SELECT, Effect.SHOW})  # and leaves nothing behind
_INV_READ = "262144"  # lo_open's mode that cannot write
# what the parser accepts as a type's name beyond pg_type.typname, for functions that take it as text
_SQL_TYPES = words(
    """
    int integer smallint bigint real float decimal dec char character varchar boolean bit time timestamp interval
    numeric text date json jsonb uuid xml bytea inet cidr macaddr point money
    """
)


class Calls(Findings):
    """Adds the code that is called to what is found out; the walk itself is `Expressions`."""

    def expression(self, root: Any, scope: Scope, outputs: Output | None = None) -> Origins:
        raise NotImplementedError

    def value(self, root: Any, scope: Scope) -> Origins:
        raise NotImplementedError

    # ------------------------------------------------------------ functions

    def call(self, function: Function) -> None:
        self.add(function.effects, function.at_plan_time)
        if function.effects:
            self.opened += not OPENS.isdisjoint(function.effects)
            self.functions[function.qualified] = None
            if Effect.UNKNOWN in function.effects:
                self.unknown(f"the built-in function `{function.name}` is on no list")

    def _function(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        self.named = True
        names = strings(body.get("funcname"))
        args = body.get("args", [])
        count = len(args) + (len(body.get("agg_order", ())) if body.get("agg_within_group") else 0)
        handed = self._handed_over(names[-2:], count, args, scope)
        found = self._filtered(body, scope, outputs) | self.function(names[-2:], count, args, scope)
        if handed is None:
            return found
        self.walked = body  # a second walk at each level would make a deep nest of calls endless
        return found | handed

    def _handed_over(self, names: list[str], count: int, args: list[Node], scope: Scope) -> Origins | None:
        """What a call that leaves something behind is given may be read there: in a sequence, a message, a file."""
        functions = self.names.functions(names)
        callable_ = [f for f in functions if f.takes(count)] or functions
        return self.handed(self.value(args, scope)) if args and any(map(keeps, callable_)) else None

    def handed(self, origins: Origins) -> Origins:
        """What a call that leaves something behind is given."""
        if origins:
            self.stores[Store(ANYWHERE, tuple(sorted(origins)))] = None
        return origins - ANYTHING

    def _filtered(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        """The FILTER clause of a call: what it selects by."""
        if "agg_filter" not in body:
            return NOTHING
        origins = self.expression(body["agg_filter"], scope)
        self.filter(origins)
        return origins

    def function(self, names: list[str], count: int, args: list[Node], scope: Scope) -> Origins:
        overloads = self.names.functions(names)
        callable_ = [f for f in overloads if f.takes(count)] or overloads
        # no other takes as little as a built-in without arguments, where those are found first
        self.resolves |= names[:-1] != ["pg_catalog"] and (
            count > 0 or "pg_catalog" in self.names.path or not overloads
        )
        if self.names.touched_all or not self.names.path_known:
            self.unknown("the names of functions are not certain in this session")
        elif names[0].startswith("pg_temp") and len(names) == 2:
            self.unknown("a function in pg_temp")
        if count > 1 and any(map(_untyped, args)):
            self.untyped = "call"
        for function in callable_:
            self._called(function, args)
        if count == 1:
            self._cast_to(names, lenient=True)
            if not overloads and self._is_column(names, args, scope):
                return NOTHING
        if not overloads and not (count == 1 and self.names.types(names)[0]):
            self.unknown(f"function `{'.'.join(names)}` does not exist in the catalog snapshot")
            self.opened += 1
            if self.names.catalog.open_world:
                self.add({Effect.EXEC_CALL})
            self.functions[".".join(names)] = None
        return NOTHING

    def _called(self, function: Function, args: list[Node]) -> None:
        """One overload that a call may mean, however it is written."""
        if function.constructs:
            self.add(self.names.catalog.type_effects(function.result))
        if function.name in RUNS_TYPE_INPUT:
            self.row_input = True
        own = function.schema == "pg_catalog"
        self.leaves_trace = self.leaves_trace or (own and function.name in LEAVES_A_TRACE)
        # what lasts can be looked at later: whether, and how often, it was called
        lasts = own and not function.effects <= _READS
        self.multiplies = self.multiplies or lasts or (function.name in COUNTED and (own or not function.effects))
        if function.effects or function.name in _SPECIAL:
            special = _SPECIAL.get(function.name) if own else None
            if special is None or not special(self, function, args):
                self.call(function)

    def attribute(self, name: str, base: Node | None = None) -> list[Function]:
        """`expression.name`, where no column of that name is known: a call with one argument, if there is such one.

        `base`: the expression; None: a row. Returns those that may be meant.
        """
        self.resolves = True
        functions = [function for function in self.names.functions([name]) if function.takes(1)]
        for function in functions:
            self._called(function, [base or {}])
        self._cast_to([name], lenient=True)
        return functions

    def _is_column(self, names: list[str], args: list[Node], scope: Scope) -> bool:
        """`name(row)` is the same as `row.name`."""
        if len(names) != 1 or "ColumnRef" not in args[0]:
            return False
        row = strings(args[0]["ColumnRef"].get("fields"))
        source = scope.source(row[-1]) if row else None
        return source is not None and source.column(names[0]) is not None

    def keyword_function(self, tag: str) -> None:
        """Servers before 16 and 17 do not know this syntax: there it calls a function of that name."""
        for name in KEYWORD_FUNCTIONS[tag]:
            for function in self.names.functions([name]):
                if function.schema != "pg_catalog":
                    self.call(function)

    def _set_config(self, function: Function, args: list[Node]) -> bool:
        self.read_constant = True
        known = [constant(arg) for arg in args]
        if self.setting and args and strings(args[0].get("ColumnRef", {}).get("fields")) == ["name"]:
            known[0] = ("s", self.setting)
        if len(known) == 3 and known[0] is not None and known[0][0] == "s":
            name = canonical(known[0][1])
            value = known[1][1] if known[1] is not None and known[1][0] == "s" else None
            local = known[2] != ("b", "false")
            self.add({set_effect(name, value)}, planned=False)
            self.changes.append(Change(ChangeKind.SET, name, value, local))
        else:
            self.add(_SIDE_CHANNELS | {Effect.PRIV_TRIGGERS}, planned=False)
            self.unknown("`set_config` with a setting that the text does not show")
            self.changes.extend(ANY_SETTING)
        return True

    def _sequence(self, function: Function, args: list[Node]) -> bool:
        self.read_constant = True
        name = args[0] if args else None
        while name and "TypeCast" in name:
            name = name["TypeCast"].get("arg")
        text = constant(name)
        if text is not None and text[0] == "s" and text[1].replace("_", "").replace(".", "").isalnum():
            *schema, relation = text[1].lower().split(".")[-2:]
            for target in self.names.relations(schema[0] if schema else None, relation):
                self.writes[target.qualified] = None
        return False

    def _large_object(self, function: Function, args: list[Node]) -> bool:
        self.reads["pg_catalog.pg_largeobject"] = None
        if function.name != "lo_open":
            return False
        self.read_constant = True
        return len(args) == 2 and constant(args[1]) == ("i", _INV_READ)

    def _names_type(self, function: Function, args: list[Node]) -> bool:
        self.read_constant = True
        text = constant(args[1]) if len(args) == 2 else None
        if text is None or text[0] != "s":
            self.add({Effect.EXEC_CAST})
            self.unknown("a type that the text does not show")
            return True
        words = "".join(c if c.isalpha() or c == "_" or c.isdigit() else " " for c in text[1].lower()).split()
        if not words or words[0] not in _SQL_TYPES:
            simple = text[1].strip()
            plain = simple.replace("_", "").isalnum() and simple == simple.lower()
            if plain and self.names.types([simple])[0]:
                self._cast_to([simple])
            else:
                self.add({Effect.EXEC_CAST})
                self.unknown("a type name that is not understood here")
        return True

    # ------------------------------------------------------------ operators and types

    def operator(self, names: Sequence[str], unary: bool = False) -> None:
        if not names:
            return
        self.resolves |= len(names) == 1
        live, exists = self.names.operators(names, unary)
        if self.names.touched_all:
            self.unknown("the open transaction changed definitions")
        if names[-1] == _POPULATES:
            self.row_input = True
        self.opened += bool(live)
        for qualified, function in live:
            self.add({Effect.EXEC_CAST} | (function.effects if function is not None else {Effect.UNKNOWN}))
            self.functions[function.qualified if function is not None else qualified] = None
        if not exists:
            self.unknown(f"operator `{'.'.join(names)}` does not exist in the catalog snapshot")

    def _operation(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        unary = "lexpr" not in body
        if not self.untyped and (_untyped(body.get("lexpr")) or _untyped(body.get("rexpr"))):
            self.untyped = "operator"
        kinds = _OPERATORS_OF_KIND.get(body.get("kind", ""))
        if kinds is None:
            self.operator(strings(body.get("name"))[-2:], unary)
        else:
            for name in kinds:
                self.operator([name])
        return NOTHING

    def _cast_to(self, names: Sequence[str], lenient: bool = False) -> None:
        """A value of this type is made. `lenient`: it may also be no type at all."""
        self.named = True
        found, why = self.names.types(names)
        self.resolves |= any(one.schema != "pg_catalog" for one in found)
        for one in found:
            effects = self.names.catalog.type_effects(one.oid)
            if effects:
                self.add(effects)
                self.opened += not OPENS.isdisjoint(effects)
                self.functions[f"{one.schema}.{one.name}"] = None
        if why and (found or not lenient):
            self.unknown(why)
        if not found and not lenient:
            self.unknown(f"type `{'.'.join(names)}` does not exist in the catalog snapshot")

    def finish_trace(self) -> None:
        """What is left in the session must not come from rows: no mask stands between it and the next statement."""
        seen = (*self.reads, *self.writes) if Effect.DATA_UPDATE in self.effects else self.reads
        if self.leaves_trace and any(not r.startswith(("pg_catalog.", "information_schema.")) for r in seen):
            self.unknown(
                "a setting, seed or position that may depend on the rows read; set it in a statement of its own"
            )

    def finish_types(self) -> None:
        """What no name in the text shows: values that become another type on their way."""
        catalog = self.names.catalog
        if self.combines:
            self.add(catalog.hidden_casts)
        if not self.row_input and not self.untyped:
            return
        for qualified in self.reads:
            schema, _, name = qualified.partition(".")
            relation = catalog.relations.get((schema, name))
            for _, type_oid in relation.columns.values() if relation is not None else ():
                # rows of a relation's type are made from data: its columns' types must all be harmless to make
                if self.row_input or self.untyped == "call" or catalog.reads_text(type_oid):
                    self.add(catalog.type_effects(type_oid) or NONE)


def keeps(function: Function) -> bool:
    """Whether a call may leave something behind: what is a database's own and not volatile does not write."""
    return (function.volatile or function.schema == "pg_catalog") and bool(function.effects - _READS)


def _untyped(node: Node | None) -> bool:
    """A literal, NULL or parameter that gets its type from what stands beside it."""
    while node and ("NamedArgExpr" in node or "CollateClause" in node):
        node = next(iter(node.values())).get("arg")
    if not node:
        return False
    if "ParamRef" in node:
        return True
    found = constant(node)
    return found is not None and found[0] in "sn"


_SPECIAL: dict[str, Any] = {
    "set_config": Calls._set_config,
    "nextval": Calls._sequence,
    "setval": Calls._sequence,
    **dict.fromkeys(READS_LARGE_OBJECTS, Calls._large_object),
    **dict.fromkeys(NAMES_TYPE, Calls._names_type),
}
