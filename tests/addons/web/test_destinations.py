"""Where HTTP clients may be led, and what happens when nobody can say where that is."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from addons.web import destinations
from addons.web.destinations import DestinationRefused, Destinations


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
        "fd00:ec2::254", "168.63.129.16", "::ffff:168.63.129.16", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::1", "::7f00:1", "::a9fe:a9fe", "::ffff:0:7f00:1", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(DestinationRefused):
        Destinations().choose("x.example", 443, [address])


def test_one_address_that_is_not_public_is_enough() -> None:
    with pytest.raises(DestinationRefused):
        Destinations().choose("x.example", 443, ["93.184.215.14", "127.0.0.1"])
    assert Destinations().choose("x.example", 443, ["93.184.215.14"]) == "93.184.215.14"


def test_named_networks_are_open_but_for_our_own_ports() -> None:
    here = Destinations([ipaddress.ip_network("127.0.0.0/8")], [8080])
    assert here.choose("localhost", 9000, ["127.0.0.1"]) == "127.0.0.1"
    with pytest.raises(DestinationRefused):
        here.choose("localhost", 8080, ["127.0.0.1"])


def _interface() -> str:
    """An address of this machine that is not loopback, where it has one: the one it would send from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.77"
        return str(probe.getsockname()[0])


def test_row_9_the_gateways_own_ports_on_any_of_its_addresses() -> None:
    everywhere = Destinations([ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")], [8080])
    for own in (_interface(), "127.0.0.1", "::1", f"::ffff:{_interface()}"):
        with pytest.raises(DestinationRefused, match="the gateway itself"):
            everywhere.choose("me.example", 8080, [own])
        assert everywhere.choose("me.example", 9000, [own]) == own
    for other in ("192.0.2.7", "2001:db8::7"):
        assert everywhere.choose("it.example", 8080, [other]) == other


def test_row_9_what_cannot_be_told_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(socket, "socket", denied)
    with pytest.raises(DestinationRefused, match="the gateway itself"):
        Destinations([ipaddress.ip_network("192.0.2.0/24")], [8080]).choose("it.example", 8080, ["192.0.2.7"])


@pytest.mark.parametrize("answer", ["hangs", "raises", "nothing"])
def test_a_name_that_cannot_be_resolved_is_refused(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(*_: Any, **__: Any) -> list[Any]:
        if answer == "hangs":
            await asyncio.sleep(3600)
        if answer == "raises":
            raise OSError("no such host")
        return []

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        await Destinations().resolve("x.example", 443)

    monkeypatch.setattr(destinations, "_TIMEOUT", 0.05)
    with pytest.raises(DestinationRefused):
        asyncio.run(ask())


def test_an_address_that_was_checked_serves_others_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = {"good.example": "93.184.215.14", "bad.example": "10.0.0.1"}

    async def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (answers[host], 443))]

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        here = Destinations()
        for _ in range(3):
            assert await here.resolve("good.example", 443) == "93.184.215.14"
            with pytest.raises(DestinationRefused):
                await here.resolve("bad.example", 443)
        assert asked == ["good.example", "bad.example", "bad.example", "bad.example"]
        await here.resolve("good.example", 8443)  # another port may be the gateway's own
        monkeypatch.setattr(destinations, "_KEPT", 0.0)
        asked.clear()
        others = Destinations()
        await others.resolve("good.example", 443)
        await others.resolve("good.example", 443)
        assert asked == ["good.example"] * 2

    asyncio.run(ask())


def test_addresses_that_were_checked_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.215.14", 443))]

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        monkeypatch.setattr(destinations, "_MOST", 4)
        here = Destinations()
        for number in range(10):
            await here.resolve(f"n{number}.example", 443)
        assert len(here._checked) == 4

    asyncio.run(ask())
