"""A mitmproxy that was not tried does not start: nobody would notice what it lets go."""

from __future__ import annotations

import asyncio
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from mitmproxy.proxy import server

    from addons import takeover


def test_the_locked_version_fits() -> None:
    takeover.self_check()


@pytest.mark.parametrize("version", ["12.1.9", "12.3.0", "13.0.0", "2.12.2.1"])
def test_another_series_does_not_start(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(takeover, "version", lambda _: version)
    with pytest.raises(takeover.Incompatible, match=r"another series than was tried.*versions that work: 12\.2\.1"):
        takeover.self_check()


def test_what_is_relied_on_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler:
        """A connection handler of another make."""

    class Reader:
        def __init__(self) -> None:
            self.read = 0

    monkeypatch.setattr(server, "ConnectionHandler", Handler)
    monkeypatch.setattr(asyncio, "StreamReader", Reader)
    with pytest.raises(takeover.Incompatible) as caught:
        takeover.self_check()
    assert "ConnectionHandler lacks `self.transports`" in str(caught.value)
    assert "asyncio.StreamReader has no _buffer" in str(caught.value)
