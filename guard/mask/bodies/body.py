"""What every masker is: bytes in, bytes out, then the end."""

from __future__ import annotations

from typing import Protocol


class BodyMasker(Protocol):
    """One body. What `feed` and `end` return, joined, is the masked body; each may return nothing yet.

    Both raise BodyError (and DetectError): nothing more of the body may then be given out.
    """

    def feed(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Unchanged:
    """No rule applies."""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""
