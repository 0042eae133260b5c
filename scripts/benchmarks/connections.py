"""Connections: how many can be opened in a second, and what a thousand idle ones cost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from scripts.benchmarks.load import BenchError, Budget, Pace
from scripts.benchmarks.process_facts import cpu_seconds, usage
from scripts.benchmarks.rig import Rig, Target
from scripts.benchmarks.throughput import Failed, Row, middle

_CLIENTS = 4  # that connect at the same time
_WARM = 10  # connections that are open before memory is first looked at: what is loaded once is no connection's cost
_SETTLE = 1.0  # seconds between the last statement and the look
_CLOSED_WITHIN = 30.0  # seconds for the database to see that its clients have left


def measure_connects(
    rig: Rig, rounds: int, budget: Budget, pace: Pace, failed: Failed, *, quick: bool
) -> Iterator[Row]:
    """`connects` rows: connect, one small SELECT, disconnect; 4 clients at a time."""
    for target in rig.targets.values():
        for tls in target.logins:
            pace.learn(target.name, ("connects", tls), 60.0, typical=False)
    for tls in (True, False) if rig.tls else (False,):
        if quick and rig.tls and not tls:
            continue  # the one with TLS is the one that matters
        taken: dict[str, list[float | None]] = defaultdict(list)
        for _ in range(rounds):
            for target in rig.targets.values():
                seconds = budget.each(len(rig.targets))
                count = pace.transactions(target.name, ("connects", tls), seconds, _CLIENTS, least=3)
                try:
                    run = rig.driver.run(
                        target.logins[tls], transactions=count, seconds=seconds, clients=_CLIENTS, reconnect=True
                    )
                    pace.learn(target.name, ("connects", tls), run.tps, typical=False)
                    taken[target.name].append(run.tps)
                except BenchError as error:
                    failed(target.name, "connects", error)
                    taken[target.name].append(None)
        for name, speeds in taken.items():
            good = [speed for speed in speeds if speed is not None]
            both = [(a, b) for a, b in zip(speeds, taken.get("direct", []), strict=False) if a and b]
            if good:
                yield {
                    "measure": "connects",
                    "target": name,
                    "tls": tls,
                    "connects_per_s": middle(good, 1),
                    "ratio_to_direct": middle((a / b for a, b in both), 3),
                    "rounds": len(good),
                }


def measure_idle(rig: Rig, connections: int, seconds: float, failed: Failed, *, quick: bool) -> Iterator[Row]:
    """`idle` rows: memory of the target's process per connection that has run one statement and then does nothing,
    and the CPU time it uses meanwhile, in percent of one core. With TLS where the database has it."""
    # pgbouncer last: it keeps its connections to the database for the next client
    order = sorted(rig.targets.values(), key=lambda target: target.name == "pgbouncer")
    for target in order:
        if quick and target.name != "gateway":
            continue
        pid = target.pids.get(rig.tls)
        if pid is None or usage(pid) is None:
            continue  # no process of its own, or a system that does not tell
        try:
            yield _idle(rig, target, pid, connections, seconds, tls=rig.tls)
            if target is not order[-1]:
                _wait_closed(rig)
        except BenchError as error:
            failed(target.name, "idle", BenchError(f"{connections} idle connections: {error}"))


def _idle(rig: Rig, target: Target, pid: int, connections: int, seconds: float, *, tls: bool) -> Row:
    login = target.logins[tls]
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(8)
        stack.callback(pool.shutdown, cancel_futures=True)

        def hold(count: int) -> None:
            for made in pool.map(lambda _number: rig.connect(login), range(count)):
                stack.callback(made.close)

        hold(_WARM)
        time.sleep(_SETTLE)
        before = usage(pid)
        started = time.monotonic()
        hold(connections)
        took = time.monotonic() - started
        time.sleep(_SETTLE)
        after, cpu = usage(pid), cpu_seconds(pid)
        time.sleep(seconds)
        later = cpu_seconds(pid)
    if before is None or after is None or cpu is None or later is None:
        raise BenchError("the process ended")
    return {
        "measure": "idle",
        "target": target.name,
        "tls": tls,
        "connections": connections,
        "kib_per_connection": round((after.rss_kib - before.rss_kib) / connections, 1),
        "rss_mib": round(after.rss_kib / 1024, 1),
        "cpu_percent": round(100 * (later[0] - cpu[0]) / seconds, 2),
        "helpers_cpu_percent": round(100 * (later[1] - cpu[1]) / seconds, 2),
        "opened_in_s": round(took, 1),
    }


def _wait_closed(rig: Rig) -> None:
    """The next target needs the connections that this one used. Raises BenchError."""
    deadline = time.monotonic() + _CLOSED_WITHIN
    while (count := rig.open_connections()) > 40:
        if time.monotonic() > deadline:
            raise BenchError(f"{count} connections were still open {_CLOSED_WITHIN:.0f} s after their clients left")
        time.sleep(0.1)
