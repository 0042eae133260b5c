"""Strict YAML: what is refused, and where the problem is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guard.documents import ConfigError, Problem, read
from guard.documents.reader import MAX_BYTES, Mark, parse

FILE = Path("x.yaml")


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    return caught.value.problems


def test_keeps_the_position_of_every_key_and_value() -> None:
    document = parse("a: 1\nb:\n  - c: x\n    d: [1.5, true, null]\n", FILE)
    assert document.data == {"a": 1, "b": [{"c": "x", "d": [1.5, True, None]}]}
    assert document.keys["b", 0, "d"] == Mark(4, 5)
    assert document.values["b", 0, "d", 1] == Mark(4, 14)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),  # YAML 1.1 would make it false
        ("on", "on"),
        ("no", "no"),
        ("2026-01-02", "2026-01-02"),
        ("12:30:00", "12:30:00"),
        ("0o17", 15),
        ("010", 10),
        ("0x1f", 31),
        ("1_000", 1000),
        ("'5'", "5"),
        ("-3", -3),
        ("1e3", 1000.0),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert parse(f"k: {text}\n", FILE).data == {"k": value}


def test_a_problem_points_at_the_deepest_place_that_exists() -> None:
    document = parse("a:\n  b: 1\n", FILE)
    assert document.problem(("a", "tag-of-a-union", "b"), "x") == Problem("x.yaml", 2, 6, "x")
    assert document.problem(("nowhere",), "x") == Problem("x.yaml", 1, 1, "x")


def test_all_duplicates_are_reported_in_one_run() -> None:
    found = problems("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [(one.line, one.column, one.message) for one in found] == [
        (2, 1, "`a` is given twice (first in line 1)"),
        (3, 11, "`c` is given twice (first in line 3)"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a: !!python/object:os.system x\n", 1, "tags"),
        ("a: !thing {b: 1}\n", 1, "tags"),
        ("a: !thing [1]\n", 1, "tags"),
        ("1: x\n", 1, "a key must be a word"),
        ("? [a]\n: x\n", 1, "a key must be a word"),
        ("a: .inf\n", 1, "finite"),
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("%YAML 1.1\n---\na: yes\n", 2, "directives"),
        ("a: !!bool yes\n", 1, "tags"),
        ("!!str a: 1\n", 1, "a key must be a word"),
        ("a: 'x\n", 2, "not valid YAML"),
        ("", 0, "empty"),
        ("# only a comment\n", 0, "empty"),
        ("a: \x01\n", 0, "not valid YAML"),
        ("[" * 5000 + "]" * 5000, 1, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nested too deeply"),
    ],
)
def test_refuses(text: str, line: int, words: str) -> None:
    found = problems(text)
    assert words in found[0].message
    assert found[0].line == line


def test_bytes_that_are_not_utf8_are_named_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"a: 1\nb: \xe4\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:2:4: not UTF-8; save the file as UTF-8"


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(path).data == {"a": 1}


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_a_problem_of_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / name)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match=f"larger than {MAX_BYTES} bytes"):
        read(Path("/dev/zero"))


@given(st.text(max_size=200))
@example("a: *x")
@example("&a [*a]")
@example("{a: 1, a: 2}")
def test_any_text_is_data_or_a_list_of_problems(text: str) -> None:
    try:
        found: list[Problem] = []
        parse(text, FILE)
    except ConfigError as error:
        found = error.problems
    assert all(problem.file == "x.yaml" and problem.message for problem in found)
