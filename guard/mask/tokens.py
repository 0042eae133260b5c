"""Format-preserving tokens: digits become digits, letters letters of the same case, ASCII punctuation stays.

A Feistel network of ten rounds over the letters and digits of the value; the round function is HMAC-SHA256 under a key
of the column's own, with the value's format (its classes and punctuation) as tweak. Within one format it is a
permutation: equal values give equal tokens, different values of plain ASCII give different ones.

How strong it is. Who does not hold the key cannot compute or invert tokens; who holds it can. By design equality,
length, punctuation and frequency remain visible. Where a format has few values (fewer than about a million: a
four-digit PIN, a first name) whoever learns enough pairs of value and token has a dictionary: use `redact` there. It is
not NIST FF1 and makes no claim to be.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from functools import lru_cache

ROUNDS = 10
MAX_CHARS = 4096  # a longer text would hold the event loop for milliseconds: it is withheld

_DIGITS = "0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_UPPER = _LOWER.upper()
_CLASS = {c: (alphabet, i) for alphabet in (_DIGITS, _LOWER, _UPPER) for i, c in enumerate(alphabet)}
_MARK = {_DIGITS: "0", _LOWER: "a", _UPPER: "A"}  # one character per class in a format


def tokenise(key: bytes, text: str) -> str | None:
    """The token of a text. None when nothing of it could be replaced (punctuation only) or it is too long."""
    if not text:
        return text
    if len(text) > MAX_CHARS or not any(c.isalnum() for c in text):
        return None
    plain = text.isascii()
    # a salt of everything that the permutation does not carry: texts that differ in it get unrelated tokens
    salt = b"" if plain else text.encode("utf-8", "surrogatepass")
    digits: list[int] = []
    radices: list[int] = []
    form: list[str] = []
    for c in text:
        known = _CLASS.get(c)
        if known is None:
            form.append(c if c.isascii() else "\x80")
        else:
            alphabet, digit = known
            digits.append(digit)
            radices.append(len(alphabet))
            form.append(_MARK[alphabet])
    tweak = "".join(form).encode() + b"\0" + salt
    out = iter(_permute(key, tweak, digits, radices))
    foreign = iter(()) if plain else iter(_stream(key, b"foreign" + salt, len(text)))
    result: list[str] = []
    for c in text:
        known = _CLASS.get(c)
        if known is not None:
            result.append(known[0][next(out)])
        elif c.isascii():
            result.append(c)
        else:
            result.append(_foreign(c, next(foreign)))
    return "".join(result)


def tokenise_digits(key: bytes, digits: str, low: int, high: int) -> str | None:
    """The token of a string of decimal digits, as many digits, with `low <= int(token) <= high`.

    Walks the cycle of the permutation until it is in range again, so it stays a permutation there. None when that takes
    too long, which only happens to a number that was out of range itself.
    """
    tweak = b"#" + str(len(digits)).encode()
    radices = [10] * len(digits)
    values = [int(c) for c in digits]
    for _ in range(256):
        values = _permute(key, tweak, values, radices)
        token = "".join(map(str, values))
        if low <= int(token) <= high:
            return token
    return None


def _foreign(c: str, random: int) -> str:
    """A stand-in for a character outside ASCII: a letter for a letter, a digit for a digit, `*` for the rest."""
    if c.isdigit():
        return _DIGITS[random % 10]
    if c.isalnum():
        return (_UPPER if c.isupper() else _LOWER)[random % 26]
    return "*"


def _permute(key: bytes, tweak: bytes, digits: Sequence[int], radices: Sequence[int]) -> list[int]:
    if not digits:
        return []
    if len(digits) == 1:
        return [_small(key, tweak, radices[0])[digits[0]]]
    half = len(digits) // 2
    left, right = list(digits[:half]), list(digits[half:])
    left_radices, right_radices = radices[:half], radices[half:]
    for number in range(ROUNDS):
        if number % 2 == 0:
            stream = _stream(key, bytes((number,)) + tweak + b"\0" + bytes(right), len(left))
            left = [(d + s) % r for d, s, r in zip(left, stream, left_radices, strict=True)]
        else:
            stream = _stream(key, bytes((number,)) + tweak + b"\0" + bytes(left), len(right))
            right = [(d + s) % r for d, s, r in zip(right, stream, right_radices, strict=True)]
    return left + right


def _stream(key: bytes, message: bytes, n: int) -> Sequence[int]:
    """n numbers below 65,536: wide enough that their remainder by 26 is even to one part in a thousand."""
    mac = hmac.digest(key, message, "sha256")
    if n > 16:
        mac = hashlib.shake_256(mac).digest(2 * n)
    return struct.unpack_from(f"<{n}H", mac)


@lru_cache(maxsize=256)
def _small(key: bytes, tweak: bytes, radix: int) -> tuple[int, ...]:
    """A keyed permutation of one alphabet: a Feistel network needs two halves, a single character has none."""
    return tuple(sorted(range(radix), key=lambda i: hmac.digest(key, b"one" + tweak + bytes((i,)), "sha256")))
