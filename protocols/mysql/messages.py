"""The packets of the command phase, one frozen dataclass each.

`decode(payload, ...)` takes a whole payload (see `framing.payload`) and consumes all of it: trailing bytes are a
`ProtocolError`, and so is any length that does not fit. `encode(...)` gives a payload. Names and fields follow "Command
Phase" of the MySQL internals manual; rows are in `rows`, what COM_STMT_EXECUTE carries is in `parameters`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from protocols.mysql.capabilities import Capability
from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader, lenenc, string

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")

OK = 0x00
EOF = 0xFE
ERR = 0xFF
LOCAL_INFILE = 0xFB
MAX_EOF = 9  # an EOF packet is shorter; a row that begins with 0xFE says a length of eight bytes


class Command(enum.IntEnum):
    """The first byte of a command ("Command Phase"; `enum_server_command` of both servers)."""

    SLEEP = 0x00
    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    REFRESH = 0x07
    SHUTDOWN = 0x08
    STATISTICS = 0x09
    PROCESS_INFO = 0x0A
    CONNECT = 0x0B
    PROCESS_KILL = 0x0C
    DEBUG = 0x0D
    PING = 0x0E
    TIME = 0x0F
    DELAYED_INSERT = 0x10
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    TABLE_DUMP = 0x13
    CONNECT_OUT = 0x14
    REGISTER_SLAVE = 0x15
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    DAEMON = 0x1D
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F
    CLONE = 0x20
    SUBSCRIBE_GROUP_REPLICATION_STREAM = 0x21
    MARIADB_STMT_BULK_EXECUTE = 0xFA
    MARIADB_MULTI = 0xFE


class Status(enum.IntFlag):
    """`SERVER_STATUS_flags_enum`; the last bit is MariaDB's."""

    IN_TRANS = 1
    AUTOCOMMIT = 1 << 1
    MORE_RESULTS = 1 << 3
    NO_GOOD_INDEX_USED = 1 << 4
    NO_INDEX_USED = 1 << 5
    CURSOR_EXISTS = 1 << 6
    LAST_ROW_SENT = 1 << 7
    DB_DROPPED = 1 << 8
    NO_BACKSLASH_ESCAPES = 1 << 9
    METADATA_CHANGED = 1 << 10
    QUERY_WAS_SLOW = 1 << 11
    PS_OUT_PARAMS = 1 << 12
    IN_TRANS_READONLY = 1 << 13
    STATE_CHANGED = 1 << 14
    ANSI_QUOTES = 1 << 15


class Track(enum.IntEnum):
    """What an entry of the session state tells ("OK_Packet", session state information)."""

    SYSTEM_VARIABLES = 0
    SCHEMA = 1
    STATE_CHANGE = 2
    GTIDS = 3
    TRANSACTION_CHARACTERISTICS = 4
    TRANSACTION_STATE = 5


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Ok:
    """OK, or with `eof` the end of a result under DEPRECATE_EOF (same fields behind 0xFE)."""

    affected: int = 0
    last_id: int = 0
    status: int = 0
    warnings: int = 0
    info: bytes = b""
    changes: tuple[tuple[int, bytes], ...] = ()  # (Track, its data) in the order of the packet
    eof: bool = False

    @classmethod
    def decode(cls, body: bytes, capabilities: Capability) -> Self:
        r = Reader(body)
        head = r.u8()
        if head not in (OK, EOF):
            raise ProtocolError("not an OK packet")
        affected, last_id, status, warnings = r.lenenc(), r.lenenc(), r.u16(), r.u16()
        info, changes = b"", b""
        if Capability.SESSION_TRACK in capabilities:
            if r.more:
                info = r.string()
            if status & Status.STATE_CHANGED:
                changes = r.string()
            r.end()
        else:
            info = r.rest()
        return cls(affected, last_id, status, warnings, info, _changes(changes), head == EOF)

    def encode(self, capabilities: Capability) -> bytes:
        head = bytes((EOF if self.eof else OK,)) + lenenc(self.affected) + lenenc(self.last_id)
        head += struct.pack("<HH", self.status, self.warnings)
        if Capability.SESSION_TRACK not in capabilities:
            return head + self.info
        if self.status & Status.STATE_CHANGED:
            changes = b"".join(bytes((kind,)) + string(data) for kind, data in self.changes)
            return head + string(self.info) + string(changes)
        return head + (string(self.info) if self.info else b"")

    def tracked(self) -> Iterator[tuple[Track, str, str]]:
        """What the session state says: (kind, name, value). The name is that of a system variable, else empty.

        A schema's value is its name; a kind that this version does not know is an error: what it changes is not known.
        """
        for kind, data in self.changes:
            r = Reader(data)
            match kind:
                case Track.SYSTEM_VARIABLES:
                    while r.more:
                        name = r.string()
                        yield Track.SYSTEM_VARIABLES, _text(name), _text(r.string())
                case Track.GTIDS:
                    r.u8()  # the encoding specification, always 0
                    yield Track.GTIDS, "", _text(r.string())
                    r.end()
                case Track.SCHEMA | Track.STATE_CHANGE | Track.TRANSACTION_CHARACTERISTICS | Track.TRANSACTION_STATE:
                    yield Track(kind), "", _text(r.string())
                    r.end()
                case _:
                    raise ProtocolError(f"session state of an unknown kind {kind}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _changes(data: bytes) -> tuple[tuple[int, bytes], ...]:
    r = Reader(data)
    out: list[tuple[int, bytes]] = []
    while r.more:
        kind = r.u8()
        out.append((kind, r.string()))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Err:
    errno: int
    sqlstate: str  # empty where the peer has not said CLIENT_PROTOCOL_41, or before it could
    message: bytes  # in the session's character_set_results

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        if r.u8() != ERR:
            raise ProtocolError("not an ERR packet")
        errno = r.u16()
        if errno == 0xFFFF:  # MariaDB's progress report, which is never negotiated
            raise ProtocolError("a progress report that nobody asked for")
        state = ""
        if body[3:4] == b"#":
            r.u8()
            raw = r.take(5)
            if not raw.isalnum():
                raise ProtocolError("an SQLSTATE that is none")
            state = raw.decode("ascii")
        return cls(errno, state, r.rest())

    def encode(self) -> bytes:
        marker = b"#" + self.sqlstate.encode() if self.sqlstate else b""
        return bytes((ERR,)) + _U16.pack(self.errno) + marker + self.message


@dataclass(frozen=True, slots=True)
class Eof:
    """EOF, where DEPRECATE_EOF does not hold."""

    warnings: int
    status: int

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        if r.u8() != EOF:
            raise ProtocolError("not an EOF packet")
        warnings, status = r.u16(), r.u16()
        r.end()
        return cls(warnings, status)

    def encode(self) -> bytes:
        return bytes((EOF,)) + struct.pack("<HH", self.warnings, self.status)


def ends_rows(head: int, length: int, capabilities: Capability) -> bool:
    """Whether a payload with this first byte and length ends rows: EOF, or OK in its place; an ERR is not asked for.

    A row whose first value has an 8-byte length begins with 0xFE too, and is then longer than one packet of a chain.
    """
    if head != EOF:
        return False
    return length < 0xFFFFFF if Capability.DEPRECATE_EOF in capabilities else length < MAX_EOF


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """`Protocol::ColumnDefinition41`. `default` is there in answers to COM_FIELD_LIST only; b"\\xfb" alone is NULL."""

    schema: bytes
    table: bytes
    org_table: bytes
    name: bytes
    org_name: bytes
    charset: int
    length: int
    type: int
    flags: int
    decimals: int
    catalog: bytes = b"def"
    default: bytes | None = None

    @classmethod
    def decode(cls, body: bytes, *, field_list: bool = False) -> Self:
        r = Reader(body)
        catalog, schema, table, org_table, name, org_name = (r.string() for _ in range(6))
        if r.lenenc() != 12:
            raise ProtocolError("a column definition with a wrong length of its fixed fields")
        charset, length, type_, flags, decimals, filler = struct.unpack("<HIBHBH", r.take(12))
        if filler:
            raise ProtocolError("a column definition with a filler that is not zero")
        default = r.rest() if field_list else None
        r.end()
        return cls(schema, table, org_table, name, org_name, charset, length, type_, flags, decimals, catalog, default)

    def encode(self) -> bytes:
        names = (self.catalog, self.schema, self.table, self.org_table, self.name, self.org_name)
        fixed = struct.pack("<HIBHBH", self.charset, self.length, self.type, self.flags, self.decimals, 0)
        return b"".join(map(string, names)) + b"\x0c" + fixed + (self.default or b"")


def column_count(body: bytes) -> int:
    """The first packet of a result set: how many columns it has, at least one."""
    r = Reader(body)
    n = r.lenenc()
    r.end()
    if not 0 < n <= 0xFFFF:
        raise ProtocolError("a result set without a sensible number of columns")
    return n


def local_infile(body: bytes) -> bytes:
    """The name of the file that the server asks the client for."""
    if body[:1] != b"\xfb":
        raise ProtocolError("not a LOCAL INFILE request")
    return body[1:]


@dataclass(frozen=True, slots=True)
class PrepareOk:
    """The first packet of the answer to COM_STMT_PREPARE; definitions of parameters and of columns follow it."""

    statement: int
    columns: int
    parameters: int
    warnings: int

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        if r.u8() != OK:
            raise ProtocolError("not the answer to a prepare")
        statement, columns, parameters, filler, warnings = r.u32(), r.u16(), r.u16(), r.u8(), r.u16()
        r.end()
        if filler:
            raise ProtocolError("the answer to a prepare with a filler that is not zero")
        return cls(statement, columns, parameters, warnings)

    def encode(self) -> bytes:
        return struct.pack("<BIHHBH", OK, self.statement, self.columns, self.parameters, 0, self.warnings)


# ---------------------------------------------------------------- commands with fixed fields


@dataclass(frozen=True, slots=True)
class StmtId:
    """COM_STMT_CLOSE and COM_STMT_RESET: a command byte and a statement's id."""

    command: int
    statement: int

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        out = cls(r.u8(), r.u32())
        r.end()
        return out

    def encode(self) -> bytes:
        return bytes((self.command,)) + _U32.pack(self.statement)


@dataclass(frozen=True, slots=True)
class StmtFetch:
    statement: int
    rows: int

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body, 1)
        out = cls(r.u32(), r.u32())
        r.end()
        return out

    def encode(self) -> bytes:
        return struct.pack("<BII", Command.STMT_FETCH, self.statement, self.rows)


@dataclass(frozen=True, slots=True)
class StmtSendLongData:
    statement: int
    parameter: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body, 1)
        return cls(r.u32(), r.u16(), r.rest())

    def encode(self) -> bytes:
        return struct.pack("<BIH", Command.STMT_SEND_LONG_DATA, self.statement, self.parameter) + self.data


@dataclass(frozen=True, slots=True)
class FieldList:
    table: bytes
    wildcard: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body, 1)
        return cls(r.cstring(), r.rest())

    def encode(self) -> bytes:
        return bytes((Command.FIELD_LIST,)) + self.table + b"\0" + self.wildcard


def number(body: bytes, size: int) -> int:
    """The one number of COM_SET_OPTION (2 bytes) or COM_PROCESS_KILL (4 bytes)."""
    r = Reader(body, 1)
    n = int.from_bytes(r.take(size), "little")
    r.end()
    return n
