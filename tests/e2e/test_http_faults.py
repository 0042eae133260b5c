"""What breaks under HTTP while the gateway runs: disks that fill up, stores that lock or rot. Nothing passes unguarded,
the client is told in a form that it can read, the process lives, and serves again when there is room again."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.disk import full_for
from tests.support.http_bulk import digest, pieces
from tests.support.http_lab import HttpLab
from tests.support.journal import await_records, verify
from tests.support.wait import until

pytestmark = pytest.mark.e2e

MIB = 1 << 20
ROOM = 2 * MIB  # of the small disk; the journal of these tests is smaller


@pytest.fixture(scope="module")
def broken() -> Iterator[HttpLab]:
    """A lab of this module's own, to be broken; each test mends what it broke."""
    with HttpLab(inspect_body_bytes=16 * MIB) as running:
        yield running


@pytest.fixture(autouse=True)
def lives(broken: HttpLab) -> Iterator[None]:
    """Whatever a test did: it is the same process, it serves, it refuses what it should, and left nothing behind."""
    pid = broken.process.pid
    yield
    assert broken.process.running
    assert broken.process.pid == pid
    until(lambda: ask(broken)[0] == 200)
    assert ask(broken, path="/admin")[0] == 403
    until(lambda: not list((broken.state / "spool").iterdir()))


def problem(raw: bytes) -> tuple[int, str]:
    """Status and `detail` of the last answer that curl -i printed; an empty detail where it is no problem document."""
    status, head, rest = 0, b"", raw
    while rest.startswith(b"HTTP/") and (status < 200 or b" connection established" in head):
        head, _, rest = rest.partition(b"\r\n\r\n")
        head = head.lower()
        status = int(head.split()[1])
    told = rest and b"application/problem+json" in head  # curl does not print the body of an answer to CONNECT
    return status, json.loads(rest)["detail"] if told else ""


def ask(lab: HttpLab, method: str = "GET", path: str = "/hello", token: str = "") -> tuple[int, str]:
    """One request on a connection of its own. Status 0: there was no answer."""
    return problem(lab.curl("-X", method, lab.secure.url(path), token=token or lab.token()).stdout)


def limited(lab: HttpLab, size: int) -> AbstractContextManager[None]:
    """The gateway can write no file beyond `size` bytes."""
    return full_for(lab.process.pid, size)


@contextmanager
def small_spool(lab: HttpLab) -> Iterator[None]:
    """The folder for bodies lies on a small disk of its own."""
    spool = lab.state / "spool"
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=700", "none", str(spool)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("only who may mount has a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(spool)], check=True)


def upload(lab: HttpLab, file: Path, *words: str) -> bytes:
    return lab.curl("-T", str(file), *words, lab.secure.url("/upload/large")).stdout


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bodies") / "large"
    path.write_bytes(b"".join(pieces(6 * MIB)))
    return path


@pytest.mark.parametrize("words", [("--http1.1",), ("--http2",), ("--http1.1", "-H", "Transfer-Encoding: chunked")])
@pytest.mark.parametrize("disk", ["limit", "tmpfs"])
def test_a_full_spool_refuses_bodies_and_nothing_else(
    broken: HttpLab, body: Path, disk: str, words: tuple[str, ...]
) -> None:
    with limited(broken, ROOM) if disk == "limit" else small_spool(broken):
        before = len(broken.secure.requests)
        raw = upload(broken, body, *words)
        status, detail = problem(raw)
        assert status == 507
        assert "no room" in detail
        assert len(broken.secure.requests) == before
        assert ask(broken)[0] == 200  # what needs no room passes
        refused = await_records(broken.state, lambda r: r.get("t") == "command" and r["rule"] == "gateway")
        assert "/upload/large" in refused[-1]["text"]
    assert problem(upload(broken, body, *words))[0] == 200
    assert len(broken.secure.requests[-1].body) == 6 * MIB
    assert json.loads(upload(broken, body, *words).rpartition(b"\r\n\r\n")[2])["digest"] == digest(6 * MIB)


def test_a_full_disk_under_the_journal_stops_every_request(broken: HttpLab) -> None:
    with Kept(broken) as kept:
        assert kept.ask()[0] == 200
        with limited(broken, 1):
            before = len(broken.secure.requests)
            for method, path in (("GET", "/hello"), ("POST", "/upload"), ("DELETE", "/gone"), ("GET", "/people")):
                status, detail = kept.ask(method, path)
                assert status == 503, (method, path)
                assert "cannot record" in detail
                assert ask(broken, method, path)[0] in (0, 403, 503)
            assert len(broken.secure.requests) == before
    until(lambda: ask(broken)[0] == 200)
    await_records(broken.state, lambda r: r["t"] == "journal.recovered")
    verify(broken.state)


class Kept:
    """One connection to the registered API that stays open, and so one session."""

    def __init__(self, lab: HttpLab, token: str = "") -> None:
        import ssl

        context = ssl.create_default_context(cafile=str(lab.authority.file))
        self._token = token or lab.token()
        self._connection = http.client.HTTPSConnection("localhost", lab.ports["api"], context=context, timeout=30)

    def ask(self, method: str = "GET", path: str = "/hello") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self._token}"}
        self._connection.request(method, path, body=b"x" if method == "POST" else None, headers=headers)
        answer = self._connection.getresponse()
        raw = answer.read()
        is_problem = answer.headers.get("content-type") == "application/problem+json"
        return answer.status, json.loads(raw)["detail"] if is_problem else ""

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()


@contextmanager
def locked(lab: HttpLab) -> Iterator[None]:
    """Another process holds the state store's write lock and does not let go."""
    connection = sqlite3.connect(lab.state / "state.db", isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def test_a_locked_state_store_admits_nobody_and_holds_nothing_through(broken: HttpLab) -> None:
    with Kept(broken) as kept:
        assert kept.ask()[0] == 200
        with locked(broken):
            before = len(broken.secure.requests)
            status, detail = kept.ask("DELETE", "/locked")
            assert status == 403
            assert "nobody can be asked" in detail
            assert str(broken.state) not in detail
            status, detail = problem(broken.api("/hello").stdout)
            assert (status, "cannot record or check state" in detail) == (503, True)
            assert str(broken.state) not in detail
            assert len(broken.secure.requests) == before


def test_a_damaged_state_store_stops_the_traffic(broken: HttpLab) -> None:
    """What cannot be read might contain somebody: nothing passes until it can be read again."""
    path = broken.state / "state.db"
    files = {f: f.read_bytes() for f in path.parent.glob("state.db*")}
    with Kept(broken) as kept:
        assert kept.ask()[0] == 200
        try:
            for file in files:
                os.truncate(file, 0)
                with file.open("r+b") as stream:
                    stream.write(b"no database" * 1000)
            until(lambda: _refused(kept))
            before = len(broken.secure.requests)
            assert ask(broken)[0] in (0, 403, 503)
            assert len(broken.secure.requests) == before
        finally:
            for file, data in files.items():
                file.write_bytes(data)


def _refused(kept: Kept) -> bool:
    try:
        return kept.ask()[0] in (403, 503)
    except (OSError, http.client.HTTPException):
        return True


@pytest.mark.parametrize("fault", ["locked", "full"])
def test_an_approval_that_cannot_be_kept_releases_nothing(broken: HttpLab, fault: str) -> None:
    """The store fails between the question and the answer: what is held stays held, and the client is told in time."""
    answers: list[tuple[int, str]] = []
    subject = f"held-{fault}"
    with Kept(broken, broken.token(subject)) as kept:
        assert kept.ask()[0] == 200
        waiting = threading.Thread(target=lambda: answers.append(kept.ask("DELETE", f"/{subject}")))
        waiting.start()
        ann = broken.token("ann", "oncall")
        request = _request_of(broken, subject, ann)
        with locked(broken) if fault == "locked" else limited(broken, 1):
            done = broken.cli("approvals", "approve", request, token=ann)
            assert done.returncode != 0, done.stdout
        waiting.join(30)
    assert answers
    assert answers[0][0] in (403, 503)
    assert not [seen for seen in broken.secure.requests if seen.path == f"/{subject}"]


def _request_of(lab: HttpLab, subject: str, token: str) -> str:
    deadline = time.monotonic() + 20
    while True:
        listed = json.loads(lab.cli("approvals", "list", "--json", token=token).stdout)
        if mine := [one for one in listed if one["subject"] == subject]:
            return str(mine[0]["id"])
        assert time.monotonic() < deadline
        time.sleep(0.1)
