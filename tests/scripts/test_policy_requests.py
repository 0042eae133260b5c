"""`policy judge` and `policy explain` for HTTP and Kubernetes: the data path's own exchange, with nothing behind it."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from guard.config.schema import LimitsConfig
from guard.enforce import PolicySet
from protocols.contract import Principal, Resource, SessionFacts
from protocols.judge_lines import JudgeError
from scripts.cli import main
from scripts.policy_requests import RequestJudge
from scripts.policy_texts import request_of

ROOT = Path(__file__).resolve().parents[2]
EGRESS = ROOT / "policies" / "ci-egress.yaml"
CLUSTER = ROOT / "policies" / "kubernetes-read-only.yaml"
TOKEN = "ghp_" + "a1B2" * 9
POLICY = """
version: 1
name: t
description: d
rules:
  - {id: read, description: d, allow: [http.read]}
  - {id: write, description: d, allow: [http.write]}
  - {id: stream, description: d, who: {groups: [uploaders]}, allow: [http.stream]}
  - {id: pinned, description: d, allow: {effects: [http.opaque], http: {hosts: [pinned.example]}}}
  - {id: field, description: d, deny: {effects: [http.write], http: {paths: [/graphql], json: {user.role: [admin]}}}}
  - {id: drop, description: d, deny: {effects: [http.write], http: {paths: [/graphql], operations: [mutation.drop]}}}
  - {id: zip, description: d, deny: {effects: [http.read], http: {response_types: [application/zip]}}}
  - {id: admin, description: d, terminate: {effects: [http.*], http: {paths: [/admin*]}}}
  - {id: leak, description: d, deny: [exfil.masked]}
"""


def judge_of(path: Path, protocol: str, *groups: str, limits: LimitsConfig | None = None) -> RequestJudge:
    facts = SessionFacts(client_address="127.0.0.1")
    principal = Principal("job", "https://issuer.test", frozenset(groups))
    return RequestJudge(
        PolicySet.load([path]).for_session(principal, Resource("any", protocol), facts), facts, None, limits
    )


@pytest.fixture
def judge(tmp_path: Path) -> RequestJudge:
    (tmp_path / "t.yaml").write_text(POLICY)
    return judge_of(tmp_path / "t.yaml", "http")


def ask(judge: RequestJudge, method: str, url: str, *headers: tuple[str, str], **more: Any) -> tuple[str, str]:
    body = {name: more.pop(name) for name in ("body", "body_hex") if name in more}
    request = {"method": method, "url": url, "headers": [list(pair) for pair in headers], **body}
    answer = judge.line({"id": 1, "request": request, **more})
    assert answer["id"] == 1
    return answer["decision"], answer["rule"]


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", "https://a.example/x", ("allow", "t/read")),
        ("GET", "http://a.example:8080", ("allow", "t/read")),
        ("DELETE", "https://a.example/x", ("deny", "default")),
        ("GET", "https://a.example/a/%2e%2e/admin", ("terminate", "t/admin")),
        ("GET", "https://a.example//ADMIN/../admin", ("terminate", "t/admin")),
        ("GET", "https://a.example/x#y", ("deny", "malformed")),
        ("GET", "https://a.example/x y", ("deny", "malformed")),
        ("GET", "https://a.example/%252525252e", ("deny", "malformed")),
        ("TRACE", "https://a.example/", ("deny", "malformed")),
        ("GE T", "https://a.example/", ("deny", "malformed")),
        ("GET", "https://pinned.example/x", ("allow", "t/pinned")),
    ],
)
def test_heads(judge: RequestJudge, method: str, url: str, expected: tuple[str, str]) -> None:
    assert ask(judge, method, url) == expected


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Transfer-Encoding", "identity"),
        ("Content-Length", "+1"),
        ("Host", "b.example"),
        ("X-A", "b\r\nc: d"),
        ("X A", "b"),
        ("X-A", "\0"),
    ],
)
def test_headers_that_no_request_has(judge: RequestJudge, header: str, value: str) -> None:
    assert ask(judge, "POST", "https://a.example/x", (header, value)) == ("deny", "malformed")
    assert ask(judge, "POST", "http://a.example/x", (header, value)) == ("deny", "malformed")


def test_bodies_are_read_as_rules_ask(judge: RequestJudge) -> None:
    url, kind = "https://a.example/graphql", ("Content-Type", "application/json")
    admin = json.dumps({"user": {"role": "admin"}})
    assert ask(judge, "POST", url, kind, body=admin) == ("deny", "t/field")
    guest = json.dumps({"user": {"role": "guest"}, "query": "{ me { id } }"})
    assert ask(judge, "POST", url, kind, body=guest) == ("allow", "t/write")
    coded = gzip.compress(admin.encode()).hex()
    assert ask(judge, "POST", url, kind, ("Content-Encoding", "gzip"), body_hex=coded) == ("deny", "t/field")
    assert ask(judge, "POST", url, kind, ("Content-Encoding", "gzip"), body="no gzip") == ("deny", "t/field")
    query = json.dumps({"query": "mutation { drop(id: 1) { id } }"})
    assert ask(judge, "POST", url, kind, body=query) == ("deny", "t/drop")
    url = "https://a.example/x"
    assert ask(judge, "POST", url, ("Content-Encoding", "gzip"), body="no gzip") == ("deny", "default")
    assert ask(judge, "POST", url, body="_method=DELETE") == ("allow", "t/write")
    form = ("Content-Type", "application/x-www-form-urlencoded")
    assert ask(judge, "POST", url, form, body="_method=DELETE") == ("deny", "default")


def test_what_must_not_leave(judge: RequestJudge) -> None:
    url = "https://a.example/x"
    assert ask(judge, "POST", url, body=f"token={TOKEN}") == ("deny", "default")
    assert ask(judge, "GET", f"{url}?t={TOKEN}") == ("deny", "default")
    assert ask(judge, "GET", url, ("Authorization", f"Bearer {TOKEN}")) == ("allow", "t/read")
    assert ask(judge, "POST", url, body="to ada.lovelace@corp.example", masked=["ada.lovelace@corp.example"]) == (
        "deny",
        "t/leak",
    )
    assert ask(judge, "POST", url, body="to somebody", masked=["ada.lovelace@corp.example"]) == ("allow", "t/write")


def test_a_body_above_the_limit_is_judged_as_it_passes(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(POLICY)
    limits = LimitsConfig(inspect_body_bytes=1 << 20)
    url, size = "https://a.example/x", 2 << 20
    chunked = ("Transfer-Encoding", "chunked")
    refusing = judge_of(tmp_path / "t.yaml", "http", limits=limits)
    assert ask(refusing, "PUT", url, body="a\n" * (size // 2)) == ("deny", "default")
    allowed = judge_of(tmp_path / "t.yaml", "http", "uploaders", limits=limits)
    assert ask(allowed, "PUT", url, body="a\n" * (size // 2)) == ("allow", "t/write")
    assert ask(allowed, "PUT", url, chunked, body="a\n" * (size // 2)) == ("allow", "t/write")
    leak = "a\n" * (size // 2) + f"token={TOKEN}\n"
    assert ask(allowed, "PUT", url, body=leak) == ("deny", "default")
    assert ask(allowed, "PUT", url, chunked, body=leak) == ("deny", "default")


def test_answers_are_judged_too(judge: RequestJudge) -> None:
    url = "https://a.example/x"
    kind = [["Content-Type", "application/zip"]]
    assert ask(judge, "GET", url, response={"status": 200, "headers": kind}) == ("deny", "t/zip")
    assert ask(judge, "GET", url, response={"status": 200}) == ("allow", "t/read")
    assert ask(judge, "DELETE", url, response={"status": 200}) == ("deny", "default")


def test_the_answer_says_what_rules_saw(judge: RequestJudge) -> None:
    answer = judge.line({"id": "a", "request": {"method": "POST", "url": "https://A.example./x?q=1", "body": "b"}})
    assert answer["facts"]["http.host"] == ["a.example"]
    assert answer["facts"]["http.query.q"] == ["1"]
    assert (answer["effects"], answer["unknown"], answer["status"]) == (["http.write"], False, None)
    refused = judge.line({"request": {"method": "DELETE", "url": "https://a.example/"}})
    assert (refused["id"], refused["status"]) == (None, 403)
    assert "no rule allows http.delete" in refused["why"]


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"request": "GET /"},
        {"request": {"method": "GET"}},
        {"request": {"method": 1, "url": "https://a.example/"}},
        {"request": {"url": "ftp://a.example/"}},
        {"request": {"url": "a.example/"}},
        {"request": {"url": "https://a b/"}},
        {"request": {"url": "https://u:p@a.example/"}},
        {"request": {"url": "https://a.example:0/"}},
        {"request": {"url": "https://a.example/", "headers": "x"}},
        {"request": {"url": "https://a.example/", "headers": [["a"]]}},
        {"request": {"url": "https://a.example/", "headers": [["a", 1]]}},
        {"request": {"url": "https://a.example/", "body": 1}},
        {"request": {"url": "https://a.example/", "body": "a", "body_hex": "00"}},
        {"request": {"url": "https://a.example/", "body_hex": "0"}},
        {"request": {"url": "https://a.example/", "boddy": "a"}},
        {"request": {"url": "https://a.example/"}, "masked": "a"},
        {"request": {"url": "https://a.example/"}, "response": 200},
        {"input": "https://a.example/"},
        {"input": ""},
        {"input": "GET https://a.example/\nno header"},
    ],
)
def test_a_line_that_is_no_request(judge: RequestJudge, line: dict[str, Any]) -> None:
    with pytest.raises(JudgeError):
        judge.line(line)


# ---------------------------------------------------------------- kubernetes


@pytest.fixture(scope="module")
def cluster() -> RequestJudge:
    return judge_of(CLUSTER, "kubernetes")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("get pods web -n shop", {"verb": "get", "resource": "pods", "name": "web", "namespace": "shop"}),
        ("list pods", {"verb": "list", "resource": "pods", "namespace": "default"}),
        ("list pods -A", {"verb": "list", "namespace": "*"}),
        ("watch deployments -n a", {"verb": "watch", "group": "apps", "resource": "deployments"}),
        ("get widgets.example.com one -n a", {"group": "example.com", "resource": "widgets", "name": "one"}),
        ("get deployments/scale web", {"resource": "deployments/scale", "subresource": "scale"}),
        ("list nodes", {"resource": "nodes", "verb": "list"}),
        ("delete pods web", {"verb": "delete"}),
        ("deletecollection pods -l app=web", {"verb": "deletecollection", "selector": "app=web"}),
        ("exec web -n shop -it -c app -- sh -c 'id; ls'", {"verb": "get", "resource": "pods/exec", "container": "app"}),
        ("logs web", {"resource": "pods/log"}),
        ("attach web", {"resource": "pods/attach"}),
        ("port-forward web", {"resource": "pods/portforward"}),
        ("create pods -n a\n\n{}", {"verb": "create"}),
        ("patch pods web --type=json --dry-run=server\n\n[]", {"verb": "patch", "dry_run": "true"}),
    ],
)
def test_requests_as_kubectl_writes_them(cluster: RequestJudge, text: str, facts: dict[str, str]) -> None:
    found = cluster.line({"input": text})["facts"]
    assert {name: found.get(f"kube.{name}", ["*"]) for name in facts} == {k: [v] for k, v in facts.items()}


def test_a_command_is_kept_word_by_word(cluster: RequestJudge) -> None:
    found = cluster.line({"input": "exec web -- sh -c 'id; ls' -n"})
    assert found["facts"]["kube.command"] == ["sh -c 'id; ls' -n"] or found["facts"]["kube.command"] == [
        "sh -c id; ls -n"
    ]
    assert (found["decision"], found["rule"]) == ("deny", "kubernetes-read-only/no-shells")


@pytest.mark.parametrize(
    "text",
    ["", "steal pods", "get", "get pods web db", "list pods web", "delete pods", "exec", "exec web sh",
     "get pods 'web", "get pods --watch=maybe", "get pods -- ls", "create pods\n{}"],
)  # fmt: skip
def test_what_is_no_kubectl(text: str) -> None:
    with pytest.raises(JudgeError):
        request_of("kubernetes", text)


def test_requests_to_a_cluster(cluster: RequestJudge) -> None:
    assert ask(cluster, "GET", "/api/v1/namespaces/shop/secrets/db") == ("allow", "kubernetes-read-only/read")
    assert ask(cluster, "DELETE", "/api/v1/namespaces/shop/pods/web") == ("deny", "kubernetes-read-only/no-rehearsals")
    assert ask(cluster, "GET", "/api//v1/pods") == ("deny", "malformed")
    assert ask(cluster, "POST", "/api/v1/namespaces/a/pods/x/exec?command=id") == ("deny", "malformed")
    assert ask(cluster, "GET", "/api/v1/pods", ("Impersonate-User", "admin"))[0] == "deny"
    keeper = judge_of(CLUSTER, "kubernetes", "secret-keepers").line({"input": "get secrets db"})
    assert keeper["effects"] == ["kube.read", "secret.read"]


# ---------------------------------------------------------------- as somebody types them


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, *more: str) -> list[Any]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    words = ["policy", "judge", "--policy", str(EGRESS), "--protocol", "http", "--as", "job:ci", "--json"]
    assert main([*words, *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_judge_answers_line_by_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        json.dumps({"id": 1, "request": {"method": "GET", "url": "https://pypi.org/simple/"}}),
        json.dumps({"id": 2, "input": f"POST https://upload.pypi.org/legacy/\nX-A: b\n\n{TOKEN}"}),
        "no json",
        json.dumps({"id": 4}),
        json.dumps({"id": 5, "request": {"method": "GET", "url": "https://evil.example/"}}),
    ]
    answers = run(monkeypatch, capsys, "\n".join(lines))
    assert [(one["id"], one["decision"], one["rule"]) for one in answers] == [
        (1, "allow", "ci-egress/fetch-packages"),
        (2, "deny", "ci-egress/no-credentials"),
        (None, "deny", "default"),
        (4, "deny", "default"),
        (5, "deny", "default"),
    ]
    assert TOKEN not in json.dumps(answers)


def test_a_catalog_is_not_for_requests(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--policy", str(EGRESS), "--protocol", "http", "--catalog", "postgresql://localhost/a"]
    assert main(["policy", "judge", *words]) == 2
    assert main(["policy", "explain", *words, "GET https://a.example/"]) == 2
    assert "have neither" in capsys.readouterr().err


def test_explain_shows_facts_and_rules(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy", "explain", "--policy", str(EGRESS), "--protocol", "http", "--as", "job:ci"]
    assert main([*words, "GET https://pypi.org/simple/"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("ALLOW allowed by `ci-egress/fetch-packages`")
    assert "http.host: pypi.org" in printed
    assert main([*words, "--json", "POST https://upload.pypi.org/legacy/"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["decision"], answer["facts"]["http.path"]) == ("hold", ["/legacy/"])
    assert main([*words, "FETCH"]) == 1
    assert "a request begins with a line such as" in capsys.readouterr().err
    assert main([*words, "GET https://pypi.org/a b"]) == 1
    assert "refused before any rule was asked" in capsys.readouterr().err


def test_explain_takes_kubectl(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy", "explain", "--policy", str(CLUSTER), "--protocol", "kubernetes", "--json"]
    assert main([*words, "exec web -n shop -- id"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["decision"], answer["facts"]["kube.command"]) == ("deny", ["id"])
    assert main([*words, "shell into web"]) == 1
    assert "get pods web -n shop" in capsys.readouterr().err
