"""What a value may hold, and the names that a query sees: the values that `lineage` works with.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sqlglot import exp

from protocols.contract import Analysis, Effect

MAX_NODES = 20_000  # of one statement with the views that it reads
MAX_COLUMNS = 4096  # of one table or join: as many as the servers take
MAX_NAME = 256  # characters of an alias
MAX_DEPTH = 48  # of queries within queries and views over views

# code that the analysis did not see into may read any relation
OPENS_ANY = frozenset(
    {
        Effect.UNKNOWN,
        Effect.EXEC_CALL,
        Effect.EXEC_PROCEDURE,
        Effect.EXEC_DYNAMIC,
        Effect.EXEC_CAST,
        Effect.EXEC_LIBRARY,
        Effect.FILE_READ,
    }
)


def opens(analysis: Analysis) -> bool:
    """Whether a command runs code, or reads files, that its text does not show."""
    return not OPENS_ANY.isdisjoint(analysis.effects) or bool(analysis.functions)


class Untraceable(Exception):
    """The origins of this statement's columns cannot be told. The text is for tests and logs."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What one value may hold: a copy of one of `copied`, something computed from `computed`, or anything."""

    copied: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()
    anything: bool = False

    def __or__(self, other: Flow) -> Flow:
        if other is NOTHING or self == other:
            return self
        return Flow(self.copied | other.copied, self.computed | other.computed, self.anything or other.anything)

    def derived(self) -> Flow:
        """The flow of a value that is computed from this one."""
        return Flow(frozenset(), self.copied | self.computed, self.anything) if self.copied else self


NOTHING = Flow()
ANYTHING = Flow(anything=True)


class Output(NamedTuple):
    """One column of a query. `name` None: an expression's text. `star`: the server itself names it after its column."""

    name: str | None
    flow: Flow
    star: bool = False


class Result(NamedTuple):
    """A query's columns, None where their number is not known, and what decides which rows there are."""

    outputs: list[Output] | None
    rows: Flow
    rest: Flow = NOTHING  # of columns that are not known


class Variables(Protocol):
    """What is asked of a session's state; see `protocols.mysql.state.SessionState`."""

    @property
    def database(self) -> str | None: ...
    @property
    def database_known(self) -> bool: ...
    @property
    def touched(self) -> set[str]: ...
    def temporary(self, schema: str, name: str) -> Any: ...
    def variable(self, name: str) -> Any: ...


@dataclass(slots=True)
class Source:
    """One table of a FROM. `columns` None: not known; each may then hold `rest`."""

    alias: str
    schema: str | None
    columns: list[tuple[str, Flow]] | None
    rows: Flow = NOTHING
    rest: Flow = NOTHING
    visible: list[tuple[str, Flow]] | None = None  # what `*` takes
    stored: bool = False  # a table that the server keeps: each value is as it was written

    def __post_init__(self) -> None:
        if self.visible is None:
            self.visible = self.columns


@dataclass(slots=True)
class Scope:
    outer: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    items: Sequence[exp.Expr] = ()  # of the SELECT list, whose aliases inner queries may name
    windows: Sequence[exp.Expr] = ()
    resolving: set[int] = field(default_factory=set)


type Ctes = Mapping[str, tuple[str, Result]]  # by folded name: (name as written, its columns)


def alike(one: str, other: str) -> bool:
    """Whether the server could take one name for the other.

    utf8mb3_general_ci ignores case and accents, character by character: what is not ASCII matches any character.
    """
    if one == other:
        return True
    if len(one) != len(other):
        return False
    # letter by letter: in lower case a name may have another length
    return all(a.lower() == b.lower() or a > "\x7f" or b > "\x7f" for a, b in zip(one, other, strict=True))


def same(one: str, other: str) -> bool:
    """Whether the server surely takes one name of a column for the other."""
    return one == other or (one.isascii() and other.isascii() and one.lower() == other.lower())


def given(name: str) -> str:
    """The name that an alias gives, "" where the server makes another of it.

    It drops blanks at the beginning, what is behind a NUL, and what is too long.
    """
    return name if name.isprintable() and not name.startswith(" ") and len(name) <= MAX_NAME else ""


def union(flows: Iterable[Flow]) -> Flow:
    out = NOTHING
    for flow in flows:
        out = out | flow
    return out


# ---------------------------------------------------------------- small parts


def alias_of(alias: exp.Expr | None) -> str:
    return alias.name if alias is not None else ""


def called(node: exp.Expr) -> str:
    """The name of a function that sqlglot does not know, in upper case, with or without quotes around it; else ""."""
    if not isinstance(node, exp.Anonymous):
        return ""
    this = node.this
    return (this if isinstance(this, str) else str(this.name)).upper()


def side(join: exp.Expr) -> str:
    return str(join.args.get("side") or "").upper()


def bare(node: exp.Expr) -> exp.Expr:
    """A table without its alias and joins."""
    if isinstance(node, exp.Table):
        node.set("joins", None)
    return node


def may_be_number(node: exp.Expr) -> bool:
    """Whether GROUP BY or ORDER BY may take it for a column's number: in brackets, `TRUE`, `-(-1)`, a parameter."""
    while isinstance(node, exp.Ordered | exp.Paren | exp.Neg):
        node = node.this
    return isinstance(node, exp.Boolean | exp.Placeholder) or (isinstance(node, exp.Literal) and not node.is_string)


def renamed(result: Result, names: Sequence[str]) -> Result:
    """The columns under the names of `alias(a, b)`."""
    if not names:
        return result
    if result.outputs is None or len(result.outputs) != len(names):
        raise Untraceable("as many names as columns are needed")
    outputs = [Output(given(n), o.flow) for n, o in zip(names, result.outputs, strict=True)]
    return Result(outputs, result.rows, result.rest)


def merged(one: Result, other: Result) -> Result:
    """Rows of both: each column may come from either. The names are the first one's."""
    rows, rest = one.rows | other.rows, one.rest | other.rest
    if one.outputs is None or other.outputs is None:
        whole = union(o.flow for r in (one, other) for o in r.outputs or ())
        return Result(None, rows, rest | whole)
    if len(one.outputs) != len(other.outputs):
        raise Untraceable("queries of different widths")
    outputs = [
        Output(a.name, a.flow if a.flow == b.flow else a.flow | b.flow, a.star)
        for a, b in zip(one.outputs, other.outputs, strict=True)
    ]
    return Result(outputs, rows, rest)


def joined(
    left: list[tuple[str, Flow]] | None, right: list[tuple[str, Flow]] | None, common: Sequence[str] | None
) -> list[tuple[str, Flow]] | None:
    """What `*` means of a join; `common`: the columns of USING or NATURAL, which come once and first."""
    if left is None or right is None:
        return None
    if len(left) + len(right) > MAX_COLUMNS:
        raise Untraceable("more columns than a server takes")
    if common is None:
        return left + right
    shared: Callable[[str], bool] = lambda name: any(alike(name, c) for c in common)  # noqa: E731 - used twice, here
    once = [(name, flow | union(f for n, f in right if alike(n, name))) for name, flow in left if shared(name)]
    return once + [c for c in left if not shared(c[0])] + [c for c in right if not shared(c[0])]


def declassified(node: exp.Expr, scope: Scope) -> Sequence[exp.Expr] | None:
    """What is counted or compared by `count(*)`, `count([DISTINCT] column)`, `column IS NULL`; None for anything else.

    Different values are counted where every source in reach is a stored table: among those of a query that puts a
    guess beside a value, their number says whether it was right.
    """
    if isinstance(node, exp.Is):
        plain = isinstance(node.expression, exp.Null) and _plain(node.this)
        return (node.this,) if plain else None
    if not isinstance(node, exp.Count) or isinstance(node.parent, exp.Filter) or node.expressions:
        return None  # what a window counts by is beside this node
    if isinstance(node.this, exp.Distinct):
        counted = node.this.expressions
        return counted if all(map(_plain, counted)) and not node.this.args.get("on") and _stored(scope) else None
    return (node.this,) if isinstance(node.this, exp.Star | exp.Column | exp.Literal) else None


def _plain(node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and not isinstance(node.this, exp.Star)


def _stored(scope: Scope | None) -> bool:
    """An aggregate may be one of a query around its own."""
    while scope is not None:
        if not all(source.stored for source in scope.sources):
            return False
        scope = scope.outer
    return True


def json_columns(table: exp.Expr) -> list[str] | None:
    """The columns of a JSON_TABLE, nested ones in their place; None where they cannot be told."""
    out: list[str] = []
    schema = table.args.get("schema")
    waiting = list(schema.expressions) if schema is not None else []
    while waiting:
        column = waiting.pop(0)
        nested = column.args.get("nested_schema")
        if nested is not None:
            waiting[:0] = nested.expressions
        elif column.this is None:
            return None
        else:
            out.append(column.name)
    return out or None


def whole(source: Source) -> Flow:
    """Everything in a source."""
    return union(flow for _, flow in source.columns or ()) | source.rest
