"""Much data in one result: megabytes per second unmasked, rows per second with one of ten columns masked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.benchmarks.load import BenchError, Budget, Pace, copy_out
from scripts.benchmarks.rig import BULK_COLUMNS, ROWS, STRATEGIES, Rig, Target
from scripts.benchmarks.throughput import Failed, Row, middle

_COPY_LIMIT = 120.0  # seconds
_FIRST_GUESS = 2.0  # results per second, before a target has been seen at it


def query(table: str) -> str:
    """All rows and columns of one bulk table. The columns are named: a rule can see which ones are read."""
    return f"SELECT {', '.join(BULK_COLUMNS)} FROM bench_{table}"  # noqa: S608 - our own names


def measure(rig: Rig, rounds: int, budget: Budget, pace: Pace, failed: Failed, *, quick: bool) -> Iterator[Row]:
    """`bulk` rows: SELECT with the driver (pgbench keeps the whole result), COPY TO STDOUT with psql."""
    select_bytes, copy_bytes = rig.wire_bytes()
    psql = rig.psql
    script = rig.folder / "bulk.sql"
    script.write_text(query("plain") + ";\n")

    def select(target: Target, tls: bool, seconds: float) -> float:
        return select_bytes * _selects(rig, target, tls, seconds, pace, "bulk", script)

    def copy(target: Target, tls: bool, seconds: float) -> float:
        assert psql is not None
        rate = pace.transactions(target.name, ("copy", tls), seconds, least=1)
        taken = copy_out(psql, target.logins[tls], query("plain"), min(rate, 50), _COPY_LIMIT)
        pace.learn(target.name, ("copy", tls), len(taken) / sum(taken), typical=False)
        return copy_bytes * len(taken) / sum(taken)

    ways: list[tuple[str, bool, Callable[[Target, bool, float], float]]] = [("select", False, select)]
    if not quick:
        ways += [("copy", False, copy)]
        if rig.tls:
            ways += [("select", True, select), ("copy", True, copy)]
    ways = [way for way in ways if psql is not None or way[0] != "copy"]
    _warm(rig, pace)
    for via, tls, run in ways:
        taken: dict[str, list[float | None]] = defaultdict(list)
        for _ in range(rounds):
            for target in rig.targets.values():
                try:
                    taken[target.name].append(run(target, tls, budget.each(len(rig.targets) * len(ways))))
                except BenchError as error:
                    failed(target.name, f"bulk {via}", error)
                    taken[target.name].append(None)
        for name, speeds in taken.items():
            good = [speed for speed in speeds if speed is not None]
            row = {"measure": "bulk", "target": name, "via": via, "tls": tls}
            row |= {"mb_per_s": middle((speed / 1e6 for speed in good), 1)}
            row |= {"ratio_to_direct": _ratio(speeds, taken.get("direct", [])), "rounds": len(good)}
            if good:
                yield row


def measure_masked(rig: Rig, rounds: int, budget: Budget, pace: Pace, failed: Failed) -> Iterator[Row]:
    """`masked_rows` rows: the same SELECT through the gateway, by strategy; `none` is the table without a mask."""
    gateway, direct = rig.targets.get("gateway"), rig.targets.get("direct")
    if gateway is None or rig.identity != "analyst":
        return  # nothing is masked for anybody else
    scripts = {}
    for table in ("plain", *STRATEGIES):
        scripts[table] = rig.folder / f"rows-{table}.sql"
        scripts[table].write_text(query(table) + ";\n")
    _warm(rig, pace)
    turns: list[tuple[Target, str]] = [(direct, "plain")] if direct is not None else []
    turns += [(gateway, table) for table in scripts]
    taken: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for _ in range(rounds):
        for target, table in turns:
            try:
                speed = ROWS * _selects(rig, target, False, budget.each(len(turns)), pace, table, scripts[table])
                taken[target.name, table].append(speed)
            except BenchError as error:
                failed(target.name, f"masked rows ({table})", error)
                taken[target.name, table].append(None)
    for (name, table), speeds in taken.items():
        good = [speed for speed in speeds if speed is not None]
        if not good:
            continue
        yield {
            "measure": "masked_rows",
            "target": name,
            "strategy": "none" if table == "plain" else table,
            "tls": False,
            "rows_per_s": middle(good, 0),
            "ratio_to_direct": _ratio(speeds, taken.get(("direct", "plain"), [])),
            "ratio_to_unmasked": _ratio(speeds, taken.get((name, "plain"), [])),
            "rounds": len(good),
        }


def _selects(rig: Rig, target: Target, tls: bool, seconds: float, pace: Pace, kind: str, script: Path) -> float:
    """Results per second."""
    count = pace.transactions(target.name, (kind, tls), seconds, least=1)
    run = rig.driver.run(target.logins[tls], transactions=min(count, 200), seconds=seconds, script=script)
    pace.learn(target.name, (kind, tls), run.tps, typical=False)
    return run.tps


def _warm(rig: Rig, pace: Pace) -> None:
    """What a target does with small statements says nothing of these: a first guess that fits large results."""
    for target in rig.targets.values():
        for tls in target.logins:
            for kind in ("bulk", "copy", "plain", *STRATEGIES):
                pace.learn(target.name, (kind, tls), _FIRST_GUESS, typical=False)


def _ratio(ours: list[float | None], theirs: list[float | None]) -> float | None:
    both = [(a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b is not None]
    return middle((a / b for a, b in both), 3)
