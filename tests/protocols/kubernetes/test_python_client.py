"""The official Python client against the API server for tests: REST, a watch, and exec by its own WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from protocols.kubernetes.channels import Channel, Finished
from protocols.kubernetes.media import negotiate
from protocols.kubernetes.requests import resolve
from tests.protocols.kubernetes.test_kubectl import decoded, pod, said, settled
from tests.support.apiserver.server import TOKEN, ApiServer

kubernetes: Any = pytest.importorskip("kubernetes")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def core(apiserver: ApiServer) -> Iterator[Any]:
    configuration = kubernetes.client.Configuration()
    configuration.host = apiserver.url
    configuration.ssl_ca_cert = str(apiserver.authority.file)
    configuration.api_key = {"authorization": f"Bearer {TOKEN}"}
    with kubernetes.client.ApiClient(configuration) as client:
        yield kubernetes.client.CoreV1Api(client)
        client.rest_client.pool_manager.clear()


def test_objects(core: Any, apiserver: ApiServer) -> None:
    secret = {"metadata": {"name": "py"}, "stringData": {"a": "b"}}
    core.create_namespaced_secret("default", secret)
    assert core.read_namespaced_secret("py", "default").data == {"a": "Yg=="}
    core.patch_namespaced_secret("py", "default", {"metadata": {"labels": {"x": "y"}}})
    assert [s.metadata.name for s in core.list_namespaced_secret("default", label_selector="x=y").items] == ["py"]
    core.delete_namespaced_secret("py", "default")
    for seen in apiserver.seen:
        for accept in seen.header("accept"):
            negotiate(accept, resolve(seen.method, seen.target))


def test_watch(core: Any, apiserver: ApiServer) -> None:
    name = pod(apiserver)
    watch = kubernetes.watch.Watch()
    for event in watch.stream(core.list_namespaced_pod, "default", timeout_seconds=30):
        if event["object"].metadata.name == name:
            watch.stop()
    assert resolve("GET", apiserver.seen[-1].target).verb == "watch"


def test_exec(core: Any, apiserver: ApiServer) -> None:
    name = pod(apiserver)
    command = ["sh", "-c", "read line; echo got $line; exit 5"]
    asked = {"stdin": True, "stdout": True, "stderr": True, "tty": False, "_preload_content": False}
    answer = kubernetes.stream.stream(core.connect_get_namespaced_pod_exec, name, "default", command=command, **asked)
    answer.write_stdin("hello\n")
    answer.run_forever(timeout=30)
    assert (answer.read_stdout(), answer.returncode) == ("got hello\n", 5)
    answer.sock.shutdown()  # its own `close` leaves the socket to the collector
    settled(apiserver, lambda found: any(isinstance(e, Finished) for _, e in found))
    assert apiserver.recordings[-1].websocket
    assert said(decoded(apiserver.recordings[-1]), Channel.STDIN) == b"hello\n"
