"""Where the columns of a COPY ... TO STDOUT come from: the server announces how many there are, and nothing else."""

from __future__ import annotations

from typing import Any

import pgparse

from protocols.contract import Analysis, Origin, ResultColumn, ResultShape
from protocols.postgres import results
from protocols.postgres.catalog import Catalog
from protocols.postgres.copy_options import CopyOptions
from protocols.postgres.messages import RowDescription
from protocols.postgres.results import MaskError
from protocols.postgres.statements.text import copied_query

_LONGEST = 16_384  # bytes of a COPY whose query is compared; the columns of a longer one count as unknown
_PARSED = 65_536  # bytes of a text that is parsed while everybody waits; what a longer one copies is not known
_PLACES = frozenset({"location", "stmt_location", "stmt_len"})

Types = tuple[tuple[int, int], ...]
Tree = dict[str, Any]


def tree_of(text: bytes, index: int, count: int) -> Tree | None:
    """The parse tree of the COPY that is statement number `index` of a message's `count`; None where it is none."""
    if len(text) > _PARSED:
        return None
    try:
        parsed = pgparse.parse(text.decode())
    except (pgparse.PGQueryError, ValueError, RecursionError):
        return None
    if len(parsed) != count or index >= count:
        return None
    found = parsed[index].get("stmt", {}).get("CopyStmt")
    return found if isinstance(found, dict) else None


def options(tree: Tree | None, types: Types) -> CopyOptions:
    """How the rows are written. Raises MaskError where that is not known: they cannot be read then."""
    if tree is None:
        raise MaskError("the statement behind this COPY is not known")
    given = CopyOptions.from_tree(tree)
    return CopyOptions(
        given.format, given.delimiter, given.null, given.quote, given.escape, given.header, given.encoding, types
    )


def shape(
    tree: Tree | None, width: int, described: RowDescription | None, catalog: Catalog | None, analysis: Analysis
) -> tuple[ResultShape, Types]:
    """The columns' origins and types; what is not known counts as computed. `analysis` is of this statement."""
    if tree is not None and described is not None and len(described.fields) == width:
        types = tuple((f.type_oid, f.type_mod) for f in described.fields)
        return results.shape(described, catalog, analysis, False), types
    reads, columns_read = results.reach(analysis, catalog)
    if tree is not None and "relation" in tree and catalog is not None:
        names = [str(item["String"]["sval"]) for item in tree.get("attlist", ())]
        found = table_columns(analysis.reads, names, catalog)
        if len(found) == width:
            return ResultShape(tuple(c for c, _ in found), reads, columns_read), tuple((oid, -1) for _, oid in found)
    unknown = tuple(ResultColumn(f"column{i + 1}", Origin.COMPUTED) for i in range(width))
    return ResultShape(unknown, reads, columns_read), ()


def table_columns(tables: tuple[str, ...], names: list[str], catalog: Catalog) -> list[tuple[ResultColumn, int]]:
    """The columns that COPY moves, in order, with their types; empty where the table is not certain."""
    relations = [r for r in catalog.relations_by_oid.values() if r.qualified in tables]
    if len(tables) != 1 or len(relations) != 1:
        return []
    relation = relations[0]
    out = []
    stored = [n for n, (number, _) in relation.columns.items() if not catalog.is_generated(relation.oid, number)]
    for name in names or stored:
        if name not in relation.columns:
            return []
        number, type_oid = relation.columns[name]
        origin = catalog.origin(relation.oid, number)
        out.append((ResultColumn(name, Origin.KNOWN if origin else Origin.COMPUTED, origin or ()), type_oid))
    return out


def inner_query(message: bytes, count: int) -> bytes | None:
    """The text of the query in `COPY (query) TO ...`, if the message is exactly that.

    Cut out at its parentheses and believed only if it parses to the very same tree.
    """
    if count != 1 or len(message) > _LONGEST:
        return None
    try:
        text = message.decode()
        inner = copied_query(text)
        parsed = pgparse.parse(inner) if inner else []
    except (pgparse.PGQueryError, ValueError, RecursionError):
        return None
    tree = tree_of(message, 0, 1) if inner and len(parsed) == 1 else None
    if inner is None or tree is None or "query" not in tree:
        return None
    return inner.encode() if _alike(parsed[0].get("stmt"), tree["query"]) else None


def _alike(one: Any, other: Any) -> bool:
    """Whether two trees differ in nothing but where their parts stand in the text; however deep they are."""
    waiting = [(one, other)]
    while waiting:
        a, b = waiting.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            keys = (a.keys() | b.keys()) - _PLACES
            if not (keys <= a.keys() and keys <= b.keys()):
                return False
            waiting.extend((a[key], b[key]) for key in keys)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            waiting.extend(zip(a, b, strict=True))
        elif a != b or type(a) is not type(b):
            return False
    return True
