"""Streams that are opened and reset in thousands end their connection; a client that cancels now and then does not."""

from __future__ import annotations

from typing import Any, cast

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from hyperframe.frame import RstStreamFrame, WindowUpdateFrame

from addons.web.flow import ClientHttp2
from addons.web.resets import BURST, RATE, Resets
from tests.support.http_talk import Talk

HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "up.example"), (":path", "/a")]


class Client:
    """HTTP/2, spoken to the layers."""

    def __init__(self) -> None:
        self.talk = Talk(alpn=b"h2")
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.talk.says(self.http.data_to_send())

    def open_and_reset(self, count: int) -> None:
        for _ in range(count):
            stream = self.http.get_next_available_stream_id()
            self.http.send_headers(stream, HEAD, end_stream=False)
            self.http.reset_stream(stream, ErrorCodes.CANCEL)

    @property
    def codec(self) -> ClientHttp2:
        return cast(ClientHttp2, self.talk.layer.connections[self.talk.client])

    @property
    def told(self) -> list[Any]:
        return self.http.receive_data(self.talk.down)

    @property
    def cut(self) -> bool:
        return self.talk.client in self.talk.closed


def test_a_bucket_that_fills_again() -> None:
    now = [100.0]
    resets = Resets(lambda: now[0])
    assert all(resets.one() for _ in range(BURST))
    assert not resets.one()
    now[0] += (2 + 1) / RATE
    assert [resets.one() for _ in range(3)] == [True, True, False]
    now[0] += 3600.0
    assert all(resets.one() for _ in range(BURST))
    assert not resets.one()
    assert resets.total == 2 * BURST + 5


def test_cve_2023_44487_streams_reset_in_thousands_end_the_connection() -> None:
    client = Client()
    client.codec.resets = Resets(lambda: 0.0)
    client.open_and_reset(5000)
    client.flush()
    assert client.cut
    goodbye = next(event for event in client.told if isinstance(event, h2.events.ConnectionTerminated))
    assert goodbye.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(client.talk.exchanges) <= BURST + 1
    assert len(client.talk.floods) == 1
    assert str(BURST + 1) in client.talk.floods[0]
    before = len(client.talk.exchanges)
    client.talk.says(b"\0\0\0\4\0\0\0\0\0")  # what still comes is nobody's
    assert len(client.talk.exchanges) == before


def test_they_count_however_they_come() -> None:
    client = Client()
    client.codec.resets = Resets(lambda: 0.0)
    for _ in range(BURST):
        client.open_and_reset(1)
        client.flush()
    assert not client.cut
    client.open_and_reset(1)
    client.flush()
    assert client.cut


def test_cve_2025_8671_resets_that_a_client_provokes_count() -> None:
    client = Client()
    client.codec.resets = Resets(lambda: 0.0)
    for _ in range(BURST + 1):
        assert not client.cut
        stream = client.http.get_next_available_stream_id()
        client.http.send_headers(stream, HEAD, end_stream=False)
        client.flush()
        # a window that grows beyond its utmost is the stream's error
        client.talk.says(WindowUpdateFrame(stream, window_increment=2**31 - 1).serialize())
    assert client.cut
    assert len(client.talk.floods) == 1


def test_a_client_that_cancels_now_and_then_goes_on() -> None:
    client = Client()
    now = [0.0]
    client.codec.resets = Resets(lambda: now[0])
    for _ in range(1000):
        client.open_and_reset(1)
        client.flush()
        now[0] += 1.1 / RATE
    assert not client.cut
    assert client.talk.floods == []


def test_resets_of_one_stream_over_and_over_count_once() -> None:
    client = Client()
    client.open_and_reset(4)
    client.flush()
    client.talk.says(RstStreamFrame(7, error_code=8).serialize() * (3 * BURST))
    assert client.codec.resets.total == 4
