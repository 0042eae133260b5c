"""Where the columns of a result come from.

Queries are traced (`lineage`); of the statements that are none, those whose answers hold names and settings are listed
here, and what any other answers may come from anywhere. What the server says of a column (its original table and name)
can be borrowed by a CTE or derived table, so it only ever adds an origin.

INVARIANT: what is not certain is COMPUTED, which the guard withholds wherever a masked relation may be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from protocols.contract import ANY_RELATION, Analysis, Origin, ResultColumn, ResultShape
from protocols.judging import NAMED_LONG
from protocols.mysql.catalog import Catalog, schema_only
from protocols.mysql.lineage import ANYTHING, NOTHING, Flow, Lineage, Output, Untraceable, opens
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.relation_flows import NO_ROWS
from protocols.mysql.state import SessionState
from protocols.mysql.statements import Statement, analyse

__all__ = ["reach", "relations", "shape", "trace"]

Touches = Callable[[Iterable[str], Iterable[str]], bool]  # `ResultMasker.touches`


def relations(analysis: Analysis) -> tuple[str, ...]:
    """Every relation whose rows can show in the answers to a command; `*` where it may read what it does not show."""
    named = (*analysis.reads, *analysis.writes)
    system = any(_shows_rows(name) for name in named)
    # SIGNAL answers with any text, a variable's for one
    says = _SAYS.search(analysis.kind) is not None
    return (*named, ANY_RELATION) if system or says or opens(analysis) else named


_SAYS = re.compile(r"\b(?:re)?signal\b")


def _shows_rows(name: str) -> bool:
    """The server's own tables that hold statistics, statements or locked rows of any other."""
    schema, _, table = name.partition(".")
    return schema.lower() in ("information_schema", "mysql", "performance_schema", "sys") and not schema_only(
        schema, table
    )


def reach(analysis: Analysis, catalog: Catalog | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the answers to a command can show rows of: (relations whose columns are not known, columns of the others).

    The two are `ResultShape`'s `reads` and `read_columns`, and what `ResultMasker.touches` takes.
    """
    if catalog is None:
        return relations(analysis), ()
    names: list[str] = []
    columns: list[str] = []
    tracer = Lineage(catalog, None)
    for name in relations(analysis):
        schema, _, table = name.partition(".")
        found = catalog.relation(schema, table) if table else None
        if found is None or not found.columns:
            if not (schema.lower() in NO_ROWS and schema_only(schema, table)):
                names.append(name)
            continue
        for column, flow in tracer.relation_flows(found)[0]:
            # a view's column carries the masks of what is behind it
            columns.extend(sorted({f"{name}.{column}"} | flow.copied | flow.computed))
            if flow.anything and ANY_RELATION not in names:
                names.append(ANY_RELATION)
    return tuple(names), tuple(dict.fromkeys(columns))


# ---------------------------------------------------------------- the columns of one statement


def shape(
    definitions: Sequence[ColumnDefinition],
    statement: Statement | None,
    analysis: Analysis,
    catalog: Catalog | None,
    state: SessionState,
    touches: Touches,
    *,
    tainted: bool = False,
    insert_id: bool = False,
) -> ResultShape:
    """Where the columns of a result come from. `statement` None: it is not known which one gave the result.

    `touches`: whether a rule could apply to these columns; an expression over columns that none of them masks needs no
    mask. `tainted`: the server's list of warnings may quote masked values. `insert_id`: see `Lineage`.
    """
    if statement is None or catalog is None:
        return _opaque(definitions, analysis, catalog, anything=True)
    try:
        outputs = trace(definitions, statement, catalog, state, tainted=tainted, insert_id=insert_id)
    except Untraceable:
        # what is read is known all the same, but not whether an insert id of this session's own making is among it
        return _opaque(definitions, statement.analysis, catalog, anything=statement.tree is None or insert_id)
    if len(outputs) != len(definitions) or not all(map(_named_so, outputs, definitions)):
        return _opaque(definitions, statement.analysis, catalog, anything=True)
    reads, read_columns = reach(statement.analysis, catalog)
    more: set[str] = set()
    anything = False
    columns = []
    for out, definition in zip(outputs, definitions, strict=True):
        flow = out.flow
        known = flow.copied | _metadata(definition)
        if flow.anything:
            origin, anything = Origin.COMPUTED, True
        elif flow.computed and touches((), flow.computed):
            origin = Origin.COMPUTED
            more |= flow.computed
        elif known or flow.computed:
            origin, known = Origin.KNOWN, known or flow.computed
        else:
            origin = Origin.CLEAR
        columns.append(ResultColumn(_label(definition), origin, _ordered(known, catalog)))
    if anything and ANY_RELATION not in reads:
        reads = (*reads, ANY_RELATION)
    return ResultShape(tuple(columns), reads, tuple(dict.fromkeys((*read_columns, *sorted(more)))))


def _opaque(
    definitions: Sequence[ColumnDefinition], analysis: Analysis, catalog: Catalog | None, *, anything: bool
) -> ResultShape:
    reads, read_columns = reach(analysis, catalog)
    if anything and ANY_RELATION not in reads:
        reads = (*reads, ANY_RELATION)
    columns = [ResultColumn(_label(d), Origin.COMPUTED, tuple(sorted(_metadata(d)))) for d in definitions]
    return ResultShape(tuple(columns), reads, read_columns)


def _label(definition: ColumnDefinition) -> str:
    return definition.name.decode("utf-8", "replace")


def _named_so(output: Output, definition: ColumnDefinition) -> bool:
    """A column that came from `*` has the name that was worked out: else it is another one."""
    if not output.star or not output.name:  # an expression behind a star is called by its text
        return True
    try:
        return definition.name.decode("utf-8").lower() == (output.name or "").lower()
    except UnicodeDecodeError:
        return False


def _metadata(definition: ColumnDefinition) -> frozenset[str]:
    if not definition.org_name or not definition.org_table:
        return frozenset()
    parts = (definition.schema, definition.org_table, definition.org_name)
    return frozenset({".".join(p.decode("utf-8", "replace") for p in parts)})


def _ordered(columns: Iterable[str], catalog: Catalog) -> tuple[str, ...]:
    """A base table's column last: one value has one token, whichever view it is read through."""

    def base(column: str) -> tuple[bool, str]:
        schema, _, rest = column.partition(".")
        found = catalog.relation(schema, rest.rpartition(".")[0])
        return found is not None and found.kind == "table", column

    return tuple(sorted(columns, key=base))


def trace(
    definitions: Sequence[ColumnDefinition],
    statement: Statement,
    catalog: Catalog,
    state: SessionState,
    *,
    tainted: bool = False,
    insert_id: bool = False,
) -> Sequence[Output]:
    """The flows into a statement's columns. Raises `Untraceable`."""
    if isinstance(statement.tree, Traced):
        return statement.tree.outputs(catalog, state, insert_id=insert_id)
    if statement.tree is not None:
        lineage = Lineage(catalog, state, opens=opens(statement.analysis), insert_id=insert_id)
        return lineage.outputs(statement.tree)
    if statement.kind == "execute":
        return _executed(definitions, statement, catalog, state, tainted=tainted, insert_id=insert_id)
    return _listed(definitions, statement, catalog, state, tainted=tainted, insert_id=insert_id)


class Traced(NamedTuple):
    """What masks need of the tree of a statement that was analysed apart: the flows into its columns, by the names and
    the session of that time. None: not traceable.
    """

    version: str  # of the catalog
    meaning: Hashable
    plain: tuple[Output, ...] | None
    own_id: tuple[Output, ...] | None  # with `insert_id`

    def outputs(self, catalog: Catalog, state: SessionState, *, insert_id: bool) -> tuple[Output, ...]:
        """Raises `Untraceable`, also where names may mean something else by now."""
        found = self.own_id if insert_id else self.plain
        if found is None or catalog.version != self.version or state.meaning_key() != self.meaning:
            raise Untraceable("analysed apart, under other names")
        return found


def traced(statement: Statement, catalog: Catalog | None, state: SessionState) -> Traced | None:
    """For a statement that has a tree."""
    if catalog is None:
        return None
    found: list[tuple[Output, ...] | None] = []
    for insert_id in (False, True):
        try:
            outputs = trace((), statement, catalog, state, insert_id=insert_id)
        except Untraceable:
            found.append(None)
        else:
            found.append(tuple(outputs))
    return Traced(catalog.version, state.meaning_key(), found[0], found[1])


def _executed(
    definitions: Sequence[ColumnDefinition],
    statement: Statement,
    catalog: Catalog,
    state: SessionState,
    *,
    tainted: bool,
    insert_id: bool,
) -> Sequence[Output]:
    """EXECUTE: the columns of what was prepared under that name."""
    found = _EXECUTE.match(statement.text)
    name = (found[1] or found[2]).decode("latin-1") if found is not None else ""
    prepared = state.prepared.get(name.lower())
    if prepared is None or prepared.text is None:
        raise Untraceable("a prepared statement whose text is not known")
    if len(prepared.text) > NAMED_LONG:
        raise Untraceable("a prepared statement that is too long to be read while its answer waits")
    inner = analyse(prepared.text, state, catalog).statements
    if len(inner) != 1 or inner[0].kind == "execute":
        raise Untraceable("a prepared statement that is not one statement")
    if inner[0].tree is None:
        return _listed(definitions, inner[0], catalog, state, tainted=tainted, insert_id=insert_id)
    # its parameters are user variables, which may hold what was read before
    lineage = Lineage(
        catalog, state, opens=opens(inner[0].analysis), insert_id=insert_id, parameters=bool(found and found[3])
    )
    return lineage.outputs(inner[0].tree)


_EXECUTE = re.compile(rb"(?is)execute\s+(?:`([\w$]+)`|([\w$]+))\s*(using\b.*)?\Z")


# ---------------------------------------------------------------- statements that are no queries

_CLEAR = Output(None, NOTHING)
_SECRET = Output(None, ANYTHING)
# their answers hold names, settings and counts
_SCHEMA = re.compile(
    r"show (?:(?:session|global|local|full|extended) )*(?:tables|columns|fields|databases|schemas|catalogs|index"
    r"|indexes|keys|variables|status|engines|storage engines|collation|character set|charset|privileges|plugins"
    r"|plugins soname|triggers|events|open tables|table status"
    r"|(?:procedure|function|package|package body|library) status|authors|contributors|locales|grants"
    r"|create (?:table|view|procedure|function|trigger|event|sequence|package|package body)"
    r"|create (?:database|schema)(?: if not exists)?|count \( \* \) (?:warnings|errors))"
)
_DESCRIBED = frozenset({"field", "type", "collation", "null", "key", "default", "extra", "privileges", "comment"})
# of a plan in rows. One in a single column (TREE, JSON) shows constants that were read from rows while planning.
_PLAN = frozenset(
    {"id", "select_type", "table", "partitions", "type", "possible_keys", "key", "key_len", "ref", "rows", "filtered",
     "r_rows", "r_filtered", "extra"}
)  # fmt: skip
_MAINTENANCE = frozenset({"check table", "analyze table", "optimize table", "repair table"})
# columns with names out of the text that made a table, and nothing that a server made of its rows
_NAMES = frozenset({"field", "table", "key", "privileges", "comment", "collation"})


def _listed(
    definitions: Sequence[ColumnDefinition],
    statement: Statement,
    catalog: Catalog,
    state: SessionState,
    *,
    tainted: bool,
    insert_id: bool,
) -> Sequence[Output]:
    kind = statement.kind
    names = [_label(d).lower() for d in definitions]
    if insert_id and kind.startswith("show ") and kind.endswith(" variables"):
        return [_CLEAR if name == "variable_name" else _SECRET for name in names]
    if _SCHEMA.fullmatch(kind):
        made = _structure(statement.analysis, catalog, state)
        return [_SECRET if name == "checksum" else _CLEAR if name in _NAMES else made for name in names]
    if kind in ("show warnings", "show errors"):
        return [_SECRET if tainted and name not in ("level", "code") else _CLEAR for name in names]
    if kind == "help":
        return [_CLEAR] * len(names)
    if kind in _MAINTENANCE:
        return [_CLEAR if name in ("table", "op", "msg_type") else _SECRET for name in names]
    if kind == "describe" and _DESCRIBED.issuperset(names):
        made = _structure(statement.analysis, catalog, state)
        return [_CLEAR if name in _NAMES else made for name in names]
    if kind in ("explain", "analyze"):
        if opens(statement.analysis):
            return [_SECRET] * len(names)
        if len(names) > 1 and _PLAN.issuperset(names):
            return [_CLEAR] * len(names)
        return [Output(None, _read_flow(statement.analysis, catalog))] * len(names)
    if kind.startswith("handler"):
        return _handler(statement.text, catalog, state)
    raise Untraceable("a statement whose answer may hold anything")


def _structure(analysis: Analysis, catalog: Catalog, state: SessionState) -> Output:
    """What a temporary table looks like: MariaDB makes a column as wide as the values of a query's constants say, and a
    variable or a scalar query is one. (A table that stays is made of masked values only where a policy grants copies.)
    """
    made = (state.temporary(*name.split(".", 1)) for name in analysis.reads if "." in name)
    sources = tuple(dict.fromkeys(source for one in made if one is not None for source in one.sources))
    return Output(None, _read_flow(replace(analysis, reads=sources, writes=()), catalog)) if sources else _CLEAR


def _read_flow(analysis: Analysis, catalog: Catalog) -> Flow:
    """Everything that a statement reads."""
    reads, columns = reach(analysis, catalog)
    return ANYTHING if reads else Flow(frozenset(), frozenset(columns))


_READ = re.compile(rb"(?is)handler\s+(?:`((?:[^`]|``)+)`|([\w$]+))\s+read\b")


def _handler(text: bytes, catalog: Catalog, state: SessionState) -> Sequence[Output]:
    found = _READ.match(text)
    name = (found[1] or found[2]).decode("utf-8", "replace").replace("``", "`") if found is not None else ""
    relation = state.handlers.get(name.lower())
    schema, _, table = (relation or "").partition(".")
    known = catalog.relation(schema, table)
    if known is None or not known.columns or state.touched or state.temporary(schema, table) is not None:
        raise Untraceable("a HANDLER whose table is not known")
    return [Output(column, flow, True) for column, flow in Lineage(catalog, None).relation_flows(known)[0]]
