"""Large bodies in both directions: they arrive as they were sent, and the gateway's memory does not grow with them.

`SLUICEGATE_TRANSFER_MIB` is their size (128 by default; the figure in docs/http.md is of 1024).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.support.tls import Authority
from tests.support.http_bulk import BulkServer, digest, pieces
from tests.support.http_lab import HttpLab
from tests.support.journal import await_records

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20
LARGE = int(os.environ.get("SLUICEGATE_TRANSFER_MIB", "128")) * MIB
SMALL = 32 * MIB
BOUND = 48 * MIB  # what the gateway may hold more than before a transfer, whatever its size
GROWTH = 16 * MIB  # what a large one may hold more than a small one: noise of the allocator


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches the server, and which version both legs speak."""

    listener: str
    tls: bool
    version: str

    def __str__(self) -> str:
        return f"{self.listener}-{'tls' if self.tls else 'plain'}-h{self.version}"


WAYS = [Way("proxy", False, "1.1"), Way("proxy", True, "1.1"), Way("proxy", True, "2")]
WAYS += [Way("api", True, "1.1"), Way("api", True, "2")]


class Bulk:
    """A lab whose registered API and whose proxied destinations are servers of large bodies."""

    def __init__(self, folder: Path) -> None:
        self.lab = HttpLab(adjust=self._adjust, inspect_body_bytes=4 * MIB)
        self.folder = folder
        self.plain = BulkServer()
        self.token = self.lab.token("uploader", "uploaders")

    def _adjust(self, document: dict[str, Any], authority: Authority) -> None:
        self.secure = BulkServer(authority)
        document["resources"][1]["port"] = self.secure.port

    def body(self, size: int) -> Path:
        path = self.folder / f"body-{size}"
        if not path.exists():
            with path.open("wb") as stream:
                stream.writelines(pieces(size))
        return path

    def curl(self, way: Way, path: str, *words: str) -> subprocess.Popen[bytes]:
        lab = self.lab
        argv = ["curl", "-sS", "--fail", "--max-time", "600", "--http2" if way.version == "2" else "--http1.1"]
        if way.listener == "proxy":
            server = self.server(way)
            argv += ["--cacert", str(lab.proxy_ca), "--proxy", f"http://127.0.0.1:{lab.ports['proxy']}"]
            argv += ["--noproxy", "", "--proxy-basic", "--proxy-user", f"ci:{self.token}", *words, server.url(path)]
        else:
            argv += ["--cacert", str(lab.authority.file), "--noproxy", "*", "-H", f"Authorization: Bearer {self.token}"]
            argv += [*words, f"https://localhost:{lab.ports['api']}{path}"]
        return subprocess.Popen(argv, stdout=subprocess.PIPE)

    def server(self, way: Way) -> BulkServer:
        return self.secure if way.tls else self.plain

    def held(self) -> tuple[int, int]:
        """Bytes that the gateway holds now, and the most that it has held since `forget`."""
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.lab.process.pid}/status").read_text().splitlines()
        )
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024

    def forget(self) -> int:
        Path(f"/proc/{self.lab.process.pid}/clear_refs").write_text("5")
        return self.held()[0]

    def upload(self, way: Way, size: int, *words: str) -> int:
        """Sends a body and compares what arrived; returns by how much the gateway grew meanwhile."""
        body = self.body(size)
        before = self.forget()
        began = time.monotonic()
        with self.curl(way, "/upload/x", "-T", str(body), *words) as client:
            assert client.stdout is not None
            told = json.loads(client.stdout.read())
        assert client.returncode == 0
        grown = self.held()[1] - before
        _tell(f"up {way} {' '.join(words)}", size, time.monotonic() - began, before, grown)
        assert told == {"bytes": size, "sha256": digest(size)}
        return grown

    def download(self, way: Way, size: int) -> int:
        before = self.forget()
        began = time.monotonic()
        got, received = hashlib.sha256(), 0
        with self.curl(way, f"/bulk/{size}") as client:
            assert client.stdout is not None
            while piece := client.stdout.read1(1 << 18):
                got.update(piece)
                received += len(piece)
        assert client.returncode == 0
        grown = self.held()[1] - before
        _tell(f"down {way}", size, time.monotonic() - began, before, grown)
        assert (received, got.hexdigest()) == (size, digest(size))
        return grown

    def stop(self) -> None:
        for server in (self.plain, self.secure):
            server.__exit__()
        self.lab.stop()


def _tell(what: str, size: int, seconds: float, before: int, grown: int) -> None:
    rate = size / 1e6 / seconds
    print(
        f"{what}: {size // MIB} MiB in {seconds:.1f} s ({rate:.0f} MB/s), {before // MIB} MiB held before, "
        f"{grown / MIB:.1f} MiB more at most"
    )


@pytest.fixture(scope="module")
def bulk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bulk]:
    made = Bulk(tmp_path_factory.mktemp("bodies"))
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_large_upload_arrives_and_is_not_held_in_memory(bulk: Bulk, way: Way) -> None:
    bulk.upload(way, 8 * MIB)  # what is made once
    small = bulk.upload(way, SMALL)
    large = bulk.upload(way, LARGE)
    assert large < BOUND
    assert large - small < GROWTH
    assert bulk.server(way).versions[-1] == way.version
    sent = await_records(bulk.lab.state, lambda r: r.get("t") == "response" and r.get("sent") == LARGE)
    assert sent[-1]["status"] == "ok"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_large_download_arrives_and_is_not_held_in_memory(bulk: Bulk, way: Way) -> None:
    bulk.download(way, 8 * MIB)
    small = bulk.download(way, SMALL)
    large = bulk.download(way, LARGE)
    assert large < BOUND
    assert large - small < GROWTH
    assert bulk.server(way).versions[-1] == way.version
    await_records(bulk.lab.state, lambda r: r.get("t") == "response" and r["bytes"] == LARGE and r["tag"][:3] == "200")


def test_a_body_of_unknown_length_goes_from_the_disk_to_the_stream(bulk: Bulk) -> None:
    """Chunked: up to the cap it is collected, then what was collected goes first."""
    way = WAYS[1]
    bulk.upload(way, 8 * MIB, "-H", "Transfer-Encoding: chunked")
    assert bulk.upload(way, SMALL, "-H", "Transfer-Encoding: chunked") < BOUND
    assert not list((bulk.lab.state / "spool").iterdir())
