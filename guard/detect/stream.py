"""A text that comes in pieces, detected as if it came whole.

What is held back: the end that could still become part of a match (nothing after a line's end, as a rule; a few dozen
characters within a line; up to 40 KB within a private key), and the left context that matches depend on.
"""

from __future__ import annotations

from dataclasses import dataclass

from guard.detect.finding import Finding
from guard.detect.scanner import LEFT, Scanner


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are released, and what is in them (`start`, `end` count from `offset`, the place in the stream)."""

    data: bytes
    findings: tuple[Finding, ...]
    offset: int


class Stream:
    """One text. `feed` and `end` release each byte exactly once, in order."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._buffer = b""  # left context, then what is held back
        self._start = 0  # where the context ends
        self._offset = 0  # place of `_buffer[0]` in the stream
        self._wait = 0  # bytes in the buffer without which looking again is a waste

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._buffer) - self._start

    def feed(self, chunk: bytes) -> Piece:
        """What is certain now. Raises DetectError."""
        data = self._buffer + chunk if self._buffer else chunk
        if len(data) < self._wait:  # a long word comes in tiny pieces: not to be read again for each
            self._buffer = data
            return Piece(b"", (), self._offset + self._start)
        findings, cut = self._scanner.window(data, self._start)
        return self._release(data, findings, cut)

    def flush(self) -> Piece:
        """Release everything that is held back.

        It leaks the beginning of a value that was not finished, and what comes later is judged without it: only for
        terminals, on a timer, where a prompt must appear.
        """
        return self.end()

    def end(self) -> Piece:
        """The text is complete: what is held back is judged as it is and released."""
        data = self._buffer
        findings = [finding for finding in self._scanner.find(data) if finding.start >= self._start]
        return self._release(data, findings, len(data))

    def _release(self, data: bytes, findings: list[Finding], cut: int) -> Piece:
        start, offset = self._start, self._offset + self._start
        released = tuple(Finding(f.kind, f.start - start, f.end - start, f.detector) for f in findings)
        piece = Piece(data[start:cut], released, offset)
        keep = max(0, cut - LEFT)
        self._buffer, self._start, self._offset = data[keep:], cut - keep, self._offset + keep
        held = len(data) - cut
        self._wait = len(self._buffer) + held // 4 if held > 1024 else 0
        return piece
