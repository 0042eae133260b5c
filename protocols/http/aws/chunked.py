"""Bodies in AWS' own chunks (`aws-chunked`), as its software sends them. Source: Amazon S3 API Reference, "Signature
calculations for the Authorization header: Transferring payload in multiple chunks" and "Including trailing headers".

    SIZE[;chunk-signature=SIGNATURE] CRLF data CRLF ... 0[;chunk-signature=...] CRLF [NAME:VALUE CRLF ...] CRLF

A chunk's signature is made with the client's keys, which open nothing here: it is read and dropped.
"""

from __future__ import annotations

import re
from enum import Enum, auto

# what `x-amz-content-sha256` says of a body in chunks -> whether fields follow it
FORMS = {
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": False,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": True,
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD": False,
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER": True,
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": True,
}
_MAX_LINE = 1024  # bytes before a chunk
_MAX_TRAILER = 8192  # bytes behind the last one
_SMALL = 1024  # bytes; S3 takes no chunk below 8192 but the last
_MAX_SMALL = 100  # smaller ones in a body: each costs as much as a large one
_HEAD = re.compile(rb"([0-9A-Fa-f]{1,12})(?:;chunk-signature=[0-9A-Fa-f*]{1,512})?\Z")
_CHECKSUM = re.compile(r"x-amz-checksum-[a-z0-9]{1,32}\Z")
_VALUE = re.compile(r"[A-Za-z0-9+/=]{1,200}\Z")
_SIGNATURE = "x-amz-trailer-signature"


class BadChunks(ValueError):
    """The body is not what its head has promised; the text is for the client."""


class _State(Enum):
    HEAD = auto()
    DATA = auto()
    BEHIND = auto()  # the end of line behind a chunk's data
    TRAILER = auto()


class Chunks:
    """Takes chunks apart as they come. `length`: bytes of all data together, as promised."""

    def __init__(self, length: int, *, trailer: bool) -> None:
        self._length = length
        self._trailer = trailer
        self._state = _State.HEAD
        self._rest = bytearray()
        self._left = 0  # bytes of the chunk that have not come
        self._got = 0
        self._small = 0

    def feed(self, data: bytes) -> bytes:
        """The data in it. Raises BadChunks."""
        self._rest += data
        out = bytearray()
        while self._step(out):
            pass
        return bytes(out)

    def _step(self, out: bytearray) -> bool:
        """One piece of grammar; False: more bytes are needed."""
        rest = self._rest
        if self._state is _State.DATA:
            piece = rest[: self._left]
            out += piece
            del rest[: len(piece)]
            self._left -= len(piece)
            self._got += len(piece)
            if self._left:
                return False
            self._state = _State.BEHIND
        elif self._state is _State.BEHIND:
            if len(rest) < 2:
                return False
            if rest[:2] != b"\r\n":
                raise BadChunks("a chunk of the body is longer than its head says")
            del rest[:2]
            self._state = _State.HEAD
        elif self._state is _State.HEAD:
            return self._head()
        else:
            if len(rest) > _MAX_TRAILER:
                raise BadChunks("too much behind the last chunk of the body")
            return False
        return True

    def _head(self) -> bool:
        end = self._rest.find(b"\r\n")
        if end < 0 and len(self._rest) <= _MAX_LINE:
            return False
        found = _HEAD.match(self._rest[: max(end, 0)])
        if found is None:
            raise BadChunks("the body is not in chunks of aws-chunked, which its head promises")
        del self._rest[: end + 2]
        self._left = int(found[1], 16)
        if self._got + self._left > self._length:
            raise BadChunks("the body is longer than x-amz-decoded-content-length says")
        if self._left < _SMALL:
            self._small += 1
            if self._small > _MAX_SMALL:
                raise BadChunks(f"more than {_MAX_SMALL} chunks of less than {_SMALL} bytes")
        self._state = _State.DATA if self._left else _State.TRAILER
        return True

    def end(self) -> list[tuple[str, str]]:
        """The body is over: the checksums that follow it. Raises BadChunks."""
        if self._state is not _State.TRAILER:
            raise BadChunks("the body ends in the middle of a chunk")
        if self._got != self._length:
            raise BadChunks("the body is shorter than x-amz-decoded-content-length says")
        found: list[tuple[str, str]] = []
        for line in self._rest.decode("latin-1").replace("\r\n", "\n").split("\n"):
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            if not line or (name == _SIGNATURE and self._trailer):
                continue
            if not self._trailer or not _CHECKSUM.match(name) or not _VALUE.match(value):
                raise BadChunks("something else than a checksum behind the last chunk of the body")
            if name in dict(found):
                raise BadChunks("a checksum behind the last chunk is given twice")
            found.append((name, value))
        return found
