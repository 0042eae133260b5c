"""The messages of the PostgreSQL protocol, one frozen dataclass each.

`decode(body)` takes the bytes after the type and length fields and consumes all of them: trailing bytes are a
`ProtocolError`, and so is any length that does not fit. `encode()` gives the whole message with type and length.
Names and fields follow "Message Formats" in PostgreSQL's documentation (section 54.7).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from protocols.postgres.errors import ProtocolError
from protocols.postgres.fields import I16, I32, U32, UNPACK_I32, UNPACK_U16, Reader, counted, format_codes, frame, sized

_FIELD = struct.Struct("!IhIhih")


# ---------------------------------------------------------------- frontend


@dataclass(frozen=True, slots=True)
class Query:
    kind: ClassVar[bytes] = b"Q"
    text: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        text = r.cstring()
        r.end()
        return cls(text)

    def encode(self) -> bytes:
        return frame(b"Q", self.text + b"\0")


@dataclass(frozen=True, slots=True)
class Parse:
    kind: ClassVar[bytes] = b"P"
    name: bytes
    text: bytes
    type_oids: tuple[int, ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        name, text = r.cstring(), r.cstring()
        oids = tuple(r.u32() for _ in range(r.u16()))
        r.end()
        return cls(name, text, oids)

    def encode(self) -> bytes:
        oids = b"".join(map(U32.pack, self.type_oids))
        return frame(b"P", self.name + b"\0" + self.text + b"\0" + counted(len(self.type_oids)) + oids)


@dataclass(frozen=True, slots=True)
class Bind:
    kind: ClassVar[bytes] = b"B"
    portal: bytes
    statement: bytes
    formats: tuple[int, ...] = ()
    values: tuple[bytes | None, ...] = ()
    result_formats: tuple[int, ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        # unrolled: the one message that carries the parameters of every prepared statement's execution
        try:
            end = body.index(0)
            at = body.index(0, end + 1)
            portal, statement = body[:end], body[end + 1 : at]
            at += 1
            formats, at = format_codes(body, at)
            (count,) = UNPACK_U16(body, at)
            at += 2
            values: list[bytes | None] = []
            for _ in range(count):
                (size,) = UNPACK_I32(body, at)
                at += 4
                if size < 0:
                    if size != -1:
                        raise ProtocolError("a field runs past the end of its message")
                    values.append(None)
                    continue
                value = body[at : at + size]
                if len(value) != size:
                    raise ProtocolError("a field runs past the end of its message")
                values.append(value)
                at += size
            result_formats, at = format_codes(body, at)
        except (ValueError, struct.error):
            raise ProtocolError("a field runs past the end of its message") from None
        if at != len(body):
            raise ProtocolError("bytes follow the last field of a message")
        return cls(portal, statement, formats, tuple(values), result_formats)

    def encode(self) -> bytes:
        body = b"".join(
            (
                self.portal + b"\0" + self.statement + b"\0",
                counted(len(self.formats)),
                *map(I16.pack, self.formats),
                counted(len(self.values)),
                *map(sized, self.values),
                counted(len(self.result_formats)),
                *map(I16.pack, self.result_formats),
            )
        )
        return frame(b"B", body)


@dataclass(frozen=True, slots=True)
class Describe:
    kind: ClassVar[bytes] = b"D"
    what: bytes  # b"S" statement, b"P" portal
    name: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        what, name = r.take(1), r.cstring()
        r.end()
        if what not in (b"S", b"P"):
            raise ProtocolError("describe names neither a statement nor a portal")
        return cls(what, name)

    def encode(self) -> bytes:
        return frame(b"D", self.what + self.name + b"\0")


@dataclass(frozen=True, slots=True)
class Close:
    kind: ClassVar[bytes] = b"C"
    what: bytes
    name: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        what, name = r.take(1), r.cstring()
        r.end()
        if what not in (b"S", b"P"):
            raise ProtocolError("close names neither a statement nor a portal")
        return cls(what, name)

    def encode(self) -> bytes:
        return frame(b"C", self.what + self.name + b"\0")


@dataclass(frozen=True, slots=True)
class Execute:
    kind: ClassVar[bytes] = b"E"
    portal: bytes
    max_rows: int = 0  # 0: no limit

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        portal, n = r.cstring(), r.i32()
        r.end()
        return cls(portal, n)

    def encode(self) -> bytes:
        return frame(b"E", self.portal + b"\0" + I32.pack(self.max_rows))


@dataclass(frozen=True, slots=True)
class FunctionCall:
    kind: ClassVar[bytes] = b"F"
    oid: int
    formats: tuple[int, ...] = ()
    values: tuple[bytes | None, ...] = ()
    result_format: int = 0

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        oid = r.u32()
        formats = tuple(r.i16() for _ in range(r.u16()))
        values = tuple(r.value() for _ in range(r.u16()))
        result_format = r.i16()
        r.end()
        return cls(oid, formats, values, result_format)

    def encode(self) -> bytes:
        body = b"".join(
            (
                U32.pack(self.oid),
                counted(len(self.formats)),
                *map(I16.pack, self.formats),
                counted(len(self.values)),
                *map(sized, self.values),
                I16.pack(self.result_format),
            )
        )
        return frame(b"F", body)


SYNC = frame(b"S", b"")
FLUSH = frame(b"H", b"")
TERMINATE = frame(b"X", b"")

# ---------------------------------------------------------------- backend


@dataclass(frozen=True, slots=True)
class FieldDescription:
    name: bytes
    table_oid: int
    attnum: int
    type_oid: int
    type_size: int
    type_mod: int
    format: int  # 0 text, 1 binary


@dataclass(frozen=True, slots=True)
class RowDescription:
    kind: ClassVar[bytes] = b"T"
    fields: tuple[FieldDescription, ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        fields = []
        for _ in range(r.u16()):
            name = r.cstring()
            fields.append(FieldDescription(name, *_FIELD.unpack(r.take(18))))
        r.end()
        return cls(tuple(fields))

    def encode(self) -> bytes:
        parts = [counted(len(self.fields))]
        for f in self.fields:
            packed = _FIELD.pack(f.table_oid, f.attnum, f.type_oid, f.type_size, f.type_mod, f.format)
            parts.append(f.name + b"\0" + packed)
        return frame(b"T", b"".join(parts))


@dataclass(frozen=True, slots=True)
class DataRow:
    kind: ClassVar[bytes] = b"D"
    values: tuple[bytes | None, ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        values = tuple(r.value() for _ in range(r.u16()))
        r.end()
        return cls(values)

    def encode(self) -> bytes:
        return frame(b"D", counted(len(self.values)) + b"".join(map(sized, self.values)))


@dataclass(frozen=True, slots=True)
class FunctionCallResponse:
    kind: ClassVar[bytes] = b"V"
    value: bytes | None

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        value = r.value()
        r.end()
        return cls(value)

    def encode(self) -> bytes:
        return frame(b"V", sized(self.value))


@dataclass(frozen=True, slots=True)
class CommandComplete:
    kind: ClassVar[bytes] = b"C"
    tag: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        tag = r.cstring()
        r.end()
        return cls(tag)

    def encode(self) -> bytes:
        return frame(b"C", self.tag + b"\0")

    def rows(self) -> int:
        """Rows that the tag counts, 0 where it counts none (`SELECT 5`, `INSERT 0 1`, `BEGIN`)."""
        last = self.tag.rpartition(b" ")[2]
        return int(last) if last.isdigit() else 0


@dataclass(frozen=True, slots=True)
class ParameterStatus:
    kind: ClassVar[bytes] = b"S"
    name: bytes
    value: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        name, value = r.cstring(), r.cstring()
        r.end()
        return cls(name, value)

    def encode(self) -> bytes:
        return frame(b"S", self.name + b"\0" + self.value + b"\0")


@dataclass(frozen=True, slots=True)
class BackendKeyData:
    kind: ClassVar[bytes] = b"K"
    pid: int
    secret: bytes  # 4 bytes in protocol 3.0, up to 256 in 3.2

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if not 8 <= len(body) <= 260:
            raise ProtocolError("a cancel key has an impossible length")
        return cls(U32.unpack_from(body)[0], body[4:])

    def encode(self) -> bytes:
        return frame(b"K", U32.pack(self.pid) + self.secret)


@dataclass(frozen=True, slots=True)
class ReadyForQuery:
    kind: ClassVar[bytes] = b"Z"
    status: str  # I idle, T in a transaction block, E in a failed one

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if body not in (b"I", b"T", b"E"):
            raise ProtocolError("ready for query carries an unknown transaction status")
        return cls(body.decode())

    def encode(self) -> bytes:
        return frame(b"Z", self.status.encode())


@dataclass(frozen=True, slots=True)
class Fields:
    """ErrorResponse ('E') and NoticeResponse ('N'): the fields in their order, undecoded."""

    items: tuple[tuple[str, bytes], ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        items = []
        while code := r.u8():
            items.append((chr(code), r.cstring()))
        r.end()
        return cls(tuple(items))

    def encode(self, kind: bytes) -> bytes:
        return frame(kind, b"".join(k.encode("latin-1") + v + b"\0" for k, v in self.items) + b"\0")

    def get(self, key: str) -> str:
        for k, v in self.items:
            if k == key:
                return v.decode("utf-8", "replace")
        return ""


@dataclass(frozen=True, slots=True)
class CopyResponse:
    """CopyInResponse ('G'), CopyOutResponse ('H'), CopyBothResponse ('W')."""

    format: int
    column_formats: tuple[int, ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        fmt = r.u8()
        formats = tuple(r.i16() for _ in range(r.u16()))
        r.end()
        return cls(fmt, formats)

    def encode(self, kind: bytes) -> bytes:
        formats = b"".join(map(I16.pack, self.column_formats))
        return frame(kind, bytes((self.format,)) + counted(len(self.column_formats)) + formats)


def encode_parameters(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Startup parameters as name, value pairs with the closing NUL."""
    for k, v in pairs:
        if not k or "\0" in k or "\0" in v:
            raise ProtocolError("a startup parameter holds a NUL")
    return b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in pairs) + b"\0"
