"""Results of FunctionCall (the fast path) that are larger than what is held at once: libpq's lo_read and its like."""

from __future__ import annotations

import base64
import struct

import pytest

from tests.support import wire
from tests.support.port import anything
from tests.support.talk import SSN, Talk
from tests.support.wire import kinds, query, ready

LOREAD = 954  # pg_proc.dat
VALUE = b"078-05-1120" * 30_000
RESULT = wire.message("V", struct.pack("!i", len(VALUE)) + VALUE)


def alive(talk: Talk) -> None:
    assert not talk.session.busy
    sent = query("SELECT 1")
    assert talk.client(sent) == sent
    assert kinds(
        talk.server(wire.columns(wire.field("x", 0, 0, 23)), wire.row(b"1"), wire.complete("SELECT 1"), ready())
    )
    assert not talk.ended
    assert not talk.session.busy


@pytest.mark.parametrize("size", [5, 1000, 65_536, 400_000])
@pytest.mark.parametrize("masks", [[], [SSN]], ids=["no masks", "masks"])
def test_a_large_result_passes_in_pieces(masks: list[object], size: int) -> None:
    """`loread` reads a large object, in which no column is: no mask is about it."""
    talk = Talk(anything, masks=masks, inspect_max=100_000, response_max=50)  # type: ignore[arg-type]
    call = wire.call(LOREAD, [b"\0\0\0\0", b"\0\1\0\0"])
    assert talk.client(call) == call
    answer = RESULT + ready()
    parts = [answer[:size], *[answer[at : at + 40_000] for at in range(size, len(answer), 40_000)]]
    seen = []
    for part in parts:
        seen.append(talk.server(part))
        assert talk.session._from_server.buffered <= 100_000
    assert b"".join(seen) == answer
    if size < 65_536:
        assert len(seen[2]) == 40_000, "not held until it is whole"
    assert talk.responses() == [(1, "ok")]
    assert talk.last()["bytes"] == len(RESULT)
    assert base64.b64decode(talk.last()["wire"]) == RESULT[:50]
    assert talk.last()["truncated"] is True
    alive(talk)


def test_a_large_result_that_is_withheld_is_null_and_the_session_goes_on() -> None:
    talk = Talk(anything, masks=[SSN], inspect_max=100_000)
    talk.client(wire.call(1_234_567))  # no function that anybody knows: it may read anything
    answer = RESULT + ready()
    seen = b"".join(talk.server(answer[at : at + 7_000]) for at in range(0, len(answer), 7_000))
    assert seen == wire.message("V", b"\xff\xff\xff\xff") + ready()
    assert b"078" not in base64.b64decode(talk.last()["wire"])
    assert talk.responses() == [(1, "ok")]
    alive(talk)


def test_a_notice_of_ours_waits_until_the_result_has_passed() -> None:
    talk = Talk(anything, inspect_max=100_000)
    talk.client(wire.call(LOREAD))
    first = talk.server(RESULT[:150_000])
    talk.session.notice("wait for it")
    assert first + talk.server(RESULT[150_000:200_000]) == RESULT[:200_000]
    rest = talk.server(RESULT[200_000:])
    assert rest.startswith(RESULT[200_000:])
    assert kinds(rest[len(RESULT) - 200_000 :]) == "N"
    assert kinds(talk.server(ready())) == "Z"


def test_the_upstream_that_goes_away_in_the_middle_is_lost_on_record() -> None:
    talk = Talk(anything, inspect_max=100_000)
    talk.client(wire.call(LOREAD))
    talk.server(RESULT[:150_000])
    talk.session.terminate("contained")
    assert talk.ended
    assert talk.down() == b"", "inside a message there is no place for another"
    assert talk.responses() == [(1, "lost")]


@pytest.mark.parametrize("masks", [[], [SSN]], ids=["no masks", "masks"])
def test_a_large_result_that_nobody_asked_for_ends_the_session(masks: list[object]) -> None:
    for sent in (query("SELECT 1"), wire.call(1_234_567), b""):
        talk = Talk(masks=masks, inspect_max=100_000)  # type: ignore[arg-type]
        talk.client(sent)
        assert VALUE[:20] not in talk.server(RESULT[:150_000])
        assert talk.ended
