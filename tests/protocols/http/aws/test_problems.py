"""Refusals as AWS' own parsers read them."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.parsers import create_parser

from protocols.http.aws.problems import told
from protocols.http.problems import problem

WHY = 'rule says: no <b>archives</b> & "such"\x01'


@pytest.mark.parametrize(
    ("service", "content_type", "parser"),
    [
        ("s3", "", "rest-xml"),
        ("s3", "application/octet-stream", "rest-xml"),
        ("sqs", "application/x-www-form-urlencoded; charset=utf-8", "query"),
        ("dynamodb", "application/x-amz-json-1.0", "json"),
        ("lambda", "", "rest-json"),
    ],
)
@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (401, "InvalidToken"), (400, "InvalidRequest"), (503, "ServiceUnavailable")],
)
def test_botocore_shows_code_and_text(service: str, content_type: str, parser: str, status: int, code: str) -> None:
    found = told(service, content_type, status, problem(status, WHY, rule="r", request_id="1f"), "1f")
    answer: dict[str, Any] = {"status_code": status, "headers": dict(found.headers), "body": found.body}
    error = create_parser(parser).parse(answer, None)["Error"]
    assert error["Code"] == code
    assert error["Message"].rstrip() in (f"refused by the gateway: {WHY}", f"refused by the gateway: {WHY[:-1]}")
