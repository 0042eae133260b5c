"""The values that the analysis of MySQL and MariaDB text gives: what a text does, statement by statement.

INVARIANT: no I/O in this package; every value here is immutable.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import Analysis, Effect


class ChangeKind(enum.Enum):
    """What a statement changes in the session, once the server has said that it ran."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SET = "set"  # a session setting; value None: not known
    NAMES = "names"  # SET NAMES, SET CHARACTER SET: value is the character set of the client (None: not known)
    VARIABLE = "variable"  # a user variable; value: `Variable`
    DATABASE = "database"  # USE
    DROP_DATABASE = "drop database"  # when it is the default one, there is none afterwards
    PREPARE = "prepare"  # value: `Prepared`
    DEALLOCATE = "deallocate"
    HANDLER_OPEN = "handler open"  # value: the relation
    HANDLER_CLOSE = "handler close"
    TEMP_CREATE = "temp create"  # value: `Temporary`
    TEMP_DROP = "temp drop"
    TEMP_CHANGE = "temp change"
    TEMP_FILL = "temp fill"  # value: the relations whose rows went into it
    DEFINE = "define"  # DDL
    OPAQUE = "opaque"  # code ran that nobody saw; value: whether settings may have changed, too (not by a routine)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. What `name` and `value` are depends on the kind."""

    kind: ChangeKind
    name: str | None = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text, as the server cuts it: what it does, and what it changes once it has run.

    `text` is its bytes without the semicolon. `tree` is sqlglot's expression, in canonical form (comments gone, names
    quoted as needed), or None for kinds that sqlglot has no part in.
    """

    analysis: Analysis
    text: bytes = field(default=b"", repr=False)
    changes: tuple[Change, ...] = ()
    tree: Any = field(default=None, repr=False)
    tokens: int = 0  # of texts that were read besides its own: what it prepares or executes

    @property
    def kind(self) -> str:
        return self.analysis.kind


@dataclass(frozen=True, slots=True)
class CommandAnalysis:
    """One text: the analysis of all of it, and of each statement in order (one result, or several for CALL, each)."""

    analysis: Analysis
    statements: tuple[Statement, ...] = ()
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What SQL PREPARE put under a name. `text` None: it came from an expression that nobody saw.

    `world`: the default database and the settings for reading it that were in force: the server keeps to them.
    """

    text: bytes | None = field(default=None, repr=False)
    world: Hashable = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A user variable: the relations that its value was computed from. `known` False: from anywhere."""

    sources: tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True)
class Temporary:
    """A temporary table of the session. `columns` None: not known.

    `sources`: relations whose rows were copied into it, so that what must be masked there is not forgotten here.
    """

    schema: str
    name: str
    columns: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()
    certain: bool = True  # False: it may be gone, or have other columns by now


def unknown(why: str, kind: str = "unknown", text: bytes = b"") -> CommandAnalysis:
    """The analysis of text that could not be judged at all."""
    analysis = Analysis(kind=kind, effects=frozenset({Effect.UNKNOWN}), why=why)
    return CommandAnalysis(analysis, (Statement(analysis, text),), text)
