"""Queries: SELECT, VALUES, set operations, common table expressions, and everything that may stand in FROM.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from protocols.contract import Effect
from protocols.postgres.functions import SECRET_COLUMNS, SECRET_NAMES
from protocols.postgres.statements.expressions import OPENS, Expressions
from protocols.postgres.statements.names import Target
from protocols.postgres.statements.nodes import FIELDS, Node, constant, figure_name, strings
from protocols.postgres.statements.scope import NOTHING, Copied, Origins, Output, Scope, Source, union
from protocols.postgres.statements.text import MAX_WORK

MAX_SOURCES = 5000  # items of one FROM
MAX_NATURAL = 20  # tables of one natural join whose columns are compared; past it every column counts as compared
_SAMPLE_METHODS = frozenset({"system", "bernoulli", "system_rows", "system_time"})
_COERCED = frozenset({"whereClause", "havingClause", "limitCount", "limitOffset", "valuesLists"})
_SETTING_NAME = frozenset({"pg_catalog.pg_settings.name"})
EMPTY = Output([], NOTHING)
_AHEAD = Output(None, NOTHING)  # of a common table expression that was not walked yet
MAX_TARGETS = 1664  # columns of one select list; the server refuses more (MaxTupleAttributeNumber)
MAX_TURNS = 8  # of a recursive query, until its columns depend on no more than before


class Queries(Expressions):
    """Adds the queries to the walk of expressions."""

    _register: Callable[[Output], None] | None = None  # for the next SELECT: told its output after each branch
    _makes: Node | None = None  # the branch whose INTO the server accepts
    storing = True  # the rows of a query may be stored: whether a column is a copy matters

    # ------------------------------------------------------------ SELECT

    def select(self, body: Node, outer: Scope | None) -> Output:
        """A SELECT or VALUES, with all branches of its set operations."""
        self.add({Effect.DATA_SELECT}, planned=False)
        register, self._register = self._register, None
        setting, self.setting = self.setting, ""  # further inside `name` may be something else
        results: list[Output] = []
        tails: list[tuple[Node, Scope]] = []
        stack: list[tuple[Node, Scope | None]] = [(body, outer)]
        while stack:
            current, around = stack.pop()
            if not current.keys() <= FIELDS["SelectStmt"]:
                self.unknown("a part of a SELECT that is not understood here")
            around = self.with_clause(current, around)
            if current.get("op", "SETOP_NONE") != "SETOP_NONE":
                stack.append((current["rarg"], around))
                stack.append((current["larg"], around))
                tails.append((current, Scope(around)))
            else:
                results.append(self._branch(current, around))
                if register is not None:
                    self.budget.spend(len(results) * (1 + len(results[0].columns or ())))
                    register(_merge(results))
        output = results[0] if len(results) == 1 else _merge(results)
        if tails or not body.keys().isdisjoint(_COERCED):
            self.combines = True
        if any(not current.get("all") or current["op"] != "SETOP_UNION" for current, _ in tails):
            # equal rows become one, or meet equal rows of the other side: those that are left tell which are equal
            self.filter(output.everything)
        for current, scope in tails:
            self._tail(current, scope, output)
        self.setting = setting
        return output

    def _branch(self, body: Node, around: Scope | None) -> Output:
        scope = Scope(around)
        if "intoClause" in body and body is not self._makes:
            self.unknown("SELECT INTO inside another statement")
        if "valuesLists" in body:
            rows = [row.get("List", {}).get("items", []) for row in body["valuesLists"]]
            width = len(rows[0]) if rows else 0
            columns = [set[str]() for _ in range(width)]
            for row in rows:
                for index, item in enumerate(row):
                    origins = self.value(item, scope)
                    if index < width:
                        columns[index] |= origins
            named = [(f"column{i + 1}", frozenset(c)) for i, c in enumerate(columns)]
            output = Output(named, union(o for _, o in named))
            self._tail(body, scope, output)
            return output
        self.from_clause(body.get("fromClause", ()), scope)
        if "whereClause" in body:
            self.filter(self.expression(body["whereClause"], scope))
        self.setting = _one_setting(body, scope)
        output = self.targets(body.get("targetList", ()), scope)
        self.setting = ""
        for item in body.get("distinctClause", ()):
            if item:
                self._keys([item], scope, output)
            else:
                self.filter(output.everything)
        if "groupClause" in body:
            self._keys(body["groupClause"], scope, output)
        if "havingClause" in body:
            self.filter(self.expression(body["havingClause"], scope))
        for window in body.get("windowClause", ()):
            self.filter(self.expression(window, scope))  # the bounds of its frame, too
        self._tail(body, scope, output)
        return output

    def _tail(self, body: Node, scope: Scope, output: Output) -> None:
        if "sortClause" in body:
            self._keys([k.get("SortBy", {}).get("node", {}) for k in body["sortClause"]], scope, output)
            self.expression([{"SortBy": {k: v for k, v in key.get("SortBy", {}).items() if k != "node"}}
                             for key in body["sortClause"]], scope)  # fmt: skip
        for part in ("limitCount", "limitOffset"):
            if part in body:
                self.filter(self.expression(body[part], scope))
        if "lockingClause" in body:
            # FOR UPDATE and its kin mark rows: others wait, and the server counts it as a write
            self.add({Effect.ADMIN_LOCK}, planned=False)
            for clause in body["lockingClause"]:
                if not clause.get("LockingClause", {}).keys() <= FIELDS["LockingClause"]:
                    self.unknown("a locking clause that is not understood here")

    def _keys(self, keys: list[Node], scope: Scope, output: Output) -> None:
        """ORDER BY, GROUP BY and DISTINCT ON: expressions, or the names or numbers of output columns."""
        for key in keys:
            number = constant(key)
            if number is not None and number[0] == "i":
                self.read_constant = True
                index = int(number[1]) - 1
                if output.columns is not None and 0 <= index < len(output.columns):
                    self.filter(output.columns[index][1])
                else:
                    self.filter(output.everything)
            else:
                self.filter(self.expression(key, scope, output))

    def targets(self, nodes: Any, scope: Scope) -> Output:
        """A select list or RETURNING list."""
        columns: list[tuple[str, Origins]] | None = []
        copies: list[Copied | None] = []
        everything: set[str] = set()
        for node in nodes:
            body = node.get("ResTarget")
            if body is None or not body.keys() <= FIELDS["ResTarget"]:
                self.unknown("a select list that is not understood here")
                continue
            value = body.get("val", {})
            parts = value.get("ColumnRef", {}).get("fields") if "ColumnRef" in value else None
            if parts and "A_Star" in parts[-1]:
                names = strings(parts)
                everything |= self.star(names, scope)
                if scope.merged and not names:
                    columns = None
                sources = scope.sources if not names else [s for s in (scope.source(names[-1]),) if s is not None]
                if columns is not None:
                    for source in sources:
                        known = source.names
                        if known is None or len(columns) > MAX_TARGETS:
                            columns = None
                            break
                        self.budget.spend(len(known))
                        columns.extend((n, source.column(n) or NOTHING) for n in known)
                        if self.storing:
                            copies.extend(source.copied(n) for n in known)
                continue
            origins = self.value(value, scope)
            everything |= origins
            if "A_Indirection" in value and any("A_Star" in i for i in value["A_Indirection"].get("indirection", ())):
                columns = None
            if columns is not None:
                columns.append((body.get("name") or figure_name(value), origins))
                if self.storing:
                    copies.append(copied_column(value, scope))
        return Output(columns, frozenset(everything), tuple(copies) if columns is not None and self.storing else None)

    def with_clause(self, body: Node, around: Scope | None) -> Scope | None:
        """A scope that holds the common table expressions of a statement, or the one given."""
        clause = body.get("withClause")
        if clause is None:
            return around
        scope = Scope(around)
        ctes = [c.get("CommonTableExpr", {}) for c in clause.get("ctes", ())]
        if clause.get("recursive"):
            # each may use the others, itself included; what a self-reference carries, its first branch carries, too
            for cte in ctes:
                scope.ctes[cte.get("ctename", "")] = _AHEAD
        for cte in ctes:
            if not cte.keys() <= FIELDS["CommonTableExpr"]:
                self.unknown("a common table expression that is not understood here")
            name, aliases = cte.get("ctename", ""), strings(cte.get("aliascolnames"))
            query = cte.get("ctequery", {})
            recursive = clause.get("recursive") and query.get("SelectStmt", {}).get("op", "SETOP_NONE") != "SETOP_NONE"
            if recursive:
                self._register = functools.partial(self._so_far, scope, name, aliases)
            output = _rename(self.query(query, scope), aliases)
            self._register = None
            if recursive:
                output = self._settled(scope, name, aliases, query, output)
            if "search_clause" in cte or "cycle_clause" in cte:
                output = Output(None, output.everything)
                if "cycle_clause" in cte:
                    self.expression(("CTECycleClause", cte["cycle_clause"]), scope)
            scope.ctes[name] = output
        return scope

    def _settled(self, scope: Scope, name: str, aliases: list[str], query: Node, output: Output) -> Output:
        """The output of a recursive query: each turn may carry a value one column further."""
        for _ in range(MAX_TURNS):
            self.budget.spend(MAX_WORK // 1000)
            scope.ctes[name] = output
            again = _rename(self.query(query, scope), aliases)
            if again == output:
                return output
            output = again
        return Output(None, output.everything)

    @staticmethod
    def _so_far(scope: Scope, name: str, aliases: list[str], output: Output) -> None:
        """What a recursive term sees of its own table: the branches before it."""
        scope.ctes[name] = _rename(output, aliases)

    # ------------------------------------------------------------ FROM

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
        return _derived(alias.get("aliasname", ""), _rename(output, strings(alias.get("colnames"))))

    def read(self, body: Node, scope: Scope) -> None:
        """A relation, or a common table expression, named in FROM."""
        alias = body.get("alias", {})
        name = body.get("relname", "")
        shown = alias.get("aliasname") or name
        renames = strings(alias.get("colnames"))
        if "schemaname" not in body:
            cte = scope.cte(name)
            if cte is not None:
                self.blind = self.blind or cte is _AHEAD
                scope.sources.append(_derived(shown, _rename(cte, renames)))
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
                source = _derived(shown, _rename(Output(pairs, everything, copies), renames))
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
                self.reads.update(dict.fromkeys(target.temporary.sources))
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
        scope.sources.append(_derived(alias.get("aliasname", ""), _rename(output, strings(alias.get("colnames")))))

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


def _one_setting(body: Node, scope: Scope) -> str:
    """The name in `SELECT ... FROM pg_settings WHERE name = '...'`, of a query that is no more than that; else empty.

    pg_dump sets by it what older servers do not have.
    """
    if body.keys() - {"targetList", "fromClause", "whereClause", "limitOption", "op"} or len(scope.sources) != 1:
        return ""
    where = body.get("whereClause", {}).get("A_Expr", {})
    value = constant(where.get("rexpr"))
    plain = where.get("kind") == "AEXPR_OP" and strings(where.get("name")) == ["="]
    column = strings(where.get("lexpr", {}).get("ColumnRef", {}).get("fields"))
    if not plain or column != ["name"] or value is None or value[0] != "s":
        return ""
    return value[1] if scope.sources[0].column("name") == _SETTING_NAME else ""


def _merge(results: list[Output]) -> Output:
    """The result of a set operation: names of the first branch, origins of all."""
    everything = union(r.everything for r in results)
    first = results[0].columns
    if first is None or any(r.columns is None or len(r.columns) != len(first) for r in results):
        return Output(None, everything)
    columns = [
        (name, union(r.columns[i][1] for r in results if r.columns is not None)) for i, (name, _) in enumerate(first)
    ]
    return Output(columns, everything)


def _rename(output: Output, names: list[str]) -> Output:
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


def copied_column(value: Node, scope: Scope) -> Copied | None:
    """The stored column that an expression is, and nothing else; None where that is not sure."""
    names = strings(value["ColumnRef"].get("fields")) if "ColumnRef" in value else []
    if len(names) == 2:
        source = scope.source(names[0])
        return source.copied(names[1]) if source is not None else None
    at: Scope | None = scope if len(names) == 1 else None
    while at is not None:
        having = [s for s in at.sources if s.names is None or s.column(names[0]) is not None]
        if having:
            return having[0].copied(names[0]) if len(having) == 1 else None
        at = at.parent
    return None


_FROM: dict[str, Any] = {
    "RangeSubselect": Queries._from_select,
    "RangeFunction": Queries._from_function,
    "RangeTableFunc": Queries._from_xml,
    "JsonTable": Queries._from_json,
}
