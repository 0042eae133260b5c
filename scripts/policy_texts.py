"""Requests as people write them in a policy's tests and at a prompt: `METHOD URL`, headers, a body; or as kubectl does.

The first is the form of `.http` files: a line with method and URL, lines with headers, an empty line, the body. The
second is for `kubernetes` only: `VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAME] [-n NAMESPACE] [-- COMMAND]`, and a body
behind an empty line, in JSON or YAML.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from protocols.judge_lines import JudgeError

type Asked = dict[str, Any]  # the `request` of a line of `policy judge`

_METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "logs": "GET", "exec": "GET", "attach": "GET", "port-forward": "GET",
    "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip
_STREAMS = {"exec": "exec", "attach": "attach", "port-forward": "portforward"}
_NAMED = frozenset({"update", "patch", "delete", "logs", *_STREAMS})
_WITHOUT_NAME = frozenset({"list", "watch", "create", "deletecollection"})
# groups that kubectl knows without being told
_GROUPS = {
    "deployments": "apps", "statefulsets": "apps", "daemonsets": "apps", "replicasets": "apps",
    "controllerrevisions": "apps", "jobs": "batch", "cronjobs": "batch", "ingresses": "networking.k8s.io",
    "networkpolicies": "networking.k8s.io", "horizontalpodautoscalers": "autoscaling",
    "poddisruptionbudgets": "policy", "roles": "rbac.authorization.k8s.io",
    "rolebindings": "rbac.authorization.k8s.io", "clusterroles": "rbac.authorization.k8s.io",
    "clusterrolebindings": "rbac.authorization.k8s.io", "storageclasses": "storage.k8s.io",
    "customresourcedefinitions": "apiextensions.k8s.io", "leases": "coordination.k8s.io",
}  # fmt: skip
_CLUSTER_WIDE = frozenset(
    {"nodes", "namespaces", "persistentvolumes", "clusterroles", "clusterrolebindings", "storageclasses",
     "customresourcedefinitions", "certificatesigningrequests", "priorityclasses", "apiservices"}
)  # fmt: skip
_UPGRADE = [["Connection", "upgrade"], ["Upgrade", "websocket"]]


def request_of(protocol: str, text: str) -> Asked:
    """What a text asks for. Raises JudgeError."""
    lines = text.lstrip("\r\n").split("\n")
    first = lines[0].strip()
    method, _, rest = first.partition(" ")
    if protocol == "http" or (method.isupper() and rest.lstrip().startswith(("/", "http://", "https://"))):
        return _plain(method, rest.strip(), [line.removesuffix("\r") for line in lines[1:]])
    blank = next((n for n, line in enumerate(lines) if n and not line.strip()), len(lines))
    if blank > 1:
        raise JudgeError("an empty line must stand before the body")
    return _kubectl(first, "\n".join(lines[blank + 1 :]))


def _plain(method: str, url: str, rest: Sequence[str]) -> Asked:
    url = url.removesuffix(" HTTP/1.1").strip()
    if not method or not url:
        raise JudgeError("a request begins with a line such as `GET https://pypi.org/simple/`")
    blank = next((n for n, line in enumerate(rest) if not line), len(rest))
    headers = []
    for line in rest[:blank]:
        name, colon, value = line.partition(":")
        if not colon:
            raise JudgeError(f"`{line[:40]}` is no header: write `Name: value`, and an empty line before the body")
        headers.append([name, value.strip()])
    return {"method": method, "url": url, "headers": headers, "body": "\n".join(rest[blank + 1 :])}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise JudgeError(f"{message}; write `get pods web -n shop`, `exec web -n shop -- id`, or `GET /api/v1/pods`")


def _parser() -> _Parser:
    parser = _Parser(prog="", add_help=False, allow_abbrev=False)
    parser.add_argument("verb", choices=sorted(_METHODS))
    parser.add_argument("words", nargs="*")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-A", "--all-namespaces", action="store_true")
    parser.add_argument("-c", "--container")
    parser.add_argument("-l", "--selector")
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("-i", "--stdin", action="store_true")
    parser.add_argument("-t", "--tty", action="store_true")
    parser.add_argument("--dry-run", choices=["server"])
    parser.add_argument("--type", choices=["json", "merge", "strategic", "apply"], default="strategic")
    return parser


def _kubectl(line: str, body: str) -> Asked:
    try:
        words = shlex.split(line)
    except ValueError as e:
        raise JudgeError(f"`{line[:40]}`: {e}".lower()) from None
    command = words[words.index("--") + 1 :] if "--" in words else []
    asked = _parser().parse_args(words[: words.index("--")] if "--" in words else words)
    verb = asked.verb
    if verb in _STREAMS or verb == "logs":
        subresource = _STREAMS.get(verb, "log")
        resource, name = f"pods/{subresource}", asked.words[0].removeprefix("pod/") if asked.words else ""
        if asked.words[1:] and verb != "port-forward":
            raise JudgeError(f"`{asked.words[1]}`: a command stands behind `--`")
    else:
        words = [*asked.words, "", "", ""]
        resource, name = words[:2]
        if words[2]:
            raise JudgeError(f"`{words[2]}`: one object at a time")
        if command:
            raise JudgeError(f"`{verb}` takes no command")
    if not resource or (verb in _NAMED and not name):
        raise JudgeError(f"`{verb}` needs {'the name of an object' if resource else 'a resource such as `pods`'}")
    if verb in _WITHOUT_NAME and name and not _has_subresource(resource):
        raise JudgeError(f"`{verb}` is about a collection: leave `{name}` out")
    query = _query(asked, verb, command)
    path = _path(resource, name, asked)
    headers = [["Content-Type", _kind(verb, asked.type, body)]] if body else []
    if verb in _STREAMS:
        protocol = "SPDY/3.1+portforward.k8s.io" if verb == "port-forward" else "v5.channel.k8s.io"
        headers += [*_UPGRADE, ["Sec-WebSocket-Protocol", protocol]]
    url = path + (f"?{urlencode(query)}" if query else "")
    return {"method": _METHODS[verb], "url": url, "headers": headers, "body": body}


def _has_subresource(resource: str) -> bool:
    return "/" in resource


def _path(resource: str, name: str, asked: argparse.Namespace) -> str:
    plain, _, subresource = resource.partition("/")
    kind, dot, group = plain.partition(".")
    group = group if dot else _GROUPS.get(kind, "")
    parts = ["apis", group, "v1"] if group else ["api", "v1"]
    if kind not in _CLUSTER_WIDE and not asked.all_namespaces:
        parts += ["namespaces", asked.namespace]
    parts += [kind, *([name] if name else []), *([subresource] if subresource else [])]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _query(asked: argparse.Namespace, verb: str, command: Sequence[str]) -> list[tuple[str, str]]:
    query = [("command", word) for word in command]
    if verb in ("exec", "attach"):
        query += [("stdout", "true"), ("stderr", "true")]
        query += [(name, "true") for name in ("stdin", "tty") if getattr(asked, name)]
    query += [("watch", "true")] if verb == "watch" else []
    query += [("follow", "true")] if verb == "logs" and asked.follow else []
    query += [("container", asked.container)] if asked.container else []
    query += [("labelSelector", asked.selector)] if asked.selector else []
    return query + ([("dryRun", "All")] if asked.dry_run else [])


def _kind(verb: str, how: str, body: str) -> str:
    if verb == "patch":
        kinds = {"json": "json-patch+json", "merge": "merge-patch+json", "apply": "apply-patch+yaml"}
        return f"application/{kinds.get(how, 'strategic-merge-patch+json')}"
    return "application/json" if body.lstrip()[:1] in ("{", "[") else "application/yaml"
