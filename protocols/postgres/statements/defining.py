"""Definitions: DDL and administration, with what they name, carry and leave behind in the session.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protocols.contract import ANYWHERE, Analysis, Cacheable
from protocols.postgres.functions import LEAVES_A_TRACE
from protocols.postgres.statements.definitions import Definition
from protocols.postgres.statements.model import ChangeKind, Temporary
from protocols.postgres.statements.names import TEMP, Target
from protocols.postgres.statements.nodes import Node, strings
from protocols.postgres.statements.scope import NOTHING, Scope, Source, union
from protocols.postgres.statements.session_commands import SessionCommands

QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_MAKES = frozenset({"CreateStmt", "ViewStmt", "CreateSeqStmt"})  # the relation that they name is a new one
_JOINS = frozenset({"AT_AddInherit", "AT_AttachPartition"})
# they make what no statement can mean already (unless a schema has elements), or count for new sessions only
_NEW = frozenset(
    {
        "CreateSchemaStmt",
        "CreatedbStmt",
        "CreateTableSpaceStmt",
        "CreateFdwStmt",
        "CreateForeignServerStmt",
        "CreateUserMappingStmt",
        "CreatePublicationStmt",
        "CreateSubscriptionStmt",
        "CreateEventTrigStmt",
        "CreateAmStmt",
        "CreateRoleStmt",
        "AlterRoleSetStmt",
        "AlterDatabaseSetStmt",
    }
)
_SAME_NAME = frozenset({"AlterObjectSchemaStmt", "AlterOwnerStmt"})  # a relation keeps its own, and is known by it
_SEQUENCE = ("last_value", "log_cnt", "is_called")


def _drops(body: Node) -> bool:
    """ALTER ... DROP: what rests on a part may go with it, without CASCADE as well (the sequence of a column)."""
    return any(c.get("AlterTableCmd", {}).get("subtype", "").startswith("AT_Drop") for c in body.get("cmds", ()))


class Defining(SessionCommands):
    """Adds what defines and changes objects."""

    def analysis(self, shape: str) -> Analysis:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def _made(
        self,
        relation: Node,
        columns: tuple[str, ...] | None,
        body: Analysis | None = None,
        *,
        ends: bool = False,
        maybe: bool = False,
        above: Any = (),
        hidden: bool = False,
    ) -> None:
        """A relation now exists under this name. `maybe`: only where there was none; `above`: what it inherits from;
        `hidden`: it may be temporary although the text does not say so.
        """
        name = relation.get("relname", "")
        schema = relation.get("schemaname")
        if self.is_temporary(relation):
            self.writes[f"{TEMP}.{name}"] = None
            parents = tuple(dict.fromkeys(p for one in above for p in self._shows_in(one.get("RangeVar", {}))))
            made = Temporary(name, columns, body, not ends, ends, parents=parents)
            self.change(ChangeKind.TEMP_CREATE, name, made, maybe)
            if above:
                self.change(ChangeKind.TEMP_MIX)
            return
        self.writes[f"{self.home(relation)}.{name}"] = None
        self.change(ChangeKind.DEFINE, f"{schema}.{name}" if schema else name)
        # which schema of the path is the first that is there and may be used, the server alone knows
        if schema is None and (hidden or TEMP in self.names.path):
            self.writes[f"{TEMP}.{name}"] = None
            # where it is a permanent one, a temporary one of that name stays what it was
            self.change(ChangeKind.TEMP_CREATE, name, Temporary(name, None, body, certain=False), True)

    def _shows_in(self, relation: Node) -> Iterator[str]:
        """The permanent relations whose rows those of a temporary child of this one are among."""
        for target in self.names.relations(relation.get("schemaname"), relation.get("relname", "")):
            if target.why:
                self.unknown(target.why)
            if target.temporary is not None:
                yield from target.temporary.parents
            else:
                yield target.qualified

    def _define(self, tag: str, body: Node, definition: Definition) -> None:
        """DDL and administration: the effects of the table, the names it touches, the code that it carries."""
        self.kind = definition.kind(body)
        self.add(definition.effects(body), planned=False)
        self.cacheable = Cacheable.TEXT
        for relation in definition.relations(body):
            schema, name = relation.get("schemaname"), relation.get("relname", "")
            if (schema or "").startswith(TEMP) or relation.get("relpersistence") == "t":
                self.writes[f"{TEMP}.{name}"] = None
                targets = self.names.relations(TEMP, name)
            else:
                targets = self.names.relations(schema, name)
                self.writes.update(dict.fromkeys(target.qualified for target in targets))
            for target in targets:
                if target.temporary is not None and tag not in _MAKES:
                    self.holds(target.temporary)  # an error quotes its rows
                if tag == "RefreshMatViewStmt" and target.temporary is None:
                    self._refresh(target)
        self._loose(body)
        self.define_stores(tag, body)
        self._definition_changes(tag, body, definition)
        if tag == "AlterDomainStmt":
            self._rechecked(body)

    def _refresh(self, target: Target) -> None:
        if target.relation is None:
            self.unknown(target.why or f"the body of `{target.qualified}` is not known")
            return
        facts = self.names.catalog.refresh_facts(target.relation.oid)
        self.add(facts.effects)
        self.reads.update(dict.fromkeys(facts.reads[1:]))
        self.functions.update(dict.fromkeys(facts.functions))
        if facts.why:
            self.unknown(facts.why)

    def _rechecked(self, body: Node) -> None:
        """ALTER DOMAIN evaluates a new check for every value there is, and an error quotes the value."""
        for domain in self.names.types(strings(body.get("typeName")))[0]:
            self.writes.update(dict.fromkeys(self.names.catalog.holders(domain.oid)))
        for temporary in self.names.temporaries:
            self.holds(temporary)

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
                    if key in QUERIES and isinstance(value, dict):
                        self.query({key: value}, scope)
                    elif key == "FuncCall" and isinstance(value, dict):
                        names = strings(value.get("funcname"))
                        args = value.get("args", [])
                        for function in self.names.functions(names[-2:]):
                            if function.effects and function.takes(len(args)):
                                self.call(function)
                            if function.schema == "pg_catalog" and function.name in LEAVES_A_TRACE and args:
                                self.unknown("an expression that leaves something of each row in the session")
                        stack.append(value)
                    elif isinstance(value, (dict, list)):
                        stack.append(value)

    def _definition_changes(self, tag: str, body: Node, definition: Definition) -> None:
        if tag == "CreateStmt" and (relation := body.get("relation")) is not None:
            columns = [c["ColumnDef"].get("colname", "") for c in body.get("tableElts", ()) if "ColumnDef" in c]
            plain = all("ColumnDef" in c or "Constraint" in c for c in body.get("tableElts", ()))
            plain = plain and not body.keys() & {"inhRelations", "ofTypename", "if_not_exists"}
            self._made(
                relation,
                tuple(columns) if plain else None,
                ends=body.get("oncommit") == "ONCOMMIT_DROP",
                maybe=bool(body.get("if_not_exists")),
                above=body.get("inhRelations", ()),
            )
            return
        if tag == "ViewStmt" and (view := body.get("view")) is not None:
            self._made_view(view, body.get("query", {}))
            return
        if tag == "CreateSeqStmt" and self.is_temporary(sequence := body.get("sequence", {})):
            self._made(sequence, _SEQUENCE, maybe=bool(body.get("if_not_exists")))
            return
        names = definition.touches(body)
        if tag in ("DropStmt", "DropOwnedStmt") or _drops(body):
            self.change(ChangeKind.TEMP_CHANGE)  # others may be gone with what they rested on
        self._redefining(tag, body, names)
        if names is None:
            self.change(ChangeKind.DEFINE)
            if TEMP in self.names.path or f"'{TEMP}" in repr(body):
                self.change(ChangeKind.TEMP_TYPES)  # types in pg_temp are found before all others
            return
        # with pg_temp further down the path another one of that name may be what is dropped
        dropped = tag == "DropStmt" and self.names.path_known and TEMP not in self.names.path
        for schema, name in names:
            own = (schema or "").startswith(TEMP)
            if own or schema is None:
                # `pg_temp_3` may be another session's, or none: IF EXISTS passes it over
                self.change(ChangeKind.TEMP_CHANGE, name, dropped and schema in (None, TEMP))
            if not own:
                self.change(ChangeKind.DEFINE, f"{schema}.{name}" if schema else name)
        if tag == "RenameStmt" and len(names) > 1 and (names[0][0] or TEMP).startswith(TEMP):  # of a whole relation
            self.change(ChangeKind.TEMP_RENAME, names[0][1], body["newname"])
        self._mixing(tag, body)

    def _redefining(self, tag: str, body: Node, names: list[tuple[str | None, str]] | None) -> None:
        """The names that other sessions may have to read anew. A new function, operator, cast or type may be what a
        call means from now on, and run any code; what a new name of a relation hides was read under that name.
        """
        own = bool(self.writes) and all(name.startswith(TEMP) for name in self.writes)
        if names is not None:
            if tag == "RenameStmt" and len(names) > 1 and not own:
                self.redefines[names[1][1]] = None
            if tag == "GrantStmt" and body.get("objtype") == "OBJECT_SCHEMA":
                self.redefines[ANYWHERE] = None  # who may not use a schema finds names further down the path
            return
        named = [*strings(body.get("funcname")), *strings(body.get("typeName")), *strings(body.get("domainname"))]
        if (
            (tag in _NEW and not body.get("schemaElts"))
            or (tag in _SAME_NAME and self.writes)
            or own
            or (named and named[0].startswith(TEMP))
        ):
            return
        self.redefines[ANYWHERE] = None

    def _made_view(self, view: Node, query: Node) -> None:
        """A view over temporary relations is one itself, whether the text says so or not (view.c: DefineView)."""
        inner: Any = type(self)(self.names, self.session, self.budget)
        inner.query(query, None)
        inner.finish()
        self._replaced(view)
        over = any(name.startswith(f"{TEMP}.") for name in inner.reads)
        # not every temporary relation has been seen: the sequence of a serial column is one
        self._made(view, None, inner.analysis(""), hidden=over or bool(self.names.temporaries))
        if over:
            self.change(ChangeKind.TEMP_MIX)

    def _replaced(self, view: Node) -> None:
        """What materialised views hold was copied through a view: read as that view is now, it would be another's."""
        catalog = self.names.catalog
        known = catalog.relations.get((self.home(view), view.get("relname", "")))
        if known is None or self.is_temporary(view):
            return
        shown = Source(known.name, NOTHING, targets=[Target(known.qualified, known)], catalog=catalog)
        origins = union(shown.column(name) or NOTHING for name in known.columns)
        for one in catalog.relations_by_oid.values():
            if one.kind == "m" and known.qualified in catalog.refresh_facts(one.oid).reads:
                self.store(f"{one.qualified}.*", origins)

    def _mixing(self, tag: str, body: Node) -> None:
        """DDL after which one temporary relation may show the rows of another, or a permanent one those of a
        temporary one.
        """
        if tag == "RuleStmt" and body.get("event") == "CMD_SELECT":
            self._replaced(body.get("relation", {}))
        own = [t for t in self._all_named(body.get("relation")) if t.temporary is not None]
        if tag in ("RuleStmt", "CreateTrigStmt") and own:
            self.change(ChangeKind.TEMP_MIX)
        if tag != "AlterTableStmt":
            return
        for command in body.get("cmds", ()):
            altered = command.get("AlterTableCmd", {})
            if altered.get("subtype") not in _JOINS:
                continue
            definition = altered.get("def", {})
            other = self._all_named(definition.get("PartitionCmd", {}).get("name") or definition.get("RangeVar"))
            if own or any(t.temporary is not None for t in other):
                self.change(ChangeKind.TEMP_MIX)
                if any(
                    t.temporary is None or t.temporary.parents for t in (*self._all_named(body["relation"]), *other)
                ):
                    self.unknown("a temporary table whose rows would show in a permanent one")

    def _all_named(self, relation: Any) -> list[Target]:
        if not isinstance(relation, dict) or "relname" not in relation:
            return []
        return self.names.relations(relation.get("schemaname"), relation["relname"])
