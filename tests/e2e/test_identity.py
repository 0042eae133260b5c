"""Only a signed, unexpired token of a trusted issuer opens a session, and it ends with what it rests on."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from scripts.support.issuer import Issuer
from scripts.support.lab import Lab

pytestmark = pytest.mark.e2e


def tampered(token: str) -> str:
    head, body, signature = token.split(".")
    return ".".join((head, body, signature[:-6] + ("AAAAAA" if signature[-6:] != "AAAAAA" else "BBBBBB")))


def ended(connection: psycopg.Connection[Any], seconds: float) -> psycopg.OperationalError:
    """Ask until the session is over; the error that the client saw."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return error
        time.sleep(0.05)
    pytest.fail(f"the session still lives after {seconds:g} s")


def arrivals(lab: Lab) -> int:
    """How many connections the server has seen over TCP."""
    return sum("connection received: host=127.0.0.1" in entry.text for entry in lab.server.logged())


def test_what_is_no_valid_token_opens_nothing(lab: Lab) -> None:
    with Issuer(lab.authority) as stranger:
        refused = {
            "a static password": "hunter2-hunter2",
            "the upstream's own password": lab.server.password,
            "an expired token": lab.issuer.token("analyst", ["analysts"], ttl=-120),
            "a token for another audience": lab.issuer.token("analyst", ["analysts"], aud="elsewhere"),
            "a token of an unknown issuer": stranger.token("analyst", ["analysts"]),
            "an unknown issuer's key with our issuer's name": stranger.token(
                "analyst", ["analysts"], iss=lab.issuer.url
            ),
            "a token with another signature": tampered(lab.tokens["analyst"]),
            "a token without expiry": lab.issuer.token("analyst", ["analysts"], exp=None),
            "a token without subject": lab.issuer.token("analyst", ["analysts"], sub=None),
            "a token from the future": lab.issuer.token("analyst", ["analysts"], nbf=int(time.time()) + 3600),
            "an empty password": "",
        }
        psycopg.connect(
            lab.dsn("analyst")
        ).close()  # the gateway's own look at the catalog comes with the first session
        before = arrivals(lab)
        for what, password in refused.items():
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(lab.gateway.dsn("analyst", password)).close()
            text = str(caught.value)
            assert "FATAL" in text or "no password supplied" in text, what
            assert not password or password not in text, what
    assert arrivals(lab) == before


def test_the_user_name_that_the_client_claims_gives_nothing(lab: Lab) -> None:
    dsn = lab.gateway.dsn("admin", lab.tokens["agent"])
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DROP TABLE public.orders")


def test_a_session_ends_when_its_token_does(lab: Lab) -> None:
    token = lab.issuer.token("analyst", ["analysts"], ttl=3)
    with psycopg.connect(lab.gateway.dsn("analyst", token), autocommit=True) as connection:
        error = ended(connection, 45)  # the issuer's leeway may be 30 s
    assert error.sqlstate in ("57P01", "28000")


def test_containment_cuts_the_live_session_and_keeps_it_out(lab: Lab) -> None:
    token = lab.issuer.token("contractor", ["analysts"])
    admin = lab.tokens["admin"]
    dsn = lab.gateway.dsn("contractor", token)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT 1")
        done = lab.gateway.cli("contain", "contractor", "--reason", "offboarded", token=admin)
        assert done.returncode == 0, done.stderr
        error = ended(connection, 5)
    assert (error.sqlstate, error.diag.severity) == ("57P01", "FATAL")
    with pytest.raises(psycopg.OperationalError, match="FATAL"):
        psycopg.connect(dsn).close()
    done = lab.gateway.cli("release", "contractor", token=admin)
    assert done.returncode == 0, done.stderr
    for attempt in range(20):  # what tightens reaches sessions at once, what loosens with the next look at the store
        try:
            with psycopg.connect(dsn) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            break
        except psycopg.OperationalError:
            assert attempt < 19
            time.sleep(0.1)


def test_the_command_line_asks_for_a_role(lab: Lab) -> None:
    for words in (["contain", "admin", "--reason", "revenge"], ["sessions"], ["approvals", "list"]):
        done = lab.gateway.cli(*words, token=lab.tokens["agent"])
        assert done.returncode == 1, words
        assert done.stderr
