"""Where the gateway itself connects to for HTTP clients: resolved once, checked, pinned.

A name is resolved here, every address that it has is checked, and the connection goes to an address that was checked:
no second look-up can lead it elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TIMEOUT = 5.0  # seconds for a name to be resolved
_KEPT = 5.0  # seconds for which an address that was checked is given to other clients, too
_MOST = 1024  # such addresses
# IPv4 inside IPv6: NAT64, the deprecated compatible form, what a stateless translator takes (RFC 6052, 4291, 2765)
_WRAPPED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
# addresses that count as public and lead to the platform under a virtual machine: Azure's WireServer, which tells a
# machine its configuration and credentials
_PLATFORM = frozenset({ipaddress.ip_address("168.63.129.16")})


class DestinationRefused(Exception):
    """The gateway does not connect there; the text is for the client."""


class Destinations:
    """`named`: networks that are open although they are not public. The gateway's own `ports` never are: a set that
    grows when the system has chosen them."""

    def __init__(self, named: Iterable[Network] = (), ports: Collection[int] = ()) -> None:
        self._named = tuple(named)
        self._ports = ports
        self._checked: OrderedDict[tuple[str, int], tuple[str, float]] = OrderedDict()  # address, until when

    async def resolve(self, host: str, port: int) -> str:
        """The address to connect to. Raises `DestinationRefused`."""
        address, until = self._checked.get((host, port), ("", 0.0))
        if time.monotonic() < until:
            return address
        address = self.choose(host, port, await self._look_up(host, port))
        self._checked[host, port] = address, time.monotonic() + _KEPT
        if len(self._checked) > _MOST:
            self._checked.popitem(last=False)
        return address

    async def _look_up(self, host: str, port: int) -> list[str]:
        try:
            async with asyncio.timeout(_TIMEOUT):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise DestinationRefused(f"`{host}` has no address that the gateway can find") from None
        except TimeoutError:
            raise DestinationRefused(f"`{host}` could not be resolved in time; try again") from None
        return [str(entry[4][0]) for entry in found]

    def choose(self, host: str, port: int, addresses: Sequence[str]) -> str:
        """The first address, if every one of them may be reached. Raises `DestinationRefused`."""
        if not addresses:
            raise DestinationRefused(f"`{host}` has no address that the gateway can find")
        for text in addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            for meant in _meanings(address):
                if not self._open(meant):
                    raise DestinationRefused(
                        f"`{host}` leads to an address that is not public; it must be named in the resource's "
                        "`private_networks` to be reached"
                    )
                if port in self._ports and (meant.is_loopback or _is_own(meant)):
                    raise DestinationRefused(f"`{host}:{port}` is the gateway itself")
        return addresses[0]

    def _open(self, address: Address) -> bool:
        if any(address in network for network in self._named if network.version == address.version):
            return True
        return address.is_global and not address.is_multicast and address not in _PLATFORM


def _meanings(address: Address) -> list[Address]:
    """The address, and the IPv4 address that is wrapped in it."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and int(address) > 1 and any(address in network for network in _WRAPPED):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            # a mapped address is nothing else than that IPv4 address
            found = [inner] if address.ipv4_mapped else [address, inner]
    return found


def _is_own(address: Address) -> bool:
    """Whether this machine has the address, on whichever interface: only its own can be bound."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
