"""Bytes, character sets, executable comments, several statements in one text, and the keys of shapes."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from protocols.mysql.statements import shape_key
from protocols.mysql.statements.lexer import Unreadable
from protocols.mysql.statements.text import decode
from tests.support.mysql_statements import judged, session


def test_bytes_are_read_in_the_sessions_character_set() -> None:
    assert decode("é".encode(), "utf8mb4") == "é"
    assert decode(b"\xe9", "latin1") == "é"
    for raw, charset in (
        (b"\xe9", "utf8mb4"),
        ("😀".encode(), "utf8mb3"),
        (b"\xbf\x5c", "gbk"),
        (b"\x95\x5c", "sjis"),
        (b"\xe9", "ascii_nonsense"),
        (b"a", "swe7"),
    ):
        with pytest.raises(Unreadable):
            decode(raw, charset)


@pytest.mark.parametrize(
    ("flavour", "text", "kind"),
    [
        ("mysql", "/*!50000 DROP TABLE users */", "drop table"),
        ("mariadb", "/*!50000 DROP TABLE users */", "drop table"),
        ("mysql", "/*!80000 DROP TABLE users */", "drop table"),
        ("mariadb", "SELECT 1 /*!50701 + 1 */", "select"),
        ("mariadb", "/*M!100100 DROP TABLE users */", "drop table"),
        ("mysql", "/*M!100100 DROP TABLE users */", "empty"),
        ("mysql", "/*!99999 DROP TABLE users */", "empty"),
    ],
)
def test_the_kind_is_what_this_server_runs(flavour: str, text: str, kind: str) -> None:
    command = judged(text, session(flavour))
    assert command.statements[0].kind == kind


@pytest.mark.parametrize("flavour", ["mysql", "mariadb", ""])
@pytest.mark.parametrize(
    "text",
    ["/*!99999 DROP TABLE users */", "SELECT 1 /*!50701 INTO OUTFILE '/x' */", "SELECT 1 /*M! FROM nosuch */",
     "SELECT /*!50000 1 */ /*!99999 , SLEEP(1) */", "SELECT 1 /*!99999 ' */ ' */"],
)  # fmt: skip
def test_what_any_reading_does_counts(flavour: str, text: str) -> None:
    state = session(flavour) if flavour else session(flavour="mysql")
    state.flavour = flavour
    effects = judged(text, state).analysis.effects
    assert not effects <= {Effect.DATA_SELECT}


def test_each_statement_of_a_text_is_there_with_its_bytes() -> None:
    text = "SELECT 'é;' ; DELETE FROM orders WHERE id = 1;\n-- the end"
    command = judged(text)
    assert [s.text.decode() for s in command.statements] == [
        "SELECT 'é;'",
        "DELETE FROM orders WHERE id = 1",
        "-- the end",
    ]
    assert [s.kind for s in command.statements] == ["select", "delete", "empty"]
    assert command.analysis.kind == "select; delete; empty"
    assert command.analysis.effects == {Effect.DATA_SELECT, Effect.DATA_DELETE}
    assert command.text == text.encode()


def test_a_later_statement_is_judged_after_the_former() -> None:
    command = judged("USE hr; SELECT * FROM users")
    assert command.statements[1].analysis.reads == ("hr.users",)
    assert judged("PREPARE s FROM 'TRUNCATE users'; EXECUTE s").analysis.writes == ("shop.users",)


def test_what_cannot_be_read_leaves_what_came_before() -> None:
    command = judged("DROP TABLE users; SELECT 'open")
    assert {Effect.DDL_DROP, Effect.UNKNOWN} <= command.analysis.effects
    assert command.statements[0].analysis.effects == {Effect.DDL_DROP}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE id = 1", "select a FROM t WHERE id = 1"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = '1'"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = 1.5"),
        ("SELECT a FROM t", "SELECT b FROM t"),
        ("SELECT `a` FROM t", "SELECT `b` FROM t"),
        ("SELECT a, b FROM t", "SELECT b, a FROM t"),
    ],
)
def test_shapes_that_differ(one: str, other: str) -> None:
    assert shape_key(one.encode()) is not None
    assert shape_key(one.encode()) != shape_key(other.encode())


def test_shapes_that_are_one() -> None:
    assert shape_key(b"SELECT a FROM t WHERE id = 1 AND b = 'x'") == shape_key(
        b"SELECT a FROM t WHERE id = 23 AND b = 'it''s';"
    )


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 -- x",
        "SELECT 1 # x",
        "SELECT 1 /* x */",
        "SELECT 'a\\'b'",
        'SELECT "a"',
        "SELECT @a",
        "SELECT 'a' 'b'",
        "SELECT x'41'",
        "SELECT _utf8'a'",
        "SELECT 1; SELECT 2",
        "SET a = 1",
        "EXECUTE s",
        "SELECT 'a\0'",
        "SELECT é",
        "SELECT 1a",
        "SELECT 1--1",
        "SELECT a||b",
        "SELECT N'a'",
        "SELECT 0x41",
        "SELECT 1e5",
        "SELECT $a",
    ],
)
def test_texts_without_a_shape(text: str) -> None:
    assert shape_key(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (
            "SELECT id FROM users WHERE id = 5 /* x */ AND name='O''Brien' -- y",
            "SELECT id FROM users WHERE id = ? AND name=?",
        ),
        ("select x'41', b'1', 0x41, 1.5e3,\n\tN'x'", "select ?, ?, ?, ?, ?"),
        ('delete from `users` where id in (1,2); SELECT "a"', "delete from `users` where id in (?,?); SELECT ?"),
        ("SELECT /*!50000 5 + */ id FROM users", "SELECT ? + id FROM users"),
        ("SET PASSWORD = 'secret'", "SET PASSWORD = ?"),
        ("SELECT 1" + " + 1" * 5000, ("SELECT ?" + " + ?" * 5000)[:16384]),
    ],
)
def test_the_text_on_record_has_a_shape_without_its_literals(text: str, shape: str) -> None:
    assert judged(text).analysis.shape == shape
