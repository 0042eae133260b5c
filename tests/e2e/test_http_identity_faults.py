"""Issuers that hang, drip, flood or lead elsewhere, and a verifier that raises: whoever needs them is refused in clear
words and nothing of theirs goes up; everybody else goes on meanwhile. Over HTTP and over PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from scripts.support.tls import Authority
from tests.support.http_lab import HttpLab
from tests.support.journal import await_records
from tests.support.lying_issuer import LIES, LyingIssuer

pytestmark = pytest.mark.e2e

RAISES = """
from pathlib import Path
import guard.identity

sound = guard.identity.Verifier.verify


async def verify(self, token):
    if Path({flag!r}).exists():
        raise RuntimeError("a verifier that is broken")
    return await sound(self, token)


guard.identity.Verifier.verify = verify
"""


class World:
    def __init__(self, folder: Path) -> None:
        self.broken = folder / "broken"
        script = folder / "breaks.py"
        script.write_text(RAISES.format(flag=str(self.broken)))
        self.stack = contextlib.ExitStack()
        self.lab = self.stack.enter_context(HttpLab(more=("-s", str(script)), adjust=self._lie))

    def _lie(self, document: dict[str, Any], authority: Authority) -> None:
        self.liars = {how: self.stack.enter_context(LyingIssuer(authority, how)) for how in LIES}
        document["issuers"] += trusted(self.liars.values(), authority)

    def api(self, token: str) -> tuple[int, str]:
        raw = self.lab.api("/hello", token=token).stdout
        head, _, body = raw.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body).get("detail", "")


def trusted(liars: Any, authority: Authority) -> list[dict[str, str]]:
    # what they call a group is none of the lab's: otherwise the configuration would not be accepted
    return [
        {"issuer": liar.url, "audience": "sluicegate", "ca": str(authority.file), "group_prefix": f"{liar.how}:"}
        for liar in liars
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("identity"))
    with made.stack:
        yield made


@pytest.mark.parametrize("how", LIES)
def test_an_issuer_that_does_not_answer_refuses_its_own_and_nobody_else(world: World, how: str) -> None:
    lab, liar = world.lab, world.liars[how]
    before = len(lab.secure.requests)
    known = lab.token("known")
    assert world.api(known)[0] == 200
    answers: list[tuple[int, str]] = []
    waiting = threading.Thread(target=lambda: answers.append(world.api(liar.token("mallory", "uploaders"))))
    waiting.start()
    for _ in range(3):
        assert world.api(known)[0] == 200
        assert world.api(lab.token("newcomer"))[0] == 200  # whose issuer answers
    waiting.join(30)
    assert liar.asked
    [(status, detail)] = answers
    assert status == 401
    assert "authentication failed" in detail
    assert len(lab.secure.requests) == before + 7  # none of them mallory's
    done = lab.curl(lab.secure.url("/hello"), token=liar.token("mallory"))
    assert re.match(rb"HTTP/1.1 407 ", done.stdout)
    assert len(lab.secure.requests) == before + 7
    assert liar.sent < 64 << 20  # what lay in buffers when the gateway had enough of it
    refused = await_records(lab.state, lambda r: r["t"] == "session.refused" and liar.url in r["detail"])
    assert refused[-1]["subject"] == ""


def test_a_verifier_that_raises_admits_nobody_and_says_nothing(world: World) -> None:
    lab = world.lab
    before = len(lab.secure.requests)
    token = lab.token("unlucky")
    world.broken.touch()
    try:
        assert world.api(token) == (503, "internal error in the gateway")
        assert re.match(rb"HTTP/1.1 503 ", lab.curl(lab.secure.url("/hello"), token=token).stdout)
    finally:
        world.broken.unlink()
    assert len(lab.secure.requests) == before
    assert world.api(token)[0] == 200
    assert token not in lab.log.read_text()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, dict[str, LyingIssuer]]]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with contextlib.ExitStack() as stack:
        liars = {how: stack.enter_context(LyingIssuer(authority, how)) for how in LIES}

        def adjust(document: dict[str, Any]) -> None:
            document["issuers"] += trusted(liars.values(), authority)

        yield stack.enter_context(Lab(tls="off", adjust=adjust)), liars


def test_over_postgresql_an_issuer_that_hangs_keeps_nobody_else_waiting(
    shop: tuple[Lab, dict[str, LyingIssuer]],
) -> None:
    lab, liars = shop
    refused: dict[str, str] = {}

    def knock(how: str) -> None:
        with pytest.raises(psycopg.OperationalError) as error:
            psycopg.connect(lab.dsn("agent", password=liars[how].token("mallory")), connect_timeout=30)
        refused[how] = str(error.value)

    with psycopg.connect(lab.dsn("agent"), autocommit=True) as known:
        threads = [threading.Thread(target=knock, args=(how,)) for how in LIES]
        for thread in threads:
            thread.start()
        for _ in range(5):
            assert known.execute("SELECT 1").fetchone() == (1,)
            with psycopg.connect(lab.dsn("analyst")) as newcomer:
                newcomer.execute("SELECT 1")
        for thread in threads:
            thread.join(30)
    assert set(refused) == set(LIES)
    assert all("authentication failed" in text for text in refused.values()), refused
