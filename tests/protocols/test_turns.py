"""One session has the event loop for a while: what it sent beyond that waits for its next turn, and nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from protocols.contract import Wait
from protocols.waits import TURN_NS
from tests.support import mysql_talk, mysql_wire, talk, wire
from tests.support.port import Dialogue


def busy(made: Dialogue) -> Any:
    """Each look at the clock shows that a third of a turn has passed."""
    clock = itertools.count(int(made.port.time * 1e9), TURN_NS // 3)
    made.port.now_ns = lambda: next(clock)  # type: ignore[method-assign]
    return made


def sent(made: Any, data: bytes) -> tuple[bytes, bytes, int]:
    """-> (up, down, turns)."""
    up, turns = made.client(data), 0
    down: bytes = made.down()
    while made.session.waiting is Wait.TURN:
        turns += 1
        up += made.resume(None)
        down += made.down()
    return up, down, turns


PG = [wire.query(f"SELECT {n}") for n in range(40)]
PG_EXTENDED = [
    part for n in range(20) for part in (wire.parse(f"s{n}", f"SELECT {n}"), wire.bind("", f"s{n}"), wire.SYNC)
]
MY = [mysql_wire.query(f"DROP TABLE t{n}") for n in range(40)]  # refused: nothing is in flight between them


@pytest.mark.parametrize(
    ("make", "messages"),
    [(talk.Talk, PG), (talk.Talk, PG_EXTENDED), (mysql_talk.Talk, MY)],
    ids=["postgres", "pipelined", "mysql"],
)
@pytest.mark.parametrize("cut", [0, 7])
def test_what_comes_at_once_is_taken_in_turns(make: Callable[[], Any], messages: list[bytes], cut: int) -> None:
    data = b"".join(messages)
    whole, made = make(), busy(make())
    at_once = sent(whole, data)
    assert at_once[2] == 0
    up, down, turns = sent(made, data[: len(data) - cut])
    more = sent(made, data[len(data) - cut :])
    assert (up + more[0], down + more[1]) == at_once[:2]
    assert turns > 5
    assert made.commands() == whole.commands()
    assert made.session.backlog == 0


def test_what_comes_meanwhile_stays_behind() -> None:
    made = busy(talk.Talk())
    up = made.client(b"".join(PG[:20]))
    assert made.session.waiting is Wait.TURN
    assert made.client(b"".join(PG[20:])) == b""
    assert up + sent(made, b"")[0] == b"".join(PG)


def test_who_has_left_has_no_next_turn() -> None:
    made = busy(talk.Talk())
    made.client(b"".join(PG))
    count = len(made.commands())
    made.session.terminate("contained")
    assert made.resume(None) == b""
    assert len(made.commands()) == count < len(PG)


def test_a_client_that_breaks_the_protocol_behind_a_wait_is_told_what_it_did() -> None:
    """Not that the server did, whose answer ended the wait."""
    made = talk.Talk()
    made.client(wire.query("SET search_path = evil") + wire.query("SELECT 1") + wire.close("S", "x" * 64))
    assert made.session.waiting is Wait.SERVER
    down = made.server(wire.complete("SET") + wire.ready())
    assert made.ended
    assert wire.errors(down)[-1]["C"] == "42622"
