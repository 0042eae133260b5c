"""Servers that many tests share: started once, when first asked for, and gone with the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.dont_write_bytecode:  # as in scripts/_bootstrap; before the first import of ours, and for the processes we start
    sys.dont_write_bytecode = False
    sys.pycache_prefix = sys.pycache_prefix or str(Path(__file__).parents[1] / ".cache" / "pyc")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.pop("COLUMNS", None)  # tests say how wide a terminal is; workers inherit what ours happens to be

import pytest
from hypothesis import settings

from scripts.support import mysql, postgres
from scripts.support.issuer import Issuer
from scripts.support.mysql import MySQLServer
from scripts.support.postgres import Installation, PostgresServer
from scripts.support.tls import Authority

# What the fast lane keeps of tests/e2e: tests/conformance asks every protocol through a live gateway already. The files
# that are not here ask one protocol more, at length, or start servers of their own.
FAST_E2E = frozenset({"test_denial.py", "test_psycopg.py"})
# ... and what it leaves out elsewhere: minutes of processes and memory, for what seldom breaks
SLOW_FILES = {
    "attacks": frozenset(
        {
            "test_adversary_added.py",
            "test_adversary_http_ways.py",
            "test_adversary_identity.py",
            "test_adversary_load.py",
            "test_aws.py",
            "test_identity_control.py",
        }
    ),
    "docs": frozenset({"test_blocks.py"}),
    "usability": frozenset({"test_sessions.py"}),
    "support": frozenset({"test_demo.py", "test_lab.py", "test_postgres.py", "test_mysql.py"}),  # what tests stand on
}
# ... and as many examples for a property: `tests/support/examples.py`
# no deadlines: a busy machine is no defect of what is tested
settings.register_profile("whole", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.load_profile("whole")


def _slow(path: Path) -> bool:
    """Whether all of a file is left out of the fast lane."""
    folder, name = path.parent.name, path.name
    return (folder == "e2e" and name.startswith("test_") and name not in FAST_E2E) or name in SLOW_FILES.get(folder, ())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose every test is left out is not even imported: each worker would do it."""
    return True if config.option.markexpr == "not slow" and _slow(collection_path) else None


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _slow(item.path):
            item.add_marker(pytest.mark.slow)
    # what takes a worker long comes first: begun last, the others would wait for it
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    items.sort(key=lambda item: (item.path.parent.name not in ("scripts", "support", "docs"), item.path in quick))


def _name(installation: Installation) -> str:
    kind = "embedded" if "embedded" in str(installation.bin) else "debian"
    return f"pg{installation.major}-{kind}"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of this run; its certificate is `authority.file`."""
    return Authority(tmp_path_factory.mktemp("tls"))


def _tested() -> list[Installation]:
    """Every PostgreSQL here, or those that SLUICEGATE_TEST_POSTGRES names.

    `embedded` (as `./scripts/test --fast` does), folders of installations, or several of them as in PATH.
    """
    named = [where for where in os.environ.get("SLUICEGATE_TEST_POSTGRES", "").split(os.pathsep) if where]
    return [postgres.find(where) for where in named] or list(postgres.available())


@pytest.fixture(scope="session", params=_tested(), ids=_name)
def installation(request: pytest.FixtureRequest) -> Installation:
    """Each PostgreSQL on this machine in turn: the embedded one always, Debian's where installed."""
    found: Installation = request.param
    return found


@pytest.fixture(scope="session")
def tls_installation() -> Installation:
    """A PostgreSQL that speaks TLS: the embedded one is built without."""
    for found in postgres.available():
        if found.tls:
            return found
    missing = "no PostgreSQL with TLS here: install Debian's `postgresql`"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def server(installation: Installation, authority: Authority) -> Iterator[PostgresServer]:
    """An empty database `shop` on each PostgreSQL in turn, with TLS where it has it. Tests clean up."""
    with PostgresServer(installation, authority=authority if installation.tls else None) as running:
        yield running


@pytest.fixture(scope="session", params=mysql.FLAVOURS)
def mysql_installation(request: pytest.FixtureRequest) -> mysql.Installation:
    """MariaDB and MySQL in turn, as far as they are here; in CI both must be. `--fast`: the first that is here."""
    flavour: str = request.param
    found = {one.flavour: one for one in mysql.available()}
    if os.environ.get("SLUICEGATE_TEST_MYSQL") == "first" and flavour != next(iter(found), flavour):
        pytest.skip("the fast lane has one of the two")
    if flavour in found:
        return found[flavour]
    if os.environ.get("CI") == "true":
        pytest.fail(f"no {flavour} server in CI: {mysql.how_to_get(flavour)}")
    pytest.skip(f"no {flavour} server here: {mysql.how_to_get(flavour)}")


@pytest.fixture(scope="session")
def mysql_server(mysql_installation: mysql.Installation, authority: Authority) -> Iterator[MySQLServer]:
    """An empty database `shop` on MariaDB and MySQL in turn, with TLS. Tests clean up."""
    with MySQLServer(mysql_installation, authority=authority) as running:
        yield running


@pytest.fixture(scope="session")
def issuer(authority: Authority) -> Iterator[Issuer]:
    """A local OIDC issuer. A test that rotates its keys or breaks it starts one of its own."""
    with Issuer(authority) as running:
        yield running


def pytest_make_parametrize_id(val: object) -> str | None:
    """A set has the same name in every process: workers must agree on the names of tests."""
    if isinstance(val, set | frozenset):
        return "{" + ",".join(sorted(map(str, val))) + "}"
    return None
