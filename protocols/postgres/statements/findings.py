"""What has been found out about one statement so far, whatever part of it is walked.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocols.contract import ANYWHERE, Effect, Store, Where
from protocols.postgres.statements.model import Change, Temporary
from protocols.postgres.statements.names import TEMP, NameSpace
from protocols.postgres.statements.nodes import Node
from protocols.postgres.statements.text import Budget

_WEAKER = {Where.NONE: 0, Where.PRESENT: 1, Where.ALWAYS_TRUE: 2, Where.MISSING: 3}
# what runs code that may read any relation, and give any value
OPENS = frozenset(
    {
        Effect.UNKNOWN,
        Effect.EXEC_CALL,
        Effect.EXEC_PROCEDURE,
        Effect.EXEC_DYNAMIC,
        Effect.EXEC_CAST,
        Effect.EXEC_LIBRARY,
    }
)


class Findings:
    """What has been found out about one statement so far. Mutable; used for one statement and dropped."""

    def __init__(self, names: NameSpace, budget: Budget | None = None) -> None:
        self.names = names
        self.budget = budget or Budget()
        self.effects: set[Effect] = set()
        self.planned: set[Effect] = set()  # those that may happen while the statement is only planned
        self.reads: dict[str, None] = {}
        self.direct: set[str] = set()  # reads that the text names itself
        self.writes: dict[str, None] = {}
        self.columns: dict[str, None] = {}
        self.predicates: dict[str, None] = {}
        self.functions: dict[str, None] = {}
        self.resolves = False  # it calls what a new definition could be called instead of
        self.redefines: dict[str, None] = {}  # names that mean something else once it has run, beside `writes`
        self.why: list[str] = []
        self.where = Where.NONE
        self.shown = False  # the expression at hand is shown or stored, and decides nothing
        self.read_constant = False  # the analysis depends on a literal's value
        self.changes: list[Change] = []
        self.depth = 0
        self.row_input = False  # a function makes rows of the type of a row it is given
        # a literal without a type may become one of a column's type: beside it in a `call`, or beside an `operator`
        self.untyped = ""
        self.blind = False  # a name was not resolved: the origins that were found are not all
        self.ahead = False  # a common table expression was used that was not walked yet
        self.combines = False  # values are turned into another type, perhaps
        self.leaves_trace = False  # a function changes what a later statement can read of the session
        self.multiplies = False  # the expression at hand returns as many rows as its arguments say
        self.named = False  # any name was looked up in the catalog
        self.stores: dict[Store, None] = {}
        self.setting = ""  # `name` can be no other here: the query reads this one row of pg_settings
        self.walked: Node | None = None  # a call whose arguments were walked already
        self.opened = 0  # calls of code whose values may be anything
        self.opaque = False  # a relation that is read runs such code

    def unknown(self, why: str) -> None:
        self.effects.add(Effect.UNKNOWN)
        self.planned.add(Effect.UNKNOWN)
        if why not in self.why and len(self.why) < 8:
            self.why.append(why)

    def add(self, effects: Iterable[Effect], planned: bool = True) -> None:
        self.effects.update(effects)
        if planned:
            self.planned.update(effects)

    def weaken(self, where: Where) -> None:
        if _WEAKER[where] > _WEAKER[self.where]:
            self.where = where

    def holds(self, temporary: Temporary) -> None:
        """What is read with a temporary relation: all that went into it. Code that nobody saw into can have put
        anything there: it counts as if it ran here, under the relation's name.
        """
        for source in temporary.sources:
            if source == ANYWHERE:
                self.functions[f"{TEMP}.{temporary.name}"] = None
            else:
                self.reads[source] = None

    def filter(self, origins: Iterable[str]) -> None:
        for origin in origins:
            if origin != ANYWHERE:
                self.predicates[origin] = None
