"""Identity and control, row by row of the threat table (29, 30, 33, 35, 36), on a running gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.journal import PROGRAM, await_records
from tests.support.raw import Closed, Raw, through
from tests.support.wire import query

pytestmark = pytest.mark.e2e


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refused(lab: Lab, token: str) -> None:
    with pytest.raises(Closed) as caught:
        through(lab, "admin", token=token)
    words = caught.value.args[0]
    assert (words["S"], words["C"]) == ("FATAL", "28P01")
    assert token not in words["M"]


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, body = (json.loads(base64.urlsafe_b64decode(part + "===")) for part in token.split(".")[:2])
    return head, body


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", ""])
def test_row_29_unsigned_tokens(attacked: Lab, algorithm: str) -> None:
    head, body = parts(attacked.tokens["admin"])
    forged = f"{b64(json.dumps({**head, 'alg': algorithm}).encode())}.{b64(json.dumps(body).encode())}."
    refused(attacked, forged)
    refused(attacked, forged + b64(b"x"))


def test_row_29_the_public_key_as_a_shared_secret(attacked: Lab) -> None:
    """RS/HS confusion: whoever has the public key could sign, if HS256 were believed with it."""
    head, body = parts(attacked.tokens["admin"])
    for secret in (Path(attacked.issuer.ca_file).read_bytes(), b"", b"secret"):
        signed = f"{b64(json.dumps({**head, 'alg': 'HS256'}).encode())}.{b64(json.dumps(body).encode())}"
        refused(attacked, f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}")


@pytest.mark.parametrize(
    "change",
    [
        {"kid": "../../../etc/passwd"},
        {"kid": "' OR 1=1 --"},
        {"kid": "x" * 5000},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"jwk": {"kty": "oct", "k": "c2VjcmV0"}},
        {"crit": ["unheard-of"]},
        {"typ": "at+jwt; evil"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_row_29_headers_that_name_another_key(attacked: Lab, change: dict[str, Any]) -> None:
    head, _ = parts(attacked.tokens["admin"])
    _, body, signature = attacked.tokens["admin"].split(".")
    refused(attacked, f"{b64(json.dumps({**head, **change}).encode())}.{body}.{signature}")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "elsewhere"},
        {"aud": None},
        {"exp": None},
        {"exp": "4102444800"},
        {"exp": 1},
        {"nbf": 4102444800},
        {"sub": None},
        {"sub": ""},
    ],
    ids=str,
)
def test_row_29_claims(attacked: Lab, claims: dict[str, Any]) -> None:
    refused(attacked, attacked.issuer.token("admin", ["platform"], **claims))


def held(client: Raw, tag: str) -> str:
    """A held statement; its request."""
    client.send(query(f"DELETE FROM public.orders WHERE id = 999999 /* {tag} */"))
    kind, body = client.read()
    assert kind == "N"
    return wire.fields(body)["M"].split("request ")[1].split(" ")[0]


def vote(lab: Lab, request: str, token: str, verb: str = "approve") -> int:
    return lab.gateway.cli("approvals", verb, request, "--reason", "test", token=token).returncode


def test_row_33_nobody_approves_their_own_whatever_their_token_or_role(attacked: Lab) -> None:
    mine = [attacked.issuer.token("eve", ["agents", "oncall", "platform", "security"]) for _ in range(2)]
    with through(attacked, "eve", token=mine[0]) as client:
        request = held(client, "own")
        for token in mine:  # another token of the same person is the same person
            assert vote(attacked, request, token) == 1
        assert vote(attacked, request, attacked.tokens["agent"]) == 1  # no approver
        assert vote(attacked, request, attacked.tokens["agent"], "deny") == 1
        assert not any("/* own */" in text for text in attacked.server.statements())


def test_row_33_an_approval_is_for_once(attacked: Lab) -> None:
    dana = attacked.issuer.token("dana", ["oncall"])
    with through(attacked, "agent") as client:
        request = held(client, "once")
        assert vote(attacked, request, dana) == 0
        assert [k for k, _ in client.until()] == ["C", "Z"]
        assert vote(attacked, request, dana) == 1
        again = held(client, "once")
        assert again != request
    assert sum("/* once */" in text for text in attacked.server.statements()) == 1


def test_row_33_an_approver_who_is_contained_or_expired_approves_nothing(attacked: Lab) -> None:
    with through(attacked, "agent") as client:
        request = held(client, "stale")
        expired = attacked.issuer.token("dana", ["oncall"], ttl=-300)
        assert vote(attacked, request, expired) != 0
        carol = attacked.issuer.token("carol", ["oncall"])
        done = attacked.gateway.cli("contain", "carol", "--reason", "test", token=attacked.tokens["admin"])
        assert done.returncode == 0, done.stderr
        try:
            assert vote(attacked, request, carol) != 0
        finally:
            attacked.gateway.cli("release", "carol", token=attacked.tokens["admin"])
    assert not any("/* stale */" in text for text in attacked.server.statements())


def verified(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "verify", folder, "--json"], capture_output=True, text=True)


def test_row_35_an_edited_journal_is_found_out(attacked: Lab, tmp_path: Path) -> None:
    """Each edit on a copy of a real journal, offline; the verifier names the first bad record or segment."""
    with through(attacked, "agent", application_name="edited") as client:
        for i in range(30):
            client.ask(query(f"SELECT {i} /* edited-{i} */"))
    await_records(attacked.gateway.state_dir, lambda r: "edited-29" in str(r.get("text")))

    def copy(name: str) -> Path:
        for part in ("journal", "keys"):
            shutil.copytree(attacked.gateway.state_dir / part, tmp_path / name / part)
        return tmp_path / name

    def latest(folder: Path) -> Path:
        return max(folder.glob("journal/*.seg"))

    def found_out(name: str, edit: Callable[[bytes], bytes]) -> bool:
        folder = copy(name)
        data = latest(folder).read_bytes()
        assert b"edited-3 " in data
        latest(folder).write_bytes(edit(data))
        done = verified(folder)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 1

    def swap(data: bytes) -> bytes:
        raw, one, other = bytearray(data), data.index(b"edited-4 "), data.index(b"edited-5 ")
        raw[one : one + 9], raw[other : other + 9] = raw[other : other + 9], raw[one : one + 9]
        return bytes(raw)

    assert not found_out("whole", lambda data: data)
    assert found_out("changed", lambda data: data.replace(b"edited-3 ", b"edited-9 ", 1))
    assert found_out("swapped", swap)
    gone = copy("gone")
    latest(gone).unlink()
    assert verified(gone).returncode == 1
    # what was cut off the end shows once a checkpoint has covered it: the signed head reaches further
    deadline = time.monotonic() + 30
    while not found_out(f"short-{time.monotonic_ns()}", lambda data: data[: data.index(b"edited-3 ")]):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_row_36_reading_evidence_needs_a_role_and_is_recorded_itself(attacked: Lab) -> None:
    with through(attacked, "agent", application_name="read-me") as client:
        client.ask(query("SELECT 'read-me'"))
    admin = attacked.tokens["admin"]
    session = next(
        s["session"] for s in attacked.gateway.ask("sessions", token=admin) if s.get("application") == "read-me"
    )
    for words in (["show", session], ["replay", session, "--instant"], ["sessions"], ["search", "--text", "read-me"]):
        for token in (attacked.tokens["agent"], attacked.tokens["analyst"], "", "no.token.atall"):
            done = attacked.gateway.cli(*words, token=token)
            assert done.returncode != 0, words
            assert "read-me" not in done.stdout
    assert attacked.gateway.cli("show", session, token=admin).returncode == 0
    await_records(
        attacked.gateway.state_dir, lambda r: r["t"] == "admin.read" and session in str(r) and "admin" in str(r)
    )
