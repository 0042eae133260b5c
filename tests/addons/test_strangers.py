"""Who has not said who they are shares one bound."""

from __future__ import annotations

import pytest

from addons.strangers import Strangers


def test_so_many_in_all() -> None:
    strangers = Strangers(64)
    assert [strangers.enter(f"10.0.{n}.1") for n in range(65)] == [True] * 64 + [False]
    strangers.leave("10.0.0.1")
    assert strangers.enter("10.1.0.1")
    assert strangers.count == 64


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"], ["?"]],
)
def test_one_address_leaves_places_for_others(addresses: list[str]) -> None:
    strangers = Strangers(100)
    taken = [address for n in range(100) if strangers.enter(address := addresses[n % len(addresses)])]
    assert len(taken) == 50
    assert strangers.enter("192.0.2.1")
    assert strangers.enter("2001:db8:0:1::1")
    for address in taken:
        strangers.leave(address)
    strangers.leave("192.0.2.1")
    strangers.leave("2001:db8:0:1::1")
    assert strangers.count == 0
    assert not strangers._from


def test_an_address_that_is_turned_away_is_not_remembered() -> None:
    strangers = Strangers(1)
    assert strangers.enter("10.0.0.1")
    assert not strangers.enter("10.0.0.2")
    assert list(strangers._from) == ["10.0.0.1"]


def test_a_mapped_address_is_the_one_that_it_maps() -> None:
    strangers = Strangers(32)
    assert sum(strangers.enter(a) for a in ["10.0.0.1", "::ffff:10.0.0.1"] * 20) == 16
