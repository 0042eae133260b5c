"""What is encoded is opened, within bounds."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import quopri
import random
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from typing import Literal

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from guard.detect import Scanner
from guard.detect.expose import Effort, exposed

SECRET = b"mail bob@example.com about 078-05-1120."


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"nothing")
        archive.writestr("dump.csv", data)
    return out.getvalue()


def tarred(data: bytes, mode: Literal["w:bz2", "w:xz"]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        entry = tarfile.TarInfo("dump.csv")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def part(data: bytes, coding: str) -> bytes:
    """A part of a form or of a mail."""
    head = f"--b\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: {coding}\r\n\r\n".encode()
    body = base64.encodebytes(data) if coding == "base64" else quopri.encodestring(data, quotetabs=True)
    return head + body + b"\r\n--b--\r\n"


WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "percent": lambda d: urllib.parse.quote(d, safe="").encode(),
    "form": lambda d: b"x=" + urllib.parse.quote_plus(d).encode() + b"&y=1",
    "json": lambda d: json.dumps({"a": d.decode()}).encode(),
    "escapes": lambda d: b'"' + "".join(f"\\u{b:04x}" for b in d).encode() + b'"',
    "js": lambda d: "".join(f"\\x{b:02x}" for b in d).encode(),
    "references": lambda d: "".join(f"&#{b};" for b in d).encode(),
    "base64": base64.b64encode,
    "base64 in json": lambda d: json.dumps({"file": base64.b64encode(d).decode()}).encode(),
    "base64url": lambda d: base64.urlsafe_b64encode(d).rstrip(b"="),
    "base64 in a path": lambda d: b"/api/" + base64.urlsafe_b64encode(d).rstrip(b"=") + b"/next",
    "base64 misaligned": lambda d: b"z" + base64.b64encode(d),
    "base64 lines": lambda d: base64.encodebytes(d * 4),
    "base64 quoted": lambda d: urllib.parse.quote(base64.b64encode(b"?>" + d), safe="").encode(),
    "hex": lambda d: d.hex().encode(),
    "hex upper": lambda d: d.hex().upper().encode(),
    "hex spaced": lambda d: d.hex(" ").encode(),
    "hex colons": lambda d: d.hex(":").encode(),
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "zip": zipped,
    "zlib": zlib.compress,
    "zlib in base64": lambda d: base64.b64encode(zlib.compress(d)),
    "bzip2": bz2.compress,
    "bzip2 in base64 in json": lambda d: json.dumps({"a": base64.b64encode(bz2.compress(d)).decode()}).encode(),
    "xz": lzma.compress,
    "tar.bz2": lambda d: tarred(d, "w:bz2"),
    "tar.xz behind a part's head": lambda d: b"--b\r\n\r\n" + tarred(d, "w:xz") + b"\r\n--b--\r\n",
    "base32": base64.b32encode,
    "base32 lower": lambda d: b"x=" + base64.b32encode(d).lower().rstrip(b"="),
    "quoted-printable": lambda d: "".join(f"={b:02X}" for b in d).encode(),
    "a quoted part": lambda d: part(b"\xc3\xa4" * 20 + d, "quoted-printable"),
    "a base64 part": lambda d: part(d, "base64"),
    "utf-16": lambda d: d.decode().encode("utf-16"),
    "utf-16-be": lambda d: d.decode().encode("utf-16-be"),
    "utf-32": lambda d: d.decode().encode("utf-32"),
    "what powershell takes": lambda d: base64.b64encode(d.decode().encode("utf-16-le")),
    "zeros between": lambda d: b"\0".join(bytes([b]) for b in d),
    "joiners between": lambda d: "\u200b".join(d.decode()).encode(),
    "soft hyphens between": lambda d: "\u00ad".join(d.decode()).encode(),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_opened(wrap: Callable[[bytes], bytes]) -> None:
    texts = exposed(wrap(SECRET))
    assert any(b"bob@example.com" in text and b"078-05-1120" in text for text in texts)
    assert texts.complete


@pytest.mark.parametrize("outer", ["percent", "base64", "base64 in json", "hex", "gzip", "zip", "form"])
@pytest.mark.parametrize("inner", ["base64", "hex", "gzip", "json", "base64url"])
def test_one_in_the_other(outer: str, inner: str) -> None:
    assert any(b"bob@example.com" in text for text in exposed(WRAPS[outer](WRAPS[inner](SECRET))))


def test_deeper_than_the_effort_is_not_complete() -> None:
    data = SECRET
    for _ in range(5):
        data = base64.b64encode(data)
    texts = exposed(data)
    assert all(b"bob@" not in text for text in texts)
    assert not texts.complete


def test_a_bomb_ends_at_the_budget() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    texts = exposed(bomb, Effort(budget=1_000_000))
    assert sum(len(text) for text in texts) <= 1_000_001 + len(bomb)
    assert not texts.complete
    nested = zipped(b"\0" * 30_000_000)
    texts = exposed(nested, Effort(budget=1_000_000))
    assert sum(len(text) for text in texts) < 2_000_000
    assert not texts.complete


@given(st.binary(max_size=200))
def test_any_bytes_come_first_and_nothing_raises(data: bytes) -> None:
    for text in (data, b"\x1f\x8b" + data, b"PK\x03\x04" + data, b"\x28\xb5\x2f\xfd" + data, base64.b64encode(data)):
        assert next(iter(exposed(text))) == text
        list(exposed(text))


def test_damaged_archives_are_searched_as_they_are() -> None:
    rng = random.Random(3)
    good = zipped(SECRET)
    for _ in range(100):
        at = rng.randrange(4, len(good))
        assert list(exposed(good[:at] + bytes((rng.randrange(256),)) + good[at + 1 :]))
    for bad in (gzip.compress(SECRET)[:12] + b"\xff" * 20, good[:40], b"\x28\xb5\x2f\xfd" + b"\xff" * 30):
        texts = exposed(bad)
        assert next(iter(texts)) == bad
        list(texts)
        assert not texts.complete


@pytest.mark.parametrize("cut", [bz2.compress(SECRET * 50)[:-20], lzma.compress(SECRET * 50)[:-20]])
def test_half_an_archive_is_not_called_clean(cut: bytes) -> None:
    texts = exposed(cut)
    list(texts)
    assert not texts.complete


@pytest.mark.parametrize("text", [b"x^ = 2", b"the words 1AY&SY alone", b"a=3Db", b"x\x9cnothing of zlib"])
def test_what_only_looks_packed_is_nothing(text: bytes) -> None:
    texts = exposed(text)
    list(texts)
    assert texts.complete


def test_an_upload_within_a_multipart_body() -> None:
    head = b'--xx\r\nContent-Disposition: form-data; name="f"; filename="d.gz"\r\n\r\n'
    for packed in (gzip.compress(SECRET), zstandard.compress(SECRET), zipped(SECRET)):
        texts = exposed(head + packed + b"\r\n--xx--\r\n")
        assert any(b"bob@example.com" in text for text in texts), packed[:4]


def test_the_scanner_finds_what_is_exposed() -> None:
    scanner = Scanner(["email"])
    assert [bool(scanner.find(text)) for text in exposed(b"x " + base64.b64encode(SECRET))] == [False, True]
