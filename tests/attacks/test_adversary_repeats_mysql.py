"""What is known by its bytes leaves a session as it would be the long way: MySQL. As `test_adversary_repeats`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import mysql_wire as wire
from tests.support.examples import examples
from tests.support.mysql_talk import SSN, Talk, catalog
from tests.support.mysql_wire import execute, query
from tests.support.port import anything
from tests.support.repeating import MASKED, at_length, decider, kept_of, played, steps_of

SHORT = ("_again", "_answered_again", "_whole")

# ================================================================ MySQL: a server that answers

LATER = {
    1: "SELECT total FROM orders WHERE id = ?",
    2: "SELECT total FROM orders WHERE id = ? AND total = ?",
    3: "SELECT total FROM orders",
    4: "SELECT ssn FROM users WHERE id = ?",
    5: "INSERT INTO orders VALUES (?, ?)",
    6: "SELECT id FROM orders WHERE id = ?",
    7: "DELETE FROM orders WHERE id = ?",
}
_LONG_DATA, _CLOSE, _FETCH = 0x18, 0x19, 0x1C


class Server:
    """Answers whole commands as MariaDB does, as far as results and flags go."""

    def __init__(self, *, old: bool) -> None:
        self.old = old
        self.status = wire.AUTOCOMMIT
        self.held = b""
        self.prepared: dict[int, str] = dict(LATER)
        self.cursors: dict[int, str] = {}
        self.last = max(LATER)

    def answers(self, data: bytes) -> bytes:
        self.held += data
        out = b""
        while len(self.held) >= 4 and len(self.held) >= (size := 4 + int.from_bytes(self.held[:3], "little")):
            body, self.held = self.held[4:size], self.held[size:]
            out += self._answer(body[0], body[1:])
        return out

    def _answer(self, kind: int, body: bytes) -> bytes:
        packets, statement = wire.packets, int.from_bytes(body[:4], "little")
        if kind == 0x03:
            return self._query(body.decode("latin-1"))
        if kind == 0x16:
            self.last += 1
            self.prepared[self.last] = body.decode()
            return wire.prepared(self.last, body.count(b"?"), int(body.startswith(b"SELECT")), old=self.old)
        if kind == 0x17:
            if body[4]:
                self.cursors[statement] = self.prepared[statement]
                return self._result(self.prepared[statement], "", binary=True, cursor=True)
            return self._run(self.prepared[statement], body[9:], binary=True)
        if kind == _FETCH:
            status = self.status | wire.LAST_ROW
            end = wire.eof(status) if self.old else wire.end(status)
            return packets(1, wire.binary_row("078-05-1120"), end)
        if kind in (_LONG_DATA, _CLOSE):
            return b""
        if kind == 0x1F:
            self.prepared.clear()
        return packets(1, wire.ok(status=self.status))

    def _query(self, sql: str) -> bytes:
        first, _, second = sql.partition("; ")
        if second and first.startswith("SELECT"):
            self.status |= wire.MORE
            one = self._run(first, b"", binary=False)
            self.status &= ~wire.MORE
            sequence = wire.split(one)[-1][0] + 1
            return one + self._result(second, "5", first=sequence, binary=False)
        return self._run(sql, sql.encode(), binary=False)

    def _run(self, sql: str, values: bytes, *, binary: bool) -> bytes:
        if b"boom" in values:
            return wire.packets(1, wire.err(1062, "23000", "Duplicate entry '078-05-1120' for key 'ssn'"))
        if sql == "BEGIN":
            self.status |= wire.IN_TRANS
        elif sql in ("COMMIT", "ROLLBACK"):
            self.status &= ~wire.IN_TRANS
        elif sql.startswith("SET autocommit"):
            self.status = self.status & ~2 | (0 if sql.endswith("0") else 2)
        elif sql == "USE other":
            return wire.packets(1, wire.ok(status=self.status, changes=wire.schema("other")))
        if sql.startswith(("SELECT", "SHOW", "EXECUTE")):
            return self._result(sql, ("5", "", "6" * 300)[len(values) % 3] * (len(values) % 5 > 0), binary=binary)
        return wire.packets(1, wire.ok(affected=1, status=self.status))

    def _result(self, sql: str, value: str, *, binary: bool, first: int = 1, cursor: bool = False) -> bytes:
        secret = " ssn " in sql
        column = wire.column(*(("ssn", "users") if secret else ("id" if " id FROM" in sql else "total", "orders")))
        row = wire.binary_row if binary else wire.row
        if cursor:
            status = self.status | wire.CURSOR
            bodies = [b"\1", column, wire.eof(status)] if self.old else [b"\1", column, wire.end(status)]
            return wire.packets(first, *bodies)
        rows = [row("078-05-1120" if secret else value)] * (3 if value else 1)
        return wire.result([column], rows, first=first, status=self.status, old=self.old)


def remembered(made: Talk) -> dict[str, Any]:
    session, state = made.session, made.session.state
    held = {k: v for k, v in vars(state).items() if k not in ("judged", "_key")}
    return {
        "prepared": {
            n: (
                p.text,
                p.types,
                p.server_types,
                p.cursor is None,
                p.long_size,
                p.long_refused,
                p.verdict.decision.action,
            )
            for n, p in session.prepared.items()
        },
        "flags": (session.status, session.catalog_waited, session.number, session.tainted, session.insert_id),
        "counts": (session.refused, session.port.changed, session.port.alerts, session.backlog, session._long_total),
        "ended": (made.ended, session.waiting, session.busy, session.current is None),
        "meaning": state.meaning_key(),
        "state": {k: v for k, v in held.items() if isinstance(v, str | int | set | frozenset | tuple | None)},
        "names": (set(state.prepared), set(state.handlers), set(state.variables), set(state.temporaries)),
        "holds": [(h.text, h.params, h.digest) for h in made.port.holds],
    }


def conversation(steps: Sequence[tuple[str, Any]], *, slow: bool, masked: bool, old: bool) -> list[Any]:
    capabilities = wire.BASE if old else wire.MODERN
    made = Talk(anything, masks=(SSN,) if masked else (), capabilities=capabilities)
    if slow:
        at_length(made, SHORT)
    decider(made)
    server = Server(old=old)
    for number, sql in LATER.items():
        made.prepare(number, sql, sql.count("?"), int(sql.startswith("SELECT")))
    for _ in range(2):
        for one in REPEATED:
            ask(made, server, one)
    return played(made, server, steps, catalog, remembered)


def ask(made: Talk, server: Server, data: bytes) -> bytes:
    return made.server(server.answers(made.client(data)))


REPEATED = [
    *(execute(1, "7"), execute(1, 5), execute(1, "8", types=False), execute(2, 5, "6")),
    *(execute(3), query("SELECT total FROM orders WHERE id = 7"), query("SELECT total FROM orders")),
    *(execute(4, "7"), execute(6, 7), query("SELECT ssn FROM users")),
]
FIELDS = st.one_of(
    st.none(), st.integers(-(2**40), 2**40), st.sampled_from(["", "boom", "password=x", "7" * 300, "\xe9", "7", "7"])
)


def typed(statement: int, kind: tuple[int, bytes], iterations: int) -> bytes:
    """An execution with one value of any type."""
    body = struct.pack("<IBI", statement, 0, iterations) + b"\0\1" + struct.pack("<H", kind[0]) + kind[1]
    return wire.command(0x17, body)


TYPED = st.sampled_from(
    [
        *((8, b"\xff" * 8), (0x8008, b"\xff" * 8), (3, b"\0\0\0\x80"), (0x8003, b"\0\0\0\x80"), (1, b"\x80")),
        *((0x8001, b"\x80"), (5, b"\0" * 6 + b"\xf0\x7f"), (4, b"\0\0\xc0\x7f"), (12, b"\0"), (12, b"\4\xe8\7\1\2")),
        *(
            (11, b"\x08\1\1\0\0\0\2\3\4"),
            (11, b"\0"),
            (10, b"\x03\0\0\0"),
            (0xFD, b"\xfb"),
            (0xFD, b"\x02ab"),
            (6, b""),
        ),
        *(
            (0xFC, b"\xfc\2\0ab"),
            (0xFD, b"\2\xff\xfe"),
            (255, b"\1x"),
            (16, b"\1x"),
            (9, b"\1\0\0\0"),
            (0xFD, b"\2abc"),
        ),
    ]
)
SAID = st.one_of(
    st.builds(execute, st.sampled_from([1, 4, 6, 7, 9, 0xFFFFFFFF]), FIELDS, types=st.booleans()),
    st.builds(execute, st.sampled_from([2, 5]), FIELDS, FIELDS, types=st.booleans()),
    st.builds(execute, st.sampled_from([1, 4]), FIELDS, flags=st.sampled_from([1, 8])),
    st.builds(lambda n, t, i: typed(n, t, i), st.sampled_from([1, 4]), TYPED, st.sampled_from([1, 1, 0, 2])),
    st.builds(wire.long_data, st.sampled_from([1, 2]), st.sampled_from([0, 1]), st.sampled_from(["", "x", "7" * 40])),
    st.builds(lambda n, what: what(n), st.sampled_from([1, 2, 4]), st.sampled_from([wire.reset, wire.close])),
    st.builds(wire.fetch, st.sampled_from([1, 4]), st.just(1)),
    st.builds(wire.prepare, st.sampled_from(list(LATER.values()))),
    st.integers(0, 10**11).map(lambda n: query(f"SELECT total FROM orders WHERE id = {n}")),
    st.sampled_from(
        [
            *map(query, ("BEGIN", "COMMIT", "SET autocommit = 0", "SET autocommit = 1", "SET NAMES latin1")),
            *map(query, ("SET NAMES utf8mb4", "USE other", "SELECT ssn FROM users WHERE id = 3", "SHOW WARNINGS")),
            *map(query, ("SELECT LAST_INSERT_ID()", "SET @a = (SELECT ssn FROM users LIMIT 1)", "SELECT @a")),
            *map(query, ("SELECT LAST_INSERT_ID(ssn) FROM users", "CREATE TEMPORARY TABLE orders (total int)")),
            *map(query, ("DROP TEMPORARY TABLE orders", "SET sql_mode = 'ANSI_QUOTES'", "SET sql_mode = ''")),
            *map(query, ("SELECT total FROM orders; SELECT total FROM orders", "DELETE FROM orders WHERE id = 1")),
            *map(query, ("CREATE TABLE made (a int)", "DO boom()", "PREPARE x FROM 'SELECT 1'", "EXECUTE x")),
            *map(query, ("SELECT total FROM orders /*! WHERE id = 5 */", "SELECT total FROM orders -- 5")),
            *map(query, ("SELECT total FROM orders WHERE id = boom()", "SELECT id FROM orders WHERE id = 1")),
            *(
                wire.RESET_CONNECTION,
                wire.PING,
                query("SELECT ssn FROM users ") + execute(1, "7"),
            ),
        ]
    ),
)


@pytest.mark.slow
@MASKED
@pytest.mark.parametrize("old", [False, True], ids=["modern", "old"])
@settings(max_examples=examples(80), deadline=None)
@given(steps=steps_of(SAID, st.sampled_from(REPEATED)))
def test_a_conversation_with_mysql_leaves_what_it_would_have_left(
    masked: bool, old: bool, steps: list[tuple[str, Any]]
) -> None:
    short, long = (conversation(steps, slow=slow, masked=masked, old=old) for slow in (False, True))
    for one, other in zip(short, long, strict=True):
        assert one == other


# ================================================================ MySQL: what the short way must not leave out


def ready_to_repeat(*, slow: bool, inspect_max: int) -> tuple[Talk, Server]:
    made, server = Talk(anything, inspect_max=inspect_max), Server(old=False)
    if slow:
        at_length(made, SHORT)
    made.prepare(1, LATER[1], 1, 1)
    for said in (execute(1, "7"), query("SELECT total FROM orders WHERE id = " + "0" * 30 + "7")):
        ask(made, server, said)
    return made, server


@pytest.mark.parametrize(
    "said",
    [execute(1, "7" * 2000), query("SELECT total FROM orders WHERE id = " + "0" * 2000 + "7")],
    ids=["execution", "query"],
)
@pytest.mark.parametrize("slow", [False, True], ids=["short", "long"])
def test_what_is_above_the_inspection_limit_is_refused_though_its_like_was_not(slow: bool, said: bytes) -> None:
    made, _ = ready_to_repeat(slow=slow, inspect_max=1024)
    assert made.denied(said)[0] == 1153


@pytest.mark.slow
def test_an_execution_of_many_parameters_is_not_kept_whole() -> None:
    """What is kept of one statement must not be many times its text: that is all that its limits count."""
    count = 20_000
    made = Talk(anything)
    sql = f"SELECT total FROM orders WHERE id IN ({','.join('?' * count)})"
    made.client(wire.prepare(sql))
    made.server(wire.packets(1, struct.pack("<BIHHBH", 0, 1, 0, count, 0, 0), *[wire.column("?")] * count))
    run = b"\xff" * (count // 8) + b"\1" + struct.pack("<H", 0x80FD) * count

    def executed(times: int) -> int:
        def again() -> None:
            for n in range(times):
                said = wire.command(0x17, struct.pack("<IBI", 1, 0, n) + run)
                assert made.client(said) == said
                made.server(wire.packets(1, wire.err()))

        return kept_of(made, again)

    executed(1)  # the types that the server was told are kept in any case
    assert executed(4) < 2_000_000
