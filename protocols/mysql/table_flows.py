"""What the tables of a FROM show, and what `*` means behind them.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from protocols.mysql.expression_flows import Expressions
from protocols.mysql.flows import (
    ANYTHING,
    Ctes,
    Flow,
    Result,
    Scope,
    Source,
    Untraceable,
    alias_of,
    alike,
    joined,
    json_columns,
    renamed,
    side,
    union,
    whole,
)


class Tables(Expressions):
    """A part of `Lineage`."""

    # ------------------------------------------------------------ FROM

    def _from(
        self, first: exp.Expr, joins: Sequence[exp.Expr], scope: Scope, ctes: Ctes
    ) -> list[tuple[str, Flow]] | None:
        """Adds the tables to the scope, in their order; -> what `*` means, None where that is not known."""
        start = len(scope.sources)
        star = self._add(first, scope, ctes)
        before: list[tuple[str, Flow]] | None = []  # of what is before the last comma: JOIN binds closer
        merged = False
        for join in [*(first.args.get("joins") or ()), *joins]:
            at = len(scope.sources)
            right = self._entry(join.this, scope, ctes)
            using = [u.name for u in join.args.get("using") or ()]
            natural = str(join.args.get("method") or "").upper() == "NATURAL"
            if using or natural:
                merged = True
                common = using
                if star is not None and right is not None:
                    self._count(len(star) * (len(right) if natural else len(using)) // 16)
                if natural and star is not None and right is not None:
                    common = [name for name, _ in star if any(alike(name, other) for other, _ in right)]
                self._equal(scope, at, star, right, common)
                # a RIGHT JOIN is read as a LEFT JOIN of its sides in the other order
                sides = (right, star) if side(join) == "RIGHT" else (star, right)
                star = joined(*sides, common)
            elif _comma(join):
                before, star = joined(before, star, None), right
            else:
                star = joined(star, right, None)
            merged = merged or side(join) == "RIGHT"
            self._condition(join, scope, ctes, at)
        star = joined(before, star, None)
        if merged and star is not None:
            self._count(len(star) ** 2 // 16)
            # the order of equal names is the server's business: each of them may be any of them
            star = [(name, union(f for other, f in star if alike(name, other))) for name, _ in star]
        if len(scope.sources) == start and star is None:
            raise Untraceable("a FROM without a table")
        return star

    def _entry(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> list[tuple[str, Flow]] | None:
        """One table with what is joined to it before anything else is: `a JOIN b ON ... `, at any depth."""
        star = self._add(node, scope, ctes)
        for nested in node.args.get("joins") or ():
            at = len(scope.sources)
            star = joined(star, self._entry(nested.this, scope, ctes), None)
            if nested.args.get("using") or nested.args.get("method") or side(nested) == "RIGHT":
                if not nested.args.get("on"):
                    self._equal(scope, at, None, None, ())
                star = None
            self._condition(nested, scope, ctes, at)
        return star

    def _equal(
        self,
        scope: Scope,
        at: int,
        left: list[tuple[str, Flow]] | None,
        right: list[tuple[str, Flow]] | None,
        common: Sequence[str],
    ) -> None:
        """USING and NATURAL ask whether columns are equal."""
        if at >= len(scope.sources):
            return
        source = scope.sources[at]
        if left is None or right is None:
            asked = union(whole(s) for s in scope.sources)
        else:
            asked = union(flow for name, flow in (*left, *right) if any(alike(name, c) for c in common))
        source.rows = source.rows | asked.derived()

    def _condition(self, join: exp.Expr, scope: Scope, ctes: Ctes, at: int) -> None:
        on = join.args.get("on")
        if on is not None and at < len(scope.sources):
            source = scope.sources[at]
            source.rows = source.rows | self._collect(on, scope, ctes).derived()

    def _add(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> list[tuple[str, Flow]] | None:
        self._count()
        if isinstance(node, exp.Table):
            return self._add_table(node, scope, ctes)
        if isinstance(node, exp.Lateral):
            inner = node.this
            if not isinstance(inner, exp.Subquery):
                raise Untraceable("LATERAL without a query")
            return self._derived(node, inner, Scope(scope, scope.sources), scope, ctes)
        if isinstance(node, exp.Subquery):
            inner = node.this
            if isinstance(inner, exp.Query | exp.Values) and not (
                isinstance(inner, exp.Subquery) and node.args.get("alias") is None
            ):
                return self._derived(node, node, scope.outer, scope, ctes)
            if node.args.get("alias") is not None:
                raise Untraceable("a join in parentheses with an alias")
            return self._from(inner, (), scope, ctes)  # whoever asks adds what is joined to the brackets
        if isinstance(node, exp.Values):
            found = self._values(node, scope.outer, ctes)
            return self._add_result(node, found, scope)
        if isinstance(node, exp.Paren):
            return self._add(node.this, scope, ctes)
        raise Untraceable(f"a {type(node).__name__} in FROM")

    def _derived(
        self, named: exp.Expr, query: exp.Expr, outer: Scope | None, scope: Scope, ctes: Ctes
    ) -> list[tuple[str, Flow]] | None:
        found = self._query(query, outer, ctes)
        return self._add_result(named, found, scope)

    def _add_result(self, named: exp.Expr, found: Result, scope: Scope) -> list[tuple[str, Flow]] | None:
        alias = named.args.get("alias")
        columns = [c.name for c in alias.args.get("columns") or ()] if alias is not None else []
        found = renamed(found, columns)
        known = None if found.outputs is None else [(o.name or "", o.flow) for o in found.outputs]
        scope.sources.append(Source(alias_of(alias), None, known, found.rows, found.rest))
        return known

    def _add_table(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> list[tuple[str, Flow]] | None:
        this, alias = node.this, alias_of(node.args.get("alias"))
        if isinstance(this, exp.JSONTable):
            flow = self._collect(this, Scope(scope, scope.sources), ctes).derived()
            columns = json_columns(this)
            known = None if columns is None else [(name, flow) for name in columns]
            scope.sources.append(Source(alias, None, known, flow, flow))
            return known
        if not isinstance(this, exp.Identifier) or node.args.get("catalog") or node.args.get("pivots"):
            raise Untraceable("a table that is no name")
        name, schema = this.name, node.text("db")
        if not schema:
            if name.lower() == "dual" and not this.args.get("quoted"):
                return []
            found = self._cte(name, ctes)
            if found is not None:
                known = None if found.outputs is None else [(o.name or "", o.flow) for o in found.outputs]
                scope.sources.append(Source(alias or name, None, known, found.rows, found.rest))
                return known
        scope.sources.append(self._relation_source(schema, name, alias or name))
        return scope.sources[-1].visible

    def _cte(self, name: str, ctes: Ctes) -> Result | None:
        found = ctes.get(name.lower())
        if found is None:
            return Result(None, ANYTHING, ANYTHING) if any(alike(name, n) for n, _ in ctes.values()) else None
        if found[0] == name or self._catalog.lower_case_table_names:
            return found[1]
        return Result(None, ANYTHING, ANYTHING)  # another table, or the CTE in another case: the servers differ


def _comma(join: exp.Expr) -> bool:
    """`, b`: a JOIN without a condition is spelt CROSS JOIN before it is parsed (`agree`)."""
    return not any(join.args.get(word) for word in ("kind", "side", "method", "on", "using"))
