"""One API server for all tests of this folder that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.kubernetes.kubeconfig import kubeconfig
from scripts.support.tls import Authority
from tests.support.apiserver.kubectl import Kubectl
from tests.support.apiserver.server import TOKEN, ApiServer


@pytest.fixture(scope="session")
def apiserver(authority: Authority) -> Iterator[ApiServer]:
    forbidden = frozenset({("delete", "nodes")})
    with ApiServer(authority, client_certificates=True, forbidden=forbidden) as running:
        yield running


@pytest.fixture(params=["websocket", "spdy"])
def kubectl(request: pytest.FixtureRequest, apiserver: ApiServer, tmp_path: Path) -> Kubectl:
    """Stock kubectl, straight to the API server, over each transport."""
    config = kubeconfig("lab", apiserver.url, apiserver.authority.file.read_bytes(), token=TOKEN)
    return Kubectl(tmp_path / "home", config, spdy=request.param == "spdy")


@pytest.fixture
def plain(apiserver: ApiServer, tmp_path: Path) -> Kubectl:
    """The same for commands that open no stream."""
    config = kubeconfig("lab", apiserver.url, apiserver.authority.file.read_bytes(), token=TOKEN)
    return Kubectl(tmp_path / "home", config)
