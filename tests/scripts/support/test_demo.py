"""The demo checks itself: here it only has to say that all went as told, and as a program would read it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.support import mysql

pytestmark = pytest.mark.e2e


def test_every_act_goes_as_told() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.support.demo", "--json"], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"]
    here = any(mysql.available())
    assert len(told["acts"]) == (9 if here else 8)
    assert [why.partition(":")[0] for why in told["left_out"]] == ([] if here else ["MySQL"])
    assert all(act["ok"] and act["checks"] for act in told["acts"])
    assert sum(len(act["commands"]) for act in told["acts"]) >= 9
    assert "eyJ" not in done.stdout  # no token on the screen


@contextmanager
def running_until_told(process: subprocess.Popen[str]) -> Iterator[None]:
    """It ends as with ctrl-c, whatever the test has found."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.slow
def test_keep_leaves_it_running_with_mitmweb() -> None:
    running = subprocess.Popen(
        [sys.executable, "-P", "-u", "-m", "scripts.support.demo", "--keep"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    with running.stdout as out, running_until_told(running):
        address, yours = "", []
        for line in out:
            if line.startswith("mitmweb: "):
                address = line.removeprefix("mitmweb: ").strip()
            if line.startswith(("sh /", ". /")):
                yours.append(line.strip())
            if line.startswith("ctrl-c"):
                break
            assert "eyJ" not in line  # no token on the screen
        with urllib.request.urlopen(address, timeout=10) as page:
            assert page.status == 200
        *shells, environment = yours
        assert [Path(line).name for line in shells] == ["admin", "analyst", "agent"]
        for who, code in (("admin", 0), ("agent", 2)):  # the agent is contained
            line = next(line for line in shells if line.endswith(who))
            done = subprocess.run(f"{line} -Atc 'SELECT 1 + 1'", shell=True, capture_output=True, text=True)
            assert (done.returncode, done.stdout) == (code, "2\n" if code == 0 else ""), done.stderr
        again = f"until {shells[2]} -Atc 'SELECT 1 + 1'; do sleep 0.2; done"  # it takes a moment
        done = subprocess.run(
            f"{environment}; sluicegate release agent; {again}", shell=True, capture_output=True, text=True, timeout=30
        )
        assert done.stdout.endswith("2\n"), done.stderr
    assert running.returncode == 0
