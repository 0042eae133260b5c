"""Content codings: opened and made again as they pass (RFC 9110 section 8.4.1; RFC 1950-1952, 7932, 8878).

Bounded: input is opened in small steps, and a body that grows beyond `Limits.ratio` or `Limits.decoded` is an error.
A body that ends early, bytes behind its end, an unknown coding: errors. gzip may have several members.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import brotli  # type: ignore[import-untyped]  # it ships no types
import zstandard

from guard.mask.bodies.body import BodyMasker
from guard.mask.bodies.rules import DEFAULT, BodyError, Limits, Unmaskable

CODINGS = ("gzip", "deflate", "br", "zstd")
_STEP = 65_536  # bytes opened at a time
_ZSTD_STEP = 64  # bytes given at a time: each may open to 128 KiB per block of 4 bytes, and zstandard knows no limit
_ZSTD_WINDOW = 8 * 1024 * 1024  # RFC 8878 section 3.1.1.1.2; RFC 9659 holds HTTP to it
_MOST_CODINGS = 3


class _Opener(Protocol):
    def open(self, data: bytes) -> Iterator[bytes]: ...

    def end(self) -> None: ...


class _Maker(Protocol):
    def make(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class _Zlib:
    """gzip, or what HTTP calls deflate: zlib's format by the book, raw deflate by some servers."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._head = b""
        self.raw = False
        self._object: Any = zlib.decompressobj(31) if coding == "gzip" else None
        self._any = False

    def open(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        if self._object is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            self.raw = not (data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0)
            self._object = zlib.decompressobj(-15 if self.raw else 15)
        self._any = True
        while data:
            if self._object.eof:
                if self._coding != "gzip":
                    raise BodyError("bytes follow the end of the deflate body")
                self._object = zlib.decompressobj(31)
            try:
                opened = self._object.decompress(data, _STEP)
                while opened:
                    yield opened
                    if not self._object.unconsumed_tail and len(opened) < _STEP:
                        break
                    opened = self._object.decompress(self._object.unconsumed_tail, _STEP)
            except zlib.error as e:
                raise BodyError(f"the {self._coding} body is damaged") from e
            data = self._object.unused_data or self._object.unconsumed_tail

    def end(self) -> None:
        if self._head or (self._any and not self._object.eof):
            raise BodyError(f"the {self._coding} body ends early")


class _Brotli:
    def __init__(self) -> None:
        self._object = brotli.Decompressor()
        self._any = False

    def open(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        if self._object.is_finished():
            raise BodyError("bytes follow the end of the br body")
        self._any = True
        try:
            opened = self._object.process(data, output_buffer_limit=_STEP)
            while True:
                if opened:
                    yield opened
                if self._object.is_finished() or (self._object.can_accept_more_data() and not opened):
                    return
                opened = self._object.process(b"", output_buffer_limit=_STEP)
        except brotli.error as e:
            raise BodyError("the br body is damaged, or bytes follow its end") from e

    def end(self) -> None:
        if self._any and not self._object.is_finished():
            raise BodyError("the br body ends early")


class _Zstd:
    def __init__(self) -> None:
        self._object: Any = None
        self._any = False

    def open(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_STEP):
            piece = data[at : at + _ZSTD_STEP]
            while piece:
                if self._object is None or self._object.eof:  # frames may follow each other, as gzip's members do
                    self._object = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
                self._any = True
                try:
                    opened = self._object.decompress(piece)
                except zstandard.ZstdError as e:
                    raise BodyError("the zstd body is damaged, or asks for too large a window") from e
                if opened:
                    yield opened
                piece = self._object.unused_data if self._object.eof else b""

    def end(self) -> None:
        if self._any and not self._object.eof:
            raise BodyError("the zstd body ends early")


class _Deflating:
    def __init__(self, bits: int) -> None:
        self._object = zlib.compressobj(1, zlib.DEFLATED, bits)

    def make(self, data: bytes) -> bytes:
        # flushed each time: what is masked is not to wait here for more
        return self._object.compress(data) + self._object.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._object.flush()


class _Brotling:
    def __init__(self) -> None:
        self._object = brotli.Compressor(quality=2)

    def make(self, data: bytes) -> bytes:
        made: bytes = self._object.process(data) + self._object.flush()
        return made

    def end(self) -> bytes:
        made: bytes = self._object.finish()
        return made


class _Zstding:
    def __init__(self) -> None:
        self._object = zstandard.ZstdCompressor(level=1).compressobj()

    def make(self, data: bytes) -> bytes:
        return self._object.compress(data) + self._object.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._object.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


class CodedMasker:
    """One coding around a masker."""

    def __init__(self, coding: str, inner: BodyMasker, limits: Limits = DEFAULT) -> None:
        """`coding`: one of CODINGS."""
        self._inner = inner
        self._limits = limits
        self._coding = coding
        self._opener: _Opener = _Brotli() if coding == "br" else _Zstd() if coding == "zstd" else _Zlib(coding)
        self._maker: _Maker | None = None
        self._coded = 0
        self._decoded = 0

    def feed(self, data: bytes) -> bytes:
        self._coded += len(data)
        out: list[bytes] = []
        for opened in self._opener.open(data):
            self._decoded += len(opened)
            limits = self._limits
            if self._decoded > max(limits.grace, limits.ratio * self._coded) or self._decoded > limits.decoded:
                raise BodyError("the body opens to far more than it is: refused as a decompression bomb")
            out.append(self._inner.feed(opened))
        text = b"".join(out)
        return self._making().make(text) if text else b""

    def end(self) -> bytes:
        self._opener.end()
        text = self._inner.end()
        if not self._coded and not text:
            return b""  # an empty body has no coding
        maker = self._making()
        return (maker.make(text) if text else b"") + maker.end()

    def _making(self) -> _Maker:
        if self._maker is None:
            if self._coding == "br":
                self._maker = _Brotling()
            elif self._coding == "zstd":
                self._maker = _Zstding()
            elif self._coding == "gzip":
                self._maker = _Deflating(31)
            else:
                assert isinstance(self._opener, _Zlib)
                self._maker = _Deflating(-15 if self._opener.raw else 15)
        return self._maker


def codings_of(header: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding header in the order in which they were applied. Raises Unmaskable."""
    names = [name.strip().lower() for name in header.split(",")] if header.strip() else []
    found = tuple("gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity"))
    if unknown := [name for name in found if name not in CODINGS]:
        raise Unmaskable(f"content coding `{unknown[0][:40]}` cannot be opened")
    if len(found) > _MOST_CODINGS:
        raise Unmaskable(f"the body has more than {_MOST_CODINGS} content codings")
    return found


def coded(codings: tuple[str, ...], inner: BodyMasker, limits: Limits = DEFAULT) -> BodyMasker:
    """The masker of a body to which these codings were applied, the last one outermost."""
    for coding in codings:
        inner = CodedMasker(coding, inner, limits)
    return inner
