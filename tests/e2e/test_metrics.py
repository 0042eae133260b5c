"""Figures for Prometheus, read by its own parser from gateways that serve."""

from __future__ import annotations

import http.client
import json
import subprocess
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.support.lab import Lab
from scripts.support.postgres import Installation
from scripts.support.tls import Authority
from tests.support.http_lab import HttpLab
from tests.support.wait import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def ask_for_them(document: dict[str, Any], authority: Authority | None = None) -> None:
    document["metrics"] = {"listen": "127.0.0.1:0"}


def scrape(address: str) -> tuple[str, dict[tuple[str, tuple[str, ...]], float]]:
    """-> (the text, sample name and label values in the order of their labels' names -> value)."""
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return text, found


def test_what_prometheus_is_told_of_sessions_and_commands(installation: Installation) -> None:
    with Lab(installation=installation, tls="optional", adjust=ask_for_them) as lab:
        address = json.loads((lab.gateway.state_dir / "ready.json").read_bytes())["metrics"]
        _, before = scrape(address)
        [resource] = {labels for name, labels in before if name == "sluicegate_sessions"}
        assert resource == ("postgres", "shop")
        assert before["sluicegate_commands_total", resource] == 0  # there before anything has happened

        with psycopg.connect(lab.dsn("analyst"), autocommit=True) as connection:
            for _ in range(3):
                connection.execute("SELECT count(*) FROM customers")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DROP TABLE customers")
            _, during = scrape(address)
            assert during["sluicegate_sessions", resource] == 1
            assert during["sluicegate_connections", ()] == 1
            assert during["sluicegate_commands_total", resource] == 4
            assert during["sluicegate_commands_denied_total", resource] == 1
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lab.gateway.dsn("analyst", "no token"))

        until(lambda: scrape(address)[1]["sluicegate_sessions", resource] == 0)
        text, after = scrape(address)
        assert after["sluicegate_sessions_started_total", resource] == 1
        assert after["sluicegate_commands_total", resource] == 4  # what a session had is not forgotten with it
        assert after["sluicegate_commands_denied_total", resource] == 1
        assert [v for (name, labels), v in after.items() if name == "sluicegate_refused_total"] == [1]
        assert [v for (name, _), v in after.items() if name == "sluicegate_catalog_fresh"] == [1]
        assert after["sluicegate_journal_records_total", ()] > before["sluicegate_journal_records_total", ()]
        assert after["sluicegate_stopped", ()] == after["sluicegate_journal_failed", ()] == 0
        assert 0 <= after["sluicegate_event_loop_delay_seconds", ()] < 60
        assert after["process_resident_memory_bytes", ()] > 1e6
        [until_] = [v for (name, _), v in after.items() if name == "sluicegate_issuer_keys_usable_until_seconds"]
        assert until_ > after["sluicegate_start_time_seconds", ()]
        assert [word for word in ("analyst", "customers", *lab.tokens.values()) if word in text] == []


def test_http_sessions_count_too_and_no_client_reaches_the_port_through_the_proxy() -> None:
    with HttpLab(adjust=ask_for_them) as lab:
        address = json.loads((lab.state / "ready.json").read_bytes())["metrics"]
        token = lab.token("ci")
        site = f"http://127.0.0.1:{lab.plain.port}/"
        assert lab.curl(site, token=token).stdout.startswith(b"HTTP/1.1 200 ")
        assert lab.curl(f"{site}admin", token=token).stdout.startswith(b"HTTP/1.1 403 ")

        through: subprocess.CompletedProcess[bytes] = lab.curl(f"http://{address}/metrics", token=token)
        assert b"sluicegate_sessions" not in through.stdout

        until(lambda: scrape(address)[1]["sluicegate_sessions", ("http", "internet")] == 0)
        _, found = scrape(address)
        assert found["sluicegate_sessions_started_total", ("http", "internet")] >= 1
        assert found["sluicegate_commands_total", ("http", "internet")] == 3
        assert found["sluicegate_commands_denied_total", ("http", "internet")] == 1
