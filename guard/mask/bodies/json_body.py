"""JSON as it passes: fields masked by path, contents by detector, every other byte as it came.

The grammar is RFC 8259's and nothing beside it: no comments, no trailing commas, no NaN, UTF-8 only. What a lenient
reader on the other side could read differently from us is an error, and so is a document that ends early.

A masked field that holds an array has its elements masked; one that holds an object becomes null: what it means is
not known here. With `sequence` any number of documents may follow each other (JSON lines, RFC 7464, watch streams).

Fast because runs of members that no rule concerns and in which hyperscan sees nothing are taken by one expression.
"""

from __future__ import annotations

import bisect
import codecs
import enum
import json
import re

from guard.mask.bodies.paths import ARRAY_RUN, MEMBER, NEXT_OBJECT, NUMBER, STRING, Node, Paths
from guard.mask.bodies.rules import DEFAULT, BodyError, Contents, Limits
from guard.mask.bodies.values import spans_in, telling
from protocols.contract import ColumnMask, ValueKind

_SPACE = re.compile(rb"[ \t\n\r]*")
_SEQUENCE_SPACE = re.compile(rb"[ \t\n\r\x1e]*")  # RFC 7464 puts a record separator before each document
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.)*+"', re.DOTALL)
_PLAIN = re.compile(STRING)
_NUMBER = re.compile(NUMBER)
_NUMBER_BYTES = re.compile(rb"[-+.0-9eE]*")
_BLANKS = b" \t\n\r"
_WORDS = (b"true", b"false", b"null")
_BOM = b"\xef\xbb\xbf"


class _Expect(enum.Enum):
    VALUE = "a value"
    VALUE_OR_END = "a value or ]"
    KEY = "a key"
    KEY_OR_END = "a key or }"
    COLON = ":"
    COMMA_OR_END = ", or the end of the container"
    NOTHING = "the end"


_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END = _Expect.VALUE, _Expect.VALUE_OR_END, _Expect.KEY, _Expect.KEY_OR_END
_COLON, _COMMA_OR_END, _NOTHING = _Expect.COLON, _Expect.COMMA_OR_END, _Expect.NOTHING


class _Level:
    """An open container."""

    __slots__ = ("key", "mask", "muted", "node", "object")

    def __init__(self, is_object: bool, node: Node, mask: ColumnMask | None, muted: bool, key: bytes) -> None:
        self.object = is_object
        self.node = node
        self.mask = mask  # of an array's elements
        self.key = key  # of an array's elements
        self.muted = muted  # this container was replaced by null: nothing of it is given out


class JsonMasker:
    """One JSON body, or with `sequence` one stream of JSON documents."""

    def __init__(
        self, paths: Paths, contents: Contents | None = None, limits: Limits = DEFAULT, *, sequence: bool = False
    ) -> None:
        self._paths = paths
        self._contents = contents
        self._limits = limits
        self._sequence = sequence
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._space = _SEQUENCE_SPACE if sequence else _SPACE
        self._blank = _BLANKS + b"\x1e" if sequence else _BLANKS
        self._buffer = b""
        self._wait = 0  # bytes without which looking again is a waste
        self._begun = False
        self._expect = _Expect.VALUE
        self._levels: list[_Level] = []
        self._muted = False
        self._node = paths.root  # of the value that comes next
        self._mask = paths.root.mask
        self._key = b""  # the last key, for a detector that needs one
        self._hits: list[int] = []
        self._out: list[bytes] = []
        self._copied = 0

    def feed(self, data: bytes) -> bytes:
        """Raises BodyError for what is no JSON, and above a limit."""
        try:
            self._utf8.decode(data)
        except UnicodeDecodeError as e:
            raise BodyError("the body says JSON and is not UTF-8") from e
        if not data:
            return b""
        self._buffer += data
        if not self._begun:
            if _BOM.startswith(self._buffer[:3]) and len(self._buffer) < 3:
                return b""
            self._begun = True
            if self._buffer.startswith(_BOM):
                self._buffer = self._buffer[3:]
                return _BOM + self._run(final=False)
        # a long string is looked at each time its beginning has doubled: linear, whatever the size of the pieces
        if len(self._buffer) < self._wait:
            return b""
        return self._run(final=False)

    def end(self) -> bytes:
        """Raises BodyError for a document that is not complete. An empty body is empty."""
        self._begun = True
        try:
            self._utf8.decode(b"", final=True)
        except UnicodeDecodeError as e:
            raise BodyError("the body ends within a character") from e
        out = self._run(final=True)
        if self._buffer or self._levels or (self._expect is not _Expect.NOTHING and not self._nothing_yet()):
            raise BodyError(f"the JSON body ends where {self._expect.value} should be")
        return out

    def _nothing_yet(self) -> bool:
        return self._expect is _Expect.VALUE and not self._levels

    # ------------------------------------------------------------ the loop

    def _run(self, *, final: bool) -> bytes:
        data = self._buffer
        self._out, self._copied = [], 0
        if self._contents is not None:
            self._hits = self._contents.scanner.hits(data)
        at = self._scan(data, final)
        if not self._muted:
            self._out.append(data[self._copied : at])
        rest = self._buffer = data[at:]
        if len(rest) > self._limits.value:
            raise BodyError(f"a value in the JSON body has more than {self._limits.value} bytes")
        self._wait = 2 * len(rest) if len(rest) > 4096 else 0
        return b"".join(self._out)

    def _scan(self, data: bytes, final: bool) -> int:
        """Takes whole tokens from the front; returns where the first one begins that is not complete."""
        at, size = 0, len(data)
        expect, levels, blank, space = self._expect, self._levels, self._blank, self._space
        while at < size:
            byte = data[at]
            if byte in blank:
                at = space.match(data, at).end()  # type: ignore[union-attr]  # matches always
            elif expect is _KEY or expect is _KEY_OR_END:
                if byte == 0x22:
                    step = self._members(data, at)
                    if step is None:
                        found = self._string(data, at, final, expect)
                        if found is None:
                            break
                        self._named(data, at, found)
                        at, expect = found, _COLON
                    else:
                        at, expect = step
                elif byte == 0x7D and expect is _KEY_OR_END:
                    at, expect = self._close(at + 1)
                else:
                    raise self._wrong(expect)
            elif expect is _COMMA_OR_END:
                level = levels[-1]
                if byte == 0x2C:
                    at, expect = at + 1, _KEY if level.object else _VALUE
                    if not level.object:
                        self._node, self._mask, self._key = level.node, level.mask, level.key
                elif byte == (0x7D if level.object else 0x5D):
                    again = self._alike(data, at, level) if level.object else None
                    at, expect = self._close(at + 1) if again is None else (again, _KEY)
                else:
                    raise self._wrong(expect)
            elif expect is _COLON:
                if byte != 0x3A:
                    raise self._wrong(expect)
                at, expect = at + 1, _VALUE
            elif expect is _NOTHING:
                if not self._sequence:
                    raise BodyError("something follows the JSON document")
                expect = _VALUE
                self._node, self._mask, self._key = self._paths.root, self._paths.root.mask, b""
            elif byte == 0x7B or byte == 0x5B:
                at, expect = self._open(data, at)
            elif byte == 0x5D and expect is _VALUE_OR_END:
                at, expect = self._close(at + 1)
            else:
                if self._mask is None and levels and not levels[-1].object and not self._careful():
                    run = ARRAY_RUN.match(data, at, self._clear_to(at, size))
                    if run is not None and run.end() > at:
                        at, expect = run.end(), _COMMA_OR_END if run.lastindex else _VALUE
                        continue
                end = self._scalar(data, at, final, expect)
                if end is None:
                    break
                at, expect = end, _COMMA_OR_END if levels else _NOTHING
        self._expect = expect
        return at

    def _alike(self, data: bytes, at: int, level: _Level) -> int | None:
        """Past the end of an object and the beginning of the next one in its array, for which the same level stands."""
        if self._muted or len(self._levels) < 2:
            return None
        array = self._levels[-2]
        if array.object or array.mask is not None or array.node is not level.node:
            return None
        between = NEXT_OBJECT.match(data, at)
        if between is None:
            return None
        self._node, self._mask, self._key = array.node, None, array.key
        return between.end()

    def _careful(self) -> bool:
        """The key makes a detector look closer at the values, and may not be in the buffer any more."""
        return self._contents is not None and telling(self._key)

    def _clear_to(self, at: int, size: int) -> int:
        """The next place where a detector may find something."""
        if self._contents is None:
            return size
        index = bisect.bisect_right(self._hits, at)
        return self._hits[index] - 1 if index < len(self._hits) else size

    def _members(self, data: bytes, at: int) -> tuple[int, _Expect] | None:
        """Past the members from here that concern no rule or have a scalar for their value; None: there are none."""
        node, size, muted = self._levels[-1].node, len(data), self._muted
        pattern = node.run if self._contents is None else node.careful_run
        begin = at
        while True:
            run = pattern.match(data, at, self._clear_to(at, size))
            if run is not None and run.end() > at:
                at = run.end()
                if run.lastindex:
                    return at, _COMMA_OR_END
            member = MEMBER.match(data, at)
            if member is None:
                return (at, _KEY) if at > begin else None
            if not muted:
                self._member(data, at, member, node)
            at = member.end()
            if member[3] is None:
                return at, _COMMA_OR_END

    def _member(self, data: bytes, at: int, member: re.Match[bytes], node: Node) -> None:
        self._key = member[1]
        self._mask = node.after_plain(self._key).mask
        begin, end = member.span(2)
        if self._contents is not None:
            self._on_key(data, at, member.end(1) + 1)
        if data[begin] == 0x22:
            self._on_string(data, begin, end)
        elif data[begin] in b"-0123456789":
            self._on_number(data, begin, end)
        elif self._mask is not None:
            self._becomes_null()
            self._put(data, begin, end, b"null")

    # ------------------------------------------------------------ containers

    def _open(self, data: bytes, at: int) -> tuple[int, _Expect]:
        if len(self._levels) >= self._limits.depth:
            raise BodyError(f"the JSON body nests deeper than {self._limits.depth}")
        is_object = data[at] == 0x7B
        muting = is_object and self._mask is not None and not self._muted
        if muting:
            self._becomes_null()
            self._out += (data[self._copied : at], b"null")
            self._muted = True
        self._levels.append(_Level(is_object, self._node, None if is_object else self._mask, muting, self._key))
        if is_object:
            return at + 1, _KEY_OR_END
        return at + 1, _VALUE_OR_END

    def _close(self, end: int) -> tuple[int, _Expect]:
        level = self._levels.pop()
        if level.muted:
            self._muted = False
            self._copied = end
        return end, _COMMA_OR_END if self._levels else _NOTHING

    def _named(self, data: bytes, at: int, end: int) -> None:
        key = json.loads(data[at:end])
        self._node = self._levels[-1].node.after(key)
        self._mask = self._node.mask
        self._key = key.encode("utf-8", "surrogatepass")
        if not self._muted:
            self._on_key(data, at, end)

    def _on_key(self, data: bytes, at: int, end: int) -> None:
        """A key can be a value: a map by address has addresses for keys."""
        if self._contents is not None and (b"\\" in data[at:end] or self._hit(at, end)):
            raw = data[at:end]
            text = json.loads(raw).encode("utf-8", "surrogatepass") if b"\\" in raw else raw[1:-1]
            self._replace(data, at, end, text, b"")

    def _hit(self, at: int, end: int) -> bool:
        """Whether a detector may find something between these places."""
        return bisect.bisect_right(self._hits, at) != bisect.bisect_right(self._hits, end)

    # ------------------------------------------------------------ scalars

    def _string(self, data: bytes, at: int, final: bool, expect: _Expect) -> int | None:
        """Where the string that begins here ends; None when it goes on. Raises BodyError for a bad one."""
        plain = _PLAIN.match(data, at)
        if plain:
            return plain.end()
        match = _STRING.match(data, at)
        if match is None:
            if final:
                raise BodyError("the JSON body ends within a string")
            # a control character never becomes legal by waiting
            tail = data[at:]
            if re.search(rb"[\x00-\x1f]", tail):
                raise self._wrong(expect)
            return None
        try:
            json.loads(match[0])
        except ValueError as e:
            raise BodyError("a string in the JSON body has an escape that JSON does not know") from e
        return match.end()

    def _scalar(self, data: bytes, at: int, final: bool, expect: _Expect) -> int | None:
        byte = data[at]
        if byte == 0x22:
            end = self._string(data, at, final, expect)
            if end is not None and not self._muted:
                self._on_string(data, at, end)
            return end
        if byte in b"-0123456789":
            end = _NUMBER_BYTES.match(data, at).end()  # type: ignore[union-attr]  # matches always
            if end == len(data) and not final:
                return None
            if not _NUMBER.fullmatch(data, at, end):
                raise self._wrong(expect)
            if not self._muted:
                self._on_number(data, at, end)
            return end
        for word in _WORDS:
            if data.startswith(word, at):
                end = at + len(word)
                if self._mask is not None and word != b"null" and not self._muted:
                    self._becomes_null()
                    self._put(data, at, end, b"null")
                return end
            if not final and word.startswith(data[at : at + 5]):
                return None
        raise self._wrong(expect)

    def _on_string(self, data: bytes, at: int, end: int) -> None:
        raw = data[at:end]
        escaped = b"\\" in raw
        if self._mask is not None:
            masked = self._mask.apply(json.loads(raw) if escaped else raw[1:-1].decode("utf-8"))
            self._put(data, at, end, b"null" if masked is None else _quoted(masked, raw))
            return
        if self._contents is None:
            return
        if escaped or self._hit(at, end) or telling(self._key):
            value = json.loads(raw).encode("utf-8", "surrogatepass") if escaped else raw[1:-1]
            self._replace(data, at, end, value, self._key)

    def _replace(self, data: bytes, at: int, end: int, value: bytes, name: bytes) -> None:
        """The string `value` with what detectors find in it masked, in place of `data[at:end]`."""
        assert self._contents is not None
        spans = spans_in(self._contents, name, value)
        if not spans:
            return
        pieces: list[str] = []
        done = 0
        for start, stop, mask in spans:
            text = mask.apply(value[start:stop].decode("utf-8", "replace"))
            pieces += (value[done:start].decode("utf-8", "surrogatepass"), "[withheld]" if text is None else text)
            done = stop
        pieces.append(value[done:].decode("utf-8", "surrogatepass"))
        self._put(data, at, end, _quoted("".join(pieces), data[at:end]))

    def _on_number(self, data: bytes, at: int, end: int) -> None:
        mask = self._mask
        raw = data[at:end]
        if mask is None and self._contents is not None and (self._hit(at, end) or telling(self._key)):
            spans = spans_in(self._contents, self._key, raw)
            mask = spans[0][2] if spans else None
        if mask is None:
            return
        masked = None
        if b"e" not in raw and b"E" not in raw and end - at <= 64:
            masked = mask.apply(raw.decode("ascii"), ValueKind.NUMBER if b"." in raw else ValueKind.INTEGER)
        new = b"null" if masked is None else masked.encode("ascii", "replace")
        self._put(data, at, end, new if _NUMBER.fullmatch(new) else b"null")

    def _becomes_null(self) -> None:
        """What has no masked form but null: the mask is told all the same, it may keep account."""
        assert self._mask is not None
        self._mask.apply("", ValueKind.OPAQUE)

    def _put(self, data: bytes, at: int, end: int, new: bytes) -> None:
        self._out += (data[self._copied : at], new)
        self._copied = end

    def _wrong(self, expect: _Expect) -> BodyError:
        return BodyError(f"the body says JSON and is not: {expect.value} should be there")


def _quoted(text: str, like: bytes) -> bytes:
    """A JSON string; with escapes for what is not ASCII where the original had none of it."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return b'"' + text.encode("ascii") + b'"'
    try:
        return json.dumps(text, ensure_ascii=like.isascii()).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(text).encode("ascii")
