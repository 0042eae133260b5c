"""What ran is on record as it ran, and what is secret is nowhere."""

from __future__ import annotations

import time
from typing import Any

import pytest

from scripts.support.lab import Lab
from tests.support.adversary import bytes_of, errors, held, session
from tests.support.bytewise import eventually
from tests.support.wire import SYNC, bind, execute, parse, query

pytestmark = pytest.mark.e2e


def kept(lab: Lab) -> bytes:
    """Every byte that the gateway has written anywhere."""
    files = [path for path in lab.folder.rglob("*") if path.is_file() and "tls" not in path.parts]
    return b"".join(path.read_bytes() for path in files if "data" not in path.parts)


def pending(lab: Lab, token: str) -> dict[str, Any]:
    found = lab.gateway.ask("approvals", "list", token=token)
    assert len(found) == 1, found
    shown: dict[str, Any] = lab.gateway.ask("approvals", "show", found[0]["id"], token=token)
    return shown


def test_nothing_hides_behind_a_long_comment(attacked: Lab) -> None:
    text = "SELECT 1 /*" + "x" * 1_200_000 + "*/, 'behind the comment' AS tail"
    with session(attacked) as s:
        assert b"behind the comment" in bytes_of(s.ask(text))
    eventually(lambda: b"*/, 'behind the comment' AS tail" in kept(attacked))


def test_a_word_and_some_padding_do_not_keep_a_statement_off_the_record(attacked: Lab) -> None:
    padding = "x" * 100_000
    with session(attacked) as s:
        assert not errors(s.ask(f"SELECT item, 'password' /*{padding}*/ FROM orders AS on_the_record WHERE id = 1"))
    eventually(lambda: b"FROM orders AS on_the_record" in kept(attacked))


def test_an_approver_sees_long_parameters_whole(attacked: Lab) -> None:
    harmless, tail = "nothing," * 400, "and-everything"
    with session(attacked, "agent") as s:
        statement = parse("", "DELETE FROM orders WHERE item = ANY (string_to_array($1, ','))")
        assert held(s.say(statement, bind("", "", [(harmless + tail).encode()]), execute(), SYNC))
        assert pending(attacked, attacked.tokens["admin"])["params"] == [harmless + tail]


def test_what_is_too_long_to_be_shown_to_an_approver_is_refused(attacked: Lab) -> None:
    with session(attacked, "agent") as s:
        statement = parse("", "DELETE FROM orders WHERE item = $1")
        found = s.say(statement, bind("", "", [b"x" * 300_000]), execute(), SYNC)
        assert not held(found)
        assert [e["C"] for e in errors(found)] == ["42501"]


def test_the_exact_text_of_a_held_command_goes_when_it_is_decided(attacked: Lab) -> None:
    secret = f"passphrase-{time.time_ns()}"
    with session(attacked, "agent") as s:
        assert held(s.say(query(f"DELETE FROM credentials WHERE secret = '{secret}'")))
        shown = pending(attacked, attacked.tokens["admin"])
        token = attacked.issuer.token("dana", ["oncall"])
        done = attacked.gateway.cli("approvals", "deny", shown["id"], "--reason", "no", token=token)
        assert done.returncode == 0, done.stderr
        s.raw.until("Z")
    eventually(lambda: secret.encode() not in kept(attacked))


PASSWORDS = (
    "ALTER ROLE nobody PASSWORD '{}'",
    "ALTER ROLE nobody PASSWORD U&'{}'",
    "ALTER ROLE nobody PASSWORD E'{}'",
    "ALTER ROLE nobody PASSWORD $a${}$a$",
    "alter role nobody /* ' */ password -- x\n '{}'",
    "CREATE USER MAPPING FOR nobody SERVER s OPTIONS (user 'a', password '{}')",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password={}' PUBLICATION p",
    "DO $$ BEGIN EXECUTE 'ALTER ROLE nobody PASSWORD ''{}'''; END $$",
    "ALTER ROLE nobody PASSWORD '{}",
    "ALTER ROLE nobody PASWORD '{}'",
    "SELECT 'postgresql://user:{}@host/db'",
)


def test_no_disguise_puts_a_password_on_record(attacked: Lab) -> None:
    made = {f"pw{time.time_ns()}{i}": text for i, text in enumerate(PASSWORDS)}
    with session(attacked) as s:
        for password, text in made.items():
            s.say(query(text.format(password)))
        s.ask("SELECT 'the last of them'")
    eventually(lambda: b"the last of them" in kept(attacked))
    everything = kept(attacked)
    assert [text for password, text in made.items() if password.encode() in everything] == []


def test_the_gateways_own_secrets_are_in_no_file_and_no_argument(attacked: Lab) -> None:
    with session(attacked) as s:
        s.ask("SELECT 1")
    pid = attacked.gateway.process.pid
    with open(f"/proc/{pid}/cmdline", "rb") as arguments:
        seen = kept(attacked) + arguments.read()
    assert attacked.server.password.encode() not in seen
    assert [name for name, token in attacked.tokens.items() if token.encode() in seen] == []
