"""Values that an identity got from a database do not leave over HTTP: two protocols, one gateway, one identity."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support.http_server import HttpServer
from tests.support.journal import await_records, records

pytestmark = pytest.mark.e2e

POLICY = """
version: 1
name: egress
description: what may leave
rules:
  - id: upload
    description: uploads to one place
    allow: {effects: [http.read, http.write, exfil.personal], http: {hosts: [localhost]}}
  - id: nothing-from-the-database
    description: what was masked, or watched, in the database does not leave
    deny: [exfil.masked]
    and_alert: true
  - id: names
    description: names are shown, and stay here
    mask: {columns: ["*.customers.name"], strategy: watch}
"""


class World:
    """The lab with a forward proxy beside its database listener, and a place outside."""

    def __init__(self, folder: Path) -> None:
        self.outside = HttpServer()
        policy = folder / "egress.yaml"
        policy.write_text(POLICY)
        self.lab = Lab([DEFAULT_POLICY, policy], tls="off", adjust=self._adjust)
        ready = json.loads((self.lab.gateway.state_dir / "ready.json").read_bytes())
        self.proxy = int(ready["listeners"]["proxy"].rpartition(":")[2])

    @staticmethod
    def _adjust(config: dict[str, Any]) -> None:
        config["listeners"].append(
            {
                "name": "proxy",
                "protocol": "http",
                "listen": "127.0.0.1:0",
                "resource": "internet",
                "tls": {"mode": "off"},
            }
        )
        config["resources"].append({"name": "internet", "protocol": "http", "private_networks": ["127.0.0.0/8"]})

    def post(self, identity: str, body: str, path: str = "/upload") -> int:
        argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--noproxy", ""]
        argv += ["--proxy", f"http://x:{self.lab.tokens[identity]}@127.0.0.1:{self.proxy}"]
        done = subprocess.run([*argv, "-d", body, self.outside.url(path)], capture_output=True, text=True)
        return int(done.stdout)

    def query(self, identity: str, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.lab.dsn(identity), autocommit=True) as session:
            return session.execute(statement.encode()).fetchall()

    def truth(self, statement: str) -> list[tuple[Any, ...]]:
        with self.lab.server.connect() as connection:
            return connection.execute(statement.encode()).fetchall()

    def stop(self) -> None:
        self.lab.stop()
        self.outside.__exit__()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = World(tmp_path_factory.mktemp("leaks"))
    try:
        yield running
    finally:
        running.stop()


def test_row_27_what_was_masked_in_a_session_does_not_leave_by_http(world: World) -> None:
    email, secret = world.truth("SELECT c.email, k.secret FROM customers c, credentials k ORDER BY 1, 2 LIMIT 1")[0]
    note = f"please write to {email}"
    assert world.post("analyst", note) == 200  # nobody has shown it to the analyst yet
    seen = world.query("analyst", "SELECT email FROM customers ORDER BY email LIMIT 3")
    assert email not in str(seen)
    before = len(world.outside.requests)
    assert world.post("analyst", note) == 403
    assert world.post("analyst", f"q={email.upper().replace('@', '%40')}") == 403
    assert world.post("analyst", json.dumps({"rows": [{"mail": email}]})) == 403
    assert world.post("analyst", "x", f"/upload?to={email}") == 403
    assert len(world.outside.requests) == before
    assert world.post("analyst", "nothing special") == 200
    assert world.post("agent", note) == 200  # another identity, which has not received it
    world.query("analyst", "SELECT secret FROM credentials ORDER BY secret")
    assert world.post("analyst", f"backup {secret}") == 403


def test_row_27_what_is_watched_is_shown_and_does_not_leave(world: World) -> None:
    statement = "SELECT name FROM customers WHERE length(name) > 11 ORDER BY id LIMIT 5"  # a short one is no proof
    rows = world.query("agent", statement)
    assert rows == world.truth(statement)
    before = len(world.outside.requests)
    assert world.post("agent", "name=" + str(rows[0][0])) == 403
    assert world.post("agent", str(rows[1][0]).lower().replace(" ", "-")) == 403
    assert len(world.outside.requests) == before


def test_row_28_what_was_refused_is_on_record_without_the_values(world: World) -> None:
    email = world.truth("SELECT email FROM customers ORDER BY email LIMIT 1")[0][0]
    state = world.lab.gateway.state_dir
    world.query("analyst", "SELECT email FROM customers ORDER BY email LIMIT 1")
    assert world.post("analyst", f"again {email}") == 403
    found = await_records(state, lambda r: r.get("t") == "command" and "exfil.masked" in r.get("effects", ()))
    assert found[-1]["decision"] == "deny"
    assert found[-1]["rule"] == "demo/nothing-masked-leaves"  # the first of the two that say so
    assert await_records(
        state, lambda r: r.get("t") == "alert" and r.get("alert") == "egress/nothing-from-the-database"
    )
    refused = {(r["s"], r["n"]) for r in found}
    kept = [r for r in records(state) if r.get("t") in ("command", "response") and (r["s"], r["n"]) in refused]
    assert email not in json.dumps(kept)
    assert email.encode() not in b"".join(r.get("body", "").encode() for r in kept)
