"""The values that the analysis of PostgreSQL text gives: what a message does, statement by statement.

INVARIANT: no I/O in this package; every value here is immutable.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import Analysis, Effect


class ChangeKind(enum.Enum):
    """What a statement changes in the session, once the server has said that it ran."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    ROLLBACK_TO = "rollback to"
    RELEASE = "release"
    SET = "set"
    RESET = "reset"  # one setting, to what the session started with
    RESET_ALL = "reset all"
    DISCARD_ALL = "discard all"
    DISCARD_TEMP = "discard temp"
    PREPARE = "prepare"
    DEALLOCATE = "deallocate"
    DECLARE = "declare"
    CLOSE = "close"
    DEFINE = "define"  # DDL
    TEMP_CREATE = "temp create"
    TEMP_CHANGE = "temp change"  # value: whether it was dropped; without a name: any of them may be
    TEMP_RENAME = "temp rename"  # value: the new name
    TEMP_FILL = "temp fill"  # value: the relations whose rows went into it, `*` for any
    TEMP_MIX = "temp mix"  # rows of one temporary relation may from now on be read through another
    TEMP_TYPES = "temp types"
    OPAQUE = "opaque"  # code ran that nobody saw: names and roles may have changed behind it


@dataclass(frozen=True, slots=True)
class Change:
    """One change. What `name` and `value` are depends on the kind; `local`: until the end of the transaction, and of
    TEMP_CREATE: only where there is none of that name.
    """

    kind: ChangeKind
    name: str | None = None
    value: Any = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """One raw statement of a message: what it does, and what it changes once it has run."""

    analysis: Analysis
    changes: tuple[Change, ...] = ()
    tree: Any = None  # the parse tree, kept only where results need it
    behind: tuple[str, ...] = ()  # the messages that made what this one only names (EXECUTE, FETCH), as they were sent


@dataclass(frozen=True, slots=True)
class CommandAnalysis:
    """One message's text: the analysis of all of it, and of each statement in order (one CommandComplete each)."""

    analysis: Analysis
    statements: tuple[Statement, ...] = ()
    text: str = field(default="", repr=False)  # what was parsed

    @property
    def behind(self) -> tuple[str, ...]:
        """The messages that made what this one only names (EXECUTE, FETCH), as they were sent."""
        if len(self.statements) == 1:
            return self.statements[0].behind
        return tuple(dict.fromkeys(text for one in self.statements for text in one.behind))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a name was made: statement number `index` of a message; -1: all of it, by a Parse message.

    `text` is what was parsed, without most of its rows of literals; `sent` is the message as it came.
    """

    text: str = field(default="", repr=False)
    index: int = -1
    sent: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What PREPARE or Parse put under a name: parsed and judged anew, under the names in force, at each use.

    The text is kept, not the tree: that is a hundred times as large.
    """

    analysis: Analysis
    source: Source


@dataclass(frozen=True, slots=True)
class Temporary:
    """A temporary relation of the session. `columns` None: not known. `body`: what reading a view brings along.

    `sources`: relations whose rows were copied into it, so that what must be masked there is not forgotten here; `*`:
    code put rows there that nobody saw into.
    `parents`: permanent relations that it inherits from: in this session its rows are among theirs.
    """

    name: str
    columns: tuple[str, ...] | None = None
    body: Analysis | None = None
    certain: bool = True  # False: it may be gone, or mean another relation by now
    ends: bool = False  # gone when the open transaction commits
    sources: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


def unknown(why: str, kind: str = "unknown") -> CommandAnalysis:
    """The analysis of text that could not be judged at all."""
    return CommandAnalysis(Analysis(kind=kind, effects=frozenset({Effect.UNKNOWN}), why=why))
