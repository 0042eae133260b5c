"""Evidence over the real recorder, the real journal and the real index."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from guard.control import evidence as evidence_module
from guard.control.evidence import Evidence
from guard.control.params import Params
from guard.control.wire import ControlError
from guard.record.journal import Recorder, RecordSettings

START = 1_800_000_000
SECOND = 10**9


class Gateway:
    """Writes a journal as the data path does, with a clock of its own."""

    def __init__(self, folder):
        self.now = START * SECOND
        self.recorder = Recorder(RecordSettings(), folder, clock=lambda: self.now)
        self.evidence = Evidence(folder, self.render, self.recorder.flush)
        self.live: list[dict] = []

    def render(self, protocol, wire):
        if wire == b"boom":
            raise ValueError("a renderer's bug")
        return [f"{protocol}: {wire.decode()}"]

    def session(self, name, subject="agent-7", resource="shop"):
        self.recorder.session_start(
            name,
            {
                "subject": subject,
                "issuer": "https://idp",
                "groups": ["agents"],
                "resource": resource,
                "protocol": "postgres",
                "client": "10.0.0.7:5000",
                "application": "psql",
                "token_id": "t1",
                "claimed_user": "app",
            },
        )
        self.live.append({"session": name, "subject": subject, "waiting": None})

    def command(
        self, session, number, text, *, decision="allow", rule="r", reads=(), writes=(), effects=("data.select",), at=1
    ):
        self.now += at * SECOND
        document = {"t": "command", "at": self.now, "s": session, "n": number, "kind": "select", "text": text}
        document |= {"effects": list(effects), "reads": list(reads), "writes": list(writes), "columns": []}
        document |= {"decision": decision, "rule": rule, "why": "", "params": ["7"], "phase": "query"}
        self.recorder.command(json.dumps(document).encode())

    def response(self, session, number, wire=b"x", *, rows=1, status="ok", masked=(), **more):
        self.now += SECOND // 2
        document = {
            "t": "response",
            "at": self.now,
            "s": session,
            "n": number,
            "status": status,
            "rows": rows,
            "bytes": 10,
        }
        document |= {
            "us": 1500,
            "tag": f"SELECT {rows}",
            "wire": base64.b64encode(wire).decode(),
            "truncated": False,
            **more,
        }
        document["columns"] = [{"name": name, "masked": "pii"} for name in masked] + [{"name": "id", "masked": None}]
        self.recorder.buffer("response", json.dumps(document).encode())

    def ask(self, method, *extra, **params):
        return asyncio.run(getattr(self.evidence, method)(Params(params), *extra))


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path)
    made.session("s1")
    made.command("s1", 1, "SELECT email FROM customers", reads=["public.customers"])
    made.response("s1", 1, rows=5, masked=["email"])
    made.response("s1", 1, rows=2, masked=["card"])
    made.command(
        "s1", 2, "DROP TABLE orders", decision="deny", rule="no-ddl", writes=["public.orders"], effects=["ddl.drop"]
    )
    made.recorder.event("alert", {"s": "s1", "alert": "ddl", "subject": "agent-7"})
    made.now += 100 * SECOND
    made.session("s2", "alice", "other")
    made.command("s2", 1, "SELECT 1")
    made.response("s2", 1, b"boom")
    yield made
    made.evidence.close()
    made.recorder.close()


def test_sessions(gateway):
    rows = gateway.ask("sessions", gateway.live)
    assert [row["session"] for row in rows] == ["s2", "s1"]
    first = rows[1]
    assert (first["subject"], first["commands"], first["denied"], first["live"]) == ("agent-7", 2, 1, True)
    assert first["started_at"] == START
    assert [row["session"] for row in gateway.ask("sessions", gateway.live, subject="alice")] == ["s2"]
    assert [row["session"] for row in gateway.ask("sessions", gateway.live, resource="shop")] == ["s1"]
    assert len(gateway.ask("sessions", gateway.live, limit=1)) == 1


def test_live_is_what_the_gateway_says_and_not_what_a_killed_one_left_behind(gateway):
    gateway.live = gateway.live[1:]
    assert [row["session"] for row in gateway.ask("sessions", gateway.live, live=True)] == ["s2"]
    [dead] = gateway.ask("sessions", gateway.live, live=False)
    assert "killed" in dead["end_reason"]
    gateway.recorder.session_end("s2", {"reason": "client left"})
    gateway.live = []
    assert gateway.ask("sessions", gateway.live, live=True) == []
    assert gateway.ask("sessions", gateway.live)[0]["end_reason"] == "client left"


def test_show(gateway):
    shown = gateway.ask("show", gateway.live, session="s1")
    assert shown["session"]["subject"] == "agent-7"
    first, second = shown["commands"]
    assert (first["text"], first["rows"], first["us"], first["masked"]) == (
        "SELECT email FROM customers",
        7,
        3000,
        ["card", "email"],
    )
    assert (second["decision"], second["rule"], second["rows"]) == ("deny", "no-ddl", None)
    assert [event["kind"] for event in shown["events"]].count("alert") == 1
    assert shown["next"] is None
    page = gateway.ask("show", gateway.live, session="s1", limit=1)
    assert page["next"] == first["seq"]
    [rest] = gateway.ask("show", gateway.live, session="s1", limit=1, after=page["next"])["commands"]
    assert rest["n"] == 2
    with pytest.raises(ControlError, match="no session `nope`"):
        gateway.ask("show", gateway.live, session="nope")


def test_search(gateway):
    def found(**filters):
        return [(row["session"], row["n"]) for row in gateway.ask("search", **filters)]

    assert found() == [("s2", 1), ("s1", 2), ("s1", 1)]
    assert found(subject="agent-7", decision="deny") == [("s1", 2)]
    assert found(relation="public.customers") == [("s1", 1)]
    assert found(relation="orders", access="write") == [("s1", 2)]
    assert found(effect="ddl.*") == [("s1", 2)]
    assert found(text="EMAIL") == [("s1", 1)]
    assert found(since=START + 50) == [("s2", 1)]
    assert found(until=START + 50, limit=1) == [("s1", 2)]
    newest = gateway.ask("search", limit=1)[0]
    assert found(before=newest["seq"]) == [("s1", 2), ("s1", 1)]
    assert found(before=2**64) == found()  # larger than anything that the index counts


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 10_000},
        {"limit": "5"},
        {"since": "now"},
        {"since": float("nan")},
        {"since": -1},
        {"relatoin": "x"},
        {"text": ""},
        {"damaged_ok": 1},
    ],
)
def test_filters_that_make_no_sense_are_refused(gateway, params):
    with pytest.raises(ControlError) as caught:
        gateway.ask("search", **params)
    assert caught.value.code == "bad_request"


def test_an_answer_holds_what_is_still_in_the_recorders_memory(gateway):
    gateway.command("s2", 2, "SELECT 2")
    gateway.response("s2", 2, rows=9)
    assert gateway.ask("search", limit=1)[0]["rows"] == 9


def test_evidence_stays_readable_while_nothing_can_be_recorded(gateway, caplog):
    gateway.recorder._failed = "the disk is full"
    assert len(gateway.ask("search")) == 3
    assert "disk is full" in caplog.text
    gateway.recorder._failed = None


def test_incident(gateway):
    report = gateway.ask("incident", gateway.live, subject="agent-7")
    assert report["summary"]["masked"] == ["card", "email"]
    assert report["summary"]["rows"] == 7
    [orders] = [row for row in report["summary"]["relations"] if row["relation"] == "public.orders"]
    assert (orders["access"], orders["commands"], orders["stopped"], orders["held"]) == ("write", 1, 1, 0)
    assert [row["text"] for row in report["not_allowed"]] == ["DROP TABLE orders"]
    assert [row["session"] for row in report["sessions"]] == ["s1"]
    nobody = gateway.ask("incident", gateway.live, subject="nobody")
    assert nobody["sessions"] == nobody["not_allowed"] == []


def test_refused_logins(gateway):
    listener = {"listener": "db", "resource": "shop", "client": "10.0.0.9", "application": "", "detail": "x"}
    gateway.recorder.event("session.refused", listener | {"subject": "", "claimed_user": "alice", "why": "no token"})
    gateway.recorder.event("session.refused", listener | {"subject": "bob", "claimed_user": "b", "why": "contained"})
    gateway.recorder.event("session.failed", {"subject": "bob", "resource": "other", "client": "::1", "why": "gone"})
    gateway.recorder.event("tls.refused", {"listener": "web", "client": "::1", "why": "no certificate", "count": 7})
    rows = gateway.ask("refusals")
    assert [row["why"] for row in rows] == ["no certificate", "gone", "contained", "no token"]
    assert rows[0]["count"] == 7
    assert (rows[1]["subject"], rows[1]["claimed_user"]) == ("bob", None)
    assert [row["why"] for row in gateway.ask("refusals", resource="shop")] == ["contained", "no token"]
    assert [row["why"] for row in gateway.ask("refusals", subject="bob")] == ["gone", "contained"]
    assert gateway.ask("refusals", subject="b' OR 1") == gateway.ask("refusals", until=1.0) == []
    report = gateway.ask("incident", gateway.live, subject="alice")
    assert [(row["claimed_user"], row["subject"]) for row in report["refused"]] == [("alice", "")]


def test_replay(gateway):
    page = gateway.ask("replay", session="s1")
    assert [event["kind"] for event in page["events"]] == [
        "session.start",
        "command",
        "response",
        "response",
        "command",
        "alert",
    ]
    start, command, response, _, denied, alert = page["events"]
    assert (start["at_ms"], command["at_ms"], response["at_ms"]) == (0, 1000, 1500)
    assert (command["text"], command["params"], command["command"]) == ("SELECT email FROM customers", ["7"], "select")
    assert (response["lines"], response["masked"], response["rows"]) == (["postgres: x"], ["email"], 5)
    assert denied["decision"] == "deny"
    assert "alert ddl" in alert["text"]
    assert page["next"] is None
    with pytest.raises(ControlError, match="no session"):
        gateway.ask("replay", session="nope")


def test_replay_survives_a_renderer_that_fails(gateway):
    events = gateway.ask("replay", session="s2")["events"]
    assert events[-1]["lines"] == ["(4 bytes that cannot be shown: ValueError)"]


def test_replay_comes_in_pages_that_join_without_a_gap(gateway, monkeypatch):
    whole = gateway.ask("replay", session="s1")["events"]
    monkeypatch.setattr(evidence_module, "PAGE_EVENTS", 4)
    paged, after = [], 0
    while after is not None:
        page = gateway.ask("replay", session="s1", after=after)
        paged += page["events"]
        after = page["next"]
    assert paged == whole
    monkeypatch.setattr(evidence_module, "PAGE_BYTES", 1)
    assert len(gateway.ask("replay", session="s1")["events"]) == 1


def test_a_damaged_journal_answers_only_when_asked_to(gateway):
    gateway.recorder.flush()
    [segment] = (gateway.evidence._state_dir / "journal").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(b"DROP TABLE")] ^= 1
    segment.write_bytes(data)
    with pytest.raises(ControlError, match="damaged") as caught:
        gateway.ask("search")
    assert caught.value.code == "unavailable"
    assert "--damaged-ok" in str(caught.value)
    assert [row["n"] for row in gateway.ask("search", damaged_ok=True)] == [1]
