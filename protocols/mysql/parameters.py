"""COM_STMT_EXECUTE: the parameters that a prepared statement runs with, decoded.

Source: "COM_STMT_EXECUTE" and "Binary Protocol Value" of the MySQL internals manual. Query attributes and MariaDB's
bulk execution are not negotiated, so there is one set of values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader
from protocols.mysql.messages import Command
from protocols.mysql.rows import STRINGS, TEMPORAL, FieldType, binary_value, encode_binary_value

_FIXED = struct.Struct("<IBI")  # statement, flags, iterations
UNSIGNED = 0x8000  # in a parameter's type, as the packet has it: the flag byte above the type byte
# Types that both servers read in the same way. Of another type only NULL can be bound: its bytes cannot be measured.
_BINDABLE = (
    STRINGS
    | TEMPORAL
    | {FieldType.TINY, FieldType.SHORT, FieldType.LONG, FieldType.LONGLONG, FieldType.FLOAT, FieldType.DOUBLE}
)
_INTEGERS = frozenset((FieldType.TINY, FieldType.SHORT, FieldType.LONG, FieldType.LONGLONG))


@dataclass(frozen=True, slots=True)
class StmtExecute:
    """`types` are those in force: of this packet where it brings them (`rebinds`), else of the last that did.

    `values` are wire forms without length prefixes; for a parameter that was sent as long data it is that data.
    """

    statement: int
    flags: int  # of the cursor
    iterations: int
    types: tuple[int, ...] = ()
    values: tuple[bytes | None, ...] = ()
    rebinds: bool = False
    long: frozenset[int] = frozenset()  # 0-based parameters whose value came through COM_STMT_SEND_LONG_DATA

    @classmethod
    def decode(
        cls, body: bytes, count: int, types: Sequence[int] = (), long: Mapping[int, bytes] | None = None
    ) -> Self:
        """`count` is the statement's number of parameters, `types` and `long` what earlier packets brought for it."""
        long = long or {}
        if len(body) < _FIXED.size + 1:
            raise ProtocolError("COM_STMT_EXECUTE without its fixed fields")
        statement, flags, iterations = _FIXED.unpack_from(body, 1)
        r = Reader(body, _FIXED.size + 1)
        if not count:
            r.end()
            return cls(statement, flags, iterations)
        nulls = r.take((count + 7) >> 3)
        rebinds = r.u8()
        if rebinds > 1:
            raise ProtocolError("a flag that is neither set nor unset")
        types = struct.unpack(f"<{count}H", r.take(2 * count)) if rebinds else tuple(types)
        if len(types) != count:
            raise ProtocolError("parameters without their types")
        values: list[bytes | None] = []
        for i, bound in enumerate(types):
            if i in long:
                if bound & 0xFF not in STRINGS:
                    raise ProtocolError(f"a parameter of type {bound & 0xFF} in pieces")
                values.append(long[i])
            elif nulls[i >> 3] >> (i & 7) & 1:
                values.append(None)
            elif bound & ~UNSIGNED not in _BINDABLE:
                raise ProtocolError(f"a parameter of type {bound & 0xFF}, which cannot be read")
            else:
                values.append(binary_value(r, bound & 0xFF))
        r.end()
        return cls(statement, flags, iterations, types, tuple(values), bool(rebinds), frozenset(long))

    def encode(self) -> bytes:
        head = struct.pack("<BIBI", Command.STMT_EXECUTE, self.statement, self.flags, self.iterations)
        if not self.types:
            return head
        count = len(self.types)
        nulls = bytearray((count + 7) >> 3)
        parts: list[bytes] = []
        for i, (type_, value) in enumerate(zip(self.types, self.values, strict=True)):
            if i in self.long:
                continue
            if value is None:
                nulls[i >> 3] |= 1 << (i & 7)
            else:
                parts.append(encode_binary_value(value, type_ & 0xFF))
        types = struct.pack(f"<{count}H", *self.types) if self.rebinds else b""
        return b"".join((head, bytes(nulls), bytes((self.rebinds,)), types, *parts))

    def texts(self, codec: str = "utf-8") -> tuple[str | None, ...]:
        """The parameters for the record and for a digest: never two values with one text of the same type."""
        return tuple(
            None if value is None else value_text(value, bound, codec)
            for bound, value in zip(self.types, self.values, strict=True)
        )


def value_text(value: bytes, bound: int, codec: str = "utf-8") -> str:
    """One value as text: numbers in decimal, dates as the server prints them, strings decoded, or `0x...` in hex."""
    kind = bound & 0xFF
    if kind in _INTEGERS:
        return str(int.from_bytes(value, "little", signed=not bound & UNSIGNED))
    if kind == FieldType.FLOAT and len(value) == 4:
        return repr(struct.unpack("<f", value)[0])
    if kind == FieldType.DOUBLE and len(value) == 8:
        return repr(struct.unpack("<d", value)[0])
    if kind == FieldType.TIME:
        return _time(value)
    if kind in TEMPORAL:
        return _date(value)
    try:
        return value.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return "0x" + value.hex()


def _date(value: bytes) -> str:
    if not value:
        return "0000-00-00"
    year, month, day = struct.unpack_from("<HBB", value)
    text = f"{year:04}-{month:02}-{day:02}"
    if len(value) >= 7:
        text += f" {value[4]:02}:{value[5]:02}:{value[6]:02}"
    if len(value) >= 11:
        text += f".{int.from_bytes(value[7:11], 'little'):06}"
    return text


def _time(value: bytes) -> str:
    if not value:
        return "00:00:00"
    negative, days, hours, minutes, seconds = struct.unpack_from("<BIBBB", value)
    text = f"{'-' if negative else ''}{days * 24 + hours:02}:{minutes:02}:{seconds:02}"
    if len(value) >= 12:
        text += f".{int.from_bytes(value[8:12], 'little'):06}"
    return text
