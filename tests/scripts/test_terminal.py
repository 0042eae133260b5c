"""Recorded text must never write to somebody's terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from scripts.terminal import clean, console, duration, moment, one_line, parse_when, print_json, statement

HOSTILE = {
    "\x1b[2J\x1b]0;owned\x07": "\\x1b[2J\\x1b]0;owned\\x07",
    "\x9b31m": "\\x9b31m",
    "DELETE\rSELECT": "DELETE\\rSELECT",
    "a\u202eb": "a\\u{202e}b",
    "a\u2066b\u200bc": "a\\u{2066}b\\u{200b}c",
    "\ud800": "\\u{d800}",
    "\x00\x08\x7f": "\\x00\\x08\\x7f",
    "grün \u4e2d": "grün \u4e2d",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_is_not_printable_becomes_visible(text, shown):
    assert clean(text) == shown


@hypothesis_settings(deadline=None)
@given(st.text())
def test_nothing_unprintable_is_ever_left(text):
    assert clean(text).isprintable()
    assert all(char.isprintable() or char in "\n\t" for char in clean(text, lines=True))
    assert one_line(text).isprintable()


@hypothesis_settings(deadline=None)
@given(st.text(max_size=200))
def test_a_statement_is_always_shown(text):
    shown = statement(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)


def test_a_statement_is_laid_out_and_a_long_one_is_not():
    assert statement("select a, b from t where x = 1") == "select a,\n       b\nfrom t\nwhere x = 1"
    long = "select " + ", ".join(f"c{number}" for number in range(2000))
    assert statement(long) == long
    assert statement("select\x00 1") == "select\\x00 1"


def test_deep_nesting_is_shown_as_it_is():
    text = "(" * 2000 + "1" + ")" * 2000
    assert statement(text).replace("\n", "").replace(" ", "").count("(") == 2000


@pytest.mark.parametrize(("said", "width"), [(None, 160), ("76", 76), ("", 160), ("wide", 160)])
def test_a_pipe_is_wide_unless_somebody_says_how_wide(monkeypatch, said, width):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    if said is not None:
        monkeypatch.setenv("COLUMNS", said)
    assert console().width == width


def test_json_is_ascii(capsys):
    print_json({"text": "\x1b[2J\x9b\u202e"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"text": "\x1b[2J\x9b\u202e"}


def test_times():
    assert parse_when("2h", 10_000) == 2800
    assert parse_when("1d", 90_000) == 3600
    assert parse_when("1970-01-01T00:01:40+00:00", 0) == 100
    for wrong in ("", "yesterday", "2 h", "-2h", "9999999d", "2030-13-01"):
        with pytest.raises(ValueError, match="no time"):
            parse_when(wrong, 0)
    assert moment(None) == moment("x") == moment(True) == moment(1e300) == "-"
    assert moment(0).startswith(("1970-01-01", "1969-12-31"))
    assert [duration(value) for value in (5.55, 64, 3720)] == ["5.5 s", "1 m 04 s", "1 h 02 m"]


# ---------------------------------------------------------------- colours

DEMO = Path(__file__).parents[2] / "policies" / "demo.yaml"


def on_a_terminal(**environment: str) -> bytes:
    """What `policy explain` writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    argv = [sys.executable, "-m", "scripts.cli", "policy", "explain", "--policy", str(DEMO), "--as", "agent"]
    process = subprocess.Popen(
        [*argv, "DROP TABLE t"], stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, **environment}
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65_536):
            said += piece
    except OSError:
        pass  # how Linux says that nobody has the other end any more
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return said


def test_a_terminal_gets_colours():
    said = on_a_terminal(TERM="xterm-256color")
    assert b"\x1b[31mDENY" in said


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "TERM": "xterm-256color"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(environment):
    said = on_a_terminal(**environment)
    assert b"DENY" in said
    # NO_COLOR is about colours: bold and dim may stay (no-color.org)
    assert not [code for code in (b"\x1b[3", b"\x1b[4", b"\x1b[9", b";3", b";38", b";48") if code in said]
    assert environment["TERM"] != "dumb" or b"\x1b" not in said
