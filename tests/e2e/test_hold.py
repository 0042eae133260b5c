"""A held command waits for a person, runs exactly as shown or not at all, and costs the client nothing but time."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.held import Waiting, status

pytestmark = pytest.mark.e2e

STATEMENT = "DELETE FROM public.orders WHERE id = %s RETURNING id"


class Held(Waiting):
    def __init__(self, lab: Lab, connection: psycopg.Connection[Any], order: int) -> None:
        self.notices: list[str] = []
        connection.add_notice_handler(lambda notice: self.notices.append(notice.message_primary or ""))
        super().__init__(lab, lambda: connection.execute(STATEMENT, (order,)).fetchall())


def vote(lab: Lab, verb: str, held: Held, *, token: str = "", reason: str = "because") -> tuple[int, str]:
    token = token or lab.issuer.token("dana", ["oncall"])
    done = lab.gateway.cli("approvals", verb, held.id, "--reason", reason, token=token)
    return done.returncode, done.stderr


@pytest.fixture
def agent(lab: Lab) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(lab.dsn("agent"), autocommit=True) as connection:
        yield connection
    with lab.server.connect() as direct:  # whatever was deleted comes back
        direct.execute(
            "INSERT INTO orders SELECT n, 1, 'umbrella', 1, 'new', now() FROM generate_series(1, 10) AS n"
            " ON CONFLICT DO NOTHING"
        )


def test_an_approved_command_runs_once(lab: Lab, agent: psycopg.Connection[Any]) -> None:
    held = Held(lab, agent, 1)
    assert any(held.id in text for text in held.notices)
    assert not any(STATEMENT.split(" WHERE")[0] in text for text in lab.server.statements())
    assert vote(lab, "approve", held) == (0, "")
    assert held.answer.result(20) == [(1,)]
    assert status(lab, held, "spent") == "spent"
    again = Held(lab, agent, 1)  # the same bytes wait again: an approval is for once
    assert again.id != held.id
    assert vote(lab, "approve", again)[0] == 0
    assert again.answer.result(20) == []


def test_a_refused_command_is_an_error_with_its_reason(lab: Lab, agent: psycopg.Connection[Any]) -> None:
    held = Held(lab, agent, 2)
    code, text = vote(lab, "deny", held, reason="")
    assert code != 0
    assert "reason" in text
    assert vote(lab, "deny", held, reason="not on a Friday")[0] == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not on a Friday"):
        held.answer.result(20)
    assert agent.execute("SELECT count(*) FROM orders WHERE id = 2").fetchone() == (1,)


def test_nobody_approves_their_own(lab: Lab) -> None:
    token = lab.issuer.token("dana", ["agents", "oncall"])
    with psycopg.connect(lab.gateway.dsn("dana", token), autocommit=True) as connection:
        held = Held(lab, connection, 3)
        code, text = vote(lab, "approve", held, token=token)
        assert code == 1
        assert "own" in text
        assert vote(lab, "approve", held, token=lab.tokens["agent"])[0] == 1  # no approver at all
        connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            held.answer.result(20)


def test_a_cancel_withdraws_and_the_session_lives(lab: Lab, agent: psycopg.Connection[Any]) -> None:
    held = Held(lab, agent, 4)
    agent.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        held.answer.result(20)
    assert status(lab, held, "withdrawn") == "withdrawn"
    assert vote(lab, "approve", held)[0] == 1
    assert agent.execute("SELECT count(*) FROM orders WHERE id = 4").fetchone() == (1,)


def test_a_client_that_leaves_withdraws(lab: Lab) -> None:
    connection = psycopg.connect(lab.dsn("agent"), autocommit=True)
    held = Held(lab, connection, 5)
    # the process is gone, as far as the network knows: no Terminate, just the end of the socket
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        raw.shutdown(socket.SHUT_RDWR)
    with pytest.raises(psycopg.OperationalError):
        held.answer.result(20)
    connection.close()
    assert status(lab, held, "withdrawn") == "withdrawn"
    with lab.server.connect() as direct:
        assert direct.execute("SELECT count(*) FROM orders WHERE id = 5").fetchone() == (1,)


def test_what_the_approver_sees_is_the_whole_command(lab: Lab, agent: psycopg.Connection[Any]) -> None:
    held = Held(lab, agent, 6)
    shown = lab.gateway.ask("approvals", "show", held.id, token=lab.tokens["admin"])
    assert "DELETE FROM public.orders WHERE id = $1 RETURNING id" in re.sub(r"\s+", " ", shown["text"])
    assert "6" in str(shown["params"])
    assert vote(lab, "deny", held)[0] == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        held.answer.result(20)
