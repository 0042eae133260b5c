"""Finding the gateway's control socket and the caller's token, for the commands that talk to a running gateway."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.control.client import ControlClient
from guard.control.wire import ControlError, Unreachable
from scripts.terminal import clean, console, print_json

SOCKET_NAME = "control.sock"
DEFAULT_CONFIG = "sluicegate.yaml"
MAX_TOKEN_FILE = 64 * 1024
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3
_NO_GATEWAY = "is it running, and are you its user or in its control group? --socket or --config names another one"

HELP = """\
how the gateway is found: --socket, SLUICEGATE_SOCKET, or what the configuration says (--config,
SLUICEGATE_CONFIG, ./sluicegate.yaml). who you are: the token in SLUICEGATE_TOKEN, or --token-file (`-`: stdin).

exit codes: 0 done, 1 failed or denied, 2 wrong usage, 3 the gateway cannot be reached
"""


class UsageError(Exception):
    """Something that the caller must give is missing or unreadable."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command against a running gateway has."""
    group = parser.add_argument_group("gateway")
    group.add_argument("--socket", type=Path, metavar="PATH", help="the gateway's control socket")
    group.add_argument("--config", type=Path, metavar="FILE", help="the gateway's configuration, to find the socket")
    group.add_argument("--token-file", metavar="FILE", help="your token; `-` reads it from stdin")
    group.add_argument("--json", action="store_true", help="one line of JSON instead of text for people")


def socket_path(args: argparse.Namespace, environment: os._Environ[str] = os.environ) -> Path:
    """Where the control socket is. Raises UsageError."""
    if args.socket is not None:
        return Path(args.socket)
    if environment.get("SLUICEGATE_SOCKET") and args.config is None:
        return Path(environment["SLUICEGATE_SOCKET"])
    named = args.config or environment.get("SLUICEGATE_CONFIG") or DEFAULT_CONFIG
    return _configured(Path(named))


def _configured(config: Path) -> Path:
    """Only these keys are read: to contain an identity must be possible while the rest of the file is broken."""
    # here, because it takes a seventh of a second, and whoever names the socket does not need it
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(config.read_text("utf-8"))
        found = document.get("state_dir", "var")
        control = document.get("control")
        path = control.get("path") if isinstance(control, dict) else None
    except FileNotFoundError:
        raise UsageError(f"no configuration at `{config}`; give --socket, or --config FILE") from None
    except (OSError, UnicodeDecodeError, YAMLError, AttributeError) as error:
        raise UsageError(f"cannot find state_dir in `{config}` ({type(error).__name__}); give --socket") from None
    if isinstance(path, str):
        return config.absolute().parent / path
    if not isinstance(found, str):
        raise UsageError(f"state_dir in `{config}` is no path; give --socket")
    return config.absolute().parent / found / SOCKET_NAME


def token(args: argparse.Namespace, environment: os._Environ[str] = os.environ) -> str:
    """The caller's own token. Never an argument of the command line: those are visible to every process."""
    if args.token_file is None:
        found = environment.get("SLUICEGATE_TOKEN", "")
        if not found:
            raise UsageError("no token: set SLUICEGATE_TOKEN or give --token-file FILE")
        return found.strip()
    try:
        if args.token_file == "-":  # noqa: S105 - a file name
            found = sys.stdin.read(MAX_TOKEN_FILE)
        else:
            with open(args.token_file, encoding="utf-8") as file:
                found = file.read(MAX_TOKEN_FILE)
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not utf-8 text"
        raise UsageError(f"cannot read the token file `{args.token_file}`: {cause}") from None
    if not found.strip():
        raise UsageError(f"the token file `{args.token_file}` is empty")
    return found.strip()


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[ControlClient]:
    """A client for the gateway that the arguments name."""
    with ControlClient(socket_path(args), token(args)) as client:
        yield client


def talking(work: Callable[[argparse.Namespace, ControlClient], int]) -> Callable[[argparse.Namespace], int]:
    """Make a command of a function that talks to the gateway: connection, errors and exit codes are handled here."""

    def run(args: argparse.Namespace) -> int:
        try:
            with connected(args) as client:
                return work(args, client)
        except UsageError as error:
            return _fail(args, "usage", str(error), EXIT_USAGE)
        except Unreachable as error:
            return _fail(args, "unreachable", f"{error}; {_NO_GATEWAY}", EXIT_UNREACHABLE)
        except ControlError as error:
            return _fail(args, error.code, error.message, EXIT_USAGE if error.code == "bad_request" else EXIT_FAILED)

    return run


def _fail(args: argparse.Namespace, code: str, message: str, exit_code: int) -> int:
    if args.json:
        print_json({"error": {"code": code, "message": message}})
    else:
        console(stderr=True).print(clean(message, lines=True), style="red", markup=False)
    return exit_code
