"""Properties of what is rewritten: any records, any residue; bit fields; tombstones; thinning."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.record.errors import DamagedJournal, RecordError
from guard.record.reader import open_segment
from guard.record.residue import CONTENT, residue, thin_facts
from guard.record.retention import rewrite
from guard.record.tombstones import LEVELS, Act, Tombstone, pack, path_of, unpack
from tests.support.disk import file_size_limit
from tests.support.examples import examples

KEY = Ed25519PrivateKey.generate()
DIGESTS = st.binary(min_size=32, max_size=32)
WORDS = st.text('ab "\\é€😀{}', max_size=12)


@given(st.integers(1, 10**9), st.integers(0, 3000), st.data())
def test_any_set_of_records_survives_packing(first: int, more: int, data: st.DataObject) -> None:
    last = first + more
    seqs = data.draw(st.frozensets(st.integers(first, last), max_size=60))
    assert unpack(pack(seqs, first, last), first, last) == seqs


@pytest.mark.parametrize("text", ["", "AAAA", "x", pack({8}, 1, 8), pack({1}, 1, 80), pack((), 1, 9) + "AAAA"])
def test_a_field_of_another_size_is_refused(text: str) -> None:
    with pytest.raises((ValueError, Exception)) as caught:  # zlib.error is no ValueError
        unpack(text, 1, 7)
    assert type(caught.value).__name__ in ("ValueError", "error")


def test_a_field_that_grows_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="another size"):
        unpack(pack((), 1, 8 * 50_000_000), 1, 80)


@st.composite
def tombstones(draw: Any) -> Tombstone:
    first = draw(st.integers(1, 10**6))
    last = first + draw(st.integers(0, 200))
    levels = [*draw(st.lists(st.sampled_from(LEVELS[:3]), max_size=2)), draw(st.sampled_from(LEVELS))]
    acts = tuple(
        Act(
            run=draw(WORDS),
            intended=draw(st.integers(0, 2**63)),
            level=level,
            rule=draw(WORDS),
            reason=draw(WORDS),
            by=draw(WORDS),
            at=draw(st.integers(0, 2**63)),
            seqs=frozenset() if level == "drop" else draw(st.frozensets(st.integers(first, last), max_size=20)),
            counts=draw(st.dictionaries(WORDS, st.integers(0, 10**6), max_size=3)),
            size=draw(st.integers(0, 2**40)),
            kept=draw(st.integers(0, 1000)),
        )
        for level in levels
    )
    plain = [draw(DIGESTS) for _ in range(5)]
    return Tombstone(
        draw(st.binary(min_size=16, max_size=16)),
        7,
        first,
        last,
        1,
        2,
        plain[0],
        plain[1],
        5,
        plain[2],
        acts,
        plain[3],
        plain[4],
    )


@settings(max_examples=examples(40), deadline=None)
@given(tombstones())
def test_a_tombstone_is_read_as_it_was_written_and_by_nobody_elses_key(made: Tombstone) -> None:
    data = made.encode(KEY)
    assert Tombstone.decode(data, 7, KEY.public_key()) == made
    with pytest.raises(DamagedJournal, match="not signed"):
        Tombstone.decode(data, 7, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(DamagedJournal, match="that of segment 7"):
        Tombstone.decode(data, 8, KEY.public_key())


@settings(max_examples=examples(40), deadline=None)
@given(tombstones(), st.data())
def test_no_change_of_a_tombstone_keeps_its_signature(made: Tombstone, data: st.DataObject) -> None:
    document = orjson.loads(made.encode(KEY))
    name = data.draw(st.sampled_from(sorted(document.keys() - {"sig", "key", "t"})))
    value = document[name]
    if name == "acts":
        act = data.draw(st.sampled_from(value))
        field = data.draw(st.sampled_from(["run", "rule", "reason", "by"]))
        act[field] += "x"
    elif isinstance(value, int):
        document[name] = value + 1
    else:
        document[name] = ("1" if value[0] == "0" else "0") + value[1:]
    with pytest.raises(DamagedJournal):
        Tombstone.decode(orjson.dumps(document), 7, KEY.public_key())


@given(st.binary(max_size=300))
def test_garbage_is_no_tombstone(data: bytes) -> None:
    with pytest.raises(DamagedJournal, match="garbled"):
        Tombstone.decode(data, 7, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["t", "s", "n", "rows", "wire", "input", "body", "headers", "lines", "text", "é"])


@given(st.sampled_from(["response", "cast", "message", "command", "alert"]), st.dictionaries(NAMES, JSON, max_size=8))
def test_what_stays_of_a_record_is_its_facts_without_content_and_never_longer(kind: str, facts: dict[str, Any]) -> None:
    payload = json.dumps(facts).encode()
    left = residue(kind, payload)
    if left is None:
        assert not any(facts.get(name) for name in CONTENT.get(kind, ()))
        return
    assert len(left) <= len(payload)
    assert not left.endswith(b"\x00")
    if left:
        assert orjson.loads(left) == thin_facts(kind, orjson.loads(payload))
        assert residue(kind, left) is None  # thinning twice changes nothing
    assert not CONTENT[kind] & (orjson.loads(left) if left else {}).keys()


@pytest.mark.parametrize("payload", [b"\xff", b"[1]", b'"x"', b"{"])
def test_of_what_cannot_be_read_nothing_stays(payload: bytes) -> None:
    assert residue("response", payload) == b""


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_records_of_a_segment_can_go_and_the_rest_is_as_it_was(place: Any, data: st.DataObject) -> None:
    """Positions, chain, signatures and every other payload; any number of acts on top of one another."""
    folder, number, key = place.journal, 3, place.recorder._writer._signer._key
    path = rewrite.packed(folder, number)
    original = path.read_bytes()
    before = [record for record in place.records() if record.segment == number]
    tombstone, taken = None, set[int]()
    try:
        for round_ in range(data.draw(st.integers(1, 3))):
            level = data.draw(st.sampled_from(LEVELS[:3]))
            some = data.draw(st.frozensets(st.sampled_from([record.seq for record in before])))
            choose = lambda record, facts, some=some: "take" if record.seq in some else "leave"  # noqa: E731
            found = rewrite.scan(folder, number, key.public_key(), tombstone, level, choose)
            if not found.taken:
                continue
            act = Act(f"r{round_}", 1, level, "rule", "why", "who", 1, frozenset(found.taken), dict(found.counts))
            tombstone = rewrite.reduce_segment(folder, found, tombstone, act, key, lambda: None, lambda _: None)
            taken |= found.taken
        after = [record for record in place.records() if record.segment == number]
        assert [replace(record, payload=b"", reduced=False) for record in after] == [
            replace(record, payload=b"") for record in before
        ]
        assert {record.seq for record in after if record.reduced} == taken
        for old, new in zip(before, after, strict=True):
            if new.seq not in taken:
                assert new.payload == old.payload
            elif new.payload:
                assert new.payload == residue(old.kind, old.payload)
        report = place.verify()
        assert report.problem is None or "does not announce" in report.problem["why"]
        assert (tombstone is None) or rewrite.settle(folder, number, key) == tombstone
    finally:
        path.write_bytes(original)
        path_of(folder, number).unlink(missing_ok=True)


def test_an_act_that_was_signed_and_not_carried_out_is_taken_back(place: Any) -> None:
    folder, key = place.journal, place.recorder._writer._signer._key
    original = rewrite.packed(folder, 2).read_bytes()
    found = rewrite.scan(folder, 2, key.public_key(), None, "strip", lambda record, facts: "take")
    act = Act("r", 1, "strip", "rule", "why", "who", 1, frozenset(found.taken))
    rewrite.reduce_segment(folder, found, None, act, key, lambda: None, lambda _: None)
    rewrite.packed(folder, 2).write_bytes(original)
    assert rewrite.settle(folder, 2, key) is None
    assert not path_of(folder, 2).exists()
    with open_segment(folder, 2) as file:
        assert b"SELECT 'ann" in file.read()


@pytest.mark.parametrize("level", ["strip", "drop"])
def test_a_full_disk_changes_nothing(place: Any, level: Any) -> None:
    folder, key = place.journal, place.recorder._writer._signer._key
    place.recorder._syncer.close()  # its thread may still be at the last head
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    found = rewrite.scan(folder, 2, key.public_key(), None, level, lambda record, facts: "take")
    act = Act("r", 1, level, "rule", "why", "who", 1, frozenset() if level == "drop" else frozenset(found.taken))
    rewritten = rewrite.drop_segment if level == "drop" else rewrite.reduce_segment
    with file_size_limit(300), pytest.raises((OSError, RecordError), match="File too large") as caught:
        rewritten(folder, found, None, act, key, lambda: None, lambda _: None)
    assert "read" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert rewrite.settle(folder, 2, key) is None
    assert place.verify().ok
