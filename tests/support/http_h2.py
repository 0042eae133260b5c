"""An HTTP/2 client that reads, opens its windows and sends exactly when a test says so."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from tests.support.http_lab import HttpLab

type Fields = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
    """What has come on one stream. `error` is set where it was reset."""

    status: int = 0
    size: int = 0
    body: bytes = b""  # of a large answer the beginning
    digest: Any = field(default_factory=hashlib.sha256)
    done: bool = False
    error: int | None = None


class H2Client:
    """A connection to the lab's registered API. `window`: of each stream; `takes`: what comes is given back at once."""

    def __init__(self, lab: HttpLab, *, token: str = "", window: int = 65_535, lies: bool = False) -> None:
        context = ssl.create_default_context(cafile=str(lab.authority.file))
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("127.0.0.1", lab.ports["api"]), timeout=30)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        config = h2.config.H2Configuration(
            header_encoding=False, validate_outbound_headers=not lies, normalize_outbound_headers=not lies
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings.initial_window_size = window
        self.h2.local_settings.acknowledge()  # otherwise the old value is what is sent
        self.h2.initiate_connection()
        self.takes = True
        self.closed = False
        self.answers: dict[int, Answer] = {}
        self._token = token or lab.token()
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.socket.sendall(data)

    def fields(self, method: str, path: str, *more: tuple[bytes, bytes]) -> Fields:
        pseudo = {":method": method, ":scheme": "https", ":path": path, ":authority": "localhost"}
        found = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        return [*found, (b"authorization", f"Bearer {self._token}".encode()), *more]

    def request(self, method: str, path: str, *more: tuple[bytes, bytes], end: bool = True) -> int:
        stream = int(self.h2.get_next_available_stream_id())
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, self.fields(method, path, *more), end_stream=end)
        self.flush()
        return stream

    def room(self, stream: int) -> int:
        """Bytes of a body that may be sent now."""
        return min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)

    def read(self, timeout: float = 30.0) -> bool:
        """What comes next. False: nothing came in time, or the connection is closed."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(65_536)
        except TimeoutError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()
        return True

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.closed = True
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0)
        if answer is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.status = int(dict(event.headers)[b":status"])  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            answer.size += len(event.data)
            answer.digest.update(event.data)
            answer.body = (answer.body + event.data)[:65_536]
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.done = True
        elif isinstance(event, h2.events.StreamReset):
            answer.error, answer.done = int(event.error_code), True

    def until(self, done: Callable[[], bool], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not done() and not self.closed:
            assert time.monotonic() < deadline
            self.read(1.0)
        assert done()

    def answer(self, stream: int, timeout: float = 30.0) -> Answer:
        self.until(lambda: self.answers[stream].done, timeout)
        return self.answers[stream]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
