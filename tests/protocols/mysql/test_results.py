"""Rows on their way to the client: masked in place, to the last byte, or not passed at all."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask.masker import Masker
from protocols.contract import ColumnMask, MaskRule, Origin, ResultColumn, ResultShape, ValueKind
from protocols.mysql.framing import MAX_PART, packet
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.results import MaskError, RowRewriter
from protocols.mysql.rows import FIXED, TEMPORAL, binary_row, text_row
from protocols.mysql.rows import FieldType as T
from tests.support.mysql_rows import encode_binary_row, encode_text_row

REDACT = MaskRule("r", ("s.t.secret",), (), "redact")
HASH = MaskRule("h", ("s.t.secret",), (), "hash", {"length": 8})
KEY = b"k" * 32


@dataclass(frozen=True)
class Plan:
    columns: Sequence[ColumnMask | None]


def definition(kind: int = T.VAR_STRING, *, length: int = 400, flags: int = 0) -> ColumnDefinition:
    return ColumnDefinition(b"s", b"t", b"t", b"c", b"c", 255, length, kind, flags, 0)


def rewriter(
    kinds: Sequence[int], masked: Sequence[int], *, rule: MaskRule = REDACT, binary: bool = False
) -> RowRewriter:
    columns = tuple(
        ResultColumn("c", Origin.KNOWN, ("s.t.secret",) if i in masked else ("s.t.open",)) for i in range(len(kinds))
    )
    plan = Masker((rule,), KEY).plan(ResultShape(columns)) or Plan((None,) * len(kinds))
    return RowRewriter(plan, [definition(kind) for kind in kinds], None, binary=binary)


def test_a_text_row_keeps_all_but_the_masked_value() -> None:
    made = rewriter([T.VAR_STRING] * 4, [1, 3])
    row = encode_text_row([b"a", b"123-45-6789", b"", None])
    assert text_row(made.rewrite(row), 4) == [b"a", b"[masked]", b"", None]


def test_a_binary_row_keeps_its_nulls_and_gains_those_of_masked_numbers() -> None:
    kinds = [T.LONG, T.VAR_STRING, T.LONGLONG, T.DATE, T.VAR_STRING, T.SHORT, T.TINY, T.DOUBLE, T.VAR_STRING]
    made = rewriter(kinds, [2, 3, 4], binary=True)
    values = [
        struct.pack("<i", 7),
        b"x",
        b"\1" * 8,
        struct.pack("<HBB", 2024, 1, 2),
        b"123",
        None,
        b"\5",
        b"\0" * 8,
        b"y",
    ]
    row = made.rewrite(encode_binary_row(values, kinds))
    assert binary_row(row, kinds) == [values[0], b"x", None, None, b"[masked]", None, b"\5", b"\0" * 8, b"y"]


@pytest.mark.parametrize("binary", [False, True])
def test_the_same_value_gets_the_same_mask_in_both_forms(binary: bool) -> None:
    kinds = [T.VAR_STRING, T.VAR_STRING]
    made = rewriter(kinds, [0, 1], rule=HASH, binary=binary)
    values: list[bytes | None] = [b"123-45-6789", b"123-45-6789"]
    row = encode_binary_row(values, kinds) if binary else encode_text_row(values)
    out = made.rewrite(row)
    one, other = binary_row(out, kinds) if binary else text_row(out, 2)
    assert one == other == rewriter(kinds, [0], rule=HASH)._actions[0](b"123-45-6789")
    assert one is not None
    assert len(one) == 8


def test_a_run_of_packets_is_framed_anew() -> None:
    made = rewriter([T.VAR_STRING] * 2, [1])
    bodies = [encode_text_row([b"%d" % i, b"s" * n]) for i, n in enumerate((0, 3, 250, 251, 70_000))]
    buf, packets, at = b"", [], 0
    for i, body in enumerate(bodies):
        wire = packet(i + 3, body)
        packets.append((i + 3, at, at + len(wire)))
        buf += wire
        at += len(wire)
    want = b"".join(packet(i + 3, encode_text_row([b"%d" % i, b"[masked]"])) for i in range(len(bodies)))
    assert made.rewrite_packets(buf, packets) == want


def test_a_row_above_16_mib_is_framed_anew() -> None:
    made = rewriter([T.LONG_BLOB] * 2, [1])
    body = encode_text_row([b"a" * (MAX_PART + 10), b"123-45-6789"])
    wire = packet(254, body)
    out = made.rewrite_packets(wire, [(254, 0, len(wire))])
    assert out == packet(254, encode_text_row([b"a" * (MAX_PART + 10), b"[masked]"]))


def test_a_row_whose_packets_would_be_fewer_is_not_passed() -> None:
    made = rewriter([T.LONG_BLOB] * 2, [0])
    wire = packet(1, encode_text_row([b"a" * (MAX_PART + 10), b"b"]))
    with pytest.raises(MaskError):
        made.rewrite_packets(wire, [(1, 0, len(wire))])


@pytest.mark.parametrize(
    "row",
    [b"", b"\x01", b"\x01a", b"\x05a\x01b", b"\x01a\x01bc", b"\x01a\xff", b"\xfc\xff", b"\x01a\x01b\x00",
     b"\xfe" + b"\xff" * 8 + b"a"],
)  # fmt: skip
def test_a_text_row_that_is_not_exactly_one_is_not_passed(row: bytes) -> None:
    with pytest.raises(MaskError):
        rewriter([T.VAR_STRING] * 2, [1]).rewrite(row)


@pytest.mark.parametrize(
    "row",
    [b"", b"\1\0", b"\0", b"\0\0\0\0\0", b"\0\0\1\0\0\0\5a", b"\0\0\1\0\0\0\1ab", b"\0\xff\xff"],
)
def test_a_binary_row_that_is_not_exactly_one_is_not_passed(row: bytes) -> None:
    with pytest.raises(MaskError):
        rewriter([T.LONG, T.VAR_STRING], [1], binary=True).rewrite(row)


def test_a_binary_value_of_an_unknown_type_cannot_be_measured() -> None:
    with pytest.raises(MaskError):
        rewriter([99, T.VAR_STRING], [1], binary=True)


def test_a_plan_of_another_width_is_refused() -> None:
    with pytest.raises(MaskError):
        RowRewriter(Plan((None,)), [definition(), definition()], None, binary=False)


VALUES = st.lists(st.one_of(st.none(), st.binary(max_size=300)), min_size=1, max_size=12)


@given(VALUES, st.data())
def test_what_is_not_masked_is_untouched(values: list[bytes | None], data: st.DataObject) -> None:
    masked = data.draw(st.sets(st.integers(0, len(values) - 1)))
    kinds = [T.VAR_STRING] * len(values)
    want = [v if i not in masked or v is None else b"[masked]" for i, v in enumerate(values)]
    assert text_row(rewriter(kinds, sorted(masked)).rewrite(encode_text_row(values)), len(values)) == want
    made = rewriter(kinds, sorted(masked), binary=True)
    assert binary_row(made.rewrite(encode_binary_row(values, kinds)), kinds) == want


@given(st.data())
def test_all_types_are_measured_as_the_codec_does(data: st.DataObject) -> None:
    known = [*FIXED, *TEMPORAL, T.VAR_STRING, T.NEWDECIMAL]
    kinds = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=12))
    masked = data.draw(st.sets(st.integers(0, len(kinds) - 1)))
    sizes = {**FIXED, T.DATE: 4, T.DATETIME: 11, T.TIMESTAMP: 7, T.TIME: 12, T.VAR_STRING: 5, T.NEWDECIMAL: 3}
    values = [data.draw(st.one_of(st.none(), st.just(b"\1" * sizes[kind]))) for kind in kinds]
    row = encode_binary_row(values, kinds)
    out = binary_row(rewriter(kinds, sorted(masked), binary=True).rewrite(row), kinds)
    assert [v for i, v in enumerate(out) if i not in masked] == [v for i, v in enumerate(values) if i not in masked]
    assert all(out[i] in (None, b"[masked]") for i in masked)


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_raise_anything_but_a_mask_error(raw: bytes, binary: bool) -> None:
    made = rewriter([T.VAR_STRING, T.LONG, T.DATETIME, T.VAR_STRING], [0, 2], binary=binary)
    try:
        out = made.rewrite(raw)
    except MaskError:
        return
    assert out


def test_kinds_reach_the_mask() -> None:
    seen: list[ValueKind] = []

    @dataclass(frozen=True)
    class Spy:
        rule: str = "r"
        strategy: str = "s"
        withhold: bool = False
        constant: bool = False

        def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
            seen.append(kind)
            return text

    kinds = [T.LONG, T.DATE, T.VAR_STRING]
    made = RowRewriter(Plan((Spy(), Spy(), Spy())), [definition(kind) for kind in kinds], None, binary=False)
    row = encode_text_row([b"1", b"2024-01-01", b"x"])
    assert made.rewrite(row) == row
    assert seen == [ValueKind.INTEGER, ValueKind.DATE, ValueKind.TEXT]
