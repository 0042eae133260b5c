"""Terminal sessions as asciicast v2: one JSON line for the header, one for each event.

Source: asciicast v2 file format (docs.asciinema.org). Events are `[seconds, code, data]`: `o` output, `i` input, `r` a
resize (`80x24`), `m` a marker.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Header:
    width: int
    height: int
    timestamp: int  # seconds since the epoch
    title: str = ""
    command: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


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


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode("utf-8", "replace") + b"\n"
