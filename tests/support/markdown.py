"""What tests need to know of a Markdown page: its headings, links and code blocks, and what is to be done with these.

A comment in the line before a block says what to do with it:

    <!-- file: NAME -->             the block is this file
    <!-- run -->                    the block must succeed (`sh` in bash, `python` in Python)
    <!-- run: lab, exit 1, says X --> ... where a gateway runs; with this exit status; X is in its output
    <!-- run: start -->             ... its last line starts a gateway and stays
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"<!-- (file|run)(?:: (.*?))? -->\n\Z")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"``\s?(.+?)\s?``|`([^`\n]+)`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block. `file` and `run` are None where nothing is asked."""

    language: str
    text: str
    line: int
    file: str | None = None
    run: frozenset[str] | None = None

    def option(self, name: str) -> str | None:
        """The rest of `NAME rest` among the words of `run`."""
        found = [word.removeprefix(name).strip() for word in self.run or () if word.startswith(f"{name} ")]
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Page:
    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        """Everything outside code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        return [self._block(found) for found in _FENCE.finditer(self.text)]

    def _block(self, found: re.Match[str]) -> Block:
        line = self.text.count("\n", 0, found.start()) + 1
        asked = _DIRECTIVE.search(self.text, 0, found.start())
        if asked is None:
            return Block(found[1], found[2], line)
        if asked[1] == "file":
            return Block(found[1], found[2], line, file=asked[2])
        return Block(found[1], found[2], line, run=frozenset((asked[2] or "").split(", ")))

    @property
    def anchors(self) -> set[str]:
        """As the usual renderers make them of headings."""
        return {_anchor(heading) for heading in _HEADING.findall(_FENCE.sub("", self.text))}

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def spans(self) -> list[str]:
        """Inline code."""
        return [" ".join((a or b).split()) for a, b in _SPAN.findall(self.prose)]


def pages() -> list[Page]:
    """Every page that people read."""
    top = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    return [Page.read(path) for path in [*top, *sorted((ROOT / "docs").rglob("*.md"))]]


def page(name: str) -> Page:
    return Page.read(ROOT / name)


def _anchor(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
