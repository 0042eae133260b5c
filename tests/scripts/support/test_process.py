"""Child processes must end with us, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.support.process import Process, StartError, wait_until

ROOT = Path(__file__).resolve().parents[3]

# starts a sleeper under Process, tells its pid, then waits: the test decides how this parent ends
PARENT = """
import sys, time
from pathlib import Path
from scripts.support.process import Process
folder = Path(sys.argv[1])
child = Process(["sleep", "600"], log=folder / "log", remove=(folder / "data",))
print(child.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie whose parent has not looked yet counts)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return check()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_and_its_folder_go_when_the_parent_is_killed(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "data").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout as out:
        pid = int(out.readline())
    assert not gone(pid)
    parent.send_signal(end)
    parent.wait()
    assert eventually(lambda: gone(pid))
    assert eventually(lambda: not (tmp_path / "data").exists())


def test_a_child_goes_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    child = Process(["sleep", "600"], log=tmp_path / "log")
    os.kill(child._supervisor.pid, signal.SIGKILL)
    assert eventually(lambda: gone(child.pid))
    child.stop()


def test_stop_escalates_when_a_program_ignores_the_first_signal(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    child = Process([sys.executable, "-c", script], log=log, signals=(signal.SIGTERM, signal.SIGINT), grace=0.2)
    assert eventually(lambda: "on" in log.read_text())
    assert child.stop() == 128 + signal.SIGINT
    assert gone(child.pid)


def test_stop_kills_what_ignores_everything_and_its_children(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    child = Process([sys.executable, "-c", script], log=log, grace=0.2)
    assert eventually(lambda: log.read_text().endswith("\n"))
    assert child.stop() == 128 + signal.SIGKILL
    assert eventually(lambda: gone(int(log.read_text())))


def test_the_exit_status_is_the_programs_own(tmp_path: Path) -> None:
    child = Process([sys.executable, "-c", "raise SystemExit(7)"], log=tmp_path / "log")
    assert child.wait(10) == 7
    assert not child.running
    assert child.stop() == 7  # again, harmlessly


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no-such-program"):
        Process(["/no-such-program"], log=tmp_path / "log")


def test_waiting_for_a_program_that_dies_quotes_its_log(tmp_path: Path) -> None:
    child = Process([sys.executable, "-c", "print('my last words')"], log=tmp_path / "log")
    with pytest.raises(StartError, match="my last words"):
        wait_until(lambda: False, 10, what="it", alive=lambda: child.running, log=child.log)
    child.stop()


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="not ready after"):
        wait_until(lambda: False, 0.05, what="it", alive=lambda: True, log=tmp_path / "log")
