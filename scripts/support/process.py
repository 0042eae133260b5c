"""Child processes that cannot outlive us, and ports that nobody listens on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SUPERVISOR = Path(__file__).with_name("supervise.py")


class StartError(RuntimeError):
    """A server did not start; the text says which one and quotes the end of its log."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Another process may take it first: callers retry."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message; empty when there is none."""
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


def wait_until(ready: Callable[[], bool], timeout: float, *, what: str, alive: Callable[[], bool], log: Path) -> None:
    """Poll `ready` until it holds. Raises StartError when `timeout` seconds pass or the process ends first."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not alive():
            raise StartError(f"{what} ended before it was ready; its log ends:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"{what} was not ready after {timeout:g} s; its log ends:\n{tail(log)}")
        time.sleep(0.01)


class Process:
    """A program under `supervise.py`: it ends when we call `stop`, when we exit, and when we are killed.

    `signals` are tried in order, `grace` seconds each, before SIGKILL. `remove` are folders that go when it is stopped.
    `user` is (uid, gid) to run as; only root may give it. Raises StartError when the program cannot be executed.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        name: str = "",
        signals: Sequence[int] = (signal.SIGTERM,),
        grace: float = 5.0,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        remove: Sequence[Path] = (),
    ) -> None:
        self.name = name or Path(argv[0]).name
        self.log = log
        self._remove = tuple(remove)
        self._patience = grace * len(signals) + 10.0
        spec = {
            "argv": [str(part) for part in argv],
            "log": str(log),
            "signals": [int(number) for number in signals],
            "grace": grace,
            "cwd": str(cwd) if cwd else None,
            "env": dict(env) if env is not None else None,
            "uid": user[0] if user else None,
            "gid": user[1] if user else None,
            "remove": [str(path) for path in remove],
        }
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", SUPERVISOR, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # ctrl-c in a terminal is for us; we then end our children in order
        )
        assert self._supervisor.stdout is not None
        word, _, rest = self._supervisor.stdout.readline().decode().strip().partition(" ")
        if word != "pid":
            self.stop()
            raise StartError(f"cannot run {self.name}: {rest or 'its supervisor ended at once'}")
        self.pid = int(rest)

    @property
    def running(self) -> bool:
        return self._supervisor.poll() is None

    def wait(self, timeout: float) -> int:
        """The program's exit status (128 + N when signal N ended it). Raises subprocess.TimeoutExpired."""
        return self._supervisor.wait(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, SIGKILL included."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """End the program (politely first) and return its exit status. May be called again."""
        pipe, out = self._supervisor.stdin, self._supervisor.stdout
        if pipe is not None and not pipe.closed:
            pipe.close()
        try:
            return self._supervisor.wait(self._patience)
        finally:
            for path in self._remove:
                shutil.rmtree(path, ignore_errors=True)
            if out is not None:
                out.close()
