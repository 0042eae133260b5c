"""Recordings of terminals, and which of their control sequences reach the terminal of who replays them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes.asciicast import Header, Writer
from protocols.kubernetes.terminal import Safe
from tests.support.asciicast import CastEvent, read

HEADER = Header(80, 24, 1_700_000_000, command="sh")


def cast(*events: bytes) -> list[str]:
    return (Writer.header(HEADER) + b"".join(events)).decode().splitlines()


def test_a_recording() -> None:
    writer = Writer(5_000_000_000)
    lines = cast(
        writer.output(5_000_000_000, b"$ "),
        writer.input(5_500_000_000, b"ls\r"),
        writer.resize(6_000_000_000, 100, 30),
        writer.output(6_250_000_000, b"caf\xc3"),
        writer.output(6_300_000_000, b"\xa9\n"),
        writer.marker(6_300_000_000, "cut"),
    )
    assert json.loads(lines[0]) == {
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": 1_700_000_000,
        "command": "sh",
    }
    assert lines[1] == '[0.0, "o", "$ "]'
    header, events = read(lines)
    assert header == HEADER
    assert events == [
        CastEvent(0.0, "o", "$ "),
        CastEvent(0.5, "i", "ls\r"),
        CastEvent(1.0, "r", "100x30"),
        CastEvent(1.25, "o", "caf"),
        CastEvent(1.3, "o", "é\n"),
        CastEvent(1.3, "m", "cut"),
    ]


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_bytes_across_chunks(chunks: list[bytes]) -> None:
    writer = Writer(0)
    lines = cast(*(writer.output(n, chunk) for n, chunk in enumerate(chunks)), writer.finish(99))
    text = "".join(event.data for event in read(lines)[1])
    assert text == b"".join(chunks).decode(errors="replace")


def test_time_never_goes_back() -> None:
    writer = Writer(10**9)
    lines = cast(writer.output(3 * 10**9, b"a"), writer.output(2 * 10**9, b"b"))
    assert [event.at for event in read(lines)[1]] == [2.0, 2.0]


SAFE = ["plain\r\n\ttext\a\b", "\x1b[1;31mred\x1b[0m", "\x1b[2J\x1b[H", "\x1b[10;20H", "\x1b[K", "\x1b[?25l",
        "\x1b[?1049h",
        "\x1b7\x1b8\x1bM", "\x1b(B", "\x1b[38:2:1:2:3m", "\u00e9\u4e2d\U0001f600"]  # fmt: skip
UNSAFE = [
    ("title", "\x1b]0;pwned\a"), ("clipboard", "\x1b]52;c;ZXZpbA==\x1b\\"), ("link", "\x1b]8;;http://x\x1b\\"),
    ("report", "\x1b[6n"), ("attributes", "\x1b[c"), ("secondary", "\x1b[>c"), ("window", "\x1b[21t"),
    ("device control", "\x1bP$q q\x1b\\"), ("apc", "\x1b_x\x1b\\"), ("pm", "\x1b^x\x1b\\"), ("sos", "\x1bXx\x1b\\"),
    ("mouse", "\x1b[?1000h"), ("paste", "\x1b[?2004h"), ("several modes", "\x1b[?25;1000h"), ("print", "\x1b[5i"),
    ("eight bits csi", "\x9b6n"), ("eight bits osc", "\x9d0;x\x9c"), ("enquiry", "\x05"), ("answerback", "\x1bZ"),
    ("intermediate", "\x1b[!p"), ("very long", "\x1b[" + "1;" * 500 + "m"), ("delete", "\x7f"),
    ("nested", "\x1b]0;\x1b[6n\x07"),
    ("utf-8 mode", "\x1b%G"),
]  # fmt: skip


@pytest.mark.parametrize("text", SAFE)
def test_sequences_that_pass(text: str) -> None:
    assert Safe().feed(text) == text


@pytest.mark.parametrize("text", [text for _, text in UNSAFE], ids=[name for name, _ in UNSAFE])
def test_sequences_that_do_not(text: str) -> None:
    for cut in range(len(text)):
        safe = Safe()
        found = safe.feed("a" + text[:cut]) + safe.feed(text[cut:]) + safe.feed("\x18b")
        assert "\x1b" not in found
        assert found.startswith("a")
        assert found.endswith("b")
        assert not any(c in found for c in "\x05\x7f\x9b\x9d")


@given(st.text(alphabet="\x1b[]?;0156nmcPq\\\a\x9b\x9c\x9dabHJ", max_size=40))
def test_any_text_cut_anywhere(text: str) -> None:
    whole = Safe().feed(text)
    apart = Safe()
    assert "".join(map(apart.feed, text)) == whole
    assert not re.search(r"\x1b\[[0-9;?]*n|[\x9b\x9d]|\x1b[]P]", whole)
