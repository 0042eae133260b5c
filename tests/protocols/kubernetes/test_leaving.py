"""What a body carries, as text: the same whatever its format."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from guard.detect import Scanner
from protocols.kubernetes import objects
from protocols.kubernetes.leaving import said, without
from protocols.kubernetes.protobuf import MEDIA_TYPE
from protocols.kubernetes.secrets import LAST_APPLIED
from tests.protocols.kubernetes.test_protobuf import envelope, field

CARD = "4111 1111 1111 1111"
SCANNER = Scanner()


def found(document: Any) -> set[str]:
    return {finding.detector for finding in SCANNER.find(said(document))}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"metadata": {"annotations": {"note": "here"}}}, "note: here"),
        ({"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}, "DB_PASSWORD: hunter2"),
        ({"command": ["curl", "-H", "Authorization: Bearer x"]}, "command: curl -H Authorization: Bearer x"),
        ({"kind": "Secret", "data": {"password": encoded("hunter2")}}, "password: hunter2"),
        ([{"op": "add", "path": "/data/pass~1word", "value": encoded("hunter2")}], "pass/word: hunter2"),
        ([{"op": "add", "path": "/metadata/annotations/a", "value": "here"}], "a: here"),
        ({"spec": {"number": 4111111111111111.0}}, "number: 4111111111111111"),
        ({"spec": {"a name of its own": {"inner": "x"}}}, "a name of its own"),
        ({"spec": {"empty": None}}, "empty"),
    ],
)
def test_a_value_stands_behind_its_name(document: Any, line: str) -> None:
    assert line in said(document).decode().split("\n")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps({"data": {"k": "4111\u0020" + CARD[5:]}}).replace("4111 ", "4111\\u0020")),
        ("application/yaml", 'data:\n  k: "4111\\x201111\\x201111\\x201111"\n'),
        ("application/yaml", "data:\n  k: >-\n    4111\n    1111\n    1111\n    1111\n"),
        ("application/apply-patch+yaml", "data: {k: '4111 1111 1111 1111'}\n"),
        ("application/merge-patch+json", json.dumps({"data": {"k": CARD}})),
        ("application/json-patch+json", json.dumps([{"op": "replace", "path": "/data/k", "value": CARD}])),
    ],
)
def test_a_card_is_found_however_it_is_written(kind: str, body: str) -> None:
    assert "card" in found(objects.read(body.encode(), kind))


def test_a_length_before_a_value_does_not_hide_it() -> None:
    """In protobuf the byte before a value of 65 characters is an `A`, as if it belonged to it."""
    token = "ghp_" + "a1B2" * 9
    body = envelope("v1", "ConfigMap", field(2, field(1, "k") + field(2, token.ljust(0x41))))
    assert not SCANNER.find(body)
    assert "github-token" in found(objects.read(body, MEDIA_TYPE))


KNOWN = b"kept-value".__eq__
APPLIED = json.dumps({"stringData": {"a": "kept-value"}})


@pytest.mark.parametrize(
    "document",
    [
        {"data": {"a": encoded("kept-value")}},
        {"stringData": {"a": "kept-value"}},
        {"metadata": {"annotations": {LAST_APPLIED: APPLIED}}},
        [{"op": "add", "path": "/data/a", "value": encoded("kept-value")}],
        [{"op": "replace", "path": "/stringData", "value": {"a": "kept-value"}}],
    ],
)
def test_what_stays_where_it_was_is_left_out(document: Any) -> None:
    kept, dropped = without(document, KNOWN)
    assert dropped
    assert b"kept-value" not in said(kept)
    assert encoded("kept-value").encode() not in said(kept)


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {"annotations": {"a": "kept-value"}}},
        {"metadata": {"labels": {"a": "kept-value"}, "annotations": {LAST_APPLIED: "kept-value"}}},
        {"metadata": {"annotations": {LAST_APPLIED: json.dumps({"metadata": {"labels": {"a": "kept-value"}}})}}},
        {"stringData": {"a": "with kept-value in it"}},
        {"stringData": {"kept-value": "as a name"}},
        {"stringData": {"a": ["kept-value"]}},
        {"data": "kept-value"},
        {"type": "kept-value"},
        [{"op": "add", "path": "/metadata/labels/data", "value": "kept-value"}],
        [{"op": "add", "path": "/data/a/b", "value": "kept-value"}],
        [{"op": "add", "path": "data/a", "value": "kept-value"}],
        ["kept-value"],
        "kept-value",
    ],
)
def test_a_value_that_goes_anywhere_else_is_searched(document: Any) -> None:
    kept, dropped = without(document, KNOWN)
    assert not dropped
    assert kept == document
    assert b"kept-value" in said(kept)
