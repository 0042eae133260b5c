"""Objects that a request to S3 names elsewhere than in its path are seen by rules about paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import Analysis, Effect
from protocols.http.analysis import ANYTHING, Request, analyse
from protocols.http.aws.objects import beyond_path
from protocols.http.targets import read_target


def judged(method: str, target: str, *headers: tuple[str, str], body: bytes | None = b"") -> Analysis:
    request = Request(method, "https", read_target(target, "s3.example", 443), headers)
    return beyond_path(analyse(request, (), body), request, body)


def paths(analysis: Analysis) -> tuple[str, ...]:
    return analysis.facts["http.path"]


@pytest.mark.parametrize("source", ["/closed/k%20x", "closed/k%20x", "/closed/k%20x?versionId=1", "/%63losed/k%20x"])
def test_a_copy_reads_its_source(source: str) -> None:
    found = judged("PUT", "/open/copy", ("X-Amz-Copy-Source", source))
    assert found.effects == {Effect.HTTP_WRITE, Effect.HTTP_READ}
    assert {"/open/copy", "/closed/k x"} <= set(paths(found))


def test_every_source_counts_and_one_that_cannot_be_read_is_any() -> None:
    found = judged("PUT", "/open/copy", ("x-amz-copy-source", "/a/b"), ("X_Amz_Copy_Source", "/c/%zz"))
    assert {"/a/b", ANYTHING} <= set(paths(found))


def test_a_rename_takes_its_source_away() -> None:
    found = judged("PUT", "/b/new", ("x-amz-rename-source", "b/old"))
    assert Effect.HTTP_DELETE in found.effects
    assert "/b/old" in paths(found)


DELETE = b"""<?xml version="1.0"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Object><Key>a &amp; b/\xc3\xa4</Key><VersionId>1</VersionId></Object>
<Object><Key><![CDATA[../closed/k]]></Key></Object></Delete>"""


def test_keys_to_delete_are_paths() -> None:
    found = judged("POST", "/open?delete", body=DELETE)
    assert found.effects == {Effect.HTTP_WRITE, Effect.HTTP_DELETE}
    assert {"/open", "/open/a & b/ä", "/open/../closed/k", "/closed/k"} <= set(paths(found))
    assert "/a" in paths(judged("POST", "/?delete", body=b"<Delete><Object><Key>a</Key></Object></Delete>"))


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"<Delete/>",
        b"<Delete><Object><Key>a</Key>",
        b"no xml",
        b'<!DOCTYPE d [<!ENTITY e "closed/k">]><Delete><Object><Key>&e;</Key></Object></Delete>',
        b'<!DOCTYPE d SYSTEM "http://h/d"><Delete><Object><Key>a</Key></Object></Delete>',
        b"<Delete><Object><Key>a<b/>c</Key></Object></Delete>",
        b"<Delete><Object><Key>a\x01</Key></Object></Delete>",
        b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>",
        b'<?xml version="1.0" encoding="utf-7"?><Delete><Object><Key>a</Key></Object></Delete>',
    ],
)
def test_keys_that_cannot_be_found_out_are_any(body: bytes | None) -> None:
    found = judged("POST", "/open?delete", body=body)
    assert ANYTHING in paths(found)
    assert Effect.HTTP_DELETE in found.effects


def test_what_answers_with_keys_is_unknown() -> None:
    assert Effect.UNKNOWN in judged("GET", "/bucket?session").effects
    assert Effect.UNKNOWN not in judged("GET", "/bucket?list-type=2").effects


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/b/k"), ("PUT", "/b/k?delete"), ("POST", "/b/k?uploads"), ("GET", "/b?delete")]
)
def test_everything_else_is_as_it_was(method: str, target: str) -> None:
    request = Request(method, "https", read_target(target, "s3.example", 443), ())
    assert judged(method, target) == analyse(request)


@given(st.binary(max_size=300))
def test_no_body_raises(body: bytes) -> None:
    judged("POST", "/b?delete", body=body)
    judged("POST", "/b?delete", body=DELETE[: len(body)])
