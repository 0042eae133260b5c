"""Names that change between the judgement and the run: what runs is what was judged, held and put on record."""

from __future__ import annotations

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.adversary import COMPUTED, Answer, Session, errors, held, leaks, session
from tests.support.wire import SYNC, bind, close, describe, execute, parse, query

pytestmark = pytest.mark.e2e

DELETE = "DELETE FROM orders WHERE id = 700"


def close_parse_execute(s: Session, text: str) -> Answer:
    """Close, Parse of another text under the same name, and SQL's EXECUTE, before any of them is answered."""
    s.say(parse("p", "SELECT 'x'"), SYNC)
    return s.say(close("S", "p"), parse("p", text), query("EXECUTE p"))


def portal_of_execute(s: Session, text: str) -> Answer:
    """A portal for EXECUTE looks the name up when it runs, not when it was bound."""
    s.say(parse("p", "SELECT 'x'"), parse("e", "EXECUTE p"), SYNC)
    return s.say(bind("", "e"), close("S", "p"), parse("p", text), execute(), SYNC)


def portal_of_execute_later(s: Session, text: str) -> Answer:
    """The same, each step answered before the next."""
    s.say(parse("p", "SELECT 'x'"), parse("e", "EXECUTE p"), SYNC)
    s.ask("BEGIN")
    s.say(bind("q", "e"), SYNC)
    s.say(close("S", "p"), parse("p", text), SYNC)
    return s.say(execute("q"), SYNC)


def second_parse_fails(s: Session, text: str) -> Answer:
    """The second Parse of a name fails, so the first one is what Bind gets."""
    first, second = parse("p", text) + SYNC, parse("p", "SELECT 'x'") + SYNC
    return s.say(first, second, bind("", "p"), execute(), SYNC, answers=3)


def sql_prepared_first(s: Session, text: str) -> Answer:
    """SQL's PREPARE has the name; a Parse of it fails, and Bind runs what PREPARE made."""
    found = s.ask(f"PREPARE p AS {text}")
    if errors(found) or held(found):
        return found
    return s.say(parse("p", "SELECT 'x'"), SYNC, bind("", "p"), execute(), SYNC, answers=2)


def names_alike(s: Session, text: str) -> Answer:
    """The server cuts names at 63 bytes: two that begin alike are one."""
    long = "n" * 63
    s.say(parse(long, "SELECT 'x'"), SYNC)
    s.raw.send(close("S", long + "Y"), parse(long + "Y", text), SYNC, bind("", long), execute(), SYNC)
    found = []
    try:
        while True:
            found.append(s.raw.message())
    except EOFError:
        return found


STATEMENTS = (
    close_parse_execute, portal_of_execute, portal_of_execute_later,
    second_parse_fails, sql_prepared_first, names_alike,
)  # fmt: skip


@pytest.mark.parametrize("attack", STATEMENTS)
def test_a_prepared_name_cannot_smuggle_a_masked_value(attacked: Lab, attack: object) -> None:
    assert callable(attack)
    with session(attacked) as s:
        assert leaks(attack(s, COMPUTED)) == []


@pytest.mark.parametrize("attack", STATEMENTS)
def test_a_prepared_name_cannot_smuggle_a_statement_past_its_hold(attacked: Lab, attack: object) -> None:
    assert callable(attack)
    with session(attacked, "agent") as s:
        found = attack(s, DELETE)
        assert held(found) or errors(found) or attack is names_alike  # that one ends the session
    with attacked.server.connect() as direct:
        assert direct.execute("SELECT count(*) FROM orders WHERE id = 700").fetchone() == (1,)


def _bound(s: Session) -> None:
    """A transaction with a harmless portal `c`, described."""
    s.ask("BEGIN", "SAVEPOINT before")
    s.say(parse("h", "SELECT 'x'"), bind("c", "h"), describe("P", "c"), SYNC)


ENDS = {
    "closed": ("CLOSE c",),
    "all closed": ("CLOSE ALL",),
    "rolled back to": ("ROLLBACK TO before",),
    "committed and chained": ("COMMIT AND CHAIN",),
    "committed in one message": ("COMMIT; BEGIN",),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["executed", "fetched"])
def test_a_cursor_in_the_place_of_a_portal_is_masked_as_what_it_is(attacked: Lab, end: str, how: str) -> None:
    with session(attacked) as s:
        _bound(s)
        s.ask(*ENDS[end], f"DECLARE c CURSOR FOR {COMPUTED}")
        found = s.say(execute("c"), SYNC) if how == "executed" else s.ask("FETCH ALL FROM c")
        assert leaks(found) == []
        assert not errors(found)
        assert b"D" in {kind.encode() for kind, _ in found}


def test_a_portal_in_the_place_of_a_cursor_is_masked_as_what_it_is(attacked: Lab) -> None:
    with session(attacked) as s:
        s.ask("BEGIN", "DECLARE c CURSOR FOR SELECT 'x'")
        found = s.say(query("CLOSE c"), parse("m", COMPUTED), bind("c", "m"), query("FETCH ALL FROM c"), answers=2)
        assert leaks(found) == []


def test_a_portal_for_fetch_reads_the_cursor_that_was_judged(attacked: Lab) -> None:
    with session(attacked) as s:
        s.ask("BEGIN", "DECLARE c CURSOR FOR SELECT 'x'")
        s.say(parse("f", "FETCH ALL FROM c"), bind("pf", "f"), SYNC)
        s.ask("CLOSE c", f"DECLARE c CURSOR FOR {COMPUTED}")
        found = s.say(execute("pf"), SYNC)
        assert leaks(found) == []
        assert errors(found)[0]["C"] == "55000"


def test_a_portal_for_fetch_works_while_nothing_changes(attacked: Lab) -> None:
    with session(attacked) as s:
        s.ask("BEGIN", "DECLARE c CURSOR FOR SELECT 'x'")
        s.say(parse("f", "FETCH ALL FROM c"), bind("pf", "f"), SYNC)
        assert wire.rows(wire.message(*s.say(execute("pf"), SYNC)[0])) == [[b"x"]]
