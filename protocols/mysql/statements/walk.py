"""What the analysis of one statement gathers while it reads.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from protocols.contract import ANYWHERE, Analysis, Cacheable, Effect, Store, Where
from protocols.mysql.catalog import Catalog, schema_only
from protocols.mysql.statements.lexer import Unreadable
from protocols.mysql.statements.model import Change, ChangeKind

if TYPE_CHECKING:
    from protocols.mysql.state import SessionState

STRENGTH = {Where.NONE: 0, Where.PRESENT: 1, Where.ALWAYS_TRUE: 2, Where.MISSING: 3}
MAX_STORES = 5000  # of one statement; past it anything may be stored anywhere
MAX_WORK = 500_000  # about microseconds: looking up names in one statement


class Walk:
    """Effects, relations, columns and changes of one statement; `unknown` for everything that is not proved."""

    def __init__(self, state: SessionState, catalog: Catalog, depth: int = 0) -> None:
        self.state = state
        self.catalog = catalog
        self.depth = depth  # of bodies: views, prepared statements
        self.effects: set[Effect] = set()
        self.reads: dict[str, None] = {}
        self.writes: dict[str, None] = {}
        self.columns: dict[str, None] = {}
        self.predicates: dict[str, None] = {}
        self.functions: dict[str, None] = {}
        self.where = Where.NONE
        self.why: list[str] = []
        self.changes: list[Change] = []
        self.stores: dict[Store, None] = {}
        self.constants = False  # a constant was read: the verdict is that of this very text
        self.fleeting = False  # the verdict rests on prepared names: not even that
        self.view = False  # the text is that of a view, as the server keeps it
        self.inner = 0  # tokens of other texts that were read for this one
        self.work = 0
        self.named = False  # names a relation or routine, which takes a catalog

    def add(self, *effects: Effect) -> None:
        self.effects.update(effects)

    def unknown(self, why: str) -> None:
        self.effects.add(Effect.UNKNOWN)
        if why not in self.why and len(self.why) < 8:
            self.why.append(why)

    def spend(self, work: int) -> None:
        """Bounds the time: names that are looked up among many others. Raises Unreadable."""
        self.work += work
        if self.work > MAX_WORK:
            raise Unreadable("the statement is too large to be judged")

    def change(self, kind: ChangeKind, name: str | None = None, value: object = None) -> None:
        self.changes.append(Change(kind, name, value))

    def filter(self, where: Where) -> None:
        if STRENGTH[where] > STRENGTH[self.where]:
            self.where = where

    def predicate(self, origins: Iterable[str]) -> None:
        for origin in origins:
            if origin != ANYWHERE:
                self.predicates[origin] = None

    def store(self, target: str, sources: Iterable[str], *, copied: bool = False, name: str = "") -> None:
        """Values made of these columns go to `target`, as `Store` says."""
        listed = tuple(sorted(set(sources)))
        if not listed or (copied and listed == (target,)):  # a column's values, put into the same column
            return
        if len(self.stores) >= MAX_STORES:
            self.stores = {Store(ANYWHERE, (ANYWHERE,)): None}
        else:
            self.stores[Store(target, listed, copied, "" if copied else name)] = None

    def qualified(self, schema: str, name: str) -> str:
        """`schema.name` as rules and records write it: folded where the server folds it."""
        if schema.lower() in ("information_schema", "performance_schema", "sys"):
            return f"{schema.lower()}.{name.lower()}"
        if self.catalog.lower_case_table_names or self.state.lower_case_table_names:
            return f"{schema.lower()}.{name.lower()}"
        return f"{schema}.{name}"

    def schema(self, given: str) -> str:
        """The schema of a name without one; "" where there is none."""
        if given:
            return given
        if not self.state.database_known or self.state.database is None:
            self.unknown("a name without a schema, and no default database is known; send USE, or qualify it")
            return ""
        return self.state.database

    def read(self, qualified: str) -> None:
        """One relation is read: what that means for the server's own."""
        self.named = True
        self.reads[qualified] = None
        schema, _, name = qualified.partition(".")
        lowered = schema.lower()
        if lowered in ("mysql", "information_schema", "performance_schema", "sys") and not schema_only(schema, name):
            self.add(Effect.SECRET_READ)

    def write(self, qualified: str) -> None:
        self.named = True
        self.writes[qualified] = None
        if qualified.partition(".")[0].lower() in ("mysql", "performance_schema", "sys", "information_schema"):
            self.add(Effect.ADMIN_CONFIG, Effect.PRIV_ROLE, Effect.PRIV_GRANT)

    def merge(self, part: Analysis) -> None:
        """What another text does that this one runs."""
        self.effects |= part.effects
        for name in ("reads", "writes", "columns", "predicates", "functions"):
            getattr(self, name).update(dict.fromkeys(getattr(part, name)))
        self.stores.update(dict.fromkeys(part.stores))
        self.filter(part.where)
        if part.why and part.why not in self.why:
            self.why.append(part.why)

    def analysis(self, kind: str) -> Analysis:
        cacheable = Cacheable.NO if self.fleeting else Cacheable.TEXT if self.constants else Cacheable.SHAPE
        return Analysis(
            kind=kind,
            effects=frozenset(self.effects),
            reads=tuple(self.reads),
            writes=tuple(self.writes),
            columns=tuple(self.columns),
            predicates=tuple(self.predicates),
            functions=tuple(self.functions),
            where=self.where,
            why="; ".join(self.why),
            cacheable=cacheable,
            stores=tuple(self.stores),
        )
