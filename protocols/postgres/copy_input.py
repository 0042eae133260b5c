"""What the client sends for COPY ... FROM STDIN, cut into rows and fields as the server cuts it: for the record only.

Sources: documentation of COPY, "File Formats"; the server's copyfromparse.c. What only some versions read, or what they
read in different ways, is not cut: `Uncut`.

INVARIANT: no I/O in this module; nothing here changes what the server gets.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from protocols import intake
from protocols.contract import Analysis, ResultShape, SessionPort
from protocols.intake import BLANK, Intake, Row, Uncut
from protocols.postgres import results
from protocols.postgres.catalog import Catalog
from protocols.postgres.copy_columns import Tree, table_columns
from protocols.postgres.copy_options import CopyOptions
from protocols.postgres.scalars import CODECS, EMBEDS_ASCII, encoding_name
from protocols.postgres.values import MaskError

__all__ = ["Binary", "Csv", "Text", "intake_of"]

_END = b"\\."  # alone on a line: nothing behind it is read
_WIDTH = "a row has another number of fields than its table has columns"
_LINES = "its lines do not all end in the same way"
_BEHIND = "more follows its end-of-data marker"


def intake_of(
    tree: Tree | None, width: int, analysis: Analysis, catalog: Catalog | None, encoding: str, port: SessionPort
) -> Intake:
    """How the input of this COPY may be kept. `width`: the server's word; `encoding`: client_encoding."""
    masker = port.masker
    reads, read_columns = results.reach(analysis, catalog)
    clear = masker is None or not masker.touches(reads, read_columns)
    names = [f"column{i + 1}" for i in range(width)]
    if tree is None or "relation" not in tree:
        return Intake(intake.columns(names, None, port), None, "the statement behind it is not known", clear)
    named = [str(item["String"]["sval"]) for item in tree.get("attlist", ())]
    certain = catalog is not None and not analysis.unknown
    found = table_columns(analysis.writes, named, catalog) if certain and catalog is not None else []
    plan = None
    why = ""
    if len(found) == width:
        names = [column.name for column, _ in found]
        if masker is not None and not clear:
            plan = masker.plan(ResultShape(tuple(column for column, _ in found), reads, read_columns))
            clear = plan is None
    else:
        names = named if len(named) == width else names
        why = "" if clear else "the columns of its table are not known"
    form = None
    try:
        form = _format(CopyOptions.from_tree(tree), width, encoding) if not why else None
    except (MaskError, Uncut) as e:
        why = str(e)
    return Intake(intake.columns(names, plan, port), form, why, clear)


def _format(options: CopyOptions, width: int, encoding: str) -> intake.Format:
    if options.format == "binary":
        return Binary(width)
    name = encoding_name(options.encoding or encoding)
    if name in EMBEDS_ASCII or name not in CODECS:
        raise Uncut(f"text in encoding `{name}` cannot be cut: set client_encoding to UTF8")
    if options.delimiter.isalnum() or options.delimiter in b"\\\r\n.":
        raise Uncut("its delimiter may be part of an escape")
    return (Csv if options.format == "csv" else Text)(options, width)


class _Lines:
    """Of one input all lines end alike: LF, or CR LF. (A lone CR would do as well, for a server; not here.)"""

    ending: bytes | None = None

    def check(self, ending: bytes) -> None:
        """Raises Uncut where a line ends in another way than those before it."""
        if self.ending is None:
            self.ending = ending
        if ending and ending != self.ending:
            raise Uncut(_LINES)


def _whole(data: bytes, complete: bool) -> bytes:
    """Without the half of a CR LF."""
    return data if complete or data[-1:] != b"\r" else data[:-1]


# ---------------------------------------------------------------- text

_LINE = re.compile(rb"((?:[^\\\r\n]++|\\[^\r])*+)(\r\n|\n|\Z)", re.DOTALL)
_ESCAPED = re.compile(rb"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class Text:
    """A backslash takes what follows it into the field, a delimiter or the end of a line as well."""

    blank = BLANK

    def __init__(self, options: CopyOptions, width: int) -> None:
        self._null = options.null
        self._delimiter = options.delimiter
        self._header = options.header
        self._width = width
        self._field = re.compile(rb"(?:[^\\" + re.escape(options.delimiter) + rb"]++|\\.)*+", re.DOTALL)

    def rows(self, data: bytes, complete: bool) -> Iterator[Row]:
        """See `protocols.intake.Format`."""
        data = _whole(data, complete)
        lines = _Lines()
        at, heading = 0, self._header
        while at < len(data):
            found = _LINE.match(data, at)
            if found is None:
                if not complete and data.endswith(b"\\") and _LINE.match(data[:-1], at) is not None:
                    return  # the last row was cut short
                raise Uncut(_LINES)
            if not found[2] and not complete:
                return
            lines.check(found[2])
            if found[1] == _END:
                yield Row(at, found.end(), ())
                if found.end() < len(data):
                    raise Uncut(_BEHIND)
                return
            if _END in found[1].replace(b"\\\\", b""):
                raise Uncut("its end-of-data marker is not alone on its line")
            yield Row(at, found.end(), self._cut(data, at, found.end(1)), heading)
            at, heading = found.end(), False

    def _cut(self, data: bytes, start: int, end: int) -> tuple[tuple[int, int, bool], ...]:
        fields: list[tuple[int, int, bool]] = []
        at = start
        line = data[start:end]
        if b"\\" not in line or line.count(b"\\") == line.count(b"\\N"):
            for part in line.split(self._delimiter):
                fields.append((at, at + len(part), part == self._null))
                at += len(part) + 1
            if len(fields) != self._width:
                raise Uncut(_WIDTH)
            return tuple(fields)
        while True:
            found = self._field.match(data, at, end)
            stop = found.end() if found is not None else at
            fields.append((at, stop, data[at:stop] == self._null))
            if stop >= end:
                break
            at = stop + 1
        if len(fields) != self._width:
            raise Uncut(_WIDTH)
        return tuple(fields)

    def value(self, raw: bytes) -> bytes:
        """See `protocols.intake.Format`."""
        return _ESCAPED.sub(_unescaped, raw)


def _unescaped(found: re.Match[bytes]) -> bytes:
    word = found[1]
    if word[:1].isdigit() and word < b"8":
        return bytes((int(word, 8) & 0xFF,))
    if word[:1] == b"x" and len(word) > 1:
        return bytes((int(word[1:], 16),))
    return _LETTERS.get(word, word)


# ---------------------------------------------------------------- csv


class Csv:
    """A field is quoted as a whole or not at all: the server reads quotes anywhere in it, which nobody writes."""

    def __init__(self, options: CopyOptions, width: int) -> None:
        if options.quote in b"\r\n\\" or options.escape in (b"\r", b"\n", options.delimiter):
            raise Uncut("its quotes or escapes cannot be told from what else they are")
        self._null = b"\n" if options.forces else options.null  # as no field without quotes is: all of them are values
        self._header = options.header
        self._width = width
        d, q, e = (re.escape(x) for x in (options.delimiter, options.quote, options.escape))
        inside = (
            rb"(?:[^" + q + rb"]++|" + q + q + rb")*+"
            if q == e
            else rb"(?:[^" + q + e + rb"]++|" + e + b"[" + q + e + rb"]?)*+"
        )
        self._field = re.compile(
            rb"(?:" + q + b"(" + inside + b")" + q + rb"|([^" + d + q + rb"\r\n]*+))(" + d + rb"|\r\n|\n|\Z)", re.DOTALL
        )
        self._open = re.compile(q + inside + rb"\Z", re.DOTALL)
        self._quoted = re.compile(q + b"(" + inside + b")" + q, re.DOTALL)
        self._escape = re.compile(e + b"([" + q + e + b"])")
        self._delimiter = options.delimiter
        self.blank = BLANK if options.delimiter not in BLANK and options.quote not in BLANK else b""

    def rows(self, data: bytes, complete: bool) -> Iterator[Row]:
        """See `protocols.intake.Format`."""
        data = _whole(data, complete)
        lines = _Lines()
        at, heading = 0, self._header
        while at < len(data):
            fields: list[tuple[int, int, bool]] = []
            start = at
            while True:
                found = self._field.match(data, at)
                if found is None:
                    if not complete and self._open.match(data, at) is not None:
                        return  # the last row was cut short
                    raise Uncut("a row is not in the form in which csv is usually written")
                at = found.end()
                fields.append((found.start(), found.start(3), found[2] == self._null))
                if found[3] != self._delimiter:
                    break
                if len(fields) >= self._width:
                    raise Uncut(_WIDTH)
            if not found[3] and not complete:
                return
            lines.check(found[3])
            if data[start : found.start(3)] == _END:
                yield Row(start, at, ())
                if at < len(data):
                    raise Uncut(_BEHIND)
                return
            if len(fields) != self._width:
                raise Uncut(_WIDTH)
            yield Row(start, at, tuple(fields), heading)
            heading = False

    def value(self, raw: bytes) -> bytes:
        """See `protocols.intake.Format`."""
        found = self._quoted.fullmatch(raw)
        return raw if found is None else self._escape.sub(rb"\1", found[1])


# ---------------------------------------------------------------- binary

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEAD = struct.Struct("!II")  # flags, length of the header extension
_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")


class Binary:
    """Signature, header, tuples, trailer. A field goes with its length."""

    blank = _LENGTH.pack(len(BLANK)) + BLANK

    def __init__(self, width: int) -> None:
        self._width = width

    def rows(self, data: bytes, complete: bool) -> Iterator[Row]:
        """See `protocols.intake.Format`."""
        at = len(_SIGNATURE) + _HEAD.size
        if len(data) < at and not complete:
            return
        if not data.startswith(_SIGNATURE) or len(data) < at or _HEAD.unpack_from(data, len(_SIGNATURE)) != (0, 0):
            raise Uncut("it has a header that is not known")
        yield Row(0, at, ())
        try:
            while at < len(data):
                start = at
                (count,) = _COUNT.unpack_from(data, at)
                at += 2
                if count == -1:
                    yield Row(start, at, ())
                    if at < len(data):
                        raise Uncut(_BEHIND)
                    return
                if count != self._width:
                    raise Uncut(_WIDTH)
                fields: list[tuple[int, int, bool]] = []
                for _ in range(count):
                    (size,) = _LENGTH.unpack_from(data, at)
                    if size < -1:
                        raise Uncut("a field has an impossible length")
                    fields.append((at, at + 4 + max(size, 0), size < 0))
                    at = fields[-1][1]
                if at > len(data):
                    break
                yield Row(start, at, tuple(fields))
        except struct.error:
            at = len(data) + 1
        if at > len(data) and complete:
            raise Uncut("it ends inside a row")

    def value(self, raw: bytes) -> bytes:
        """See `protocols.intake.Format`."""
        return raw[4:]
