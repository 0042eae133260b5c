"""The pages on identity and control say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from guard.approve.webhooks import DELIVERY_HEADER, RETRY_S, SIGNATURE_HEADER
from guard.control.roles import METHODS
from guard.identity import PRESETS
from scripts.cli import MODULES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(page: str) -> dict[str, str]:
    """Second cell (or first, where the page has presets) of each table row -> the whole row."""
    return {cells[1].strip(" `"): line for line in page.splitlines() if (cells := line.split("|"))[1:]}


def test_every_preset_and_attribute_is_described():
    described = rows((DOCS / "identity.md").read_text())
    for name, preset in PRESETS.items():
        words = set(re.findall(r"[\w:]+", described[name]))
        assert preset.attributes.keys() <= words
    assert {name for name in described if name in PRESETS or name.startswith(("git", "key", "kub", "ok"))} == set(
        PRESETS
    )


def test_every_method_and_its_roles_are_described():
    page = (DOCS / "control.md").read_text()
    for name, method in METHODS.items():
        [row] = [line for line in page.splitlines() if line.startswith("|") and f"| `{name}` |" in line]
        for role in method.roles:
            assert role in row or "the same" in row
    tightening = {name.split(".")[-1] for name, method in METHODS.items() if method.tightens}
    [sentence] = re.findall(r"^(.*) are carried out even while", page, re.M)
    assert set(re.findall(r"`(\w+)`", sentence)) == tightening


def test_every_online_command_is_described():
    page = (DOCS / "control.md").read_text()
    for command in MODULES["scripts.control_commands"]:
        assert f"| `{command}" in page


def test_webhook_headers_are_described():
    page = (DOCS / "control.md").read_text()
    assert SIGNATURE_HEADER in page
    assert DELIVERY_HEADER in page
    assert len(RETRY_S) + 1 == 6
    assert "six attempts" in page
