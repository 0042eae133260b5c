"""Output columns that provably carry no column's value: constants, and counts of columns.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

_NEVER = (exp.Query, exp.Column, exp.Parameter, exp.SessionParameter, exp.Star, exp.Anonymous)


def clear_columns(tree: Any) -> frozenset[int]:
    """Indexes (from 0) of a plain SELECT's output; nothing where a star makes their places unknown."""
    if not isinstance(tree, exp.Select):
        return frozenset()
    found = set()
    for index, item in enumerate(tree.expressions):
        node = item.this if isinstance(item, exp.Alias) else item
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
            return frozenset()
        if _clear(node):
            found.add(index)
    return frozenset(found)


def _clear(node: Any) -> bool:
    if isinstance(node, exp.Count):
        # how many, never which: the argument may be any plain column
        inner = node.this
        return isinstance(inner, exp.Star | exp.Column | exp.Literal) or (
            isinstance(inner, exp.Distinct) and all(isinstance(e, exp.Column) for e in inner.expressions)
        )
    if isinstance(node, exp.Literal | exp.Null | exp.Boolean):
        return True
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        return isinstance(node.this, exp.Column | exp.Literal)
    return not isinstance(node, _NEVER) and node.find(*_NEVER) is None
