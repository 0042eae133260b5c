"""Personal data: cards, accounts, addresses, numbers of people. Wherever a number has a check digit it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable

from guard.detect import checks
from guard.detect.alphabets import LOCAL_PART, NUMBER, TOKEN
from guard.detect.finding import Anchor, Kind, Pattern, Reach

_P = Kind.PERSONAL
_NUMBER = Reach(72, NUMBER)
_EDGE = rb"(?:^|[^0-9A-Za-z])"  # of an anchor: stands before what `back` counts
_LEFT = rb"(?<![0-9A-Za-z])"
_ALONE = rb"(?![0-9A-Za-z])"


def _number(name: str, check: Callable[[bytes], bool], regex: bytes, *anchors: tuple[bytes, int]) -> Pattern:
    """A number between bytes that are no letter or digit. An anchor is an expression and its width."""
    found = tuple(Anchor(_EDGE + expression, width) for expression, width in anchors)
    return Pattern(name, _P, found, re.compile(_LEFT + regex + _ALONE), _NUMBER, check)


_CODES = "|".join(checks.IBAN_LENGTHS).encode()
# as long as the country's are: behind a number in groups a word of four letters looks like one more
_IBANS = b"|".join(
    rb"(?:%s)[0-9]{2}(?:[ -]?[A-Z0-9]){%d}"
    % ("|".join(c for c, n in checks.IBAN_LENGTHS.items() if n == size).encode(), size - 4)
    for size in sorted(set(checks.IBAN_LENGTHS.values()))
)
_MONTH_DAY = rb"[01][0-9][0-3][0-9]"

PERSONAL: tuple[Pattern, ...] = (
    _number(
        "card",
        checks.card,
        rb"(?<![0-9][.-])(?:[3-6][0-9]{13,18}|2[0-9]{15}|8[0-9]{15}|4[0-9]{12}"
        rb"|[2-68][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
        rb"|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![ .-]?[0-9])",
        (rb"[2-68][0-9]{12}", 13),
        (rb"[2-68][0-9]{3}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{4}", 19),
        (rb"3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4}", 16),
    ),
    Pattern(
        "iban",
        _P,
        (
            Anchor(_EDGE + rb"(?:" + _CODES + rb")[0-9]{2}[A-Z0-9]{8}", 12, caseless=True),
            Anchor(_EDGE + rb"(?:" + _CODES + rb")[0-9]{2}[ -][A-Z0-9]{4}[ -]", 10, caseless=True),
        ),
        re.compile(_LEFT + rb"(?i:" + _IBANS + rb")" + _ALONE),
        _NUMBER,
        checks.iban,
    ),
    _number(
        "us-ssn", checks.ssn, rb"(?<![0-9]-)[0-9]{3}-[0-9]{2}-[0-9]{4}(?!-?[0-9])", (rb"[0-9]{3}-[0-9]{2}-[0-9]{4}", 11)
    ),
    Pattern(
        "email",
        _P,
        (Anchor(rb"[A-Za-z0-9_%+-]@[A-Za-z0-9]", 2, stretch=LOCAL_PART),),
        re.compile(rb"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9][A-Za-z0-9.-]{0,250}\.[A-Za-z]{2,24}"),
        Reach(8192, TOKEN),
        checks.email,
    ),
    Pattern(
        "phone",
        _P,
        (Anchor(rb"(?:^|[^0-9A-Za-z+/])\+[1-9][0-9 .()-]", 3),),
        re.compile(rb"(?<![0-9A-Za-z+/])\+[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,4}\))?(?:[ .-]?[0-9]){5,14}(?![0-9])"),
        _NUMBER,
        checks.phone,
    ),
    Pattern(
        "phone",
        _P,
        (
            Anchor(rb"\([2-9][0-9]{2}\)[2-9][0-9]{2}[-.][0-9]{4}", 13),
            Anchor(rb"\([2-9][0-9]{2}\) [2-9][0-9]{2}[-.][0-9]{4}", 14),
            Anchor(_EDGE + rb"[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}", 12),
            Anchor(_EDGE + rb"[2-9][0-9]{2}\.[2-9][0-9]{2}\.[0-9]{4}", 12),
        ),
        re.compile(
            rb"(?<![0-9A-Za-z])(?<![0-9][.-])"
            rb"(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([-.]))[2-9][0-9]{2}(?(1)\1|[-.])[0-9]{4}"
            rb"(?![0-9A-Za-z]|[.-][0-9])"
        ),
        _NUMBER,
        checks.phone,
    ),
    _number(
        "fr-nir",
        checks.nir,
        rb"[12] ?[0-9]{2} ?[01][0-9] ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
        (rb"[12][0-9]{4}[0-9AB]{2}[0-9]{6}", 13),
        (rb"[12] [0-9]{2} [0-9]{2} [0-9][0-9AB] ", 11),
    ),
    _number(
        "it-codice-fiscale",
        checks.codice_fiscale,
        rb"[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z][0-9]{3}[A-Za-z]",
        (rb"[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}", 11),
    ),
    _number(
        "es-dni",
        checks.dni,
        rb"(?:[XYZ]-?[0-9]{7}|[0-9]{8})-?[A-HJ-NP-TV-Z]",
        (rb"[0-9]{8}[A-Z-]", 9),
        (rb"[XYZ][0-9]{7}", 8),
        (rb"[XYZ]-[0-9]{7}", 9),
    ),
    _number(
        "br-cpf", checks.cpf, rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", (rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", 14)
    ),
    _number(
        "de-steuer-id",
        checks.steuer_id,
        rb"(?<![0-9][.-])(?:[1-9][0-9]{10}|[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3})(?![ .-]?[0-9])",
        (rb"[1-9][0-9]{10}", 11),
        (rb"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", 14),
    ),
    _number(
        "uk-nino",
        checks.nino,
        rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:[0-9]{6}|(?: [0-9]{2}){3} )[A-D]",
        (rb"[A-Z]{2}[0-9]{6}[A-D]", 9),
        (rb"[A-Z]{2} [0-9]{2} [0-9]{2} [0-9]{2} [A-D]", 13),
    ),
    _number(
        "uk-nhs",
        checks.nhs,
        rb"(?<![0-9] )[0-9]{3} [0-9]{3} [0-9]{4}(?! ?[0-9])",
        (rb"[0-9]{3} [0-9]{3} [0-9]{4}", 12),
    ),
    _number(
        "ca-sin",
        checks.sin,
        rb"(?<![0-9][ -])[1-79][0-9]{2}([ -])[0-9]{3}\1[0-9]{3}(?![ -]?[0-9])",
        (rb"[1-79][0-9]{2}[ -][0-9]{3}[ -][0-9]{3}", 11),
    ),
    _number(
        "ch-ahv",
        checks.ahv,
        rb"756(?:\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}|[0-9]{10})",
        (rb"756\.[0-9]{4}\.", 9),
        (rb"756[0-9]{10}", 13),
    ),
    _number(
        "se-personnummer",
        checks.personnummer,
        rb"(?<![0-9]-)(?:(?:19|20)[0-9]{2}|[0-9]{2})" + _MONTH_DAY + rb"[-+][0-9]{4}",
        (rb"[0-9]{2}" + _MONTH_DAY + rb"[-+][0-9]{4}", 11),
        (rb"(?:19|20)[0-9]{2}" + _MONTH_DAY + rb"[-+][0-9]{4}", 13),
    ),
    _number(
        "fi-hetu",
        checks.hetu,
        rb"[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]",
        (rb"[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}", 10),
    ),
    _number(
        "be-rijksregister",
        checks.rijksregister,
        rb"[0-9]{2}\.[01][0-9]\.[0-3][0-9]-[0-9]{3}\.[0-9]{2}",
        (rb"[0-9]{2}\.[01][0-9]\.[0-3][0-9]-[0-9]{3}\.[0-9]{2}", 15),
    ),
)

# ---------------------------------------------------------------- numbers too plain to stand alone: a name before them

_NAMED: tuple[tuple[str, bytes, bytes, Callable[[bytes], bool]], ...] = (
    (
        "us-ssn",
        rb"ssn|social[ _-]?security(?:[ _-]?(?:no|nr|num|number))?",
        rb"[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4}",
        checks.ssn,
    ),
    ("nl-bsn", rb"bsn|burgerservicenummer|sofinummer", rb"[0-9]{8,9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", checks.bsn),
    ("pl-pesel", rb"pesel", rb"[0-9]{11}", checks.pesel),
    ("ca-sin", rb"sin(?:[ _-]?(?:no|nr|number))", rb"[0-9]{9}", checks.sin),
    ("in-aadhaar", rb"aadhaar|uidai", rb"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", checks.aadhaar),
    ("br-cpf", rb"cpf", rb"[0-9]{11}", checks.cpf),
    ("se-personnummer", rb"personnummer|personal[ _-]?number", rb"(?:19|20)?[0-9]{10}", checks.personnummer),
    ("phone", rb"(?:tele)?phone|mobile|msisdn|tel", rb"\(?[0-9](?:[ .()/-]{0,2}[0-9]){6,13}", checks.phone),
)
_BETWEEN = rb"[\w]{0,12}\\?[\"']?\s{0,4}[:=#]?\s{0,4}\\?[\"']?"


def _named(name: str, word: bytes, value: bytes, check: Callable[[bytes], bool]) -> Pattern:
    front = rb"(?i:(?<![A-Za-z])(?:" + word + rb"))"
    return Pattern(
        name,
        _P,
        (
            Anchor(
                rb"(?:" + word + rb")[\w]{0,12}\\?[\"']?\s{0,4}[:=#]?\s{0,4}\\?[\"']?\(?[0-9]",
                0,
                som=True,
                caseless=True,
            ),
        ),
        re.compile(front + _BETWEEN + rb"(" + value + rb")(?![0-9A-Za-z])"),
        Reach(160, open=re.compile(front + rb"[\w]{0,12}[\\\"'\s:=#0-9 .()/-]{0,60}\Z")),
        check,
        inner=True,
    )


PERSONAL = (*PERSONAL, *(_named(*one) for one in _NAMED))
