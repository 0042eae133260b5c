"""A text in pieces is detected as if it came whole, at every split; and little is held back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.detect import Finding, Known, Scanner, Stream
from tests.guard.detect.samples import FOUND, JWT, NOT_FOUND, PEM

SECRET = b"Zq7-gateway-own-secret"
SCANNER = Scanner(known=Known({"db": [SECRET]}))
SAMPLES = [data for data, _ in FOUND] + NOT_FOUND + [b"x" + SECRET + b"y", SECRET.hex().encode()]


def streamed(pieces: list[bytes]) -> tuple[bytes, list[Finding]]:
    stream = Stream(SCANNER)
    out = [stream.feed(piece) for piece in pieces] + [stream.end()]
    findings = [Finding(f.kind, f.start + p.offset, f.end + p.offset, f.detector) for p in out for f in p.findings]
    for piece in out:
        assert all(0 <= f.start < f.end <= len(piece.data) for f in piece.findings)
    return b"".join(piece.data for piece in out), sorted(findings, key=lambda f: (f.start, f.end, f.detector))


@pytest.mark.parametrize("data", SAMPLES, ids=lambda v: repr(v)[:40])
def test_every_split_of_every_sample(data: bytes) -> None:
    whole = SCANNER.find(data)
    for at in range(len(data) + 1):
        assert streamed([data[:at], data[at:]]) == (data, whole), at
    assert streamed([data[i : i + 1] for i in range(len(data))]) == (data, whole)


@given(st.data())
@settings(max_examples=60)
def test_any_pieces_of_any_mixture(data: st.DataObject) -> None:
    glue = data.draw(st.sampled_from([b" ", b"\n", b"", b",", b"-", b'"', b"x" * 80]))
    text = glue.join(data.draw(st.lists(st.sampled_from(SAMPLES) | st.binary(max_size=5), max_size=8)))
    pieces, at = [], 0
    for size in data.draw(st.lists(st.integers(1, 60), max_size=30)):
        pieces.append(text[at : at + size])
        at += size
    assert streamed([*pieces, text[at:]]) == (text, SCANNER.find(text))


def test_long_runs_are_not_held_for_ever() -> None:
    """Neither an endless word, number nor private key makes the buffer grow."""
    for filler in (b"A" * 1000, b"1 " * 500, b"password=" * 100, b"eyJhbGciOi" * 100, b"a@" * 500):
        stream = Stream(SCANNER)
        for _ in range(60):
            stream.feed(filler)
            assert stream.held <= 12_000
    stream = Stream(SCANNER)
    stream.feed(PEM[:40])
    for _ in range(90):
        stream.feed(b"MIIEpAIBAAKCAQEA" * 64 + b"\n")
        assert stream.held <= 55_000


@pytest.mark.parametrize("pieces", [1, 61, 4096])
def test_a_long_run_with_values_in_it(pieces: int) -> None:
    """Values within a word that is longer than what is held back."""
    text = (
        b"A" * 9000 + b"." + JWT + b"|" + b"B" * 9000 + b"@c.example.com;" + b"C" * 20_000 + b" 4111111111111111 "
    ) * 2
    if pieces == 1:
        text = text[8900:9300]
    assert streamed([text[i : i + pieces] for i in range(0, len(text), pieces)]) == (text, SCANNER.find(text))


@pytest.mark.parametrize("text", [b"the end of a line\n", b'data: {"a": 1}\n\n', b"row;row\r\n", b'{"a":"b"}'])
def test_nothing_is_held_behind_the_end_of_a_line_or_a_document(text: bytes) -> None:
    stream = Stream(SCANNER)
    assert stream.feed(text).data + b"" == text[: len(text) - stream.held]
    assert stream.held <= 1


def test_a_flush_gives_out_what_is_held_and_with_it_the_beginning_of_a_value() -> None:
    stream = Stream(SCANNER)
    assert stream.feed(b"your name ").data == b""
    assert stream.flush().data == b"your name "
    assert stream.feed(b"4111 1111").findings == ()
    assert stream.flush().data == b"4111 1111"
    assert stream.feed(b" 1111 1111\n").findings == ()  # why a flush is for terminals only
