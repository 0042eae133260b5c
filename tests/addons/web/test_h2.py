"""An HTTP/2 upstream that lies, floods or leaves; a client that floods: frame by frame, without sockets."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Encoder
from hyperframe import frame as frames

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from mitmproxy.connection import ConnectionState
    from mitmproxy.proxy import events

    from addons.web.h2 import MAX_INTERIM, MAX_TABLE, ClientHttp2, UpstreamHttp2
    from addons.web.port import Forward
    from addons.web.resets import IDLE_BURST
    from tests.support.http_raw import ok
    from tests.support.http_talk import Exchange, Talk

SECRET = "s3cr3t-of-the-upstream"
OK = [(":status", "200"), ("content-type", "text/plain")]


class Seen:
    """What a client has got on one stream."""

    def __init__(self) -> None:
        self.status = ""
        self.kind = ""
        self.body = b""
        self.ended = False
        self.reset: int | None = None


class Two(Talk):
    """A client and an upstream that both speak HTTP/2: the client as it should, the upstream as a test says."""

    def __init__(
        self, adjust: Callable[[Exchange], None] = lambda e: None, upstream_alpn: bytes | None = b"h2"
    ) -> None:
        super().__init__(adjust, alpn=b"h2", upstream_alpn=upstream_alpn)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.peer = h2.connection.H2Connection(config)
        self.peer.initiate_connection()
        self.seen: dict[int, Seen] = {}
        self.encoder = Encoder()
        self.gone = False  # the client's connection was ended by ours
        self._read = 0
        self.move()

    def move(self) -> None:
        if data := self.peer.data_to_send():
            self.says(data)
        data, self._read = self.down[self._read :], len(self.down)
        for event in self.peer.receive_data(data):
            seen = self.seen.get(getattr(event, "stream_id", 0) or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.gone = True
            elif seen is None:
                continue
            elif isinstance(event, h2.events.ResponseReceived):
                headers = dict(event.headers)
                seen.status, seen.kind = str(headers[":status"]), str(headers.get("content-type", ""))
            elif isinstance(event, h2.events.DataReceived):
                seen.body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                seen.ended = True
            elif isinstance(event, h2.events.StreamReset):
                seen.reset = int(event.error_code)
        if not self.gone and (data := self.peer.data_to_send()):
            self.says(data)

    def ask(self, method: str = "GET", *, end: bool = True) -> int:
        stream = int(self.peer.get_next_available_stream_id())
        self.seen[stream] = Seen()
        fields = [(":method", method), (":scheme", "https"), (":path", "/a"), (":authority", "up.example")]
        self.peer.send_headers(stream, fields, end_stream=end)
        before = self.server
        self.move()
        if self.server is not before:
            self.encoder = Encoder()
            if self._upstream_alpn and not self.refuses:
                self.answers(settings())
        self.move()
        return stream

    def told(self, *said: bytes) -> None:
        """The upstream says it."""
        self.answers(b"".join(said))
        self.move()

    def upstream_closes(self) -> None:
        assert self.server is not None
        self.server.state = ConnectionState.CLOSED
        self._feed(events.ConnectionClosed(self.server))
        self.move()

    def headers(self, fields: list[tuple[str, str]], stream: int = 1, *flags: str) -> bytes:
        made = frames.HeadersFrame(stream, self.encoder.encode(fields))
        made.flags.add("END_HEADERS")
        for flag in flags:
            made.flags.add(flag)
        return bytes(made.serialize())

    @property
    def codec(self) -> UpstreamHttp2:
        assert self.server is not None
        found: Any = self.layer.connections[self.server]
        while not isinstance(found, UpstreamHttp2):
            found = found.child_layer
        return found

    @property
    def client_codec(self) -> ClientHttp2:
        found = self.layer.connections[self.client]
        assert isinstance(found, ClientHttp2)
        return found


def settings(**values: int) -> bytes:
    made = frames.SettingsFrame(0)
    made.settings = {getattr(frames.SettingsFrame, name): value for name, value in values.items()}
    return bytes(made.serialize())


def data(content: bytes, stream: int = 1, *flags: str) -> bytes:
    made = frames.DataFrame(stream, content)
    for flag in flags:
        made.flags.add(flag)
    return bytes(made.serialize())


def goaway(last: int, code: int = 0, text: bytes = SECRET.encode()) -> bytes:
    return bytes(frames.GoAwayFrame(0, last, code, text).serialize())


def reset(code: int, stream: int = 1) -> bytes:
    return bytes(frames.RstStreamFrame(stream, code).serialize())


def window(increment: int, stream: int = 0) -> bytes:
    made = frames.WindowUpdateFrame(stream)
    made.window_increment = increment
    return raw(made.type, 0, stream, increment.to_bytes(4, "big"))


def raw(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def ping() -> bytes:
    return raw(6, 0, 0, bytes(8))


def endless_block(two: Two) -> bytes:
    first = frames.HeadersFrame(1, two.encoder.encode(OK)).serialize()
    return bytes(first) + raw(9, 0, 1, b"") * 100


def bomb(two: Two) -> bytes:
    """A few bytes that open to more headers than fit anywhere: one long field, said again and again."""
    block = two.encoder.encode([*OK, ("x", "a" * 4000)]) + b"\xbe" * 2000
    return raw(1, 0x4, 1, block)


def test_an_answer_passes() -> None:
    two = Two()
    stream = two.ask()
    two.told(two.headers(OK), data(b"hello", 1, "END_STREAM"))
    seen = two.seen[stream]
    assert (seen.status, seen.body, seen.ended) == ("200", b"hello", True)
    assert two.exchanges[0].told == ["finished"]


LIES: dict[str, Callable[[Two], bytes]] = {
    "data before a head": lambda two: data(b"x"),
    "no status": lambda two: two.headers([("content-type", "text/plain")]),
    "a status that is a word": lambda two: two.headers([(":status", SECRET)]),
    "a status of two digits": lambda two: two.headers([(":status", "20")]),
    "a status below all": lambda two: two.headers([(":status", "-5")]),
    "a status with underscores": lambda two: two.headers([(":status", "2_0")]),
    "two statuses": lambda two: two.headers([(":status", "200"), (":status", "204")]),
    "a head with a request in it": lambda two: two.headers([*OK, (":path", "/")]),
    "an upper-case name": lambda two: two.headers([*OK, ("X-A", "b")]),
    "a connection header": lambda two: two.headers([*OK, ("connection", "close")]),
    "the end of a line in a value": lambda two: two.headers([*OK, ("x", "a\r\nset-cookie: b")]),
    "an answer on another stream": lambda two: two.headers(OK, 99),
    "an answer on a stream of its own": lambda two: two.headers(OK, 2),
    "a promise": lambda two: raw(5, 0x4, 1, (2).to_bytes(4, "big") + two.encoder.encode([(":method", "GET")])),
    "a head without end": endless_block,
    "a head that grows": bomb,
    "a naked continuation": lambda two: raw(9, 0x4, 1, b""),
    "another frame within a head": lambda two: raw(1, 0, 1, b"") + ping(),
    "a frame above all sizes": lambda two: (1 << 20).to_bytes(3, "big") + bytes([0, 0]) + (1).to_bytes(4, "big"),
    "a head that is no hpack": lambda two: raw(1, 0x4, 1, b"\xff" * 20),
    "padding beyond the frame": lambda two: raw(1, 0xC, 1, b"\xff" + two.encoder.encode(OK)),
    "a window beyond all": lambda two: window(2**31 - 1) * 2,
    "a window of nothing": lambda two: window(0),
    "a window setting beyond all": lambda two: raw(4, 0, 0, b"\0\4\xff\xff\xff\xff"),
    "a frame size below all": lambda two: settings(MAX_FRAME_SIZE=5),
    "settings of half a length": lambda two: raw(4, 0, 0, b"\0\4\0"),
    "settings on a stream": lambda two: raw(4, 0, 1, b""),
    "a ping of five bytes": lambda two: raw(6, 0, 0, b"hello"),
    "HTTP/1": lambda two: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "zero bytes": lambda two: bytes(4096),
    "text": lambda two: SECRET.encode() * 20,
    "a reset": lambda two: reset(2),
    "a reset as if we had asked for it": lambda two: reset(8),
    "a reset of an unknown kind": lambda two: reset(0xDEAD),
    "an angry end": lambda two: goaway(1, 11),
    "a polite end before it": lambda two: goaway(0),
    "interim answers without end": lambda two: two.headers([(":status", "103")]) * (MAX_INTERIM + 1),
    "an interim answer that is the last": lambda two: two.headers([(":status", "103")], 1, "END_STREAM"),
    "pings without end": lambda two: ping() * (IDLE_BURST + 100),
    "settings without end": lambda two: settings(HEADER_TABLE_SIZE=0) * (IDLE_BURST + 100),
    "priorities without end": lambda two: raw(2, 0, 1, bytes(5)) * (IDLE_BURST + 100),
    "windows without end": lambda two: window(1) * (IDLE_BURST + 100),
    "unknown frames without end": lambda two: raw(0xEE, 0, 0, b"") * (IDLE_BURST + 100),
    "resets of nothing without end": lambda two: reset(8, 99) * (IDLE_BURST + 100),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_in_the_place_of_an_answer_is_a_problem(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    two = Two()
    stream = two.ask()
    two.told(LIES[what](two))
    seen = two.seen[stream]
    assert (seen.status, seen.kind, seen.ended) == ("502", "application/problem+json", True), vars(seen)
    assert json.loads(seen.body)["request_id"] == "e1"
    [told] = two.exchanges[0].told
    assert told.startswith("failed: the ")
    for text in (seen.body.decode(), told, two.logged, caplog.text):
        assert SECRET not in text
    assert "internal error" not in caplog.text
    # the client's connection lives, and the next request has an upstream
    again = two.ask()
    assert not two.gone
    two.told(two.headers(OK, two.codec.our_stream_id[again], "END_STREAM"))
    assert two.seen[again].status == "200"


CUTS: dict[str, Callable[[Two], bytes]] = {
    "more than its length": lambda two: data(b"12345"),
    "less than its length": lambda two: data(b"1", 1, "END_STREAM"),
    "another head": lambda two: two.headers(OK),
    "trailers that are a head": lambda two: two.headers([(":status", "204")], 1, "END_STREAM"),
    "a reset": lambda two: reset(0),
    "an end": lambda two: goaway(1, 2),
    "empty pieces without end": lambda two: data(b"") * (IDLE_BURST + 100),
    "padding without end": lambda two: raw(0, 0x8, 1, b"\x07" + bytes(7)) * (IDLE_BURST + 100),
}


@pytest.mark.parametrize("what", CUTS)
def test_a_lie_within_an_answer_cuts_it(what: str) -> None:
    two = Two()
    stream = two.ask()
    two.told(two.headers([*OK, ("content-length", "2")]))
    assert two.seen[stream].status == "200"
    two.told(CUTS[what](two))
    seen = two.seen[stream]
    assert seen.reset is not None
    assert not seen.ended
    assert len(seen.body) <= 2
    assert two.exchanges[0].told[0].startswith("failed")
    assert not two.gone


def test_trailers_do_not_pass() -> None:
    two = Two()
    stream = two.ask()
    two.told(two.headers(OK), data(b"x"), two.headers([("x-late", SECRET)], 1, "END_STREAM"))
    assert (two.seen[stream].body, two.seen[stream].ended) == (b"x", True)
    assert SECRET.encode() not in two.down


def test_an_error_has_no_body_for_head() -> None:
    two = Two()
    stream = two.ask("HEAD")
    two.told(reset(2))
    seen = two.seen[stream]
    assert (seen.status, seen.body, seen.ended) == ("502", b"", True)


@pytest.mark.parametrize("times", [1, 3])
def test_a_client_that_leaves_while_its_request_is_judged(times: int, caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> Forward:
        return Forward()

    def waits(exchange: Exchange) -> None:
        exchange.begin = lambda end_stream: later()  # type: ignore[method-assign]

    two = Two(waits)
    two.patient = True
    for _ in range(times):
        two.ask()
    two.leaves()
    while two.steps:
        two.goes_on()
    assert two.server is None or two.server in two.closed or two.up == b""
    assert "internal error" not in caplog.text
    assert len(two.layer.streams) == 0


# ---------------------------------------------------------------- an upstream that leaves


def test_what_has_begun_is_finished_where_an_upstream_leaves() -> None:
    two = Two()
    first, second = two.ask(), two.ask()
    left = two.server
    two.told(two.headers(OK), goaway(1), data(b"half"))
    assert (two.seen[first].body, two.seen[first].ended) == (b"half", False)
    assert two.seen[second].status == "502"  # the upstream has not looked at it
    two.told(data(b" and half", 1, "END_STREAM"))
    assert (two.seen[first].body, two.seen[first].ended) == (b"half and half", True)
    assert left in two.closed  # nobody needs it any more
    third = two.ask()
    assert two.server is not left
    two.told(two.headers(OK, 1, "END_STREAM"))
    assert two.seen[third].status == "200"


def test_an_upstream_that_leaves_in_two_steps() -> None:
    """Go's server first says that it will leave, then which requests it still takes."""
    two = Two()
    first = two.ask()
    left = two.server
    two.told(goaway(2**31 - 1))
    second = two.ask()
    assert two.server is not left
    assert two.seen[second].status == ""
    two.server, new = left, two.server
    two.encoder = Encoder()
    two.told(goaway(1), two.headers(OK, 1, "END_STREAM"))
    assert two.seen[first].status == "200"
    two.server, two.encoder = new, Encoder()
    two.told(two.headers(OK, 1, "END_STREAM"))
    assert two.seen[second].status == "200"


@pytest.mark.parametrize("how", ["closes", "leaves", "breaks"])
def test_who_waits_for_a_turn_is_told_that_there_is_none(how: str) -> None:
    two = Two()
    first = two.ask()
    two.told(settings(MAX_CONCURRENT_STREAMS=1))
    second = two.ask("POST", end=False)
    two.peer.send_data(second, b"body", end_stream=True)
    two.move()
    assert two.seen[second].status == ""
    if how == "closes":
        two.upstream_closes()
    elif how == "leaves":
        two.told(goaway(1))
    else:
        two.told(b"\xff" * 100)
    assert two.seen[second].status == "502"
    assert (two.seen[first].status == "502") == (how != "leaves")


# ---------------------------------------------------------------- bounds


def test_streams_that_are_over_leave_nothing() -> None:
    two = Two()
    for number in range(300):
        stream = two.ask()
        two.told(two.headers(OK, 2 * number + 1), data(b"x", 2 * number + 1, "END_STREAM"))
        assert two.seen[stream].ended
    codec = two.codec
    for kept in (codec.our_stream_id, codec.their_stream_id, codec.streams, codec.stream_queue):
        assert len(kept) == 0
    assert len(two.client_codec.streams) == 0
    assert len(two.layer.streams) == 0


def test_connections_that_are_over_leave_nothing() -> None:
    """To an upstream of HTTP/1 each request of a client of HTTP/2 has one of its own, with TLS and all."""
    two = Two(upstream_alpn=None)
    for _ in range(50):
        stream = two.ask()
        two.told(ok())
        assert two.seen[stream].ended
        two.upstream_closes()
    assert len(two.layer.connections) == 1
    assert two.layer.waiting_for_establishment == {}
    assert two.layer.flow._upstreams == {}


def test_what_comes_late_from_a_connection_that_is_over_is_nothing() -> None:
    two = Two(upstream_alpn=None)
    stream = two.ask()
    two.told(ok())
    two.upstream_closes()
    two.told(ok())
    two.upstream_closes()
    assert not two.gone
    assert two.seen[stream].body == b"{}"


def test_an_upstream_that_comes_back_is_found_again() -> None:
    """mitmproxy would tell the first error to all that come later: a client that keeps its connection would see no
    other answer again."""
    two = Two()
    two.refuses = "connection refused"
    first = two.ask()
    assert two.seen[first].status == "502"
    two.refuses = ""
    second = two.ask()
    two.told(two.headers(OK, 1, "END_STREAM"))
    assert two.seen[second].status == "200"
    assert len(two.layer.connections) == 2


def test_a_body_that_waits_for_a_turn_goes_with_its_request() -> None:
    """Not: stays in the queue of an upstream that takes no more, for each request that a client gives up."""
    two = Two()
    two.ask()
    two.told(settings(MAX_CONCURRENT_STREAMS=1))
    for _ in range(20):
        stream = two.ask("POST", end=False)
        two.peer.send_data(stream, b"x" * 1000)
        two.move()
        two.peer.reset_stream(stream, 8)
        two.move()
    assert len(two.codec.stream_queue) == 0


def test_fields_that_are_remembered_for_a_peer_are_bounded() -> None:
    two = Two()
    two.ask()
    two.told(*[settings(HEADER_TABLE_SIZE=2**31 - 1), settings(HEADER_TABLE_SIZE=0)] * 50)
    two.told(settings(HEADER_TABLE_SIZE=2**31 - 1))
    encoder = two.codec.h2_conn.encoder
    assert encoder.header_table_size == MAX_TABLE
    assert len(encoder.table_size_changes) <= 2


def test_a_busy_upstream_may_acknowledge_and_measure() -> None:
    def streams(exchange: Exchange) -> None:
        exchange.begin = lambda end_stream: Forward()  # type: ignore[method-assign]
        exchange.body = lambda data: data  # type: ignore[method-assign]

    two = Two(streams)
    stream = two.ask("POST", end=False)
    for _ in range(2 * IDLE_BURST):
        two.peer.send_data(stream, b"x")
        two.move()
        two.told(window(1), window(1, 1), ping())
    assert two.seen[stream].status == ""
    two.told(two.headers(OK, 1, "END_STREAM"))
    assert two.seen[stream].status == "200"


@pytest.mark.parametrize("begin", [(1 << 20).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1]), b"GET", b"\xff" * 100])
def test_a_frame_above_all_sizes_is_not_waited_for(begin: bytes) -> None:
    """h2 itself looks at the length once all of the frame is there, and before anybody has logged in."""
    two = Two()
    two.says(begin)
    two.move()
    assert two.gone
    assert two.client in two.closed


@pytest.mark.parametrize(
    "frame", [ping(), settings(), raw(2, 0, 1, bytes(5)), raw(0xEE, 0, 0, b""), window(1), raw(4, 1, 0, b"")]
)
def test_a_client_that_floods_is_cut_off(frame: bytes) -> None:
    two = Two()
    two.says(frame * (IDLE_BURST + 100))
    two.move()
    assert two.gone
    assert two.client in two.closed
    assert len(two.floods) == 1
