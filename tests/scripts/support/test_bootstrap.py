"""The first thing that runs on a newcomer's machine: it must cope with what it finds there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = "/usr/bin:/bin"


def shell(script: str, *, path: str = SYSTEM, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Source `_bootstrap` as an executable beside it would, then run `script`."""
    return subprocess.run(
        ["/bin/sh", "-c", f'. "{ROOT}/scripts/_bootstrap"\n{script}', str(ROOT / "scripts" / "x")],
        env={"PATH": path, "HOME": str(home), **env},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_uv_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    broken = program(tmp_path / "shims", "uv", "echo 'pyenv: version 3.13 is not installed' >&2; exit 127").parent
    good = program(tmp_path / "home" / ".local" / "bin", "uv", "echo uv 9.9")
    done = shell('CACHE=/nonexistent; find_uv && echo "$UV"', path=f"{broken}:{SYSTEM}", home=tmp_path / "home")
    assert done.stdout.strip() == str(good)
    good.unlink()
    assert shell("CACHE=/nonexistent; find_uv", path=f"{broken}:{SYSTEM}", home=tmp_path / "home").returncode != 0


def test_the_best_python_that_runs_is_found_also_in_pyenv(tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    for name in ("python3.13", "python3", "python"):
        program(shims, name, "exit 127")
    mine = tmp_path / "pyenv" / "versions" / "3.12.99" / "bin"
    mine.mkdir(parents=True)
    (mine / "python").symlink_to(sys.executable)
    done = shell("python_at_least 12", path=f"{shims}:{SYSTEM}", home=tmp_path, PYENV_ROOT=str(tmp_path / "pyenv"))
    found = Path(done.stdout.strip())
    version = subprocess.run([found, "-V"], capture_output=True, text=True, check=True).stdout
    assert int(version.split(".")[1]) >= 12
    assert done.stderr == ""


def test_without_any_python_the_person_is_told_what_to_install(tmp_path: Path) -> None:
    done = shell("pythons() { echo no-such-python; }\ninstall_uv", home=tmp_path)
    assert done.returncode == 1
    assert "install Python 3.13, or uv" in done.stderr


@pytest.mark.parametrize("name", ["pg_builtins", "kube_schema"])
def test_the_scripts_of_maintainers_explain_themselves(name: str) -> None:
    script = ROOT / "scripts" / name
    asked = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0
    assert asked.stdout.startswith(f"usage: {name} ")
    wrong = subprocess.run([sys.executable, script, "/etc/passwd"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"{name}: ")
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("name", ["lab", "demo", "test"])
def test_each_script_explains_itself_from_any_folder(name: str, tmp_path: Path) -> None:
    # a folder with a package of the same name must not get in the way
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = subprocess.run(
        [ROOT / "scripts" / name, "--help"],
        env={**os.environ, "UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    assert done.stderr == ""


def test_compiled_files_that_must_not_lie_beside_the_sources_lie_elsewhere(tmp_path: Path) -> None:
    """Without any, each start of Python compiles all that it imports: seconds, for every gateway of every test."""
    environment = program(tmp_path / "bin", "python", "exit 0").parent.parent
    say = 'CACHE=/c; prepare; echo "${PYTHONDONTWRITEBYTECODE-none} ${PYTHONPYCACHEPREFIX-none}"'
    fixed = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": str(environment), "home": tmp_path}

    def told(**env: str) -> str:
        return shell(say, **fixed, **env).stdout.strip()  # type: ignore[arg-type]

    assert told() == "none none"
    assert told(PYTHONDONTWRITEBYTECODE="1") == "none /c/pyc"
    assert told(PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX="/mine") == "none /mine"
