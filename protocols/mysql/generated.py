"""Columns that the server itself computes: generated ones, and those that have an expression as their default.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from protocols.mysql.catalog import Column, Relation
from protocols.mysql.flows import called


def made_of(relation: Relation, column: Column) -> frozenset[str]:
    """The columns of its own row that a column is computed from; all of them where its text is not understood.

    DEFAULT(column) works a default out, and a row that was given no value holds it.
    """
    text = column.generated or column.preset
    if not text:
        return frozenset()
    every = frozenset(f"{relation.qualified}.{c.name}" for c in relation.columns)
    try:
        tree = sqlglot.parse_one(text, read="mysql")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return every
    names = [c.name for c in tree.find_all(exp.Column) if not _of_sequence(c)]
    if tree.find(exp.Command, exp.Query) is not None or any(relation.column(n) is None for n in names):
        return every
    return frozenset(f"{relation.qualified}.{c.name}" for n in names if (c := relation.column(n)))


def _of_sequence(column: exp.Expr) -> bool:
    """Whether it is the name of a sequence: nextval(`shop`.`numbers`)."""
    call = column.parent
    return call is not None and called(call) in ("NEXTVAL", "LASTVAL")
