"""What a gateway has put on record, through the command line as a responder would read it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("sluicegate")


def records(state_dir: Path) -> list[dict[str, Any]]:
    """Every payload of the journal, in order. The gateway may be running."""
    done = subprocess.run([PROGRAM, "journal", "dump", state_dir, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["record"] for line in done.stdout.split("\n") if line]


def await_records(
    state_dir: Path, wanted: Callable[[dict[str, Any]], bool], count: int = 1, timeout: float = 15.0
) -> list[dict[str, Any]]:
    """The records that are wanted, once there are `count` of them: what is not urgent is written within moments."""
    deadline = time.monotonic() + timeout
    while True:
        found = [record for record in records(state_dir) if wanted(record)]
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) >= count, f"{len(found)} of {count} records"
            return found
        time.sleep(0.1)


def verify(state_dir: Path) -> None:
    done = subprocess.run([PROGRAM, "verify", state_dir, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
