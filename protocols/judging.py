"""From bytes to a verdict on a statement, with caches whose keys hold everything that changes the meaning.

Three levels: exact text in the session, exact text on the resource, normalised shape on the resource. An analysis is
shared only as far as its own `cacheable` says. What is a protocol's own (how a text is analysed, what a catalog's
masked columns can reach) its `judging.py` adds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from cachetools import LRUCache

from protocols.contract import Analysis, Cacheable, Decision, Effect, SessionPort
from protocols.judged import decision_on
from protocols.records import command_static, text_field

MAX_CACHED_TEXT = 8192  # bytes; longer statements are analysed each time
SESSION_TEXTS = 256
_PROBE = ("0",) * 64  # stands for the parameters of any statement: is one of them taken for a secret by its place

# what may change names, or what they stand for
_RENAMES = frozenset(e for e in Effect if e.value.startswith(("ddl.", "priv.", "exec.", "admin.config"))) | {
    Effect.UNKNOWN
}


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


class AnalysisCache:
    """Analyses shared by all sessions on one resource. Bounded by count; entries hold texts of bounded length."""

    def __init__(self, size: int = 4096) -> None:
        self.texts: LRUCache[Hashable, Any] = LRUCache(size)
        self.shapes: LRUCache[Hashable, Any] = LRUCache(size)


class StatementJudge[C: Command, N: Names, S: State](ABC):
    """Verdicts for one session."""

    __slots__ = ("_cache", "_catalog", "_epoch", "_meaning", "_policy", "_port", "_shapes", "_state", "_texts")

    PLACEHOLDER: ClassVar[bytes]
    """Without it in a text, the text has no parameters."""

    def __init__(self, port: SessionPort, state: S, cache: AnalysisCache) -> None:
        self._port = port
        self._state = state
        self._cache = cache
        self._texts: dict[bytes, StatementVerdict[C]] = {}
        self._shapes: dict[bytes, StatementVerdict[C]] = {}
        self._catalog: N | None = None
        self._meaning: Hashable = None
        self._policy: object = None
        self._epoch: object = object()

    @abstractmethod
    def _analyse(self, text: bytes, catalog: N | None) -> C:
        """What the text does in this session. Never raises."""

    @abstractmethod
    def _shape_key(self, text: bytes) -> bytes | None:
        """What texts share that differ in their numbers only; None: it is not like any other."""

    @abstractmethod
    def _reach(self, analysis: Analysis, catalog: N | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """-> (relations whose columns are not known, columns of the others), as `ResultMasker.touches` takes them."""

    def epoch(self, catalog: N | None) -> object:
        """An object that stays the same while every earlier verdict of this session still stands."""
        meaning, policy = self._state.meaning_key(), self._port.policy_epoch()
        if catalog is not self._catalog or policy is not self._policy or meaning != self._meaning:
            same_names = catalog is not None and self._catalog is not None and catalog.version == self._catalog.version
            self._catalog = catalog
            if policy is not self._policy or meaning != self._meaning or not same_names:
                self._policy, self._meaning = policy, meaning
                self._epoch = object()
                self._texts.clear()
                self._shapes.clear()
        return self._epoch

    def judge(self, text: bytes, catalog: N | None) -> StatementVerdict[C]:
        """The verdict on one message's text. Call `epoch` first: it drops what no longer stands."""
        verdict = self._texts.get(text)
        if verdict is not None and verdict.decision.valid_until > self._port.now_ns() / 1e9:
            return verdict
        if len(text) > MAX_CACHED_TEXT or catalog is None:
            return self.verdict(text, self._analyse(text, catalog))
        shape = self._shape_key(text)
        if shape is not None and (like := self._shapes.get(shape)) is not None:
            if like.decision.valid_until <= self._port.now_ns() / 1e9:
                self._shapes.clear()
            else:
                return self._like(text, like)
        command = self._analysis(text, shape, catalog)
        verdict = self.verdict(text, command)
        if command.analysis.cacheable is not Cacheable.NO:
            if len(self._texts) >= SESSION_TEXTS:
                self._texts.clear()
            self._texts[text] = verdict
        if shape is not None and command.analysis.cacheable is Cacheable.SHAPE:
            if len(self._shapes) >= SESSION_TEXTS:
                self._shapes.clear()
            self._shapes[shape] = verdict
        return verdict

    def _analysis(self, text: bytes, shape: bytes | None, catalog: N) -> C:
        cache, world = self._cache, (self._meaning, catalog.version)
        command: C | None = cache.texts.get((text, world))
        if command is None and shape is not None:
            command = cache.shapes.get((shape, world))
        if command is None:
            command = self._analyse(text, catalog)
            if command.analysis.cacheable is not Cacheable.NO:
                cache.texts[(text, world)] = command
            if shape is not None and command.analysis.cacheable is Cacheable.SHAPE:
                cache.shapes[(shape, world)] = command
        return command

    def _text(self, text: bytes) -> tuple[bytes, bool]:
        shown = text.decode("utf-8", "replace")
        safe = self._port.redact(shown)
        secret = safe != shown or (self.PLACEHOLDER in text and self._port.redact_params(shown, _PROBE) != _PROBE)
        return text_field(safe), secret

    def _like(self, text: bytes, like: StatementVerdict[C]) -> StatementVerdict[C]:
        if like.redacted or b"'" in text or self.PLACEHOLDER in text:
            field, redacted = self._text(text)
        else:  # numbers are all that differs, and the other text held no secret
            field, redacted = text_field(text.decode()), False
        fixed = like.fixed[: like.fixed.rindex(b',"text":')] + field
        return StatementVerdict(
            like.command, text, like.decision, fixed, redacted, like.touches, like.changes, like.renames
        )

    def verdict(self, text: bytes, command: C) -> StatementVerdict[C]:
        """Decides on an analysis that exists already; `text` is what goes on record."""
        analysis = command.analysis
        decision = decision_on(analysis, [s.analysis for s in command.statements], self._port.decide)
        field, redacted = self._text(text)
        masker = self._port.masker
        return StatementVerdict(
            command,
            text,
            decision,
            command_static(analysis, decision, self._port.redact(analysis.shape)) + field,
            redacted,
            masker is not None and masker.touches(*self._reach(analysis, self._catalog)),
            any(s.changes for s in command.statements) or not command.statements,
            not _RENAMES.isdisjoint(analysis.effects),
        )
