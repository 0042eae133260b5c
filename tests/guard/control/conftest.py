"""A real control server on a real socket, with a real state store; tokens are verified by a table."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from guard.approve import ApprovalBook
from guard.control.client import ControlClient
from guard.control.handlers import Handlers
from guard.control.roles import APPROVER, Roles
from guard.control.server import ControlServer
from guard.identity import IdentityError
from guard.state import StateAccess, StateStore
from guard.state.blocklist import Blocklist
from protocols.contract import Principal

NOW = 1_800_000_000.0
PEOPLE = {
    "tok-agent": Principal("agent-7", "https://idp", frozenset({"agents"}), expires_at=NOW + 3600, token_id="t1"),
    "tok-oncall": Principal("alice", "https://idp", frozenset({"oncall"}), expires_at=NOW + 3600, token_id="t2"),
    "tok-security": Principal("carol", "https://idp", frozenset({"security"}), expires_at=NOW + 3600, token_id="t3"),
    "tok-platform": Principal("dave", "https://idp", frozenset({"platform"}), expires_at=NOW + 3600, token_id="t4"),
    "tok-audit": Principal("erin", "https://idp", frozenset({"audit"}), expires_at=NOW + 3600, token_id="t5"),
}


class Members:
    def __init__(self, *groups: str) -> None:
        self.groups, self.subjects, self.issuers = groups, (), ()


class RolesSettings:
    approver = Members("oncall")
    responder = Members("security")
    auditor = Members("audit")
    operator = Members("platform")


class Table:
    async def verify(self, token: str) -> Principal:
        if token not in PEOPLE:
            raise IdentityError("token expired 12 s ago; get a new one", "detail for the log")
        return PEOPLE[token]


class Live:
    """Live sessions as the runtime has them."""

    def __init__(self) -> None:
        self.sessions = {
            "s1": {"session": "s1", "subject": "agent-7", "token_id": "t1", "resource": "shop", "started_at": NOW - 60},
            "s2": {"session": "s2", "subject": "agent-8", "token_id": "t9", "resource": "shop", "started_at": NOW - 30},
        }
        self.ended: list[tuple[str, str]] = []

    def list(self) -> list[dict[str, Any]]:
        return list(self.sessions.values())

    def terminate(self, session_id: str, reason: str) -> bool:
        self.ended.append((session_id, reason))
        return self.sessions.pop(session_id, None) is not None

    def contain(self, subject: str) -> int:
        found = [name for name, entry in self.sessions.items() if entry["subject"] == subject]
        return sum(self.terminate(name, "contained") for name in found)


class Gateway:
    """Runs the server's event loop in a thread, so that the blocking client is tested as it is used."""

    def __init__(self, folder: Path, evidence: Any, **options: Any) -> None:
        self.path = folder / "control.sock"
        self.journal: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.record_error: Exception | None = None
        self.reload_error: Exception | None = None
        self.live = Live()
        self.store = StateStore(folder / "state.db", journal=self.event)
        self.roles = Roles(RolesSettings())
        self.state = StateAccess(self.store)
        self.blocklist = Blocklist(self.state)
        self.book = ApprovalBook(
            self.state, self, self, lambda: NOW, is_approver=lambda principal: self.roles.has(principal, APPROVER)
        )
        self.handlers = Handlers(
            roles=self.roles,
            state=self.state,
            blocklist=self.blocklist,
            book=self.book,
            live=self.live,
            evidence=evidence,
            status=lambda: {"version": "0.1.0"},
            reload=self.reload,
            notifier=self,
            clock=lambda: NOW,
        )
        self.table = self.handlers.table()
        self.server = ControlServer(self.path, Table(), self.roles, self.table, self, **options)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def reload(self) -> dict[str, Any]:
        if self.reload_error is not None:
            raise self.reload_error
        return {"policy_version": "v2"}

    def event(self, kind: str, payload: Any) -> int:
        if self.record_error is not None:
            raise self.record_error
        self.journal.append((kind, dict(payload)))
        return len(self.journal)

    def send(self, event: str, data: Any) -> None:
        self.sent.append((event, dict(data)))

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def start(self) -> Gateway:
        self.run(self.server.start())
        return self

    def in_loop(self, work: Any) -> Any:
        async def run() -> Any:
            return work()

        return self.run(run())

    def client(self, token: str, **options: Any) -> ControlClient:
        return ControlClient(self.path, token, **options)

    def call(self, who: str, method: str, **params: Any) -> Any:
        with self.client(f"tok-{who}") as client:
            return client.call(method, **params)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.journal]

    def close(self) -> None:
        self.run(self.server.stop())
        self.run(self.state.close(5))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.store.close()


@pytest.fixture
def make_gateway(tmp_path):
    made: list[Gateway] = []

    def make(folder: Path | None = None, evidence: Any = None, **options: Any) -> Gateway:
        gateway = Gateway(folder or tmp_path, evidence, **options)
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()
