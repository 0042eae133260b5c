"""A gateway with HTTP listeners, an issuer and two servers, for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML

from scripts.support.gateway import ROLES, ROOT
from scripts.support.issuer import Issuer
from scripts.support.process import Process, wait_until
from scripts.support.tls import Authority
from tests.support.http_server import HttpServer

POLICY = """
version: 1
name: http-lab
description: what the tests may do
rules:
  - id: read
    description: reading anything there is
    allow: {effects: [http.read], http: {hosts: [localhost, 127.0.0.1]}}
  - id: write
    description: writing where it is meant to be
    allow: {effects: [http.write], http: {hosts: [localhost, 127.0.0.1], paths: ["/upload*", "/echo*", "/graphql"]}}
  - id: stream
    description: large uploads, looked at as they pass
    who: {groups: [uploaders]}
    allow: {effects: [http.stream]}
  - id: erase
    description: deletions wait for a person
    hold: {effects: [http.delete], http: {hosts: [localhost, 127.0.0.1]}}
  - id: admin
    description: nobody administers from here
    deny: {effects: [http.*], http: {paths: ["/admin*"]}}
  - id: archives
    description: no archives
    deny: {effects: [http.read], http: {response_types: [application/zip]}}
  - id: drop
    description: no dropping of users over GraphQL
    deny: {effects: [http.write], http: {operations: [mutation.dropUser]}}
  - id: sockets
    description: WebSockets where they are meant to be
    allow: {effects: [http.upgrade], http: {hosts: [localhost], paths: ["/ws*", "/text/ws"]}}
  - id: pinned
    description: clients that take no other certificate than the server's own
    who: {groups: [pinned]}
    allow: {effects: [http.opaque], http: {hosts: [localhost]}}
  - id: masked-elsewhere
    description: what is masked here does not leave there
    deny: {effects: [exfil.masked], http: {hosts: ["*"]}}
    and_alert: true
  - id: people
    description: people's addresses and cards are not for everybody
    unless: {who: {groups: [trusted]}}
    mask: {fields: ["**.email"], detect: [card], http: {paths: ["/people*"]}, strategy: redact, unknown_origin: pass}
  - id: text
    description: addresses in texts
    unless: {who: {groups: [trusted]}}
    mask: {detect: [email, card], http: {paths: ["/text*"]}, strategy: redact}
"""


class HttpLab:
    """`proxy`: the forward proxy; `api`: the registered API in front of `upstream` (https).

    `adjust` may change the configuration before the gateway starts; it is given the authority that all here trust.
    """

    def __init__(
        self,
        launcher: str = "mitmdump",
        policy: str = POLICY,
        more: Sequence[str] = (),
        adjust: Callable[[dict[str, Any], Authority], None] | None = None,
        **limits: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sghttp-"))
        self.authority = Authority(self.folder)
        self.issuer = Issuer(self.authority)
        self.plain = HttpServer()
        self.secure = HttpServer(self.authority)
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        (self.folder / "policy.yaml").write_text(policy)
        pair = self.authority.server("gateway")
        tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
        document = {
            "version": 1,
            "state_dir": str(self.state),
            "listeners": [
                {"name": "proxy", "protocol": "http", "listen": "127.0.0.1:0", "resource": "internet", "hold_wait": 5.0}
                | {"tls": {"mode": "optional", **tls}},
                {"name": "api", "protocol": "http", "listen": "127.0.0.1:0", "resource": "billing"}
                | {"tls": {"mode": "required", **tls}, "hold_wait": 5.0},
            ],
            "resources": [
                {"name": "internet", "protocol": "http", "private_networks": ["127.0.0.0/8", "::1/128"]}
                | {"tls": {"mode": "verify-full", "ca": str(self.authority.file)}},
                {"name": "billing", "protocol": "http", "host": "localhost", "port": self.secure.port}
                | {"tls": {"mode": "verify-full", "ca": str(self.authority.file)}}
                | {"credential": {"provider": "env", "name": "BILLING_TOKEN"}},
            ],
            "issuers": [
                {"issuer": self.issuer.url, "audience": self.issuer.audience, "ca": str(self.issuer.ca_file)}
                | {"leeway": 5}
            ],
            "policies": [str(self.folder / "policy.yaml")],
            "roles": ROLES,
            "limits": limits,
        }
        if adjust is not None:
            adjust(document, self.authority)
        self.config = self.folder / "gateway.yaml"
        with self.config.open("w") as stream:
            YAML(typ="safe").dump(document, stream)
        self.log = self.folder / "gateway.log"
        self._launcher, self._more = launcher, more
        self.web_password = "look"
        self.web_port = 0
        self.start()

    def start(self) -> None:
        ready = self.state / "ready.json"
        ready.unlink(missing_ok=True)
        binaries = Path(sys.executable).parent
        argv: list[str | Path] = [binaries / self._launcher]
        if self._launcher == "mitmweb":
            from scripts.support.process import free_port

            self.web_port = free_port()
            argv += ["--no-web-open-browser", "--web-port", str(self.web_port), "--set"]
            argv += [f"web_password={self.web_password}"]
        argv += [*self._more, "-n", "-s", ROOT / "addons" / "gateway.py", "--set", f"sluicegate={self.config}"]
        argv += ["--set", f"confdir={self.folder / 'mitmproxy'}"]
        self.process = Process(
            argv,
            log=self.log,
            name="the gateway",
            grace=10.0,
            env={**os.environ, "BILLING_TOKEN": "upstream-s3cr3t-key"},
        )
        wait_until(ready.exists, 30.0, what="the gateway", alive=lambda: self.process.running, log=self.log)
        told = json.loads(ready.read_bytes())
        self.ports = {name: int(str(address).rpartition(":")[2]) for name, address in told["listeners"].items()}
        self.proxy_ca = Path(told.get("proxy_ca_file", ""))

    def token(self, subject: str = "ci", *groups: str, ttl: float = 3600.0) -> str:
        return self.issuer.token(subject, groups, ttl=ttl)

    def proxy(self, token: str) -> str:
        return f"http://ci:{token}@127.0.0.1:{self.ports['proxy']}"

    def curl(self, *words: str, token: str | None = "", tunnel: bool = True) -> subprocess.CompletedProcess[bytes]:
        """curl through the forward proxy (`tunnel`), certificates verified with the proxy's CA."""
        argv = ["curl", "-sS", "-i", "--max-time", "30"]
        if tunnel:
            argv += [
                "--cacert",
                str(self.proxy_ca),
                "--proxy",
                f"http://127.0.0.1:{self.ports['proxy']}",
                "--noproxy",
                "",
            ]
            if token is not None:
                argv += ["--proxy-user", f"ci:{token or self.token()}", "--proxy-basic"]
        return subprocess.run([*argv, *words], capture_output=True, timeout=40)

    def api(self, *words: str, token: str = "") -> subprocess.CompletedProcess[bytes]:
        """curl to the registered API: `words` end with a path."""
        url = f"https://localhost:{self.ports['api']}{words[-1]}"
        argv = ["curl", "-sS", "-i", "--max-time", "30", "--cacert", str(self.authority.file), "--noproxy", "*"]
        argv += ["-H", f"Authorization: Bearer {token or self.token()}"]
        return subprocess.run([*argv, *words[:-1], url], capture_output=True, timeout=40)

    def cli(self, *words: str, token: str) -> subprocess.CompletedProcess[str]:
        env = {"SLUICEGATE_SOCKET": str(self.state / "control.sock"), "SLUICEGATE_TOKEN": token}
        env["SLUICEGATE_CONFIG"] = str(self.config)
        binary = Path(sys.executable).parent / "sluicegate"
        return subprocess.run([binary, *words], env={**os.environ, **env}, capture_output=True, text=True, timeout=30)

    def journal(self) -> list[dict[str, Any]]:
        from tests.support.journal import records

        return records(self.state)

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)
        self.process.wait(10.0)
        self.process.stop()

    def stop(self) -> None:
        self.process.stop()
        self.issuer.stop()
        for server in (self.plain, self.secure):
            server.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
