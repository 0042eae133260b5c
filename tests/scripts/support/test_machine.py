"""What a run says about a machine that lacks something, and what it does about it where it may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.support import machine, mysql
from scripts.support.machine import Wanted
from scripts.support.process import StartError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A machine without anything, on which nothing is really run; the programs that would have been."""
    ran: list[list[str]] = []

    def call(argv: Sequence[str], limit: float, **_options: object) -> None:
        ran.append(list(argv))

    monkeypatch.setattr(machine, "PACKAGES", (Wanted("haproxy", lambda: False), Wanted("gcc", lambda: False)))
    monkeypatch.setattr(machine, "call", call)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(mysql, "_which", lambda _name: None)
    monkeypatch.setenv(mysql.ROOT_VARIABLE, str(tmp_path / "system"))
    monkeypatch.setattr(machine, "_program", lambda _name: lambda: False)
    monkeypatch.setattr(machine, "may_install", lambda: False)
    return ran


def test_what_is_missing_is_named_with_how_to_get_it(bare: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    machine.prepare(Path("/nowhere"))
    told = capsys.readouterr().out
    assert "apt-get install haproxy" in told
    assert "mariadb-server" in told
    assert mysql.ROOT_VARIABLE in told
    assert "uv sync --group native" in told
    assert bare == []


def test_where_it_may_it_installs_and_a_failure_stops_nothing(
    bare: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "may_install", lambda: True)
    installed: list[str] = []
    monkeypatch.setattr(machine, "install", lambda names: installed.extend(names))

    def fails(where: Path) -> None:
        raise StartError(f"no network for {where.name}")

    monkeypatch.setattr(machine, "bootstrap", fails)
    machine.prepare(tmp_path)
    told = capsys.readouterr().out
    assert installed == ["haproxy", "gcc"]
    assert "FAILED  no network for system" in told
    assert "without" in told
    machine.prepare(tmp_path, install_missing=False)
    assert installed == ["haproxy", "gcc"]


def test_a_system_that_is_not_complete_never_gets_its_name(
    bare: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def half(argv: Sequence[str], limit: float) -> None:
        Path(argv[3] if argv[0] == "debootstrap" else argv[1]).mkdir(exist_ok=True)
        if argv[0] == "chroot":
            raise StartError("the mirror is gone")

    monkeypatch.setattr(machine, "call", half)
    with pytest.raises(StartError, match="the mirror is gone"):
        machine.bootstrap(tmp_path / "system")
    assert list(tmp_path.iterdir()) == []


def test_a_complete_one_does(bare: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def whole(argv: Sequence[str], limit: float) -> None:
        bare.append(list(argv))
        if argv[0] == "debootstrap":
            Path(argv[3]).mkdir()

    monkeypatch.setattr(machine, "call", whole)
    monkeypatch.setenv("SLUICEGATE_DEBIAN_MIRROR", "http://mirror.example/debian")
    machine.bootstrap(tmp_path / "system")
    assert [path.name for path in tmp_path.iterdir()] == ["system"]
    assert bare[0][-1] == "http://mirror.example/debian"
    assert bare[-1][-2:] == ["mysql-server-core", "mysql-client-core"]


def test_no_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "which", lambda _name: "/usr/bin/apt-get")
    monkeypatch.setenv("SLUICEGATE_INSTALL", "0")
    assert not machine.may_install()
    monkeypatch.delenv("SLUICEGATE_INSTALL")
    assert machine.may_install()
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    assert not machine.may_install()


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(StartError, match=r"/bin/sh ended with 3: two"):
        machine.call(["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], 5.0)
    with pytest.raises(StartError, match="No such file"):
        machine.call(["/no/such/program"], 5.0)
