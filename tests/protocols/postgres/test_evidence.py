"""Records are JSON whatever is in them, and parameters are shown as people read them."""

from __future__ import annotations

import struct
import uuid

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import records
from protocols.contract import Action, Analysis, Decision, Effect
from protocols.postgres import evidence

ANALYSIS = Analysis("select", frozenset({Effect.DATA_SELECT}), ("public.users",), columns=("public.users.id",))
DECISION = Decision(Action.ALLOW, "r", "")


@given(st.text(max_size=50), st.text(max_size=20))
def test_a_command_is_json_with_every_text(text: str, shape: str) -> None:
    fixed = evidence.command_static(ANALYSIS, DECISION, shape) + evidence.text_field(text)
    record = orjson.loads(evidence.command(b"s", 3, 17, b"query", fixed))
    assert (record["t"], record["s"], record["n"], record["at"], record["phase"]) == ("command", "s", 3, 17, "query")
    assert (record["text"], record["shape"], record["decision"]) == (text, shape, "allow")
    assert record["reads"] == ["public.users"]


def test_a_text_above_the_limit_says_how_long_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_TEXT", 10)
    record = orjson.loads(b"{" + evidence.text_field("x" * 50)[1:] + b"}")
    assert record == {"text": "x" * 10, "text_cut": 50}


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_a_response_is_json_with_every_tag_and_wire(tag: bytes, wire: bytes) -> None:
    record = orjson.loads(evidence.response(b"s", 1, 2, b"ok", 3, 4, 5, tag, [wire], True, b',"columns":[]'))
    assert (record["rows"], record["bytes"], record["us"], record["truncated"], record["columns"]) == (
        3,
        4,
        5,
        True,
        [],
    )


@pytest.mark.parametrize(
    ("raw", "oid", "shown"),
    [
        (b"\1", 16, "true"),
        (struct.pack("!q", -5), 20, "-5"),
        (struct.pack("!h", 7), 21, "7"),
        (struct.pack("!i", 256), 23, "256"),
        ("grün".encode(), 25, "grün"),
        (struct.pack("!d", 1.5), 701, "1.5"),
        (struct.pack("!i", 366), 1082, "2001-01-01"),
        (struct.pack("!q", 1_000_000), 1184, "2000-01-01T00:00:01+00:00"),
        (struct.pack("!q", 0x7FFFFFFFFFFFFFFF), 1184, "infinity"),
        (struct.pack("!hhHhhh", 2, 0, 0, 2, 12, 3400), 1700, "12.34"),
        (struct.pack("!hhHhh", 1, 0, 0x4000, 0, 5), 1700, "-5"),
        (struct.pack("!hhHh", 0, 0, 0xC000, 0), 1700, "NaN"),
        (uuid.UUID(int=1).bytes, 2950, str(uuid.UUID(int=1))),
        (b'\1{"a":1}', 3802, '{"a":1}'),
        (b"\1\2", 999_999, "\\x0102"),
        (b"short", 20, "\\x73686f7274"),
    ],
)
def test_binary_parameters_are_decoded(raw: bytes, oid: int, shown: str) -> None:
    assert evidence.show_value(raw, 1, oid) == shown


@given(st.binary(max_size=40), st.integers(0, 2), st.sampled_from([0, 16, 20, 701, 1082, 1114, 1184, 1700, 2950, 3802]))
def test_no_value_raises(raw: bytes, fmt: int, oid: int) -> None:
    assert isinstance(evidence.show_value(raw, fmt, oid), str)


def test_long_values_are_cut_and_say_so() -> None:
    shown = evidence.show_value(b"x" * 100_000, 0, 25)
    assert len(shown) < 1100
    assert shown.endswith("(100000 bytes)")


def test_formats_for_all_for_one_and_for_none() -> None:
    one = struct.pack("!i", 1)
    assert evidence.show_values([one, None], [1], [23, 23]) == ("1", None)
    assert evidence.show_values([b"1", one], [0, 1], [23, 23]) == ("1", "1")
    assert evidence.show_values([b"1", b"2"], [], []) == ("1", "2")
    assert evidence.show_values([b"1", one], [1], []) == ("\\x31", "\\x00000001")
