"""Check digits and other rules that tell a value from a number that looks like one. Each takes bytes, none raises.

Sources: ISO/IEC 7812 (cards), ISO 13616 and ISO/IEC 7064 (IBAN), the Social Security Administration's rules for
numbers that are never given out, E.164, and the national authorities' published check-digit rules.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterable

_DIGITS = b"0123456789"
_KEEP_DIGITS = bytes(b for b in range(256) if b not in _DIGITS)
_SEPARATORS = b" -./()"


def digits(value: bytes) -> str:
    """The ASCII digits of a value, in order."""
    return value.translate(None, _KEEP_DIGITS).decode("ascii")


def _compact(value: bytes) -> str:
    return value.translate(None, _SEPARATORS).decode("ascii", "replace").upper()


def luhn(number: str) -> bool:
    total = 0
    for place, char in enumerate(reversed(number)):
        digit = int(char)
        if place % 2:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0


# first digits (as a range of equal length) and the lengths that the issuers use
_IIN: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("4", "4", frozenset({13, 16, 19})),
    ("51", "55", frozenset({16})),
    ("2221", "2720", frozenset({16})),
    ("34", "34", frozenset({15})),
    ("37", "37", frozenset({15})),
    ("6011", "6011", frozenset({16, 17, 18, 19})),
    ("644", "649", frozenset({16, 17, 18, 19})),
    ("65", "65", frozenset({16, 17, 18, 19})),
    ("3528", "3589", frozenset({16, 17, 18, 19})),
    ("300", "305", frozenset({14, 16})),
    ("36", "36", frozenset({14})),
    ("38", "39", frozenset({14, 16})),
    ("62", "62", frozenset({16, 17, 18, 19})),
    ("2200", "2204", frozenset({16, 17, 18, 19})),
    ("5018", "5018", frozenset({16, 18, 19})),
    ("5020", "5020", frozenset({16, 18, 19})),
    ("5038", "5038", frozenset({16, 18, 19})),
    ("6304", "6304", frozenset({16, 18, 19})),
    ("6759", "6759", frozenset({16, 18, 19})),
    ("6761", "6763", frozenset({16, 18, 19})),
    ("60", "60", frozenset({16})),
    ("81", "82", frozenset({16})),
)


def card(value: bytes) -> bool:
    """A payment card: an issuer's first digits, a length of that issuer, Luhn; not one digit all through."""
    number = digits(value)
    known = any(low <= number[: len(low)] <= high and len(number) in lengths for low, high, lengths in _IIN)
    return known and len(set(number)) > 1 and luhn(number)


IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19,
    "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip


def iban(value: bytes) -> bool:
    """The country's length, and the remainder by 97."""
    text = _compact(value)
    if len(text) != IBAN_LENGTHS.get(text[:2]) or not text.isascii() or not text.isalnum():
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def ssn(value: bytes) -> bool:
    """A US number as the SSA gives them out (or did for taxpayers: 9xx with group 50 to 99)."""
    number = digits(value)
    area, group, serial = number[:3], number[3:5], number[5:]
    if len(number) != 9 or area == "000" or area == "666" or group == "00" or serial == "0000":
        return False
    if area[0] == "9":
        return 50 <= int(group) <= 99 and int(group) not in (89, 93)
    return len(set(number)) > 1


_NO_TLD = frozenset(
    b"png jpg jpeg gif svg webp css js mjs ts tsx jsx html htm php py rb go rs java json xml yml yaml md txt log min "
    b"map so dll exe local localhost".split()
)


# the two letters that end a name in the DNS (IANA's root zone: country codes, eu, su, uk, ac)
_COUNTRIES = frozenset(
    (
        b"ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bv bw by "
        b"bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj "
        b"fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io "
        b"iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg "
        b"mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph "
        b"pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx "
        b"sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt "
        b"za zm zw"
    ).split()
)


def email(value: bytes) -> bool:
    """Not a file name (`icon@2x.png`), no dot where none may be, none of the shortest that bytes hold by chance.

    Compressed bytes have a letter, `@`, a letter, a dot and two letters once in some 20 MB: an upload would not pass.
    """
    local, _, domain = value.rpartition(b"@")
    name, _, tld = domain.rpartition(b".")
    if len(tld) == 2 and (tld.lower() not in _COUNTRIES or len(name) < 2 or not (tld.islower() or tld.isupper())):
        return False
    return (
        not local.startswith(b".")
        and not local.endswith(b".")
        and b".." not in value
        and local != b"git"  # a repository's address
        and tld.lower() not in _NO_TLD
    )


def phone(value: bytes) -> bool:
    """E.164: a country code and 8 to 15 digits in all, not all alike."""
    number = digits(value)
    return 8 <= len(number) <= 15 and len(set(number)) > 2


def _weighted(number: str, weights: Iterable[int]) -> int:
    return sum(int(d) * w for d, w in zip(number, weights, strict=False))


def cpf(value: bytes) -> bool:
    """Brazil: two check digits by 11."""
    number = digits(value)
    if len(number) != 11 or len(set(number)) == 1:
        return False
    return all((_weighted(number[:n], range(n + 1, 1, -1)) * 10 % 11) % 10 == int(number[n]) for n in (9, 10))


def nir(value: bytes) -> bool:
    """France: 97 minus the remainder of the first thirteen; Corsica's 2A and 2B count as 19 and 18."""
    text = _compact(value).replace("2A", "19").replace("2B", "18")
    return len(text) == 15 and text.isdigit() and 97 - int(text[:13]) % 97 == int(text[13:])


_ODD = {
    **dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)),
    **dict(
        zip(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
            strict=True,
        )
    ),
}


def codice_fiscale(value: bytes) -> bool:
    """Italy: the sixteenth character checks the others."""
    text = value.decode("ascii", "replace").upper()
    if len(text) != 16 or any(c not in _ODD for c in text):
        return False
    total = sum(_ODD[c] if i % 2 == 0 else (int(c) if c.isdigit() else ord(c) - 65) for i, c in enumerate(text[:15]))
    return chr(65 + total % 26) == text[15]


def dni(value: bytes) -> bool:
    """Spain: a letter by the remainder by 23; X, Y, Z of a foreigner's number count as 0, 1, 2."""
    text = _compact(value)
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return len(number) == 8 and number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def steuer_id(value: bytes) -> bool:
    """Germany: ISO 7064 MOD 11,10; of the first ten digits exactly one is there two or three times."""
    number = digits(value)
    if len(number) != 11 or number[0] == "0":
        return False
    counts = sorted(Counter(number[:10]).values())
    if counts[-1] not in (2, 3) or counts[:-1].count(1) != len(counts) - 1:
        return False
    product = 10
    for char in number[:10]:
        product = ((int(char) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10])


def nhs(value: bytes) -> bool:
    """England: modulo 11."""
    number = digits(value)
    rest = 11 - _weighted(number[:9], range(10, 1, -1)) % 11
    return len(number) == 10 and rest % 11 == int(number[9]) and rest != 10 and len(set(number)) > 1


_VERHOEFF = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def aadhaar(value: bytes) -> bool:
    """India: Verhoeff."""
    state = "0"
    number = digits(value)
    for place, char in enumerate(reversed(number)):
        state = _VERHOEFF[int(state)][int(_PERMUTED[place % 8][int(char)])]
    return len(number) == 12 and state == "0" and len(set(number)) > 1


def sin(value: bytes) -> bool:
    """Canada: Luhn; none begins with 0 or 8."""
    number = digits(value)
    return len(number) == 9 and number[0] not in "08" and luhn(number) and len(set(number)) > 1


def ahv(value: bytes) -> bool:
    """Switzerland: the check digit of EAN-13."""
    number = digits(value)
    return len(number) == 13 and _weighted(number, (1, 3) * 7) % 10 == 0


def _a_day(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def personnummer(value: bytes) -> bool:
    """Sweden: a day of birth and Luhn over ten digits."""
    number = digits(value)[-10:]
    return len(number) == 10 and _a_day(2000, int(number[2:4]), int(number[4:6])) and luhn(number)


def hetu(value: bytes) -> bool:
    """Finland: a day of birth and the remainder by 31."""
    text = value.decode("ascii", "replace").upper()
    number = text[:6] + text[7:10]
    return (
        len(text) == 11
        and number.isdigit()
        and _a_day(2000, int(text[2:4]), int(text[:2]))
        and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number) % 31] == text[10]
    )


def rijksregister(value: bytes) -> bool:
    """Belgium: 97 minus the remainder; with a 2 before the number for people born since 2000."""
    number = digits(value)
    if len(number) != 11:
        return False
    return int(number[9:]) in (97 - int(number[:9]) % 97, 97 - int("2" + number[:9]) % 97)


def bsn(value: bytes) -> bool:
    """The Netherlands: the weighted sum is a multiple of 11."""
    number = digits(value).zfill(9)
    return len(number) == 9 and _weighted(number, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and int(number) > 0


def pesel(value: bytes) -> bool:
    """Poland: weights 1, 3, 7, 9."""
    number = digits(value)
    return len(number) == 11 and _weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


_NINO_NEVER = frozenset({"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"})


def nino(value: bytes) -> bool:
    """United Kingdom: there is no check digit; prefixes that were never given out are refused."""
    return _compact(value)[:2] not in _NINO_NEVER


def entropy(value: bytes) -> float:
    """Bits per byte, by how often each byte occurs in the value itself."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values()) if size else 0.0


def random_looking(value: bytes) -> bool:
    """A generated key: letters and digits mixed, no word repeated. For names that often hold something harmless."""
    letters = sum(c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for c in value)
    numbers = sum(c in _DIGITS for c in value)
    return len(value) >= 16 and letters >= 3 and numbers >= 2 and entropy(value) >= 3.0


_NO_PASSWORD = frozenset(
    b"null none nil true false undefined string password passwd secret token required optional redacted masked hidden "
    b"[redacted] [masked] [filtered] example changeme change_me your_password yourpassword".split()
)
_REFERENCE = (
    b"$",
    b"{{",
    b"<",
    b"%(",
    b"%{",
    b"process.env",
    b"os.environ",
    b"env.",
    b"vault:",
    b"ref+",
    b"secret:",
    b"(",
)


def password(value: bytes) -> bool:
    """A literal value, not a word that stands for none and not a reference to where the value is kept."""
    stripped = value.strip()
    return (
        len(stripped) >= 3
        and stripped.lower() not in _NO_PASSWORD
        and not stripped.startswith(_REFERENCE)
        and len(set(stripped)) > 1
    )
