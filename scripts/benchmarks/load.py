"""What puts load on a target: pgbench and psql, each run counted, timed and limited."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TPS = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)
_TIME = re.compile(r"^Time: ([0-9.]+) ms", re.MULTILINE)
_GRACE = 20.0  # seconds that a run may take beyond ten times what was expected of it
_OVERHEAD = 0.15  # seconds to start and end one run
_FIRST_GUESS = 800.0  # transactions per second, before a target has been seen at work


class BenchError(RuntimeError):
    """A run failed; the text says which program, and quotes it."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where a client of libpq connects, and as whom. With `ca` it speaks TLS and verifies, without it does neither."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ca: Path | None = None

    def environment(self) -> dict[str, str]:
        """For libpq. The password is in no argument list, and no file of the user's is read."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": "verify-full" if self.ca else "disable",
            "PGSSLROOTCERT": str(self.ca or ""),
            "PGCONNECT_TIMEOUT": "10",
            "PGPASSFILE": os.devnull,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pgbench. `latencies` are microseconds, one per transaction, sorted."""

    tps: float
    latencies: Sequence[int]

    def percentile(self, percent: float) -> int:
        """Nearest rank."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


class Pace:
    """How many transactions fill a given time: learnt from each target's own runs.

    A fixed number of transactions instead of a fixed time, because pgbench counts time in whole seconds.
    """

    def __init__(self) -> None:
        self._rates: dict[tuple[str, object], float] = {}
        self._kinds: dict[object, float] = {}

    def transactions(self, target: str, kind: object, seconds: float, clients: int = 1, least: int = 10) -> int:
        """Per client. `kind` is what a transaction does; of one never seen the target's last rate is taken."""
        rate = self._rates.get((target, kind)) or self._rates.get((target, None)) or _FIRST_GUESS
        return max(least, round(rate * seconds / clients))

    def learn(self, target: str, kind: object, tps: float, *, typical: bool = True) -> None:
        """`typical`: a good guess for other kinds, too."""
        self._rates[target, kind] = tps
        if typical:
            self._rates[target, None] = tps


class Pgbench:
    """Runs one pgbench at a time; its logs go to `folder`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._numbers = itertools.count()

    def initialise(self, login: Login, scale: int = 1) -> None:
        """Make and fill the standard tables."""
        self._call(["-i", "-q", "-s", str(scale)], login, 120.0)

    def run(
        self,
        login: Login,
        *,
        transactions: int,
        seconds: float,
        clients: int = 1,
        mode: str = "simple",
        script: Path | None = None,
        reconnect: bool = False,
    ) -> Run:
        """`transactions` per client, expected to take `seconds`; without `script` the built-in select-only one.

        `reconnect`: a new connection for each. Raises BenchError.
        """
        prefix = self._folder / f"log{next(self._numbers)}"
        what = ["-S"] if script is None else ["-f", str(script)]
        argv = [*what, "-n", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2)), "-t", str(transactions)]
        argv += ["-l", "--log-prefix", str(prefix), *(["-C"] if reconnect else [])]
        try:
            output = self._call(argv, login, 10 * seconds + _GRACE)
            return parse(output, read_logs(self._folder.glob(f"{prefix.name}.*")))
        finally:
            for log in self._folder.glob(f"{prefix.name}.*"):
                log.unlink()

    def _call(self, argv: Sequence[str], login: Login, limit: float) -> str:
        return call([self._program, *argv], login, limit)


def call(argv: Sequence[str | Path], login: Login, limit: float, script: str = "") -> str:
    """Run a client with `script` as its input; its output. Raises BenchError also after `limit` seconds."""
    name = Path(argv[0]).name
    try:
        done = subprocess.run(
            argv, env=login.environment(), input=script, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} was not done after {limit:.0f} s") from None
    except OSError as error:
        raise BenchError(f"cannot run {name}: {error.strerror}") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise BenchError(f"{name} failed ({done.returncode}): {' | '.join(said[-3:])}")
    return done.stdout


def parse(output: str, latencies: Sequence[int]) -> Run:
    """From pgbench's report and its transactions' latencies. Raises BenchError where either says nothing."""
    found = _TPS.search(output)
    if found is None or not latencies:
        raise BenchError("pgbench reported no transactions")
    return Run(float(found[1]), sorted(latencies))


def read_logs(logs: Iterable[Path]) -> list[int]:
    """The third column of pgbench's per-transaction log lines: microseconds."""
    return [int(line.split(maxsplit=3)[2]) for log in logs for line in log.read_text().splitlines()]


def copy_out(psql: Path, login: Login, query: str, times: int, limit: float) -> list[float]:
    """Seconds for each of `times` runs of `COPY (query) TO STDOUT`, as psql measures them; the data is thrown away."""
    script = "\\timing on\n" + f"\\copy ({query}) TO '{os.devnull}'\n" * times
    output = call([psql, "-X", "-q", "-v", "ON_ERROR_STOP=1"], login, limit, script)
    found = [float(milliseconds) / 1000 for milliseconds in _TIME.findall(output)]
    if len(found) != times:
        raise BenchError(f"psql timed {len(found)} of {times} copies")
    return found


class Budget:
    """How long each run may be. With `total` (seconds from now) runs get shorter so that the rest still fits."""

    def __init__(self, seconds: float, total: float | None = None) -> None:
        self.seconds = seconds
        self._end = None if total is None else time.monotonic() + total

    def left(self) -> float:
        """Seconds until the end; infinite where there is none."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    def each(self, runs: int) -> float:
        """Seconds for the next of `runs` runs: never so few that nothing can be measured."""
        return max(0.02, min(self.seconds, self.left() / max(runs, 1) - _OVERHEAD))
