"""Requests as the API server's own resolver took them (`RequestInfoFactory` of k8s.io/apiserver 0.36.4).

`resolved.tsv` has one request to a line: method, target, and what the server makes of it. Ours may refuse a request,
since two readers could differ on it; it must never take one for something else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.requests import RequestInfo, resolve

ROWS = [line.split("\t") for line in Path(__file__).with_name("resolved.tsv").read_text().splitlines()]


def words(info: RequestInfo) -> str:
    if not info.resource_request:
        return f"{info.verb} (path)"
    named = {
        "group": info.group,
        "resource": info.resource,
        "subresource": info.subresource,
        "namespace": info.namespace,
        "name": info.name,
    }
    return " ".join([info.verb, *(f"{key}={value}" for key, value in named.items() if value)])


def test_nothing_is_taken_for_something_else() -> None:
    wrong = []
    taken = 0
    for method, target, server in ROWS:
        try:
            ours = words(resolve(method, target))
        except RequestRefused:
            continue
        taken += 1
        if ours != server:
            wrong.append((method, target, server, ours))
    assert not wrong
    assert taken > 150


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb", "db"),
        ("/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb&labelSelector=a%3Db,c!%3Dd", "db"),
        # the server forgets the field selector where it cannot read the rest of the query
        ("/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb&labelSelector=%21%21", ""),
        ("/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb&labelSelector=a/b/c%3Dd", ""),
        # ... and behind the old prefix it never looks at it
        ("/api/v1/watch/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb", ""),
    ],
)
def test_a_selected_name_is_the_servers(target: str, name: str) -> None:
    assert resolve("GET", target).name == name


@pytest.mark.parametrize("query", ["limit=x", "limit=", "limit=1e3", "timeoutSeconds=abc", "limit=+1"])
def test_a_number_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(RequestRefused, match="is no number"):
        resolve("GET", f"/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb&{query}")
