"""What people write by mistake: told with its line before a gateway starts, not by a gateway that does not work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from guard.config.loader import check
from tests.guard.config.conftest import make_certificate

VALUE = "s3cr3t/Pa$$word"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("host: db.internal", 'host: "db.internal:5432"', "10:11: expected a host name or an address alone: a port"),
        ("host: db.internal", 'host: "postgres://db.internal"', "10:11: expected a host name or an address alone"),
        ("host: db.internal", "host: db.internal/shop", "10:11: expected a host name or an address alone"),
        ("host: db.internal", 'host: "[::1]"', "10:11: expected a host name or an address alone"),
        ("host: db.internal", "host: 10.1.2.300", "10:11: expected a host name or an address alone"),
        ("127.0.0.1:6432", "*:6432", "5:13: name the address to listen on"),
        ("127.0.0.1:6432", "127.0.1:6432", "5:13: expected a host name or an address alone"),
        (
            "https://idp.example",
            "https://idp.example/.well-known/openid-configuration",
            "15:14: name the issuer itself",
        ),
        ("https://idp.example", "https://idp.example?tenant=1", "15:14: an issuer's URL has no query"),
        ("name: SHOP_DB_PASSWORD", "name: $SHOP_DB_PASSWORD", "13:50: expected the name of an environment variable"),
        ("name: SHOP_DB_PASSWORD", f"name: {VALUE}", "13:50: expected the name of an environment variable"),
        ("issuers:", "state_dir: ~/gateway\nissuers:", "14:12: `~` means nothing here"),
        ("version: 1", "version: '1'", "1:10: expected 1 without quotes"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_without_its_value(write: Any, old: str, new: str, told: str) -> None:
    path = write(old, new)
    [problem] = check(path)
    assert not problem.warning
    assert str(problem).startswith(f"{path}:{told}")
    assert VALUE not in str(problem)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "issuers:",
            "roles: {responder: {subjects: ['*@x.example']}}\nissuers:",
            "14:32: warning: a role has no patterns",
        ),
        ("issuers:", "roles: {approver: {groups: [ops, '*']}}\nissuers:", "14:34: warning: a role has no patterns"),
        ("    labels:", "    tls: {mode: off}\n    labels:", "12:10: warning: `tls.mode: off`"),
        ("    labels:", "    tls: {mode: require}\n    labels:", "12:10: warning: `tls.mode: require`"),
    ],
)
def test_what_may_be_meant_is_a_warning(write: Any, old: str, new: str, told: str) -> None:
    path = write(old, new)
    [problem] = check(path)
    assert str(problem).startswith(f"{path}:{told}")


@pytest.mark.parametrize(("days", "told"), [(-9, "expired on"), (9, "is not valid before")])
def test_a_certificate_that_is_out_of_date_is_warned_of(write: Any, tmp_path: Path, days: int, told: str) -> None:
    certificate, key = make_certificate(tmp_path, datetime.now(UTC) + timedelta(days=days))
    path = write("    resource: shop\n", f"    resource: shop\n    tls: {{certificate: {certificate}, key: {key}}}\n")
    [problem] = check(path)
    assert problem.warning
    assert (problem.line, told in problem.message) == (7, True)


@pytest.mark.parametrize(
    "host", ["db", "db-1.internal.", "10.1.2.3", "fe80::1%eth0", "::1", "my_db", "datenbank.müller.example"]
)
def test_hosts_as_they_are_called(write: Any, host: str) -> None:
    assert check(write("host: db.internal", f'host: "{host}"')) == []
