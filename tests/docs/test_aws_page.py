"""What docs/http.md says of AWS: its resources are a configuration, its profile is one that AWS' software reads so."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.session
import pytest

from guard.config import check
from tests.support.markdown import ROOT, page

TEXT = page("docs/http.md").text
BASE = """\
version: 1
listeners:
  - {name: store, protocol: http, listen: "127.0.0.1:8444", resource: store}
  - {name: functions, protocol: http, listen: "127.0.0.1:8445", resource: functions}
issuers: [{issuer: "https://idp.example", audience: sluicegate}]
policies: [policies/ci-egress.yaml]
roles: {approver: {groups: [oncall]}}
"""


def _block(language: str, after: str) -> str:
    found = re.search(rf"{re.escape(after)}.*?^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_resources_of_the_page_are_some(tmp_path: Path) -> None:
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    (tmp_path / "gateway.yaml").write_text(BASE + _block("yaml", "<!-- aws -->"))
    assert [str(problem) for problem in check(tmp_path / "gateway.yaml") if not problem.warning] == []


def test_aws_software_reads_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("eyJ.the.token\n")
    text = _block("ini", "`~/.aws/config`")
    (tmp_path / "config").write_text(text.replace("/run/oidc/token", str(tmp_path / "token")))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    session = botocore.session.Session(profile="gateway")
    credentials = session.get_credentials()
    assert credentials is not None
    frozen = credentials.get_frozen_credentials()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("gateway", "none", "eyJ.the.token")
    client = session.create_client("s3", verify=False)
    assert client.meta.endpoint_url == "https://gateway:8444"
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    assert url.startswith("https://gateway:8444/bucket/k?")
