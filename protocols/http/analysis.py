"""From an HTTP request to what it does: effects by method, and the facts that rules ask about.

What could not be read has the value `*` (see `guard.enforce.requests`): it fits every stopping pattern and no allow but
one that takes anything.

INVARIANT: no I/O, no policy in this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from protocols.contract import Analysis, Cacheable, Effect
from protocols.http.graphql import operations
from protocols.http.headers import Header, folded, media_type
from protocols.http.targets import BadTarget, Target, parameters, readings

ANYTHING = "*"
MAX_FIELDS = 10_000  # leaf values of one body that rules may ask about
_MAX_COMMAS = 64 * MAX_FIELDS  # of a JSON document: what has so many parts takes seconds and hundreds of MB to read
_MAX_DEPTH = 64
_STORED = frozenset({"extensions", "documentid", "id"})  # name a document that the server keeps
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
# what frameworks and servers take for the path in the place of the request's own
_PATHS = ("x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri", "x-override-url")
_TO = frozenset({"COPY", "MOVE"})  # WebDAV (RFC 4918): the header `Destination` says where to
_JSON, _QUERY = "http.json.", "http.query."
_FORM = "application/x-www-form-urlencoded"
_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf"
_MAX_METHOD_JSON = 1 << 20  # bytes; a body that is larger is data, and no form of a browser's
_METHOD_FIELD = re.compile(
    b"(?:^|[&;])" + b"".join(b"(?:%c|%%%02x)" % (byte, byte) for byte in b"_method") + b"=", re.IGNORECASE
)
_PART_NAME = re.compile(rb"""name\*?\s*=\s*["']?(?:[\w-]+'[\w-]*')?_method["']?""", re.IGNORECASE)
_PART_OPERATIONS = re.compile(rb"""name=["']?operations["'\r\n;]""", re.IGNORECASE)
_MAX_PART_HEAD = 512  # bytes before the name in which a part may say how it is coded
_PART_CODED = re.compile(rb"charset|content-transfer-encoding", re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_WORD = re.compile(rb"\s*([A-Za-z]{1,32})")


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request decides. `headers` in order, hop-by-hop ones gone."""

    method: str
    scheme: str
    target: Target
    headers: tuple[Header, ...]
    upgrade: str = ""

    def header(self, name: str) -> str:
        """The first value of a header, empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def analyse(request: Request, asks: Collection[str] = (), body: bytes | None = b"") -> Analysis:
    """The request's analysis. `asks` are the facts that rules mention: what a body says is only read for them.

    `body` is the decoded body, b"" where there is none, None where it cannot be read. Never raises.
    """
    kind = media_type(request.header("content-type"))
    methods = {request.method}
    for key, value in request.headers:
        if folded(key) in _OVERRIDES:
            methods |= _said(value)
    for name, value in request.target.query:
        if name.casefold() == "_method" or folded(name) in _OVERRIDES:
            methods |= _said(value)
    methods |= _methods_of_body(kind, body)
    effects = {_effect(method) for method in methods}
    if "MOVE" in methods:
        effects.add(Effect.HTTP_DELETE)  # it is gone from where it was
    if request.upgrade:
        effects.add(Effect.HTTP_UPGRADE)
    facts: dict[str, tuple[str, ...]] = {
        "http.method": tuple(sorted(methods)),
        "http.scheme": (request.scheme,),
        "http.host": (request.target.host,),
        "http.port": (str(request.target.port),),
        "http.path": request.target.paths,
    }
    query = list(request.target.query)
    for key, value in request.headers:
        if folded(key) in _PATHS or (folded(key) == "destination" and methods & _TO):
            paths, more = _elsewhere(value)
            facts["http.path"] = tuple(dict.fromkeys((*facts["http.path"], *paths)))
            query += more
    for name, value in query:
        _add(facts, f"http.query.{name}", value)
    for name in asks:
        if name.startswith(_QUERY) and (said := _spelt_alike(name[len(_QUERY) :], query)):
            facts[name] = said
    for name, value in request.headers:
        _add(facts, f"http.header.{name.lower()}", value)
        if "_" in name:
            _add(facts, f"http.header.{folded(name)}", value)
    if kind:
        facts["http.content_type"] = (kind,)
    wanted = [name for name in asks if name.startswith(_JSON)]
    if wanted and body != b"":
        facts |= _fields(kind, body, wanted)
    if "http.graphql" in asks:
        found = _graphql(request, kind, body)
        if found:
            facts["http.graphql"] = found
    return Analysis(
        kind=request.method, effects=frozenset(effects), shape=_shape(request), cacheable=Cacheable.TEXT, facts=facts
    )


def _effect(method: str) -> Effect:
    if method in _READS:
        return Effect.HTTP_READ
    return Effect.HTTP_DELETE if method == "DELETE" else Effect.HTTP_WRITE


def _spelt_alike(wanted: str, query: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The values of a parameter under each name that some server takes for it: `Role`, ` role`, `role[]`; PHP's `a.b`
    for `a_b`."""
    known = _folded_parameter(wanted)
    return tuple(dict.fromkeys(value for name, value in query if _folded_parameter(name) == known))


def _folded_parameter(name: str) -> str:
    """For some a name ends at a NUL."""
    bare = name.partition("\0")[0]
    return _bracketed(bare, lambda _: "").strip().casefold().replace(".", "_").replace(" ", "_")


def _said(value: str) -> set[str]:
    """The methods that an override names: of several some servers take the first, others the last."""
    return {word.strip().upper() for word in value.split(",") if word.strip()}


def _elsewhere(value: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The readings of a path, or of a URL's path, that a header names; and its query."""
    _, mark, rest = value.strip().partition("://")
    path = "/" + rest.partition("/")[2] if mark else value.strip()
    raw, _, query = path.partition("#")[0].partition("?")
    try:
        return readings(raw if raw.startswith("/") else f"/{raw}"), parameters(query)
    except BadTarget:
        return (ANYTHING,), ()


def _methods_of_body(kind: str, body: bytes | None) -> set[str]:
    """Methods that a form names in its `_method` field, which frameworks take for the request's own."""
    if not body:
        return set()
    if kind == "multipart/form-data":
        return set(_methods_of_parts(body)) if b"_method" in body.lower() else set()
    form = kind == _FORM
    if not form and (not kind.endswith("json") or len(body) > _MAX_METHOD_JSON):
        return set()
    if not (_METHOD_FIELD.search(body) if form else b"_method" in body or b"\\u" in body):
        return set()
    try:
        named = _form(body) if form else _json(body)
    except _Unreadable:
        return {"DELETE", ANYTHING} if form else set()
    return {value.strip().upper() for name, values in named.items() if name.casefold() == "_method" for value in values}


def _methods_of_parts(body: bytes) -> Iterable[str]:
    """INVARIANT: each byte is looked at a fixed number of times, whatever a client makes of its parts."""
    end = -1
    for part in _PART_NAME.finditer(body):
        if part.start() < end:
            continue  # of a head whose value was read
        head = _END_OF_HEAD.search(body, part.end())
        if head is None:
            return
        end = head.end()
        begins = max(0, part.start() - _MAX_PART_HEAD)
        if _PART_CODED.search(body, max(begins, body.rfind(b"\n--", begins, part.start())), end):
            yield "DELETE"  # for who decodes it, it may be
        if word := _WORD.match(body, end):
            yield word[1].decode().upper()


def _shape(request: Request) -> str:
    return f"{request.method} {request.target.host}{request.target.paths[0]}"


def _add(facts: dict[str, tuple[str, ...]], name: str, value: str) -> None:
    facts[name] = (*facts.get(name, ()), value)


class _Unreadable(Exception):
    pass


def _fields(kind: str, body: bytes | None, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The wanted fields of a body: those that it has. What cannot be read could be anything."""
    spelt: list[tuple[str, str]] = []  # a form's fields, under the names that it says
    try:
        if kind == _FORM:
            found = _form(body)
            spelt = [(name, value) for name, values in found.items() for value in values]
            for name in [name for name in found if "[" in name]:
                found.setdefault(_bracketed(name, _step), []).extend(found[name])
            if body is not None and body.lstrip(_BEFORE_JSON)[:1] in (b"{", b"["):
                # many servers go by the first letter, or take anything for JSON
                for name, values in _json(body).items():
                    found.setdefault(name, []).extend(values)
        else:
            found = _json(body)
    except _Unreadable:
        return dict.fromkeys(wanted, (ANYTHING,))
    # servers written in Go take a field's name in any letter case
    folded_names: dict[str, list[str]] = {}
    for name, values in found.items():
        folded_names.setdefault(name.casefold(), []).extend(values)
    fields = {name: folded_names.get(name[len(_JSON) :].casefold(), []) for name in wanted}
    for name in fields if spelt else ():
        fields[name] = [*fields[name], *_spelt_alike(name[len(_JSON) :], spelt)]
    return {name: tuple(dict.fromkeys(values)) for name, values in fields.items() if values}


def _bracketed(name: str, put: Callable[[str], str]) -> str:
    """A name with something put where it has brackets.

    INVARIANT: each character is looked at a fixed number of times, whatever a client makes of its names.
    """
    out: list[str] = []
    at = 0
    while (opens := name.find("[", at)) >= 0 and (closes := name.find("]", opens)) >= 0:
        out += (name[at:opens], put(name[opens + 1 : closes]))
        at = closes + 1
    return "".join([*out, name[at:]])


def _step(inside: str) -> str:
    """`[role]` of `user[role]`, `[0]` of `items[0]`, as JSON's paths say it."""
    return "[]" if inside == "" or inside.isdigit() else f".{inside}"


def _form(body: bytes | None) -> dict[str, list[str]]:
    if body is None:
        raise _Unreadable
    found: dict[str, list[str]] = {}
    try:
        for name, value in parameters(body.decode("ascii")):
            found.setdefault(name, []).append(value)
    except (UnicodeDecodeError, BadTarget) as e:
        raise _Unreadable from e
    return found


def load_json(body: bytes | None) -> Any:
    """A JSON document with objects as lists of pairs: of a key that is there twice both values count."""
    if body is None or body.count(b",") > _MAX_COMMAS:
        raise _Unreadable
    try:
        return json.loads(body, object_pairs_hook=_Pairs, parse_float=_Decimal)
    except (ValueError, RecursionError) as e:
        raise _Unreadable from e


class _Decimal(str):
    """A number with a fraction or an exponent, as it was written."""

    __slots__ = ()

    def readings(self) -> list[str]:
        """As it was written, and as servers print it: `1e3` is `1000`, too."""
        value = float(self)
        plain = json.dumps(value)
        whole = str(int(value)) if value.is_integer() else plain
        return list(dict.fromkeys((str(self), plain, whole)))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object."""


def _json(body: bytes | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    left = [MAX_FIELDS]
    _flatten(load_json(body), "", found, left, 0)
    return found


def _flatten(value: Any, path: str, found: dict[str, list[str]], left: list[int], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Unreadable
    if isinstance(value, _Pairs):
        for key, item in value:
            _flatten(item, f"{path}.{key}" if path else key, found, left, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _flatten(item, f"{path}[]", found, left, depth + 1)
    else:
        left[0] -= 1
        if left[0] < 0:
            raise _Unreadable
        if isinstance(value, _Decimal):
            texts = value.readings()
        else:
            texts = [value if isinstance(value, str) else json.dumps(value)]
        found.setdefault(path, []).extend(texts)


def _graphql(request: Request, kind: str, body: bytes | None) -> tuple[str, ...]:
    """Operations that the request asks for; empty where it is no GraphQL."""
    texts: list[str | None] = [value for name, value in request.target.query if name.casefold() == "query"]
    hashed = any(name.casefold() == "extensions" and "persistedQuery" in value for name, value in request.target.query)
    if hashed and not texts:
        texts.append(None)
    is_graphql = hashed or any(path.rstrip("/").lower().endswith("graphql") for path in request.target.paths)
    is_graphql = is_graphql or any(text is not None and operations(text) != (ANYTHING,) for text in texts)
    if kind == "application/graphql":
        texts.append(None if body is None else body.decode("utf-8", "replace"))
        is_graphql = True
    elif kind == _FORM and body:
        try:
            named = [text for name, found in _form(body).items() if name.casefold() == "query" for text in found]
        except _Unreadable:
            texts.append(None)
        else:
            is_graphql = is_graphql or any(operations(text) != (ANYTHING,) for text in named)
            texts += named or [None]
    elif kind == "multipart/form-data" and body and _PART_OPERATIONS.search(body):
        texts.append(None)  # an upload beside a GraphQL request: its variables would have to be put together first
        is_graphql = True
    elif body != b"":
        try:
            document = load_json(body)
        except _Unreadable:
            texts.append(None)
        else:
            queries = _queries(document)
            is_graphql = is_graphql or bool(queries)
            texts += queries
    if not is_graphql:
        return ()
    found: dict[str, None] = {}
    for text in texts or [None]:
        for operation in operations(text):
            found[operation] = None
    return tuple(found)


def _queries(document: Any) -> list[str | None]:
    """The texts of a GraphQL request, or of a batch; None for one that the server is to know by its hash."""
    items = document if isinstance(document, list) and not isinstance(document, _Pairs) else [document]
    found: list[str | None] = []
    for item in items:
        if not isinstance(item, _Pairs):
            continue
        texts = [value for key, value in item if key.casefold() == "query"]
        found += [text if isinstance(text, str) else None for text in texts]
        if not texts and any(key.casefold() in _STORED for key, _ in item):
            found.append(None)
    return found
