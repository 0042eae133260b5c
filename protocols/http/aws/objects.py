"""What a request to S3 does beyond its method and its path: objects that are named in a header or in the body.

Source: Amazon S3 API Reference, CopyObject, UploadPartCopy, RenameObject, DeleteObjects, CreateSession.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import quote
from xml.parsers import expat

from protocols.contract import Analysis, Effect
from protocols.http.analysis import ANYTHING, Request
from protocols.http.headers import folded
from protocols.http.targets import BadTarget, readings

_SOURCES = frozenset({"x-amz-copy-source", "x-amz-rename-source"})
_MAX_KEYS = 1000  # in one request; S3's own bound


def beyond_path(analysis: Analysis, request: Request, body: bytes | None) -> Analysis:
    """The analysis with what a rule about paths must see, too. `body` is None where it cannot be read. Never raises."""
    effects, paths, why = set(analysis.effects), list(analysis.facts["http.path"]), analysis.why
    for name, value in request.headers:
        if folded(name) in _SOURCES:
            effects.add(Effect.HTTP_READ if folded(name) == "x-amz-copy-source" else Effect.HTTP_DELETE)
            paths += _source(value)
    asked = {name for name, _ in request.target.query}
    if request.method == "POST" and "delete" in asked:
        effects.add(Effect.HTTP_DELETE)
        paths += _deleted(request.target.paths[0], body)
    if request.method == "GET" and "session" in asked:
        effects.add(Effect.UNKNOWN)
        why = "it answers with keys, with which one needs no gateway"
    facts = {**analysis.facts, "http.path": tuple(dict.fromkeys(paths))}
    return replace(analysis, effects=frozenset(effects), facts=facts, why=why)


def _source(value: str) -> Iterable[str]:
    """`/bucket/key?versionId=...`, percent-encoded, with or without its first slash."""
    try:
        return readings("/" + value.partition("?")[0].removeprefix("/"))
    except BadTarget:
        return (ANYTHING,)


def _deleted(bucket: str, body: bytes | None) -> Iterable[str]:
    """The paths of what is to be deleted; `*` where they cannot be found out."""
    keys = None if body is None else _keys(body)
    if not keys or len(keys) > _MAX_KEYS:
        return (ANYTHING,)
    base = bucket.rstrip("/")
    found: list[str] = []
    for key in keys:
        try:
            found += readings(quote(f"{base}/{key}"))
        except BadTarget:
            found.append(ANYTHING)
    return found


class _Refused(ValueError):
    pass


def _keys(body: bytes) -> list[str] | None:
    """The text of each `Key` of an XML document. None: it is none, or has parts of its own making (entities)."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    keys: list[str] = []
    inside: list[str] = []

    def refuse(*_: object) -> None:
        raise _Refused

    def start(name: str, _: dict[str, str]) -> None:
        if inside and inside[-1] == "Key":
            raise _Refused
        inside.append(name.rpartition(" ")[2])
        if inside[-1] == "Key":
            keys.append("")

    def text(data: str) -> None:
        if inside and inside[-1] == "Key":
            keys[-1] += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: inside.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _Refused, ValueError):
        return None
    return keys
