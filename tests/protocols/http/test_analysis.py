"""What a request does, and what rules can see of it."""

from __future__ import annotations

import json

import pytest

from protocols.contract import Effect
from protocols.http.analysis import Request, analyse
from protocols.http.graphql import operations
from protocols.http.headers import bearer, is_secret, named_by_connection, shown
from protocols.http.targets import read_target


def request(method: str = "GET", path: str = "/", headers: tuple[tuple[str, str], ...] = ()) -> Request:
    return Request(method, "https", read_target(path, "api.example", 443), headers)


@pytest.mark.parametrize(
    ("method", "effect"),
    [
        ("GET", Effect.HTTP_READ),
        ("HEAD", Effect.HTTP_READ),
        ("POST", Effect.HTTP_WRITE),
        ("PATCH", Effect.HTTP_WRITE),
        ("PROPFIND", Effect.HTTP_WRITE),
        ("TRACE", Effect.HTTP_WRITE),
        ("DELETE", Effect.HTTP_DELETE),
    ],
)
def test_effects_by_method(method: str, effect: Effect) -> None:
    assert analyse(request(method)).effects == {effect}


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"])
def test_a_method_that_a_header_overrides_is_judged_as_both(name: str) -> None:
    found = analyse(request("POST", headers=((name, "delete"),)))
    assert found.effects == {Effect.HTTP_WRITE, Effect.HTTP_DELETE}
    assert found.facts["http.method"] == ("DELETE", "POST")


def test_a_method_in_the_query_is_judged_as_both() -> None:
    assert Effect.HTTP_DELETE in analyse(request("GET", "/x?_method=DELETE")).effects


def test_all_values_of_a_parameter_count() -> None:
    facts = analyse(request(path="/x?role=user&role=admin")).facts
    assert facts["http.query.role"] == ("user", "admin")


JSON = (("content-type", "application/json"),)


def test_fields_of_a_body_are_read_where_rules_ask() -> None:
    body = json.dumps({"user": {"role": "admin"}, "items": [{"id": 1}, {"id": 2}], "other": 3}).encode()
    asks = {"http.json.user.role", "http.json.items[].id", "http.json.missing"}
    facts = analyse(request("POST", headers=JSON), asks, body).facts
    assert facts["http.json.user.role"] == ("admin",)
    assert facts["http.json.items[].id"] == ("1", "2")
    assert "http.json.missing" not in facts
    assert "http.json.other" not in facts


def test_both_values_of_a_key_that_is_there_twice_count() -> None:
    facts = analyse(request("POST", headers=JSON), {"http.json.role"}, b'{"role":"user","role":"admin"}').facts
    assert facts["http.json.role"] == ("user", "admin")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, None, b"[" + b"1," * 20_000 + b"1]"])
def test_a_body_that_cannot_be_read_could_say_anything(body: bytes | None) -> None:
    facts = analyse(request("POST", headers=JSON), {"http.json.role"}, body).facts
    assert facts["http.json.role"] == ("*",)


@pytest.mark.parametrize("written", ["1e3", "1000.0", "1000.000", "10E+2", "1000"])
def test_a_number_is_what_it_is_however_it_is_written(written: str) -> None:
    body = f'{{"amount": {written}}}'.encode()
    facts = analyse(request("POST", headers=JSON), {"http.json.amount"}, body).facts
    assert {"1000", written} <= set(facts["http.json.amount"])


@pytest.mark.parametrize("written", ["1" * 5000, "[" * 5000, "0x10", "01", "1.", "+1", "1_0", "'a'", "undefined"])
def test_a_number_that_readers_take_differently_could_be_anything(written: str) -> None:
    body = f'{{"amount": {written}}}'.encode()
    facts = analyse(request("POST", headers=JSON), {"http.json.amount"}, body).facts
    assert facts["http.json.amount"] == ("*",)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_json_in_wide_characters_is_read(coding: str) -> None:
    body = '{"role": "admin"}'.encode(coding)
    facts = analyse(request("POST", headers=JSON), {"http.json.role"}, body).facts
    assert facts["http.json.role"] == ("admin",)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b'{"role": "admin"}'),
        ("application/x-www-form-urlencoded", b' \r\n{"role": "admin"}'),
        ("application/x-www-form-urlencoded", b'\xef\xbb\xbf{"role": "admin"}'),
        ("text/plain", b'{"role": "admin"}'),
        ("", b'{"role": "admin"}'),
        ("application/json", b'{"ROLE": "admin"}'),
        ("application/json", b'{"rol\\u0065": "adm\\u0069n"}'),
        ("application/json", b'{"role": "user", "role": "admin"}'),
        ("application/json", b"role=admin"),
        ("application/x-www-form-urlencoded", b'{"role": "admin"'),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=role\r\n\r\nadmin\r\n--b--"),
        ("application/x-www-form-urlencoded", b"r%6fle=%61dmin"),
    ],
)
def test_a_field_is_seen_whatever_a_body_says_that_it_is(kind: str, body: bytes) -> None:
    facts = analyse(request("POST", headers=(("content-type", kind),)), {"http.json.role"}, body).facts
    assert {"admin", "*"} & set(facts["http.json.role"])


@pytest.mark.parametrize(
    ("name", "path"), [("user[role]", "user.role"), ("a[0]", "a[]"), ("a[][b]", "a[].b"), ("a%5Bb%5D[c]", "a.b.c")]
)
def test_form_fields_within_others(name: str, path: str) -> None:
    headers = (("content-type", "application/x-www-form-urlencoded"),)
    facts = analyse(request("POST", headers=headers), {f"http.json.{path}"}, f"x=1&{name}=admin".encode()).facts
    assert facts[f"http.json.{path}"] == ("admin",)


def test_form_fields_are_fields() -> None:
    headers = (("content-type", "application/x-www-form-urlencoded"),)
    facts = analyse(request("POST", headers=headers), {"http.json.role"}, b"role=user&role=admin").facts
    assert facts["http.json.role"] == ("user", "admin")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{ me { name } }", ("query", "query.me")),
        ("mutation { a: deleteUser(id: 1) { id } }", ("mutation", "mutation.deleteUser")),
        ("query Q { me { id } } mutation M { drop }", ("query", "query.me", "mutation", "mutation.drop")),
        ("mutation { ...f } fragment f on Mutation { deleteUser { id } }", ("mutation", "mutation.deleteUser")),
        ("mutation { ... on Mutation { deleteUser { id } } }", ("mutation", "mutation.deleteUser")),
        ("query { ...f } fragment f on Query { ...f }", ("*",)),
        ("not graphql at all {{{", ("*",)),
        ("{ " * 5000, ("*",)),
    ],
)
def test_graphql_operations(text: str, found: tuple[str, ...]) -> None:
    assert operations(text) == found


def test_graphql_is_found_in_json_batches_and_queries() -> None:
    body = json.dumps([{"query": "{ me { id } }"}, {"query": "mutation { drop }"}]).encode()
    facts = analyse(request("POST", "/graphql", JSON), {"http.graphql"}, body).facts
    assert set(facts["http.graphql"]) == {"query", "query.me", "mutation", "mutation.drop"}
    hashed = json.dumps({"extensions": {"persistedQuery": {"sha256Hash": "x"}}}).encode()
    assert analyse(request("POST", "/graphql", JSON), {"http.graphql"}, hashed).facts["http.graphql"] == ("*",)
    in_query = analyse(request("GET", "/graphql?query=%7Bme%7Bid%7D%7D"), {"http.graphql"}).facts
    assert in_query["http.graphql"] == ("query", "query.me")
    stored = analyse(request("GET", "/api?extensions=%7B%22persistedQuery%22%3A%7B%7D%7D"), {"http.graphql"}).facts
    assert stored["http.graphql"] == ("*",)
    assert "http.graphql" not in analyse(request("POST", "/x", JSON), {"http.graphql"}, b'{"a":1}').facts


def test_tokens_are_taken_from_both_schemes() -> None:
    assert bearer("Bearer abc") == "abc"
    assert bearer("Basic Y2k6dG9rOmVu") == "tok:en"
    assert bearer("Basic !!!") == ""
    assert bearer("Digest x") == ""


def test_secrets_in_headers_are_never_shown() -> None:
    headers = [("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Foo-Token", "t"), ("Accept", "*/*")]
    assert shown(headers)[:3] == [(name, "[withheld]") for name, _ in headers[:3]]
    assert shown(headers)[3] == ("Accept", "*/*")
    assert is_secret("X-Amz-Signature")


def test_what_connection_names_ends_here() -> None:
    assert named_by_connection(["close, X-Remote-User", "keep-alive"]) == {"close", "x-remote-user", "keep-alive"}
