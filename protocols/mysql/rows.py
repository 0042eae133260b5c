"""Rows of results, taken apart into their values and put together again.

A row of text values is a string per column ("Text Resultset Row"); one of binary values is a NULL bitmap and then each
value in the form of its column's type ("Binary Protocol Resultset Row").
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader, lenenc


class FieldType(enum.IntEnum):
    """`enum_field_types`."""

    DECIMAL = 0
    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    NULL = 6
    TIMESTAMP = 7
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    YEAR = 13
    NEWDATE = 14
    VARCHAR = 15
    BIT = 16
    TIMESTAMP2 = 17
    DATETIME2 = 18
    TIME2 = 19
    TYPED_ARRAY = 20
    VECTOR = 242
    INVALID = 243
    BOOL = 244
    JSON = 245
    NEWDECIMAL = 246
    ENUM = 247
    SET = 248
    TINY_BLOB = 249
    MEDIUM_BLOB = 250
    LONG_BLOB = 251
    BLOB = 252
    VAR_STRING = 253
    STRING = 254
    GEOMETRY = 255


T = FieldType

FIXED: dict[int, int] = {
    T.TINY: 1,
    T.SHORT: 2,
    T.YEAR: 2,
    T.LONG: 4,
    T.INT24: 4,
    T.FLOAT: 4,
    T.DOUBLE: 8,
    T.LONGLONG: 8,
}
"""Bytes of a binary value, by type."""

TEMPORAL = frozenset((T.DATE, T.DATETIME, T.TIMESTAMP, T.TIME))
"""Types whose binary values have one byte of length before them."""

_LENGTHS = {T.DATE: (0, 4, 7, 11), T.DATETIME: (0, 4, 7, 11), T.TIMESTAMP: (0, 4, 7, 11), T.TIME: (0, 8, 12)}

STRINGS = frozenset(
    (
        T.DECIMAL,
        T.VARCHAR,
        T.BIT,
        T.VECTOR,
        T.JSON,
        T.NEWDECIMAL,
        T.ENUM,
        T.SET,
        T.TINY_BLOB,
        T.MEDIUM_BLOB,
        T.LONG_BLOB,
        T.BLOB,
        T.VAR_STRING,
        T.STRING,
        T.GEOMETRY,
    )
)
"""Types whose binary values are strings behind a length-encoded length."""


def text_row(body: bytes, columns: int) -> list[bytes | None]:
    """The values of a row of text values, None for NULL."""
    out: list[bytes | None] = []
    pos = 0
    end = len(body)
    try:
        while pos < end:
            n = body[pos]
            pos += 1
            if n >= 0xFB:
                if n == 0xFB:
                    out.append(None)
                    continue
                if n == 0xFF:
                    raise ProtocolError("a length-encoded integer that is none")
                size = 2 if n == 0xFC else 3 if n == 0xFD else 8
                if pos + size > end:
                    raise ProtocolError("a field runs past the end of its packet")
                n = int.from_bytes(body[pos : pos + size], "little")
                pos += size
            stop = pos + n
            if stop > end:
                raise ProtocolError("a field runs past the end of its packet")
            out.append(body[pos:stop])
            pos = stop
    except IndexError:
        raise ProtocolError("a field runs past the end of its packet") from None
    if len(out) != columns:
        raise ProtocolError("a row whose values are not as many as its columns")
    return out


def binary_value(r: Reader, type_: int) -> bytes:
    """One value that is not NULL, without its length prefix. An unknown type cannot be measured: an error."""
    size = FIXED.get(type_)
    if size is not None:
        return r.take(size)
    if type_ in STRINGS:
        return r.string()
    if type_ in TEMPORAL:
        size = r.u8()
        if size not in _LENGTHS[FieldType(type_)]:
            raise ProtocolError("a temporal value of a wrong length")
        return r.take(size)
    if type_ == T.NULL:
        return b""
    raise ProtocolError(f"a binary value of an unknown type {type_}")


def encode_binary_value(value: bytes, type_: int) -> bytes:
    """The inverse of `binary_value`."""
    size = FIXED.get(type_)
    if size is not None:
        if len(value) != size:
            raise ProtocolError("a binary value that does not fit its type")
        return value
    if type_ in TEMPORAL:
        if len(value) not in _LENGTHS[FieldType(type_)]:
            raise ProtocolError("a temporal value of a wrong length")
        return bytes((len(value),)) + value
    if type_ in STRINGS:
        return lenenc(len(value)) + value
    if type_ == T.NULL and not value:
        return b""
    raise ProtocolError(f"a binary value of an unknown type {type_}")


def binary_row(body: bytes, types: Sequence[int]) -> list[bytes | None]:
    """The values of a row of binary values in wire form without length prefixes, None for NULL."""
    count = len(types)
    bitmap = (count + 9) >> 3  # two bits of offset
    r = Reader(body)
    if r.u8() != 0:
        raise ProtocolError("a binary row that does not begin as one")
    nulls = r.take(bitmap)
    out: list[bytes | None] = []
    for i, type_ in enumerate(types):
        bit = i + 2
        out.append(None if nulls[bit >> 3] >> (bit & 7) & 1 else binary_value(r, type_))
    r.end()
    return out
