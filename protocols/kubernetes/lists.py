"""One JSON answer masked as it arrives: an element of a list at a time, whatever its length.

A list of Secrets may be larger than anybody wants to hold or to read in one go. Its elements (`items`, of a Table the
`rows`) are read, masked and given on one by one; every other member of the answer is one piece. What is not masked
keeps its bytes. The rules are those of `secrets.mask_answer`, and so is what is withheld.
"""

from __future__ import annotations

import codecs
import enum
from collections.abc import Callable
from typing import Any

import orjson

from protocols.kubernetes import objects
from protocols.kubernetes.errors import Unreadable, Withheld
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.secrets import MaskedObjects, walk_of
from protocols.kubernetes.watching import MAX_EVENT

_SPACE = " \t\n\r"
_AFTER = ",:]}"
_ELEMENTS = frozenset({"items", "rows"})


class _At(enum.Enum):
    """What must come next. A value is read whole; `NEXT` and `MORE` follow one."""

    START = enum.auto()
    FIRST = enum.auto()  # a key or the end of the object
    KEY = enum.auto()
    VALUE = enum.auto()
    NEXT = enum.auto()  # `,` or `}`
    ELEMENT = enum.auto()  # the first element or the end of the list
    MORE = enum.auto()  # `,` or `]`
    AGAIN = enum.auto()  # an element
    END = enum.auto()


class AnswerMasker:
    """`feed` and `flush` give what may go to the client. Both raise `Withheld`: nothing more of it may go."""

    def __init__(
        self,
        request: RequestInfo,
        what: MaskedObjects,
        max_value: int = MAX_EVENT,
        masked: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._request = request
        self._what = what
        self._max = max_value
        self._masked = masked  # is told where each value stood
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self._decoder = objects.strict_decoder()
        self._text = ""
        self._at = 0  # in the text: before it everything is read
        self._given = 0  # in the text: before it everything has its place in `_out`
        self._wait = 0  # characters without which looking again is a waste
        self._state = _At.START
        self._keys: set[str] = set()
        self._key = ""
        self._out: list[str] = []
        self._broken = False

    @property
    def buffered(self) -> int:
        """Characters that are not yet given on."""
        return len(self._text)

    def feed(self, data: bytes) -> bytes:
        """More of the answer, in any pieces."""
        return self._take(data, last=False)

    def flush(self) -> bytes:
        """The answer is complete. An empty one holds nothing."""
        shown = self._take(b"", last=True)
        if self._state is not _At.END and not (self._state is _At.START and not self._text):
            self._broken = True
            raise Withheld("an answer that ends in its middle cannot be masked")
        return shown

    # ------------------------------------------------------------ inside

    def _take(self, data: bytes, *, last: bool) -> bytes:
        if self._broken:
            raise Withheld("the answer has ended")
        self._broken = True  # unless it comes to its end
        try:
            self._text += self._decode(data, last)
            if len(self._text) >= self._wait or last:
                while self._step():
                    pass
        except UnicodeDecodeError:
            raise Withheld("an answer that is not utf-8 cannot be masked") from None
        except Unreadable as e:
            raise Withheld(f"an answer that cannot be read cannot be masked: {e}") from None
        except Withheld:
            raise
        except Exception:
            # a mask that fails must not show what it was given, also not in a traceback's cause
            raise Withheld("the mask of a value failed") from None
        self._out.append(self._text[self._given : self._at])
        self._text = self._text[self._at :]
        self._wait = max(0, self._wait - self._at)
        self._at = self._given = 0
        shown = "".join(self._out).encode()
        self._out.clear()
        self._broken = False
        return shown

    def _step(self) -> bool:
        """One token or value further; False: more must come."""
        text, at = self._text, self._at
        while at < len(text) and text[at] in _SPACE:
            at += 1
        self._at = at
        if at == len(text):
            return False
        return self._token(text[at])

    def _token(self, first: str) -> bool:
        state = self._state
        if state in (_At.KEY, _At.VALUE, _At.AGAIN):
            return self._value(first)
        if state is _At.FIRST and first == '"':
            self._state = _At.KEY
            return True
        if state is _At.ELEMENT and first != "]":
            self._state = _At.AGAIN
            return True
        after = _PUNCTUATION.get((state, first))
        if after is None:
            raise Withheld("an answer that is no object cannot be masked")
        self._at += 1
        self._state = after
        return True

    def _value(self, first: str) -> bool:
        if self._state is _At.VALUE and first == "[" and self._key in _ELEMENTS:
            self._at += 1
            self._state = _At.ELEMENT
            return True
        start = self._at
        try:
            value, end = self._decoder.raw_decode(self._text, start)
        except RecursionError:
            raise Withheld("an answer that is nested too deeply cannot be masked") from None
        except ValueError:
            return self._later(start)
        after = end
        while after < len(self._text) and self._text[after] in _SPACE:
            after += 1
        if after == len(self._text) or self._text[after] not in _AFTER:
            return self._later(start)  # a number may go on, and be another
        objects.check(self._text[start:end], value)
        self._at = end
        self._wait = 0
        if self._state is _At.KEY:
            self._named(value, after)
        elif self._state is _At.VALUE:
            self._member(value, start, end)
        else:
            self._element(value, start, end)
        return True

    def _later(self, start: int) -> bool:
        held = len(self._text) - start
        if held > self._max:
            raise Withheld("a part of the answer is too long to be masked, or it is not valid")
        # a long value comes in many pieces: not to be read again for each
        self._wait = len(self._text) + (held // 2 if held > 65_536 else 1)
        return False

    def _named(self, key: Any, after: int) -> None:
        if not isinstance(key, str) or self._text[after] != ":":
            raise Withheld("an answer that is no object cannot be masked")
        if key in self._keys:
            raise Unreadable("the body says a key twice")
        self._keys.add(key)
        self._key = key
        self._at = after + 1
        self._state = _At.VALUE

    def _member(self, value: Any, start: int, end: int) -> None:
        if self._key in _ELEMENTS and value is not None:
            raise Withheld("a list that is none cannot be masked")
        walk = walk_of(self._request, self._what)
        member = {self._key: value}
        if self._key == "object" and isinstance(value, dict):
            walk.document(value)
        walk.object(member)
        self._say(member[self._key], start, end, walk.fields)
        self._state = _At.NEXT

    def _element(self, value: Any, start: int, end: int) -> None:
        if not isinstance(value, dict):
            raise Withheld("a list holds what is no object")
        walk = walk_of(self._request, self._what)
        if self._key == "rows":
            shown = value.get("object")
            if isinstance(shown, dict):
                walk.object(shown)
        else:
            walk.object(value)
        self._say(value, start, end, walk.fields)
        self._state = _At.MORE

    def _say(self, value: Any, start: int, end: int, fields: list[str]) -> None:
        for field in fields:
            # a member of a single object does not say whose it is: the request does
            whole = field.startswith("/ ") and self._request.name
            self._masked(f"{self._request.namespace}/{self._request.name}{field[1:]}" if whole else field)
        if fields:
            self._out += (self._text[self._given : start], orjson.dumps(value).decode())
            self._given = end


_PUNCTUATION = {
    (_At.START, "{"): _At.FIRST,
    (_At.FIRST, "}"): _At.END,
    (_At.NEXT, ","): _At.KEY,
    (_At.NEXT, "}"): _At.END,
    (_At.ELEMENT, "]"): _At.NEXT,
    (_At.MORE, ","): _At.AGAIN,
    (_At.MORE, "]"): _At.NEXT,
}
