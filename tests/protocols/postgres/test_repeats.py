"""An exchange that is known by its bytes does what it does message by message: the same bytes, the same records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Decision, MaskRule
from tests.support import wire
from tests.support.examples import examples
from tests.support.port import usual
from tests.support.talk import ORDERS, SSN, USERS, Talk, catalog
from tests.support.wire import SYNC, bind, complete, describe, execute, parse, query, ready

TOTAL = wire.columns(wire.field("total", ORDERS, 2))
CLEAR = wire.columns(wire.field("ssn", USERS, 2))
SQL = "SELECT total FROM orders WHERE id = $1"
AGAIN = ("_depart_again", "_arrive_again", "_answered_again")


def trip(name: str, value: bytes | None, *, described: bool = True, formats: tuple[int, ...] = ()) -> bytes:
    asked = describe("P", "") if described else b""
    return bind("", name, [value], formats) + asked + execute() + SYNC


def answer(rows: int = 1, *, described: bool = True, status: str = "I") -> bytes:
    body = b"".join(wire.row(b"%d" % n) for n in range(rows))
    return wire.BOUND + (TOTAL if described else b"") + body + complete(f"SELECT {rows}") + ready(status)


def talk(*, slow: bool = False, masks: tuple[MaskRule, ...] = (), room: int = 65536) -> Talk:
    """With a statement `s` prepared and described. `slow`: nothing is known by its bytes."""
    made = Talk(masks=masks, response_max=room)
    if slow:
        for method in AGAIN:
            setattr(made.session, method, lambda _: False)
    sent = parse("s", SQL, 23) + describe("S", "s") + SYNC
    assert made.client(sent) == sent
    made.server(wire.PARSED + wire.parameters(23) + TOTAL + ready())
    return made


def counted(made: Talk) -> dict[str, int]:
    """How often each short way was gone from here on."""
    counts = dict.fromkeys(AGAIN, 0)
    for name in AGAIN:
        taken = getattr(made.session, name)

        def count(data: bytes, name: str = name, taken: Callable[[bytes], bool] = taken) -> bool:
            done = taken(data)
            counts[name] += done
            return done

        setattr(made.session, name, count)
    return counts


@pytest.mark.parametrize("masks", [(), (SSN,)], ids=["none masked", "some masked"])
def test_the_second_round_trip_goes_the_short_way_and_is_on_record_alike(masks: tuple[MaskRule, ...]) -> None:
    made = talk(masks=masks)
    counts = counted(made)
    for value in (b"7", b"8", None, b"9' OR"):
        sent = trip("s", value)
        assert made.client(sent) == sent
        assert made.server(answer()) == answer()
    # with masks in force the first answer's columns are looked at one by one
    assert counts == {"_depart_again": 3, "_arrive_again": 2 if masks else 3, "_answered_again": 0}
    commands = [r for r in made.port.records if r["t"] == "command" and r["phase"] == "bind"]
    responses = [r for r in made.port.records if r["t"] == "response" and r["n"] == commands[-1]["n"]]
    assert [r["params"] for r in commands] == [["7"], ["8"], [None], ["9' OR"]]
    assert {(r["text"], r["decision"], r["rule"]) for r in commands} == {(SQL, "allow", "allow")}
    assert [r["rows"] for r in responses] == [1]


def test_a_query_of_the_same_shape_goes_the_short_way() -> None:
    made = talk()
    counts = counted(made)
    for number in (1, 2, 300):
        sent = query(f"SELECT total FROM orders WHERE id = {number}")
        assert made.client(sent) == sent
        body = TOTAL + wire.row(b"5") + complete("SELECT 1") + ready()
        assert made.server(body) == body
    assert counts == {"_depart_again": 2, "_arrive_again": 0, "_answered_again": 2}
    assert [r["text"][-3:] for r in made.port.records if r["t"] == "command"] == ["= 1", "= 2", "300"]


@pytest.mark.parametrize("value", [b"postgres://u:p@h/d", b"password=x", b"Bearer abc", b"-----BEGIN KEY-----"])
def test_a_value_that_may_be_a_secret_goes_the_long_way(value: bytes) -> None:
    made = talk()
    made.client(trip("s", b"7"))
    made.server(answer())
    counts = counted(made)
    made.client(trip("s", value))
    assert counts["_depart_again"] == 0


def test_nothing_is_repeated_under_another_policy() -> None:
    made = talk()
    made.client(trip("s", b"7"))
    made.server(answer())
    made.port.epoch = object()
    made.port.decision = lambda _: Decision(usual(_).action.DENY, "closed", "since then")
    counts = counted(made)
    assert trip("s", b"8") not in made.client(trip("s", b"8"))
    assert counts["_depart_again"] == 0


def test_nothing_is_repeated_without_a_catalog() -> None:
    made = talk()
    made.client(trip("s", b"7"))
    made.server(answer())
    made.port.snapshot = None
    assert made.client(trip("s", b"8")) == b""


def test_a_description_that_came_later_is_on_record() -> None:
    made = Talk()
    made.prepare("s", SQL)
    for described in (False, True):
        made.client(trip("s", b"7", described=False))
        made.server(answer(described=False))
        made.client(trip("s", b"7", described=False))
        made.server(answer(described=False))
        if not described:
            made.client(describe("S", "s") + SYNC)
            made.server(wire.parameters(23) + TOTAL + ready())
    shown = [r["wire"] for r in made.port.records if r["t"] == "response"]
    assert shown[0] == shown[1] != shown[2] == shown[3]


@pytest.mark.parametrize("name", ["_depart_again", "_arrive_again", "_answered_again"])
def test_a_journal_that_is_full_ends_the_session(name: str) -> None:
    made = talk()
    sent, back = trip("s", b"7"), answer()
    if name == "_answered_again":
        sent, back = query("SELECT total FROM orders WHERE id = 7"), answer()[5:]
    made.client(sent)
    made.server(back)
    if name != "_depart_again":
        made.client(sent)
    made.port.full = True
    if name == "_depart_again":
        assert made.client(sent) == b""
    else:
        made.server(back)
    assert made.ended


# ------------------------------------------------------------ whatever is said, both ways say the same

PAIR = "SELECT total FROM orders WHERE id = $1 AND total = $2"
VALUES = st.one_of(
    st.none(),
    st.integers(0, 10**6).map(lambda n: b"%d" % n),
    st.binary(max_size=12),
    st.sampled_from([b"", b"password=x", b"a://b", b"\xff\xfe", b"7" * 1100, b"\xc2\xb2"]),
)
NUMBERED = "SELECT total FROM orders WHERE id = {}"
SAID = st.one_of(
    st.builds(trip, st.just("s"), VALUES, described=st.booleans(), formats=st.sampled_from([(), (0,), (1,)])),
    st.builds(trip, st.sampled_from(["s", "two", "none", "t", ""]), VALUES),
    st.builds(lambda a, b: bind("", "two", [a, b]) + describe("P") + execute() + SYNC, VALUES, VALUES),
    st.integers(0, 10**10).map(lambda n: query(NUMBERED.format(n))),
    st.sampled_from(
        [
            query("BEGIN"),
            query("SET search_path = evil"),
            query("SELECT ssn FROM users"),
            query("DROP TABLE users"),
            query("DELETE FROM orders"),
            query(NUMBERED.format("1; SELECT 2")),
            parse("s", "SELECT ssn FROM users", 23) + SYNC,
            parse("", SQL, 23) + SYNC,
            describe("S", "s") + SYNC,
            wire.close("S", "s") + SYNC,
            trip("s", b"1") + trip("s", b"2"),
            trip("s", b"1") + query(NUMBERED.format(2)),
            trip("s", b"1")[:-5],
            SYNC,
        ]
    ),
)
ANSWERS = st.one_of(
    st.builds(answer, st.integers(0, 3), described=st.booleans(), status=st.sampled_from("ITE")),
    st.builds(lambda n: answer(n)[5:], st.integers(0, 3)),
    st.sampled_from(
        [
            wire.BOUND + wire.error("22012") + ready(),
            wire.error("42601") + ready("E"),
            wire.PARSED + ready(),
            complete("BEGIN") + ready("T"),
            wire.parameter("search_path", "evil") + complete("SET") + ready(),
            wire.CLOSED + ready(),
            wire.parameters(23) + TOTAL + ready(),
            wire.BOUND + TOTAL + complete("INSERT 0 5") + ready(),
            wire.BOUND + CLEAR + wire.row(b"078-05-1120") + complete("SELECT 1") + ready(),
            CLEAR + wire.row(b"078-05-1120") + complete("SELECT 1") + ready(),
            wire.BOUND + TOTAL + wire.row(b"x" * 200) + complete("SELECT 1") + ready(),
            answer() + answer(),
            answer()[:-1],
            ready(),
        ]
    ),
)
USUAL = [(trip("s", b"5"), answer()), (query(NUMBERED.format(5)), answer()[5:])]
ROUNDS = st.lists(
    st.one_of(
        st.tuples(st.just("b"), st.tuples(SAID, ANSWERS)),
        st.tuples(st.just("b"), st.tuples(SAID, st.sampled_from([answer(), answer(2)[5:]]))),
        st.tuples(st.just("b"), st.tuples(st.sampled_from([said for said, _ in USUAL]), ANSWERS)),
        st.tuples(st.just("b"), st.sampled_from(USUAL)),
        st.tuples(st.just("c"), SAID),
        st.tuples(st.just("s"), ANSWERS),
        st.tuples(st.sampled_from(["v1", "v2", "policy"]), st.just(b"")),
    ),
    max_size=8,
)


def played(rounds: Sequence[tuple[str, Any]], *, slow: bool, masked: bool, room: int = 65536) -> dict[str, Any]:
    """What becomes of these rounds, after some usual ones."""
    made = talk(slow=slow, masks=(SSN,) if masked else (), room=room)
    made.session.nowhere = b"nowhere"  # else it differs from session to session
    made.prepare("two", PAIR)
    made.prepare("none", "SELECT total FROM orders")
    up = down = b""
    pair = bind("", "two", [b"1", b"2"]) + describe("P") + execute() + SYNC
    without = bind("", "none") + describe("P") + execute() + SYNC
    usual_ones = [*USUAL, (pair, answer()), (without, answer())]
    for who, data in [("b", one) for one in (*usual_ones, *usual_ones)] + list(rounds):
        if who == "c":
            up += made.client(data)
        elif who == "s":
            down += made.server(data)
        elif who == "b":
            up += made.client(data[0])
            down += made.server(data[1])
        elif who == "policy":
            made.port.epoch = object()
        else:
            made.port.snapshot = catalog(who)
        up += made.up()
        down += made.down()
    return {
        "up": up,
        "down": down,
        "records": [{**r, "us": 0} for r in made.port.records],
        "ended": made.ended,
        "busy": made.session.busy,
        "waiting": made.session.waiting,
    }


def same(rounds: Sequence[tuple[str, Any]], *, masked: bool, room: int = 65536) -> None:
    assert played(rounds, slow=False, masked=masked, room=room) == played(rounds, slow=True, masked=masked, room=room)


MASKED = pytest.mark.parametrize("masked", [False, True], ids=["none masked", "some masked"])


@MASKED
@settings(max_examples=examples(200), deadline=None)
@given(rounds=ROUNDS)
def test_the_short_way_and_the_long_way_do_the_same(masked: bool, rounds: list[tuple[str, Any]]) -> None:
    same(rounds, masked=masked)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("which", [0, 1], ids=["round trip", "query"])
@MASKED
def test_each_byte_that_is_not_as_usual(masked: bool, which: int, side: str) -> None:
    said, told = USUAL[which]
    data = said if side == "client" else told
    changed = [data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :] for at in range(len(data)) for bits in (1, 0x80)]
    changed += [data[:at] for at in range(1, len(data))]
    changed += [data[:at] + data[at : at + 1] + data[at:] for at in range(len(data))]
    for one in changed:
        same([("b", (one, told) if side == "client" else (said, one)), ("b", USUAL[which])], masked=masked)


@MASKED
@pytest.mark.parametrize("room", [1, 30, 60, 90, 120])
def test_an_answer_above_what_is_kept_of_it(masked: bool, room: int) -> None:
    rounds = [("b", (trip("s", b"7"), answer(rows))) for rows in (1, 1, 2, 3, 1)]
    rounds += [("b", (query(NUMBERED.format(rows)), answer(rows)[5:])) for rows in (1, 1, 2, 3, 1)]
    same(rounds, masked=masked, room=room)


@MASKED
@pytest.mark.parametrize("said", [said for said, _ in USUAL], ids=["round trip", "query"])
@pytest.mark.parametrize(
    "before",
    [query("SET search_path = evil"), query("BEGIN"), parse("s", "SELECT ssn FROM users", 23) + SYNC, trip("s", b"1")],
    ids=["SET", "BEGIN", "Parse", "round trip"],
)
def test_behind_something_that_is_not_answered_yet(masked: bool, before: bytes, said: bytes) -> None:
    same(
        [("c", before), ("c", said), ("s", complete("SET") + ready()), ("s", answer()), ("s", answer())], masked=masked
    )


@MASKED
def test_a_tag_that_counts_otherwise(masked: bool) -> None:
    told = wire.BOUND + TOTAL + wire.row(b"1") + complete("SELECT 3") + ready()
    same([("b", (trip("s", b"7"), told))] * 3 + [("b", (query(NUMBERED.format(5)), told[5:]))] * 3, masked=masked)


@MASKED
def test_names_that_change_between_a_command_and_its_answer(masked: bool) -> None:
    for said, told in USUAL:
        same([("c", said), ("v2", b""), ("s", told), ("v1", b""), ("b", (said, told))], masked=masked)
