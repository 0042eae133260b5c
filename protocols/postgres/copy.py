"""Masks the rows of COPY ... TO STDOUT: text, csv and binary, over any chunking of the CopyData messages.

PostgreSQL sends one row per CopyData message; a pooler may not. Each call of `feed` gives back what is complete of the
rows in it as one message body, so a stream that comes a row at a time leaves a row at a time.
Formats: documentation of COPY, "File Formats".

INVARIANT: a row leaves only when it was read to its end and has the announced number of columns; anything else is a
`MaskError`. No buffer grows past one row of `max_row` bytes.
"""

from __future__ import annotations

import re
import struct

from protocols.contract import MaskPlan
from protocols.postgres.copy_options import CopyOptions
from protocols.postgres.scalars import CODECS, EMBEDS_ASCII, encoding_name
from protocols.postgres.values import MaskError, TypeCatalog, ValueRewriter, column_type, value_rewriter

MAX_ROW = 16 * 1024 * 1024  # bytes


__all__ = ["MAX_ROW", "CopyMasker", "CopyOptions", "MaskError"]


class CopyMasker:
    """Masks one COPY's data: `feed` each CopyData body, `end` at CopyDone."""

    def __init__(
        self,
        plan: MaskPlan,
        options: CopyOptions | None,
        catalog: TypeCatalog | None,
        encoding: str,
        max_row: int = MAX_ROW,
    ) -> None:
        """`encoding` is the session's client_encoding. Raises MaskError where these rows cannot be read safely."""
        if options is None:
            raise MaskError("the options of this copy are not known: its rows cannot be masked")
        name = encoding_name(options.encoding or encoding)
        if options.format != "binary" and (name in EMBEDS_ASCII or name not in CODECS):
            raise MaskError(f"rows in encoding `{name}` cannot be masked: set client_encoding to UTF8")
        width = len(plan.columns)
        if options.types and len(options.types) != width:
            raise MaskError("the types of a copy do not fit its columns")
        codec = CODECS.get(name)
        binary = options.format == "binary"
        types = options.types or ((0, -1),) * width
        masks: list[ValueRewriter | None] = [
            None
            if mask is None
            else value_rewriter(mask, column_type(*kind, catalog, codec), binary=binary, codec=codec)
            for mask, kind in zip(plan.columns, types, strict=True)
        ]
        self._rows: _Text | _Csv | _Binary
        if options.format == "binary":
            self._rows = _Binary(masks, max_row)
        elif options.format == "csv":
            self._rows = _Csv(masks, options, max_row)
        else:
            self._rows = _Text(masks, options, max_row)

    def feed(self, data: bytes) -> list[bytes]:
        """The rows that these bytes complete, masked, as at most one message body. Raises MaskError."""
        out = self._rows.feed(data)
        return [out] if out else []

    def end(self) -> list[bytes]:
        """No more data. Raises MaskError when the last row was not complete; there is never anything left to send."""
        self._rows.end()
        return []


def _mask(rewriter: ValueRewriter, raw: bytes) -> bytes | None:
    return rewriter.value if rewriter.constant else rewriter.rewrite(raw)


# ---------------------------------------------------------------- text

_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPES = {v: b"\\" + k for k, v in _LETTERS.items()} | {b"\\": b"\\\\"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class _Text:
    """Rows end at a newline: one inside a value is written as an escape."""

    def __init__(self, masks: list[ValueRewriter | None], options: CopyOptions, max_row: int) -> None:
        self._masks = masks
        self._null = options.null
        self._delimiter = options.delimiter
        self._header = options.header
        self._max_row = max_row
        self._parts: list[bytes] = []  # of the row that has not ended yet
        self._size = 0
        delimiter = re.escape(options.delimiter)
        self._field = re.compile(rb"((?:[^\\" + delimiter + rb"]++|\\.)*+)(" + delimiter + rb"|\Z)", re.DOTALL)
        self._escapes = _ESCAPES | {options.delimiter: b"\\" + options.delimiter}
        special = b"".join(re.escape(c) for c in self._escapes)
        self._special = re.compile(b"[" + special + b"]")

    def feed(self, data: bytes) -> bytes:
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._keep(data)
            return b""
        lines = (b"".join(self._parts) + data[: end - 1]).split(b"\n")
        self._parts.clear()
        self._size = 0
        self._keep(data[end:])
        out = [self._row(line) for line in lines]
        out.append(b"")
        return b"\n".join(out)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_row:
            raise MaskError("a row is larger than the limit for masked rows")
        if data:
            self._parts.append(data)

    def end(self) -> None:
        if self._parts:
            raise MaskError("the copy ended inside a row")

    def _row(self, line: bytes) -> bytes:
        if len(line) > self._max_row:
            raise MaskError("a row is larger than the limit for masked rows")
        fields = self._split(line)
        if len(fields) != len(self._masks):
            raise MaskError("a row has another number of columns than its copy")
        if self._header:
            self._header = False  # column names, not values
            return line
        for i, rewriter in enumerate(self._masks):
            if rewriter is None or fields[i] == self._null:
                continue
            raw = fields[i]
            if b"\\" in raw:
                raw = _ESCAPED.sub(_unescape, raw)
            masked = _mask(rewriter, raw)
            fields[i] = self._null if masked is None else self._special.sub(self._escape, masked)
        return self._delimiter.join(fields)

    def _split(self, line: bytes) -> list[bytes]:
        if b"\\" + self._delimiter not in line:
            return line.split(self._delimiter)
        fields: list[bytes] = []
        pos = 0
        while True:
            found = self._field.match(line, pos)
            if found is None:
                raise MaskError("a row ends inside an escape")
            fields.append(found[1])
            pos = found.end()
            if not found[2]:
                return fields

    def _escape(self, found: re.Match[bytes]) -> bytes:
        return self._escapes[found[0]]


def _unescape(found: re.Match[bytes]) -> bytes:
    return _LETTERS.get(found[1], found[1])


# ---------------------------------------------------------------- csv


class _Csv:
    """Rows end at a newline outside quotes. PostgreSQL quotes a field whole or not at all."""

    def __init__(self, masks: list[ValueRewriter | None], options: CopyOptions, max_row: int) -> None:
        self._masks = masks
        self._null = options.null
        self._delimiter = options.delimiter
        self._quote = options.quote
        self._escape = options.escape
        self._header = options.header
        self._max_row = max_row
        self._buffer = bytearray()
        self._scanned = 0  # up to here the buffer was searched for the end of the row
        self._quoted = False  # whether that place is inside quotes
        d, q, e = (re.escape(x) for x in (options.delimiter, options.quote, options.escape))
        inside = (
            rb"(?:[^" + q + rb"]++|" + q + q + rb")*+"
            if q == e
            else rb"(?:[^" + q + e + rb"]++|" + e + b"[" + q + e + rb"]?)*+"
        )
        self._field = re.compile(
            q + b"(" + inside + b")" + q + b"(" + d + rb"|\Z)|([^" + d + q + rb"\r\n]*+)(" + d + rb"|\Z)", re.DOTALL
        )
        self._stop = re.compile(b"[" + q + b"\n]")
        self._stop_quoted = re.compile(b"[" + q + e + b"]")
        self._unescape = re.compile(e + b"([" + q + e + b"])")
        self._escapable = re.compile(b"[" + q + e + b"]")
        self._needs_quotes = re.compile(b"[" + d + q + b"\r\n]")

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out: list[bytes] = []
        start = 0
        while (end := self._row_end()) is not None:
            if end - start > self._max_row:
                raise MaskError("a row is larger than the limit for masked rows")
            out.append(self._row(bytes(self._buffer[start:end])))
            start = end + 1
        if start:
            del self._buffer[:start]
            self._scanned -= start
        if len(self._buffer) > self._max_row:
            raise MaskError("a row is larger than the limit for masked rows")
        out.append(b"")
        return b"\n".join(out)

    def end(self) -> None:
        if self._buffer:
            raise MaskError("the copy ended inside a row")

    def _row_end(self) -> int | None:
        """Where the next newline outside quotes is, None while it has not come."""
        buffer, quote = self._buffer, self._quote[0]
        while True:
            found = (self._stop_quoted if self._quoted else self._stop).search(buffer, self._scanned)
            if found is None:
                self._scanned = len(buffer)
                return None
            at = found.start()
            byte = buffer[at]
            if not self._quoted:
                self._scanned = at + 1
                if byte != quote:
                    return at
                self._quoted = True
            elif self._quote == self._escape or byte == quote:
                # a doubled quote closes and opens again: nothing between the two can be a newline
                self._scanned = at + 1
                self._quoted = False
            elif at + 1 == len(buffer):
                self._scanned = at  # what is escaped has not come yet
                return None
            else:
                self._scanned = at + (2 if buffer[at + 1] in (quote, self._escape[0]) else 1)

    def _row(self, line: bytes) -> bytes:
        fields = self._split(line)
        if len(fields) != len(self._masks):
            raise MaskError("a row has another number of columns than its copy")
        if self._header:
            self._header = False  # column names, not values
            return line
        out: list[bytes] = []
        for (whole, quoted, raw), rewriter in zip(fields, self._masks, strict=True):
            if rewriter is None or (not quoted and raw == self._null):
                out.append(whole)
                continue
            masked = _mask(rewriter, self._unescape.sub(rb"\1", raw) if quoted else raw)
            out.append(self._null if masked is None else self._write(masked, quoted))
        return self._delimiter.join(out)

    def _split(self, line: bytes) -> list[tuple[bytes, bool, bytes]]:
        """-> (as written, was quoted, without its quotes) for each field."""
        fields: list[tuple[bytes, bool, bytes]] = []
        pos = 0
        while True:
            found = self._field.match(line, pos)
            if found is None:
                raise MaskError("a row is not in the csv form that PostgreSQL writes")
            quoted = found[1] is not None
            delimiter = found[2] if quoted else found[4]
            whole = line[pos : found.end() - len(delimiter)]
            fields.append((whole, quoted, found[1] if quoted else found[3]))
            pos = found.end()
            if not delimiter:
                return fields

    def _write(self, value: bytes, quoted: bool) -> bytes:
        if not (quoted or value in (self._null, b"\\.") or self._needs_quotes.search(value)):
            return value
        escaped = self._escapable.sub(lambda found: self._escape + found[0], value)
        return self._quote + escaped + self._quote


# ---------------------------------------------------------------- binary

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = struct.Struct("!II")  # flags, length of the header extension
_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")
_MAX_EXTENSION = 4096
_TRAILER = -1


class _Binary:
    """Signature, header, tuples, trailer."""

    def __init__(self, masks: list[ValueRewriter | None], max_row: int) -> None:
        self._masks = masks
        self._max_row = max_row
        self._buffer = bytearray()
        self._need = 1  # bytes in the buffer before it is worth looking again
        self._started = False
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        if self._ended and data:
            raise MaskError("bytes follow the end of a copy")
        self._buffer += data
        if len(self._buffer) < self._need:
            self._check()
            return b""
        out: list[bytes] = []
        pos = 0
        while (end := self._next(pos, out)) is not None:
            pos = end
        if self._ended and pos != len(self._buffer):
            raise MaskError("bytes follow the end of a copy")
        del self._buffer[:pos]
        self._need -= pos
        self._check()
        return b"".join(out)

    def end(self) -> None:
        if self._buffer or not self._ended:
            raise MaskError("the copy ended without its trailer")

    def _check(self) -> None:
        if max(len(self._buffer), self._need) > self._max_row:
            raise MaskError("a row is larger than the limit for masked rows")

    def _has(self, end: int) -> bool:
        """Whether the buffer reaches to `end`; when not, that is what it must reach before the next look."""
        self._need = end
        return len(self._buffer) >= end

    def _next(self, pos: int, out: list[bytes]) -> int | None:
        """Appends the header, a tuple or the trailer at `pos` and returns its end; None while it is not complete."""
        if self._ended:
            return None
        buffer = self._buffer
        if not self._started:
            return self._start(out)
        if not self._has(pos + 2):
            return None
        (count,) = _COUNT.unpack_from(buffer, pos)
        if count == _TRAILER:
            self._ended = True
            out.append(bytes(buffer[pos : pos + 2]))
            return pos + 2
        if count != len(self._masks):
            raise MaskError("a row has another number of columns than its copy")
        spans: list[tuple[int, int]] = []
        at = pos + 2
        for _ in range(count):
            if not self._has(at + 4):
                return None
            size = int(_LENGTH.unpack_from(buffer, at)[0])
            at += 4
            if size < -1:
                raise MaskError("a value has an impossible length")
            spans.append((at, at + size))
            at += max(size, 0)
            if at - pos > self._max_row:
                raise MaskError("a row is larger than the limit for masked rows")
        if not self._has(at):
            return None
        out.append(_COUNT.pack(count))
        for (start, end), rewriter in zip(spans, self._masks, strict=True):
            if rewriter is None or end < start:
                out.append(bytes(buffer[start - 4 : max(start, end)]))
                continue
            masked = _mask(rewriter, bytes(buffer[start:end]))
            out.append(_LENGTH.pack(-1) if masked is None else _LENGTH.pack(len(masked)) + masked)
        return at

    def _start(self, out: list[bytes]) -> int | None:
        head = len(_SIGNATURE) + _HEADER.size
        if not self._has(head):
            return None
        if not self._buffer.startswith(_SIGNATURE):
            raise MaskError("a binary copy does not begin with its signature")
        flags, extension = (int(n) for n in _HEADER.unpack_from(self._buffer, len(_SIGNATURE)))
        if flags or extension > _MAX_EXTENSION:
            raise MaskError("a binary copy has a header that is not known")
        if not self._has(head + extension):
            return None
        self._started = True
        out.append(bytes(self._buffer[: head + extension]))
        return head + extension
