"""Where the values in a relation's columns come from: tables, generated columns, views, temporary tables.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp

from protocols.mysql.catalog import SYSTEM_SCHEMAS, Catalog, Relation, schema_only
from protocols.mysql.catalog_queries import ROW_DERIVED
from protocols.mysql.flows import (
    ANYTHING,
    MAX_DEPTH,
    MAX_NODES,
    NOTHING,
    Ctes,
    Flow,
    Result,
    Scope,
    Source,
    Untraceable,
    Variables,
    opens,
    union,
)
from protocols.mysql.generated import made_of
from protocols.mysql.statements.bodies import view_body

# schemas whose tables of names and settings have no column that is computed from rows
NO_ROWS = frozenset({"performance_schema", "sys", "mysql"})


class Relations:
    """A part of `Lineage`. `opens`: it calls code that may read what its text does not show.

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

    def _query(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        raise NotImplementedError

    def _values(self, node: exp.Expr, outer: Scope | None, ctes: Ctes) -> Result:
        raise NotImplementedError

    def _count(self, work: int = 1) -> None:
        """Bounds the time: `work` is in nodes; sixteen comparisons of names take about as long as one."""
        self._nodes += work
        if self._nodes > MAX_NODES:
            raise Untraceable("too large to be traced")

    def _qualified(self, schema: str) -> str | None:
        if schema:
            return schema
        if self._state is None or not self._state.database_known:
            return None
        return self._state.database

    def _relation_of(self, table: exp.Expr) -> Relation | None:
        schema = self._qualified(table.text("db"))
        return self._catalog.relation(schema, table.name) if schema else None

    def _relation_source(self, schema: str, name: str, alias: str) -> Source:
        where = self._qualified(schema)
        if where is None:
            return Source(alias, None, None, ANYTHING, ANYTHING)
        if self._state is not None:
            temporary = self._state.temporary(where, name)
            if temporary is not None:
                return self._temporary(temporary, where, alias)
            qualified = f"{where}.{name}".lower()
            if any(t.lower() in (qualified, where.lower(), name.lower(), "") for t in self._state.touched):
                return Source(alias, where, None, ANYTHING, ANYTHING)
        if self._insert_id and "variables" in name.lower() and where.lower() in SYSTEM_SCHEMAS:
            return Source(alias, where, None, ANYTHING, ANYTHING)  # among the session's variables there is that id
        relation = self._catalog.relation(where, name)
        if relation is None or not relation.columns:
            if where.lower() in NO_ROWS and schema_only(where, name):
                return Source(alias, where, None)  # the catalog leaves their columns out
            return Source(alias, where, None, ANYTHING, ANYTHING)
        columns, rows = self.relation_flows(relation)
        visible = [c for c in columns if (found := relation.column(c[0])) is None or found.visible]
        return Source(alias, where, columns, rows, visible=visible, stored=relation.kind == "table")

    def _temporary(self, temporary: Any, schema: str, alias: str) -> Source:
        sources = self._of_relations(temporary.sources).derived()
        if temporary.columns is None or not temporary.certain:
            # its columns are not known; nothing but its sources' rows and the client's own values is in it
            rest = sources if temporary.certain else ANYTHING
            return Source(alias, schema, None, NOTHING, rest)
        own = f"{schema}.{temporary.name}"
        known = [(c, Flow(frozenset({f"{own}.{c}"})) | sources) for c in temporary.columns]
        return Source(alias, schema, known)

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
            else:
                flow = flow | Flow(frozenset(), made_of(relation, column))
            out.append((column.name, flow))
        return out, NOTHING

    def _view_flows(self, relation: Relation) -> tuple[list[tuple[str, Flow]], Flow]:
        own = relation.qualified
        opaque = [(c.name, Flow(frozenset({f"{own}.{c.name}"})) | ANYTHING) for c in relation.columns], ANYTHING
        if relation.definition is None:
            return opaque
        body = view_body(relation, self._catalog)
        if body.analysis.unknown or body.tree is None:
            return opaque
        inner = type(self)(self._catalog, None, opens=opens(body.analysis))
        inner._views = [*self._views, own]
        inner._depth, inner._nodes = self._depth, self._nodes
        try:
            found = inner._query(body.tree, None, {})
        except (RecursionError, Untraceable):
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
