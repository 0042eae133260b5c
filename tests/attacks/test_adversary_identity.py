"""Acting as somebody else, or as oneself after one may not any more."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.support.gateway import LISTENER
from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support import wire
from tests.support.adversary import CARD, bytes_of, errors, held, leaks, session
from tests.support.bytewise import Raw
from tests.support.wire import SYNC, bind, execute, parse, query

pytestmark = pytest.mark.e2e

DELETE = "DELETE FROM orders WHERE id = 600"


def approvals(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.gateway.ask("approvals", "list", token=lab.tokens["admin"])
    return found


def decide(lab: Lab, verb: str, number: str, token: str) -> int:
    return lab.gateway.cli("approvals", verb, number, "--reason", "because", token=token).returncode


def count(lab: Lab) -> int:
    with lab.server.connect() as direct:
        found = direct.execute("SELECT count(*) FROM orders WHERE id = 600").fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.parametrize("user", ["admin", "postgres", "", "analyst\0admin"])
def test_the_user_name_says_nothing_about_who_one_is(attacked: Lab, user: str) -> None:
    with contextlib.closing(Raw(attacked.gateway.listeners[LISTENER])) as raw:
        raw.startup(user=user)
        try:
            raw.password(attacked.tokens["analyst"])
            raw.greeting()
        except (AssertionError, EOFError):
            return  # not even let in
        raw.send(query("SELECT card FROM customers WHERE id = 1"))
        assert leaks(raw.until("Z")) == []
        raw.send(query("DROP TABLE orders"))
        assert [e["C"] for e in errors(raw.until("Z"))] == ["42501"]


def test_bytes_behind_a_held_command_wait_and_do_not_run_when_it_is_refused_with_its_pipeline(attacked: Lab) -> None:
    with session(attacked, "agent") as s:
        pipeline = (
            parse("", DELETE) + bind("", "") + execute() + parse("", "SELECT 'behind'") + bind("", "") + execute()
        )
        assert held(s.say(pipeline, SYNC))
        assert count(attacked) == 1
        token = attacked.issuer.token("dana", ["oncall"])
        assert decide(attacked, "deny", approvals(attacked)[0]["id"], token) == 0
        found = s.raw.until("Z")
        assert [e["C"] for e in errors(found)] == ["42501"]
        assert b"behind" not in bytes_of(found).replace(b"because", b"")
    assert count(attacked) == 1


def test_an_approval_is_not_spent_by_another_session_or_twice(attacked: Lab) -> None:
    token = attacked.issuer.token("dana", ["oncall"])
    with session(attacked, "agent") as first, session(attacked, "agent") as second:
        assert held(first.say(query(DELETE + " AND false")))
        assert held(second.say(query(DELETE + " AND false")))
        ids = [entry["id"] for entry in approvals(attacked)]
        assert len(set(ids)) == 2
        mine = next(e["id"] for e in approvals(attacked) if e["session"] == _first(attacked))
        assert decide(attacked, "approve", mine, token) == 0
        first.raw.until("Z")
        assert second.raw.quiet(0.5)
        assert decide(attacked, "approve", mine, token) == 1
        assert held(first.say(query(DELETE + " AND false")))  # the same bytes ask again


def _first(lab: Lab) -> str:
    """The agent's older session."""
    live = lab.gateway.ask("sessions", token=lab.tokens["admin"])
    mine = sorted((x for x in live if x["live"] and x["subject"] == "agent"), key=lambda x: x["started_at"])
    return str(mine[0]["session"])


def test_containment_reaches_a_held_command_and_its_late_approval(attacked: Lab) -> None:
    subject, token = "mallory", attacked.issuer.token("mallory", ["agents"])
    with session(attacked, subject, token) as s:
        assert held(s.say(query(DELETE)))
        number = approvals(attacked)[0]["id"]
        done = attacked.gateway.cli("contain", subject, "--reason", "attack", token=attacked.tokens["admin"])
        assert done.returncode == 0, done.stderr
        found = wire.errors(s.raw.rest())
        assert [e["C"] for e in found] == ["57P01"]
        assert decide(attacked, "approve", number, attacked.issuer.token("dana", ["oncall"])) == 1
    assert count(attacked) == 1
    with contextlib.closing(Raw(attacked.gateway.listeners[LISTENER])) as raw:
        raw.startup(user=subject)
        raw.password(token)
        assert raw.error()["C"] == "28P01"


def test_a_cancel_key_works_for_its_own_session_only(attacked: Lab) -> None:
    with session(attacked) as mine, session(attacked, "agent") as other:
        assert held(other.say(query(DELETE)))
        number, _ = other.greeting.key
        for key in (mine.greeting.key[1], b"", b"\0\0\0\0", other.greeting.key[1] + b"\0", other.greeting.key[1][:3]):
            with contextlib.suppress(OSError), contextlib.closing(Raw(attacked.gateway.listeners[LISTENER])) as raw:
                raw.send(wire.request(80877102, struct.pack("!I", number) + key))
                raw.rest()
        assert other.raw.quiet(0.3)  # still held


class Slow:
    """Stands before a server and lets no byte through until it is told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._to = address
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(one,), daemon=True).start()

    def _relay(self, one: socket.socket) -> None:
        if not self.open.is_set():
            self.waiting.release()
            self.open.wait()
        other = socket.create_connection(self._to)
        threading.Thread(target=self._copy, args=(other, one), daemon=True).start()
        self._copy(one, other)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                target.sendall(data)

    def close(self) -> None:
        self.open.set()
        self._listener.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Lab, Slow, Path]]:
    """A lab whose upstream can be made to wait in the middle of a login."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(DEFAULT_POLICY.read_text())
    proxies: list[Slow] = []

    def between(document: dict[str, Any]) -> None:
        resource = document["resources"][0]
        proxies.append(Slow((resource["host"], resource["port"])))
        resource["port"] = proxies[0].port
        resource["tls"] = {"mode": "off"}

    with Lab([policy], tls="off", adjust=between) as lab:
        try:
            yield lab, proxies[0], policy
        finally:
            proxies[0].close()


@pytest.mark.parametrize("change", ["masks", "rules"])
def test_a_policy_loaded_during_a_login_is_in_force_when_the_session_begins(
    slow: tuple[Lab, Slow, Path], change: str
) -> None:
    lab, proxy, policy = slow
    with session(lab, "admin") as s:
        assert CARD in bytes_of(s.ask("SELECT card FROM customers WHERE id = 1")).decode("utf-8", "replace")
    proxy.open.clear()
    found: list[bytes] = []

    def log_in() -> None:
        with session(lab, "admin") as s:
            found.append(bytes_of(s.ask("SELECT card FROM customers WHERE id = 1")))

    client = threading.Thread(target=log_in)
    client.start()
    assert proxy.waiting.acquire(timeout=20)
    text = policy.read_text()
    if change == "masks":
        text = text.replace("unless: {who: {groups: [platform]}}", "unless: {who: {groups: [nobody]}}")
    else:
        text = text.replace('allow: ["*", unknown]', "allow: [show]")
    policy.write_text(text)
    lab.gateway.ask("reload", token=lab.tokens["admin"])
    proxy.open.set()
    client.join(20)
    assert found
    assert CARD.encode() not in found[0]
