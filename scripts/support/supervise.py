"""Run one program and end it, and what it leaves behind, as soon as our own parent is gone.

Started by `scripts.support.process` as `python -I supervise.py JSON`; not meant to be typed. Standard input is the
lifeline: the parent holds the other end of that pipe, so its end reaches us however the parent died. The first line on
standard output is `pid N` (or `error TEXT`); the exit status is the program's own (128 + N when signal N ended it).

INVARIANT: standard library only, no import from this project, so that it starts in milliseconds from anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def _dies_with_parent(number: int) -> Callable[[], None] | None:
    """On Linux: have the kernel send `number` to the program should this supervisor itself be killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)

    return arm


def _wait(child: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    return child.returncode is not None


def _end(child: subprocess.Popen[bytes], signals: list[int], grace: float) -> None:
    """Ask with each signal in turn, then kill the whole process group."""
    for number in signals:
        if child.poll() is not None:
            break
        child.send_signal(number)
        if _wait(child, grace):
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _wakeups() -> int:
    """A descriptor that becomes readable on each signal we care about, so that waiting costs no polling."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in _STOP | {signal.SIGCHLD}:
        signal.signal(number, lambda _number, _frame: None)
    return reader


def main(spec: dict[str, Any]) -> int:
    wakeups = _wakeups()
    signals = [int(number) for number in spec["signals"]]
    as_user: dict[str, Any] = {}
    if spec.get("uid") is not None:
        as_user = {"user": spec["uid"], "group": spec["gid"], "extra_groups": []}
    try:
        with open(spec["log"], "ab") as log:
            child = subprocess.Popen(
                spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=spec.get("cwd"),
                env=spec.get("env"),
                start_new_session=True,
                preexec_fn=_dies_with_parent(signals[0]),
                **as_user,
            )
    except OSError as error:
        print(f"error {error}", flush=True)
        return 127
    print(f"pid {child.pid}", flush=True)
    told = False
    while child.poll() is None and not told:
        readable, _, _ = select.select([0, wakeups], [], [])
        if 0 in readable and not os.read(0, 4096):
            told = True  # our parent closed the lifeline, or is gone
        if wakeups in readable and _STOP & set(os.read(wakeups, 4096)):
            told = True
    _end(child, signals, float(spec["grace"]))
    for path in spec["remove"] if told else ():  # else the parent lives, and may want to read the log first
        shutil.rmtree(path, ignore_errors=True)
    code: int = child.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
