"""What crosses to where long texts are analysed: all that a text's meaning rests on, and nothing that could harm."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any

import pytest

from protocols import crossing
from protocols.contract import Analysis, Effect
from protocols.crossing import CrossingError
from protocols.mysql.statements import analyse as mysql_analyse
from protocols.postgres.statements import analyse as postgres_analyse
from tests.support import mysql_talk, wire
from tests.support.apart import there
from tests.support.talk import Talk, catalog

POSTGRES = [
    "SELECT id, ssn FROM users WHERE id = 1",
    "EXECUTE s",
    "FETCH c",
    "SELECT * FROM t",
    "INSERT INTO evil.orders VALUES (1, 2)",
    "SELECT nobody()",
]
MYSQL = ["SELECT id, ssn FROM users WHERE id = 1", "EXECUTE s", "SELECT @v", "SELECT * FROM t", "CALL nothing()"]


def _postgres() -> Talk:
    """A session that remembers something of everything."""
    talk = Talk(lambda _: _allow())
    for sql, tag in (
        ("BEGIN", "BEGIN"),
        ("PREPARE s AS SELECT name FROM users", "PREPARE"),
        ("DECLARE c CURSOR FOR SELECT ssn FROM users", "DECLARE CURSOR"),
        ("CREATE TEMP TABLE t AS SELECT ssn FROM users", "SELECT 1"),
        ("SET search_path = evil, public", "SET"),
    ):
        talk.client(wire.query(sql))
        talk.server(wire.complete(tag), wire.ready("T"))
    return talk


def _mysql() -> mysql_talk.Talk:
    talk = mysql_talk.Talk(mysql_talk.anything)
    for sql in (
        "PREPARE s FROM 'SELECT name FROM users'",
        "SET @v = (SELECT ssn FROM users LIMIT 1)",
        "CREATE TEMPORARY TABLE t AS SELECT ssn FROM users",
        "SET sql_mode = 'ANSI_QUOTES'",
    ):
        talk.ok(sql)
    return talk


def _allow() -> Any:
    return mysql_talk.anything(Analysis("", frozenset()))


def test_a_session_of_postgresql_means_there_what_it_means_here() -> None:
    talk = _postgres()
    state, names = talk.session.state, catalog()
    for sql in POSTGRES:
        postgres_analyse(sql.encode(), state, names)  # what it works out and keeps stays here
    judge = talk.session.judge
    other, other_names = there(state.fork(), judge), there(names, judge)
    assert other.meaning_key() == state.meaning_key()
    for sql in POSTGRES:
        here = postgres_analyse(sql.encode(), state, names)
        assert postgres_analyse(sql.encode(), other, other_names).analysis == here.analysis


def test_a_session_of_mysql_means_there_what_it_means_here() -> None:
    talk = _mysql()
    state, names = talk.session.state, mysql_talk.catalog()
    for sql in MYSQL:
        mysql_analyse(sql.encode(), state, names)
    judge = talk.session.judge
    other, other_names = there(state.fork(), judge), there(names, judge)
    assert other.meaning_key() == state.meaning_key()
    for sql in MYSQL:
        here = mysql_analyse(sql.encode(), state, names)
        assert mysql_analyse(sql.encode(), other, other_names).analysis == here.analysis


class _NoCatalog(pickle.Pickler):
    def persistent_id(self, obj: Any) -> None:
        assert type(obj).__name__ != "Catalog"


@pytest.mark.parametrize(("talk", "names"), [(_postgres(), catalog()), (_mysql(), mysql_talk.catalog())])
def test_a_state_brings_no_catalog_along(talk: Any, names: Any) -> None:
    # it would cross with every text, and be another one than that by which the text is to be judged
    for sql in ("SELECT id FROM users", "EXECUTE s"):
        judge = talk.session.judge
        judge._analyse(sql.encode(), names, talk.session.state, "")
    _NoCatalog(io.BytesIO(), protocol=5).dump(there(talk.session.state.fork(), judge))


def test_what_a_catalog_has_worked_out_stays_here() -> None:
    names = catalog("worked")
    names.origin(20001, 1)
    names.type_effects(25)
    other = there(names, Talk().session.judge)
    assert (names._origins, names._types) != ({}, {})
    assert (other._origins, other._types, other._facts) == ({}, {}, {})
    assert other.relations == names.relations


def test_the_text_is_named_and_not_repeated() -> None:
    sql = ("SELECT id FROM users /* " + "x" * 100_000 + " */").encode()
    for command in (
        postgres_analyse(sql, Talk().session.state, catalog()),
        mysql_analyse(sql, mysql_talk.Talk().session.state, mysql_talk.catalog()),
    ):
        whole = replace(command, statements=())
        packed = crossing.pack(whole, sql)
        assert len(packed) < 20_000
        assert crossing.unpack(packed, sql) == whole


def test_a_text_beyond_ascii_comes_back_as_it_was() -> None:
    sql = ("SELECT 'é' /* " + "é" * 5000 + " */").encode()
    command = postgres_analyse(sql, Talk().session.state, catalog())
    assert crossing.unpack(crossing.pack(command, sql), sql) == command


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("made",)


@pytest.mark.parametrize(
    "made",
    [
        _Evil(),
        io.BytesIO(b""),
        catalog,  # a function
        crossing.pack,  # a function of ours
    ],
)
def test_nothing_else_is_made_of_what_comes_back(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CrossingError):
        crossing.unpack(pickle.dumps(made, protocol=5), b"")
    assert capsys.readouterr().out == ""


def test_a_dotted_name_leads_nowhere() -> None:
    # protocol 4 looks names up through modules: `protocols.crossing` imports `io`
    data = b"\x80\x05\x8c\x12protocols.crossing\x8c\nio.BytesIO\x93."
    with pytest.raises(CrossingError):
        crossing.unpack(data, b"")


def test_a_reference_to_nothing_is_refused() -> None:
    class Lies(pickle.Pickler):
        def persistent_id(self, obj: Any) -> str | None:
            return "other" if obj == "x" else None

    file = io.BytesIO()
    Lies(file, protocol=5).dump(["x"])
    with pytest.raises(CrossingError):
        crossing.unpack(file.getvalue(), b"")


def test_effects_are_the_same_objects_again() -> None:
    analysis = Analysis("select", frozenset({Effect.DATA_SELECT}))
    found = crossing.unpack(crossing.pack(analysis, b""), b"")
    assert found == analysis
    assert next(iter(found.effects)) is Effect.DATA_SELECT
