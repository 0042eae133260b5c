"""Catalogs for tests: one made by hand on PostgreSQL's own names, and those of real servers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq

from protocols.contract import Analysis, Effect
from protocols.postgres.builtins import _data, known_functions
from protocols.postgres.catalog import CATALOG_QUERIES, Catalog, build
from protocols.postgres.state import SessionState
from protocols.postgres.statements import CommandAnalysis, analyse

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
PUBLIC, EVIL = 2200, 30000
TEXT, INT4, NUMERIC, BOOL = 25, 23, 1700, 16
# (OID, schema, name, kind, columns)
RELATIONS: Sequence[tuple[int, int, str, str, Sequence[tuple[str, int]]]] = (
    (30001, PUBLIC, "users", "r", [("id", INT4), ("name", TEXT), ("email", TEXT), ("ssn", TEXT), ("salary", INT4)]),
    (30002, PUBLIC, "orders", "r", [("id", INT4), ("user_id", INT4), ("total", NUMERIC)]),
    (30003, PUBLIC, "v_users", "v", [("id", INT4), ("name", TEXT), ("shout", TEXT)]),
    (30004, EVIL, "users", "r", [("id", INT4)]),
    (30005, PUBLIC, "lines", "r", [("order_id", INT4), ("note", TEXT)]),
    (30006, PUBLIC, "parcels", "r", [("id", INT4), ("whole", 30102)]),
)
# (OID, schema, name, volatility, arguments)
FUNCTIONS = (
    (31001, PUBLIC, "purge", "v", []),
    (31002, PUBLIC, "purge_row", "v", [30101]),
    (31003, EVIL, "quiet", "i", [INT4]),
    (31004, PUBLIC, "lower", "v", [TEXT]),
)
VIEW_TREE = (
    "({QUERY :commandType 1 :rtable ({RANGETBLENTRY :alias <> :rtekind 0 :relid 30001 :relkind r}) "
    ":targetList ("
    "{TARGETENTRY :expr {VAR :varno 1} :resno 1 :resname id :resorigtbl 30001 :resorigcol 1 :resjunk false}"
    " {TARGETENTRY :expr {VAR :varno 1} :resno 2 :resname name :resorigtbl 30001 :resorigcol 2 :resjunk false}"
    " {TARGETENTRY :expr {FUNCEXPR :funcid 871} :resno 3 :resname shout :resorigtbl 0 :resorigcol 0 :resjunk false})})"
)


@functools.cache
def catalog() -> Catalog:
    """PostgreSQL 18's own names, three tables, a view, a table of the same name elsewhere, a few user functions."""
    rows: dict[str, Any] = {name: list(found) for name, found in _data()["rows"].items()}
    rows["session"] = [["db", "app", "180000", "UTF8", '"$user", public', "default"]]
    rows["schemas"] = [*rows["schemas"], [str(EVIL), "evil", "t"]]
    for oid, schema, name, kind, columns in RELATIONS:
        rows["relations"].append([str(oid), str(schema), name, kind, "f"])
        rows["types"].append([str(oid + 100), str(schema), name, "c", "C", "0", "0", str(oid), None, None, None, None])
        for number, (column, kind_oid) in enumerate(columns, 1):
            rows["attributes"].append([str(oid), str(number), column, str(kind_oid)])
    for oid, schema, name, volatility, arguments in FUNCTIONS:
        shown = " ".join(map(str, arguments))
        count = str(len(arguments))
        rows["functions"].append(
            [str(oid), str(schema), name, volatility, count, "0", "f", str(INT4), "sql", None, shown]
        )
    rows["rules"] = [*rows["rules"], ["30003", "1", VIEW_TREE, "<>"]]
    rows["foreign_keys"] = [["30005", "30002", "c", "a", "{1}"]]
    return Catalog("v1", rows, known_functions(), open_world=False)


def rows(connection: psycopg.Connection[Any], query: str) -> list[tuple[str | None, ...]]:
    """All rows of a query as the server prints them."""
    result = connection.pgconn.exec_(query.encode())
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    return [
        tuple(None if (v := result.get_value(r, c)) is None else v.decode() for c in range(result.nfields))
        for r in range(result.ntuples)
    ]


def load(connection: psycopg.Connection[Any]) -> Catalog:
    """The catalog of a real database."""
    return build({name: rows(connection, query) for name, query in CATALOG_QUERIES.items()})


def session(**params: str) -> SessionState:
    state = SessionState()
    state.startup({"user": "app", **params})
    return state


def command(text: str | bytes, state: SessionState | None = None) -> CommandAnalysis:
    raw = text if isinstance(text, bytes) else text.encode()
    return analyse(raw, state if state is not None else session(), catalog())


def of(text: str | bytes, state: SessionState | None = None) -> Analysis:
    return command(text, state).analysis


def effects(text: str | bytes, state: SessionState | None = None) -> set[str]:
    return {effect.value for effect in of(text, state).effects}


def ran(state: SessionState, *texts: str) -> SessionState:
    """Runs messages through the state as a server would that accepts them all."""
    for text in texts:
        for statement in command(text, state).statements:
            state.applied(statement)
        state.ready("T" if state.in_block else "I")
    return state
