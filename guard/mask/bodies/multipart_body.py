"""Multipart bodies (RFC 2046, RFC 7578) as they pass: each part masked by its own type, a form's fields by name."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from email.message import Message
from email.parser import HeaderParser

from guard.mask.bodies.body import BodyMasker
from guard.mask.bodies.rules import DEFAULT, WITHHELD, BodyError, Limits
from protocols.contract import ColumnMask

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]\Z")


class _Where(enum.Enum):
    PREAMBLE = "the preamble"
    HEADERS = "a part's headers"
    BODY = "a part"
    EPILOGUE = "the end"


class WholeField:
    """A form's field with a mask: held whole."""

    def __init__(self, mask: ColumnMask, limits: Limits) -> None:
        self._mask = mask
        self._limits = limits
        self._value = b""

    def feed(self, data: bytes) -> bytes:
        self._value += data
        if len(self._value) > self._limits.value:
            raise BodyError(f"a field of the form has more than {self._limits.value} bytes")
        return b""

    def end(self) -> bytes:
        masked = self._mask.apply(self._value.decode("utf-8", "surrogateescape"))
        text = WITHHELD if masked is None else masked.encode("utf-8", "replace")
        return text.replace(b"\r\n--", b"\r\n ")  # no boundary comes from a value


class MultipartMasker:
    """One multipart body. `part` makes the masker of a part from its type and its field's name."""

    def __init__(self, boundary: str, part: Callable[[str, str | None], BodyMasker], limits: Limits = DEFAULT) -> None:
        """Raises BodyError for a boundary that the RFC does not allow."""
        if not _BOUNDARY.match(boundary):
            raise BodyError("the multipart body has no usable boundary")
        self._mark = b"\r\n--" + boundary.encode("ascii")
        self._part = part
        self._limits = limits
        self._buffer = b"\r\n"  # so that the first boundary looks like every other
        self._added = 2  # bytes at its front that are not the body's
        self._where = _Where.PREAMBLE
        self._masker: BodyMasker | None = None
        self._parts = 0

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out: list[bytes] = []
        while self._step(out):
            pass
        return b"".join(out)

    def end(self) -> bytes:
        if self._where is not _Where.EPILOGUE:
            if self._where is _Where.PREAMBLE and len(self._buffer) == self._added:
                return b""  # an empty body
            raise BodyError(f"the multipart body ends within {self._where.value}")
        if self._buffer.strip(b"\r\n \t"):
            raise BodyError("something follows the last part of the multipart body")
        rest, self._buffer = self._buffer, b""
        return rest

    def _step(self, out: list[bytes]) -> bool:
        """One piece of progress; False: more bytes are needed."""
        if self._where is _Where.EPILOGUE:
            if len(self._buffer) > 4:
                raise BodyError("something follows the last part of the multipart body")
            return False
        if self._where is _Where.HEADERS:
            return self._headers(out)
        at = self._buffer.find(self._mark)
        if at < 0:
            self._give(self._take(len(self._buffer) - len(self._mark) + 1), out)
            return False
        behind = at + len(self._mark)
        line = self._buffer.find(b"\r\n", behind)
        last = self._buffer.startswith(b"--", behind)
        if not last and line < 0:
            if len(self._buffer) - behind > 64:
                raise BodyError("a boundary of the multipart body goes on after its end")
            return False
        if not last and self._buffer[behind:line].strip(b" \t"):
            raise BodyError("a boundary of the multipart body goes on after its end")
        stop = behind + 2 if last else line + 2
        self._give(self._take(at), out)
        if self._masker is not None:
            out.append(self._masker.end())
            self._masker = None
        out.append(self._take(stop - at))
        self._where = _Where.EPILOGUE if last else _Where.HEADERS
        return True

    def _take(self, count: int) -> bytes:
        """So many bytes off the buffer, without those that are not the body's own."""
        if count <= 0:
            return b""
        taken = self._buffer[self._added : count]
        self._buffer, self._added = self._buffer[count:], max(0, self._added - count)
        return taken

    def _give(self, data: bytes, out: list[bytes]) -> None:
        if self._masker is not None:
            if data:
                out.append(self._masker.feed(data))
        elif data:
            raise BodyError("the multipart body has text before its first part")

    def _headers(self, out: list[bytes]) -> bool:
        self._buffer_is_bounded()
        empty = self._buffer.startswith(b"\r\n")
        end = 0 if empty else self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        stop = 2 if empty else end + 4
        head = self._buffer[:stop]
        self._parts += 1
        if self._parts > self._limits.parts:
            raise BodyError(f"the multipart body has more than {self._limits.parts} parts")
        self._masker = self._of(head)
        out.append(head)
        # the line break of the blank line is also that of a boundary right behind it
        self._buffer = b"\r\n" + self._buffer[stop:]
        self._added = 2
        self._where = _Where.BODY
        return True

    def _buffer_is_bounded(self) -> None:
        if len(self._buffer) > self._limits.headers and b"\r\n\r\n" not in self._buffer[: self._limits.headers]:
            raise BodyError(f"the headers of a part have more than {self._limits.headers} bytes")

    def _of(self, head: bytes) -> BodyMasker:
        message: Message = HeaderParser().parsestr(head.decode("utf-8", "surrogateescape"))
        for name in ("content-type", "content-disposition", "content-transfer-encoding", "content-encoding"):
            if len(message.get_all(name, [])) > 1:
                raise BodyError(f"a part of the multipart body has two headers `{name}`")
        coding = str(message.get("content-transfer-encoding", "binary")).strip().lower()
        if coding not in ("binary", "7bit", "8bit") or message.get("content-encoding"):
            raise BodyError("a part of the multipart body is encoded")
        names = [
            (key.lower(), value)
            for key, value in message.get_params([], header="content-disposition")
            if key.lower().startswith("name")
        ]
        # readers differ in which of several they take, and in whether they know RFC 2231
        if len(names) > 1 or any(key != "name" or isinstance(value, tuple) for key, value in names):
            raise BodyError("a part of the multipart body has a name that readers take differently")
        field = names[0][1] if names else None
        return self._part(str(message.get("content-type", "text/plain")), field)
