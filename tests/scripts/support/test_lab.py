"""The lab as a program: what it says when it cannot start, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest

from scripts.support.lab import GROUPS
from scripts.support.mysql import Installation

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


def left(folder: Path) -> list[str]:
    """What a lab left behind; the caches of copied binaries and data may stay."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("sluicegate-")]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


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
        (["--server", "/nowhere"], "no PostgreSQL in `/nowhere`"),
        (["--protocol", "mysql", "--server", "/nowhere"], "no MySQL or MariaDB in `/nowhere`"),
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
    assert left(empty) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_policy_that_does_not_load_is_told_with_file_and_line(empty: Path) -> None:
    policy = empty.with_suffix(".yaml")
    policy.write_text("version: 1\nname: broken\ndescription: broken\nrules:\n  - id: one\n    alow: [data.select]\n")
    done = lab("--json", "--policy", str(policy), folder=empty)
    policy.unlink()
    assert done.returncode == 1
    assert f"{policy.name}:" in done.stderr
    assert "alow" in done.stderr
    assert done.stdout == ""
    assert left(empty) == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("ending", ["stdin", "SIGTERM", "SIGKILL"])
def test_it_runs_until_told_and_leaves_nothing(ending: str, empty: Path) -> None:
    lifeline = subprocess.PIPE if ending == "stdin" else subprocess.DEVNULL
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "scripts.support.lab", "--json", "--tls", "on"],
        env={**os.environ, "TMPDIR": str(empty)},
        stdin=lifeline,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    with running.stdout as out:
        told = json.loads(out.readline())
    for identity, dsn in told["dsns"].items():
        with psycopg.connect(dsn) as connection:
            assert connection.pgconn.ssl_in_use
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (720,), identity
    with psycopg.connect(told["gateway_dsn"], password=told["tokens"]["analyst"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(told["direct_dsn"]) as connection:
        assert connection.execute("SELECT count(*) FROM customers").fetchone() == (240,)
    status = subprocess.run(
        [Path(sys.executable).with_name("sluicegate"), "status", "--json"],
        env={**os.environ, **told["env"]},
        capture_output=True,
        text=True,
    )
    assert status.returncode == 0, status.stderr
    if running.stdin is not None:
        running.stdin.close()
    elif ending == "SIGTERM":
        running.terminate()
    else:
        running.kill()
    assert running.wait(30) == (-signal.SIGKILL if ending == "SIGKILL" else 0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (gone(told["pid"]) and gone(told["postgres"]["pid"])):
        time.sleep(0.05)
    assert gone(told["pid"])
    assert gone(told["postgres"]["pid"])
    if ending != "SIGKILL":  # nobody is left then who could remove the gateway's folder
        assert left(empty) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_lab_of_mysql_has_the_same_form(mysql_installation: Installation, empty: Path) -> None:
    argv = [sys.executable, "-P", "-m", "scripts.support.lab", "--json", "--protocol", "mysql"]
    running = subprocess.Popen(
        [*argv, "--server", mysql_installation.flavour],
        env={**os.environ, "TMPDIR": str(empty)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdin is not None
    try:
        with running.stdout as out:
            told = json.loads(out.readline())
        assert told["protocol"] == "mysql"
        assert told["mysql"]["version"] == mysql_installation.version
        for dsn in (told["direct_dsn"], *told["dsns"].values()):
            url = urlsplit(dsn)
            assert url.scheme == "mysql"
            connection = pymysql.connect(
                host=url.hostname,
                port=url.port,
                user=url.username,
                password=unquote(url.password or ""),
                database=url.path[1:],
                ssl={"ca": told["ca_file"], "check_hostname": True},
            )
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM orders")
                assert cursor.fetchone() == (720,)
    finally:
        running.stdin.close()
        assert running.wait(30) == 0
    assert left(empty) == []


def test_the_identities_are_those_of_the_policies() -> None:
    assert GROUPS == {
        "admin": ("platform", "oncall", "security"),
        "analyst": ("analysts",),
        "agent": ("agents",),
    }
