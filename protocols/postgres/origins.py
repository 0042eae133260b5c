"""Where the columns of a result come from.

What PostgreSQL says of a column (RowDescription: table OID, attribute number) sees through aliases, subqueries, CTEs,
RETURNING and cursors. Zero means computed; a whole row has a table but attribute 0; a write can put any value into the
columns that it assigns, so those count as computed as well, and so do generated columns.

INVARIANT: what is not certain is COMPUTED, which the guard withholds wherever a masked relation may be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from protocols.contract import ANY_RELATION, Analysis, Effect, Origin, ResultColumn, ResultShape
from protocols.postgres.messages import FieldDescription, RowDescription
from protocols.postgres.statements.names import holds_anything
from protocols.postgres.values import TypeCatalog

_MAX_COLUMNS = 20_000  # that one computed column is made of
_MAX_NODES = 100_000  # of a parse tree walked for assigned columns; past it every column counts as assigned

# code that the analysis did not see into may read any relation
_OPENS_ANY = frozenset(
    {
        Effect.UNKNOWN,
        Effect.EXEC_CALL,
        Effect.EXEC_PROCEDURE,
        Effect.EXEC_DYNAMIC,
        Effect.EXEC_CAST,
        Effect.EXEC_LIBRARY,
    }
)


class Relation(Protocol):
    @property
    def oid(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, tuple[int, int]]:
        """By name: (attribute number, type)."""


class OriginCatalog(TypeCatalog, Protocol):
    @property
    def relations(self) -> Mapping[tuple[str, str], Relation]:
        """By schema and name."""

    def origin(self, table_oid: int, attnum: int) -> tuple[str, ...] | None:
        """`schema.table.column` of a column and of its parents; () computed; None for an unknown OID."""

    def made_of(self, table_oid: int, attnum: int) -> tuple[str, ...]:
        """The columns that a generated column is computed from; () for any other."""


def reach(analysis: Analysis, catalog: OriginCatalog | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the answers to a command can show rows of: (relations whose columns are not known, columns of the others).

    The two are `ResultShape`'s `reads` and `read_columns`, and what `ResultMasker.touches` takes.
    """
    if catalog is None:
        return relations(analysis), ()
    names: list[str] = []
    columns: list[str] = []
    for name in relations(analysis):
        schema, _, table = name.partition(".")
        found = catalog.relations.get((schema, table))
        if found is None or not found.columns:
            names.append(name)
        else:
            for column, (number, _) in found.columns.items():
                # a column that a table has from its parent carries the parent's masks
                columns.extend(dict.fromkeys((f"{name}.{column}", *(catalog.origin(found.oid, number) or ()))))
    return tuple(names), tuple(columns)


def relations(analysis: Analysis) -> tuple[str, ...]:
    """Every relation whose rows can show in the answers to a command; `*` where it may read what it does not show.

    A trigger's function is named by a write without an effect of its own: it may read anything, too.
    """
    named = (*analysis.reads, *analysis.writes)
    return (*named, ANY_RELATION) if _opens(analysis) else named


def _opens(analysis: Analysis) -> bool:
    if analysis.functions and (analysis.writes or any(map(holds_anything, analysis.functions))):
        return True
    return not _OPENS_ANY.isdisjoint(analysis.effects)


def shape(
    description: RowDescription,
    catalog: OriginCatalog | None,
    analysis: Analysis,
    single: bool = True,
    tree: Mapping[str, Any] | Assigned | None = None,
) -> ResultShape:
    """Where the columns of a result come from.

    `single`: the analysis is of exactly the statement that gives this result, so its `clear_columns` are this result's.
    `tree`: that statement's parse tree (pgparse); with it a write taints only the columns that it assigns, without it
    all columns of the relations that it writes. Without a catalog no origin is known.
    """
    taint = _Taint(analysis, tree)
    # EXPLAIN shows plans, not rows; what it evaluates while planning could only be a function's doing
    plan_only = analysis.kind.startswith("explain") and len(description.fields) == 1 and not _opens(analysis)
    clear = analysis.clear_columns
    depends = analysis.depends if single and len(analysis.depends) == len(description.fields) else ()
    if analysis.writes or _opens(analysis) or catalog is None:
        depends = ()
    filters = _spelt_out(analysis.predicates, catalog) if depends and catalog is not None else None
    columns = []
    for index, field in enumerate(description.fields):
        origin, known = _field_origin(field, catalog)
        made = catalog.made_of(field.table_oid, field.attnum) if origin is Origin.KNOWN and catalog is not None else ()
        if origin is Origin.KNOWN and taint.has((*known, *made)):
            origin, made = Origin.COMPUTED, ()
        elif field.table_oid == 0 and single and (plan_only or (index in clear and not analysis.writes)):
            origin = Origin.CLEAR
        made_of = None
        if made:
            origin, made_of = Origin.COMPUTED, made
        elif origin is Origin.COMPUTED and filters is not None and catalog is not None and not known:
            own = _spelt_out(depends[index], catalog)
            made_of = None if own is None else tuple(dict.fromkeys((*own, *filters)))
        columns.append(ResultColumn(field.name.decode("utf-8", "replace"), origin, known, made_of))
    return ResultShape(tuple(columns), *reach(analysis, catalog))


def _spelt_out(columns: Iterable[str], catalog: OriginCatalog) -> tuple[str, ...] | None:
    """The columns, `*` replaced by all of the relation's, each with its parents; None where one is not known."""
    found: dict[str, None] = {}
    for column in columns:
        relation, _, name = column.rpartition(".")
        schema, _, table = relation.partition(".")
        known = catalog.relations.get((schema, table))
        if known is None or (name != "*" and name not in known.columns):
            return None
        for one in known.columns if name == "*" else (name,):
            found.update(
                dict.fromkeys((f"{relation}.{one}", *(catalog.origin(known.oid, known.columns[one][0]) or ())))
            )
        if len(found) > _MAX_COLUMNS:
            return None
    return tuple(found)


def _field_origin(field: FieldDescription, catalog: OriginCatalog | None) -> tuple[Origin, tuple[str, ...]]:
    if field.table_oid == 0 or field.attnum == 0 or catalog is None:
        return Origin.COMPUTED, ()
    known = catalog.origin(field.table_oid, field.attnum)
    if known:
        return Origin.KNOWN, known
    if known is None and field.attnum < 0:
        return Origin.CLEAR, ()  # system columns (ctid, xmin, tableoid) hold no column's value
    return Origin.COMPUTED, ()


# ---------------------------------------------------------------- writes


class Assigned(NamedTuple):
    """What masks need of the tree of a statement that was analysed apart: names of columns, None: it could be any."""

    reading: frozenset[str] | None  # where the statement reads something
    plain: frozenset[str] | None


def assigned(tree: Mapping[str, Any], writes: Sequence[str]) -> Assigned:
    """Names of the columns that a statement's writes fill from something read."""
    written = frozenset(writes)
    return Assigned(_assigned(tree, written, reads=True), _assigned(tree, written, reads=False))


class _Taint:
    """The columns that a statement itself fills, perhaps from masked ones, before it returns them."""

    def __init__(self, analysis: Analysis, tree: Mapping[str, Any] | Assigned | None) -> None:
        self._written = frozenset(analysis.writes)
        self._assigned = None
        if self._written and tree is not None:
            reads = bool(analysis.reads) or _opens(analysis)
            if isinstance(tree, Assigned):
                self._assigned = tree.reading if reads else tree.plain
            else:
                self._assigned = _assigned(tree, self._written, reads=reads)

    def has(self, columns: Iterable[str]) -> bool:
        if not self._written:
            return False
        for column in columns:
            relation, _, name = column.rpartition(".")
            if name in self._assigned if self._assigned is not None else relation in self._written:
                return True
        return False


def _assigned(tree: Mapping[str, Any], written: frozenset[str], *, reads: bool) -> frozenset[str] | None:
    """Names of the columns that the statement's writes fill from something read; None: it could be any."""
    names: set[str] = set()
    targets: set[str] = set()
    for kind, node in _writes(tree):
        if kind == "":
            return None
        relation = node.get("relation")
        if isinstance(relation, Mapping):
            targets.add(str(relation.get("relname")))
        found = _targets(kind, node, reads=reads)
        if found is None:
            return None
        names |= found
    # writes that the text does not show (rules, views, prepared statements, cursors) may assign anything
    if not {relation.rpartition(".")[2] for relation in written} <= targets:
        return None
    return frozenset(names)


def _targets(kind: str, node: Mapping[str, Any], *, reads: bool) -> set[str] | None:
    lists = [node.get("targetList")]
    if kind == "InsertStmt":
        conflict = node.get("onConflictClause")
        if conflict is None and not reads:
            return set()  # the client's own values
        if not node.get("cols"):
            return None
        lists = [node["cols"], conflict.get("targetList") if isinstance(conflict, Mapping) else None]
    elif kind == "MergeWhenClause" and node.get("commandType") == "CMD_INSERT" and not node.get("targetList"):
        return None
    names: set[str] = set()
    for items in lists:
        for item in items or ():
            target = item.get("ResTarget") if isinstance(item, Mapping) else None
            if not isinstance(target, Mapping) or "name" not in target:
                return None
            if not _client_value(target.get("val")):
                names.add(str(target["name"]))
    return names


def _client_value(value: object) -> bool:
    """A constant or a parameter, perhaps cast: what the client itself gave."""
    while isinstance(value, Mapping) and "TypeCast" in value:
        value = value["TypeCast"].get("arg")
    return isinstance(value, Mapping) and ("A_Const" in value or "ParamRef" in value)


def _writes(tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node of a parse tree that writes rows, with its type's name; `""` when the tree is too large to walk."""
    stack: list[Any] = [tree]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        node = stack.pop()
        if isinstance(node, Mapping):
            for key, value in node.items():
                if key in ("InsertStmt", "UpdateStmt", "MergeStmt", "DeleteStmt", "MergeWhenClause"):
                    yield key, value
                stack.append(value)
        elif isinstance(node, (list, tuple)):
            stack.extend(node)
    yield "", {}
