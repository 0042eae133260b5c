"""Connections on which nobody has said who they are: so many at a time, and of one address no more than its share."""

from __future__ import annotations

import ipaddress
from collections import Counter

_SHARE = 2  # one address has half of the places: logins behind a balancer are short, and a flood leaves the rest
_LEAST = 16


class Strangers:
    """`places` in all. Addresses of one IPv6 network (/64) are one: whoever has it has all of them."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._each = max(_LEAST, places // _SHARE)
        self._from: Counter[str] = Counter()
        self.count = 0

    def enter(self, address: str) -> bool:
        """Whether one more may come in. `leave` gives the place back."""
        key = _network(address)
        if self.count >= self._places or self._from[key] >= self._each:
            if not self._from[key]:
                del self._from[key]
            return False
        self.count += 1
        self._from[key] += 1
        return True

    def leave(self, address: str) -> None:
        key = _network(address)
        self.count -= 1
        self._from[key] -= 1
        if not self._from[key]:
            del self._from[key]


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip.ipv4_mapped or ip.packed[:8].hex())
