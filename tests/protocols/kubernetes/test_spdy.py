"""SPDY/3.1: what is encoded is decoded, cut anywhere; what is not legal ends the stream and raises nothing else."""

from __future__ import annotations

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes import spdy
from protocols.kubernetes.errors import StreamError
from protocols.kubernetes.spdy import (
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Headers,
    Ping,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)

ids = st.integers(1, 2**31 - 1)
u31 = st.integers(0, 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
pairs = st.dictionaries(st.text("abc-:", min_size=1, max_size=8), st.text(max_size=20), max_size=5)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(SynStream, ids, pairs, u31, st.integers(0, 7), st.booleans(), st.booleans()),
    st.builds(SynReply, ids, pairs, st.booleans()),
    st.builds(Headers, ids, pairs, st.booleans()),
    st.builds(RstStream, ids, st.integers(1, 2**32 - 1)),
    st.builds(Settings, st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**24 - 1), u32), max_size=3).map(tuple),
              st.booleans()),
    st.builds(Ping, u32),
    st.builds(GoAway, u31, u32),
    st.builds(WindowUpdate, u31, u31),
    st.builds(Data, ids, st.binary(max_size=100), st.booleans()),
)  # fmt: skip


def test_the_dictionary_is_the_drafts() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 2000), max_size=6))
def test_what_is_encoded_is_decoded(sent: list[Frame], cuts: list[int]) -> None:
    encoder, decoder = Encoder(), Decoder()
    wire = b"".join(map(encoder.encode, sent))
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    found = [item for a, b in itertools.pairwise(places) for item in decoder.feed(wire[a:b])]
    assert [frame for frame, _ in found] == sent
    assert b"".join(raw for _, raw in found) == wire
    assert decoder.buffered == 0


@given(st.binary(max_size=300))
def test_noise_raises_nothing_else(noise: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(noise)
    except StreamError:
        with pytest.raises(StreamError):
            decoder.feed(b"")


@given(frames, st.data())
def test_a_frame_with_a_byte_changed_raises_nothing_else(frame: Frame, data: st.DataObject) -> None:
    wire = bytearray(Encoder().encode(frame))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        Decoder().feed(bytes(wire))
    except StreamError:
        return


def control(kind: int, body: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack("!HHI", 0x8000 | version, kind, flags << 24 | len(body)) + body


def block(plain: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    return deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)


def text(value: bytes) -> bytes:
    return struct.pack("!I", len(value)) + value


SYN = struct.pack("!IIH", 1, 0, 0)
LIES = {
    "another version": control(6, b"\0\0\0\1", version=2),
    "unknown type": control(5, b""),
    "credential": control(10, b""),
    "flags of a ping": control(6, b"\0\0\0\1", 1),
    "flags of data": struct.pack("!II", 1, 0x02000000),
    "data of stream 0": struct.pack("!II", 0, 0),
    "short ping": control(6, b"\0"),
    "long ping": control(6, b"\0" * 5),
    "short syn": control(1, b"\0" * 9),
    "stream 0": control(1, struct.pack("!IIH", 0, 0, 0) + block(b"\0\0\0\0")),
    "reset without a status": control(3, struct.pack("!II", 1, 0)),
    "settings that lie": control(4, struct.pack("!I", 5) + b"\0" * 8),
    "settings that lie a lot": control(4, struct.pack("!I", 0x20000000)),
    "no compression": control(1, SYN + b"\0\0\0\0"),
    "no dictionary": control(1, SYN + zlib.compress(b"\0\0\0\0")),
    "a name twice": control(1, SYN + block(struct.pack("!I", 2) + (text(b"a") + text(b"x")) * 2)),
    "upper case": control(1, SYN + block(struct.pack("!I", 1) + text(b"StreamType") + text(b"x"))),
    "no name": control(1, SYN + block(struct.pack("!I", 1) + text(b"") + text(b"x"))),
    "past the end": control(1, SYN + block(struct.pack("!I", 1) + text(b"a") + struct.pack("!I", 0xFFFFFFFF) + b"x")),
    "bytes behind": control(1, SYN + block(struct.pack("!I", 0) + b"x")),
    "too many": control(1, SYN + block(struct.pack("!I", 0xFFFFFFFF))),
    "not utf-8": control(1, SYN + block(struct.pack("!I", 1) + text(b"a") + text(b"\xff"))),
    "a bomb": control(1, SYN + block(struct.pack("!I", 1) + text(b"a") + text(b"x" * 10_000_000))),
    "a long frame": struct.pack("!II", 1, spdy.MAX_DATA + 1),
    "a long control frame": struct.pack("!HHI", 0x8003, 1, spdy.MAX_CONTROL + 1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_lies_end_the_stream(lie: bytes) -> None:
    decoder = Decoder()
    decoder.feed(Encoder().encode(Ping(1)))
    with pytest.raises(StreamError):
        decoder.feed(lie)
    assert decoder.buffered == 0
    with pytest.raises(StreamError):
        decoder.feed(Encoder().encode(Ping(1)))


def test_a_block_that_ends_the_compression() -> None:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    ended = deflate.compress(struct.pack("!I", 0)) + deflate.flush()
    with pytest.raises(StreamError, match="ends the compression"):
        Decoder().feed(control(1, SYN + ended))


def test_too_much_for_a_frame() -> None:
    with pytest.raises(StreamError):
        Encoder().encode(Data(1, b"x" * (1 << 24)))
