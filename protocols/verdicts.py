"""A verdict on a statement, and what it is made of.

INVARIANT: nothing is decided in this module.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocols.contract import Action, Analysis, Decision

CANCELLED = Decision(Action.DENY, "gateway", "the client cancelled it before it was judged")
UNSETTLED = "another session is defining what it reads at this moment; nothing was written"
COPYING = "another session is copying from what it would define anew at this moment; nothing was changed"


class NamesChanged(Exception):
    """What has run, and is kept under a name, is not what was judged: the session cannot go on."""

    def __init__(self) -> None:
        super().__init__("what its names mean changed while it waited; connect again")


class NotYet(Exception):
    """The text is to be analysed apart: its session asks for it, waits, and judges the message again."""

    def __init__(self, text: bytes, catalog: Any, variant: str, state: Any) -> None:
        super().__init__("analysed apart")
        self.text = text
        self.catalog = catalog
        self.variant = variant
        self.state = state  # None: the session's own


class Part(Protocol):
    """One statement of a command."""

    @property
    def analysis(self) -> Analysis: ...
    @property
    def changes(self) -> Sequence[object]:
        """What it changes of its session once it has run."""


class Command(Protocol):
    """The analysis of one message's text."""

    @property
    def analysis(self) -> Analysis: ...
    @property
    def statements(self) -> Sequence[Part]: ...


class Names(Protocol):
    """A catalog snapshot."""

    @property
    def version(self) -> str: ...


class State(Protocol):
    """What a session has changed of itself."""

    @property
    def codec(self) -> str:
        """Python's name of the encoding in which its texts are shown. UTF-8 where that is not known."""

    def fork(self) -> Any:
        """A copy to think ahead with."""

    def meaning_key(self) -> Hashable:
        """Everything of the session that changes what a text means."""


@dataclass(slots=True)
class StatementVerdict[C: Command]:
    """One text, analysed and decided, under one meaning of its names and one policy."""

    command: C
    text: bytes  # its own; an analysis may be shared by texts of the same shape
    decision: Decision
    fixed: bytes  # the finished part of its command record
    redacted: bool  # the text, or a parameter by its place in it, is a secret
    touches: bool  # reads a relation that has masked columns for this identity, or cannot be sure that it does not
    changes: bool  # changes what later texts mean: they wait for its answer
    renames: bool  # may change names in the catalog
    hidden: tuple[str | None, ...] = ()  # of its parameters, by place: what stands for a secret; None: it is none
    runs: bytes = b""  # of its record: the messages that made what it only names
    failed: bool = False  # it could not be judged: denied whatever a policy says, and its text is not on record

    @property
    def text_field(self) -> bytes:
        """The end of `fixed`: the text as it goes on record."""
        return self.fixed[self.fixed.rindex(b',"text":') :]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What goes on record of a text and its analysis, without secrets."""

    field: bytes  # `,"text":...`
    redacted: bool  # as in `StatementVerdict`
    hidden: tuple[str | None, ...]  # likewise
    shape: str
    runs: bytes


@dataclass(frozen=True, slots=True)
class Read[C: Command]:
    """A text that was analysed apart."""

    command: C
    recorded: Recorded
