"""Bodies of requests and answers as plain data, read so that the API server cannot read something else.

What two readers could take differently is `Unreadable`: a key twice (the server merges, others take the last), aliases
and tags of YAML, more than one document, lone surrogates, NaN, bytes after the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent

from protocols.kubernetes import protobuf
from protocols.kubernetes.errors import Unreadable

MAX_BODY = 3 * 1024 * 1024  # bytes; the API server's own limit on a request
MAX_YAML = 256 * 1024  # bytes; reading YAML takes a hundred times as long as JSON, on the loop that carries traffic
MAX_DEPTH = 100
# NEL, LS and PS end a line in YAML 1.1, which the API server reads, and a byte order mark is skipped at its beginning
_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")

JSON_TYPES = frozenset({"application/json", "application/json-patch+json", "application/merge-patch+json",
                        "application/strategic-merge-patch+json"})  # fmt: skip
# `kubectl apply --server-side` sends JSON under this name
YAML_TYPES = frozenset({"application/yaml", "application/apply-patch+yaml", "text/yaml"})


def media_type(content_type: str) -> str:
    """The bare type of a Content-Type header, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def read(body: bytes, content_type: str, limit: int = MAX_BODY) -> Any:
    """A body as plain data. No content type means JSON, as for the API server. Raises `Unreadable`."""
    kind = media_type(content_type)
    if len(body) > limit:
        raise Unreadable("the body is larger than what is read")
    if not kind or kind in JSON_TYPES:
        return read_json(body)
    if kind in YAML_TYPES:
        return read_yaml(body)
    if kind == protobuf.MEDIA_TYPE:
        return protobuf.read(body)
    raise Unreadable(f"a body of type `{kind[:80]}` is not read: send json")


def strict_decoder() -> json.JSONDecoder:
    """Reads one JSON value in a longer text; what it gives must pass `check`. Raises ValueError, `Unreadable`."""
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def check(text: str, value: Any) -> None:
    """What a decoder does not see in the value that it made of this text. Raises `Unreadable`."""
    if "\\u" in text:
        _check_text(value)
    _shallow(value)


def read_json(body: bytes) -> Any:
    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Unreadable("the body is not utf-8") from None
    except RecursionError:
        raise Unreadable("the body is nested too deeply") from None
    except ValueError:
        # the parser's own words could quote the body
        raise Unreadable("the body is not valid json") from None
    check(text, value)
    return value


def read_yaml(body: bytes) -> Any:
    """One YAML document without aliases and tags. JSON is YAML, and by far the most frequent."""
    if body[:1] in (b"{", b"["):
        try:
            return read_json(body)
        except Unreadable:
            pass  # flow style that is not JSON: read below as what it is
    if len(body) > MAX_YAML:
        raise Unreadable("the body is more yaml than is read: send json")
    try:
        text = body.decode()
        if _BREAKS.search(text, text.startswith("\ufeff")):
            raise Unreadable("the body holds a character that ends a line of yaml for some, and not for others")
        _check_events(YAML(typ="safe", pure=True).parse(text))
        return _shallow(_plain(YAML(typ="safe", pure=True).load(text)))
    except UnicodeDecodeError:
        raise Unreadable("the body is not utf-8") from None
    except RecursionError:
        raise Unreadable("the body is nested too deeply") from None
    # the resolver raises ValueError for what looks like a date or a number and is none
    except (YAMLError, ValueError):
        raise Unreadable("the body is not valid yaml") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("the body says a key twice")
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _check_text(value: Any) -> None:
    """Refuses lone surrogates, which the API server replaces."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unreadable("the body holds half a character") from None


def _check_events(events: Iterable[Any]) -> None:
    documents = 0
    for event in events:
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            # readers differ on where an anchor's name ends
            raise Unreadable("the body holds a yaml alias or anchor: write the value out")
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1 or event.version is not None or event.tags:
                raise Unreadable("the body is not one plain yaml document")
        if isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent) and event.ctag is not None:
            raise Unreadable("the body holds a yaml tag")
        if isinstance(event, ScalarEvent) and event.value == "<<":
            raise Unreadable("the body merges yaml maps: write them out")


def _plain(value: Any) -> Any:
    """Keys as JSON has them. Dates and whatever else YAML makes of a scalar become text."""
    if isinstance(value, dict):
        if not all(key is None or isinstance(key, str | int | float) for key in value):
            raise Unreadable("the body has a key that is no text")
        found = {key if isinstance(key, str) else json.dumps(key): _plain(v) for key, v in value.items()}
        if len(found) != len(value):
            raise Unreadable("the body says a key twice")
        return found
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _shallow(value: Any) -> Any:
    """The value, unless it is nested deeper than anything that walks it should go."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise Unreadable("the body is nested too deeply")


def _children(item: Any) -> Iterable[Any]:
    inner: Iterable[Any] = ()
    if isinstance(item, dict):
        inner = item.values()
    elif isinstance(item, list):
        inner = item
    return [child for child in inner if isinstance(child, dict | list)]
