"""What a text holds in another form: percent-encoded, escaped, base64, base32, hexadecimal, quoted-printable, with wide
or invisible characters, compressed. For what goes *out*.

`exposed(data)` yields the text itself and then every form of it that was opened, up to `Effort.depth` layers and
`Effort.budget` bytes in all; `Exposure.complete` says whether that was everything: an archive that is damaged or has a
password is not. What is encrypted or encoded in a way that is not listed here is not seen.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import io
import lzma
import quopri
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
_QUOTED = re.compile(rb"=3D|=\r?\n|(?:=[0-9A-F]{2}){2}")  # one alone is the value of a parameter
_BASE32 = re.compile(rb"[A-Z2-7]{16,}\Z|[a-z2-7]{16,}\Z")
_INVISIBLE = re.compile(rb"\xe2\x80[\x8b-\x8f]|\xe2\x81[\xa0-\xa4]|\xef\xbb\xbf|\xc2\xad")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = bytes(b for b in range(0x20, 0x7F)) + b"\r\n\t"
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZIP = b"PK\x03\x04"
_BZIP2 = b"1AY&SY"  # behind `BZh` and a digit
_XZ = b"\xfd7zXZ\x00"
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_WIDE = 4  # every so many bytes a zero at least: characters of two or four bytes
_MOST_MEMORY = 64 * 1024 * 1024  # bytes that opening one file may take
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

    @property
    def exhausted(self) -> bool:
        """Whether there was more to open than the effort allows."""
        return self._left < 0

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
    sixty_four, hexadecimal = _runs(text)
    forms = (_percent(text), _escapes(text), _quoted(text), _narrow(text), _visible(text))
    for form in (*forms, _from_hex(hexadecimal), _from_base32(sixty_four), *_from_base64(sixty_four)):
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


def _quoted(text: bytes) -> bytes | None:
    """Quoted-printable: parts of a form and of a mail."""
    if b"=" not in text or not _QUOTED.search(text):
        return None
    opened = quopri.decodestring(text)
    return opened if opened != text else None


def _narrow(text: bytes) -> bytes | None:
    """UTF-16 and UTF-32 where they hold ASCII."""
    zeros = text.count(0)
    return text.replace(b"\0", b"") if zeros and zeros * _WIDE >= len(text) else None


def _visible(text: bytes) -> bytes | None:
    """Without characters that nobody sees."""
    if text.isascii():
        return None
    clean = _INVISIBLE.sub(b"", text)
    return clean if clean != text else None


def _from_base32(runs: list[bytes]) -> bytes | None:
    pieces = []
    for run in runs:
        if _BASE32.match(run):
            digits = run[: len(run) & ~7] if len(run) % 8 in (1, 3, 6) else run
            pieces.append(base64.b32decode(digits + b"=" * (-len(digits) % 8), casefold=True))
    return b"\n".join(pieces) or None


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
    return (
        data[:3] == _GZIP or data[:4] in (_ZSTD, _ZIP) or data[:2] in _ZLIB or data[4:10] == _BZIP2 or data[:6] == _XZ
    )


class _Sealed(Exception):
    """It looks packed and cannot be opened."""


def _unpacked(data: bytes, most: int) -> Iterator[bytes]:
    """What the gzip, zstd and zip files in a text hold, up to `most` + 1 bytes each. Raises _Sealed.

    They need not be at its beginning: an upload stands within its multipart body.
    """
    if data[:2] in _ZLIB:
        yield from _inflated(data, most)
    files = 0
    for magic, opener in _OPENERS:
        at = data.find(magic)
        while at >= 0:
            files += 1
            if files > _MOST_FILES:
                raise _Sealed
            try:
                yield from opener(data[max(0, at - _BEFORE.get(magic, 0)) :], most)
            except Exception as e:  # the readers raise whatever a damaged file makes them stumble over
                raise _Sealed from e
            # a zip file's entries begin like the file itself
            at = data.find(magic, at + len(magic)) if magic != _ZIP else -1


def _gunzipped(data: bytes, most: int) -> Iterator[bytes]:
    reader = zlib.decompressobj(31)
    yield (opened := reader.decompress(data, most + 1))
    if not reader.eof and len(opened) <= most:
        raise _Sealed


def _inflated(data: bytes, most: int) -> Iterator[bytes]:
    """Two bytes say little: what is no zlib stream all the same is nothing, and not sealed."""
    try:
        opened = zlib.decompressobj(15).decompress(data, most + 1)
    except zlib.error:
        return
    if opened:
        yield opened


def _unbzipped(data: bytes, most: int) -> Iterator[bytes]:
    if not data.startswith(b"BZh"):
        return
    reader = bz2.BZ2Decompressor()
    yield (opened := reader.decompress(data, most + 1))
    if not reader.eof and len(opened) <= most:
        raise _Sealed


def _unxz(data: bytes, most: int) -> Iterator[bytes]:
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
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


_OPENERS = ((_GZIP, _gunzipped), (_ZSTD, _unzstd), (_ZIP, _unzipped), (_XZ, _unxz), (_BZIP2, _unbzipped))
_BEFORE = {_BZIP2: 4}  # bytes of a file that stand before what it is known by
