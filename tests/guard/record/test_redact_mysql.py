"""Attack 28 in MySQL's words: double quotes are strings, `#` opens comments, parameters are question marks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.record.redact import redact_params, redact_sql
from guard.record.sqltokens import scan

S = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"CREATE USER 'a'@'h' IDENTIFIED BY '{S}'",
        f"CREATE USER 'a'@'h' IDENTIFIED BY \"{S}\"",
        f"CREATE USER a IDENTIFIED WITH caching_sha2_password BY '{S}' REPLACE 'old'",
        f"CREATE USER a IDENTIFIED VIA ed25519 USING PASSWORD('{S}')",
        f"CREATE USER a IDENTIFIED WITH mysql_native_password AS '*{S}'",
        f"ALTER USER a IDENTIFIED BY 'it\\'s {S}'",
        f'ALTER USER a IDENTIFIED BY "it\\"s {S}"',
        f"ALTER USER a IDENTIFIED BY _utf8mb4'{S}'",
        f"ALTER USER a IDENTIFIED BY N'{S}'",
        f"ALTER USER a IDENTIFIED BY 'x' # was '{S}",
        f"ALTER USER a IDENTIFIED BY 'x' -- was {S}",
        f"ALTER USER a /*!50706 IDENTIFIED BY '{S}' */",
        f"ALTER USER a IDENTIFIED BY 'x\\' {S}'",
        f"GRANT ALL ON *.* TO `a`@`h` IDENTIFIED BY '{S}'",
        f'GRANT ALL ON *.* TO `it\'s`@`h` IDENTIFIED BY "{S}"',
        f"SET PASSWORD = '{S}'",
        f"SET PASSWORD FOR 'a'@'h' = PASSWORD(\"{S}\")",
        f"CHANGE MASTER TO MASTER_HOST='h', MASTER_PASSWORD='{S}'",
        f'CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = "{S}"',
        f"START SLAVE USER = 'r' PASSWORD = \"{S}\"",
        f'CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER "r", PASSWORD "{S}")',
        f"CREATE TABLE t (a INT) ENGINE=FEDERATED CONNECTION='mysql://u:{S}@h/d/t'",
        f"CLONE INSTANCE FROM u@h:3306 IDENTIFIED BY '{S}'",
        f"SELECT AES_DECRYPT(card, '{S}') FROM cards",
        f'SELECT aes_encrypt("x", "{S}")',
        f'INSERT INTO users (name, password) VALUES ("a", "{S}")',
        f'SELECT * FROM `keys` WHERE api_key = "{S}"',
        f'SELECT "{S}" = api_key FROM `keys`',
        f'SET @api_key = "{S}"',
        f"UPDATE mysql.user SET authentication_string = '{S}'",
        f"PREPARE s FROM \"CREATE USER a IDENTIFIED BY '{S}'\"",
    ],
)
def test_no_secret_stays(text: str) -> None:
    assert S not in redact_sql(text)


@pytest.mark.parametrize(
    "text",
    [
        'SELECT * FROM users WHERE name = "Ann"',
        "SELECT `password` FROM `users`",
        "SELECT `a` FROM `users` # all of them",
        'ALTER ROLE "bob" VALID UNTIL NOW',
        "SELECT 'a' /* b */",
    ],
)
def test_ordinary_texts_stay(text: str) -> None:
    assert redact_sql(text) == text


def test_a_name_in_double_quotes_stays_where_only_a_name_may_be() -> None:
    assert redact_sql("ALTER ROLE \"bob\" PASSWORD 'x'") == "ALTER ROLE \"bob\" PASSWORD '[redacted]'"


def test_parameters_without_numbers_are_counted() -> None:
    assert redact_params("SELECT * FROM t WHERE a = ? AND api_key = ?", ("1", "2")) == ("1", "[redacted]")
    assert redact_params("CREATE USER a IDENTIFIED BY ?", ("x", None)) == ("[redacted]", None)
    assert redact_params("SELECT * FROM t WHERE a = '?' AND api_key = ?", ("1",)) == ("[redacted]",)


@given(st.text(alphabet="'\"`\\#-/*?$_nxN01a; \n", max_size=40), st.booleans())
def test_every_character_belongs_to_one_token(text: str, backslash: bool) -> None:
    position = 0
    for token in scan(text, backslash=backslash, mysql=True):
        assert token.start == position < token.end
        position = token.end
    assert position == len(text)
