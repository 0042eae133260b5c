"""Watches: a stream of events, one JSON object to a line, each masked as it arrives."""

from __future__ import annotations

from collections.abc import Callable

from protocols.kubernetes import objects
from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.secrets import MaskedObjects, mask_event

MAX_EVENT = 4 * 1024 * 1024  # bytes of one event: an object is at most 1.5 MiB in the store, and may be pretty-printed


class WatchMasker:
    """`feed` and `flush` give what may go to the client.

    Raises `Withheld` for an event that cannot be read or is too long: the stream must end there.
    """

    def __init__(
        self,
        content_type: str,
        request: RequestInfo,
        what: MaskedObjects,
        max_event: int = MAX_EVENT,
        masked: Callable[[str], object] = lambda _: None,
    ) -> None:
        # `application/json;stream=watch` is the same
        if objects.media_type(content_type) != "application/json":
            raise Withheld(f"a watch of type `{objects.media_type(content_type)[:80]}` cannot be masked")
        self._request = request
        self._what = what
        self._max = max_event
        self._masked = masked  # is told where each value stood
        self._parts: list[bytes] = []  # of an event that is not complete
        self._size = 0
        self._broken = False

    @property
    def buffered(self) -> int:
        return self._size

    def feed(self, data: bytes) -> bytes:
        """More bytes from the server, in any pieces."""
        if self._broken:
            raise Withheld("the watch has ended")
        *lines, rest = data.split(b"\n")
        out: list[bytes] = []
        for line in lines:
            self._keep(line)
            out.append(self._event() + b"\n")
        self._keep(rest)
        return b"".join(out)

    def flush(self) -> bytes:
        """The server has closed: an event without its line end is still one."""
        if self._broken:
            raise Withheld("the watch has ended")
        return self._event()

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._size += len(piece)
            if self._size > self._max:
                self._break("an event of the watch is too long to be masked")
            self._parts.append(piece)

    def _event(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if not line.strip():
            return line
        try:
            masked = mask_event(line, self._request, self._what, self._max)
        except Withheld as error:
            self._break(str(error))
            raise
        for field in masked.fields:
            self._masked(field)
        return masked.body

    def _break(self, why: str) -> None:
        self._broken = True
        self._parts.clear()
        raise Withheld(why)
