"""JSON: what is masked is masked in every spelling, everything else is the same bytes, and nothing else is JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.mask.bodies import BodyError, BodyRules, ContentRule, FieldRule, Limits
from tests.guard.mask.bodies.shared import NULL, REDACT, TOKEN, any_step, both, contents, fields, mask, masked
from tests.support.examples import examples

JSON = "application/json"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("email", b'{"email":"x"}', b'{"email":"[masked]"}'),
        ("$.email", b'{"email" :\t"x" , "a":1}', b'{"email" :\t"[masked]" , "a":1}'),
        ("EMAIL", b'{"eMail":"x"}', b'{"eMail":"[masked]"}'),
        ("email", b'{"e\\u006dail":"x"}', b'{"e\\u006dail":"[masked]"}'),
        ("email", b'{"emails":"x","a":{"email":"x"}}', b'{"emails":"x","a":{"email":"x"}}'),
        (
            "**.email",
            b'{"a":[{"b":{"email":"x"}}],"email":"y"}',
            b'{"a":[{"b":{"email":"[masked]"}}],"email":"[masked]"}',
        ),
        ("a[].b", b'{"a":[{"b":"1"},[{"b":"2"}]]}', b'{"a":[{"b":"[masked]"},[{"b":"[masked]"}]]}'),
        ("a.b", b'{"a":{"b":"1"}}', b'{"a":{"b":"[masked]"}}'),
        ("a[0].b", b'[{"a":{"b":"1"}}]', b'[{"a":{"b":"[masked]"}}]'),
        ("a.*.c", b'{"a":{"x":{"c":"1"},"c":"2"}}', b'{"a":{"x":{"c":"[masked]"},"c":"2"}}'),
        ("*_id", b'{"user_id":"1","id":"2"}', b'{"user_id":"[masked]","id":"2"}'),
        ("i?", b'{"id":"1","idx":"2"}', b'{"id":"[masked]","idx":"2"}'),
        ("a\\.b", b'{"a.b":"1","a":{"b":"2"}}', b'{"a.b":"[masked]","a":{"b":"2"}}'),
        (
            "tags",
            b'{"tags":["a",["b"],{"c":"d"},null,true,7]}',
            b'{"tags":["[masked]",["[masked]"],null,null,null,null]}',
        ),
        ("user", b'{"user":{"a":[{"b":"x"}]},"z":1}', b'{"user":null,"z":1}'),
        ("user.**", b'{"user":{"a":"x"},"z":1}', b'{"user":null,"z":1}'),
        ("**", b'{"a":1}', b"null"),
        ("a", b'{"a":"1","b":2,"a":"3"}', b'{"a":"[masked]","b":2,"a":"[masked]"}'),
        (
            "stra\u00dfe",
            '{"STRASSE":"x","stra\u00dfe":"y"}'.encode(),
            '{"STRASSE":"[masked]","stra\u00dfe":"[masked]"}'.encode(),
        ),
        ("key", '{"\u212aey":"x"}'.encode(), '{"\u212aey":"[masked]"}'.encode()),
        ("a", b'{"a":""}', b'{"a":"[masked]"}'),
        ("a", b'\xef\xbb\xbf{"a":"x"}', b'\xef\xbb\xbf{"a":"[masked]"}'),
        ("a", b"  \n", b"  \n"),
        ("a", b"", b""),
        ("a", b'"text"', b'"text"'),
        ("a", b"12", b"12"),
    ],
)
def test_paths(path: str, body: bytes, expected: bytes) -> None:
    assert any_step(JSON, body, fields(path)) == expected


def test_values_keep_their_type_or_become_null() -> None:
    body = b'{"a":4111111111111111,"b":-12.50,"c":1e9,"d":true,"e":null,"f":"x-1"}'
    out = json.loads(any_step(JSON, body, fields("*", by=TOKEN)))
    assert isinstance(out["a"], int)
    assert len(str(out["a"])) == 16
    assert out["a"] != 4111111111111111
    assert isinstance(out["b"], float)
    assert out["b"] != -12.5
    assert (out["c"], out["d"], out["e"]) == (None, None, None)
    assert out["f"] != "x-1"
    assert json.loads(masked(JSON, body, fields("*"))) == dict.fromkeys("abcde") | {"f": "[masked]"}
    assert json.loads(masked(JSON, body, fields("*", by=NULL))) == dict.fromkeys("abcdef")
    kept = mask("partial", keep_last=4)
    assert json.loads(masked(JSON, b'{"a":4111111111111111}', fields("a", by=kept))) == {"a": 1111}


def test_the_stricter_of_two_masks_decides() -> None:
    for rules in ((FieldRule("a", TOKEN), FieldRule("*", NULL)), (FieldRule("a", NULL), FieldRule("*", TOKEN))):
        assert masked(JSON, b'{"a":"x"}', BodyRules(rules)) == b'{"a":null}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"n":"mail bob@example.com now"}', b'{"n":"mail [masked] now"}'),
        (b'{"n":"bob\\u0040example.com \\/ \\n"}', b'{"n":"[masked] / \\n"}'),
        (b'["4111111111111111",4111111111111111,1.5]', b'["[masked]",null,1.5]'),
        (b'{"password":"hun\\"ter2"}', b'{"password":"[masked]"}'),
        (b'{"id":1,"password":"hunter2","x":[{"y":1}]}', b'{"id":1,"password":"[masked]","x":[{"y":1}]}'),
        (
            b'{"phone":["0171 5551234",{"a":1},"x"],"b":["0171 5551234"]}',
            b'{"phone":["[masked]",{"a":1},"x"],"b":["0171 5551234"]}',
        ),
        (b'{"password":"p@ss word, with \\\\ and more"}', b'{"password":"[masked]"}'),
        (b'{"user":{"ssn":123456789}}', b'{"user":{"ssn":null}}'),
        (b'{"a":"\xc3\xa9 bob@example.com"}', b'{"a":"\xc3\xa9 [masked]"}'),
        (b'{"bob@example.com":1}', b'{"[masked]":1}'),
        (b'{"x":{"bob\\u0040example.com":[1]}}', b'{"x":{"[masked]":[1]}}'),
        (b'{"a":"' + b"x" * 300 + b' bob@example.com"}', b'{"a":"' + b"x" * 300 + b' [masked]"}'),
        (b'{"a":"\\ud800 bob@example.com"}', b'{"a":"\\ud800 [masked]"}'),
    ],
)
def test_contents(body: bytes, expected: bytes) -> None:
    assert any_step(JSON, body, contents()) == expected


def test_a_value_without_a_masked_form_is_replaced_within_its_text() -> None:
    assert masked(JSON, b'{"a":"to bob@example.com"}', contents(by=NULL)) == b'{"a":"to [withheld]"}'


def test_findings_that_overlap_are_one() -> None:
    rules = BodyRules(contents=(ContentRule(("email",), TOKEN), ContentRule(("url-password",), REDACT)))
    assert masked(JSON, b'["http://u:pw1@db.example.com/x"]', rules) == b'["http://u:[masked]/x"]'


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":1,',
        b'"abc',
        b"tru",
        b"-",
        b"1.",
        b"01",
        b"+1",
        b".5",
        b"1e",
        b"0x1",
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1,}',
        b"[1,]",
        b"[1 2]",
        b'{"a" 1}',
        b'{"a":1 "b":2}',
        b"[}",
        b"{]",
        b"]",
        b"NaN",
        b"[Infinity]",
        b"// x\n1",
        b"/*x*/1",
        b"1 2",
        b'{} "x"',
        b'"\t"',
        b'"\x00"',
        b'"\\x41"',
        b'"\\u12"',
        b'"\\u12g4"',
        b"{1:2}",
        b"truex",
        b"nul",
        b'"\xff"',
        b'"\xc3',
        b'"\xed\xa0\x80"',
        b"\xff\xfe{\x00}\x00",
        b")]}',\n{}",
        b'{"a":tru}',
        b'{,"a":1}',
        b"[,1]",
        b'{"a":1}}',
        b'{"a":[1,2}',
        b"\xef\xbb",
        b"\x0b1",
    ],
)
@pytest.mark.parametrize("rules", [fields("**.secret"), contents(), both("secret")], ids=["fields", "contents", "both"])
def test_what_is_no_json_is_an_error(body: bytes, rules: BodyRules) -> None:
    for step in (1, 2, 1000):
        with pytest.raises(BodyError):
            masked(JSON, body, rules, step)


def test_an_error_quotes_nothing_of_the_body() -> None:
    for body in (b'{"ssn":"078-05-1120" 078}', b'["078-05-1120\\q"]', b'"078-05-1120'):
        with pytest.raises(BodyError) as caught:
            masked(JSON, body, fields("a"))
        assert "078" not in str(caught.value)


def test_limits() -> None:
    with pytest.raises(BodyError, match="deeper than 256"):
        masked(JSON, b"[" * 257 + b"]" * 257, fields("a"))
    assert masked(JSON, b"[" * 256 + b"]" * 256, fields("a")) == b"[" * 256 + b"]" * 256
    small = Limits(value=1000)
    for body in (b'{"a":"' + b"x" * 5000 + b'"}', b"1" * 5000, b'{"' + b"k" * 5000 + b'":1}'):
        with pytest.raises(BodyError, match="more than 1000 bytes"):
            masked(JSON, body, fields("a"), step=100, limits=small)
    # what is complete when it comes is not held, whatever its size
    assert masked(JSON, b'{"b":"' + b"x" * 5000 + b'"}', fields("a"), limits=small) == b'{"b":"' + b"x" * 5000 + b'"}'


def test_sequences() -> None:
    lines = b'{"email":"x"}\n{"email":"y","a":[1]}\n'
    expected = b'{"email":"[masked]"}\n{"email":"[masked]","a":[1]}\n'
    for kind in ("application/x-ndjson", "application/json;stream=watch", "application/jsonl; charset=utf-8"):
        assert any_step(kind, lines, fields("email")) == expected
    assert (
        any_step("application/json-seq", b'\x1e{"email":"x"}\n\x1e[]\n', fields("email"))
        == b'\x1e{"email":"[masked]"}\n\x1e[]\n'
    )
    with pytest.raises(BodyError):
        masked(JSON, lines, fields("email"))
    with pytest.raises(BodyError):
        masked("application/x-ndjson", lines[:-3], fields("email"))


def test_a_document_of_a_watch_is_given_out_at_once() -> None:
    from guard.mask.bodies import body_masker

    masker = body_masker("application/json;stream=watch", "", both("email"))
    assert masker.feed(b'{"email":"x"}\n') == b'{"email":"[masked]"}\n'
    assert masker.feed(b'{"email":') == b'{"email":'
    assert masker.feed(b'"se') == b""


# ---------------------------------------------------------------- against a model

SECRET_KEYS = ("secret", "Secret", "SECRET")
KEYS = st.sampled_from(["a", "b", "id", "s\u00e9", "x y", 'q"', "list", *SECRET_KEYS])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)


def model(value: Any, hidden: bool = False) -> Any:
    """What is left of a document when every `secret` at any depth is redacted."""
    if isinstance(value, dict):
        return None if hidden else {k: model(v, k.casefold() == "secret") for k, v in value.items()}
    if isinstance(value, list):
        return [model(item, hidden) for item in value]
    if not hidden:
        return value
    return "[masked]" if isinstance(value, str) else None


STYLES = st.sampled_from(
    [
        {},
        {"ensure_ascii": False},
        {"indent": 1},
        {"separators": (",", ":")},
        {"indent": "\t", "separators": (" ,", " : ")},
    ]
)


@given(VALUES, STYLES, st.integers(1, 40))
@settings(max_examples=examples(60))
def test_any_document_is_masked_as_the_model_says(value: Any, style: dict[str, Any], step: int) -> None:
    body = json.dumps(value, **style).encode()
    assert json.loads(masked(JSON, body, fields("**.secret"), step)) == model(value)
    assert json.loads(masked(JSON, body, both("**.secret"), step)) == model(value)
    assert masked(JSON, body, fields("**.nothing.like.this"), step) == body
    assert masked(JSON, body, contents(), step) == body or b"@" in body or b"\\" in body


@given(VALUES, st.data())
@settings(max_examples=examples(50))
def test_any_beginning_of_a_document_is_an_error(value: Any, data: st.DataObject) -> None:
    body = json.dumps({"k": value}).encode()
    cut = data.draw(st.integers(1, len(body) - 1))
    with pytest.raises(BodyError):
        masked(JSON, body[:cut], both("**.secret"), data.draw(st.integers(1, 40)))


@given(
    st.binary(max_size=40) | st.text(alphabet='{}[]",:\\ut01e-. nalsrf', max_size=40).map(str.encode), st.integers(1, 9)
)
@settings(max_examples=examples(150))
def test_what_passes_is_what_python_s_strict_reader_takes(body: bytes, step: int) -> None:
    """Any bytes: either an error, or JSON by another reader too."""
    try:
        out = masked(JSON, body, fields("**.secret"), step)
    except BodyError:
        return
    if out.strip(b" \t\r\n"):
        json.loads(out.decode("utf-8-sig"), parse_constant=lambda _: pytest.fail("a constant that JSON does not have"))
