"""Forms."""

from __future__ import annotations

import pytest

from guard.mask.bodies import BodyError, Limits
from tests.guard.mask.bodies.shared import any_step, both, contents, fields, masked

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a=1&email=x%40y&b=2", b"a=1&email=[masked]&b=2"),
        (b"EMAIL=x", b"EMAIL=[masked]"),
        (b"%65mail=x&email", b"%65mail=[masked]&email"),
        (b"email=1&email=2&&", b"email=[masked]&email=[masked]&&"),
        (b"a=1;email=x;y", b"a=1;email=[masked]"),
        (b"email=x;a=1", b"email=[masked]"),
        (b"e+mail=x&a=b+c%20d", b"e+mail=x&a=b+c%20d"),
        (b"", b""),
    ],
)
def test_fields(body: bytes, expected: bytes) -> None:
    assert any_step(FORM, body, fields("email")) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"n=to+bob%40example.com%21", b"n=to+[masked]%21"),
        (b"card=4111+1111+1111+1111&x=1", b"card=[masked]&x=1"),
        (b"password=p%26w", b"password=[masked]"),
        (b"bob@example.com", b"[masked]"),
        (b"bob%40example.com=1", b"[masked]=1"),
        (b"t=%F0%9F%98%80&x=~", b"t=%F0%9F%98%80&x=~"),
    ],
)
def test_contents(body: bytes, expected: bytes) -> None:
    assert any_step(FORM, body, contents()) == expected


@pytest.mark.parametrize("body", [b"a=%", b"a=%4", b"%zz=1&b=2"])
def test_a_broken_escape_is_an_error(body: bytes) -> None:
    with pytest.raises(BodyError, match="percent sign"):
        masked(FORM, body, both("email"))


def test_a_long_field_is_an_error() -> None:
    with pytest.raises(BodyError, match="more than 100 bytes"):
        masked(FORM, b"a=" + b"x" * 300, fields("email"), step=10, limits=Limits(value=100))
