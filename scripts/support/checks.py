"""`./scripts/test`: lint, types, import rules, documentation, then pytest."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.support import machine

ROOT = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_STAGE_SECONDS = 600.0
_SECOND_LOOK = 10  # failed tests: more of them are no matter of load

EPILOG = """
examples:
  ./scripts/test                      everything; what CI runs
  ./scripts/test --fast               without the slow ones, on the embedded PostgreSQL and one of MariaDB and MySQL
  ./scripts/test tests/guard -x       the checks, then only these tests
  ./scripts/test --stage mypy         one check alone (`--stage pytest`: only the tests)
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One check: a command that says nothing of interest unless it fails."""

    name: str
    argv: tuple[str | Path, ...]
    long: bool = False  # it needs one core for so long that the tests begin beside it


STAGES = (
    Stage("ruff check", (_BIN / "ruff", "check")),
    Stage("ruff format", (_BIN / "ruff", "format", "--check")),
    Stage("mypy", (_BIN / "mypy",), long=True),
    Stage("import-linter", (_BIN / "lint-imports",)),
    Stage("docs", (ROOT / "scripts" / "docs", "--check")),
)


def run_stage(stage: Stage) -> bool:
    """Run one check and print its line; its output only when it fails."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            stage.argv,
            cwd=ROOT,
            env={**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_STAGE_SECONDS,
        )
        passed, output = done.returncode == 0, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        passed, output = False, str(error)
    print(f"{stage.name:<16}{'ok' if passed else 'FAILED':<8}{time.monotonic() - started:6.1f} s", flush=True)
    if not passed:
        print(output, flush=True)
    return passed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="test",
        description="Run every check, then the tests. Other arguments go to pytest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="without the tests marked `slow`, on the embedded PostgreSQL and one of MariaDB and MySQL, with a quarter "
        "of the examples for each property",
    )
    parser.add_argument(
        "--stage",
        action="append",
        choices=[*(stage.name for stage in STAGES), "pytest"],
        help="only this check; may be repeated",
    )
    options, rest = parser.parse_known_args(argv)
    wanted = options.stage or [*(stage.name for stage in STAGES), "pytest"]
    if "pytest" in wanted:
        machine.prepare(ROOT, install_missing=not options.fast)
    chosen = [stage for stage in STAGES if stage.name in wanted]
    with ThreadPoolExecutor() as pool:
        beside = {stage.name: pool.submit(run_stage, stage) for stage in chosen if stage.long}
        failed = [stage.name for stage in chosen if not stage.long and not run_stage(stage)]
        if failed and "pytest" in wanted:  # said before pytest, whose own last line stays the last
            print(f"FAILED before the tests: {', '.join(failed)}; the exit status will say so", flush=True)
        status = run_tests(options.fast, rest) if "pytest" in wanted else 0
        late = [name for name, passed in beside.items() if not passed.result()]
    if late and "pytest" in wanted:
        print(f"FAILED beside the tests, see above: {', '.join(late)}", flush=True)
    return status or (1 if failed or late else 0)


def _failed_tests() -> list[str]:
    """Of the run just ended, as pytest remembers them."""
    try:
        return sorted(json.loads((ROOT / ".pytest_cache/v/cache/lastfailed").read_bytes()))
    except FileNotFoundError:
        return []


def run_tests(fast: bool, rest: Sequence[str]) -> int:
    """pytest's exit status; `rest` are its own arguments."""
    selection = ["-m", "not slow", "--hypothesis-profile", "fast"] if fast else []
    env = dict(os.environ)
    if fast:
        env |= {"SLUICEGATE_TEST_POSTGRES": "embedded", "SLUICEGATE_TEST_MYSQL": "first"}
    command = [sys.executable, "-m", "pytest", *selection, *rest]
    # one file at a time to each worker: what its tests share is started once
    # in the order of `tests/conftest.py`, which knows what takes long
    workers = [] if rest else ["-n", str(min(4, (os.cpu_count() or 1) + 1)), "--dist", "loadfile"]
    workers += [] if rest else ["--no-loadscope-reorder"]
    tests = subprocess.run([*command, *workers], cwd=ROOT, env=env)
    again = _failed_tests() if tests.returncode == 1 and os.environ.get("CI") == "true" else []
    if 0 < len(again) <= _SECOND_LOOK:
        # real servers on a busy machine miss a deadline now and then; what is broken fails twice
        print(f"\nFAILED: {len(again)}. Once more, these alone; look at what passes now:", flush=True)
        print("\n".join(f"  {name}" for name in again), flush=True)
        tests = subprocess.run([*command, "--last-failed", "--last-failed-no-failures=none"], cwd=ROOT, env=env)
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
