"""SPDY/3.1 frames, both ways: the transport of `kubectl exec`, `attach`, `cp` and `port-forward` before WebSockets.

Source: SPDY Protocol, draft 3.1, sections 2.2 (framing) and 2.6 (control frames); 2.6.10 for the name/value block. Only
what the API server's clients and servers use is legal: an unknown type, a wrong version, a length that does not fit,
a name in upper case or twice end the stream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from protocols.kubernetes.errors import StreamError

VERSION = 3  # 3.1 says 3 on the wire
MAX_CONTROL = 64 * 1024  # bytes of a control frame
MAX_HEADERS = 64 * 1024  # bytes of a name/value block, decompressed
MAX_PAIRS = 100
MAX_DATA = 1024 * 1024  # bytes of a data frame; clients send at most 32 KiB at once

FLAG_FIN = 0x01
FLAG_UNIDIRECTIONAL = 0x02
FLAG_CLEAR_SETTINGS = 0x01

_HEAD = struct.Struct("!HHI")
_U32 = struct.Struct("!I")
_TWO = struct.Struct("!II")


def _dictionary() -> bytes:
    """Section 2.6.10.1: common names, each with its length, then common values. Adler-32 is 0xe3c6a7c2."""
    names = (
        "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
        "allow authorization cache-control connection content-base content-encoding content-language content-length "
        "content-location content-md5 content-range content-type date etag expect expires from host if-match "
        "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
        "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
        "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
        "keep-alive origin"
    )
    values = (
        "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
        "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
        "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
        "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
        "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
        "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
    )
    entries = (name.replace("_", " ").encode() for name in names.split())
    return b"".join(_U32.pack(len(entry)) + entry for entry in entries) + values.encode()


DICTIONARY = _dictionary()

type Pairs = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SynStream:
    kind: ClassVar[int] = 1
    stream: int
    headers: Pairs
    associated: int = 0
    priority: int = 0  # 0 is the highest, 7 the lowest
    fin: bool = False
    unidirectional: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    kind: ClassVar[int] = 2
    stream: int
    headers: Pairs
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    kind: ClassVar[int] = 3
    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    kind: ClassVar[int] = 4
    entries: tuple[tuple[int, int, int], ...]  # flags, id, value
    clear: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    kind: ClassVar[int] = 6
    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    kind: ClassVar[int] = 7
    last_stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Headers:
    kind: ClassVar[int] = 8
    stream: int
    headers: Pairs
    fin: bool = False


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    kind: ClassVar[int] = 9
    stream: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes
    fin: bool = False


type Frame = SynStream | SynReply | RstStream | Settings | Ping | GoAway | Headers | WindowUpdate | Data


class Decoder:
    """One direction's bytes -> frames, each with the bytes that it came in. Not usable after a `StreamError`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._broken = False

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[tuple[Frame, bytes]]:
        if self._broken:
            raise StreamError("the stream has ended")
        self._buffer += data
        out: list[tuple[Frame, bytes]] = []
        try:
            while (size := self._next()) is not None:
                raw = bytes(self._buffer[:size])
                del self._buffer[:size]
                out.append((self._frame(raw), raw))
        except StreamError:
            self._broken = True
            self._buffer.clear()
            raise
        return out

    def _next(self) -> int | None:
        """Length of the frame at the head of the buffer once it is whole; its size is judged by the header alone."""
        if len(self._buffer) < 8:
            return None
        control = self._buffer[0] & 0x80
        size = int.from_bytes(self._buffer[5:8])
        if size > (MAX_CONTROL if control else MAX_DATA):
            raise StreamError("a spdy frame is longer than is read")
        return 8 + size if len(self._buffer) >= 8 + size else None

    def _frame(self, raw: bytes) -> Frame:
        flags, body = raw[4], raw[8:]
        if not raw[0] & 0x80:
            if flags & ~FLAG_FIN:
                raise StreamError("a spdy data frame has unknown flags")
            return Data(_stream(raw), body, bool(flags & FLAG_FIN))
        version, kind, _ = _HEAD.unpack_from(raw)
        if version & 0x7FFF != VERSION:
            raise StreamError("a spdy frame of another version")
        legal = _LEGAL_FLAGS.get(kind)
        if legal is None:
            raise StreamError(f"a spdy control frame of unknown type {kind}")
        if flags & ~legal:
            raise StreamError("a spdy control frame has unknown flags")
        return self._control(kind, flags, body)

    def _control(self, kind: int, flags: int, body: bytes) -> Frame:
        fin = bool(flags & FLAG_FIN)
        match kind:
            case SynStream.kind:
                _at_least(body, 10)
                associated = int(_U32.unpack_from(body, 4)[0]) & 0x7FFFFFFF
                return SynStream(
                    _stream(body), self._pairs(body[10:]), associated, body[8] >> 5, fin,
                    bool(flags & FLAG_UNIDIRECTIONAL),
                )  # fmt: skip
            case SynReply.kind:
                _at_least(body, 4)
                return SynReply(_stream(body), self._pairs(body[4:]), fin)
            case Headers.kind:
                _at_least(body, 4)
                return Headers(_stream(body), self._pairs(body[4:]), fin)
            case Settings.kind:
                return _settings(flags, body)
            case Ping.kind:
                _exactly(body, 4)
                return Ping(_U32.unpack(body)[0])
        _exactly(body, 8)
        first, second = _TWO.unpack(body)
        if kind == GoAway.kind:
            return GoAway(first & 0x7FFFFFFF, second)
        if kind == WindowUpdate.kind:
            # stream 0 is the session's own window, new in 3.1
            return WindowUpdate(first & 0x7FFFFFFF, second & 0x7FFFFFFF)
        if not second:
            raise StreamError("a spdy reset without a status")
        return RstStream(_stream(body), second)

    def _pairs(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADERS + 1)
        except zlib.error:
            raise StreamError("a spdy header block cannot be decompressed") from None
        if len(plain) > MAX_HEADERS or self._inflate.unconsumed_tail:
            raise StreamError("a spdy header block is longer than is read")
        if self._inflate.eof:
            raise StreamError("a spdy header block ends the compression")
        return _read_pairs(plain)


class Encoder:
    """Frames -> one direction's bytes; header blocks depend on all that were sent before."""

    def __init__(self) -> None:
        self._deflate: Any = None  # 256 KiB, and only header blocks need it

    def encode(self, frame: Frame) -> bytes:
        match frame:
            case Data(stream, data, fin):
                if len(data) > 0xFFFFFF:
                    raise StreamError("more data than a spdy frame can hold")
                return _U32.pack(stream) + bytes([fin]) + len(data).to_bytes(3) + data
            case SynStream():
                flags = (FLAG_FIN if frame.fin else 0) | (FLAG_UNIDIRECTIONAL if frame.unidirectional else 0)
                head = _TWO.pack(frame.stream, frame.associated) + bytes([frame.priority << 5, 0])
                return _control_frame(frame.kind, flags, head + self._block(frame.headers))
            case SynReply() | Headers():
                return _control_frame(frame.kind, int(frame.fin), _U32.pack(frame.stream) + self._block(frame.headers))
            case RstStream(stream, status):
                return _control_frame(frame.kind, 0, _TWO.pack(stream, status))
            case GoAway(last, status):
                return _control_frame(frame.kind, 0, _TWO.pack(last, status))
            case WindowUpdate(stream, delta):
                return _control_frame(frame.kind, 0, _TWO.pack(stream, delta))
            case Ping(number):
                return _control_frame(frame.kind, 0, _U32.pack(number))
            case Settings(entries, clear):
                body = b"".join(_TWO.pack(flags << 24 | name, value) for flags, name, value in entries)
                return _control_frame(frame.kind, int(clear), _U32.pack(len(entries)) + body)

    def _block(self, headers: Pairs) -> bytes:
        plain = _U32.pack(len(headers)) + b"".join(
            _U32.pack(len(part)) + part for pair in headers.items() for part in (pair[0].encode(), pair[1].encode())
        )
        if self._deflate is None:
            self._deflate = zlib.compressobj(zdict=DICTIONARY)
        block: bytes = self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return block


_LEGAL_FLAGS = {
    SynStream.kind: FLAG_FIN | FLAG_UNIDIRECTIONAL,
    SynReply.kind: FLAG_FIN,
    RstStream.kind: 0,
    Settings.kind: FLAG_CLEAR_SETTINGS,
    Ping.kind: 0,
    GoAway.kind: 0,
    Headers.kind: FLAG_FIN,
    WindowUpdate.kind: 0,
}


def _control_frame(kind: int, flags: int, body: bytes) -> bytes:
    if len(body) > 0xFFFFFF:
        raise StreamError("more than a spdy control frame can hold")
    return _HEAD.pack(0x8000 | VERSION, kind, flags << 24 | len(body)) + body


def _stream(body: bytes) -> int:
    number: int = _U32.unpack_from(body)[0] & 0x7FFFFFFF
    if not number:
        raise StreamError("a spdy frame for stream 0")
    return number


def _at_least(body: bytes, size: int) -> None:
    if len(body) < size:
        raise StreamError("a spdy control frame is too short")


def _exactly(body: bytes, size: int) -> None:
    if len(body) != size:
        raise StreamError("a spdy control frame has the wrong length")


def _settings(flags: int, body: bytes) -> Settings:
    _at_least(body, 4)
    (count,) = _U32.unpack_from(body)
    _exactly(body, 4 + 8 * count)
    words = [_TWO.unpack_from(body, 4 + 8 * n) for n in range(count)]
    return Settings(tuple((w >> 24, w & 0xFFFFFF, value) for w, value in words), bool(flags & FLAG_CLEAR_SETTINGS))


def _read_pairs(plain: bytes) -> dict[str, str]:
    _at_least(plain, 4)
    (count,) = _U32.unpack_from(plain)
    if count > MAX_PAIRS:
        raise StreamError("a spdy header block has too many names")
    at, found = 4, dict[str, str]()
    for _ in range(count):
        name, at = _text(plain, at)
        value, at = _text(plain, at)
        if not name or name != name.lower():
            raise StreamError("a spdy header's name is empty or not in lower case")
        if name in found:
            raise StreamError("a spdy header is given twice")
        found[name] = value
    if at != len(plain):
        raise StreamError("bytes follow the last pair of a spdy header block")
    return found


def _text(plain: bytes, at: int) -> tuple[str, int]:
    if at + 4 > len(plain):
        raise StreamError("a spdy header block ends too early")
    (size,) = _U32.unpack_from(plain, at)
    at += 4
    if size > len(plain) - at:
        raise StreamError("a spdy header runs past the end of its block")
    try:
        return plain[at : at + size].decode(), at + size
    except UnicodeDecodeError:
        raise StreamError("a spdy header is not utf-8") from None
