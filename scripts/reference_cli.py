"""Writes docs/reference/cli.md from the command line's own parsers: `python -m scripts.reference_cli`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from scripts import cli
from scripts.reference import FOLDER

FILE = FOLDER / "cli.md"

HEAD = """\
<!-- written by `python -m scripts.reference_cli` from the parsers: change the help texts, not this file -->

# The command line

`sluicegate --help` and `sluicegate COMMAND --help` say the same, with examples; `sluicegate --version` says which
release it is. On a terminal that is too narrow for a table each row is a paragraph; in a pipe lines are 160 characters
wide, or as wide as `COLUMNS` says. For programs there is `--json`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done; a `check` or `verify` without a problem |
| 1 | failed, refused, or not proven |
| 2 | wrong usage |
| 3 | the gateway cannot be reached |
| 130 | interrupted |

## Commands that talk to the gateway

Those of which this page says so. They find it by `--socket`, by `SLUICEGATE_SOCKET`, or by what the configuration says
(`--config`, `SLUICEGATE_CONFIG`, `./sluicegate.yaml`). Who acts is the principal of the caller's own token.

| option or variable | meaning |
|---|---|
| `--socket PATH`, `SLUICEGATE_SOCKET` | the gateway's control socket |
| `--config FILE`, `SLUICEGATE_CONFIG` | the gateway's configuration, to find the socket |
| `--token-file FILE`, `SLUICEGATE_TOKEN` | your token; the file `-` is standard input |
| `--json` | one line of JSON instead of text for people |

An error is told in one line; with `--json` it is `{"error": {"code": ..., "message": ...}}`:

| code | meaning |
|---|---|
| `bad_request` | the call makes no sense as it is |
| `unauthenticated` | no valid token |
| `forbidden` | valid, but not with this role, or not about oneself |
| `not_found` | no such session, request, identity |
| `conflict` | decided, used or changed meanwhile |
| `busy` | too many control connections |
| `unavailable` | the gateway cannot do it now: a store or the journal does not answer |
| `internal` | a fault of the gateway; its log has more under the number given |
| `usage` | something that the caller must give is missing |
| `unreachable` | no gateway answers at the socket |

"""

_COMMON = frozenset({"--socket", "--config", "--token-file"})  # of commands that talk to the gateway


def page() -> str:
    """The whole page."""
    parser = cli.build_parser(tuple(cli.MODULES))
    return HEAD + "## Commands\n\n" + "\n".join(_commands(parser, (), ""))


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield name, child, helps.get(name, "")


def _commands(parser: argparse.ArgumentParser, path: Sequence[str], told: str) -> Iterator[str]:
    children = list(_children(parser))
    if path and (not children or parser.get_default("run") is not None):  # `token` does something without a verb, too
        yield _section(parser, path, told)
    for name, child, text in children:
        yield from _commands(child, (*path, name), text)


def _section(parser: argparse.ArgumentParser, path: Sequence[str], told: str) -> str:
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    online = set().union(*(a.option_strings for a in actions)) >= _COMMON
    positional = [_positional(a) for a in actions if not a.option_strings]
    title = " ".join(["sluicegate", *path, *positional])
    text = f"### `{title}`\n\n{told[:1].upper()}{told[1:]}.{' Talks to the gateway.' if online else ''}\n"
    common = _COMMON | {"--json"} if online else frozenset[str]()
    rows = [_row(a) for a in actions if a.option_strings and not common & set(a.option_strings)]
    return text + ("\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else "")


def _positional(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return f"[{action.metavar} ...]"
    name = str(action.metavar or action.dest).upper()
    return f"[{name} ...]" if action.nargs == "*" else name


def _row(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        value = f" {action.metavar or choices or action.dest.upper()}"
    meaning = " ".join((action.help or "").split()).replace("|", "\\|").replace("%%", "%")
    return f"| `{action.option_strings[0]}{value}` | {'required: ' if action.required else ''}{meaning} |"


def main() -> int:
    FILE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
