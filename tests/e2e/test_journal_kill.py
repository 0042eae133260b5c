"""SIGKILL under load, with everything that can be in flight: what reached the server is in the journal, always.

The witnesses are the server's own log and the rows that were committed. Pipelines matter: many commands are on their
way at once, recorded in one write and sent in another.
"""

from __future__ import annotations

import concurrent.futures
import random
import re
import time
from typing import Any

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.journal import records, verify
from tests.support.raw import Closed, Raw, through

pytestmark = pytest.mark.e2e

MARK = re.compile(r"kill-(\d+)-(\d+)")
INSERT = "INSERT INTO public.killed VALUES ('kill-{0}-{1}')"


def exchange(worker: int, number: int, pick: random.Random) -> tuple[bytes, int]:
    """Some commands and the number of ReadyForQuery that answer them; each command carries its own mark."""
    text = INSERT.format(worker, number)
    shape = pick.randrange(4)
    if shape == 0:
        return wire.query(text), 1
    if shape == 1:
        return wire.parse("", text) + wire.bind("", "") + wire.execute() + wire.SYNC, 1
    if shape == 2:  # prepared once, the mark is a parameter
        value = f"kill-{worker}-{number}".encode()
        return wire.bind("", "prepared", [value]) + wire.execute() + wire.SYNC, 1
    data = f"kill-{worker}-{number}\n".encode()
    copy = f"COPY public.killed FROM STDIN /* kill-{worker}-{number} */"
    return wire.query(copy) + wire.copy_data(data) + wire.COPY_DONE, 1


def hammer(lab: Lab, worker: int) -> int:
    """Pipelines of random depth until the gateway dies; how many commands were sent."""
    pick = random.Random(worker)
    sent = 0
    client: Raw = through(lab, "admin")
    with client:
        client.ask(wire.parse("prepared", "INSERT INTO public.killed VALUES ($1)", 25) + wire.SYNC)
        try:
            while True:
                depth = pick.choice([1, 1, 1, 5, 40])
                parts = [exchange(worker, sent + i, pick) for i in range(depth)]
                sent += depth
                client.send(*(data for data, _ in parts))
                client.until(count=sum(count for _, count in parts))
        except (Closed, OSError):
            return sent


def marks(text: str) -> set[tuple[str, ...]]:
    return set(MARK.findall(text))


@pytest.mark.parametrize("durability", ["write", "strict"])
def test_what_the_server_saw_is_in_the_journal(durability: str) -> None:
    def adjust(document: dict[str, Any]) -> None:
        document["record"] = {"durability": durability, "segment_bytes": 1 << 20}  # segments roll meanwhile

    with Lab(tls="off", adjust=adjust) as lab:
        with lab.server.connect() as connection:
            connection.execute("CREATE TABLE public.killed (mark text)")
        time.sleep(1.5)
        recorded: set[tuple[str, ...]] = set()
        for seconds in (0.7, 1.3) if durability == "write" else (0.7,):
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                running = [pool.submit(hammer, lab, worker + int(seconds * 1000)) for worker in range(4)]
                time.sleep(seconds)
                lab.gateway.kill()
                sent = [future.result(30) for future in running]
            assert min(sent) > 10
            until_idle(lab)
            lab.gateway.start()  # repairs the torn end
            recorded = set().union(*(marks(f"{r.get('text')} {r.get('params')}") for r in commands(lab)))
            verify(lab.gateway.state_dir)
        with lab.server.connect() as connection:
            committed = {m for (text,) in connection.execute("SELECT mark FROM killed") for m in marks(text)}
        logged = set().union(*(marks(text) for text in lab.server.statements()))
        assert len(committed) > 100
        assert committed - recorded == set()
        assert logged - recorded == set()


def commands(lab: Lab) -> list[dict[str, Any]]:
    return [r for r in records(lab.gateway.state_dir) if r["t"] == "command"]


def until_idle(lab: Lab) -> None:
    """Every server process of the dead gateway has noticed: what they were sent has run or never will."""
    deadline = time.monotonic() + 20
    with lab.server.connect() as connection:
        while connection.execute(OTHERS).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.1)


OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
