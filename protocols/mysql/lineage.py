"""Where the values of a query's columns come from, worked out on sqlglot's tree with the catalog.

A `Flow` says of one value: it is a copy of one of these columns, or computed from those, or may hold anything. Row
selection (WHERE, HAVING, join conditions, ORDER BY with LIMIT) is no flow into the rows that are selected: what it
gives away is an effect of the command (`probe`), not of the result. It is one where a whole query becomes one value (a
scalar subquery, EXISTS, IN).

Every doubt widens a flow, never narrows it: a name that could mean two columns means both, one that means none that we
know means anything. Result metadata plays no part here: a CTE or an alias can borrow any name in it.

Read top down: statements and queries here, `table_flows` (FROM), `expression_flows`, `relation_flows` (tables, views).

INVARIANT: no I/O in this module; time and depth are bounded by `MAX_NODES` and `MAX_DEPTH`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from protocols.mysql.flows import (
    ANYTHING,
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_NODES,
    NOTHING,
    Ctes,
    Flow,
    Output,
    Result,
    Scope,
    Source,
    Untraceable,
    Variables,
    alias_of,
    alike,
    bare,
    called,
    given,
    may_be_number,
    merged,
    opens,
    renamed,
    union,
    whole,
)
from protocols.mysql.table_flows import Tables

__all__ = [
    "ANYTHING", "MAX_DEPTH", "MAX_NODES", "NOTHING", "Flow", "Lineage", "Output", "Untraceable", "Variables", "alike",
    "opens", "union",
]  # fmt: skip

_MAX_ROUNDS = 16  # until a recursive CTE's columns stand still


class Lineage(Tables):
    """The origins of one statement's columns: see `Relations` for what it is made with."""

    # ------------------------------------------------------------ statements

    def outputs(self, tree: exp.Expr) -> tuple[Output, ...]:
        """The columns of this statement's result. Raises `Untraceable`."""
        self._assigns = tree.find(exp.PropertyEQ, exp.Into) is not None
        try:
            if isinstance(tree, exp.Query | exp.Values | exp.Subquery):
                found = self._query(tree, None, {})
            elif isinstance(tree, exp.Insert | exp.Delete | exp.Update):
                found = self._returning(tree)
            else:
                raise Untraceable("not a statement whose columns can be traced")
        except RecursionError:
            raise Untraceable("nested too deeply") from None
        if found.outputs is None:
            raise Untraceable("the number of columns is not known")
        return tuple(found.outputs)

    def _returning(self, tree: exp.Expr) -> Result:
        returning = tree.args.get("returning")
        target = tree.this
        if isinstance(target, exp.Schema):
            target = target.this
        if not isinstance(returning, exp.Returning) or not isinstance(target, exp.Table):
            raise Untraceable("a write without RETURNING gives no rows")
        if tree.args.get("with_") is not None:
            raise Untraceable("a write with a WITH clause")
        scope = Scope()
        self._add_table(target, scope, {})
        if not isinstance(tree, exp.Delete):
            # what is written may come from anywhere that the statement reads
            read = self._everything_below(tree, returning)
            if isinstance(tree, exp.Update) or tree.args.get("conflict") is not None:
                # SET may put one column of the row into another
                read = union([read, *(whole(s) for s in scope.sources)]).derived()
            for source in scope.sources:
                if source.columns is not None:
                    source.columns = [(name, flow | read) for name, flow in source.columns]
                    source.visible = (
                        source.columns
                        if source.visible is None
                        else [(name, flow | read) for name, flow in source.visible]
                    )
            relation = self._relation_of(target)
            if relation is None or relation.triggers is None or relation.triggers:
                raise Untraceable("a trigger may fill the columns that are returned")
        return Result(self._items(returning.expressions, scope, None, {}), NOTHING)

    def _everything_below(self, tree: exp.Expr, returning: exp.Expr) -> Flow:
        """All columns of all tables that a write reads, beside those that it returns."""
        flow = NOTHING
        for node in tree.walk(prune=lambda n: n is returning):
            self._count()
            if isinstance(node, exp.Table) and node.parent is not tree and not isinstance(node.parent, exp.Schema):
                scope = Scope()
                self._add_table(node.copy().transform(bare), scope, {})
                flow = union([flow, *(whole(s) for s in scope.sources)])
            elif isinstance(node, exp.Parameter):
                flow = flow | self._variable(node)
            elif self._opens and isinstance(node, exp.Func | exp.Dot):
                flow = ANYTHING
        return flow.derived()

    # ------------------------------------------------------------ queries

    def _query(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Untraceable("nested too deeply")
        try:
            clause = node.args.get("with_")
            if clause is not None:
                ctes = self._with(clause, outer, ctes)
            if isinstance(node, exp.Subquery):
                if not isinstance(node.this, exp.Query | exp.Values | exp.Subquery):
                    raise Untraceable("a join in parentheses where a query is expected")
                inner = self._query(node.this, outer, ctes)
                rows = inner.rows | self._clauses(node, outer, ctes)
                return Result(inner.outputs, rows | _shown(inner) if _numbered(node) else rows, inner.rest)
            if isinstance(node, exp.SetOperation):
                return self._union(node, outer, ctes)
            if isinstance(node, exp.Select):
                return self._select(node, outer, ctes)
            if isinstance(node, exp.Values):
                return self._values(node, outer, ctes)
            raise Untraceable(f"a {type(node).__name__} where a query is expected")
        finally:
            self._depth -= 1

    def _with(self, clause: exp.Expr, outer: Scope | None, ctes: Ctes) -> Ctes:
        known = dict(ctes)
        recursive = bool(clause.args.get("recursive"))
        later = [alias_of(cte.args.get("alias")) for cte in clause.expressions]
        for cte in clause.expressions:
            name = later.pop(0)
            if recursive and any(
                isinstance(t, exp.Table) and not t.args.get("db") and any(alike(t.name, n) for n in later)
                for t in cte.this.walk()
            ):
                raise Untraceable("CTEs that name each other")
            alias = cte.args["alias"]
            columns = [c.name for c in alias.args.get("columns") or ()]
            body = cte.this
            if not recursive:
                found = self._query(body, outer, known)
            else:
                found = self._recursive(name, columns, body, outer, known)
            known[name.lower()] = (name, renamed(found, columns))
        return known

    def _recursive(self, name: str, columns: list[str], body: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        """A fixpoint: the columns of the first part flow into what the others read."""
        refers = any(isinstance(t, exp.Table) and alike(t.name, name) for t in body.walk())
        if not refers:
            return self._query(body, outer, ctes)
        first: exp.Expr = body
        while isinstance(first, exp.SetOperation | exp.Subquery):
            first = first.this
        now = renamed(self._query(first, outer, ctes), columns)
        for _ in range(_MAX_ROUNDS):
            found = renamed(self._query(body, outer, {**ctes, name.lower(): (name, now)}), columns)
            wider = merged(now, found)
            if wider == now:
                return now
            now = wider
        raise Untraceable("a recursive CTE that does not settle")

    def _union(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        parts: list[exp.Expr] = []
        rows = NOTHING
        meets = False  # equal rows become one, or meet those of the other side: how many are left tells which are equal
        at: exp.Expr = node
        while isinstance(at, exp.SetOperation) and (at is node or at.args.get("with_") is None):
            self._count()
            meets = meets or not isinstance(at, exp.Union) or at.args.get("distinct") is not False or _numbered(at)
            parts.append(at.expression)
            rows = rows | self._clauses(at, None, ctes)
            at = at.this
        parts.append(at)
        found = [self._query(part, outer, ctes) for part in reversed(parts)]
        out = found[0]
        for part in found[1:]:
            out = merged(out, part)
        if meets:
            rows = rows | _shown(out)
        return Result(out.outputs, out.rows | rows, out.rest)

    def _values(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        columns: list[Flow] | None = None
        scope = Scope(outer)
        for row in node.expressions:
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            if len(cells) == 1 and called(cells[0]) == "ROW":
                cells = cells[0].expressions
            flows = [self._flow(cell, scope, ctes) for cell in cells]
            if columns is None:
                columns = flows
            elif len(columns) != len(flows):
                raise Untraceable("VALUES rows of different widths")
            else:
                columns = [a | b for a, b in zip(columns, flows, strict=True)]
        # MariaDB calls them by the values of the first row
        named = "column_{}" if self._catalog.flavour == "mysql" else ""
        return Result([Output(named.format(i), flow) for i, flow in enumerate(columns or ())], NOTHING)

    def _select(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        scope = Scope(outer, items=node.expressions, windows=node.args.get("windows") or ())
        star: list[tuple[str, Flow]] | None = []
        source = node.args.get("from_")
        if source is not None:
            star = self._from(source.this, node.args.get("joins") or (), scope, ctes)
        elif node.args.get("joins"):
            raise Untraceable("a join without a FROM")
        if node.args.get("laterals") or node.args.get("pivots"):
            raise Untraceable("a clause that MySQL does not have")
        outputs = self._items(node.expressions, scope, star, ctes)
        rows = union(s.rows for s in scope.sources) | self._clauses(node, scope, ctes)
        rest = union(whole(s) for s in scope.sources) if outputs is None else NOTHING
        found = Result(outputs, rows, rest)
        return Result(outputs, rows | _shown(found), rest) if node.args.get("distinct") or _numbered(node) else found

    def _clauses(self, node: exp.Expr, scope: Scope | None, ctes: Ctes) -> Flow:
        """What decides the rows of a query: every clause but its list and its tables."""
        flow = NOTHING
        for key, value in node.args.items():
            if key in ("expressions", "from_", "joins", "with_", "this", "expression", "windows", "into", "alias"):
                continue
            for part in value if isinstance(value, list) else (value,):
                if isinstance(part, exp.Expr):
                    # a column of ORDER BY may be an alias of the list: those flows are in the outputs already
                    flow = flow | self._collect(part, scope or Scope(), ctes, aliases=True)
        return flow.derived()

    def _items(
        self, items: Sequence[exp.Expr], scope: Scope, star: list[tuple[str, Flow]] | None, ctes: Ctes
    ) -> list[Output] | None:
        out: list[Output] = []
        for item in items:
            if isinstance(item, exp.Star):
                columns = star if star is not None or not scope.sources else self._concatenated(scope.sources)
                if columns is None or item.args.get("except_") or item.args.get("replace"):
                    return None
                self._count(len(columns) // 16)
                out += [Output(name, flow, True) for name, flow in columns]
            elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
                found = [s for s in scope.sources if alike(s.alias, item.table)]
                if item.args.get("db") is not None:
                    found = [s for s in found if s.schema is None or alike(s.schema, item.db)]
                if len(found) != 1 or found[0].visible is None:
                    return None
                self._count(len(found[0].visible) // 16)
                out += [Output(name, flow, True) for name, flow in found[0].visible]
            elif isinstance(item, exp.Alias):
                out.append(Output(given(item.alias), self._flow(item.this, scope, ctes)))
            else:
                name = item.name if isinstance(item, exp.Column) else None
                out.append(Output(name, self._flow(item, scope, ctes)))
            if len(out) > MAX_COLUMNS:
                raise Untraceable("more columns than a server takes")
        return out

    @staticmethod
    def _concatenated(sources: Sequence[Source]) -> list[tuple[str, Flow]] | None:
        out: list[tuple[str, Flow]] = []
        for source in sources:
            if source.visible is None:
                return None
            out += source.visible
        return out


def _shown(found: Result) -> Flow:
    """Everything that a query shows, where equal rows are told from others."""
    return (union(o.flow for o in found.outputs or ()) | found.rest).derived()


def _numbered(node: exp.Expr) -> bool:
    """Whether a clause may name a column by its number."""
    clauses = (node.args.get("group"), node.args.get("order"))
    return any(may_be_number(key) for clause in clauses if clause is not None for key in clause.expressions)
