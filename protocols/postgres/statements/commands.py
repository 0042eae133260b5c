"""Statements that are no plain queries: COPY, EXPLAIN, code, locks; the entry for every kind.

One entry per statement kind; a kind that has none is unknown.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any

from protocols.contract import ANYWHERE, Analysis, Cacheable, Effect
from protocols.postgres.settings import words
from protocols.postgres.statements.defining import QUERIES, Defining
from protocols.postgres.statements.definitions import DEFINITIONS
from protocols.postgres.statements.model import ChangeKind
from protocols.postgres.statements.nodes import FIELDS, Node, strings
from protocols.postgres.statements.scope import NOTHING, Origins, Output, Scope
from protocols.postgres.statements.session_commands import MAX_NESTED, boolean
from protocols.postgres.statements.stores import without_clear

_KINDS = {
    "SelectStmt": "select",
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
}
_COPY_OPTIONS = words(
    """
    format delimiter null header quote escape force_quote force_not_null force_null default on_error log_verbosity
    reject_limit freeze
    """
)


class Commands(Defining):
    """One top-level statement."""

    output: Output | None = None  # of a query

    def statement(self, node: Node) -> None:
        """Analyses one statement; what it finds is in the attributes."""
        tag, body = next(iter(node.items()))
        if tag in QUERIES:
            self.kind = self.kind or _KINDS[tag]
            if tag == "SelectStmt":
                if self._into(body):
                    return
                self.storing = "withClause" in body
            self.output = self.query(node, None)
            return
        self.cacheable = Cacheable.TEXT
        handler = _HANDLERS.get(tag)
        if handler is not None:
            handler(self, body)
            return
        definition = DEFINITIONS.get(tag)
        if definition is None:
            self.kind = self.kind or tag.removesuffix("Stmt").lower()
            self.unknown(f"`{tag}` is not a statement that is understood here")
            return
        self._define(tag, body, definition)

    # ------------------------------------------------------------ SELECT INTO, CREATE TABLE AS, COPY, EXPLAIN

    def _into(self, body: Node) -> bool:
        leftmost = body
        while leftmost.get("op", "SETOP_NONE") != "SETOP_NONE":
            leftmost = leftmost["larg"]
        into = leftmost.get("intoClause")
        if into is None:
            return False
        self.kind = "select into"
        self._makes = leftmost
        self.cacheable = Cacheable.TEXT
        output = without_clear(self.query({"SelectStmt": body}, None), body, self.names.is_table)
        self._make_table(into, output)
        return True

    def _make_table(self, into: Node, output: Output, *, maybe: bool = False) -> None:
        """`maybe`: only where there is none of that name."""
        if not into.keys() <= FIELDS["IntoClause"]:
            self.unknown("a part of the statement that is not understood here")
        self.add({Effect.DDL_CREATE}, planned=False)
        names = strings(into.get("colNames"))
        columns: tuple[str, ...] | None = None
        if output.columns is not None:
            columns = tuple(names[i] if i < len(names) else n for i, (n, _) in enumerate(output.columns))
            if len(set(columns)) != len(columns):
                columns = None
        relation = into.get("rel", {})
        self._made(relation, columns, ends=into.get("onCommit") == "ONCOMMIT_DROP", maybe=maybe)
        if not self.is_temporary(relation):
            self.made_table(self.home(relation), relation.get("relname", ""), columns, output)

    def _create_table_as(self, body: Node) -> None:
        self._only(body, "query into objtype is_select_into if_not_exists")
        self.kind = self.kind or (
            "create materialized view" if body.get("objtype") == "OBJECT_MATVIEW" else "create table as"
        )
        query = body.get("query", {})
        if "ExecuteStmt" in query:
            self.output = None
            self._execute(query["ExecuteStmt"])
            read = frozenset(f"{name}.*" for name in self.reads)
            output = Output(None, read if self.output is None else read | self.output.everything)
        else:
            output = without_clear(self.query(query, None), query.get("SelectStmt", {}), self.names.is_table)
        self._make_table(body.get("into", {}), output, maybe=bool(body.get("if_not_exists")))

    def _copy(self, body: Node) -> None:
        self._only(body, "relation query attlist is_from is_program filename options whereClause")
        self.kind = "copy from" if body.get("is_from") else "copy to"
        scope = Scope()
        origins: Origins = NOTHING
        if body.get("is_from"):
            self.add({Effect.DATA_COPY_IN, Effect.DATA_INSERT}, planned=False)
            target = self.write(body.get("relation", {}), scope, "insert")
            for name in strings(body.get("attlist")):
                for origin in target.column(name) or target.loose_column(name):
                    self.columns[origin] = None
            if "whereClause" in body:
                self.expression(body["whereClause"], scope)
        elif "query" in body:
            origins = self.query(body["query"], None).everything
        else:
            self.add({Effect.DATA_SELECT}, planned=False)
            self.read(body.get("relation", {}), scope)
            names = strings(body.get("attlist"))
            if names:
                named = [{"ColumnRef": {"fields": [{"String": {"sval": n}}]}} for n in names]
                origins = self.expression(named, scope)
            else:
                origins = self.star([], scope)
        if body.get("is_program") or "filename" in body:
            self.store(ANYWHERE, origins)
        if body.get("is_program"):
            self.add({Effect.EXEC_PROGRAM})
        elif "filename" in body:
            self.add({Effect.FILE_READ if body.get("is_from") else Effect.FILE_WRITE})
        elif not body.get("is_from"):
            self.add({Effect.DATA_COPY_OUT}, planned=False)
        for option in body.get("options", ()):
            self._copy_option(option.get("DefElem", {}))

    def _copy_option(self, option: Node) -> None:
        name = option.get("defname", "")
        if name in _COPY_OPTIONS:
            return
        text = option.get("arg", {}).get("String", {}).get("sval", "")
        if name == "encoding" and "".join(c for c in text.lower() if c.isalnum()) in ("utf8", "unicode"):
            return
        self.unknown(f"COPY option `{name[:40]}` is not understood here")

    def _explain(self, body: Node) -> None:
        self._only(body, "query options")
        analyze = False
        for option in body.get("options", ()):
            element = option.get("DefElem", {})
            if element.get("defname") == "analyze":  # the last one wins
                analyze = boolean(element.get("arg"))
        inner = Commands(self.names, self.session, self.budget)
        inner.nested = self.nested + 1
        inner.kind = ""
        if inner.nested > MAX_NESTED:
            self.unknown("statements nested too deeply")
            return
        inner.statement(body.get("query", {}))
        inner.finish()
        self.kind = f"explain {inner.kind}" if not analyze else f"explain analyze {inner.kind}"
        self.add({Effect.SHOW}, planned=False)
        self.add(inner.effects if analyze else inner.planned)
        self.absorb(inner, changes=analyze)
        if analyze:
            # the query of a DECLARE is run, and no cursor is made: one of that name is another's
            self.changes = [change for change in self.changes if change.kind is not ChangeKind.DECLARE]
            self.filter(inner.columns)  # what sorting, keeping and sending the values took is told: their sizes
        else:
            # planned only: nothing is written, and no prepared name or table comes to be
            self.writes.clear()
            self.stores.clear()
            if not inner.planned:
                self.functions.clear()

    def absorb(self, inner: Any, changes: bool) -> None:
        """Takes over what another walk found, effects excepted."""
        self.budget.spend(sum(map(len, (inner.reads, inner.columns, inner.predicates, inner.stores))))
        self.behind.update(inner.behind)
        self.blind, self.opaque = self.blind or inner.blind, self.opaque or inner.opaque
        self.opened += inner.opened
        self.resolves |= inner.resolves
        for mine, theirs in (
            (self.reads, inner.reads),
            (self.writes, inner.writes),
            (self.columns, inner.columns),
            (self.predicates, inner.predicates),
            (self.functions, inner.functions),
        ):
            mine.update(theirs)
        self.stores.update(inner.stores)
        self.direct |= inner.direct
        self.why.extend(w for w in inner.why if w not in self.why)
        self.weaken(inner.where)
        self.read_constant = self.read_constant or inner.read_constant
        self.named = self.named or inner.named
        if inner.cacheable is Cacheable.NO:
            self.cacheable = Cacheable.NO
        if changes:
            self.changes.extend(inner.changes)

    def finish(self) -> None:
        """What can only be said when the whole statement has been walked."""
        self.finish_stores()
        self.finish_types()
        self.finish_trace()
        self.finish_secrets()

    # ------------------------------------------------------------ code, notifications, locks

    def _do(self, body: Node) -> None:
        self.kind = "do"
        self.add({Effect.EXEC_DYNAMIC})
        self.change(ChangeKind.OPAQUE)

    def _call(self, body: Node) -> None:
        self._only(body, "funccall")
        self.kind = "call"
        call = body.get("funccall", {})
        self.expression(call.get("args", []), Scope())
        names = strings(call.get("funcname"))
        self.add({Effect.EXEC_PROCEDURE})
        overloads = self.names.functions(names[-2:])
        self.functions[overloads[0].qualified if overloads else ".".join(names)] = None
        if not overloads:
            self.unknown(f"procedure `{'.'.join(names)}` does not exist in the catalog snapshot")
        self.change(ChangeKind.OPAQUE)

    def _notify(self, body: Node) -> None:
        self.kind = "notify"
        self.add({Effect.EXFIL_NOTIFY}, planned=False)

    def _listen(self, body: Node) -> None:
        self.kind = "listen"
        self.add({Effect.LISTEN}, planned=False)

    def _unlisten(self, body: Node) -> None:
        self.kind = "unlisten"
        self.add({Effect.SESSION_SET}, planned=False)

    def _lock(self, body: Node) -> None:
        self._only(body, "relations mode nowait")
        self.kind = "lock table"
        self.add({Effect.ADMIN_LOCK}, planned=False)
        for relation in body.get("relations", ()):
            for target in self.names.relations(
                relation.get("RangeVar", {}).get("schemaname"), relation.get("RangeVar", {}).get("relname", "")
            ):
                self.writes[target.qualified] = None

    def _truncate(self, body: Node) -> None:
        self._only(body, "relations restart_seqs behavior")
        self.kind = "truncate"
        self.add({Effect.DATA_TRUNCATE}, planned=False)
        for relation in body.get("relations", ()):
            self.write(relation.get("RangeVar", {}), Scope(), "truncate")
        if body.get("behavior") == "DROP_CASCADE":
            self.unknown("TRUNCATE CASCADE empties every table that refers to these")

    # ------------------------------------------------------------ what was found

    def analysis(self, shape: str) -> Analysis:
        """What was found, as the common vocabulary has it."""
        cacheable = self.cacheable
        if cacheable is Cacheable.SHAPE and (self.read_constant or self.changes):
            cacheable = Cacheable.TEXT
        return Analysis(
            kind=self.kind,
            effects=frozenset(self.effects),
            reads=tuple(self.reads),
            writes=tuple(self.writes),
            columns=tuple(self.columns),
            predicates=tuple(self.predicates),
            functions=tuple(self.functions),
            where=self.where,
            why="; ".join(self.why),
            shape=shape,
            cacheable=cacheable,
            stores=tuple(self.stores),
            redefines=tuple(self.redefines),
            resolves=self.resolves,
        )


_HANDLERS: dict[str, Any] = {
    "CallStmt": Commands._call,
    "ClosePortalStmt": Commands._close,
    "ConstraintsSetStmt": Commands._constraints,
    "CopyStmt": Commands._copy,
    "CreateTableAsStmt": Commands._create_table_as,
    "DeallocateStmt": Commands._deallocate,
    "DeclareCursorStmt": Commands._declare,
    "DiscardStmt": Commands._discard,
    "DoStmt": Commands._do,
    "ExecuteStmt": Commands._execute,
    "ExplainStmt": Commands._explain,
    "FetchStmt": Commands._fetch,
    "ListenStmt": Commands._listen,
    "LockStmt": Commands._lock,
    "NotifyStmt": Commands._notify,
    "PrepareStmt": Commands._prepare,
    "TransactionStmt": Commands._transaction,
    "TruncateStmt": Commands._truncate,
    "UnlistenStmt": Commands._unlisten,
    "VariableSetStmt": Commands._set,
    "VariableShowStmt": Commands._show,
}
