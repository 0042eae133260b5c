"""What is searched of a Kubernetes request, and what happens where that fails or takes too long."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from addons.kube import outbound
from addons.kube.masks import Own, for_record, is_helms
from addons.kube.outbound import StreamSearch, aside, study, target
from addons.web.inspect import Outbound
from addons.web.port import Ended
from guard.detect import DetectError
from protocols.contract import Effect
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.requests import resolve

MAP = resolve("POST", "/api/v1/namespaces/shop/configmaps")
KEY = "ghp_" + "a1B2" * 9
OUTBOUND = Outbound()  # one: its detectors take a while to build


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "STUDY_S", 0.01)

    async def ask() -> None:
        await aside(asyncio.sleep(60))

    with pytest.raises(RequestRefused) as caught:
        asyncio.run(ask())
    assert caught.value.code == 503


def test_a_command_line_is_searched_as_one() -> None:
    sent = "/api/v1/namespaces/shop/pods/web/exec?command=mysql&command=--password&command=hunter2%20x"
    assert ("command", "mysql --password hunter2 x") in target("prod", 6443, sent).query


def test_a_body_that_cannot_be_opened_is_unknown() -> None:
    assert Effect.UNKNOWN in study(MAP, None, "application/json", ()).analysis.effects
    proxied = resolve("POST", "/api/v1/namespaces/shop/services/web/proxy/x")
    assert Effect.UNKNOWN in study(proxied, None, "text/plain", ()).analysis.effects
    assert study(proxied, KEY.encode(), "text/plain", ()).text == KEY.encode()


def test_a_body_that_cannot_be_read_is_searched_as_it_is() -> None:
    studied = study(MAP, b'{"a":1,"a":"' + KEY.encode(), "application/json", ())
    assert Effect.UNKNOWN in studied.analysis.effects
    assert KEY.encode() in studied.text


def test_a_comment_of_yaml_is_searched_beside_values_that_stay() -> None:
    secret = resolve("PATCH", "/api/v1/namespaces/shop/secrets/db")
    body = f"stringData: {{p: kept-value}}\n# {KEY}\n".encode()
    studied = study(secret, body, "application/apply-patch+yaml", (), b"kept-value".__eq__)
    assert KEY.encode() in studied.text
    assert b"kept-value" not in studied.text


def test_digests_of_values_are_bounded_and_belong_to_a_place() -> None:
    own = Own(most=2)
    for number in range(3):
        own.add("shop/db", b"value-%d" % number)
    assert [own.holds("shop/db", b"value-%d" % number) for number in range(3)] == [False, True, True]
    assert not own.holds("shop/other", b"value-2")


def test_a_large_secret_is_not_read_again_for_the_record() -> None:
    secrets = resolve("POST", "/api/v1/namespaces/shop/secrets")
    body = json.dumps({"data": {"a": "eA==" * 100_000}}).encode()
    assert for_record(body, "application/json", secrets) is None


@pytest.mark.parametrize(
    ("path", "helm"),
    [
        ("secrets?labelSelector=owner%3Dhelm%2Cstatus%3Ddeployed", True),
        ("secrets?labelSelector=owner%3D%3Dhelm", True),
        ("secrets/sh.helm.release.v1.shop.v1", True),
        ("secrets?labelSelector=owner!%3Dhelm", False),
        ("secrets?labelSelector=app%3Dx", False),
        ("secrets", False),
    ],
)
def test_who_looks_for_helms_releases(path: str, helm: bool) -> None:
    assert is_helms(resolve("GET", f"/api/v1/namespaces/shop/{path}")) is helm


class _Asked:
    """What `StreamSearch` needs of an exchange; the search itself is the real one."""

    def __init__(self) -> None:
        self.gate = SimpleNamespace(outbound=OUTBOUND)
        self.session = SimpleNamespace(identity="x")
        self.found: frozenset[Effect] = frozenset()

    def may_pass(self, found: frozenset[Effect]) -> str:
        self.found |= found
        return "it must stay here"


def search(*, waits: bool) -> tuple[StreamSearch, Any]:
    asked: Any = _Asked()
    return StreamSearch(asked, waits=waits), asked


@pytest.mark.parametrize("size", [1, 7, 39, 40, 500])
@pytest.mark.parametrize("waits", [True, False])
def test_in_any_pieces_the_whole_value_never_passes(size: int, waits: bool) -> None:
    found, asked = search(waits=waits)
    text = (f"some text {KEY} and more".ljust(200)).encode()
    out = b""

    def feed() -> bytes:
        nonlocal out
        for at in range(0, len(text), size):
            out += found.feed(text[at : at + size], at)
        return out + found.flush()

    with pytest.raises(Ended, match="it must stay here"):
        feed()
    assert KEY.encode() not in out
    assert not waits or b"ghp_a1B2" not in out
    assert asked.found == {Effect.EXFIL_CREDENTIAL}


def test_what_is_held_back_is_let_go_after_a_while() -> None:
    found, _ = search(waits=True)
    first = found.feed(b"half a number 4111 1111", 1_000)
    due = found.due_ns
    assert due is not None
    assert found.tick(due - 1) == b""
    assert first + found.tick(due) == b"half a number 4111 1111"
    assert found.due_ns is None


def test_a_terminal_waits_for_nothing() -> None:
    found, _ = search(waits=False)
    assert found.feed(b"4", 0) == b"4"
    assert found.due_ns is None
    assert found.flush() == b""


def test_a_search_that_fails_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for waits in (True, False):
        found, asked = search(waits=waits)

        def fails(*_: object) -> Any:
            raise DetectError("no memory")

        monkeypatch.setattr(asked.gate.outbound, "look", fails)
        with pytest.raises(Ended, match="cannot be searched"):
            found.feed(b"a line\n", 0)
