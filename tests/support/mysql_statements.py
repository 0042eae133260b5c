"""Catalogs and sessions for tests of MySQL statements: one catalog made by hand, and those of real servers."""

from __future__ import annotations

from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.mysql.catalog import Catalog, Column, Relation, Routine, Trigger, build
from protocols.mysql.catalog_queries import catalog_queries
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse

# what a read-only analyst may do: the reference policy of tests/attacks/cases/README.md
HARMLESS = frozenset(
    {
        Effect.DATA_SELECT,
        Effect.DATA_COPY_OUT,
        Effect.SHOW,
        Effect.TX,
        Effect.CURSOR,
        Effect.PREPARE,
        Effect.SESSION_SET,
    }
)
VERSIONS = {"mariadb": (10, 11, 19), "mysql": (9, 7, 4)}


_MADE = (Column("id"), Column("a"), Column("sum", generated="(`a` + 1)"), Column("given", preset="uuid_of(`x`.`y`, 1)"))
_V_USERS = "select `u`.`id` AS `id`,`u`.`ssn` AS `n` from `shop`.`users` `u`"


def decide(analysis: Analysis) -> Decision:
    """The reference policy."""
    if analysis.effects <= HARMLESS:
        return Decision(Action.ALLOW, "read", "")
    return Decision(Action.DENY, "default", "no rule allows this")


def table(schema: str, name: str, *columns: str, **more: Any) -> Relation:
    return Relation(schema, name, more.pop("kind", "table"), tuple(Column(c, "varchar") for c in columns), **more)


def shop(flavour: str = "mariadb", **more: Any) -> Catalog:
    """Tables users, orders and audit (with a trigger), views on them, a function and a procedure, in schema `shop`."""
    relations = [
        table("shop", "users", "id", "name", "email", "ssn", "salary"),
        table("shop", "orders", "id", "user_id", "total"),
        table("shop", "audit", "id", "msg", triggers=(Trigger("tr", "insert"),)),
        table("shop", "v_users", "id", "n", kind="view", definition=_V_USERS),
        table("shop", "v_wipe", "x", kind="view", definition="select `shop`.`wipe`() AS `x`"),
        table("shop", "v_hidden", "x", kind="view", definition=None),
        table("shop", "v_over", "x", kind="view", definition="select `v_wipe`.`x` AS `x` from `shop`.`v_wipe`"),
        table("hr", "users", "id", "pay"),
        table("mysql", "user", "Host", "User", "authentication_string"),
        table("information_schema", "TABLES", "TABLE_SCHEMA", "TABLE_NAME", kind="system view"),
        table("information_schema", "PROCESSLIST", "ID", "INFO", kind="system view"),
        table("shop", "unsure", "id", triggers=None),
        Relation("shop", "made", "table", _MADE),
    ]  # fmt: skip
    routines = [
        Routine("shop", "wipe", "function"),
        Routine("shop", "p", "procedure"),
    ]
    return Catalog("v1", flavour, VERSIONS[flavour], relations=relations, routines=routines, **more)


def session(flavour: str = "mariadb", **more: Any) -> SessionState:
    return SessionState(flavour=flavour, version=VERSIONS[flavour], **{"database": "shop", **more})


def judged(text: str | bytes, state: SessionState | None = None, catalog: Catalog | None = None) -> CommandAnalysis:
    raw = text.encode() if isinstance(text, str) else text
    return analyse(raw, state if state is not None else session(), catalog if catalog is not None else shop())


def apply(state: SessionState, *texts: str, catalog: Catalog | None = None) -> SessionState:
    """What these texts leave behind, if they ran."""
    for text in texts:
        for statement in judged(text, state, catalog).statements:
            state.applied(statement)
    return state


def load(connection: Any, flavour: str) -> Catalog:
    """The catalog of a real server, through pymysql."""
    rows = {}
    with connection.cursor() as cursor:
        for name, question in catalog_queries(flavour).items():
            try:
                cursor.execute(question.sql)
            except pymysql.err.MySQLError:
                if not question.optional:
                    raise
                continue
            rows[name] = [tuple(_text(v) for v in row) for row in cursor.fetchall()]
    return build(rows)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
