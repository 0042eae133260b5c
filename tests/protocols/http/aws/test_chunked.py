"""Bodies in aws-chunked: any cut gives the same data, and what is not the grammar raises one error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.http.aws.chunked import FORMS, BadChunks, Chunks

SIGNATURE = b"a" * 64
CRC = ("x-amz-checksum-crc32", "AAAAAA==")


def in_chunks(pieces: list[bytes], trailer: bytes = b"\r\n", *, signed: bool = True) -> bytes:
    mark = b";chunk-signature=" + SIGNATURE if signed else b""
    return b"".join(b"%x%s\r\n%s\r\n" % (len(p), mark, p) for p in pieces) + b"0" + mark + b"\r\n" + trailer


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data(), st.booleans())
def test_any_cut_gives_the_same_data(pieces: list[bytes], data: st.DataObject, signed: bool) -> None:
    whole = in_chunks(pieces, b"%s:%s\r\n\r\n" % (CRC[0].encode(), CRC[1].encode()), signed=signed)
    wanted = b"".join(pieces)
    chunks = Chunks(len(wanted), trailer=True)
    out = b""
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        out += chunks.feed(whole[:size])
        whole = whole[size:]
    assert out == wanted
    assert chunks.end() == [CRC]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_any_truncation_is_an_error(pieces: list[bytes], data: st.DataObject) -> None:
    whole = in_chunks(pieces, b"")  # what follows the last chunk may be nothing
    cut = data.draw(st.integers(0, len(whole) - 1))
    chunks = Chunks(sum(map(len, pieces)), trailer=False)
    chunks.feed(whole[:cut])
    with pytest.raises(BadChunks):
        chunks.end()


@given(st.binary(max_size=200), st.booleans())
def test_anything_else_raises_the_one_error(noise: bytes, trailer: bool) -> None:
    chunks = Chunks(50, trailer=trailer)
    try:
        out = chunks.feed(noise)
        chunks.end()
    except BadChunks:
        return
    assert len(out) == 50


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", "shorter"),
        (b"7\r\nhello..\r\n0\r\n\r\n", "longer"),
        (b"6\r\nhello.0\r\n\r\n", "longer than its head"),
        (b"fffffffffff\r\n", "longer"),
        (b"-6\r\nhello.\r\n0\r\n\r\n", "not in chunks"),
        (b"+6\r\nhello.\r\n0\r\n\r\n", "not in chunks"),
        (b"0x6\r\nhello.\r\n0\r\n\r\n", "not in chunks"),
        (b"6;x=y\r\nhello.\r\n0\r\n\r\n", "not in chunks"),
        (b"6\nhello.\n0\n\n" + b" " * 1100, "not in chunks"),
        (b"hello.", "middle"),
        (b"", "middle"),
        (b"6\r\nhello.\r\n", "middle"),
        (b"6\r\nhello.\r\n0\r\n" + b"x" * 9000, "too much"),
        (b"6\r\nhello.\r\n0\r\nauthorization:x\r\n\r\n", "something else"),
        (b"6\r\nhello.\r\n0\r\nx-amz-checksum-crc32:a b\r\n\r\n", "something else"),
        (b"6\r\nhello.\r\n0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n\r\n", "twice"),
        (b"6\r\nhello.\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "something else"),
    ],
)
def test_a_body_that_is_not_what_its_head_says(body: bytes, words: str) -> None:
    with pytest.raises(BadChunks, match=words):
        _read(body)


def _read(body: bytes) -> bytes:
    chunks = Chunks(6, trailer=True)
    data = chunks.feed(body)
    chunks.end()
    return data


def test_fields_behind_a_body_that_has_none() -> None:
    chunks = Chunks(0, trailer=False)
    chunks.feed(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n")
    with pytest.raises(BadChunks):
        chunks.end()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n\r\n", b"\n"])
def test_a_signed_trailer_as_each_sdk_writes_it(line_end: bytes) -> None:
    chunks = Chunks(0, trailer=FORMS["STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"])
    mark = b"0;chunk-signature=" + SIGNATURE
    chunks.feed(mark + b"\r\nx-amz-checksum-crc32:AAAAAA==" + line_end + b"x-amz-trailer-signature:" + SIGNATURE)
    chunks.feed(b"\r\n\r\n")
    assert chunks.end() == [CRC]


def test_chunks_that_are_nothing_but_work() -> None:
    small, large = (in_chunks([b"x" * size] * 200, signed=False) for size in (1023, 1024))
    assert len(Chunks(1024 * 200, trailer=False).feed(large)) == 1024 * 200
    with pytest.raises(BadChunks, match="chunks of less than"):
        Chunks(1023 * 200, trailer=False).feed(small)


def test_memory_does_not_grow_with_a_chunk() -> None:
    chunks = Chunks(1 << 30, trailer=False)
    chunks.feed(b"%x\r\n" % (1 << 30))
    for _ in range(64):
        assert len(chunks.feed(b"x" * 65536)) == 65536
    assert len(chunks._rest) == 0
