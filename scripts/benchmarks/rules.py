"""What a statement costs when the policy has 10, 100 or 1,000 rules that all concern its client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.load import BenchError, Budget, Pace
from scripts.benchmarks.process_facts import cpu_seconds
from scripts.benchmarks.rig import Rig, Target
from scripts.benchmarks.throughput import Failed, Row, middle

SIZES = (10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked, in the form of the protocol's own driver: of one table.

    `new` has another alias, so another shape, almost every time: the statement is parsed, analysed and judged afresh.
    """

    table: str
    cached: str | None  # None: what the driver sends unless it is told otherwise
    new: str


WORK = {
    "postgres": Work(
        "public.pgbench_accounts",
        "\\set aid random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n",
        "\\set aid random(1, 100000)\n\\set r random(1, 1000000000)\n"
        "SELECT abalance AS a:r FROM pgbench_accounts WHERE aid = :aid;\n",
    ),
    "mysql": Work("shop.bench_small", None, "SELECT c AS a{new} FROM bench_small WHERE id = {id}"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One round: the median latency, and the CPU time of the process per statement."""

    p50_us: int
    cpu_us: float | None


def bundle(size: int, table: str) -> str:
    """A policy of `size` rules without `who`, so that every one of them is asked: most allow something on tables of
    their own, some stop, hold, alert or mask. The two that let the benchmark work come last."""
    lines = ["version: 1", f"name: rules-{size}", "description: generated, to measure what rules cost", "rules:"]
    for number in range(size - 2):
        lines += [f"  - id: rule-{number}", "    description: about tables that the benchmark does not touch"]
        other = f"app_{number % 50}.table_{number}"
        if number % 10 == 3:
            lines += [f"    deny: {{effects: [data.delete, ddl.*], relations: [{other}, app_{number % 50}.log_*]}}"]
        elif number % 10 == 5:
            lines += [f"    deny: {{columns: [{other}.secret]}}"]
        elif number % 10 == 7:
            lines += [f"    hold: {{effects: [data.update], relations: [{other}], where: [missing]}}"]
            lines += ["    approvers: {groups: [oncall]}"]
        elif number % 20 == 8:
            lines += [f"    alert: {{effects: [data.select], relations: [{other}]}}"]
        elif number % 20 == 18:
            lines += [f"    mask: {{columns: [{other}.email], strategy: partial, keep_last: 4}}"]
        else:
            lines += [f"    allow: {{effects: [data.select, data.insert], relations: [{other}]}}"]
    lines += ["  - id: session", "    description: what every client does", "    allow: [show, tx, session.set]"]
    lines += ["  - id: bench", "    description: the benchmark's own table"]
    lines += [f"    allow: {{effects: [data.select], relations: [{table}]}}"]
    return "\n".join([*lines, ""])


def measure(rig: Rig, rounds: int, budget: Budget, pace: Pace, failed: Failed) -> Iterator[Row]:
    """`rules` rows. One gateway per size, all at once, measured in turns with the direct way; one client, no TLS."""
    direct = rig.targets.get("direct")
    if direct is None or "gateway" not in rig.targets:
        return
    work = WORK[rig.server.installation.protocol]
    scripts: dict[str, Path | None] = {}
    for kind, text in (("cached", work.cached), ("new", work.new)):
        scripts[kind] = None if text is None else rig.folder / f"rules-{kind}.sql"
        if text is not None:
            (rig.folder / f"rules-{kind}.sql").write_text(text)
    with ExitStack() as stack:
        targets: list[tuple[int, Target]] = [(0, direct)]
        for size in SIZES:
            policy = rig.folder / f"rules-{size}.yaml"
            policy.write_text(bundle(size, work.table))
            running, target = rig.gateway(f"rules-{size}", [policy])
            stack.callback(running.stop)
            targets.append((size, target))
        taken: dict[tuple[int, str], list[Sample | None]] = defaultdict(list)
        for _ in range(rounds):
            for kind, script in scripts.items():
                for size, target in targets:
                    try:
                        sample = _sample(rig, target, kind, script, budget.seconds, pace)
                    except BenchError as error:
                        failed(target.name, f"{size} rules, {kind} statements", error)
                        sample = None
                    taken[size, kind].append(sample)
    for size in SIZES:
        for kind in scripts:
            yield from _row(taken, size, kind)


def _sample(rig: Rig, target: Target, kind: str, script: Path | None, seconds: float, pace: Pace) -> Sample:
    count = pace.transactions(target.name, kind, seconds)
    pid = target.pids.get(False)
    before = cpu_seconds(pid)
    run = rig.driver.run(target.logins[False], transactions=count, seconds=seconds, script=script)
    after = cpu_seconds(pid)
    pace.learn(target.name, kind, run.tps)
    cpu = None if before is None or after is None else (after[0] - before[0]) * 1e6 / len(run.latencies)
    return Sample(run.percentile(50), cpu)


def _row(taken: dict[tuple[int, str], list[Sample | None]], size: int, kind: str) -> Iterator[Row]:
    def added(of: int) -> list[float | None]:
        both = zip(taken[of, kind], taken[0, kind], strict=True)
        return [None if ours is None or theirs is None else float(ours.p50_us - theirs.p50_us) for ours, theirs in both]

    good = [sample for sample in taken[size, kind] if sample is not None]
    if not good:
        return
    ratios = [a / b for a, b in zip(added(size), added(SIZES[0]), strict=True) if a is not None and b]
    yield {
        "measure": "rules",
        "target": "gateway",
        "rules": size,
        "statements": kind,
        "tls": False,
        "p50_us": middle((float(sample.p50_us) for sample in good), 0),
        "added_p50_us": middle((one for one in added(size) if one is not None), 0),
        "cpu_us": middle((sample.cpu_us for sample in good if sample.cpu_us is not None), 1),
        "cost_ratio_to_10_rules": middle(ratios, 3),
        "rounds": len(good),
    }
