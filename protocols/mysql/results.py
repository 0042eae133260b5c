"""Rows on their way to the client: the masking of their values, in text and binary form.

`origins` says where the columns of a result come from; the guard answers with a plan; `RowRewriter` carries it out.

INVARIANT: a row that is not understood to its last byte is an error (`MaskError`), never passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from protocols.contract import MaskPlan
from protocols.mysql import rows
from protocols.mysql.fields import string
from protocols.mysql.framing import HEADER, MAX_PART, packet, parts, payload
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.values import BINARY_COLLATION, MaskError, scalar, value_rewriter

__all__ = ["MaskError", "RowRewriter"]

_NULL = b"\xfb"


class RowRewriter:
    """Masks the rows of one result. One per result: it remembers masked values (bounded).

    `collations`: id -> (collation, character set). Raises MaskError when plan and definitions differ in width.
    """

    def __init__(
        self,
        plan: MaskPlan,
        definitions: Sequence[ColumnDefinition],
        collations: Mapping[int, tuple[str, str]] | None,
        *,
        binary: bool,
    ) -> None:
        if len(plan.columns) != len(definitions):
            raise MaskError("the mask plan does not fit the columns")
        self.plan = plan
        self.heads: Mapping[int, bytes] = {}  # definitions in place of the server's, by column: payloads
        self.width = len(definitions)
        self.binary = binary
        # per column None (passes), the bytes that stand for every value, or the function that masks one; in text form
        # with the length in front
        self._actions: list[Any] = []
        for definition, mask in zip(definitions, plan.columns, strict=True):
            if mask is None:
                self._actions.append(None)
                continue
            made = value_rewriter(mask, scalar(definition, collations), binary=binary)
            if not made.constant:
                self._actions.append(made.rewrite)
            elif binary:
                self._actions.append(_Constant(made.value))
            else:
                self._actions.append(_text_value(made.value))

        # of a binary row: where a column's NULL bit is (from the row's first byte), its size, its action
        self._steps: list[tuple[int, int, int, Any]] = []
        if binary:
            self._steps = [
                (1 + ((i + 2) >> 3), 1 << ((i + 2) & 7), _size(d.type), action)
                for i, (d, action) in enumerate(zip(definitions, self._actions, strict=True))
            ]

    def rewrite(self, body: bytes) -> bytes:
        """The payload of one row, masked. Raises MaskError for a payload that is not exactly one row of this result."""
        return self._binary(body) if self.binary else self._text(body, 0, len(body))

    def rewrite_packets(self, buf: bytes, packets: Sequence[tuple[int, int, int]]) -> bytes:
        """Masks a run of whole logical packets `(sequence, start, end)` of `buf`, each a row. Raises MaskError."""
        out: list[bytes] = []
        for sequence, start, end in packets:
            if end - start < MAX_PART and not self.binary:
                body = self._text(buf, start + HEADER, end)
            else:
                body = self.rewrite(payload(buf, start, end))
            length = len(body)
            if length >= MAX_PART or end - start >= MAX_PART:
                if length // MAX_PART + 1 != parts(start, end):
                    # what follows would need other sequence numbers
                    raise MaskError("a row of more than 16 MiB whose masked form has another number of packets")
                out.append(packet(sequence, body))
                continue
            out.append(length.to_bytes(3, "little") + bytes((sequence & 0xFF,)))
            out.append(body)
        return b"".join(out)

    def _text(self, buf: bytes, start: int, end: int) -> bytes:
        """A row of text values in `buf[start:end]`."""
        out: list[bytes] = []
        at = copied = start
        try:
            for action in self._actions:
                first = at
                n = buf[at]
                at += 1
                if n >= 0xFB:
                    if n == 0xFB:
                        continue
                    if n == 0xFF:
                        raise MaskError("a value with an impossible length")
                    size = 2 if n == 0xFC else 3 if n == 0xFD else 8
                    n = int.from_bytes(buf[at : at + size], "little")
                    at += size
                at += n
                if at > end:
                    raise MaskError("a row's values run past its end")
                if action is not None:
                    out.append(buf[copied:first])
                    out.append(action if action.__class__ is bytes else _text_value(action(buf[at - n : at])))
                    copied = at
        except IndexError:
            raise MaskError("a row with too few values") from None
        if at != end:
            raise MaskError("a row's values do not fill it")
        out.append(buf[copied:end])
        return b"".join(out)

    def _binary(self, body: bytes) -> bytes:
        """A row of binary values: a zero, the NULL bitmap (two bits of offset), the values ("Binary Protocol")."""
        start = 1 + ((self.width + 9) >> 3)
        end = len(body)
        if end < start or body[0]:
            raise MaskError("a binary row that does not begin as one")
        nulls: bytearray | None = None  # once it changes
        out: list[bytes] = []
        at = copied = start
        try:
            for index, bit, size, action in self._steps:
                if body[index] & bit:
                    continue
                first = at
                if size < 0:
                    n = body[at]
                    at += 1
                    if size == _TEMPORAL:
                        if n not in _TEMPORAL_SIZES:
                            raise MaskError("a temporal value of a wrong length")
                    elif n >= 0xFB:
                        if n in (0xFB, 0xFF):
                            raise MaskError("a value with an impossible length")
                        wide = 2 if n == 0xFC else 3 if n == 0xFD else 8
                        n = int.from_bytes(body[at : at + wide], "little")
                        at += wide
                else:
                    n = size
                at += n
                if at > end:
                    raise MaskError("a row's values run past its end")
                if action is not None:
                    value = action.value if action.__class__ is _Constant else action(body[at - n : at])
                    out.append(body[copied:first])
                    copied = at
                    if value is None:
                        nulls = nulls or bytearray(body[:start])
                        nulls[index] |= bit
                    elif size == _STRING:
                        out.append(string(value))
                    elif size == _TEMPORAL:
                        out.append(bytes((len(value),)) + value)
                    else:
                        out.append(value)
        except IndexError:
            raise MaskError("a row with too few values") from None
        if at != end:
            raise MaskError("a row's values do not fill it")
        out.append(body[copied:end])
        return (bytes(nulls) if nulls is not None else body[:start]) + b"".join(out)


def unsized(definition: ColumnDefinition) -> ColumnDefinition:
    """The definition of a computed column that is withheld: names, sign and the family of its type.

    MariaDB works out length, decimals and type of an expression from the values of its constants, and a variable or a
    scalar query is one: `REPEAT('x', @n)` is `@n` characters wide, whatever becomes of its rows.
    """
    kind, length, decimals, charset = _UNSIZED.get(definition.type, (definition.type, _WIDEST, 0, None))
    return replace(
        definition,
        charset=definition.charset if charset is None else charset,
        length=length,
        type=kind,
        flags=definition.flags & _KEPT_FLAGS,
        decimals=decimals,
    )


_T = rows.FieldType
_WIDEST = 0xFFFFFFFF
_TEXT_WIDTH = 65535  # bytes
_UNSIGNED, _BINARY = 1 << 5, 1 << 7
_KEPT_FLAGS = _UNSIGNED | _BINARY
# by type: (type, length, decimals, collation; None: the column's own)
_UNSIZED: Mapping[int, tuple[int, int, int, int | None]] = {
    **dict.fromkeys(
        (_T.DECIMAL, _T.NEWDECIMAL, _T.TINY, _T.SHORT, _T.INT24, _T.LONG, _T.LONGLONG, _T.YEAR),
        (_T.NEWDECIMAL, 67, 30, BINARY_COLLATION),
    ),
    **dict.fromkeys((_T.FLOAT, _T.DOUBLE), (_T.DOUBLE, 23, 31, BINARY_COLLATION)),
    **dict.fromkeys((*rows.TEMPORAL, _T.TIME, _T.NEWDATE), (_T.DATETIME, 26, 6, BINARY_COLLATION)),
    **dict.fromkeys(
        (_T.VARCHAR, _T.VAR_STRING, _T.STRING, _T.ENUM, _T.SET, _T.TINY_BLOB, _T.MEDIUM_BLOB, _T.LONG_BLOB, _T.BLOB),
        (_T.VAR_STRING, _TEXT_WIDTH, 0, None),
    ),
}  # fmt: skip

_STRING, _TEMPORAL = -1, -2  # in place of a size
_TEMPORAL_SIZES = frozenset((0, 4, 7, 8, 11, 12))


def _size(kind: int) -> int:
    """Bytes of a binary value. One of an unknown type cannot be measured."""
    fixed = 0 if kind == rows.FieldType.NULL else rows.FIXED.get(kind)
    if fixed is not None:
        return fixed
    if kind in rows.TEMPORAL:
        return _TEMPORAL
    if kind in rows.STRINGS:
        return _STRING
    raise MaskError(f"a binary value of an unknown type {kind}")


class _Constant:
    """A value in binary form, None for NULL."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | None) -> None:
        self.value = value


def _text_value(value: bytes | None) -> bytes:
    return _NULL if value is None else string(value)
