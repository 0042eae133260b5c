"""Rows on their way to the client: the masking of their values.

`shape` says where the columns of a result come from; the guard answers with a plan; `RowRewriter` carries it out on
DataRow messages, `copy.CopyMasker` on COPY data, `scrub` on errors and notices.

INVARIANT: a row that is not understood to its last byte is an error (`MaskError`), never passed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from protocols.contract import MaskPlan
from protocols.postgres.messages import RowDescription
from protocols.postgres.origins import reach, relations, shape
from protocols.postgres.scalars import codec_of
from protocols.postgres.scrub import scrub
from protocols.postgres.values import MaskError, TypeCatalog, column_type, value_rewriter

__all__ = [
    "MaskError",
    "RowRewriter",
    "mask_call",
    "reach",
    "relations",
    "scrub",
    "shape",
    "with_formats",
]


def mask_call(body: bytes, withhold: bool) -> bytes:
    """A FunctionCallResponse's body as the client may see it: the value of a call that may read masked data is NULL.

    Raises MaskError for a body that is not one value.
    """
    if not withhold:
        return body
    if len(body) < 4:
        raise MaskError("a function's result has no length")
    (length,) = _LENGTH(body)
    if length != -1 and (length < 0 or len(body) != 4 + length):
        raise MaskError("a function's result has an impossible length")
    if length == -1 and len(body) != 4:
        raise MaskError("bytes follow a function's result")
    return _NULL


_NULL = b"\xff\xff\xff\xff"
_LENGTH = struct.Struct("!i").unpack_from
_PACK_LENGTH = struct.Struct("!i").pack
_ROW_HEAD = struct.Struct("!BiH").unpack_from  # message type, length, number of columns
_DATA_ROW = ord("D")
_MAX_BODY = 0x7FFFFFFF - 4  # the length field is signed and counts itself


def with_formats(description: RowDescription, formats: Sequence[int]) -> tuple[int, ...]:
    """The format of each column, from Bind's result formats: none given is text, one is for all (section 54.7)."""
    width = len(description.fields)
    if not formats:
        return (0,) * width
    if len(formats) == 1:
        return tuple(formats) * width
    if len(formats) != width:
        raise MaskError("the result formats do not fit the columns")
    return tuple(formats)


class RowRewriter:
    """Masks the DataRow messages of one result. One per result: it remembers masked values (bounded).

    `formats` as in Bind, where the description does not carry the formats in force. Raises MaskError when plan and
    description differ in width.
    """

    def __init__(
        self,
        plan: MaskPlan,
        description: RowDescription,
        catalog: TypeCatalog | None,
        encoding: str,
        formats: Sequence[int] | None = None,
    ) -> None:
        fields = description.fields
        if len(plan.columns) != len(fields):
            raise MaskError("the mask plan does not fit the columns")
        wire = tuple(f.format for f in fields) if formats is None else with_formats(description, formats)
        self.plan = plan
        self.width = len(fields)
        codec = codec_of(encoding)
        # per column None (passes), the bytes that replace every value, or the function that masks one
        self._actions: list[Any] = []
        for field, mask, fmt in zip(fields, plan.columns, wire, strict=True):
            if mask is None:
                self._actions.append(None)
                continue
            if fmt not in (0, 1):
                raise MaskError("a column has an unknown format")
            kind = column_type(field.type_oid, field.type_mod, catalog, codec)
            rewriter = value_rewriter(mask, kind, binary=fmt == 1, codec=codec)
            self._actions.append(_value(rewriter.value) if rewriter.constant else rewriter.rewrite)

    def rewrite(self, body: bytes) -> bytes:
        """The body of one DataRow, masked. Raises MaskError for a body that is not exactly one row of this result."""
        if len(body) > _MAX_BODY:
            raise MaskError("a row is larger than a message can be")
        return self.rewrite_messages(b"D" + _PACK_LENGTH(len(body) + 4) + body, 0, len(body) + 5)[5:]

    def rewrite_messages(self, buf: bytes, start: int, end: int) -> bytes:
        """Masks a run of whole DataRow messages, `buf[start:end]`, in one pass.

        Raises MaskError when the run is not exactly that; nothing of it may be passed then.
        """
        try:
            return self._run(buf, start, end)
        except struct.error:
            raise MaskError("a row's lengths do not fit its message") from None

    def _run(self, buf: bytes, start: int, end: int) -> bytes:
        actions, width = self._actions, self.width
        out: list[bytes] = []
        edits: list[tuple[int, int, bytes]] = []
        copied = pos = start
        while pos < end:
            kind, length, count = _ROW_HEAD(buf, pos)
            stop = pos + 1 + length
            if kind != _DATA_ROW or count != width or stop > end:
                raise MaskError("not a row of the columns that were announced")
            at = pos + 7
            for action in actions:
                (size,) = _LENGTH(buf, at)
                at += 4
                if size >= 0:
                    if action is not None:
                        value = action if action.__class__ is bytes else _value(action(buf[at : at + size]))
                        edits.append((at - 4, at + size, value))
                    at += size
                elif size != -1:
                    raise MaskError("a value has an impossible length")
            if at != stop:
                raise MaskError("a row's values do not fill it")
            if edits:
                grown = sum([len(value) - (b - a) for a, b, value in edits])
                if grown:
                    out.append(buf[copied : pos + 1])
                    out.append(_PACK_LENGTH(length + grown))
                    copied = pos + 5
                for a, b, value in edits:
                    out.append(buf[copied:a])
                    out.append(value)
                    copied = b
                edits.clear()
            pos = stop
        if pos != end:
            raise MaskError("bytes follow the last row")
        out.append(buf[copied:end])
        return b"".join(out)


def _value(value: bytes | None) -> bytes:
    return _NULL if value is None else _PACK_LENGTH(len(value)) + value
