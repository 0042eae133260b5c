"""Properties of a session: how bytes are cut never matters, what is cut off never harms, one command is in flight."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Outcome, Side, Wait
from tests.support import mysql_wire as wire
from tests.support.examples import examples
from tests.support.mysql_talk import Talk, anything
from tests.support.mysql_wire import packets, query

# (what the client sends, what the server answers): a dialogue with every kind of command
SELECT = wire.result([wire.column("id"), wire.column("n")], [wire.row("1", None), wire.row("", "x" * 300)])
TWO = wire.result([wire.column("id")], [wire.row("1")], status=wire.AUTOCOMMIT | wire.MORE)
TWO += wire.result([wire.column("id")], [], first=len(wire.split(TWO)) + 1)
LONG = wire.command(0x17, struct.pack("<IBI", 3, 0, 1) + b"\0\1" + struct.pack("<H", 0xFC))
DIALOGUE = [
    (query("SELECT id, total FROM orders"), SELECT),
    (query("SELECT id FROM orders; SELECT id FROM orders"), TWO),
    (wire.PING, packets(1, wire.ok())),
    (wire.prepare("SELECT total FROM orders WHERE id = ?"), wire.prepared(3, 1, 1)),
    (wire.long_data(3, 0, "abc"), b""),
    (LONG, wire.result([wire.column("total", "", 8)], [wire.binary_row(5)])),
    (wire.close(3), b""),
    (wire.command(0x02, "other"), packets(1, wire.ok())),
    (wire.command(0x09), packets(1, b"Uptime: 7")),
    (wire.command(0x11, "root"), b""),
    (query("DROP TABLE orders"), b""),
    (query("nonsense ("), b""),
    (query("INSERT INTO orders VALUES (1, 2)"), packets(1, wire.ok(1))),
    (query("SELECT nope FROM orders"), packets(1, wire.err())),
]


def _cut(data: bytes, draw: Any) -> Iterator[bytes]:
    while data:
        n = draw(st.integers(1, len(data)))
        yield data[:n]
        data = data[n:]


@functools.cache
def _whole() -> tuple[bytes, bytes, list[dict[str, Any]]]:
    talk = Talk()
    up = down = b""
    for sent, answer in DIALOGUE:
        up += talk.client(sent)
        down += talk.down() + talk.server(answer)
    assert not talk.ended
    return up, down, talk.port.records


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same(data: st.DataObject) -> None:
    talk = Talk()
    up = down = b""
    for sent, answer in DIALOGUE:
        for piece in _cut(sent, data.draw):
            up += talk.client(piece)
        down += talk.down()
        for piece in _cut(answer, data.draw):
            down += talk.server(piece)
    assert (up, down, talk.port.records) == _whole()


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_any_pipelining_gives_the_same(data: st.DataObject) -> None:
    """The client sends everything at once, cut anywhere; the server answers what reaches it."""
    talk = Talk()
    answers = {sent: answer for sent, answer in DIALOGUE if answer}
    up = down = b""
    for piece in _cut(b"".join(sent for sent, _ in DIALOGUE), data.draw):
        talk.session.client(piece)
        while fresh := talk.up():
            up += fresh
            down += talk.down()
            pending = [answers[s] for s in answers if fresh.endswith(s)]
            assert len(pending) <= 1
            for answer in pending:
                down += talk.server(answer)
        down += talk.down()
    whole_up, whole_down, records = _whole()
    assert (up, down) == (whole_up, whole_down)
    assert [r["t"] for r in talk.port.records] == [r["t"] for r in records]


@settings(max_examples=examples(80), deadline=None)
@given(st.data())
def test_any_truncation_and_any_noise_end_a_session_and_not_the_process(data: st.DataObject) -> None:
    talk = Talk(anything)
    for sent, answer in DIALOGUE:
        if data.draw(st.integers(0, 9)) == 0:
            bytes_ = bytearray(sent if data.draw(st.booleans()) else answer or sent)
            at = data.draw(st.integers(0, len(bytes_) - 1))
            bytes_[at] = data.draw(st.integers(0, 255))
            (talk.session.client if data.draw(st.booleans()) else talk.session.server)(bytes(bytes_))
        talk.client(sent)
        talk.server(answer[: data.draw(st.integers(0, len(answer)))])
        if talk.session.waiting is Wait.HOLD:
            talk.resume(Outcome.DENIED)
    talk.session.lost(data.draw(st.sampled_from(Side)))
    assert talk.ended
    assert talk.session.current is None


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_of_either_side(client: bytes, server: bytes) -> None:
    talk = Talk()
    talk.client(client)
    talk.server(server)
    talk.client(client)
    talk.session.lost(Side.CLIENT)
    assert talk.ended


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from(range(len(DIALOGUE))), max_size=12), st.data())
def test_one_command_is_in_flight_whatever_the_order(order: list[int], data: st.DataObject) -> None:
    """Commands of any order: nothing denied goes up, and a second one only goes up once the first is answered."""
    talk = Talk()
    for i in order:
        sent, answer = DIALOGUE[i]
        fresh = talk.client(sent)
        assert b"DROP" not in fresh
        if talk.ended:
            return
        if talk.session.current is None:
            talk.down()
            continue
        assert talk.client(wire.PING) == b""
        talk.server(answer)
        if talk.ended:
            return
        assert talk.up() == wire.PING
        talk.server(packets(1, wire.ok()))
        assert talk.session.current is None
        assert talk.session.backlog == 0
