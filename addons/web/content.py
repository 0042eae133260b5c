"""HTTP bodies: their codings opened, and answers masked."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import brotli  # type: ignore[import-untyped]  # it has no stubs
import zstandard

from guard.detect import DetectError
from guard.enforce.patterns import touches
from guard.leak import ObservedMask
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
from guard.mask.bodies.rules import Contents, masked_spans
from guard.mask.bodies.values import spans_in
from guard.mask.noting import MaskedNames, NotedMask
from protocols.contract import Analysis, ColumnMask, MaskRule

if TYPE_CHECKING:
    from addons.web.live import HttpSession


_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Unreadable(Exception):
    """A body that cannot be read, and so neither judged nor masked."""


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


def opened_prefix(raw: bytes, coding: str, most: int) -> bytes:
    """The beginning of a coded body in the clear, at most `most` bytes; what cannot be opened is left out."""
    try:
        for one in reversed(codings_of(coding)):
            raw = _open_prefix(raw, one, most)
    except (BodyError, zlib.error, brotli.error, zstandard.ZstdError, EOFError):
        return b""
    return raw[:most]


def _open_prefix(raw: bytes, coding: str, most: int) -> bytes:
    if coding in ("gzip", "x-gzip"):
        return zlib.decompressobj(31).decompress(raw, most)
    if coding == "deflate":
        try:
            return zlib.decompressobj(15).decompress(raw, most)
        except zlib.error:
            return zlib.decompressobj(-15).decompress(raw, most)
    if coding == "br":
        opened: bytes = brotli.Decompressor().process(raw, output_buffer_limit=most)
        return opened
    if coding == "zstd":
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(raw) as reader:
            return reader.read(most)
    raise BodyError("a coding that cannot be opened")


class AnswerMask:
    """The masks of one answer, as it passes."""

    def __init__(self, masker: BodyMasker) -> None:
        self._masker = masker

    @classmethod
    def of(
        cls, session: HttpSession, analysis: Analysis, headers: Mapping[str, str], noted: MaskedNames
    ) -> AnswerMask | None:
        """None where no rule masks answers to this request. Raises Unreadable: the answer must be withheld."""
        rules = [rule for rule in session.policy.masks if applies(rule, analysis)]
        if not rules:
            return None
        fields = tuple(
            FieldRule(path, NotedMask(_mask(session, rule), path, noted)) for rule in rules for path in rule.fields
        )
        contents = content_rules(session, rules, noted)
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


def content_rules(session: HttpSession, rules: Iterable[MaskRule], noted: MaskedNames) -> tuple[ContentRule, ...]:
    """What of these rules is about contents, each detector by its own name on record."""
    return tuple(
        ContentRule((name,), NotedMask(_mask(session, rule), name, noted)) for rule in rules for name in rule.detectors
    )


def _mask(session: HttpSession, rule: MaskRule) -> ColumnMask:
    made = mask_of(rule, session.runtime.mask_key)
    return ObservedMask(made, session.saw) if session.remembers else made


class TextMask:
    """The content masks of one answer for what is no body of its own: its reason phrase, fields, WebSocket messages."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    @classmethod
    def of(cls, session: HttpSession, analysis: Analysis, noted: MaskedNames) -> TextMask | None:
        """None where no rule masks the contents of answers to this request. Raises Unreadable."""
        rules = [rule for rule in session.policy.masks if rule.detectors and applies(rule, analysis)]
        if not rules:
            return None
        try:
            contents = Contents.of(content_rules(session, rules, noted))
        except DetectError as e:
            raise Unreadable(str(e)) from None
        return None if contents is None else cls(contents)

    def value(self, name: str, value: bytes) -> bytes:
        """A field's value, or a reason phrase (without a name). It stays one line."""
        try:
            spans = spans_in(self._contents, name.encode("latin-1", "replace"), value)
        except DetectError as e:
            raise Unreadable(str(e)) from None
        return _CONTROLS.sub(b"?", masked_spans(value, spans)) if spans else value

    def crossing(self, before: bytes, data: bytes) -> int:
        """How many bytes at the beginning of `data` end a value that began in `before`."""
        scanner, size = self._contents.scanner, len(before)
        try:
            found = self._contents.wanted(scanner.find(before + data))
            end = max((end - size for start, end, _ in found if start < size < end), default=0)
            if end and any(start == 0 and stop >= end for start, stop, _ in self._contents.wanted(scanner.find(data))):
                return 0  # it is a value by itself, and masked as one
        except DetectError as e:
            raise Unreadable(str(e)) from None
        return end


def applies(rule: MaskRule, analysis: Analysis) -> bool:
    """Whether a mask is about answers to this request: each fact that it names has a value that fits."""
    if not (rule.fields or rule.detectors):
        return False
    return all(
        any(touches(pattern, value) for pattern in globs for value in analysis.facts.get(name, ()))
        for name, globs in rule.facts
    )
