"""A gateway in front of the API server for tests, with an issuer, a policy and stock kubectl."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import pty
import resource
import shutil
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from protocols.kubernetes.kubeconfig import kubeconfig
from scripts.support.gateway import ROLES, ROOT
from scripts.support.issuer import Issuer
from scripts.support.process import Process, wait_until
from scripts.support.tls import Authority
from tests.support.apiserver.kubectl import BINARY, Kubectl
from tests.support.apiserver.server import TOKEN, ApiServer
from tests.support.http_lab import HttpLab

# a value that the detectors know as a payment card's number (a test number of its issuer)
CARD = "4111 1111 1111 1111"

POLICY = """
version: 1
name: kube-lab
description: what the tests may do
rules:
  - id: read
    description: reading, also over all namespaces
    allow: {effects: [kube.read]}
  - id: keepers
    description: values of Secrets
    who: {groups: [keepers]}
    allow: {effects: [secret.read]}
  - id: edit
    description: writing in two namespaces
    who: {groups: [editors]}
    allow: {effects: [kube.write, kube.delete], kubernetes: {namespaces: [default, shop]}}
  - id: kept-credentials
    description: credentials are kept in Secrets
    allow: {effects: [exfil.credential], kubernetes: {resources: [secrets]}}
  - id: no-privileges
    description: nothing that reaches out of its pod
    deny: {effects: [kube.write], kubernetes: {settings: [privileged, host_path]}}
  - id: images
    description: no images of strangers
    deny: {effects: [kube.write], kubernetes: {images: ["docker.io/*"]}}
  - id: identities
    description: pods do not run as the builder
    deny: {effects: [kube.write], kubernetes: {service_accounts: [builder]}}
  - id: deletions
    description: namespaces are deleted by two people
    hold: {effects: [kube.delete], kubernetes: {names: ["guarded*"]}}
  - id: shells
    description: commands in pods
    who: {groups: [operators]}
    allow: {effects: [kube.exec, kube.forward]}
  - id: no-destruction
    description: no deletions in pods
    deny: {effects: [kube.exec], kubernetes: {commands: ["rm *"]}}
    message: ask the platform team
  - id: second-pair
    description: migrations are looked at first
    hold: {effects: [kube.exec], kubernetes: {commands: ["*migrate*"]}}
    message: a second pair of eyes looks at migrations
  - id: cards
    description: card numbers are for nobody
    unless: {who: {groups: [trusted]}}
    mask: {detect: [card, credential], strategy: redact}
  - id: trusted
    description: people who may carry anything into the cluster
    who: {groups: [trusted]}
    allow: {effects: [exfil.credential, exfil.personal]}
"""


class KubeLab(HttpLab):
    """`apiserver` behind the listener `cluster`; `impersonate`: it acts as the client's own subject."""

    def __init__(
        self, policy: str = POLICY, *, impersonate: bool = False, certificate: bool = False, **more: Any
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sgkube-"))
        self.authority = Authority(self.folder)
        self.issuer = Issuer(self.authority)
        self.apiserver = ApiServer(self.authority, client_certificates=certificate)
        self.apiserver.__enter__()
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        (self.folder / "policy.yaml").write_text(policy)
        pair = self.authority.server("gateway")
        upstream: dict[str, Any] = {"mode": "verify-full", "ca": str(self.authority.file)}
        if certificate:
            own = self.authority.client("gateway-at-cluster")
            upstream |= {"certificate": str(own.certificate), "key": str(own.key)}
            credential: dict[str, Any] = {"http_auth": {"kind": "none", "impersonate": impersonate}}
        else:
            token = self.folder / "upstream-token"
            token.write_text(TOKEN)
            token.chmod(0o600)
            credential = {"credential": {"provider": "file", "path": str(token)}}
            credential |= {"http_auth": {"kind": "bearer", "impersonate": impersonate}}
        document = {
            "version": 1,
            "state_dir": str(self.state),
            "listeners": [
                {"name": "cluster", "protocol": "kubernetes", "listen": "127.0.0.1:0", "resource": "lab"}
                | {"tls": {"mode": "required", "certificate": str(pair.certificate), "key": str(pair.key)}}
                | {"hold_wait": more.pop("hold_wait", 5.0)},
            ],
            "resources": [
                {"name": "lab", "protocol": "kubernetes", "host": "127.0.0.1", "port": self.apiserver.port}
                | {"tls": upstream}
                | credential
            ],
            "issuers": [{"issuer": self.issuer.url, "audience": self.issuer.audience, "ca": str(self.issuer.ca_file)}],
            "policies": [str(self.folder / "policy.yaml")],
            "roles": ROLES,
            **more,
        }
        self.config = self.folder / "gateway.yaml"
        with self.config.open("w") as stream:
            YAML(typ="safe").dump(document, stream)
        self.log = self.folder / "gateway.log"
        self._numbers = itertools.count()
        try:
            self.start()
        except BaseException:
            self.apiserver.__exit__()
            self.issuer.stop()
            raise

    def start(self) -> None:
        ready = self.state / "ready.json"
        ready.unlink(missing_ok=True)
        argv: list[str | Path] = [
            Path(sys.executable).with_name("mitmdump"),
            "-n",
            "-s",
            ROOT / "addons" / "gateway.py",
        ]
        argv += ["--set", f"sluicegate={self.config}", "--set", f"confdir={self.folder / 'mitmproxy'}"]
        self.process = Process(argv, log=self.log, name="the gateway", grace=10.0, env=dict(os.environ))
        wait_until(ready.exists, 30.0, what="the gateway", alive=lambda: self.process.running, log=self.log)
        told = json.loads(ready.read_bytes())
        self.ports = {name: int(str(address).rpartition(":")[2]) for name, address in told["listeners"].items()}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports['cluster']}"

    def kubectl(self, subject: str = "dev", *groups: str, spdy: bool = False, ttl: float = 3600.0) -> Kubectl:
        """Through the gateway, as whoever."""
        text = kubeconfig(
            "lab", self.url, self.authority.file.read_bytes(), token=self.token(subject, *groups, ttl=ttl)
        )
        return Kubectl(self.folder / f"home-{next(self._numbers)}", text, spdy)

    def direct(self, *, spdy: bool = False) -> Kubectl:
        """Past the gateway, with the gateway's own account."""
        text = kubeconfig("lab", self.apiserver.url, self.authority.file.read_bytes(), token=TOKEN)
        return Kubectl(self.folder / f"home-{next(self._numbers)}", text, spdy)

    def pod(self, command: list[str] | None = None, namespace: str = "default") -> str:
        name = f"web-{next(self._numbers)}"
        container: dict[str, Any] = {"name": "main", "image": "example.org/web:1"}
        if command:
            container["command"] = command
        self.apiserver.create("pods", namespace, {"metadata": {"name": name}, "spec": {"containers": [container]}})
        return name

    def request(
        self, method: str, path: str, token: str, *, body: str = "", kind: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        """One request of a client that is no kubectl: status, and the answer's JSON or text."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        connection = http.client.HTTPSConnection("127.0.0.1", self.ports["cluster"], context=context, timeout=30)
        try:
            sent = {"Authorization": f"Bearer {token}", "Content-Type": kind} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(raw)
        except ValueError:
            return answer.status, raw.decode("utf-8", "replace")

    def break_journal(self) -> None:
        """From now on the gateway cannot write a byte to any file."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def ticket(self, subject: str) -> str:
        """The request of this subject that waits for approval, once there is one."""
        for _ in range(200):
            found = self.cli("approvals", "list", "--json", token=self.token("ann", "oncall"))
            assert found.returncode == 0, found.stderr
            waiting = [one for one in json.loads(found.stdout) if one["subject"] == subject]
            if waiting:
                return str(waiting[0]["id"])
            time.sleep(0.1)
        raise AssertionError(f"nothing of {subject} waits")

    def stop(self) -> None:
        self.process.stop()
        self.issuer.stop()
        self.apiserver.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def on_a_terminal(
    kubectl: Kubectl, *words: str, rows: int, columns: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """kubectl on a terminal of its own: the process, and the terminal's other end."""
    master, slave = pty.openpty()
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    own = "import os, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); a = sys.argv[1:]"
    own += "; os.execv(a[0], a)"
    process = subprocess.Popen(
        [sys.executable, "-c", own, str(BINARY), *words],
        env=kubectl.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        yield process, master
    finally:
        process.kill()
        process.wait()
        os.close(master)
