"""What a client's own signature leaves behind: nothing but the token in it."""

from __future__ import annotations

import pytest

from protocols.http.aws.chunked import FORMS
from protocols.http.aws.requests import refuse_other_signatures, take_off
from protocols.http.targets import BadTarget

AUTHORIZATION = (b"Authorization", b"AWS4-HMAC-SHA256 Credential=gateway/20260101/r/s3/aws4_request, SignedHeaders=...")


@pytest.mark.parametrize(
    "name",
    [
        b"Date",
        b"X-Amz-Date",
        b"x-amz-content-sha256",
        b"X-AMZ-SECURITY-TOKEN",
        b"x_amz_security_token",
        b"X-Amz_Date",
        b"x-amz-s3session-token",
        b"X-Amz-Signature",
        b"X-Amz-Credential",
        b"X-Amz-Trailer",
        b"amz-sdk-request",
    ],
)
def test_a_signature_s_fields_end_here(name: bytes) -> None:
    kept, _ = take_off([(b"Accept", b"*/*"), (name, b"x"), (b"x-amz-acl", b"private")])
    assert kept == ((b"Accept", b"*/*"), (b"x-amz-acl", b"private"))


def test_the_token_comes_as_session_token() -> None:
    _, said = take_off([AUTHORIZATION, (b"X-Amz-Security-Token", b"the-token"), (b"x-amz-content-sha256", b"a" * 64)])
    assert (said.scheme, said.token, said.digest) == (True, "the-token", "a" * 64)


def test_two_tokens_are_none() -> None:
    _, said = take_off([(b"X-Amz-Security-Token", b"one"), (b"x_amz_security_token", b"other")])
    assert said.token == "one, other"


@pytest.mark.parametrize("scheme", [b"Bearer x", b"Basic eDp5", b"", b"AWSX y"])
def test_other_schemes_are_not_aws(scheme: bytes) -> None:
    assert not take_off([(b"Authorization", scheme)])[1].scheme


@pytest.mark.parametrize("scheme", [b"AWS id:signature", b"AWS4-ECDSA-P256-SHA256 Credential=x", b"aws4-hmac-sha256 x"])
def test_every_scheme_of_aws_is_known(scheme: bytes) -> None:
    assert take_off([(b"Authorization", scheme)])[1].scheme


@pytest.mark.parametrize("promised", ["A" * 64, "a" * 63, "UNSIGNED-PAYLOAD", "", "a" * 64 + "\n"])
def test_what_is_no_digest_promises_nothing(promised: str) -> None:
    assert take_off([(b"x-amz-content-sha256", promised.encode())])[1].digest in ("", "a" * 64)
    assert take_off([(b"x-amz-content-sha256", b"x" + promised.encode())])[1].digest == ""


def _said(payload: bytes, length: bytes = b"5", coding: bytes = b"aws-chunked"):  # type: ignore[no-untyped-def]
    fields = [(b"x-amz-content-sha256", payload), (b"x-amz-decoded-content-length", length)]
    return take_off([*fields, (b"content-encoding", coding)])[1]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_bodies_in_chunks(form: str) -> None:
    said = _said(form.encode())
    assert said.chunks() is not None
    assert said.without_chunks() == ""
    assert _said(form.encode(), coding=b"aws-chunked, GZip").without_chunks() == "gzip"
    assert _said(form.encode(), coding=b"").chunks() is not None  # some clients leave the coding out


@pytest.mark.parametrize(
    ("payload", "length", "words"),
    [
        (b"a" * 64, b"5", "without its x-amz-content-sha256"),
        (b"UNSIGNED-PAYLOAD", b"5", "without its x-amz-content-sha256"),
        (b"STREAMING-AWS4-HMAC-SHA256-EVENTS", b"5", "does not know"),
        (b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"", "x-amz-decoded-content-length"),
        (b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"-5", "x-amz-decoded-content-length"),
        (b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"9" * 30, "x-amz-decoded-content-length"),
    ],
)
def test_chunks_that_cannot_be_taken_apart(payload: bytes, length: bytes, words: str) -> None:
    with pytest.raises(BadTarget, match=words):
        _said(payload, length).chunks()


@pytest.mark.parametrize(
    "name",
    ["X-Amz-Signature", "x-amz-signature", "X-Amz-Security-Token", "AWSAccessKeyId", "X-Amz-Credential ", "x-amz-date"],
)
def test_presigned_urls_are_refused(name: str) -> None:
    with pytest.raises(BadTarget, match="presigned"):
        refuse_other_signatures("execute-api", "GET", "", [("a", "b"), (name, "x")])


def test_a_form_with_a_signature_of_its_own_is_refused_where_there_are_such() -> None:
    with pytest.raises(BadTarget, match="form"):
        refuse_other_signatures("s3", "POST", "Multipart/Form-Data; boundary=x", [])
    refuse_other_signatures("execute-api", "POST", "multipart/form-data; boundary=x", [])
    refuse_other_signatures("s3", "PUT", "multipart/form-data; boundary=x", [("list-type", "2")])
