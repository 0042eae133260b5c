"""The lab as a program: what it says when it cannot start, and that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.support.lab import GROUPS

ROOT = Path(__file__).resolve().parents[3]


def lab(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # all its folders in one place, so that we see what is left; not pytest's own, which the server's user cannot enter
    return subprocess.run(
        [sys.executable, "-P", "-m", "scripts.support.lab", *arguments],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def empty() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sgtest-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "/no/such/policy.yaml"], "no such file: `/no/such/policy.yaml`"),
        (["--postgres", "/nowhere"], "no PostgreSQL in `/nowhere`"),
        (["--setup", "SETUP"], 'relation "missing" does not exist'),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(arguments: list[str], message: str, empty: Path) -> None:
    setup = empty.with_suffix(".sql")
    setup.write_text("CREATE TABLE one ();\nSELECT * FROM missing;\n")
    done = lab("--json", *[str(setup) if word == "SETUP" else word for word in arguments], folder=empty)
    setup.unlink()
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("lab: ")
    assert done.stdout == ""
    left = [path.name for path in empty.iterdir() if not path.name.startswith("sluicegate-postgres-")]
    assert left == []


def test_the_identities_are_those_of_the_policies() -> None:
    assert GROUPS == {
        "admin": ("platform", "oncall", "security"),
        "analyst": ("analysts",),
        "agent": ("agents",),
    }
