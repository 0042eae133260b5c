"""The parse tree nodes that an expression may consist of: an allow-list with every field spelled out.

A node that is not here, or a known node with a field that is not listed, was never thought about: the statement is
unknown. Field names are libpg_query's (PostgreSQL 17's grammar).

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Node = dict[str, Any]

# tag -> (scalar fields, child fields). A child is a node, a list of nodes, or `field:Tag` for a message that
# libpg_query writes without its tag.
_TABLE: dict[str, tuple[str, str]] = {
    "A_ArrayExpr": ("list_start list_end location", "elements"),
    "A_Const": ("ival fval boolval sval bsval isnull location", ""),
    "A_Expr": ("kind name rexpr_list_start rexpr_list_end location", "lexpr rexpr"),
    "A_Indices": ("is_slice", "lidx uidx"),
    "A_Indirection": ("indirection", "arg"),  # indirection: by hand
    "A_Star": ("", ""),
    "BitString": ("bsval", ""),
    "BoolExpr": ("boolop location", "args"),
    "Boolean": ("boolval", ""),
    "BooleanTest": ("booltesttype location", "arg"),
    "CaseExpr": ("location", "arg args defresult"),
    "CaseWhen": ("location", "expr result"),
    "CoalesceExpr": ("location", "args"),
    "CollateClause": ("collname location", "arg"),
    "ColumnRef": ("fields location", ""),
    "CurrentOfExpr": ("cvarno cursor_name cursor_param", ""),
    "Float": ("fval", ""),
    "FuncCall": (
        "funcname agg_within_group agg_star agg_distinct func_variadic funcformat location agg_filter",
        "args agg_order over:WindowDef",  # agg_filter: by hand
    ),
    "GroupingFunc": ("location", "args"),
    "GroupingSet": ("kind location", "content"),
    "Integer": ("ival", ""),
    "JsonAggConstructor": ("location agg_filter", "output:JsonOutput agg_order over:WindowDef"),
    "JsonArgument": ("name", "val:JsonValueExpr"),
    "JsonArrayAgg": ("absent_on_null", "constructor:JsonAggConstructor arg:JsonValueExpr"),
    "JsonArrayConstructor": ("absent_on_null location", "exprs output:JsonOutput"),
    "JsonArrayQueryConstructor": ("absent_on_null location query", "output:JsonOutput format:JsonFormat"),
    "JsonBehavior": ("btype coerce location", "expr"),
    "JsonFormat": ("format_type encoding location", ""),
    "JsonFuncExpr": (
        "op column_name wrapper quotes location",
        "context_item:JsonValueExpr pathspec passing output:JsonOutput on_empty:JsonBehavior on_error:JsonBehavior",
    ),
    "JsonIsPredicate": ("item_type unique_keys location", "expr format:JsonFormat"),
    "JsonKeyValue": ("", "key value:JsonValueExpr"),
    "JsonObjectAgg": ("absent_on_null unique", "constructor:JsonAggConstructor arg:JsonKeyValue"),
    "JsonObjectConstructor": ("absent_on_null unique location", "exprs output:JsonOutput"),
    "JsonOutput": ("", "typeName:TypeName returning:JsonReturning"),
    "JsonParseExpr": ("unique_keys location", "expr:JsonValueExpr output:JsonOutput"),
    "JsonReturning": ("typid typmod", "format:JsonFormat"),
    "JsonScalarExpr": ("location", "expr output:JsonOutput"),
    "JsonSerializeExpr": ("location", "expr:JsonValueExpr output:JsonOutput"),
    "JsonTableColumn": (
        "coltype name wrapper quotes location",
        "typeName:TypeName pathspec:JsonTablePathSpec format:JsonFormat columns on_empty:JsonBehavior"
        " on_error:JsonBehavior",
    ),
    "JsonTablePathSpec": ("name name_location location", "string"),
    "JsonValueExpr": ("", "raw_expr formatted_expr format:JsonFormat"),
    "List": ("", "items"),
    "MergeSupportFunc": ("msftype msfcollid location", ""),
    "MinMaxExpr": ("op location", "args"),
    "MultiAssignRef": ("colno ncolumns", "source"),
    "NamedArgExpr": ("name argnumber location", "arg"),
    "NullTest": ("nulltesttype argisrow location", "arg"),
    "ParamRef": ("number location", ""),
    "RangeTableFuncCol": ("colname for_ordinality is_not_null location", "typeName:TypeName colexpr coldefexpr"),
    "ResTarget": ("name location", "indirection val"),
    "RowExpr": ("row_format colnames location", "args"),
    "SQLValueFunction": ("op type typmod location", ""),
    "SetToDefault": ("location", ""),
    "SortBy": ("sortby_dir sortby_nulls useOp location", "node"),
    "String": ("sval", ""),
    "SubLink": ("subLinkType subLinkId operName location subselect", "testexpr"),
    "TypeCast": ("location", "arg typeName:TypeName"),
    "TypeName": ("names typeOid setof pct_type typemod arrayBounds location", "typmods"),
    "WindowDef": ("name refname frameOptions location partitionClause orderClause", "startOffset endOffset"),
    "XmlExpr": ("op name xmloption indent type typmod location arg_names", "named_args args"),
    "XmlSerialize": ("xmloption indent location", "expr typeName:TypeName"),
    # clauses and statements: walked by hand, listed so that an unknown field is seen
    "Alias": ("aliasname colnames", ""),
    "CTECycleClause": (
        "cycle_col_list cycle_mark_column cycle_path_column location cycle_mark_type cycle_mark_typmod"
        " cycle_mark_collation cycle_mark_neop",
        "cycle_mark_value cycle_mark_default",
    ),
    "CTESearchClause": ("search_col_list search_breadth_first search_seq_column location", ""),
    "CommonTableExpr": (
        "ctename aliascolnames ctematerialized ctequery search_clause cycle_clause location",
        "",
    ),
    "DeleteStmt": ("relation usingClause whereClause returningList withClause", ""),
    "InferClause": ("indexElems whereClause conname location", ""),
    "IndexElem": ("name indexcolname collation opclass opclassopts ordering nulls_ordering", "expr"),
    "InsertStmt": ("relation cols selectStmt onConflictClause returningList withClause override", ""),
    "IntoClause": ("rel colNames accessMethod options onCommit tableSpaceName skipData", ""),
    "JoinExpr": ("jointype isNatural larg rarg usingClause join_using_alias quals alias rtindex", ""),
    "JsonTable": ("context_item pathspec passing columns on_error alias lateral location", ""),
    "LockingClause": ("lockedRels strength waitPolicy", ""),
    "MergeStmt": ("relation sourceRelation joinCondition mergeWhenClauses returningList withClause", ""),
    "MergeWhenClause": ("matchKind commandType override condition targetList values", ""),
    "OnConflictClause": ("action infer targetList whereClause location", ""),
    "RangeFunction": ("lateral ordinality is_rowsfrom functions alias coldeflist", ""),
    "RangeSubselect": ("lateral subquery alias", ""),
    "RangeTableFunc": ("lateral docexpr rowexpr namespaces columns alias location", ""),
    "RangeTableSample": ("relation method args repeatable location", ""),
    "RangeVar": ("catalogname schemaname relname inh relpersistence alias location", ""),
    "SelectStmt": (
        "distinctClause intoClause targetList fromClause whereClause groupClause groupDistinct havingClause"
        " windowClause valuesLists sortClause limitOffset limitCount limitOption lockingClause withClause op all"
        " larg rarg",
        "",
    ),
    "UpdateStmt": ("relation targetList whereClause fromClause returningList withClause", ""),
    "WithClause": ("ctes recursive location", ""),
}

FIELDS: dict[str, frozenset[str]] = {}
CHILDREN: dict[str, tuple[tuple[str, str | None], ...]] = {}
for _tag, (_scalars, _children) in _TABLE.items():
    _pairs = [child.partition(":") for child in _children.split()]
    CHILDREN[_tag] = tuple((name, tag or None) for name, _, tag in _pairs)
    FIELDS[_tag] = frozenset(_scalars.split()) | {name for name, _, _ in _pairs}

# grammar productions that older servers read as a call of a function of the user's choice
KEYWORD_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "JsonArrayAgg": ("json_arrayagg",),
    "JsonArrayConstructor": ("json_array",),
    "JsonArrayQueryConstructor": ("json_array",),
    "JsonFuncExpr": ("json_exists", "json_value", "json_query"),
    "JsonObjectAgg": ("json_objectagg",),
    "JsonObjectConstructor": ("json_object",),
    "JsonParseExpr": ("json",),
    "JsonScalarExpr": ("json_scalar",),
    "JsonSerializeExpr": ("json_serialize",),
    "JsonTable": ("json_table",),
    "MergeSupportFunc": ("merge_action",),
}


def strings(nodes: Sequence[Node] | None) -> list[str]:
    """The texts of a list of String nodes; what is no String is left out."""
    return [node["String"].get("sval", "") for node in nodes or () if "String" in node]


def constant(node: Node | None) -> tuple[str, str] | None:
    """(kind, text) of a plain constant: kind s(tring), i(nteger), f(loat), b(oolean), n(ull) or x (bits)."""
    if node is None:
        return None
    body = node.get("A_Const")
    if body is None:
        return None
    if "sval" in body:
        return "s", body["sval"].get("sval", "")
    if "ival" in body:
        return "i", str(body["ival"].get("ival", 0))
    if "fval" in body:
        return "f", body["fval"].get("fval", "")
    if "boolval" in body:
        return "b", "true" if body["boolval"].get("boolval") else "false"
    if body.get("isnull"):
        return "n", ""
    return "x", body.get("bsval", {}).get("bsval", "")


def figure_name(node: Node | None) -> str:
    """The name that the server gives an output column without an alias (FigureColname).

    `?column?` where this was not worked out: a look-up of whatever name then falls back to everything.
    """
    fallback = "?column?"  # a type's or CASE's own name, weaker than what is inside
    while node:
        tag, body = next(iter(node.items()))
        if tag == "ColumnRef":
            names = strings(body.get("fields"))
            return names[-1] if names else fallback
        if tag == "A_Indirection":
            names = strings(body.get("indirection"))
            if names:
                return names[-1]
            node = body.get("arg")
        elif tag == "FuncCall":
            # EXTRACT is called date_part by servers before 14
            name = strings(body.get("funcname"))[-1]
            return name if name != "extract" else "?column?"
        elif tag == "TypeCast":
            if fallback == "?column?":
                fallback = (strings(body.get("typeName", {}).get("names")) or [fallback])[-1]
            node = body.get("arg")
        elif tag == "CollateClause":
            node = body.get("arg")
        elif tag == "CaseExpr":
            if fallback == "?column?":
                fallback = "case"
            node = body.get("defresult")
        elif tag == "SubLink":
            return _FIGURE.get(body.get("subLinkType", ""), "?column?")
        elif tag in _NAMELESS and body.get("kind") != "AEXPR_NULLIF":
            return fallback
        else:
            return _FIGURE.get(tag, "?column?")
    return fallback


_NAMELESS = frozenset({"A_Const", "A_Expr", "BoolExpr", "BooleanTest", "NullTest", "ParamRef"})
# an EXPR_SUBLINK takes its subquery's name: not worked out
_FIGURE = {
    "EXISTS_SUBLINK": "exists",
    "ARRAY_SUBLINK": "array",
    "A_ArrayExpr": "array",
    "RowExpr": "row",
    "CoalesceExpr": "coalesce",
    "GroupingFunc": "grouping",
    "XmlSerialize": "xmlserialize",
}
