"""Data changes: INSERT, UPDATE, DELETE, MERGE, with what comes along: rules, views, triggers, cascades.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocols.contract import Effect
from protocols.postgres.statements.calls import ANY_SETTING
from protocols.postgres.statements.lineage import where_of
from protocols.postgres.statements.model import Change, ChangeKind
from protocols.postgres.statements.names import Target
from protocols.postgres.statements.nodes import FIELDS, Node
from protocols.postgres.statements.queries import EMPTY
from protocols.postgres.statements.scope import NOTHING, Origins, Output, Scope, Source, union
from protocols.postgres.statements.stores import Place, Stores, without_clear

MAX_QUERY_DEPTH = 60  # queries inside queries; each level takes a few Python frames
_SYSTEM = frozenset({"pg_catalog", "information_schema"})
_EVENTS = {"update": "2", "insert": "3", "delete": "4", "truncate": "-"}  # rules do not see TRUNCATE
_CASCADED = {"c": Effect.DATA_DELETE, "n": Effect.DATA_UPDATE, "d": Effect.DATA_UPDATE}


class Writes(Stores):
    """Adds the data changes, and with them every statement that may stand inside another."""

    def query(self, node: Node, scope: Scope | None) -> Output:
        """Any statement that returns rows and may stand inside another."""
        if not node:
            return EMPTY
        tag, body = next(iter(node.items()))
        handler = _QUERIES.get(tag)
        if handler is None or not body.keys() <= FIELDS[tag]:
            self.unknown(f"`{tag}` is not understood here")
            return Output(None, NOTHING)
        self.depth += 1
        try:
            if self.depth > MAX_QUERY_DEPTH:
                self.unknown(f"queries nested more than {MAX_QUERY_DEPTH} deep")
                return Output(None, NOTHING)
            result: Output = handler(self, body, scope)
            return result
        finally:
            self.depth -= 1

    def write(self, body: Node, scope: Scope, event: str, changed: frozenset[str] = frozenset()) -> Source:
        """The target of a data change: its rules, triggers, views and cascades; puts it into scope."""
        self.named = True
        catalog = self.names.catalog
        schema, name = body.get("schemaname"), body.get("relname", "")
        targets = self.names.relations(schema, name)
        for target in targets:
            self.writes[target.qualified] = None
            if target.why:
                self.unknown(target.why)
            if target.qualified.partition(".")[0] in _SYSTEM:
                self._system_write(target)
            if target.relation is not None:
                effects, also, functions = catalog.write_facts(target.relation.oid, _EVENTS[event])
                self.add(effects, planned=False)
                for one in also:
                    self.writes[one] = None
                for function in functions:
                    self.functions[function] = None
                self._cascade(target.relation.oid, event, changed)
            elif target.temporary is not None:
                # the rows that are there: RETURNING shows them, an error quotes them
                self.holds(target.temporary)
                if target.temporary.body is not None:
                    self.unknown("a write through a temporary view")
        alias = body.get("alias", {}).get("aliasname") or name
        source = Source(
            alias, frozenset(f"{t.qualified}.*" for t in targets), targets=targets, catalog=self.names.catalog
        )
        scope.sources.append(source)
        return source

    def _system_write(self, target: Target) -> None:
        self.add({Effect.ADMIN_CONFIG}, planned=False)
        if target.qualified == "pg_catalog.pg_settings":
            # its rule turns the UPDATE into set_config for every row that it hits
            self.add(
                {
                    Effect.SESSION_ROLE,
                    Effect.SESSION_GUARD,
                    Effect.SESSION_OTHER,
                    Effect.SESSION_NAME_RESOLUTION,
                    Effect.SESSION_PARSE_STATE,
                },
                planned=False,
            )
            self.changes.extend(ANY_SETTING)
        else:
            self.add({Effect.PRIV_ROLE, Effect.DDL_ALTER}, planned=False)
            self.changes.append(Change(ChangeKind.OPAQUE))

    def _cascade(self, start: int, event: str, changed: frozenset[str]) -> None:
        """Foreign keys with ON DELETE or ON UPDATE actions change the tables that point here."""
        if event in ("insert", "truncate"):
            return
        catalog = self.names.catalog
        waiting, seen = [(start, event)], {start}
        while waiting:
            oid, how = waiting.pop()
            relation = catalog.relations_by_oid.get(oid)
            for child, on_delete, on_update, keys in catalog.cascades.get(oid, ()):
                action = on_delete if how == "delete" else on_update
                if action not in _CASCADED:
                    continue
                if how == "update" and changed and relation is not None and oid == start:
                    numbers = {relation.columns[c][0] for c in changed if c in relation.columns}
                    if numbers.isdisjoint(keys):
                        continue
                removes = how == "delete" and action == "c"
                self.add({Effect.DATA_DELETE if removes else Effect.DATA_UPDATE}, planned=False)
                pointing = catalog.relations_by_oid.get(child)
                self.writes[pointing.qualified if pointing is not None else "unknown.table"] = None
                if child not in seen:
                    seen.add(child)
                    waiting.append((child, "delete" if removes else "update"))

    def returning(self, body: Node, scope: Scope, target: Source) -> Output:
        """RETURNING: the rows come back, so the target is read, too."""
        items = body.get("returningList")
        if not items:
            return EMPTY
        self.add({Effect.DATA_SELECT}, planned=False)
        self._reads_target(body)
        # PostgreSQL 18 lets RETURNING name the row before and after as `old` and `new`
        inner = Scope(scope.parent, [Source(n, target.everything) for n in ("old", "new") if scope.source(n) is None])
        output = self.targets(items, Scope(inner, [target, *[s for s in scope.sources if s is not target]]))
        return Output(output.columns, output.everything, output.copies)

    def _reads_target(self, body: Node) -> None:
        """The target's own rows are looked at: by a filter, or by RETURNING."""
        for target in self.names.relations(body["relation"].get("schemaname"), body["relation"].get("relname", "")):
            self.reads[target.qualified] = None
            if target.relation is not None:
                facts = self.names.catalog.facts(target.relation.oid)
                for read in facts.reads[1:]:
                    self.reads[read] = None
                self.add(facts.effects)

    def insert(self, body: Node, outer: Scope | None) -> Output:
        self.add({Effect.DATA_INSERT}, planned=False)
        around = self.with_clause(body, outer)
        scope = Scope(around)
        rows = EMPTY
        if "selectStmt" in body:
            values = body["selectStmt"].get("SelectStmt", {})
            if "valuesLists" in values and not (values.keys() - {"valuesLists", "limitOption", "op"}):
                rows = self._branch(values, around)  # plain rows: nothing is read
            else:
                rows = without_clear(self.query(body["selectStmt"], around), values, self.names.is_table)
        target = self.write(body["relation"], scope, "insert")
        for column in body.get("cols", ()):
            self.assigned(column, target, scope)
        columns = [c.get("ResTarget", {}).get("name", "") for c in body.get("cols", ())] or target.names
        if rows.everything:
            if any("indirection" in c.get("ResTarget", {}) for c in body.get("cols", ())):
                rows = Output(rows.columns, rows.everything)  # a part of a value is set
            self.fill_all(self.places(body["relation"], _EVENTS["insert"]), columns, rows)
        conflict = body.get("onConflictClause")
        if conflict is not None:
            self._on_conflict(conflict, scope, target, body, _proposed(target, columns, rows))
        return self.returning(body, scope, target)

    def _on_conflict(self, conflict: Node, scope: Scope, target: Source, body: Node, proposed: Source) -> None:
        infer = conflict.get("infer", {})
        if not conflict.keys() <= FIELDS["OnConflictClause"] or not infer.keys() <= FIELDS["InferClause"]:
            self.unknown("an ON CONFLICT clause that is not understood here")
        for element in infer.get("indexElems", ()):
            self.expression(element, scope)
        if "whereClause" in infer:
            self.expression(infer["whereClause"], scope)
        if conflict.get("action") == "ONCONFLICT_UPDATE":
            self.add({Effect.DATA_UPDATE}, planned=False)
            self.write(body["relation"], Scope(), "update")
            self._reads_target(body)
            inner = Scope(scope, [target, proposed])
            self.assignments(
                conflict.get("targetList", ()), target, inner, self.places(body["relation"], _EVENTS["update"])
            )
            if "whereClause" in conflict:
                self.filter(self.expression(conflict["whereClause"], inner))

    def assigned(self, node: Node, target: Source, scope: Scope) -> None:
        """A column that an INSERT or UPDATE sets."""
        body = node.get("ResTarget", {})
        name = body.get("name", "")
        for origin in target.column(name) or target.loose_column(name):
            self.columns[origin] = None
        for step in body.get("indirection", ()):
            if "A_Indices" in step:
                self.expression(step, scope)

    def assignments(self, nodes: Any, target: Source, scope: Scope, places: Sequence[Place]) -> None:
        for node in nodes:
            self.assigned(node, target, scope)
            body = node.get("ResTarget", {})
            origins = self.value(body.get("val", {}), scope)
            value = {} if "indirection" in body else _row_part(body.get("val", {}))
            if value is not body.get("val", {}) and value:
                origins = self.value(value, scope)
            self.fill(places, body.get("name", ""), value, origins, scope)

    def update(self, body: Node, outer: Scope | None) -> Output:
        self.add({Effect.DATA_UPDATE}, planned=False)
        scope = Scope(self.with_clause(body, outer))
        changed = frozenset(t.get("ResTarget", {}).get("name", "") for t in body.get("targetList", ()))
        target = self.write(body["relation"], scope, "update", changed)
        if "fromClause" in body:
            self.add({Effect.DATA_SELECT}, planned=False)
            self.from_clause(body["fromClause"], scope)
        self.assignments(body.get("targetList", ()), target, scope, self.places(body["relation"], _EVENTS["update"]))
        self._filter_rows(body, scope)
        return self.returning(body, scope, target)

    def delete(self, body: Node, outer: Scope | None) -> Output:
        self.add({Effect.DATA_DELETE}, planned=False)
        scope = Scope(self.with_clause(body, outer))
        target = self.write(body["relation"], scope, "delete")
        if "usingClause" in body:
            self.add({Effect.DATA_SELECT}, planned=False)
            self.from_clause(body["usingClause"], scope)
        self._filter_rows(body, scope)
        return self.returning(body, scope, target)

    def _filter_rows(self, body: Node, scope: Scope) -> None:
        where, read_constant = where_of(body.get("whereClause"))
        self.weaken(where)
        self.read_constant = self.read_constant or read_constant
        if "whereClause" in body:
            self._reads_target(body)
            self.filter(self.expression(body["whereClause"], scope))

    def merge(self, body: Node, outer: Scope | None) -> Output:
        self.add({Effect.DATA_MERGE, Effect.DATA_SELECT}, planned=False)
        scope = Scope(self.with_clause(body, outer))
        target: Source | None = None
        for clause in body.get("mergeWhenClauses", ()):
            when = clause.get("MergeWhenClause", {})
            if not when.keys() <= FIELDS["MergeWhenClause"]:
                self.unknown("a WHEN clause that is not understood here")
            command = when.get("commandType", "")
            for event, effect in (("update", Effect.DATA_UPDATE), ("insert", Effect.DATA_INSERT),
                                  ("delete", Effect.DATA_DELETE)):  # fmt: skip
                if command == f"CMD_{event.upper()}":
                    self.add({effect}, planned=False)
                    target = self.write(body["relation"], Scope(), event)
        if target is None:
            target = self.write(body["relation"], Scope(), "update")
        scope.sources.append(target)
        self._reads_target(body)
        self.from_clause([body.get("sourceRelation", {})], scope)
        self.filter(self.expression(body.get("joinCondition", {}), scope))
        for clause in body.get("mergeWhenClauses", ()):
            when = clause.get("MergeWhenClause", {})
            if "condition" in when:
                self.filter(self.expression(when["condition"], scope))
            self._merged(when, target, scope, body["relation"])
        return self.returning(body, scope, target)

    def _merged(self, when: Node, target: Source, scope: Scope, relation: Node) -> None:
        """What one WHEN clause writes: INSERT lists its columns and values apart, UPDATE together."""
        listed = when.get("targetList", ())
        if when.get("commandType") != "CMD_INSERT":
            self.assignments(listed, target, scope, self.places(relation, _EVENTS["update"]))
            return
        places = self.places(relation, _EVENTS["insert"])
        self.assignments(listed, target, scope, ())
        whole = not any("indirection" in one.get("ResTarget", {}) for one in listed)
        columns = [one.get("ResTarget", {}).get("name", "") for one in listed] or target.names
        for index, value in enumerate(when.get("values", ())):
            column = columns[index] if columns is not None and index < len(columns) else "*"
            self.fill(places, column, value if whole else {}, self.value(value, scope), scope)


def _row_part(value: Node) -> Node:
    """Of `(a, b) = ROW(x, y)` the part that one of them gets."""
    reference = value.get("MultiAssignRef", {})
    parts = reference.get("source", {}).get("RowExpr", {}).get("args", ())
    number = reference.get("colno", 0)
    return parts[number - 1] if len(parts) == reference.get("ncolumns") and 0 < number <= len(parts) else value


def _proposed(target: Source, columns: Sequence[str] | None, rows: Output) -> Source:
    """`excluded`, the row that was to be inserted: what it holds is what its values are made of."""
    named = target.names
    if named is None or columns is None or rows.columns is None or len(columns) < len(rows.columns):
        return Source("excluded", target.everything | rows.everything)
    derived: dict[str, Origins] = dict.fromkeys(named, NOTHING)
    derived |= {column: origins for column, (_, origins) in zip(columns, rows.columns, strict=False)}
    copies = zip(columns, rows.copies or (), strict=False)
    return Source(
        "excluded", union(derived.values()), derived, copies={name: one for name, one in copies if one is not None}
    )


_QUERIES: dict[str, Any] = {
    "SelectStmt": Writes.select,
    "InsertStmt": Writes.insert,
    "UpdateStmt": Writes.update,
    "DeleteStmt": Writes.delete,
    "MergeStmt": Writes.merge,
}
