"""The vocabulary has one door, and stands on nothing else of the project."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from protocols import contract
from protocols.registry import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(module.name for module in pkgutil.iter_modules(contract.__path__))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_everything_is_exported_and_nothing_twice() -> None:
    defined = [
        name
        for module in map(importlib.import_module, (f"protocols.contract.{name}" for name in MODULES))
        for name in vars(module)
        if not name.startswith("_")
        and (
            getattr(vars(module)[name], "__module__", "") == module.__name__
            or (name.isupper() and name in Path(str(module.__file__)).read_text(encoding="utf-8"))
        )
    ]
    assert set(contract.__all__) - {"ProtocolName"} == set(defined)  # a Literal knows no module
    assert len(contract.__all__) == len(set(contract.__all__))


@pytest.mark.parametrize("folder", ["addons", "guard", "protocols", "scripts", "tests"])
def test_it_is_imported_from_one_place(folder: str) -> None:
    own = ROOT / "protocols" / "contract"
    inside = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        if own not in path.parents
        for name in imported(path)
        if name.startswith("protocols.contract.")
    ]
    assert inside == []


@pytest.mark.parametrize("name", MODULES)
def test_it_stands_on_nothing_else_of_the_project(name: str) -> None:
    roots = ("addons", "guard", "protocols", "scripts")
    named = [x for x in imported(ROOT / "protocols" / "contract" / f"{name}.py") if x.split(".")[0] in roots]
    assert all(x.startswith("protocols.contract.") for x in named)


def test_what_configurations_may_name_is_what_exists() -> None:
    """Two places make a protocol: its line in the registry, its name and facts in `contract.wire`."""
    assert set(get_args(contract.ProtocolName)) == set(contract.WIRE) == {*PROTOCOLS, *contract.HTTP_PROTOCOLS}
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
