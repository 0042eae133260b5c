"""A gateway in front of a server that asks for AWS signatures, and AWS' own clients pointed at it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from scripts.support.tls import Authority
from tests.support.aws_server import REGION, AwsServer
from tests.support.http_lab import HttpLab

KEY_ID, SECRET, SESSION = (
    "ASIAUPSTREAMEXAMPLE1",
    "upStream/s3cr3t+kEy0123456789abcdefghijk",
    "sess10n/t0ken+of+the+gateway==",
)
LONG_ID, LONG_SECRET = "AKIAUPSTREAMEXAMPLE2", "upstream-s3cr3t-key"  # the lab's environment has it as BILLING_TOKEN

POLICY = """
version: 1
name: aws
description: what the tests may do
rules:
  - {id: read, description: reading, allow: {effects: [http.read], http: {hosts: [localhost]}}}
  - {id: write, description: writing, allow: {effects: [http.write], http: {hosts: [localhost]}}}
  - id: stream
    description: large uploads
    who: {groups: [uploaders]}
    allow: {effects: [http.stream]}
  - {id: closed, description: a bucket that is closed, deny: {effects: [http.*], http: {paths: ["/closed/*"]}}}
  - {id: erase, description: deletions wait, hold: {effects: [http.delete], http: {hosts: [localhost]}}}
"""


def write_keys(file: Path, key_id: str = KEY_ID, secret: str = SECRET, token: str = SESSION, **more: Any) -> None:
    """As whoever renews them does: at once."""
    document = {"Version": 1, "AccessKeyId": key_id, "SecretAccessKey": secret, "SessionToken": token, **more}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.chmod(0o600)
    new.replace(file)


class AwsLab(HttpLab):
    """Listeners: `s3` (keys that expire, in a file), `api` and `table` (keys that live long), `plain` (S3 without TLS),
    `http2` (S3 over it)."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.keys_file = folder / "keys.json"
        write_keys(self.keys_file)
        more.setdefault("policy", POLICY)
        super().__init__(adjust=self._adjust, **more)

    def _adjust(self, document: dict[str, Any], authority: Authority) -> None:
        known = {KEY_ID: (SECRET, SESSION), LONG_ID: (LONG_SECRET, "")}
        self.aws = AwsServer(authority, known)
        self.aws_plain = AwsServer(None, known)
        self.aws_http2 = AwsServer(authority, known, http2=True)
        listener = document["listeners"][1]
        tls = {"mode": "verify-full", "ca": str(authority.file)}
        server = {"protocol": "http", "host": "localhost", "port": self.aws.port, "tls": tls}
        document["listeners"] = [
            {**listener, "name": "api", "resource": "functions"},
            {**listener, "name": "s3", "resource": "store"},
            {**listener, "name": "plain", "resource": "plain-store"},
            {**listener, "name": "table", "resource": "table"},
            {**listener, "name": "http2", "resource": "newer-store"},
        ]
        file = {"provider": "file", "path": str(self.keys_file)}
        long = {"provider": "env", "name": "BILLING_TOKEN", "user": LONG_ID}
        document["resources"] = [
            {"name": "functions", **server, "credential": long, "http_auth": _auth("execute-api")},
            {"name": "table", **server, "credential": long, "http_auth": _auth("dynamodb")},
            {"name": "store", **server, "credential": file, "http_auth": _auth("s3")},
            {
                "name": "newer-store",
                **server,
                "port": self.aws_http2.port,
                "credential": file,
                "http_auth": _auth("s3"),
            },
            {"name": "plain-store", "protocol": "http", "host": "localhost", "port": self.aws_plain.port}
            | {"tls": {"mode": "off"}, "credential": long, "http_auth": _auth("s3")},
        ]
        document |= {key: json.loads(json.dumps(document[key])) for key in ("listeners", "resources")}  # no aliases

    def url(self, listener: str, path: str = "") -> str:
        return f"https://localhost:{self.ports[listener]}{path}"

    def ask(self, listener: str, *words: str, token: str = "") -> subprocess.CompletedProcess[bytes]:
        """curl to a listener with a bearer token: `words` end with a path."""
        told = ["-H", f"Authorization: Bearer {token or self.token()}"]
        return self.bare(listener, *told, *words)

    def bare(self, listener: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["curl", "-sS", "-i", "--path-as-is", "--max-time", "30", "--cacert", str(self.authority.file)]
        argv += ["--noproxy", "*", *words[:-1], self.url(listener, words[-1])]
        return subprocess.run(argv, capture_output=True, timeout=40)

    def client(self, service: str, listener: str, token: str = "", **settings: Any) -> Any:
        """AWS' SDK, set up as docs/http.md says: the token is its session token, its keys are words."""
        session = boto3.session.Session("gateway", "none", token or self.token(), region_name=REGION)
        path_style = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, **settings)
        where = {"endpoint_url": self.url(listener), "verify": str(self.authority.file)}
        return session.client(service, config=path_style, **where)

    def stop(self) -> None:
        super().stop()
        for server in (self.aws, self.aws_plain, self.aws_http2):
            server.__exit__()

    def environment(self, listener: str, token: str) -> dict[str, str]:
        """The same for a program."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
            "AWS_ACCESS_KEY_ID": "gateway",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_SESSION_TOKEN": token,
            "AWS_ENDPOINT_URL": self.url(listener),
            "AWS_CA_BUNDLE": str(self.authority.file),
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _auth(service: str) -> dict[str, str]:
    return {"kind": "aws_sigv4", "region": REGION, "service": service}
