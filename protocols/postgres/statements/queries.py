"""Queries: SELECT, VALUES, set operations and common table expressions.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from protocols.contract import Effect
from protocols.postgres.statements.nodes import FIELDS, Node, constant, figure_name, strings
from protocols.postgres.statements.scope import NOTHING, Copied, Origins, Output, Scope, union
from protocols.postgres.statements.sources import AHEAD, Sources, rename
from protocols.postgres.statements.text import MAX_WORK

_COERCED = frozenset({"whereClause", "havingClause", "limitCount", "limitOffset", "valuesLists"})
_SETTING_NAME = frozenset({"pg_catalog.pg_settings.name"})
_LISTS = {"GroupingSet": "content", "RowExpr": "args"}  # what GROUP BY reads for keys of its own
EMPTY = Output([], NOTHING)
MAX_TARGETS = 1664  # columns of one select list; the server refuses more (MaxTupleAttributeNumber)
MAX_TURNS = 8  # of a recursive query, until its columns depend on no more than before


class Queries(Sources):
    """Adds the queries to the walk of expressions."""

    _register: Callable[[Output], None] | None = None  # for the next SELECT: told its output after each branch
    _settling = False  # a recursive query is walked again
    _makes: Node | None = None  # the branch whose INTO the server accepts

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
                self._keys(_numbers(key), scope, output)

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
        around_it, self.ahead = self.ahead, False
        if clause.get("recursive"):
            # each may use the others, itself included; what a self-reference carries, its first branch carries, too
            for cte in ctes:
                scope.ctes[cte.get("ctename", "")] = AHEAD
        self._expressions(clause, ctes, scope)
        if self.ahead:
            self._in_any_order(clause, ctes, scope)
        self.ahead = self.ahead or around_it  # it may have been one of a clause around this one
        return scope

    def _in_any_order(self, clause: Node, ctes: list[Node], scope: Scope) -> None:
        """One uses another that stands behind it: all are walked again until each has seen all of what it uses."""
        for _ in range(MAX_TURNS):
            if self.budget.turns == 0:
                break
            self.budget.turns -= 1
            self.budget.spend(MAX_WORK // 1000)
            before = dict(scope.ctes)
            self._expressions(clause, ctes, scope)
            if scope.ctes == before:
                return
        self.unknown("common table expressions that use those behind them")

    def _expressions(self, clause: Node, ctes: list[Node], scope: Scope) -> None:
        for cte in ctes:
            if not cte.keys() <= FIELDS["CommonTableExpr"]:
                self.unknown("a common table expression that is not understood here")
            name, aliases = cte.get("ctename", ""), strings(cte.get("aliascolnames"))
            query = cte.get("ctequery", {})
            recursive = clause.get("recursive") and query.get("SelectStmt", {}).get("op", "SETOP_NONE") != "SETOP_NONE"
            if recursive:
                self._register = functools.partial(self._so_far, scope, name, aliases)
            output = rename(self.query(query, scope), aliases)
            self._register = None
            if recursive:
                output = self._settled(scope, name, aliases, query, output)
            if "search_clause" in cte or "cycle_clause" in cte:
                output = Output(None, output.everything)
                if "cycle_clause" in cte:
                    self.expression(("CTECycleClause", cte["cycle_clause"]), scope)
                    self.filter(output.everything)  # it ends where a value comes again: how many rows there are tells
            scope.ctes[name] = output

    def _settled(self, scope: Scope, name: str, aliases: list[str], query: Node, output: Output) -> Output:
        """The output of a recursive query: each turn may carry a value one column further."""
        if self._settling:  # turns within turns would multiply at each level
            self.filter(output.everything)
            return Output(None, output.everything)
        self._settling = True
        for _ in range(MAX_TURNS):
            if self.budget.turns == 0:
                self.filter(output.everything)
                break
            self.budget.turns -= 1
            self.budget.spend(MAX_WORK // 1000)
            scope.ctes[name] = output
            again = rename(self.query(query, scope), aliases)
            if again == output:
                self._settling = False
                return output
            output = again
        self._settling = False
        return Output(None, output.everything)

    def _so_far(self, scope: Scope, name: str, aliases: list[str], output: Output) -> None:
        """What a recursive term sees of its own table: the branches before it."""
        scope.ctes[name] = Output(None, output.everything) if self._settling else rename(output, aliases)


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


def _numbers(key: Node) -> list[Node]:
    """The numbers of output columns inside grouping sets, and inside rows, which GROUP BY takes for lists."""
    found: list[Node] = []
    waiting = [key]
    while waiting:
        node = waiting.pop()
        parts = [part for tag, name in _LISTS.items() if tag in node for part in node[tag].get(name, ())]
        found += [part for part in parts if constant(part) is not None]
        waiting += [part for part in parts if not _LISTS.keys().isdisjoint(part)]
    return found


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
