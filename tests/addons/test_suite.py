"""The addons' own promises, without a process: what is refused, and that a failing hook refuses."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from mitmproxy import http
    from mitmproxy.connection import Client
    from mitmproxy.proxy.mode_specs import ProxyMode
    from mitmproxy.test import tflow

    from addons import listeners, suite
    from addons.fail_closed import closed
    from addons.web.addon import HttpAddon
    from guard.config.schema import ListenerConfig
    from protocols.contract import HTTP_PROTOCOLS
    from protocols.registry import PROTOCOLS


def client(mode: str) -> Client:
    return Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), proxy_mode=ProxyMode.parse(mode))


@pytest.mark.parametrize("mode", ["regular", "socks5", "transparent", "upstream:http://x", "reverse:tcp://x:1", "dns"])
def test_connections_of_other_modes_are_refused(mode: str) -> None:
    made = client(mode)
    suite.Closed().client_connected(made)
    assert made.error


def test_connections_of_our_listeners_are_not() -> None:
    assert list(listeners.MODES) == [*PROTOCOLS, *HTTP_PROTOCOLS]
    made = client("postgres:shop-db@127.0.0.1:6432")
    suite.Closed().client_connected(made)
    assert made.error is None


def test_flows_that_come_about_all_the_same_are_refused() -> None:
    guard = suite.Closed()
    for hook in (guard.http_connect, guard.requestheaders):
        flow = tflow.tflow()
        hook(flow)
        assert flow.response is not None
        assert flow.response.status_code == 403
    for hook, killed in (
        (guard.dns_request, tflow.tdnsflow()),
        (guard.udp_start, tflow.tudpflow()),
        (guard.tcp_start, tflow.ttcpflow()),
    ):
        killed.live = True
        hook(killed)
        assert killed.error is not None
        assert not killed.live


def test_our_own_pictures_of_sessions_are_left_alone() -> None:
    flow = tflow.ttcpflow()
    flow.live = True
    flow.error = None
    flow.metadata["sluicegate"] = True
    suite.Closed().tcp_start(flow)
    assert flow.error is None


def test_attack_34_a_hook_that_raises_refuses(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[Any] = []

    class Broken:
        @closed(refused.append)
        def requestheaders(self, flow: http.HTTPFlow) -> None:
            raise RuntimeError("a bug")

    flow = tflow.tflow()
    Broken().requestheaders(flow)
    assert refused == [flow]
    assert "requestheaders failed; refused" in caplog.text


def test_every_hook_of_the_guard_is_wrapped() -> None:
    """One that is not would let traffic go on when it fails."""
    hooks = [name for name in vars(suite.Closed) if not name.startswith("_")]
    assert len(hooks) >= 6
    assert [name for name in hooks if not hasattr(getattr(suite.Closed, name), "__wrapped__")] == []
    leading = (HttpAddon.server_connect, HttpAddon.tls_start_client, HttpAddon.tls_start_server)
    assert all(hasattr(hook, "__wrapped__") for hook in leading)


def test_the_suite_is_made_once() -> None:
    assert suite.suite() == suite.suite()
    assert [type(addon).__name__ for addon in suite.suite()] == ["Closed", "Gateway", "HttpAddon"]


def test_listeners_without_a_port_get_one_each() -> None:
    configured = [
        ListenerConfig(name=f"x{number}", protocol="postgres", listen=f"127.0.0.1:{port}", resource="shop")
        for number, port in enumerate([0, 6432, 0, 0, *[0] * 40])
    ]
    specs = suite._specs(configured)
    ports = [int(spec.rpartition(":")[2]) for spec in specs]
    assert specs[1] == "postgres:x1@127.0.0.1:6432"
    assert len(set(ports)) == len(ports)
    assert 0 not in ports
    assert all(ProxyMode.parse(spec).data == f"x{number}" for number, spec in enumerate(specs))
