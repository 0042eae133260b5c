"""Exec, attach and port-forward through the guard: decoded, recorded, masked, ended at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addons.http_layer import Ended, Tunnel

if TYPE_CHECKING:
    from addons.kube_exchange import KubeExchange


def stream_of(exchange: KubeExchange) -> Tunnel:
    """The tunnel of an upgraded exchange. Raises `Ended` for what is not decoded."""
    raise Ended(f"`{exchange.upgrade}` is not taken for this request")
