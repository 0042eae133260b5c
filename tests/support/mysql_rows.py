"""Rows as a MySQL server writes them: the inverse of what `protocols.mysql.rows` reads."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.mysql.fields import string
from protocols.mysql.rows import encode_binary_value


def encode_text_row(values: Sequence[bytes | None]) -> bytes:
    return b"".join(b"\xfb" if v is None else string(v) for v in values)


def encode_binary_row(values: Sequence[bytes | None], types: Sequence[int]) -> bytes:
    nulls = bytearray((len(types) + 9) >> 3)
    parts = [b""]
    for i, (value, type_) in enumerate(zip(values, types, strict=True)):
        if value is None:
            nulls[(i + 2) >> 3] |= 1 << ((i + 2) & 7)
        else:
            parts.append(encode_binary_value(value, type_))
    parts[0] = b"\0" + bytes(nulls)
    return b"".join(parts)
