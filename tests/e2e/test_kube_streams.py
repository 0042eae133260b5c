"""exec, attach, cp, port-forward and logs through the gateway: stock kubectl over WebSockets and over SPDY."""

from __future__ import annotations

import os
import random
import re
import select
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import Side
from tests.support.apiserver.kubectl import Kubectl
from tests.support.asciicast import CastEvent
from tests.support.asciicast import read as read_cast
from tests.support.journal import await_records, records
from tests.support.kube_lab import CARD, POLICY, KubeLab, on_a_terminal
from tests.support.talkative import echo_server, printed, running

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[KubeLab]:
    with KubeLab() as running:
        yield running


@pytest.fixture(params=["websocket", "spdy"])
def spdy(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "spdy")


@pytest.fixture
def kubectl(lab: KubeLab, spdy: bool) -> Kubectl:
    return lab.kubectl("dev", "operators", "editors", spdy=spdy)


def cast_of(lab: KubeLab, name: str) -> list[CastEvent]:
    """The recording of the last exec or attach in this pod, once it is complete."""

    await_records(lab.state, lambda r: r["t"] == "cast" and "end" in r and r["s"] == command_in(lab, name)["s"])
    command = command_in(lab, name)
    parts = [r for r in of_kind(lab, "cast") if (r["s"], r["n"]) == (command["s"], command["n"])]
    _, events = read_cast("".join(part["lines"] for part in parts).split("\n"))
    return events


def of_kind(lab: KubeLab, kind: str) -> list[dict[str, Any]]:
    return [record for record in records(lab.state) if record["t"] == kind]


def command_in(lab: KubeLab, name: str) -> dict[str, Any]:
    """The last command about a pod."""
    return [r for r in of_kind(lab, "command") if f" {name} " in r["text"]][-1]


def said(events: list[CastEvent], code: str) -> str:
    return "".join(event.data for event in events if event.code == code)


def upstream(lab: KubeLab, side: Side) -> bytes:
    return b"".join(data for who, data in lab.apiserver.recordings[-1].said if who is side)


def test_exec_with_its_exit_code(lab: KubeLab, kubectl: Kubectl, spdy: bool) -> None:
    name = lab.pod()
    words = ["exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 3"]
    done, plain = kubectl.run(*words), lab.direct(spdy=spdy).run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert lab.apiserver.recordings[-2].websocket is not spdy
    events = cast_of(lab, name)
    assert sorted(said(events, "o").split()) == ["err", "out"]
    assert said(events, "m") == "exit code 3"
    command = command_in(lab, name)
    assert "sh -c 'echo out; echo err >&2; exit 3'" in command["text"]
    assert command["effects"] == ["kube.exec"]


def test_exec_reads_input_to_its_end(lab: KubeLab, kubectl: Kubectl) -> None:
    name, sent = lab.pod(), os.urandom(300_000)
    done = kubectl.run("exec", "-i", name, "--", "cat", input=sent)
    assert (done.returncode, done.stdout == sent) == (0, True)
    assert said(cast_of(lab, name), "i")


def test_input_is_on_record_before_it_arrives(lab: KubeLab, kubectl: Kubectl) -> None:
    name = lab.pod()
    with running(kubectl.start("exec", "-i", name, "--", "cat", stdin=subprocess.PIPE)) as process:
        assert process.stdin is not None
        process.stdin.write(b"first line\n")
        process.stdin.flush()
        assert printed(process, b"first line\n")
        assert any("first line" in r["lines"] and '"i"' in r["lines"] for r in of_kind(lab, "cast"))


def test_output_is_masked_for_the_client_and_on_record(lab: KubeLab, kubectl: Kubectl) -> None:
    name = lab.pod()
    script = f"echo card {CARD}; printf 'half 4111 1111 '; sleep 0.01; printf '1111 1111\\n'; echo {CARD} >&2"
    done = kubectl.run("exec", name, "--", "sh", "-c", script.replace(CARD, '"4111 ""1111 ""1111 ""1111"'))
    assert done.returncode == 0
    assert done.stdout == b"card [masked]\nhalf [masked]\n"
    assert done.stderr == b"[masked]\n"
    assert "1111 1111" not in said(cast_of(lab, name), "o")


def test_who_is_trusted_sees_it(lab: KubeLab, spdy: bool) -> None:
    trusted = lab.kubectl("boss", "operators", "trusted", spdy=spdy)
    assert trusted("exec", lab.pod(), "--", "echo", CARD) == f"{CARD}\n"


def test_exec_on_a_terminal(lab: KubeLab, kubectl: Kubectl) -> None:
    name = lab.pod()
    with on_a_terminal(kubectl, "exec", "-it", name, "--", "sh", rows=30, columns=100) as (process, master):
        _ask(master, "stty size", "30 100")
        ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 90, 0, 0))
        _ask(master, "until [ \"$(stty size)\" = '25 90' ]; do sleep 0.05; done; echo re''sized", "resized")
        os.write(master, b"exit 4\n")
        assert process.wait(30) == 4
    events = cast_of(lab, name)
    assert [e.data for e in events if e.code == "r"] == ["100x30", "90x25"]
    assert "stty size" in said(events, "i")
    assert "30 100" in said(events, "o")


def _ask(master: int, line: str, wanted: str) -> None:
    os.write(master, line.encode() + b"\n")
    seen = b""
    while wanted.encode() not in seen:
        ready, _, _ = select.select([master], [], [], 30)
        assert ready, seen
        seen += os.read(master, 4096)


def test_attach_and_logs_follow(lab: KubeLab, kubectl: Kubectl) -> None:
    name = lab.pod(["sh", "-c", f"echo one; read line; echo $line; echo {CARD}"])
    with running(kubectl.start("logs", "-f", name)) as following:
        printed(following, b"one\n")
        assert kubectl.run("attach", "-i", name, input="two\n").returncode == 0
        assert following.communicate()[0] == b"two\n[masked]\n"
    assert "two" in said(cast_of(lab, name), "i")


def test_cp_both_ways(lab: KubeLab, kubectl: Kubectl, tmp_path: Path) -> None:
    name = lab.pod()
    (tmp_path / "sent").write_bytes(random.Random(7).randbytes(100_000))  # chance must not make an address of it
    there = tmp_path / "there"
    there.mkdir()
    kubectl("cp", str(tmp_path / "sent"), f"{name}:{there}/copied")
    assert (there / "copied").read_bytes() == (tmp_path / "sent").read_bytes()
    kubectl("cp", f"{name}:{there}/copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_port_forward(lab: KubeLab, kubectl: Kubectl) -> None:
    name = lab.pod()
    with echo_server() as port, running(kubectl.start("port-forward", name, f":{port}")) as forwarding:
        local = int(re.search(rb"127\.0\.0\.1:(\d+)", printed(forwarding, b"->"))[1])  # type: ignore[index]
        for text in (b"first", b"x" * 200_000 + b"y"):
            with socket.create_connection(("127.0.0.1", local)) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                while data := connection.recv(65536):
                    answer += data
            assert answer == text[::-1]
        found = await_records(lab.state, lambda r: r.get("what") == "closed" and r["port"] == port, count=2)
    ends = [(r["sent"], r["received"]) for r in found]
    assert ends == [(5, 5), (200_001, 200_001)]


def test_a_denied_command_never_starts(lab: KubeLab, kubectl: Kubectl) -> None:
    before = len(lab.apiserver.recordings)
    done = kubectl.run("exec", lab.pod(), "--", "rm", "-rf", "/data")
    assert done.returncode == 1
    assert b"ask the platform team" in done.stderr
    assert b"rule `kube-lab/no-destruction`" in done.stderr
    assert len(lab.apiserver.recordings) == before


def test_nobody_without_a_grant_opens_a_stream(lab: KubeLab, spdy: bool) -> None:
    reader = lab.kubectl("reader", spdy=spdy)
    before = len(lab.apiserver.recordings)
    for words in (["exec", lab.pod(), "--", "id"], ["attach", lab.pod()], ["port-forward", lab.pod(), ":80"]):
        done = reader.run(*words)
        assert done.returncode == 1, words
        assert b"no rule allows kube." in done.stderr, done.stderr
    assert len(lab.apiserver.recordings) == before


def test_a_held_command_waits_and_then_runs(lab: KubeLab, kubectl: Kubectl) -> None:
    with running(kubectl.start("exec", lab.pod(), "--", "echo", "migrate")) as process:
        ticket = lab.ticket("dev")
        shown = lab.cli("approvals", "show", ticket, token=lab.token("ann", "oncall"))
        assert "echo migrate" in shown.stdout
        assert lab.cli("approvals", "approve", ticket, token=lab.token("ann", "oncall")).returncode == 0
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, b"migrate\n"), err


def test_a_refusal_is_asked_for_once(lab: KubeLab) -> None:
    """kubectl comes again over SPDY when its WebSocket is refused: the approver must not see it twice."""
    kubectl = lab.kubectl("once", "operators")
    with running(kubectl.start("exec", lab.pod(), "--", "echo", "migrate")) as process:
        ticket = lab.ticket("once")
        denied = lab.cli("approvals", "deny", ticket, "--reason", "not on Fridays", token=lab.token("ann", "oncall"))
        assert denied.returncode == 0, denied.stderr
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"not on Fridays" in err
    asked = [r for r in of_kind(lab, "approval.requested") if r.get("subject") == "once"]
    assert len(asked) == 1


def test_who_waits_too_long_is_told_and_passes_once_later(lab: KubeLab, spdy: bool) -> None:
    kubectl = lab.kubectl(f"patient-{spdy}", "operators", spdy=spdy)
    name = lab.pod()
    done = kubectl.run("exec", name, "--", "echo", "migrate")  # the listener lets it wait for 5 s
    assert done.returncode == 1
    assert b"held for approval as " in done.stderr
    assert b"run the same command again" in done.stderr
    ticket = re.search(rb"held for approval as (\w+)", done.stderr)[1].decode()  # type: ignore[index]
    assert lab.cli("approvals", "approve", ticket, token=lab.token("ann", "oncall")).returncode == 0
    assert kubectl("exec", name, "--", "echo", "migrate") == "migrate\n"


def test_containment_cuts_at_once_with_last_words(lab: KubeLab, spdy: bool) -> None:
    subject = f"rogue-{spdy}"
    kubectl = lab.kubectl(subject, "operators", spdy=spdy)
    name = lab.pod()
    with running(kubectl.start("exec", "-i", name, "--", "cat", stdin=subprocess.PIPE)) as process:
        assert process.stdin is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        printed(process, b"hello\n")
        began = time.monotonic()
        contained = lab.cli("contain", subject, "--reason", "odd", token=lab.token("ops", "security"))
        assert contained.returncode == 0, contained.stderr
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 15
    assert process.returncode != 0
    assert b"ended by the gateway" in err, err
    assert "ended by the gateway" in said(cast_of(lab, name), "m")
    assert kubectl.run("get", "pods").returncode == 1


def test_a_stream_ends_where_the_policy_no_longer_grants_it() -> None:
    with KubeLab() as lab:
        kubectl = lab.kubectl("dev", "operators")
        with (
            running(kubectl.start("exec", "-i", lab.pod(), "--", "cat", stdin=subprocess.PIPE)) as process,
            running(kubectl.start("get", "configmaps", "-w", "-o", "name")) as watching,
        ):
            assert process.stdin is not None
            process.stdin.write(b"before\n")
            process.stdin.flush()
            printed(process, b"before\n")
            lab.apiserver.create("configmaps", "default", {"metadata": {"name": "before"}})
            printed(watching, b"configmap/before\n")
            policy = lab.folder / "policy.yaml"
            policy.write_text(
                POLICY.replace("groups: [operators]", "groups: [nobody]").replace("kube.read", "kube.token")
            )
            reloaded = lab.cli("reload", token=lab.token("pat", "platform"))
            assert reloaded.returncode == 0, reloaded.stderr
            process.stdin.write(b"after\n")
            process.stdin.flush()
            out, err = process.communicate(timeout=30)
            assert b"after" not in out
            assert b"the policy no longer grants this" in err
            lab.apiserver.create("configmaps", "default", {"metadata": {"name": "after"}})
            assert b"configmap/after" not in watching.communicate(timeout=30)[0]
