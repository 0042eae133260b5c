"""What stands in FROM: relations, views, derived tables, joins.

INVARIANT: no I/O in this module; a node that is not expected makes the statement unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from protocols.contract import Effect
from protocols.mysql.catalog import Catalog, Relation, schema_only
from protocols.mysql.flows import alike, given
from protocols.mysql.generated import made_of
from protocols.mysql.statements.lexer import Unreadable
from protocols.mysql.statements.scope import NOTHING, Origins, Outputs, Scope, Source, union
from protocols.mysql.statements.walk import Walk

MAX_TABLES = 256  # in one FROM: the servers join 61


class Sources:
    """Puts the entries of FROM into a scope. `Queries` adds what is inside them."""

    walk: Walk

    def query(self, node: Any, parent: Scope | None) -> Outputs | None:
        raise NotImplementedError

    def expression(self, start: Any, scope: Scope) -> Origins:
        raise NotImplementedError

    def bracketed(self, node: Any, parent: Scope | None) -> Outputs | None:
        raise NotImplementedError

    def tail(self, node: Any, scope: Scope, outputs: Outputs | None) -> None:
        raise NotImplementedError

    def values(self, node: Any, parent: Scope | None) -> Outputs | None:
        raise NotImplementedError

    def tables(self, node: Any, scope: Scope) -> None:
        """FROM, its joins, and the joins behind."""
        start = node.args.get("from_") or node.args.get("from")
        if start is not None:
            self.table(start.this, scope)
        for join in node.args.get("joins") or ():
            self.join(join, scope)
        for lateral in node.args.get("laterals") or ():
            self.table(lateral, scope)

    def join(self, join: Any, scope: Scope) -> None:
        args = join.args
        self.table(join.this, scope)
        if str(args.get("method") or "").upper() not in ("", "NATURAL"):
            self.walk.unknown("a join that is not MySQL's")
        if str(args.get("method") or "").upper() == "NATURAL":
            self.walk.predicate(union(s.everything for s in scope.sources))
        if args.get("on") is not None:
            self.walk.predicate(self.expression(args["on"], scope))
        for column in args.get("using") or ():
            name = column.name.lower()
            for source in scope.sources:
                self.walk.predicate(source.column(name) or NOTHING)

    def table(self, node: Any, scope: Scope) -> Source | None:
        """One entry of FROM; puts its sources into scope."""
        walk = self.walk
        source: Source | None
        if len(scope.sources) > MAX_TABLES:
            raise Unreadable(f"more than {MAX_TABLES} tables in one FROM")
        if isinstance(node, exp.Lateral):
            inner = node.this
            if not isinstance(inner, exp.Subquery):
                walk.unknown("LATERAL before something that is no query")
                return None
            alias = node.args.get("alias") or inner.args.get("alias")
            source = self._derived(inner, alias, scope, Scope(scope))
        elif isinstance(node, exp.Subquery):
            if isinstance(node.this, exp.Table | exp.Subquery) and not node.args.get("alias"):
                # brackets around joins
                source = self.table(node.this, scope)
                for join in node.args.get("joins") or ():
                    self.join(join, scope)
                return source
            outer = Scope(scope.parent, ctes=scope.ctes)
            source = self._derived(node, node.args.get("alias"), scope, outer)
        elif isinstance(node, exp.Paren):
            return self.table(node.this, scope)
        elif isinstance(node, exp.Values):
            outputs = renamed(self.values(node, scope), _alias_columns(node.args.get("alias")))
            source = _from_outputs(_alias(node), outputs)
            scope.sources.append(source)
        elif isinstance(node, exp.Table):
            source = self._relation(node, scope)
        else:
            walk.unknown("something in FROM that is not understood")
            return None
        for join in node.args.get("joins") or ():
            self.join(join, scope)
        return source

    def _derived(self, node: Any, alias: Any, scope: Scope, seen: Scope) -> Source:
        outputs = self.query(node.this, seen) if not node.args.get("with_") else self.bracketed(node, seen)
        if not node.args.get("with_"):
            self.tail(node, seen, outputs)
        outputs = renamed(outputs, _alias_columns(alias))
        source = _from_outputs(alias.name if alias is not None else "", outputs)
        if outputs is None:
            source.everything = frozenset(self.walk.columns)
        scope.sources.append(source)
        return source

    def _relation(self, node: Any, scope: Scope) -> Source | None:
        walk = self.walk
        for name, value in node.args.items():
            if value and name not in ("this", "db", "alias", "joins", "hints", "partition", "only"):
                walk.unknown(f"the clause `{name}` of a table is not understood")
        if node.args.get("catalog"):
            walk.unknown("a name of three parts")
        alias = _alias(node)
        if isinstance(node.this, exp.JSONTable):
            self._json_table(node, alias, scope)
            return None
        if not isinstance(node.this, exp.Identifier):
            walk.unknown("a table that is no name")
            return None
        if _alias_columns(node.args.get("alias")):
            walk.unknown("column names behind a table's alias")
        name, given = node.name, node.args["db"].name if node.args.get("db") else ""
        if not given:
            if name.upper() == "DUAL" and not node.this.args.get("quoted"):
                return None
            found, outputs = scope.cte(name)
            if found and found != name:
                # whether case counts is the server's setting: it may be the table of that name all the same
                self.relation(given, name, alias)
            if found:
                source = _from_outputs(alias or name, outputs)
                if outputs is None:
                    source.everything = frozenset(walk.columns)
                scope.sources.append(source)
                return source
        relation = self.relation(given, name, alias)
        if relation is not None:
            scope.sources.append(relation)
        return relation

    def _json_table(self, node: Any, alias: str, scope: Scope) -> None:
        table = node.this
        origins = self.expression(table.this, scope)
        self.walk.predicate(origins)  # the document says how many rows there are
        names: list[str] = []
        waiting = list(table.args["schema"].expressions) if table.args.get("schema") is not None else []
        while waiting:
            column = waiting.pop(0)
            nested = column.args.get("nested_schema")
            if nested is not None:
                waiting += nested.expressions
            if column.args.get("this") is not None:
                names.append(column.name.lower())
        scope.sources.append(_from_outputs(alias, [(name, origins) for name in names]))

    def relation(self, given: str, name: str, alias: str = "") -> Source | None:
        """A relation that is read, by name."""
        walk = self.walk
        schema = walk.schema(given)
        if not schema:
            return None
        temporary = walk.state.temporary(schema, name)
        if temporary is not None:
            qualified = walk.qualified(schema, name)
            walk.read(qualified)
            for source_name in temporary.sources:
                walk.reads[source_name] = None
            known = temporary.columns if temporary.certain else None
            columns = {c.lower(): frozenset({f"{qualified}.{c}"}) for c in known} if known is not None else None
            return Source(alias or name, columns, qualified, schema, frozenset({f"{qualified}.*"}))
        relation = walk.catalog.relation(schema, name)
        if relation is None:
            qualified = walk.qualified(schema, name)
            walk.read(qualified)
            # nobody makes tables in these schemas: the server has it as we know it, or refuses it
            own = schema_only(schema, name) and schema.lower() != "mysql"
            if walk.catalog.flavour == "mariadb" and schema.lower() == "information_schema":
                own = True  # an account does not see all of them
            if not walk.catalog.open_world and not own:
                walk.unknown(f"the relation `{qualified}` is not known to the catalog")
            return Source(alias or name, None, qualified, schema, frozenset({f"{qualified}.*"}))
        qualified = relation.qualified
        walk.read(qualified)
        walk.spend(len(relation.columns))
        if relation.qualified in walk.state.touched:
            walk.unknown(f"the relation `{qualified}` was changed by this session since the catalog was read")
        columns = _columns(relation, walk.catalog)
        everything = frozenset({f"{qualified}.*"})
        if relation.kind == "view":
            columns, everything = self._view(relation, columns)
        elif relation.kind == "system view" and schema.lower() == "sys" and not schema_only(schema, name):
            walk.add(Effect.SECRET_READ)
        return Source(alias or name, columns, qualified, schema, everything)

    def _view(self, view: Relation, columns: Any) -> tuple[Any, Origins]:
        """What reading a view brings along: its body runs."""
        from protocols.mysql.statements.bodies import view_body  # it reads queries itself

        walk = self.walk
        own = frozenset({f"{view.qualified}.*"})
        body = view_body(view, walk.catalog, walk.depth)
        walk.merge(body.analysis)
        if columns is None or body.outputs is None or len(body.outputs) != len(columns):
            return columns, own | frozenset(body.analysis.columns)
        merged = {
            name: origins | behind[1] for (name, origins), behind in zip(columns.items(), body.outputs, strict=True)
        }
        return merged, own | union(o for _, o in body.outputs)


def _columns(relation: Relation, catalog: Catalog) -> dict[str, Origins] | None:
    """Each with what the server makes it of; None where they are not known."""
    memo, key = catalog.memo(), ("origins", relation.schema, relation.name)
    if key not in memo:
        own = relation.qualified
        memo[key] = {c.name.lower(): frozenset({f"{own}.{c.name}"}) | made_of(relation, c) for c in relation.columns}
    found: dict[str, Origins] = memo[key]
    return found or None


def _alias(node: Any) -> str:
    alias = node.args.get("alias")
    return alias.name if alias is not None else ""


def _alias_columns(alias: Any) -> list[str]:
    return [c.name.lower() for c in alias.args.get("columns") or ()] if alias is not None else []


def renamed(outputs: Outputs | None, names: Sequence[str]) -> Outputs | None:
    if outputs is None or not names:
        return outputs
    if len(outputs) != len(names):
        return None
    return [(given(name), origins) for name, (_, origins) in zip(names, outputs, strict=True)]


def _from_outputs(alias: str, outputs: Outputs | None) -> Source:
    if outputs is None:
        return Source(alias, None)
    columns: dict[str, Origins] = {}
    for name, origins in outputs:
        columns[name] = columns.get(name, NOTHING) | origins
    return Source(alias, columns, everything=union(columns.values()))


def cte_name(cte: Any) -> str:
    alias = cte.args.get("alias")
    return str(alias.name) if alias is not None else ""


def reads(body: Any, names: Sequence[str]) -> bool:
    """Whether a query may read one of these common table expressions."""
    return any(not t.args.get("db") and any(alike(t.name, n) for n in names) for t in body.find_all(exp.Table))
