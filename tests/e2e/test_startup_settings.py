"""Settings that a client sends with its login (`options=-c ...`, server_settings) are judged as SET is."""

from __future__ import annotations

import asyncio

import asyncpg
import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

OPTIONS = "-c statement_timeout=5000 -c search_path=pg_catalog -c app.tenant=7"


def test_whoever_may_set_them_gets_them(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("admin", options=OPTIONS), autocommit=True) as connection:
        shown = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("statement_timeout", "app.tenant")]
        assert shown == [("5s",), ("7",)]
        # the gateway resolves names as the server does
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT id FROM orders LIMIT 1")
        assert connection.execute("SELECT count(*) FROM public.orders").fetchone() is not None
    records = await_records(
        lab.gateway.state_dir,
        lambda r: r.get("t") == "session.start" and any("app.tenant" in v for v in r.get("attributes", {}).values()),
    )
    assert sorted(records[-1]["attributes"].values()) == [
        "SET app.tenant = '7'",
        "SET search_path = 'pg_catalog'",
        "SET statement_timeout = '5000'",
    ]


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ("-c statement_timeout=0", "session.guard"),
        ("-c search_path=evil", "session.name_resolution"),
        ("-c app.tenant=8", "session.other"),
    ],
)
def test_whoever_may_not_is_told_by_which_rule_and_nothing_runs(lab: Lab, options: str, effect: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="refused by rule `default`") as caught:
        psycopg.connect(lab.dsn("analyst", options=options))
    assert effect in str(caught.value)
    assert "remove it" in str(caught.value)
    failed = await_records(lab.gateway.state_dir, lambda r: r.get("t") == "session.failed" and effect in r["why"])
    assert failed[-1]["subject"] == "analyst"
    with psycopg.connect(lab.dsn("analyst", options="-c geqo=off -c standard_conforming_strings=on")) as connection:
        assert connection.execute("SHOW geqo").fetchone() == ("off",)


def test_asyncpg_s_server_settings(lab: Lab) -> None:
    async def run() -> None:
        settings = {"application_name": "job", "statement_timeout": "4000"}
        connection = await asyncpg.connect(lab.dsn("admin"), server_settings=settings)
        try:
            assert await connection.fetchval("SHOW statement_timeout") == "4s"
        finally:
            await connection.close()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"session\.guard"):
            await asyncpg.connect(lab.dsn("analyst"), server_settings=settings)

    asyncio.run(run())


def test_replication_is_refused_in_words_whoever_asks(lab: Lab) -> None:
    for mode in ("database", "true"):
        with pytest.raises(psycopg.OperationalError, match="replication connections are not allowed"):
            psycopg.connect(lab.dsn("admin", replication=mode))
