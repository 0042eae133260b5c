"""Signatures against AWS' published ones, and against AWS' own library as an independent verifier."""

from __future__ import annotations

import hashlib
import string

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, reject
from hypothesis import strategies as st

from protocols.http.aws.keys import Keys
from protocols.http.aws.sigv4 import AS_IT_IS, UNSIGNED, Signer, written
from protocols.http.targets import BadTarget, read_target

SUITE = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
S3_PAGES = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
AT = 1440938160.0  # 2015-08-30T12:36:00Z
HOST = (b"Host", b"example.amazonaws.com")
DATE = (b"X-Amz-Date", b"20150830T123600Z")
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
TOKEN = (
    b"AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwth"
    b"Ax7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAki"
    b"Y9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
EMPTY = hashlib.sha256(b"").hexdigest()
UNRESERVED = "-._~" + string.digits + string.ascii_uppercase + string.ascii_lowercase


def sign_for(service: str = "service") -> Signer:
    return Signer(SUITE, "us-east-1", service)


# (name in AWS' test suite, method, target, further fields, body, signature)
VECTORS: list[tuple[str, str, str, list[tuple[bytes, bytes]], bytes, str]] = [
    ("get-vanilla", "GET", "/", [], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", "POST", "/", [], b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "get-vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [],
        b"",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    (
        "post-vanilla-query",
        "POST",
        "/?Param1=value1",
        [],
        b"",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "get-vanilla-query-order-key",
        "GET",
        "/?Param1=value2&Param1=Value1",
        [],
        b"",
        "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
    ),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [],
        b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-vanilla-query-order-value",
        "GET",
        "/?Param1=value2&Param1=value1",
        [],
        b"",
        "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
    ),
    (
        "get-vanilla-query-unreserved",
        "GET",
        f"/?{UNRESERVED}={UNRESERVED}",
        [],
        b"",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    (
        "get-unreserved",
        "GET",
        f"/{UNRESERVED}",
        [],
        b"",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    (
        "get-header-value-order",
        "GET",
        "/",
        [(b"My-Header1", value) for value in (b"value4", b"value1", b"value3", b"value2")],
        b"",
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "get-header-key-duplicate",
        "GET",
        "/",
        [(b"My-Header1", value) for value in (b"value2", b"value2", b"value1")],
        b"",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        [(b"My-Header1", b" value1"), (b"My-Header2", b' "a   b   c"')],
        b"",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "post-header-value-case",
        "POST",
        "/",
        [(b"My-Header1", b"VALUE1")],
        b"",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    (
        "post-header-key-sort",
        "POST",
        "/",
        [(b"My-Header1", b"value1")],
        b"",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-sts-header-before",
        "POST",
        "/",
        [(b"X-Amz-Security-Token", TOKEN)],
        b"",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [FORM],
        b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
]


@pytest.mark.parametrize(("method", "target", "more", "body", "signature"), [v[1:] for v in VECTORS], ids=lambda v: "")
def test_signatures_of_aws_test_suite(
    method: str, target: str, more: list[tuple[bytes, bytes]], body: bytes, signature: str
) -> None:
    sent = written(target, "service")
    assert sent == target
    payload = hashlib.sha256(body).hexdigest()
    found = sign_for().signature(method.encode(), sent.encode(), [HOST, *more, DATE], payload, "20150830T123600Z")
    assert found.endswith(f"Signature={signature}")
    assert found.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, Signed")


@pytest.mark.parametrize(
    "target",
    ["/example/..", "/example1/example2/../..", "/./example", "/./", "//", "//example//", "/%2e%2E/x", "/a//b"],
)
def test_a_path_that_the_service_would_change_is_not_signed(target: str) -> None:
    with pytest.raises(BadTarget, match="write the path that is meant"):
        written(target, "execute-api")
    written(target, "s3")  # there it names what it says


S3_HOST = (b"Host", b"examplebucket.s3.amazonaws.com")
S3_DATE = (b"x-amz-date", b"20130524T000000Z")


@pytest.mark.parametrize(
    ("method", "target", "more", "body", "signature"),
    [
        (
            b"GET",
            "/test.txt",
            [(b"Range", b"bytes=0-9")],
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            b"PUT",
            "/test$file.text",
            [(b"Date", b"Fri, 24 May 2013 00:00:00 GMT"), (b"x-amz-storage-class", b"REDUCED_REDUNDANCY")],
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (b"GET", "/?lifecycle", [], b"", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            b"GET",
            "/?max-keys=2&prefix=J",
            [],
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signatures_of_the_pages_on_s3(
    method: bytes, target: str, more: list[tuple[bytes, bytes]], body: bytes, signature: str
) -> None:
    payload = hashlib.sha256(body).hexdigest()
    fields = [S3_HOST, *more, (b"x-amz-content-sha256", payload.encode()), S3_DATE]
    signer = Signer(S3_PAGES, "us-east-1", "s3")
    found = signer.signature(method, written(target, "s3").encode(), fields, payload, "20130524T000000Z")
    assert found.endswith(f"Signature={signature}")


# ---------------------------------------------------------------- AWS' own library


def by_botocore(signed: list[tuple[bytes, bytes]], method: str, target: str, service: str, all_fields: object) -> str:
    """The signature that botocore would have made of the same bytes."""
    own = {name.decode(): value.decode() for name, value in signed}
    names = own["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(method, f"https://h.example{target}")
    for name, value in [*all_fields, *signed]:  # type: ignore[misc]
        if name.decode().lower() in names:
            request.headers.add_header(name.decode(), value.decode())
    request.context["timestamp"] = own["x-amz-date"]
    keys = Credentials(SUITE.access_key_id, SUITE.secret_access_key, own.get("x-amz-security-token"))
    auth = (S3SigV4Auth if service in AS_IT_IS else SigV4Auth)(keys, service, "us-east-1")
    signature: str = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return signature


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
VALUE = st.text(string.ascii_letters + string.digits + " ,;:=\"'/+%()é\t", min_size=1, max_size=20).map(str.strip)
NAME = st.sampled_from(["x-amz-meta-a", "X-Amz-Meta-B", "content-type", "range", "x-amz-acl", "Content-MD5", "a"])


@given(
    st.lists(TEXT.filter(lambda t: t not in ("", ".", "..")), max_size=4),
    st.lists(st.tuples(TEXT, TEXT), max_size=4),
    st.lists(st.tuples(NAME, VALUE.filter(bool)), max_size=6),
    st.sampled_from(["s3", "execute-api"]),
    st.booleans(),
)
def test_botocore_makes_the_same_signature_of_what_is_sent(
    path: list[str], query: list[tuple[str, str]], headers: list[tuple[str, str]], service: str, short_lived: bool
) -> None:
    def spell(text: str) -> str:
        """As a careless client does: nothing but what must be is encoded."""
        return "".join(c if (c.isascii() and c.isalnum()) or c in "()$!*'~" else _percent(c) for c in text)

    target = "/" + "/".join(map(spell, path))
    if query:
        target += "?" + "&".join(f"{spell(name)}={spell(value)}" for name, value in query)
    try:
        read_target(target, "h.example", 443)
    except BadTarget:
        reject()  # characters that no request may have in its path
    sent = written(target, service)
    assert written(sent, service) == sent
    assert read_target(sent, "h.example", 443).paths[0] == read_target(target, "h.example", 443).paths[0]
    keys = Keys(SUITE.access_key_id, SUITE.secret_access_key, "tok/en==" if short_lived else "")
    fields = [(b"host", b"h.example"), *((n.encode(), v.encode()) for n, v in headers)]
    signed = Signer(keys, "us-east-1", service).sign(b"GET", sent.encode(), b"h.example", fields, EMPTY, AT)
    assert dict(signed)[b"authorization"].endswith(by_botocore(signed, "GET", sent, service, fields).encode())


def _percent(character: str) -> str:
    return "".join(f"%{byte:02x}" for byte in character.encode())


# ---------------------------------------------------------------- what is in the signature, and what is not


def test_every_field_but_those_that_change_on_the_way_is_signed() -> None:
    changing = (b"User-Agent", b"Connection", b"Transfer-Encoding", b"Content-Length", b"X-Forwarded-For", b"Via")
    kept = (b"X-Amz-Meta-A", b"Content-Type", b"Anything", b"Range", b"X-Amz-Target", b"If-Match")
    fields = [(name, b"v") for name in (*changing, *kept)]
    signed = dict(sign_for("s3").sign(b"PUT", b"/k", b"h", fields, UNSIGNED, AT))
    names = signed[b"authorization"].decode().partition("SignedHeaders=")[2].partition(",")[0].split(";")
    own = ["host", "x-amz-content-sha256", "x-amz-date"]
    assert names == sorted([*own, *(name.decode().lower() for name in kept)])
    assert signed[b"x-amz-content-sha256"] == UNSIGNED.encode()


@pytest.mark.parametrize(
    "name", [b"Authorization", b"X-Amz-Date", b"x-amz-content-sha256", b"X-Amz-Security-Token", b"X-AMZ-DATE"]
)
def test_nobody_else_writes_what_the_signature_writes(name: bytes) -> None:
    with pytest.raises(ValueError, match="only the gateway's signature"):
        sign_for().sign(b"GET", b"/", b"h", [(name, b"x")], EMPTY, AT)


def test_a_day_has_its_own_key() -> None:
    signer = sign_for()
    first = signer.sign(b"GET", b"/", b"h", [], EMPTY, AT)
    later = signer.sign(b"GET", b"/", b"h", [], EMPTY, AT + 86400)
    assert later == sign_for().sign(b"GET", b"/", b"h", [], EMPTY, AT + 86400)
    assert first == sign_for().sign(b"GET", b"/", b"h", [], EMPTY, AT)
    assert first[-1] != later[-1]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/a+b/(c)", "/a%2Bb/%28c%29"),
        ("/%c3%a4", "/%C3%A4"),
        ("/%41%2f%2E", "/A%2F."),
        ("/a%2525", "/a%2525"),
        ("/?a=b+c&d=%2b", "/?a=b%20c&d=%2B"),
        ("/?", "/"),
        ("/?&&", "/"),
        ("/?acl", "/?acl"),
        ("/?a;b=c;d", "/?a%3Bb=c%3Bd"),
        ("/?b=1&a=2&b=0", "/?b=1&a=2&b=0"),
        ("/?a==b", "/?a=%3Db"),
        ("/?a=/:@!$'()*,", "/?a=%2F%3A%40%21%24%27%28%29%2A%2C"),
    ],
)
def test_a_target_has_one_spelling(target: str, sent: str) -> None:
    assert written(target, "s3") == sent


@pytest.mark.parametrize("target", ["*", "", "a/b", "https://h/x"])
def test_what_is_no_path_is_not_signed(target: str) -> None:
    with pytest.raises(BadTarget):
        written(target, "s3")


def test_keys_are_not_shown() -> None:
    keys = Keys("AKID", "the-secret", "the-token")
    assert "the-" not in repr(keys) + str(keys) + repr(Signer(keys, "r", "s"))
