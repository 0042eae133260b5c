"""What a request asks for, resolved from method and path exactly as the API server resolves it for authorisation.

Source: Kubernetes' reference, "Authorization: request attributes" and "determine the request verb", and "API concepts"
for `watch`, `fieldSelector`, `dryRun`. What the API server would guess at is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from protocols.kubernetes import paths
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.paths import Target

# how a method becomes a verb of a resource request; HEAD is authorised like GET
_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PREFIX_VERBS = frozenset({"watch", "proxy"})  # deprecated `/api/v1/watch/...`, and `/api/v1/proxy/...`, long removed
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})  # all others behind a namespace are resources in it
# parameters that change what a request does: given twice, or in another case, two readers could differ
_SINGLE = frozenset(
    {
        "watch", "fieldSelector", "labelSelector", "continue", "limit", "resourceVersion", "resourceVersionMatch",
        "allowWatchBookmarks", "sendInitialEvents", "timeoutSeconds", "pretty", "force", "fieldManager",
        "fieldValidation", "propagationPolicy", "orphanDependents", "gracePeriodSeconds", "container", "stdin",
        "stdout", "stderr", "tty", "follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines",
        "limitBytes", "path", "includeObject", "stream", "ignoreStoreReadErrorWithClusterBreakingPotential",
    }
)  # fmt: skip
_NUMBERS = ("limit", "timeoutSeconds")  # one that is none makes the API server forget the field selector as well
_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")
_KNOWN = {name.casefold(): name for name in (*_SINGLE, "dryRun", "command", "ports")}
# a label selector that the API server can read: where it cannot, it forgets the field selector, too
_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_TERM = rf"(?:{_DOMAIN}(?:\.{_DOMAIN}){{0,9}}/)?{_LABEL}(?:(?:==|=|!=)(?:{_LABEL})?)?"
_LABELS = re.compile(rf"{_TERM}(?:,{_TERM})*\Z")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\Z")  # groups, resources, subresources: RFC 1123 names
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_VERSION = re.compile(r"v[0-9]+(?:(?:alpha|beta)[0-9]+)?\Z")
# what clients that are made from the API's description ask with a `/` behind it, and servers answer either way
_ASKED_WITH_SLASH = re.compile(
    r"/(?:version|api(?:/v[a-z0-9]+)?|apis(?:/[-a-z0-9.]+(?:/v[a-z0-9]+)?)?"
    r"|\.well-known/openid-configuration|openid/v1/jwks)/\Z"
)
_MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What the API server authorises. `namespace` is empty for a cluster-wide request, `name` where it names none."""

    verb: str  # get, list, watch, create, update, patch, delete, deletecollection, proxy; a path's: the method
    path: str
    resource_request: bool
    group: str = ""  # the core group is empty
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    rest: tuple[str, ...] = ()  # what follows the subresource: a proxy's path
    dry_run: bool = False
    field_selector: str = ""
    label_selector: str = ""
    command: tuple[str, ...] = ()  # exec
    container: str = ""
    streams: frozenset[str] = field(default_factory=frozenset)  # exec, attach: of stdin, stdout, stderr, tty
    ports: tuple[int, ...] = ()  # port-forward over the old WebSocket protocol

    @property
    def watches(self) -> bool:
        return self.verb == "watch"

    @property
    def full_resource(self) -> str:
        """`pods/exec`, `deployments.apps/scale`; the path of a non-resource request."""
        if not self.resource_request:
            return self.path
        plain = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{plain}/{self.subresource}" if self.subresource else plain


def resolve(method: str, target: str) -> RequestInfo:
    """Resolves one request. Raises `RequestRefused` for whatever is not canonical or has no single meaning."""
    parsed = paths.parse(target)
    _check_parameters(parsed)
    if method != method.upper() or not method.isalpha():
        raise RequestRefused("the method is not valid")
    parts = list(parsed.segments)
    if len(parts) < 3 or parts[0] not in ("api", "apis") or (parts[0] == "apis" and len(parts) < 4):
        return _path_request(method, parsed)
    group = ""
    if parts.pop(0) == "apis":
        group = _checked(parts.pop(0), _NAME, "api group")
    version = _checked(parts.pop(0), _VERSION, "api version")
    return _resource_request(method, parsed, group, version, parts)


def _path_request(method: str, target: Target) -> RequestInfo:
    if method not in _VERBS and method != "OPTIONS":
        raise RequestRefused("the method is not one of the api server's", 405, "MethodNotAllowed")
    # `/logs/` is trimmed by one reader and a path of its own for another
    if target.trailing and not (method in ("GET", "HEAD") and _ASKED_WITH_SLASH.match(target.path)):
        raise RequestRefused("the path ends in `/`: leave that out")
    if any(segment.casefold() in ("api", "apis") for segment in target.segments[:1]) and target.segments[0] not in (
        "api",
        "apis",
    ):
        raise RequestRefused("the path's letter case is not the api server's")
    return RequestInfo(method.lower(), target.path.removesuffix("/") or "/", False)


def _resource_request(method: str, target: Target, group: str, version: str, parts: list[str]) -> RequestInfo:
    verb = _VERBS.get(method)
    if verb is None:
        raise RequestRefused("the method is not one of the api server's", 405, "MethodNotAllowed")
    if parts[0] in _PREFIX_VERBS:
        if len(parts) < 2:
            raise RequestRefused("the path names no resource")
        verb = parts.pop(0)
        if verb == "watch" and method not in ("GET", "HEAD"):
            raise RequestRefused("a watch is a GET", 405, "MethodNotAllowed")
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = _checked(parts[1], _NAMESPACE, "namespace")
        if len(parts) > 2 and parts[2] not in _NAMESPACE_SUBRESOURCES:
            parts = parts[2:]
    resource = _checked(parts[0], _NAME, "resource")
    name = _object_name(parts[1]) if len(parts) > 1 else ""
    subresource, rest = "", tuple(parts[2:])
    if len(parts) > 2 and verb != "proxy":
        subresource, rest = _checked(parts[2], _NAME, "subresource"), tuple(parts[3:])
    proxied = verb == "proxy" or subresource == "proxy"
    if rest and not proxied:
        raise RequestRefused("the path goes on behind the subresource")
    if target.trailing and not proxied:
        raise RequestRefused("the path ends in `/`: leave that out")
    field_selector, label_selector = _one(target, "fieldSelector"), _one(target, "labelSelector")
    selected = _selected_name(field_selector)
    if label_selector and not _LABELS.match(label_selector):
        selected = ""
    if verb == "get" and not name:
        verb = "watch" if _truth(target, "watch") else "list"
        # a list of one name is authorised as that name; behind `/watch/` the server does not look at the selector
        name = selected
    elif verb == "delete" and not name:
        verb = "deletecollection"
    return RequestInfo(
        verb=verb, path=target.path, resource_request=True, group=group, version=version, namespace=namespace,
        resource=resource, subresource=subresource, name=name, rest=rest, dry_run=_dry_run(target),
        field_selector=field_selector, label_selector=label_selector,
        command=target.values("command"), container=_one(target, "container"),
        streams=frozenset(s for s in ("stdin", "stdout", "stderr", "tty") if _truth(target, s)),
        ports=_ports(target),
    )  # fmt: skip


def _checked(text: str, pattern: re.Pattern[str], what: str) -> str:
    if len(text) > _MAX_NAME or not pattern.match(text):
        raise RequestRefused(f"the path names no valid {what}: names are lower case letters, digits and `-`")
    return text


def _object_name(text: str) -> str:
    # names of RBAC objects may hold nearly anything; `paths` has refused separators and `..` already
    if len(text) > _MAX_NAME:
        raise RequestRefused("the path names no valid object: the name is too long")
    return text


def _check_parameters(target: Target) -> None:
    seen: set[str] = set()
    for key, value in target.query:
        known = _KNOWN.get(key.casefold())
        if known is None:
            continue
        if known != key:
            raise RequestRefused(f"the query says `{known}` in another letter case")
        if key in _SINGLE and key in seen:
            raise RequestRefused(f"the query says `{key}` twice")
        seen.add(key)
        if key in _NUMBERS and not _NUMBER.match(value):
            raise RequestRefused(f"the query's `{key}` is no number")


def _one(target: Target, name: str) -> str:
    found = target.values(name)
    return found[0] if found else ""


def _truth(target: Target, name: str) -> bool:
    """As the API server reads a boolean: absent, `0` and `false` are false; everything else, also nothing, is true."""
    found = target.values(name)
    return bool(found) and found[0].lower() not in ("false", "0")


def _dry_run(target: Target) -> bool:
    found = target.values("dryRun")
    if not found:
        return False
    # `All` is the only value that there is; the API server refuses others, older ones ignored what they did not know
    if any(value != "All" for value in found):
        raise RequestRefused("the query's `dryRun` must be `All`")
    return True


def _ports(target: Target) -> tuple[int, ...]:
    found: list[int] = []
    for value in target.values("ports"):
        for text in value.split(","):
            if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= 65_535 and len(text) <= 5):
                raise RequestRefused("the query's `ports` holds no valid port")
            found.append(int(text))
    return tuple(found)


def _selected_name(selector: str) -> str:
    """The name that a field selector requires (`metadata.name=x`), or nothing."""
    for term in _terms(selector):
        for operator in ("!=", "==", "="):
            key, found, value = _split(term, operator)
            if found:
                if operator != "!=" and key == "metadata.name" and _is_segment(value):
                    return value
                break
        else:
            raise RequestRefused("the query's `fieldSelector` cannot be read: write `field=value`")
    return ""


def _terms(selector: str) -> list[str]:
    """Terms between commas; `\\,` `\\=` and `\\\\` are characters of a value."""
    terms, current, escaped = [], "", False
    for character in selector:
        if not escaped and character == ",":
            terms.append(current)
            current = ""
            continue
        escaped = character == "\\" and not escaped
        current += character
    return [term for term in (*terms, current) if term]


def _split(term: str, operator: str) -> tuple[str, bool, str]:
    """Key and value at the first operator that is not escaped; values lose their escapes."""
    first = next((m.start() for m in re.finditer(r"(?<!\\)[!=]", term)), -1)
    if first < 0 or not term.startswith(operator, first):
        return term, False, ""
    value = term[first + len(operator) :]
    if re.search(r"\\(?![\\,=])|(?<!\\)(?:\\\\)*\\\Z", value):
        raise RequestRefused("the query's `fieldSelector` holds an escape that is not valid")
    return term[:first], True, re.sub(r"\\([\\,=])", r"\1", value)


def _is_segment(name: str) -> bool:
    return bool(name) and name not in (".", "..") and "/" not in name and "%" not in name
