"""What tests need of the machine beyond the environment: database servers, and drivers on a C library.

As root on Debian they are installed; anywhere else what is missing is named, and its tests say why they skip. What was
fetched stays, so that the next run finds it. `SLUICEGATE_INSTALL=0` installs nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.support import mysql
from scripts.support.process import StartError

_APT_SECONDS = 400.0
_BOOTSTRAP_SECONDS = 600.0
_BUILD_SECONDS = 300.0
_NATIVE = ("MySQLdb", "mariadb")  # the modules of the dependency group `native`
_MIRROR_VARIABLE = "SLUICEGATE_DEBIAN_MIRROR"
# MySQL is in Debian's unstable alone
_SUITE, _PACKAGES = "sid", ("mysql-server-core", "mysql-client-core")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One Debian package, how to see that its content is here, and what goes without it."""

    package: str
    here: Callable[[], bool]


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is not None


def _mariadb() -> bool:
    return any(found.flavour == "mariadb" for found in mysql.available())


PACKAGES = (
    Wanted("postgresql", lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
    Wanted("pgbouncer", _program("pgbouncer")),
    Wanted("haproxy", _program("haproxy")),
    Wanted("mariadb-server", _mariadb),
    Wanted("mariadb-client", _program("mariadb")),
    # the drivers of the group `native` are compiled against it
    Wanted("libmariadb-dev", _program("mariadb_config")),
    Wanted("gcc", _program("gcc")),
    Wanted("default-jre-headless", _program("java")),
    Wanted("libmariadb-java", lambda: Path("/usr/share/java/mariadb-java-client.jar").is_file()),
    Wanted("debootstrap", lambda: _program("debootstrap")() or _mysql()),
)


def _mysql() -> bool:
    return any(found.flavour == "mysql" for found in mysql.available())


def prepare(root: Path, *, install_missing: bool = True) -> None:
    """Install what is missing where that is wanted and possible, one line for each step; say what stays missing."""
    may = install_missing and may_install()
    missing = [one.package for one in PACKAGES if not one.here()]
    if missing and may:
        _step("apt-get", f"install {' '.join(missing)}", lambda: install(missing))
    if not _mysql() and may:
        where = mysql.system_root()
        _step("debootstrap", f"MySQL into {where}, about a minute, once", lambda: bootstrap(where))
    drivers = all(importlib.util.find_spec(name) for name in _NATIVE)
    if install_missing and not drivers and os.environ.get("UV_NO_SYNC") != "1" and _program("mariadb_config")():
        _step("uv sync", "mysqlclient and mariadb are compiled, once", lambda: build_native(root))
    for told in still_missing():
        print(f"{'without':<16}{told}", flush=True)


def may_install() -> bool:
    """Root, on Debian, and nobody has said no."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and os.environ.get("SLUICEGATE_INSTALL") != "0"


def still_missing() -> Iterator[str]:
    """For people: what tests will skip, and how to get it."""
    gone = [one.package for one in PACKAGES if not one.here() and one.package not in ("debootstrap", "gcc")]
    if gone:
        yield f"{', '.join(gone)}: the tests that need them skip; on Debian: apt-get install {' '.join(gone)}"
    for flavour in mysql.FLAVOURS:
        if not any(found.flavour == flavour for found in mysql.available()):
            yield f"{flavour}: {mysql.how_to_get(flavour)}"
    drivers = [name for name in _NATIVE if importlib.util.find_spec(name) is None]
    if drivers:
        yield f"{', '.join(drivers)}: install libmariadb-dev and gcc, then `uv sync --group native`"


def _step(name: str, what: str, act: Callable[[], None]) -> None:
    """Say what is being done before, and how it went after."""
    print(f"{name:<16}{what} ...", flush=True)
    started = time.monotonic()
    try:
        act()
        outcome = "ok"
    except StartError as error:
        outcome = f"FAILED  {error}"
    print(f"{name:<16}{outcome}  {time.monotonic() - started:6.1f} s", flush=True)


def install(packages: Sequence[str]) -> None:
    """With apt-get, without starting a service. Raises StartError."""
    cluster = Path("/etc/postgresql-common/createcluster.conf")
    if not cluster.exists():
        cluster.parent.mkdir(parents=True, exist_ok=True)
        cluster.write_text("create_main_cluster = false\n")
    call(["apt-get", "update", "-qq"], _APT_SECONDS)
    options = ["-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    with _NoServices():
        call(["apt-get", "install", *options, *packages], _APT_SECONDS)


class _NoServices:
    """Debian's own switch: while this policy is there, packages start no service, which would only take a port."""

    _path = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self._ours = not self._path.exists()
        if self._ours:
            self._path.write_text("#!/bin/sh\nexit 101\n")
            self._path.chmod(0o755)

    def __exit__(self, *exc: object) -> None:
        if self._ours:
            self._path.unlink(missing_ok=True)


def bootstrap(where: Path) -> None:
    """Make a small Debian system with MySQL in it. It appears under its name only when complete. Raises StartError."""
    where.parent.mkdir(parents=True, exist_ok=True)
    partial = where.with_name(f"{where.name}.{os.getpid()}")
    try:
        mirror = os.environ.get(_MIRROR_VARIABLE)
        call(
            ["debootstrap", "--variant=minbase", _SUITE, str(partial), *([mirror] if mirror else [])],
            _BOOTSTRAP_SECONDS,
        )
        # it resolves names, and reaches the packages, as this machine does
        for name in ("etc/resolv.conf", "etc/apt/apt.conf.d"):
            _copy_settings(Path("/") / name, partial / name)
        # mirrors and snapshots lag behind; what they have is signed all the same
        apt = ["chroot", str(partial), "apt-get", "-o", "Acquire::Check-Valid-Until=false", "-qq"]
        call([*apt, "update"], _APT_SECONDS)
        call([*apt, "install", "-y", "--no-install-recommends", *_PACKAGES], _BOOTSTRAP_SECONDS)
        shutil.rmtree(partial / "var" / "cache" / "apt", ignore_errors=True)
        partial.rename(where)
    except OSError as error:
        raise StartError(str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_settings(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            # a proxy is the machine's; hooks are programs that are not there
            if path.is_file() and "proxy" in path.read_text(errors="replace").lower():
                shutil.copyfile(path, target / path.name)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)


def build_native(root: Path) -> None:
    """The drivers of the dependency group `native`, into the environment that runs this. Raises StartError."""
    uv = next((path for path in (shutil.which("uv"), str(root / ".cache" / "uv" / "bin" / "uv")) if _runs(path)), None)
    if uv is None:
        raise StartError("no uv here: run `uv sync --group native`")
    call(
        [uv, "sync", "--frozen", "--quiet", "--inexact", "--group", "native"],
        _BUILD_SECONDS,
        cwd=root,
        env={"UV_PROJECT_ENVIRONMENT": sys.prefix},
    )
    # `_bootstrap` then keeps them
    (root / ".cache").mkdir(exist_ok=True)
    (root / ".cache" / "native").touch()


def _runs(program: str | None) -> bool:
    if program is None:
        return False
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def call(argv: Sequence[str], limit: float, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a program. Raises StartError with the last line that it said."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise StartError(f"{argv[0]} ended with {done.returncode}: {said[-1]}")
