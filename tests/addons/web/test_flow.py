"""HTTP/2 windows: small, and given back only where the other side has room."""

from __future__ import annotations

import warnings
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from mitmproxy import connection, options
    from mitmproxy.proxy import commands, context, events
    from mitmproxy.proxy.layers import http as http_layers

    from addons.web.flow import (
        CONNECTION_WINDOW,
        STREAM_WINDOW,
        ClientHttp2,
        Room,
        UpstreamHttp2,
        Windowed,
    )

HEADERS = [(":method", "PUT"), (":scheme", "https"), (":path", "/"), (":authority", "a.example")]


class Pair:
    """A peer that opens streams, and our side of the connection."""

    def __init__(self) -> None:
        self.peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.ours = Windowed(h2.config.H2Configuration(client_side=False))
        self.peer.initiate_connection()
        self.ours.initiate_connection()
        self.move()
        self.move()

    def move(self) -> list[h2.events.Event]:
        """What each side has said reaches the other; the events of ours."""
        found = self.ours.receive_data(self.peer.data_to_send())
        self.peer.receive_data(self.ours.data_to_send())
        return list(found)

    def send(self, stream: int) -> int:
        """As much as the peer may; what came is acknowledged, as mitmproxy does."""
        sent = 0
        while room := min(self.peer.local_flow_control_window(stream), self.peer.max_outbound_frame_size):
            self.peer.send_data(stream, bytes(room))
            sent += room
            for event in self.move():
                if isinstance(event, h2.events.DataReceived):
                    self.ours.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.move()
            if sent > 4 * CONNECTION_WINDOW:
                break
        return sent

    def open(self) -> int:
        stream = int(self.peer.get_next_available_stream_id())
        self.peer.send_headers(stream, HEADERS)
        self.move()
        return stream


def test_windows_are_small_from_the_first_frame() -> None:
    pair = Pair()
    stream = pair.open()
    assert pair.peer.remote_settings.initial_window_size == STREAM_WINDOW
    assert pair.peer.outbound_flow_control_window == CONNECTION_WINDOW
    assert pair.peer.local_flow_control_window(stream) == STREAM_WINDOW


def test_what_is_taken_is_given_back() -> None:
    pair = Pair()
    assert pair.send(pair.open()) > 4 * CONNECTION_WINDOW
    assert pair.ours.withheld == {}


def test_what_is_not_taken_stops_its_own_stream() -> None:
    pair = Pair()
    slow, quick = pair.open(), pair.open()
    full = {slow}
    pair.ours.full = full.__contains__
    assert pair.send(slow) == STREAM_WINDOW
    assert sum(pair.ours.withheld.values()) == STREAM_WINDOW
    assert pair.send(quick) > STREAM_WINDOW
    pair.ours.give_back()
    assert pair.send(slow) == 0
    full.clear()
    pair.ours.give_back()
    pair.move()
    assert pair.ours.withheld == {}
    assert pair.send(slow) > STREAM_WINDOW


def test_many_streams_that_are_not_taken_stop_at_the_connections_window() -> None:
    pair = Pair()
    pair.ours.full = lambda _stream: True
    assert sum(pair.send(pair.open()) for _ in range(20)) == CONNECTION_WINDOW


def test_a_stream_that_ended_meanwhile_is_given_back_to_its_connection() -> None:
    pair = Pair()
    for _ in range(20):  # more than the connection's window holds
        stream = pair.open()
        pair.ours.full = lambda _stream: True
        assert pair.send(stream) == STREAM_WINDOW
        pair.peer.reset_stream(stream)
        pair.move()
        pair.ours.full = lambda _stream: False
        pair.ours.give_back()
        pair.move()
        assert pair.ours.withheld == {}


def made() -> context.Context:
    client = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), alpn=b"h2")
    opts = options.Options()
    opts.add_option("validate_inbound_headers", bool, True, "")
    opts.add_option("http2_ping_keepalive", int, 0, "")
    return context.Context(client, opts)


@pytest.mark.parametrize("side", [ClientHttp2, UpstreamHttp2])
def test_both_sides_have_windows_and_take_an_event_after_their_end(side: type[Any]) -> None:
    codec = side(made())
    assert isinstance(codec.h2_conn, Windowed)
    [hello] = [one for one in codec.handle_event(events.Start()) if isinstance(one, commands.SendData)]
    assert STREAM_WINDOW.to_bytes(4, "big") in hello.data
    assert list(codec.handle_event(Room())) == []
    list(codec.handle_event(events.ConnectionClosed(codec.conn)))
    assert list(codec.handle_event(Room())) == []


def test_mitmproxy_makes_connections_to_upstreams_of_our_class() -> None:
    assert vars(http_layers)["Http2Client"] is UpstreamHttp2
    assert UpstreamHttp2(made()).h2_conn.local_settings.enable_push == 0
