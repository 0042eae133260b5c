"""Attack 28: recordings become the leak. Secrets in statements are gone before anything is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.record.redact import redact_params, redact_sql
from guard.record.sqltokens import Kind, scan

S = "hunter2"
LEAKS = [
    f"ALTER ROLE ci PASSWORD '{S}'",
    f"alter user ci with encrypted password '{S}' valid until 'infinity'",
    f"CREATE ROLE ci LOGIN PASSWORD $${S}$$",
    f"CREATE ROLE ci PASSWORD $x${S}$x$",
    f"CREATE USER ci PASSWORD E'{S}\\'s'",
    f"CREATE USER ci PASSWORD U&'{S}'",
    f"ALTER ROLE ci PASSWORD 'a' '{S}'",
    f"ALTER ROLE ci PASSWORD 'a'\n'{S}'",
    f"ALTER ROLE ci PASSWORD 'a''{S}'",
    f"ALTER ROLE ci PASSWORD /* it was {S} */ 'x'",
    f"ALTER ROLE ci PASSWORD 'x' -- was {S}",
    f"ALTER ROLE ci PASSWORD /* /* nested */ {S} */ 'x'",
    f"ALTER ROLE ci PASSWORD '{S}",
    f"ALTER ROLE ci PASSWORD {S}",
    f'ALTER ROLE ci PASSWORD "{S}"',
    f"SELECT 1; ALTER ROLE ci PASSWORD '{S}'; SELECT 2",
    f"ALTER ROLE ci PASSWORD 'a\\'; SELECT '{S}'",
    f"ALTER ROLE ci PASSWORD 'a\\' || {S} --'",
    f"DO $$ BEGIN EXECUTE 'ALTER ROLE ci PASSWORD ''{S}'''; END $$",
    f"DO 'BEGIN EXECUTE ''ALTER ROLE ci PASSWORD ''''{S}''''''; END'",
    f"CREATE SUBSCRIPTION s CONNECTION 'host=h user=u {S}' PUBLICATION p",
    f"CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (host 'h', key '{S}')",
    f"CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'u', pin '{S}')",
    f"ALTER USER MAPPING FOR u SERVER s OPTIONS (SET pin '{S}')",
    f"SELECT * FROM dblink('dbname=x user=y {S}', 'select 1') AS t(a int)",
    f"SELECT 'postgres://user:{S}@host/db'",
    f"COPY t FROM PROGRAM 'PGPASSWORD={S} psql -c x'",
    f"SET app.api_key = '{S}'",
    f"SET app.api_key TO {S}",
    f"SET LOCAL my.secret = {S}",
    f"SET app.signing_key = 12345{S}",
    f"SELECT set_config('app.secret', '{S}', false)",
    f"UPDATE users SET password = '{S}' WHERE id = 5",
    f"UPDATE users SET \"Password\" = '{S}'",
    f"INSERT INTO users (name, passwd) VALUES ('bob', '{S}')",
    f"INSERT INTO api_keys (id, api_key) VALUES (1, '{S}')",
    f"SELECT * FROM users WHERE password = '{S}'",
    f"SELECT * FROM users WHERE crypt('{S}', password_hash) = password_hash",
    f"SELECT * FROM keys WHERE api_key = '{S}'",
    f"SELECT * FROM keys WHERE '{S}' = k.api_key",
    f"SELECT * FROM keys WHERE api_key IN ('a', '{S}')",
    f"SELECT * FROM keys WHERE access_key LIKE '{S}%'",
    f"SET headers = 'Authorization: Bearer {S}'",
    f"SELECT '-----BEGIN PRIVATE KEY-----\n{S}'",
    f"ALTER USER v IDENTIFIED BY '{S}'",
    f"SET PASSWORD FOR v = PASSWORD('{S}')",
    f"ALTER SYSTEM SET primary_conninfo = 'host=h {S}'",
]


@pytest.mark.parametrize("text", LEAKS)
def test_the_secret_is_gone(text: str) -> None:
    redacted = redact_sql(text)
    assert S not in redacted
    assert "[redacted]" in redacted


KEPT = [
    "SELECT 1",
    "SELECT id, total FROM orders WHERE customer = 'anna' AND note LIKE '%token%' -- fine",
    "SELECT service, secret FROM credentials WHERE service = 'billing' LIMIT 5",
    "INSERT INTO orders (id, note) VALUES (1, 'for Bob')",
    "UPDATE orders SET options = 3, key = 'k' WHERE id = 7",
    "CREATE TABLE t (id int PRIMARY KEY, total numeric(10,2))",
    "SELECT pgp_sym_encrypt('data', 'k')",
    "SET search_path = public, app",
    "SELECT 'https://example.org/path?q=1'",
    "DELETE FROM orders",
    "",
]


@pytest.mark.parametrize("text", KEPT)
def test_ordinary_statements_stay_as_they_are(text: str) -> None:
    assert redact_sql(text) == text


def test_what_is_left_still_tells_what_was_done() -> None:
    assert redact_sql(f"ALTER ROLE ci /* x */ PASSWORD '{S}' VALID UNTIL '2030-01-01'") == (
        "ALTER ROLE ci '[redacted]' PASSWORD '[redacted]' VALID UNTIL '[redacted]'"
    )
    assert redact_sql("ALTER ROLE ci PASSWORD NULL") == "ALTER ROLE ci PASSWORD NULL"
    assert redact_sql(f"SELECT * FROM keys WHERE service = 'billing' AND api_key = '{S}'") == (
        "SELECT * FROM keys WHERE service = 'billing' AND api_key = '[redacted]'"
    )


def test_a_huge_sensitive_statement_is_dropped_as_a_whole() -> None:
    text = "INSERT INTO users (password) VALUES " + ", ".join(f"('{S}{n}')" for n in range(40_000))
    redacted = redact_sql(text)
    assert S not in redacted
    assert len(redacted) < 200


def test_parameters_of_sensitive_statements_are_redacted() -> None:
    assert redact_params("UPDATE users SET password = $1 WHERE id = $2", [S, None]) == ("[redacted]", None)
    assert redact_params("SELECT * FROM keys WHERE id = $1 AND api_key = $2", ["7", S]) == ("7", "[redacted]")
    assert redact_params("SELECT * FROM orders WHERE id = $1", ["7"]) == ("7",)
    assert redact_params("SELECT $1", [f"postgres://u:{S}@h/db"]) == ("[redacted]",)
    assert redact_params("SELECT 1", []) == ()


SQLISH = st.text(alphabet="'\"$\\/*-;=() \nEeUu&abpx1_.", max_size=60)


@given(SQLISH, st.booleans())
def test_the_scanner_never_fails_and_covers_every_character(text: str, backslash: bool) -> None:
    position = 0
    for token in scan(text, backslash=backslash):
        assert token.start == position < token.end
        position = token.end
    assert position == len(text)


@given(SQLISH, SQLISH, SQLISH)
def test_what_either_reading_calls_a_literal_is_gone(before: str, between: str, after: str) -> None:
    text = f"{before} PASSWORD {between}{S}{after}"
    position = text.index(S)
    literal = (Kind.STRING, Kind.DOLLAR, Kind.COMMENT, Kind.NUMBER)
    covered = [
        token.kind in literal
        for backslash in (False, True)
        for token in scan(text, backslash=backslash)
        if token.start <= position < token.end
    ]
    assert len(covered) == 2
    if any(covered):
        assert S not in redact_sql(text)


def test_long_unclosed_text_is_linear_and_shallow() -> None:
    for opening in ("'", "E'", "$$", '"', "/*", "--"):
        text = "ALTER ROLE x PASSWORD " + opening + "\\a''/*" * 5_000
        assert "\\a''/*" not in redact_sql(text)
