"""pg_dump by somebody who only reads: it empties its search_path, and that needs nobody's leave."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scripts.support.gateway import ROOT
from scripts.support.lab import Lab
from scripts.support.postgres import Installation

pytestmark = pytest.mark.e2e

GRANTS = """
  - id: dump
    description: it lifts timeouts, locks what it reads and reads the system's own catalogs
    allow: [session.guard, admin.lock, secret.read]
"""


@pytest.fixture(scope="module")
def lab(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    policy: Path = tmp_path_factory.mktemp("policy") / "dump.yaml"
    policy.write_text((ROOT / "policies" / "read-only.yaml").read_text() + GRANTS)
    with Lab([policy], installation=installation, tls="optional") as made:
        with made.server.connect() as direct:
            direct.execute("CREATE TABLE public.filled (a int)")
        yield made


@pytest.mark.parametrize("options", [["--schema-only"], ["-t", "orders"], ["--exclude-table=customers"], []])
def test_pg_dump(lab: Lab, installation: Installation, options: list[str]) -> None:
    done = subprocess.run(
        [installation.program("pg_dump"), *options, lab.dsn("analyst", sslmode="disable")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE public.orders" in done.stdout
    assert ("COPY public.orders" in done.stdout) is ("--schema-only" not in options)


def test_what_an_empty_path_does_not_open(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        assert connection.execute("SHOW search_path").fetchone() == ('""',)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SET search_path = public")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO public.filled VALUES (1)")
        connection.execute("RESET search_path")
        assert connection.execute("SELECT count(*) FROM filled").fetchone() == (0,)
