"""Everything that may stand in FROM: relations, joins, subqueries, functions; and what reading a relation brings along.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any

from protocols.contract import Effect
from protocols.postgres.functions import SECRET_COLUMNS, SECRET_NAMES
from protocols.postgres.statements.expressions import Expressions
from protocols.postgres.statements.findings import OPENS
from protocols.postgres.statements.names import Target
from protocols.postgres.statements.nodes import FIELDS, Node, figure_name, strings
from protocols.postgres.statements.scope import NOTHING, Origins, Output, Scope, Source, union

MAX_SOURCES = 5000  # items of one FROM
MAX_NATURAL = 20  # tables of one natural join whose columns are compared; past it every column counts as compared
_SAMPLE_METHODS = frozenset({"system", "bernoulli", "system_rows", "system_time"})
AHEAD = Output(None, NOTHING)  # of a common table expression that was not walked yet


class Sources(Expressions):
    """Adds what is read to the walk of expressions."""

    storing = True  # the rows of a query may be stored: whether a column is a copy matters

    def from_clause(self, items: Any, scope: Scope) -> None:
        for item in items:
            self._from_item(item, scope)
            if len(scope.sources) > MAX_SOURCES:
                self.unknown(f"more than {MAX_SOURCES} items in FROM")
                return

    def _from_item(self, root: Node, scope: Scope) -> None:
        stack: list[Any] = [root]
        while stack and len(scope.sources) <= MAX_SOURCES:
            item = stack.pop()
            if isinstance(item, tuple):  # a join whose sides are now in scope
                self._after_join(item[0], item[1], scope)
                continue
            if not item:
                continue
            tag, body = next(iter(item.items()))
            if tag not in FIELDS or not body.keys() <= FIELDS[tag]:
                self.unknown(f"`{tag}` in FROM is not understood here")
                continue
            if tag == "JoinExpr":
                stack.append((body, len(scope.sources)))
                stack.append(body.get("rarg", {}))
                stack.append(body.get("larg", {}))
            elif tag == "RangeVar":
                self.read(body, scope)
            elif tag == "RangeTableSample":
                self._sample(body, scope)
                stack.append(body.get("relation", {}))
            else:
                handler = _FROM.get(tag)
                if handler is None:
                    self.unknown(f"`{tag}` in FROM is not understood here")
                else:
                    handler(self, body, scope)

    def _after_join(self, body: Node, start: int, scope: Scope) -> None:
        sides = scope.sources[start:]
        self.budget.spend(len(sides) * (1 + len(body.get("usingClause", ()))))
        scope.merged = scope.merged or bool(body.get("isNatural") or "usingClause" in body)
        if body.get("isNatural"):
            self.operator(["="])
            seen: set[str] = set()
            few = len(sides) <= MAX_NATURAL
            if not few:
                self.filter(union(s.everything for s in sides))
            for source in sides if few else ():
                known = source.names
                if known is None:
                    self.filter(source.everything)
                for name in known or ():
                    if name in seen:
                        self.filter(union(s.column(name) or NOTHING for s in sides))
                    seen.add(name)
        for name in strings(body.get("usingClause")):
            self.operator(["="])
            origins = union(s.column(name) or (s.loose_column(name) if s.names is None else NOTHING) for s in sides)
            self.filter(origins)
            for origin in origins:
                self.columns[origin] = None
        if "quals" in body:
            # it sees the two sides and what is around the query: not the other items of FROM
            self.filter(self.expression(body["quals"], Scope(scope.parent, sides, scope.ctes, scope.merged)))
        if "join_using_alias" in body:
            shown = body["join_using_alias"].get("aliasname", "")
            scope.sources.append(Source(shown, union(s.everything for s in sides)))
        if "alias" in body:
            # the join's own alias hides its sides: outside, their names and columns may mean something else
            scope.sources[start:] = [self._joined(body["alias"], sides, scope.merged)]

    def _joined(self, alias: Node, sides: list[Source], merged: bool) -> Source:
        """A join under an alias of its own. `merged`: it may give one column for two of the same name."""
        columns: list[tuple[str, Origins]] | None = []
        for source in sides:
            known = source.names
            if known is None or columns is None or merged:
                columns = None
                break
            self.budget.spend(len(known))
            columns.extend((name, source.column(name) or NOTHING) for name in known)
        output = Output(columns, union(s.everything for s in sides))
        return _derived(alias.get("aliasname", ""), rename(output, strings(alias.get("colnames"))))

    def read(self, body: Node, scope: Scope) -> None:
        """A relation, or a common table expression, named in FROM."""
        alias = body.get("alias", {})
        name = body.get("relname", "")
        shown = alias.get("aliasname") or name
        renames = strings(alias.get("colnames"))
        if "schemaname" not in body:
            cte = scope.cte(name)
            if cte is not None:
                self.blind = self.blind or cte is AHEAD
                self.ahead = self.ahead or cte is AHEAD
                scope.sources.append(_derived(shown, rename(cte, renames)))
                return
        targets = self.read_targets(body)
        everything = frozenset(f"{t.qualified}.*" for t in targets)
        for target in targets:
            if target.relation is not None and target.relation.kind in "vm":
                facts = self.names.catalog.facts(target.relation.oid)
                everything |= frozenset(f"{r}.*" for r in facts.reads[1:])
        source = Source(shown, everything, targets=targets, catalog=self.names.catalog)
        if renames:
            known = source.names
            if known is None:
                source = Source(shown, everything)
            else:
                pairs = [(n, source.column(n) or NOTHING) for n in known]
                copies = tuple(source.copied(n) for n in known) if self.storing else None
                source = _derived(shown, rename(Output(pairs, everything, copies), renames))
        scope.sources.append(source)

    def read_targets(self, body: Node) -> list[Target]:
        """Notes that a relation is read, with everything that this brings along."""
        self.named = True
        schema, name = body.get("schemaname"), body.get("relname", "")
        database = body.get("catalogname")
        if database is not None and database != self.names.catalog.database:
            self.unknown("a name with another database in it")
        targets = self.names.relations(schema, name)
        for target in targets:
            self.reads[target.qualified] = None
            self.direct.add(target.qualified)
            if target.why:
                self.unknown(target.why)
            if name in SECRET_NAMES:
                self.add({Effect.SECRET_READ}, planned=False)
            if target.relation is not None:
                facts = self.names.catalog.facts(target.relation.oid)
                for read in facts.reads[1:]:
                    self.reads[read] = None
                    self._secret_behind(read)
                self.add(facts.effects)
                self.opaque = self.opaque or not OPENS.isdisjoint(facts.effects)
                for function in facts.functions:
                    self.functions[function] = None
                if facts.why:
                    self.unknown(facts.why)
            elif target.temporary is not None:
                self.holds(target.temporary)
                if target.temporary.body is not None:
                    self._temporary_view(target)
        return targets

    def _temporary_view(self, target: Target) -> None:
        body = target.temporary.body if target.temporary is not None else None
        if body is None:
            return
        self.add(body.effects - {Effect.DDL_CREATE})
        self.opaque = self.opaque or not OPENS.isdisjoint(body.effects)
        for read in body.reads:
            self.reads[read] = None
        for function in body.functions:
            self.functions[function] = None
        if body.unknown:
            self.unknown("a temporary view over something unknown")

    def _secret_behind(self, qualified: str) -> None:
        if qualified in SECRET_COLUMNS or qualified.rpartition(".")[2] in SECRET_NAMES:
            self.add({Effect.SECRET_READ}, planned=False)

    def finish_secrets(self) -> None:
        """Reads of pg_catalog's secrets, by the columns that the text names."""
        for relation in self.direct & SECRET_COLUMNS.keys():
            columns = SECRET_COLUMNS[relation]
            if columns is None or any(f"{relation}.{c}" in self.columns for c in (*columns, "*")):
                self.add({Effect.SECRET_READ}, planned=False)

    def _sample(self, body: Node, scope: Scope) -> None:
        if strings(body.get("method"))[-1:] != [] and strings(body.get("method"))[-1] not in _SAMPLE_METHODS:
            self.unknown("a table sampling method that is not understood here")
        for part in ("args", "repeatable"):
            if part in body:
                self.filter(self.expression(body[part], scope))

    def _from_select(self, body: Node, scope: Scope) -> None:
        around = scope if body.get("lateral") else scope.parent
        output = self.query(body.get("subquery", {}), around)
        alias = body.get("alias", {})
        scope.sources.append(_derived(alias.get("aliasname", ""), rename(output, strings(alias.get("colnames")))))

    def _from_function(self, body: Node, scope: Scope) -> None:
        origins: set[str] = set()
        definitions = list(body.get("coldeflist", ()))
        name = ""
        for item in body.get("functions", ()):
            parts = item.get("List", {}).get("items", [])
            if parts:
                origins |= self.value(parts[0], scope)
                name = name or figure_name(parts[0])
                definitions.extend(d for part in parts[1:] for d in part.get("List", {}).get("items", ()))
        for definition in definitions:
            column = definition.get("ColumnDef", {})
            self.expression(("TypeName", column.get("typeName", {})), scope)
        alias = body.get("alias", {})
        # under a name of the server's own that was not worked out: what is looked up further out may be this
        self.blind = self.blind or ("alias" not in body and name == "?column?")
        scope.sources.append(Source(alias.get("aliasname") or name, frozenset(origins)))

    def _from_xml(self, body: Node, scope: Scope) -> None:
        origins = self.expression([body.get(k, {}) for k in ("docexpr", "rowexpr")], scope)
        origins |= self.expression([*body.get("namespaces", ()), *body.get("columns", ())], scope)
        self.filter(origins)  # how many rows it gives
        alias = body.get("alias", {})
        scope.sources.append(Source(alias.get("aliasname", "xmltable"), origins))

    def _from_json(self, body: Node, scope: Scope) -> None:
        self.keyword_function("JsonTable")
        parts: list[Any] = [("JsonValueExpr", body["context_item"])] if "context_item" in body else []
        for name, tag in (("pathspec", "JsonTablePathSpec"), ("on_error", "JsonBehavior")):
            if name in body:
                parts.append((tag, body[name]))
        origins = self.expression([*parts, *body.get("passing", ()), *body.get("columns", ())], scope)
        self.filter(origins)
        alias = body.get("alias", {})
        scope.sources.append(Source(alias.get("aliasname", "json_table"), origins))


def rename(output: Output, names: list[str]) -> Output:
    if not names or output.columns is None:
        return output if not names else Output(None, output.everything)
    columns = [(names[i] if i < len(names) else name, origins) for i, (name, origins) in enumerate(output.columns)]
    return Output(columns, output.everything, output.copies)


def _derived(alias: str, output: Output) -> Source:
    if output.columns is None:
        return Source(alias, output.everything)
    derived: dict[str, Origins] = {}
    for name, origins in output.columns:
        derived[name] = derived.get(name, NOTHING) | origins
    if "?column?" in derived:  # a name that was not worked out: any look-up may mean it
        return Source(alias, output.everything)
    copies = {name: one for (name, _), one in zip(output.columns, output.copies or (), strict=False) if one is not None}
    return Source(alias, output.everything, derived, ordered=len(derived) == len(output.columns), copies=copies)


_FROM: dict[str, Any] = {
    "RangeSubselect": Sources._from_select,
    "RangeFunction": Sources._from_function,
    "RangeTableFunc": Sources._from_xml,
    "JsonTable": Sources._from_json,
}
