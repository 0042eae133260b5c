"""INSERT, REPLACE, UPDATE, DELETE: what they write, read and filter by; triggers, views, foreign keys behind a target.

What a foreign key changes by itself counts as written (`cascades`). Reads are told as for PostgreSQL: a target is read
where its rows are looked at, by a filter, a join or RETURNING.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from protocols.contract import Effect, Where
from protocols.mysql.statements.cascades import ANY_COLUMN, cascade
from protocols.mysql.statements.model import ChangeKind
from protocols.mysql.statements.queries import Queries
from protocols.mysql.statements.scope import Scope, Source
from protocols.mysql.statements.walk import Walk

_INSERT = frozenset(
    {"this", "expression", "conflict", "returning", "is_function", "stored", "by_name", "exists", "partition",
     "settings", "default", "overwrite", "ignore", "source", "alias", "hint"}
)  # fmt: skip
_UPDATE = frozenset({"this", "expressions", "where", "order", "limit", "with_", "from_", "hint", "options"})
_DELETE = frozenset({"this", "tables", "using", "where", "order", "limit", "returning", "with_", "cluster", "hint"})


class Writes:
    """Reads data changes into a `Walk`."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.queries = Queries(walk)
        self._named: dict[str, None] = {}  # relations of the FROM clause, with what is behind them
        self._secret = False  # one of them is secret

    def change(self, tree: Any, *, replaces: bool = False) -> None:
        if isinstance(tree, exp.Insert):
            self._insert(tree, replaces)
        elif isinstance(tree, exp.Update):
            self._update(tree)
        elif isinstance(tree, exp.Delete):
            self._delete(tree)
        else:
            self.walk.unknown("a data change that is not understood")
        self.filled()

    def filled(self) -> None:
        """A temporary table that is written remembers what may be in it: every other relation that is read."""
        for written in self.walk.writes:
            schema, _, name = written.partition(".")
            if self.walk.state.temporary(schema, name) is not None:
                sources = tuple(r for r in self.walk.reads if r != written)
                self.walk.change(ChangeKind.TEMP_FILL, written, sources)

    def _only(self, tree: Any, known: frozenset[str]) -> None:
        for name, value in tree.args.items():
            if value and name not in known:
                self.walk.unknown(f"the clause `{name}` is not understood")

    def target(self, source: Source | None, events: Sequence[str], changed: frozenset[str] = ANY_COLUMN) -> None:
        """A relation that is written: its triggers, what stands behind a view, and what its keys change elsewhere."""
        walk = self.walk
        if source is None or not source.relation:
            walk.unknown("the target of a data change is not a relation that is known")
            return
        schema, _, name = source.relation.partition(".")
        walk.write(source.relation)
        if walk.state.temporary(source.schema or schema, name) is not None:
            return  # no triggers, and no view
        relation = walk.catalog.relation(source.schema or schema, name)
        if relation is None:
            if not walk.catalog.open_world:
                walk.unknown(f"the relation `{source.relation}` is not known to the catalog")
            return
        if relation.kind == "view":
            # the body's relations are what is written; which of them, and their triggers, is the server's choice
            from protocols.mysql.statements.bodies import view_body

            body = view_body(relation, walk.catalog, walk.depth)
            walk.merge(body.analysis)
            for behind in body.analysis.reads:
                walk.write(behind)
                behind_schema, _, behind_name = behind.partition(".")
                base = walk.catalog.relation(behind_schema, behind_name)
                self._triggers(behind, base, events)
                cascade(walk, behind_schema, behind_name, events)
            return
        if relation.kind == "sequence":
            walk.add(Effect.DATA_WRITE)
        self._triggers(source.relation, relation, events)
        cascade(walk, relation.schema, relation.name, events, changed)

    def _triggers(self, name: str, relation: Any, events: Sequence[str]) -> None:
        walk = self.walk
        for event in events:
            has = relation.has_triggers(event) if relation is not None else None
            if has is None:
                if not walk.catalog.open_world:
                    walk.unknown(f"whether a trigger runs on `{name}` is not known to the catalog")
            elif has:
                walk.add(Effect.EXEC_CALL)
                for trigger in relation.triggers:
                    if trigger.event == event:
                        walk.functions[f"{relation.schema}.{trigger.name}"] = None
                if "runs triggers" not in walk.why:
                    walk.why.append("runs triggers")

    # ------------------------------------------------------------ INSERT

    def _insert(self, tree: Any, replaces: bool) -> None:
        walk = self.walk
        self._only(tree, _INSERT)
        walk.add(Effect.DATA_INSERT)
        target = tree.this
        columns: Sequence[Any] = ()
        if isinstance(target, exp.Schema):
            columns, target = target.expressions, target.this
        if not isinstance(target, exp.Table) or not isinstance(target.this, exp.Identifier):
            walk.unknown("the target of an INSERT is no name")
            return
        source = self.named(target.args["db"].name if target.args.get("db") else "", target.name)
        events = ["insert", "delete"] if replaces else ["insert"]
        conflict = tree.args.get("conflict")
        changed = ANY_COLUMN
        if conflict is not None:
            walk.add(Effect.DATA_UPDATE)
            events.append("update")
            changed = _assigned(conflict.expressions)
            if source is not None and source.relation:
                walk.read(source.relation)
        self.target(source, events, changed)
        for column in columns:
            if isinstance(column, exp.Identifier | exp.Column) and source is not None:
                walk.columns[f"{source.relation}.{column.name}"] = None
        scope = Scope()
        body = tree.expression
        row: list[Any] = []
        if isinstance(body, exp.Values):
            for one in body.expressions:
                row += one.expressions if isinstance(one, exp.Tuple) else [one]
        elif isinstance(body, exp.Select | exp.SetOperation | exp.Subquery):
            outputs = self.queries.query(body, None)
            del outputs
        elif body is not None:
            walk.unknown("the rows of an INSERT are not understood")
        if source is not None:
            scope.sources.append(source)
        for value in row:
            self.queries.expression(value, scope)
        if conflict is not None:
            self._conflict(conflict, body, scope)
        self._returning(tree, scope, source)

    def _conflict(self, conflict: Any, body: Any, scope: Scope) -> None:
        if not conflict.args.get("duplicate"):
            self.walk.unknown("a conflict clause that is not MySQL's")
        if isinstance(body, exp.Select):
            self.queries.tables(body, scope)  # its columns may be used here, too
        for one in conflict.expressions:
            self.queries.expression(one, scope)

    def named(self, schema: str, name: str) -> Source | None:
        """A target that is only written: not among what is read."""
        walk = self.walk
        before = dict(walk.reads)
        had = Effect.SECRET_READ in walk.effects
        source = self.queries.relation(schema, name)
        walk.reads = before
        if not had:
            walk.effects.discard(Effect.SECRET_READ)
        return source

    def _returning(self, tree: Any, scope: Scope, source: Source | None) -> None:
        returning = tree.args.get("returning")
        if returning is None:
            return
        walk = self.walk
        walk.add(Effect.DATA_SELECT)
        if source is not None and source.relation:
            walk.read(source.relation)
        for item in returning.expressions:
            if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
                walk.columns.update(dict.fromkeys(source.everything if source is not None else ()))
            else:
                self.queries.expression(item, scope)

    # ------------------------------------------------------------ UPDATE and DELETE

    def _sources(self, tree: Any, start: Any, scope: Scope) -> list[Source]:
        """The tables named. What they are read for is only known once the rest was looked at: `_settle`."""
        walk = self.walk
        self.queries._with(tree, scope)
        before, secret = dict(walk.reads), Effect.SECRET_READ in walk.effects
        self.queries.table(start, scope)
        if isinstance(start, list):
            walk.unknown("a list of tables that is not understood")
        self._named = {r: None for r in walk.reads if r not in before}
        self._secret = not secret and Effect.SECRET_READ in walk.effects
        walk.reads = before
        if self._secret:
            walk.effects.discard(Effect.SECRET_READ)
        return list(scope.sources)

    def _settle(self, tree: Any, sources: list[Source], targets: list[Source]) -> None:
        """Of the tables named those are read that are not written, or whose rows a filter or a join looks at."""
        walk = self.walk
        written = {t.relation for t in targets}
        looks = len(sources) > 1 or any(tree.args.get(part) is not None for part in ("where", "order"))
        read = self._named if looks else {r: None for r in self._named if r not in written}
        walk.reads.update(read)
        if self._secret and read:
            walk.add(Effect.SECRET_READ)
        if len(sources) > 1 or not {s.relation for s in sources if s.relation} <= written:
            walk.add(Effect.DATA_SELECT)

    def _update(self, tree: Any) -> None:
        walk = self.walk
        self._only(tree, _UPDATE)
        walk.add(Effect.DATA_UPDATE)
        scope = Scope()
        sources = self._sources(tree, tree.this, scope)
        targets: list[Source] = []
        for one in tree.expressions:
            if not isinstance(one, exp.EQ) or not isinstance(one.this, exp.Column):
                walk.unknown("an assignment of UPDATE that is not understood")
                continue
            column = one.this
            self.queries._column(column, scope)
            if column.table:
                hit = scope.named(column.table, column.args["db"].name if column.args.get("db") else "")
            else:
                name = column.name.lower()
                hit = [s for s in sources if s.columns is None or name in s.columns]
            if not hit:
                hit = [s for s in sources if s.relation]
            targets += [s for s in hit if s not in targets]
            self.queries.expression(one.expression, scope)
        self._settle(tree, sources, targets)
        changed = _assigned(tree.expressions)
        for target in targets:
            if target.relation:
                self.target(target, ["update"], changed)
            else:
                self._derived_target(target)
        self._filters(tree, scope)

    def _derived_target(self, target: Source) -> None:
        del target
        self.walk.unknown("the target of a data change is a derived table")

    def _delete(self, tree: Any) -> None:
        walk = self.walk
        self._only(tree, _DELETE)
        walk.add(Effect.DATA_DELETE)
        scope = Scope()
        using, named = tree.args.get("using"), tree.args.get("tables")
        if using:
            if len(using) != 1:
                walk.unknown("DELETE ... USING with a list that is not understood")
            sources = self._sources(tree, using[0], scope)
            names = [tree.this, *(j.this for j in tree.this.args.get("joins") or ())]
        else:
            sources = self._sources(tree, tree.this, scope)
            names = list(named or ())
        targets: list[Source] = []
        if names:
            for name in names:
                meant = scope.named(name.name, name.args["db"].name if name.args.get("db") else "")
                if not meant or not all(source.relation for source in meant):
                    walk.unknown("DELETE names a table that is not in its FROM")
                else:
                    targets += [source for source in meant if source not in targets]
        else:
            targets = sources[:1]
            if len(sources) > 1:
                walk.unknown("a DELETE over several tables that is not understood")
        if any(not s.relation for s in targets):
            walk.unknown("the target of a data change is a derived table")
        self._settle(tree, sources, targets)
        for target in targets:
            if target.relation:
                self.target(target, ["delete"])
        self._filters(tree, scope)
        self._returning(tree, scope, targets[0] if targets else None)

    def _filters(self, tree: Any, scope: Scope) -> None:
        walk = self.walk
        where = tree.args.get("where")
        if where is None:
            walk.filter(Where.PRESENT if _joined(tree) else Where.MISSING)
        else:
            walk.predicate(self.queries.expression(where, scope))
            strength, constant = filtering(where.this)
            walk.constants = walk.constants or constant
            walk.filter(strength)
        order = tree.args.get("order")
        if order is not None:
            walk.predicate(self.queries._order(order, scope, None))
        if tree.args.get("limit") is not None:
            self.queries.expression(tree.args["limit"], scope)


def _assigned(assignments: Sequence[Any]) -> frozenset[str]:
    """The columns that are set, in lower case; `ANY_COLUMN` where that is not sure."""
    names = [
        one.this.name.lower() for one in assignments if isinstance(one, exp.EQ) and isinstance(one.this, exp.Column)
    ]
    return frozenset(names) if len(names) == len(assignments) and "" not in names else ANY_COLUMN


def _joined(tree: Any) -> bool:
    """An inner join with a condition on columns narrows, like a WHERE."""
    start = tree.args.get("using") or [tree.this]
    for join in start[0].args.get("joins") or ():
        on = join.args.get("on")
        narrows = bool(join.args.get("using")) or (on is not None and filtering(on)[0] is Where.PRESENT)
        if narrows and not join.args.get("side"):
            return True
    return False


def filtering(condition: Any) -> tuple[Where, bool]:
    """(whether a condition can leave out rows, whether that was read from a constant)."""
    while isinstance(condition, exp.Paren):
        condition = condition.this
    if isinstance(condition, exp.Or | exp.Xor):
        left, right = filtering(condition.this), filtering(condition.expression)
        true = Where.ALWAYS_TRUE in (left[0], right[0])
        return (Where.ALWAYS_TRUE if true else Where.PRESENT), left[1] or right[1]
    if isinstance(condition, exp.And):
        left, right = filtering(condition.this), filtering(condition.expression)
        true = left[0] is right[0] is Where.ALWAYS_TRUE
        return (Where.ALWAYS_TRUE if true else Where.PRESENT), left[1] or right[1]
    if (
        isinstance(condition, exp.EQ | exp.GTE | exp.LTE | exp.NullSafeEQ | exp.Like)
        and condition.this == condition.expression
    ):
        return Where.ALWAYS_TRUE, isinstance(condition.this, exp.Literal)
    carries = condition.find(exp.Column, exp.Select, exp.Placeholder, exp.Parameter, exp.SessionParameter) is not None
    if carries:
        return Where.PRESENT, False
    never = (
        (isinstance(condition, exp.Boolean) and not condition.this)
        or (isinstance(condition, exp.Literal) and not condition.is_string and condition.this == "0")
        or (
            isinstance(condition, exp.EQ)
            and isinstance(condition.this, exp.Literal)
            and isinstance(condition.expression, exp.Literal)
            and not condition.this.is_string
            and not condition.expression.is_string
            and condition.this.this.isdigit()
            and condition.expression.this.isdigit()
            and int(condition.this.this) != int(condition.expression.this)
        )
    )
    return (Where.PRESENT if never else Where.ALWAYS_TRUE), True
