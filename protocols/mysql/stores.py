"""Where a statement puts the values that it reads: `Analysis.stores`, worked out with `lineage`.

What is found here says where values go; whether somebody sees them masked, and would not there, is the policy's to say.
Filters decide which rows are stored and are no sources; they are `predicates`. Temporary tables and user variables are
no targets: they remember what went into them, and bring that along when they are read.

A value that is copied into a column of another type may be cut or rounded there (by the SQL mode, or by IGNORE): it
counts as a copy only where both columns have the same type to the last of its properties.

INVARIANT: no I/O in this module. Every doubt widens the sources or the target, never narrows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlglot import exp

from protocols.contract import ANY_RELATION, ANYWHERE
from protocols.mysql.catalog import Relation
from protocols.mysql.flows import (
    ANYTHING,
    NOTHING,
    Ctes,
    Flow,
    Result,
    Scope,
    Source,
    Untraceable,
    alias_of,
    called,
    union,
)
from protocols.mysql.functions import FUNCTIONS
from protocols.mysql.lineage import Lineage
from protocols.mysql.statements.walk import Walk

# functions of the server's own that keep an argument, or show it by what they do, for whoever asks later
KEEPING = frozenset(
    {"SETVAL", "LAST_INSERT_ID", "GET_LOCK", "RELEASE_LOCK", "SLEEP", "BENCHMARK", "MASTER_POS_WAIT", "SOURCE_POS_WAIT"}
)


def change_stores(tree: exp.Expr, walk: Walk, *, opens: bool) -> None:
    """An INSERT, REPLACE or UPDATE. `opens`: it calls code of the database's own (what triggers run is not that)."""
    if isinstance(tree, exp.Delete):
        query_stores(tree, walk, opens=opens)
        return
    if isinstance(tree, exp.Insert) and not walk.reads and not opens and tree.args.get("conflict") is None:
        return  # the client's own values
    if isinstance(tree, exp.Update) and all(map(_given, tree.expressions)) and not keeps(tree):
        return
    flows = _flows(walk, opens=opens)
    try:
        flows.change(tree)
        flows.keep(tree)
    except (Untraceable, RecursionError):
        _untraced(walk, [f"{name}.*" for name in walk.writes], opens=opens)


def _given(assignment: exp.Expr) -> bool:
    """`column = value`, with the client's own value."""
    plain = (exp.Literal, exp.Placeholder, exp.Null, exp.Boolean)
    return isinstance(assignment, exp.EQ) and isinstance(assignment.expression, plain)


def query_stores(tree: exp.Expr, walk: Walk, *, opens: bool, file: bool = False) -> None:
    """A query that hands values to functions which keep them, or (`file`) writes its rows to a file."""
    if not file and not keeps(tree):
        return
    flows = _flows(walk, opens=opens)
    try:
        found = flows.result(tree)
        if file:
            walk.store(ANYWHERE, _names(found))
        flows.keep(tree)
    except (Untraceable, RecursionError):
        _untraced(walk, [ANYWHERE], opens=opens)


def table_stores(tree: exp.Expr, walk: Walk, table: str, *, opens: bool, plain: bool) -> None:
    """CREATE TABLE ... SELECT. `plain`: the table's columns are the query's, and have their types."""
    flows = _flows(walk, opens=opens)
    try:
        found = flows.result(tree)
        if found.outputs is None:
            walk.store(f"{table}.*", _names(found))
        for name, flow, _ in found.outputs or ():
            copied = plain and bool(flow.copied) and not flow.computed and not flow.anything
            walk.store(f"{table}.{name or '*'}", _sources(flow), copied=copied, name=name or "")
        flows.keep(tree)
    except (Untraceable, RecursionError):
        _untraced(walk, [f"{table}.*"], opens=opens)


def _flows(walk: Walk, *, opens: bool) -> _Flows:
    flows = _Flows(walk.catalog, walk.state, opens=opens)
    flows.walk, flows.passed = walk, set()
    return flows


def keeps(tree: exp.Expr) -> bool:
    """Whether a function with arguments may leave them behind: one of `KEEPING`, or code of the database's own."""
    return any(_keeps(node) for node in tree.find_all(exp.Func))


def _keeps(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous):
        name = called(node)
        return bool(node.expressions) and (name in KEEPING or name not in FUNCTIONS)
    return isinstance(node, exp.Func) and node.sql_name() in KEEPING


def _untraced(walk: Walk, targets: Iterable[str], *, opens: bool) -> None:
    sources = {ANYWHERE if name == ANY_RELATION else f"{name}.*" for name in walk.reads}
    for target in targets:
        walk.store(target, sources | {ANYWHERE} if opens else sources)


def _sources(flow: Flow) -> frozenset[str]:
    found = flow.copied | flow.computed
    return found | {ANYWHERE} if flow.anything else found


def _names(found: Result) -> frozenset[str]:
    return _sources(union(o.flow for o in found.outputs or ()) | found.rest)


class _Flows(Lineage):
    """One statement. `kept`: what functions are given that keep it."""

    walk: Walk
    kept: Flow = NOTHING
    keeping = False  # inside the arguments of one of those: what a function there keeps is part of it
    passed: set[int] | None = None  # the functions that keep something, as far as they were seen; None: in a view
    proposed: dict[str, Flow] | None = None  # of ON DUPLICATE KEY UPDATE: the row that was to be inserted

    # ------------------------------------------------------------ statements

    def result(self, tree: exp.Expr) -> Result:
        self._assigns = tree.find(exp.PropertyEQ) is not None
        if isinstance(tree, exp.Query | exp.Values | exp.Subquery):
            return self._query(tree, None, {})
        scope = Scope()
        for node in tree.find_all(exp.Table):
            self._add_table(node.copy(), scope, {})
        self._collect(tree, scope, {})
        return Result([], NOTHING)

    def keep(self, tree: exp.Expr) -> None:
        """Notes what functions keep; of one that was not passed on the way it is all that is read."""
        self.walk.store(ANYWHERE, _sources(self.kept))
        passed = self.passed or set()
        if any(id(node) not in passed for node in tree.find_all(exp.Func) if _keeps(node)):
            _untraced(self.walk, [ANYWHERE], opens=False)

    def change(self, tree: exp.Expr) -> None:
        self._assigns = tree.find(exp.PropertyEQ) is not None
        if isinstance(tree, exp.Insert):
            self._insert(tree)
        elif isinstance(tree, exp.Update):
            self._update(tree)
        else:
            raise Untraceable("a change of another kind")

    def _insert(self, tree: exp.Insert) -> None:
        named, target = None, tree.this
        if isinstance(target, exp.Schema):
            named, target = [column.name for column in target.expressions], target.this
        scope = Scope()
        self._add_table(target, scope, {})
        own = scope.sources[0]
        relation = self._relation_of(target)
        if named is None and relation is not None and own.visible is not None:
            named = [name for name, _ in own.visible]
        body = tree.expression
        rows = self._rows(body, scope)
        if rows.outputs is None or (named is not None and len(named) < len(rows.outputs)):
            self._put(own, target, "*", union(o.flow for o in rows.outputs or ()) | rows.rest, "")
        else:
            for index, output in enumerate(rows.outputs):
                self._put(own, target, named[index] if named is not None else "*", output.flow, output.name or "")
        conflict = tree.args.get("conflict")
        if conflict is not None:
            self._conflict(conflict, body, scope, target, named, rows)

    def _rows(self, body: exp.Expr | None, scope: Scope) -> Result:
        if isinstance(body, exp.Values):
            cells = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in body.expressions]
            if not any(cells):
                return Result([], NOTHING)
            return self._values(body, scope, {})
        if isinstance(body, exp.Query | exp.Subquery):
            return self._query(body, None, {})
        raise Untraceable("rows of another kind")

    def _conflict(
        self,
        conflict: exp.Expr,
        body: exp.Expr | None,
        scope: Scope,
        target: exp.Expr,
        named: Sequence[str] | None,
        rows: Result,
    ) -> None:
        """ON DUPLICATE KEY UPDATE: the old row, the new one (`VALUES(c)`, or an alias), and the tables of a SELECT."""
        own = scope.sources[0]
        if named is not None and rows.outputs is not None and len(rows.outputs) <= len(named):
            new = {name.lower(): NOTHING for name, _ in own.columns or ()}
            self.proposed = new | {name.lower(): output.flow for name, output in zip(named, rows.outputs, strict=False)}
        else:
            self.proposed = {}
        alias = body.args.get("alias") if body is not None else None
        if isinstance(body, exp.Values) and alias is not None:
            columns = [c.name for c in alias.args.get("columns") or ()]
            known = (
                list(zip(columns, (o.flow for o in rows.outputs or ()), strict=False))
                if columns
                else list(self.proposed.items())
            )
            scope.sources.append(Source(alias_of(alias), None, known or None, rest=ANYTHING))
        elif isinstance(body, exp.Select) and body.args.get("from_") is not None:
            self._from(body.args["from_"].this, body.args.get("joins") or (), scope, {})
        elif not isinstance(body, exp.Values | exp.Select):
            scope.sources.append(Source("", None, None, rest=union(o.flow for o in rows.outputs or ()) | rows.rest))
        for one in conflict.expressions:
            if not isinstance(one, exp.EQ) or not isinstance(one.this, exp.Column):
                raise Untraceable("an assignment of another kind")
            self._put(own, target, one.this.name, self._value(one.expression, scope, {}), one.this.name)

    def _update(self, tree: exp.Update) -> None:
        clause = tree.args.get("with_")
        ctes = self._with(clause, None, {}) if clause is not None else {}
        scope = Scope()
        self._from(tree.this, (), scope, ctes)
        for one in tree.expressions:
            if not isinstance(one, exp.EQ) or not isinstance(one.this, exp.Column):
                raise Untraceable("an assignment of another kind")
            flow = self._value(one.expression, scope, ctes)
            place = self._column(one.this, scope, ctes)
            self._place(place, flow, one.this.name)

    def _value(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> Flow:
        if called(node) in ("VALUES", "VALUE"):
            return self._proposed(node)
        return self._flow(node, scope, ctes)

    def _proposed(self, node: exp.Expr) -> Flow:
        """VALUES(column): what was to be inserted there."""
        if self.proposed is None or len(node.expressions) != 1:
            return ANYTHING
        return self.proposed.get(node.expressions[0].name.lower(), ANYTHING)

    # ------------------------------------------------------------ where a value goes

    def _put(self, own: Source, target: exp.Expr, column: str, flow: Flow, name: str) -> None:
        """Into a column of an INSERT's table; `*`: into any."""
        found = [f for known, f in own.columns or () if known.lower() == column.lower()]
        if found:
            self._place(union(found), flow, name)
            return
        schema = own.schema or ""
        if self.walk.state.temporary(schema, target.name) is None:
            place = f"{self.walk.qualified(schema, target.name)}.{column}" if schema else ANYWHERE
            self.walk.store(place, _sources(flow), name=name)

    def _place(self, place: Flow, flow: Flow, name: str) -> None:
        """`place`: the flow of the column that is assigned, which says which column it is, behind views, too."""
        if place.anything or not place.copied:
            self.walk.store(ANYWHERE, _sources(flow), name=name)
            return
        tables = [column for column in place.copied if self._kind(column) != "view"]
        for column in tables or sorted(place.copied):
            schema, _, rest = column.partition(".")
            if self.walk.state.temporary(schema, rest.rpartition(".")[0]) is None:
                self.walk.store(column, _sources(flow), copied=self._fits(flow, column), name=name)

    def _kind(self, column: str) -> str:
        found = self._of(column)
        return found.kind if found is not None else ""

    def _of(self, column: str) -> Relation | None:
        schema, _, rest = column.partition(".")
        return self._catalog.relation(schema, rest.rpartition(".")[0])

    def _fits(self, flow: Flow, target: str) -> bool:
        """Whether the value arrives as it was."""
        if flow.computed or flow.anything or not flow.copied:
            return False
        tables = {column for column in flow.copied if self._kind(column) != "view"} or flow.copied
        if tables == {target}:
            return True
        kinds = {self._type(column) for column in (*tables, target)}
        return len(kinds) == 1 and "" not in kinds

    def _type(self, column: str) -> str:
        relation = self._of(column)
        found = relation.column(column.rpartition(".")[2]) if relation is not None else None
        return found.full_type if found is not None else ""

    # ------------------------------------------------------------ lineage, with what is kept on the way

    def _special(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> Flow | None:
        if self.passed is None:
            return super()._special(node, scope, ctes)
        for function in node.find_all(exp.Func) if isinstance(node, exp.Dot) else (node,):
            if _keeps(function):
                self.passed.add(id(function))
                if not self.keeping:  # or each of them inside another would double the time
                    self._keep(function, scope, ctes)
        if called(node) == "LAST_INSERT_ID" and node.expressions:
            return None  # its value is its argument's
        if self.proposed is not None and called(node) in ("VALUES", "VALUE"):
            return self._proposed(node).derived()
        return super()._special(node, scope, ctes)

    def _keep(self, function: exp.Expr, scope: Scope, ctes: Ctes) -> None:
        self.keeping = True
        try:
            for value in function.args.values():
                for part in value if isinstance(value, list) else (value,):
                    if isinstance(part, exp.Expr):
                        self.kept = self.kept | self._collect(part, scope, ctes)
        finally:
            self.keeping = False

    def _relation_source(self, schema: str, name: str, alias: str) -> Source:
        where = self._qualified(schema)
        if self._catalog.open_world and where is not None and self._catalog.relation(where, name) is None:
            # judged without a catalog: a plain table, with whatever columns are named
            rest = Flow(frozenset(), frozenset({f"{where}.{name}.*"}))
            return Source(alias, where, None, NOTHING, rest)
        return super()._relation_source(schema, name, alias)

    def _column(self, node: exp.Column, scope: Scope, ctes: Ctes, *, aliases: bool = False) -> Flow:
        flow = super()._column(node, scope, ctes, aliases=aliases)
        if not self._catalog.open_world:
            return flow
        loose = {column for column in flow.computed if column.endswith(".*")}
        named = frozenset(f"{column[:-1]}{node.name}" for column in loose)
        return Flow(flow.copied | named, flow.computed - loose, flow.anything) if loose else flow
