"""docs/reference/journal.md names every kind of record and every field, as a gateway really writes them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.markdown import ROOT, page

TEXT = page("docs/reference/journal.md").text
_COMMON = {"t", "at", "s", "n"}


def _described() -> dict[str, set[str]]:
    """Kind -> fields."""
    found: dict[str, set[str]] = {}
    for part in re.split(r"^(?=###? )", TEXT, flags=re.MULTILINE):
        title = part.splitlines()[0] if part.strip() else ""
        kinds = re.findall(r"`([a-z.]+)`", title)
        if title.startswith("## Approvals"):
            kinds = re.findall(r"^\| `(approval\.\w+)` \|", part, re.MULTILINE)
        fields = set()
        for cell in re.findall(r"^\| (`[^|]+) \|", part, re.MULTILINE):
            fields |= set(re.findall(r"`(\w+)`", cell))
        for kind in kinds:
            found[kind] = fields | _COMMON
    return found


DESCRIBED = _described()


def test_every_kind_in_the_code_is_described() -> None:
    written = set()
    calls = re.compile(
        r"(?:\.event|\.note|\.record|_record|_journal|\.buffer|_append|_finish|_record_note|\.get|session_\w+)"
        r"\(\s*b?\"([a-z]+\.[a-z_]+|command|response|containment|revocation|alert)\""
    )
    for folder in ("addons", "guard", "protocols"):
        for path in (ROOT / folder).rglob("*.py"):
            written |= set(calls.findall(path.read_text(encoding="utf-8")))
    assert len(written) > 10
    assert written <= DESCRIBED.keys()


@pytest.fixture(scope="module")
def records() -> Iterator[list[dict[str, Any]]]:
    """What a gateway writes in an eventful life that a SIGKILL ends."""
    with Lab(tls="off") as lab:
        admin = lab.tokens["admin"]
        with psycopg.connect(lab.dsn("analyst"), autocommit=True) as analyst:
            analyst.execute("SELECT id, email FROM customers WHERE email > %s ORDER BY id LIMIT 2", ["a"])
            analyst.execute("PREPARE named AS SELECT 1")
            analyst.execute("EXECUTE named")
            for refused in ("DROP TABLE orders", "SELECT 1/0"):
                with pytest.raises(psycopg.Error):
                    analyst.execute(refused)
            with analyst.cursor() as cursor, cursor.copy("COPY orders TO STDOUT") as copy:
                assert sum(1 for _ in copy) > 0
        with psycopg.connect(lab.dsn("admin"), autocommit=True) as own:
            own.execute("CREATE TABLE copied (a int)")
            with own.cursor() as cursor, cursor.copy("COPY copied FROM STDIN") as copy:
                copy.write("1\n")
            own.execute("DROP TABLE copied")
        _held(lab, approve=True)
        _held(lab, approve=False)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lab.gateway.dsn("nobody", "no token"))
        lab.gateway.cli("approvals", "list", token=lab.tokens["analyst"])
        lab.gateway.cli("incident", "agent", token=admin)
        lab.gateway.cli("revoke", "some-token", token=admin)
        lab.gateway.cli("contain", "agent", "--reason", "a test", token=admin)
        lab.gateway.cli("release", "agent", token=admin)
        lab.gateway.cli("reload", token=admin)
        lab.gateway.kill()
        lab.gateway.start()
        lab.gateway.stop()
        done = lab.gateway.cli("journal", "dump", str(lab.gateway.state_dir), "--json")
        assert done.returncode == 0, done.stderr
        yield [json.loads(line) for line in done.stdout.splitlines()]


def _held(lab: Lab, *, approve: bool) -> None:
    def run() -> None:
        try:
            with psycopg.connect(lab.dsn("agent"), autocommit=True) as agent:
                agent.execute("DELETE FROM orders WHERE id = %s", [1])
        except psycopg.Error:
            assert not approve

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while not (waiting := lab.gateway.ask("approvals", "list", token=lab.tokens["admin"])):
        assert time.monotonic() < deadline
    verb = "approve" if approve else "deny"
    lab.gateway.cli("approvals", verb, waiting[0]["id"], "--reason", "a test", token=lab.tokens["admin"])
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.slow
def test_every_record_is_as_described(records: list[dict[str, Any]]) -> None:
    envelope = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("| `seq` |") : TEXT.index("## Fields of every payload")]))
    for record in records:
        assert record.keys() <= envelope
        kind, payload = record["kind"], record["record"]
        assert payload["t"] == kind
        assert kind in DESCRIBED
        assert payload.keys() <= DESCRIBED[kind], (kind, payload.keys() - DESCRIBED[kind])


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.slow
def test_the_life_was_eventful(records: list[dict[str, Any]]) -> None:
    """What the test above has looked at: all kinds but those that take a failure to appear."""
    seen = {record["kind"] for record in records}
    rare = {"session.failed", "cancel.refused", "notify.failed", "approval.withdrawn", "approval.deferred"}
    rare |= {"client.flood"}  # tests/addons/web/test_resets.py
    rare |= {f"retention.{what}" for what in ("intended", "done", "hold", "release")}  # tests/guard/record/retention/
    rare |= {"message", "tls.refused"}  # HTTP: tests/e2e/test_http_sockets.py, tests/e2e/test_http_web.py
    assert DESCRIBED.keys() - rare <= seen


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.slow
def test_described_fields_of_commands_and_responses_exist(records: list[dict[str, Any]]) -> None:
    """A field that is described and never written would mislead a reader."""
    rare = {"text_cut", "attributes"}  # attributes: MySQL clients send them
    rare |= {"input_columns", "input_withheld"}  # tests/e2e/test_input_record.py
    for kind in ("session.start", "session.end", "command", "response", "checkpoint", "journal.opened"):
        seen = {field for record in records if record["kind"] == kind for field in record["record"]}
        assert DESCRIBED[kind] - _COMMON - rare <= seen, kind
