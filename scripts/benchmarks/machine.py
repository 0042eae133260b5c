"""What the machine itself adds to a latency: how long it takes to wake a process on an idle CPU.

A proxy adds two such moments to every exchange, whatever it does in them. On virtual machines they are most of it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_TIMES = 2000
_ECHO = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while byte := os.read(0, 1):
    os.write(1, byte)
"""
_HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")


def wake_us() -> float | None:
    """Median microseconds until a process that sleeps on another CPU has got a byte; None with one CPU, or elsewhere.

    Half of a byte's way there and back through two pipes: a write, a wake and a read each.
    """
    if not hasattr(os, "sched_getaffinity") or len(cpus := sorted(os.sched_getaffinity(0))) < 2:
        return None
    argv = [sys.executable, "-S", "-c", _ECHO, str(cpus[1])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as echo:
        assert echo.stdin is not None
        assert echo.stdout is not None
        there, back = echo.stdin.fileno(), echo.stdout.fileno()
        took: list[int] = []
        os.sched_setaffinity(0, {cpus[0]})
        try:
            for _ in range(_TIMES):
                started = time.perf_counter_ns()
                os.write(there, b"x")
                os.read(back, 1)
                took.append(time.perf_counter_ns() - started)
        finally:
            os.sched_setaffinity(0, cpus)
    return round(statistics.median(took) / 2000, 1)


def halt_poll_us() -> float | None:
    """How long this virtual machine's idle CPUs look for work before they halt; None where that is not the guest's."""
    try:
        return int(_HALT_POLL.read_text()) / 1000
    except (OSError, ValueError):
        return None
