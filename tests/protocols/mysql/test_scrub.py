"""What errors may say of a statement that reads masked columns."""

from __future__ import annotations

import pytest

from protocols.mysql.scrub import MASKED, scrub

SECRET = "123-45-6789"

QUOTING = [
    (1062, "23000", f"Duplicate entry '{SECRET}' for key 'u.ssn'", f"Duplicate entry '{MASKED}' for key 'u.ssn'"),
    (1062, "23000", f"Duplicate entry '{SECRET}' for key 'PRIMARY'", f"Duplicate entry '{MASKED}' for key 'PRIMARY'"),
    (1105, "HY000", f"XPATH syntax error: '\\{SECRET}'", f"XPATH syntax error: '{MASKED}'"),
    (1292, "22007", f"Truncated incorrect DOUBLE value: '{SECRET}'", f"Truncated incorrect DOUBLE value: '{MASKED}'"),
    (
        1366, "22007", f"Incorrect integer value: '{SECRET}' for column `app`.`t`.`n` at row 1",
        f"Incorrect integer value: '{MASKED}' for column `app`.`t`.`n` at row 1",
    ),
    (
        1366, "HY000", f"Incorrect integer value: '{SECRET}' for column 'n' at row 1",
        f"Incorrect integer value: '{MASKED}' for column 'n' at row 1",
    ),
    (1525, "HY000", f"Incorrect DATE value: '{SECRET}'", f"Incorrect DATE value: '{MASKED}'"),
    (
        1690, "22003", f"BIGINT UNSIGNED value is out of range in '(18446744073709551615 + {SECRET})'",
        f"BIGINT UNSIGNED value is out of range in '{MASKED}'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("errno", "state", "message", "shown"), QUOTING)
def test_a_value_is_replaced_and_the_wording_stays(errno: int, state: str, message: str, shown: str) -> None:
    assert scrub(errno, state, message, opens=False) == shown


@pytest.mark.parametrize(("errno", "state", "message", "shown"), QUOTING)
def test_code_may_put_any_text_under_any_number(errno: int, state: str, message: str, shown: str) -> None:
    assert SECRET not in scrub(errno, state, message, opens=True)


@pytest.mark.parametrize(
    ("errno", "state", "message"),
    [
        (1644, "45000", SECRET),  # SIGNAL
        (
            3141,
            "22032",
            f'Invalid JSON text in argument 1 to function json_extract: "Invalid value." at position 0 {SECRET}',
        ),
        (1062, "23000", f"Doublon dans un champ index unique '{SECRET}'"),  # lc_messages
        (1062, "23000", f"Duplicate entry 'x' for key '{SECRET} x'"),  # no name
        (1048, "23000", f"Column '{SECRET}' cannot be null"),
        (1115, "42000", f"Unknown character set: '{SECRET}'"),
        (1273, "HY000", f"Unknown collation: '{SECRET}'"),
        (9999, "HY000", SECRET),
    ],
)
def test_what_is_not_known_is_withheld(errno: int, state: str, message: str) -> None:
    shown = scrub(errno, state, message, opens=False)
    assert SECRET not in shown
    assert shown.startswith(MASKED)


def test_a_value_that_looks_like_the_rest_of_the_text_goes_whole() -> None:
    message = f"Duplicate entry 'a' for key 'b' {SECRET}' for key 'PRIMARY'"
    assert scrub(1062, "23000", message, opens=False) == f"Duplicate entry '{MASKED}' for key 'PRIMARY'"


@pytest.mark.parametrize(
    ("errno", "message"),
    [
        (1064, "You have an error in your SQL syntax; ... near 'FORM users' at line 1"),
        (1054, "Unknown column 'sssn' in 'SELECT'"),
        (1146, "Table 'app.uses' doesn't exist"),
        (1205, "Lock wait timeout exceeded; try restarting transaction"),
        (1213, "Deadlock found when trying to get lock; try restarting transaction"),
        (1242, "Subquery returns more than 1 row"),
        (1264, "Out of range value for column 'n' at row 7"),
        (3024, "Query execution was interrupted, maximum statement execution time exceeded"),
    ],
)
def test_what_is_about_the_client_s_own_text_stays(errno: int, message: str) -> None:
    assert scrub(errno, "42000", message, opens=False) == message
