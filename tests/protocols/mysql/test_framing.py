"""Where packets begin and end, whatever the pieces they come in."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql import framing
from protocols.mysql.errors import ProtocolError
from protocols.mysql.framing import HEADER, MAX_PART, Framer, packet, parts, payload

bodies = st.lists(st.binary(max_size=60), max_size=8)
cuts = st.lists(st.integers(0, 1000), max_size=20)


@contextlib.contextmanager
def short_parts(size: int = 7) -> Iterator[None]:
    """Chains as of packets over 16 MiB, with parts that are a few bytes long."""
    with mock.patch.object(framing, "MAX_PART", size), mock.patch.object(framing, "_SPAN", size + HEADER):
        yield


def whole(used: Framer, data: bytes) -> list[bytes]:
    """The payloads that are whole after `data`."""
    buf, found, end = used.feed(data)
    assert all(stop <= end for _, _, stop in found)
    return [payload(buf, start, stop) for _, start, stop in found]


def pieces(data: bytes, places: list[int]) -> Iterator[bytes]:
    at = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    return (data[a:b] for a, b in itertools.pairwise(at))


@given(bodies, cuts)
def test_any_pieces_give_the_same_packets(made: list[bytes], places: list[int]) -> None:
    data = b"".join(packet(i, body) for i, body in enumerate(made))
    used = Framer(1000)
    assert [m for part in pieces(data, places) for m in whole(used, part)] == made
    assert used.buffered == 0
    assert used.expected == len(made)


@given(bodies, cuts)
def test_any_pieces_give_the_same_chains(made: list[bytes], places: list[int]) -> None:
    with short_parts():
        data = b"".join(packet(0, body) for body in made)
        used = Framer(1000, restart=True)
        assert [m for part in pieces(data, places) for m in whole(used, part)] == made
        assert used.buffered == 0


@given(st.binary(max_size=300), cuts, st.integers(4, 40))
def test_a_large_packet_ends_where_it_ends(body: bytes, places: list[int], limit: int) -> None:
    """Whether it was collected or skipped: what comes behind it is found, and nothing of it is kept."""
    with short_parts():
        data = packet(0, body) + packet(0, b"next")
        used = Framer(limit, restart=True)
        kept: list[bytes] = []
        passed = 0
        for part in pieces(data, places):
            if used.large:
                taken = used.skip(part)
                passed += taken
                part = part[taken:]
                if not part:
                    continue
            buf, found, end = used.feed(part)
            for _, start, stop in found:
                if used.large and (start, stop) == (found[-1][1], end):
                    assert stop - start > HEADER  # its first byte says what it is
                    passed += stop - start
                else:
                    kept.append(payload(buf, start, stop))
        assert not used.large
        assert used.buffered == 0
        if passed:
            assert passed == len(packet(0, body)) > limit
            assert kept == [b"next"]
        else:
            assert kept == [body, b"next"]


@given(bodies, st.integers(1, 400))
def test_a_cut_off_stream_is_kept_until_the_rest_comes(made: list[bytes], cut: int) -> None:
    data = b"".join(packet(i, body) for i, body in enumerate(made))
    used = Framer(1000)
    got = whole(used, data[:cut])
    assert sum(len(m) + HEADER for m in got) + used.buffered == len(data[:cut])
    assert got + whole(used, data[cut:]) == made


@given(st.binary(max_size=200), cuts)
def test_arbitrary_bytes_raise_only_our_error(data: bytes, places: list[int]) -> None:
    used = Framer(50)
    with short_parts():
        try:
            for part in pieces(data, places):
                if used.large:
                    part = part[used.skip(part) :]
                if not used.large:
                    used.feed(part)
                assert used.buffered <= len(data)
        except ProtocolError:
            return


@pytest.mark.parametrize("size", [0, 1, MAX_PART - 1, MAX_PART, MAX_PART + 1, 2 * MAX_PART, 2 * MAX_PART + 5])
def test_row_03_a_chain_is_one_packet_whatever_its_parts_begin_with(size: int) -> None:
    """Each part of the chain begins with the byte of a command: COM_QUERY, or a ping (Teleport's forged audit)."""
    body = b"\x0e" * size
    wire = packet(0, body)
    assert len(wire) == size + HEADER * (size // MAX_PART + 1)
    used = Framer(1 << 30, restart=True)
    buf, found, end = used.feed(wire)
    assert found == [(0, 0, len(wire))]
    assert end == len(wire)
    assert parts(0, len(wire)) == size // MAX_PART + 1
    assert payload(buf, 0, end) == body
    assert used.expected == 0
    used.expected = 0
    assert used.feed(packet(0, b"\1"))[1] == [(0, 0, 5)]


@pytest.mark.parametrize("sequence", [1, 2, 255])
def test_a_packet_out_of_order_ends_it_at_the_header(sequence: int) -> None:
    with pytest.raises(ProtocolError, match=f"packets out of order: got {sequence}, expected 0"):
        Framer(100).feed(b"\xff\xff\0" + bytes((sequence,)))


def test_row_03_a_part_out_of_order_ends_it() -> None:
    with short_parts(), pytest.raises(ProtocolError, match="got 0, expected 1"):
        Framer(100).feed(packet(0, b"1234567")[:-4] + b"\1\0\0\0x")
    with short_parts():
        used = Framer(5)
        assert used.feed(packet(0, b"1234567")[:-4])[1] == [(0, 0, 11)]
        assert used.large
        with pytest.raises(ProtocolError, match="got 9, expected 1"):
            used.skip(b"\1\0\0\x09x")


def test_sequence_numbers_wrap() -> None:
    used = Framer(100, expected=254)
    data = b"".join(packet(254 + i, b"x") for i in range(4))
    assert [sequence for sequence, _, _ in used.feed(data)[1]] == [254, 255, 0, 1]
    assert used.expected == 2


def test_row_02_a_length_is_not_believed() -> None:
    """A header and one byte announce a packet above the limit: nothing is set aside for it."""
    used = Framer(1000)
    assert used.feed(b"\xfe\xff\xff\0") == (b"\xfe\xff\xff\0", [], 0)
    assert (used.large, used.buffered) == (False, 4)
    buf, found, end = used.feed(b"\3")
    assert (found, end) == ([(0, 0, 5)], 5)
    assert used.large
    assert used.buffered == 0
    assert used.skip(b"x" * 100) == 100
    with pytest.raises(AssertionError):
        used.feed(b"x")
    assert buf == b"\xfe\xff\xff\0\3"


def test_what_is_taken_comes_with_the_next_bytes() -> None:
    used = Framer(100)
    data = packet(0, b"hello")
    used.feed(data[:6])
    assert used.take() == data[:6]
    assert used.buffered == 0
    assert used.feed(data)[1] == [(0, 0, 9)]


def test_row_01_more_than_the_protocol_can_say_is_not_written() -> None:
    with mock.patch.object(framing, "MAX_PAYLOAD", MAX_PART), pytest.raises(ProtocolError, match="longer than"):
        packet(0, bytes(MAX_PART + 1))
