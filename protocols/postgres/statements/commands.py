"""Statements that are no plain queries: COPY, EXPLAIN, transactions, settings, prepared statements, cursors, DDL, ...

One entry per statement kind; a kind that has none is unknown.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any, Protocol

import pgparse

from protocols.contract import Analysis, Cacheable, Effect
from protocols.postgres.settings import canonical, set_effect, words
from protocols.postgres.statements.definitions import DEFINITIONS, Definition
from protocols.postgres.statements.model import Change, ChangeKind, Prepared, Temporary
from protocols.postgres.statements.names import TEMP, NameSpace
from protocols.postgres.statements.nodes import FIELDS, Node, constant, strings
from protocols.postgres.statements.queries import Queries
from protocols.postgres.statements.scope import Output, Scope

_QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_KINDS = {
    "SelectStmt": "select",
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
}
# options of BEGIN and SET TRANSACTION that lift nothing
_PLAIN_TRANSACTION = frozenset({"transaction_isolation", "transaction_deferrable"})
_COPY_OPTIONS = words(
    """
    format delimiter null header quote escape force_quote force_not_null force_null default on_error log_verbosity
    reject_limit freeze
    """
)
_MAX_NESTED = 20  # EXECUTE of EXECUTE ..., EXPLAIN of EXECUTE


class SessionView(Protocol):
    """What the analysis asks about the session."""

    def prepared_tree(self, name: str) -> Prepared | None: ...

    def cursor(self, name: str) -> Analysis | None: ...

    def altered(self) -> frozenset[Effect]: ...

    @property
    def role_changed(self) -> bool: ...


class Commands(Queries):
    """One top-level statement."""

    def __init__(self, names: NameSpace, session: SessionView) -> None:
        super().__init__(names)
        self.session = session
        self.kind = ""
        self.cacheable = Cacheable.SHAPE
        self.keep_tree: Any = None
        self.nested = 0

    def statement(self, node: Node) -> None:
        """Analyses one statement; what it finds is in the attributes."""
        tag, body = next(iter(node.items()))
        if tag in _QUERIES:
            self.kind = self.kind or _KINDS[tag]
            if tag == "SelectStmt" and self._into(body):
                return
            self.query(node, None)
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

    def change(self, kind: ChangeKind, name: str | None = None, value: Any = None, local: bool = False) -> None:
        self.changes.append(Change(kind, name, value, local))

    def _only(self, body: Node, fields: str) -> None:
        if not body.keys() <= frozenset(fields.split()):
            self.unknown("a part of the statement that is not understood here")

    # ------------------------------------------------------------ SELECT INTO, CREATE TABLE AS, COPY, EXPLAIN

    def _into(self, body: Node) -> bool:
        leftmost = body
        while leftmost.get("op", "SETOP_NONE") != "SETOP_NONE":
            leftmost = leftmost["larg"]
        into = leftmost.get("intoClause")
        if into is None:
            return False
        self.kind = "select into"
        self.cacheable = Cacheable.TEXT
        output = self.query({"SelectStmt": body}, None)
        self._make_table(into, output)
        return True

    def _make_table(self, into: Node, output: Output, kind: str = "OBJECT_TABLE") -> None:
        if not into.keys() <= FIELDS["IntoClause"]:
            self.unknown("a part of the statement that is not understood here")
        self.add({Effect.DDL_CREATE}, planned=False)
        names = strings(into.get("colNames"))
        columns: tuple[str, ...] | None = None
        if output.columns is not None:
            columns = tuple(names[i] if i < len(names) else n for i, (n, _) in enumerate(output.columns))
            if len(set(columns)) != len(columns):
                columns = None
        certain = into.get("onCommit", "ONCOMMIT_NOOP") != "ONCOMMIT_DROP"
        self._made(into.get("rel", {}), columns, None, certain)

    def _made(self, relation: Node, columns: tuple[str, ...] | None, body: Analysis | None, certain: bool) -> None:
        """A relation now exists under this name."""
        name = relation.get("relname", "")
        schema = relation.get("schemaname")
        if relation.get("relpersistence") == "t" or (schema or "").startswith(TEMP):
            self.writes[f"{TEMP}.{name}"] = None
            self.change(ChangeKind.TEMP_CREATE, name, Temporary(name, columns, body, certain))
            return
        home = schema or next((s for s in self.names.path if s != "pg_catalog"), "public")
        self.writes[f"{home}.{name}"] = None
        self.change(ChangeKind.DEFINE, f"{schema}.{name}" if schema else name)

    def _create_table_as(self, body: Node) -> None:
        self._only(body, "query into objtype is_select_into if_not_exists")
        self.kind = self.kind or (
            "create materialized view" if body.get("objtype") == "OBJECT_MATVIEW" else "create table as"
        )
        query = body.get("query", {})
        if "ExecuteStmt" in query:
            self._execute(query["ExecuteStmt"])
            output = Output(None, frozenset())
        else:
            output = self.query(query, None)
        self._make_table(body.get("into", {}), output)

    def _copy(self, body: Node) -> None:
        self._only(body, "relation query attlist is_from is_program filename options whereClause")
        self.kind = "copy from" if body.get("is_from") else "copy to"
        scope = Scope()
        if body.get("is_from"):
            self.add({Effect.DATA_COPY_IN, Effect.DATA_INSERT}, planned=False)
            target = self.write(body.get("relation", {}), scope, "insert")
            for name in strings(body.get("attlist")):
                for origin in target.column(name) or target.loose_column(name):
                    self.columns[origin] = None
            if "whereClause" in body:
                self.expression(body["whereClause"], scope)
        elif "query" in body:
            self.query(body["query"], None)
        else:
            self.add({Effect.DATA_SELECT}, planned=False)
            self.read(body.get("relation", {}), scope)
            names = strings(body.get("attlist"))
            if names:
                self.expression([{"ColumnRef": {"fields": [{"String": {"sval": n}}]}} for n in names], scope)
            else:
                self.star([], scope)
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
                analyze = _boolean(element.get("arg"))
        inner = Commands(self.names, self.session)
        inner.nested = self.nested + 1
        inner.kind = ""
        if inner.nested > _MAX_NESTED:
            self.unknown("statements nested too deeply")
            return
        inner.statement(body.get("query", {}))
        inner.finish()
        self.kind = f"explain {inner.kind}" if not analyze else f"explain analyze {inner.kind}"
        self.add({Effect.SHOW}, planned=False)
        self.add(inner.effects if analyze else inner.planned)
        self.absorb(inner, changes=analyze)
        if not analyze:
            # planned only: nothing is written, and no prepared name or table comes to be
            self.writes.clear()
            if not inner.planned:
                self.functions.clear()

    def absorb(self, inner: Commands, changes: bool) -> None:
        """Takes over what another walk found, effects excepted."""
        for mine, theirs in (
            (self.reads, inner.reads),
            (self.writes, inner.writes),
            (self.columns, inner.columns),
            (self.predicates, inner.predicates),
            (self.functions, inner.functions),
        ):
            mine.update(theirs)
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
        self.finish_types()
        self.finish_secrets()

    # ------------------------------------------------------------ transactions

    def _transaction(self, body: Node) -> None:
        self._only(body, "kind options savepoint_name gid chain location")
        kind = body.get("kind", "")
        self.kind = kind.removeprefix("TRANS_STMT_").replace("_", " ").lower()
        name = body.get("savepoint_name", "")
        self.add({Effect.TX}, planned=False)
        if kind in ("TRANS_STMT_BEGIN", "TRANS_STMT_START"):
            self._transaction_options(body.get("options", ()))
            self.change(ChangeKind.BEGIN)
        elif kind == "TRANS_STMT_COMMIT":
            self.change(ChangeKind.COMMIT)
        elif kind == "TRANS_STMT_ROLLBACK":
            self.change(ChangeKind.ROLLBACK)
        elif kind == "TRANS_STMT_SAVEPOINT":
            self.change(ChangeKind.SAVEPOINT, name)
        elif kind == "TRANS_STMT_RELEASE":
            self.change(ChangeKind.RELEASE, name)
        elif kind == "TRANS_STMT_ROLLBACK_TO":
            self.change(ChangeKind.ROLLBACK_TO, name)
        elif kind == "TRANS_STMT_PREPARE":
            # its locks outlive the session
            self.add({Effect.ADMIN_LOCK}, planned=False)
            self.change(ChangeKind.COMMIT)
        elif kind in ("TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED"):
            self.add({Effect.DATA_WRITE}, planned=False)
            self.unknown("ends a transaction that was prepared elsewhere")
        else:
            self.unknown("a transaction statement that is not understood here")

    def _transaction_options(self, options: Any) -> None:
        for option in options:
            element = option.get("DefElem", {})
            name = element.get("defname", "")
            if name == "transaction_read_only":
                if not _boolean(element.get("arg")):
                    self.add({Effect.SESSION_GUARD}, planned=False)
            elif name not in _PLAIN_TRANSACTION:
                self.unknown("a transaction mode that is not understood here")

    # ------------------------------------------------------------ settings

    def _set(self, body: Node) -> None:
        self._only(body, "kind name args is_local location")
        kind, name = body.get("kind", ""), canonical(body.get("name", ""))
        local = bool(body.get("is_local"))
        self.kind = "reset" if kind.startswith("VAR_RESET") else "set"
        if kind == "VAR_SET_MULTI":
            if name in ("transaction", "session characteristics"):
                self._transaction_options(body.get("args", ()))
                self.add({Effect.SESSION_SET if name != "transaction" else Effect.TX}, planned=False)
            elif name == "transaction snapshot":
                self.add({Effect.TX}, planned=False)
            else:
                self.unknown("a SET that is not understood here")
        elif kind == "VAR_RESET_ALL":
            self.cacheable = Cacheable.NO
            self.add({Effect.SESSION_SET} | self.session.altered(), planned=False)
            self.change(ChangeKind.RESET_ALL)
        elif kind in ("VAR_SET_VALUE", "VAR_SET_DEFAULT", "VAR_SET_CURRENT", "VAR_RESET"):
            value = self._value(name, body.get("args")) if kind == "VAR_SET_VALUE" else None
            if kind == "VAR_SET_CURRENT":
                effect = Effect.SESSION_SET if set_effect(name, None) is Effect.SESSION_SET else Effect.SESSION_OTHER
            elif value is None and name in ("client_encoding", "standard_conforming_strings", "search_path"):
                # back to the value at the start of the session: harmless while it has not been changed
                self.cacheable = Cacheable.NO
                effect = set_effect(name, None)
                if name != "search_path" and effect not in self.session.altered():
                    effect = Effect.SESSION_SET
            else:
                effect = set_effect(name, value)
            self.add({effect}, planned=False)
            self.change(ChangeKind.SET, name, value, local)
        else:
            self.unknown("a SET that is not understood here")

    @staticmethod
    def _value(name: str, args: Any) -> str | None:
        """The value as text; several are a list. None where it is no constant."""
        values = []
        for arg in args or ():
            node = arg
            while "TypeCast" in node:
                node = node["TypeCast"].get("arg", {})
            found = constant(node)
            if found is None:
                return None
            quoted = name == "search_path" and len(args) >= 1
            values.append('"' + found[1].replace('"', '""') + '"' if quoted else found[1])
        return ", ".join(values)

    def _show(self, body: Node) -> None:
        self._only(body, "name")
        self.kind = "show"
        self.add({Effect.SHOW}, planned=False)

    def _discard(self, body: Node) -> None:
        self._only(body, "target")
        self.kind = "discard"
        self.cacheable = Cacheable.NO
        self.add({Effect.SESSION_SET}, planned=False)
        target = body.get("target", "DISCARD_ALL")
        if target == "DISCARD_ALL":
            self.add(self.session.altered(), planned=False)
            if self.session.role_changed:
                self.add({Effect.SESSION_ROLE}, planned=False)
            self.change(ChangeKind.DISCARD_ALL)
        elif target == "DISCARD_TEMP":
            self.change(ChangeKind.DISCARD_TEMP)

    def _constraints(self, body: Node) -> None:
        self._only(body, "constraints deferred")
        self.kind = "set constraints"
        self.add({Effect.TX}, planned=False)

    # ------------------------------------------------------------ prepared statements and cursors

    def _prepare(self, body: Node) -> None:
        self._only(body, "name argtypes query")
        for argument in body.get("argtypes", ()):
            self.expression(argument, Scope())
        inner = body.get("query", {})
        self.query(inner, None)
        self.kind = "prepare"
        self.add({Effect.PREPARE}, planned=False)
        self.change(ChangeKind.PREPARE, body.get("name", ""), inner)

    def _execute(self, body: Node) -> None:
        self._only(body, "name params")
        self.cacheable = Cacheable.NO
        name = body.get("name", "")
        self.expression(body.get("params", []), Scope())
        known = self.session.prepared_tree(name)
        self.kind = "execute"
        self.add({Effect.PREPARE}, planned=False)
        if known is None:
            self.unknown("no prepared statement of this name is known; prepare it through this session first")
            return
        self.nested += 1
        tree = known.tree
        if tree is None and known.text:
            parsed = pgparse.parse(known.text)
            tree = parsed[0].get("stmt") if len(parsed) == 1 else None
        if self.nested > _MAX_NESTED or tree is None:
            self.add(known.analysis.effects)
            self.reads.update(dict.fromkeys(known.analysis.reads))
            self.writes.update(dict.fromkeys(known.analysis.writes))
            self.columns.update(dict.fromkeys(known.analysis.columns))
            self.predicates.update(dict.fromkeys(known.analysis.predicates))
            self.functions.update(dict.fromkeys(known.analysis.functions))
            self.weaken(known.analysis.where)
            if known.analysis.why:
                self.why.append(known.analysis.why)
        else:
            # under the names in force now: the server plans it anew when search_path or a definition changed
            self.statement(tree)
            self.cacheable = Cacheable.NO
        self.kind = "execute"

    def _deallocate(self, body: Node) -> None:
        self._only(body, "name isall location")
        self.kind = "deallocate"
        self.add({Effect.PREPARE}, planned=False)
        self.change(ChangeKind.DEALLOCATE, body.get("name"))

    def _declare(self, body: Node) -> None:
        self._only(body, "portalname options query")
        self.query(body.get("query", {}), None)
        self.kind = "declare cursor"
        self.add({Effect.CURSOR}, planned=False)
        hold = bool(int(body.get("options", 0)) & 0x20)  # CURSOR_OPT_HOLD
        self.change(ChangeKind.DECLARE, body.get("portalname", ""), hold)

    def _fetch(self, body: Node) -> None:
        self._only(body, "direction howMany portalname ismove direction_keyword location")
        self.cacheable = Cacheable.NO
        self.kind = "move" if body.get("ismove") else "fetch"
        self.add({Effect.CURSOR}, planned=False)
        known = self.session.cursor(body.get("portalname", ""))
        if known is None:
            self.unknown("no cursor of this name is known; declare it through this session first")
            return
        self.add(known.effects - {Effect.PREPARE})
        self.reads.update(dict.fromkeys(known.reads))
        self.writes.update(dict.fromkeys(known.writes))
        self.columns.update(dict.fromkeys(known.columns))
        self.predicates.update(dict.fromkeys(known.predicates))
        self.functions.update(dict.fromkeys(known.functions))
        if known.why:
            self.why.append(known.why)

    def _close(self, body: Node) -> None:
        self._only(body, "portalname")
        self.kind = "close"
        self.add({Effect.CURSOR}, planned=False)
        self.change(ChangeKind.CLOSE, body.get("portalname"))

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
            self.write(relation.get("RangeVar", {}), Scope(), "delete")
        if body.get("behavior") == "DROP_CASCADE":
            self.unknown("TRUNCATE CASCADE empties every table that refers to these")

    # ------------------------------------------------------------ definitions

    def _define(self, tag: str, body: Node, definition: Definition) -> None:
        """DDL and administration: the effects of the table, the names it touches, the code that it carries."""
        self.kind = definition.kind(body)
        self.add(definition.effects(body), planned=False)
        self.cacheable = Cacheable.TEXT
        for relation in definition.relations(body):
            schema, name = relation.get("schemaname"), relation.get("relname", "")
            if (schema or "").startswith(TEMP) or relation.get("relpersistence") == "t":
                self.writes[f"{TEMP}.{name}"] = None
                continue
            for target in self.names.relations(schema, name):
                self.writes[target.qualified] = None
        self._loose(body)
        self._definition_changes(tag, body, definition)

    def _loose(self, root: Node) -> None:
        """Everything inside a definition that may run or be read: queries, function calls, types, relations.

        A definition has its own effect already: here nodes that are not understood are only searched.
        """
        stack: list[Any] = [root]
        scope = Scope()
        while stack:
            item = stack.pop()
            if isinstance(item, list):
                stack.extend(item)
            elif isinstance(item, dict):
                for key, value in item.items():
                    if key in _QUERIES and isinstance(value, dict):
                        self.query({key: value}, scope)
                    elif key == "FuncCall" and isinstance(value, dict):
                        names = strings(value.get("funcname"))
                        args = value.get("args", [])
                        for function in self.names.functions(names[-2:]):
                            if function.effects and function.takes(len(args)):
                                self.call(function)
                        stack.append(value)
                    elif isinstance(value, (dict, list)):
                        stack.append(value)

    def _definition_changes(self, tag: str, body: Node, definition: Definition) -> None:
        if tag == "CreateStmt" and (relation := body.get("relation")) is not None:
            columns = [c["ColumnDef"].get("colname", "") for c in body.get("tableElts", ()) if "ColumnDef" in c]
            plain = all("ColumnDef" in c or "Constraint" in c for c in body.get("tableElts", ()))
            plain = plain and "inhRelations" not in body and "ofTypename" not in body
            certain = body.get("oncommit", "ONCOMMIT_NOOP") != "ONCOMMIT_DROP"
            self._made(relation, tuple(columns) if plain else None, None, certain)
            return
        if tag == "ViewStmt" and (view := body.get("view")) is not None:
            inner = Commands(self.names, self.session)
            inner.query(body.get("query", {}), None)
            inner.finish()
            self._made(view, None, inner.analysis(""), True)
            return
        names = definition.touches(body)
        if names is None:
            self.change(ChangeKind.DEFINE)
            return
        for schema, name in names:
            if (schema or "").startswith(TEMP):
                self.change(ChangeKind.TEMP_DROP, name)
            else:
                self.change(ChangeKind.DEFINE, f"{schema}.{name}" if schema else name)
                self.change(ChangeKind.TEMP_DROP, name)

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
        )


def _boolean(node: Node | None) -> bool:
    """A boolean option as defGetBoolean reads it; without a value it is true. What cannot be read counts as true."""
    if not node:
        return True
    while "TypeCast" in node:
        node = node["TypeCast"].get("arg", {})
    found = constant(node)
    if found is not None:
        text = found[1].lower()
    elif "Integer" in node:
        text = str(node["Integer"].get("ival", 0))
    elif "Boolean" in node:
        text = "true" if node["Boolean"].get("boolval") else "false"
    else:
        text = node.get("String", {}).get("sval", "true").lower()
    return text not in ("false", "off", "0")


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
