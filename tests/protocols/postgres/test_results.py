"""Rows: malformed ones never pass, masked ones stay rows, unmasked columns stay byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask import Masker, MaskPlan
from protocols.contract import MaskRule, Origin, ResultColumn, ResultShape
from protocols.postgres.errors import ProtocolError
from protocols.postgres.messages import DataRow, FieldDescription, FunctionCallResponse, RowDescription
from protocols.postgres.results import MaskError, RowRewriter, mask_call, with_formats

KEY = b"k" * 32


def described(width: int, oid: int = 25, fmt: int = 0) -> RowDescription:
    return RowDescription(tuple(FieldDescription(b"c%d" % i, 1, i + 1, oid, -1, -1, fmt) for i in range(width)))


def plan_for(width: int, masked: Sequence[int], strategy: str = "redact", **options: Any) -> MaskPlan:
    rule = MaskRule("r", ("public.t.secret",), (), strategy, options)
    columns = tuple(
        ResultColumn("c", Origin.KNOWN, ("public.t.secret" if i in masked else f"public.t.c{i}",)) for i in range(width)
    )
    plan = Masker((rule,), KEY).plan(ResultShape(columns))
    assert plan is not None
    return plan


def rewriter(width: int, masked: Sequence[int], strategy: str = "redact", **options: Any) -> RowRewriter:
    return RowRewriter(plan_for(width, masked, strategy, **options), described(width), None, "UTF8")


values = st.one_of(st.none(), st.binary(max_size=12))
rows_of = st.integers(1, 6).flatmap(
    lambda n: st.tuples(st.sets(st.integers(0, n - 1), min_size=1), st.lists(st.lists(values, min_size=n, max_size=n)))
)


@given(rows_of)
def test_masked_columns_are_replaced_and_the_others_stay(case: tuple[set[int], list[list[bytes | None]]]) -> None:
    masked, rows = case
    if not rows:
        return
    width = len(rows[0])
    mask = rewriter(width, sorted(masked))
    expected = [
        DataRow(tuple(v if i not in masked or v is None else b"[masked]" for i, v in enumerate(row))) for row in rows
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert DataRow.decode(mask.rewrite(DataRow(tuple(row)).encode()[5:])) == wanted
    run = b"before" + b"".join(DataRow(tuple(row)).encode() for row in rows)
    out = mask.rewrite_messages(run + b"after", 6, len(run))
    assert out == b"".join(row.encode() for row in expected)


def test_a_row_whose_masked_values_are_null_is_the_same_row() -> None:
    body = DataRow((b"a", None, b"b")).encode()[5:]
    assert rewriter(3, [1]).rewrite(body) == body


def test_a_mask_of_equal_length_keeps_the_header() -> None:
    message = DataRow((b"a", b"12345678")).encode()
    assert rewriter(2, [1]).rewrite_messages(message, 0, len(message)) == DataRow((b"a", b"[masked]")).encode()


GOOD = DataRow((b"secret", b"x")).encode()


@pytest.mark.parametrize(
    "message",
    [
        GOOD[:-1],
        GOOD + b"y",
        GOOD + GOOD[:3],
        GOOD + b"C" + GOOD[1:],
        b"C" + GOOD[1:],
        DataRow((b"secret",)).encode(),
        DataRow((b"secret", b"x", b"y")).encode(),
        DataRow(()).encode(),
        b"D" + struct.pack("!iHii", 14, 2, -2, -1),
        b"D" + struct.pack("!iHii", 14, 2, 2**31 - 1, -1),
        b"D" + struct.pack("!iH", 6, 2),
        b"D" + struct.pack("!iHi", 10, 2, -1),
        b"D" + struct.pack("!iHiii", 18, 2, -1, -1, -1),
        b"D" + struct.pack("!iHi", -5, 2, -1),
        # the first value claims the next row's bytes
        b"D" + struct.pack("!iHi", 10, 2, len(GOOD)) + GOOD,
        b"D",
    ],
)
def test_malformed_rows_are_an_error(message: bytes) -> None:
    with pytest.raises(MaskError):
        rewriter(2, [0]).rewrite_messages(message, 0, len(message))
    if message[:1] == b"D":
        with pytest.raises(MaskError):
            rewriter(2, [0]).rewrite(message[5:])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_a_typed_error(body: bytes) -> None:
    secret = b"HUSHHUSH"
    body = body.replace(b"H", b"")
    try:
        out = rewriter(2, [0, 1], "null").rewrite(body + secret)
    except MaskError:
        return
    assert secret not in out


def test_a_mask_error_ends_the_session() -> None:
    assert issubclass(MaskError, ProtocolError)


def test_plan_and_description_must_agree() -> None:
    with pytest.raises(MaskError, match="fit"):
        RowRewriter(plan_for(2, [0]), described(3), None, "UTF8")
    with pytest.raises(MaskError, match="format"):
        RowRewriter(plan_for(2, [0]), described(2, fmt=2), None, "UTF8")
    with pytest.raises(MaskError, match="format"):
        RowRewriter(plan_for(2, [0]), described(2), None, "UTF8", formats=(1, 0, 1))


def test_formats_of_bind() -> None:
    assert with_formats(described(3), ()) == (0, 0, 0)
    assert with_formats(described(3), (1,)) == (1, 1, 1)
    assert with_formats(described(3), (0, 1, 0)) == (0, 1, 0)


def test_binary_by_the_formats_in_force() -> None:
    plan = plan_for(1, [0], "partial", keep_first=1)
    row = DataRow((struct.pack("!i", 4321),)).encode()[5:]
    masked = RowRewriter(plan, described(1, 23), None, "UTF8", formats=(1,)).rewrite(row)
    assert DataRow.decode(masked).values == (struct.pack("!i", 4000),)
    # the same bytes taken as text are no integer: withheld, not passed
    assert DataRow.decode(RowRewriter(plan, described(1, 23), None, "UTF8").rewrite(row)).values == (None,)


def test_an_unknown_encoding_withholds_what_must_be_read() -> None:
    row = DataRow((b"secret",)).encode()[5:]
    hashed = RowRewriter(plan_for(1, [0], "hash"), described(1), None, "EUC_TW")
    assert DataRow.decode(hashed.rewrite(row)).values == (None,)
    redacted = RowRewriter(plan_for(1, [0]), described(1), None, "EUC_TW")
    assert DataRow.decode(redacted.rewrite(row)).values == (b"[masked]",)


def test_function_call_results() -> None:
    body = FunctionCallResponse(b"secret").encode()[5:]
    assert mask_call(body, False) == body
    assert FunctionCallResponse.decode(mask_call(body, True)).value is None
    assert mask_call(FunctionCallResponse(None).encode()[5:], True) == b"\xff\xff\xff\xff"
    for bad in (b"", b"\0\0", body[:-1], body + b"x", b"\xff\xff\xff\xffx", struct.pack("!i", -2)):
        with pytest.raises(MaskError):
            mask_call(bad, True)
