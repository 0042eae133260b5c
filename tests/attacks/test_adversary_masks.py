"""A masked value, or what was computed from it, in any channel but the masked column itself."""

from __future__ import annotations

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.adversary import CARD, COMPUTED, VIP, bytes_of, errors, leaks, session
from tests.support.wire import SYNC, bind, call, describe, execute, parse

pytestmark = pytest.mark.e2e

ONE = "FROM customers WHERE id = 1"

# a function leaves something in the session that the next statement can read without touching the table
TRACES = {
    "a setting": (f"SELECT set_config('application_name', card, false) {ONE}", "SHOW application_name"),
    "a setting, read as a value": (
        f"SELECT set_config('timezone', 'x' || right(card, 1), false) {ONE}",
        "SELECT current_setting('timezone')",
    ),
    "a setting, by a condition": (
        f"SELECT CASE WHEN card LIKE '4%' THEN set_config('application_name', 'four', false) END {ONE}",
        "SHOW application_name",
    ),
    "the random sequence": (f"SELECT setseed(ascii(right(card, 1)) / 256.0) {ONE}", "SELECT random()"),
    "the place in a large object": (
        f"BEGIN; SELECT lo_open(4242, 262144); SELECT lo_lseek(0, ascii(right(card, 1)), 0) {ONE}",
        "SELECT lo_tell(0)",
    ),
    "what was read of a large object": (
        f"BEGIN; SELECT lo_open(4242, 262144); SELECT loread(0, ascii(card)) {ONE}",
        "SELECT lo_tell(0)",
    ),
}


@pytest.mark.parametrize("trace", TRACES)
def test_no_statement_leaves_a_masked_value_in_the_session(attacked: Lab, trace: str) -> None:
    with session(attacked) as s:
        left, read = TRACES[trace]
        assert [e["C"] for e in errors(s.ask(left))] == ["42501"]
        assert leaks(s.ask(read)) == []


def test_settings_and_seeds_of_the_client_itself_pass(attacked: Lab) -> None:
    with session(attacked) as s:
        found = s.ask(
            "SELECT set_config('application_name', 'mine', false)",
            "SELECT set_config('bytea_output', 'hex', false) FROM pg_show_all_settings() WHERE name = 'bytea_output'",
            "SELECT setseed(0.5)",
            "SHOW application_name",
        )
        assert not errors(found)
        assert (b"mine",) in [tuple(row) for row in wire.rows(bytes_of(found))]


def test_a_child_table_is_masked_like_its_parent_also_in_what_is_computed(attacked: Lab) -> None:
    statements = (
        "SELECT upper(email), card || '', national_id, vip_customers FROM vip_customers",
        "SELECT to_json(v), array_agg(v.card) OVER () FROM vip_customers v",
        "WITH v AS (SELECT card || '' AS name FROM vip_customers) SELECT name FROM v",
        "COPY vip_customers TO STDOUT",
        "COPY (SELECT upper(email), card FROM vip_customers) TO STDOUT (FORMAT csv)",
        "SELECT email::int FROM vip_customers",
    )
    with session(attacked) as s:
        for statement in statements:
            assert leaks(s.ask(statement)) == [], statement
    with session(attacked, "admin") as s:
        assert VIP[1].upper() in bytes_of(s.ask(statements[0])).decode("utf-8", "replace")


COPIED = (
    "SELECT * FROM copied WHERE id = 1",
    "SELECT shouted, card || '' FROM copied WHERE id = 1",
    "COPY copied TO STDOUT",
)


@pytest.mark.parametrize("statement", COPIED)
def test_a_materialised_view_is_masked_like_what_it_was_made_from(attacked: Lab, statement: str) -> None:
    with session(attacked) as s:
        assert leaks(s.ask(statement)) == []


OPTIONS = (
    "FORMAT text, DELIMITER '|', NULL 'n'",
    "FORMAT csv, QUOTE '4', FORCE_QUOTE *",
    "FORMAT csv, QUOTE '4', ESCAPE '0', DELIMITER ' '",
    "FORMAT csv, HEADER, NULL '4'",
    "FORMAT csv, DELIMITER 'x', QUOTE ' '",
    "FORMAT binary",
)


@pytest.mark.parametrize("options", OPTIONS)
def test_copy_with_a_strange_syntax_of_its_rows(attacked: Lab, options: str) -> None:
    with session(attacked) as s:
        for source in ("customers", "(SELECT card, name, card || '' FROM customers)"):
            found = s.ask(f"COPY {source} TO STDOUT ({options})")
            assert leaks(found) == []
            assert not errors(found)
            assert any(kind == "d" for kind, _ in found)


def test_copy_in_the_extended_protocol(attacked: Lab) -> None:
    with session(attacked) as s:
        for source in ("customers", "(SELECT card, card || '' FROM customers)"):
            found = s.say(parse("", f"COPY {source} TO STDOUT"), bind("", ""), execute(), SYNC)
            assert leaks(found) == []


def test_rows_without_a_description_in_both_formats(attacked: Lab) -> None:
    with session(attacked) as s:
        s.say(parse("m", f"SELECT email, card, card || '' AS total, customers {ONE}"), SYNC)
        for results in ((), (1,), (0, 1, 0, 1)):
            assert leaks(s.say(bind("", "m", results=results), execute(), SYNC)) == []
            assert leaks(s.say(bind("", "m", results=results), describe("P"), execute("", 1), execute(), SYNC)) == []


# wordings of the server that quote a value, a part of it, or a number made of it
FAILS = (
    "card::int", "card::regclass", "card::regtype", "card::name::regrole", "(card || '{')::json", "card::xml",
    "to_tsquery(card || ' :')", "('1 ' || card)::jsonpath", "regexp_replace('a', card || '(', '')", "card::money",
    "convert(card::bytea, card, 'UTF8')", "encode('a', card)", "date_trunc(card, now())", "now() AT TIME ZONE card",
    "current_setting(card)", "currval(card)", "has_table_privilege(card, 'select')", "format(card || '%s %q', 1)",
    "make_date(ascii(card), 13, 45)",
    "chr(-ascii(card))", "set_byte('a', ascii(card), 1)", "card::order_status",
    "array_fill(1, ARRAY[ascii(card) * 10000000])",
    "ROW(card, 'a')::orders", "pg_size_bytes(card)", "parse_ident(card)",
    "pg_get_serial_sequence(card, card)",
    "jsonb_set('[1]', ARRAY[card], '1')", "width_bucket(1, 1, 1, ascii(card))",
    "json_populate_record(NULL::orders, json_build_object('id', card))", "ntile(-ascii(card)) OVER ()",
)  # fmt: skip


def test_no_error_quotes_a_masked_value(attacked: Lab) -> None:
    with session(attacked) as s:
        for expression in FAILS:
            found = s.ask(f"SELECT {expression} {ONE}")
            assert errors(found), expression
            assert leaks(found) == [], expression
            text = str(errors(found)).replace(str(ord(CARD[0])), "ASCII") if "ascii" in expression else ""
            assert "ASCII" not in text, (expression, text)


AGAIN = f"INSERT INTO customers SELECT id + 70000, name, 'q@again.example', card, national_id, city, now() {ONE}"


@pytest.mark.parametrize("how", ["COMMIT", "SET CONSTRAINTS ALL IMMEDIATE", "sync"])
def test_a_check_that_was_put_off_does_not_quote_a_masked_value(attacked: Lab, how: str) -> None:
    with session(attacked, "agent") as s:
        pipeline = (parse("", AGAIN), bind("", ""), execute(), SYNC)
        found = s.say(*pipeline) if how == "sync" else s.ask("BEGIN", AGAIN, how)
        assert [e["C"] for e in errors(found)] == ["23505"]
        assert leaks(found) == []


# the catalog's own copies of values
COPIES = (
    "SELECT s FROM pg_stats s",
    "SELECT most_common_vals(s) FROM pg_stats s",
    "TABLE pg_stats",
    "SELECT array_agg(s) FROM pg_stats s",
    "SELECT j FROM pg_stats AS s(a, b, c, d, e, f, g, h, i, j)",
    "SELECT histogram_bounds FROM pg_stats",
    "SELECT * FROM pg_statistic",
    "SELECT (pg_stat_get_activity(NULL)).query",
    "SELECT query FROM pg_stat_activity",
    "SELECT a FROM pg_authid a",
    "SELECT to_json(a) FROM pg_authid a",
    "SELECT rolpassword(a) FROM pg_authid a",
    "SELECT k FROM pg_authid AS x(a, b, c, d, e, f, g, h, i, j, k)",
    "SELECT passwd FROM pg_shadow",
)


@pytest.mark.parametrize("statement", COPIES)
def test_the_catalogs_copies_of_values_are_secret(attacked: Lab, statement: str) -> None:
    with session(attacked) as s:
        assert [e["C"] for e in errors(s.ask(statement))] == ["42501"]


def test_the_second_home_of_long_values_is_closed(attacked: Lab) -> None:
    with session(attacked) as s:
        found = s.ask("SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'long_secrets'")
        home = wire.rows(bytes_of(found))[0][0]
        assert home is not None
        found = s.ask(f"SELECT chunk_data FROM {home.decode()}")
        assert [e["C"] for e in errors(found)] == ["42501"]


def test_the_fast_path_runs_nothing_that_a_statement_could_not(attacked: Lab) -> None:
    with attacked.server.connect() as direct:
        oids = dict(direct.execute("SELECT oid::regprocedure::text, oid::int FROM pg_proc").fetchall())
    with session(attacked) as s:
        for function, values in (
            ("query_to_xml(text,boolean,boolean,text)", (COMPUTED.encode(), b"t", b"t", b"")),
            ("table_to_xml(regclass,boolean,boolean,text)", (b"customers", b"t", b"t", b"")),
            ("set_config(text,text,boolean)", (b"role", b"postgres", b"f")),
            ("pg_read_file(text)", (b"postgresql.conf",)),
        ):
            found = s.say(call(int(oids[function]), values))
            assert [e["C"] for e in errors(found)] == ["42501"], function
            assert leaks(found) == []
