"""Evidence that somebody wanted to be found by nobody: another spelling of a name, a NUL before a word, texts so long
that no answer holds them. What the journal has, `search`, `show`, `incident` and `replay` tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from guard.control.evidence import Evidence
from guard.control.params import Params
from guard.control.wire import MAX_ANSWER, ControlError, encode_result
from guard.record.journal import Recorder, RecordSettings
from guard.record.retention.holds import Hold, Holds

AT = 1_800_000_000 * 10**9


class Gateway:
    def __init__(self, folder: Path) -> None:
        self.recorder = Recorder(RecordSettings(), folder, clock=lambda: AT)
        self.evidence = Evidence(folder, lambda _protocol, wire: [wire.decode()], self.recorder.flush)

    def session(self, name: str, subject: str) -> None:
        self.recorder.session_start(name, {"subject": subject, "issuer": "https://idp", "resource": "shop"})

    def command(self, session: str, number: int, text: str, decision: str = "allow") -> None:
        document = {"t": "command", "at": AT, "s": session, "n": number, "kind": "select", "text": text}
        self.recorder.command(orjson.dumps(document | {"decision": decision, "rule": "r"}))

    def ask(self, method: str, *more: Any, **params: Any) -> Any:
        return asyncio.run(getattr(self.evidence, method)(Params(params), *more))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.evidence.close()
    made.recorder.close()


def test_another_spelling_of_a_name_hides_nothing_from_a_responder(gateway: Gateway) -> None:
    gateway.session("s1", "agent@corp.example")
    gateway.session("s2", "Agent@Corp.Example")
    gateway.session("s3", "agent@corp.example.org")
    gateway.command("s1", 1, "SELECT 1")
    gateway.command("s2", 1, "DROP TABLE customers", "deny")
    gateway.command("s3", 1, "SELECT 3")
    gateway.recorder.event("session.refused", {"subject": "AGENT@corp.example", "why": "contained"})
    found = gateway.ask("incident", (), subject="agent@corp.example")
    assert {row["session"] for row in found["sessions"]} == {"s1", "s2"}
    assert found["summary"]["commands"] == {"allow": 1, "deny": 1}
    assert [row["text"] for row in found["not_allowed"]] == ["DROP TABLE customers"]
    assert [row["subject"] for row in found["refused"]] == ["AGENT@corp.example"]
    assert {row["session"] for row in gateway.ask("sessions", (), subject="AGENT@CORP.EXAMPLE")} == {"s1", "s2"}
    assert len(gateway.ask("search", subject="agent@corp.example")) == 2
    assert {row["facts"].get("subject") for row in gateway.ask("events", subject="agent@corp.example")} == {
        "agent@corp.example",
        "Agent@Corp.Example",
        "AGENT@corp.example",
    }


def test_a_hold_keeps_what_the_same_person_did_under_another_spelling() -> None:
    holds = Holds({"h": Hold("h", "agent@corp.example", None, "case 7", "ann", AT, 1)})
    assert holds.keep({"subject": "Agent@Corp.Example"}, lambda _: "")
    assert holds.keep({"s": "s2"}, lambda _: "AGENT@corp.example")
    assert not holds.keep({"s": "s3", "subject": "agent@corp.example.org"}, lambda _: "agent@corp.example.org")
    assert Holds({"h": Hold("h", None, "s2", "case 7", "ann", AT, 1)}).keep({"s": "s2"}, lambda _: "x")


def test_what_stands_behind_a_nul_is_found(gateway: Gateway) -> None:
    gateway.session("s1", "agent")
    gateway.command("s1", 1, "SELECT '\x00', ssn FROM Payroll")
    gateway.command("s1", 2, "SELECT 2")
    for text in ("payroll", "SSN", "select '"):
        assert [row["n"] for row in gateway.ask("search", text=text)] == [1]
    assert gateway.ask("search", text="orders") == []


def test_long_texts_do_not_make_the_gateway_pay_for_a_question(gateway: Gateway) -> None:
    gateway.session("s1", "agent")
    for number in range(1, 41):
        gateway.command("s1", number, f"SELECT {number} -- " + "\x01" * 300_000, "deny")
    with pytest.raises(ControlError, match="ask for less"):
        gateway.ask("search", subject="agent")
    (row,) = gateway.ask("search", subject="agent", limit=1)
    assert (row["n"], row["cut"]) == (40, ["text"])
    found = gateway.ask("incident", (), subject="agent")
    assert found["summary"]["commands"] == {"deny": 40}
    assert found["not_allowed"][0]["n"] == 40
    assert len(encode_result(1, found)) < MAX_ANSWER / 2


def test_a_session_with_many_messages_is_shown_page_by_page(gateway: Gateway) -> None:
    gateway.session("s1", "agent")
    gateway.command("s1", 1, "GET https://api.example/ws")
    for number in range(400):
        message = {"t": "message", "at": AT, "s": "s1", "n": 1, "text": f"{number} " + "x" * 60_000}
        gateway.recorder.buffer("message", orjson.dumps(message))
    gateway.command("s1", 2, "DELETE https://api.example/users", "deny")
    gateway.recorder.flush()
    after, commands, texts, pages = 0, [], [], 0
    while True:
        page = gateway.ask("show", (), session="s1", after=after)
        assert len(encode_result(1, page)) < MAX_ANSWER / 2
        commands += [row["n"] for row in page["commands"]]
        texts += [row["facts"]["text"].split()[0] for row in page["events"] if row["kind"] == "message"]
        pages += 1
        if page["next"] is None:
            break
        after = page["next"]
    assert commands == [1, 2]
    assert texts == [str(number) for number in range(400)]
    assert pages > 1


def test_an_event_that_fits_into_no_answer_does_not_end_the_replay(gateway: Gateway) -> None:
    gateway.session("s1", "agent")
    gateway.command("s1", 1, "SELECT '" + "\x01" * 6_000_000 + "'")
    gateway.command("s1", 2, "DROP TABLE customers")
    after, seen = 0, []
    while True:
        page = gateway.ask("replay", session="s1", after=after)
        assert len(encode_result(1, page)) < MAX_ANSWER
        seen += [(row["n"], row.get("cut")) for row in page["events"] if row["kind"] == "command"]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == [(1, ["text"]), (2, None)]
