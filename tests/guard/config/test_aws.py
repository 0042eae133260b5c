"""`http_auth: aws_sigv4`: every fault is named, with its line."""

from __future__ import annotations

from typing import Any

import pytest

from guard.config import ConfigError, check, load
from tests.guard.config.conftest import BASE

AWS = (
    BASE[: BASE.index("listeners:")]
    + """\
listeners:
  - {name: store, protocol: http, listen: "127.0.0.1:8443", resource: store}
resources:
  - name: store
    protocol: http
    host: s3.eu-central-1.amazonaws.com
    credential: {provider: file, path: keys.json}
    http_auth: {kind: aws_sigv4, region: eu-central-1, service: s3}
"""
    + BASE[BASE.index("issuers:") :]
)
FILE = "{provider: file, path: keys.json}"
AUTH = "{kind: aws_sigv4, region: eu-central-1, service: s3}"
VAULT = (
    "provider: vault, address: 'https://v', path: kv/data/aws, key: secret_key, token: {provider: env, name: T}, "
    "session_token_key: session_token"
)


def test_it_can_be_written(write: Any) -> None:
    path = write(text=AWS)
    assert check(path) == []
    auth = load(path).resource("store").http_auth
    assert (auth.kind, auth.region, auth.service) == ("aws_sigv4", "eu-central-1", "s3")


@pytest.mark.parametrize(
    "credential",
    [
        f"{{{VAULT}}}",
        "{provider: env, name: AWS_SECRET_ACCESS_KEY, user: AKIAEXAMPLE}",
        "{provider: env, name: AWS_KEYS}",
    ],
)
def test_keys_from_each_provider(write: Any, credential: str) -> None:
    assert check(write(text=AWS.replace(FILE, credential))) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (AUTH, "{kind: aws_sigv4, service: s3}", "`region` is required"),
        (AUTH, "{kind: aws_sigv4, region: eu-central-1}", "`service` is required"),
        (AUTH, "{kind: bearer, region: eu-central-1}", "`region` means nothing with `kind: bearer`"),
        (AUTH, "{kind: basic, service: s3}", "`service` means nothing"),
        (AUTH, "{kind: aws_sigv4, region: 'EU (Frankfurt)', service: s3}", "expected a name such as"),
        (AUTH, "{kind: aws_sigv4, region: a/b, service: s3}", "expected a name such as"),
        (AUTH, "{kind: aws-sigv4, region: eu-central-1, service: s3}", "did you mean `aws_sigv4`"),
        (f"    credential: {FILE}\n", "", "needs a `credential`"),
        (FILE, "{provider: none}", "needs a `credential`"),
        (FILE, "{provider: env, name: X, user: 'a/b'}", "no AWS access key id"),
        (FILE, "{provider: env, name: X, session_token_key: y}", "`session_token_key` means nothing"),
        (FILE, f"{{{VAULT}, user: AKIAEXAMPLE}}", "belongs to one access key id"),
        (
            f"    host: s3.eu-central-1.amazonaws.com\n    credential: {FILE}\n",
            "",
            "`protocol: http` with a `host`",
        ),
        ("protocol: http\n    host", "protocol: kubernetes\n    host", "`protocol: http` with a `host`"),
    ],
)
def test_every_fault_is_named(write: Any, old: str, new: str, words: str) -> None:
    assert old in AWS
    path = write(text=AWS.replace(old, new))
    found = [problem for problem in check(path) if not problem.warning]
    assert any(words in problem.message and problem.line >= 5 for problem in found), found
    with pytest.raises(ConfigError):
        load(path)


def test_a_session_token_of_something_else(write: Any) -> None:
    path = write(text=AWS.replace(FILE, f"{{{VAULT}, user: app}}").replace(AUTH, "{kind: basic}"))
    assert any("session_token_key` is for" in problem.message for problem in check(path))


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("s3.eu-west-1.amazonaws.com", True),
        ("abc123.execute-api.us-gov-west-1.amazonaws.com", True),
        ("lambda.us-east-1.api.amazonaws.com", True),
        ("s3.eu-central-1.amazonaws.com", False),
        ("s3.amazonaws.com", False),
        ("minio.internal", False),
        ("eu-west-1.example", False),
    ],
)
def test_a_host_in_another_region_is_warned_about(write: Any, host: str, warned: bool) -> None:
    found = check(write(text=AWS.replace("s3.eu-central-1.amazonaws.com", host)))
    assert [problem.warning for problem in found] == [True] * warned
    assert all("is in `" in problem.message for problem in found)
