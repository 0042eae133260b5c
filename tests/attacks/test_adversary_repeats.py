"""What is known by its bytes leaves a session, its limits and the journal as they would be the long way: PostgreSQL.

Whole conversations are held with a server that answers as a real one would, once with every short way taken and once
with none: what goes down, what is on record, and all that the session remembers must be the same.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.record import Recorder, RecordSettings
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow
from guard.record.verify import verify
from protocols.contract import MaskRule, Wait
from tests.support import wire
from tests.support.examples import examples
from tests.support.port import anything
from tests.support.repeating import MASKED, at_length, decider, kept_of, played, steps_of
from tests.support.talk import ORDERS, SSN, USERS, Talk, catalog
from tests.support.wire import FLUSH, SYNC, bind, close, complete, describe, execute, parse, query, ready

SHORT = ("_depart", "_depart_again", "_answered", "_answered_again")


# ================================================================ PostgreSQL: a server that answers

SELECT = "SELECT total FROM orders WHERE id = $1"
TEXTS = {
    "s": SELECT,
    "two": "SELECT total FROM orders WHERE id = $1 AND total = $2",
    "none": "SELECT total FROM orders",
    "secret": "SELECT ssn FROM users WHERE id = $1",
    "write": "INSERT INTO orders VALUES ($1, $2)",
    "pw": "SELECT total FROM orders WHERE total = 'hunter2' AND id = $1",
    "timed": "SELECT id FROM orders WHERE id = $1",
    "del": "DELETE FROM orders WHERE id = $1",
    "make": "CREATE TABLE made (a int)",
    "begin": "BEGIN",
    "commit": "COMMIT",
}


def columns_of(sql: str) -> bytes:
    """RowDescription, or NoData."""
    if " ssn " in sql:
        return wire.columns(wire.field("ssn", USERS, 2))
    if sql.startswith("SELECT id"):
        return wire.columns(wire.field("id", ORDERS, 1, 23))
    if sql.startswith(("SELECT", "FETCH", "EXECUTE")):
        return wire.columns(wire.field("total", ORDERS, 2))
    return wire.NO_DATA


class Server:
    """Answers whole messages as PostgreSQL does, as far as names, blocks and failures go."""

    def __init__(self) -> None:
        self.block = "I"
        self.skipping = False
        self.prepared: dict[bytes, str] = {}
        self.portals: dict[bytes, tuple[str, list[bytes | None]]] = {}
        self.held = b""  # of what came, a message that is not whole
        self._do: dict[str, Callable[[bytes], bytes]] = {
            "P": self._parse, "B": self._bind, "D": self._describe, "E": self._execute, "C": self._close,
            "S": self._sync, "Q": self._query, "H": lambda _: b"",
        }  # fmt: skip

    def answers(self, data: bytes) -> bytes:
        self.held += data
        out = b""
        while len(self.held) >= 5 and len(self.held) > (size := struct.unpack_from("!I", self.held, 1)[0]):
            kind, body, self.held = chr(self.held[0]), self.held[5 : size + 1], self.held[size + 1 :]
            if not self.skipping or kind == "S":
                out += self._do[kind](body)
        return out

    def _fail(self, code: str) -> bytes:
        self.skipping = True
        self.block = "E" if self.block != "I" else "I"
        return wire.error(code)

    def _parse(self, body: bytes) -> bytes:
        name, text, _ = body.split(b"\0", 2)
        if b"sluicegate" in text or (name and name in self.prepared):
            return self._fail("42601")
        self.prepared[name] = text.decode()
        return wire.PARSED

    def _bind(self, body: bytes) -> bytes:
        portal, name, rest = body.split(b"\0", 2)
        formats = struct.unpack_from("!H", rest)[0]
        at = 2 + 2 * formats
        (count,) = struct.unpack_from("!H", rest, at)
        values: list[bytes | None] = []
        at += 2
        for _ in range(count):
            (size,) = struct.unpack_from("!i", rest, at)
            values.append(None if size < 0 else rest[at + 4 : at + 4 + size])
            at += 4 + max(size, 0)
        if name not in self.prepared:
            return self._fail("26000")
        if count != self.prepared[name].count("$") or formats > 2 or (portal and portal in self.portals):
            return self._fail("08P01")
        self.portals[portal] = self.prepared[name], values
        return wire.BOUND

    def _describe(self, body: bytes) -> bytes:
        known: Any = self.prepared if body[:1] == b"S" else self.portals
        name = body[1:-1]
        if name not in known:
            return self._fail("26000")
        if body[:1] == b"S":
            text = self.prepared[name]
            return wire.parameters(*([23] * text.count("$"))) + columns_of(text)
        return columns_of(self.portals[name][0])

    def _rows(self, sql: str, values: Sequence[bytes | None]) -> bytes:
        if any(v is not None and v.startswith(b"boom") for v in values):
            return wire.row(b"1") * (columns_of(sql) != wire.NO_DATA) + self._fail("22012")
        extra = wire.notice("look") if any(v == b"note" for v in values) else b""
        if sql == "BEGIN":
            self.block = "T"
        elif sql in ("COMMIT", "ROLLBACK"):
            self._end()
        elif sql.startswith("DEALLOCATE"):
            self.prepared.pop(sql.split()[1].encode(), None)
        elif sql == "DISCARD ALL":
            self.prepared.clear()
            self.portals.clear()
        elif sql.startswith("SET search_path = "):
            extra += wire.parameter("search_path", sql.rpartition(" ")[2])
        if not sql:
            return wire.EMPTY
        if columns_of(sql) == wire.NO_DATA:
            return extra + complete("INSERT 0 1" if sql.startswith("INSERT") else sql.split()[0])
        count = len(values[0]) % 4 if values and values[0] is not None else 1
        shown = b"078-05-1120" if " ssn " in sql else b"5" * 7
        return extra + wire.row(shown) * count + complete(f"SELECT {count}")

    def _execute(self, body: bytes) -> bytes:
        name = body[:-5]
        if name not in self.portals:
            return self._fail("34000")
        return self._rows(*self.portals[name])

    def _close(self, body: bytes) -> bytes:
        (self.prepared if body[:1] == b"S" else self.portals).pop(body[1:-1], None)
        return wire.CLOSED

    def _end(self) -> None:
        self.block = "I"
        self.portals.clear()

    def _sync(self, body: bytes) -> bytes:
        self.skipping = False
        if self.block == "I":
            self.portals.clear()
        return ready(self.block)

    def _query(self, body: bytes) -> bytes:
        sql = body[:-1].decode()
        self.portals.pop(b"", None)
        self.prepared.pop(b"", None)
        if "sluicegate" in sql or (self.block == "E" and sql not in ("COMMIT", "ROLLBACK")):
            failed = self._fail("42601")
            self.skipping = False
            return failed + ready(self.block)
        shown = columns_of(sql)
        done = (b"" if shown == wire.NO_DATA else shown) + self._rows(sql, ())
        if self.block == "I":
            self.portals.clear()
        return done + ready(self.block)


def remembered(made: Talk) -> dict[str, Any]:
    """All that decides what becomes of what comes next."""
    session, state = made.session, made.session.state
    return {
        "portals": {} if session.queue else {n: (p.verdict.text, p.bound) for n, p in session.portals.items() if n},
        "prepared": {
            n: (p.text, p.oids, p.rows, p.syncs, p.verdict.decision.action, p.epoch is session.judge._epoch)
            for n, p in session.prepared.items()
        },
        "parsing": set(session.parsing),
        "queue": bool(session.queue),
        "flags": (session.status, session.skipping, session.catalog_waited, session.syncs, session.number),
        "counts": (session.renames, session.refused, session.port.changed, session.port.alerts, session.backlog),
        "open": session.open,
        "ended": (made.ended, session.waiting, session.busy, session.copy_in),
        "meaning": state.meaning_key(),
        "state": (set(state._prepared), set(state._cursors), set(state._portals), len(state._saved)),
        "block": (state._block, state._failed, state._opaque, state.definitions_changed),
        "holds": [(h.text, h.params, h.digest) for h in made.port.holds],
    }


def talk(slow: bool, masks: tuple[MaskRule, ...] = ()) -> Talk:
    made = Talk(anything, masks=masks)
    made.session.nowhere = b"nowhere"  # else it differs from session to session
    if slow:
        at_length(made, SHORT)
    return made


def trip(name: str, *values: bytes | None, portal: str = "", end: bytes = SYNC, **how: Any) -> bytes:
    return bind(portal, name, values, **how) + describe("P", portal) + execute(portal) + end


def ask(made: Talk, server: Server, data: bytes) -> bytes:
    return made.server(server.answers(made.client(data)))


VALUE = st.sampled_from(
    [b"7", b"12", b"", b"boom", b"note", None, b"\0\0\0\0\0\1\0\0", b"password=x", b"Bearer x", b"5" * 1100]
)
PORTAL = st.sampled_from(["", "", "p", "q"])
END = st.sampled_from([SYNC, SYNC, SYNC, FLUSH, b""])
ONES = ("s", "s", "secret", "pw", "timed", "del")
SAID = st.one_of(
    st.builds(trip, st.just("s"), VALUE),
    st.builds(lambda n, v, p, e: trip(n, v, portal=p, end=e), st.sampled_from(ONES), VALUE, PORTAL, END),
    st.builds(lambda v, w, e: trip("two", v, w, end=e), VALUE, VALUE, END),
    st.builds(lambda n, e: trip(n, end=e), st.sampled_from(["none", "make", "begin", "commit"]), END),
    st.builds(lambda v, w: trip("write", v, w), VALUE, VALUE),
    st.builds(
        lambda v, f, r, e: bind("", "s", [v], f, r) + execute() + e,
        VALUE,
        st.sampled_from([(), (0,), (1,), (0, 0, 0)]),
        st.sampled_from([(), (0,), (1,)]),
        END,
    ),
    st.builds(lambda n, e: bind(n, "s", [b"7"]) + e, PORTAL, END),
    st.builds(lambda n, e: execute(n) + e, st.sampled_from("pq"), END),
    st.builds(lambda n, e: parse(n, TEXTS[n]) + e, st.sampled_from(["s", "secret"]), END),
    st.builds(lambda e: parse("", SELECT, 23) + trip("", b"7", end=e), END),
    st.builds(lambda n, e: close("S", n) + e, st.sampled_from(["s", "", "two"]), END),
    st.builds(lambda n, e: close("P", n) + e, PORTAL, END),
    st.builds(lambda n, e: describe("S", n) + e, st.sampled_from(["s", "two", "secret", "write"]), END),
    st.integers(0, 3000).map(lambda n: query(f"SELECT total FROM orders WHERE id = {n}")),
    st.sampled_from(
        [
            *map(query, ("BEGIN", "COMMIT", "ROLLBACK", "SET search_path = evil", "SET LOCAL search_path = evil")),
            *map(query, ("RESET search_path", "SELECT ssn FROM users", "DEALLOCATE s", "DISCARD ALL", "SAVEPOINT a")),
            *map(query, ("CREATE TEMP TABLE orders (total text)", "CREATE TABLE made (a int)", "DROP TABLE orders")),
            *map(query, ("DECLARE p CURSOR FOR SELECT ssn FROM users", "FETCH p", "CLOSE p", "ROLLBACK TO a")),
            *map(query, ("PREPARE s AS SELECT ssn FROM users", "EXECUTE s", "SELECT id FROM orders WHERE id = 1")),
            *map(query, ("SELECT total FROM orders WHERE id = 1; SELECT 2", "DELETE FROM orders WHERE id = 1", "")),
            SYNC,
            FLUSH,
            trip("s", b"1") + trip("s", b"2"),
            trip("s", b"1") + query("SELECT total FROM orders WHERE id = 2"),
        ]
    ),
)
AGAIN = st.sampled_from(
    [
        *(trip("s", b"7"), trip("s", b"12"), trip("two", b"7", b"8"), trip("none")),
        *(query("SELECT total FROM orders WHERE id = 7"), query("SELECT total FROM orders")),
    ]
)


STEPS = steps_of(SAID, AGAIN)


def conversation(steps: Sequence[tuple[str, Any]], *, slow: bool, masked: bool) -> list[Any]:
    """What came of each step."""
    made, server = talk(slow, (SSN,) if masked else ()), Server()
    decider(made)
    for name, text in TEXTS.items():
        ask(made, server, parse(name, text) + SYNC)
    for _ in range(2):
        for one in (
            trip("s", b"7"),
            trip("two", b"7", b"8"),
            trip("none"),
            query("SELECT total FROM orders WHERE id = 7"),
        ):
            ask(made, server, one)
    return played(made, server, steps, catalog, remembered)


def same(steps: Sequence[tuple[str, Any]], *, masked: bool) -> None:
    for short, long in zip(
        conversation(steps, slow=False, masked=masked), conversation(steps, slow=True, masked=masked), strict=True
    ):
        assert short == long


@pytest.mark.slow
@MASKED
@settings(max_examples=examples(120), deadline=None)
@given(steps=STEPS)
def test_a_conversation_leaves_what_it_would_have_left(masked: bool, steps: list[tuple[str, Any]]) -> None:
    same(steps, masked=masked)


# ================================================================ PostgreSQL: what the short way must not leave out


def ready_to_repeat(masks: tuple[MaskRule, ...] = (), *, slow: bool = False) -> tuple[Talk, Server]:
    """Statement `s`, prepared and run twice."""
    made, server = Talk(anything, masks=masks), Server()
    if slow:
        at_length(made, SHORT)
    for name in ("s", "make"):
        ask(made, server, parse(name, TEXTS[name]) + SYNC)
    for _ in range(2):
        ask(made, server, trip("s", b"7"))
    return made, server


@pytest.mark.parametrize("masks", [(), (SSN,)], ids=["none masked", "some masked"])
@pytest.mark.parametrize("slow", [False, True], ids=["short", "long"])
def test_a_named_portal_does_not_outlive_the_transaction_that_a_round_trip_ends(
    masks: tuple[MaskRule, ...], slow: bool
) -> None:
    """Bind and Flush leave `p` in an implicit transaction, the Sync of the round trip ends it. Code that runs later may
    open a cursor `p` of its own: an Execute would get that one's rows by the verdict, and without the masks, of ours.
    """
    made, server = ready_to_repeat(masks, slow=slow)
    ask(made, server, bind("p", "s", [b"7"]) + FLUSH)
    assert set(made.session.portals) >= {b"p"}
    ask(made, server, trip("s", b"7"))
    assert b"p" not in made.session.portals
    went = made.client(execute("p") + SYNC)
    assert execute("p") not in went
    assert [e["C"] for e in wire.errors(made.server(server.answers(went)))] == ["34000"]


@pytest.mark.parametrize("slow", [False, True], ids=["short", "long"])
def test_what_was_defined_is_looked_up_once_the_round_trip_has_committed_it(slow: bool) -> None:
    """A catalog that is read before the commit does not show it: the commit has to ask again."""
    made, server = ready_to_repeat(slow=slow)
    ask(made, server, bind("", "make") + execute() + FLUSH)
    ask(made, server, trip("s", b"7", end=FLUSH))  # judged anew, under the new names
    before = made.port.changed
    ask(made, server, trip("s", b"7"))
    assert made.session.status == "I"
    assert made.port.changed == before + 1


@pytest.mark.parametrize("slow", [False, True], ids=["short", "long"])
def test_each_command_waits_for_a_catalog_of_its_own(slow: bool) -> None:
    """Waited for once, it is there: the next time that it is missing counts as the first."""
    made, server = ready_to_repeat(slow=slow)
    said = query("SELECT total FROM orders WHERE id = 7")
    ask(made, server, said)
    for _ in range(2):
        made.port.snapshot = None
        assert made.client(said) == b""
        assert made.session.waiting is Wait.CATALOG
        made.port.snapshot = catalog()
        made.server(server.answers(made.resume(None)))


def test_a_bind_that_the_server_refuses_is_not_kept() -> None:
    """Its format codes are as many as a client likes; there may be 16,384 prepared statements in a session."""
    made, server = ready_to_repeat()
    said = bind("", "s", [b"7"], [0] * 0xFFFF, [300] * 0xFFFF) + describe("P") + execute() + SYNC
    assert kept_of(made, lambda: [ask(made, server, said) for _ in range(2)]) < 65536
    assert not made.ended


# ================================================================ the journal


def test_hashing_ahead_that_fails_half_way_leaves_nothing_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(RecordSettings(), tmp_path)
    for n in range(600):
        recorder.buffer("response", b'{"n":%d}' % n)
    asked: list[int] = []
    random = os.urandom

    def once(size: int) -> bytes:
        asked.append(size)
        if len(asked) == 2:
            raise MemoryError("no room")
        return random(size)

    monkeypatch.setattr("guard.record.writer.os.urandom", once)
    monkeypatch.setattr("guard.record.journal._PREPARED", 1000)
    with pytest.raises(MemoryError):
        recorder.prepare()
    recorder.flush()
    recorder.close()
    report = verify(tmp_path / "journal", load_public(tmp_path / "keys" / "journal.pub"))
    assert report.ok, report
    found = [r.payload for r, _ in follow(tmp_path / "journal", Cursor()) if r.kind == "response"]
    assert found == [b'{"n":%d}' % n for n in range(600)]
