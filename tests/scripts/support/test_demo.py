"""The demo checks itself: here it only has to say that all went as told, and as a program would read it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

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


@pytest.mark.slow
def test_keep_leaves_it_running_with_mitmweb() -> None:
    running = subprocess.Popen(
        [sys.executable, "-P", "-u", "-m", "scripts.support.demo", "--keep"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    with running.stdout as out:
        address = ""
        for line in out:
            if line.startswith("mitmweb: "):
                address = line.removeprefix("mitmweb: ").strip()
            if line.startswith("ctrl-c"):
                break
        with urllib.request.urlopen(address, timeout=10) as page:
            assert page.status == 200
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
