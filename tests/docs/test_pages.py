"""What the pages say exists: links, commands, effects, keys, modules, tests, dependencies. And what exists is said."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from guard.control.wire import CODES
from protocols.contract import Effect
from protocols.mysql import errors as mysql_errors
from protocols.postgres import errors
from scripts import cli, reference_cli
from tests.support.markdown import ROOT, Page, page, pages

PAGES = pages()
_by_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


# ---------------------------------------------------------------- links and pictures


@_by_name
def test_links_resolve(page: Page) -> None:
    broken = []
    for link in page.links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        if not path.exists() or (anchor and anchor not in Page.read(path).anchors):
            broken.append(link)
    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        current = Page.read(waiting.pop())
        for link in current.links:
            path = (current.path.parent / link.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file() and path not in reached:
                reached.add(path)
                waiting.append(path)
    assert {p.path for p in PAGES} <= reached


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_are_sound_and_described(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    for name in ("title", "desc"):
        assert (root.findtext(f"{space}{name}") or "").strip()


# ---------------------------------------------------------------- the command line


def _parsers() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}

    def walk(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> None:
        found[path] = parser
        for name, child, _ in reference_cli._children(parser):
            walk(child, (*path, name))

    walk(cli.build_parser(tuple(cli.MODULES)), ())
    return found


PARSERS = _parsers()
_ENDS = frozenset({"|", ">", ";", ")", "&&", "..."})  # behind them comes another command


def test_the_command_reference_is_up_to_date() -> None:
    text = page("docs/reference/cli.md").text
    assert text == reference_cli.page(), "stale: run python -m scripts.reference_cli"
    for path, parser in PARSERS.items():
        if not any(reference_cli._children(parser)):
            assert f"### `sluicegate {' '.join(path)}" in text


def test_every_error_code_of_the_control_socket_is_described() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", page("docs/reference/cli.md").text, re.MULTILINE))
    assert described >= CODES


def _typed(page: Page) -> Iterator[str]:
    """Every `sluicegate ...` that the page shows."""
    for block in page.blocks:
        if block.language in ("sh", "console", "ini"):
            for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                yield from re.findall(r"(?:^|[\s/(])(sluicegate (?!.*: ).*)", line)
    # `sluicegate ready` is what the log says
    yield from (span for span in page.spans if span.startswith("sluicegate ") and span != "sluicegate ready")


@_by_name
def test_commands_are_as_typed(page: Page) -> None:
    for typed in _typed(page):
        lexer = shlex.shlex(typed.partition("  #")[0], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(itertools.takewhile(lambda word: word not in _ENDS, lexer))[1:]
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in PARSERS:
            path = (*path, words.pop(0))
        assert path or not words or words[0].startswith("-") or words[0].isupper(), f"no such command: {typed}"
        known = {option for action in PARSERS[path]._actions for option in action.option_strings}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"no such option: {typed}"


# ---------------------------------------------------------------- vocabulary


@_by_name
def test_effects_that_are_named_exist(page: Page) -> None:
    names = {effect.value for effect in Effect}
    families = {name.partition(".")[0] for name in names if "." in name}
    named = {span for span in page.spans if re.fullmatch(rf"(?:{'|'.join(families)})\.(?:\w+|\*)", span)}
    known = names | {f"{family}.*" for family in families}
    assert named <= known | _kinds()


def _kinds() -> set[str]:
    """`session.start` and its like: kinds of records."""
    return set(re.findall(r"`([a-z_]+\.[a-z_]+)`", "\n".join(_headings("docs/reference/journal.md"))))


def _headings(name: str) -> list[str]:
    return [line for line in page(name).text.splitlines() if line.startswith(("#", "| `"))]


@_by_name
def test_configuration_keys_that_are_named_exist(page: Page) -> None:
    text = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    sections: dict[str, set[str]] = {}
    for part in text.split("\n## ")[1:]:
        title = part.splitlines()[0].strip("`")
        sections.setdefault(title.rpartition(".")[2], set()).update(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))
    for section, key in re.findall(r"`(record|limits|catalog|tls|roles)\.(\w+)(?!\w*\.py)", page.prose):
        assert key == "py" or key in sections[section] or f"{section}.{key}" in _kinds(), f"{section}.{key}"


_RAISED = re.compile(r'(?:Refused|ProtocolError|refusal)\([^()]*(?:\([^()]*\)[^()]*)*"(\w{5})"\)')


def test_every_sqlstate_that_the_gateway_answers_with_is_described() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)}
    for folder in ("addons", "protocols"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            codes |= set(
                re.findall(r'(?:Refused|ProtocolError|refusal)\([^()]*(?:\([^()]*\)[^()]*)*"(\w{5})"\)', source)
            )
            codes |= set(re.findall(r'Ground\.[A-Z]+: "(\w{5})"', source))
    codes = {code for code in codes if re.fullmatch(r"[0-9A-Z]{5}", code)}
    described = set(re.findall(r"`([0-9A-Z]{5})`", page("docs/client.md").text))
    assert len(codes) > 10
    assert codes <= described


def test_every_error_number_of_mysql_that_the_gateway_answers_with_is_described() -> None:
    codes = {value for name, value in vars(mysql_errors).items() if name.isupper() and isinstance(value, tuple)}
    described = {
        (int(number), state)
        for numbers, states in re.findall(r"^\| ([\d, ]+) \| ([`\w, ]+) \|", page("docs/mysql.md").text, re.MULTILINE)
        for number in numbers.split(", ")
        for state in re.findall(r"\w{5}", states)
    }
    assert len(codes) > 10
    assert codes <= described


# ---------------------------------------------------------------- code, tests, packages


def _paths(page: Page) -> Iterator[str]:
    for span in page.spans:
        if re.fullmatch(r"(?:addons|protocols|guard|policies|scripts|tests|docs)/[\w./-]*", span):
            yield span


@_by_name
def test_files_that_are_named_exist(page: Page) -> None:
    assert [path for path in _paths(page) if not (ROOT / path).exists()] == []


def test_the_module_map_leaves_nothing_out() -> None:
    text = page("ARCHITECTURE.md").text
    told = text[text.index("## Module map") :]
    named = set(re.findall(r"[\w*]+(?=\.py|`|,)", told))
    for folder in ("addons", "addons/web", "addons/kube", "protocols/postgres"):
        for path in (ROOT / folder).glob("*.py"):
            stem = path.stem
            if stem != "__init__":
                assert stem in named or any(n.endswith("*") and stem.startswith(n[:-1]) for n in named), path.name
    for folder in ("guard", "scripts"):
        for path in (ROOT / folder).iterdir():
            if path.is_dir() and not path.name.startswith("_"):
                assert f"{folder}/{path.name}/" in told, path.name


def test_tests_that_are_named_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page("docs/security.md").text)
    assert len(named) > 40
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), file
        assert re.search(rf"def {test}\(", path.read_text(encoding="utf-8")), f"{file}::{test}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["dependency-groups"]["native"],
    ]
    wanted = {re.split(r"[\[<>=;! ]", one)[0] for one in asked}
    described = set(re.findall(r"^\| `([\w-]+)` \|", page("docs/dependencies.md").text, re.MULTILINE))
    assert described == wanted
