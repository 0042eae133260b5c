"""What is found, what is not, and that a scanner which cannot work says so."""

from __future__ import annotations

import dataclasses
import random
import re
import threading
from typing import Any

import hyperscan
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guard.detect.scanner as scanner_module
from guard.detect import NAMES, DetectError, Finding, Kind, Known, Scanner
from guard.detect.hyper import Expressions
from guard.detect.scanner import OWN, PATTERNS
from tests.guard.detect.samples import FOUND, NOT_FOUND

SCANNER = Scanner()


def found(data: bytes) -> list[tuple[str, bytes]]:
    return [(f.detector, data[f.start : f.end]) for f in SCANNER.find(data)]


@pytest.mark.parametrize(("data", "expected"), FOUND, ids=lambda v: repr(v)[:40])
def test_found(data: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert list(dict.fromkeys(found(data))) == list(dict.fromkeys(expected))


@pytest.mark.parametrize("data", NOT_FOUND, ids=lambda v: repr(v)[:40])
def test_not_found(data: bytes) -> None:
    assert found(data) == []


def test_every_detector_has_a_sample() -> None:
    shown = {name for _, expected in FOUND for name, _ in expected}
    # these differ from a shown one in their prefix only
    alike = {
        "gcp-oauth-secret",
        "gcp-access-token",
        "slack-webhook",
        "stripe-webhook-secret",
        "sendgrid-key",
        "mailgun-key",
        "twilio-key",
        "digitalocean-token",
        "huggingface-token",
        "llm-api-key",
        "vault-token",
        "docker-token",
        "databricks-token",
        "shopify-token",
        "age-key",
        "gcp-service-account",
    }
    assert set(NAMES) - shown == alike


ALIKE = [
    ("gcp-oauth-secret", b"GOCSPX-abcdefghij0123456789"),
    ("gcp-access-token", b"ya29.a0AfH6SMBabcdefghij0123456789"),
    ("slack-webhook", b"hooks.slack.com/services/T12345678/B12345678/abcdefghijklmnopqrstuvwx"),
    ("stripe-webhook-secret", b"whsec_abcdefghijklmnopqrstuvwx1234"),
    ("sendgrid-key", b"SG." + b"a" * 22 + b"." + b"b" * 43),
    ("mailgun-key", b"key-0123456789abcdef0123456789abcdef"),
    ("twilio-key", b"SK0123456789abcdef0123456789abcdef"),
    ("digitalocean-token", b"dop_v1_" + b"0123456789abcdef" * 4),
    ("huggingface-token", b"hf_" + b"aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
    ("llm-api-key", b"sk-ant-api03-" + b"aB3-" * 10),
    ("vault-token", b"hvs." + b"CAESIJabcdefghijklmnopqr"),
    ("docker-token", b"dckr_pat_" + b"aB3" * 9),
    ("databricks-token", b"dapi0123456789abcdef0123456789abcdef"),
    ("shopify-token", b"shpat_0123456789abcdef0123456789abcdef"),
    ("age-key", b"AGE-SECRET-KEY-1" + b"Q" * 58),
    ("gcp-service-account", b'{"private_key_id": "0123456789abcdef0123456789abcdef01234567"}'),
]


@pytest.mark.parametrize(("name", "value"), ALIKE)
def test_formats_by_prefix(name: str, value: bytes) -> None:
    assert name in [detector for detector, _ in found(b'x="' + value + b'", ')]


FRAGMENTS = [data for data, _ in FOUND] + NOT_FOUND + [value for _, value in ALIKE]


@given(
    st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=6),
    st.sampled_from([b"", b" ", b"\n", b'"', b"="]),
)
def test_no_anchor_misses_what_its_pattern_matches(parts: list[bytes], glue: bytes) -> None:
    data = glue.join(parts)
    spans = [(f.detector, f.start, f.end) for f in SCANNER.find(data)]
    for pattern in PATTERNS:
        for match in pattern.regex.finditer(data):
            if match.end() == match.start():
                continue
            begin, end = match.span(match.lastindex or 0) if pattern.inner else match.span()
            if pattern.check is None or pattern.check(data[begin:end]):
                near = [s for s in spans if s[0] == pattern.name and s[1] < end and begin < s[2]]
                assert near, (pattern.name, data[begin:end])


def test_only_the_detectors_asked_for() -> None:
    data = b"alice@example.com 4111111111111111 AKIAIOSFODNN7EXAMPLE"
    assert {f.detector for f in Scanner(["email"]).find(data)} == {"email"}
    assert {f.detector for f in Scanner([Kind.PERSONAL]).find(data)} == {"email", "card"}
    assert {f.detector for f in Scanner([Kind.CREDENTIAL]).find(data)} == {"aws-access-key"}
    assert Scanner([]).find(data) == []
    with pytest.raises(DetectError, match="`e-mail` does not exist: use one of"):
        Scanner(["e-mail"])


def test_a_finding_carries_nothing_of_the_value() -> None:
    for data, _ in FOUND:
        for finding in SCANNER.find(data):
            assert not re.search(r"hunter2|4111|alice", repr(finding))
    assert repr(Finding(Kind.PERSONAL, 0, 1, "email")).startswith("Finding(kind=<Kind.PERSONAL")


def test_random_bytes_never_raise() -> None:
    rng = random.Random(7)
    for _ in range(200):
        SCANNER.find(rng.randbytes(2000))
        SCANNER.window(rng.randbytes(300), 100)


# ---------------------------------------------------------------- the gateway's own secrets


def test_own_secrets_in_every_form() -> None:
    import base64
    import json
    import urllib.parse

    secret = 'Sup3r"S3cret/pw+ü'.encode()
    scanner = Scanner([], Known({"db": [secret]}))
    assert scanner.find(b"nothing") == []
    scanner = Scanner(known=Known({"db": [secret, b"x"]}))
    forms = [secret, secret.hex().encode(), json.dumps(secret.decode()).encode(), urllib.parse.quote(secret).encode()]
    forms += [base64.b64encode(b"x" * n + secret + b"yz") for n in range(4)]
    forms += [base64.urlsafe_b64encode(b"x" * n + secret) for n in range(4)]
    for form in forms:
        assert OWN in {f.detector for f in scanner.find(b"a=" + form + b" b")}, form
    assert "Sup3r" not in repr(Known({"db": [secret]}))


def test_a_secret_that_is_too_short_is_counted() -> None:
    known = Known({"a": [b"12345"], "b": [b"123456"]})
    assert known.too_short == 1


_WORDS = st.sampled_from(
    [b"password", b"Pwd", b"api_key", b"signing-key", b"bearer", b"Basic", b"--password", b"--", b"x" * 31, b"-_w",
     b"\n", b"\r\n", b" ", b"\t", b"\x0b", b"=", b":=", b">", b'\\"', b"'", b"Zm9vYmFy", b"1", b"\\", b",", b"\n\n\n\n"]
)  # fmt: skip
_LINED = [pattern.reach for pattern in PATTERNS if pattern.reach.line is not None]


@given(st.lists(_WORDS, max_size=40).map(b"".join))
def test_where_a_search_may_begin_changes_nothing(data: bytes) -> None:
    assert len(_LINED) >= 4
    for reach in _LINED:
        assert reach.held(data) == dataclasses.replace(reach, line=None).held(data)


# ---------------------------------------------------------------- failure


def test_without_hyperscan_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise hyperscan.HyperscanError("no SSSE3")

    monkeypatch.setattr(hyperscan, "Database", refuse)
    monkeypatch.setattr(scanner_module, "_COMPILED", {})
    with pytest.raises(DetectError, match="content detection cannot start: no SSSE3"):
        Scanner()


def test_threads_scan_at_the_same_time() -> None:
    """hyperscan's scratch space is one thread's: shared, a scan fails, and what it was for is refused."""
    scanner = Scanner(known=Known({"own": [b"upstream-s3cr3t"]}))
    text = b"mail alice@example.com with upstream-s3cr3t, nothing else. " * 3000
    seen: list[object] = []

    def scan() -> None:
        try:
            seen.extend(len(scanner.find(text)) for _ in range(3))
        except DetectError as e:
            seen.append(e)

    threads = [threading.Thread(target=scan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [6000] * 12


def test_a_secret_that_is_learned_later_compiles_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    Scanner()
    compiled: list[int] = []
    real = scanner_module.Expressions

    def counted(expressions: list[tuple[bytes, int]]) -> Expressions:
        compiled.append(len(expressions))
        return real(expressions)

    monkeypatch.setattr(scanner_module, "Expressions", counted)
    found = Scanner(known=Known({"own": [b"upstream-s3cr3t"]})).find(b"x upstream-s3cr3t y")
    assert [finding.detector for finding in found] == [OWN]
    assert max(compiled) < 20


def test_a_scan_that_fails_is_an_error_and_not_an_empty_answer() -> None:
    class Broken:
        def scan(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("secret text")

    expressions = Expressions([(b"a", 0)])
    expressions._database = Broken()
    with pytest.raises(DetectError) as caught:
        expressions.scan(b"aaa")
    assert "secret text" not in str(caught.value)
    scanner = Scanner(["email"])
    scanner._expressions = expressions
    for call in (scanner.find, scanner.hits, lambda data: scanner.window(data, 0)):
        with pytest.raises(DetectError):
            call(b"alice@example.com")
