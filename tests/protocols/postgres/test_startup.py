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
    assert (found.accepted, found.refused, found.judged) == (accepted, [], {})


@pytest.mark.parametrize(
    "params",
    [
        {"options": "-c role=admin"},
        {"options": "-crole=admin"},
        {"options": "--role=admin"},
        {"options": "-c RoLe=admin"},
        {"options": "-c"},
        {"options": "-S 5"},
        {"options": "-c jit=off -c role=admin"},
        {"options": "-c jit=off\t-c\trole=admin"},
        {"options": "role=admin"},
        {"options": "-c jit"},
        {"role": "admin"},
        {"ROLE": "admin"},
        {"session_authorization": "admin"},
        {"client_encoding": "GBK"},
        {"client_encoding": "auto"},
        {"session_preload_libraries": "x"},
        {"replication": "database"},
        {"replication": "true"},
        {"_pq_.extension": "1"},
        {"no_such_setting": "1"},
        {"application_name": "x" * 2000},
        {"statement_timeout": "5" * 2000},
        {"search_path": "a\0b"},
        {"backslash_quote": "on"},
        {"ignore_system_indexes": "on"},
        {"session_replication_role": "replica"},
        {"_pq_.app.tenant": "7"},
        {"app..tenant": "7"},
        {".tenant": "7"},
        {"app.tenänt": "7"},
        {"is_superuser": "on"},
        {"options": "-c statement_timeout=5 -c role=admin"},
        {"jit": "on", "statement_timeout": "5", "STATEMENT_TIMEOUT": "6", "role": "x"},
        {f"app.s{n}": "1" for n in range(33)},
    ],
)
def test_everything_else_is_refused_by_name(params: dict[str, str]) -> None:
    found = check(params)
    assert found.refused
    assert "role" not in found.accepted
    assert not set(found.accepted) & {name.partition(" ")[2] for name in found.refused}


@pytest.mark.parametrize(
    ("params", "settings", "effects"),
    [
        ({"statement_timeout": "5000"}, {"statement_timeout": "5000"}, ["session.guard"]),
        ({"options": "-c lock_timeout=5s -c jit=off"}, {"lock_timeout": "5s", "jit": "off"}, ["session.guard"]),
        ({"options": "-c search-path=evil"}, {"search_path": "evil"}, ["session.name_resolution"]),
        ({"SEARCH_PATH": "a, b"}, {"search_path": "a, b"}, ["session.name_resolution"]),
        ({"standard_conforming_strings": "off"}, {"standard_conforming_strings": "off"}, ["session.parse_state"]),
        ({"default_transaction_read_only": "off"}, {"default_transaction_read_only": "off"}, ["session.guard"]),
        ({"row_security": "off"}, {"row_security": "off"}, ["session.guard"]),
        ({"app.tenant": "7", "lock_timeout": "1"}, {"app.tenant": "7", "lock_timeout": "1"},
         ["session.other", "session.guard"]),
    ],
)  # fmt: skip
def test_what_set_would_do_is_judged_as_set(
    params: dict[str, str], settings: dict[str, str], effects: list[str]
) -> None:
    found = check(params)
    assert found.refused == []
    assert found.settings == settings
    assert [effect.value for analysis, _ in found.asks() for effect in analysis.effects] == effects
    assert [text for _, text in found.asks()] == [
        f"SET {name} = '{value}'" for name, value in settings.items() if name in found.judged
    ]


def test_harmless_values_need_nobody_s_leave() -> None:
    found = check({"options": "-c standard_conforming_strings=on -c geqo=off -c row_security=on"})
    assert found.judged == {}
    assert found.settings == {"standard_conforming_strings": "on", "geqo": "off", "row_security": "on"}


def test_one_setting_given_in_two_ways_is_refused_where_only_one_of_them_was_judged() -> None:
    assert check({"standard_conforming_strings": "on", "options": "-c standard_conforming_strings=off"}).refused


def test_texts_are_quoted() -> None:
    ((_, text),) = check({"search_path": "a', b"}).asks()
    assert text == "SET search_path = 'a'', b'"
