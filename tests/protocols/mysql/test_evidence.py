"""The records of a MySQL session: finished JSON with the journal's field names."""

from __future__ import annotations

import base64

import orjson

from protocols.contract import Action, Analysis, Decision, Effect, Where
from protocols.mysql import evidence
from protocols.mysql.evidence import MAX_PARAM, MAX_TEXT, command, command_static, response, shown, text_field

ANALYSIS = Analysis(
    "delete",
    frozenset({Effect.DATA_DELETE, Effect.DATA_SELECT}),
    ("app.users",),
    ("app.orders",),
    ("app.users.id",),
    where=Where.PRESENT,
    why="because",
)


def test_a_command_record() -> None:
    fixed = command_static(ANALYSIS, Decision(Action.HOLD, "ask-first", ""), "delete from `orders`")
    fixed += text_field('DELETE FROM orders -- "quoted"')
    body = orjson.loads(command(b"s1", 7, 123, b"query", fixed, b"", b',"params":["1",null]'))
    assert body == {
        "t": "command",
        "at": 123,
        "s": "s1",
        "n": 7,
        "phase": "query",
        "kind": "delete",
        "effects": ["data.delete", "data.select"],
        "reads": ["app.users"],
        "writes": ["app.orders"],
        "columns": ["app.users.id"],
        "decision": "hold",
        "rule": "ask-first",
        "why": "because",
        "shape": "delete from `orders`",
        "text": 'DELETE FROM orders -- "quoted"',
        "params": ["1", None],
    }


def test_a_response_record() -> None:
    body = orjson.loads(
        response(b"s1", 7, 123, b"ok", 2, 99, 1500, b"OK, \xff", [b"abc", b"\0"], True, b',"columns":[]', b',"x":1')
    )
    assert body == {
        "t": "response",
        "at": 123,
        "s": "s1",
        "n": 7,
        "status": "ok",
        "rows": 2,
        "bytes": 99,
        "us": 1500,
        "tag": "OK, \ufffd",
        "truncated": True,
        "wire": base64.b64encode(b"abc\0").decode(),
        "columns": [],
        "x": 1,
    }


def test_a_long_text_is_cut_and_says_so() -> None:
    body = orjson.loads(b"{" + text_field("x" * (MAX_TEXT + 1))[1:] + b"}")
    assert len(body["text"]) == MAX_TEXT
    assert body["text_cut"] == MAX_TEXT + 1


def test_a_long_parameter_is_cut_and_says_so() -> None:
    assert shown("x" * MAX_PARAM) == "x" * MAX_PARAM
    assert shown("x" * (MAX_PARAM + 1)) == "x" * MAX_PARAM + f"... ({MAX_PARAM + 1} characters)"


def test_the_fields_are_those_of_postgresql() -> None:
    """One index and one reference serve both."""
    from protocols.postgres import evidence as other

    decision = Decision(Action.ALLOW, "a", "")
    mine, theirs = command_static(ANALYSIS, decision, ""), other.command_static(ANALYSIS, decision, "")
    assert orjson.loads(b"{" + mine + b"}").keys() == orjson.loads(b"{" + theirs + b"}").keys()
    arguments = (b"s", 1, 1, b"ok", 0, 0, 0, b"", (), False)
    assert orjson.loads(evidence.response(*arguments)).keys() == orjson.loads(other.response(*arguments)).keys()
