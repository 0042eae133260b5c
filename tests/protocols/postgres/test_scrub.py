"""Errors and notices of statements that read masked columns quote no value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.postgres.results import scrub

SECRET = "123-45-6789"


def message(text: str, sqlstate: str = "22P02", **more: str) -> str:
    return scrub({"S": "ERROR", "V": "ERROR", "C": sqlstate, "M": text, **more}, True)["M"]


def test_untouched_statements_keep_everything() -> None:
    original = {"S": "ERROR", "C": "22P02", "M": f'invalid input syntax for type integer: "{SECRET}"', "D": SECRET}
    assert scrub(original, False) == original


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f'invalid input syntax for type integer: "{SECRET}"',
            'invalid input syntax for type integer: "[masked]"',
        ),
        (
            f'invalid input syntax for type integer: "a" is "{SECRET}"',
            'invalid input syntax for type integer: "[masked]"',
        ),
        (f'value "{SECRET}" is out of range for type integer', 'value "[masked]" is out of range for type integer'),
        (f'invalid input value for enum mood: "{SECRET}"', "invalid input value for enum [masked]"),
        (f'malformed array literal: "{SECRET}"', 'malformed array literal: "[masked]"'),
        (f'date/time field value out of range: "{SECRET}"', 'date/time field value out of range: "[masked]"'),
        (f'time zone "{SECRET}" not recognized', 'time zone "[masked]" not recognized'),
        (f'invalid value "{SECRET}" for "YYYY"', "invalid value [masked]"),
        (
            f"requested character too large for encoding: {SECRET}",
            "requested character too large for encoding: [masked]",
        ),
        ("division by zero", "division by zero"),
        ("integer out of range", "integer out of range"),
        ("value too long for type character varying(3)", "value too long for type character varying(3)"),
        ("canceling statement due to user request", "canceling statement due to user request"),
        (
            "current transaction is aborted, commands ignored until end of transaction block",
            "current transaction is aborted, commands ignored until end of transaction block",
        ),
        ("cannot execute DELETE in a read-only transaction", "cannot execute DELETE in a read-only transaction"),
    ],
)
def test_known_wordings_keep_their_words(text: str, expected: str) -> None:
    assert message(text) == expected


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        (SECRET, "P0001"),
        (f"x {SECRET}", "00000"),
        (f'relation "{SECRET}" does not exist', "42P01"),
        (f'unrecognized configuration parameter "{SECRET}"', "42704"),
        (f'could not open file "{SECRET}" for reading', "58P01"),
        (f"syntaxe en entrée invalide pour le type integer : « {SECRET} »", "22P02"),
        (f'invalid input syntax for type {SECRET}: "x"', "22P02"),
        (f'duplicate key value violates unique constraint "{SECRET}"', "23505"),
        (f"division by zero {SECRET}", "22012"),
        (f"division by zero\n{SECRET}", "22012"),
    ],
)
def test_any_other_wording_becomes_its_class(text: str, sqlstate: str) -> None:
    shown = message(text, sqlstate)
    assert SECRET not in shown
    assert "withheld" in shown


def test_constraint_names_stay_where_the_server_gives_them() -> None:
    text = 'duplicate key value violates unique constraint "users_email_key"'
    error = {
        "S": "ERROR",
        "C": "23505",
        "M": text,
        "D": "Key (email)=(a@b.c) already exists.",
        "s": "public",
        "t": "users",
        "n": "users_email_key",
    }
    assert scrub(error, True) == {
        "S": "ERROR",
        "C": "23505",
        "M": text,
        "s": "public",
        "t": "users",
        "n": "users_email_key",
    }


def test_names_that_a_function_made_up_go() -> None:
    error = {
        "S": "ERROR",
        "C": "23505",
        "M": f'duplicate key value violates unique constraint "{SECRET}"',
        "n": SECRET,
        "W": "PL/pgSQL ...",
    }
    assert SECRET not in str(scrub(error, True))


def test_failing_rows_and_contexts_go() -> None:
    error = {
        "S": "ERROR",
        "V": "ERROR",
        "C": "23514",
        "M": 'new row for relation "users" violates check constraint "adult"',
        "D": f"Failing row contains (1, {SECRET}).",
        "H": SECRET,
        "W": SECRET,
        "q": SECRET,
        "p": "3",
        "P": "7",
        "F": "execMain.c",
        "L": "2000",
        "R": "ExecConstraints",
        "s": "public",
        "t": "users",
        "n": "adult",
    }
    shown = scrub(error, True)
    assert SECRET not in str(shown)
    assert list(shown) == ["S", "V", "C", "M", "P", "F", "L", "R"]
    assert shown["C"] == "23514"


def test_errors_about_the_clients_own_text_stay() -> None:
    error = {"S": "ERROR", "C": "42703", "M": 'column "emial" does not exist', "H": 'Perhaps "email".', "P": "8"}
    assert scrub(error, True) == error
    for inside in ("q", "W", "p", "D"):
        hidden = dict(S="ERROR", C="42703", M=f'column "{SECRET}" does not exist', P="8", **{inside: "1"})
        assert SECRET not in str(scrub(hidden, True))


def test_notices_of_functions() -> None:
    notice = {
        "S": "NOTICE",
        "V": "NOTICE",
        "C": "00000",
        "M": f"x {SECRET}",
        "W": "PL/pgSQL function f() line 1 at RAISE",
    }
    assert SECRET not in str(scrub(notice, True))


@given(
    st.text(alphabet="ab \"':=().\n%", max_size=20),
    st.text(alphabet="ab \"':=().\n%", max_size=20),
    st.sampled_from(["22P02", "23505", "42P01", "P0001", "00000", "XX000", ""]),
    st.sampled_from("MDHWqpstcdn"),
)
def test_a_secret_in_any_field_of_a_function_error_never_shows(
    before: str, after: str, sqlstate: str, place: str
) -> None:
    items = {"S": "ERROR", "C": sqlstate, "M": "division by zero", "W": "PL/pgSQL function f()"}
    items[place] = f"{before}{SECRET}{after}"
    assert SECRET not in str(scrub(items, True))
