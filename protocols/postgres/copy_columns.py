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

_TRIES = 6  # parentheses looked at from either end

Types = tuple[tuple[int, int], ...]
Tree = dict[str, Any]


def tree_of(text: bytes, index: int, count: int) -> Tree | None:
    """The parse tree of the COPY that is statement number `index` of a message's `count`; None where it is none."""
    try:
        parsed = pgparse.parse(text.decode())
    except (pgparse.PGQueryError, ValueError):
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
        found = _table_columns(analysis.reads, names, catalog)
        if len(found) == width:
            return ResultShape(tuple(c for c, _ in found), reads, columns_read), tuple((oid, -1) for _, oid in found)
    unknown = tuple(ResultColumn(f"column{i + 1}", Origin.COMPUTED) for i in range(width))
    return ResultShape(unknown, reads, columns_read), ()


def _table_columns(reads: tuple[str, ...], names: list[str], catalog: Catalog) -> list[tuple[ResultColumn, int]]:
    """The columns that COPY writes, in order, with their types; empty where the table is not certain."""
    relations = [r for r in catalog.relations_by_oid.values() if r.qualified in reads]
    if len(reads) != 1 or len(relations) != 1:
        return []
    relation = relations[0]
    out = []
    for name in names or relation.columns:
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
    tree = tree_of(message, 0, 1) if count == 1 else None
    if tree is None or "query" not in tree:
        return None
    text = message.decode()
    wanted = _bare(tree["query"])
    opens = [i for i, c in enumerate(text) if c == "("][:_TRIES]
    closes = [i for i, c in enumerate(text) if c == ")"][-_TRIES:]
    for start in opens:
        for end in reversed(closes):
            inner = text[start + 1 : end]
            if end > start and _is(inner, wanted):
                return inner.encode()
    return None


def _is(text: str, wanted: Any) -> bool:
    try:
        parsed = pgparse.parse(text)
    except (pgparse.PGQueryError, ValueError):
        return False
    return len(parsed) == 1 and _bare(parsed[0].get("stmt")) == wanted


def _bare(tree: Any) -> Any:
    """The tree without the places where its parts stand in the text."""
    if isinstance(tree, dict):
        return {k: _bare(v) for k, v in tree.items() if k not in ("location", "stmt_location", "stmt_len")}
    if isinstance(tree, list):
        return [_bare(v) for v in tree]
    return tree
