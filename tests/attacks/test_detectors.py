"""What would carry values out: past the detectors, the body masks, the fingerprints (rows 4, 7, 10, 22, 27, 28)."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import tracemalloc
import urllib.parse
import zipfile
from collections.abc import Callable

import pytest

from guard.detect import Kind, Known, Scanner, Stream
from guard.detect.expose import exposed
from guard.leak import Fingerprints, ObservedMasker
from guard.mask import Masker
from guard.mask.bodies import BodyError, BodyRules, ContentRule, FieldRule, body_masker, mask_of
from protocols.contract import MaskRule, Origin, ResultColumn, ResultShape

KEY = b"k" * 32
SECRET = "078-05-1120"
REDACT = mask_of(MaskRule("r", (), (), "redact"), KEY)
SSN = BodyRules((FieldRule("**.ssn", REDACT),))
PERSONAL = BodyRules(contents=(ContentRule(("personal", "credential"), REDACT),))


def through(content_type: str, body: bytes, rules: BodyRules, coding: str = "", step: int = 13) -> bytes:
    """The body as the client gets it: nothing, when it cannot be masked."""
    try:
        masker = body_masker(content_type, coding, rules)
        out = [masker.feed(body[at : at + step]) for at in range(0, len(body), step)]
        return b"".join([*out, masker.end()])
    except BodyError:
        return b""


# ---------------------------------------------------------------- row 22: the same value in another spelling

DISGUISES = [
    b'{"ssn":"078-05-1120"}',
    b'{"SSN":"078-05-1120"}',
    b'{"\\u0073sn":"078-05-1120"}',
    b'{"ssn":["078-05-1120"]}',
    b'{"ssn":{"v":"078-05-1120"}}',
    b'{"ssn":{"078-05-1120":1}}',
    b'{"ssn":[[{"a":"078-05-1120"}]]}',
    b'{"ssn":1,"ssn":"078-05-1120"}',
    b'{"a":{"b":[{"ssn":"078-05-1120"}]}}',
    b'\xef\xbb\xbf{"ssn":"078-05-1120"}',
    b'{"ssn":"\\u0030\\u0037\\u0038-05-1120"}',
    b'{"ssn" :\r\n\t"078-05-1120"}',
    b'{"x":"]}","ssn":"078-05-1120"}',
    b'{"x":"\\"","ssn":"078-05-1120"}',
    b'{"x":"\\\\","ssn":"078-05-1120"}',
    b'[[],{},{"ssn":"078-05-1120"}]',
]


@pytest.mark.parametrize("body", DISGUISES)
def test_row_22_no_spelling_of_a_json_field_shows_it(body: bytes) -> None:
    out = through("application/json", body, SSN)
    assert out
    assert SECRET not in json.dumps(json.loads(out.decode("utf-8-sig")))


SMUGGLED = [
    b"{'ssn':'078-05-1120'}",
    b'{ssn:"078-05-1120"}',
    b'{"a":1,}{"ssn":"078-05-1120"}',
    b'{"a":"x\ny","ssn":"078-05-1120"}',
    b'/*{"a":"*/{"ssn":"078-05-1120"}',
    b'{"a":NaN,"ssn":"078-05-1120"}',
    b'{"a":01,"ssn":"078-05-1120"}',
    b'\x00{"ssn":"078-05-1120"}',
    b'{"a":"\xc0","ssn":"078-05-1120"}',
    '{"ssn":"078-05-1120"}'.encode("utf-16"),
    b'for(;;);{"ssn":"078-05-1120"}',
    b'{"a":"\\x22,\\x22ssn\\x22:\\x22078-05-1120"}',
    b'{"a":1}\n{"ssn":"078-05-1120"}',
]


@pytest.mark.parametrize("body", SMUGGLED)
def test_row_7_what_readers_take_differently_is_withheld(body: bytes) -> None:
    assert SECRET.encode() not in through("application/json", body, SSN)
    assert "078-05-1120" not in through("application/json", body, SSN).decode("utf-16", "replace")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/html", "application/octet-stream", "", "json", "image/png"]
)
def test_row_22_json_under_another_name_is_withheld(content_type: str) -> None:
    assert through(content_type, b'{"ssn":"078-05-1120"}', SSN) == b""


def test_row_22_a_coding_that_cannot_be_opened_or_lies_is_withheld() -> None:
    body = b'{"ssn":"078-05-1120"}'
    for coding in ("compress", "gzip", "br", "zstd", "deflate", "gzip, identity, lzma", "none"):
        assert SECRET.encode() not in through("application/json", body, SSN, coding)
    # the member that is masked must not be followed by one that is not
    assert SECRET.encode() not in through("application/json", gzip.compress(b"{}") + body, SSN, "gzip")
    double = gzip.compress(b"{}") + gzip.compress(body)
    assert through("application/json", double, SSN, "gzip") == b"" or b"ssn" not in through(
        "application/json", double, SSN, "gzip"
    )


def test_row_22_values_across_any_border_of_pieces() -> None:
    text = b"numbers: 078-05-1120, 4111 1111 1111 1111; bob@example.com password=hunter2&x\n"
    for kind in ("text/plain", "text/html", "text/event-stream", "application/xml"):
        for step in range(1, len(text)):
            out = through(kind, text, PERSONAL, step=step)
            assert not any(part in out for part in (b"078-05", b"4111", b"bob@", b"hunter2")), (kind, step)


# ---------------------------------------------------------------- row 4, 10: size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content_type", "unit", "rules"),
    [
        ("application/json", b'{"id":1,"ssn":"078-05-1120","note":"bob@example.com"},', SSN),
        ("text/plain", b"a line with bob@example.com in it\n", PERSONAL),
        ("text/csv", b"1,bob@example.com,x\n", PERSONAL),
    ],
)
def test_row_4_memory_does_not_grow_with_the_body(content_type: str, unit: bytes, rules: BodyRules) -> None:
    masker = body_masker(content_type, "", rules)
    masker.feed(b"[" if content_type == "application/json" else b"")
    block = unit * (16_384 // len(unit))
    masker.feed(block)
    tracemalloc.start()
    try:
        for _ in range(5):
            masker.feed(block)
        first, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            masker.feed(block)
        last, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last - first < 30_000
    assert peak < 1_500_000


def test_row_10_a_match_that_never_ends_is_not_held_for_ever() -> None:
    scanner = Scanner()
    for endless in (
        b"A",
        b"1 ",
        b"password=x",
        b"-----BEGIN PRIVATE KEY-----\nAAAA",
        b"eyJhbGci",
        b'password="' + b"x" * 90,
    ):
        stream = Stream(scanner)
        released = sum(len(stream.feed(endless * (4096 // len(endless))).data) for _ in range(25))
        assert released > 20_000
        assert stream.held < 60_000


# ---------------------------------------------------------------- row 27: out by another channel


def exporting(body: bytes) -> dict[str, str]:
    """Ways in which a job would send a dump."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dump.csv", body)
    ways: dict[str, Callable[[], bytes]] = {
        "as it is": lambda: body,
        "json": lambda: json.dumps({"data": body.decode()}).encode(),
        "form": lambda: urllib.parse.urlencode({"d": body}).encode(),
        "query": lambda: b"/collect?d=" + urllib.parse.quote(body).encode(),
        "base64": lambda: base64.b64encode(body),
        "base64 json": lambda: json.dumps({"f": base64.b64encode(body).decode()}).encode(),
        "base64url": lambda: b"/x/" + base64.urlsafe_b64encode(body).rstrip(b"="),
        "hex": lambda: body.hex().encode(),
        "gzip": lambda: gzip.compress(body),
        "gzip base64": lambda: base64.b64encode(gzip.compress(body)),
        "zip": packed.getvalue,
        "multipart": lambda: (
            b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + gzip.compress(body) + b"\r\n--x--"
        ),
        "double base64": lambda: base64.b64encode(base64.b64encode(body)),
        "unicode": lambda: "".join(f"\\u{b:04x}" for b in body).encode(),
    }
    return {name: make().decode("latin-1") for name, make in ways.items()}


DUMP = b"service,username,secret\nbilling,svc,postgres://svc:Xk9-tr0ub4dor@db.internal/billing\nssn,ann,078-05-1120\n"


@pytest.mark.parametrize(("way", "sent"), exporting(DUMP).items())
def test_row_27_a_dump_of_credentials_is_seen_however_it_is_sent(way: str, sent: str) -> None:
    scanner = Scanner()
    kinds = {f.kind for text in exposed(sent.encode("latin-1")) for f in scanner.find(text)}
    assert kinds == {Kind.CREDENTIAL, Kind.PERSONAL}, way


@pytest.mark.parametrize(("way", "sent"), exporting(DUMP).items())
def test_row_27_a_value_that_was_masked_in_a_database_is_recognised_in_an_upload(way: str, sent: str) -> None:
    prints = Fingerprints(KEY)
    masker = Masker((MaskRule("r", ("public.users.ssn",), (), "redact"),), KEY)
    shape = ResultShape((ResultColumn("ssn", Origin.KNOWN, ("public.users.ssn",)),))
    plan = ObservedMasker(masker, lambda value: prints.saw("ci", value, 0.0)).plan(shape)
    assert plan is not None
    mask = plan.columns[0]
    assert mask is not None
    assert mask.apply(SECRET) == "[masked]"
    assert prints.find("ci", sent.encode("latin-1"), 1.0), way
    assert not prints.find("somebody else", sent.encode("latin-1"), 1.0)


def test_row_27_the_gateway_s_own_secret_never_leaves() -> None:
    secret = b"Xk9-tr0ub4dor&3"
    scanner = Scanner(known=Known({"db": [secret]}))
    for way, sent in exporting(b"the key is " + secret + b" and more text").items():
        found = {f.detector for text in exposed(sent.encode("latin-1")) for f in scanner.find(text)}
        assert "gateway-secret" in found, way


def test_row_27_what_cannot_be_opened_is_not_called_clean() -> None:
    locked = io.BytesIO()
    with zipfile.ZipFile(locked, "w") as archive:
        archive.writestr("a", DUMP)
    broken = bytearray(locked.getvalue())
    broken[6] |= 1  # encrypted
    broken[broken.find(b"PK\x01\x02") + 8] |= 1
    texts = exposed(bytes(broken))
    list(texts)
    assert not texts.complete
    assert not Fingerprints(KEY).find("ci", bytes(broken), 1.0).strong


# ---------------------------------------------------------------- row 28: nothing quotes


def test_row_28_no_error_and_no_finding_quotes_the_body() -> None:
    rng = random.Random(5)
    for _ in range(100):
        body = bytearray(b'{"ssn":"078-05-1120","password":"hunter2","n":[1,2,{"x":"bob@example.com"}]}')
        for _ in range(3):
            body[rng.randrange(len(body))] = rng.randrange(256)
        for kind in (
            "application/json",
            "text/csv",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            said = ""
            try:
                masker = body_masker(kind, "", BodyRules(SSN.fields, PERSONAL.contents))
                masker.feed(bytes(body))
                masker.end()
            except BodyError as e:
                said = str(e)
            assert not any(part in said for part in ("078", "1120", "hunter", "bob", "example"))
    for finding in Scanner().find(b"078-05-1120 bob@example.com password=hunter2"):
        assert not any(part in repr(finding) for part in ("078", "hunter", "bob"))
