"""SIGKILL loses no command that reached the server, whatever the protocol: the server's own log is the witness."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import time
from collections.abc import Callable

import pytest

from scripts.support.lab import Lab
from tests.conformance.adapter import Adapter, Ended, Login, ServerError
from tests.conformance.conftest import stands, start
from tests.support.journal import records, verify

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_MARK = re.compile(r"/\* crash (\d+)-(\d+) \*/")


def hammer(connect: Callable[[], object], worker: int) -> int:
    """Numbered statements, every other one prepared, until the gateway dies; how many were answered."""
    answered = 0
    client = connect()
    with contextlib.closing(client):  # type: ignore[type-var]
        try:
            while True:
                text = f"SELECT id FROM orders WHERE id = 1 /* crash {worker}-{answered} */"
                (client.prepared if answered % 2 else client.run)(text)  # type: ignore[attr-defined]
                answered += 1
        except (Ended, ServerError):
            return answered


@pytest.mark.parametrize("which", stands())
def test_what_the_server_saw_is_in_the_journal(which: tuple[Adapter, str]) -> None:
    adapter, name = which
    lab: Lab
    with start(adapter, name) as lab:
        login = Login("agent", lab.tokens["agent"])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(hammer, lambda: adapter.connect(lab, login), worker) for worker in range(4)]
            time.sleep(2.0)
            lab.gateway.kill()
            answered = [future.result(30) for future in running]
        assert min(answered) > 5
        seen = {mark for text in lab.server.statements() for mark in _MARK.findall(text)}
        lab.gateway.start()  # repairs the torn end of the journal
        with contextlib.closing(adapter.connect(lab, login)) as client:
            assert client.run("SELECT 1") == [(1,)]
        lab.gateway.stop()
        recorded = {mark for record in records(lab.gateway.state_dir) for mark in _MARK.findall(record.get("text", ""))}
        assert len(seen) >= sum(answered)
        assert seen - recorded == set()
        verify(lab.gateway.state_dir)
