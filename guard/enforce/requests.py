"""What a rule may ask about HTTP requests and Kubernetes requests, as patterns on an analysis's facts.

A fact has all of its values: a parameter that is given twice, every reading of an ambiguous path, each image of a pod.
A rule that stops matches when *any* value fits; an allow covers the command only when there is a value and *every*
value fits. The value `*` stands for what could not be found out: it fits every stopping pattern, and of an allow only
`*`.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from guard.documents.values import not_empty
from guard.enforce.patterns import check_glob

Glob = Annotated[str, AfterValidator(check_glob)]
Globs = Annotated[tuple[Glob, ...], AfterValidator(not_empty)]
NamedGlobs = Annotated[dict[str, Globs], AfterValidator(not_empty)]
Facts = tuple[tuple[str, tuple[str, ...]], ...]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("empty: name at least one condition, or leave this part out")
        return self


class HttpMatch(_Part):
    """Which HTTP requests, and what of their answers."""

    methods: Globs = Field(default=(), description="`GET`, `POST`, ... in capitals")
    hosts: Globs = Field(default=(), description="the destination's name, lower case, without port: `*.example.com`")
    ports: Globs = Field(default=(), description='the destination\'s port: `["443"]`')
    schemes: Globs = Field(default=(), description="`https` or `http`")
    paths: Globs = Field(
        default=(), description="the path without query, percent-decoded; of an ambiguous one every reading counts"
    )
    query: NamedGlobs = Field(default={}, description="query parameter -> patterns on its value")
    headers: NamedGlobs = Field(default={}, description="request header (lower case) -> patterns on its value")
    content_types: Globs = Field(default=(), description="the request body's media type: `application/json`")
    json_fields: NamedGlobs = Field(
        default={}, alias="json", description="path in a JSON or form body (`user.email`, `items[].id`) -> patterns"
    )
    operations: Globs = Field(
        default=(),
        description="GraphQL: `query`, `mutation` or `subscription`, or one of them and a root field: "
        "`mutation.deleteUser`",
    )
    statuses: Globs = Field(default=(), description='the answer\'s status: `"5*"`; not in an `allow`')
    response_types: Globs = Field(default=(), description="the answer's media type; not in an `allow`")

    def facts(self) -> Facts:
        """As conditions on an analysis's facts."""
        listed = [(f"http.{name}", getattr(self, field)) for field, name in _HTTP.items()]
        listed += [(f"http.query.{name}", globs) for name, globs in self.query.items()]
        listed += [(f"http.header.{name.lower()}", globs) for name, globs in self.headers.items()]
        listed += [(f"http.json.{name}", globs) for name, globs in self.json_fields.items()]
        return tuple((name, globs) for name, globs in listed if globs)

    @property
    def about_answers(self) -> bool:
        """Whether it can only be judged once the answer is there."""
        return bool(self.statuses or self.response_types)


_HTTP = {
    "methods": "method",
    "hosts": "host",
    "ports": "port",
    "schemes": "scheme",
    "paths": "path",
    "content_types": "content_type",
    "operations": "graphql",
    "statuses": "status",
    "response_types": "response_type",
}


class KubernetesMatch(_Part):
    """Which requests to a Kubernetes API, as its server resolves them."""

    verbs: Globs = Field(default=(), description="`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, ...")
    groups: Globs = Field(default=(), description="API group; the core group is the empty word: write `core`")
    resources: Globs = Field(default=(), description="`pods`, `pods/exec`, `deployments`, ...")
    namespaces: Globs = Field(default=(), description="namespace; of a request for all namespaces it is `*`")
    names: Globs = Field(default=(), description="the object's name; of a request for a collection it is `*`")
    images: Globs = Field(default=(), description="an image in the object, its pod template included")
    service_accounts: Globs = Field(default=(), description="the service account that the object's pods run as")
    secret_refs: Globs = Field(
        default=(), description="a Secret that the object's pods use: whoever may run the pod can read it"
    )
    commands: Globs = Field(default=(), description="exec: the command line, its words joined by blanks")
    settings: Globs = Field(
        default=(),
        description="what the object's pods ask of the node: `privileged`, `host_path`, `host_network`, `host_pid`, "
        "`host_ipc`",
    )

    def facts(self) -> Facts:
        """As conditions on an analysis's facts."""
        listed = [(f"kube.{name}", getattr(self, field)) for field, name in _KUBERNETES.items()]
        return tuple((name, globs) for name, globs in listed if globs)


_KUBERNETES = {
    "verbs": "verb",
    "groups": "group",
    "resources": "resource",
    "namespaces": "namespace",
    "names": "name",
    "images": "image",
    "service_accounts": "service_account",
    "secret_refs": "secret_ref",
    "commands": "command",
    "settings": "setting",
}
