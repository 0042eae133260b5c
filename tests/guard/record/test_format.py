"""The journal's bytes: the Merkle tree against RFC 6962's own definition, refusals of impossible lengths."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.record.errors import DamagedJournal
from guard.record.format import CHECK, MAX_SIZE, PREFIX, MerkleTree, SegmentHeader, record_size


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word; the leaves are leaf hashes already."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_merkle_root_is_that_of_rfc_6962(leaves: list[bytes]) -> None:
    tree = MerkleTree()
    tree.extend(leaves)
    assert (tree.size, tree.root()) == (len(leaves), reference_root(leaves))


@given(st.lists(st.tuples(st.integers(0, 150), st.sampled_from(["", "root", "ahead", "copy"])), max_size=8))
def test_merkle_root_is_the_same_whenever_the_hashing_is_done(steps: list[tuple[int, str]]) -> None:
    tree, leaves = MerkleTree(), list[bytes]()
    for count, act in steps:
        more = [(len(leaves) + n).to_bytes(32) for n in range(count)]
        tree.extend(more)
        leaves += more
        if act == "root":
            assert tree.root() == reference_root(leaves)
        elif act == "ahead":
            tree.settle_ahead()
        elif act == "copy":
            tree = tree.copy()
    assert (tree.size, tree.root()) == (len(leaves), reference_root(leaves))


def test_a_copied_tree_grows_on_its_own() -> None:
    tree = MerkleTree()
    tree.extend([bytes([n]) * 32 for n in range(5)])
    before, copied = tree.root(), tree.copy()
    copied.add(b"x" * 32)
    assert tree.root() == before != copied.root()


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_segment_header_round_trip(journal: bytes, number: int, seq: int, chain: bytes) -> None:
    header = SegmentHeader(journal, number, seq, chain)
    assert SegmentHeader.decode(header.encode(), number) == header


@pytest.mark.parametrize("size", [0, 1, 100, MAX_SIZE + 1, 2**32 - 1])
def test_impossible_lengths_are_refused_before_anything_is_read(size: int) -> None:
    with pytest.raises(DamagedJournal, match="impossible"):
        record_size(PREFIX.pack(size, size ^ CHECK, 0), 1, 68)


@pytest.mark.parametrize("bit", range(32))
def test_a_flipped_bit_in_the_length_is_not_taken_for_a_torn_record(bit: int) -> None:
    with pytest.raises(DamagedJournal, match="length of the record is damaged") as caught:
        record_size(PREFIX.pack(500 ^ (1 << bit), 500 ^ CHECK, 0), 1, 68)
    assert not caught.value.torn


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(DamagedJournal, match="unknown flags"):
        record_size(PREFIX.pack(500, 500 ^ CHECK, 2), 1, 68)
