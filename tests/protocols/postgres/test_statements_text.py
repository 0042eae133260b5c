"""What must hold before the parser is called: bytes, lexing settings, depth; and the second-level cache key."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.contract import Analysis, Cacheable
from protocols.postgres.statements import analyse, shape_key
from protocols.postgres.statements.text import Unreadable, check_depth, decode, outside_literals
from tests.support import statements as make


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        (b"SELECT 1", "GBK", "SELECT 1"),
        (b"SELECT 1", "no such encoding", "SELECT 1"),
        ("é".encode(), "UTF8", "é"),
        ("é".encode(), "utf-8", "é"),
        (b"\xe9", "LATIN1", "é"),
        (b"\xe9", "WIN1252", "é"),
    ],
)
def test_text_is_decoded_as_the_server_reads_it(raw: bytes, encoding: str, text: str) -> None:
    assert decode(raw, encoding) == text


@pytest.mark.parametrize(
    "encoding", ["GBK", "SJIS", "BIG5", "GB18030", "JOHAB", "UHC", "SQL_ASCII", "EUC_JP", "unknown"]
)
def test_other_encodings_are_not_guessed(encoding: str) -> None:
    with pytest.raises(Unreadable):
        decode(b"SELECT E'\xbf\\'", encoding)


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\xa7", b"\xed\xa0\x80", b"SELECT 1\0; DROP TABLE users"])
def test_bytes_that_the_server_would_refuse_or_cut_are_unknown(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(raw, "UTF8")
    assert make.of(raw).unknown


def test_a_backslash_is_unknown_while_strings_may_escape() -> None:
    off = make.session()
    off.parameter_status("standard_conforming_strings", "off")
    assert make.of(r"SELECT '\'; DROP TABLE users; --'", off).unknown
    assert not make.of("SELECT 'it''s'", off).unknown


def test_a_name_beyond_ascii_on_another_server_encoding_is_unknown() -> None:
    latin = make.session(client_encoding="UTF8")
    latin.parameter_status("server_encoding", "LATIN1")
    assert make.of("SELECT name AS É FROM users", latin).unknown
    assert not make.of("SELECT 'É' FROM users /* É */ -- É", latin).unknown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a 'b''c' d", "a   d"),
        (r"E'\'x' y", " y"),
        ("$$ ' $$ z", " z"),
        ("$t$ $$ $t$z", "z"),
        ("a$b$c 'x'", "a$b$c  "),
        ('"a""b" c', '"a""b" c'),
        ("1 /* /* */ ' */ 2", "1  2"),
        ("1 -- '\n2", "1 2"),
        ("'open", " "),
        ("$$open", ""),
        ("/* open", ""),
    ],
)
def test_literals_and_comments_are_found_as_the_lexer_finds_them(text: str, left: str) -> None:
    assert outside_literals(text).split() == left.split()


@pytest.mark.parametrize("unit", ["+1", "::int", " IS NULL", ' COLLATE "C"', "+','", "+$$,$$", "*(1,2)", "^/*,*/1"])
def test_a_chain_is_refused_before_it_reaches_the_parser(unit: str) -> None:
    with pytest.raises(Unreadable, match="too deeply"):
        check_depth("SELECT 1" + unit * 20_000)


@pytest.mark.parametrize("unit", [" UNION ALL SELECT 1, 2", " JOIN t ON a = 1 AND b = 2", " NATURAL JOIN t"])
def test_a_chain_of_joins_or_branches_is_refused(unit: str) -> None:
    with pytest.raises(Unreadable, match="too deeply"):
        check_depth("SELECT 1 FROM t" + unit * 20_000)


def test_wide_text_is_not_deep() -> None:
    check_depth("INSERT INTO t VALUES " + ",".join(["(1,'a-b',-2.5,'2020-01-01'::date)"] * 5_000))
    check_depth("SELECT 1 WHERE " + " OR ".join(["(a = 1 AND b < 2)"] * 5_000))
    check_depth("SELECT 1 /* " + "*" * 5000 + " */ -- " + "-" * 5000)


@pytest.mark.parametrize("text", ["SELECT " + "1," * 400_000 + "1", "SELECT 1;" * 3000, "SELECT 1 " + "/*" * 20_000])
def test_text_that_would_keep_the_parser_busy_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        check_depth(text)


HOSTILE = """
import sys
sys.path.insert(0, {root!r})
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from protocols.postgres.builtins import builtin_catalog
catalog, n = builtin_catalog(), int(sys.argv[1])
for text in (
    "SELECT 1" + "+1" * n, "SELECT 1" + "::int" * n, "SELECT 1" + " UNION SELECT 1" * n, "SELECT " + "(" * n + ")" * n,
    "SELECT * FROM t" + " JOIN t ON true" * n, "SELECT " + "NOT " * n + "true", "SELECT " + "f(" * n + ")" * n,
    "SELECT 1" + " IS NULL" * n, "SELECT " + "(SELECT " * n + "1" + ")" * n, "SELECT (a)" + ".b" * n,
    "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n, "SELECT 1 " + "/*" * n, "SELECT " + "- " * n + "1",
    "WITH a AS (" * n + "SELECT 1" + ") SELECT 1" * n, "SELECT " + "sum(1) OVER (ORDER BY " * n + "1" + ")" * n,
    "SELECT " + "count(*) FILTER (WHERE 0 < " * n + "1" + ")" * n,
):
    analyse(text.encode(), SessionState(), catalog)
print("alive")
"""


@pytest.mark.parametrize("count", [400, 4400, 100_000])
def test_no_depth_kills_the_process(count: int, pytestconfig: pytest.Config) -> None:
    code = HOSTILE.format(root=str(pytestconfig.rootpath))
    done = subprocess.run([sys.executable, "-c", code, str(count)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]


# ---------------------------------------------------------------- the shape key


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SELECT id FROM users WHERE id = 1", "SELECT id FROM users WHERE id = 22"),
        ("SELECT id FROM users WHERE name = 'a' ", "SELECT id FROM users WHERE name = 'O''Brien'"),
        ("SELECT 1.5, 'x'", "SELECT 22.75, 'y; DROP TABLE users'"),
        ("UPDATE users SET name = 'a' WHERE id = 1", "UPDATE users SET name = 'b' WHERE id = 2"),
        ("select id from users where id = 1;", "select id from users where id = 2"),
    ],
)
def test_one_shape(one: str, two: str) -> None:
    assert shape_key(one.encode()) is not None
    assert shape_key(one.encode()) == shape_key(two.encode())


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SELECT f(1)", "SELECT f('a')"),
        ("SELECT f(1)", "SELECT f(1.0)"),
        ("SELECT f(1)", "SELECT f(3000000000)"),
        ("SELECT f(3000000000)", "SELECT f(30000000000000000000)"),
        ("SELECT id, ssn FROM users", "SELECT ssn, id FROM users"),
        ("SELECT 1 - 1", "SELECT 1 + 1"),
        ("SELECT $1", "SELECT $2"),
        ('SELECT "a"', 'SELECT "b"'),
        ("SELECT true", "SELECT false"),
    ],
)
def test_two_shapes(one: str, two: str) -> None:
    assert shape_key(one.encode()) != shape_key(two.encode())


@pytest.mark.parametrize(
    "text",
    [
        "SET role = 'x'",
        "EXECUTE p1",
        "SELECT 1; SELECT 2",
        "SELECT E'a'",
        "SELECT $$a$$",
        "SELECT 'a\\b'",
        "SELECT 'a' 'b'",
        "SELECT 'a'\n'b'",
        "SELECT 'a' -- x",
        "SELECT /* x */ 1",
        "SELECT B'1'",
        "SELECT 'a\0'",
        "SELECT 1a",
        "SELECT 1e5",
        "SELECT 'é'",
        "SELECT 'open",
        "",
    ],
)
def test_no_shape_where_the_lexer_could_disagree(text: str) -> None:
    assert shape_key(text.encode()) is None


LITERALS = st.one_of(
    st.integers(0, 2**70).map(str),
    st.decimals(0, 1000, places=2).map(str),
    st.text("ab';-\n%", max_size=6).map(lambda s: "'" + s.replace("'", "''") + "'"),
)
SHAPES = st.sampled_from(
    [
        "SELECT id FROM users WHERE id = {} AND name = {}",
        "SELECT set_config('role', {}, false), {}",
        "SELECT set_config({}, {}, false)",
        "SELECT id, name FROM users ORDER BY {}, {}",
        "SELECT nextval({}), currval({})",
        "DELETE FROM users WHERE {} = {}",
        "UPDATE users SET name = {} WHERE id < {}",
        "UPDATE users SET name = {} WHERE name LIKE {}",
        "INSERT INTO users (id, name) VALUES ({}, {})",
        "SELECT lo_open({}, {})",
        "SELECT * FROM users LIMIT {} OFFSET {}",
        "SELECT count(*) FILTER (WHERE id = {}) FROM users GROUP BY {}",
        "SELECT {}::text, {}::int FROM v_users",
        "SELECT pg_input_is_valid({}, {})",
        "SELECT {} IS NULL, {} BETWEEN 1 AND 2",
    ]
)


@given(SHAPES, LITERALS, LITERALS, LITERALS, LITERALS)
@example("SELECT set_config({}, {}, false)", "'role'", "'a'", "'application_name'", "'a'")
@example("DELETE FROM users WHERE {} = {}", "1", "1", "1", "2")
@example("SELECT id, name FROM users ORDER BY {}, {}", "1", "1", "2", "2")
def test_one_shape_means_one_analysis(shape: str, a: str, b: str, c: str, d: str) -> None:
    """What may be shared by shape must come out the same for both texts."""
    one, two = shape.format(a, b).encode(), shape.format(c, d).encode()
    if shape_key(one) is None or shape_key(one) != shape_key(two):
        return
    first, second = make.of(one), make.of(two)
    assert (first.cacheable is Cacheable.SHAPE) == (second.cacheable is Cacheable.SHAPE)
    if first.cacheable is Cacheable.SHAPE:
        assert first == second


WORDS = st.sampled_from(
    ["SELECT", "id", "FROM", "users", "u", "WHERE", "name", "=", "'a'", "1", "(", ")", ",", ";", "+", "-", "*", "/",
     ".", '"', "$$", "E'", "U&", "DELETE", "DROP", "TABLE", "WITH", "x", "AS", "--", "/*", "*/", "ORDER BY", "purge",
     "::", "int", "$1", "[", "]", "CASE", "WHEN", "END", "JOIN", "ON", "USING", "UNION", "EXPLAIN", "ANALYZE",
     "PREPARE", "EXECUTE", "SET", "role"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=25).map(" ".join))
@example("SELECT (")
def test_nothing_raises_and_prefixes_never_pass_for_more(text: str) -> None:
    for end in {len(text), len(text) // 2, max(len(text) - 1, 0)}:
        assert isinstance(make.of(text[:end]), Analysis)


@given(st.binary(max_size=60))
def test_any_bytes_have_an_analysis(raw: bytes) -> None:
    assert isinstance(analyse(b"SELECT " + raw, make.session(), make.catalog()).analysis, Analysis)
    shape_key(b"SELECT " + raw)
