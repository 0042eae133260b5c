"""`./scripts/bench postgres` and `./scripts/bench mysql`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import psycopg
from rich.console import Console

from scripts.benchmarks import bulk, connections, http, machine, report, rules, throughput
from scripts.benchmarks.load import BenchError, Budget, Pace
from scripts.benchmarks.mysql_rig import MySQLRig
from scripts.benchmarks.rig import IDENTITIES, TARGETS, PostgresRig, Rig
from scripts.support import lab, postgres
from scripts.support.lab import AnyInstallation
from scripts.support.process import StartError
from scripts.support.servers import Installed

MEASURES = ("main", "bulk", "masked", "idle", "connects", "rules")
RIGS: Mapping[str, type[Rig]] = {"postgres": PostgresRig, "mysql": MySQLRig}
_QUICK_MAIN = 28.0  # seconds after the start by which the main cells are done
_QUICK_ALL = 41.0  # ... and the rest
_QUICK_END = 43.0  # ... and after which a run that hangs is given up; stopping the servers takes a few more
_QUICK_NEEDS = {"bulk": 2.0, "masked": 3.0, "idle": 4.0, "connects": 2.0, "rules": 12.0}

EPILOG = """
examples:
  ./scripts/bench postgres                          everything, a quarter of an hour; the tables go to standard output
  ./scripts/bench postgres --quick --json           every main cell and what else fits, in less than 50 s
  ./scripts/bench postgres --only main --targets direct,gateway --rounds 3 --seconds 1
  ./scripts/bench mysql --server mysql              MySQL, where MariaDB is installed as well
  ./scripts/bench http --quick --json               an HTTP server instead of a database; --help has its own options

targets: direct (no proxy), haproxy (TCP mode), pgbouncer (session pooling; PostgreSQL), mitmdump (reverse:tcp, no
addon), gateway (`sluicegate serve`, enforcement, masks and recording on). what is not installed is left out.
docs/benchmarks.md says how each figure is taken. exit status: 0, or 1 when a cell could not be measured.
"""

type Row = dict[str, Any]


class TimeIsUp(BaseException):
    """The end of a quick run: not an Exception, so that nothing on the way takes it for a failed cell."""


class Bench:
    """One run: what was asked for, what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.started = time.monotonic()
        self.rows: list[Row] = []
        self.errors = Console(stderr=True, highlight=False)
        self.pace = Pace()
        self.rounds: int = options.rounds or (1 if self.quick else 5)
        self.seconds: float = options.seconds or (0.5 if self.quick else 2.0)

    def run(self, rig: Rig) -> None:
        """Measure everything that was asked for."""
        for name, why in rig.missing.items():
            self.add({"measure": "skipped", "target": name, "why": why})
        if not rig.tls:
            why = "this PostgreSQL is built without TLS; name another with --server"
            self.add({"measure": "skipped", "target": "all", "tls": True, "why": why})
        self.add(facts(rig, self.rounds, self.seconds))
        throughput.warm(rig, self.pace, self.failed)
        for measure in self.options.only or MEASURES:
            need = _QUICK_NEEDS.get(measure, 0.0) if self.quick and not self.options.only else 0.0
            if self._budget(_QUICK_ALL).left() < need:
                self.add({"measure": "skipped", "what": measure, "why": "no time left in a quick run"})
            else:
                self.say(f"{measure} ...")
                self._one(rig, measure)

    def _one(self, rig: Rig, measure: str) -> None:
        if measure == "main":
            samples: throughput.Samples = {}
            budget = self._budget(_QUICK_ALL if self.options.only else _QUICK_MAIN)
            try:
                throughput.measure(rig, self.rounds, budget, self.pace, self.failed, self.say, samples)
            finally:
                for row in throughput.rows(samples):
                    self.add(row)
            return
        for row in self._rows(rig, measure):
            self.add(row)

    def _rows(self, rig: Rig, measure: str) -> Iterable[Row]:
        budget, pace, rounds = self._budget(_QUICK_ALL), self.pace, self.rounds
        if measure == "bulk":
            return bulk.measure(rig, rounds, budget, pace, self.failed, quick=self.quick)
        if measure == "masked":
            return bulk.measure_masked(rig, rounds, budget, pace, self.failed)
        if measure == "connects":
            return connections.measure_connects(rig, rounds, budget, pace, self.failed, quick=self.quick)
        if measure == "idle":
            seconds = 1.0 if self.quick else 5.0
            return connections.measure_idle(rig, self.options.idle, seconds, self.failed, quick=self.quick)
        return rules.measure(rig, rounds, budget, pace, self.failed)

    def _budget(self, until: float) -> Budget:
        left = until - (time.monotonic() - self.started)
        return Budget(self.seconds, left if self.quick else None)

    def add(self, row: Row) -> None:
        """Keep it; with --json it is printed at once."""
        self.rows.append(row)
        if self.options.json:
            print(json.dumps(row), flush=True)
        if row.get("measure") in ("failed", "skipped"):
            where = " ".join(str(row[key]) for key in ("target", "what") if key in row)
            self.say(f"{row['measure']}: {where}{' with TLS' if row.get('tls') else ''}: {row['why']}")

    def failed(self, target: str, what: str, error: BenchError) -> None:
        """A cell that could not be measured: said, and the run goes on."""
        self.add({"measure": "failed", "target": target, "what": what, "why": str(error)})

    def say(self, text: str) -> None:
        self.errors.print(f"bench {time.monotonic() - self.started:6.1f} s  {text}", markup=False)


def facts(rig: Rig, rounds: int, seconds: float) -> Row:
    """What the figures were taken on."""
    return {
        "measure": "environment",
        "sluicegate": version("sluicegate"),
        "mitmproxy": version("mitmproxy"),
        "python": platform.python_version(),
        # an interpreter built without profile-guided optimisation is slower
        "python_optimised": "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")),
        "protocol": rig.server.installation.protocol,
        "server": describe(rig.server.installation),
        "identity": rig.identity,
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "wake_us": machine.wake_us(),
        "halt_poll_us": machine.halt_poll_us(),
        "tls": rig.tls,
        "targets": list(rig.targets),
        "rounds": rounds,
        "seconds": seconds,
    }


def describe(installation: Installed) -> str:
    """The server's name and version."""
    return f"{installation.name} {installation.version}"


def choose(where: str | None, protocol: str = "postgres") -> AnyInstallation:
    """The named installation. Of none: the newest PostgreSQL with pgbench that speaks TLS, else the embedded one; or
    MariaDB, else MySQL. Raises StartError."""
    if protocol != "postgres":
        return lab.find(protocol, where)
    if where is not None:
        found = postgres.find(where)
        if not found.program("pgbench").is_file():
            raise StartError(f"`{found.bin}` has no pgbench; Debian's is in the package `postgresql`")
        return found
    usable = [one for one in postgres.available() if one.program("pgbench").is_file()]
    return max(usable, key=lambda one: (one.tls, one.major))


def _targets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in TARGETS]:
        raise argparse.ArgumentTypeError(f"unknown target `{unknown[0]}`; there are {', '.join(TARGETS)}")
    return names


def _above[N: (int, float)](kind: Callable[[str], N], least: N, most: N) -> Callable[[str], N]:
    def parse(text: str) -> N:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least} to {most}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in the error for what is no number at all
    return parse


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure what the gateway costs, beside other ways to the same database.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "protocol", choices=tuple(RIGS), help="which kind of database; `http` has options of its own: bench http --help"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per figure on standard output")
    parser.add_argument("--quick", action="store_true", help="end within 50 s, with few and short runs")
    parser.add_argument("--only", action="append", choices=MEASURES, help="only this measure; may be repeated")
    parser.add_argument("--targets", type=_targets, metavar="A,B", help=f"of {','.join(TARGETS)}")
    parser.add_argument(
        "--server",
        "--postgres",
        dest="server",
        metavar="PATH",
        help="an installation's folder; or `embedded` (PostgreSQL), `mariadb`, `mysql`",
    )
    parser.add_argument(
        "--identity",
        choices=IDENTITIES,
        default="analyst",
        help="the gateway's client: analyst (default) has masks in force, admin has none",
    )
    parser.add_argument("--rounds", type=_above(int, 1, 100), help="turns of each cell (default 5, quick: 1)")
    parser.add_argument("--seconds", type=_above(float, 0.02, 600.0), help="of one run (default 2, quick: 0.5 at most)")
    parser.add_argument(
        "--idle", type=_above(int, 1, 10_000), metavar="N", help="idle connections (default 1000, quick: 100)"
    )
    options = parser.parse_args(argv)
    known = RIGS[options.protocol].all_targets
    if unknown := [name for name in options.targets or () if name not in known]:
        parser.error(f"{options.protocol} is not measured through {unknown[0]}; there are {', '.join(known)}")
    options.targets = options.targets or known
    options.idle = options.idle or (100 if options.quick else 1000)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["http"]:  # no database in it
        return http.main(words[1:])
    options = arguments(argv)
    bench = Bench(options)
    # as exceptions both unwind through the rig, which stops what it has started
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    if options.quick:
        signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, _QUICK_END)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    status = 0
    try:
        installation, connections = choose(options.server, options.protocol), options.idle + 30
        kind = RIGS[options.protocol]
        with kind(installation, options.targets, identity=options.identity, connections=connections) as rig:
            bench.say(f"servers are up: {', '.join(rig.targets)}")
            bench.run(rig)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (StartError, BenchError, psycopg.Error, OSError) as error:
        bench.say(f"stopped: {error}")
        status = 1
    except TimeIsUp:
        bench.add({"measure": "failed", "target": "all", "what": "the rest", "why": "the time of a quick run is up"})
    except KeyboardInterrupt:
        return 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    report.show(bench.rows, stderr=options.json)
    return 1 if status or any(row.get("measure") == "failed" for row in bench.rows) else 0


def _give_up(_number: int, _frame: object) -> None:
    raise TimeIsUp


if __name__ == "__main__":
    sys.exit(main())
