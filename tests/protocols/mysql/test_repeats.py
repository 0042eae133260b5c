"""A command and a result that are known by their bytes do what they do packet by packet: same bytes, same records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Decision, MaskRule
from protocols.mysql.capabilities import Capability
from tests.support import mysql_wire as wire
from tests.support.examples import examples
from tests.support.mysql_talk import SSN, Talk, catalog, usual
from tests.support.mysql_wire import execute, query

MODERN, OLD = wire.MODERN, wire.BASE
AGAIN = ("_again", "_answered_again")
SQL = "SELECT total FROM orders WHERE id = {}"
PREPARED = {1: SQL.format("?"), 2: "SELECT total FROM orders WHERE id = ? AND total = ?", 3: "SELECT total FROM orders"}
TOTAL = wire.column("total", "orders")
CLEAR = wire.column("ssn", "users")


def talk(
    *, slow: bool = False, masks: tuple[MaskRule, ...] = (), capabilities: Capability = MODERN, room: int = 65536
) -> Talk:
    """With the statements of `PREPARED` prepared. `slow`: nothing is known by its bytes."""
    made = Talk(masks=masks, capabilities=capabilities, response_max=room)
    if slow:
        for name in AGAIN:
            setattr(made.session, name, lambda *_: False)
    for number, sql in PREPARED.items():
        made.prepare(number, sql, sql.count("?"), 1)
    return made


def counted(made: Talk) -> dict[str, int]:
    """How often each short way was gone from here on."""
    counts = dict.fromkeys(AGAIN, 0)
    for name in AGAIN:
        short = getattr(made.session, name)

        def count(*given: Any, name: str = name, taken: Callable[..., bool] = short) -> bool:
            done = taken(*given)
            counts[name] += done
            return done

        setattr(made.session, name, count)
    return counts


def texts(*values: str, old: bool = False, status: int = wire.AUTOCOMMIT) -> bytes:
    return wire.result([TOTAL], [wire.row(v) for v in values], old=old, status=status)


def binary(*values: str, old: bool = False, status: int = wire.AUTOCOMMIT) -> bytes:
    return wire.result([TOTAL], [wire.binary_row(v) for v in values], old=old, status=status)


@pytest.mark.parametrize("capabilities", [MODERN, OLD], ids=["modern", "old"])
@pytest.mark.parametrize("masks", [(), (SSN,)], ids=["none masked", "some masked"])
def test_the_second_time_goes_the_short_way_and_is_on_record_alike(
    masks: tuple[MaskRule, ...], capabilities: Capability
) -> None:
    made = talk(masks=masks, capabilities=capabilities)
    counts = counted(made)
    old = capabilities is OLD
    for number in (1, 2, 300):
        said, told = query(SQL.format(number)), texts("5", "6", old=old)
        assert made.client(said) == said
        assert made.server(told) == told
    assert counts == {"_again": 2, "_answered_again": 2}
    for value in ("7", None, None, "9", "8' OR"):
        said, told = execute(1, value), binary("5", old=old)
        assert made.client(said) == said
        assert made.server(told) == told
    assert counts == {"_again": 5, "_answered_again": 6}  # a first NULL is another beginning
    commands = [r for r in made.port.records if r["t"] == "command"]
    assert [r["text"] for r in commands[:3]] == [SQL.format(n) for n in (1, 2, 300)]
    assert [r["params"] for r in commands[3:]] == [["7"], [None], [None], ["9"], ["8' OR"]]
    assert {(r["decision"], r["rule"]) for r in commands} == {("allow", "allow")}
    assert [r["rows"] for r in made.port.records if r["t"] == "response"] == [2, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("value", ["postgres://u:p@h/d", "password=x", "Bearer abc", "-----BEGIN KEY-----"])
def test_a_value_that_may_be_a_secret_goes_the_long_way(value: str) -> None:
    made = talk()
    made.client(execute(1, "7"))
    made.server(binary("5"))
    counts = counted(made)
    made.client(execute(1, value))
    assert counts["_again"] == 0


@pytest.mark.parametrize("said", [execute(1, "8"), query(SQL.format(8))], ids=["execution", "query"])
def test_nothing_is_repeated_under_another_policy(said: bytes) -> None:
    made = talk()
    for one, told in ((execute(1, "7"), binary("5")), (query(SQL.format(7)), texts("5"))):
        made.client(one)
        made.server(told)
    made.port.epoch = object()
    made.port.decision = lambda _: Decision(usual(_).action.DENY, "closed", "since then")
    assert made.denied(said)[0] == 1142


def test_nothing_is_repeated_without_a_catalog() -> None:
    made = talk()
    made.client(query(SQL.format(7)))
    made.server(texts("5"))
    made.port.snapshot = None
    assert made.client(query(SQL.format(8))) == b""


@pytest.mark.parametrize("said", [execute(1, "8"), query(SQL.format(8))], ids=["execution", "query"])
@pytest.mark.parametrize("at", AGAIN)
def test_a_journal_that_is_full_ends_the_session(said: bytes, at: str) -> None:
    made = talk()
    told = texts("5") if said[4] == 3 else binary("5")
    made.client(said)
    made.server(told)
    if at == "_answered_again":
        made.client(said)
    made.port.full = True
    if at == "_again":
        assert made.client(said) == b""
    else:
        made.server(told)
    assert made.ended


# ------------------------------------------------------------ whatever is said, both ways say the same

VALUES = st.one_of(
    st.none(),
    st.integers(-(10**6), 10**6),
    st.text(max_size=8),
    st.sampled_from(["", "password=x", "a://b", "7" * 300]),
)
SAID = st.one_of(
    st.builds(execute, st.sampled_from([1, 1, 3, 4, 0xFFFFFFFF]), VALUES, types=st.booleans()),
    st.builds(execute, st.just(2), VALUES, VALUES, types=st.booleans()),
    st.builds(execute, st.just(1), VALUES, flags=st.sampled_from([0, 1])),
    st.integers(0, 10**10).map(lambda n: query(SQL.format(n))),
    st.sampled_from(
        [
            execute(3),
            query("SET autocommit = 0"),
            query("SET NAMES latin1"),
            query("USE other"),
            query("SELECT ssn FROM users"),
            query("DROP TABLE users"),
            query("DELETE FROM orders"),
            query(SQL.format("1; SELECT 2")),
            query("KILL 77"),
            wire.long_data(1, 0, "x"),
            wire.reset(1),
            wire.close(1),
            wire.RESET_CONNECTION,
            wire.PING,
            query(SQL.format(1)) + query(SQL.format(2)),
            execute(1, "5")[:-3],
        ]
    ),
)
ROWS = st.lists(st.sampled_from(["", "5", "6" * 40, "x" * 260]), max_size=3)
STATUS = st.sampled_from([wire.AUTOCOMMIT, 0, wire.IN_TRANS, wire.AUTOCOMMIT | wire.MORE, wire.CURSOR, 34])
ANSWERS = st.one_of(
    st.builds(lambda rows, status: texts(*rows, status=status), ROWS, STATUS),
    st.builds(lambda rows, status: binary(*rows, status=status), ROWS, STATUS),
    st.sampled_from(
        [
            wire.packets(1, wire.ok()),
            wire.packets(1, wire.err()),
            wire.packets(1, wire.ok(changes=wire.schema("other"))),
            wire.packets(1, wire.ok(changes=wire.variable("autocommit", "OFF"))),
            wire.result([CLEAR], [wire.row("078-05-1120")]),
            wire.result([CLEAR], [wire.binary_row("078-05-1120")]),
            wire.result([TOTAL, TOTAL], [wire.row("1", "2")]),
            texts("5", old=True),
            texts("5")[:-1],
            texts("5") + texts("5"),
        ]
    ),
)
USUAL = [
    (query(SQL.format(5)), texts("5")),
    (execute(1, "5"), binary("5")),
    (execute(2, 5, "6"), binary("5")),
    (execute(3), binary("5")),
    (execute(1, "5", types=False), binary("5")),
]
ROUNDS = st.lists(
    st.one_of(
        st.tuples(st.just("b"), st.tuples(SAID, ANSWERS)),
        st.tuples(st.just("b"), st.tuples(SAID, st.sampled_from([texts("5"), binary("5", "6")]))),
        st.tuples(st.just("b"), st.tuples(st.sampled_from([said for said, _ in USUAL]), ANSWERS)),
        st.tuples(st.just("b"), st.sampled_from(USUAL)),
        st.tuples(st.just("c"), SAID),
        st.tuples(st.just("s"), ANSWERS),
        st.tuples(st.sampled_from(["v1", "v2", "policy"]), st.just(b"")),
    ),
    max_size=8,
)


def played(
    rounds: Sequence[tuple[str, Any]], *, slow: bool, masked: bool, room: int = 65536, old: bool = False
) -> dict[str, Any]:
    """What becomes of these rounds, after some usual ones."""
    made = talk(slow=slow, masks=(SSN,) if masked else (), room=room, capabilities=OLD if old else MODERN)
    up = down = b""
    usual_ones = [(said, aged(told) if old else told) for said, told in USUAL]
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


def aged(told: bytes) -> bytes:
    """One row's result as servers send it to clients that expect EOF packets."""
    count, column, row, _ = [body for _, body in wire.split(told)]
    return wire.packets(1, count, column, wire.eof(), row, wire.eof())


def same(rounds: Sequence[tuple[str, Any]], **how: Any) -> None:
    assert played(rounds, slow=False, **how) == played(rounds, slow=True, **how)


MASKED = pytest.mark.parametrize("masked", [False, True], ids=["none masked", "some masked"])


@MASKED
@settings(max_examples=examples(200), deadline=None)
@given(rounds=ROUNDS)
def test_the_short_way_and_the_long_way_do_the_same(masked: bool, rounds: list[tuple[str, Any]]) -> None:
    same(rounds, masked=masked)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("which", range(len(USUAL)), ids=["query", "execution", "two values", "none", "as before"])
@MASKED
def test_each_byte_that_is_not_as_usual(masked: bool, which: int, side: str) -> None:
    said, told = USUAL[which]
    old = (which + masked) % 2 == 1
    told = aged(told) if old else told
    data = said if side == "client" else told
    changed = [data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :] for at in range(len(data)) for bits in (1, 0x80)]
    changed += [data[:at] for at in range(1, len(data))]
    changed += [data[:at] + data[at : at + 1] + data[at:] for at in range(len(data))]
    for one in changed:
        rounds = [("b", (one, told) if side == "client" else (said, one)), ("b", (said, told))]
        same(rounds, masked=masked, old=old)


@MASKED
@pytest.mark.parametrize("room", [1, 30, 60, 90, 120])
def test_an_answer_above_what_is_kept_of_it(masked: bool, room: int) -> None:
    rounds = [("b", (execute(1, "7"), binary(*"5" * n))) for n in (1, 1, 2, 3, 1)]
    rounds += [("b", (query(SQL.format(n)), texts(*"5" * n))) for n in (1, 1, 2, 3, 1)]
    same(rounds, masked=masked, room=room)


@MASKED
def test_a_result_of_more_rows_than_sequence_numbers(masked: bool) -> None:
    same([("b", (query(SQL.format(1)), texts(*"5" * 600)))] * 3, masked=masked)


@MASKED
def test_names_that_change_between_a_command_and_its_answer(masked: bool) -> None:
    for said, told in USUAL:
        same([("c", said), ("v2", b""), ("s", told), ("v1", b""), ("b", (said, told))], masked=masked)


@MASKED
def test_values_of_another_type_than_the_server_was_told(masked: bool) -> None:
    refused = execute(1, 5)[:-1]  # brings types, and is too short: the server never hears of them
    rounds = [(refused, b""), (execute(1, 5, types=False), binary("5")), (execute(1, "5", types=False), binary("5"))]
    same([("b", one) for one in rounds], masked=masked)


@MASKED
def test_what_was_sent_ahead_as_long_data(masked: bool) -> None:
    same([("c", wire.long_data(1, 0, "long")), *[("b", USUAL[1])] * 3], masked=masked)
