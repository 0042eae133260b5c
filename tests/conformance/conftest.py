"""One lab for each protocol and server: mitmweb runs the gateway, so that its page can be looked at as well."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from scripts.support.lab import GROUPS, AnyInstallation, Lab
from scripts.support.process import free_port
from tests.conformance import adapter as adapters
from tests.conformance.adapter import Adapter, Client, Login

ADAPTERS = adapters.load()
INSPECT_MAX = 64 * 1024


@dataclass
class Stand:
    """A protocol's words, a lab with one of its servers, and what the tests put on it."""

    adapter: Adapter
    lab: Lab
    web: str
    secrets: set[str] = field(default_factory=set)  # what nobody may find anywhere

    def connect(self, identity: str) -> Client:
        return self.adapter.connect(self.lab, Login(identity, self.lab.tokens[identity]))

    def holder(self, subject: str, *groups: str, ttl: float = 600.0) -> Login:
        """Somebody else, with a token of their own."""
        token = self.lab.issuer.token(subject, groups, ttl=ttl)
        self.secrets.add(token)
        return Login(subject, token)

    def enter(self, login: Login) -> Client:
        return self.adapter.connect(self.lab, login)

    @contextlib.contextmanager
    def client(self, identity: str) -> Iterator[Client]:
        with contextlib.closing(self.connect(identity)) as connected:
            yield connected

    @contextlib.contextmanager
    def direct(self) -> Iterator[Client]:
        with contextlib.closing(self.adapter.direct(self.lab)) as connected:
            yield connected

    def ask(self, *words: str) -> Any:
        return self.lab.gateway.ask(*words, token=self.lab.tokens["admin"])

    def page(self, path: str) -> Any:
        """What mitmweb's own page is told."""
        headers = {"Authorization": "Bearer conformance"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.web}{path}", headers=headers), timeout=20) as answer:
            return json.loads(answer.read())

    def reached(self, tag: str) -> bool:
        """Whether a statement with this tag is in the server's own log."""
        return any(tag in text for text in self.lab.server.statements())


def stands() -> list[Any]:
    return [pytest.param((one, name), id=name) for one in ADAPTERS.values() for name in one.servers]


def _installation(one: Adapter, name: str) -> AnyInstallation:
    first = next((known for known, find in one.servers.items() if find() is not None), name)
    if os.environ.get("SLUICEGATE_TEST_MYSQL") == "first" and name != first:
        pytest.skip("the fast lane has one server for each protocol")
    found = one.servers[name]()
    if found is not None:
        return found
    why = f"no {name} here: {one.how_to_get(name)}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def start(one: Adapter, name: str, **options: Any) -> Lab:
    """A lab with the table `notes` beside the sample."""
    lab = Lab(installation=_installation(one, name), **options)
    try:
        with contextlib.closing(one.direct(lab)) as direct:
            direct.run("CREATE TABLE notes (id int PRIMARY KEY, note varchar(100))")
    except BaseException:
        lab.stop()
        raise
    return lab


def small(document: dict[str, Any]) -> None:
    """A limit that a test can exceed quickly."""
    document["limits"] = {"inspect_max_bytes": INSPECT_MAX}
    document["resources"][0]["catalog"] = {"max_age": 0.5}


@pytest.fixture(scope="session", params=stands())
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Every protocol on every server that is here, in turn."""
    one, name = request.param
    port = free_port()
    web = {"port": str(port), "password": "conformance"}
    with start(one, name, launcher="mitmweb", web=web, adjust=small) as lab:
        found = Stand(one, lab, f"http://127.0.0.1:{port}")
        found.secrets |= {*lab.tokens.values(), lab.server.password}
        assert set(lab.tokens) == set(GROUPS)
        yield found


@pytest.fixture(autouse=True)
def the_process_lives(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did: it is the same process, and it serves."""
    if "stand" not in request.fixturenames:
        yield
        return
    found: Stand = request.getfixturevalue("stand")
    pid = found.lab.gateway.process.pid
    with found.direct() as direct:
        direct.run("DELETE FROM notes")
    yield
    assert found.lab.gateway.process.running
    assert found.lab.gateway.process.pid == pid
    with found.client("agent") as client:
        assert client.run("SELECT count(*) FROM orders") == [(720,)]
