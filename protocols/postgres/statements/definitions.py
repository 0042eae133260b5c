"""DDL and administration, statement kind by statement kind: effects, the relations named, the names that change.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from protocols.contract import Effect
from protocols.postgres.statements.nodes import Node, strings

E = Effect
_SAFE_LANGUAGES = frozenset({"sql", "plpgsql"})
_RELATION_OBJECTS = frozenset(
    {
        "OBJECT_TABLE",
        "OBJECT_VIEW",
        "OBJECT_MATVIEW",
        "OBJECT_FOREIGN_TABLE",
        "OBJECT_SEQUENCE",
        "OBJECT_INDEX",
    }
)
_TRIGGER_COMMANDS = frozenset(
    {"EnableTrig", "DisableTrig", "EnableRule", "DisableRule", "EnableAlways", "EnableReplica"}
)
_POLICY_COMMANDS = frozenset({"RowSecurity", "ForceRowSecurity"})


@dataclass(frozen=True, slots=True)
class Definition:
    """One statement kind. `more`: effects that depend on the statement. `relation_fields`: where relations stand.

    `local`: only the named relations change; otherwise anything may (functions, types, operators, schemas).
    """

    tag: str
    words: str
    base: frozenset[Effect]
    more: Callable[[Node], frozenset[Effect]] | None = None
    local: bool = False
    defines: bool = True  # False: no name changes its meaning

    def kind(self, body: Node) -> str:
        thing = body.get("removeType") or body.get("objtype") or body.get("kind") or ""
        if isinstance(thing, str) and thing.startswith("OBJECT_") and " " not in self.words:
            return f"{self.words} {thing.removeprefix('OBJECT_').replace('_', ' ').lower()}"
        return self.words

    def effects(self, body: Node) -> frozenset[Effect]:
        return self.base | (self.more(body) if self.more is not None else frozenset())

    def relations(self, body: Node) -> Iterator[Node]:
        """The relations that the statement names as its own objects."""
        for key in ("relation", "view", "rel", "table", "sequence", "base"):
            value = body.get(key)
            if isinstance(value, dict) and "relation" in value:
                value = value["relation"]  # of a foreign table
            if isinstance(value, dict) and "relname" in value:
                yield value
        for key in ("relations", "rels", "objects", "tables"):
            for item in body.get(key, ()):
                if "RangeVar" in item:
                    yield item["RangeVar"]
                elif "VacuumRelation" in item:
                    yield item["VacuumRelation"].get("relation", {})
                elif "List" in item and body.get("removeType") in _RELATION_OBJECTS:
                    names = strings(item["List"].get("items"))
                    if names:
                        yield {"relname": names[-1], **({"schemaname": names[-2]} if len(names) > 1 else {})}
        named = body.get("object")
        if isinstance(named, dict) and "List" in named and body.get("objtype") in (*_RELATION_OBJECTS, "OBJECT_COLUMN"):
            names = strings(named["List"].get("items"))
            names = names[:-1] if body.get("objtype") == "OBJECT_COLUMN" else names
            if names:
                yield {"relname": names[-1], **({"schemaname": names[-2]} if len(names) > 1 else {})}

    def touches(self, body: Node) -> list[tuple[str | None, str]] | None:
        """(schema, name) of each relation whose meaning changes; None: any name's may."""
        if not self.defines:
            return []
        local = self.local or body.get("removeType") in _RELATION_OBJECTS
        if body.get("behavior") == "DROP_CASCADE":
            return None
        if self.tag == "RenameStmt":
            local = body.get("renameType") in (*_RELATION_OBJECTS, "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT")
        if not local:
            return None
        found = [(r.get("schemaname"), r.get("relname", "")) for r in self.relations(body)]
        if self.tag == "RenameStmt" and found and body.get("renameType") in _RELATION_OBJECTS:
            found.append((found[0][0], body.get("newname", "")))
        return found


def _create_function(body: Node) -> frozenset[Effect]:
    for option in body.get("options", ()):
        element = option.get("DefElem", {})
        if element.get("defname") == "language":
            language = element.get("arg", {}).get("String", {}).get("sval", "").lower()
            return frozenset() if language in _SAFE_LANGUAGES else frozenset({E.EXEC_LIBRARY})
    return frozenset()


def _alter_table(body: Node) -> frozenset[Effect]:
    effects: set[Effect] = set()
    for command in body.get("cmds", ()):
        kind = command.get("AlterTableCmd", {}).get("subtype", "").removeprefix("AT_")
        if any(kind.startswith(name) for name in _TRIGGER_COMMANDS):
            effects.add(E.PRIV_TRIGGERS)
        elif kind.removeprefix("Enable").removeprefix("Disable").removeprefix("No").removeprefix("Force") in (
            "RowSecurity",
        ) or any(name in kind for name in _POLICY_COMMANDS):
            effects.add(E.PRIV_POLICY)
        elif kind == "ChangeOwner":
            effects.add(E.PRIV_GRANT)
    return frozenset(effects)


def _grant(body: Node) -> frozenset[Effect]:
    return frozenset({E.PRIV_GRANT if body.get("is_grant") else E.PRIV_REVOKE})


def _default_privileges(body: Node) -> frozenset[Effect]:
    return _grant(body.get("action", {}))


def _schema(body: Node) -> frozenset[Effect]:
    effects: set[Effect] = set()
    for element in body.get("schemaElts", ()):
        tag, inner = next(iter(element.items()))
        definition = DEFINITIONS.get(tag)
        effects |= definition.effects(inner) if definition is not None else {E.UNKNOWN}
    return frozenset(effects)


def _role(body: Node) -> frozenset[Effect]:
    names = {option.get("DefElem", {}).get("defname") for option in body.get("options", ())}
    return frozenset({E.PRIV_GRANT}) if names & {"rolemembers", "adminmembers", "addroleto"} else frozenset()


def _rename(body: Node) -> frozenset[Effect]:
    found = {"OBJECT_DATABASE": E.ADMIN_CONFIG, "OBJECT_ROLE": E.PRIV_ROLE}.get(body.get("renameType", ""))
    return frozenset({found}) if found is not None else frozenset()


def _define_type(body: Node) -> frozenset[Effect]:
    # base types, operators, aggregates over C functions need a superuser, and bring their own code
    return frozenset({E.EXEC_LIBRARY}) if body.get("kind") == "OBJECT_TYPE" else frozenset()


def _drop(body: Node) -> frozenset[Effect]:
    extra: dict[str, Effect] = {
        "OBJECT_POLICY": E.PRIV_POLICY,
        "OBJECT_RULE": E.PRIV_TRIGGERS,
        "OBJECT_TRIGGER": E.PRIV_TRIGGERS,
        "OBJECT_EVENT_TRIGGER": E.PRIV_TRIGGERS,
    }
    found = extra.get(body.get("removeType", ""))
    return frozenset({found}) if found is not None else frozenset()


_CREATE, _ALTER, _DROP, _ROLE = E.DDL_CREATE, E.DDL_ALTER, E.DDL_DROP, E.PRIV_ROLE
_MORE: dict[str, Callable[[Node], frozenset[Effect]]] = {
    "CreateFunctionStmt": _create_function,
    "AlterTableStmt": _alter_table,
    "GrantStmt": _grant,
    "GrantRoleStmt": _grant,
    "AlterDefaultPrivilegesStmt": _default_privileges,
    "CreateSchemaStmt": _schema,
    "DefineStmt": _define_type,
    "DropStmt": _drop,
    "CreateRoleStmt": _role,
    "AlterRoleStmt": _role,
    "RenameStmt": _rename,
}
_TABLE: dict[str, tuple[str, tuple[Effect, ...]]] = {
    # relations
    "CreateStmt": ("create table", (_CREATE,)),
    "ViewStmt": ("create view", (_CREATE,)),
    "IndexStmt": ("create index", (_CREATE,)),
    "CreateSeqStmt": ("create sequence", (_CREATE,)),
    "AlterSeqStmt": ("alter sequence", (_ALTER,)),
    "CreateForeignTableStmt": ("create foreign table", (_CREATE, E.NET_EGRESS)),
    "AlterTableStmt": ("alter", (_ALTER,)),
    "AlterTableMoveAllStmt": ("alter table", (_ALTER,)),
    "CreateStatsStmt": ("create statistics", (_CREATE,)),
    "AlterStatsStmt": ("alter statistics", (_ALTER,)),
    "RefreshMatViewStmt": ("refresh materialized view", (E.DATA_WRITE, E.DATA_SELECT)),
    # functions, types, operators
    "CreateFunctionStmt": ("create function", (_CREATE,)),
    "AlterFunctionStmt": ("alter function", (_ALTER,)),
    "CreateDomainStmt": ("create domain", (_CREATE,)),
    "AlterDomainStmt": ("alter domain", (_ALTER,)),
    "CreateEnumStmt": ("create type", (_CREATE,)),
    "AlterEnumStmt": ("alter type", (_ALTER,)),
    "CreateRangeStmt": ("create type", (_CREATE,)),
    "CompositeTypeStmt": ("create type", (_CREATE,)),
    "AlterTypeStmt": ("alter type", (_ALTER,)),
    "DefineStmt": ("create", (_CREATE,)),
    "CreateCastStmt": ("create cast", (_CREATE,)),
    "CreateConversionStmt": ("create conversion", (_CREATE,)),
    "CreateTransformStmt": ("create transform", (_CREATE,)),
    "CreateOpClassStmt": ("create operator class", (_CREATE,)),
    "CreateOpFamilyStmt": ("create operator family", (_CREATE,)),
    "AlterOpFamilyStmt": ("alter operator family", (_ALTER,)),
    "AlterOperatorStmt": ("alter operator", (_ALTER,)),
    "AlterCollationStmt": ("alter collation", (_ALTER,)),
    "AlterTSDictionaryStmt": ("alter text search dictionary", (_ALTER,)),
    "AlterTSConfigurationStmt": ("alter text search configuration", (_ALTER,)),
    "CreateAmStmt": ("create access method", (_CREATE, E.EXEC_LIBRARY)),
    "CreatePLangStmt": ("create language", (_CREATE, E.EXEC_LIBRARY)),
    "CreateExtensionStmt": ("create extension", (_CREATE, E.EXEC_LIBRARY)),
    "AlterExtensionStmt": ("alter extension", (_ALTER, E.EXEC_LIBRARY)),
    "AlterExtensionContentsStmt": ("alter extension", (_ALTER,)),
    # anything
    "CreateSchemaStmt": ("create schema", (_CREATE,)),
    "DropStmt": ("drop", (_DROP,)),
    "RenameStmt": ("alter", (_ALTER,)),
    "CommentStmt": ("comment", (_ALTER,)),
    "AlterObjectSchemaStmt": ("alter", (_ALTER,)),
    "AlterObjectDependsStmt": ("alter", (_ALTER,)),
    "AlterOwnerStmt": ("alter", (_ALTER, E.PRIV_GRANT)),
    "DropOwnedStmt": ("drop owned", (_DROP, E.PRIV_REVOKE)),
    "ReassignOwnedStmt": ("reassign owned", (_ALTER, E.PRIV_GRANT)),
    # privileges
    "GrantStmt": ("grant", ()),
    "GrantRoleStmt": ("grant role", ()),
    "AlterDefaultPrivilegesStmt": ("alter default privileges", ()),
    "CreateRoleStmt": ("create role", (_ROLE,)),
    "AlterRoleStmt": ("alter role", (_ROLE,)),
    "AlterRoleSetStmt": ("alter role set", (E.ADMIN_CONFIG, _ROLE)),
    "DropRoleStmt": ("drop role", (_ROLE,)),
    "CreatePolicyStmt": ("create policy", (_CREATE, E.PRIV_POLICY)),
    "AlterPolicyStmt": ("alter policy", (_ALTER, E.PRIV_POLICY)),
    "SecLabelStmt": ("security label", (_ALTER, E.PRIV_POLICY)),
    "CreateTrigStmt": ("create trigger", (_CREATE, E.PRIV_TRIGGERS)),
    "CreateEventTrigStmt": ("create event trigger", (_CREATE, E.PRIV_TRIGGERS)),
    "AlterEventTrigStmt": ("alter event trigger", (_ALTER, E.PRIV_TRIGGERS)),
    "RuleStmt": ("create rule", (_CREATE, E.PRIV_TRIGGERS)),
    # the server and other servers
    "AlterSystemStmt": ("alter system", (E.ADMIN_CONFIG,)),
    "AlterDatabaseSetStmt": ("alter database set", (E.ADMIN_CONFIG, _ROLE)),
    "AlterDatabaseStmt": ("alter database", (_ALTER, E.ADMIN_CONFIG)),
    "AlterDatabaseRefreshCollStmt": ("alter database", (_ALTER, E.ADMIN_CONFIG)),
    "CreatedbStmt": ("create database", (_CREATE, E.ADMIN_CONFIG)),
    "DropdbStmt": ("drop database", (_DROP, E.ADMIN_CONFIG)),
    "CreateTableSpaceStmt": ("create tablespace", (_CREATE, E.FILE_WRITE)),
    "DropTableSpaceStmt": ("drop tablespace", (_DROP,)),
    "AlterTableSpaceOptionsStmt": ("alter tablespace", (_ALTER,)),
    "CreateFdwStmt": ("create foreign data wrapper", (_CREATE, E.NET_EGRESS)),
    "AlterFdwStmt": ("alter foreign data wrapper", (_ALTER, E.NET_EGRESS)),
    "CreateForeignServerStmt": ("create server", (_CREATE, E.NET_EGRESS)),
    "AlterForeignServerStmt": ("alter server", (_ALTER, E.NET_EGRESS)),
    "CreateUserMappingStmt": ("create user mapping", (_CREATE, E.NET_EGRESS)),
    "AlterUserMappingStmt": ("alter user mapping", (_ALTER, E.NET_EGRESS)),
    "DropUserMappingStmt": ("drop user mapping", (_DROP,)),
    "ImportForeignSchemaStmt": ("import foreign schema", (_CREATE, E.NET_EGRESS)),
    "CreatePublicationStmt": ("create publication", (_CREATE, E.EXFIL_REPLICATION)),
    "AlterPublicationStmt": ("alter publication", (_ALTER, E.EXFIL_REPLICATION)),
    "CreateSubscriptionStmt": ("create subscription", (_CREATE, E.EXFIL_REPLICATION, E.NET_EGRESS)),
    "AlterSubscriptionStmt": ("alter subscription", (_ALTER, E.EXFIL_REPLICATION, E.NET_EGRESS)),
    "DropSubscriptionStmt": ("drop subscription", (_DROP, E.EXFIL_REPLICATION)),
    "LoadStmt": ("load", (E.EXEC_LIBRARY,)),
    # maintenance
    "VacuumStmt": ("vacuum", (E.ADMIN_MAINT,)),
    "ClusterStmt": ("cluster", (E.ADMIN_MAINT,)),
    "ReindexStmt": ("reindex", (E.ADMIN_MAINT,)),
    "CheckPointStmt": ("checkpoint", (E.ADMIN_MAINT,)),
}
_LOCAL = frozenset({"IndexStmt", "CreateSeqStmt", "AlterSeqStmt", "AlterTableStmt", "CommentStmt", "CreateStatsStmt",
                    "AlterStatsStmt", "CreatePolicyStmt", "AlterPolicyStmt", "CreateTrigStmt", "RuleStmt",
                    "CreateForeignTableStmt"})  # fmt: skip
_DEFINES_NOTHING = frozenset({"VacuumStmt", "ClusterStmt", "ReindexStmt", "CheckPointStmt", "GrantStmt", "CommentStmt",
                              "RefreshMatViewStmt", "AlterSystemStmt", "LoadStmt", "AlterStatsStmt", "CreateStatsStmt",
                              "AlterDefaultPrivilegesStmt"})  # fmt: skip
DEFINITIONS: dict[str, Definition] = {
    tag: Definition(tag, words, frozenset(effects), _MORE.get(tag), tag in _LOCAL, tag not in _DEFINES_NOTHING)
    for tag, (words, effects) in _TABLE.items()
}
