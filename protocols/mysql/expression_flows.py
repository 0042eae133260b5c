"""Where the value of an expression comes from.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from protocols.mysql.flows import (
    ANYTHING,
    NOTHING,
    Ctes,
    Flow,
    Scope,
    alike,
    called,
    declassified,
    same,
    union,
    whole,
)
from protocols.mysql.relation_flows import Relations

# words without parentheses that sqlglot takes for columns
_NILADIC = frozenset(
    {"utc_date", "utc_time", "utc_timestamp", "current_role", "localtime", "localtimestamp", "current_date",
     "current_time", "current_timestamp", "current_user", "sysdate", "default", "maxvalue",
     "date", "time", "datetime", "timestamp"}
)  # fmt: skip
# the grammar's own words: no stored function can take their place
_GRAMMAR = (
    exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg, exp.Case, exp.If, exp.Coalesce, exp.Cast, exp.Exists, exp.And,
    exp.Or, exp.Not, exp.Concat, exp.GroupConcat, exp.CurrentDate, exp.CurrentTimestamp, exp.RowNumber,
)  # fmt: skip
_INSERT_ID = frozenset({"last_insert_id", "identity", "insert_id"})


class Expressions(Relations):
    """A part of `Lineage`."""

    # ------------------------------------------------------------ expressions

    def _flow(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> Flow:
        while isinstance(node, exp.Paren | exp.Alias):
            node = node.this
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            self._count()
            return self._column(node, scope, ctes)
        return self._collect(node, scope, ctes).derived()

    def _collect(self, start: exp.Expr, scope: Scope, ctes: Ctes, *, aliases: bool = False) -> Flow:
        """Everything that an expression's value depends on."""
        flow = NOTHING
        stack: list[Any] = [start]
        while stack:
            node = stack.pop()
            self._count()
            if flow.anything:
                return ANYTHING
            if isinstance(node, exp.Column):
                if isinstance(node.this, exp.Star):
                    flow = flow | union(whole(s) for s in scope.sources)
                else:
                    flow = flow | self._column(node, scope, ctes, aliases=aliases)
                continue
            if isinstance(node, exp.Query | exp.Values) or (
                isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query | exp.Values | exp.Subquery)
            ):
                found = self._query(node, scope, ctes)
                flow = flow | found.rows
                if not _only_whether(node):
                    flow = flow | union(o.flow for o in found.outputs or ()) | found.rest
                continue
            counted = declassified(node, scope)
            if counted is not None:
                # whether a column is NULL is no secret, but whether an expression is can be an answer about its parts
                for column in counted:
                    if isinstance(column, exp.Column):
                        inner = self._column(column, scope, ctes, aliases=aliases)
                        flow = flow | Flow(frozenset(), inner.computed, inner.anything)
                continue
            special = self._special(node, scope, ctes)
            if special is not None:
                flow = flow | special
            if isinstance(node, exp.Window):
                flow = flow | self._window(node, scope, ctes)
                stack.append(node.this)
                continue
            for value in node.args.values():
                for part in value if isinstance(value, list) else (value,):
                    if isinstance(part, exp.Expr):
                        stack.append(part)
        return flow

    def _special(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> Flow | None:
        """What a node brings in that is not among its children."""
        if isinstance(node, exp.Parameter):
            return self._variable(node)
        if isinstance(node, exp.SessionParameter):
            return ANYTHING if self._insert_id and node.name.lower() in _INSERT_ID else None
        if isinstance(node, exp.Placeholder):
            return ANYTHING if self._parameters else None
        if isinstance(node, exp.Star):
            return union(whole(s) for s in scope.sources)
        if isinstance(node, exp.Table | exp.Command):
            return ANYTHING
        if isinstance(node, exp.Dot):
            return ANYTHING if node.find(exp.Func) is not None else None  # schema.function(): code of its own
        if isinstance(node, exp.Window) and node.args.get("alias") is not None:
            scoped: Scope | None = scope
            flow = NOTHING
            while scoped is not None:
                flow = flow | union(self._window(w, scoped, ctes) for w in scoped.windows if w is not node)
                scoped = scoped.outer
            return flow
        if isinstance(node, exp.Func) and not isinstance(node, _GRAMMAR):
            name = called(node).lower()
            if name in _INSERT_ID:
                return ANYTHING if self._insert_id or node.expressions else None
            if name == "load_file" or self._opens:
                return ANYTHING
            if name and self._catalog.routine("", name) is not None:
                return ANYTHING
        return None

    def _window(self, window: exp.Expr, scope: Scope, ctes: Ctes) -> Flow:
        """What rows are put together and counted by; it may name what the list calls so."""
        flow = NOTHING
        for key in ("partition_by", "order", "spec"):
            value = window.args.get(key)
            for part in value if isinstance(value, list) else (value,):
                if isinstance(part, exp.Expr):
                    flow = flow | self._collect(part, scope, ctes, aliases=True)
        return flow

    def _variable(self, node: exp.Expr) -> Flow:
        if self._state is None or self._assigns:
            return ANYTHING
        variable = self._state.variable(node.name.lower())
        return self._of_relations(variable.sources).derived() if variable.known else ANYTHING

    def _column(self, node: exp.Column, scope: Scope, ctes: Ctes, *, aliases: bool = False) -> Flow:
        """Every column that this name may mean, in the innermost query that has one."""
        if node.args.get("catalog") is not None:
            return ANYTHING
        name, table, schema = node.name, node.table, node.db
        if not table and name.lower() in _NILADIC and not node.this.args.get("quoted"):
            return NOTHING
        found: list[Flow] = []
        at: Scope | None = scope
        while at is not None:
            sure = False
            unnamed: list[Flow] = []
            self._count(len(at.sources) // 4)
            for source in at.sources:
                if table and not alike(source.alias, table):
                    continue
                if schema and source.schema is not None and not alike(source.schema, schema):
                    continue
                if source.columns is None:
                    found.append(source.rest)
                    continue
                self._count(len(source.columns) // 16)
                found += [flow for column, flow in source.columns if alike(column, name)]
                # a column that the text gives no name has one all the same: its own text, as the server writes it
                unnamed += [flow for column, flow in source.columns if not column]
                if name.lower() == "_rowid":  # another name of the key
                    unnamed.append(whole(source))
                # where the server may see no match here, it goes on to the query around this one: so does the search
                here = (not table or source.alias == table) and (not schema or source.schema == schema)
                sure = sure or (here and any(same(column, name) for column, _ in source.columns))
            if not table and (at is not scope or aliases):
                found += self._aliased(name, at, ctes)
                sure = sure or (aliases and any(isinstance(i, exp.Alias) and same(i.alias, name) for i in at.items))
            if sure:
                return union(found)
            found += unnamed
            at = at.outer
        return union(found) | ANYTHING if not found else union(found)

    def _aliased(self, name: str, scope: Scope, ctes: Ctes) -> list[Flow]:
        """An inner query may name what the list around it calls so."""
        out: list[Flow] = []
        for item in scope.items:
            if isinstance(item, exp.Alias) and alike(item.alias, name):
                if id(item) in scope.resolving:
                    out.append(ANYTHING)
                    continue
                scope.resolving.add(id(item))
                try:
                    out.append(self._flow(item.this, scope, ctes))
                finally:
                    scope.resolving.discard(id(item))
        return out


def _only_whether(node: exp.Expr) -> bool:
    """Whether it is asked if the query has a row, and what it selects has no part in that."""
    return isinstance(node.parent, exp.Exists) and isinstance(node, exp.Select) and not node.args.get("distinct")
