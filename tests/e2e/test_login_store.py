"""A state store that hangs while somebody logs in: they are told so in their own protocol, and it is on record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import mysql, postgres
from scripts.support.lab import AnyInstallation, Lab
from tests.e2e.test_store_locked import locked
from tests.support.journal import await_records, records

pytestmark = pytest.mark.e2e


def connect(lab: Lab) -> Any:
    if lab.server.installation.protocol == "postgres":
        return psycopg.connect(lab.dsn("agent"), autocommit=True, connect_timeout=20)
    return pymysql.connect(
        host=lab.gateway.host,
        port=lab.gateway.port,
        user="me",
        password=lab.tokens["agent"],
        database="shop",
        ssl_ca=str(lab.authority.file),
        connect_timeout=20,
    )


def asks(lab: Lab) -> bool:
    with connect(lab) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
        return bool(cursor.fetchone()[0])


@contextmanager
def lab_of(installation: AnyInstallation, timeout: float) -> Iterator[Lab]:
    def hasty(document: dict[str, Any]) -> None:
        document.setdefault("limits", {})["auth_timeout"] = timeout

    with Lab(installation=installation, adjust=hasty) as lab:
        yield lab


def refused(lab: Lab) -> tuple[object, str]:
    """(the protocol's code, text) of a login that fails: at once, not with the first statement."""
    with pytest.raises((psycopg.Error, pymysql.err.MySQLError)) as caught:
        connect(lab)
    error = caught.value
    if isinstance(error, psycopg.Error):
        return error.sqlstate, str(error)
    code, text = error.args
    return code, text


@pytest.fixture(params=["postgres", "mysql"])
def any_installation(request: pytest.FixtureRequest) -> AnyInstallation:
    if request.param == "postgres":
        return postgres.embedded()
    found = next(mysql.available(), None)
    if found is None:
        pytest.skip("no MySQL or MariaDB server here")
    return found


@pytest.mark.parametrize(
    ("timeout", "words", "why"),
    [
        (1.0, "the login took too long", "the handshake took too long"),  # shorter than the store's own patience
        (20.0, "the gateway cannot record; nothing passes until it can", "the gateway cannot record"),
    ],
)
def test_who_logs_in_is_told_and_it_is_on_record(
    any_installation: AnyInstallation, timeout: float, words: str, why: str
) -> None:
    with lab_of(any_installation, timeout) as lab:
        assert asks(lab)
        with connect(lab) as before, before.cursor() as cursor:
            with locked(lab):
                code, text = refused(lab)
                cursor.execute("SELECT 1")  # who is in notices nothing
                assert cursor.fetchone() == (1,)
            assert words in text
            if any_installation.protocol == "mysql":
                assert code == (1317 if timeout == 1.0 else 1026)
            else:
                assert "sequence" not in text
        (failed,) = await_records(lab.gateway.state_dir, lambda r: r.get("t") == "session.failed")
        assert (failed["subject"], failed["resource"]) == ("agent", "shop")
        assert why in failed["why"]
        assert asks(lab)
        log = records(lab.gateway.state_dir)
        assert sum(r["t"] == "session.start" for r in log) == 3, "the refused one never began"
