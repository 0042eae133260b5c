"""`sluicegate`: one command for people and for pipelines.

Each subcommand lives in a module with `register(subparsers)`; a registered parser carries `run` (set with
`set_defaults(run=...)`), a function that takes the parsed arguments and returns an exit code. Only the module of the
command that was typed is imported: a person who lists approvals should not wait for a SQL parser to load.

Exit codes: 0 done, 1 failed or denied, 2 wrong usage, 3 the gateway cannot be reached.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

# one line per module: what it adds. tests/scripts/test_cli.py holds this table against what the modules register
MODULES: dict[str, tuple[str, ...]] = {
    "scripts.serve": ("serve",),
    "scripts.policy_commands": ("check", "policy"),
    "scripts.control_commands": (
        "status",
        "whoami",
        "sessions",
        "show",
        "replay",
        "search",
        "incident",
        "approvals",
        "contain",
        "release",
        "contained",
        "revoke",
        "terminate",
        "reload",
    ),
    "scripts.event_commands": ("events",),
    "scripts.record_commands": ("verify", "journal"),
    "scripts.retention_commands": ("retention",),
    "scripts.kube_commands": ("kubeconfig", "exec-credential"),
    "scripts.token_commands": ("token",),
}

EPILOG = """\
examples:
  sluicegate check gateway.yaml                 find every problem in a configuration without starting
  sluicegate serve gateway.yaml                 run the gateway
  sluicegate approvals list                     what waits for a human
  sluicegate incident ci-job@shop               who, what, and did it comply, on one screen
  sluicegate contain ci-job@shop --reason ...   cut every live session of an identity, and keep it out
  sluicegate verify var/journal                 prove offline that nobody edited the record

exit codes: 0 done, 1 failed or denied, 2 wrong usage, 3 the gateway cannot be reached
"""


class _Version(argparse.Action):
    """Looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"sluicegate {importlib.metadata.version('sluicegate')}")
        parser.exit()


def build_parser(modules: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with the subcommands of the named modules. ImportError is a broken installation and is not caught."""
    parser = argparse.ArgumentParser(
        prog="sluicegate",
        description="identity-aware layer-7 gateway: knows who, records what, masks, blocks, holds, ends",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say which release this is")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in modules:
        importlib.import_module(name).register(subparsers)
    return parser


def _modules_for(arguments: Sequence[str]) -> Sequence[str]:
    typed = arguments[0] if arguments else ""
    owner = [name for name, commands in MODULES.items() if typed in commands]
    return owner or tuple(MODULES)


def _typed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that was typed, with its action where it has any."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for at, word in enumerate(arguments):
                if word in action.choices:
                    chosen: argparse.ArgumentParser = action.choices[word]
                    return _typed(chosen, arguments[at + 1 :])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (argparse leaves with 2 by itself on wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(_modules_for(arguments))
    args, unknown = parser.parse_known_args(arguments)
    if unknown:  # argparse itself would show how to use `sluicegate`, not the command that was typed
        _typed(parser, arguments).error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # `sluicegate search ... | head`: the reader left. The interpreter's own last flush must not complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
