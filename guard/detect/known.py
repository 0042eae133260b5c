"""The gateway's own upstream secrets, searched for byte by byte, as they are and as they travel.

Forms: the value itself, JSON-escaped, percent-encoded, hexadecimal, and base64 at each of its three alignments, in both
alphabets. A secret shorter than `LEAST` bytes would be found everywhere: it is left out, and `too_short` counts it.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterable, Mapping

LEAST = 6
_MOST = 65_536  # bytes of one secret


def forms(secret: bytes) -> frozenset[bytes]:
    """Every text that this secret is searched as. Each has at least `LEAST` bytes."""
    text = secret.decode("utf-8", "surrogateescape")
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    found |= {urllib.parse.quote_from_bytes(secret, safe=safe).encode() for safe in ("", "/", "/:=+@")}
    found.add(urllib.parse.quote_plus(secret).encode())
    found.add(json.dumps(text, ensure_ascii=True)[1:-1].encode("ascii", "replace"))
    for shift in range(3):
        # the characters that do not depend on what stands before or behind
        padded = base64.b64encode(b"\0" * shift + secret)
        first = -(-shift * 8 // 6)
        whole = (len(secret) + shift) * 8 // 6
        middle = padded[first:whole]
        found |= {middle, middle.translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(form for form in found if len(form) >= LEAST)


class Known:
    """A set of secrets by name. Immutable; its `repr` shows how many, and nothing of them."""

    __slots__ = ("forms", "longest", "prefixes", "too_short")

    def __init__(self, secrets: Mapping[str, Iterable[bytes]]) -> None:
        self.too_short = 0
        self.forms: list[tuple[str, bytes]] = []
        for name, values in secrets.items():
            for value in values:
                if not LEAST <= len(value) <= _MOST:
                    self.too_short += 1
                    continue
                self.forms += [(name, form) for form in sorted(forms(value))]
        self.longest = max((len(form) for _, form in self.forms), default=0)

    def __repr__(self) -> str:
        return f"Known({len(self.forms)} forms)"

    def held(self, data: bytes) -> int:
        """How many bytes at the end are the beginning of one of the forms."""
        tail = data[-self.longest :] if self.longest else b""
        most = 0
        for _, form in self.forms:
            size = min(len(tail), len(form) - 1)
            # the form's first byte tells where it could begin
            at = tail.find(form[:1], len(tail) - size)
            while at >= 0 and len(tail) - at > most:
                if form.startswith(tail[at:]):
                    most = len(tail) - at
                    break
                at = tail.find(form[:1], at + 1)
        return most
