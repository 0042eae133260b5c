"""Which formats an answer may come in: the Accept header that goes upstream, and what may come back.

The API server speaks JSON, YAML, protobuf and CBOR. Secrets are masked in JSON and YAML; the others are negotiated
away: no client needs them, since each falls back to JSON.
"""

from __future__ import annotations

import re

from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.requests import RequestInfo

JSON = "application/json"
YAML = "application/yaml"
BINARY = frozenset({"application/vnd.kubernetes.protobuf", "application/cbor", "application/cbor-seq"})
MAX_ACCEPT = 4096  # bytes
_CLAUSE = re.compile(r'(?:[^",]|"[^"]*")+')
_VIEWS = frozenset(
    {"Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList", "APIResourceList"}
)
_PARAMETERS = frozenset({"as", "v", "g", "stream", "profile", "q", "pretty", "charset"})


def negotiate(accept: str | None, request: RequestInfo) -> str:
    """The Accept header to send upstream: the client's own, without what cannot be masked.

    Raises `RequestRefused` (406) where nothing is left. For the published schemas the client's header goes on as it is:
    what comes back holds no object.
    """
    if accept is None or not accept.strip():
        return JSON
    if not request.resource_request and request.path.startswith("/openapi/"):
        return accept
    if len(accept) > MAX_ACCEPT:
        raise RequestRefused("the accept header is too long")
    kept: dict[str, None] = {}
    for found in _CLAUSE.finditer(accept):
        clause = _clause(found[0], request)
        if clause:
            kept[clause] = None
    if not kept:
        raise RequestRefused("only json and yaml are answered here: accept application/json", 406, "NotAcceptable")
    return ", ".join(kept)


def _clause(text: str, request: RequestInfo) -> str:
    kind, *parameters = (part.strip() for part in text.split(";"))
    kind = kind.lower()
    if kind in ("*/*", "application/*"):
        # the API server's own first choice for either
        kind = JSON
    if kind == "text/yaml" or (kind == YAML and request.watches):
        return ""  # a watch in YAML has framing of its own
    if kind not in (JSON, YAML):
        return ""
    kept = [kind]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name not in _PARAMETERS or (name == "as" and value not in _VIEWS):
            return ""
        if name == "q" and not value.strip("0."):
            return ""
        kept.append(parameter)
    return ";".join(kept)


def answers_objects(request: RequestInfo) -> bool:
    """Whether the answer is made of API objects: not a log, not what a proxied server says, not a stream."""
    return request.resource_request and request.subresource not in ("log", "proxy", "exec", "attach", "portforward")
