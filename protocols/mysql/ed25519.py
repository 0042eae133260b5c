"""Ed25519 signatures as MariaDB's `client_ed25519` makes them: RFC 8032, with a password where the seed would stand.

The password may be of any length, so that no library's interface takes it. Only the gateway's own logins use this, a
handful of times per connection opened.
"""

from __future__ import annotations

from hashlib import sha512

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P

type Point = tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T), RFC 8032 section 5.1.4

_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BASE: Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def _add(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    i, j, k, m = f - e, h - g, h + g, f + e
    return (i * j % _P, k * m % _P, j * k % _P, i * m % _P)


def _multiply(scalar: int) -> bytes:
    """`scalar` times the base point, encoded (section 5.1.2)."""
    total: Point = (0, 1, 1, 0)
    step = _BASE
    for bit in range(256):
        added = _add(total, step)  # always computed: how long a signature takes says little about the password
        if scalar >> bit & 1:
            total = added
        step = _add(step, step)
    inverse = pow(total[2], -1, _P)
    x, y = total[0] * inverse % _P, total[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def sign(password: bytes, message: bytes) -> bytes:
    """64 bytes of signature over `message` (section 5.1.6)."""
    digest = sha512(password).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    public = _multiply(scalar)
    r = int.from_bytes(sha512(digest[32:] + message).digest(), "little") % _ORDER
    point = _multiply(r)
    h = int.from_bytes(sha512(point + public + message).digest(), "little") % _ORDER
    return point + ((r + h * scalar) % _ORDER).to_bytes(32, "little")
