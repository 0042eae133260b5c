"""What a command prints, masked on its way to the client.

A masker of content must hold back what could become a match, and a prompt has no line end: what is held longer
than `delay` is let go by `tick`, so that a person can go on typing. A value that a program prints with a pause in
its middle then passes in two parts; a shorter delay lets more of them pass, a longer one makes prompts lag.

INVARIANT: nothing of stdout or stderr leaves except through its masker, and the final status leaves behind all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from protocols.contract import Side
from protocols.kubernetes.channels import Carried, Channel, ExecWebSocket, Finished, Piece
from protocols.kubernetes.spdystreams import ExecSpdy

DELAY_NS = 50_000_000  # a person does not notice; a program prints a line in less


class Masker(Protocol):
    """A masker of one stream of bytes. `feed` gives what is sure, `flush` gives the rest; it can be fed again after."""

    def feed(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What the client gets: the wire's bytes, and what of stdout and stderr is in them, for the record."""

    wire: list[bytes]
    output: tuple[tuple[Channel, bytes], ...] = ()


class _Held:
    __slots__ = ("masker", "since")

    def __init__(self, masker: Masker) -> None:
        self.masker = masker
        self.since: int | None = None  # ns; since when something is held back

    def feed(self, data: bytes, now_ns: int) -> bytes:
        shown = self.masker.feed(data)
        # a mask may be longer or shorter than its value, so that counting bytes says nothing: a masker that gave back
        # exactly what it was fed holds nothing, any other may
        if shown == data and self.since is None:
            return shown
        # what comes without pause and is never let go (a progress bar without line ends) must not wait for a pause
        if shown or self.since is None:
            self.since = now_ns
        return shown

    def flush(self) -> bytes:
        self.since = None
        return self.masker.flush()


class MaskedOutput:
    """Between the server's half of an exec or attach and the client. What a masker raises must end the stream."""

    def __init__(
        self, stream: ExecWebSocket | ExecSpdy, masker: Callable[[], Masker], delay_ns: int = DELAY_NS
    ) -> None:
        self._stream = stream
        self._delay = delay_ns
        # a terminal has one screen, but stdout and stderr are read apart by who asked for them apart
        self._held = {channel: _Held(masker()) for channel in (Channel.STDOUT, Channel.STDERR)}

    def server(self, pieces: Iterable[Piece], now_ns: int) -> Shown:
        """What came from the server, as the client may have it."""
        wire: list[bytes] = []
        output: list[tuple[Channel, bytes]] = []
        for piece in pieces:
            carried = [event for event in piece.events if isinstance(event, Carried)]
            if any(isinstance(event, Finished) for event in piece.events):
                self._flush(wire, output)
            if not carried and piece.wire:
                wire.append(piece.wire)
            for event in carried:
                held = self._held[event.channel]
                shown = held.feed(event.data, now_ns)
                if event.last:
                    shown += held.flush()
                self._say(Carried(event.channel, shown, event.last), wire, output)
        return Shown(wire, tuple(output))

    @property
    def due_ns(self) -> int | None:
        """When `tick` should be called next; None while nothing is held."""
        waiting = [held.since for held in self._held.values() if held.since is not None]
        return min(waiting) + self._delay if waiting else None

    def tick(self, now_ns: int) -> Shown:
        """Lets go what has been held for too long."""
        wire: list[bytes] = []
        output: list[tuple[Channel, bytes]] = []
        for channel, held in self._held.items():
            if held.since is not None and now_ns - held.since >= self._delay:
                self._say(Carried(channel, held.flush()), wire, output)
        return Shown(wire, tuple(output))

    def end(self) -> Shown:
        """The server is gone without last words."""
        wire: list[bytes] = []
        output: list[tuple[Channel, bytes]] = []
        self._flush(wire, output)
        return Shown(wire, tuple(output))

    def _flush(self, wire: list[bytes], output: list[tuple[Channel, bytes]]) -> None:
        for channel, held in self._held.items():
            if held.since is not None:
                self._say(Carried(channel, held.flush()), wire, output)

    def _say(self, event: Carried, wire: list[bytes], output: list[tuple[Channel, bytes]]) -> None:
        if event.data:
            output.append((event.channel, event.data))
        if isinstance(self._stream, ExecWebSocket):
            wire += self._stream.encode(Side.UPSTREAM, event)
        else:
            wire += self._stream.encode(event)
