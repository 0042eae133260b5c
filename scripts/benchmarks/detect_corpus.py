"""A made-up corpus with known contents: values of every kind, in the places where they turn up, and look-alikes.

Values are made here from the formats' own rules, not with the detectors' code, so that an error there shows.
"""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

type Maker = Callable[[random.Random], str]

_ALNUM = string.ascii_letters + string.digits


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def _word(rng: random.Random, count: int, alphabet: str = _ALNUM) -> str:
    """With at least one digit, letters around it."""
    body = "".join(rng.choice(alphabet) for _ in range(count - 3))
    return body + rng.choice("abcdef") + rng.choice("0123456789") + rng.choice("abcdef")


def _luhn_digit(payload: str) -> str:
    doubled = [int(d) * (2 if place % 2 == 0 else 1) for place, d in enumerate(reversed(payload))]
    return str(-sum(d // 10 + d % 10 for d in doubled) % 10)


def card(rng: random.Random) -> str:
    prefix, size = rng.choice(
        [("4", 16), ("5" + rng.choice("12345"), 16), ("34", 15), ("37", 15), ("6011", 16), ("3530", 16)]
    )
    payload = prefix + _digits(rng, size - 1 - len(prefix))
    number = payload + _luhn_digit(payload)
    mark = rng.choice(["", "", " ", "-"])
    groups = (4, 10, 15) if size == 15 else (4, 8, 12, 16)
    return mark.join(number[a:b] for a, b in zip((0, *groups[:-1]), groups, strict=True))


def iban(rng: random.Random) -> str:
    country, body = rng.choice(
        [
            ("DE", _digits(rng, 18)),
            ("NL", "ABNA" + _digits(rng, 10)),
            ("GB", "WEST" + _digits(rng, 14)),
            ("ES", _digits(rng, 20)),
        ]
    )
    number = "".join(str(int(c, 36)) for c in body + country + "00")
    text = f"{country}{98 - int(number) % 97:02d}{body}"
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4)) if rng.random() < 0.3 else text


def ssn(rng: random.Random) -> str:
    area = rng.choice([a for a in range(1, 900) if a != 666])
    return f"{area:03d}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10000):04d}"


def email(rng: random.Random) -> str:
    name = rng.choice(["ann", "bo.berg", "chris+news", "d_evans", "o'neil"[:5].replace("'", ""), "x"]) + str(
        rng.randrange(1000)
    )
    return f"{name}@{rng.choice(['example.com', 'mail.example.co.uk', 'corp-x.example', 'xn--bcher-kva.example'])}"


def phone(rng: random.Random) -> str:
    area, rest = f"{rng.choice('23456789')}{_digits(rng, 2)}", f"{rng.choice('23456789')}{_digits(rng, 2)}"
    return rng.choice(
        [
            f"+1{area}{rest}{_digits(rng, 4)}", f"({area}) {rest}-{_digits(rng, 4)}",
            f"{area}-{rest}-{_digits(rng, 4)}",
            f"+49 {rng.randrange(30, 999)} {_digits(rng, 7)}", f"+44 20 {_digits(rng, 4)} {_digits(rng, 4)}",
        ]
    )  # fmt: skip


def jwt(rng: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    head, claims = (
        part({"alg": "RS256", "kid": _word(rng, 8)}),
        part({"sub": _word(rng, 12), "exp": rng.randrange(10**9)}),
    )
    return f"{head}.{claims}.{_word(rng, 86)}"


def pem(rng: random.Random) -> str:
    body = base64.b64encode(rng.randbytes(900)).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    kind = rng.choice(["RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "])
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


VALUES: dict[str, Maker] = {
    "card": card,
    "iban": iban,
    "us-ssn": ssn,
    "email": email,
    "phone": phone,
    "jwt": jwt,
    "private-key": pem,
    "aws-access-key": lambda rng: "AKIA" + "".join(rng.choice(string.ascii_uppercase + "234567") for _ in range(16)),
    "github-token": lambda rng: rng.choice(["ghp_", "gho_", "ghs_"]) + _word(rng, 36),
    "gitlab-token": lambda rng: "glpat-" + _word(rng, 20),
    "slack-token": lambda rng: f"xoxb-{_digits(rng, 12)}-{_digits(rng, 12)}-{_word(rng, 24)}",
    "stripe-key": lambda rng: rng.choice(["sk_live_", "rk_live_", "sk_test_"]) + _word(rng, 24),
    "npm-token": lambda rng: "npm_" + _word(rng, 36),
    "pypi-token": lambda rng: "pypi-AgEIcHlwaS5vcmc" + _word(rng, 120),
    "gcp-api-key": lambda rng: "AIza" + _word(rng, 35),
    "url-password": lambda rng: f"postgres://app:{_word(rng, 12, _ALNUM + '!~*')}@db{rng.randrange(9)}:5432/shop",
}


def _assigned(rng: random.Random) -> str:
    value = _word(rng, rng.randrange(8, 20), _ALNUM + "!#%*_")
    return rng.choice(
        [
            f'{{"user": "app", "password": "{value}"}}', f"DB_PASSWORD={value.replace('#', 'x')}", f"password: {value}",
            f"user=app&password={quote(value)}&next=1", f"<password>{value}</password>",
            f"Server=db;Pwd={value};Encrypt=yes",
        ]
    )  # fmt: skip


def _sql(rng: random.Random) -> str:
    value = _word(rng, 10)
    return rng.choice(
        [
            f"ALTER ROLE app WITH LOGIN PASSWORD '{value}';",
            f"CREATE USER 'app'@'%' IDENTIFIED BY '{value}';",
            f"SET PASSWORD = '{value}'",
        ]
    )


def _secret(rng: random.Random) -> str:
    value = _word(rng, 40)
    return rng.choice(
        [f"aws_secret_access_key = {value}", f'"client_secret": "{value}"', f"API_KEY={value}", f"X-Api-Token: {value}"]
    )


# whole texts: the value shows by what stands beside it
TEXTS: dict[str, Maker] = {
    "password": _assigned,
    "sql-password": _sql,
    "secret-assignment": _secret,
    "authorization": lambda rng: f"Authorization: Bearer {_word(rng, 40)}",
}

_PLACES: tuple[Maker, ...] = (
    lambda rng: f'{{"id": {rng.randrange(10**6)}, "value": "<>", "ok": true}}',
    lambda rng: f"{rng.randrange(10**5)},shipped,<>,2024-0{rng.randrange(1, 9)}-1{rng.randrange(9)}",
    lambda rng: (
        f"2024-05-0{rng.randrange(1, 9)}T10:1{rng.randrange(9)}:00Z INFO user <> from 10.0.0.{rng.randrange(255)}"
    ),
    lambda rng: "Please contact <> before Friday.",
    lambda rng: "<td><></td><td>open</td>",
    lambda rng: "value=<>",
    lambda rng: "<>",
)

_ALIKE: tuple[Maker, ...] = (
    lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    lambda rng: f"{rng.getrandbits(160):040x}",
    lambda rng: str(1_700_000_000_000 + rng.randrange(10**9)),
    lambda rng: f"order-{_digits(rng, 8)}",
    lambda rng: _digits(rng, 10),
    lambda rng: _digits(rng, 12),
    lambda rng: _digits(rng, 16),
    lambda rng: f"{rng.random():.17f}",
    lambda rng: f"v{rng.randrange(9)}.{rng.randrange(40)}.{rng.randrange(99)}-rc{rng.randrange(5)}",
    lambda rng: f"192.168.{rng.randrange(255)}.{rng.randrange(255)}:{rng.randrange(65535)}",
    lambda rng: base64.b64encode(rng.randbytes(60)).decode(),
    lambda rng: f"sha256:{rng.getrandbits(256):064x}",
    lambda rng: f"{rng.randrange(10**4):,}.{rng.randrange(99):02d} EUR",
    lambda rng: f"https://example.com/items/{rng.randrange(10**6)}?page={rng.randrange(50)}&sort=name",
    lambda rng: f"password = get_password(user_{rng.randrange(9)})",
    lambda rng: "password: required, at least eight characters",
    lambda rng: f"token_type=bearer&expires_in={rng.randrange(3600)}",
    lambda rng: f"git clone git@github.example:team/repo{rng.randrange(9)}.git@{rng.getrandbits(28):07x}",
    lambda rng: f"{_digits(rng, 3)}-{_digits(rng, 3)}-{_digits(rng, 5)}",
    lambda rng: f"SKU {_digits(rng, 4)} {_digits(rng, 4)} {_digits(rng, 4)}",
    lambda rng: f"image@{rng.randrange(1, 4)}x.png {rng.randrange(1000)}x{rng.randrange(1000)}",
    lambda rng: "import os; password = os.environ['DB_PASSWORD']; secret = settings.secret_key",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, and the detector that must find something in it at this place (None: nothing must be found)."""

    detector: str | None
    text: bytes
    start: int
    end: int


def hits(rng: random.Random, each: int) -> list[Sample]:
    """So many texts with a value of each kind."""
    found: list[Sample] = []
    for detector, make in VALUES.items():
        for _ in range(each):
            before, _, after = rng.choice(_PLACES)(rng).partition("<>")
            value = make(rng)
            text = f"{before}{value}{after}".encode()
            found.append(Sample(detector, text, len(before.encode()), len(before.encode()) + len(value.encode())))
    for detector, make in TEXTS.items():
        for _ in range(each):
            text = make(rng).encode()
            found.append(Sample(detector, text, 0, len(text)))
    return found


def look_alikes(rng: random.Random, count: int) -> list[Sample]:
    """Texts in which nothing is."""
    found: list[Sample] = []
    for _ in range(count):
        text = rng.choice(_PLACES)(rng).replace("<>", rng.choice(_ALIKE)(rng)).encode()
        found.append(Sample(None, text, 0, len(text)))
    return found


_CLEAN = (
    *(
        "the",
        "quick",
        "brown",
        "order",
        "shipped",
        "to",
        "warehouse",
        "status",
        "ok",
        "item",
        "total",
        "price",
        "12.50",
    ),
    *("2024-01-05T10:11:12Z", "request", "id", "8f14e45f", "GET", "/api/v1/items?page=2", "200", "user", "agent"),
    *("Mozilla/5.0", "elapsed=17ms", "retry", "false", "level=info"),
)


def lines(rng: random.Random, share: float, size: int) -> bytes:
    """A log of about so many bytes; this share of its lines has a value."""
    makers = [VALUES[name] for name in ("card", "iban", "us-ssn", "email", "phone")] + [_assigned]
    out: list[str] = []
    length = 0
    while length < size:
        words = [rng.choice(_CLEAN) for _ in range(16)]
        if rng.random() < share:
            words[rng.randrange(16)] = rng.choice(makers)(rng)
        out.append(" ".join(words))
        length += len(out[-1]) + 1
    return "\n".join(out).encode()
