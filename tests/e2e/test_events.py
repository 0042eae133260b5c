"""What responders ask beside commands: who voted, contained and looked; who is connected, here and elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from guard.state import SessionEntry, StateStore
from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer
from tests.support.http_sockets import Socket, echo

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def _short(document: dict[str, Any], _: object) -> None:
    document["listeners"][0]["hold_wait"] = 0.3


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(adjust=_short) as running:
        yield running


@pytest.fixture(scope="module")
def rita(lab: HttpLab) -> str:
    return lab.token("rita", "security")


def _told(lab: HttpLab, token: str, *words: str) -> Any:
    done = lab.cli(*words, "--json", token=token)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _elsewhere(session: str, subject: str) -> SessionEntry:
    now = time.time()
    return SessionEntry(
        session, "second", subject, "https://idp", "shop", "postgres", "10.9.9.9", "psql", now, now + 60
    )


def test_votes_containments_and_looks_are_found(lab: HttpLab, rita: str) -> None:
    refused = lab.curl("-X", "DELETE", lab.plain.url("/x"), token=lab.token("eve"))
    ticket = json.loads(refused.stdout.partition(b"\r\n\r\n")[2])["ticket"]
    denied = lab.cli("approvals", "deny", ticket, "--reason", "not today", token=lab.token("ann", "oncall"))
    assert denied.returncode == 0, denied.stderr
    kinds = [row["kind"] for row in _told(lab, rita, "events", "--kind", "approval.*")]
    assert kinds == ["approval.decided", "approval.voted", "approval.deferred", "approval.requested"]
    [vote] = _told(lab, rita, "events", "--kind", "approval.voted", "--subject", "ann")
    assert (vote["facts"]["by"], vote["facts"]["subject"], vote["facts"]["reason"]) == ("ann", "eve", "not today")
    assert "by ann" in vote["text"]
    assert lab.cli("contain", "mallory", "--reason", "stolen", token=rita).returncode == 0
    [contained] = _told(lab, rita, "events", "--kind", "containment")
    assert (contained["facts"]["act"], contained["facts"]["by"]) == ("contain", "rita")
    assert any(row["facts"]["method"] == "events" for row in _told(lab, rita, "events", "--subject", "rita"))
    shown = lab.cli("events", "--kind", "containment", token=rita)
    assert "mallory" in shown.stdout
    assert "stolen" in shown.stdout
    none = lab.cli("events", "--kind", "no.such", token=rita).stdout
    assert none.strip() == "nothing of the kind `no.such` is on record; docs/reference/journal.md names the kinds"
    assert len(_told(lab, rita, "events", "--limit", "2")) == 2
    assert _told(lab, rita, "events", "--until", "2020-01-01T00:00") == []


def test_events_are_for_those_who_read_evidence(lab: HttpLab) -> None:
    for groups in ((), ("oncall",), ("platform",)):
        done = lab.cli("events", token=lab.token("nosy", *groups))
        assert (done.returncode, done.stdout) == (1, "")


def test_who_is_connected_is_told_everywhere(lab: HttpLab, rita: str) -> None:
    with StateStore(lab.state / "state.db") as other:  # as another gateway's process has it open
        other.sessions.write([_elsewhere("far1", "agent"), _elsewhere("far2", "Other")], [])
    with RawServer(echo) as server, Socket(lab.ports["proxy"], lab.token("agent"), server, "/ws"):
        rows = _told(lab, rita, "sessions", "--everywhere", "--subject", "agent")
        assert {(row["gateway"], row["subject"], row["live"]) for row in rows} == {
            ("gateway", "agent", True),
            ("second", "agent", True),
        }
        assert {row["session"] for row in _told(lab, rita, "sessions", "--everywhere")} >= {"far1", "far2"}
        assert "far1" not in str(_told(lab, rita, "sessions", "--live"))
        report = _told(lab, rita, "incident", "agent")
        assert [row["session"] for row in report["elsewhere"]] == ["far1"]
        shown = lab.cli("incident", "agent", token=rita).stdout
        assert "connected to other gateways now" in shown
        assert "second" in shown
    assert _told(lab, rita, "incident", "other")["elsewhere"][0]["session"] == "far2"
