"""SIGKILL under load loses no command that reached the server: its own log is the witness."""

from __future__ import annotations

import concurrent.futures
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from scripts.support.lab import Lab

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_MARK = re.compile(r"/\* crash (\d+)-(\d+) \*/")


def hammer(dsn: str, worker: int) -> int:
    """Numbered statements until the gateway dies; how many were answered."""
    answered = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        try:
            while True:
                connection.execute(f"SELECT id FROM orders WHERE id = 1 /* crash {worker}-{answered} */".encode())
                answered += 1
        except psycopg.OperationalError:
            return answered


def test_what_the_server_saw_is_in_the_journal(tmp_path: Path) -> None:
    with Lab(tls="off") as lab:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(hammer, lab.dsn("agent"), worker) for worker in range(4)]
            time.sleep(1.5)
            lab.gateway.kill()
            answered = [future.result(30) for future in running]
        assert min(answered) > 10
        seen = {mark for text in lab.server.statements() for mark in _MARK.findall(text)}
        lab.gateway.start()  # repairs the torn end of the journal
        with psycopg.connect(lab.dsn("agent")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        lab.gateway.stop()
        program = Path(sys.executable).with_name("sluicegate")
        journal = lab.gateway.state_dir / "journal"
        done = subprocess.run([program, "journal", "dump", journal, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        recorded = set(_MARK.findall(done.stdout))
        assert len(seen) >= sum(answered)
        assert seen - recorded == set()
        verified = subprocess.run([program, "verify", journal, "--json"], capture_output=True, text=True)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert json.loads(verified.stdout)
