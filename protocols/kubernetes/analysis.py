"""RequestInfo and body -> `contract.Analysis`.

Relations are `NAMESPACE.RESOURCE[.GROUP][/SUBRESOURCE]`, as kubectl writes resources behind a namespace:
`shop.deployments.apps`, `shop.pods/exec`. A request over all namespaces has `*` as its namespace, a cluster-scoped
object `-`; a path that is no resource is `-.path:/healthz`. Facts begin with `kube.`. What a request does is
decided by lists of what is known; everything else is also UNKNOWN.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from protocols.contract import Analysis, Cacheable, Effect
from protocols.kubernetes import objects, workloads
from protocols.kubernetes.errors import Unreadable
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.secrets import holds_placeholder

_READ_VERBS = frozenset({"get", "list", "watch"})
_READING = frozenset({Effect.KUBE_READ, Effect.SECRET_READ})
_WRITE_VERBS = frozenset({"create", "update", "patch"})
_DELETE_VERBS = frozenset({"delete", "deletecollection"})
# subresources that read and write like their object does
_PLAIN_SUBRESOURCES = frozenset({"", "status", "scale", "finalize", "resize", "binding", "log"})
_STREAMS = {"exec": Effect.KUBE_EXEC, "attach": Effect.KUBE_EXEC, "portforward": Effect.KUBE_FORWARD}
# paths of the API server itself that are read only (API concepts; health checks; OpenAPI; service account issuer)
_READ_PATHS = frozenset({"api", "apis", "version", "openapi", "healthz", "livez", "readyz", "swagger.json"})
_READ_EXACTLY = frozenset({"/", "/metrics", "/metrics/slis", "/.well-known/openid-configuration", "/openid/v1/jwks"})
# creating one of these asks a question and changes nothing
_QUESTIONS = frozenset(
    f"{kind}.authorization.k8s.io"
    for kind in ("selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews",
                 "localsubjectaccessreviews")
) | {"selfsubjectreviews.authentication.k8s.io"}  # fmt: skip
_IDENTITIES = frozenset({"certificatesigningrequests.certificates.k8s.io", "podcertificaterequests.certificates.k8s.io",
                         "tokenreviews.authentication.k8s.io"})  # fmt: skip
_RBAC = "rbac.authorization.k8s.io"
# what changes how the API server itself works
_CONFIGURATION = frozenset({"admissionregistration.k8s.io", "apiregistration.k8s.io", "apiextensions.k8s.io",
                            "flowcontrol.apiserver.k8s.io", "internal.apiserver.k8s.io"})  # fmt: skip
_CLUSTER_SCOPED = frozenset(
    {
        "nodes", "persistentvolumes", "componentstatuses", "namespaces", "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io", "storageclasses.storage.k8s.io", "csidrivers.storage.k8s.io",
        "csinodes.storage.k8s.io", "volumeattachments.storage.k8s.io", "priorityclasses.scheduling.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io", "apiservices.apiregistration.k8s.io",
        "certificatesigningrequests.certificates.k8s.io", "ingressclasses.networking.k8s.io",
        "runtimeclasses.node.k8s.io", "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "validatingadmissionpolicybindings.admissionregistration.k8s.io", "nodes.metrics.k8s.io",
        "flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
        *(q for q in _QUESTIONS if not q.startswith("local")), "tokenreviews.authentication.k8s.io",
    }
)  # fmt: skip
_TOKEN_SECRET = "kubernetes.io/service-account-token"  # noqa: S105 - a Secret's type: the cluster fills in a token


def analyse(
    request: RequestInfo,
    body: bytes = b"",
    content_type: str = "",
    *,
    impersonates: tuple[str, ...] = (),
    body_known: bool = True,
    keep: Callable[[Any], object] = lambda _: None,
) -> Analysis:
    """What the request does. `impersonates`: what the client's `Impersonate-*` headers ask for.

    `body_known`: False while the body has not arrived (or is above what is read): a request that has one is unknown.
    `keep` is given the body as it was read, for who wants to look at more than what it does.
    """
    effects, why = _effects(request)
    facts = _facts(request)
    if impersonates:
        effects.add(Effect.KUBE_IMPERSONATE)
        facts["kube.impersonate"] = impersonates
    changes = request.verb in _WRITE_VERBS or request.verb in _DELETE_VERBS
    # a question changes nothing whatever it asks, and clients ask in protobuf
    judged = changes and Effect.KUBE_PROXY not in effects and not effects & {Effect.KUBE_EXEC, Effect.KUBE_FORWARD}
    if judged and _plain(request) not in _QUESTIONS:
        try:
            if not body_known:
                raise Unreadable("the body is larger than what is read")
            _judge_body(request, body, content_type, effects, facts, keep)
        except Unreadable as error:
            effects.add(Effect.UNKNOWN)
            why = str(error)
    relation = _relation(request)
    reads = bool(effects & _READING)
    writes = bool(effects - _READING - {Effect.KUBE_IMPERSONATE, Effect.UNKNOWN}) or not reads
    return Analysis(
        kind=f"{request.verb} {request.full_resource}",
        effects=frozenset(effects),
        reads=(relation,) if reads else (),
        writes=(relation,) if writes else (),
        why=why,
        shape=f"{request.verb} {relation}",
        cacheable=Cacheable.NO,
        facts=facts,
    )


def _plain(request: RequestInfo) -> str:
    return f"{request.resource}.{request.group}" if request.group else request.resource


def _relation(request: RequestInfo) -> str:
    if not request.resource_request:
        return f"-.path:{request.path}"
    plain = _plain(request)
    # a Namespace object is resolved with itself as its namespace, as RBAC does
    namespace = request.namespace or ("-" if plain in _CLUSTER_SCOPED else "*")
    return f"{namespace}.{request.full_resource}"


def _effects(request: RequestInfo) -> tuple[set[Effect], str]:
    if not request.resource_request:
        return _path_effects(request)
    plain = _plain(request)
    sub, verb = request.subresource, request.verb
    if verb == "proxy" or sub == "proxy":
        # the kubelet behind nodes/proxy runs commands, also for a GET
        return {Effect.KUBE_PROXY, *((Effect.KUBE_EXEC,) if request.resource == "nodes" else ())}, ""
    if plain == "pods" and sub in _STREAMS:
        if verb in ("get", "create"):
            return {_STREAMS[sub]}, ""
        return {_STREAMS[sub], Effect.UNKNOWN}, f"`{sub}` is a get or a create"
    effects: set[Effect] = set()
    why = ""
    if verb in _READ_VERBS:
        effects.add(Effect.KUBE_READ)
    elif verb in _WRITE_VERBS:
        effects.add(Effect.KUBE_WRITE)
    else:
        effects.add(Effect.KUBE_DELETE)
    if plain in _QUESTIONS and verb == "create":
        return {Effect.KUBE_READ}, ""
    if plain == "secrets" and (verb in _READ_VERBS or verb in {"patch", "delete", "deletecollection"}):
        effects.add(Effect.SECRET_READ)  # a patch and a delete answer with the object
    if plain in _IDENTITIES and verb not in _READ_VERBS:
        effects.add(Effect.KUBE_TOKEN)
    elif plain == "serviceaccounts" and sub == "token":
        effects = {Effect.KUBE_TOKEN}
    elif plain == "pods" and sub == "ephemeralcontainers":
        effects = {Effect.KUBE_READ} if verb in _READ_VERBS else {Effect.KUBE_DEBUG}
    elif plain == "pods" and sub == "eviction":
        effects = {Effect.KUBE_DELETE}
    elif sub not in _PLAIN_SUBRESOURCES:
        effects.add(Effect.UNKNOWN)
        why = f"the subresource `{sub}` is not known"
    if request.group == _RBAC and verb not in _READ_VERBS:
        effects.add(Effect.PRIV_REVOKE if verb in _DELETE_VERBS else Effect.PRIV_GRANT)
    if request.group in _CONFIGURATION and verb not in _READ_VERBS:
        effects.add(Effect.ADMIN_CONFIG)
    return effects, why


def _path_effects(request: RequestInfo) -> tuple[set[Effect], str]:
    first = request.path.split("/")[1]
    known = first in _READ_PATHS or request.path in _READ_EXACTLY
    if request.verb in ("get", "head", "options"):
        if known:
            return {Effect.KUBE_READ}, ""
        return {Effect.KUBE_READ, Effect.UNKNOWN}, "a path of the api server that is not known"
    return {Effect.KUBE_WRITE, Effect.UNKNOWN}, "a path that is no resource is only read"


def _facts(request: RequestInfo) -> dict[str, tuple[str, ...]]:
    facts: dict[str, tuple[str, ...]] = {"kube.verb": (request.verb,)}
    if not request.resource_request:
        facts["kube.path"] = (request.path,)
        return facts
    facts |= {
        "kube.group": (request.group,),
        "kube.resource": (request.resource,),
        "kube.subresource": (request.subresource,),
        "kube.namespace": (_relation(request).partition(".")[0],),
        "kube.dry_run": ("true" if request.dry_run else "false",),
    }
    # no name: the fact is absent, so that no pattern on names grants a request over all of them
    optional: Mapping[str, tuple[str, ...]] = {
        "kube.name": (request.name,) if request.name else (),
        "kube.field_selector": (request.field_selector,) if request.field_selector else (),
        "kube.selector": (request.label_selector,) if request.label_selector else (),
        "kube.command": (" ".join(request.command),) if request.command else (),
        "kube.container": (request.container,) if request.container else (),
        "kube.stream": tuple(sorted(request.streams)) if request.subresource in _STREAMS else (),
        "kube.port": tuple(map(str, request.ports)),
        "kube.path": ("/" + "/".join(request.rest),) if request.subresource == "proxy" else (),
    }
    return facts | {fact: values for fact, values in optional.items() if values}


def _judge_body(
    request: RequestInfo,
    body: bytes,
    content_type: str,
    effects: set[Effect],
    facts: dict[str, tuple[str, ...]],
    keep: Callable[[Any], object],
) -> None:
    if not body:
        if request.verb in _WRITE_VERBS:
            raise Unreadable("the request has no body")
        return
    document = objects.read(body, content_type)
    keep(document)
    data = not request.group and request.resource in ("secrets", "configmaps")
    if data and holds_placeholder(document):
        raise Unreadable("the body would write a masked value back: leave out the fields that you saw masked")
    if request.verb == "patch" and objects.media_type(content_type) == "application/json-patch+json":
        found = workloads.facts_of_json_patch(document, data=data)
        entries = _patched(document)
    else:
        if not isinstance(document, dict):
            raise Unreadable("the body is no object")
        found = workloads.facts_of(document, data=data)
        entries = document
    if request.verb in _DELETE_VERBS:
        # DeleteOptions in a body replace those of the query
        facts["kube.dry_run"] = ("true" if document.get("dryRun") == ["All"] else "false",)
        return
    for fact, values in found.items():
        facts[fact] = values
    if request.resource == "pods" and not request.group and "kube.ephemeral_container" in found:
        effects.add(Effect.KUBE_DEBUG)
    name = _path(entries, "metadata", "name")
    if request.verb == "create" and not request.subresource and isinstance(name, str) and name:
        facts["kube.name"] = (name,)
    if request.group == _RBAC:
        _judge_rbac(entries, facts)
    if request.resource == "secrets" and not request.group and isinstance(kind := entries.get("type"), str):
        facts["kube.secret_type"] = (kind or "Opaque",)
        if kind == _TOKEN_SECRET:
            effects.add(Effect.KUBE_TOKEN)


def _patched(document: Any) -> dict[str, Any]:
    """The top-level fields that a JSON patch sets whole."""
    return {op["path"][1:]: op.get("value") for op in document if op.get("op") in ("add", "replace")}


def _path(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _judge_rbac(document: Mapping[str, Any], facts: dict[str, tuple[str, ...]]) -> None:
    role = _path(document, "roleRef", "name")
    if isinstance(role, str):
        facts["kube.role_ref"] = (role,)
    subjects = document.get("subjects")
    if isinstance(subjects, list):
        named = [s for s in subjects if isinstance(s, dict)]
        facts["kube.subject"] = tuple(
            ":".join(str(s[key]) for key in ("kind", "namespace", "name") if s.get(key)) for s in named
        ) or (json.dumps(subjects)[:200],)
