"""From bytes to a verdict on a statement, with caches whose keys hold everything that changes the meaning.

Three levels: exact text in the session, exact text on the resource, normalised shape on the resource. An analysis is
shared only as far as its own `cacheable` says. What is a protocol's own (how a text is analysed, what a catalog's
masked columns can reach) its `judging.py` adds.

The analysis of a long text takes tenths of a second, in which the event loop would serve nobody. It is made apart, in a
process of its own, by the same code (`read`): `judge` raises `NotYet`, the session asks and waits, and comes back with
the same message. What then is there counts only if it was made under the meaning and the names that are in force.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from protocols.analyses import AnalysisCache
from protocols.contract import ANYWHERE, Action, Analysis, Apart, Cacheable, Decision, Effect, SessionPort
from protocols.crossing import LeftOut
from protocols.numbered import Numbered
from protocols.records import command_static, text_field
from protocols.verdicts import CANCELLED, Command, Names, NotYet, Read, Recorded, State, StatementVerdict

MAX_CACHED_TEXT = 8192  # bytes; longer statements are analysed each time
SESSION_TEXTS = 256
_ALWAYS = float("inf")
LONG = 4096  # bytes; up to here an analysis takes some milliseconds at most
NAMED_LONG = 32768  # bytes that a short text may stand for: the statements that are prepared
_ASKED_MAX = 6  # times that one message is analysed apart, because what its text means changed meanwhile
_BEHIND_SHOWN = 4096  # characters of a message that another one only names
_BEHINDS = 4  # of them a session keeps what goes on record
_PROBE_MAX = 65535  # parameters of one statement, in both protocols
_TEXT_FIELD = b',"text":'
_NUMBERS = re.compile(rb"\$([0-9]{1,5})")
_EXECUTES = re.compile(rb"execute", re.IGNORECASE)

# what may change names, or what they stand for
_RENAMES = frozenset(e for e in Effect if e.value.startswith(("ddl.", "priv.", "exec.", "admin.config"))) | {
    Effect.UNKNOWN
}


DEFINES = frozenset(e for e in Effect if e.value.startswith("ddl.")) | {Effect.EXEC_DYNAMIC, Effect.UNKNOWN}
"""What may give a relation another meaning for other sessions. A function that does so is its author's act."""


@dataclass(slots=True)
class _Came:
    """What came of one that was asked for. `read` None: nothing, and `denial` says why."""

    asked: Apart
    world: Hashable
    read: Any
    denial: Decision | None


def decision_on(whole: Analysis, parts: Sequence[Analysis], decide: Callable[[Analysis], Decision]) -> Decision:
    """The whole must be allowed, and so must each part: what covers one part's relations may not cover another."""
    decision = decide(whole)
    if len(parts) < 2:
        return decision
    return max((decision, *map(decide, parts)), key=lambda one: one.action)


def defines(analysis: Analysis, own: str = "") -> tuple[str, ...] | None:
    """Of which relations it may change the meaning for other sessions, () any; None: of none.

    `own`: how the schemas begin whose relations no other session sees; "" where there are none.
    """
    found = DEFINES & analysis.effects
    if ANYWHERE in analysis.redefines or Effect.EXEC_DYNAMIC in found:
        return ()
    if not found:
        return None
    named = (*analysis.writes, *analysis.redefines)
    shared = tuple(name for name in named if not own or not name.startswith(own))
    if shared:
        return shared
    return None if named or found == {Effect.DDL_CREATE} else ()


class StatementJudge[C: Command, N: Names, S: State](ABC):
    """Verdicts for one session."""

    __slots__ = (
        "_asked", "_behinds", "_cache", "_came", "_catalog", "_epoch", "_meaning", "_number", "_numbered", "_pending",
        "_policy", "_port", "_shaped", "_shapes", "_state", "_texts",
    )  # fmt: skip

    PLACEHOLDER: ClassVar[bytes]
    """Without it in a text, the text has no parameters."""
    LEFT_OUT: ClassVar[LeftOut]
    """Of a state and a catalog: what does not cross to where long texts are analysed."""

    def __init__(self, port: SessionPort, state: S, cache: AnalysisCache) -> None:
        self._port = port
        self._state = state
        self._cache = cache
        self._texts: dict[bytes, StatementVerdict[C]] = {}
        self._shapes: dict[bytes, StatementVerdict[C]] = {}
        self._shaped: tuple[bytes, bytes | None] = (b"", None)
        self._numbered: Numbered[tuple[StatementVerdict[C], bytes]] = Numbered()  # with records up to the text
        self._catalog: N | None = None
        self._meaning: Hashable = None
        self._number = -1  # of the meaning, in the cache
        self._policy: object = None
        self._epoch: object = object()
        self._pending: tuple[Apart, Hashable] | None = None  # what is being analysed apart
        self._came: list[_Came] = []  # for the message at hand
        self._asked = 0
        self._behinds: dict[tuple[str, ...], bytes] = {}

    @abstractmethod
    def _analyse(self, text: bytes, catalog: N | None, state: S, variant: str) -> C:
        """What the text does in a session of this state. Never raises."""

    @abstractmethod
    def _unread(self, why: str, text: bytes) -> C:
        """The analysis of a text that nobody could look at."""

    @abstractmethod
    def _light(self, command: C, catalog: N | None, state: S) -> C:
        """The analysis as it crosses to another process: what masks need of its trees, and not the trees."""

    @abstractmethod
    def _named_bytes(self, text: bytes, state: S) -> int:
        """The length of what a text that says EXECUTE may stand for."""

    def _portable(self, text: bytes, state: S) -> S:
        """A copy of the state, with all of it that this text can mean."""
        copy: S = state.fork()
        return copy

    def _behind(self, command: C) -> tuple[str, ...]:
        """The messages that made what this one only names, as they were sent."""
        return ()

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
                self._policy, self._meaning, self._number = policy, meaning, self._cache.number(meaning)
                self._epoch = object()
                self._texts.clear()
                self._shapes.clear()
                self._numbered.clear()
        return self._epoch

    def judge(self, text: bytes, catalog: N | None, variant: str = "", state: S | None = None) -> StatementVerdict[C]:
        """The verdict on one message's text. Call `epoch` first: it drops what no longer stands. Raises `NotYet`.

        `variant`: how it is looked at, other than usual; `state`: another than the session's own. Such is not kept.
        """
        if len(text) > MAX_CACHED_TEXT or catalog is None or variant:
            return self._decided(text, self._command(text, catalog, variant, state))
        verdict = self._texts.get(text)
        if verdict is not None and verdict.decision.valid_until > self._port.now_ns() / 1e9:
            return verdict
        shape = self._shape(text)
        if shape is not None and (like := self._by_shape(shape)) is not None:
            return self._like(text, like)
        found = self._analysis(text, shape, catalog)
        verdict = self._decided(text, found)
        if verdict.failed:
            return verdict
        analysis = verdict.command.analysis
        if analysis.cacheable is not Cacheable.NO:
            if len(self._texts) >= SESSION_TEXTS:
                self._texts.clear()
            self._texts[text] = verdict
        if shape is not None and analysis.cacheable is Cacheable.SHAPE:
            if len(self._shapes) >= SESSION_TEXTS:
                self._shapes.clear()
            self._shapes[shape] = verdict
        return verdict

    def known(self, text: bytes, wanted: Callable[[StatementVerdict[C]], bool]) -> StatementVerdict[C] | None:
        """An earlier verdict that stands for this text, its own or one of its shape. Call `epoch` first.

        `wanted` is asked of the earlier one: what it does not want costs little.
        """
        if len(text) > MAX_CACHED_TEXT:
            return None
        verdict = self._texts.get(text)
        if verdict is not None and verdict.decision.valid_until > self._port.now_ns() / 1e9:
            return verdict if wanted(verdict) else None
        if (found := self._numbered.find(text)) is not None:
            (like, head), shown = found
            if like.decision.valid_until > self._port.now_ns() / 1e9 and wanted(like):
                return StatementVerdict(
                    like.command, text, like.decision, head + shown, False, like.touches, like.changes, like.renames
                )
        if not self._shapes or (shape := self._shape(text)) is None:
            return None
        earlier = self._by_shape(shape)
        if earlier is None or not wanted(earlier):
            return None
        verdict = self._like(text, earlier)
        if not verdict.redacted and self.PLACEHOLDER not in text:
            head = verdict.fixed[: verdict.fixed.rindex(_TEXT_FIELD)] + _TEXT_FIELD
            self._numbered.remember(text, (verdict, head), self._shape_key)
        return verdict

    def _shape(self, text: bytes) -> bytes | None:
        """`_shape_key`, which is not asked twice of one text."""
        if self._shaped[0] != text:
            self._shaped = (text, self._shape_key(text))
        return self._shaped[1]

    def _by_shape(self, shape: bytes) -> StatementVerdict[C] | None:
        like = self._shapes.get(shape)
        if like is not None and like.decision.valid_until <= self._port.now_ns() / 1e9:
            self._shapes.clear()
            return None
        return like

    def _analysis(self, text: bytes, shape: bytes | None, catalog: N) -> C | Read[C] | Decision:
        cache, world = self._cache, (self._number, catalog.version)
        known: C | None = cache.texts.get((text, world))
        if known is None and shape is not None:
            known = cache.shapes.get((shape, world))
        if known is not None:
            return known
        found = self._command(text, catalog, "", None)
        if isinstance(found, Decision):
            return found
        command = found.command if isinstance(found, Read) else found
        if command.analysis.cacheable is not Cacheable.NO:
            cache.texts[(text, world)] = command
        if shape is not None and command.analysis.cacheable is Cacheable.SHAPE:
            cache.shapes[(shape, world)] = command
        return found

    def _decided(self, text: bytes, found: C | Read[C] | Decision) -> StatementVerdict[C]:
        if isinstance(found, Decision):
            return self._denied(text, found)
        if isinstance(found, Read):
            return self._verdict(text, found.command, found.recorded)
        return self.verdict(text, found)

    # ------------------------------------------------------------ long texts, analysed apart

    def _command(self, text: bytes, catalog: N | None, variant: str, state: S | None) -> C | Read[C] | Decision:
        """A Decision: it could not be analysed, and is denied. Raises `NotYet`."""
        used = self._state if state is None else state
        if not self._port.apart or not self._is_long(text, used):
            return self._analyse(text, catalog, used, variant)
        world = self._world(catalog)
        for at, came in enumerate(self._came):
            asked, stands = came.asked, came.denial is not None or came.world == world
            # INVARIANT: used once. Names that only this session holds may come to mean something else right afterwards
            if stands and asked.variant == variant and asked.text == text:
                del self._came[at]
                if came.denial is not None:
                    return came.denial
                read: Read[C] = came.read
                return read
        if self._asked >= _ASKED_MAX:
            why = (
                "what its names mean changed each time while it was analysed; send it again later, or in smaller parts"
            )
            return Decision(Action.DENY, "gateway", why)
        raise NotYet(text, catalog, variant, state)

    def apart(self, text: bytes) -> bool:
        """Whether a text of this session is analysed apart."""
        return self._port.apart and self._is_long(text, self._state)

    def _is_long(self, text: bytes, state: S) -> bool:
        if len(text) > LONG:
            return True
        return _EXECUTES.search(text) is not None and self._named_bytes(text, state) > NAMED_LONG

    def _world(self, catalog: N | None) -> Hashable:
        return self._meaning, None if catalog is None else catalog.version

    def ask(self, wanted: NotYet) -> None:
        """Has a text analysed apart. Nothing may be in flight that gives names of this session another meaning."""
        state = self._state if wanted.state is None else wanted.state
        asked = Apart(wanted.text, self._portable(wanted.text, state), wanted.catalog, wanted.variant)
        self._pending = asked, self._world(wanted.catalog)
        self._asked += 1
        self._port.analyse_apart(asked)

    def came(self, asked: Apart, read: Any, why: str) -> bool:
        """Keeps what came of it. False: nobody waits for it."""
        if self._pending is None or self._pending[0] is not asked:
            return False
        world = self._pending[1]
        self._pending = None
        denial = None if isinstance(read, Read) else Decision(Action.DENY, "gateway", why or "it could not be analysed")
        self._came.append(_Came(asked, world, read, denial))
        return True

    def cancel(self) -> bool:
        """The client does not want to wait any longer: what is being analysed is denied. False: nothing is."""
        if self._pending is None:
            return False
        asked, world = self._pending
        self.leave()
        self._came.append(_Came(asked, world, None, CANCELLED))
        return True

    def leave(self) -> None:
        """The session ends, or does not want it any more."""
        if self._pending is not None:
            asked, self._pending = self._pending[0], None
            self._port.forget_apart(asked)

    def forget(self) -> None:
        """The message at hand is done with."""
        self._came.clear()
        self._asked = 0

    def read(self, text: bytes, catalog: N | None, variant: str) -> Read[C]:
        """What is done apart, in another process. Never raises for a text."""
        command = self._analyse(text, catalog, self._state, variant)
        return Read(self._light(command, catalog, self._state), self._recorded(text, command))

    def _denied(self, text: bytes, decision: Decision) -> StatementVerdict[C]:
        """What could not be analysed is denied, and on record by its digest: nobody has looked for secrets in it."""
        shown = f"(not analysed: {len(text)} bytes, SHA-256 {hashlib.sha256(text).hexdigest()})"
        command = self._unread(decision.why, b"")
        fixed = command_static(command.analysis, decision, "") + text_field(shown)
        return StatementVerdict(command, b"", decision, fixed, True, True, True, True, failed=True)

    # ------------------------------------------------------------ what goes on record

    def params(self, verdict: StatementVerdict[C], values: Sequence[str | None]) -> tuple[str | None, ...]:
        """The parameters of a statement for the record, without those that are secrets: by their place, or by what they
        are.
        """
        shown = self._port.redact_params("", values)
        hidden = verdict.hidden
        if not hidden:
            return shown
        hidden += (hidden[-1],) * (len(shown) - len(hidden))
        return tuple(
            value if value is None or mark is None else mark for value, mark in zip(shown, hidden, strict=False)
        )

    def _recorded(self, text: bytes, command: C) -> Recorded:
        field, redacted, hidden = self._text(text)
        behind = self._behind(command)
        runs = self._run(behind) if behind else b""
        return Recorded(field, redacted, hidden, self._port.redact(command.analysis.shape), runs)

    def _run(self, behind: tuple[str, ...]) -> bytes:
        """The same cursor is fetched from again and again: what made it is read once."""
        known = self._behinds.get(behind)
        if known is None:
            known = b',"runs":' + orjson.dumps([self._behind_shown(one) for one in behind])
            if len(self._behinds) >= _BEHINDS:
                self._behinds.clear()
            self._behinds[behind] = known
        return known

    def _behind_shown(self, text: str) -> str:
        """It is on record whole where it was sent: few bytes that name it must not become many each time."""
        safe = self._port.redact(text)
        return safe if len(safe) <= _BEHIND_SHOWN else f"{safe[:_BEHIND_SHOWN]}... ({len(text)} characters)"

    def _text(self, text: bytes) -> tuple[bytes, bool, tuple[str | None, ...]]:
        shown = text.decode(self._state.codec, "replace")
        safe = self._port.redact(shown)
        hidden: tuple[str | None, ...] = ()
        if self.PLACEHOLDER in text or safe != shown:
            probe = ("",) * (self._parameters(text) or 1)
            marks = self._port.redact_params(shown, probe)
            if marks != probe:
                hidden = tuple(mark or None for mark in marks)
        return text_field(safe), safe != shown or bool(hidden), hidden

    def _parameters(self, text: bytes) -> int:
        """At least as many as the text has: one at any place may be taken for a secret."""
        highest = max((int(n) for n in _NUMBERS.findall(text)), default=0)
        return min(max(highest, text.count(self.PLACEHOLDER)), _PROBE_MAX)

    def _like(self, text: bytes, like: StatementVerdict[C]) -> StatementVerdict[C]:
        if like.redacted or b"'" in text or self.PLACEHOLDER in text:
            field, redacted, hidden = self._text(text)
        else:  # numbers are all that differs, and the other text held no secret
            field, redacted, hidden = text_field(text.decode(self._state.codec, "replace")), False, ()
        fixed = like.fixed[: like.fixed.rindex(_TEXT_FIELD)] + field
        return StatementVerdict(
            like.command, text, like.decision, fixed, redacted, like.touches, like.changes, like.renames, hidden
        )

    def verdict(self, text: bytes, command: C, like: StatementVerdict[C] | None = None) -> StatementVerdict[C]:
        """Decides on an analysis that exists already; `text` is what goes on record.

        `like`: an earlier verdict on the same text, whose record is taken over.
        """
        if like is None:
            return self._verdict(text, command, self._recorded(text, command))
        if like.failed:
            return like
        shape = self._port.redact(command.analysis.shape)
        return self._verdict(text, command, Recorded(like.text_field, like.redacted, like.hidden, shape, like.runs))

    def _verdict(self, text: bytes, command: C, recorded: Recorded) -> StatementVerdict[C]:
        analysis = command.analysis
        decision = decision_on(analysis, [s.analysis for s in command.statements], self._port.decide)
        masker = self._port.masker
        return StatementVerdict(
            command,
            text,
            decision,
            command_static(analysis, decision, recorded.shape) + recorded.field,
            recorded.redacted,
            masker is not None and masker.touches(*self._reach(analysis, self._catalog)),
            any(s.changes for s in command.statements) or not command.statements,
            not _RENAMES.isdisjoint(analysis.effects),
            recorded.hidden,
            recorded.runs,
        )
