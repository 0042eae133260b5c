"""Paths that servers read differently, and hosts in disguise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.http.targets import BadTarget, host_name, parameters, read_target, readings, split_authority


@pytest.mark.parametrize(
    ("raw", "among"),
    [
        ("/a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../admin", "/admin"),
        ("/a/%2e%2e/admin", "/admin"),
        ("/a/%2E%2e%2fadmin", "/admin"),
        ("/a/%252e%252e/admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/a/..\\admin", "/admin"),
        ("/a/..%5cadmin", "/admin"),
        ("/admin;x=1/users", "/admin/users"),
        ("/a/..;/admin", "/admin"),
        ("/admin./users", "/admin/users"),
        ("/admin%20/users", "/admin/users"),
        ("/admin/", "/admin/"),
    ],
)
def test_every_reading_of_a_path_is_judged(raw: str, among: str) -> None:
    assert among in readings(raw)


def test_a_plain_path_has_one_reading() -> None:
    assert readings("/v1/users/42") == ("/v1/users/42",)


@pytest.mark.parametrize("raw", ["/a%", "/a%zz", "/%00", "/a%0d%0ab", "/%ff"])
def test_paths_that_no_client_needs_are_refused(raw: str) -> None:
    with pytest.raises(BadTarget):
        readings(raw)


@pytest.mark.parametrize("path", ["admin", "/a b", "/a#b", "/\u00e9", "/" + "a" * 20000])
def test_targets_outside_of_the_grammar_are_refused(path: str) -> None:
    with pytest.raises(BadTarget):
        read_target(path, "example.com", 443)


@given(st.text(alphabet="/.%25efEF2cC;\\ab", max_size=40))
def test_reading_a_path_never_raises_anything_else(tail: str) -> None:
    try:
        found = readings("/" + tail)
    except BadTarget:
        return
    assert found
    assert all(isinstance(text, str) for text in found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_have_one_form(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "a..b", "a b", "-a.example", "a/b", "user@host", "a" * 300, "exa%6dple.com"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        split_authority(text, 443)


@pytest.mark.parametrize("text", ["a:0", "a:65536", "a:-1", "a:8o", "[::1]x", "a:\u0661"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        split_authority(text, 443)


def test_authorities_are_taken_apart() -> None:
    assert split_authority("[2001:db8::1]:8443", 443) == ("2001:db8::1", 8443)
    assert split_authority("Example.com:80", 443) == ("example.com", 80)
    assert split_authority("example.com", 443) == ("example.com", 443)


def test_a_semicolon_in_the_query_is_read_both_ways() -> None:
    found = parameters("a=1;admin=true&b=%20x+y")
    assert ("admin", "true") in found
    assert ("a", "1;admin=true") in found
    assert ("b", " x y") in found


def test_a_flood_of_parameters_is_refused() -> None:
    with pytest.raises(BadTarget):
        parameters("&".join("a=1" for _ in range(2000)))
