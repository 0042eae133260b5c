"""Where the values of a query's columns come from, worked out on sqlglot's tree with the catalog.

A `Flow` says of one value: it is a copy of one of these columns, or computed from those, or may hold anything. Row
selection (WHERE, HAVING, join conditions, ORDER BY with LIMIT) is no flow into the rows that are selected: what it
gives away is an effect of the command (`probe`), not of the result. It is one where a whole query becomes one value (a
scalar subquery, EXISTS, IN).

Every doubt widens a flow, never narrows it: a name that could mean two columns means both, one that means none that we
know means anything. Result metadata plays no part here: a CTE or an alias can borrow any name in it.

INVARIANT: no I/O in this module; time and depth are bounded by `MAX_NODES` and `MAX_DEPTH`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import sqlglot
from sqlglot import exp

from protocols.contract import Analysis, Effect
from protocols.mysql.catalog import Catalog, Relation, schema_only
from protocols.mysql.catalog_queries import ROW_DERIVED
from protocols.mysql.statements.bodies import view_body

MAX_NODES = 20_000  # of one statement with the views that it reads
MAX_DEPTH = 48  # of queries within queries and views over views
_MAX_ROUNDS = 16  # until a recursive CTE's columns stand still

# words without parentheses that sqlglot takes for columns
_NILADIC = frozenset(
    {"utc_date", "utc_time", "utc_timestamp", "current_role", "localtime", "localtimestamp", "current_date",
     "current_time", "current_timestamp", "current_user", "sysdate", "default", "maxvalue"}
)  # fmt: skip
# the grammar's own words: no stored function can take their place
_GRAMMAR = (
    exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg, exp.Case, exp.If, exp.Coalesce, exp.Cast, exp.Exists, exp.And,
    exp.Or, exp.Not, exp.Concat, exp.GroupConcat, exp.CurrentDate, exp.CurrentTimestamp, exp.RowNumber,
)  # fmt: skip
_INSERT_ID = frozenset({"last_insert_id", "identity", "insert_id"})


# code that the analysis did not see into may read any relation
_OPENS_ANY = frozenset(
    {
        Effect.UNKNOWN,
        Effect.EXEC_CALL,
        Effect.EXEC_PROCEDURE,
        Effect.EXEC_DYNAMIC,
        Effect.EXEC_CAST,
        Effect.EXEC_LIBRARY,
        Effect.FILE_READ,
    }
)


def opens(analysis: Analysis) -> bool:
    """Whether a command runs code, or reads files, that its text does not show."""
    return not _OPENS_ANY.isdisjoint(analysis.effects) or bool(analysis.functions)


class Untraceable(Exception):
    """The origins of this statement's columns cannot be told. The text is for tests and logs."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What one value may hold: a copy of one of `copied`, something computed from `computed`, or anything."""

    copied: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()
    anything: bool = False

    def __or__(self, other: Flow) -> Flow:
        if other is NOTHING or self == other:
            return self
        return Flow(self.copied | other.copied, self.computed | other.computed, self.anything or other.anything)

    def derived(self) -> Flow:
        """The flow of a value that is computed from this one."""
        return Flow(frozenset(), self.copied | self.computed, self.anything) if self.copied else self


NOTHING = Flow()
ANYTHING = Flow(anything=True)


class Output(NamedTuple):
    """One column of a query. `name` None: an expression's text. `star`: the server itself names it after its column."""

    name: str | None
    flow: Flow
    star: bool = False


class Result(NamedTuple):
    """A query's columns, None where their number is not known, and what decides which rows there are."""

    outputs: list[Output] | None
    rows: Flow
    rest: Flow = NOTHING  # of columns that are not known


class Variables(Protocol):
    """What is asked of a session's state; see `protocols.mysql.state.SessionState`."""

    @property
    def database(self) -> str | None: ...
    @property
    def database_known(self) -> bool: ...
    @property
    def touched(self) -> set[str]: ...
    def temporary(self, schema: str, name: str) -> Any: ...
    def variable(self, name: str) -> Any: ...


@dataclass(slots=True)
class _Source:
    """One table of a FROM. `columns` None: not known; each may then hold `rest`."""

    alias: str
    schema: str | None
    columns: list[tuple[str, Flow]] | None
    rows: Flow = NOTHING
    rest: Flow = NOTHING
    visible: list[tuple[str, Flow]] | None = None  # what `*` takes

    def __post_init__(self) -> None:
        if self.visible is None:
            self.visible = self.columns


@dataclass(slots=True)
class _Scope:
    outer: _Scope | None = None
    sources: list[_Source] = field(default_factory=list)
    items: Sequence[exp.Expr] = ()  # of the SELECT list, whose aliases inner queries may name
    windows: Sequence[exp.Expr] = ()
    resolving: set[int] = field(default_factory=set)


type _Ctes = Mapping[str, tuple[str, Result]]  # by folded name: (name as written, its columns)


def alike(one: str, other: str) -> bool:
    """Whether the server could take one name for the other.

    utf8mb3_general_ci ignores case and accents, character by character: what is not ASCII matches any character.
    """
    if one == other:
        return True
    if len(one) != len(other):
        return False
    return all(a == b or a > "\x7f" or b > "\x7f" for a, b in zip(one.lower(), other.lower(), strict=False))


def union(flows: Iterable[Flow]) -> Flow:
    out = NOTHING
    for flow in flows:
        out = out | flow
    return out


class Lineage:
    """The origins of one statement's columns. `opens`: it calls code that may read what its text does not show.

    `insert_id`: LAST_INSERT_ID() may hold a value that this session computed itself. `parameters`: those of a statement
    may hold anything, because they are user variables and not the client's own values.
    """

    def __init__(
        self,
        catalog: Catalog,
        state: Variables | None,
        *,
        opens: bool = False,
        insert_id: bool = False,
        parameters: bool = False,
    ) -> None:
        self._catalog = catalog
        self._state = state
        self._opens = opens
        self._insert_id = insert_id
        self._parameters = parameters
        self._assigns = False
        self._nodes = 0
        self._depth = 0
        self._views: list[str] = []

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
        scope = _Scope()
        self._add_table(target, scope, {})
        if not isinstance(tree, exp.Delete):
            # what is written may come from anywhere that the statement reads
            read = self._everything_below(tree, returning)
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
                scope = _Scope()
                self._add_table(node.copy().transform(_bare), scope, {})
                flow = union([flow, *(self._whole(s) for s in scope.sources)])
            elif isinstance(node, exp.Parameter):
                flow = flow | self._variable(node)
            elif self._opens and isinstance(node, exp.Func | exp.Dot):
                flow = ANYTHING
        return flow.derived()

    # ------------------------------------------------------------ queries

    def _query(self, node: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> Result:
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
                return Result(inner.outputs, inner.rows | self._clauses(node, outer, ctes), inner.rest)
            if isinstance(node, exp.SetOperation):
                return self._union(node, outer, ctes)
            if isinstance(node, exp.Select):
                return self._select(node, outer, ctes)
            if isinstance(node, exp.Values):
                return self._values(node, outer, ctes)
            raise Untraceable(f"a {type(node).__name__} where a query is expected")
        finally:
            self._depth -= 1

    def _with(self, clause: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> _Ctes:
        known = dict(ctes)
        recursive = bool(clause.args.get("recursive"))
        later = [_name(cte.args.get("alias")) for cte in clause.expressions]
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
            known[name.lower()] = (name, _renamed(found, columns))
        return known

    def _recursive(self, name: str, columns: list[str], body: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> Result:
        """A fixpoint: the columns of the first part flow into what the others read."""
        refers = any(isinstance(t, exp.Table) and alike(t.name, name) for t in body.walk())
        if not refers:
            return self._query(body, outer, ctes)
        first: exp.Expr = body
        while isinstance(first, exp.SetOperation | exp.Subquery):
            first = first.this
        now = _renamed(self._query(first, outer, ctes), columns)
        for _ in range(_MAX_ROUNDS):
            found = _renamed(self._query(body, outer, {**ctes, name.lower(): (name, now)}), columns)
            merged = _merged(now, found)
            if merged == now:
                return now
            now = merged
        raise Untraceable("a recursive CTE that does not settle")

    def _union(self, node: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> Result:
        parts: list[exp.Expr] = []
        rows = NOTHING
        at: exp.Expr = node
        while isinstance(at, exp.SetOperation) and (at is node or at.args.get("with_") is None):
            self._count()
            parts.append(at.expression)
            rows = rows | self._clauses(at, None, ctes)
            at = at.this
        parts.append(at)
        found = [self._query(part, outer, ctes) for part in reversed(parts)]
        out = found[0]
        for part in found[1:]:
            out = _merged(out, part)
        return Result(out.outputs, out.rows | rows, out.rest)

    def _values(self, node: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> Result:
        columns: list[Flow] | None = None
        scope = _Scope(outer)
        for row in node.expressions:
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            if len(cells) == 1 and isinstance(cells[0], exp.Anonymous) and str(cells[0].this).upper() == "ROW":
                cells = cells[0].expressions
            flows = [self._flow(cell, scope, ctes) for cell in cells]
            if columns is None:
                columns = flows
            elif len(columns) != len(flows):
                raise Untraceable("VALUES rows of different widths")
            else:
                columns = [a | b for a, b in zip(columns, flows, strict=True)]
        return Result([Output(f"column_{i}", flow) for i, flow in enumerate(columns or ())], NOTHING)

    def _select(self, node: exp.Expr, outer: _Scope | None, ctes: _Ctes) -> Result:
        scope = _Scope(outer, items=node.expressions, windows=node.args.get("windows") or ())
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
        rest = union(self._whole(s) for s in scope.sources) if outputs is None else NOTHING
        return Result(outputs, rows, rest)

    def _clauses(self, node: exp.Expr, scope: _Scope | None, ctes: _Ctes) -> Flow:
        """What decides the rows of a query: every clause but its list and its tables."""
        flow = NOTHING
        for key, value in node.args.items():
            if key in ("expressions", "from_", "joins", "with_", "this", "expression", "windows", "into", "alias"):
                continue
            for part in value if isinstance(value, list) else (value,):
                if isinstance(part, exp.Expr):
                    # a column of ORDER BY may be an alias of the list: those flows are in the outputs already
                    flow = flow | self._collect(part, scope or _Scope(), ctes, aliases=True)
        return flow.derived()

    def _items(
        self, items: Sequence[exp.Expr], scope: _Scope, star: list[tuple[str, Flow]] | None, ctes: _Ctes
    ) -> list[Output] | None:
        out: list[Output] = []
        for item in items:
            if isinstance(item, exp.Star):
                columns = star if star is not None or not scope.sources else self._concatenated(scope.sources)
                if columns is None or item.args.get("except_") or item.args.get("replace"):
                    return None
                out += [Output(name, flow, True) for name, flow in columns]
            elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
                found = [s for s in scope.sources if alike(s.alias, item.table)]
                if item.args.get("db") is not None:
                    found = [s for s in found if s.schema is None or alike(s.schema, item.db)]
                if len(found) != 1 or found[0].visible is None:
                    return None
                out += [Output(name, flow, True) for name, flow in found[0].visible]
            elif isinstance(item, exp.Alias):
                out.append(Output(item.alias, self._flow(item.this, scope, ctes)))
            else:
                name = item.name if isinstance(item, exp.Column) else None
                out.append(Output(name, self._flow(item, scope, ctes)))
        return out

    @staticmethod
    def _concatenated(sources: Sequence[_Source]) -> list[tuple[str, Flow]] | None:
        out: list[tuple[str, Flow]] = []
        for source in sources:
            if source.visible is None:
                return None
            out += source.visible
        return out

    @staticmethod
    def _whole(source: _Source) -> Flow:
        """Everything in a source."""
        known = union(flow for _, flow in source.columns or ())
        return known | source.rest | (NOTHING if source.columns is not None else source.rest)

    # ------------------------------------------------------------ FROM

    def _from(
        self, first: exp.Expr, joins: Sequence[exp.Expr], scope: _Scope, ctes: _Ctes
    ) -> list[tuple[str, Flow]] | None:
        """Adds the tables to the scope, in their order; -> what `*` means, None where that is not known."""
        start = len(scope.sources)
        star = self._add(first, scope, ctes)
        merged = False
        for join in [*(first.args.get("joins") or ()), *joins]:
            at = len(scope.sources)
            right = self._add(join.this, scope, ctes)
            for nested in join.this.args.get("joins") or () if isinstance(join.this, exp.Table) else ():
                right = _joined(right, self._add(nested.this, scope, ctes), None)
                if nested.args.get("using") or nested.args.get("method"):
                    right = None
                self._condition(nested, scope, ctes, at)
            using = [u.name for u in join.args.get("using") or ()]
            natural = str(join.args.get("method") or "").upper() == "NATURAL"
            if using or natural:
                merged = True
                common = using
                if natural and star is not None and right is not None:
                    common = [name for name, _ in star if any(alike(name, other) for other, _ in right)]
                # a RIGHT JOIN is read as a LEFT JOIN of its sides in the other order
                sides = (right, star) if _side(join) == "RIGHT" else (star, right)
                star = _joined(*sides, common)
            else:
                star = _joined(star, right, None)
            merged = merged or _side(join) == "RIGHT"
            self._condition(join, scope, ctes, at)
        if merged and star is not None:
            # the order of equal names is the server's business: each of them may be any of them
            star = [(name, union(f for other, f in star if alike(name, other))) for name, _ in star]
        if len(scope.sources) == start and star is None:
            raise Untraceable("a FROM without a table")
        return star

    def _condition(self, join: exp.Expr, scope: _Scope, ctes: _Ctes, at: int) -> None:
        on = join.args.get("on")
        if on is not None and at < len(scope.sources):
            source = scope.sources[at]
            source.rows = source.rows | self._collect(on, scope, ctes).derived()

    def _add(self, node: exp.Expr, scope: _Scope, ctes: _Ctes) -> list[tuple[str, Flow]] | None:
        self._count()
        if isinstance(node, exp.Table):
            return self._add_table(node, scope, ctes)
        if isinstance(node, exp.Lateral):
            inner = node.this
            if not isinstance(inner, exp.Subquery):
                raise Untraceable("LATERAL without a query")
            return self._derived(node, inner, _Scope(scope, scope.sources), scope, ctes)
        if isinstance(node, exp.Subquery):
            inner = node.this
            if isinstance(inner, exp.Query | exp.Values) or (
                isinstance(inner, exp.Subquery) and node.args.get("alias") is not None
            ):
                return self._derived(node, node, scope.outer, scope, ctes)
            if node.args.get("alias") is not None:
                raise Untraceable("a join in parentheses with an alias")
            return self._from(inner, node.args.get("joins") or (), scope, ctes)
        if isinstance(node, exp.Values):
            found = self._values(node, scope.outer, ctes)
            return self._add_result(node, found, scope)
        if isinstance(node, exp.Paren):
            return self._add(node.this, scope, ctes)
        raise Untraceable(f"a {type(node).__name__} in FROM")

    def _derived(
        self, named: exp.Expr, query: exp.Expr, outer: _Scope | None, scope: _Scope, ctes: _Ctes
    ) -> list[tuple[str, Flow]] | None:
        found = self._query(query, outer, ctes)
        source = self._add_result(named, found, scope)
        if isinstance(named, exp.Subquery):
            for join in named.args.get("joins") or ():
                source = _joined(source, self._add(join.this, scope, ctes), None)
                if join.args.get("using") or join.args.get("method"):
                    source = None
        return source

    def _add_result(self, named: exp.Expr, found: Result, scope: _Scope) -> list[tuple[str, Flow]] | None:
        alias = named.args.get("alias")
        columns = [c.name for c in alias.args.get("columns") or ()] if alias is not None else []
        found = _renamed(found, columns)
        known = None if found.outputs is None else [(o.name or "", o.flow) for o in found.outputs]
        scope.sources.append(_Source(_name(alias), None, known, found.rows, found.rest))
        return known

    def _add_table(self, node: exp.Expr, scope: _Scope, ctes: _Ctes) -> list[tuple[str, Flow]] | None:
        this, alias = node.this, _name(node.args.get("alias"))
        if isinstance(this, exp.JSONTable):
            flow = self._collect(this, _Scope(scope, scope.sources), ctes).derived()
            columns = _json_columns(this)
            known = None if columns is None else [(name, flow) for name in columns]
            scope.sources.append(_Source(alias, None, known, flow, flow))
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
                scope.sources.append(_Source(alias or name, None, known, found.rows, found.rest))
                return known
        scope.sources.append(self._relation_source(schema, name, alias or name))
        return scope.sources[-1].visible

    def _cte(self, name: str, ctes: _Ctes) -> Result | None:
        found = ctes.get(name.lower())
        if found is None:
            return Result(None, ANYTHING, ANYTHING) if any(alike(name, n) for n, _ in ctes.values()) else None
        if found[0] == name or self._catalog.lower_case_table_names:
            return found[1]
        return Result(None, ANYTHING, ANYTHING)  # another table, or the CTE in another case: the servers differ

    def _qualified(self, schema: str) -> str | None:
        if schema:
            return schema
        if self._state is None or not self._state.database_known:
            return None
        return self._state.database

    def _relation_of(self, table: exp.Expr) -> Relation | None:
        schema = self._qualified(table.text("db"))
        return self._catalog.relation(schema, table.name) if schema else None

    def _relation_source(self, schema: str, name: str, alias: str) -> _Source:
        where = self._qualified(schema)
        if where is None:
            return _Source(alias, None, None, ANYTHING, ANYTHING)
        if self._state is not None:
            temporary = self._state.temporary(where, name)
            if temporary is not None:
                return self._temporary(temporary, where, alias)
            qualified = f"{where}.{name}".lower()
            if any(t.lower() in (qualified, where.lower(), name.lower(), "") for t in self._state.touched):
                return _Source(alias, where, None, ANYTHING, ANYTHING)
        relation = self._catalog.relation(where, name)
        if relation is None or not relation.columns:
            return _Source(alias, where, None, ANYTHING, ANYTHING)
        columns, rows = self.relation_flows(relation)
        visible = [c for c in columns if (found := relation.column(c[0])) is None or found.visible]
        return _Source(alias, where, columns, rows, visible=visible)

    def _temporary(self, temporary: Any, schema: str, alias: str) -> _Source:
        sources = self._of_relations(temporary.sources).derived()
        if temporary.columns is None or not temporary.certain:
            # its columns are not known; nothing but its sources' rows and the client's own values is in it
            rest = sources if temporary.certain else ANYTHING
            return _Source(alias, schema, None, NOTHING, rest)
        own = f"{schema}.{temporary.name}"
        known = [(c, Flow(frozenset({f"{own}.{c}"})) | sources) for c in temporary.columns]
        return _Source(alias, schema, known)

    def _of_relations(self, names: Iterable[str]) -> Flow:
        """All columns of these relations (`schema.name`)."""
        flow = NOTHING
        for name in names:
            schema, _, table = name.partition(".")
            relation = self._catalog.relation(schema, table) if table else None
            if relation is None or not relation.columns:
                return ANYTHING
            flow = flow | union(f for _, f in self.relation_flows(relation)[0])
        return flow

    # ------------------------------------------------------------ relations and views

    def relation_flows(self, relation: Relation) -> tuple[list[tuple[str, Flow]], Flow]:
        """The columns of a table or view, in order, and what decides its rows."""
        memo = self._catalog.memo()
        key = ("flows", relation.schema, relation.name)
        if key not in memo:
            if relation.qualified in self._views or len(self._views) > MAX_DEPTH:
                return [(c.name, ANYTHING) for c in relation.columns], ANYTHING
            memo[key] = self._view_flows(relation) if relation.kind == "view" else self._table_flows(relation)
        found: tuple[list[tuple[str, Flow]], Flow] = memo[key]
        return found

    def _table_flows(self, relation: Relation) -> tuple[list[tuple[str, Flow]], Flow]:
        own = relation.qualified
        system = relation.schema.lower() in ("information_schema", "mysql", "performance_schema", "sys")
        clear = schema_only(relation.schema, relation.name)
        out = []
        for column in relation.columns:
            flow = Flow(frozenset({f"{own}.{column.name}"}))
            if system and (not clear or column.name.lower() in ROW_DERIVED):
                flow = flow | ANYTHING
            elif column.generated:
                flow = flow | self._generated(relation, column.generated)
            out.append((column.name, flow))
        return out, NOTHING

    def _generated(self, relation: Relation, text: str) -> Flow:
        """A generated column is computed from columns of its own row."""
        every = Flow(frozenset(), frozenset(f"{relation.qualified}.{c.name}" for c in relation.columns))
        try:
            tree = sqlglot.parse_one(text, read="mysql")
        except (sqlglot.errors.SqlglotError, RecursionError):
            return every
        names = [c.name for c in tree.find_all(exp.Column)]
        if tree.find(exp.Command, exp.Query) is not None or any(relation.column(n) is None for n in names):
            return every
        return Flow(
            frozenset(), frozenset(f"{relation.qualified}.{c.name}" for n in names if (c := relation.column(n)))
        )

    def _view_flows(self, relation: Relation) -> tuple[list[tuple[str, Flow]], Flow]:
        own = relation.qualified
        opaque = [(c.name, Flow(frozenset({f"{own}.{c.name}"})) | ANYTHING) for c in relation.columns], ANYTHING
        if relation.definition is None:
            return opaque
        body = view_body(relation, self._catalog).analysis
        if body.unknown:
            return opaque
        inner = Lineage(self._catalog, None, opens=opens(body))
        inner._views = [*self._views, own]
        inner._depth, inner._nodes = self._depth, self._nodes
        try:
            tree = sqlglot.parse_one(relation.definition, read="mysql")
            found = inner._query(tree, None, {})
        except (sqlglot.errors.SqlglotError, RecursionError, Untraceable):
            return opaque
        finally:
            self._nodes = inner._nodes
        if found.outputs is None or len(found.outputs) != len(relation.columns):
            return opaque
        columns = [
            (c.name, o.flow | Flow(frozenset({f"{own}.{c.name}"})))
            for c, o in zip(relation.columns, found.outputs, strict=True)
        ]
        return columns, found.rows

    # ------------------------------------------------------------ expressions

    def _flow(self, node: exp.Expr, scope: _Scope, ctes: _Ctes) -> Flow:
        while isinstance(node, exp.Paren | exp.Alias):
            node = node.this
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            self._count()
            return self._column(node, scope, ctes)
        return self._collect(node, scope, ctes).derived()

    def _collect(self, start: exp.Expr, scope: _Scope, ctes: _Ctes, *, aliases: bool = False) -> Flow:
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
                    flow = flow | union(self._whole(s) for s in scope.sources)
                else:
                    flow = flow | self._column(node, scope, ctes, aliases=aliases)
                continue
            if isinstance(node, exp.Query | exp.Values) or (
                isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query | exp.Values | exp.Subquery)
            ):
                found = self._query(node, scope, ctes)
                flow = flow | union(o.flow for o in found.outputs or ()) | found.rows | found.rest
                continue
            if isinstance(node, exp.Count) and _plain_count(node):
                continue
            if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null) and isinstance(node.this, exp.Column):
                continue
            special = self._special(node, scope, ctes)
            if special is not None:
                flow = flow | special
            for value in node.args.values():
                for part in value if isinstance(value, list) else (value,):
                    if isinstance(part, exp.Expr):
                        stack.append(part)
        return flow

    def _special(self, node: exp.Expr, scope: _Scope, ctes: _Ctes) -> Flow | None:
        """What a node brings in that is not among its children."""
        if isinstance(node, exp.Parameter):
            return self._variable(node)
        if isinstance(node, exp.SessionParameter):
            return ANYTHING if self._insert_id and node.name.lower() in _INSERT_ID else None
        if isinstance(node, exp.Placeholder):
            return ANYTHING if self._parameters else None
        if isinstance(node, exp.Star):
            return union(self._whole(s) for s in scope.sources)
        if isinstance(node, exp.Table | exp.Command):
            return ANYTHING
        if isinstance(node, exp.Dot):
            return ANYTHING if node.find(exp.Func) is not None else None  # schema.function(): code of its own
        if isinstance(node, exp.Window) and node.args.get("alias") is not None:
            scoped: _Scope | None = scope
            flow = NOTHING
            while scoped is not None:
                for window in scoped.windows:
                    if window is not node:
                        inner = [v for k, v in window.args.items() if k in ("partition_by", "order", "spec")]
                        for value in inner:
                            for part in value if isinstance(value, list) else (value,):
                                if isinstance(part, exp.Expr):
                                    flow = flow | self._collect(part, scoped, ctes)
                scoped = scoped.outer
            return flow
        if isinstance(node, exp.Func) and not isinstance(node, _GRAMMAR):
            name = str(node.this).lower() if isinstance(node, exp.Anonymous) else ""
            if name in _INSERT_ID:
                return ANYTHING if self._insert_id or node.expressions else None
            if name == "load_file" or self._opens:
                return ANYTHING
            if name and self._catalog.routine("", name) is not None:
                return ANYTHING
        return None

    def _variable(self, node: exp.Expr) -> Flow:
        if self._state is None or self._assigns:
            return ANYTHING
        variable = self._state.variable(node.name.lower())
        return self._of_relations(variable.sources).derived() if variable.known else ANYTHING

    def _column(self, node: exp.Column, scope: _Scope, ctes: _Ctes, *, aliases: bool = False) -> Flow:
        """Every column that this name may mean, in the innermost query that has one."""
        if node.args.get("catalog") is not None:
            return ANYTHING
        name, table, schema = node.name, node.table, node.db
        if not table and name.lower() in _NILADIC and not node.this.args.get("quoted"):
            return NOTHING
        found: list[Flow] = []
        at: _Scope | None = scope
        while at is not None:
            sure = False
            for source in at.sources:
                if table and not alike(source.alias, table):
                    continue
                if schema and source.schema is not None and not alike(source.schema, schema):
                    continue
                if source.columns is None:
                    found.append(source.rest)
                    continue
                matches = [flow for column, flow in source.columns if alike(column, name)]
                found += matches
                sure = sure or bool(matches)
            if not table and (at is not scope or aliases):
                found += self._aliased(name, at, ctes)
                sure = sure or (aliases and bool(found))
            if sure:
                return union(found)
            at = at.outer
        return union(found) | ANYTHING if not found else union(found)

    def _aliased(self, name: str, scope: _Scope, ctes: _Ctes) -> list[Flow]:
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

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Untraceable("too large to be traced")


# ---------------------------------------------------------------- small parts


def _name(alias: exp.Expr | None) -> str:
    return alias.name if alias is not None else ""


def _side(join: exp.Expr) -> str:
    return str(join.args.get("side") or "").upper()


def _bare(node: exp.Expr) -> exp.Expr:
    """A table without its alias and joins."""
    if isinstance(node, exp.Table):
        node.set("joins", None)
    return node


def _renamed(result: Result, names: Sequence[str]) -> Result:
    """The columns under the names of `alias(a, b)`."""
    if not names:
        return result
    if result.outputs is None or len(result.outputs) != len(names):
        raise Untraceable("as many names as columns are needed")
    return Result([Output(n, o.flow) for n, o in zip(names, result.outputs, strict=True)], result.rows, result.rest)


def _merged(one: Result, other: Result) -> Result:
    """Rows of both: each column may come from either. The names are the first one's."""
    rows, rest = one.rows | other.rows, one.rest | other.rest
    if one.outputs is None or other.outputs is None:
        whole = union(o.flow for r in (one, other) for o in r.outputs or ())
        return Result(None, rows, rest | whole)
    if len(one.outputs) != len(other.outputs):
        raise Untraceable("queries of different widths")
    outputs = [
        Output(a.name, a.flow if a.flow == b.flow else a.flow | b.flow, a.star)
        for a, b in zip(one.outputs, other.outputs, strict=True)
    ]
    return Result(outputs, rows, rest)


def _joined(
    left: list[tuple[str, Flow]] | None, right: list[tuple[str, Flow]] | None, common: Sequence[str] | None
) -> list[tuple[str, Flow]] | None:
    """What `*` means of a join; `common`: the columns of USING or NATURAL, which come once and first."""
    if left is None or right is None:
        return None
    if common is None:
        return left + right
    shared: Callable[[str], bool] = lambda name: any(alike(name, c) for c in common)  # noqa: E731 - used twice, here
    once = [(name, flow | union(f for n, f in right if alike(n, name))) for name, flow in left if shared(name)]
    return once + [c for c in left if not shared(c[0])] + [c for c in right if not shared(c[0])]


def _plain_count(node: exp.Count) -> bool:
    """`count(*)` and `count(column)`: declassified (how many rows there are, how many are not NULL)."""
    if isinstance(node.parent, exp.Window | exp.Filter) or node.expressions:
        return False
    return isinstance(node.this, exp.Star | exp.Column | exp.Literal)


def _json_columns(table: exp.Expr) -> list[str] | None:
    """The columns of a JSON_TABLE, nested ones in their place; None where they cannot be told."""
    out: list[str] = []
    schema = table.args.get("schema")
    waiting = list(schema.expressions) if schema is not None else []
    while waiting:
        column = waiting.pop(0)
        nested = column.args.get("nested_schema")
        if nested is not None:
            waiting[:0] = nested.expressions
        elif column.this is None:
            return None
        else:
            out.append(column.name)
    return out or None
