"""The control socket: who gets in, what is recorded, and peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from guard.control.client import ControlClient
from guard.control.roles import METHODS
from guard.control.server import MAX_CONNECTIONS, ControlServer
from guard.control.wire import CODES, MAX_REQUEST, ControlError, Unreachable, decode_request


def raw(gateway, data: bytes) -> list[dict]:
    """Send bytes and read until the server hangs up or has answered each line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(gateway.path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return [json.loads(line) for line in received.splitlines()]


def error(caught) -> str:
    return caught.value.code


def test_a_call_is_verified_recorded_and_answered(gateway):
    me = gateway.call("oncall", "whoami")
    assert (me["subject"], me["roles"]) == ("alice", ["approver"])
    [(kind, facts)] = gateway.journal
    assert kind == "admin.read"
    assert (facts["method"], facts["by"], facts["token_id"]) == ("whoami", "alice", "t2")
    assert facts["peer"]["pid"] == os.getpid()
    assert "tok-oncall" not in str(gateway.journal)


def test_row_36_every_method_needs_a_role_of_the_right_kind(gateway):
    roles = {"oncall": "approver", "security": "responder", "audit": "auditor", "platform": "operator", "agent": None}
    for name, method in METHODS.items():
        for who, role in roles.items():
            allowed = not method.roles or role in method.roles
            if allowed:
                continue
            with pytest.raises(ControlError) as caught:
                gateway.call(who, name)
            assert error(caught) == "forbidden"
            assert gateway.journal[-1][0] == "admin.refused"
            assert gateway.journal[-1][1]["by"]
    assert gateway.live.ended == []


def test_row_36_without_a_good_token_nothing_is_answered(gateway):
    for token in ("", "tok-nobody", "tok-oncall "):
        with pytest.raises(ControlError, match="token expired") as caught, gateway.client(token) as client:
            client.call("whoami")
        assert error(caught) == "unauthenticated"
    assert gateway.kinds() == ["admin.refused"] * 3
    assert "tok-nobody" not in str(gateway.journal)


def test_refused_calls_go_where_a_flood_of_them_is_counted(make_gateway):
    noted = []
    gateway = make_gateway(refused=lambda kind, facts: noted.append((kind, dict(facts)))).start()
    for who in ("agent", "nobody"):
        with pytest.raises(ControlError):
            gateway.call(who, "status", padding="x" * 60_000)
    assert gateway.kinds() == []
    assert {kind for kind, _ in noted} == {"admin.refused"}
    proven, unknown = (facts for _, facts in noted)
    uid = os.getuid()
    assert (proven["client"], unknown["client"]) == (f"agent-7, uid {uid}", f"uid {uid}")
    assert len(proven["params"]["padding"]) == 1000  # whoever makes many of these has a name
    assert len(unknown["params"]["padding"]) == 50


def test_a_call_that_cannot_be_recorded_is_not_carried_out(gateway):
    gateway.record_error = OSError("no space left on /secret/place")
    for who, name in (("oncall", "whoami"), ("security", "contained"), ("oncall", "approvals.approve")):
        with pytest.raises(ControlError) as caught:
            gateway.call(who, name, **({"id": "x"} if "approve" in name else {}))
        assert error(caught) == "internal"
        assert "secret" not in str(caught.value)


def test_what_takes_access_away_is_done_even_when_it_cannot_be_recorded(gateway):
    gateway.record_error = OSError("no space left on device")
    answer = gateway.call("security", "sessions.terminate", session="s1")
    assert answer["ended"] == 1
    assert "journal" in answer["warning"]
    assert "s1" not in gateway.live.sessions


def test_a_handler_that_raises_is_an_incident_and_the_connection_goes_on(make_gateway, caplog):
    gateway = make_gateway()

    async def broken(principal, params):
        raise ZeroDivisionError("secret detail")

    gateway.server._handlers["whoami"] = broken
    gateway.start()
    with gateway.client("tok-platform") as client:
        with pytest.raises(ControlError) as caught:
            client.call("whoami")
        assert error(caught) == "internal"
        assert "secret" not in str(caught.value)
        incident = str(caught.value).split("`")[1]
        assert incident in caplog.text
        assert client.call("status")["version"] == "0.1.0"


def test_a_handler_that_hangs_is_given_up(make_gateway):
    gateway = make_gateway(call_timeout=0.05)

    async def hang(principal, params):
        await asyncio.Event().wait()

    gateway.server._handlers["whoami"] = hang
    gateway.start()
    with pytest.raises(ControlError) as caught:
        gateway.call("oncall", "whoami")
    assert error(caught) == "unavailable"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", "bad_request"),
        (b"hello\n", "bad_request"),
        (b"[]\n", "bad_request"),
        (b"7\n", "bad_request"),
        (b'{"id": 1}\n', "bad_request"),
        (b'{"id": {}, "token": "", "method": "whoami"}\n', "bad_request"),
        (b'{"id": true, "token": "", "method": "whoami"}\n', "bad_request"),
        (b'{"id": 1, "token": 7, "method": "whoami"}\n', "bad_request"),
        (b'{"id": 1, "token": "", "method": "whoami", "params": []}\n', "bad_request"),
        (b'{"id": 1, "token": "", "method": "whoami", "more": 1}\n', "bad_request"),
        (b'{"id": 1, "token": "tok-oncall", "method": "nope"}\n', "bad_request"),
        (b'{"id": 1, "token": "tok-oncall", "method": "whoami", "params": {"x": 1}}\n', "bad_request"),
        (b"\xff\xfe\n", "bad_request"),
        (b"[" * 10000 + b"\n", "bad_request"),
    ],
)
def test_bad_requests_are_answered_and_the_next_one_too(gateway, line, code):
    good = b'{"id": 2, "token": "tok-oncall", "method": "whoami"}\n'
    first, second = raw(gateway, line + good)
    assert first["error"]["code"] == code
    assert second["id"] == 2
    assert second["result"]["subject"] == "alice"


def test_a_request_that_is_too_long_ends_the_connection(gateway):
    [answer] = raw(gateway, b"x" * (MAX_REQUEST * 2) + b"\n")
    assert answer["error"]["code"] == "bad_request"
    assert gateway.call("oncall", "whoami")["subject"] == "alice"


def test_half_a_request_is_nothing(gateway):
    assert raw(gateway, b'{"id": 2, "token": "tok-oncall", "method": "whoami"}') == []
    assert gateway.journal == []


def test_a_peer_that_sends_nothing_is_dropped(make_gateway):
    gateway = make_gateway(read_timeout=0.05).start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(gateway.path))
        assert connection.recv(1) == b""


def test_too_many_connections_are_told_so(gateway):
    idle = []
    try:
        for _ in range(MAX_CONNECTIONS):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(gateway.path))
            idle.append(connection)
        with pytest.raises(ControlError) as caught:
            gateway.call("oncall", "whoami")
        assert error(caught) == "busy"
    finally:
        for connection in idle:
            connection.close()


def test_a_large_answer_arrives_whole(make_gateway):
    gateway = make_gateway()

    async def large(principal, params):
        return {"x": "y" * 5_000_000}

    gateway.server._handlers["whoami"] = large
    gateway.start()
    assert len(gateway.call("oncall", "whoami")["x"]) == 5_000_000


def test_an_answer_that_is_too_large_or_no_json_is_an_error(make_gateway):
    gateway = make_gateway()

    async def huge(principal, params):
        return "y" * (33 * 1024 * 1024)

    async def odd(principal, params):
        return object()

    gateway.server._handlers["whoami"] = huge
    gateway.server._handlers["status"] = odd
    gateway.start()
    with pytest.raises(ControlError, match="ask for less"):
        gateway.call("oncall", "whoami")
    with pytest.raises(ControlError) as caught:
        gateway.call("platform", "status")
    assert error(caught) == "internal"


# -- the socket file


def test_the_socket_is_private(tmp_path, make_gateway):
    folder = tmp_path / "made"
    folder.mkdir(0o755)
    gateway = make_gateway(folder).start()
    found = gateway.path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) & 0o077 == 0


def test_a_folder_that_others_can_write_is_refused(tmp_path, make_gateway):
    folder = tmp_path / "open"
    folder.mkdir()
    gateway = make_gateway(folder)
    folder.chmod(0o777)
    with pytest.raises(ControlError, match="chmod"):
        gateway.start()


def test_a_stale_socket_is_replaced_and_a_live_gateway_is_not(tmp_path, make_gateway):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    first = make_gateway().start()
    assert first.call("oncall", "whoami")
    second = make_gateway()
    with pytest.raises(ControlError, match="another gateway") as caught:
        second.start()
    assert error(caught) == "conflict"
    assert first.call("oncall", "whoami")
    first.run(first.server.stop())
    assert not first.path.exists()
    second.start()
    assert second.call("oncall", "whoami")


def test_a_gateway_without_a_lock_that_answers_is_left_alone(tmp_path, make_gateway):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "control.sock"))
        other.listen()
        with pytest.raises(ControlError, match="answers"):
            make_gateway().start()
        assert (tmp_path / "control.sock").exists()


def test_something_else_in_the_sockets_place_is_not_removed(tmp_path, make_gateway):
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(ControlError, match="no socket"):
        make_gateway().start()
    assert (tmp_path / "control.sock").read_text() == "precious"


def test_a_path_longer_than_the_kernel_takes_works(tmp_path, make_gateway):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    gateway = make_gateway(folder).start()
    assert gateway.call("oncall", "whoami")["subject"] == "alice"
    gateway.run(gateway.server.stop())
    assert not gateway.path.exists()


def test_stop_cuts_calls_under_way(make_gateway):
    gateway = make_gateway()
    started = asyncio.Event()

    async def hang(principal, params):
        started.set()
        await asyncio.Event().wait()

    gateway.server._handlers["whoami"] = hang
    gateway.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(gateway.path))
        connection.settimeout(10)
        connection.sendall(b'{"id": 2, "token": "tok-oncall", "method": "whoami"}\n')
        gateway.run(started.wait())
        gateway.run(gateway.server.stop())
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""


# -- the client


def test_nobody_there(tmp_path):
    with pytest.raises(Unreachable, match="cannot reach"), ControlClient(tmp_path / "none.sock", "t") as client:
        client.call("whoami")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(Unreachable, match="refused"):
        ControlClient(tmp_path / "dead.sock", "t").call("whoami")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\n", b"{}\n", b"[]\n", b"null\n", b""])
def test_what_is_no_gateway_is_said_so(tmp_path, answer):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "x.sock"))
        other.listen()
        client = ControlClient(tmp_path / "x.sock", "t")
        connection = client._connected()
        served, _ = other.accept()
        served.sendall(answer)
        served.shutdown(socket.SHUT_WR)
        with pytest.raises(Unreachable):
            client.call("whoami")
        served.close()
        client.close()
        assert connection.fileno() == -1


def test_a_gateway_that_hangs(tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "x.sock"))
        other.listen()
        with (
            pytest.raises(Unreachable, match="does not answer"),
            ControlClient(tmp_path / "x.sock", "t", 0.05) as client,
        ):
            client.call("whoami")


def test_the_client_sends_nothing_that_is_too_long(gateway):
    with pytest.raises(ControlError, match="larger"):
        gateway.call("oncall", "whoami", x="y" * MAX_REQUEST)


# -- construction and properties


def test_a_method_without_a_handler_cannot_be_served(gateway):
    table = dict(gateway.table)
    del table["contain"]
    with pytest.raises(ValueError, match="contain"):
        ControlServer(gateway.path, None, gateway.roles, table, gateway)
    with pytest.raises(ValueError, match="backdoor"):
        ControlServer(gateway.path, None, gateway.roles, {**gateway.table, "backdoor": table["whoami"]}, gateway)


def test_only_whoami_is_open_to_every_principal():
    assert [name for name, method in METHODS.items() if not method.roles] == ["whoami"]
    assert all(method.act for method in METHODS.values() if method.tightens)


@hypothesis_settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["id", "token", "method", "params", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_line_is_a_request_or_a_control_error(line):
    try:
        request = decode_request(line)
    except ControlError as caught:
        assert caught.code in CODES  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(request.method, str)
