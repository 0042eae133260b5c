"""Startup parameters: what drivers send passes, what changes meaning or lifts guards does not (attack row 14)."""

from __future__ import annotations

import pytest

from protocols.postgres.startup import check


@pytest.mark.parametrize(
    ("params", "accepted"),
    [
        ({"user": "u", "database": "d"}, {"user": "u", "database": "d"}),
        (
            {"application_name": "psql", "client_encoding": "UTF8", "DateStyle": "ISO", "TimeZone": "UTC"},
            {"application_name": "psql", "client_encoding": "UTF8", "DateStyle": "ISO", "TimeZone": "UTC"},
        ),
        ({"extra_float_digits": "3"}, {"extra_float_digits": "3"}),
        ({"replication": "false"}, {}),
        ({"options": ""}, {}),
        ({"options": "-c TimeZone=UTC  -cjit=off --application-name=a\\ b"},
         {"timezone": "UTC", "jit": "off", "application_name": "a b"}),
        ({"options": "-c default_transaction_read_only=on"}, {"default_transaction_read_only": "on"}),
    ],
)  # fmt: skip
def test_what_drivers_send_is_accepted(params: dict[str, str], accepted: dict[str, str]) -> None:
    found = check(params)
    assert (found.accepted, found.refused) == (accepted, [])


@pytest.mark.parametrize(
    "params",
    [
        {"options": "-c role=admin"},
        {"options": "-crole=admin"},
        {"options": "--role=admin"},
        {"options": "-c RoLe=admin"},
        {"options": "-c search-path=evil"},
        {"options": "-c"},
        {"options": "-S 5"},
        {"options": "-c jit=off -c role=admin"},
        {"options": "-c jit=off\t-c\trole=admin"},
        {"options": "role=admin"},
        {"options": "-c jit"},
        {"role": "admin"},
        {"ROLE": "admin"},
        {"search_path": "evil"},
        {"session_authorization": "admin"},
        {"client_encoding": "GBK"},
        {"client_encoding": "auto"},
        {"standard_conforming_strings": "off"},
        {"session_preload_libraries": "x"},
        {"statement_timeout": "0"},
        {"default_transaction_read_only": "off"},
        {"replication": "database"},
        {"replication": "true"},
        {"_pq_.extension": "1"},
        {"no_such_setting": "1"},
        {"application_name": "x" * 2000},
        {"app.tenant": "7"},
    ],
)
def test_everything_else_is_refused_by_name(params: dict[str, str]) -> None:
    found = check(params)
    assert found.refused
    assert "role" not in found.accepted
