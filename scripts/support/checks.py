"""`./scripts/test`: lint, types, import rules, documentation, then pytest."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_STAGE_SECONDS = 600.0
_APT_SECONDS = 300.0
_APT_PACKAGES = ("postgresql", "pgbouncer", "haproxy")

EPILOG = """
examples:
  ./scripts/test                      everything; what CI runs
  ./scripts/test --fast               without the slow ones, on the embedded PostgreSQL only
  ./scripts/test tests/guard -x       the checks, then only these tests
  ./scripts/test --stage mypy         one check alone (`--stage pytest`: only the tests)
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One check: a command that says nothing of interest unless it fails."""

    name: str
    argv: tuple[str | Path, ...]


STAGES = (
    Stage("ruff check", (_BIN / "ruff", "check")),
    Stage("ruff format", (_BIN / "ruff", "format", "--check")),
    Stage("mypy", (_BIN / "mypy",)),
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


def install_servers() -> None:
    """In CI on Debian as root: fetch the servers that some tests need. Without them those tests say why they skip."""
    missing = [name for name in _APT_PACKAGES if not _installed(name)]
    if os.environ.get("CI") != "true" or os.geteuid() != 0 or not shutil.which("apt-get") or not missing:
        return
    started = time.monotonic()
    # the packages' own services would only take ports and memory
    cluster = Path("/etc/postgresql-common/createcluster.conf")
    if not cluster.exists():
        cluster.parent.mkdir(parents=True, exist_ok=True)
        cluster.write_text("create_main_cluster = false\n")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    failed = ""
    for argv in (
        ["apt-get", "update", "-qq"],
        [
            "apt-get",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "-o",
            "Dpkg::Options::=--force-confold",
            *missing,
        ],
    ):
        try:
            done = subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_APT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failed = str(error)
            break
        if done.returncode != 0:
            failed = (done.stderr.strip().splitlines() or ["no message"])[-1]
    outcome = f"without {', '.join(missing)}: {failed}" if failed else "ok"
    print(f"{'apt-get':<16}{outcome}  {time.monotonic() - started:6.1f} s", flush=True)


def _installed(package: str) -> bool:
    if package == "postgresql":
        return any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return shutil.which(package, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") is not None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="test",
        description="Run every check, then the tests. Other arguments go to pytest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fast", action="store_true", help="without the tests marked `slow`, on the embedded PostgreSQL only"
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
        install_servers()
    failed = [stage.name for stage in STAGES if stage.name in wanted and not run_stage(stage)]
    if "pytest" not in wanted:
        return 1 if failed else 0
    if failed:  # said before pytest, whose own last line stays the last
        print(f"FAILED before the tests: {', '.join(failed)}; the exit status will say so", flush=True)
    selection = ["-m", "not slow"] if options.fast else []
    env = {**os.environ, "SLUICEGATE_TEST_POSTGRES": "embedded"} if options.fast else None
    command = [sys.executable, "-m", "pytest", *selection, *rest]
    tests = subprocess.run(command, cwd=ROOT, env=env)
    if tests.returncode == 1 and os.environ.get("CI") == "true":
        # real servers on a busy machine miss a deadline now and then; what is broken fails twice
        print(
            "FAILED above; once more, the failed ones alone: what passes now depends on load, or on what ran before it",
            flush=True,
        )
        tests = subprocess.run([*command, "--last-failed", "--last-failed-no-failures=none"], cwd=ROOT, env=env)
    return tests.returncode or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
