"""`sluicegate token`: where tokens come from, when they are fetched again, and the proxy that adds them."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import cli, token_commands
from scripts.token_source import TokenError, TokenSource, expiry
from tests.support.http_raw import RawServer, ok

PROGRAM = Path(sys.executable).with_name("sluicegate")


def jwt(name: str, exp: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'sub': name, 'exp': exp})}.c2ln"


@pytest.mark.parametrize(
    ("token", "ends"),
    [(jwt("a", 12), 12.0), (jwt("a", "12"), None), (jwt("a", True), None), ("a.b.c", None), ("opaque", None)],
)
def test_when_a_token_ends(token: str, ends: float | None) -> None:
    assert expiry(token) == ends


def test_a_file_is_read_again_when_its_token_ends(tmp_path: Path) -> None:
    now = [1000.0]
    file = tmp_path / "token"
    file.write_text(jwt("first", 1100) + "\n")
    source = TokenSource(file=file, clock=lambda: now[0])
    assert source.get().token == jwt("first", 1100)
    file.write_text(jwt("second", 1300))
    assert source.get().token == jwt("first", 1100)
    now[0] = 1080.0
    assert source.get().token == jwt("second", 1300)
    now[0] = 1290.0
    assert source.get().token == jwt("second", 1300)  # still good, and there is no newer one
    now[0] = 1300.0
    with pytest.raises(TokenError, match="expired"):
        source.get()


def test_a_command_runs_again_when_its_token_ends(tmp_path: Path) -> None:
    now = [1000.0]
    count = tmp_path / "count"
    script = tmp_path / "fetch"
    script.write_text(f"#!/bin/sh\necho x >> {count}\necho {jwt('a', 2000)}\n")
    script.chmod(0o700)
    source = TokenSource(command=str(script), clock=lambda: now[0])
    assert source.get() == source.get()
    assert count.read_text() == "x\n"
    now[0] = 1980.0
    source.get()
    assert count.read_text() == "x\nx\n"


@pytest.mark.parametrize("command", ["false", "/nowhere/at/all", "echo"])
def test_a_command_that_gives_no_token_is_an_error(command: str) -> None:
    with pytest.raises(TokenError) as caught:
        TokenSource(command=command).get()
    assert command in str(caught.value)


def test_no_source_says_what_to_do() -> None:
    with pytest.raises(TokenError, match="SLUICEGATE_TOKEN"):
        TokenSource(environment={}).get()


def test_what_a_file_holds_is_never_quoted(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("SECRET\x01SECRET")
    with pytest.raises(TokenError) as caught:
        TokenSource(file=file).get()
    assert "SECRET" not in str(caught.value)


def test_the_token_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text(jwt("a", time.time() + 600))
    assert cli.main(["token", "--file", str(file)]) == 0
    assert capsys.readouterr().out.strip() == file.read_text()
    assert cli.main(["token", "--file", str(tmp_path / "nothing")]) == 1


@pytest.mark.parametrize("port", ["99999", "-1", "x", "\u0663"])
def test_what_is_no_port_is_wrong_usage(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["token", "serve", "--gateway", "http://127.0.0.1:8080", "--port", port])
    assert left.value.code == 2
    assert "0 to 65535" in capsys.readouterr().err


def test_where_it_comes_from_may_be_said_before_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, str]] = []

    def source(*, file: Path | None, command: str) -> None:
        seen.append((file, command))
        raise ValueError("enough")

    monkeypatch.setattr(token_commands, "TokenSource", source)
    where = ["--gateway", "http://127.0.0.1:8080"]
    for words in (["--file", "f", "serve", *where], ["serve", *where, "--file", "f"]):
        assert cli.main(["token", *words]) == 2
    assert cli.main(["token", "--command", "c", "serve", *where]) == 2
    assert seen == [(Path("f"), "")] * 2 + [(None, "c")]


@contextmanager
def serving(*words: str | Path) -> Iterator[dict[str, str]]:
    process = subprocess.Popen([PROGRAM, "token", "serve", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().strip() for _ in range(4)]
        yield dict(line.split("=", 1) for line in lines)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def test_each_connection_gets_the_token_of_that_moment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(jwt("first", time.time() + 30.5))
    with (
        RawServer(lambda c, head: c.sendall(ok(b"{}", "connection: close"))) as gateway,
        serving("--gateway", f"http://127.0.0.1:{gateway.port}", "--file", file) as proxy,
    ):
        argv = ["curl", "-sS", "--max-time", "10", "--noproxy", "", "--proxy", proxy["HTTPS_PROXY"]]
        assert subprocess.run([*argv, "http://a.example/x"], capture_output=True, check=True).stdout == b"{}"
        first = jwt("first", expiry(file.read_text()))
        assert f"Proxy-Authorization: Bearer {first}\r\n".encode() in gateway.received
        assert b"Connection: close" in gateway.received
        assert gateway.received.startswith(b"GET http://a.example/x HTTP/1.1\r\n")
        time.sleep(0.6)  # the token ends in less than the time that a token must have left
        second = jwt("second", time.time() + 600)
        file.write_text(second)
        subprocess.run([*argv, "http://a.example/y"], capture_output=True, check=True)
        assert f"Bearer {second}".encode() in gateway.received
        local = proxy["HTTPS_PROXY"].partition("ci:")[2].partition("@")[0]
        assert base64.b64encode(f"ci:{local}".encode()) not in gateway.received


def test_a_tunnel_goes_on_with_a_token(tmp_path: Path) -> None:
    def answer(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.sendall(b"echo:" + connection.recv(100))
        connection.close()

    file = tmp_path / "token"
    file.write_text("opaque-token")
    with (
        RawServer(answer) as gateway,
        serving("--gateway", f"http://127.0.0.1:{gateway.port}", "--file", file, "--no-password") as proxy,
    ):
        port = int(proxy["HTTPS_PROXY"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.sendall(b"hello")
            assert client.recv(100) == b"echo:hello"
    assert b"Proxy-Authorization: Bearer opaque-token\r\n" in gateway.received


def test_who_has_not_the_password_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("opaque-token")
    with (
        RawServer(lambda c, head: c.sendall(ok())) as gateway,
        serving("--gateway", f"http://127.0.0.1:{gateway.port}", "--file", file) as proxy,
    ):
        bare = "http://" + proxy["HTTPS_PROXY"].partition("@")[2]
        for address in (bare, bare.replace("http://", "http://ci:wrong@")):
            argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "", "--proxy", address]
            done = subprocess.run([*argv, "http://a.example/"], capture_output=True, text=True)
            assert done.stdout == "407"
        assert gateway.connections == 0


def test_without_a_token_nothing_goes_on(tmp_path: Path) -> None:
    with (
        RawServer(lambda c, head: c.sendall(ok())) as gateway,
        serving("--gateway", f"http://127.0.0.1:{gateway.port}", "--file", tmp_path / "none") as proxy,
    ):
        argv = ["curl", "-s", "-w", "%{http_code}", "--noproxy", "", "--proxy", proxy["HTTPS_PROXY"]]
        done = subprocess.run([*argv, "http://a.example/"], capture_output=True, text=True)
        assert done.stdout.endswith("503")
        assert gateway.connections == 0


@pytest.mark.parametrize("url", ["gateway:8080", "ftp://gateway", "http://user:pw@gateway", "http://gateway/path"])
def test_what_is_no_gateway_is_wrong_usage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "serve", "--gateway", url]) == 2
    assert "pw" not in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_ca_that_is_none_is_named(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca = tmp_path / "ca.crt"
    if text is not None:
        ca.write_text(text)
    assert cli.main(["token", "serve", "--gateway", "https://gateway:8080", "--ca", str(ca)]) == 2
    assert f"`{ca}` cannot be read as a CA" in capsys.readouterr().err
