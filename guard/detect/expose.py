"""What a text holds in another form: percent-encoded, escaped, base64, hexadecimal, compressed. For what goes *out*.

`exposed(data)` yields the text itself and then every form of it that was opened, up to `Effort.depth` layers and
`Effort.budget` bytes in all; `Exposure.complete` says whether that was everything: an archive that is damaged or has a
password is not. What is encrypted or encoded in a way that is not listed here is not seen.
"""

from __future__ import annotations

import binascii
import io
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from guard.detect.hyper import Expressions

# where a run begins that could be encoded: looked for by hyperscan, then taken by the expressions below
_RUNS = Expressions(
    (
        (rb"(?:^|[^A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{16}", 0),
        (rb"(?:^|[^0-9a-fA-F])[0-9a-fA-F]{16}", 0),
        (rb"(?:^|[^0-9a-fA-F: ])(?:[0-9a-fA-F]{2}[ :]){7}[0-9a-fA-F]{2}", 0),
    )
)
_WIDTHS = (16, 16, 23)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}+(?:(?:\r?\n|\\n|%2[bBfF])[A-Za-z0-9+/_-]++)*+")
_HEX = re.compile(rb"[0-9a-fA-F]{16,}+(?:\r?\n[0-9a-fA-F]++)*+|[0-9a-fA-F]{2}(?:[ :][0-9a-fA-F]{2})*+")
_HEX_ESCAPES = re.compile(rb"(?:\\x[0-9a-fA-F]{2}){4,}")
_JSON_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{4}|\\[/\"\\]")
_REFERENCES = re.compile(rb"&#(?:x([0-9a-fA-F]{2})|([0-9]{2,3}));")
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = bytes(b for b in range(0x20, 0x7F)) + b"\r\n\t"
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZIP = b"PK\x03\x04"
_MOST_FILES = 64  # packed files within one text
_MOST_ENTRIES = 10_000  # of a zip file


@dataclass(frozen=True, slots=True)
class Effort:
    """How deep and how much: layers of encoding, and bytes opened in all."""

    depth: int = 3
    budget: int = 64 * 1024 * 1024


class Exposure:
    """The forms of one text. Iterate it; afterwards `complete` says whether everything could be opened."""

    def __init__(self, data: bytes, effort: Effort) -> None:
        self._data = data
        self._effort = effort
        self._left = effort.budget
        self.complete = True

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        layer = [self._data]
        seen = {hash(self._data)}
        for _ in range(self._effort.depth):
            inner: list[bytes] = []
            for text in layer:
                for form in self._opened(text):
                    if hash(form) in seen:
                        continue
                    seen.add(hash(form))
                    inner.append(form)
                    yield form
            layer = inner
            if not layer:
                return
        # what lies deeper was not looked at
        self.complete = self.complete and not any(True for text in layer for _ in self._opened(text))

    def _opened(self, text: bytes) -> Iterator[bytes]:
        try:
            for form in _forms(text, self._left):
                self._left -= len(form)
                if self._left < 0:
                    self.complete = False
                    return
                yield form
        except _Sealed:
            self.complete = False


def _forms(text: bytes, most: int) -> Iterator[bytes]:
    base64, hexadecimal = _runs(text)
    for form in (_percent(text), _escapes(text), _from_hex(hexadecimal), *_from_base64(base64)):
        if form:
            yield form
    # last: what cannot be opened ends it
    yield from _unpacked(text, most)


def exposed(data: bytes, effort: Effort | None = None) -> Exposure:
    """The text, and what it holds in other forms."""
    return Exposure(data, effort or Effort())


def _percent(text: bytes) -> bytes | None:
    return urllib.parse.unquote_to_bytes(text.replace(b"+", b" ")) if _PERCENT.search(text) else None


def _escapes(text: bytes) -> bytes | None:
    """JSON's and JavaScript's escapes, and numeric character references, resolved."""
    out = text
    if b"\\" in text:
        out = _JSON_ESCAPE.sub(_json_escape, out)
        out = _HEX_ESCAPES.sub(lambda m: bytes.fromhex(m[0].replace(b"\\x", b"").decode()), out)
    if b"&#" in out:
        out = _REFERENCES.sub(lambda m: bytes((int(m[1], 16) if m[1] else int(m[2]) & 0xFF,)), out)
    return out if out != text else None


def _json_escape(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return found[1:] if found[1:2] != b"u" else chr(int(found[2:], 16)).encode("utf-8", "replace")


def _runs(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """Runs of base64 and of hexadecimal digits."""
    found: tuple[list[bytes], list[bytes]] = ([], [])
    past = [0, 0]
    for number, _, end in sorted(_RUNS.scan(text), key=lambda hit: hit[2]):
        which = min(number, 1)
        start = end - _WIDTHS[number]
        if start < past[which]:
            continue
        match = (_HEX if which else _BASE64).match(text, start)
        if match is not None:
            found[which].append(match[0])
            past[which] = match.end()
    return found


def _from_hex(runs: list[bytes]) -> bytes | None:
    clean = (re.sub(rb"[^0-9a-fA-F]", b"", run) for run in runs)
    pieces = [binascii.a2b_hex(digits[: len(digits) & ~1]) for digits in clean]
    return b"\n".join(pieces) or None


def _from_base64(runs: list[bytes]) -> Iterator[bytes]:
    """Both alphabets, lines joined. A run that does not decode to text is tried again from its later alignments.

    Runs that hold text come together, one per line; every other is a form of its own only when it is something packed.
    """
    pieces: list[bytes] = []
    for whole in runs:
        run = whole
        if not run.isalnum():
            run = re.sub(rb"\s|\\n", b"", urllib.parse.unquote_to_bytes(run) if b"%" in run else run)
        for part in {run, *run.split(b"/")} if b"/" in run and len(run) < 4096 else (run,):
            pieces += _aligned(part.translate(_URL_SAFE))
    packed = [piece for piece in pieces if _is_packed(piece)]
    plain = [piece for piece in pieces if not _is_packed(piece)]
    if plain:
        yield b"\n".join(plain)
    yield from packed


def _aligned(run: bytes) -> list[bytes]:
    found: list[bytes] = []
    for shift in range(4):
        part = run[shift:]
        part = part[: len(part) - 1] if len(part) % 4 == 1 else part
        if len(part) < 8:
            break
        decoded = binascii.a2b_base64(part + b"=" * (-len(part) % 4))
        text = _looks_like_text(decoded)
        if text or shift == 0:
            found.append(decoded)
        if text or _is_packed(decoded):
            break
    return found


def _looks_like_text(data: bytes) -> bool:
    head = data[:256]
    return len(head.translate(None, _PRINTABLE)) * 8 <= len(head)


def _is_packed(data: bytes) -> bool:
    return data[:3] == _GZIP or data[:4] in (_ZSTD, _ZIP)


class _Sealed(Exception):
    """It looks packed and cannot be opened."""


def _unpacked(data: bytes, most: int) -> Iterator[bytes]:
    """What the gzip, zstd and zip files in a text hold, up to `most` + 1 bytes each. Raises _Sealed.

    They need not be at its beginning: an upload stands within its multipart body.
    """
    files = 0
    for magic, opener in _OPENERS:
        at = data.find(magic)
        while at >= 0:
            files += 1
            if files > _MOST_FILES:
                raise _Sealed
            try:
                yield from opener(data[at:], most)
            except Exception as e:  # the readers raise whatever a damaged file makes them stumble over
                raise _Sealed from e
            # a zip file's entries begin like the file itself
            at = data.find(magic, at + len(magic)) if magic != _ZIP else -1


def _gunzipped(data: bytes, most: int) -> Iterator[bytes]:
    reader = zlib.decompressobj(31)
    yield (opened := reader.decompress(data, most + 1))
    if not reader.eof and len(opened) <= most:
        raise _Sealed


def _unzstd(data: bytes, most: int) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(data) as reader:
        yield reader.read(most + 1)


def _unzipped(data: bytes, most: int) -> Iterator[bytes]:
    left = most + 1
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist()[:_MOST_ENTRIES]:
            with archive.open(entry) as file:
                piece = file.read(left)
            yield piece
            left -= len(piece)
            if left <= 0:
                return
        if len(archive.infolist()) > _MOST_ENTRIES:
            raise _Sealed


_OPENERS = ((_GZIP, _gunzipped), (_ZSTD, _unzstd), (_ZIP, _unzipped))
