"""Heads of answers: what a rule masks by content is masked in the reason phrase and in fields, too."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http_lab import HttpLab
from tests.support.http_raw import RawServer
from tests.support.journal import records

pytestmark = pytest.mark.e2e

HEAD = (
    b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: 2\r\ndate: Sun, 22 Nov 2026 07:00:00 GMT\r\n"
    b"location: https://localhost/users/ada@example.org?card=4111111111111111\r\nx-user: ada@example.org\r\n"
    b"x-other: nothing\r\nset-cookie: user=ada@example.org\r\n\r\nok"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab() as running:
        yield running


def answering(status: bytes) -> Any:
    def answer(connection: socket.socket, head: bytes) -> None:
        connection.sendall(HEAD % status)

    return answer


def head_of(lab: HttpLab, path: str, status: bytes, *words: str, token: str = "") -> list[str]:
    with RawServer(answering(status)) as server:
        told = lab.curl(*words, server.url(path), token=token).stdout
    return told.partition(b"\r\n\r\n")[0].decode().split("\r\n")


@pytest.mark.parametrize("words", [(), ("-I",)], ids=["get", "head"])
def test_contents_of_a_head_are_masked(lab: HttpLab, words: tuple[str, ...]) -> None:
    lines = head_of(lab, "/text", b"200 OK for ada@example.org", *words)
    assert lines[0] == "HTTP/1.1 200 OK for [masked]"
    assert "location: https://localhost/users/[masked]?card=[masked]" in lines
    assert "x-user: [masked]" in lines
    assert "x-other: nothing" in lines
    assert "set-cookie: user=[masked]" in lines
    assert "date: Sun, 22 Nov 2026 07:00:00 GMT" in lines
    seen = [r for r in records(lab.state) if r.get("t") == "response"]
    assert "ada@example.org" not in json.dumps(seen)


def test_a_head_that_no_rule_masks_is_as_it_was(lab: HttpLab) -> None:
    for path, token in (("/clear", ""), ("/text", lab.token("ada", "trusted"))):
        lines = head_of(lab, path, b"200 OK for ada@example.org", token=token)
        assert lines[0] == "HTTP/1.1 200 OK for ada@example.org"
        assert "x-user: ada@example.org" in lines


def test_an_answer_without_a_body_has_a_masked_head(lab: HttpLab) -> None:
    assert "x-user: [masked]" in head_of(lab, "/text", b"304 Not Modified since ada@example.org")
