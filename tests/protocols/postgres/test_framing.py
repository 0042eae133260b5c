"""Where messages begin and end, whatever the pieces they come in."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.postgres import framing
from protocols.postgres.errors import ProtocolError
from protocols.postgres.framing import FRONTEND, Framer, Startup, parse_startup, startup_length
from tests.support import wire

bodies = st.lists(st.tuples(st.sampled_from("QPBd"), st.binary(max_size=60)), max_size=8)


def framer(limit: int = 1000, **limits: int) -> Framer:
    return Framer(FRONTEND, {ord(k): v for k, v in limits.items()}, limit)


def whole(used: Framer, data: bytes) -> list[bytes]:
    buf, found, end = used.feed(data)
    assert all(stop <= end for _, _, stop in found)
    assert [buf[a] for _, a, _ in found] == [kind for kind, _, _ in found]
    return [buf[a:b] for _, a, b in found]


@given(bodies, st.lists(st.integers(0, 600), max_size=20))
def test_any_pieces_give_the_same_messages(parts: list[tuple[str, bytes]], places: list[int]) -> None:
    made = [wire.message(k, b) for k, b in parts]
    data = b"".join(made)
    at = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    used = framer()
    assert [m for a, b in itertools.pairwise(at) for m in whole(used, data[a:b])] == made
    assert used.buffered == 0


@given(bodies, st.integers(1, 400))
def test_a_cut_off_stream_is_kept_until_the_rest_comes(parts: list[tuple[str, bytes]], cut: int) -> None:
    data = b"".join(wire.message(k, b) for k, b in parts)
    used = framer()
    got = whole(used, data[:cut])
    assert sum(map(len, got)) + used.buffered == len(data[:cut])
    assert b"".join(got + whole(used, data[cut:])) == data


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_arbitrary_bytes_raise_only_our_error(data: bytes, places: list[int]) -> None:
    used = framer(50)
    at = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    try:
        for a, b in itertools.pairwise(at):
            used.feed(data[a:b])
            if used.large:
                return
    except ProtocolError:
        return


@pytest.mark.parametrize("length", [0, 3, 2**31, 2**32 - 1, framing.MAX_MESSAGE + 1])
def test_row_02_lengths_that_cannot_be(length: int) -> None:
    with pytest.raises(ProtocolError, match="invalid message length"):
        framer().feed(b"Q" + struct.pack("!I", length))


def test_an_unknown_type_ends_it_at_the_header() -> None:
    with pytest.raises(ProtocolError, match="invalid message type"):
        framer().feed(b"\x16\3\1\2\0")  # a TLS record
    with pytest.raises(ProtocolError, match="invalid message type"):
        framer().feed(wire.query("SELECT 1") + b"GET / HTTP/1.1")


def test_row_01_a_long_message_is_announced_and_not_collected() -> None:
    used = framer(100)
    message = wire.message("Q", b"x" * 500)
    buf, found, end = used.feed(wire.SYNC + message[:300])
    assert found[0][0] == ord("S")
    assert found[1][2] - found[1][1] == len(message)
    assert found[1][2] > end == len(buf)
    assert used.large == len(message) - 300
    assert used.buffered == 0


def test_limits_are_by_kind() -> None:
    used = framer(1000, d=10)
    used.feed(wire.message("Q", b"x" * 500)[:300])
    assert (used.large, used.buffered) == (0, 300)
    used = framer(1000, d=10)
    used.feed(wire.message("d", b"x" * 500)[:300])
    assert (used.large > 0, used.buffered) == (True, 0)


def test_a_message_within_its_limit_that_is_whole_needs_no_limit() -> None:
    assert whole(framer(10), wire.message("Q", b"x" * 500)) == [wire.message("Q", b"x" * 500)]


def test_what_is_taken_is_held_no_more() -> None:
    used = framer()
    first, second, third = (wire.query(f"SELECT {i}") for i in range(3))
    buf, found, end = used.feed(first + second + third[:4])
    assert used.take() == third[:4]
    assert used.buffered == 0
    assert whole(used, buf[found[1][1] : end] + third) == [second, third]


def test_many_small_pieces_cost_no_quadratic_copying() -> None:
    used = framer(10_000_000)
    message = wire.message("Q", b"x" * 50_000)
    for i in range(len(message) - 1):
        used.feed(message[i : i + 1])
    assert whole(used, message[-1:]) == [message]


# ---------------------------------------------------------------- startup packets


@pytest.mark.parametrize("length", [0, 7, 10_001, 2**32 - 1])
def test_row_02_startup_lengths_that_cannot_be(length: int) -> None:
    with pytest.raises(ProtocolError):
        startup_length(struct.pack("!I", length))


def test_startup_packets() -> None:
    assert startup_length(b"\0\0\0") is None
    packet = wire.startup(user="ada", database="shop")
    assert startup_length(packet) == len(packet)
    found = parse_startup(packet)
    assert (found.major, found.minor) == (3, 0)
    assert found.parameters() == {"user": "ada", "database": "shop"}


@pytest.mark.parametrize(
    "body",
    [
        b"user\0a\0user\0b\0\0",
        b"user\0a",
        b"user\0a\0",
        b"user\0a\0\0more",
        b"\xff\0a\0\0",
        b"user\0\xff\0\0",
        b"user\0",
    ],
)
def test_startup_parameters_that_cannot_be(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Startup(3 << 16, body).parameters()


@given(st.binary(max_size=60))
def test_arbitrary_startup_packets_raise_only_our_error(body: bytes) -> None:
    try:
        Startup(3 << 16, body).parameters()
    except ProtocolError:
        return
