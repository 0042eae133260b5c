"""Masks on wire values: text and binary forms agree, results stay valid, odd bytes are withheld."""

from __future__ import annotations

import struct
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask import Masker
from protocols.contract import ColumnMask, MaskRule, Origin, ResultColumn, ResultShape
from protocols.postgres import scalars
from protocols.postgres.scalars import REFUSALS
from protocols.postgres.values import CACHE_VALUE, column_type, value_rewriter

KEY = b"k" * 32
STRATEGIES: list[tuple[str, dict[str, Any]]] = [
    ("redact", {}),
    ("null", {}),
    ("hash", {}),
    ("hash", {"length": 9}),
    ("tokenise", {}),
    ("partial", {"keep_first": 2, "keep_last": 2}),
    ("date", {"precision": "year"}),
    ("date", {"precision": "day"}),
]


class Types:
    """A catalog of types: a domain over text, one over int4, an enum, a composite, citext, and arrays of some."""

    known: ClassVar = {
        90001: ("public", "email", "d", 25),
        90002: ("public", "_email", "b", 90001),
        90003: ("public", "mood", "e", 0),
        90004: ("public", "pair", "c", 0),
        90005: ("public", "citext", "b", 0),
        90006: ("public", "deep", "d", 90001),
        90007: ("public", "loop", "d", 90007),
        90008: ("public", "ltree", "b", 0),
        90009: ("public", "_mood", "a", 90003),
        90010: ("public", "tags", "d", 1009),
        90011: ("public", "_tags", "b", 90010),
    }

    def type_info(self, oid: int) -> tuple[str, str, str, int] | None:
        return self.known.get(oid)


def mask_of(strategy: str, options: dict[str, Any]) -> ColumnMask:
    plan = Masker((MaskRule("r", ("a.b.c",), (), strategy, options),), KEY).plan(
        ResultShape((ResultColumn("c", Origin.KNOWN, ("a.b.c",)),))
    )
    assert plan is not None
    mask = plan.columns[0]
    assert mask is not None
    return mask


def masked(strategy: str, oid: int, raw: bytes, *, binary: bool = False, mod: int = -1, **options: Any) -> bytes | None:
    kind = column_type(oid, mod, Types(), "utf-8")
    return value_rewriter(mask_of(strategy, options), kind, binary=binary, codec="utf-8").rewrite(raw)


@pytest.mark.parametrize(
    ("oid", "mod", "expected"),
    [
        (25, -1, b"[masked]"),
        (1043, 4 + 3, b"***"),
        (1043, 4 + 20, b"[masked]"),
        (1042, 4 + 12, b"[masked]    "),
        (1042, 4 + 2, b"**"),
        (18, -1, b"*"),
        (19, -1, b"[masked]"),
        (114, -1, b'"[masked]"'),
        (17, -1, b"\\x5b6d61736b65645d"),
        (23, -1, None),
        (16, -1, None),
        (1700, -1, None),
        (2950, -1, None),
        (790, -1, None),
        (90001, -1, b"[masked]"),
        (90006, -1, b"[masked]"),
        (90005, -1, b"[masked]"),
        (90003, -1, None),
        (90004, -1, None),
        (90007, -1, None),
        (90008, -1, None),
        (99999, -1, None),
        (0, -1, None),
    ],
)
def test_redact_by_type(oid: int, mod: int, expected: bytes | None) -> None:
    assert masked("redact", oid, b"anything", mod=mod) == expected


def test_redact_in_binary() -> None:
    assert masked("redact", 3802, b'\x01"x"', binary=True) == b'\x01"[masked]"'
    assert masked("redact", 17, b"\0\1", binary=True) == b"[masked]"
    assert masked("redact", 25, b"\xff\xfe", binary=True) == b"[masked]"


def test_a_constant_mask_needs_no_encoding_but_others_do() -> None:
    kind = column_type(25, -1, None, None)
    assert value_rewriter(mask_of("redact", {}), kind, binary=False, codec=None).rewrite(b"\xff") == b"[masked]"
    assert value_rewriter(mask_of("hash", {}), kind, binary=False, codec=None).rewrite(b"abc") is None


@pytest.mark.parametrize(
    ("oid", "raw", "expected"),
    [
        (23, b"41111111", b"41000011"),
        (20, b"-9223372036854775808", b"-9200000000000000008"),
        (1700, b"12345678.90", b"12000000.90"),
        (701, b"123456.75", b"120000.75"),
        (701, b"1e+6", b"1000000"),
        (701, b"NaN", None),
        (701, b"Infinity", None),
        (1700, b"NaN", None),
        (1082, b"infinity", None),
        (25, b"\xff", None),
        (23, b"12x", None),
        (23, "१२३".encode(), None),
        (16, b"t", None),
    ],
)
def test_partial_by_type(oid: int, raw: bytes, expected: bytes | None) -> None:
    last = 2 if oid != 20 else 1
    assert masked("partial", oid, raw, keep_first=2, keep_last=last) == expected


@pytest.mark.parametrize(
    ("oid", "raw", "expected"),
    [
        (1082, b"1980-03-04", b"1980-01-01"),
        (1114, b"1980-03-04 12:13:14.5", b"1980-01-01 00:00:00"),
        (1184, b"1980-03-04 12:13:14.5+02", b"1980-01-01 00:00:00+00"),
        (1184, b"1980-01-01 00:30:00+01", b"1979-01-01 00:00:00+00"),
        (1184, b"1980-07-04 12:13:14-05:30", b"1980-01-01 00:00:00+00"),
        (1082, b"04.03.1980", None),
        (1082, b"0044-03-15 BC", None),
        (1082, b"12345-01-01", None),
        (1114, b"1980-03-04 12:13:14+02", None),
        (1184, b"1980-03-04 12:13:14", None),
        (1184, b"1980-03-04 12:13:14 CET", None),
        (1083, b"12:13:14", None),
        (25, b"1980-03-04", b"1980-01-01"),
    ],
)
def test_dates_in_text(oid: int, raw: bytes, expected: bytes | None) -> None:
    assert masked("date", oid, raw) == expected


def test_dates_in_binary() -> None:
    day = struct.pack("!i", (date(1980, 3, 4) - date(2000, 1, 1)).days)
    assert masked("date", 1082, day, binary=True) == struct.pack("!i", (date(1980, 1, 1) - date(2000, 1, 1)).days)
    moment = (datetime(1980, 3, 4, 5, 6, 7, 8) - datetime(2000, 1, 1)) // timedelta(microseconds=1)
    start = (datetime(1980, 3, 1) - datetime(2000, 1, 1)) // timedelta(microseconds=1)
    for oid in (1114, 1184):
        result = masked("date", oid, struct.pack("!q", moment), binary=True, precision="month")
        assert result == struct.pack("!q", start)
    for infinite in (2**31 - 1, -(2**31)):
        assert masked("date", 1082, struct.pack("!i", infinite), binary=True) is None
    for infinite in (2**63 - 1, -(2**63)):
        assert masked("date", 1184, struct.pack("!q", infinite), binary=True) is None


# ---------------------------------------------------------------- text and binary forms agree

numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=8)
doubles = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(numbers)
def test_numeric_round_trip(n: Decimal) -> None:
    scalar = scalars.numeric(-1)
    shown = format(n, "f")
    assert scalar.read_text(scalar.write_text(shown)) == shown
    back = scalar.read_binary(scalar.write_binary(shown))
    assert Decimal(back) == n
    assert len(back.partition(".")[2]) == 8


@pytest.mark.parametrize(
    ("hexed", "expected"),
    [
        ("0000000000000000", "0"),
        ("0000000000000002", "0.00"),
        ("0001000000000000000c", "12"),
        ("000200000000000204d20d48", "1234.34"),
        ("000200004000000204d20d48", "-1234.34"),
        ("0001ffff00000004000c", "0.0012"),
        ("0001000100000000000c", "120000"),
        ("0001fffe00000008000c", "0.00000012"),
    ],
)
def test_numeric_binary_by_hand(hexed: str, expected: str) -> None:
    # ndigits, weight, sign, dscale, then base-10000 digits (numeric_send)
    raw = bytes.fromhex(hexed)
    assert scalars.numeric(-1).read_binary(raw) == expected
    assert scalars.numeric(-1).write_binary(expected) == raw


@given(doubles)
def test_double_round_trip(x: float) -> None:
    scalar = scalars.floating("d")
    text = scalar.read_text(repr(x).encode())
    assert scalar.read_binary(struct.pack("!d", x)) == text
    assert float(text) == x
    assert "e" not in text


@given(singles)
def test_single_round_trip(x: float) -> None:
    scalar = scalars.floating("f")
    text = scalar.read_binary(struct.pack("!f", x))
    assert struct.pack("!f", float(text)) == struct.pack("!f", x)
    assert scalar.read_text(text.encode()) == text


@given(st.uuids())
def test_uuid_forms_agree(value: uuid.UUID) -> None:
    for strategy, options in [case for case in STRATEGIES if case[0] in ("hash", "tokenise", "partial")]:
        text = masked(strategy, 2950, str(value).encode(), **options)
        raw = masked(strategy, 2950, value.bytes, binary=True, **options)
        assert text is not None
        assert raw is not None
        assert str(uuid.UUID(bytes=raw)).encode() == text


@given(st.integers(-(2**31), 2**31 - 1))
def test_integer_forms_agree(n: int) -> None:
    for strategy, options in STRATEGIES:
        text = masked(strategy, 23, str(n).encode(), **options)
        raw = masked(strategy, 23, struct.pack("!i", n), binary=True, **options)
        assert (text is None) == (raw is None)
        if text is not None and raw is not None:
            assert int(text) == struct.unpack("!i", raw)[0]


@given(st.binary(max_size=40))
def test_bytea_forms_agree(value: bytes) -> None:
    for strategy in ("hash", "tokenise"):
        hexed = masked(strategy, 17, b"\\x" + value.hex().encode())
        escaped = b"".join(b"\\\\" if c == 92 else bytes((c,)) if 32 <= c < 127 else b"\\%03o" % c for c in value)
        assert masked(strategy, 17, escaped) == hexed or escaped.startswith(b"\\x")
        raw = masked(strategy, 17, value, binary=True)
        assert raw is not None
        assert hexed == b"\\x" + raw.hex().encode()


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", b"{}"),
        (b"{ab12}", b"{a**2}"),
        (b'{ab12,"cd 34",NULL,"NULL","",x}', b'{a**2,"c* *4",NULL,N**L,"",*}'),
        (b'{{"null a"},{null}}', b'{{"n*** a"},{NULL}}'),
        (b'{{a1b2c3d4,"q\\"\\\\"},{x,y}}', b"{{a******4,***},{*,*}}"),
        (b"[0:1]={abcdefgh,b}", b"[0:1]={a******h,*}"),
        (b"{", None),
        (b"{a", None),
        (b"{a}}", None),
        (b"{a}x", None),
        (b"x", None),
        (b"", None),
        (b'{"a}', None),
        (b"{a\\}", None),
        (b"\xff", None),
    ],
)
def test_text_arrays(raw: bytes, expected: bytes | None) -> None:
    result = masked("partial", 1009, raw, keep_first=1, keep_last=1)
    assert result == expected


def array(elements: list[bytes | None], oid: int = 25) -> bytes:
    body = b"".join(b"\xff\xff\xff\xff" if e is None else struct.pack("!i", len(e)) + e for e in elements)
    return struct.pack("!iiiii", 1, None in elements, oid, len(elements), 1) + body


def test_binary_arrays() -> None:
    raw = array([b"abcdefgh", None, b""])
    assert masked("redact", 1009, raw, binary=True) == array([b"[masked]", None, b"[masked]"])
    assert masked("partial", 1009, raw, binary=True, keep_first=1) == array([b"a*******", None, b""])
    # integers have no placeholder: elements become NULL and the array says that it holds some
    ints = array([struct.pack("!i", 5)], 23)
    assert masked("redact", 1007, ints, binary=True) == array([None], 23)
    empty = struct.pack("!iii", 0, 0, 25)
    assert masked("redact", 1009, empty, binary=True) == empty


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        array([b"x"])[:-1],
        array([b"x"]) + b"y",
        struct.pack("!iiiii", 1, 0, 25, -1, 1),
        struct.pack("!iiiii", 1, 0, 25, 2**31 - 1, 1),
        struct.pack("!iii", 7, 0, 25),
        struct.pack("!iiiiii", 1, 0, 25, 1, 1, -2),
        struct.pack("!iiiiii", 1, 0, 25, 1, 1, 9),
    ],
)
def test_a_damaged_binary_array_is_withheld(raw: bytes) -> None:
    assert masked("redact", 1009, raw, binary=True) is None


def test_arrays_of_other_types() -> None:
    assert masked("redact", 90002, b"{a@b}") == b"{[masked]}"
    assert masked("redact", 90009, b"{happy}") == b"{NULL}"
    assert masked("redact", 90010, b"{a,b}") == b"{[masked],[masked]}"
    # an array of a domain over an array: the inner form is not read, its elements are withheld
    assert masked("redact", 90011, b'{"{a,b}"}') == b"{NULL}"
    assert masked("null", 1009, b"{a}") is None


# ---------------------------------------------------------------- nothing passes, nothing raises

OIDS = [
    16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 143, 199, 600, 650, 700, 701, 790, 869, 1000, 1001, 1005, 1007, 1009,
    1014, 1015, 1016, 1022, 1041, 1042, 1043, 1082, 1083, 1114, 1115, 1184, 1186, 1231, 1560, 1700, 2249, 2278, 2950,
    2951, 3614, 3802, 3807, 3904, 90001, 90002, 90003, 90004, 90005, 90007, 99999,
]  # fmt: skip


@given(
    st.sampled_from(OIDS),
    st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode), st.integers().map(lambda n: b"%d" % n)),
    st.booleans(),
    st.sampled_from(STRATEGIES),
    st.sampled_from([-1, 0, 4, 5, 7, 14, 655366]),
    st.sampled_from(["utf-8", "latin-1", "cp1252", "cp932", None]),
)
def test_any_bytes_of_any_type_are_masked_or_withheld(
    oid: int, raw: bytes, binary: bool, strategy: tuple[str, dict[str, Any]], mod: int, codec: str | None
) -> None:
    kind = column_type(oid, mod, Types(), codec)
    rewriter = value_rewriter(mask_of(*strategy), kind, binary=binary, codec=codec)
    result = rewriter.value if rewriter.constant else rewriter.rewrite(raw)
    assert result is None or isinstance(result, bytes)
    # a result that is not NULL reads back in its own type
    if result is not None and not kind.array:
        read = kind.scalar.read_binary if binary else kind.scalar.read_text
        if codec is not None:
            read(result)


@given(st.binary(max_size=40), st.sampled_from(OIDS))
def test_readers_raise_nothing_but_refusals(raw: bytes, oid: int) -> None:
    scalar = column_type(oid, -1, Types(), "utf-8").scalar
    for read in (scalar.read_text, scalar.read_binary):
        try:
            read(raw)
        except REFUSALS:
            continue


secrets = st.text(alphabet="abcdefghijklmnop0123456789", min_size=12, max_size=30)


@given(secrets, st.sampled_from([25, 1043, 1042, 114, 17, 1009]), st.booleans())
def test_a_secret_never_shows(secret: str, oid: int, binary: bool) -> None:
    raw = secret.encode()
    wire = {114: b'"' + raw + b'"', 1009: array([raw]) if binary else b"{" + raw + b"}"}.get(oid, raw)
    for strategy, options in STRATEGIES:
        result = masked(strategy, oid, wire, binary=binary, **options)
        assert result is None or raw not in result


def test_equal_values_are_remembered_within_bounds() -> None:
    calls = 0
    inner = mask_of("hash", {})

    class Counting:
        rule, strategy, withhold, constant = "r", "hash", False, False

        def apply(self, text: str, kind: Any = None, limit: int | None = None) -> str | None:
            nonlocal calls
            calls += 1
            return inner.apply(text, kind, limit)

    rewrite = value_rewriter(Counting(), column_type(25, -1, None, "utf-8"), binary=False, codec="utf-8").rewrite
    assert rewrite(b"alice") == rewrite(b"alice")
    assert calls == 1
    long = b"x" * (CACHE_VALUE + 1)
    assert rewrite(long) == rewrite(long)
    assert calls == 3


@pytest.mark.parametrize(("given_", "name"), [("utf-8", "UTF8"), ("Latin1", "LATIN1"), ("sql_ascii", "SQL_ASCII")])
def test_encoding_names(given_: str, name: str) -> None:
    assert scalars.encoding_name(given_) == name
    assert scalars.encoding_name("klingon") == "KLINGON"
