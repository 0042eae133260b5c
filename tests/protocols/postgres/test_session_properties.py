"""Whatever the network does to a conversation, and whatever is put into it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Outcome, Side, Wait
from tests.support import wire
from tests.support.examples import examples
from tests.support.talk import SSN, USERS, Talk
from tests.support.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    close,
    complete,
    copy_data,
    describe,
    execute,
    parse,
    query,
    ready,
)

Steps = Sequence[tuple[str, bytes]]

ROWS = wire.columns(wire.field("ssn", USERS, 2)) + wire.row(b"078-05-1120") + wire.row(None)
# who sends what, in order: each step is cut as the test likes
CONVERSATIONS: dict[str, Steps] = {
    "simple": [
        ("c", query("SELECT ssn FROM users") + query("SELECT 1")),
        ("s", ROWS + complete("SELECT 2") + ready()),
        ("s", wire.columns(wire.field("x")) + wire.row(b"1") + complete("SELECT 1") + ready()),
    ],
    "denied": [
        ("c", query("BEGIN")),
        ("s", complete("BEGIN") + ready("T")),
        ("c", query("DROP TABLE users")),
        ("s", wire.error("42601") + ready("E")),
        ("c", query("ROLLBACK")),
        ("s", complete("ROLLBACK") + ready()),
    ],
    "extended": [
        ("c", parse("s", "SELECT total FROM orders WHERE id = $1") + describe("S", "s") + SYNC),
        ("s", wire.PARSED + wire.parameters(23) + wire.columns(wire.field("total", 20002, 2)) + ready()),
        ("c", bind("p", "s", [b"7"]) + execute("p", 1) + execute("p") + close("P", "p") + SYNC),
        ("s", wire.BOUND + wire.row(b"1") + wire.SUSPENDED + complete("SELECT 0") + wire.CLOSED + ready()),
    ],
    "pipeline with a denial": [
        ("c", parse("", "INSERT INTO orders VALUES (1)") + bind("", "") + execute() + parse("", "DROP TABLE users")),
        ("c", bind("", "") + execute() + SYNC + parse("", "SELECT 2") + bind("", "") + execute() + SYNC),
        ("s", wire.PARSED + wire.BOUND + complete("INSERT 0 1") + wire.error("42601") + ready()),
        ("s", wire.PARSED + wire.BOUND + wire.row(b"2") + complete("SELECT 1") + ready()),
    ],
    "copy in": [
        ("c", parse("", "COPY orders FROM STDIN") + bind("", "") + execute() + SYNC),
        ("s", wire.PARSED + wire.BOUND + wire.copy_in(0, 0)),
        ("c", copy_data(b"1\tx\n") + copy_data(b"2" * 300) + COPY_DONE + SYNC),
        ("s", complete("COPY 2") + ready()),
    ],
    "copy out": [
        ("c", query("COPY orders TO STDOUT")),
        ("s", wire.copy_out(0, 0) + copy_data(b"1\tx\n") + COPY_DONE + complete("COPY 1") + ready()),
    ],
    "changes of meaning": [
        ("c", query("SET search_path = evil; SELECT 1") + query("SELECT * FROM orders")),
        ("s", wire.parameter("search_path", "evil") + complete("SET") + complete("SELECT 1") + ready()),
        ("s", complete("SELECT 0") + ready()),
    ],
}


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)] or [b""]


def converse(steps: Steps, places: Sequence[int], *, masked: bool) -> dict[str, Any]:
    """Plays a conversation, each step cut at these places. The gateway's own Describes are answered."""
    talk = Talk(masks=[SSN] if masked else [])
    up = down = b""
    for who, data in steps:
        for part in cut(data, places):
            if who == "c":
                up += talk.client(part)
            else:
                talk.session.server(part)
                up += talk.up()
            down += talk.down()
    records = [{**r, "us": 0} for r in talk.port.records]
    return {"up": up, "down": down, "records": records, "ended": talk.ended, "busy": talk.session.busy}


UNMASKED = sorted(CONVERSATIONS)
MASKED = ["simple", "denied", "copy out"]


@pytest.mark.parametrize(
    ("name", "masked"), [(n, False) for n in UNMASKED] + [(n, True) for n in MASKED], ids=lambda v: str(v)
)
@settings(max_examples=examples(60), deadline=None)
@given(places=st.lists(st.integers(0, 2000), max_size=30))
def test_any_chunking_is_the_same(name: str, masked: bool, places: list[int]) -> None:
    whole = converse(CONVERSATIONS[name], [], masked=masked)
    assert not whole["ended"]
    assert not whole["busy"]
    assert converse(CONVERSATIONS[name], places, masked=masked) == whole


@pytest.mark.parametrize("name", UNMASKED)
def test_byte_by_byte_is_the_same(name: str) -> None:
    steps = CONVERSATIONS[name]
    assert converse(steps, range(2000), masked=False) == converse(steps, [], masked=False)


@pytest.mark.parametrize("name", UNMASKED)
def test_cut_off_anywhere_loses_nothing_from_the_record(name: str) -> None:
    """After the cut both sides are gone: what was on its way is recorded as lost, and nothing more comes out."""
    stream = [(who, bytes((byte,))) for who, data in CONVERSATIONS[name] for byte in data]
    for end in range(0, len(stream), 7):
        talk = Talk()
        for who, byte in stream[:end]:
            talk.session.client(byte) if who == "c" else talk.session.server(byte)
        talk.session.lost(Side.CLIENT)
        talk.up(), talk.down()
        assert talk.client(query("SELECT 1")) == b""
        assert talk.server(ready()) == b""
        numbers = {r["n"] for r in talk.port.records if r["t"] == "command"}
        assert {n for n, _ in talk.responses()} == numbers


# ---------------------------------------------------------------- garbage

PIECES = [
    query("SELECT 1"), query("SELECT ssn FROM users"), query("DELETE FROM users"), query("DROP TABLE users"),
    query("BEGIN"), query("COMMIT"), query("SET search_path = evil"), query("COPY orders FROM STDIN"),
    query("COPY users TO STDOUT"), query("DEALLOCATE ALL"), query("DECLARE p CURSOR FOR SELECT ssn FROM users"),
    query("CLOSE p"), query(b"\xff"), parse("s", "SELECT ssn FROM users"), parse("s", "DELETE FROM users"),
    parse("", "SELECT 1"), parse("t", "DROP TABLE users"), bind("", ""), bind("p", "s"), bind("", "s"),
    bind("p", "ghost"), describe("S", "s"), describe("P", "p"), execute("p", 1), execute("p"), execute(),
    close("S", "s"), close("P", "p"), wire.call(1), wire.call(9), SYNC, SYNC, FLUSH, COPY_DONE, wire.copy_fail("no"),
    copy_data(b"1\n"), wire.TERMINATE, wire.message("p", b"x\0"), b"Q\0\0\0\3", b"Q\xff\xff\xff\xff",
]  # fmt: skip
ANSWERS = [
    wire.PARSED, wire.BOUND, wire.CLOSED, wire.NO_DATA, wire.SUSPENDED, wire.EMPTY, ready("I"), ready("T"), ready("E"),
    ROWS, wire.row(b"1"), wire.columns(wire.field("x")), complete("SELECT 1"), complete("SET"), complete("COPY 1"),
    wire.error("42601"), wire.error("26000"), wire.error("57P01", severity="FATAL"), wire.notice("n"), wire.copy_in(0),
    wire.copy_out(0), copy_data(b"1\n"), COPY_DONE, wire.parameter("client_encoding", "LATIN1"), wire.parameters(23),
    wire.message("V", b"\xff\xff\xff\xff"), wire.message("A", b"\0\0\0\1c\0p\0"), wire.message("R", b"\0\0\0\0"),
]  # fmt: skip

events = st.one_of(
    st.tuples(st.just("c"), st.sampled_from(PIECES)),
    st.tuples(st.just("s"), st.sampled_from(ANSWERS)),
    st.tuples(st.just("answer"), st.just(b"")),
    st.tuples(st.sampled_from(["c", "s"]), st.binary(max_size=40)),
    st.tuples(st.sampled_from(["approve", "deny", "catalog", "cancel", "policy"]), st.just(b"")),
)


def answer(talk: Talk) -> bytes:
    """What an honest server would say to what the session awaits first."""
    if not talk.session.queue:
        return wire.notice("idle")
    head = talk.session.queue[0]
    if head.denial is not None:
        return wire.error("42601") + (ready() if chr(head.kind) in "QF" else b"")
    known = {
        "P": wire.PARSED, "B": wire.BOUND, "D": wire.NO_DATA, "C": wire.CLOSED, "S": ready(), "c": wire.notice("copy"),
        "E": complete("SELECT 0"), "Q": complete("SELECT 0") + ready(), "F": wire.message("V", b"\xff" * 4) + ready(),
    }  # fmt: skip
    return known.get(chr(head.kind), wire.BOUND + complete("SELECT 0") + ready())


@pytest.mark.parametrize("masked", [False, True], ids=["clear", "masked"])
@settings(max_examples=examples(300), deadline=None)
@given(script=st.lists(events, max_size=40))
def test_anything_in_any_order_raises_nothing_and_leaks_nothing(masked: bool, script: list[tuple[str, bytes]]) -> None:
    talk = Talk(masks=[SSN] if masked else [], inspect_max=10_000)
    up = b""
    approved = False
    for what, data in script:
        if what == "c":
            up += talk.client(data)
        elif what in ("s", "answer"):
            talk.session.server(data or answer(talk))
            up += talk.up()
        elif what == "cancel":
            talk.session.cancelled()
        elif what == "policy":
            talk.port.epoch = object()
        else:
            approved |= what == "approve" and talk.session.waiting is Wait.HOLD
            outcome = {"approve": Outcome.APPROVED, "deny": Outcome.DENIED, "catalog": None}[what]
            up += talk.resume(outcome)
        down = talk.down()
        if masked and what != "c":
            assert b"078-05-1120" not in down
    assert b"DROP TABLE" not in up
    # what has to be approved goes up as a plan (Parse) at most, never to run
    assert approved or query("DELETE FROM users") not in up
    if talk.ended:
        assert talk.client(query("SELECT 1")) == b""


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_end_the_session_with_an_error_or_wait_for_more(data: bytes, from_client: bool) -> None:
    talk = Talk()
    sent = talk.client(data) if from_client else talk.server(data)
    assert sent == b"" or len(sent) <= len(data) + 100
    if talk.ended and from_client:
        assert talk.fatal()["C"] in ("08P01", "54000", "42622")
