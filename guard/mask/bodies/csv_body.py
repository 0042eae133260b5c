"""CSV (RFC 4180, and tabs) as it passes: columns masked by the name in the first row, contents by detector.

A quote that stands where the grammar has none, a lone carriage return, a row longer than the header: readers differ
in what they make of these, so with rules on columns they are errors.
"""

from __future__ import annotations

import bisect
import re

from guard.mask.bodies.paths import Paths
from guard.mask.bodies.rules import DEFAULT, BodyError, Contents, Limits, masked_spans, masked_text
from guard.mask.bodies.values import spans_in, telling
from protocols.contract import ColumnMask

_DELIMITERS = (b",", b";", b"\t", b"|")


class CsvMasker:
    """One table. `delimiter`: None, taken from the first row."""

    def __init__(
        self,
        paths: Paths,
        contents: Contents | None = None,
        limits: Limits = DEFAULT,
        *,
        delimiter: bytes | None = None,
    ) -> None:
        self._paths = paths
        self._contents = contents
        self._limits = limits
        self._delimiter = delimiter
        self._header: list[bytes] | None = None
        self._masks: list[tuple[int, ColumnMask]] = []
        self._telling: list[int] = []  # columns whose name a detector needs
        self._cell = re.compile(b"")
        self._rest = b""
        self._wait = 0

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        if len(self._rest) < self._wait:
            return b""
        return self._rows(final=False)

    def end(self) -> bytes:
        out = self._rows(final=True)
        if self._rest:
            raise BodyError("the CSV body ends within a quoted cell")
        return out

    def _rows(self, *, final: bool) -> bytes:
        data, out, at = self._rest, [], 0
        hits = self._contents.scanner.hits(data) if self._contents else []
        while at < len(data):
            stop = self._row_end(data, at, final)
            if stop is None:
                break
            end, after = stop
            row = data[at:end]
            if self._header is None:
                out.append(self._first(row))
            elif self._masks or self._telling or b'"' in row or bisect.bisect(hits, at) != bisect.bisect(hits, end):
                near = hits[bisect.bisect(hits, at) : bisect.bisect(hits, end)]
                out.append(self._row(row, [hit - at for hit in near]))
            elif b"\r" in row:
                raise BodyError("the CSV body has a carriage return within a row")
            else:
                out.append(row)
            out.append(data[end:after])
            at = after
        self._rest = data[at:]
        if len(self._rest) > self._limits.value:
            raise BodyError(f"a row of the CSV body has more than {self._limits.value} bytes")
        self._wait = 2 * len(self._rest) if len(self._rest) > 4096 else 0
        return b"".join(out)

    def _row_end(self, data: bytes, at: int, final: bool) -> tuple[int, int] | None:
        """Where a row ends, and where the next begins. A line's end within quotes is none."""
        search = at
        while True:
            newline = data.find(b"\n", search)
            if newline < 0:
                if not final or data.count(b'"', at) % 2:
                    return None
                return len(data), len(data)
            # quotes come in pairs: an odd number of them means that one is open
            if data.count(b'"', at, newline) % 2 == 0:
                return (newline - 1 if data[newline - 1 : newline] == b"\r" and newline > at else newline), newline + 1
            search = newline + 1
            if search - at > self._limits.value:
                raise BodyError(f"a row of the CSV body has more than {self._limits.value} bytes")

    def _first(self, row: bytes) -> bytes:
        text = row.removeprefix(b"\xef\xbb\xbf")
        if self._delimiter is None:
            plain = re.sub(rb'"[^"]*"', b"", text)
            self._delimiter = max(_DELIMITERS, key=plain.count)
        mark = re.escape(self._delimiter)
        self._cell = re.compile(rb'("(?:[^"]|"")*+"|[^"\r\n' + mark + rb"]*)(" + mark + rb"|\Z)")
        self._header = [value for _, value in self._cells(text)]
        if len(self._header) > self._limits.columns:
            raise BodyError(f"the CSV body has more than {self._limits.columns} columns")
        for index, name in enumerate(self._header):
            mask = self._paths.named(name.strip().decode("utf-8", "replace"))
            if mask is not None:
                self._masks.append((index, mask))
            elif self._contents is not None and telling(name):
                self._telling.append(index)
        # a table without a header has values there
        return row[: len(row) - len(text)] + self._searched_row(text, names=[], hits=None)

    def _cells(self, row: bytes) -> list[tuple[bytes, bytes]]:
        """Each cell as it is written, and what it means. Raises BodyError."""
        cells: list[tuple[bytes, bytes]] = []
        at = 0
        while True:
            match = self._cell.match(row, at)
            if match is None:
                raise BodyError("the CSV body has a quote or carriage return where none may be")
            raw = match[1]
            cells.append((raw, raw[1:-1].replace(b'""', b'"') if raw[:1] == b'"' else raw))
            if not match[2]:
                return cells
            at = match.end()

    def _row(self, row: bytes, hits: list[int]) -> bytes:
        header = self._header or []
        if self._masks and not self._telling and self._contents is None and b'"' not in row and b"\r" not in row:
            assert self._delimiter is not None
            plain = row.split(self._delimiter)
            if len(plain) > len(header):
                raise BodyError("a row of the CSV body is longer than its header")
            for index, mask in self._masks:
                if index < len(plain) and plain[index]:
                    plain[index] = self._quoted(masked_text(mask, plain[index]), b"")
            return self._delimiter.join(plain)
        return self._searched_row(row, names=header, hits=hits)

    def _searched_row(self, row: bytes, names: list[bytes], hits: list[int] | None) -> bytes:
        """`hits`: where in the row a detector may find something; None: anywhere."""
        cells = self._cells(row)
        if names and self._masks and len(cells) > len(names):
            raise BodyError("a row of the CSV body is longer than its header")
        masks = dict(self._masks) if names else {}
        out: list[bytes] = []
        end = -1
        for index, (raw, value) in enumerate(cells):
            start, end = end + 1, end + 1 + len(raw)
            mask = masks.get(index)
            new = raw
            if mask is not None and value:
                new = self._quoted(masked_text(mask, value), raw)
            elif self._contents is not None and value and self._worth(index, raw, start, end, hits):
                spans = spans_in(self._contents, names[index] if index < len(names) else b"", value)
                if spans:
                    new = self._quoted(masked_spans(value, spans), raw)
            out.append(new)
        assert self._delimiter is not None
        return self._delimiter.join(out)

    def _worth(self, index: int, raw: bytes, start: int, end: int, hits: list[int] | None) -> bool:
        """Whether a detector could find something in this cell."""
        if hits is None or index in self._telling or b'""' in raw:
            return True
        return any(start < hit <= end for hit in hits)

    def _quoted(self, value: bytes, like: bytes) -> bytes:
        """A cell; in quotes where it was or must be."""
        assert self._delimiter is not None
        if like[:1] != b'"' and not any(mark in value for mark in (self._delimiter, b'"', b"\n", b"\r")):
            return value
        return b'"' + value.replace(b'"', b'""') + b'"'
