"""Wire formats of single values: text and binary form <-> the text that a mask works on (`ValueKind`).

A column's definition says its type, flags, character set and length ("Column Definition"); both forms of one value read
as the same text, so its mask is the same in both. What cannot be read with certainty (a zero date, an infinity), and a
type that has no value which a mask could give (ENUM, SET, BIT, TIME, GEOMETRY, VECTOR), becomes NULL.

INVARIANT: no I/O; reads every byte of a value or refuses it; a rewriter never returns bytes that it could not read, and
never raises for a value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache

from protocols.contract import ColumnMask, ValueKind
from protocols.mysql.errors import ProtocolError
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.rows import FieldType as T

Reader = Callable[[bytes], str]
Writer = Callable[[str], bytes]
Rewrite = Callable[[bytes], bytes | None]

CACHE_ENTRIES = 1024  # masked values remembered per column and result
CACHE_VALUE = 256  # bytes; longer values are not remembered

# flags of a column definition
UNSIGNED, ENUM, SET = 1 << 5, 1 << 8, 1 << 11
BINARY_COLLATION = 63


class MaskError(ProtocolError):
    """A result that cannot be masked: no byte of it may pass, and its session ends. The text names no value."""


class Unmaskable(ValueError):
    """A value that cannot be read or written with certainty in its type."""


# what odd bytes may raise in a reader, a mask or a writer; anything else is a fault of ours and ends the session
REFUSALS = (ValueError, ArithmeticError, LookupError, struct.error, RecursionError)

# Python's codec and the longest character in bytes for each character set; latin1 of the servers is Windows' cp1252,
# with its five holes filled: one character per byte carries those through. What is not here cannot be read.
CODECS: Mapping[str, tuple[str, int]] = {
    "utf8mb4": ("utf-8", 4), "utf8mb3": ("utf-8", 3), "utf8": ("utf-8", 3), "ascii": ("ascii", 1),
    "latin1": ("latin-1", 1), "latin2": ("iso8859-2", 1), "latin5": ("iso8859-9", 1), "latin7": ("iso8859-13", 1),
    "cp1250": ("cp1250", 1), "cp1251": ("cp1251", 1), "cp1256": ("cp1256", 1), "cp1257": ("cp1257", 1),
    "cp850": ("cp850", 1), "cp852": ("cp852", 1), "cp866": ("cp866", 1), "greek": ("iso8859-7", 1),
    "hebrew": ("iso8859-8", 1), "koi8r": ("koi8-r", 1), "koi8u": ("koi8-u", 1), "tis620": ("tis-620", 1),
    "macroman": ("mac-roman", 1), "macce": ("mac-latin2", 1), "ucs2": ("utf-16-be", 2), "utf16": ("utf-16-be", 4),
    "utf16le": ("utf-16-le", 4), "utf32": ("utf-32-be", 4), "gbk": ("gbk", 2), "gb2312": ("gb2312", 2),
    "gb18030": ("gb18030", 4), "big5": ("big5", 2), "euckr": ("euc-kr", 2), "sjis": ("shift-jis", 2),
    "cp932": ("cp932", 2), "ujis": ("euc-jp", 3), "eucjpms": ("euc-jp", 3),
}  # fmt: skip
# collations that need no catalog: the default ones of the character sets that clients ask for
_COLLATIONS: Mapping[int, str] = {
    8: "latin1", 11: "ascii", 33: "utf8mb3", 45: "utf8mb4", 46: "utf8mb4", 47: "latin1", 48: "latin1", 65: "ascii",
    83: "utf8mb3", 192: "utf8mb3", 224: "utf8mb4", 246: "utf8mb4", 255: "utf8mb4", 309: "utf8mb4", 2304: "utf8mb4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scalar:
    """One type in both forms. `limit` as in `ColumnMask.apply`."""

    kind: ValueKind
    read_text: Reader
    write_text: Writer
    read_binary: Reader
    write_binary: Writer
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ValueRewriter:
    """`constant`: every value that is not NULL becomes `value`; otherwise `rewrite` is called for each."""

    constant: bool
    value: bytes | None
    rewrite: Rewrite


def charset(collation: int, collations: Mapping[int, tuple[str, str]] | None) -> str | None:
    """The character set of a collation id, None where it is not known."""
    found = (collations or {}).get(collation)
    return found[1].lower() if found is not None else _COLLATIONS.get(collation)


def scalar(column: ColumnDefinition, collations: Mapping[int, tuple[str, str]] | None) -> Scalar:
    """How to read and write the values of a column. A type that is not known has no masked value but NULL."""
    kind = column.type
    if column.flags & (ENUM | SET):
        return _OPAQUE
    if kind in _INTEGERS:
        return _integer(_INTEGERS[kind], unsigned=bool(column.flags & UNSIGNED))
    if kind in (T.DECIMAL, T.NEWDECIMAL):
        return _decimal(column)
    if kind in (T.FLOAT, T.DOUBLE):
        return _floating("f" if kind == T.FLOAT else "d")
    if kind in (T.DATE, T.NEWDATE):
        return _DATE
    if kind in (T.DATETIME, T.TIMESTAMP):
        return _timestamp(column.decimals)
    if kind == T.YEAR:
        return _YEAR
    if kind == T.JSON:
        return _text("utf-8", None, ValueKind.JSON)
    if kind in _TEXTS:
        if column.charset == BINARY_COLLATION:
            limit = column.length if 0 < column.length < 1 << 31 else None
            return _octets(limit)
        codec, width = CODECS.get(charset(column.charset, collations) or "", (None, 4))
        return _text(codec, column.length // width if column.length else None)
    return _OPAQUE


_TEXTS = frozenset((T.VARCHAR, T.VAR_STRING, T.STRING, T.TINY_BLOB, T.MEDIUM_BLOB, T.LONG_BLOB, T.BLOB))
_INTEGERS: Mapping[int, str] = {T.TINY: "b", T.SHORT: "h", T.INT24: "i", T.LONG: "i", T.LONGLONG: "q"}


# ---------------------------------------------------------------- texts


def _text(codec: str | None, limit: int | None, kind: ValueKind = ValueKind.TEXT) -> Scalar:
    """`codec` None: a character set that we cannot read. `limit` in characters."""

    def read(raw: bytes) -> str:
        if codec is None:
            raise Unmaskable("the character set is not known")
        return raw.decode(codec)

    def write(value: str) -> bytes:
        if limit is not None and len(value) > limit:
            raise Unmaskable("longer than the column")
        if codec is None:
            raise Unmaskable("the character set is not known")
        return value.encode(codec)

    return Scalar(kind, read, write, read, write, limit)


def _octets(limit: int | None) -> Scalar:
    """BINARY, VARBINARY, BLOB, and results of functions on them. `limit` in bytes."""

    def write(value: str) -> bytes:
        raw = bytes.fromhex(value)
        if limit is not None and len(raw) > limit:
            raise Unmaskable("longer than the column")
        return raw

    return Scalar(ValueKind.BYTES, bytes.hex, write, bytes.hex, write, limit)


# ---------------------------------------------------------------- numbers

_INTEGER = re.compile(r"-?\d+\Z", re.ASCII)
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?\Z", re.ASCII)


def _integer(form: str, *, unsigned: bool) -> Scalar:
    """`form`: the struct code of the binary form; INT24 has four bytes."""
    packed = struct.Struct("<" + (form.upper() if unsigned else form))
    high = 2 ** (8 * packed.size - (not unsigned)) - 1
    low = 0 if unsigned else -high - 1

    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _INTEGER.match(value):
            raise Unmaskable("not an integer")
        return str(int(value))  # without the zeros of ZEROFILL

    def number(value: str) -> int:
        n = int(value)
        if not low <= n <= high:
            raise Unmaskable("out of the type's range")
        return n

    return Scalar(
        ValueKind.INTEGER,
        read_text,
        lambda value: b"%d" % number(value),
        lambda raw: str(packed.unpack(raw)[0]),
        lambda value: packed.pack(number(value)),
        high,
    )


def _year() -> Scalar:
    packed = struct.Struct("<H")

    def number(value: str) -> int:
        n = int(value)
        if n != 0 and not 1901 <= n <= 2155:
            raise Unmaskable("not a year")
        return n

    return Scalar(
        ValueKind.INTEGER,
        lambda raw: str(int(raw.decode("ascii"))),
        lambda value: b"%04d" % number(value),
        lambda raw: str(packed.unpack(raw)[0]),
        lambda value: packed.pack(number(value)),
        2155,
    )


def _decimal(column: ColumnDefinition) -> Scalar:
    """DECIMAL is text in both forms. Its length counts the sign and the point."""
    scale = column.decimals if column.decimals <= 38 else 0
    whole = column.length - scale - bool(scale) - (not column.flags & UNSIGNED)
    limit = max(whole, 0) if column.length else None

    def read(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _NUMBER.match(value):
            raise Unmaskable("not a number")
        return value

    def write(value: str) -> bytes:
        found = _NUMBER.match(value)
        if found is None or (limit is not None and len(found[2].lstrip("0")) > limit):
            raise Unmaskable("not a number that fits")
        if found[1] and column.flags & UNSIGNED:
            raise Unmaskable("negative")
        fraction = (found[3] or "")[:scale].ljust(scale, "0")
        return (found[1] + found[2] + ("." + fraction if scale else "")).encode("ascii")

    return Scalar(ValueKind.NUMBER, read, write, read, write, limit)


def _floating(form: str) -> Scalar:
    packed = struct.Struct("<" + form)

    def show(value: float) -> str:
        short = repr(value)
        if form == "f":
            short = next(s for p in range(6, 10) if _single(float(s := f"{value:.{p}g}")) == value)
        return format(Decimal(short), "f").removesuffix(".0")

    def read_text(raw: bytes) -> str:
        value = float(raw)
        return show(_finite(_single(value) if form == "f" else value))

    def write_binary(value: str) -> bytes:
        return packed.pack(_finite(float(value)))

    return Scalar(
        ValueKind.NUMBER,
        read_text,
        lambda value: show(_finite(packed.unpack(write_binary(value))[0])).encode("ascii"),
        lambda raw: show(_finite(packed.unpack(raw)[0])),
        write_binary,
        7 if form == "f" else 15,
    )


def _finite(value: float) -> float:
    if value - value != 0:
        raise Unmaskable("not a finite number")
    return value


def _single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


# ---------------------------------------------------------------- dates

_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_ISO_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?\Z", re.ASCII)


def _date() -> Scalar:
    """A zero date, or one with a zero month or day, is no date: `Unmaskable`."""

    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _ISO_DATE.match(value):
            raise Unmaskable("not a date")
        return date.fromisoformat(value).isoformat()

    def read_binary(raw: bytes) -> str:
        year, month, day = struct.unpack("<HBB", raw[:4])
        if any(raw[4:]):
            raise Unmaskable("a date with a time")
        return date(year, month, day).isoformat()

    def write_binary(value: str) -> bytes:
        d = date.fromisoformat(value)
        return struct.pack("<HBB", d.year, d.month, d.day)

    return Scalar(
        ValueKind.DATE,
        read_text,
        lambda value: date.fromisoformat(value).isoformat().encode("ascii"),
        read_binary,
        write_binary,
    )


def _timestamp(decimals: int) -> Scalar:
    """DATETIME and TIMESTAMP: both without a zone on the wire. `decimals`: digits of a second's fraction."""
    digits = decimals if decimals <= 6 else 6

    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _ISO_TIMESTAMP.match(value):
            raise Unmaskable("not a timestamp")
        return datetime.fromisoformat(value).isoformat(" ")

    def read_binary(raw: bytes) -> str:
        year, month, day = struct.unpack_from("<HBB", raw)
        hour = minute = second = micro = 0
        if len(raw) >= 7:
            hour, minute, second = struct.unpack_from("<BBB", raw, 4)
        if len(raw) == 11:
            (micro,) = struct.unpack_from("<I", raw, 7)
        return datetime(year, month, day, hour, minute, second, micro).isoformat(" ")

    def write_text(value: str) -> bytes:
        at = datetime.fromisoformat(value)
        fraction = f".{at.microsecond:06d}"[: digits + 1] if digits else ""
        return (at.strftime("%Y").rjust(4, "0") + at.strftime("-%m-%d %H:%M:%S") + fraction).encode("ascii")

    def write_binary(value: str) -> bytes:
        at = datetime.fromisoformat(value)
        micro = at.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits)
        out = struct.pack("<HBBBBB", at.year, at.month, at.day, at.hour, at.minute, at.second)
        if micro:
            return out + struct.pack("<I", micro)
        return out if at.hour or at.minute or at.second else out[:4]

    return Scalar(ValueKind.TIMESTAMP, read_text, write_text, read_binary, write_binary)


# ---------------------------------------------------------------- the rest


def _opaque() -> Scalar:
    def write(_value: str) -> bytes:
        raise Unmaskable("no masked value exists in this type")

    return Scalar(ValueKind.OPAQUE, lambda _raw: "", write, lambda _raw: "", write)


_OPAQUE, _DATE, _YEAR = _opaque(), _date(), _year()


def value_rewriter(mask: ColumnMask, kind: Scalar, *, binary: bool) -> ValueRewriter:
    """The function that masks one column's values (without their length prefixes), in the form they are sent in."""
    if mask.withhold:
        return ValueRewriter(True, None, lambda _raw: None)
    read = kind.read_binary if binary else kind.read_text
    write = kind.write_binary if binary else kind.write_text

    def one(raw: bytes) -> bytes | None:
        try:
            masked = mask.apply("" if mask.constant else read(raw), kind.kind, kind.limit)
            return None if masked is None else write(masked)
        except REFUSALS:
            return None  # withheld: what cannot be masked with certainty is never shown

    if mask.constant:
        value = one(b"")
        return ValueRewriter(True, value, lambda _raw: value)
    cached = lru_cache(maxsize=CACHE_ENTRIES)(one)
    return ValueRewriter(False, None, lambda raw: cached(raw) if len(raw) <= CACHE_VALUE else one(raw))
