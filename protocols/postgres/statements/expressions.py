"""Walking expressions: every node on the allow-list, every function, operator and type resolved by name.

The walk keeps its own stack, so a chain of three thousand operators is no deeper than one. Only queries inside queries
recurse (`queries.py`), and those are counted.

INVARIANT: no I/O in this module; nothing here raises for a tree that the parser made, whatever it contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocols.contract import ANYWHERE
from protocols.postgres.statements.calls import Calls, keeps
from protocols.postgres.statements.nodes import CHILDREN, FIELDS, KEYWORD_FUNCTIONS, Node, strings
from protocols.postgres.statements.scope import ANYTHING, NOTHING, SYSTEM_COLUMNS, Origins, Output, Scope

# expressions whose values keep their type
_AS_THEY_ARE = frozenset({"A_Const", "A_Star", "ColumnRef", "List", "ParamRef", "ResTarget", "SortBy", "NullTest"})
_GIVEN = frozenset({"args", "arg"})  # what a call is given, by either of its spellings


class Expressions(Calls):
    """Adds the walk. Mutable; used for one statement and dropped."""

    # ------------------------------------------------------------ the walk

    def query(self, node: Node, scope: Scope | None) -> Output:
        raise NotImplementedError

    def expression(self, root: Any, scope: Scope, outputs: Output | None = None, *, shown: bool = False) -> Origins:
        """Walks an expression, or a list of them; returns the columns that its value depends on.

        `outputs`: the select list, whose names ORDER BY and GROUP BY may use. `shown`: its value is shown or stored,
        and decides nothing.
        """
        if type(root) is dict and "ColumnRef" in root and root["ColumnRef"].keys() <= FIELDS["ColumnRef"]:
            return self._column(root["ColumnRef"], scope, outputs)  # by far the most frequent expression
        found: set[str] = set()
        around, self.multiplies = self.multiplies, False
        outer, self.shown = self.shown, shown
        stack: list[Any] = [root]
        while stack:
            item = stack.pop()
            if type(item) is list:
                stack.extend(item)
                continue
            if type(item) is tuple:
                tag, body = item
            elif not item:
                continue
            else:
                tag, body = next(iter(item.items()))
            fields = FIELDS.get(tag)
            if fields is None:
                self.unknown(f"`{tag}` is not a construct that is understood here")
                continue
            if not body.keys() <= fields:
                self.unknown(f"`{tag}` has a part that is not understood here")
                continue
            if tag not in _AS_THEY_ARE:
                self.combines = True
            handler = _HANDLERS.get(tag)
            if handler is not None:
                found |= handler(self, body, scope, outputs)
            elif tag in KEYWORD_FUNCTIONS:
                self.keyword_function(tag)
            for name, child_tag in CHILDREN[tag]:
                child = body.get(name)
                if child is not None and not (name in _GIVEN and self.walked is body):
                    stack.append(child if child_tag is None else (child_tag, child))
        if self.multiplies:
            self.filter(found)  # how many rows come back tells the value
        self.multiplies = around
        self.shown = outer
        return frozenset(found)

    def value(self, root: Any, scope: Scope) -> Origins:
        """The same for a value that is shown or stored.

        `ANYTHING` is in it where code makes it that nobody sees, or where a name in it was not resolved.
        """
        opened, blind, self.blind = self.opened, self.blind, False
        origins = self.expression(root, scope, shown=True)
        if self.opened != opened or self.blind:
            origins |= ANYTHING
        self.blind = self.blind or blind
        return origins

    # ------------------------------------------------------------ columns

    def _column(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        parts = body.get("fields", [])
        names = strings(parts)
        self.budget.spend(scope.size())
        if "A_Star" in parts[-1]:
            return self.star(names, scope)
        if len(names) == 1:
            origins, found = scope.unqualified(names[0])
            if outputs is not None and outputs.columns is not None:
                self.budget.spend(len(outputs.columns))
                same = [o for n, o in outputs.columns if n == names[0]]
                for one in same:
                    origins |= one
                found = found or bool(same)
            if not found and not origins:
                origins = scope.everything()
                self.blind = True
        else:
            origins = self._qualified_column(names, scope)
        for origin in origins - ANYTHING if ANYWHERE in origins else origins:
            self.columns[origin] = None
        return origins

    def _qualified_column(self, names: list[str], scope: Scope) -> Origins:
        column = names[-1]
        source = scope.source(names[0]) if len(names) == 2 else scope.relation_source(names[-3], names[-2])
        if source is None and len(names) > 2:
            source = scope.source(names[-2]) or scope.source(names[0])
        if source is not None:
            origins = source.column(column)
            if origins is not None:
                return origins
            if column in SYSTEM_COLUMNS and source.has_system_columns:
                return NOTHING
            # not a column that is known: it may still be one, or a call in attribute notation
            if any(map(keeps, self.attribute(column))):
                self.handed(source.everything)
            return source.loose_column(column) if source.names is None else source.everything
        self.attribute(column)
        self.blind = True
        return NOTHING

    def star(self, names: Sequence[str], scope: Scope) -> Origins:
        """`*`, `alias.*` or `schema.table.*`."""
        if names:
            source = scope.source(names[-1])
            origins = source.everything if source is not None else NOTHING
            self.blind = self.blind or source is None
        else:
            origins = scope.everything()
        self.budget.spend(len(scope.sources) + len(origins))
        for origin in origins - ANYTHING:
            self.columns[origin] = None
        return origins

    def _indirection(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        found: set[str] = set()
        base = body.get("arg", {})
        row = None
        if "ColumnRef" in base:
            names = strings(base["ColumnRef"].get("fields"))
            row = scope.row(names[0]) if len(names) == 1 else None
        first, given = True, False
        for step in body.get("indirection", ()):
            if "A_Indices" in step:
                found |= self.expression(step, scope, outputs)
            elif "String" in step:
                name = step["String"].get("sval", "")
                column = row.column(name) if row is not None and first else None
                if column is None:
                    if any(map(keeps, self.attribute(name, base))) and not given:
                        found |= self.handed(self.value(base, scope))
                        given = True
                else:
                    found |= column
                    self.columns.update(dict.fromkeys(column))
            elif "A_Star" not in step:
                self.unknown("an indirection that is not understood here")
            first = False
        if given:
            self.walked = body  # a second walk at each level would make a deep nest of calls endless
        return frozenset(found)

    # ------------------------------------------------------------ nodes with more to them than their children

    def _invoked(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        found = self._function(body, scope, outputs)
        names, args = strings(body.get("funcname"))[-2:], body.get("args", [])
        if len(args) == 1 and names[-1] == "count" and self._is_own(names):
            self._tells_only_null(body, args[0], scope)
        return found

    def _is_own(self, names: list[str]) -> bool:
        """Whether every function of that name is the server's own."""
        return {function.schema for function in self.names.functions(names)} == {"pg_catalog"}

    def _case(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        if "arg" in body:
            self.operator(["="])
        return NOTHING

    def _sort(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        if "useOp" in body:
            self.operator(strings(body["useOp"])[-2:])
        return NOTHING

    def _sublink(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        if "operName" in body:
            self.operator(strings(body["operName"])[-2:])
        elif "testexpr" in body:
            self.operator(["="])
        inner = self.query(body.get("subselect", {}), scope).everything
        if "testexpr" in body:
            self.filter(inner)
        if body.get("subLinkType") == "EXISTS_SUBLINK":
            return inner & ANYTHING  # what decides whether there is a row is a filter; nobody sees the row
        return inner

    def _null_test(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        self._tells_only_null(body, body.get("arg", {}), scope)
        return NOTHING

    def _tells_only_null(self, body: Node, argument: Node, scope: Scope) -> None:
        """Whether a stored column is NULL is no secret. Where the answer decides something, it counts as a question."""
        fields = argument["ColumnRef"].get("fields", ()) if "ColumnRef" in argument else ()
        names = strings(fields)  # shorter where a star is in it: `name.*` is a row, whatever columns are called so
        if self.shown and len(names) == len(fields) and scope.stores(names):
            self._column(argument["ColumnRef"], scope, None)
            self.walked = body

    def _array_query(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        self.keyword_function("JsonArrayQueryConstructor")
        return self.query(body.get("query", {}), scope).everything

    def _type(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        if body.get("pct_type"):
            self.unknown("a type taken from a column")
        self._cast_to(strings(body.get("names")))
        return NOTHING

    def _window(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        origins = self.expression([body.get(part, []) for part in ("partitionClause", "orderClause")], scope)
        self.filter(origins)
        return origins

    def _cursor(self, body: Node, scope: Scope, outputs: Output | None) -> Origins:
        return NOTHING


_HANDLERS: dict[str, Any] = {
    "A_Expr": Expressions._operation,
    "A_Indirection": Expressions._indirection,
    "CaseExpr": Expressions._case,
    "ColumnRef": Expressions._column,
    "CurrentOfExpr": Expressions._cursor,
    "FuncCall": Expressions._invoked,
    "JsonAggConstructor": Expressions._filtered,
    "JsonArrayQueryConstructor": Expressions._array_query,
    "NullTest": Expressions._null_test,
    "SortBy": Expressions._sort,
    "SubLink": Expressions._sublink,
    "TypeName": Expressions._type,
    "WindowDef": Expressions._window,
}
