"""Exec and attach over WebSockets and SPDY, port-forward: what is carried, and which lies end the stream."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import Side
from protocols.kubernetes import spdy
from protocols.kubernetes.channels import (
    MAX_MESSAGE,
    V4,
    V5,
    Carried,
    Channel,
    Event,
    ExecWebSocket,
    Finished,
    Piece,
    PortCarried,
    PortFailed,
    PortOpened,
    Resized,
    Resizes,
    choose,
    choose_port_forward,
    read_status,
)
from protocols.kubernetes.errors import RequestRefused, StreamError
from protocols.kubernetes.spdystreams import MAX_PORT_STREAMS, ExecSpdy, PortForwardSpdy

SUCCESS = b'{"metadata":{},"status":"Success"}'
FAILURE = json.dumps(
    {"status": "Failure", "message": "no", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}
).encode()


def events(pieces: list[Piece]) -> list[Event]:
    return [event for piece in pieces for event in piece.events]


def test_protocols_are_chosen() -> None:
    assert choose(["v4.channel.k8s.io", "v5.channel.k8s.io", "channel.k8s.io"]) == V5
    assert choose(["base64.channel.k8s.io", "v4.channel.k8s.io"]) == V4
    assert choose_port_forward(["SPDY/3.1+portforward.k8s.io"]) == "SPDY/3.1+portforward.k8s.io"
    for offered in ([], ["base64.channel.k8s.io", "v4.base64.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"]):
        with pytest.raises(RequestRefused, match="kubectl"):
            choose(offered)
    for offered in ([], ["v4.channel.k8s.io", "portforward.k8s.io"]):
        with pytest.raises(RequestRefused, match="kubectl"):
            choose_port_forward(offered)


# ---------------------------------------------------------------- WebSocket


def test_a_conversation_over_a_websocket() -> None:
    stream = ExecWebSocket(V5)
    assert stream.server(b"\x01") == Piece(b"\x01")
    assert stream.client(b"\x00id\n").events == (Carried(Channel.STDIN, b"id\n"),)
    assert stream.client(b'\x04{"Width":80,"Height":24}\n').events == (Resized(80, 24),)
    assert stream.server(b"\x01uid=0").events == (Carried(Channel.STDOUT, b"uid=0"),)
    assert stream.server(b"\x02oops").events == (Carried(Channel.STDERR, b"oops"),)
    assert stream.client(b"\xff\x00").events == (Carried(Channel.STDIN, b"", last=True),)
    assert stream.server(b"\x03" + FAILURE).events == (Finished(3, "no"),)
    assert stream.finished


CLIENT_LIES = [b"", b"\x01x", b"\x02x", b"\x03x", b"\x05x", b"\xfex", b"\xff", b"\xff\x01", b"\xff\x00\x00", b"\x04x}",
               b'\x04{"Width":-1,"Height":1}', b'\x04{"Width":true}', b"\x04" + b" {" * 2000, b"\x04\xff",
               b'\x04{"Width":99999}', b"\x00" + b"x" * MAX_MESSAGE]  # fmt: skip
SERVER_LIES = [b"", b"\x00x", b"\x04x", b"\x05x", b"\xff", b"\xff\x00", b"\x03nothing", b"\x03{}", b"\x03[]",
               b'\x03{"status":"Maybe"}', b"\x03" + b"[" * 60000, b"\x03" + b"x" * 70_000,
               b"\x01" + b"x" * MAX_MESSAGE]  # fmt: skip


@pytest.mark.parametrize("lie", CLIENT_LIES, ids=lambda b: str(b[:20]))
def test_lies_of_a_client(lie: bytes) -> None:
    with pytest.raises(StreamError):
        ExecWebSocket(V5).client(lie)


@pytest.mark.parametrize("lie", SERVER_LIES, ids=lambda b: str(b[:20]))
def test_lies_of_a_server(lie: bytes) -> None:
    with pytest.raises(StreamError):
        ExecWebSocket(V5).server(lie)


def test_lies_in_the_wrong_place() -> None:
    closed = ExecWebSocket(V5)
    closed.client(b"\xff\x00")
    with pytest.raises(StreamError):
        closed.client(b"\x00more")
    ended = ExecWebSocket(V5)
    ended.server(b"\x03" + SUCCESS)
    with pytest.raises(StreamError):
        ended.server(b"\x01more")
    with pytest.raises(StreamError):
        ExecWebSocket(V4).client(b"\xff\x00")
    with pytest.raises(StreamError):
        ExecWebSocket(V4).server(b"\x01x", text=True)
    with pytest.raises(StreamError):
        ExecWebSocket("channel.k8s.io")


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([V4, V5]))
def test_noise_over_a_websocket(noise: bytes, from_client: bool, protocol: str) -> None:
    stream = ExecWebSocket(protocol)
    try:
        piece = stream.client(noise) if from_client else stream.server(noise)
    except StreamError:
        return
    assert piece.wire == noise


@given(st.binary(min_size=1, max_size=50), st.sampled_from([Channel.STDOUT, Channel.STDERR]))
def test_what_is_encoded_is_decoded(data: bytes, channel: Channel) -> None:
    (message,) = ExecWebSocket.encode(Side.UPSTREAM, Carried(channel, data, last=True))
    assert ExecWebSocket(V5).server(message).events == (Carried(channel, data),)
    stream = ExecWebSocket(V5)
    sent = ExecWebSocket.encode(Side.CLIENT, Carried(Channel.STDIN, data, last=True))
    assert events([stream.client(m) for m in sent]) == [Carried(Channel.STDIN, data), Carried(Channel.STDIN, b"", True)]
    assert ExecWebSocket.encode(Side.UPSTREAM, Carried(channel, b"")) == []
    large = ExecWebSocket.encode(Side.UPSTREAM, Carried(channel, data * 50_000))
    assert b"".join(m[1:] for m in large) == data * 50_000
    assert all(len(m) <= MAX_MESSAGE for m in large)


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=4),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_resizes_cut_anywhere(sizes: list[tuple[int, int]], cuts: list[int]) -> None:
    text = b"".join(json.dumps({"Width": w, "Height": h}).encode() + b"\n" for w, h in sizes)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    resizes = Resizes()
    found = [size for a, b in itertools.pairwise(places) for size in resizes.feed(text[a:b])]
    assert found == [Resized(w, h) for w, h in sizes]


@pytest.mark.parametrize("details", [None, [], {"causes": {}}, {"causes": ["x"]}, {"causes": [{"reason": "ExitCode"}]},
                                     {"causes": [{"reason": "ExitCode", "message": "-3"}]}])  # fmt: skip
def test_a_failure_without_an_exit_code(details: object) -> None:
    assert read_status(json.dumps({"status": "Failure", "details": details}).encode()).code == -1


def test_last_words_over_a_websocket() -> None:
    (message,) = ExecWebSocket.ending(FAILURE)
    assert ExecWebSocket(V5).server(message).events == (Finished(3, "no"),)


# ---------------------------------------------------------------- SPDY


class Peer:
    """A client and a server, each with its own compression."""

    def __init__(self, stream: ExecSpdy | PortForwardSpdy) -> None:
        self.stream = stream
        self._encoders = {Side.CLIENT: spdy.Encoder(), Side.UPSTREAM: spdy.Encoder()}
        self._number = -1

    def says(self, side: Side, *frames: spdy.Frame) -> list[Event]:
        wire = b"".join(map(self._encoders[side].encode, frames))
        pieces = (self.stream.client if side is Side.CLIENT else self.stream.server)(wire)
        return events(pieces)

    def opens(self, **headers: str) -> int:
        self._number += 2
        self.says(Side.CLIENT, spdy.SynStream(self._number, headers))
        self.says(Side.UPSTREAM, spdy.SynReply(self._number, {}))
        return self._number


def exec_peer() -> tuple[Peer, dict[str, int]]:
    peer = Peer(ExecSpdy())
    return peer, {kind: peer.opens(streamtype=kind) for kind in ("error", "stdin", "stdout", "stderr", "resize")}


def test_a_conversation_over_spdy() -> None:
    peer, at = exec_peer()
    assert peer.says(Side.CLIENT, spdy.Data(at["stdin"], b"id")) == [Carried(Channel.STDIN, b"id")]
    assert peer.says(Side.CLIENT, spdy.Data(at["resize"], b'{"Width":1,"Height":2}')) == [Resized(1, 2)]
    assert peer.says(Side.CLIENT, spdy.Data(at["error"], b"", True), spdy.Ping(1)) == []
    assert peer.says(Side.CLIENT, spdy.Data(at["stdin"], b"", True)) == [Carried(Channel.STDIN, b"", True)]
    assert peer.says(Side.UPSTREAM, spdy.Data(at["stdout"], b"uid", True)) == [Carried(Channel.STDOUT, b"uid", True)]
    assert peer.says(Side.UPSTREAM, spdy.Data(at["error"], FAILURE[:9])) == []
    assert peer.says(Side.UPSTREAM, spdy.Data(at["error"], FAILURE[9:], True)) == [Finished(3, "no")]
    # nobody reads what comes for a stream that is gone, so that nothing of it passes
    assert peer.stream.server(spdy.Encoder().encode(spdy.Data(at["error"], b"late"))) == [Piece(b"")]


SPDY_LIES: dict[str, Callable[[Peer, dict[str, int]], object]] = {
    "stdout from the client": lambda p, at: p.says(Side.CLIENT, spdy.Data(at["stdout"], b"x")),
    "stdin from the server": lambda p, at: p.says(Side.UPSTREAM, spdy.Data(at["stdin"], b"x")),
    "error from the client": lambda p, at: p.says(Side.CLIENT, spdy.Data(at["error"], b"x")),
    "a stream of the server": lambda p, at: p.says(Side.UPSTREAM, spdy.SynStream(2, {"streamtype": "stdout"})),
    "a type twice": lambda p, at: p.opens(streamtype="stdin"),
    "no type": lambda p, at: p.opens(),
    "another type": lambda p, at: p.opens(streamtype="data"),
    "an even number": lambda p, at: p.says(Side.CLIENT, spdy.SynStream(12, {"streamtype": "stdin"})),
    "a number again": lambda p, at: p.says(Side.CLIENT, spdy.SynStream(1, {"streamtype": "stdin"})),
    "data of none": lambda p, at: p.says(Side.UPSTREAM, spdy.Data(99, b"x")),
    "a reset of none": lambda p, at: p.says(Side.UPSTREAM, spdy.RstStream(99, 1)),
    "a reply to none": lambda p, at: p.says(Side.UPSTREAM, spdy.SynReply(99, {})),
    "headers": lambda p, at: p.says(Side.UPSTREAM, spdy.Headers(at["stdout"], {})),
    "data behind the end": lambda p, at: p.says(
        Side.CLIENT, spdy.Data(at["stdin"], b"", True), spdy.Data(at["stdin"], b"x")
    ),
    "a status that is none": lambda p, at: p.says(Side.UPSTREAM, spdy.Data(at["error"], b"fine", True)),
    "a status without end": lambda p, at: p.says(Side.UPSTREAM, spdy.Data(at["error"], b"x" * 70_000)),
    "unidirectional": lambda p, at: p.says(Side.CLIENT, spdy.SynStream(99, {"streamtype": "x"}, unidirectional=True)),
}


@pytest.mark.parametrize("lie", SPDY_LIES.values(), ids=SPDY_LIES.keys())
def test_lies_over_spdy(lie: Callable[[Peer, dict[str, int]], object]) -> None:
    peer, at = exec_peer()
    with pytest.raises(StreamError):
        lie(peer, at)
    with pytest.raises(StreamError):
        peer.says(Side.CLIENT, spdy.Ping(1))


@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_noise_over_spdy(noise: list[bytes], forward: bool) -> None:
    stream: ExecSpdy | PortForwardSpdy = PortForwardSpdy() if forward else ExecSpdy()
    try:
        for n, data in enumerate(noise):
            (stream.client if n % 2 else stream.server)(data)
    except StreamError:
        return
    assert stream.buffered <= sum(map(len, noise))


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 400), max_size=5))
def test_output_cut_anywhere_and_encoded_again(said: list[bytes], cuts: list[int]) -> None:
    peer, at = exec_peer()
    encode = spdy.Encoder().encode
    wire = b"".join(encode(spdy.Data(at["stdout"], data)) for data in said)
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    pieces = [piece for a, b in itertools.pairwise(places) for piece in peer.stream.server(wire[a:b])]
    assert b"".join(piece.wire for piece in pieces) == wire
    assert isinstance(peer.stream, ExecSpdy)
    again = b"".join(f for e in events(pieces) if isinstance(e, Carried) for f in peer.stream.encode(e))
    assert again == b"".join(encode(spdy.Data(at["stdout"], data)) for data in said if data)


def test_last_words_over_spdy() -> None:
    peer, at = exec_peer()
    assert isinstance(peer.stream, ExecSpdy)
    found = [frame for frame, _ in spdy.Decoder().feed(b"".join(peer.stream.ending(FAILURE)))]
    assert found[0] == spdy.Data(at["error"], FAILURE, True)
    assert {f.stream for f in found if isinstance(f, spdy.RstStream)} == set(at.values()) - {at["error"]}
    assert isinstance(found[-1], spdy.GoAway)
    with pytest.raises(StreamError):
        peer.says(Side.CLIENT, spdy.Ping(1))


# ---------------------------------------------------------------- port-forward


def test_port_forward() -> None:
    peer = Peer(PortForwardSpdy(frozenset({80})))
    error = peer.opens(streamtype="error", port="80", requestid="0")
    assert peer.says(Side.CLIENT, spdy.SynStream(3, {"streamtype": "data", "port": "80", "requestid": "0"})) == [
        PortOpened(80, "0")
    ]
    assert peer.says(Side.CLIENT, spdy.Data(3, b"GET")) == [PortCarried(80, "0", b"GET")]
    assert peer.says(Side.CLIENT, spdy.Data(3, b"", True)) == [PortCarried(80, "0", b"", True)]
    (last,) = peer.says(Side.UPSTREAM, spdy.Data(3, b"200", True))
    assert last == PortCarried(80, "0", b"200", True)
    assert isinstance(peer.stream, PortForwardSpdy)
    assert isinstance(last, PortCarried)
    assert peer.stream.encode(last) == [spdy.Encoder().encode(spdy.Data(3, b"200", True))]
    assert peer.says(Side.UPSTREAM, spdy.Data(error, b"refused", True)) == [PortFailed(80, "0", "refused")]


def test_a_reset_ends_a_connection() -> None:
    peer = Peer(PortForwardSpdy())
    peer.opens(streamtype="error", port="80", requestid="0")
    data = peer.opens(streamtype="data", port="80", requestid="0")
    assert peer.says(Side.CLIENT, spdy.RstStream(data, 5)) == [PortCarried(80, "0", b"", True)]
    assert peer.stream.server(spdy.Encoder().encode(spdy.Data(data, b"late"))) == [Piece(b"")]


@pytest.mark.parametrize(
    "headers",
    [{"streamtype": "stdin", "port": "80", "requestid": "0"}, {"streamtype": "data", "requestid": "0"},
     {"streamtype": "data", "port": "0", "requestid": "0"}, {"streamtype": "data", "port": "65536", "requestid": "0"},
     {"streamtype": "data", "port": "+80", "requestid": "0"}, {"streamtype": "data", "port": "80"},
     {"streamtype": "data", "port": "81", "requestid": "0"}, {"streamtype": "data", "port": "80", "requestid": "x y"}],
    ids=str,
)  # fmt: skip
def test_port_forward_streams_that_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(StreamError):
        Peer(PortForwardSpdy(frozenset({80}))).opens(**headers)


def test_too_many_connections() -> None:
    peer = Peer(PortForwardSpdy())
    for n in range(MAX_PORT_STREAMS):
        peer.opens(streamtype="error", port="80", requestid=str(n))
    with pytest.raises(StreamError, match="too many"):
        peer.opens(streamtype="error", port="80", requestid="x")


def test_last_words_of_a_port_forward() -> None:
    peer = Peer(PortForwardSpdy())
    error = peer.opens(streamtype="error", port="80", requestid="0")
    data = peer.opens(streamtype="data", port="80", requestid="0")
    assert isinstance(peer.stream, PortForwardSpdy)
    found = [frame for frame, _ in spdy.Decoder().feed(b"".join(peer.stream.ending("cut")))]
    assert found == [spdy.Data(error, b"cut", True), spdy.RstStream(data, 5), spdy.GoAway(data, 0)]
