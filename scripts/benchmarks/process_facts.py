"""CPU time and memory of a process and its children, as Linux tells them; elsewhere nothing is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu_s`: user and system time so far, in steps of 10 ms; `rss_kib`: resident memory now."""

    cpu_s: float
    rss_kib: int


def usage(pid: int) -> Usage | None:
    """Of this process alone; None where it has ended, or the system has no /proc."""
    try:
        # after the name, which may hold anything but ends with the last parenthesis: state is field 3, utime 14
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    rss = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), rss)


def children(pid: int) -> tuple[int, ...]:
    """The direct children, of all threads."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:
            continue  # that thread has just ended
    return tuple(found)


def cpu_seconds(pid: int | None) -> tuple[float, float] | None:
    """(the process, its children together); None where nothing is known."""
    if pid is None or (own := usage(pid)) is None:
        return None
    return own.cpu_s, sum(one.cpu_s for child in children(pid) if (one := usage(child)) is not None)
