"""pydantic's errors -> problems with a position, in our words, with a suggestion where a name is misspelled.

INVARIANT: the offending value is repeated only where a fixed word was expected (an enum), never elsewhere: it could be
a secret that somebody pasted into the wrong key.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from guard.documents.problems import ConfigError, Problem
from guard.documents.reader import Document, Location

_SECRET_WORDS = ("password", "secret", "token", "passwd", "pwd", "api_key", "apikey", "value")
_EXPECTED = {
    "string_type": "expected text; put quotes around it if it looks like a number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "frozen_set_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "mapping_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "path_type": "expected a path",
}


def validate[M: BaseModel](document: Document, model: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The document as `model`. Raises ConfigError with a problem for each thing that is wrong."""
    try:
        return model.model_validate(document.data, context=dict(context or {}))
    except ValidationError as error:
        problems = [_problem(document, model, dict(one)) for one in error.errors(include_url=False, include_input=True)]
        raise ConfigError(problems) from None  # the chained text would quote inputs


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"; did you mean `{close[0]}`?" if close else ""


def _problem(document: Document, model: type[BaseModel], error: Mapping[str, Any]) -> Problem:
    kind, location = str(error["type"]), tuple(error["loc"])
    context = error.get("ctx") or {}
    if kind == "extra_forbidden":
        key = str(location[-1])
        known = _keys(model, document, location[:-1])
        hint = suggest(key, known)
        if key.lower() in _SECRET_WORDS and "provider" in known:
            hint = "; a secret is never written in this file: name where it is with `provider:`"
        elif not hint and known:
            hint = f"; known here: {', '.join(sorted(known))}"
        return document.problem(location, f"unknown key `{key}`{hint}", key=True)
    if kind in ("missing", "union_tag_not_found"):
        name = str(location[-1]) if kind == "missing" else str(context.get("discriminator", "")).strip("'")
        parent = location[:-1] if kind == "missing" else location
        return document.problem(parent, f"`{name}` is required here", key=True)
    if kind in ("literal_error", "enum"):
        word = error.get("input")
        words = [part.strip().strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        if isinstance(word, str) and word in words:
            return document.problem(location, f"expected {word} without quotes")
        got = f"`{word}` is not known here{suggest(word, words)}" if isinstance(word, str) else "not known here"
        return document.problem(location, f"{got}; expected one of: {', '.join(words)}")
    if kind in ("value_error", "assertion_error"):
        return document.problem(location, str(context.get("error", "not valid")))
    return document.problem(location, _EXPECTED.get(kind) or _sentence(str(error["msg"])))


def _sentence(message: str) -> str:
    """pydantic's own sentence in our form; its fixed texts never quote the input for the kinds that reach here."""
    message = message.replace("Input should be", "expected")
    message = message.replace("Value should have", "expected").replace("String should have", "expected text with")
    message = message.replace("String should match pattern", "expected text that matches")
    head, quoted, tail = message.partition("'")
    return head.lower() + quoted + tail


def _keys(model: type[BaseModel], document: Document, location: Location) -> set[str]:
    """The names a mapping at `location` may have, as the file writes them."""
    models: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for annotation in models:
            following.extend(_step(annotation, part))
        models = _flatten(following)
    names: set[str] = set()
    for candidate in models:
        names.update(_aliases(candidate))
    return names


def _aliases(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _step(annotation: Any, part: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = _aliases(annotation)
        # a part that is no field is the tag of a union: stay
        return [fields[str(part)]] if str(part) in fields else [annotation]
    return [annotation]


def _flatten(annotations: Iterable[Any]) -> list[Any]:
    """Models inside Optional, Annotated, tuple[...], dict[...] and aliases."""
    result: list[Any] = []
    for annotation in annotations:
        if isinstance(annotation, typing.TypeAliasType):
            annotation = annotation.__value__
        origin = get_origin(annotation)
        if isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
            result.append(annotation)
        elif origin is Annotated:
            result.extend(_flatten(get_args(annotation)[:1]))
        elif origin in (Union, types.UnionType, tuple, list, dict, frozenset):
            result.extend(_flatten(get_args(annotation)))
        elif origin is Literal:
            continue
    return result
