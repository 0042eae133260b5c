"""AWS explains why a signature does not hold by showing what it was made of, session token included: not to clients."""

from __future__ import annotations

from typing import Any

from addons.web.content import Unreadable, decoded
from guard.detect import Known

WITHHELD = b"[withheld]"
_MOST = 1 << 20  # bytes of an error's body


def forms_of(*secrets: str) -> tuple[bytes, ...]:
    """Every text in which one of these could stand in XML or JSON, the longest first."""
    found = {form for _, form in Known({"": [text.encode() for text in secrets if text]}).forms}
    found |= {form.replace(b"/", b"\\/") for form in found}
    return tuple(sorted(found, key=len, reverse=True))


class ErrorMask:
    """An error's body without the gateway's keys. It is held until it is whole; `then`: what masks it further."""

    def __init__(self, hidden: tuple[bytes, ...], coding: str, then: Any = None) -> None:
        self._hidden = hidden
        self._coding = coding
        self._then = then
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Nothing yet. Raises Unreadable."""
        self._size += len(data)
        if self._size > _MOST:
            raise Unreadable(f"an error of more than {_MOST} bytes")
        self._pieces.append(data)
        return b""

    def end(self) -> bytes:
        """All of it. Raises Unreadable."""
        data = b"".join(self._pieces)
        self._pieces = []
        opened = decoded(data, self._coding, _MOST)
        if opened is data:
            for form in self._hidden:
                data = data.replace(form, WITHHELD)
        elif any(form in opened for form in self._hidden):
            raise Unreadable("it holds a secret of the gateway's")
        if self._then is None:
            return data
        first: bytes = self._then.feed(data)
        last: bytes = self._then.end()
        return first + last
