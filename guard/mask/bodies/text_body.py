"""Text, HTML and XML as they pass: contents masked by detector, every other byte as it came.

HTML and XML are searched as they are and with their character references resolved (`&#64;` is `@`), text, attributes,
scripts and styles alike. A value that is split by tags is not found; a script's own escapes are not resolved.
"""

from __future__ import annotations

import bisect
import html
import re

from guard.detect import Finding, Stream
from guard.detect.scanner import LEFT
from guard.mask.bodies.rules import Contents, masked_spans, masked_text

_REFERENCE = re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")
_UNFINISHED = re.compile(rb"&(?:#[xX]?[0-9a-fA-F]{0,7}|[A-Za-z][A-Za-z0-9]{0,31})?\Z")


class TextMasker:
    """Plain text."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._stream = Stream(contents.scanner)

    def feed(self, data: bytes) -> bytes:
        piece = self._stream.feed(data)
        return masked_spans(piece.data, self._contents.wanted(piece.findings)) if piece.findings else piece.data

    def flush(self) -> bytes:
        """Gives out what is held back: see `Stream.flush`."""
        return self.end()

    def end(self) -> bytes:
        piece = self._stream.end()
        return masked_spans(piece.data, self._contents.wanted(piece.findings))


class _Resolved:
    """A text with its references resolved, and the way back to the original."""

    def __init__(self, raw: bytes) -> None:
        pieces: list[bytes] = []
        self._ours: list[int] = []  # where a piece begins in the resolved text
        self._raw: list[int] = []  # ... and in the original
        self._whole: list[bool] = []  # a reference: all of it or nothing
        done = length = 0
        for match in _REFERENCE.finditer(raw):
            if match.start() > done:
                length = self._add(pieces, length, done, raw[done : match.start()], whole=False)
            text = html.unescape(match[0].decode("ascii")).encode("utf-8", "replace")
            length = self._add(pieces, length, match.start(), text, whole=True)
            done = match.end()
        length = self._add(pieces, length, done, raw[done:], whole=False)
        self.text = b"".join(pieces)
        self._size = len(raw)

    def _add(self, pieces: list[bytes], length: int, raw_at: int, text: bytes, *, whole: bool) -> int:
        pieces.append(text)
        self._ours.append(length)
        self._raw.append(raw_at)
        self._whole.append(whole)
        return length + len(text)

    def back(self, at: int) -> int:
        """The place in the original of the byte `at`: of a reference, where that begins."""
        index = bisect.bisect_right(self._ours, at) - 1
        return self._raw[index] if self._whole[index] else self._raw[index] + at - self._ours[index]

    def back_end(self, end: int) -> int:
        """Behind the original of the byte before `end`."""
        index = bisect.bisect_right(self._ours, end - 1) - 1
        if not self._whole[index]:
            return self._raw[index] + end - self._ours[index]
        return self._raw[index + 1] if index + 1 < len(self._raw) else self._size

    def forth(self, at: int) -> int:
        """The place in the resolved text that is not behind the original's `at`."""
        index = bisect.bisect_right(self._raw, at) - 1
        return self._ours[index] if self._whole[index] else self._ours[index] + at - self._raw[index]


class MarkupMasker:
    """HTML or XML."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._buffer = b""
        self._start = 0
        self._wait = 0  # as in `Stream`

    def feed(self, data: bytes) -> bytes:
        buffer = self._buffer + data
        if len(buffer) < self._wait:
            self._buffer = buffer
            return b""
        unfinished = _UNFINISHED.search(buffer, max(self._start, len(buffer) - 40))
        limit = unfinished.start() if unfinished else len(buffer)
        findings, cut = self._window(buffer, limit)
        return self._release(buffer, findings, cut)

    def end(self) -> bytes:
        buffer = self._buffer
        scanner = self._contents.scanner
        findings = [finding for finding in scanner.find(buffer) if finding.start >= self._start]
        resolved = _Resolved(buffer)
        start = resolved.forth(self._start)
        findings += [_in_raw(f, resolved) for f in scanner.find(resolved.text) if f.start >= start]
        return self._release(buffer, findings, len(buffer))

    def _window(self, buffer: bytes, limit: int) -> tuple[list[Finding], int]:
        """What is certain both as it is and resolved."""
        scanner = self._contents.scanner
        findings, cut = scanner.window(buffer, self._start, limit)
        if b"&" not in buffer:
            return findings, cut
        resolved = _Resolved(buffer)
        start = resolved.forth(self._start)
        while True:
            inner, place = scanner.window(resolved.text, start, resolved.forth(cut))
            back = max(self._start, resolved.back(place) if place < len(resolved.text) else cut)
            back = min(back, cut)
            findings, cut = scanner.window(buffer, self._start, back)
            if cut == back and resolved.forth(cut) >= place:
                return findings + [_in_raw(finding, resolved) for finding in inner], cut

    def _release(self, buffer: bytes, findings: list[Finding], cut: int) -> bytes:
        start = self._start
        moved = [Finding(f.kind, f.start - start, f.end - start, f.detector) for f in findings]
        data = buffer[start:cut]
        keep = max(0, cut - LEFT)
        self._buffer, self._start = buffer[keep:], cut - keep
        held = len(buffer) - cut
        self._wait = len(self._buffer) + held // 4 if held > 1024 else 0
        pieces: list[bytes] = []
        done = 0
        for begin, end, mask in self._contents.wanted(moved):
            text = html.unescape(data[begin:end].decode("utf-8", "replace"))
            masked = masked_text(mask, text.encode("utf-8", "replace")).decode("utf-8", "replace")
            pieces += (data[done:begin], html.escape(masked).encode())
            done = end
        pieces.append(data[done:])
        return b"".join(pieces)


def _in_raw(finding: Finding, resolved: _Resolved) -> Finding:
    return Finding(finding.kind, resolved.back(finding.start), resolved.back_end(finding.end), finding.detector)
