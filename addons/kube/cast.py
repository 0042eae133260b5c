"""An exec or attach on record: what was typed, what was shown, when, as asciicast lines in the journal (kind `cast`).

INVARIANT: input is in the journal before it goes on; input that cannot be recorded does not go on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson

from guard.detect import Scanner, Stream
from protocols.kubernetes.asciicast import Header, Writer
from protocols.kubernetes.channels import Channel

if TYPE_CHECKING:
    from addons.web.live import HttpSession

MAX_INPUT = 64 * 1024 * 1024  # bytes of one stream: input goes no further than the record does
MAX_OUTPUT = 16 * 1024 * 1024  # bytes of one stream that are kept; what follows is counted
_SIZE = (80, 24)  # until the client says its own
_REDACTED = b"[redacted]"


class InputTooLong(Exception):
    """More was sent than is recorded of one stream."""


class _Redacted:
    """One direction's text without the credentials in it."""

    def __init__(self, scanner: Scanner) -> None:
        self._stream = Stream(scanner)

    def feed(self, data: bytes) -> bytes:
        piece = self._stream.feed(data)
        return self._without(piece.data, [(f.start, f.end) for f in piece.findings])

    def end(self) -> bytes:
        piece = self._stream.end()
        return self._without(piece.data, [(f.start, f.end) for f in piece.findings])

    @staticmethod
    def _without(data: bytes, spans: list[tuple[int, int]]) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for start, end in sorted(spans):
            if start >= at:
                pieces += (data[at:start], _REDACTED)
            at = max(at, end)
        pieces.append(data[at:])
        return b"".join(pieces)


class Cast:
    """The recording of one stream, `number` of its session. Methods raise `RecordFailed`."""

    def __init__(self, session: HttpSession, number: int, title: str, command: str, scanner: Scanner) -> None:
        self._session = session
        self._number = number
        self._size = _SIZE
        self._sized = False
        self._title, self._command = title, command
        now = session.now_ns()
        self._writer = Writer(now)
        self._started = now
        self._texts = {channel: _Redacted(scanner) for channel in (Channel.STDIN, Channel.STDOUT, Channel.STDERR)}
        self._counts = dict.fromkeys(self._texts, 0)
        self._digests = {channel: hashlib.sha256() for channel in self._texts}
        self._begun = False
        self._cut = False

    def input(self, data: bytes, *, shown: bool = True) -> None:
        """`shown`: whether it is on record as it is; else its size and digest are. Raises `InputTooLong`."""
        if self._counts[Channel.STDIN] + len(data) > MAX_INPUT:
            raise InputTooLong(f"more than {MAX_INPUT >> 20} MiB of input to one command are not recorded, so not sent")
        if not shown:
            self._take(Channel.STDIN, data, room=0)
            self._text(Channel.STDIN, self._texts[Channel.STDIN].end() + _REDACTED)
            return
        self._take(Channel.STDIN, data)
        # what is held back in search of a credential would not be in the journal in time: typed letter by letter, one
        # is not recognised
        self._text(Channel.STDIN, self._texts[Channel.STDIN].end())

    def output(self, channel: Channel, data: bytes) -> None:
        room = MAX_OUTPUT - self._counts[Channel.STDOUT] - self._counts[Channel.STDERR]
        self._take(channel, data, room)
        if len(data) > room and not self._cut:
            self._cut = True
            self._write(self._writer.marker(self._session.now_ns(), "more output follows, which is not kept"))

    def resized(self, columns: int, rows: int) -> None:
        if not self._begun:
            self._size = (columns, rows)
        self._write(self._writer.resize(self._session.now_ns(), columns, rows))

    def pause(self) -> None:
        """Nothing comes for a while: what was held back in search of credentials is written."""
        for channel, text in self._texts.items():
            self._text(channel, text.end())

    def flush(self) -> None:
        """What is recorded so far is in the journal."""
        self._session.runtime.recorder.flush()

    def marker(self, text: str) -> None:
        self._write(self._writer.marker(self._session.now_ns(), text))

    def end(self, how: str) -> None:
        self.pause()
        self._write(self._writer.finish(self._session.now_ns()))
        counts = {channel.name.lower(): self._counts[channel] for channel in self._texts}
        digests = {channel.name.lower(): self._digests[channel].hexdigest() for channel in self._texts}
        self._write(self._writer.marker(self._session.now_ns(), how), bytes=counts, sha256=digests, end=how)

    # ------------------------------------------------------------ inside

    def _take(self, channel: Channel, data: bytes, room: int | None = None) -> None:
        self._counts[channel] += len(data)
        self._digests[channel].update(data)
        if room is None or room > 0:
            self._text(channel, self._texts[channel].feed(data if room is None else data[:room]))

    def _text(self, channel: Channel, text: bytes) -> None:
        if text:
            now = self._session.now_ns()
            say = self._writer.input if channel is Channel.STDIN else self._writer.output
            self._write(say(now, text))

    def _write(self, lines: bytes, **more: object) -> None:
        if not lines and not more:
            return
        if not self._begun:
            self._begun = True
            header = Header(*self._size, self._started // 1_000_000_000, self._title, self._command)
            lines = Writer.header(header) + lines
        body = {
            "t": "cast",
            "at": self._session.now_ns(),
            "s": self._session.id,
            "n": self._number,
            "lines": lines.decode(),
            **more,
        }
        self._session.record("cast", orjson.dumps(body))
