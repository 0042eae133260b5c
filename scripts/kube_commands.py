"""`sluicegate kubeconfig` and `sluicegate exec-credential`: what stock Kubernetes clients need to come through.

Both run where the client runs and talk to no gateway.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from protocols.kubernetes.kubeconfig import exec_credential, kubeconfig
from scripts.terminal import clean, console

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
MAX_TOKEN = 64 * 1024  # bytes
COMMAND_TIMEOUT = 60.0  # seconds: a person may have to answer a browser


class NoToken(Exception):
    """There is none where it was said to be."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    config = subparsers.add_parser(
        "kubeconfig",
        help="write a kubeconfig that leads to a gateway",
        description="Print a kubeconfig for stock clients. Nothing secret is in it: the client asks for a token when "
        "it needs one, from the environment, a file or a command.",
        epilog="example: sluicegate kubeconfig --server https://gateway:6443 --ca ca.pem --name prod > prod.yaml",
    )
    config.add_argument("--server", required=True, metavar="URL", help="the gateway's listener, https://HOST:PORT")
    config.add_argument("--ca", required=True, type=Path, metavar="FILE", help="CA of the gateway's certificate (PEM)")
    config.add_argument("--name", default="sluicegate", metavar="NAME", help="of cluster, user and context")
    config.add_argument("--namespace", default="", metavar="NAMESPACE", help="where commands without one work")
    _add_source(config)
    config.set_defaults(run=run_kubeconfig)

    credential = subparsers.add_parser(
        "exec-credential",
        help="print a token as Kubernetes clients ask for it",
        description="Print an ExecCredential (client.authentication.k8s.io/v1). A kubeconfig names this command; "
        "kubectl runs it whenever its token has expired.",
        epilog="the token comes from --command, --token-file or the environment variable SLUICEGATE_TOKEN",
    )
    _add_source(credential)
    credential.set_defaults(run=run_credential)


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--token-file", type=Path, metavar="FILE", help="read the token from this file each time")
    source.add_argument("--command", dest="program", metavar="COMMAND", help="run this for the token, in quotes")


def run_kubeconfig(arguments: argparse.Namespace) -> int:
    command = ["sluicegate", "exec-credential"]
    if arguments.token_file is not None:
        command += ["--token-file", str(arguments.token_file.absolute())]
    if arguments.program is not None:
        command += ["--command", arguments.program]
    try:
        authority = arguments.ca.read_bytes()
        text = kubeconfig(arguments.name, arguments.server, authority, command=command, namespace=arguments.namespace)
    except (OSError, ValueError) as error:
        return _fail(f"no kubeconfig: {getattr(error, 'strerror', None) or error}", EXIT_USAGE)
    sys.stdout.write(text)
    return EXIT_OK


def run_credential(arguments: argparse.Namespace) -> int:
    try:
        token = _token(arguments)
        sys.stdout.write(exec_credential(token, expiry(token), os.environ.get("KUBERNETES_EXEC_INFO", "")) + "\n")
    except (NoToken, ValueError) as error:
        return _fail(str(error), EXIT_FAILED)
    return EXIT_OK


def _token(arguments: argparse.Namespace) -> str:
    """Raises NoToken. What is wrong with a token is said without a part of it."""
    if arguments.program is not None:
        return _printed(arguments.program)
    if arguments.token_file is None:
        if found := os.environ.get("SLUICEGATE_TOKEN", "").strip():
            return found
        raise NoToken("no token: set SLUICEGATE_TOKEN, or give --token-file FILE or --command COMMAND")
    try:
        with arguments.token_file.open(encoding="ascii") as file:
            return str(file.read(MAX_TOKEN).strip())
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not a token"
        raise NoToken(f"cannot read the token file `{arguments.token_file}`: {cause}") from None


def _printed(program: str) -> str:
    try:
        words = shlex.split(program)
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT, check=False)
        if done.returncode != 0:
            raise NoToken(f"the command for the token ended with {done.returncode}; run it by itself to see why")
        return done.stdout[:MAX_TOKEN].decode("ascii").strip()
    except (OSError, ValueError, IndexError) as error:
        cause = getattr(error, "strerror", None) or type(error).__name__
        raise NoToken(f"the command for the token cannot be run: {cause}") from None
    except subprocess.TimeoutExpired:
        raise NoToken(f"the command for the token did not end within {COMMAND_TIMEOUT:.0f} s") from None


def expiry(token: str) -> float | None:
    """When a token says that it expires (epoch seconds), so that the client asks for another in time; None: unknown.

    Nothing is verified here: that is the gateway's business.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        found = claims["exp"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(found) if isinstance(found, int | float) and 0 < found < 1 << 40 else None


def _fail(message: str, code: int) -> int:
    console(stderr=True).print(clean(message, lines=True), style="red", markup=False)
    return code
