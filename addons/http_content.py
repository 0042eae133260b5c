"""What HTTP bodies hold: what must not leave, what must not be recorded, and how answers are masked."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guard.detect import DetectError, Kind, Scanner
from guard.enforce.patterns import touches
from guard.mask.bodies import (
    BodyError,
    BodyMasker,
    BodyRules,
    ContentRule,
    FieldRule,
    PathError,
    body_masker,
    mask_of,
)
from guard.mask.bodies.codings import coded, codings_of
from protocols.contract import Analysis, Effect, MaskRule
from protocols.http.analysis import Request
from protocols.http.headers import is_secret

if TYPE_CHECKING:
    from addons.http_live import HttpSession

_EFFECTS = {Kind.CREDENTIAL: Effect.EXFIL_CREDENTIAL, Kind.PERSONAL: Effect.EXFIL_PERSONAL}
_REDACTED = "[redacted]"


class Unreadable(Exception):
    """A body that cannot be read, and so neither judged nor masked."""


class _Scanners(threading.local):
    """A scanner for each thread: hyperscan's scratch space is not shared."""

    def __init__(self) -> None:
        self.all = Scanner()
        self.credentials = Scanner([Kind.CREDENTIAL])


_scanners = _Scanners()


def leaks(session: HttpSession, request: Request | None, body: bytes | None) -> set[Effect]:
    """Which kinds of things are about to leave that a rule must allow. `body` None: it cannot be read."""
    texts: list[bytes] = []
    if request is not None:
        texts += [value.encode() for _, value in request.target.query]
        texts += [path.encode() for path in request.target.paths[:1]]
        texts += [value.encode("utf-8", "surrogateescape") for name, value in request.headers if not is_secret(name)]
    found = {_EFFECTS[finding.kind] for finding in _scanners.all.find(b"\n".join(texts))} if texts else set()
    if body:
        found |= {_EFFECTS[finding.kind] for finding in _scanners.all.find(body)}
    return found


def redacted(text: str) -> str:
    """A text without the credentials in it, for the record."""
    raw = text.encode("utf-8", "surrogateescape")
    pieces: list[bytes] = []
    at = 0
    for finding in _scanners.credentials.find(raw):
        if finding.start >= at:
            pieces += (raw[at : finding.start], _REDACTED.encode())
        at = max(at, finding.end)
    if not pieces:
        return text
    pieces.append(raw[at:])
    return b"".join(pieces).decode("utf-8", "replace")


class _Collector:
    """The opened body; a masker that gives nothing on."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > self._cap:
            raise BodyError("the opened body is too large")
        self._pieces.append(data)
        return b""

    def end(self) -> bytes:
        return b""

    def whole(self) -> bytes:
        return b"".join(self._pieces)


def decoded(raw: bytes, coding: str, cap: int) -> bytes:
    """A body without its content codings, at most `cap` bytes. Raises Unreadable."""
    try:
        codings = codings_of(coding)
        if not codings:
            return raw
        collector = _Collector(cap)
        opener = coded(codings, collector)
        opener.feed(raw)
        opener.end()
    except BodyError as e:
        raise Unreadable(str(e)) from None
    return collector.whole()


class AnswerMask:
    """The masks of one answer, as it passes."""

    def __init__(self, masker: BodyMasker) -> None:
        self._masker = masker

    @classmethod
    def of(cls, session: HttpSession, analysis: Analysis, headers: Mapping[str, str]) -> AnswerMask | None:
        """None where no rule masks answers to this request. Raises Unreadable: the answer must be withheld."""
        rules = [rule for rule in session.policy.masks if applies(rule, analysis)]
        if not rules:
            return None
        key = session.runtime.mask_key
        fields = tuple(FieldRule(path, mask_of(rule, key)) for rule in rules for path in rule.fields)
        contents = tuple(ContentRule(rule.detectors, mask_of(rule, key)) for rule in rules if rule.detectors)
        elsewhere: Any = "pass" if all(rule.unknown_origin == "pass" for rule in rules if rule.fields) else "withhold"
        body_rules = BodyRules(fields, contents, elsewhere)
        try:
            masker = body_masker(headers.get("content-type", ""), headers.get("content-encoding", ""), body_rules)
        except (BodyError, PathError, DetectError) as e:
            raise Unreadable(str(e)) from None
        return cls(masker)

    def feed(self, data: bytes) -> bytes:
        try:
            return self._masker.feed(data)
        except (BodyError, DetectError) as e:
            raise Unreadable(str(e)) from None

    def end(self) -> bytes:
        try:
            return self._masker.end()
        except (BodyError, DetectError) as e:
            raise Unreadable(str(e)) from None


def applies(rule: MaskRule, analysis: Analysis) -> bool:
    """Whether a mask is about answers to this request: each fact that it names has a value that fits."""
    if not (rule.fields or rule.detectors):
        return False
    return all(
        any(touches(pattern, value) for pattern in globs for value in analysis.facts.get(name, ()))
        for name, globs in rule.facts
    )
