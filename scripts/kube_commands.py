"""`sluicegate kubeconfig` and `sluicegate exec-credential`: what stock Kubernetes clients need to come through.

Both run where the client runs and talk to no gateway.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from protocols.kubernetes.kubeconfig import exec_credential, kubeconfig
from scripts.terminal import clean, console
from scripts.token_source import TokenError, TokenSource

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


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
        epilog="the token comes from --command, --file or the environment variable SLUICEGATE_TOKEN",
    )
    _add_source(credential)
    credential.set_defaults(run=run_credential)


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--file", "--token-file", dest="token_file", type=Path, metavar="FILE", help="read the token from here"
    )
    source.add_argument("--command", dest="program", metavar="COMMAND", help="run this for the token, in quotes")


def run_kubeconfig(arguments: argparse.Namespace) -> int:
    command = ["sluicegate", "exec-credential"]
    if arguments.token_file is not None:
        command += ["--file", str(arguments.token_file.absolute())]
    if arguments.program is not None:
        command += ["--command", arguments.program]
    try:
        authority = arguments.ca.read_bytes()
        text = kubeconfig(arguments.name, arguments.server, authority, command=command, namespace=arguments.namespace)
    except OSError as error:
        return _fail(f"no kubeconfig: `{arguments.ca}` cannot be read: {error.strerror}", EXIT_USAGE)
    except ValueError as error:
        return _fail(f"no kubeconfig: {error}", EXIT_USAGE)
    sys.stdout.write(text)
    return EXIT_OK


def run_credential(arguments: argparse.Namespace) -> int:
    try:
        if arguments.program == "":
            raise TokenError("the command is empty")
        found = TokenSource(file=arguments.token_file, command=arguments.program or "").get()
        answer = exec_credential(found.token, found.ends, os.environ.get("KUBERNETES_EXEC_INFO", ""))
    except (TokenError, ValueError) as error:
        return _fail(f"no token: {error}", EXIT_FAILED)
    sys.stdout.write(answer + "\n")
    return EXIT_OK


def _fail(message: str, code: int) -> int:
    console(stderr=True).print(clean(message, lines=True), style="red", markup=False)
    return code
