"""Recorded bytes of an answer as lines, whatever the protocol."""

from __future__ import annotations

from typing import get_args

import pytest

from protocols.contract import ProtocolName
from protocols.http import evidence
from protocols.registry import render


@pytest.mark.parametrize("protocol", get_args(ProtocolName))
def test_every_protocol_that_a_configuration_may_name_can_be_shown(protocol: str) -> None:
    assert render(protocol, b"") == []
    assert all(line.isprintable() for line in render(protocol, b"\x1b]0;title\x07\xff\x00"))


def test_an_answer_over_http() -> None:
    wire = evidence.head("HTTP/1.1", 200, "OK", [("content-type", "text/plain")])
    assert render("http", wire + b"one\ntwo\x1b[31m") == [
        "HTTP/1.1 200 OK", "content-type: text/plain", "", "one", "two\ufffd[31m",
    ]  # fmt: skip
    assert render("kubernetes", wire + bytes(range(0x80, 0xC0)) * 2)[-1] == "(128 bytes that are no text)"


def test_a_long_one_is_cut() -> None:
    assert evidence.render(b"HTTP/1.1 200 OK\r\n\r\n" + b"x\n" * 50, 10)[-2:] == ["x", "(cut here)"]


def test_what_is_no_protocol() -> None:
    with pytest.raises(KeyError):
        render("gopher", b"")
