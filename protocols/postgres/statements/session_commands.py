"""Statements about the session itself: transactions, settings, prepared statements, cursors.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any, Protocol

import pgparse

from protocols.contract import Analysis, Cacheable, Effect
from protocols.postgres.settings import READ_ONLY, TRANSACTIONS, canonical, set_effect
from protocols.postgres.statements.model import Change, ChangeKind, Prepared, Source
from protocols.postgres.statements.names import NameSpace
from protocols.postgres.statements.nodes import Node, constant
from protocols.postgres.statements.scope import Scope
from protocols.postgres.statements.text import Budget
from protocols.postgres.statements.writes import Writes

# options of BEGIN and SET TRANSACTION that lift nothing
_PLAIN_TRANSACTION = frozenset({"transaction_isolation", "transaction_deferrable"})
NO_PREPARED = "no prepared statement of this name is known; prepare it through this session first"
NO_CURSOR = "no cursor of this name is known; declare it through this session first"
MAX_NESTED = 20  # EXECUTE of EXECUTE ..., EXPLAIN of EXECUTE


type Plan = tuple[Prepared, NameSpace, Any]  # what was walked, under which names, and the walk
MAX_PLANS = 16


class SessionView(Protocol):
    """What the analysis asks about the session."""

    plans: dict[str, Plan]  # of prepared names that were walked lately

    def prepared_source(self, name: str) -> Prepared | None: ...

    def cursor(self, name: str) -> Analysis | None: ...

    def cursor_text(self, name: str) -> str: ...

    def altered(self) -> frozenset[Effect]: ...

    @property
    def role_changed(self) -> bool: ...

    @property
    def path_emptied(self) -> bool: ...

    @property
    def writable(self) -> bool: ...


class SessionCommands(Writes):
    """Adds what changes the session."""

    def __init__(self, names: NameSpace, session: SessionView, budget: Budget | None = None) -> None:
        super().__init__(names, budget)
        self.session = session
        self.kind = ""
        self.cacheable = Cacheable.SHAPE
        self.behind: dict[str, None] = {}  # messages that made what is only named here
        self.nested = 0

    def statement(self, node: Node) -> None:
        raise NotImplementedError

    def absorb(self, inner: Any, changes: bool) -> None:
        raise NotImplementedError

    def change(self, kind: ChangeKind, name: str | None = None, value: Any = None, local: bool = False) -> None:
        self.changes.append(Change(kind, name, value, local))

    def _only(self, body: Node, fields: str) -> None:
        if not body.keys() <= frozenset(fields.split()):
            self.unknown("a part of the statement that is not understood here")

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
            self.change(ChangeKind.COMMIT, value=bool(body.get("chain")))
        elif kind == "TRANS_STMT_ROLLBACK":
            self.change(ChangeKind.ROLLBACK, value=bool(body.get("chain")))
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

    def _transaction_options(self, options: Any, characteristics: bool = False) -> None:
        """Of one transaction, or of those to come (`characteristics`)."""
        for option in options:
            element = option.get("DefElem", {})
            name = element.get("defname", "")
            if name == "transaction_read_only":
                if not boolean(element.get("arg")) and not self.session.writable:
                    self.add({Effect.SESSION_GUARD}, planned=False)
                if characteristics:
                    self.change(ChangeKind.SET, READ_ONLY)
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
                self._transaction_options(body.get("args", ()), name != "transaction")
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
                if effect not in self.session.altered() and (name != "search_path" or self.session.path_emptied):
                    effect = Effect.SESSION_SET
            elif name in TRANSACTIONS and self.session.writable and (value is not None or kind != "VAR_SET_VALUE"):
                effect = Effect.SESSION_SET  # it takes back what the session itself has set
            else:
                effect = set_effect(name, value)
            self.add({effect}, planned=False)
            resets = kind in ("VAR_SET_DEFAULT", "VAR_RESET")
            self.change(ChangeKind.RESET if resets else ChangeKind.SET, name, value, local)
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
        self.query(body.get("query", {}), None)
        self.kind = "prepare"
        self.add({Effect.PREPARE}, planned=False)
        self.change(ChangeKind.PREPARE, body.get("name", ""))

    def _execute(self, body: Node) -> None:
        self._only(body, "name params")
        self.cacheable = Cacheable.NO
        name = body.get("name", "")
        given = self.value(body.get("params", []), Scope())
        known = self.session.prepared_source(name)
        self.kind = "execute"
        self.add({Effect.PREPARE}, planned=False)
        if known is None:
            self.unknown(NO_PREPARED)
            return
        if known.source.sent:
            self.behind[known.source.sent] = None
        inner = self._planned(name, known)
        if inner is None:
            self._known(known.analysis)
        else:
            self.add(inner.effects, planned=False)
            self.add(inner.planned)
            self.absorb(inner, changes=True)
            self.output: Any = inner.output
            self.cacheable = Cacheable.NO
        for written in self.writes:
            self.store(f"{written}.*", given)
        self.kind = "execute"

    def _planned(self, name: str, known: Prepared) -> Any:
        """The walk through a prepared statement under the names in force now; None where it cannot be had.

        The server plans it anew when search_path or a definition changed, but not when a temporary relation takes a
        name. Kept: a few bytes of EXECUTE must not cost what the statement cost that it names, again and again.
        """
        plans, names = self.session.plans, self.names
        plan = plans.get(name)
        if plan is not None and plan[0] is known and plan[1] == names:
            return plan[2]
        tree = _tree(known.source)
        if tree is None or self.nested >= MAX_NESTED:
            return None
        inner: Any = type(self)(names.with_plans(), self.session, self.budget)
        inner.nested = self.nested + 1
        inner.statement(tree)
        inner.finish()
        if inner.cacheable is not Cacheable.NO:  # it names nothing that may change by itself
            if len(plans) >= MAX_PLANS:
                plans.clear()
            plans[name] = (known, names, inner)
        return inner

    def _known(self, analysis: Analysis) -> None:
        """What a statement was found to do when it was prepared or declared: that plan may be the one that runs."""
        self.budget.spend(sum(map(len, (analysis.reads, analysis.columns, analysis.predicates, analysis.stores))))
        self.add(analysis.effects - {Effect.PREPARE})
        for mine, theirs in (
            (self.reads, analysis.reads),
            (self.writes, analysis.writes),
            (self.columns, analysis.columns),
            (self.predicates, analysis.predicates),
            (self.functions, analysis.functions),
        ):
            mine.update(dict.fromkeys(theirs))
        self.stores.update(dict.fromkeys(analysis.stores))
        self.weaken(analysis.where)
        self.resolves |= analysis.resolves
        if analysis.why:
            self.why.append(analysis.why)

    def _deallocate(self, body: Node) -> None:
        self._only(body, "name isall location")
        self.kind = "deallocate"
        self.add({Effect.PREPARE}, planned=False)
        self.change(ChangeKind.DEALLOCATE, body.get("name"))

    def _declare(self, body: Node) -> None:
        self._only(body, "portalname options query")
        before = len(self.changes)
        self.query(body.get("query", {}), None)
        if any(one.kind is ChangeKind.SET for one in self.changes[before:]):
            self.unknown("a cursor whose rows set something: it is set when they are fetched, not when it is declared")
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
            self.unknown(NO_CURSOR)
            return
        if sent := self.session.cursor_text(body.get("portalname", "")):
            self.behind[sent] = None
        self._known(known)

    def _close(self, body: Node) -> None:
        self._only(body, "portalname")
        self.kind = "close"
        self.add({Effect.CURSOR}, planned=False)
        self.change(ChangeKind.CLOSE, body.get("portalname"))


def _tree(source: Source) -> Node | None:
    """The statement that was prepared there."""
    parsed = pgparse.parse(source.text) if source.text else []
    if source.index < 0:
        return parsed[0].get("stmt") if len(parsed) == 1 else None
    made = parsed[source.index].get("stmt", {}) if source.index < len(parsed) else {}
    found: Node | None = made.get("PrepareStmt", {}).get("query")
    return found


def boolean(node: Node | None) -> bool:
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
