"""Rows on their way to the client: the masking of their values, in text and binary form.

`origins` says where the columns of a result come from; the guard answers with a plan; `RowRewriter` carries it out.

INVARIANT: a row that is not understood to its last byte is an error (`MaskError`), never passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.contract import MaskPlan
from protocols.mysql import rows
from protocols.mysql.errors import ProtocolError
from protocols.mysql.framing import HEADER, MAX_PART, packet, parts, payload
from protocols.mysql.messages import ColumnDefinition, string
from protocols.mysql.values import MaskError, scalar, value_rewriter

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
        self.width = len(definitions)
        self.binary = binary
        self._types = [d.type for d in definitions]
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
        try:
            values = rows.binary_row(body, self._types)
            for i, action in enumerate(self._actions):
                if action is not None and (value := values[i]) is not None:
                    values[i] = action.value if action.__class__ is _Constant else action(value)
            return rows.encode_binary_row(values, self._types)
        except MaskError:
            raise
        except ProtocolError as e:
            raise MaskError(str(e)) from None


class _Constant:
    """A value in binary form, None for NULL."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | None) -> None:
        self.value = value


def _text_value(value: bytes | None) -> bytes:
    return _NULL if value is None else string(value)
