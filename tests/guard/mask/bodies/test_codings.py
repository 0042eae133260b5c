"""Content codings: opened, made again, bounded; what is damaged or goes on after its end is an error."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # it ships no types
import pytest
import zstandard

from guard.mask.bodies import BodyError, Limits, Unmaskable, body_masker
from tests.guard.mask.bodies.shared import both, contents, masked

BODY = b'{"email":"x","note":"to bob@example.com"}' + b" " * 3000
PLAIN = b'{"email":"[masked]","note":"to [masked]"}' + b" " * 3000


def raw_deflate(data: bytes) -> bytes:
    maker = zlib.compressobj(wbits=-15)
    return maker.compress(data) + maker.flush()


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


Coder = Callable[[bytes], bytes]
CODERS: list[tuple[str, Coder, Coder]] = [
    ("gzip", gzip.compress, gzip.decompress),
    ("x-gzip", gzip.compress, gzip.decompress),
    ("deflate", zlib.compress, zlib.decompress),
    ("deflate", raw_deflate, lambda data: zlib.decompress(data, -15)),
    ("br", brotli.compress, brotli.decompress),
    ("zstd", zstandard.compress, unzstd),
    (
        "gzip, br",
        lambda data: brotli.compress(gzip.compress(data)),
        lambda data: gzip.decompress(brotli.decompress(data)),
    ),
    ("identity", bytes, bytes),
]
IDS = ["gzip", "x-gzip", "deflate", "raw-deflate", "br", "zstd", "gzip-br", "identity"]
every = pytest.mark.parametrize(("coding", "make", "open_"), CODERS, ids=IDS)
compressing = pytest.mark.parametrize(("coding", "make", "open_"), CODERS[:-1], ids=IDS[:-1])


@every
def test_opened_masked_and_made_again(coding: str, make: Coder, open_: Coder) -> None:
    coded = make(BODY)
    for step in (1, 7, 100_000):
        assert open_(masked("application/json", coded, both("email"), step, coding)) == PLAIN
    assert masked("application/json", b"", both("email"), coding=coding) == b""


@compressing
def test_what_ends_early_goes_on_or_is_damaged_is_an_error(coding: str, make: Coder, open_: Coder) -> None:
    coded = make(BODY)
    # inside other codings an early end of the outer one is found first
    for bad in (coded[:-1], coded[: len(coded) // 2], coded[:1], coded + b"x", coded + b"\0" * 8, b"\x99" * 30):
        for step in (1, 100_000):
            with pytest.raises(BodyError):
                masked("application/json", bad, both("email"), step, coding)


def test_several_gzip_members_and_zstd_frames_are_one_body() -> None:
    half = len(BODY) // 2
    for coding, make, open_ in (CODERS[0], CODERS[5]):
        coded = make(BODY[:half]) + make(BODY[half:])
        for step in (1, 100_000):
            assert open_(masked("application/json", coded, both("email"), step, coding)) == PLAIN


@compressing
def test_a_bomb_is_an_error_before_it_is_open(coding: str, make: Coder, open_: Coder) -> None:
    bomb = make(b"\0" * 12_000_000)
    seen = 0

    class Counting:
        def feed(self, data: bytes) -> bytes:
            nonlocal seen
            seen += len(data)
            assert len(data) <= 9_000_000
            return b""

        def end(self) -> bytes:
            return b""

    from guard.mask.bodies.codings import coded, codings_of

    masker = coded(codings_of(coding), Counting(), Limits())
    with pytest.raises(BodyError, match="decompression bomb"):
        masker.feed(bomb)
    assert seen < 12_000_000


def test_the_absolute_limit() -> None:
    with pytest.raises(BodyError, match="bomb"):
        masked("text/plain", gzip.compress(b"abc\n" * 1000), contents(), coding="gzip", limits=Limits(decoded=2000))


def test_a_window_that_http_does_not_allow_is_an_error() -> None:
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=25)
    maker = zstandard.ZstdCompressor(compression_params=params).compressobj()
    coded = maker.compress(b"x" * 40_000_000) + maker.flush()
    with pytest.raises(BodyError, match="window"):
        masked("text/plain", coded, contents(), coding="zstd")


@pytest.mark.parametrize("coding", ["compress", "gzip, lzma", "gzip gzip", "aes128gcm", "gzip, gzip, gzip, gzip"])
def test_an_unknown_coding_is_refused_at_once(coding: str) -> None:
    with pytest.raises(Unmaskable):
        body_masker("application/json", coding, contents())


def test_what_is_masked_does_not_wait_in_the_coding() -> None:
    opener = zlib.decompressobj(31)
    masker = body_masker("text/event-stream", "gzip", contents())
    maker = zlib.compressobj(wbits=31)
    for line in (b"data: one\n\n", b"data: bob@example.com\n\n"):
        piece = masker.feed(maker.compress(line) + maker.flush(zlib.Z_SYNC_FLUSH))
        assert opener.decompress(piece) == line.replace(b"bob@example.com", b"[masked]")
