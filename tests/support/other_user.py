"""Another user of this machine, who owns nothing: what permissions keep from others must be tried by others."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's process takes root to start")

# asks over as many connections as it is told to, and says what each one answered; plain python, no project
PEER = """
import json, socket, sys
path, request, count = sys.argv[1], sys.argv[2].encode() + b"\\n", int(sys.argv[3])
open_, answers = [], []
for _ in range(count):
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(request)
        answers.append(json.loads(connection.makefile("rb").readline()))
        open_.append(connection)
    except OSError as error:
        answers.append({"failed": type(error).__name__})
print(json.dumps(answers))
"""


def another_user(code: str, *arguments: str, groups: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a script as a user who owns nothing."""
    return subprocess.run(
        [python_for_all(), "-I", "-c", code, *arguments],
        user=NOBODY,
        group=NOBODY,
        extra_groups=groups,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


@functools.cache
def python_for_all() -> str:
    """A Python under somebody's home is no program for others."""
    for path in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([path, "-I", "-c", ""], user=NOBODY, group=NOBODY, extra_groups=(), cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return str(path)
    pytest.skip("no python here that other users may run")


def ask(path: Path, groups: Sequence[int], token: str, method: str, count: int = 1, **params: Any) -> list[Any]:
    request = json.dumps({"id": 1, "token": token, "method": method, "params": params})
    done = another_user(PEER, str(path), request, str(count), groups=groups)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]
