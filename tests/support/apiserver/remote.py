"""The server's end of exec, attach and port-forward: WebSocket channels, SPDY/3.1 streams, and one through the other.

Written against the specifications and not with `protocols.kubernetes.channels`, so that the two check each other; the
SPDY codec is shared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import wsproto.connection
import wsproto.events

from protocols.contract import Side
from protocols.kubernetes import spdy

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
SUCCESS = b'{"metadata":{},"status":"Success"}'


def failure(code: int) -> bytes:
    """The Status of a command that ended with another code than 0."""
    causes = [{"reason": "ExitCode", "message": str(code)}]
    message = f"command terminated with non-zero exit code: exit status {code}"
    body = {"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode"}
    return json.dumps(body | {"details": {"causes": causes}}).encode()


@dataclass(slots=True)
class Recording:
    """What was said on one upgraded connection, in order: the bytes of SPDY, or a WebSocket's messages."""

    subresource: str
    protocol: str
    websocket: bool
    said: list[tuple[Side, bytes]] = field(default_factory=list)


class Wire(Protocol):
    """Bytes of an upgraded connection."""

    async def receive(self) -> bytes: ...
    async def send(self, data: bytes) -> None: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Plain:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    early: bytes = b""
    recording: Recording | None = None

    async def receive(self) -> bytes:
        early, self.early = self.early, b""
        data = early or await self.reader.read(65536)
        if self.recording is not None:
            self.recording.said.append((Side.CLIENT, data))
        return data

    async def send(self, data: bytes) -> None:
        if self.recording is not None:
            self.recording.said.append((Side.UPSTREAM, data))
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()


class WebSocket:
    """Messages over a connection that has been upgraded."""

    def __init__(self, wire: Wire, recording: Recording) -> None:
        self._wire = wire
        self._recording = recording
        self._ws = wsproto.connection.Connection(wsproto.connection.ConnectionType.SERVER)
        self._message = b""
        self._ready: list[bytes] = []
        self.closed = False

    async def receive(self) -> bytes:
        """One whole message that is not empty; empty at the end."""
        while not self._ready and not self.closed:
            data = await self._wire.receive()
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                if isinstance(event, wsproto.events.Message):
                    # the Python client sends text as such; the real server does not look at the kind either
                    self._message += event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                    # a tunnel's client also sends empty ones
                    if event.message_finished and self._message:
                        self._ready.append(self._message)
                        self._recording.said.append((Side.CLIENT, self._message))
                        self._message = b""
                elif isinstance(event, wsproto.events.Ping):
                    await self._wire.send(self._ws.send(event.response()))
                elif isinstance(event, wsproto.events.CloseConnection):
                    self.closed = True
            if not data:
                self.closed = True
        return self._ready.pop(0) if self._ready else b""

    async def send(self, data: bytes) -> None:
        if not self.closed:
            self._recording.said.append((Side.UPSTREAM, data))
            await self._wire.send(self._ws.send(wsproto.events.BytesMessage(data)))

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self._wire.send(self._ws.send(wsproto.events.CloseConnection(1000)))
        await self._wire.close()


class Remote(Protocol):
    """An exec or attach: what the client says, as (channel, data), data None where it closes the channel."""

    def events(self) -> AsyncIterator[tuple[int, bytes | None]]: ...
    async def send(self, channel: int, data: bytes) -> None: ...
    async def finish(self, status: bytes) -> None: ...


class WebSocketRemote:
    def __init__(self, ws: WebSocket, v5: bool) -> None:
        self._ws = ws
        self._v5 = v5

    async def events(self) -> AsyncIterator[tuple[int, bytes | None]]:
        while message := await self._ws.receive():
            if self._v5 and message[0] == 255:
                yield message[1], None
            else:
                yield message[0], message[1:]

    async def send(self, channel: int, data: bytes) -> None:
        await self._ws.send(bytes([channel]) + data)

    async def finish(self, status: bytes) -> None:
        await self.send(ERROR, status)
        await self._ws.close()


class SpdyRemote:
    def __init__(self, wire: Wire, expected: frozenset[int]) -> None:
        self._wire = wire
        self._expected = expected
        self._decoder = spdy.Decoder()
        self._encoder = spdy.Encoder()
        self._numbers: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}
        self._early: list[tuple[int, bytes | None]] = []
        self._finished = False

    async def open(self) -> None:
        """Waits until the client has opened every stream that its request announced."""
        while not self._expected <= self._numbers.keys():
            if not (data := await self._wire.receive()):
                raise ConnectionError("the client left before it had opened its streams")
            self._early += await self._read(data)

    async def events(self) -> AsyncIterator[tuple[int, bytes | None]]:
        for event in self._early:
            yield event
        while not self._finished and (data := await self._wire.receive()):
            for event in await self._read(data):
                yield event

    async def _read(self, data: bytes) -> list[tuple[int, bytes | None]]:
        out: list[tuple[int, bytes | None]] = []
        for frame, _ in self._decoder.feed(data):
            if isinstance(frame, spdy.SynStream):
                channel = NAMES[frame.headers["streamtype"]]
                self._numbers[channel] = frame.stream
                self._channels[frame.stream] = channel
                await self._wire.send(self._encoder.encode(spdy.SynReply(frame.stream, {})))
            elif isinstance(frame, spdy.Data):
                channel = self._channels[frame.stream]
                if frame.data:
                    out.append((channel, frame.data))
                if frame.fin:
                    out.append((channel, None))
            elif isinstance(frame, spdy.Ping):
                await self._wire.send(self._encoder.encode(frame))
        return out

    async def send(self, channel: int, data: bytes) -> None:
        if data and channel in self._numbers:
            await self._wire.send(self._encoder.encode(spdy.Data(self._numbers[channel], data)))

    async def finish(self, status: bytes) -> None:
        for channel in (STDOUT, STDERR):
            if channel in self._numbers:
                await self._wire.send(self._encoder.encode(spdy.Data(self._numbers[channel], b"", fin=True)))
        await self._wire.send(self._encoder.encode(spdy.Data(self._numbers[ERROR], status, fin=True)))
        self._finished = True


async def port_forward(wire: Wire, connect: Any) -> None:
    """SPDY streams in pairs (`data`, `error`), each to a connection that `connect(port)` opens."""
    await _PortForward(wire, connect).run()


class _PortForward:
    def __init__(self, wire: Wire, connect: Any) -> None:
        self._wire = wire
        self._connect = connect
        self._encoder = spdy.Encoder()
        self._streams: dict[int, dict[str, str]] = {}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        decoder = spdy.Decoder()
        try:
            while data := await self._wire.receive():
                for frame, _ in decoder.feed(data):
                    await self._frame(frame)
        finally:
            for task in self._tasks:
                task.cancel()
            for writer in self._writers.values():
                writer.close()

    async def _frame(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.SynStream():
                self._streams[frame.stream] = dict(frame.headers)
                await self._send(spdy.SynReply(frame.stream, {}))
                if frame.headers["streamtype"] == "data":
                    await self._open(frame.stream, int(frame.headers["port"]))
            case spdy.Data(stream, data, fin):
                writer = self._writers.get(stream)
                if writer is not None:
                    writer.write(data)
                    await writer.drain()
                    if fin and writer.can_write_eof():
                        writer.write_eof()
            case spdy.Ping():
                await self._send(frame)
            case spdy.RstStream(stream):
                if writer := self._writers.pop(stream, None):
                    writer.close()

    async def _open(self, stream: int, port: int) -> None:
        request = self._streams[stream]["requestid"]
        error = next(
            number
            for number, headers in self._streams.items()
            if headers["streamtype"] == "error" and headers["requestid"] == request
        )
        try:
            reader, writer = await self._connect(port)
        except OSError as failed:
            await self._send(spdy.Data(error, f"cannot reach port {port}: {failed.strerror}".encode(), fin=True))
            await self._send(spdy.Data(stream, b"", fin=True))
            return
        self._writers[stream] = writer
        task = asyncio.create_task(self._pump(reader, stream, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, stream: int, error: int) -> None:
        while data := await reader.read(32768):
            await self._send(spdy.Data(stream, data))
        await self._send(spdy.Data(stream, b"", fin=True))
        await self._send(spdy.Data(error, b"", fin=True))

    async def _send(self, frame: spdy.Frame) -> None:
        await self._wire.send(self._encoder.encode(frame))
