"""A gateway in front of one database server: its configuration, its process, its clients' addresses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML

from scripts import cli
from scripts.support.issuer import Issuer
from scripts.support.process import Process, StartError, tail, wait_until
from scripts.support.servers import DatabaseServer
from scripts.support.tls import Authority

ROOT = Path(__file__).resolve().parents[2]
LISTENER = "shop-db"
_PASSWORD_VARIABLE = "SHOP_DB_PASSWORD"  # noqa: S105  # a name, not a password
_START_SECONDS = 60.0
_ASKING = threading.Lock()  # there is one standard output

ROLES = {
    "approver": {"groups": ["oncall"]},
    "responder": {"groups": ["security"]},
    "auditor": {"groups": ["security"]},
    "operator": {"groups": ["platform"]},
}


class Gateway:
    """A running gateway whose configuration, state and logs are in `folder` (kept when it stops).

    `tls` is the listener's mode (required, optional, off). `adjust` may change the configuration before it is written.
    `launcher` is `mitmdump`, `mitmweb` (with `web`: port and password) or `serve`. Starts at once; raises StartError.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        server: DatabaseServer,
        issuers: Sequence[Issuer],
        policies: Sequence[Path],
        authority: Authority,
        *,
        tls: str = "required",
        launcher: str = "mitmdump",
        web: Mapping[str, str] | None = None,
        adjust: Callable[[dict[str, Any]], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.server = server
        self.tls = tls
        self.ca_file = authority.file
        self.launcher = launcher
        self._web = dict(web or {})
        self.config = folder / "gateway.yaml"
        self.state_dir = folder / "state"
        self.socket = self.state_dir / "control.sock"
        self.log = folder / "gateway.log"
        self._env = dict(env or {})
        self.document = self._describe(server, issuers, policies, authority)
        if adjust is not None:
            adjust(self.document)
        self.write_config()
        self.start()

    def _describe(
        self, server: DatabaseServer, issuers: Sequence[Issuer], policies: Sequence[Path], authority: Authority
    ) -> dict[str, Any]:
        listener: dict[str, Any] = {
            "name": LISTENER,
            "protocol": server.installation.protocol,
            "listen": f"{self.host}:0",
            "resource": "shop",
            "tls": {"mode": self.tls},
        }
        if self.tls != "off":
            pair = authority.server("gateway")
            listener["tls"] |= {"certificate": str(pair.certificate), "key": str(pair.key)}
        resource: dict[str, Any] = {
            "name": "shop",
            "protocol": server.installation.protocol,
            "host": server.host,
            "port": server.port,
            "database": server.database,
            "labels": {"env": "lab"},
            "tls": {"mode": "off"},
            "credential": {"user": server.user, "provider": "env", "name": _PASSWORD_VARIABLE},
        }
        if server.authority is not None:
            resource["tls"] = {"mode": "verify-full", "ca": str(server.authority.file)}
        return {
            "version": 1,
            "state_dir": str(self.state_dir),
            "listeners": [listener],
            "resources": [resource],
            "issuers": [
                {"issuer": issuer.url, "audience": issuer.audience, "ca": str(issuer.ca_file)} for issuer in issuers
            ],
            "policies": [str(path.resolve()) for path in policies],
            "roles": ROLES,
        }

    def write_config(self) -> None:
        """Write `document` to `config`, for a start or a reload."""
        partial = self.config.with_suffix(".new")
        with partial.open("w") as stream:
            YAML(typ="safe").dump(self.document, stream)
        partial.replace(self.config)

    def start(self) -> None:
        """Start (again) and wait until every listener and the control socket answer."""
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        ready = self.state_dir / "ready.json"
        ready.unlink(missing_ok=True)
        self.process = Process(
            self._argv(),
            log=self.log,
            name="the gateway",
            grace=10.0,
            env={**os.environ, _PASSWORD_VARIABLE: self.server.password, **self._env},
        )
        try:
            wait_until(
                ready.exists, _START_SECONDS, what="the gateway", alive=lambda: self.process.running, log=self.log
            )
            told = json.loads(ready.read_bytes())
            self.listeners = _addresses(told)
            self.minted_ca = Path(told["ca_file"])  # of the gateway's own authority; our listener has another's
        except BaseException:
            self.process.stop()
            raise
        self.port = self.listeners[LISTENER][1]

    def _argv(self) -> list[str | Path]:
        binaries = Path(sys.executable).parent
        if self.launcher == "serve":
            return [binaries / "sluicegate", "serve", self.config]
        page: list[str | Path] = []
        if self.launcher == "mitmweb":
            page = ["--no-web-open-browser", "--web-port", self._web["port"]]
            page += ["--set", f"web_password={self._web['password']}"]
        return [
            binaries / self.launcher,
            *page,
            "-n",  # no proxy port of its own: many gateways run beside each other here
            "-s", ROOT / "addons" / "gateway.py",
            "--set", f"sluicegate={self.config}",
            "--set", f"confdir={self.folder / 'mitmproxy'}",
        ]  # fmt: skip

    def dsn(self, user: str, token: str | None, *, database: str | None = None, **parameters: str) -> str:
        """A URL to the gateway with `token` as password (None: left out), TLS verified where the listener has it."""
        ca = self.ca_file if self.tls != "off" else None
        name = database or self.server.database
        return self.server.form.build(self.host, self.port, user, token, name, ca, parameters)

    def environment(self, token: str) -> dict[str, str]:
        """What the command line needs to reach this gateway as the holder of `token`."""
        return {
            "SLUICEGATE_CONFIG": str(self.config),
            "SLUICEGATE_SOCKET": str(self.socket),
            "SLUICEGATE_TOKEN": token,
        }

    def cli(
        self, *words: str, token: str = "", timeout: float = 30.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `sluicegate WORDS...` as the holder of `token`; the caller looks at the exit status."""
        return subprocess.run(
            [Path(sys.executable).parent / "sluicegate", *words],
            env={**os.environ, **self.environment(token), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def ask(self, *words: str, token: str) -> Any:
        """The answer of `sluicegate WORDS... --json`, without a process of its own: who waits asks many times.

        Raises StartError with its error text when it fails.
        """
        out, own = io.StringIO(), self.folder / f"token-{threading.get_ident()}"
        own.touch(mode=0o600)
        own.write_text(token)
        try:
            with _ASKING, contextlib.redirect_stdout(out):
                code = cli.main([*words, "--json", "--socket", str(self.socket), "--token-file", str(own)])
        finally:
            own.unlink()
        if code != 0:
            raise StartError(f"`sluicegate {' '.join(words)}` failed ({code}): {out.getvalue().strip()}")
        return json.loads(out.getvalue())

    def kill(self) -> None:
        """SIGKILL, as the kernel or an operator in a hurry would; returns when the process is gone."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(10.0)
        self.process.stop()

    def stop(self) -> int:
        """Graceful end; the exit status. May be called again."""
        return self.process.stop()

    def log_tail(self, lines: int = 40) -> str:
        return tail(self.log, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _addresses(ready: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """`{"listeners": {NAME: "ADDRESS:PORT"}}` as `state_dir/ready.json` has it."""
    found = {}
    for name, address in ready["listeners"].items():
        host, _, port = str(address).rpartition(":")
        found[name] = (host.strip("[]"), int(port))
    return found
