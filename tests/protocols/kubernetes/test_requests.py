"""How a request is resolved, case by case from Kubernetes' reference, and every form that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes import paths
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.requests import resolve

# method, target -> verb, group, version, namespace, resource, subresource, name
RESOURCES = [
    # collections and objects
    ("GET", "/api/v1/namespaces", "list", "", "v1", "", "namespaces", "", ""),
    ("GET", "/api/v1/namespaces/shop", "get", "", "v1", "shop", "namespaces", "", "shop"),
    ("GET", "/api/v1/namespaces/shop/pods", "list", "", "v1", "shop", "pods", "", ""),
    ("GET", "/api/v1/namespaces/shop/pods/web", "get", "", "v1", "shop", "pods", "", "web"),
    ("HEAD", "/api/v1/namespaces/shop/pods/web", "get", "", "v1", "shop", "pods", "", "web"),
    ("HEAD", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/nodes/n1", "get", "", "v1", "", "nodes", "", "n1"),
    ("GET", "/apis/apps/v1/namespaces/shop/deployments/web", "get", "apps", "v1", "shop", "deployments", "", "web"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "get", "rbac.authorization.k8s.io", "v1", "",
     "clusterroles", "", "system:node"),
    # writes
    ("POST", "/api/v1/namespaces/shop/pods", "create", "", "v1", "shop", "pods", "", ""),
    ("POST", "/apis/batch/v1beta1/namespaces/shop/cronjobs", "create", "batch", "v1beta1", "shop", "cronjobs", "", ""),
    ("PUT", "/api/v1/namespaces/shop/pods/web", "update", "", "v1", "shop", "pods", "", "web"),
    ("PATCH", "/api/v1/namespaces/shop/pods/web", "patch", "", "v1", "shop", "pods", "", "web"),
    ("PATCH", "/api/v1/namespaces/shop", "patch", "", "v1", "shop", "namespaces", "", "shop"),
    ("DELETE", "/api/v1/namespaces/shop/pods/web", "delete", "", "v1", "shop", "pods", "", "web"),
    ("DELETE", "/api/v1/namespaces/shop/pods", "deletecollection", "", "v1", "shop", "pods", "", ""),
    ("DELETE", "/api/v1/nodes", "deletecollection", "", "v1", "", "nodes", "", ""),
    ("DELETE", "/api/v1/namespaces", "deletecollection", "", "v1", "", "namespaces", "", ""),
    # watches: a parameter that is there is true unless it says 0 or false
    ("GET", "/api/v1/pods?watch=true", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=1", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=no", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=0", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=False", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/namespaces/shop/pods/web?watch=true", "get", "", "v1", "shop", "pods", "", "web"),
    ("GET", "/api/v1/watch/pods", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/watch/namespaces/shop/pods", "watch", "", "v1", "shop", "pods", "", ""),
    ("GET", "/api/v1/watch/namespaces/shop/pods/web", "watch", "", "v1", "shop", "pods", "", "web"),
    ("GET", "/apis/apps/v1/watch/deployments", "watch", "apps", "v1", "", "deployments", "", ""),
    # a list of one name is authorised as that name
    ("GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Ddb", "list", "", "v1", "shop", "secrets", "",
     "db"),
    ("GET", "/api/v1/secrets?watch=1&fieldSelector=metadata.name==db", "watch", "", "v1", "", "secrets", "", "db"),
    ("GET", "/api/v1/secrets?fieldSelector=type%3Dx,metadata.name%3Ddb", "list", "", "v1", "", "secrets", "", "db"),
    ("GET", "/api/v1/secrets?fieldSelector=metadata.name!%3Ddb", "list", "", "v1", "", "secrets", "", ""),
    ("GET", "/api/v1/secrets?fieldSelector=metadata.name%3D..", "list", "", "v1", "", "secrets", "", ""),
    ("GET", "/api/v1/secrets?fieldSelector=", "list", "", "v1", "", "secrets", "", ""),
    ("DELETE", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Ddb", "deletecollection", "", "v1", "shop",
     "secrets", "", ""),
    # subresources
    ("GET", "/api/v1/namespaces/shop/pods/web/status", "get", "", "v1", "shop", "pods", "status", "web"),
    ("GET", "/api/v1/namespaces/shop/pods/web/log", "get", "", "v1", "shop", "pods", "log", "web"),
    ("GET", "/api/v1/namespaces/shop/pods/web/exec?command=sh", "get", "", "v1", "shop", "pods", "exec", "web"),
    ("POST", "/api/v1/namespaces/shop/pods/web/exec?command=sh", "create", "", "v1", "shop", "pods", "exec", "web"),
    ("PUT", "/api/v1/namespaces/shop/finalize", "update", "", "v1", "shop", "namespaces", "finalize", "shop"),
    ("PUT", "/api/v1/namespaces/shop/status", "update", "", "v1", "shop", "namespaces", "status", "shop"),
    ("POST", "/api/v1/namespaces/shop/serviceaccounts/ci/token", "create", "", "v1", "shop", "serviceaccounts", "token",
     "ci"),
    ("GET", "/apis/apps/v1/namespaces/shop/deployments/web/scale", "get", "apps", "v1", "shop", "deployments", "scale",
     "web"),
    # proxies, with whatever follows
    ("GET", "/api/v1/nodes/n1/proxy/run/shop/web/main", "get", "", "v1", "", "nodes", "proxy", "n1"),
    ("POST", "/api/v1/namespaces/shop/services/https:web:443/proxy/", "create", "", "v1", "shop", "services", "proxy",
     "https:web:443"),
    ("GET", "/api/v1/proxy/namespaces/shop/pods/web/not/a/subresource", "proxy", "", "v1", "shop", "pods", "", "web"),
    ("POST", "/api/v1/proxy/nodes/n1", "proxy", "", "v1", "", "nodes", "", "n1"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", *"vgxnrso"), RESOURCES, ids=lambda v: str(v) if "/" in str(v) else "")
def test_resource_requests(method: str, target: str, v: str, g: str, x: str, n: str, r: str, s: str, o: str) -> None:
    found = resolve(method, target)
    assert found.resource_request
    assert (found.verb, found.group, found.version, found.namespace) == (v, g, x, n)
    assert (found.resource, found.subresource, found.name) == (r, s, o)


@pytest.mark.parametrize(
    "target",
    ["/", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/metrics", "/openapi/v3/apis/apps/v1",
     "/not-api/v1/pods", "/version", "/logs/kube-apiserver.log"],
)  # fmt: skip
def test_paths_that_are_no_resource(target: str) -> None:
    found = resolve("GET", target)
    assert (found.resource_request, found.verb, found.path) == (False, "get", target)


@pytest.mark.parametrize(
    "path",
    ["/version", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/a.b-c.io/v2beta1",
     "/.well-known/openid-configuration", "/openid/v1/jwks"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_clients_ask_with_a_slash_behind_it_is_the_same(method: str, path: str) -> None:
    """The official Python client does, in `VersionApi().get_code()` and `ApisApi().get_api_versions()`."""
    assert resolve(method, f"{path}/") == resolve(method, path)


@pytest.mark.parametrize(
    "target",
    ["/api//", "//api/", "/apis/apps/v1/deployments/", "/apis/apps/x/", "/api/v1%2Fpods/", "/api/v1/pods/",
     "/apis/Apps/v1/", "/openapi/v2/", "/metrics/", "/API/", "/version/x/", "/apis/apps/v1/x/y/"],
)  # fmt: skip
def test_no_other_path_may_end_in_one(target: str) -> None:
    with pytest.raises(RequestRefused):
        resolve("GET", target)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        with pytest.raises(RequestRefused):
            resolve(method, "/apis/apps/v1/")


def test_what_goes_with_a_request() -> None:
    found = resolve(
        "POST",
        "/api/v1/namespaces/a/pods/p/exec?command=sh&command=-c&command=rm+-rf+%2Fdata&container=m&stdin=true&tty=0",
    )
    assert found.command == ("sh", "-c", "rm -rf /data")
    assert (found.container, found.streams) == ("m", frozenset({"stdin"}))
    assert resolve("DELETE", "/api/v1/namespaces/a/pods/p?dryRun=All").dry_run
    assert resolve("GET", "/api/v1/namespaces/a/pods/p/portforward?ports=80&ports=81,82").ports == (80, 81, 82)
    assert resolve("GET", "/api/v1/pods?labelSelector=app%3Dweb%2Ctier").label_selector == "app=web,tier"
    assert resolve("GET", "/api/v1/nodes/n1/proxy/a/b").rest == ("a", "b")


REFUSED = [
    # second spellings of one path
    "/api/v1//pods", "//api/v1/pods", "/api/v1/pods/", "/api/v1/namespaces/shop/pods/", "/logs/", "/healthz/",
    "/api/v1/./pods", "/api/v1/x/../pods", "/api/v1/namespaces/shop/pods/..", "/./api/v1/pods",
    "/api/v1/%70ods", "/api/v1/namespaces/shop%2Fsecrets", "/api/v1/%2e%2e/pods", "/api/v1/p%6Fds/x",
    "/api/v1/namespaces/shop/secrets/d%62", "/api/v1/pods%00", "/api/v1/pods%0a", "/api/v1/pods%5cx",
    "/api/v1/pods\\x",
    "/api/v1/namespaces/shop/pods/a%2fb", "/api/v1/pods/%C3", "/api/v1/pods/%c3%a9", "/api/v1/pods/%25",
    "/api/v1/pods/%2",
    "/API/v1/pods", "/Apis/apps/v1", "/api/V1/pods", "/api/v1/Pods", "/api/v1/namespaces/Shop/pods",
    "/apis/Apps/v1/deployments", "/api/v1/namespaces/shop/pods/web/Exec", "/api/v1/pods;x=y",
    "/api/v1/namespaces/shop/pods/web/exec/more", "/api/v1/namespaces/-/pods", "/api/v1/namespaces/a.b/pods",
    "https://other/api/v1/pods", "api/v1/pods", "*", "", "/api/v1/pods#secrets", "/api/v1/p ods", "/api/v1/p\tods",
    "/api/v1/watch", "/api/v1/proxy", "/api/v1/pods/x\u00e9", "/api/v1/nodes/n/proxy/../x", "/api/v1/nodes/n/proxy//x",
    # queries that two readers could take differently
    "/api/v1/pods?watch=1&watch=0", "/api/v1/pods?Watch=1", "/api/v1/pods?wat%43h=1", "/api/v1/pods?a=1;watch=1",
    "/api/v1/pods?fieldSelector=metadata.name%3Da&fieldSelector=metadata.name%3Db", "/api/v1/pods?a=%zz",
    "/api/v1/pods?a=%",
    "/api/v1/pods?dryRun=all", "/api/v1/pods?dryRun=All&dryRun=", "/api/v1/pods?DRYRUN=All", "/api/v1/pods?a=%ff",
    "/api/v1/pods?fieldSelector=metadata.name", "/api/v1/pods?fieldSelector=metadata.name%3Da%5Cb",
    "/api/v1/namespaces/a/pods/p/portforward?ports=0", "/api/v1/namespaces/a/pods/p/portforward?ports=99999",
    "/api/v1/namespaces/a/pods/p/portforward?ports=%2B80", "/api/v1/namespaces/a/pods/p/exec?tty=1&tty=0",
    "/api/v1/pods?" + "a=1&" * 600, "/" + "a" * 20_000, "/api/v1/pods/" + "a" * 300,
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED, ids=lambda t: t[:60])
def test_what_is_not_canonical_is_refused(target: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        resolve("GET", target)
    assert 400 <= caught.value.code < 500
    assert str(caught.value)[0].islower()


@pytest.mark.parametrize("method", ["get", "TRACE", "CONNECT", "PROPFIND", "", "G T", "GET\r\nX: y", "OPTIONS"])
def test_methods(method: str) -> None:
    with pytest.raises(RequestRefused):
        resolve(method, "/api/v1/pods")


def test_a_watch_prefix_is_a_get() -> None:
    with pytest.raises(RequestRefused):
        resolve("POST", "/api/v1/watch/namespaces/shop/pods")


def test_escapes_that_are_canonical_are_read() -> None:
    assert resolve("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/my%20role").name == "my role"
    assert resolve("GET", "/api/v1/namespaces/a/pods/%C3%A9").name == "é"


@given(st.text(alphabet="/.%aA2eEfF?&=;\\\0 watchpodsn", max_size=40), st.sampled_from(["GET", "POST", "DELETE"]))
def test_only_refusals_are_raised(tail: str, method: str) -> None:
    try:
        found = resolve(method, "/api/v1/" + tail)
    except RequestRefused:
        return
    # what passes has one spelling: the decoded path reads the same again where nothing was escaped
    if "%" not in tail:
        assert found.path == (("/api/v1/" + tail).partition("?")[0] if tail.partition("?")[0] else "/api/v1")


@given(st.lists(st.text("abc/.%~é ", min_size=1, max_size=6), min_size=1, max_size=4))
def test_one_path_has_one_spelling(segments: list[str]) -> None:
    """Whatever is accepted, no other accepted spelling decodes to the same segments."""
    from urllib.parse import quote

    spellings = {"/" + "/".join(quote(s, safe=safe) for s in segments) for safe in ("", "~", "/~", "~.abc")}
    accepted = set()
    for spelling in spellings:
        try:
            found = paths.parse(spelling)
        except RequestRefused:
            continue
        if found.segments == tuple(segments):
            accepted.add(spelling)
    assert len(accepted) <= 1
