"""Multipart bodies."""

from __future__ import annotations

import pytest

from guard.mask.bodies import BodyError, Limits, Unmaskable
from tests.guard.mask.bodies.shared import any_step, both, contents, fields, masked

KIND = "multipart/form-data; boundary=xx"


def part(name: str, body: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return b"--xx\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n"


END = b"--xx--\r\n"


def test_fields_by_name_and_parts_by_type() -> None:
    body = (
        part("email", b"a@b")
        + part("n", b"plain")
        + part("j", b'{"email":"q","z":1}', "Content-Type: application/json")
    )
    expected = (
        part("email", b"[masked]")
        + part("n", b"plain")
        + part("j", b'{"email":"[masked]","z":1}', "Content-Type: application/json")
    )
    assert any_step(KIND, body + END, fields("email")) == expected + END
    assert any_step('multipart/form-data; boundary="xx"', body + END, fields("EMAIL")) == expected + END


def test_contents_of_parts() -> None:
    body = part("n", b"to bob@example.com") + part("f", b"a,b\r\n1,bob@example.com\r\n", "Content-Type: text/csv") + END
    assert any_step(KIND, body, contents()) == body.replace(b"bob@example.com", b"[masked]")


def test_unusual_shapes_pass_byte_for_byte() -> None:
    body = (
        part("a", b"")
        + part("b", b"\r\n--x\r\n--xy"[:7])
        + b"--xx \t\r\n\r\nno headers\r\n"
        + b"--xx\r\nA: b\r\n\r\n--xx--"
    )
    assert any_step(KIND, body, both("email")) == body
    assert masked(KIND, b"", fields("email")) == b""


@pytest.mark.parametrize(
    "body",
    [
        b"text",
        b"preamble\r\n" + part("a", b"x") + END,
        part("a", b"x"),
        part("a", b"x") + b"--xx-",
        part("a", b"x")[:20],
        part("a", b"x") + END + b"more text",
        b"--xxy\r\n\r\n\r\n--xx--",
        part("a", b"x", "Content-Transfer-Encoding: base64") + END,
        part("a", b"x", "Content-Encoding: gzip") + END,
        part("a", b"x", 'Content-Disposition: form-data; name="email"') + END,
        part("a", b"x", "Content-Type: image/png") + END,
        part("a", b"x", "Content-Type: multipart/mixed; boundary=y") + END,
        b"--xx\r\nContent-Disposition: form-data; name*=utf-8''email\r\n\r\nx\r\n--xx--",
        b'--xx\r\nContent-Disposition: form-data; name="a"; name="email"\r\n\r\nx\r\n--xx--',
    ],
)
def test_what_cannot_be_masked_is_an_error(body: bytes) -> None:
    for step in (1, 1000):
        with pytest.raises(BodyError):
            masked(KIND, body, both("email"), step)


def test_limits() -> None:
    with pytest.raises(BodyError, match="more than 3 parts"):
        masked(KIND, part("a", b"x") * 4 + END, fields("email"), limits=Limits(parts=3))
    with pytest.raises(BodyError, match="headers of a part"):
        masked(KIND, b"--xx\r\nA: " + b"x" * 20_000, fields("email"), step=500)
    with pytest.raises(BodyError, match="more than 100 bytes"):
        masked(KIND, part("email", b"x" * 500) + END, fields("email"), limits=Limits(value=100))
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=a\x01b"):
        with pytest.raises(BodyError):
            masked(kind, END, fields("email"))
    with pytest.raises(Unmaskable):
        masked("multipart/form-data", END, fields("email"))
