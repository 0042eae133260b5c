"""Clients that give up sooner than people answer: refused with a ticket, and let through once when it is approved."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

DELETE = "DELETE FROM public.orders WHERE id = %s RETURNING id"
STRICTER = """
  - id: nothing-goes
    description: a rule that came while the request was open
    who: {groups: [agents]}
    deny: [data.delete]
    message: the shop is closed
"""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose listener lets a client wait for a second, with a policy of its own."""
    policy = tmp_path_factory.mktemp("policies") / "policy.yaml"
    shutil.copyfile(DEFAULT_POLICY, policy)
    with Lab([policy], tls="off", adjust=_short) as lab:
        yield lab


def _short(document: dict[str, Any]) -> None:
    document["listeners"][0]["hold_wait"] = 1.0


def policy_of(lab: Lab) -> Path:
    return Path(lab.gateway.document["policies"][0])


@pytest.fixture
def agent(patient: Lab) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(patient.dsn("agent"), autocommit=True) as connection:
        yield connection


def deferred(connection: psycopg.Connection[Any], order: int, statement: str = DELETE) -> str:
    """The ticket that the client is refused with."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="passes once") as caught:
        connection.execute(statement, (order,))
    message = str(caught.value)
    ticket = message.partition("request ")[2].split()[0]
    assert len(ticket) == 8, message
    return ticket


def approve(lab: Lab, ticket: str, verb: str = "approve") -> None:
    token = lab.issuer.token("dana", ["oncall"])
    done = lab.gateway.cli("approvals", verb, ticket, "--reason", "seen", token=token)
    assert done.returncode == 0, done.stderr


def known(lab: Lab, ticket: str) -> dict[str, Any]:
    found = lab.gateway.ask("approvals", "list", "--status", "all", token=lab.tokens["admin"])
    return next(entry for entry in found if entry["id"] == ticket)


def test_a_late_approval_lets_the_same_statement_through_once(patient: Lab, agent: psycopg.Connection[Any]) -> None:
    ticket = deferred(agent, 1)
    assert agent.execute("SELECT 1").fetchone() == (1,)  # the connection lives
    assert (known(patient, ticket)["status"], known(patient, ticket)["deferred"]) == ("pending", True)
    approve(patient, ticket)
    with psycopg.connect(patient.dsn("agent"), autocommit=True) as other:
        assert other.execute(DELETE, (1,)).fetchall() == [(1,)]
    assert known(patient, ticket)["status"] == "spent"
    (record,) = await_records(
        patient.gateway.state_dir, lambda r: r["t"] == "approval.spent" and r["approval"] == ticket
    )
    assert record["used_by"] != record["s"]
    assert deferred(agent, 1) != ticket


def test_sent_again_while_it_is_open_it_waits_for_the_same_answer(patient: Lab, agent: psycopg.Connection[Any]) -> None:
    ticket = deferred(agent, 2)
    assert deferred(agent, 2) == ticket
    voter = threading.Thread(target=approve, args=(patient, ticket))
    voter.start()
    tickets = {ticket}
    answer: list[Any] = []
    while not answer and len(tickets) == 1:  # however slow the vote is: it is joined, or used afterwards
        try:
            answer = agent.execute(DELETE, (2,)).fetchall()
        except psycopg.errors.InsufficientPrivilege as error:
            tickets.add(str(error).partition("request ")[2].split()[0])
    voter.join()
    assert (answer, tickets) == ([(2,)], {ticket})
    assert known(patient, ticket)["status"] == "spent"


def test_other_parameters_or_another_identity_need_their_own_approval(
    patient: Lab, agent: psycopg.Connection[Any]
) -> None:
    ticket = deferred(agent, 3)
    approve(patient, ticket)
    assert deferred(agent, 4) != ticket
    assert deferred(agent, 3, DELETE + " ") != ticket
    token = patient.issuer.token("agent-2", ["agents"])
    with psycopg.connect(patient.gateway.dsn("agent-2", token), autocommit=True) as other:
        assert deferred(other, 3) != ticket
    assert known(patient, ticket)["status"] == "approved"


def test_a_statement_that_its_driver_has_prepared(patient: Lab, agent: psycopg.Connection[Any]) -> None:
    """The name that a driver gives it differs from connection to connection; what runs does not."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        agent.execute(DELETE, (5,), prepare=True)
    ticket = str(caught.value).partition("request ")[2].split()[0]
    approve(patient, ticket)
    with psycopg.connect(patient.dsn("agent"), autocommit=True) as other:
        other.execute("SELECT 1", prepare=True)
        assert other.execute(DELETE, (5,), prepare=True).fetchall() == [(5,)]


def test_a_refusal_stays_a_refusal(patient: Lab, agent: psycopg.Connection[Any]) -> None:
    ticket = deferred(agent, 6)
    approve(patient, ticket, "deny")
    assert deferred(agent, 6) != ticket
    assert agent.execute("SELECT count(*) FROM orders WHERE id = 6").fetchone() == (1,)


def test_a_restart_of_the_gateway_between_ticket_and_approval(patient: Lab) -> None:
    with psycopg.connect(patient.dsn("agent"), autocommit=True) as connection:
        first, second = deferred(connection, 7), deferred(connection, 8)
    approve(patient, first)
    patient.gateway.kill()
    patient.gateway.start()
    approve(patient, second)
    with psycopg.connect(patient.dsn("agent"), autocommit=True) as connection:
        assert connection.execute(DELETE, (7,)).fetchall() == [(7,)]
        assert connection.execute(DELETE, (8,)).fetchall() == [(8,)]


def test_inside_a_transaction_it_is_an_error_like_any_other(patient: Lab) -> None:
    with psycopg.connect(patient.dsn("agent")) as connection:
        deferred(connection, 9)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM orders WHERE id = 9").fetchone() == (1,)


def test_what_rests_on_names_of_the_session_is_not_approved_for_later(
    patient: Lab, agent: psycopg.Connection[Any]
) -> None:
    """EXECUTE gone may run anything in another session: nobody could say what was approved."""
    prepare = "PREPARE gone AS DELETE FROM public.orders WHERE id = 10"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="passes once") as caught:
        agent.execute(prepare)
    approve(patient, str(caught.value).partition("request ")[2].split()[0])
    agent.execute(prepare)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody approved it in time") as caught:
        agent.execute("EXECUTE gone")
    ticket = str(caught.value).partition("request ")[2].split()[0].rstrip(")")
    assert known(patient, ticket)["status"] == "withdrawn"


def test_a_policy_that_became_stricter_is_not_overruled(patient: Lab, agent: psycopg.Connection[Any]) -> None:
    ticket = deferred(agent, 10)
    approve(patient, ticket)
    policy = policy_of(patient)
    before = policy.read_text()
    try:
        policy.write_text(before.rstrip() + "\n" + STRICTER)
        patient.gateway.ask("reload", token=patient.tokens["admin"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the shop is closed"):
            agent.execute(DELETE, (10,))
    finally:
        policy.write_text(before)
        patient.gateway.ask("reload", token=patient.tokens["admin"])
    assert known(patient, ticket)["status"] == "approved"
