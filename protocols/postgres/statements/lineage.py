"""Small proofs about expressions: a filter that is always true, an output that carries no column's value.

Only what is certain is said; None or False means "not proved". Nothing here follows a tree deeper than `_DEPTH`.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from protocols.contract import Where
from protocols.postgres.functions import CLEAR
from protocols.postgres.statements.nodes import constant, strings

Node = dict[str, Any]
_DEPTH = 40
_BOOLEANS = {"true": True, "t": True, "on": True, "yes": True, "1": True, "false": False, "f": False}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z")


def where_of(clause: Node | None) -> tuple[Where, bool]:
    """(how much an UPDATE's or DELETE's filter filters, whether that depends on a constant in the text)."""
    if clause is None:
        return Where.MISSING, False
    proof = _Proof()
    value = proof.truth(clause, 0)
    return (Where.ALWAYS_TRUE if value is True else Where.PRESENT), proof.read_constant


class _Proof:
    """Three-valued evaluation of a condition whose truth does not depend on the row."""

    def __init__(self) -> None:
        self.read_constant = False

    def truth(self, node: Node | None, depth: int) -> bool | None:
        if not node or depth > _DEPTH:
            return None
        tag, body = next(iter(node.items()))
        if tag == "A_Const" or tag == "TypeCast":
            value = self.value(node, depth)
            if value is None:
                return None
            return _BOOLEANS.get(value[1].strip().lower())
        if tag == "BoolExpr":
            values = [self.truth(arg, depth + 1) for arg in body.get("args", ())]
            operator = body.get("boolop", "AND_EXPR")
            if operator == "NOT_EXPR":
                return None if values[0] is None else not values[0]
            if operator == "OR_EXPR":
                return True if True in values else (False if all(v is False for v in values) else None)
            return False if False in values else (True if all(v is True for v in values) else None)
        if tag == "A_Expr":
            return self._comparison(body, depth)
        if tag == "NullTest":
            value = self.value(body.get("arg"), depth)
            if value is not None:
                return bool((value[0] == "n") == (body.get("nulltesttype", "IS_NULL") == "IS_NULL"))
            return None
        if tag == "BooleanTest":
            inner = self.truth(body.get("arg"), depth + 1)
            kind = body.get("booltesttype", "IS_TRUE")
            if inner is None or "UNKNOWN" in kind:
                return None
            return inner is (kind in ("IS_TRUE", "IS_NOT_FALSE"))
        if tag == "SubLink" and body.get("subLinkType") == "EXISTS_SUBLINK":
            select = (body.get("subselect") or {}).get("SelectStmt", {})
            plain = not any(k in select for k in ("fromClause", "whereClause", "havingClause", "valuesLists", "larg"))
            return True if plain and "limitCount" not in select and "limitOffset" not in select else None
        return None

    def _comparison(self, body: Node, depth: int) -> bool | None:
        name = strings(body.get("name"))[-1:]
        left, right, kind = body.get("lexpr"), body.get("rexpr"), body.get("kind", "AEXPR_OP")
        if kind in ("AEXPR_LIKE", "AEXPR_ILIKE") and name in (["~~"], ["~~*"]):
            pattern = self.value(right, depth)
            return True if pattern is not None and pattern[1] and set(pattern[1]) == {"%"} else None
        if kind == "AEXPR_IN" and name == ["="]:
            items = (right or {}).get("List", {}).get("items", [])
            one = self.value(left, depth)
            if one is not None:
                listed = [self.value(item, depth) for item in items[:1000]]
                if any(v is not None and v[1] == one[1] and v[0] != "n" for v in listed):
                    return True
            return True if any(_same(left, item) for item in items[:1000]) else None
        if kind in ("AEXPR_NOT_DISTINCT",) and _same(left, right):
            return True
        if kind == "AEXPR_BETWEEN":
            bounds = (right or {}).get("List", {}).get("items", [])
            middle = _number(self.value(left, depth))
            if middle is not None and len(bounds) == 2:
                low, high = (_number(self.value(bound, depth)) for bound in bounds)
                return low <= middle <= high if low is not None and high is not None else None
            return True if len(bounds) == 2 and _same(left, bounds[0]) and _same(left, bounds[1]) else None
        if kind != "AEXPR_OP":
            return None
        # a column compared with itself: true for every row but those where it is NULL
        if name in (["="], [">="], ["<="]) and _same(left, right):
            return True
        first = self.value(left, depth)
        second = self.value(right, depth) if first is not None else None
        if first is None or second is None or "n" in (first[0], second[0]):
            return None
        number, other = _number(first), _number(second)
        a: Any = number if number is not None and other is not None else first[1]
        b: Any = other if number is not None and other is not None else second[1]
        answers: dict[str, bool] = {
            "=": a == b, "<>": a != b, "!=": a != b, "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b,
        }  # fmt: skip
        return answers.get(name[0]) if name else None

    def value(self, node: Node | None, depth: int) -> tuple[str, str] | None:
        """(kind, text) of an expression that is one constant, whatever casts stand around it."""
        for _ in range(_DEPTH):
            if not node:
                return None
            if "TypeCast" in node:
                node = node["TypeCast"].get("arg")
            elif "CollateClause" in node:
                node = node["CollateClause"].get("arg")
            else:
                break
        found = constant(node)
        if found is not None:
            self.read_constant = True
            return found
        if node and "A_Expr" in node and depth < _DEPTH:
            return self._arithmetic(node["A_Expr"], depth + 1)
        return None

    def _arithmetic(self, body: Node, depth: int) -> tuple[str, str] | None:
        name = strings(body.get("name"))
        left = self.value(body.get("lexpr"), depth) if "lexpr" in body else ("i", "0")
        right = self.value(body.get("rexpr"), depth)
        one, two = _number(left), _number(right)
        if one is None or two is None or len(name) != 1:
            return None
        if name[0] == "+":
            return "f", repr(one + two)
        if name[0] == "-":
            return "f", repr(one - two)
        if name[0] == "*":
            return "f", repr(one * two)
        return None


def _number(value: tuple[str, str] | None) -> float | None:
    if value is None or value[0] not in "ifs" or not _NUMBER.match(value[1].strip()):
        return None
    return float(value[1])


def _same(left: Node | None, right: Node | None) -> bool:
    """Both are the same column."""
    if not left or not right or "ColumnRef" not in left or "ColumnRef" not in right:
        return False
    one, two = (strings(n["ColumnRef"].get("fields")) for n in (left, right))
    return bool(one) and bool(two) and one[-1] == two[-1] and (one == two or len(one) == 1 or len(two) == 1)


def clear_columns(select: Node, is_table: Callable[[str | None, str], bool]) -> frozenset[int]:
    """The output columns (0-based) of a plain SELECT that carry no column's value, whatever the tables hold.

    Constants, `count(*)`, `now()` and their like; `count(column)` and `column IS NULL` where every column in reach is
    one that a table stores (`is_table` of schema and name): a computed one can say by being NULL what its source was.
    Nothing after a `*` is counted, because its width is not known for certain.
    """
    stored = _only_tables(select, is_table)
    if select.get("op", "SETOP_NONE") != "SETOP_NONE" or "valuesLists" in select:
        return frozenset()
    clear = set()
    for index, target in enumerate(select.get("targetList", ())):
        value = target.get("ResTarget", {}).get("val", {})
        if _has_star(value):
            break
        if is_clear(value, stored):
            clear.add(index)
    return frozenset(clear)


def _only_tables(select: Node, is_table: Callable[[str | None, str], bool]) -> bool:
    """Whether FROM names tables and joins of tables, and nothing else."""
    if "withClause" in select:
        return False
    items = list(select.get("fromClause", ()))
    while items:
        item = items.pop()
        if "JoinExpr" in item:
            items += [item["JoinExpr"].get("larg", {}), item["JoinExpr"].get("rarg", {})]
        else:
            named = item.get("RangeVar")
            if named is None or not is_table(named.get("schemaname"), named.get("relname", "")):
                return False
    return True


def _has_star(value: Node) -> bool:
    if "ColumnRef" in value:
        return any("A_Star" in part for part in value["ColumnRef"].get("fields", ()))
    return "A_Indirection" in value and any("A_Star" in p for p in value["A_Indirection"].get("indirection", ()))


def _plain_column(node: Node) -> bool:
    return "ColumnRef" in node and not any("A_Star" in part for part in node["ColumnRef"].get("fields", ()))


def is_clear(node: Node, stored: bool) -> bool:
    """Whether an expression carries no column's value. `stored`: every column in reach is one that a table stores."""
    stack = [node]
    for _ in range(2000):
        if not stack:
            return True
        current = stack.pop()
        if not current:
            return False
        tag, body = next(iter(current.items()))
        if tag in ("A_Const", "SQLValueFunction"):
            continue
        if tag == "NullTest" and stored and _plain_column(body.get("arg", {})):
            continue
        if tag == "FuncCall":
            name = strings(body.get("funcname"))
            args = body.get("args", [])
            if name[-1] == "count" and len(name) == 1 + (name[0] == "pg_catalog" and len(name) == 2):
                simple = not ({"agg_filter", "over", "agg_order", "agg_within_group"} & body.keys())
                if simple and (body.get("agg_star") or (stored and len(args) == 1 and _plain_column(args[0]))):
                    continue
                return False
            if name[-1] not in CLEAR or (len(name) == 2 and name[0] != "pg_catalog") or len(name) > 2:
                return False
            if body.keys() & {"agg_filter", "over", "agg_order", "agg_within_group"}:
                return False
            stack.extend(args)
        elif tag == "A_Expr":
            if body.get("kind", "AEXPR_OP") != "AEXPR_OP":
                return False
            stack.extend(body[side] for side in ("lexpr", "rexpr") if side in body)
        elif tag == "BoolExpr":
            stack.extend(body.get("args", ()))
        elif tag == "TypeCast":
            stack.append(body.get("arg", {}))
        else:
            return False
    return False
