"""What a name means can change while a statement waits: a session may define it anew before the rows come.

One identity with two sessions needs no luck for that: the first replaces a view in an open transaction and so holds its
lock, the second asks for it, and waits on the server until the first commits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from addons.definitions import Definitions
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.postgres import Installation
from tests.support import wire
from tests.support.adversary import Session, bytes_of, errors, leaks, session
from tests.support.bytewise import eventually
from tests.support.raw import Closed

DEVELOPERS = """\
  - id: developers
    description: they make what they need, under the masks of everybody
    who: {groups: [agents]}
    allow: ["data.*", probe, admin.dos, admin.lock, "ddl.*", session.name_resolution]

"""
SHOWN = ["email", "upper(email)"]


@pytest.fixture(scope="module")
def lab(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    text = DEFAULT_POLICY.read_text()
    start, end = text.index("  # ---- agent"), text.index("  # ---- HTTP")
    policy = tmp_path_factory.mktemp("lock") / "policy.yaml"
    policy.write_text((text[:start] + DEVELOPERS + text[end:]).replace('["*.', '["public.'))
    with Lab(installation=installation, tls="off", policies=(policy,)) as made:
        yield made


@pytest.fixture
def two(lab: Lab) -> Iterator[tuple[Session, Session]]:
    with session(lab, "agent") as one, session(lab, "agent") as other:
        assert not errors(one.ask("DROP VIEW IF EXISTS mine", "CREATE VIEW mine AS SELECT item AS x FROM orders"))
        eventually(lambda: not errors(other.ask("SELECT x FROM mine LIMIT 1")))
        yield one, other


def extended(sql: str) -> bytes:
    return b"".join((wire.parse("", sql), wire.bind("", ""), wire.describe("P", ""), wire.execute(""), wire.SYNC))


def replaced(shown: str) -> tuple[str, str]:
    return "BEGIN", f"CREATE OR REPLACE VIEW mine AS SELECT {shown}::text AS x FROM customers"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize(
    "asked",
    [
        wire.query("SELECT x FROM mine"),
        wire.query("SELECT upper(x) FROM mine"),
        wire.query("COPY (SELECT x FROM mine) TO STDOUT"),
        wire.query("SELECT sum(x::int) FROM mine"),
        extended("SELECT x FROM mine"),
    ],
    ids=["plain", "computed", "copy", "error", "extended"],
)
def test_what_waited_for_a_lock_is_masked_as_what_it_shows(
    two: tuple[Session, Session], asked: bytes, shown: str
) -> None:
    one, other = two
    assert not errors(one.ask(*replaced(shown)))
    other.raw.send(asked)
    assert other.raw.quiet()
    assert not errors(one.ask("COMMIT"))
    answer = other.say()
    assert answer[-1][0] == "Z"
    assert not leaks(answer)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN)
def test_a_prepared_statement_that_waits_for_a_lock(two: tuple[Session, Session], shown: str) -> None:
    one, other = two
    again = b"".join((wire.bind("", "known"), wire.describe("P", ""), wire.execute(""), wire.SYNC))
    assert not errors(other.say(wire.parse("known", "SELECT x FROM mine"), wire.SYNC))
    for _ in range(3):  # it is known by its bytes now
        assert not errors(other.say(again))
    assert not errors(one.ask(*replaced(shown)))
    other.raw.send(again)
    assert other.raw.quiet()
    assert not errors(one.ask("COMMIT"))
    assert not leaks(other.say())


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN[:1])
@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("BEGIN; DECLARE c CURSOR FOR SELECT x FROM mine", "FETCH ALL FROM c"),
        ("CREATE TEMP TABLE kept AS SELECT x FROM mine", "SELECT x FROM kept"),
    ],
)
def test_what_was_kept_of_it_is_not_taken_for_what_it_was(
    two: tuple[Session, Session], kept: str, asked: str, shown: str
) -> None:
    one, other = two
    assert not errors(one.ask(*replaced(shown)))
    other.raw.send(wire.query(kept))
    assert other.raw.quiet() or "CREATE" in kept  # it writes, and does not even wait
    assert not errors(one.ask("COMMIT"))
    try:
        assert not leaks(other.say())
        assert not leaks(other.ask(asked))
    except (Closed, EOFError):
        return  # the session is over: what it has kept is not known


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN)
def test_another_session_asks_right_behind_the_commit(two: tuple[Session, Session], shown: str) -> None:
    one, other = two
    assert not errors(one.ask(*replaced(shown), "COMMIT"))
    for _ in range(5):
        assert not leaks(other.ask("SELECT x FROM mine"))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("simple", [True, False])
def test_however_it_is_defined(two: tuple[Session, Session], shown: str, simple: bool) -> None:
    one, other = two
    begin, define = replaced(shown)
    assert not errors(one.ask(begin))
    assert not errors(one.ask(define) if simple else one.say(extended(define)))
    other.raw.send(wire.query("SELECT x FROM mine"))
    assert other.raw.quiet()
    assert not errors(one.ask("COMMIT"))
    assert not leaks(other.say())
    assert not errors(one.ask("CREATE OR REPLACE VIEW mine AS SELECT item AS x FROM orders"))
    define = replaced(shown)[1]
    assert not errors(one.ask(define) if simple else one.say(extended(define)))
    assert not leaks(other.ask("SELECT x FROM mine"))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN[:1])
def test_a_second_statement_of_one_message(two: tuple[Session, Session], shown: str) -> None:
    one, other = two
    other.raw.send(wire.query("SELECT pg_sleep(1.5); SELECT x, upper(x) FROM mine"))
    assert not errors(one.ask(*replaced(shown), "COMMIT"))
    assert not leaks(other.say())


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN[:1])
@pytest.mark.parametrize("simple", [True, False])
def test_nothing_is_copied_under_a_definition_that_nobody_judged(
    two: tuple[Session, Session], shown: str, simple: bool
) -> None:
    one, other = two
    copy = "INSERT INTO notes SELECT x FROM mine"
    assert not errors(one.ask("DROP TABLE IF EXISTS notes", "CREATE TABLE notes (x text)"))
    eventually(lambda: not errors(other.ask(copy)))
    if not simple:
        assert not errors(other.say(extended(copy)))
    assert not errors(one.ask(*replaced(shown)))
    other.raw.send(wire.query(copy) if simple else extended(copy))  # the server lets its Parse wait
    assert other.raw.quiet() != simple
    assert not errors(one.ask("COMMIT"))
    assert [error["C"] for error in errors(other.say())] == ["55006"]
    assert not leaks(other.ask("SELECT x FROM notes"))
    assert errors(other.ask(copy))[0]["C"] == "42501"  # judged by what it is now: a copy of what is masked


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN[:1])
@pytest.mark.parametrize(
    "asked",
    [
        wire.query("SELECT pg_sleep(1); INSERT INTO notes SELECT x FROM mine"),
        wire.query("SELECT pg_sleep(1); UPDATE notes SET x = (SELECT min(x) FROM mine)"),
        wire.query("SELECT pg_sleep(1); MERGE INTO notes USING mine ON false WHEN NOT MATCHED THEN INSERT VALUES (x)"),
        extended("SELECT pg_sleep(1)") + extended("INSERT INTO notes SELECT x FROM mine"),
    ],
    ids=["insert", "update", "merge", "pipeline"],
)
def test_nothing_is_defined_anew_that_is_being_copied(
    two: tuple[Session, Session], installation: Installation, asked: bytes, shown: str
) -> None:
    if b"MERGE" in asked and installation.major < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    one, other = two
    assert not errors(
        one.ask("DROP TABLE IF EXISTS notes", "CREATE TABLE notes (x text)", "INSERT INTO notes VALUES ('')")
    )
    eventually(lambda: not errors(other.ask("INSERT INTO notes SELECT x FROM mine WHERE false")))
    before = other.ask("SELECT item FROM orders LIMIT 1")
    other.raw.send(asked)
    refused = one.ask(*replaced(shown), "ROLLBACK")
    assert [error["C"] for error in errors(refused)] == ["55006"]
    assert not errors(other.say(answers=asked.count(wire.SYNC) or 1))
    assert not leaks(other.ask("SELECT x FROM notes"))
    assert before == other.ask("SELECT item FROM orders LIMIT 1")
    assert not errors(one.ask(*replaced(shown), "COMMIT"))  # nobody copies any more
    assert errors(other.ask("INSERT INTO notes SELECT x FROM mine"))[0]["C"] == "42501"


@pytest.mark.e2e
@pytest.mark.slow
def test_a_pipeline_that_was_judged_before_the_commit(two: tuple[Session, Session]) -> None:
    one, other = two
    many = 400
    assert not errors(one.ask(*replaced("email")))
    other.raw.send(
        *[extended("SELECT x FROM orders o, LATERAL (SELECT o.item AS x) l, pg_sleep(0.001) LIMIT 1")] * many
    )
    other.raw.send(*[extended("SELECT x FROM mine")] * many)
    assert not errors(one.ask("COMMIT"))
    assert not leaks(other.say(answers=2 * many))


@pytest.mark.e2e
@pytest.mark.slow
def test_what_is_defined_elsewhere_withholds_nothing_here(two: tuple[Session, Session]) -> None:
    one, other = two
    plain = bytes_of(other.ask("SELECT x FROM mine ORDER BY x LIMIT 3"))
    assert not errors(one.ask("BEGIN", "CREATE TABLE work_in_progress (a int)", "CREATE TEMP TABLE mine (x text)"))
    assert bytes_of(other.ask("SELECT x FROM mine ORDER BY x LIMIT 3")) == plain
    assert not errors(one.ask("COMMIT", "DROP TABLE work_in_progress, pg_temp.mine"))
    assert bytes_of(other.ask("SELECT x FROM mine ORDER BY x LIMIT 3")) == plain
    assert not errors(
        one.ask("CREATE OR REPLACE VIEW mine AS SELECT item AS x FROM orders")
    )  # and what is over is over
    assert bytes_of(other.ask("SELECT x FROM mine ORDER BY x LIMIT 3")) == plain  # what is over is over


# what gives a name another meaning without being written under it: (how it is made, what is asked, what undoes it)
OTHERWISE = {
    "overload": (
        "CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS "
        "'SELECT string_agg(email, '','') FROM customers'",
        "SELECT lower(x::varchar) FROM mine LIMIT 2",
        "DROP FUNCTION public.lower(varchar)",
    ),
    "elements of a schema": (
        "CREATE SCHEMA nearer CREATE VIEW mine AS SELECT upper(email) AS x FROM public.customers",
        "SELECT x || '' FROM mine LIMIT 2",
        "DROP SCHEMA nearer CASCADE",
    ),
    "new name": (
        "ALTER VIEW near.theirs RENAME TO mine",
        "SELECT x || '' FROM mine LIMIT 2",
        "ALTER VIEW near.mine RENAME TO theirs",
    ),
}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("how", OTHERWISE)
@pytest.mark.parametrize("waits", [True, False])
def test_what_hides_a_name_is_a_definition_of_it(two: tuple[Session, Session], how: str, waits: bool) -> None:
    one, other = two
    made, asked, undone = OTHERWISE[how]
    one.ask("CREATE SCHEMA near", "CREATE VIEW near.theirs AS SELECT upper(email) AS x FROM public.customers")
    assert not errors(other.ask("SET search_path = nearer, near, public"))
    eventually(lambda: not errors(other.ask(asked)) and not errors(one.ask("SELECT x FROM near.theirs LIMIT 1")))
    if waits:
        assert not errors(one.ask("BEGIN", "LOCK TABLE public.mine IN ACCESS EXCLUSIVE MODE", made))
        other.raw.send(wire.query(asked))
        assert other.raw.quiet()
        assert not errors(one.ask("COMMIT"))
        answer = other.say()
    else:
        assert not errors(one.ask(made))
        answer = other.ask(asked)
    assert not leaks(answer)
    assert not errors(one.ask(undone))


@pytest.mark.e2e
@pytest.mark.slow
def test_a_call_that_reads_nothing_may_be_of_a_function_that_is_new(two: tuple[Session, Session]) -> None:
    one, other = two
    made, _, undone = OTHERWISE["overload"]
    other.raw.send(wire.query("SELECT pg_sleep(0.4); SELECT lower('a'::varchar)"))
    assert not errors(one.ask(made))
    assert not leaks(other.say())
    assert not errors(one.ask(undone, "DROP TABLE IF EXISTS notes", "CREATE TABLE notes (x text)"))
    eventually(lambda: not errors(other.ask("INSERT INTO notes VALUES ('')")))
    other.raw.send(wire.query("SELECT pg_sleep(0.4); INSERT INTO notes VALUES (lower('a'::varchar))"))
    assert [error["C"] for error in errors(one.ask(made))] == ["55006"]
    other.say()
    assert not leaks(other.ask("SELECT x FROM notes"))


@pytest.mark.e2e
@pytest.mark.slow
def test_temporary_tables_of_one_name_are_made_at_the_same_time(two: tuple[Session, Session]) -> None:
    one, other = two
    one.raw.send(wire.query("SELECT pg_sleep(0.5); CREATE TEMP TABLE step AS SELECT x FROM mine"))
    assert not errors(other.ask("CREATE TEMP TABLE step AS SELECT x FROM mine", "DROP TABLE step"))
    assert not errors(one.say())


@pytest.mark.e2e
@pytest.mark.slow
def test_who_is_gone_may_still_be_copying(two: tuple[Session, Session]) -> None:
    """The last with this gateway: for half a minute nobody may define anything."""
    one, other = two
    assert not errors(one.ask("DROP TABLE IF EXISTS notes", "CREATE TABLE notes (x text)"))
    assert not errors(one.ask("CREATE VIEW theirs AS SELECT item AS x FROM orders"))
    eventually(lambda: not errors(other.ask("INSERT INTO notes SELECT x FROM theirs WHERE false")))
    other.raw.send(wire.query("SELECT pg_sleep(2); INSERT INTO notes SELECT x FROM theirs"))
    assert other.raw.quiet()
    other.raw.close()
    time.sleep(0.3)
    assert [
        error["C"]
        for error in errors(
            one.ask("BEGIN", "CREATE OR REPLACE VIEW theirs AS SELECT email::text AS x FROM customers", "ROLLBACK")
        )
    ] == ["55006"]
    assert not leaks(one.ask("SELECT pg_sleep(2)", "SELECT x FROM notes"))


# ---------------------------------------------------------------- who defines what, and until when


class Clock:
    """Both clocks of a `Definitions`, in nanoseconds."""

    def __init__(self, now: int = 0) -> None:
        self.wall = self.monotonic = now
        self.known = Definitions(lambda: self.wall, lambda: self.monotonic)

    def at(self, now: int) -> None:
        self.wall = self.monotonic = now


def test_a_definition_concerns_those_who_were_judged_before_its_end() -> None:
    clock, me, them = Clock(), object(), object()
    known = clock.known
    assert not known.concern(me, ["public.mine"], 5)
    known.begin(them, ["public.mine"])
    assert known.concern(me, ["public.mine"], 5)
    assert known.concern(me, ["other.mine"], 5)  # it may hide the other
    assert known.concern(me, ["*"], 5)
    assert not known.concern(me, ["public.yours"], 5)
    assert not known.concern(them, ["public.mine"], 5)  # one's own are the session's affair
    clock.at(10)
    known.end(them)
    clock.at(11)
    known.end(them)  # once
    assert known.concern(me, ["public.mine"], 9)
    assert known.concern(me, ["public.mine"], 10)
    assert not known.concern(me, ["public.mine"], 11)


def test_a_definition_of_nobody_knows_what_concerns_all() -> None:
    clock, me, them = Clock(), object(), object()
    known = clock.known
    known.begin(them, [])
    assert known.concern(me, ["public.yours"], 5)
    clock.at(10)
    known.end(them)
    assert known.concern(me, ["public.yours"], 5)
    assert not known.concern(me, ["public.yours"], 11)


def test_a_session_that_is_gone_may_still_define_for_a_while() -> None:
    clock, me, them = Clock(10), object(), object()
    known = clock.known
    known.begin(them, ["public.mine"])
    known.end(them, certain=False)
    assert known.concern(me, ["public.mine"], 500_000_000_000)
    assert not known.concern(me, ["public.mine"], 700_000_000_000)


def test_a_clock_that_is_put_back_hides_no_definition() -> None:
    clock, me, them = Clock(1_000), object(), object()
    known = clock.known
    judged = 1_000
    clock.wall, clock.monotonic = 400, 1_010
    known.begin(them, ["public.mine"])
    clock.wall, clock.monotonic = 410, 1_020
    known.end(them)
    assert known.concern(me, ["public.mine"], judged)


def test_definitions_take_bounded_memory_and_what_is_forgotten_concerns_all_before_it() -> None:
    clock, me = Clock(), object()
    known = clock.known
    for n in range(2000):
        known.begin(n, [f"public.t{n}"])
        clock.at(10 + n)
        known.end(n)
    assert len(known._over) == 512
    assert known.concern(me, ["public.yours"], 100)
    assert not known.concern(me, ["public.yours"], 1800)
    assert known.concern(me, ["public.t1900"], 1800)


def test_a_copy_concerns_who_defines_until_it_is_over() -> None:
    clock, me, them = Clock(), object(), object()
    copies = clock.known.copies
    assert not copies.concern(me, ["public.mine"])
    copies.begin(them, ["public.notes", "public.mine"])
    assert copies.concern(me, ["other.mine"])
    assert copies.concern(me, [])  # it may define anything
    assert not copies.concern(me, ["public.yours"])
    assert not copies.concern(them, ["public.mine"])
    copies.end(them)
    assert not copies.concern(me, ["public.mine"])
    copies.begin(them, ["*"])  # it may read anything
    assert copies.concern(me, ["public.yours"])
    copies.end(them)


def test_a_copy_whose_session_is_gone_counts_for_a_while() -> None:
    clock, me, them = Clock(), object(), object()
    copies = clock.known.copies
    copies.begin(them, ["public.mine"])
    copies.end(them, certain=False)
    clock.at(599_000_000_000)
    assert copies.concern(me, ["public.mine"])
    clock.at(600_000_000_000)
    assert not copies.concern(me, ["public.mine"])


def test_copies_of_lost_sessions_take_bounded_memory_and_hide_none() -> None:
    clock, me = Clock(), object()
    copies = clock.known.copies
    for n in range(2000):
        copies.begin(n, [f"public.t{n}"])
        copies.end(n, certain=False)
    assert len(copies._lost) == 512
    assert copies.concern(me, ["public.t1999"])
    assert copies.concern(me, ["public.t3"])
