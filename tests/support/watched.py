"""A gateway in mitmweb, seen as a person sees it: its flow list, its messages, its files."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.support.gateway import ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.process import free_port
from scripts.support.servers import DatabaseServer
from scripts.support.tls import Authority

WEB_PASSWORD = "the-password-of-this-mitmweb"

# counts the hooks that a session fires: how many of each, in a file
COUNTING = """
import collections, pathlib
COUNTS = collections.Counter()
def _count(name):
    def hook(flow):
        COUNTS[name] += 1
        partial = pathlib.Path({path!r} + ".new")
        partial.write_text(repr(dict(COUNTS)))
        partial.replace({path!r})
    return hook
for name in ("tcp_start", "tcp_message", "tcp_end", "tcp_error", "udp_message", "request", "response"):
    globals()[name] = _count(name)
"""


def tokens_of(issuer: Issuer) -> dict[str, str]:
    """One token each of those whose sessions are watched."""
    return {
        "admin": issuer.token("admin", ["platform", "oncall", "security"]),
        "analyst": issuer.token("analyst", ["analysts"]),
        "agent": issuer.token("agent", ["agents"]),
    }


class Watched(Gateway):
    """mitmweb with the demo's policy, writing flows to a file, with a script beside ours that counts hooks."""

    def __init__(self, folder: Path, server: DatabaseServer, issuer: Issuer, authority: Authority, **more: Any) -> None:
        web = {"port": str(free_port()), "password": WEB_PASSWORD}
        policy = [ROOT / "policies" / "demo.yaml"]
        super().__init__(folder, server, [issuer], policy, authority, launcher="mitmweb", web=web, **more)

    def _argv(self) -> list[str | Path]:
        self.flow_file = self.folder / "flows"
        self.counts_file = self.folder / "counts"
        script = self.folder / "counting.py"
        script.write_text(COUNTING.format(path=str(self.counts_file)))
        return [*super()._argv(), "-w", self.flow_file, "-s", script]

    def call(self, path: str, method: str = "GET", body: Any = None) -> bytes:
        """mitmweb's own API, as its page uses it. Raises HTTPError."""
        web = f"http://127.0.0.1:{self._web['port']}"
        headers = {"Authorization": f"Bearer {self._web['password']}"}
        if method != "GET":
            token = "00" * 16  # tornado compares cookie and header
            headers |= {"Cookie": f"_mitmproxy_xsrf={token}", "X-XSRFToken": token, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{web}{path}", data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            content: bytes = answer.read()
        return content

    def flows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.call("/flows"))
        return found

    def flow(self, application: str) -> dict[str, Any]:
        """The one flow of the session with this application name."""
        [found] = [flow for flow in self.flows() if f"application `{application}`" in flow["comment"]]
        return found

    def messages(self, flow: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.call(f"/flows/{flow['id']}/messages/content/auto.json"))
        return found

    def text(self, application: str) -> str:
        return "\n".join(message["text"] for message in self.messages(self.flow(application)))

    def everything(self, *applications: str) -> dict[str, bytes]:
        """All that a person can see of these sessions and of the process, by where it is seen."""
        return {
            **{application: self.text(application).encode() for application in applications},
            "flows": self.call("/flows"),
            "dump": self.call("/flows/dump"),
            "events": self.call("/events"),
            "state": self.call("/state"),
            "commands": self.call("/commands"),
            "log": self.log.read_bytes(),
            "file": self.flow_file.read_bytes(),
        }


def shown(secrets: Iterable[str], seen: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """(where, secret) of each secret that can be seen."""
    return [(where, secret) for secret in secrets for where, text in seen.items() if secret.encode() in text]
