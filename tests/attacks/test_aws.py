"""Attacks on requests that the gateway signs: none gets a client's own say under, or past, the gateway's signature."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.support.aws_lab import KEY_ID, LONG_ID, SESSION, AwsLab
from tests.support.aws_server import REGION, Arrived
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

STRANGER = ("AKIASTRANGEREXAMPLE1", "stranger/secret", "stranger-token")
CREDENTIAL = b"ghp_" + b"e5F6" * 9
TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsLab]:
    with AwsLab(tmp_path_factory.mktemp("keys"), inspect_body_bytes=64 * 1024) as running:
        key_id, secret, token = STRANGER
        running.aws.keys[key_id] = (secret, token)  # the upstream would take them
        yield running


@pytest.fixture(autouse=True)
def sound(lab: AwsLab) -> Iterator[None]:
    lab.aws.requests.clear()
    yield
    for seen in lab.aws.requests:
        assert seen.wrong == ""
        assert re.match(rf"AWS4-HMAC-SHA256 Credential=({KEY_ID}|{LONG_ID})/", seen.header("authorization") or "")


def send(
    lab: AwsLab, *lines: str, body: bytes = b"", listener: str = "s3", token: str = "", bearer: bool = True
) -> bytes:
    """The answer to these lines over HTTP/1, as they stand; empty: the connection was closed."""
    auth = [f"Authorization: Bearer {token or lab.token()}"] if bearer else []
    head = "\r\n".join([lines[0], "Host: localhost", *auth, *lines[1:], "", ""]).encode()
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    with (
        socket.create_connection(("127.0.0.1", lab.ports[listener]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        connection.sendall(head + body)
        answer = b""
        connection.settimeout(5)
        while b"\r\n\r\n" not in answer:
            try:
                data = connection.recv(65536)
            except (ConnectionError, TimeoutError):
                return answer
            if not data:
                return answer
            answer += data
        return answer


def status(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


def one(lab: AwsLab) -> Arrived:
    [seen] = lab.aws.requests
    return seen


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "line",
    [
        "X-Amz-Security-Token: stranger-token",
        "x-amz-security-token: stranger-token",
        "X_Amz_Security_Token: stranger-token",
        "X-Amz_Security-Token: stranger-token",
        "X-Amz-Date: 20200101T000000Z",
        "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD",
        "X-Amz-S3session-Token: stranger-token",
        "X-Amz-Signature: 0000",
        "X-Amz-Credential: AKIASTRANGEREXAMPLE1/x",
        "X-Amz-Algorithm: AWS4-HMAC-SHA256",
        "X-Amz-Region-Set: *",
        "Date: Wed, 01 Jan 2020 00:00:00 GMT",
    ],
)
def test_row_7_what_a_client_says_of_a_signature_is_not_sent_on(lab: AwsLab, line: str) -> None:
    assert status(send(lab, "GET /echo HTTP/1.1", line)) == 200
    seen, value = one(lab), line.partition(": ")[2]
    assert value not in [text for _, text in seen.headers]
    assert seen.header("x-amz-security-token") == SESSION
    for name in ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "authorization", "host"):
        assert seen.names().count(name) == 1


@pytest.mark.parametrize(
    "line",
    [
        "x-amz-meta;host: x",
        "x-amz-meta, Signature=0000: x",
        "x-amz-acl\x00: x",
        "x-amz-acl\x0b: x",
        "host;x-amz-date: x",
        "x-amz-acl : public-read",
        "x-amz-acl: public-read\x00",
        " x-amz-acl: public-read",
        "x-amz-meta-a: b\rx-amz-acl: public-read",
    ],
)
def test_row_7_names_that_would_be_read_otherwise_in_the_list_of_what_is_signed(lab: AwsLab, line: str) -> None:
    assert status(send(lab, "GET /echo HTTP/1.1", "X-First: 1", line)) in (0, 400)
    assert lab.aws.requests == []


def test_row_7_what_is_added_is_under_the_signature(lab: AwsLab) -> None:
    lines = ["x-amz-acl: public-read", "X-Amz-Copy-Source: /open/k", "Content-Md5: x", "If-Match: x", "X-New: 1"]
    assert status(send(lab, "GET /echo HTTP/1.1", *lines)) == 200
    named = {line.partition(":")[0].lower() for line in lines}
    assert named <= set(one(lab).signed)


@pytest.mark.parametrize(
    "named", ["x-amz-date", "authorization, x-amz-date, host", "x-amz-content-sha256", "x-amz-security-token"]
)
def test_row_7_connection_does_not_take_the_signature_off(lab: AwsLab, named: str) -> None:
    assert status(send(lab, "GET /echo HTTP/1.1", f"Connection: {named}")) == 200
    assert one(lab).header("x-amz-security-token") == SESSION


def test_a_client_with_keys_of_its_own_does_not_use_them_here(lab: AwsLab) -> None:
    """Somebody else's account: the upstream would take it, and the data would be theirs."""
    key_id, secret, token = STRANGER
    request = AWSRequest("PUT", "https://localhost/theirs/k", data=b"data")
    request.headers["Host"] = "localhost"
    S3SigV4Auth(Credentials(key_id, secret, token), "s3", REGION).add_auth(request)
    lines = [f"{name}: {value}" for name, value in request.headers.items() if name != "Host"]
    answer = send(lab, "PUT /theirs/k HTTP/1.1", *lines, "Content-Length: 4", body=b"data", bearer=False)
    assert status(answer) == 401  # its token is none of an issuer's
    assert lab.aws.requests == []
    lines = [line for line in lines if not line.lower().startswith("x-amz-security-token")]
    lines.append(f"X-Amz-Security-Token: {lab.token()}")
    answer = send(lab, "PUT /theirs/k HTTP/1.1", *lines, "Content-Length: 4", body=b"data", bearer=False)
    assert status(answer) == 200
    assert key_id not in str(one(lab))


def test_row_29_a_signature_alone_opens_nothing(lab: AwsLab) -> None:
    auth = (
        "Authorization: AWS4-HMAC-SHA256 Credential=gateway/20260101/r/s3/aws4_request, SignedHeaders=host, Signature="
    )
    for line in (auth + "0" * 64, auth, "Authorization: AWS gateway:x", "X-Amz-Security-Token: "):
        assert status(send(lab, "GET /echo HTTP/1.1", line, bearer=False)) in (400, 401)
    two = [f"X-Amz-Security-Token: {lab.token()}", f"x-amz-security-token: {lab.token('other')}"]
    assert status(send(lab, "GET /echo HTTP/1.1", *two, bearer=False)) == 401
    assert lab.aws.requests == []


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Signature=0&X-Amz-Credential=c",
        "x-amz-signature=0",
        "X-Amz-Sign%61ture=0",
        "%58-amz-credential=0",
        "a=b;X-Amz-Signature=0",
        "X-Amz-Security-Token=t",
        "X-Amz-Expires=5&X-Amz-Date=20200101T000000Z",
        "AWSAccessKeyId=AKIASTRANGEREXAMPLE1&Signature=x&Expires=1",
        "awsaccesskeyid=x",
        "+X-Amz-Signature=0",
    ],
)
@pytest.mark.parametrize("listener", ["s3", "api"])
def test_a_signature_in_the_query_is_refused(lab: AwsLab, query: str, listener: str) -> None:
    assert status(send(lab, f"GET /echo?{query} HTTP/1.1", listener=listener)) == 400
    assert lab.aws.requests == []


def test_a_form_that_carries_its_own_signature_is_refused(lab: AwsLab) -> None:
    lines = ["Content-Type: multipart/form-data; boundary=b", "Content-Length: 4"]
    assert status(send(lab, "POST /bucket HTTP/1.1", *lines, body=b"data")) == 400
    assert lab.aws.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/closed/k",
        "/%63losed/k",
        "/closed%2Fk",
        "/closed%2fk",
        "/bucket/../closed/k",
        "/bucket/%2e%2e/closed/k",
        "//closed/k",
        "/./closed/k",
        "/closed/./k",
        "/%2563losed/k",
        "/closed;x/k",
    ],
)
@pytest.mark.parametrize("listener", ["s3", "api"])
def test_what_is_signed_is_what_was_judged(lab: AwsLab, path: str, listener: str) -> None:
    assert status(send(lab, f"GET {path} HTTP/1.1", listener=listener)) in (400, 403)
    assert lab.aws.requests == []


@pytest.mark.parametrize("path", ["*", "/echo#x", "/echo%zz", "/echo%ff", "/echo\x7f", "/e cho", "https://other/echo"])
def test_targets_that_are_none(lab: AwsLab, path: str) -> None:
    assert status(send(lab, f"GET {path} HTTP/1.1")) in (0, 400)
    assert lab.aws.requests == []


def denied(call: Any, **given: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    error = caught.value.response["Error"]
    assert error["Code"] == "AccessDenied"
    return str(error["Message"])


def test_objects_that_are_named_beside_the_path_are_judged(lab: AwsLab) -> None:
    s3 = lab.client("s3", "s3")
    source = {"Bucket": "closed", "Key": "k"}
    assert "aws/closed" in denied(s3.copy_object, Bucket="bucket", Key="copy", CopySource=source)
    part = {"UploadId": "u", "PartNumber": 1, "CopySource": source}
    assert "aws/closed" in denied(s3.upload_part_copy, Bucket="bucket", Key="copy", **part)
    keys = {"Objects": [{"Key": "a"}, {"Key": "../closed/k"}]}
    assert "aws/closed" in denied(s3.delete_objects, Bucket="bucket", Delete=keys)
    assert status(send(lab, "GET /bucket?session HTTP/1.1")) == 403
    assert lab.aws.requests == []
    s3.copy_object(Bucket="bucket", Key="copy", CopySource={"Bucket": "open", "Key": "k"})
    assert one(lab).header("x-amz-copy-source") == "open/k"


def test_a_plus_is_what_it_was_judged_as(lab: AwsLab) -> None:
    assert status(send(lab, "GET /echo?prefix=a+b&c=%2B HTTP/1.1")) == 200
    assert one(lab).target == "/echo?prefix=a%20b&c=%2B"


# ---------------------------------------------------------------- bodies


def put(lab: AwsLab, body: bytes, *lines: str, token: str = "") -> int:
    length = f"Content-Length: {len(body)}"
    return status(send(lab, "PUT /bucket/k HTTP/1.1", length, *lines, body=body, token=token))


def chunked(decoded: int, form: str = TRAILER) -> list[str]:
    lines = [f"X-Amz-Content-Sha256: {form}", f"X-Amz-Decoded-Content-Length: {decoded}"]
    return [*lines, "Content-Encoding: aws-chunked", "X-Amz-Trailer: x-amz-checksum-crc32"]


def test_a_body_is_signed_by_what_it_is_not_by_what_is_said_of_it(lab: AwsLab) -> None:
    assert put(lab, b"data", "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD") == 200
    assert one(lab).header("x-amz-content-sha256") == hashlib.sha256(b"data").hexdigest()
    for promised in (hashlib.sha256(b"other").hexdigest(), "0" * 64):
        assert put(lab, b"data", f"X-Amz-Content-Sha256: {promised}") == 400
    empty = hashlib.sha256(b"x").hexdigest()
    assert status(send(lab, "GET /echo HTTP/1.1", f"X-Amz-Content-Sha256: {empty}")) == 400
    assert len(lab.aws.requests) == 1


@pytest.mark.parametrize(
    ("decoded", "body"),
    [
        (4, b"data"),
        (5, b"4\r\ndata\r\n0\r\n\r\n"),
        (3, b"4\r\ndata\r\n0\r\n\r\n"),
        (4, b"4\r\ndata\r\n"),
        (4, b"4\r\ndata\r\n0\r\nauthorization: AWS4-HMAC-SHA256 x\r\n\r\n"),
        (4, b"4\r\ndata\r\n0\r\nx-amz-acl:public-read\r\n\r\n"),
        (4, b"4\r\ndata\r\n0\r\n\r\nPUT /closed/k HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (4, b"-4\r\ndata\r\n0\r\n\r\n"),
        (0, b""),
    ],
)
def test_row_7_chunks_that_say_something_else_than_their_head(lab: AwsLab, decoded: int, body: bytes) -> None:
    assert put(lab, body, *chunked(decoded)) == 400
    assert lab.aws.requests == []
    token = lab.token("loader", "uploaders")
    large = b"%x\r\n%s\r\n" % (80_000, b"x" * 80_000) + body  # above what is judged whole: it is cut on its way
    assert put(lab, large, *chunked(80_000 + decoded), token=token) != 200
    assert not any(len(seen.body) == 80_000 + decoded for seen in lab.aws.requests)
    lab.aws.requests.clear()


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-EVENTS"],
        ["X-Amz-Content-Sha256: STREAMING-NEW"],
        ["Content-Encoding: aws-chunked"],
        [f"X-Amz-Content-Sha256: {TRAILER}"],
        [f"X-Amz-Content-Sha256: {TRAILER}", "X-Amz-Decoded-Content-Length: 4, 4"],
        [f"X-Amz-Content-Sha256: {TRAILER}", "X-Amz-Decoded-Content-Length: -1"],
    ],
)
def test_bodies_that_the_gateway_cannot_take_apart(lab: AwsLab, lines: list[str]) -> None:
    assert put(lab, b"4\r\ndata\r\n0\r\n\r\n", *lines) == 400
    assert lab.aws.requests == []


def test_row_27_a_credential_is_found_across_chunks(lab: AwsLab) -> None:
    half = len(CREDENTIAL) // 2
    pieces = [b"key=" + CREDENTIAL[:half], CREDENTIAL[half:] + b"\n"]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert put(lab, body, *chunked(sum(map(len, pieces)))) == 403
    assert lab.aws.requests == []
    found = await_records(lab.state, lambda r: "exfil.credential" in r.get("effects", ()))
    assert CREDENTIAL.decode() not in str(found)


def test_chunks_within_chunks_are_taken_apart_and_nothing_follows_them(lab: AwsLab) -> None:
    inner = b"4\r\ndata\r\n0\r\n\r\n"
    outer = b"".join(b"1\r\n%c\r\n" % byte for byte in inner) + b"0\r\n\r\n"
    smuggled = b"PUT /closed/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    lines = ["PUT /bucket/k HTTP/1.1", "Transfer-Encoding: chunked", *chunked(4)]
    assert status(send(lab, *lines, body=outer + smuggled)) == 200
    seen = one(lab)
    assert (seen.body, seen.header("content-length"), seen.header("transfer-encoding")) == (b"data", "4", None)


def test_a_checksum_is_not_given_twice(lab: AwsLab) -> None:
    body = b"4\r\ndata\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert put(lab, body, *chunked(4), "X-Amz-Checksum-Crc32: BBBBBB==") == 400
    assert lab.aws.requests == []
