"""What each strategy makes of each kind of value."""

from __future__ import annotations

import ipaddress
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask.strategies import MAX_PARTIAL, STRATEGIES, build, check_rule, strictness
from protocols.contract import MaskRule, ValueKind

KEY = b"k" * 32
K = ValueKind


def rule(strategy: str, **options: Any) -> MaskRule:
    return MaskRule("r", ("a.b.c",), (), strategy, options)


def apply(strategy: str, value: str, kind: ValueKind = K.TEXT, limit: int | None = None, **options: Any) -> str | None:
    assert check_rule(rule(strategy, **options)) == []
    return build(rule(strategy, **options), KEY, "a.b.c")(value, kind, limit)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("4111111111111111", {"keep_first": 2, "keep_last": 4}, "41**********1111"),
        ("4111-1111-1111-1111", {"keep_first": 2, "keep_last": 4}, "41**-****-****-1111"),
        ("123-45-6789", {"keep_last": 4}, "***-**-6789"),
        ("alice@example.com", {"keep_first": 1}, "a****@*******.***"),
        ("Bob", {"keep_first": 1}, "B**"),
        ("12345", {"keep_last": 4}, "*****"),
        ("ab", {"keep_first": 1, "keep_last": 1}, "**"),
        ("a", {"keep_first": 1}, "*"),
        ("", {"keep_first": 1}, ""),
        ("!!--!!", {"keep_last": 4}, "******"),
        ("a---------", {"keep_last": 4}, "**********"),
        ("Müller", {"keep_first": 2}, "Mü****"),
        ("secret", {}, "******"),
    ],
)
def test_partial(text: str, options: dict[str, Any], expected: str) -> None:
    assert apply("partial", text, **options) == expected


@given(st.text(min_size=1, max_size=50), st.integers(0, 60), st.integers(0, 60))
def test_partial_hides_at_least_a_third(text: str, first: int, last: int) -> None:
    masked = apply("partial", text, keep_first=first, keep_last=last)
    assert masked is not None
    assert len(masked) == len(text)
    letters = [i for i, c in enumerate(text) if c.isalnum()]
    hidden = [i for i in letters if masked[i] == "*"]
    assert 3 * len(hidden) >= len(letters)
    assert all(c in "*" or c == masked[i] for i, c in enumerate(masked))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("4111111111111111", K.INTEGER, "4100000000001111"),
        ("-123456", K.INTEGER, "-120056"),
        ("12", K.INTEGER, "0"),
        ("123456.78", K.NUMBER, "120000.78"),
        ("4111aaaa-bbbb-4ccc-8ddd-eeeeeeee1111", K.UUID, "41000000-0000-0000-0000-000000001111"),
        ("1980-03-04", K.DATE, None),
        ("00ff", K.BYTES, None),
        ('"4111111111111111"', K.JSON, '"41**********1111"'),
        ("4111111111111111", K.JSON, "4100000000001111"),
        ('{"a": "b"}', K.JSON, None),
        ('["a"]', K.JSON, None),
        ("true", K.JSON, None),
        ("192.168.1.1", K.ADDRESS, None),
    ],
)
def test_partial_of_other_kinds(text: str, kind: ValueKind, expected: str | None) -> None:
    options = {"keep_first": 2, "keep_last": 4 if len(text) > 10 else 2}
    assert apply("partial", text, kind, **options) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (K.TEXT, "[masked]"),
        (K.JSON, '"[masked]"'),
        (K.BYTES, b"[masked]".hex()),
        (K.INTEGER, None),
        (K.NUMBER, None),
        (K.UUID, None),
        (K.DATE, None),
        (K.TIMESTAMP, None),
        (K.ADDRESS, None),
        (K.OPAQUE, None),
    ],
)
def test_redact(kind: ValueKind, expected: str | None) -> None:
    assert apply("redact", "", kind) == expected


def test_redact_fits_a_short_column() -> None:
    assert apply("redact", "abc", limit=3) == "***"
    assert apply("redact", "abc", text="hidden") == "hidden"


@pytest.mark.parametrize("kind", list(K))
def test_null_is_always_null(kind: ValueKind) -> None:
    assert apply("null", "1", kind) is None


def test_hash_is_keyed_and_separated_by_column() -> None:
    one = apply("hash", "alice")
    assert one is not None
    assert len(one) == 64
    assert apply("hash", "alice", length=16) == one[:16]
    assert build(rule("hash"), b"o" * 32, "a.b.c")("alice", K.TEXT, None) != one
    assert build(rule("hash"), KEY, "a.b.d")("alice", K.TEXT, None) != one
    shared = rule("hash", domain="mail")
    assert build(shared, KEY, "a.b.c")("alice", K.TEXT, None) == build(shared, KEY, "x.y.z")("alice", K.TEXT, None)


def test_hash_that_does_not_fit_is_withheld() -> None:
    assert apply("hash", "alice", limit=7) is None
    assert len(apply("hash", "alice", limit=9) or "") == 9
    assert apply("hash", "0.05", K.NUMBER, limit=0) is None


@given(st.integers(0, 2**31 - 1), st.sampled_from([2**15 - 1, 2**31 - 1, 2**63 - 1]))
def test_hash_of_an_integer_stays_in_range(n: int, top: int) -> None:
    assert 0 <= int(apply("hash", str(n), K.INTEGER, limit=top) or -1) <= top


@pytest.mark.parametrize("strategy", ["hash", "tokenise"])
def test_ids_and_addresses_become_other_ids_and_addresses(strategy: str) -> None:
    one = str(uuid.uuid4())
    masked = apply(strategy, one, K.UUID)
    assert masked is not None
    assert masked != one
    assert uuid.UUID(masked).version == 4
    assert ipaddress.ip_address(apply(strategy, "8.8.8.8", K.ADDRESS) or "") in ipaddress.ip_network("10.0.0.0/8")
    assert ipaddress.ip_address(apply(strategy, "2001:db8::1", K.ADDRESS) or "") in ipaddress.ip_network("fd00::/8")


@given(st.integers(-(2**31), 2**31 - 1))
def test_token_of_an_integer_keeps_sign_and_digits(n: int) -> None:
    token = apply("tokenise", str(n), K.INTEGER, limit=2**31 - 1)
    assert token is not None
    assert abs(int(token)) <= 2**31 - 1
    assert len(token) == len(str(n))


@pytest.mark.parametrize("text", ["1234.50", "-0.05", "7", "100000.000001"])
def test_token_of_a_number_keeps_its_form(text: str) -> None:
    token = apply("tokenise", text, K.NUMBER)
    assert token is not None
    assert [c.isdigit() for c in token] == [c.isdigit() for c in text]


def test_token_of_bytes_keeps_the_length() -> None:
    assert len(apply("tokenise", "00" * 100, K.BYTES) or "") == 200


@pytest.mark.parametrize(
    ("text", "kind", "precision", "expected"),
    [
        ("1980-03-04", K.DATE, "year", "1980-01-01"),
        ("1980-03-04", K.DATE, "month", "1980-03-01"),
        ("1980-03-04", K.DATE, None, "1980-01-01"),
        ("1980-03-04 12:13:14.5", K.TIMESTAMP, "day", "1980-03-04 00:00:00"),
        ("1980-03-04 12:13:14", K.TEXT, "month", "1980-03-01"),
        ("1980-03-04", K.TEXT, "year", "1980-01-01"),
        ("04.03.1980", K.TEXT, "year", None),
        ("1980-03-04x", K.TEXT, "year", None),
        ('"1980-03-04"', K.JSON, "year", '"1980-01-01"'),
        ("19800304", K.INTEGER, "year", None),
    ],
)
def test_date(text: str, kind: ValueKind, precision: str | None, expected: str | None) -> None:
    assert apply("date", text, kind, precision=precision) == expected


anything = st.one_of(st.text(max_size=40), st.from_regex(r"-?\d{1,30}(\.\d{1,9})?", fullmatch=True))


@given(st.sampled_from(sorted(set(STRATEGIES) - {"withhold"})), anything)
def test_no_strategy_raises_for_any_text_or_json(strategy: str, text: str) -> None:
    apply(strategy, text)
    apply(strategy, text, K.JSON)
    apply(strategy, json.dumps(text), K.JSON)
    apply(strategy, "1234.5", K.NUMBER)


@given(st.text(alphabet="abcdefgh0123456789-@.", min_size=8, max_size=40).filter(lambda t: any(c.isalnum() for c in t)))
def test_a_masked_value_does_not_show(text: str) -> None:
    for strategy in ("redact", "hash", "null", "partial"):
        masked = apply(strategy, text)
        assert masked is None or text not in masked


@pytest.mark.parametrize(
    ("strategy", "options", "part"),
    [
        ("blur", {}, "does not exist"),
        ("partial", {"keep": 2}, "no option `keep`"),
        ("partial", {"keep_first": -1}, "keep_first"),
        ("partial", {"keep_first": True}, "keep_first"),
        ("partial", {"keep_last": "4"}, "keep_last"),
        ("hash", {"length": 4}, "length"),
        ("hash", {"length": 65}, "length"),
        ("hash", {"domain": ""}, "domain"),
        ("date", {"precision": "decade"}, "precision"),
        ("redact", {"text": ""}, "text"),
        ("redact", {"text": "a\0b"}, "text"),
        ("null", {"text": "x"}, "no option"),
    ],
)
def test_a_rule_that_cannot_work_is_named(strategy: str, options: dict[str, Any], part: str) -> None:
    problems = check_rule(rule(strategy, **options))
    assert any(part in text for text in problems)


def test_unknown_origin_is_checked() -> None:
    assert check_rule(MaskRule("r", ("a.b.c",), (), "null", {}, "maybe"))


def test_strictest_first() -> None:
    rules = [
        rule("date", precision="month"),
        rule("date"),
        rule("partial", keep_first=4),
        rule("partial", keep_last=2),
        rule("tokenise"),
        rule("hash"),
        rule("hash", length=8),
        rule("redact"),
        rule("null"),
    ]
    ordered = [(r.strategy, dict(r.options)) for r in sorted(rules, key=strictness)]
    assert ordered == [
        ("null", {}),
        ("redact", {}),
        ("hash", {"length": 8}),
        ("hash", {}),
        ("tokenise", {}),
        ("partial", {"keep_last": 2}),
        ("partial", {"keep_first": 4}),
        ("date", {}),
        ("date", {"precision": "month"}),
    ]


def test_a_long_text_is_withheld_rather_than_hidden_slowly() -> None:
    assert apply("partial", "a" * (MAX_PARTIAL + 1)) is None
