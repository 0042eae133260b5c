"""Requests signed for AWS, through a gateway, to a server that checks each signature with AWS' own library."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from tests.support.aws_lab import KEY_ID, LONG_ID, SECRET, SESSION, AwsLab, write_keys
from tests.support.aws_server import Arrived
from tests.support.http_bulk import pieces
from tests.support.journal import await_records, verify

pytestmark = pytest.mark.e2e

MIB = 1 << 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsLab]:
    with AwsLab(tmp_path_factory.mktemp("keys"), inspect_body_bytes=12 * MIB) as running:
        yield running


@pytest.fixture(autouse=True)
def sound(lab: AwsLab) -> Iterator[None]:
    """Whatever a test asked for: every request that arrived was signed as AWS wants it, with the gateway's keys."""
    lab.aws.requests.clear()
    lab.aws_plain.requests.clear()
    lab.aws_http2.requests.clear()
    yield
    for seen in (*lab.aws.requests, *lab.aws_plain.requests, *lab.aws_http2.requests):
        assert seen.wrong == ""
        assert (seen.header("authorization") or "").split("/")[0].endswith((KEY_ID, LONG_ID))


def status(raw: bytes) -> int:
    found = [int(line.split()[1]) for line in raw.split(b"\r\n") if line.startswith(b"HTTP/")]
    return found[-1] if found else 0


def text(size: int) -> bytes:
    """Random bytes would hold what looks like a card's number, sooner or later."""
    return b"".join(pieces(size))


def last(lab: AwsLab) -> Arrived:
    return lab.aws.requests[-1]


# ---------------------------------------------------------------- any client, with a bearer token


@pytest.mark.parametrize("listener", ["s3", "api", "plain"])
@pytest.mark.parametrize(
    "path",
    [
        "/echo",
        "/echo/",
        "/echo/%C3%A4%20%E2%82%AC",
        "/echo/%c3%a4",
        "/echo/a+b",
        "/echo/(a)'*!~",
        "/echo/%2541",
        "/echo/a%2Fb",
        "/echo?",
        "/echo?b=1&a=2&b=0&A=3",
        "/echo?empty&also=&x==",
        "/echo?q=a+b%20c%2Bd&u=%C3%A4",
        "/echo?path=/a/b:c@d!$'()*,;",
        "/echo?%c3%a4=1&-._~=2",
    ],
)
def test_targets_of_every_kind(lab: AwsLab, listener: str, path: str) -> None:
    assert status(lab.ask(listener, path).stdout) == 200
    server = lab.aws_plain if listener == "plain" else lab.aws
    assert len(server.requests) == 1


def test_empty_segments_are_keys_in_s3_and_refused_elsewhere(lab: AwsLab) -> None:
    assert status(lab.ask("s3", "/echo//a/./b").stdout) == 200
    assert last(lab).target == "/echo//a/./b"
    answer = lab.ask("api", "/echo//a/./b").stdout
    assert status(answer) == 400
    assert b"write the path that is meant" in answer
    assert len(lab.aws.requests) == 1


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH"])
def test_methods_and_bodies_over_both_versions(lab: AwsLab, version: str, method: str) -> None:
    words = [version, *(["-I"] if method == "HEAD" else ["-X", method])]
    if method not in ("GET", "HEAD"):
        words += ["--data-binary", "a=b&c=%20ä", "-H", "Content-Type: text/plain; charset=utf-8"]
    assert status(lab.ask("api", *words, "/echo?x=1").stdout) == 200
    seen = last(lab)
    assert (seen.method, seen.body) == (method, "a=b&c=%20ä".encode() if method not in ("GET", "HEAD") else b"")
    assert seen.header("x-amz-content-sha256") == hashlib.sha256(seen.body).hexdigest()
    if seen.body:
        assert "content-type" in seen.signed


def test_headers_that_come_more_than_once_or_with_odd_characters(lab: AwsLab) -> None:
    odd = [
        "X-Amz-Meta-A: one",
        "x-amz-meta-a: two",
        "X-Amz-Meta-A:   three   four",
        "X-Amz-Meta-B: ä€",
        "X-Other: a;b,c",
    ]
    words = [word for header in odd for word in ("-H", header)]
    for version in ("--http1.1", "--http2"):
        assert status(lab.ask("s3", version, *words, "/echo").stdout) == 200
        seen = last(lab)
        assert [v for k, v in seen.headers if k.lower() == "x-amz-meta-a"] == ["one", "two", "three   four"]
        assert {"x-amz-meta-a", "x-amz-meta-b", "x-other", "host"} <= set(seen.signed)
        assert seen.header("x-amz-meta-b") == "ä€"


def test_the_client_s_own_token_does_not_arrive(lab: AwsLab) -> None:
    token = lab.token("somebody")
    lab.ask("s3", "/echo", token=token)
    seen = last(lab)
    assert token not in str(seen)
    assert seen.header("x-amz-security-token") == SESSION
    lab.ask("api", "/echo", token=token)
    assert last(lab).header("x-amz-security-token") is None  # these keys have none


@pytest.mark.parametrize("expect", ["100-continue", ""])
@pytest.mark.parametrize("size", [0, 1, MIB + 1, 10 * MIB])
def test_a_large_body_is_signed_whole(lab: AwsLab, tmp_path: Path, size: int, expect: str) -> None:
    data = text(size)
    (tmp_path / "body").write_bytes(data)
    words = ["-H", f"Expect: {expect}", "-T", str(tmp_path / "body")]
    assert status(lab.ask("s3", *words, "/bucket/large").stdout) == 200
    assert lab.aws.objects["/bucket/large"] == data
    assert last(lab).header("x-amz-content-sha256") == hashlib.sha256(data).hexdigest()
    assert last(lab).header("expect") is None


def test_a_body_in_http_chunks_has_a_length_upstream(lab: AwsLab) -> None:
    words = ["--http1.1", "-H", "Transfer-Encoding: chunked", "--data-binary", "in pieces", "-X", "PUT"]
    assert status(lab.ask("s3", *words, "/bucket/pieces").stdout) == 200
    assert lab.aws.objects["/bucket/pieces"] == b"in pieces"


# ---------------------------------------------------------------- bodies above what is judged whole


def test_s3_takes_a_body_that_passes_in_pieces_unsigned(lab: AwsLab, tmp_path: Path) -> None:
    data = text(13 * MIB)
    (tmp_path / "body").write_bytes(data)
    words = ["-T", str(tmp_path / "body"), "/bucket/huge"]
    refused = lab.ask("s3", *words).stdout
    assert status(refused) == 413
    assert lab.aws.requests == []
    token = lab.token("loader", "uploaders")
    assert status(lab.ask("s3", *words, token=token).stdout) == 200
    assert last(lab).header("x-amz-content-sha256") == "UNSIGNED-PAYLOAD"
    assert lab.aws.objects["/bucket/huge"] == data


@pytest.mark.parametrize("listener", ["api", "plain"])
def test_elsewhere_such_a_body_needs_its_digest(lab: AwsLab, tmp_path: Path, listener: str) -> None:
    data = text(13 * MIB)
    (tmp_path / "body").write_bytes(data)
    token, server = lab.token("loader", "uploaders"), lab.aws_plain if listener == "plain" else lab.aws
    words = ["-T", str(tmp_path / "body"), "/echo"]
    refused = lab.ask(listener, *words, token=token).stdout
    assert status(refused) == 413
    assert b"x-amz-content-sha256" in refused
    assert server.requests == []
    digest = f"x-amz-content-sha256: {hashlib.sha256(data).hexdigest()}"
    assert status(lab.ask(listener, "-H", digest, *words, token=token).stdout) == 200
    assert server.requests[-1].body == data


# ---------------------------------------------------------------- curl --aws-sigv4


def test_curl_s_own_signature_is_replaced(lab: AwsLab) -> None:
    words = ["--aws-sigv4", "aws:amz:us-west-2:s3", "--user", "gateway:none", "-H"]
    answer = lab.bare("s3", *words, f"X-Amz-Security-Token: {lab.token()}", "/echo?list-type=x&a=b")
    assert status(answer.stdout) == 200
    refused = lab.bare("s3", *words, "X-Nothing: x", "/echo")
    assert status(refused.stdout) == 401
    assert b"<Code>InvalidToken</Code>" in refused.stdout
    assert b"AWS_SESSION_TOKEN" in refused.stdout


# ---------------------------------------------------------------- AWS' SDK


def test_the_sdk_writes_reads_lists(lab: AwsLab) -> None:
    s3 = lab.client("s3", "s3")
    data = text(200_000)
    s3.put_object(Bucket="bucket", Key="sdk/ä b+c.bin", Body=data, Metadata={"who": "ci"}, ContentType="a/b")
    put = last(lab)
    assert lab.aws.objects["/bucket/sdk/ä b+c.bin"] == data
    assert put.header("x-amz-meta-who") == "ci"
    assert s3.get_object(Bucket="bucket", Key="sdk/ä b+c.bin")["Body"].read() == data
    assert s3.head_object(Bucket="bucket", Key="sdk/ä b+c.bin")["ContentLength"] == len(data)
    found = s3.list_objects_v2(Bucket="bucket", Prefix="sdk/")
    assert "sdk/ä b+c.bin" in [one["Key"] for one in found["Contents"]]


def test_bodies_in_aws_own_chunks_are_taken_apart(lab: AwsLab) -> None:
    """The SDK sends those by default: their checksum goes on as a header, which the upstream checks."""
    lab.client("s3", "s3").put_object(Bucket="bucket", Key="chunked", Body=b"payload " * 20_000)
    seen = last(lab)
    assert seen.body == b"payload " * 20_000
    checksum = base64.b64encode(__import__("zlib").crc32(seen.body).to_bytes(4)).decode()
    assert seen.header("x-amz-checksum-crc32") == checksum
    assert seen.header("x-amz-content-sha256") == hashlib.sha256(seen.body).hexdigest()
    gone = {"x-amz-trailer", "x-amz-decoded-content-length", "content-encoding", "transfer-encoding", "amz-sdk-request"}
    assert not gone & set(seen.names())
    found = await_records(lab.state, lambda r: r.get("t") == "command" and "/bucket/chunked" in r["text"])
    assert found[-1]["body_bytes"] == len(seen.body)
    assert base64.b64decode(found[-1]["body"]).startswith(b"payload payload")


def test_the_sdk_uploads_in_parts(lab: AwsLab) -> None:
    data = text(11 * MIB)
    lab.client("s3", "s3").upload_fileobj(io.BytesIO(data), "bucket", "parts")
    assert lab.aws.objects["/bucket/parts"] == data


def test_a_body_in_chunks_above_the_limit(lab: AwsLab) -> None:
    data = text(13 * MIB)
    client = lab.client("s3", "s3", lab.token("loader", "uploaders"))
    client.put_object(Bucket="bucket", Key="huge", Body=data)
    assert lab.aws.objects["/bucket/huge"] == data
    assert last(lab).header("x-amz-content-sha256") == "UNSIGNED-PAYLOAD"
    assert "x-amz-sdk-checksum-algorithm" not in last(lab).names()


def test_a_json_service(lab: AwsLab) -> None:
    found = lab.client("dynamodb", "table").get_item(TableName="t", Key={"id": {"S": "1"}})
    assert found["Item"] == {"id": {"S": "1"}}
    assert {"x-amz-target", "content-type"} <= set(last(lab).signed)


def test_an_unsigned_sdk_with_a_header(lab: AwsLab) -> None:
    s3, token = lab.client("s3", "s3", signature_version=UNSIGNED), lab.token()
    s3.meta.events.register("before-send.s3", lambda request, **_: _bear(request, token))
    s3.put_object(Bucket="bucket", Key="unsigned", Body=b"x")
    assert lab.aws.objects["/bucket/unsigned"] == b"x"


def _bear(request: Any, token: str) -> None:
    request.headers["Authorization"] = f"Bearer {token}"


def refused_by(call: Any, **given: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(**given)
    error: dict[str, Any] = caught.value.response["Error"]
    return error


def test_the_sdk_shows_why_it_is_refused(lab: AwsLab) -> None:
    closed = refused_by(lab.client("s3", "s3").put_object, Bucket="closed", Key="k", Body=b"x")
    assert closed["Code"] == "AccessDenied"
    assert closed["Message"].startswith("refused by the gateway: rule `aws/closed` denies http.write: a bucket that is")
    item = refused_by(lab.client("dynamodb", "table", "no.token.this").get_item, TableName="t", Key={"id": {"S": "1"}})
    assert item["Code"] == "InvalidToken"
    assert "AWS_SESSION_TOKEN" in item["Message"]
    assert lab.aws.requests == []


def test_a_presigned_url_is_refused_and_leaves_no_token(lab: AwsLab) -> None:
    token = lab.token("presigner")
    url = lab.client("s3", "s3", token, signature_version="s3v4").generate_presigned_url(
        "get_object", Params={"Bucket": "bucket", "Key": "k"}
    )
    path = url.partition(str(lab.ports["s3"]))[2]
    answer = lab.ask("s3", path, token=token).stdout
    assert status(answer) == 400
    assert b"presigned" in answer
    assert lab.aws.requests == []
    found = await_records(lab.state, lambda r: r.get("rule") == "malformed" and "presigned" in r["why"])
    assert token not in json.dumps(found)
    assert token not in lab.log.read_text()


def test_an_upstream_that_speaks_http2(lab: AwsLab, tmp_path: Path) -> None:
    """It is asked so where the client speaks it."""
    data = text(MIB + 1)
    (tmp_path / "body").write_bytes(data)
    fields = ["X-Amz-Meta-A: ä", "X-Amz-Meta-A: b  c", "Cookie: a=1; b=2", "Range: bytes=0-9"]
    words = ["--http2", *(word for line in fields for word in ("-H", line))]
    assert status(lab.ask("http2", *words, "/bucket/%C3%A4?b=a+b&a").stdout) == 200
    assert status(lab.ask("http2", "--http2", "-T", str(tmp_path / "body"), "/bucket/k").stdout) == 200
    assert [seen.body for seen in lab.aws_http2.requests] == [b"", data]
    assert lab.aws_http2.requests[0].header("host") == f"localhost:{lab.aws_http2.port}"


# ---------------------------------------------------------------- holds, clocks, keys


def test_a_held_request_is_signed_when_it_leaves(lab: AwsLab) -> None:
    lab.aws.objects["/bucket/held"] = b"x"
    oncall = lab.token("olga", "oncall", "approvers")
    done: list[Any] = []
    client = lab.client("s3", "s3")
    asking = threading.Thread(target=lambda: done.append(client.delete_object(Bucket="bucket", Key="held")))
    asking.start()
    ticket = _pending(lab, oncall)
    assert lab.aws.requests == []
    before = time.time()
    assert lab.cli("approvals", "approve", ticket, token=oncall).returncode == 0
    asking.join(20)
    assert done[0]["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "/bucket/held" not in lab.aws.objects
    stamp = last(lab).header("x-amz-date") or ""
    assert stamp >= time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(before - 1))


def _pending(lab: AwsLab, token: str) -> str:
    deadline = time.monotonic() + 10
    while True:
        listed = json.loads(lab.cli("approvals", "list", "--json", token=token).stdout or "[]")
        if listed:
            return str(listed[0]["id"])
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_clocks_that_are_apart_are_named(lab: AwsLab) -> None:
    lab.aws.skew = 3600
    try:
        answer = lab.ask("s3", "/echo").stdout
        assert status(answer) == 502
        assert b"clocks are minutes apart" in answer
        error = refused_by(lab.client("s3", "s3").get_object, Bucket="bucket", Key="k")
        assert "clocks are minutes apart" in error["Message"]
        assert "away from the upstream's" in lab.log.read_text()
    finally:
        lab.aws.skew = 0.0
        for seen in lab.aws.requests:
            assert seen.wrong.startswith("RequestTimeTooSkewed")
        lab.aws.requests.clear()


def test_aws_shows_what_was_signed_and_clients_do_not_see_it(lab: AwsLab) -> None:
    lab.aws.keys[KEY_ID] = ("another secret", SESSION)
    try:
        answer = lab.ask("s3", "-H", "X-Amz-Meta-A: b", "/echo", token=lab.token("curious")).stdout
        assert status(answer) == 403
        assert b"x-amz-security-token:[withheld]" in answer
        assert b"x-amz-meta-a:b" in answer
        assert SESSION in last(lab).wrong
        error = refused_by(lab.client("s3", "s3").get_object, Bucket="bucket", Key="k")
        assert error["Code"] == "SignatureDoesNotMatch"
        assert SESSION not in answer.decode() + str(error) + lab.log.read_text()
        found = await_records(lab.state, lambda r: r.get("t") == "response" and r["tag"].startswith("403"))
        assert SESSION not in "".join(base64.b64decode(r["wire"]).decode() for r in found)
    finally:
        lab.aws.keys[KEY_ID] = (SECRET, SESSION)
        lab.aws.requests.clear()


def test_the_keys_of_a_gateway_do_not_leave_in_a_body(lab: AwsLab) -> None:
    assert status(lab.ask("s3", "/echo").stdout) == 200  # they have been read
    lab.aws.requests.clear()
    for hidden in (SECRET, SESSION, base64.b64encode(SECRET.encode()).decode()):
        assert status(lab.ask("s3", "-X", "PUT", "--data-binary", f"note={hidden}", "/bucket/note").stdout) == 403
        assert status(lab.ask("s3", "-H", f"X-Note: {hidden}", "/echo").stdout) == 403
    assert lab.aws.requests == []


def test_what_is_on_record_and_in_the_log(lab: AwsLab) -> None:
    token = lab.token("recorded")
    lab.client("s3", "s3", token).put_object(Bucket="bucket", Key="recorded", Body=b"shown", SSECustomerKey="k" * 32,
                                            SSECustomerAlgorithm="AES256")  # fmt: skip
    found = await_records(lab.state, lambda r: r.get("t") == "command" and "/bucket/recorded" in r["text"])
    signature = (last(lab).header("authorization") or "").rpartition("=")[2]
    everything = json.dumps(found) + lab.log.read_text()
    for hidden in (token, SECRET, SESSION, signature, base64.b64encode(b"k" * 32).decode()):
        assert hidden not in everything
    assert base64.b64encode(b"shown").decode() in everything
    verify(lab.state)


# ---------------------------------------------------------------- without keys nothing passes


@pytest.mark.slow
def test_keys_that_cannot_be_read_are_a_refusal_and_new_ones_are_used(tmp_path: Path) -> None:
    """A gateway of its own: its keys are taken away, spoilt, let expire, and changed while it runs."""
    with AwsLab(tmp_path) as lab:
        file = lab.keys_file

        def answer() -> tuple[int, bytes]:
            raw = lab.ask("s3", "/echo").stdout
            return status(raw), raw

        file.rename(file.with_suffix(".away"))
        code, raw = answer()
        assert (code, b"application/problem+json" in raw) == (503, True)
        assert b"has no credential for this resource" in raw
        for content in ("not a document", json.dumps({"Version": 1, "AccessKeyId": KEY_ID}), ""):
            file.write_text(content)
            file.chmod(0o600)
            assert answer()[0] == 503
        write_keys(file)
        file.chmod(0o644)
        assert answer()[0] == 503
        write_keys(file, Expiration="2020-01-01T00:00:00Z")
        code, raw = answer()
        assert (code, b"has expired" in raw) == (503, True)
        assert lab.aws.requests == []
        write_keys(file, Expiration="2099-01-01T00:00:00Z")
        assert answer()[0] == 200
        # the upstream stops taking them: the file has others by then
        lab.aws.keys = {"ASIANEWKEYEXAMPLE123": ("new/secret", "new-token")}
        write_keys(file, "ASIANEWKEYEXAMPLE123", "new/secret", "new-token")
        deadline = time.monotonic() + 20
        while answer()[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert last(lab).header("x-amz-security-token") == "new-token"
        for hidden in (SECRET, SESSION, "new/secret", "new-token"):
            assert hidden not in lab.log.read_text()


@pytest.mark.slow
def test_mitmweb_and_files_of_flows_see_no_keys(tmp_path: Path) -> None:
    from tests.e2e.test_http_web import Web

    file = tmp_path / "flows"
    with AwsLab(tmp_path, launcher="mitmweb", more=["-w", str(file)]) as lab:
        web, seen, over = Web(lab), [], threading.Event()

        def look() -> None:
            while not over.is_set():
                seen.append(web.everything())
                time.sleep(0.02)

        looking = threading.Thread(target=look)
        looking.start()
        token = lab.token("looked-at")
        try:
            client = lab.client("s3", "s3", token)
            client.put_object(Bucket="bucket", Key="shown", Body=b"note=shown " * 1000)
            client.get_object(Bucket="bucket", Key="shown")["Body"].read()
            refused_by(client.put_object, Bucket="closed", Key="k", Body=b"x")
            lab.ask("s3", f"/echo?X-Amz-Security-Token={token}&X-Amz-Signature=abc", token=token)
        finally:
            over.set()
            looking.join(20)
        seen.append(web.everything())
        signatures = [(one.header("authorization") or "").rpartition("=")[2] for one in lab.aws.requests]
        lab.process.stop()
        seen.append(file.read_bytes())
        assert len(signatures) == 2
        assert b"/bucket/shown" in seen[-1]
        assert b"note=shown" in seen[-2]
        for view in seen:
            for hidden in (token, SECRET, SESSION, *signatures):
                assert hidden.encode() not in view


def test_a_client_that_leaves_in_the_middle_of_its_body(lab: AwsLab) -> None:
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    with (
        socket.create_connection(("127.0.0.1", lab.ports["s3"]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        head = f"PUT /bucket/half HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {lab.token('leaver')}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n".encode() + b"x" * 50)
        time.sleep(0.3)
    time.sleep(0.3)
    assert lab.aws.requests == []
    assert "/bucket/half" not in lab.aws.objects
