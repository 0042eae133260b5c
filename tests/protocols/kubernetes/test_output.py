"""What a command prints is masked on its way, prompts still come, and nothing leaves behind the final status."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.kubernetes import spdy
from protocols.kubernetes.channels import V5, Channel, ExecWebSocket
from protocols.kubernetes.output import DELAY_NS, MaskedOutput
from protocols.kubernetes.spdystreams import ExecSpdy

SUCCESS = b'\x03{"metadata":{},"status":"Success"}'


class Lines:
    """Masks `secret` in whole lines; holds back a line that has not ended."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        *lines, self._held = (self._held + data).split(b"\n")
        return b"".join(line.replace(b"secret", b"***") + b"\n" for line in lines)

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return held.replace(b"secret", b"***")


def masked(stream: ExecWebSocket | ExecSpdy) -> MaskedOutput:
    return MaskedOutput(stream, Lines)


def test_a_value_cut_by_messages() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    assert output.server([stream.server(b"\x01a sec")], 1).wire == []
    shown = output.server([stream.server(b"\x01ret\nb")], 2)
    assert shown.wire == [b"\x01a ***\n"]
    assert shown.output == ((Channel.STDOUT, b"a ***\n"),)


def test_a_prompt_comes_after_the_delay() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    assert output.due_ns is None
    output.server([stream.server(b"\x01$ ")], 1000)
    assert output.due_ns == 1000 + DELAY_NS
    assert output.tick(1000 + DELAY_NS - 1).wire == []
    assert output.tick(1000 + DELAY_NS).wire == [b"\x01$ "]
    assert output.due_ns is None
    assert output.tick(10 * DELAY_NS).wire == []


def test_output_without_a_pause_and_without_a_line_end_comes_too() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    for n in range(10):
        assert output.server([stream.server(b"\x01.")], n * DELAY_NS // 10).wire == []
    assert output.due_ns == DELAY_NS
    assert output.tick(DELAY_NS).wire == [b"\x01.........."]


def test_the_final_status_leaves_behind_everything_else() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    pieces = [stream.server(b"\x01out secret"), stream.server(b"\x02err secret"), stream.server(SUCCESS)]
    assert output.server(pieces, 1).wire == [b"\x01out ***", b"\x02err ***", SUCCESS]


def test_the_first_empty_message_and_the_transports_own_pass() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    assert output.server([stream.server(b"\x01")], 1).wire == [b"\x01"]


def test_a_server_that_is_gone() -> None:
    stream = ExecWebSocket(V5)
    output = masked(stream)
    output.server([stream.server(b"\x01half a secret")], 1)
    assert output.end().wire == [b"\x01half a ***"]
    assert output.end().wire == []


def test_over_spdy() -> None:
    stream, client, server = ExecSpdy(), spdy.Encoder(), spdy.Encoder()
    for number, kind in ((1, "error"), (3, "stdout")):
        stream.client(client.encode(spdy.SynStream(number, {"streamtype": kind})))
    output = masked(stream)
    reply = server.encode(spdy.SynReply(3, {}))
    assert output.server(stream.server(reply), 1).wire == [reply]
    wire = server.encode(spdy.Data(3, b"a secret\nand a sec")) + server.encode(spdy.Data(3, b"ret", True))
    shown = output.server(stream.server(wire), 2)
    frames = [frame for frame, _ in spdy.Decoder().feed(b"".join(shown.wire))]
    assert frames == [spdy.Data(3, b"a ***\n"), spdy.Data(3, b"and a ***", True)]


def test_an_end_without_data_is_passed_on() -> None:
    stream, client = ExecSpdy(), spdy.Encoder()
    stream.client(client.encode(spdy.SynStream(1, {"streamtype": "stdout"})))
    end = spdy.Encoder().encode(spdy.Data(1, b"", True))
    assert masked(stream).server(stream.server(end), 1).wire == [end]


def test_a_mask_that_fails_is_raised() -> None:
    class Broken(Lines):
        def feed(self, data: bytes) -> bytes:
            raise RuntimeError("broken")

    stream = ExecWebSocket(V5)
    with pytest.raises(RuntimeError):
        MaskedOutput(stream, Broken).server([stream.server(b"\x01secret")], 1)


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_nothing_is_lost(said: list[bytes], ticks: list[bool]) -> None:
    assume(b"secret" not in b"".join(said))
    stream = ExecWebSocket(V5)
    output = masked(stream)
    wire: list[bytes] = []
    for n, data in enumerate(said):
        wire += output.server([stream.server(b"\x01" + data)], n + 1).wire
        if ticks[n]:
            wire += output.tick(n + 1 + DELAY_NS).wire
    wire += output.server([stream.server(b"\x03" + json.dumps({"status": "Success"}).encode())], 99).wire
    assert b"".join(message[1:] for message in wire[:-1]) == b"".join(said)
    assert wire[-1][0] == Channel.ERROR
