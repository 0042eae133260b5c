"""Check digits: published examples hold, and one wrong digit does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.detect import checks

GOOD: list[tuple[Callable[[bytes], bool], bytes]] = [
    (checks.card, b"4111111111111111"),
    (checks.card, b"5555 5555 5555 4444"),
    (checks.card, b"378282246310005"),
    (checks.card, b"30569309025904"),
    (checks.card, b"3530111333300000"),
    (checks.card, b"6011000990139424"),
    (checks.card, b"2223003122003222"),
    (checks.card, b"6240008631401148"),
    (checks.iban, b"DE89370400440532013000"),
    (checks.iban, b"GB82 WEST 1234 5698 7654 32"),
    (checks.iban, b"FR1420041010050500013M02606"),
    (checks.iban, b"NO9386011117947"),
    (checks.iban, b"CH9300762011623852957"),
    (checks.cpf, b"529.982.247-25"),
    (checks.nir, b"255081416802538"),
    (checks.nir, b"1 85 05 78 006 084 91"),
    (checks.codice_fiscale, b"RSSMRA85T10A562S"),
    (checks.dni, b"12345678Z"),
    (checks.dni, b"X1234567L"),
    (checks.steuer_id, b"86095742719"),
    (checks.steuer_id, b"65929970489"),
    (checks.nhs, b"943 476 5919"),
    (checks.aadhaar, b"2341 2341 2346"),
    (checks.sin, b"193-456-787"),
    (checks.ahv, b"756.9217.0769.85"),
    (checks.personnummer, b"811218-9876"),
    (checks.hetu, b"131052-308T"),
    (checks.rijksregister, b"85.07.30-033.28"),
    (checks.bsn, b"111222333"),
    (checks.pesel, b"44051401359"),
]
ALL = (
    checks.card,
    checks.iban,
    checks.ssn,
    checks.email,
    checks.phone,
    checks.cpf,
    checks.nir,
    checks.codice_fiscale,
    checks.dni,
    checks.steuer_id,
    checks.nhs,
    checks.aadhaar,
    checks.sin,
    checks.ahv,
    checks.personnummer,
    checks.hetu,
    checks.rijksregister,
    checks.bsn,
    checks.pesel,
    checks.nino,
    checks.random_looking,
    checks.password,
)


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_examples(check: Callable[[bytes], bool], value: bytes) -> None:
    assert check(value)


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_one_wrong_digit(check: Callable[[bytes], bool], value: bytes) -> None:
    """Each algorithm here finds every change of a single digit, but for those that count digits by remainder."""
    wrong = 0
    changed = 0
    for at, byte in enumerate(value):
        if byte not in b"0123456789":
            continue
        for other in b"0123456789":
            if other != byte:
                changed += 1
                wrong += check(value[:at] + bytes((other,)) + value[at + 1 :])
    assert wrong <= changed * 0.04, (wrong, changed)


@pytest.mark.parametrize(
    "value", [b"000-12-3456", b"666-12-3456", b"123-00-4567", b"123-45-0000", b"900-12-3456", b"111-11-1111"]
)
def test_numbers_that_are_never_given_out(value: bytes) -> None:
    assert not checks.ssn(value)


def test_ssn_and_taxpayers() -> None:
    assert checks.ssn(b"123-45-6789")
    assert checks.ssn(b"912-70-1234")


@pytest.mark.parametrize(
    "value",
    [
        *(b"icon@2x.png", b".a@b.com", b"a.@b.com", b"a..b@c.com", b"a@b..com"),
        *(b"4@Y.em", b"1@OMj.Gj", b"U@1.pN", b"U@1.de", b"ab@cd.dE"),  # found in compressed bytes
    ],
)
def test_no_email(value: bytes) -> None:
    assert not checks.email(value)


@pytest.mark.parametrize("value", [b"a@b.com", b"a@bc.de", b"A@BC.DE", b"x@mail.corp.eu", b"jo@x.info", b"a@ab.CO"])
def test_email(value: bytes) -> None:
    assert checks.email(value)


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9 .-]{0,30}", fullmatch=True), st.sampled_from(ALL))
def test_no_value_makes_a_check_raise(value: bytes, check: Callable[[bytes], bool]) -> None:
    assert check(value) in (True, False)
