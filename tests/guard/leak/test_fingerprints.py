"""Values that were masked are recognised in what goes out; nothing of them is kept; everything is bounded."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import subprocess
import sys
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.leak import Fingerprints, Leak

KEY = b"k" * 32
ME, OTHER = "https://issuer.example ci-job", "https://issuer.example other"


def knowing(*values: str) -> Fingerprints:
    prints = Fingerprints(KEY)
    for value in values:
        assert prints.saw(ME, value, 0.0), value
    return prints


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("078-05-1120", "ssn=078-05-1120"),
        ("078-05-1120", "078051120"),
        ("078-05-1120", "078 05 1120"),
        ("078051120", "078-05-1120"),
        ("4111111111111111", "card 12 4111 1111 1111 1111 99"),
        ("4111 1111 1111 1111", "4111111111111111"),
        ("Alice Smith", "hello, ALICE   smith!"),
        ("Alice Smith", '{"first":"alice","last":"smith"}'[17:] + " alice_smith"),
        ("alice@example.com", "to=ALICE@Example.COM;"),
        ("alice@example.com", "alice%40example.com"),
        ("\u00c9lodie Durand", "\u00c9LODIE DURAND"),
        ("\u00c9lodie Durand", json.dumps("\u00e9lodie durand")),
        ("p@ss,w0rd!", "x p@ss,w0rd! y"),
        ("GB82WEST12345698765432", "GB82 WEST 1234 5698 7654 32"[:4] + "WEST12345698765432"),
        ("AKIAIOSFODNN7EXAMPLE", "k:AKIAIOSFODNN7EXAMPLE"),
        ("550e8400-e29b-41d4-a716-446655440000", "550E8400E29B41D4A716446655440000"),
    ],
)
def test_found_in_another_spelling(value: str, text: str) -> None:
    assert knowing(value).find(ME, text.encode(), 1.0).strong == 1


def test_found_within_encodings() -> None:
    prints = knowing("alice@example.com", "078-05-1120")
    text = b"id,mail,ssn\n1,alice@example.com,078-05-1120\n"
    for body in (
        base64.b64encode(text),
        gzip.compress(text),
        text.hex().encode(),
        base64.b64encode(gzip.compress(text)),
        urllib.parse.quote(base64.b64encode(text)).encode(),
        json.dumps({"content": base64.b64encode(text).decode()}).encode(),
    ):
        assert prints.find(ME, body, 1.0).strong == 2, body


def test_only_for_the_identity_that_saw_it() -> None:
    prints = knowing("alice@example.com")
    assert not prints.find(OTHER, b"alice@example.com", 1.0)
    assert prints.find(ME, b"alice@example.com", 1.0)


def test_what_is_too_common_is_not_kept() -> None:
    prints = Fingerprints(KEY)
    for value in ("", "a", "true", "active", "Bob", "12345", "000000000000", "----", "Berlin", "2024", " \t", "\ud800"):
        assert not prints.saw(ME, value, 0.0), value
    assert len(prints) == 0


def test_a_word_alone_is_weak_and_three_are_a_leak() -> None:
    prints = knowing("Wolfeschlegel", "Featherstone", "Throckmorton")
    one = prints.find(ME, b"dear featherstone", 1.0)
    assert one == Leak(weak=1)
    assert not one
    assert prints.find(ME, b"featherstone throckmorton wolfeschlegel", 1.0)


def test_each_value_counts_once() -> None:
    prints = knowing("078-05-1120", "alice@example.com")
    assert prints.find(ME, b"078-05-1120 " * 50 + b"alice@example.com", 1.0) == Leak(strong=2)


def test_kept_for_so_long_and_no_longer() -> None:
    prints = Fingerprints(KEY, keep_s=100.0)
    prints.saw(ME, "078-05-1120", 0.0)
    prints.saw(ME, "alice@example.com", 0.0)
    prints.saw(ME, "alice@example.com", 60.0)  # seen again: kept anew
    body = b"078-05-1120 alice@example.com"
    assert prints.find(ME, body, 99.0).strong == 2
    assert prints.find(ME, body, 101.0).strong == 1
    assert prints.find(ME, body, 161.0) == Leak()
    assert len(prints) == 0


def test_the_oldest_go_first() -> None:
    prints = Fingerprints(KEY, most=10, most_each=4)
    for number in range(6):
        prints.saw(ME, f"user{number}@example.com", 0.0)
    assert len(prints) == 4
    assert [bool(prints.find(ME, f"user{n}@example.com".encode(), 1.0)) for n in range(6)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    for owner in range(5):
        for number in range(4):
            prints.saw(f"o{owner}", f"user{number}@example.com", 0.0)
    assert len(prints) == 10
    assert not prints.find(ME, b"user5@example.com", 1.0)
    assert prints.find("o4", b"user3@example.com", 1.0)


def test_across_the_border_of_blocks() -> None:
    prints = knowing("Alice Smith", "078-05-1120")
    for shift in range(-30, 30, 3):
        body = b"x " * ((262_144 + shift) // 2) + b"Alice Smith 078-05-1120" + b" y" * 1000
        assert prints.find(ME, body, 1.0).strong == 2, shift


def test_nothing_of_a_value_is_kept() -> None:
    prints = knowing("078-05-1120", "Alice Smith-Zebedee")
    kept = [o for o in gc.get_referents(prints, *prints._owners.values(), prints._owners) if isinstance(o, dict)]
    text = repr([prints.__dict__, *kept, [(o.entries, o.quick, o.shapes) for o in prints._owners.values()]]).lower()
    for part in ("078-05", "0780511", "alice", "zebedee"):
        assert part not in text.replace("k" * 32, "")


def test_unusable_keys_and_hashes() -> None:
    with pytest.raises(ValueError, match="shorter than 16"):
        Fingerprints(b"short")
    code = "from guard.leak import Fingerprints\nFingerprints(b'k' * 32)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False
    )
    assert "need random string hashes" in done.stderr


@given(
    st.text(max_size=60),
    st.text(alphabet=" \n,;:|<>=", min_size=1, max_size=3),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_whatever_is_kept_is_found_again_between_separators(value: str, sep: str, before: str, after: str) -> None:
    prints = Fingerprints(KEY)
    if prints.saw(ME, value, 0.0):
        text = f"{before}{sep}{value}{sep}{after}"
        found = prints.find(ME, text.encode("utf-8", "replace"), 1.0)
        assert found.strong + found.weak >= 1


@given(st.binary(max_size=300))
def test_any_bytes_can_be_searched(data: bytes) -> None:
    prints = knowing("078-05-1120", "Alice Smith")
    assert prints.find(ME, data, 1.0) == Leak(complete=prints.find(ME, data, 1.0).complete)
