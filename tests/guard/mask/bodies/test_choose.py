"""Which bodies can be masked, and which must be withheld."""

from __future__ import annotations

import pytest

from guard.detect import DetectError, Known, Scanner
from guard.mask import MaskRuleError
from guard.mask.bodies import BodyRules, ContentRule, FieldRule, PathError, Unchanged, Unmaskable, body_masker, mask_of
from protocols.contract import MaskRule
from tests.guard.mask.bodies.shared import KEY, REDACT, contents, fields, masked


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "json",
        "application/octet-stream",
        "image/png",
        "application/pdf",
        "application/zip",
        "video/mp4",
        "*/*",
        "application/vnd.kubernetes.protobuf",
        "application/grpc",
        "multipart/form-data",
        "text/plain; charset=utf-16",
        "text/html; charset=utf-7",
        "application/json; charset=utf-32",
        "text/plain; charset=shift_jis",
    ],
)
def test_withheld(content_type: str) -> None:
    with pytest.raises(Unmaskable):
        body_masker(content_type, "", contents())


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "application/xml", "text/event-stream"])
def test_a_body_without_fields_is_withheld_while_fields_are_masked(content_type: str) -> None:
    with pytest.raises(Unmaskable, match="has no fields"):
        body_masker(content_type, "", fields("email"))
    assert masked(content_type, b"x", BodyRules(fields("email").fields, (), "pass")) == b"x"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON; Charset=UTF-8",
        "application/problem+json",
        "application/vnd.api+json",
        "text/json",
    ],
)
def test_every_name_of_json(content_type: str) -> None:
    assert masked(content_type, b'{"email":"x"}', fields("email")) == b'{"email":"[masked]"}'


def test_without_rules_any_body_passes() -> None:
    assert isinstance(body_masker("image/png", "compress", BodyRules()), Unchanged)


def test_rules_that_cannot_work_are_errors() -> None:
    for path in ("", "$", ".", "a..b", "a.", "[]"):
        with pytest.raises(PathError):
            body_masker("application/json", "", BodyRules((FieldRule(path, REDACT),)))
    with pytest.raises(DetectError):
        body_masker("application/json", "", BodyRules(contents=(ContentRule(("nonsense",), REDACT),)))
    with pytest.raises(MaskRuleError):
        mask_of(MaskRule("r", (), (), "shuffle"), KEY)


def test_the_gateway_s_own_secrets_are_masked() -> None:
    scanner = Scanner(known=Known({"db": [b"s3cret-of-ours"]}))
    masker = body_masker("text/plain", "", contents("gateway-secret"), scanner=scanner)
    assert masker.feed(b"x s3cret-of-ours bob@example.com\n") + masker.end() == b"x [masked] bob@example.com\n"


def test_equal_values_have_equal_tokens_within_a_domain() -> None:
    rule = MaskRule("t", (), (), "tokenise")
    assert mask_of(rule, KEY).apply("abc1") == mask_of(rule, KEY, "body").apply("abc1")
    assert mask_of(rule, KEY).apply("abc1") != mask_of(rule, KEY, "other").apply("abc1")
