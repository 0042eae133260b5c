"""Writes docs/reference/ from the schemas: what the code accepts and what the documents say cannot drift apart."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from guard.config import Config
from guard.enforce.schema import Bundle
from guard.enforce.testing import TestFile
from protocols.contract import Effect
from scripts import reference_texts

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
_NOTICE = "<!-- written by ./scripts/docs from the schema: change the schema, not this file -->\n\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    config = reference_texts.CONFIG + "\n" + _models(Config, "## ")
    policy = reference_texts.POLICY + "\n" + _effects() + "\n" + _models(Bundle, "## ")
    tests = reference_texts.TESTS + "\n" + _models(TestFile, "### ")
    return {"config.md": _NOTICE + config, "policy.md": _NOTICE + policy + "\n" + tests}


def _effects() -> str:
    source = inspect.getsource(Effect)
    lines = ["## Effects", "", "`family.*` names a whole family.", "", "| effect | what it is |", "|---|---|"]
    for effect in Effect:
        found = re.search(rf'= "{re.escape(effect.value)}"\s*(?:#\s*(.*))?$', source, re.MULTILINE)
        comment = (found.group(1) if found else None) or effect.value.rpartition(".")[2].replace("_", " ")
        lines.append(f"| `{effect.value}` | {_cell(comment)} |")
    return "\n".join(lines) + "\n"


def _models(root: type[BaseModel], heading: str) -> str:
    sections: list[str] = []
    seen: list[type[BaseModel]] = [root]
    names: dict[type[BaseModel], str] = {root: "The file"}
    for model in seen:  # grows while it is walked
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            key = field.alias or name
            for inner in _inner_models(field.annotation):
                if inner not in names:
                    names[inner] = f"{key}" if model is root else f"{names[model].strip('`')}.{key}"
                    names[inner] = f"`{names[inner].removeprefix('The file.')}`"
                    seen.append(inner)
            default = _default(field)
            rows.append(f"| `{key}` | {_type(field.annotation)} | {default} | {_cell(field.description or '')} |")
        text = " ".join((inspect.getdoc(model) or "").split())
        sections.append(f"{heading}{names[model]}\n\n{text}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(sections)


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    annotation = _plain(annotation)
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in _inner_models(part)]


def _type(annotation: Any) -> str:
    annotation = _plain(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return _cell(" or ".join(f"`{value}`" for value in get_args(annotation)))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in get_args(annotation) if part is not type(None))
    if origin in (tuple, list, frozenset):
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return f"mapping to {_type(get_args(annotation)[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    known = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return known[annotation]


def _plain(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated or isinstance(annotation, typing.TypeAliasType):
        annotated = get_origin(annotation) is Annotated
        annotation = get_args(annotation)[0] if annotated else annotation.__value__
    return annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = {} if field.default is PydanticUndefined else field.default
    if isinstance(value, BaseModel):
        return "see there"
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` only compare: 1 where one is stale."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="write docs/reference/ from the schemas")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is stale")
    args = parser.parse_args(argv)
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(f"docs/reference/{name}")
        if not args.check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} is stale: run ./scripts/docs" if args.check else f"wrote {name}")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
