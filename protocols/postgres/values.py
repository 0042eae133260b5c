"""From a column's type and its mask to a function on the value's bytes.

Types are resolved by OID: PostgreSQL's own (src/include/catalog/pg_type.dat; they never change), domains and arrays of
them through the catalog. A type that is not known here has no masked value but NULL.

INVARIANT: a rewriter never returns the bytes that it could not read, and never raises for a value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from protocols.contract import ColumnMask
from protocols.postgres import scalars
from protocols.postgres.errors import ProtocolError
from protocols.postgres.scalars import REFUSALS, Scalar, Unmaskable

Rewrite = Callable[[bytes], bytes | None]


class MaskError(ProtocolError):
    """A result that cannot be masked: no byte of it may pass, and its session ends. The text names no value."""


CACHE_ENTRIES = 1024  # masked values remembered per column and result
CACHE_VALUE = 256  # bytes; longer values are not remembered
MAX_DEPTH = 8  # of domains over domains over arrays


class TypeCatalog(Protocol):
    """What is asked of the catalog: `(schema, name, kind, base or element oid)`, None for an unknown OID."""

    def type_info(self, oid: int) -> tuple[str, str, str, int] | None: ...


@dataclass(frozen=True, slots=True)
class ValueRewriter:
    """`constant`: every value that is not NULL becomes `value`; otherwise `rewrite` is called for each."""

    constant: bool
    value: bytes | None
    rewrite: Rewrite


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A resolved type: a scalar, or an array of them."""

    scalar: Scalar
    array: bool = False


_INT2, _INT4, _INT8, _OID = (scalars.integer(f) for f in "hiqI")
_FLOAT4, _FLOAT8 = scalars.floating("f"), scalars.floating("d")
_FIXED: dict[int, Scalar] = {
    17: scalars.byte_string(),
    20: _INT8,
    21: _INT2,
    23: _INT4,
    26: _OID,
    650: scalars.address(cidr=True),
    700: _FLOAT4,
    701: _FLOAT8,
    869: scalars.address(cidr=False),
    1082: scalars.calendar_date(),
    1114: scalars.timestamp(zone=False),
    1184: scalars.timestamp(zone=True),
    2950: scalars.unique_id(),
}
_CHAR, _NAME, _JSON, _XML, _BPCHAR, _VARCHAR, _NUMERIC, _JSONB = 18, 19, 114, 142, 1042, 1043, 1700, 3802
_TEXTS = frozenset({25, 705, 1790, 2275})  # text, unknown, refcursor, cstring
# array type -> element type
_ARRAYS = {
    143: 142, 199: 114, 651: 650, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1007: 23, 1009: 25, 1014: 1042, 1015: 1043,
    1016: 20, 1021: 700, 1022: 701, 1028: 26, 1041: 869, 1115: 1114, 1182: 1082, 1185: 1184, 1231: 1700, 1263: 2275,
    2201: 1790, 2951: 2950, 3807: 3802,
}  # fmt: skip
_TEXT_EXTENSIONS = frozenset({"citext"})  # base types of extensions whose both forms are their text
_OPAQUE = scalars.opaque()


def column_type(oid: int, type_mod: int, catalog: TypeCatalog | None, codec: str | None) -> ColumnType:
    """Resolves a type. `codec` is Python's name of the client encoding, None where it is not known.

    A type that cannot be resolved is opaque: its masked value is NULL.
    """
    for _ in range(MAX_DEPTH):
        scalar = _scalar(oid, type_mod, codec)
        if scalar is not None:
            return ColumnType(scalar)
        element = _ARRAYS.get(oid)
        if element is not None:
            return _array_of(element, type_mod, catalog, codec)
        info = catalog.type_info(oid) if catalog is not None else None
        if info is None:
            break
        _schema, name, kind, inner = info
        if kind == "d":
            oid, type_mod = inner, -1
        elif inner and (kind == "a" or name.startswith("_")):
            return _array_of(inner, type_mod, catalog, codec)
        elif kind == "b" and name in _TEXT_EXTENSIONS:
            return ColumnType(scalars.text(codec))
        else:
            break
    return ColumnType(_OPAQUE)


def _array_of(element: int, type_mod: int, catalog: TypeCatalog | None, codec: str | None) -> ColumnType:
    inner = column_type(element, type_mod, catalog, codec) if element not in _ARRAYS else ColumnType(_OPAQUE)
    # an array of a domain over an array: its elements have a structure that no reader here knows
    return ColumnType(_OPAQUE if inner.array else inner.scalar, array=True)


def _scalar(oid: int, type_mod: int, codec: str | None) -> Scalar | None:
    declared = type_mod - 4 if type_mod >= 4 else None
    if oid in _TEXTS:
        return scalars.text(codec)
    if oid == _VARCHAR:
        return scalars.text(codec, declared)
    if oid == _BPCHAR:
        return scalars.text(codec, declared, padded=True)
    if oid == _NAME:
        return scalars.text(codec, 63)  # NAMEDATALEN - 1
    if oid == _CHAR:
        return scalars.text(codec, 1)
    if oid == _XML:
        return scalars.xml(codec)
    if oid == _JSON:
        return scalars.json_document(codec)
    if oid == _JSONB:
        return scalars.json_document(codec, binary_version=b"\x01")
    if oid == _NUMERIC:
        return scalars.numeric(type_mod)
    return _FIXED.get(oid)


def value_rewriter(mask: ColumnMask, kind: ColumnType, *, binary: bool, codec: str | None) -> ValueRewriter:
    """The function that masks one column's values, in the format that the column is sent in."""
    if mask.withhold:
        return ValueRewriter(True, None, _null)
    scalar = kind.scalar
    read = scalar.read_binary if binary else scalar.read_text
    write = scalar.write_binary if binary else scalar.write_text

    def one(raw: bytes) -> bytes | None:
        try:
            text = "" if mask.constant else read(raw)
            masked = mask.apply(text, scalar.kind, scalar.limit)
            return None if masked is None else write(masked)
        except REFUSALS:
            return None  # withheld: what cannot be masked with certainty is never shown

    if not kind.array:
        if mask.constant:
            value = one(b"")
            return ValueRewriter(True, value, lambda _raw: value)
        return ValueRewriter(False, None, _remember(one))

    def many(raw: bytes) -> bytes | None:
        try:
            return _array_binary(raw, one) if binary else _array_text(raw, one, codec)
        except REFUSALS:
            return None

    return ValueRewriter(False, None, _remember(many))


def _null(_raw: bytes) -> bytes | None:
    return None


def _remember(rewrite: Rewrite) -> Rewrite:
    cached = lru_cache(maxsize=CACHE_ENTRIES)(rewrite)

    def remembered(raw: bytes) -> bytes | None:
        return cached(raw) if len(raw) <= CACHE_VALUE else rewrite(raw)

    return remembered


# ---------------------------------------------------------------- arrays

_ARRAY_HEAD = struct.Struct("!iii")  # dimensions, 1 if any element is NULL, element type (array_send)
_DIMENSION = struct.Struct("!ii")  # length, lower bound
_LENGTH = struct.Struct("!i")
_MAX_DIMENSIONS = 6  # MAXDIM in PostgreSQL's array.h


def _array_binary(raw: bytes, one: Rewrite) -> bytes:
    dimensions, _, element = _ARRAY_HEAD.unpack_from(raw)
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise Unmaskable("not an array")
    pos = _ARRAY_HEAD.size
    count = 1 if dimensions else 0
    for _ in range(dimensions):
        length, _ = _DIMENSION.unpack_from(raw, pos)
        if length < 0:
            raise Unmaskable("an array dimension is negative")
        count *= length
        pos += _DIMENSION.size
    if 4 * count > len(raw):
        raise Unmaskable("an array counts more elements than it holds")
    parts: list[bytes] = []
    nulls = 0
    shape = raw[_ARRAY_HEAD.size : pos]
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(raw, pos)
        pos += 4
        masked = None
        if length != -1:
            if length < 0 or pos + length > len(raw):
                raise Unmaskable("an array element runs past the end")
            masked = one(raw[pos : pos + length])
            pos += length
        if masked is None:
            nulls = 1
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(_LENGTH.pack(len(masked)) + masked)
    if pos != len(raw):
        raise Unmaskable("bytes follow the last array element")
    return _ARRAY_HEAD.pack(dimensions, nulls, element) + shape + b"".join(parts)


_BOUNDS = re.compile(r"(?:\[-?\d+:-?\d+\])+=", re.ASCII)
# the text form as array_out writes it: what holds anything special is quoted
_PIECE = re.compile(r'([{},])|"((?:[^"\\]|\\.)*)"|([^{},"\\]+)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = re.compile(r"[^\s{},\"\\]+\Z")


def _array_text(raw: bytes, one: Rewrite, codec: str | None) -> bytes:
    if codec is None:
        raise Unmaskable("the client encoding is not known")
    text = raw.decode(codec)
    bounds = _BOUNDS.match(text)
    pos = bounds.end() if bounds else 0
    out = [text[:pos]]
    depth = 0
    while pos < len(text):
        found = _PIECE.match(text, pos)
        if found is None or (depth == 0 and found[1] != "{"):
            raise Unmaskable("not an array")
        pos = found.end()
        mark, quoted, plain = found.groups()
        if mark is not None:
            depth += {"{": 1, "}": -1, ",": 0}[mark]
            out.append(mark)
            if depth == 0 and pos != len(text):
                raise Unmaskable("text follows an array")
        elif plain is not None and plain.upper() == "NULL":
            out.append("NULL")
        else:
            element = _ESCAPE.sub(r"\1", quoted) if quoted is not None else plain
            masked = one(element.encode(codec))
            out.append("NULL" if masked is None else _quote(masked.decode(codec)))
    if depth != 0 or len(out) < 2:
        raise Unmaskable("an array has no end")
    return "".join(out).encode(codec)


def _quote(element: str) -> str:
    if _PLAIN.match(element) and element.upper() != "NULL":
        return element
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
