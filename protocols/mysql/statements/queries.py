"""What a query reads: relations, columns, predicates, through views, CTEs and derived tables.

It walks sqlglot's tree of a text on whose tokens both readers agree (`agree`); functions were judged from the tokens
(`calls`), so that nothing rests on how sqlglot names them.

INVARIANT: no I/O in this module; a node that is not expected makes the statement unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from protocols.contract import ANY_RELATION, ANYWHERE, Effect
from protocols.mysql.flows import alike, given, may_be_number
from protocols.mysql.statements.scope import NOTHING, Origins, Outputs, Scope, Source, named, union
from protocols.mysql.statements.sources import Sources, cte_name, reads, renamed
from protocols.mysql.statements.walk import Walk

_BEYOND_ASCII = "a name beyond ASCII that is not spelt as the catalog has it: servers may take it for another"
MAX_QUERIES = 40  # queries inside queries
MAX_TURNS = 8  # of a recursive query, until its columns depend on no more than before
MAX_STAR = 4096  # columns that a star is spelt out to

_STATEMENTS = (
    exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Command, exp.Into, exp.Set,
    exp.Use, exp.Transaction, exp.Commit, exp.Rollback, exp.Kill, exp.Describe, exp.Show, exp.LoadData, exp.Copy,
    exp.Pivot, exp.Lateral, exp.Dot, exp.Table,
)  # fmt: skip
_QUERY = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)
_SELECT_PARTS = frozenset(
    {"with_", "with", "kind", "expressions", "hint", "distinct", "from_", "from", "joins", "laterals", "where", "group",
     "having", "order", "limit", "offset", "windows", "locks", "operation_modifiers", "sample", "options"}
)  # fmt: skip


class Queries(Sources):
    """Reads queries into a `Walk`."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.depth = 0

    # ------------------------------------------------------------ queries

    def query(self, node: Any, parent: Scope | None) -> Outputs | None:
        """The output columns of a query, or None where they are not known."""
        self.depth += 1
        self.walk.spend(50)
        try:
            if self.depth > MAX_QUERIES:
                self.walk.unknown("queries nested too deeply to be judged")
                return None
            if isinstance(node, exp.Select):
                return self._select(node, parent)
            if isinstance(node, exp.SetOperation):
                return self._set_operation(node, parent)
            if isinstance(node, exp.Subquery):
                return self.bracketed(node, parent)
            if isinstance(node, exp.Values):
                return self.values(node, parent)
            self.walk.unknown("a kind of query that is not understood")
            return None
        finally:
            self.depth -= 1

    def _with(self, node: Any, scope: Scope) -> None:
        clause = node.args.get("with_") or node.args.get("with")
        if clause is None:
            return
        recursive = bool(clause.args.get("recursive"))
        later = [cte_name(cte) for cte in clause.expressions]
        for cte in clause.expressions:
            name = later.pop(0)
            alias = cte.args.get("alias")
            names = [c.name.lower() for c in alias.args.get("columns") or ()] if alias is not None else []
            if recursive:
                if later and reads(cte.this, later):
                    self.walk.unknown("a common table expression that reads a later one")
                scope.ctes[name] = renamed(self._start(cte.this, scope), names)
            outputs = renamed(self.query(cte.this, scope), names)
            if recursive and reads(cte.this, [name]):
                # each turn may carry a value one column further
                for _ in range(MAX_TURNS):
                    if outputs == scope.ctes[name]:
                        break
                    scope.ctes[name] = outputs
                    outputs = renamed(self.query(cte.this, scope), names)
                else:
                    self._compared(None)
                    outputs = None
            scope.ctes[name] = outputs

    def _start(self, body: Any, scope: Scope) -> Outputs | None:
        """The columns of a recursive query's first part are those of the whole."""
        first = body
        while isinstance(first, exp.SetOperation):
            first = first.this
        if first is body:
            return None
        quiet = Queries(Walk(self.walk.state, self.walk.catalog, self.walk.depth))
        quiet.depth, quiet.walk.work = self.depth, self.walk.work
        start = quiet.query(first, scope)
        self.walk.work = quiet.walk.work
        return start

    def _set_operation(self, node: Any, parent: Scope | None) -> Outputs | None:
        scope = Scope(parent)
        self._with(node, scope)
        parts = []
        tails = []
        compares = False
        while isinstance(node, exp.SetOperation):  # a chain leans to the left: no recursion for its length
            parts.append(node.expression)
            compares = compares or not isinstance(node, exp.Union) or node.args.get("distinct") is not False
            tails.append(node)
            if node.args.get("on") or node.args.get("by_name") or node.args.get("side"):
                self.walk.unknown("a set operation that is not MySQL's")
            node = node.this
        first = self.query(node, scope)
        outputs = first
        for part in reversed(parts):
            more = self.query(part, scope)
            if outputs is None or more is None or len(outputs) != len(more):
                outputs = None
            else:
                outputs = [(a[0], a[1] | b[1]) for a, b in zip(outputs, more, strict=True)]
        if compares:
            # equal rows become one, or meet equal rows of the other side: those that are left tell which are equal
            self._compared(outputs)
        for tail in tails:
            self.tail(tail, scope, outputs)
        return outputs

    def _compared(self, outputs: Outputs | None) -> None:
        """Whole rows are compared; None: their columns are not known."""
        self.walk.predicate(self._shown(outputs))

    def _shown(self, outputs: Outputs | None) -> Origins:
        return frozenset(self.walk.columns) if outputs is None else union(o for _, o in outputs)

    def bracketed(self, node: Any, parent: Scope | None) -> Outputs | None:
        scope = Scope(parent)
        self._with(node, scope)
        outputs = self.query(node.this, scope)
        self.tail(node, scope, outputs)
        return outputs

    def tail(self, node: Any, scope: Scope, outputs: Outputs | None) -> None:
        """ORDER BY and LIMIT behind a set operation or brackets."""
        order = node.args.get("order")
        if order is not None:
            inner = Scope(scope)
            # columns that are not known have any name
            inner.sources = [Source("", None, everything=self._shown(None))] if outputs is None else []
            inner.aliases = named(outputs)
            self.walk.predicate(self._order(order, inner, outputs))
        for part in ("limit", "offset"):
            if node.args.get(part) is not None:
                self.expression(node.args[part], scope)

    def values(self, node: Any, parent: Scope | None) -> Outputs | None:
        width = None
        rows = []
        for row in node.expressions:
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            rows.append([self.expression(cell, parent or Scope()) for cell in cells])
            width = len(cells) if width in (None, len(cells)) else -1
        if not width or width < 0:
            return None
        named = "column_{}" if self.walk.catalog.flavour == "mysql" else ""
        return [(named.format(i), union(row[i] for row in rows)) for i in range(width)]

    def _select(self, node: Any, parent: Scope | None) -> Outputs | None:
        walk = self.walk
        walk.add(Effect.DATA_SELECT)
        scope = Scope(parent)
        args = node.args
        for name, value in args.items():
            if value and name not in _SELECT_PARTS:
                walk.unknown(f"the clause `{name}` is not understood")
        if args.get("kind") or args.get("sample") or args.get("options"):
            walk.unknown("a clause of SELECT that is not understood")
        self._with(node, scope)
        self.tables(node, scope)
        if not node.expressions:
            walk.unknown("a SELECT of nothing")
        outputs: list[tuple[str, Origins]] | None = []
        listed: list[tuple[str, Origins]] = []
        for item in node.expressions:
            if isinstance(item, exp.Alias):
                scope.waiting.setdefault(given(item.alias).lower(), []).append(item)
        scope.listing = True
        for item in node.expressions:
            wide = self._star(item, scope)
            if wide is not None:
                known, more = wide
                if not known:
                    outputs = None
                elif outputs is not None:
                    outputs += more
                continue
            listed.append((given(item.alias_or_name).lower(), self.expression(item, scope)))
            if outputs is not None:
                outputs.append(listed[-1])
        scope.listing, scope.waiting = False, {}
        scope.aliases = named(listed)
        distinct = args.get("distinct")
        if distinct is not None:
            if distinct.args.get("on"):
                walk.unknown("DISTINCT ON is not MySQL's")
            self._compared(outputs)
        if args.get("where") is not None:
            walk.predicate(self.expression(args["where"], scope))
        group = args.get("group")
        if group is not None:
            walk.predicate(self._grouping(group, scope, outputs))
        if args.get("having") is not None:
            walk.predicate(self.expression(args["having"], scope))
        for window in args.get("windows") or ():
            walk.predicate(self.expression(window, scope))
        if args.get("order") is not None:
            walk.predicate(self._order(args["order"], scope, outputs))
        for part in ("limit", "offset"):
            if args.get(part) is not None:
                self.expression(args[part], scope)
        return outputs

    def _star(self, item: Any, scope: Scope) -> tuple[bool, list[tuple[str, Origins]]] | None:
        """`*` or `t.*`: (whether all columns are known, them); None: it is no star."""
        if isinstance(item, exp.Star):
            sources = scope.sources
        elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            sources = scope.named(item.table, item.args["db"].name if item.args.get("db") else "")
            if not sources:
                self.walk.unknown("a star behind a name that is not in sight")
                return False, []
        else:
            return None
        found: list[tuple[str, Origins]] = []
        known = isinstance(item, exp.Star) or len(sources) == 1
        for source in sources:
            for origin in source.everything:
                self.walk.columns[origin] = None
            if source.columns is None:
                known = False
            else:
                found += source.columns.items()
        self.walk.spend(len(found) * 2)
        if len(found) > MAX_STAR:
            return False, []
        return known, found

    # ------------------------------------------------------------ expressions

    def _grouping(self, node: Any, scope: Scope, outputs: Outputs | None) -> Origins:
        return self._positions(node.expressions, scope, outputs) | union(
            self.expression(part, scope)
            for name, value in node.args.items()
            if name != "expressions" and value
            for part in (value if isinstance(value, list) else [value])
            if isinstance(part, exp.Expression)
        )

    def _order(self, node: Any, scope: Scope, outputs: Outputs | None) -> Origins:
        return self._positions([o.this for o in node.expressions], scope, outputs)

    def _positions(self, nodes: Sequence[Any], scope: Scope, outputs: Outputs | None) -> Origins:
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, exp.Literal) and not node.is_string:
                self.walk.constants = True
                position = int(node.this) - 1 if node.this.isdigit() else -1
                if outputs is not None and 0 <= position < len(outputs):
                    found |= outputs[position][1]
                    continue
                found |= union(s.everything for s in scope.sources) | self._shown(outputs)
            elif may_be_number(node):
                found |= self._shown(outputs)
            else:
                found |= self.expression(node, scope)
        return frozenset(found)

    def expression(self, start: Any, scope: Scope) -> Origins:
        """All columns that an expression depends on. Iterative: expressions may be long chains."""
        walk = self.walk
        found: set[str] = set()
        stack = [start]
        while stack:
            node = stack.pop()
            if isinstance(node, exp.Column):
                found |= self._column(node, scope)
            elif isinstance(node, _QUERY):
                outputs = self.query(node, scope)
                if outputs is None:
                    found |= walk.columns.keys()
                else:
                    found |= union(o for _, o in outputs)
            elif (
                isinstance(node, exp.Dot)
                and isinstance(node.this, exp.Identifier)
                and isinstance(node.expression, exp.Anonymous)
            ):
                stack.extend(node.expression.expressions)  # a stored function with its schema: `calls` has judged it
            elif isinstance(node, _STATEMENTS) or (
                isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)
            ):
                walk.unknown("something inside an expression that is not understood")
            elif isinstance(node, exp.Parameter):
                name = node.name.lower()
                variable = walk.state.variable(name)
                for source in variable.sources:
                    walk.reads[source] = None
                    found.add(f"{source}.*")
                if not variable.known:
                    walk.reads[ANY_RELATION] = None
                    found.add(ANYWHERE)
                    walk.why.append(f"the variable `@{name}` may hold anything")
            elif isinstance(node, exp.Window):
                parts = [p for key in ("partition_by", "order") if (p := node.args.get(key))]
                listing, scope.listing = scope.listing, False
                for part in parts:
                    for one in part if isinstance(part, list) else [part]:
                        origins = self.expression(one, scope)
                        walk.predicate(origins)
                        found |= origins
                scope.listing = listing
                stack.append(node.this)
            else:
                stack.extend(node.iter_expressions())
        return frozenset(found)

    def _work_out(self, name: str, scope: Scope) -> None:
        """What the lists around call so, where that may be meant before they are read to their end."""
        at: Scope | None = scope
        while at is not None:
            items = at.waiting.pop(name, ()) if at is not scope or not at.listing else ()
            listing, at.listing = at.listing, True
            for item in items:
                at.aliases[name] = at.aliases.get(name, NOTHING) | self.expression(item, at)
            at.listing = listing
            at = at.parent

    def _column_of(self, source: Source, spelt: str) -> Origins:
        name = spelt.lower()
        origins = source.column(name)
        if origins is not None:
            return origins
        self._like_another(spelt, source)
        # the server refuses it, or knows the column since a moment ago
        return frozenset({f"{source.relation}.{name}"}) if source.relation else source.everything

    def _like_another(self, name: str, source: Source) -> None:
        """A name that this source does not have as it is spelt, but that its server may take for one that it has."""
        if name.isascii() or not source.columns:
            return
        self.walk.spend(len(source.columns))
        if any(alike(name, column) for column in source.columns):
            self.walk.unknown(_BEYOND_ASCII)

    def _column(self, node: Any, scope: Scope) -> Origins:
        walk = self.walk
        walk.spend(2 + len(scope.sources))
        if node.args.get("catalog"):
            walk.unknown("a name of four parts")
            return NOTHING
        name = node.name.lower()
        if isinstance(node.this, exp.Star):
            walk.unknown("a star inside an expression")
            return NOTHING
        table = node.table
        if table:
            schema = node.args["db"].name if node.args.get("db") else ""
            sources = scope.named(table, schema)
            origins = union(self._column_of(source, node.name) for source in sources) if sources else None
        else:
            self._work_out(name, scope)
            origins = scope.find(name)
        if origins is None:
            sight: Scope | None = scope
            while sight is not None:
                for source in sight.sources:
                    self._like_another(node.name, source)
                sight = sight.parent
            return NOTHING
        for origin in origins:
            walk.columns[origin] = None
        return origins
