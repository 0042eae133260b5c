"""Terminal sessions as asciicast v2: one JSON line for the header, one for each event.

Source: asciicast v2 file format (docs.asciinema.org). Events are `[seconds, code, data]`: `o` output, `i` input, `r` a
resize (`80x24`), `m` a marker.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.kubernetes.terminal import Safe

MAX_LINE = 4 * 1024 * 1024  # characters
_CODES = frozenset("oirm")
_MAX_SIZE = 0xFFFF


class CastError(ValueError):
    """A recording that is not asciicast v2. The text names the line."""


@dataclass(frozen=True, slots=True)
class Header:
    width: int
    height: int
    timestamp: int  # seconds since the epoch
    title: str = ""
    command: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CastEvent:
    at: float  # seconds since the start
    code: str
    data: str


class Writer:
    """Events -> lines. Time is the caller's; it never goes back in what is written.

    Bytes are decoded as UTF-8 across the borders of chunks; what is no UTF-8 becomes U+FFFD.
    """

    def __init__(self, started_ns: int) -> None:
        self._started = started_ns
        self._at = 0.0
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {code: decoder("replace") for code in "oi"}

    @staticmethod
    def header(header: Header) -> bytes:
        body: dict[str, Any] = {
            "version": 2,
            "width": header.width,
            "height": header.height,
            "timestamp": header.timestamp,
        }
        optional = {"title": header.title, "command": header.command, "env": dict(header.env)}
        return _line(body | {key: value for key, value in optional.items() if value})

    def output(self, now_ns: int, data: bytes) -> bytes:
        return self._text(now_ns, "o", data)

    def input(self, now_ns: int, data: bytes) -> bytes:
        return self._text(now_ns, "i", data)

    def resize(self, now_ns: int, columns: int, rows: int) -> bytes:
        return self._event(now_ns, "r", f"{columns}x{rows}")

    def marker(self, now_ns: int, text: str) -> bytes:
        return self._event(now_ns, "m", text)

    def finish(self, now_ns: int) -> bytes:
        """What a decoder still holds: half a character at the end of a stream."""
        tails = [(code, decoder.decode(b"", final=True)) for code, decoder in self._decoders.items()]
        return b"".join(self._event(now_ns, code, tail) for code, tail in tails if tail)

    def _text(self, now_ns: int, code: str, data: bytes) -> bytes:
        text = self._decoders[code].decode(data)
        return self._event(now_ns, code, text) if text else b""

    def _event(self, now_ns: int, code: str, text: str) -> bytes:
        self._at = max(self._at, (now_ns - self._started) / 1e9)
        return _line([round(self._at, 6), code, text])


def read(lines: Iterable[str]) -> tuple[Header, Iterator[CastEvent]]:
    """The header, and the events as they are asked for. Raises `CastError`, also while iterating."""
    numbered = enumerate(lines, 1)
    number, first = next(numbered, (1, ""))
    return _read_header(number, first), _read_events(numbered)


def replay(
    lines: Iterable[str], *, speed: float = 1.0, idle_limit: float = 0.0, safe: bool = True
) -> Iterator[tuple[float, str]]:
    """(seconds to wait, text to write) for a terminal.

    `safe`: only control sequences that move the cursor, colour and clear. A recording is what a stranger's program
    printed: raw, it could set the title, write to the clipboard or make the terminal answer.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise CastError("the speed must be a number above 0")
    _, events = read(lines)
    filtered = Safe()
    before = 0.0
    owed = 0.0
    for event in events:
        pause = event.at - before
        before = event.at
        owed += min(pause, idle_limit) if idle_limit else pause
        if event.code == "o":
            yield owed / speed, filtered.feed(event.data) if safe else event.data
            owed = 0.0


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode("utf-8", "replace") + b"\n"


def _json(number: int, line: str) -> Any:
    if len(line) > MAX_LINE:
        raise CastError(f"line {number} is too long")
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise CastError(f"line {number} is not json") from None


def _read_header(number: int, line: str) -> Header:
    value = _json(number, line)
    if not isinstance(value, dict) or value.get("version") != 2:
        raise CastError("not an asciicast v2 recording")
    width, height, timestamp = (value.get(key, 0) for key in ("width", "height", "timestamp"))
    if not all(isinstance(n, int) and 0 <= n <= _MAX_SIZE for n in (width, height)) or not isinstance(timestamp, int):
        raise CastError("the recording's header has no valid size")
    env = value.get("env")
    env = {str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {}
    return Header(width, height, timestamp, str(value.get("title", "")), str(value.get("command", "")), env)


def _read_events(numbered: Iterator[tuple[int, str]]) -> Iterator[CastEvent]:
    before = 0.0
    for number, line in numbered:
        if not line.strip():
            continue
        match _json(number, line):
            case [int() | float() as at, str(code), str(data)] if code in _CODES and math.isfinite(at) and at >= before:
                before = float(at)
                yield CastEvent(before, code, data)
            case _:
                raise CastError(f"line {number} is no event")
