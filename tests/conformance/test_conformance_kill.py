"""SIGKILL loses no command that reached the server, whatever the protocol: the server's own log is the witness."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
from collections.abc import Callable

import pytest

from scripts.support.lab import Lab
from tests.conformance.adapter import Adapter, Ended, Login, ServerError
from tests.conformance.conftest import stands, start
from tests.support.journal import records, verify
from tests.support.wait import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_MARK = re.compile(r"/\* crash (\d+)-(\d+) \*/")


def hammer(connect: Callable[[], object], worker: int, answered: list[int]) -> None:
    """Numbered statements, every other one prepared, until the gateway dies. `answered`: how many were, by worker."""
    client = connect()
    with contextlib.closing(client):  # type: ignore[type-var]
        try:
            while True:
                text = f"SELECT id FROM orders WHERE id = 1 /* crash {worker}-{answered[worker]} */"
                (client.prepared if answered[worker] % 2 else client.run)(text)  # type: ignore[attr-defined]
                answered[worker] += 1
        except (Ended, ServerError):
            return


@pytest.mark.parametrize("which", stands())
def test_what_the_server_saw_is_in_the_journal(which: tuple[Adapter, str]) -> None:
    adapter, name = which
    lab: Lab
    with start(adapter, name) as lab:
        login = Login("agent", lab.tokens["agent"])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answered = [0] * 4
            running = [pool.submit(hammer, lambda: adapter.connect(lab, login), n, answered) for n in range(4)]
            until(lambda: min(answered) > 20)
            lab.gateway.kill()
            for future in running:
                future.result(30)
        seen = {mark for text in lab.server.statements() for mark in _MARK.findall(text)}
        lab.gateway.start()  # repairs the torn end of the journal
        with contextlib.closing(adapter.connect(lab, login)) as client:
            assert client.run("SELECT 1") == [(1,)]
        lab.gateway.stop()
        recorded = {mark for record in records(lab.gateway.state_dir) for mark in _MARK.findall(record.get("text", ""))}
        assert len(seen) >= sum(answered)
        assert seen - recorded == set()
        verify(lab.gateway.state_dir)
