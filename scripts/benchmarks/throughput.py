"""The main cells: transactions per second and their latency, as text and prepared, one client and sixteen."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks.load import BenchError, Budget, Pace
from scripts.benchmarks.process_facts import cpu_seconds
from scripts.benchmarks.rig import Rig, Target

_WARM = 50  # statements
CLIENTS = (1, 16)

type Row = dict[str, Any]
type Failed = Callable[[str, str, BenchError], None]  # target, what was tried, why it failed


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    mode: str
    clients: int
    tls: bool

    def __str__(self) -> str:
        return f"{self.mode} x {self.clients} {'tls' if self.tls else 'plain'}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One target in one round. `cpu_us`: of its process, per transaction; `helpers_us`: of its children."""

    tps: float
    p50_us: int
    p99_us: int
    cpu_us: float | None = None
    helpers_us: float | None = None


type Samples = dict[Cell, dict[str, list[Sample | None]]]  # per target, one item per round


def cells(modes: Sequence[str], tls: bool) -> list[Cell]:
    """All of them; those with TLS only where the database has it."""
    kinds = (False, True) if tls else (False,)
    return [Cell(mode, clients, kind) for kind in kinds for clients in CLIENTS for mode in modes]


def measure(
    rig: Rig, rounds: int, budget: Budget, pace: Pace, failed: Failed, said: Callable[[str], None], into: Samples
) -> None:
    """Every cell on every target, `rounds` times, the targets in turns. `into` grows, so that an end on the way keeps
    what was measured."""
    wanted = cells(rig.modes, rig.tls)
    into.update({cell: {name: [] for name in rig.targets} for cell in wanted})
    left = rounds * len(wanted) * len(rig.targets)
    for number in range(1, rounds + 1):
        for cell in wanted:
            for target in rig.targets.values():
                sample = None
                try:
                    sample = sample_of(rig, target, cell, budget.each(left), pace)
                except BenchError as error:
                    failed(target.name, str(cell), error)
                into[cell][target.name].append(sample)
                left -= 1
        said(f"main: round {number} of {rounds} done")


def warm(rig: Rig, pace: Pace, failed: Failed) -> None:
    """A few statements through every target: the first ones pay for what is loaded once, and teach the pace."""
    for target in rig.targets.values():
        for login in target.logins.values():
            try:
                run = rig.driver.run(login, transactions=_WARM, seconds=1.0, mode=rig.modes[0])
                pace.learn(target.name, None, run.tps)
            except BenchError as error:
                failed(target.name, "warm up", error)


def sample_of(rig: Rig, target: Target, cell: Cell, seconds: float, pace: Pace) -> Sample:
    """One run of the driver. Raises BenchError."""
    count = pace.transactions(target.name, cell, seconds, cell.clients)
    pid = target.pids.get(cell.tls)
    before = cpu_seconds(pid)
    run = rig.driver.run(
        target.logins[cell.tls], transactions=count, seconds=seconds, clients=cell.clients, mode=cell.mode
    )
    after = cpu_seconds(pid)
    pace.learn(target.name, cell, run.tps)
    sample = Sample(run.tps, run.percentile(50), run.percentile(99))
    if before is None or after is None:
        return sample
    own, helpers = ((b - a) * 1e6 / len(run.latencies) for a, b in zip(before, after, strict=True))
    return Sample(sample.tps, sample.p50_us, sample.p99_us, own, helpers)


def rows(samples: Samples) -> Iterator[Row]:
    """One row per cell and target: medians over the rounds, ratios and differences taken within each round."""
    for cell, by_target in samples.items():
        direct, pool = by_target.get("direct", ()), by_target.get("pgbouncer", ())
        for name, taken in by_target.items():
            good = [one for one in taken if one is not None]
            if not good:
                continue
            row: Row = {
                "target": name,
                "mode": cell.mode,
                "clients": cell.clients,
                "tls": cell.tls,
                "tps": round(statistics.median(one.tps for one in good), 1),
                "p50_us": round(statistics.median(one.p50_us for one in good)),
                "p99_us": round(statistics.median(one.p99_us for one in good)),
                "tps_ratio_to_direct": middle((a.tps / b.tps for a, b in pairs(taken, direct)), 3),
            }
            if name != "direct":
                row["added_p50_us"] = middle((float(a.p50_us - b.p50_us) for a, b in pairs(taken, direct)), 0)
                row["added_p99_us"] = middle((float(a.p99_us - b.p99_us) for a, b in pairs(taken, direct)), 0)
            if name not in ("direct", "pgbouncer") and pool:
                row["tps_ratio_to_pgbouncer"] = middle((a.tps / b.tps for a, b in pairs(taken, pool)), 3)
            row["cpu_us"] = middle((one.cpu_us for one in good if one.cpu_us is not None), 1)
            row["helpers_cpu_us"] = middle((one.helpers_us for one in good if one.helpers_us), 1)
            row["rounds"] = len(good)
            yield {key: value for key, value in row.items() if value is not None}


def pairs(ours: Sequence[Sample | None], theirs: Sequence[Sample | None]) -> Iterator[tuple[Sample, Sample]]:
    """The rounds in which both were measured."""
    return ((a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b is not None)


def middle(values: Iterable[float], digits: int) -> float | None:
    """Their rounded median; None of nothing."""
    known = list(values)
    return round(statistics.median(known), digits) if known else None
