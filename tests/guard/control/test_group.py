"""The control socket for a group of the machine: approvers need not be the gateway's own user, and become nobody else.

What another user may do is tried by another user: a process of its own, which takes root to start.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.control.server import MAX_CONNECTIONS, MAX_OF_ONE_USER
from guard.control.wire import ControlError
from tests.support.other_user import NOBODY, another_user, as_root, ask


@pytest.fixture
def group() -> grp.struct_group:
    """A group that this process may give files to: any for root, otherwise one of its own."""
    mine = os.getgroups() if os.geteuid() else []
    found = [g for g in grp.getgrall() if g.gr_gid and g.gr_gid != NOBODY and (not mine or g.gr_gid in mine)]
    if not found:
        pytest.skip("this machine has no group to try it with")
    return found[0]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can enter: those of pytest are for one user alone."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-control-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def opened(make_gateway: Any, place: Path, group: grp.struct_group) -> Any:
    gateway = make_gateway(group=group.gr_name)
    gateway.path = gateway.server.path = place / "control" / "control.sock"
    return gateway.start()


def test_the_socket_and_its_folder_are_for_the_group_and_for_nobody_else(
    make_gateway: Any, place: Path, group: grp.struct_group
) -> None:
    gateway = opened(make_gateway, place, group)
    for path, mode in ((gateway.path, 0o660), (gateway.path.parent, 0o750)):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid, found.st_uid) == (mode, group.gr_gid, os.geteuid())
    lock = gateway.path.with_name("control.sock.lock").stat()
    assert stat.S_IMODE(lock.st_mode) == 0o600
    assert gateway.call("oncall", "whoami")["subject"] == "alice"


def test_without_a_group_it_is_for_the_gateways_user_alone(gateway: Any) -> None:
    assert stat.S_IMODE(gateway.path.stat().st_mode) == 0o600


def test_a_second_start_takes_the_folder_as_it_left_it(make_gateway: Any, place: Path, group: grp.struct_group) -> None:
    gateway = opened(make_gateway, place, group)
    gateway.run(gateway.server.stop())
    assert list(gateway.path.parent.iterdir()) == [gateway.path.with_name("control.sock.lock")]
    gateway.start()
    assert gateway.call("oncall", "whoami")["subject"] == "alice"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o700, 0o777, 0o751])
def test_a_folder_that_is_there_is_never_changed(
    make_gateway: Any, place: Path, group: grp.struct_group, mode: int
) -> None:
    folder = place / "control"
    folder.mkdir()
    os.chown(folder, -1, group.gr_gid)
    folder.chmod(mode)
    with pytest.raises(ControlError, match=r"chmod"):
        opened(make_gateway, place, group)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_group_is_refused(make_gateway: Any, place: Path, group: grp.struct_group) -> None:
    folder = place / "control"
    folder.mkdir(mode=0o750)
    if folder.stat().st_gid == group.gr_gid:
        pytest.skip("the user has this group only")
    with pytest.raises(ControlError, match=f"must be for group `{group.gr_name}` and nobody else"):
        opened(make_gateway, place, group)


def test_a_group_or_a_parent_that_is_not_there_stops_the_start(
    make_gateway: Any, place: Path, group: grp.struct_group
) -> None:
    gateway = make_gateway(group="nobody-has-this-group")
    with pytest.raises(ControlError, match="there is no group `nobody-has-this-group`"):
        gateway.start()
    gateway = make_gateway(folder=place, group=group.gr_name)
    gateway.server.path = place / "not" / "there" / "control.sock"
    with pytest.raises(ControlError, match=r"make the folder `.*/not`"):
        gateway.start()


@as_root
def test_an_approver_of_the_group_works_without_the_gateways_files(
    make_gateway: Any, place: Path, tmp_path: Path, group: grp.struct_group
) -> None:
    gateway = opened(make_gateway, place, group)
    (answer,) = ask(gateway.path, [group.gr_gid], "tok-oncall", "whoami")
    assert answer["result"]["subject"] == "alice"
    kind, facts = gateway.journal[-1]
    assert (kind, facts["by"], facts["peer"]["uid"]) == ("admin.read", "alice", NOBODY)  # the kernel's word, on record
    (answer,) = ask(gateway.path, [group.gr_gid], "tok-security", "contain", subject="agent-7", reason="x")
    assert answer["result"]["ended"] == 1
    kind, facts = next(entry for entry in gateway.journal if entry[0] == "admin.act")
    assert (facts["by"], facts["peer"]["uid"]) == ("carol", NOBODY)
    for path in (tmp_path / "state.db", gateway.path.with_name("control.sock.lock")):
        assert path.exists()
        tried = another_user("import sys; open(sys.argv[1], 'rb')", str(path), groups=[group.gr_gid])
        assert "PermissionError" in tried.stderr


@as_root
def test_membership_of_the_group_is_no_identity(make_gateway: Any, place: Path, group: grp.struct_group) -> None:
    gateway = opened(make_gateway, place, group)
    for token, code in (("", "unauthenticated"), ("tok-stolen", "unauthenticated"), ("tok-agent", "forbidden")):
        (answer,) = ask(gateway.path, [group.gr_gid], token, "contain", subject="dave", reason="x")
        assert answer["error"]["code"] == code
    assert gateway.live.ended == []


@as_root
def test_who_is_not_in_the_group_cannot_connect(make_gateway: Any, place: Path, group: grp.struct_group) -> None:
    gateway = opened(make_gateway, place, group)
    assert ask(gateway.path, [], "tok-security", "whoami") == [{"failed": "PermissionError"}]
    assert gateway.journal == []


@as_root
def test_one_member_of_the_group_cannot_keep_the_others_out(
    make_gateway: Any, place: Path, group: grp.struct_group
) -> None:
    gateway = opened(make_gateway, place, group)
    answers = ask(gateway.path, [group.gr_gid], "tok-oncall", "whoami", count=MAX_CONNECTIONS + 2)
    assert ["result" in answer for answer in answers] == [True] * MAX_OF_ONE_USER + [False] * (
        MAX_CONNECTIONS + 2 - MAX_OF_ONE_USER
    )
    # what it had sent was not read: the kernel may tell it so before it has read the answer
    assert all("failed" in left or left["error"]["code"] == "busy" for left in answers[MAX_OF_ONE_USER:])
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(gateway.path))
        assert gateway.call("security", "whoami")["subject"] == "carol"
