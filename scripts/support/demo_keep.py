"""`./scripts/demo --keep`: what a person can try while the demo keeps running."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from scripts.support.lab import Lab, psql


def invite(lab: Lab, web: str, console: Console) -> None:
    """Tells how, with each token in a file that only this user reads."""
    program = psql(tls=True)
    plain = {} if program != psql(tls=False) else {"sslmode": "disable"}
    folder = lab.folder / "yours"
    folder.mkdir(mode=0o700)
    for name, token in lab.tokens.items():
        _secret(
            folder / name,
            f'PGPASSWORD={shlex.quote(token)} exec {program} {shlex.quote(_address(lab, name, plain))} "$@"\n',
        )
    found = lab.gateway.environment(lab.tokens["admin"]) | {"PATH": f"{Path(sys.executable).parent}:$PATH"}
    _secret(folder / "environment", "".join(f'export {name}="{value}"\n' for name, value in found.items()))
    lines = ["psql through the gateway, with each one's token:"]
    lines += [f"sh {folder / name}" for name in lab.tokens]
    lines += ["", "the command line, as the administrator; the agent is contained until somebody releases it:"]
    lines += [f". {folder / 'environment'}", "sluicegate release agent", "sluicegate sessions"]
    lines += ["sluicegate approvals list", "sluicegate --help"]
    lines += ["", f"mitmweb: {web}", "", "ctrl-c ends it"]
    console.rule("[bold cyan]yours", align="left")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _address(lab: Lab, name: str, plain: Mapping[str, str]) -> str:
    """Without the token: it is too long to be read, and not for a command line."""
    return lab.gateway.dsn(name, None, **plain)


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
