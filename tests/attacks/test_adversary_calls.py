"""A fast-path call between Bind and Execute: what the function changed counts for portals that were bound before it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support import wire
from tests.support.adversary import CARD, Session, bytes_of, errors, leaks, session
from tests.support.port import anything
from tests.support.talk import SSN, Talk
from tests.support.wire import SYNC, bind, complete, execute, parse, query, ready

NOBODY_KNOWS = 1_234_567  # an OID that is in no catalog: it may do anything
LOREAD = 954  # pg_proc.dat
RESULT = wire.message("V", b"\xff\xff\xff\xff")
BIND_AGAIN = "bind it again"


def called(talk: Talk, oid: int, *, large: int = 0) -> None:
    assert talk.client(wire.call(oid))
    talk.server(wire.message("V", large.to_bytes(4) + bytes(large)) if large else RESULT, ready("T"))


def executed(talk: Talk, name: str) -> bool:
    """Whether the portal is executed; where not, the client is told to bind it again."""
    sent = talk.client(execute(name) + SYNC)
    if execute(name) in sent:
        return True
    (told,) = wire.errors(talk.server(wire.error("34000"), ready("E")))
    assert told["C"] == "55000"
    assert BIND_AGAIN in told["M"]
    return False


def writing(talk: Talk) -> None:
    """A transaction with a portal that would return what is in a temporary table when it runs."""
    talk.client(query("CREATE TEMP TABLE t (a text)"))
    talk.server(complete("CREATE TABLE"), ready())
    talk.begin()
    talk.client(parse("", "UPDATE t SET a = a RETURNING a") + bind("p", "") + SYNC)
    talk.server(wire.PARSED, wire.BOUND, wire.columns(wire.field("a", 99_999, 1)), ready("T"))


@pytest.mark.parametrize("large", [0, 200_000])
def test_a_call_between_bind_and_execute_may_have_filled_the_temporary_table(large: int) -> None:
    talk = Talk(anything, masks=[SSN], inspect_max=100_000)
    writing(talk)
    called(talk, NOBODY_KNOWS, large=large)
    assert not executed(talk, "p")


def test_a_call_between_bind_and_execute_may_have_prepared_another_statement() -> None:
    talk = Talk(anything)
    talk.client(query("PREPARE q AS SELECT 1"))
    talk.server(complete("PREPARE"), ready())
    talk.begin()
    talk.client(parse("", "EXECUTE q") + bind("p", "") + SYNC)
    talk.server(wire.PARSED, wire.BOUND, ready("T"))
    called(talk, NOBODY_KNOWS)
    assert not executed(talk, "p")


def test_a_call_that_changes_nothing_leaves_the_portal_as_it_was() -> None:
    talk = Talk(anything, masks=[SSN])
    writing(talk)
    called(talk, LOREAD)
    assert executed(talk, "p")


SETUP = """
CREATE FUNCTION public.fill_up() RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
BEGIN EXECUTE 'INSERT INTO t SELECT card FROM public.customers ORDER BY id'; RETURN 1; END $$;
"""


@pytest.fixture
def shop(tmp_path: Path) -> Lab:
    """Analysts who may use temporary tables and call one function, and masks that name their columns exactly."""
    text = DEFAULT_POLICY.read_text()
    text = text.replace("[data.select, data.copy_out, probe]", "[data.*, ddl.create, probe, exec.call]")
    text = text.replace('columns: ["*.customers.card"], names: ["card*"]', 'columns: ["public.customers.card"]')
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    return Lab(tls="off", policies=(policy,))


def until_known(lab: Lab, oid: int) -> None:
    """The view of the database is at most a second old."""
    deadline = time.monotonic() + 20
    while True:
        with session(lab) as s:
            (told,) = errors(s.say(wire.call(oid)))
        if told["C"] == "42P01":  # it ran: there is no table yet
            return
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def portal(s: Session) -> None:
    assert not errors(s.ask("CREATE TEMP TABLE t (a text)", "BEGIN"))
    assert not errors(s.say(parse("", "UPDATE t SET a = a RETURNING a"), bind("p", ""), SYNC))


@pytest.mark.e2e
def test_on_a_real_server_nothing_masked_comes_out_that_way(shop: Lab) -> None:
    with shop as lab:
        with lab.server.connect() as direct:
            direct.execute(SETUP)
            row = direct.execute("SELECT 'public.fill_up()'::regprocedure::oid::int").fetchone()
            assert row is not None
            (fill_up,) = row
        until_known(lab, fill_up)
        with session(lab) as s:
            portal(s)
            assert not errors(s.say(wire.call(fill_up)))
            found = s.say(execute("p"), SYNC)
            assert [told["C"] for told in errors(found)] == ["55000"]
            assert not leaks(found)
        with session(lab, "admin") as s:  # the same in the clear: it is no empty table
            portal(s)
            s.say(wire.call(fill_up))
            s.say(parse("r", "SELECT a FROM t"), bind("r", "r"), SYNC)
            assert CARD.encode() in bytes_of(s.say(execute("r"), SYNC))
