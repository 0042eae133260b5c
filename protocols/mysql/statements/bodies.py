"""Texts that a statement runs without showing them: the bodies of views.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from protocols.contract import Analysis, Effect
from protocols.mysql.catalog import Catalog, Relation
from protocols.mysql.statements.lexer import Unreadable
from protocols.mysql.statements.scope import Outputs

if TYPE_CHECKING:
    from protocols.mysql.statements.walk import Walk

MAX_DEPTH = 20  # views on views


@dataclass(frozen=True, slots=True)
class Body:
    """What a view's query does, its columns with what stands behind each, and sqlglot's tree (None: not known)."""

    analysis: Analysis
    outputs: Outputs | None = None
    tree: Any = field(default=None, repr=False)


# code of the database's own: MariaDB runs what decides the width of a column while it works out a view's columns, also
# where it only shows them
CODE = frozenset({Effect.EXEC_CALL, Effect.EXEC_PROCEDURE, Effect.EXEC_DYNAMIC, Effect.EXEC_LIBRARY})


def worked_out(schema: str, name: str, walk: Walk) -> None:
    """The columns of a relation are looked at. A body that the catalog does not have says nothing here."""
    if walk.state.flavour == "mysql":
        return
    relation = walk.catalog.relation(schema, name)
    if relation is not None and relation.kind == "view":
        walk.add(*(view_body(relation, walk.catalog, walk.depth).analysis.effects & CODE))


def view_body(view: Relation, catalog: Catalog, depth: int = 0) -> Body:
    """The body of a view, worked out once for each catalog."""
    memo = catalog.memo()
    key = ("statements", "view", view.schema, view.name)
    body: Body | None = memo.get(key)
    if body is None:
        # kept at any depth: views over views over views would be read as often as there are ways to them
        body = memo[key] = _read(view, catalog, depth)
    return body


def _opaque(why: str) -> Body:
    return Body(Analysis(kind="view", effects=frozenset({Effect.UNKNOWN}), why=why))


def _read(view: Relation, catalog: Catalog, depth: int) -> Body:
    from protocols.mysql.state import SessionState
    from protocols.mysql.statements.queryread import read_query
    from protocols.mysql.statements.walk import Walk

    name = view.qualified
    if depth >= MAX_DEPTH:
        return _opaque(f"the view `{name}` rests on too many others")
    if view.schema.lower() in ("sys", "information_schema", "performance_schema"):
        # the server's own: what they show beyond names and settings counts as secret where they are read
        return Body(Analysis(kind="view", effects=frozenset({Effect.DATA_SELECT})))
    if view.definition is None:
        return _opaque(f"the body of the view `{name}` is not known to the catalog")
    state = SessionState(
        flavour=catalog.flavour,
        version=catalog.server_version,
        database=view.schema,
        lower_case_table_names=catalog.lower_case_table_names,
    )
    walk = Walk(state, catalog, depth + 1)
    walk.view = True
    try:
        tree, outputs = read_query(view.definition, walk)
    except (Unreadable, RecursionError):
        return _opaque(f"the body of the view `{name}` is not understood")
    return Body(walk.analysis("view"), outputs, tree)
